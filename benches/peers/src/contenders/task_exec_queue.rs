//! task-exec-queue: futures that are put into groups, of which each runs its own one after the other.
//!
//! All workers of one queue are polled by one task, so there is a queue for each shard here, each
//! with the shard's workers. It gives each command its outcome and can be flushed. It lacks state, which
//! is in a map of mutexes here, and versions, counted there; it boxes each future. Order and exclusion
//! per key have a hole: between the end of a group's last future and the removal of the group another
//! can start it again and a third can find it gone, so that two run at once; the mutex covers that.
//!
//! Its own outcome comes with the future that also enqueues, so that a ticket is a oneshot here. For a
//! command that is submitted the crate has one more box.

use super::mutex_per_key::Locked;
use super::{Contender, Replied, reply};
use crate::domain::{Command, Domain, Id, Refused};
use crate::runtimes::Tokio;
use crate::workload::Setup;
use futures::channel::mpsc;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::Arc;
use task_exec_queue::{Builder, TaskExecQueue, TaskType};

type Queue = TaskExecQueue<mpsc::Sender<((), TaskType)>, Id>;

pub struct Grouped<D> {
    locked: Arc<Locked<D>>,
    queues: Box<[Queue]>,
    hasher: RandomState,
}

impl<D> Grouped<D> {
    fn queue_of(&self, id: &Id) -> &Queue {
        &self.queues[self.hasher.hash_one(id) as usize % self.queues.len()]
    }
}

impl<D: Domain> Contender for Grouped<D> {
    type Runtime = Tokio;
    type Ticket = Replied;

    fn start(setup: &Setup) -> Self {
        let queues = (0..setup.shards)
            .map(|_| {
                let queue = Builder::default().workers(setup.workers).queue_max(setup.depth);
                let (queue, runner) = queue.group().build::<Id>();
                Tokio::handle().spawn(runner);
                queue
            })
            .collect();
        Self { locked: Arc::new(Locked::new(setup)), queues, hasher: RandomState::new() }
    }

    async fn submit(&self, command: Command) -> Result<Replied, Refused> {
        let id = Arc::clone(&command.id);
        let queue = self.queue_of(&id);
        let locked = Arc::clone(&self.locked);
        let (reply, ticket) = reply();
        let task = async move {
            // A caller that has gone does not want to know.
            let _ = reply.send(locked.carry_out(command).await);
        };
        queue.spawn(task).group(id).await.map_err(|_| Refused::Lost)?;
        Ok(ticket)
    }

    async fn send(&self, command: Command) -> Result<u64, Refused> {
        let id = Arc::clone(&command.id);
        let queue = self.queue_of(&id);
        let locked = Arc::clone(&self.locked);
        let task = async move { locked.carry_out(command).await };
        queue.spawn(task).group(id).result().await.unwrap_or(Err(Refused::Lost))
    }
}
