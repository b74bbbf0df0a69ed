//! A plain port of the design that shardpool started from, a Go package of channels: per shard a
//! dispatcher that counts versions, and workers that take jobs from a shared queue.
//!
//! Two flume channels with `send_async` and `recv_async`, and a tokio oneshot for each outcome. It
//! lacks order and exclusion per key, as two workers can have jobs of one key at the same time; with
//! more than one worker its versions have gaps after a rejection, as the original corrects them with
//! a single worker only; and it keeps no state, so that handlers here get a new one each time.

use super::{Contender, Replied, Reply, reply};
use crate::domain::{Command, Domain, Id, Refused, State};
use crate::runtimes::Tokio;
use crate::workload::Setup;
use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::marker::PhantomData;
use std::sync::Arc;

struct Envelope {
    command: Command,
    reply: Reply,
}

struct Job {
    envelope: Envelope,
    version: u64,
}

pub struct SeedPort<D> {
    shards: Box<[flume::Sender<Envelope>]>,
    hasher: RandomState,
    domain: PhantomData<fn() -> D>,
}

async fn dispatch_commands(commands: flume::Receiver<Envelope>, jobs: flume::Sender<Job>) {
    let mut versions: HashMap<Id, u64> = HashMap::new();
    while let Ok(envelope) = commands.recv_async().await {
        let version = match versions.get_mut(&envelope.command.id) {
            Some(version) => version,
            None => versions.entry(Arc::clone(&envelope.command.id)).or_default(),
        };
        *version += 1;
        let job = Job { version: *version, envelope };
        if jobs.send_async(job).await.is_err() {
            break;
        }
    }
}

async fn worker_loop<D: Domain>(domain: Arc<D>, jobs: flume::Receiver<Job>) {
    while let Ok(Job { envelope: Envelope { command, reply }, version }) = jobs.recv_async().await {
        let outcome = domain.handle(&mut State::default(), version, command).await;
        // Dropped if the receiver has gone.
        let _ = reply.send(outcome);
    }
}

impl<D: Domain> Contender for SeedPort<D> {
    type Runtime = Tokio;
    type Ticket = Replied;

    fn start(setup: &Setup) -> Self {
        let domain = Arc::new(D::new(setup.stored));
        let shards = (0..setup.shards)
            .map(|_| {
                let (sender, commands) = flume::bounded(setup.depth);
                let (jobs, queue) = flume::bounded(setup.depth);
                Tokio::handle().spawn(dispatch_commands(commands, jobs));
                for _ in 0..setup.workers {
                    Tokio::handle().spawn(worker_loop(Arc::clone(&domain), queue.clone()));
                }
                sender
            })
            .collect();
        Self { shards, hasher: RandomState::new(), domain: PhantomData }
    }

    async fn submit(&self, command: Command) -> Result<Replied, Refused> {
        let shard = self.hasher.hash_one(&command.id) as usize % self.shards.len();
        let (reply, ticket) = reply();
        let sent = self.shards[shard].send_async(Envelope { command, reply }).await;
        sent.map_err(|_| Refused::Lost)?;
        Ok(ticket)
    }
}
