//! grommet: a thread per core, each with a single-threaded tokio runtime and the keys that are its
//! own. Two shards here, as there are two cores; each may have half of the workers' number of commands
//! under way. Callers run on a tokio runtime with two threads beside them.
//!
//! It keeps order per key, tells a caller whose command was lost, finishes what was accepted when it is
//! closed, and evicts. It lacks versions, which the state counts here; ids that are not `Copy`, so that
//! the key is a hash of the id; futures that are `Send`; and a way on while a handler blocks its
//! shard's thread.
//!
//! Submissions are not stamped with the time, as nobody here has a deadline: that saves a look at the
//! clock. Without the `topology` feature its threads are not bound to cores.

use super::{Contender, OrLost};
use crate::domain::{Command, Domain, Refused, Versioned};
use crate::runtimes::{THREADS, Tokio};
use crate::workload::Setup;
use grommet::{
    Answer, Call, ClassId, Disposition, IO, Processor, Scheduler, ShardConfig, SystemClock, Work,
};
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// All commands are of one class.
const CLASSES: usize = 1;

struct Job {
    key: u64,
    command: Command,
}

impl Work for Job {
    type Key = u64;
    type Id = ();

    fn key(&self) -> u64 {
        self.key
    }

    fn class(&self) -> ClassId {
        IO
    }
}

/// What a shard has. Its clones are counted on its own thread: the domain is shared by all shards.
struct Shard<D> {
    domain: Arc<D>,
}

/// Cloned for each command.
struct Carrier<D>(Rc<Shard<D>>);

impl<D> Clone for Carrier<D> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

impl<D: Domain> Processor for Carrier<D> {
    type Work = Call<Job, Result<u64, Refused>>;
    type State = Versioned;
    type Error = Refused;

    async fn process(
        &self,
        _: u64,
        held: Option<Versioned>,
        call: Self::Work,
    ) -> Result<Disposition<Versioned>, Refused> {
        let (Job { command, .. }, caller) = call.into_parts();
        let mut held = match held {
            Some(held) => held,
            None => self.0.domain.load(&command.id).await,
        };
        caller.send(self.0.domain.commit(&mut held, command).await);
        Ok(Disposition::Keep(held))
    }
}

pub struct Grommet<D: Domain> {
    scheduler: Scheduler<Carrier<D>, SystemClock, CLASSES>,
    hasher: RandomState,
}

impl<D: Domain> Grommet<D> {
    fn job(&self, command: Command) -> Job {
        Job { key: self.hasher.hash_one(&command.id), command }
    }
}

impl<D: Domain> Contender for Grommet<D> {
    type Runtime = Tokio;
    type Ticket = OrLost<Answer<Result<u64, Refused>>>;

    fn start(setup: &Setup) -> Self {
        let domain = Arc::new(D::new(setup.stored));
        let in_flight = setup.concurrency() / THREADS;
        let mailbox = setup.shards * setup.depth / THREADS;
        let mut config = ShardConfig::<CLASSES>::new([in_flight]);
        config.scheduler.max_pending = mailbox.max(config.scheduler.max_pending);
        if let Some(aggregates) = setup.max_resident {
            config.scheduler.max_resident = Some(aggregates * setup.shards / THREADS);
            // By default it evicts 256 a second.
            config.scheduler.evict_iters = 4096;
            config.tick = Duration::from_millis(1);
        }
        let scheduler =
            Scheduler::<Carrier<D>, SystemClock, CLASSES>::builder(THREADS, [in_flight])
                .shard_config(config)
                .mailbox(mailbox)
                .stamp_arrival(false)
                .spawn(move |_| Carrier(Rc::new(Shard { domain: Arc::clone(&domain) })))
                .expect("the shards start");
        Self { scheduler, hasher: RandomState::new() }
    }

    async fn submit(&self, command: Command) -> Result<Self::Ticket, Refused> {
        let (call, answer) = Call::new(self.job(command));
        self.scheduler.router().submit(call).await.map_err(|_| Refused::Lost)?;
        Ok(OrLost(answer))
    }

    async fn send(&self, command: Command) -> Result<u64, Refused> {
        let job = self.job(command);
        self.scheduler.router().call(job).await.unwrap_or(Err(Refused::Lost))
    }
}
