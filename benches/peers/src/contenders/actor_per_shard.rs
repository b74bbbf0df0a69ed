//! A task per shard with a bounded channel before it and a oneshot for each outcome: what
//! one writes by hand first.
//!
//! It keeps order per key and counts versions. It lacks parallelism within a shard: a handler that
//! waits holds up all keys of its shard. So where handlers wait, it gets as many shards as others
//! have workers in all. A handler that panics takes its shard along, with all that waits there.
//!
//! On smol it is the same code, for tokio's channels ask for no runtime: it tells what is the executor's in
//! the pool's figures there.

use super::{Contender, Outside, Replied, Reply, reply};
use crate::domain::{Command, Domain, Id, Refused, Versioned};
use crate::runtimes::Runtime;
use crate::workload::Setup;
use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::marker::PhantomData;
use std::sync::Arc;
use tokio::sync::mpsc;

pub struct ActorPerShard<D, R> {
    shards: Box<[mpsc::Sender<(Command, Reply)>]>,
    hasher: RandomState,
    on: PhantomData<fn() -> (D, R)>,
}

async fn shard<D: Domain>(domain: Arc<D>, mut commands: mpsc::Receiver<(Command, Reply)>) {
    let mut aggregates: HashMap<Id, Versioned> = HashMap::new();
    while let Some((command, reply)) = commands.recv().await {
        let held = match aggregates.get_mut(&command.id) {
            Some(held) => held,
            None => {
                let loaded = domain.load(&command.id).await;
                aggregates.entry(Arc::clone(&command.id)).or_insert(loaded)
            }
        };
        // A caller that has gone does not want to know.
        let _ = reply.send(domain.commit(held, command).await);
    }
}

impl<D, R> ActorPerShard<D, R> {
    fn shard_of(&self, id: &Id) -> &mpsc::Sender<(Command, Reply)> {
        &self.shards[self.hasher.hash_one(id) as usize % self.shards.len()]
    }
}

impl<D: Domain, R: Runtime> Contender for ActorPerShard<D, R> {
    type Runtime = R;
    type Ticket = Replied;

    fn start(setup: &Setup) -> Self {
        let domain = Arc::new(D::new(setup.stored));
        let shards = (0..setup.serial_tasks())
            .map(|_| {
                let (sender, receiver) = mpsc::channel(setup.depth);
                R::spawn(shard(Arc::clone(&domain), receiver));
                sender
            })
            .collect();
        Self { shards, hasher: RandomState::new(), on: PhantomData }
    }

    async fn submit(&self, command: Command) -> Result<Replied, Refused> {
        let (reply, ticket) = reply();
        let shard = self.shard_of(&command.id);
        shard.send((command, reply)).await.map_err(|_| Refused::Lost)?;
        Ok(ticket)
    }
}

impl<D: Domain, R: Runtime> Outside for ActorPerShard<D, R> {
    fn blocking_submit(&self, command: Command) -> Result<Replied, Refused> {
        let (reply, ticket) = reply();
        let shard = self.shard_of(&command.id);
        shard.blocking_send((command, reply)).map_err(|_| Refused::Lost)?;
        Ok(ticket)
    }

    fn wait(ticket: Replied) -> Result<u64, Refused> {
        ticket.0.blocking_recv().unwrap_or(Err(Refused::Lost))
    }
}
