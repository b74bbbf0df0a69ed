//! Who is measured.

mod actor_per_shard;
mod bare;
mod grommet;
mod kameo;
mod mutex_per_key;
mod ractor;
mod seed_port;
mod shardpool;
mod task_exec_queue;

use crate::child;
use crate::domain::{Busy, Command, Idle, Refused};
use crate::runtimes::{AsyncStd, Blocking, Runtime, Smol, Tokio};
use crate::workload::{Load, Setup, Task, Workload};
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::sync::oneshot;

/// Somebody who carries commands out, one at a time per aggregate.
pub trait Contender: Sized + Send + Sync + 'static {
    /// Where callers run, and handlers.
    type Runtime: Runtime;

    /// The outcome to come of a command that was accepted.
    type Ticket: Future<Output = Result<u64, Refused>> + Send;

    /// Starts it.
    fn start(setup: &Setup) -> Self;

    /// Submits a command, and waits until it is accepted.
    fn submit(
        &self,
        command: Command,
    ) -> impl Future<Output = Result<Self::Ticket, Refused>> + Send;

    /// Sends a command, and waits for its outcome. Overridden by those who have a call for that.
    fn send(&self, command: Command) -> impl Future<Output = Result<u64, Refused>> + Send {
        async { self.submit(command).await?.await }
    }
}

/// A ticket of those whose own gives an error when nobody answers.
pub struct OrLost<F>(F);

impl<F, E> Future for OrLost<F>
where
    F: Future<Output = Result<Result<u64, Refused>, E>> + Unpin,
{
    type Output = Result<u64, Refused>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map(|answer| answer.unwrap_or(Err(Refused::Lost)))
    }
}

/// What tasks answer through in contenders that leave that to whoever uses them.
type Reply = oneshot::Sender<Result<u64, Refused>>;

/// The ticket that belongs to it.
type Replied = OrLost<oneshot::Receiver<Result<u64, Refused>>>;

fn reply() -> (Reply, Replied) {
    let (reply, outcome) = oneshot::channel();
    (reply, OrLost(outcome))
}

/// One who can be called from threads outside the runtime.
pub trait Outside: Contender {
    /// Submits a command, and blocks while there is no room.
    fn blocking_submit(&self, command: Command) -> Result<Self::Ticket, Refused>;

    /// Blocks until the outcome is there.
    fn wait(ticket: Self::Ticket) -> Result<u64, Refused>;

    /// Submits a command, and blocks until its outcome is there.
    fn blocking_send(&self, command: Command) -> Result<u64, Refused> {
        Self::wait(self.blocking_submit(command)?)
    }
}

/// A contender's name, and what it runs.
pub struct Entry {
    pub name: &'static str,
    /// Which workloads it takes part in.
    pub takes: fn(&Workload) -> bool,
    /// Carries out a child's orders.
    pub serve: fn(Workload, f64),
}

/// The one that all others are compared with.
pub const REFERENCE: &str = "shardpool-tokio";

/// Whether it is one of the pool's own.
pub fn is_shardpool(name: &str) -> bool {
    name.starts_with("shardpool-")
}

fn all(_: &Workload) -> bool {
    true
}

/// A thread for each wait of 16,384 is not what threads are for.
fn all_but_many_waits(workload: &Workload) -> bool {
    !workload.name.starts_with("W6")
}

fn is_outside(workload: &Workload) -> bool {
    matches!(workload.load, Load::Outside { .. })
}

fn evicts(workload: &Workload) -> bool {
    workload.name == "W10/evicts"
}

fn inside(workload: &Workload) -> bool {
    !is_outside(workload)
}

fn inside_without_eviction(workload: &Workload) -> bool {
    inside(workload) && !evicts(workload)
}

fn inside_without_store(workload: &Workload) -> bool {
    inside(workload) && workload.setup.stored.is_none()
}

fn all_without_eviction(workload: &Workload) -> bool {
    !evicts(workload)
}

fn no_op(workload: &Workload) -> bool {
    workload.is_idle() && inside(workload)
}

fn has_limit(workload: &Workload) -> bool {
    matches!(workload.task, Task::WaitMs(_) | Task::SpinUs(_) | Task::Planned)
}

fn has_timer_limit(workload: &Workload) -> bool {
    matches!(workload.task, Task::WaitMs(_) | Task::Planned)
}

