//! A mutex per key, in a concurrent map: the caller does the work itself, or a task per command.
//!
//! The mutex is tokio's, as handlers may wait while they hold it; it is fair, first come first
//! served. Order is that of the lock's queue: in the caller that is the order of the calls; with a
//! task per command it is the order in which the tasks happen to start, so none. It lacks a bound,
//! a drain that knows what is under way, and an end of locks nobody uses; a caller that is dropped
//! takes its half-done work along. It counts versions.

use super::{Contender, OrLost};
use crate::domain::{Command, Domain, Id, Refused, Versioned};
use crate::runtimes::Tokio;
use crate::workload::Setup;
use dashmap::DashMap;
use std::future::{Ready, ready};
use std::sync::Arc;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

/// `None` until it is loaded.
type Lock = Arc<Mutex<Option<Versioned>>>;

/// Aggregates behind a lock each.
pub struct Locked<D> {
    domain: D,
    locks: DashMap<Id, Lock>,
}

impl<D: Domain> Locked<D> {
    pub fn new(setup: &Setup) -> Self {
        Self { domain: D::new(setup.stored), locks: DashMap::new() }
    }

    fn lock_of(&self, id: &Id) -> Lock {
        // The map's own lock is shared for a key that is there, and exclusive for a new one only.
        if let Some(lock) = self.locks.get(id) {
            return Arc::clone(&lock);
        }
        Arc::clone(&self.locks.entry(Arc::clone(id)).or_default())
    }

    pub async fn carry_out(&self, command: Command) -> Result<u64, Refused> {
        let lock = self.lock_of(&command.id);
        let mut slot = lock.lock().await;
        let held = match &mut *slot {
            Some(held) => held,
            None => slot.insert(self.domain.load(&command.id).await),
        };
        self.domain.commit(held, command).await
    }
}

/// The caller does the work, so that a command is done when it is accepted.
pub struct InCaller<D>(Locked<D>);

impl<D: Domain> Contender for InCaller<D> {
    type Runtime = Tokio;
    type Ticket = Ready<Result<u64, Refused>>;

    fn start(setup: &Setup) -> Self {
        Self(Locked::new(setup))
    }

    async fn submit(&self, command: Command) -> Result<Self::Ticket, Refused> {
        Ok(ready(self.0.carry_out(command).await))
    }

    async fn send(&self, command: Command) -> Result<u64, Refused> {
        self.0.carry_out(command).await
    }
}

/// A task does the work.
pub struct Spawned<D>(Arc<Locked<D>>);

impl<D: Domain> Contender for Spawned<D> {
    type Runtime = Tokio;
    type Ticket = OrLost<JoinHandle<Result<u64, Refused>>>;

    fn start(setup: &Setup) -> Self {
        Self(Arc::new(Locked::new(setup)))
    }

    async fn submit(&self, command: Command) -> Result<Self::Ticket, Refused> {
        let locked = Arc::clone(&self.0);
        Ok(OrLost(Tokio::handle().spawn(async move { locked.carry_out(command).await })))
    }
}
