//! shardpool, on each of its executors.
//!
//! Callers of the `Threads` executor run on a tokio runtime with two threads; the others' run on
//! the pool's own runtime.

use super::{Contender, Outside};
use crate::domain::{Command, Domain, Id, Refused, State};
use crate::runtimes::{AsyncStd, Blocking, Runtime, Smol, Tokio};
use crate::workload::Setup;
use shardpool::executors::{self, Executor};
use shardpool::{CommandHandler, Context, Failure, Loaded, Loader, PoolOf, ShardPool, Ticket};
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{self, Poll};

/// A runtime that the pool has an executor for.
pub trait Host: Runtime {
    fn executor() -> impl Executor;
}

impl Host for Tokio {
    fn executor() -> impl Executor {
        executors::Tokio::new(Self::handle().clone())
    }
}

impl Host for Smol {
    fn executor() -> impl Executor {
        executors::Smol::global()
    }
}

impl Host for AsyncStd {
    fn executor() -> impl Executor {
        executors::AsyncStd::new()
    }
}

impl Host for Blocking {
    fn executor() -> impl Executor {
        executors::Threads::new()
    }
}

/// The domain, as the pool's handler and loader.
struct Shared<D>(Arc<D>);

impl<D: Domain> CommandHandler for Shared<D> {
    type Command = Command;
    type State = State;
    type Output = u64;
    type Error = Refused;

    async fn handle(
        &self,
        state: &mut State,
        command: Command,
        cx: &Context,
    ) -> Result<u64, Failure<Refused>> {
        self.0.handle(state, cx.version(), command).await.map_err(Failure::Rejected)
    }
}

impl<D: Domain> Loader for Shared<D> {
    type AggregateId = Id;
    type State = State;
    type Error = Refused;

    async fn load(&self, id: &Id) -> Result<Loaded<State>, Refused> {
        let held = self.0.load(id).await;
        Ok(Loaded::new(held.state, held.version))
    }
}

/// The pool's ticket, without what only its receipt tells.
pub struct Claim(Ticket<Command, u64, Refused>);

impl Future for Claim {
    type Output = Result<u64, Refused>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<Self::Output> {
        let outcome = Pin::new(&mut self.0).poll(cx);
        outcome.map(|outcome| outcome.map(|receipt| receipt.output).map_err(|_| Refused::Lost))
    }
}

pub struct Shardpool<D: Domain, R> {
    pool: PoolOf<Shared<D>>,
    runtime: PhantomData<fn() -> R>,
}

impl<D: Domain, R: Host> Contender for Shardpool<D, R> {
    type Runtime = R;
    type Ticket = Claim;

    fn start(setup: &Setup) -> Self {
        let domain = Arc::new(D::new(setup.stored));
        let builder = ShardPool::builder(Shared(Arc::clone(&domain)))
            .shards(setup.shards)
            .workers_per_shard(setup.workers)
            .queue_depth(setup.depth);
        let pool = match setup.max_resident {
            Some(aggregates) => {
                builder.loader(Shared(domain)).max_resident(aggregates).start(R::executor())
            }
            None => builder.start(R::executor()),
        };
        Self { pool: pool.expect("the pool starts"), runtime: PhantomData }
    }

    async fn submit(&self, command: Command) -> Result<Claim, Refused> {
        self.pool.submit(command).await.map(Claim).map_err(|_| Refused::Lost)
    }

    async fn send(&self, command: Command) -> Result<u64, Refused> {
        match self.pool.send(command).await {
            Ok(receipt) => Ok(receipt.output),
            Err(_) => Err(Refused::Lost),
        }
    }
}

impl<D: Domain, R: Host> Outside for Shardpool<D, R> {
    fn blocking_submit(&self, command: Command) -> Result<Claim, Refused> {
        self.pool.blocking_submit(command).map(Claim).map_err(|_| Refused::Lost)
    }

    fn wait(Claim(ticket): Claim) -> Result<u64, Refused> {
        ticket.blocking_wait().map(|receipt| receipt.output).map_err(|_| Refused::Lost)
    }

    fn blocking_send(&self, command: Command) -> Result<u64, Refused> {
        self.pool.blocking_send(command).map(|receipt| receipt.output).map_err(|_| Refused::Lost)
    }
}