/// All of them, in the order in which the first round takes them.
pub const ALL: &[Entry] = &[
    Entry {
        name: REFERENCE,
        takes: all,
        serve: child::serve_outside::<
            shardpool::Shardpool<Idle, Tokio>,
            shardpool::Shardpool<Busy<Tokio>, Tokio>,
        >,
    },
    Entry {
        name: "shardpool-smol",
        takes: all,
        serve: child::serve_outside::<
            shardpool::Shardpool<Idle, Smol>,
            shardpool::Shardpool<Busy<Smol>, Smol>,
        >,
    },
    Entry {
        name: "shardpool-async-std",
        takes: all,
        serve: child::serve_outside::<
            shardpool::Shardpool<Idle, AsyncStd>,
            shardpool::Shardpool<Busy<AsyncStd>, AsyncStd>,
        >,
    },
    Entry {
        name: "shardpool-threads",
        takes: all_but_many_waits,
        serve: child::serve_outside::<
            shardpool::Shardpool<Idle, Blocking>,
            shardpool::Shardpool<Busy<Blocking>, Blocking>,
        >,
    },
    Entry {
        name: "actor-per-shard",
        takes: all_without_eviction,
        serve: child::serve_outside::<
            actor_per_shard::ActorPerShard<Idle, Tokio>,
            actor_per_shard::ActorPerShard<Busy<Tokio>, Tokio>,
        >,
    },
    Entry {
        name: "actor-per-shard-smol",
        takes: no_op,
        serve: child::serve::<
            actor_per_shard::ActorPerShard<Idle, Smol>,
            actor_per_shard::ActorPerShard<Busy<Smol>, Smol>,
        >,
    },
    Entry {
        name: "mutex-per-key",
        takes: inside_without_eviction,
        serve: child::serve::<mutex_per_key::InCaller<Idle>, mutex_per_key::InCaller<Busy<Tokio>>>,
    },
    Entry {
        name: "mutex-per-key-spawned",
        takes: inside_without_eviction,
        serve: child::serve::<mutex_per_key::Spawned<Idle>, mutex_per_key::Spawned<Busy<Tokio>>>,
    },
    Entry {
        name: "seed-port",
        takes: inside_without_store,
        serve: child::serve::<seed_port::SeedPort<Idle>, seed_port::SeedPort<Busy<Tokio>>>,
    },
    Entry {
        name: "kameo",
        takes: inside_without_eviction,
        serve: child::serve::<kameo::Kameo<Idle>, kameo::Kameo<Busy<Tokio>>>,
    },
    Entry {
        name: "ractor-key-persistent",
        takes: inside_without_eviction,
        serve: child::serve::<ractor::KeyPersistent<Idle>, ractor::KeyPersistent<Busy<Tokio>>>,
    },
    Entry {
        name: "ractor-sticky",
        takes: inside_without_eviction,
        serve: child::serve::<ractor::Sticky<Idle>, ractor::Sticky<Busy<Tokio>>>,
    },
    Entry {
        name: "grommet",
        takes: inside,
        serve: child::serve::<grommet::Grommet<Idle>, grommet::Grommet<Busy<Tokio>>>,
    },
    Entry {
        name: "task-exec-queue",
        takes: inside_without_eviction,
        serve: child::serve::<task_exec_queue::Grouped<Idle>, task_exec_queue::Grouped<Busy<Tokio>>>,
    },
    Entry {
        name: "limit",
        takes: has_limit,
        serve: child::serve_limit::<bare::Bare<Busy<Tokio>, Tokio>>,
    },
    Entry {
        name: "limit-smol",
        takes: has_timer_limit,
        serve: child::serve_limit::<bare::Bare<Busy<Smol>, Smol>>,
    },
    Entry {
        name: "limit-async-std",
        takes: has_timer_limit,
        serve: child::serve_limit::<bare::Bare<Busy<AsyncStd>, AsyncStd>>,
    },
    Entry {
        name: "harness",
        takes: no_op,
        serve: child::serve::<bare::Bare<Idle, Tokio>, bare::Bare<Busy<Tokio>, Tokio>>,
    },
];

/// The contender of this name.
pub fn named(name: &str) -> Option<&'static Entry> {
    ALL.iter().find(|entry| entry.name == name)
}
