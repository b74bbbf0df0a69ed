//! Commands that run one at a time per key, and in parallel across keys.
//!
//! A [`ShardPool`] carries out commands. Each command changes one *aggregate*, named by its id;
//! commands of one aggregate run serially, in the order in which they were accepted, and those of
//! different aggregates in parallel. The pool counts the commits of each aggregate as its *version*,
//! keeps its state resident, and answers every accepted command with exactly one outcome.
//!
//! ```
//! use shardpool::{Command, CommandHandler, Context, Failure, ShardPool, executors::Threads};
//!
//! struct Deposit {
//!     account: String,
//!     cents: u64,
//! }
//!
//! impl Command for Deposit {
//!     type AggregateId = String;
//!     fn aggregate_id(&self) -> &String {
//!         &self.account
//!     }
//! }
//!
//! struct Ledger;
//!
//! impl CommandHandler for Ledger {
//!     type Command = Deposit;
//!     type State = u64;
//!     type Output = u64;
//!     type Error = std::io::Error;
//!
//!     async fn handle(&self, balance: &mut u64, deposit: Deposit, _cx: &Context) -> Result<u64, Failure<std::io::Error>> {
//!         *balance += deposit.cents;
//!         Ok(*balance)
//!     }
//! }
//!
//! # futures::executor::block_on(async {
//! let pool = ShardPool::builder(Ledger).shards(4).start(Threads::new())?;
//! let receipt = pool.send(Deposit { account: "alice".into(), cents: 10 }).await?;
//! assert_eq!((receipt.version, receipt.output), (1, 10));
//!
//! let ticket = pool.submit(Deposit { account: "alice".into(), cents: 5 }).await?;
//! assert_eq!(ticket.await?.output, 15);
//!
//! let outcomes = pool.drain().await?;
//! assert_eq!(outcomes.committed, 2);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # }).unwrap();
//! ```
//!
//! # What is promised
//!
//! | | |
//! | --- | --- |
//! | G1 | Commands of one aggregate never overlap, and start in the order of acceptance. |
//! | G2 | An aggregate waits for another only while every worker of its shard is busy. |
//! | G3 | An id always goes to the same shard; the hash is seeded per pool unless you pass one. |
//! | G4 | A hot aggregate runs at most [`max_turn`](Builder::max_turn) commands before others get their turn. |
//! | G5 | Every accepted command ends in exactly one outcome; no ticket waits for ever, provided that handlers return and the executor polls the pool's futures or drops them. |
//! | G6 | Results never block a worker. |
//! | G7 | A panic in your code ends at most the command at hand. |
//! | G8 | A withdrawn or expired command never runs; a started one runs to its end. |
//! | G9 | A wait inside a handler that could never end is refused. |
//! | G10 | Between two loads, versions have no gap and no duplicate. |
//! | G11 | The handler is lent the resident state; it is loaded first, and again after a failure. |
//! | G12 | With a cap, idle aggregates are evicted, least recently used first. |
//! | G13 | A shard holds at most [`queue_depth`](Builder::queue_depth) commands that have not started. |
//! | G14 | Invalid settings are errors, never replaced. |
//! | G15, G16 | Shutdown is in two phases, bounded and repeatable. |
//! | G17 | Dropping the last handle finishes what was accepted, then ends every task, as long as the executor runs. |
//! | G18, G19, G20 | No runtime in the core, additive features, callers from anywhere. |
//! | G21 | Counters for everybody, a hook for tests. |
//!
//! Panics are contained with `panic = "unwind"` only.
//!
//! # Waits inside handlers
//!
//! A handler may submit to its own pool, or another, and wait. A wait that could never end is
//! refused with `Deadlock` (G9): for the handler's own aggregate, for one that waits for it, when all
//! workers of the target's shard are in such waits, and for room that only they could make. The pool
//! judges by the waits that it sees while it polls handlers, so
//!
//! * waits in tasks that a handler spawns are not seen;
//! * each wait that a handler has polled and not dropped counts, also in a `select` with a timeout: the
//!   pool can't know that the handler would go on without it;
//! * what runs inside a handler's poll counts as the handler: also another executor's tasks, if the
//!   handler drives one by a nested `block_on`;
//! * a ticket of another pool that was made outside of handlers is not seen;
//! * a handler that blocks its thread in such a wait holds on to what was withdrawn of the commands that its worker
//!   has next; until it goes on, waits for room in its shard are not judged.
//!
//! So do destructors that run in such a poll; those of what the pool drops itself (a state, a command that never
//! started) count as no handler: what they block on is not judged. A handler may wait for thousands at once, as in a
//! `join_all`. Only where the target's aggregate or all workers of its shard are in such waits themselves, where a shard is
//! full, and for a drain, is a wait judged by all others.
//!
//! A handler that reaches its own pool should hold a [`WeakPool`]. Blocking waits inside handlers are
//! refused where they would block the executor's last thread, which on tokio is always so: see
//! [`Executor::threads`](executors::Executor::threads).
//!
//! # Features
//!
//! None is on by default. `tokio`, `smol` and `async-std` each add an adapter in [`executors`], in
//! any combination; `test-util` adds a hook for tests, and `sim` a simulation that runs your handlers
//! under thousands of schedules. [`executors::Threads`] is always there. Any
//! other runtime needs one small trait, [`executors::Executor`]; its futures must be `Send`.
//!
//! # Lock-free?
//!
//! The crate's own code has no lock and no spin loop: it shares state through atomics. Dispatchers, workers
//! and callers that wait for room sleep on `AtomicWaker`; a caller that waits for an outcome leaves its
//! waker in the command's cell. Commands travel through a flume channel, which has a short mutex inside;
//! only its non-blocking calls are used. The `OnceLock` in `src/shard/hints.rs` is filled by one party alone, so
//! nobody waits in it. The [`executors::Threads`] adapter parks its own threads. Not so
//! the `sim` feature, which is for tests, and the start of one thread for the process, `shardpool-timer`, which
//! is behind a `OnceLock`: it times drains with a deadline where the executor has no timer or its timer is
//! gone, and in [`Drain::blocking_wait`], and stays until the process ends.

