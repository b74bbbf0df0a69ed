//! ractor's factory, in the two routings that its documentation offers for sequences per key. It
//! looks through its workers at each dispatch, so it has as many as the pool has shards, and as the pool
//! has workers in all only where handlers wait.
//!
//! *Key persistent*: a key always goes to the same worker, which keeps its state; keys that share a
//! worker wait for each other. *Sticky queueing*: a key goes to the worker that is busy with it, else
//! to any that is free; so its state is in a map that all workers share.
//!
//! Both keep order per key. The factory is one actor, through whose unbounded mailbox everything
//! passes: it lacks a bound that makes callers wait (a limit discards jobs). Its drain finishes what is
//! queued. A worker that panics loses the job at hand. Versions are counted by the worker.

use super::mutex_per_key::Locked;
use super::{Contender, Replied, reply};
use crate::domain::{Command, Domain, Id, Refused, Versioned};
use crate::runtimes::Tokio;
use crate::workload::Setup;
use ractor::factory::queues::DefaultQueue;
use ractor::factory::routing::{KeyPersistentRouting, Router, StickyQueuerRouting};
use ractor::factory::{
    Factory, FactoryArguments, FactoryRef, Job, Worker, WorkerId, worker_builder,
};
use ractor::rpc::CallResult;
use ractor::{Actor, ActorProcessingErr, RpcReplyPort};
use std::collections::HashMap;
use std::marker::PhantomData;
use std::sync::Arc;

/// A job's message.
struct Ask {
    command: Command,
    reply: RpcReplyPort<Result<u64, Refused>>,
}

/// A worker that keeps the state of its keys.
struct Owning<D>(Arc<D>);

impl<D: Domain> Worker for Owning<D> {
    type Key = Id;
    type Message = Ask;
    type Arguments = ();
    type State = HashMap<Id, Versioned>;

    async fn pre_start(
        &self,
        _: WorkerId,
        _: &FactoryRef<Id, Ask>,
        (): (),
    ) -> Result<Self::State, ActorProcessingErr> {
        Ok(HashMap::new())
    }

    async fn handle(
        &self,
        _: WorkerId,
        _: &FactoryRef<Id, Ask>,
        Job { key, msg, .. }: Job<Id, Ask>,
        aggregates: &mut Self::State,
    ) -> Result<Id, ActorProcessingErr> {
        let held = match aggregates.get_mut(&key) {
            Some(held) => held,
            None => {
                let loaded = self.0.load(&key).await;
                aggregates.entry(Arc::clone(&key)).or_insert(loaded)
            }
        };
        let Ask { command, reply } = msg;
        // A caller that has gone does not want to know.
        let _ = reply.send(self.0.commit(held, command).await);
        Ok(key)
    }
}

/// A worker that shares the state of all keys.
struct Sharing<D>(Arc<Locked<D>>);

impl<D: Domain> Worker for Sharing<D> {
    type Key = Id;
    type Message = Ask;
    type Arguments = ();
    type State = ();

    async fn pre_start(
        &self,
        _: WorkerId,
        _: &FactoryRef<Id, Ask>,
        (): (),
    ) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn handle(
        &self,
        _: WorkerId,
        _: &FactoryRef<Id, Ask>,
        Job { key, msg, .. }: Job<Id, Ask>,
        (): &mut (),
    ) -> Result<Id, ActorProcessingErr> {
        let Ask { command, reply } = msg;
        let _ = reply.send(self.0.carry_out(command).await);
        Ok(key)
    }
}

/// Starts a factory of workers that are all made alike.
fn start<W, R>(
    setup: &Setup,
    mut worker: impl FnMut() -> W + Send + Sync + 'static,
) -> FactoryRef<Id, Ask>
where
    W: Worker<Key = Id, Message = Ask, Arguments = ()>,
    R: Router<Id, Ask> + Default,
{
    let factory = Factory::<Id, Ask, (), W, R, DefaultQueue<Id, Ask>>::default();
    let arguments = FactoryArguments::builder()
        .worker_builder(Box::new(worker_builder(move |_| (worker(), ()))))
        .queue(DefaultQueue::default())
        .router(R::default())
        .num_initial_workers(setup.serial_tasks())
        .build();
    let started = Tokio::handle().block_on(Actor::spawn(None, factory, arguments));
    // The handle of its task: the factory lives as long as the process.
    let (factory, _) = started.expect("the factory starts");
    factory
}

fn dispatch(factory: &FactoryRef<Id, Ask>, command: Command) -> Result<Replied, Refused> {
    let (reply, ticket) = reply();
    let ask = Ask { reply: reply.into(), command };
    factory.dispatch(Arc::clone(&ask.command.id), ask).map_err(|_| Refused::Lost)?;
    Ok(ticket)
}

async fn call(factory: &FactoryRef<Id, Ask>, command: Command) -> Result<u64, Refused> {
    let key = Arc::clone(&command.id);
    match factory.call_job(key, |reply| Ask { command, reply }, None).await {
        Ok(CallResult::Success(outcome)) => outcome,
        _ => Err(Refused::Lost),
    }
}

pub struct KeyPersistent<D>(FactoryRef<Id, Ask>, PhantomData<fn() -> D>);

impl<D: Domain> Contender for KeyPersistent<D> {
    type Runtime = Tokio;
    type Ticket = Replied;

    fn start(setup: &Setup) -> Self {
        let domain = Arc::new(D::new(setup.stored));
        let worker = move || Owning(Arc::clone(&domain));
        Self(start::<_, KeyPersistentRouting<Id, Ask>>(setup, worker), PhantomData)
    }

    async fn submit(&self, command: Command) -> Result<Replied, Refused> {
        dispatch(&self.0, command)
    }

    async fn send(&self, command: Command) -> Result<u64, Refused> {
        call(&self.0, command).await
    }
}

pub struct Sticky<D>(FactoryRef<Id, Ask>, PhantomData<fn() -> D>);

impl<D: Domain> Contender for Sticky<D> {
    type Runtime = Tokio;
    type Ticket = Replied;

    fn start(setup: &Setup) -> Self {
        let locked = Arc::new(Locked::<D>::new(setup));
        let worker = move || Sharing(Arc::clone(&locked));
        Self(start::<_, StickyQueuerRouting<Id, Ask>>(setup, worker), PhantomData)
    }

    async fn submit(&self, command: Command) -> Result<Replied, Refused> {
        dispatch(&self.0, command)
    }

    async fn send(&self, command: Command) -> Result<u64, Refused> {
        call(&self.0, command).await
    }
}