#![cfg_attr(docsrs, feature(doc_cfg))]

mod block;
mod builder;
mod cell;
mod chain;
mod command;
mod contain;
mod depot;
mod drain;
mod entering;
mod error;
#[path = "../executors/mod.rs"]
pub mod executors;
mod handler_fn;
mod lifecycle;
#[cfg(shardpool_loom)]
mod loom;
mod park;
mod pool;
mod prefetch;
mod reentry;
mod router;
mod shard;
mod stats;
mod submit;
mod sync;
mod ticket;
mod types;
mod waker_cell;

pub use builder::Builder;
pub use command::{
    Command, CommandHandler, Context, Failure, Loaded, Loader, Loading, NoLoader, Receipt, Source,
};
pub use drain::Drain;
pub use error::{
    CommandError, DrainError, SendError, SettingError, StartError, SubmitError, TrySubmitError,
};
#[cfg(feature = "sim")]
#[doc(inline)]
pub use executors::sim;
pub use handler_fn::{
    AsyncHandlerFn, HandlerFn, LoaderFn, async_handler_fn, handler_fn, loader_fn,
};
pub use pool::{ShardPool, WeakPool};
pub use stats::{Outcomes, ShardStats};
pub use submit::{Sending, Submission, Submitter};
pub use ticket::Ticket;

/// The pool of a handler, by its name.
///
/// ```
/// # use shardpool::{Command, CommandHandler, Context, Failure, ShardPool, executors::Threads};
/// # struct Add(u32, u64);
/// # impl Command for Add { type AggregateId = u32; fn aggregate_id(&self) -> &u32 { &self.0 } }
/// # struct Counter;
/// # impl CommandHandler for Counter {
/// #     type Command = Add; type State = u64; type Output = u64; type Error = &'static str;
/// #     async fn handle(&self, sum: &mut u64, add: Add, _: &Context) -> Result<u64, Failure<&'static str>> {
/// #         *sum += add.1;
/// #         Ok(*sum)
/// #     }
/// # }
/// use shardpool::PoolOf;
///
/// struct Service {
///     pool: PoolOf<Counter>,
/// }
///
/// let service = Service { pool: ShardPool::builder(Counter).start(Threads::new())? };
/// assert_eq!(service.pool.blocking_send(Add(1, 5)).unwrap().output, 5);
/// # Ok::<(), shardpool::StartError>(())
/// ```
pub type PoolOf<H> = ShardPool<
    <H as CommandHandler>::Command,
    <H as CommandHandler>::Output,
    <H as CommandHandler>::Error,
>;
