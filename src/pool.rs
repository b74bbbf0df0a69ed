//! The pool's handle.

use crate::builder::Builder;
use crate::command::{Command, CommandHandler, NoLoader, Receipt};
use crate::drain::Drain;
use crate::error::{SendError, SubmitError, TrySubmitError};
use crate::executors::Clock;
use crate::lifecycle::Lifecycle;
use crate::reentry::Peers;
use crate::router::Router;
use crate::shard::Shard;
use crate::stats::ShardStats;
use crate::submit::{Sending, Submission, Submitter};
use crate::sync::{Arc, Weak};
use crate::ticket::Ticket;
use crate::types::{IdOf, Types, TypesOf};
use std::fmt;
use std::time::Duration;

/// A pool of shards that carries out commands: one at a time and in order for each aggregate, in
/// parallel across aggregates.
///
/// A handle; clones are cheap and stand for the same pool. When the last one is dropped, intake
/// closes, accepted commands still finish, and then the pool's futures end, as long as their
/// executor runs (G17). At the end of the process what has not finished is lost: drain first.
///
/// The type names command, output and error. Handler, state and hasher are erased, so that a pool
/// over a closure has a name as well; [`PoolOf`](crate::PoolOf) names the pool of a handler.
///
/// ```
/// use shardpool::{Command, Context, Failure, ShardPool, executors::Threads, handler_fn};
///
/// struct Deposit { account: String, cents: u64 }
///
/// impl Command for Deposit {
///     type AggregateId = String;
///     fn aggregate_id(&self) -> &String { &self.account }
/// }
///
/// # futures::executor::block_on(async {
/// let pool = ShardPool::builder(handler_fn(|balance: &mut u64, deposit: Deposit, _: &Context| {
///     *balance += deposit.cents;
///     Ok::<_, Failure<std::io::Error>>(*balance)
/// }))
/// .shards(2)
/// .start(Threads::new())?;
///
/// let receipt = pool.send(Deposit { account: "alice".into(), cents: 5 }).await?;
/// assert_eq!((receipt.version, receipt.output), (1, 5));
/// assert_eq!(pool.drain().await?.committed, 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
pub struct ShardPool<C: Command, O: Send, E: Send> {
    pub(crate) inner: Arc<Inner<TypesOf<C, O, E>>>,
}

/// What the handles of a pool share. The pool's futures share none of it but the shards.
pub(crate) struct Inner<T: Types> {
    pub(crate) shards: Box<[Arc<Shard<T>>]>,
    pub(crate) router: Router<IdOf<T>>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) peers: Arc<Peers>,
    pub(crate) lifecycle: Arc<Lifecycle>,
}

impl<T: Types> Inner<T> {
    pub(crate) fn shard(&self, index: usize) -> &Shard<T> {
        &self.shards[index]
    }

    fn close(&self) {
        for shard in &self.shards {
            shard.front.close();
        }
    }
}

impl<T: Types> Drop for Inner<T> {
    fn drop(&mut self) {
        self.close();
    }
}

impl<C: Command, O: Send + 'static, E: Send + 'static> ShardPool<C, O, E> {
    /// Begins to set up a pool for a handler: a [`CommandHandler`], or a closure through
    /// [`handler_fn`](crate::handler_fn) or [`async_handler_fn`](crate::async_handler_fn).
    pub fn builder<H>(handler: H) -> Builder<H, NoLoader>
    where
        H: CommandHandler<Command = C, Output = O, Error = E>,
    {
        Builder::new(handler)
    }

    fn submitter(&self) -> Submitter<'_, C, O, E> {
        Submitter { pool: &self.inner, shard: None, time: None }
    }

    /// Submits a command, waits for room if there is none, and then for the outcome.
    ///
    /// # Errors
    ///
    /// The command was not accepted, and comes back; or it was, and did not commit.
    ///
    /// # Cancel safety
    ///
    /// See [`Sending`].
    pub fn send(&self, command: C) -> Sending<'_, C, O, E> {
        self.submitter().send(command)
    }

    /// Submits a command, and waits for room if there is none. The [`Ticket`] is the future of the
    /// outcome.
    ///
    /// Who waits is served first come, first served; a submission that was granted room is
    /// accepted, polled since or not, so one that nobody polls holds up nobody (G13).
    ///
    /// # Errors
    ///
    /// The command was not accepted, and comes back.
    ///
    /// # Cancel safety
    ///
    /// See [`Submission`].
    pub fn submit(&self, command: C) -> Submission<'_, C, O, E> {
        self.submitter().submit(command)
    }

    /// Submits a command if there is room, without waiting.
    ///
    /// # Errors
    ///
    /// [`TrySubmitError::Full`] if there is none, or others wait for it; or the reasons for which
    /// [`submit`](Self::submit) refuses. The command comes back.
    pub fn try_submit(&self, command: C) -> Result<Ticket<C, O, E>, TrySubmitError<C>> {
        self.submitter().try_submit(command)
    }

    /// As [`send`](Self::send), for code that is not async: blocks the thread. Needs no runtime on
    /// this thread (G20).
    ///
    /// Inside a handler it is refused when the wait could never end, or would block the executor's
    /// last thread (G9).
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send).
    pub fn blocking_send(&self, command: C) -> Result<Receipt<O>, SendError<C, E>> {
        self.submitter().blocking_send(command)
    }

    /// As [`submit`](Self::submit), for code that is not async: blocks the thread while there is no
    /// room.
    ///
    /// # Errors
    ///
    /// As [`submit`](Self::submit).
    pub fn blocking_submit(&self, command: C) -> Result<Ticket<C, O, E>, SubmitError<C>> {
        self.submitter().blocking_submit(command)
    }

    /// A way in that gives each command a deadline: see [`Submitter::within`].
    pub fn within(&self, time: Duration) -> Submitter<'_, C, O, E> {
        self.submitter().within(time)
    }

    /// One shard's own way in, for those who route for themselves: a command for an aggregate of
    /// another shard is refused, not misrouted. `None` if there is no such shard.
    pub fn shard(&self, index: usize) -> Option<Submitter<'_, C, O, E>> {
        let submitter = self.submitter();
        (index < self.shards()).then_some(Submitter { shard: Some(index), ..submitter })
    }

    /// The shard that serves an aggregate, the same while the pool lives (G3).
    ///
    /// # Panics
    ///
    /// If the id's `Hash` does.
    pub fn shard_of(&self, id: &C::AggregateId) -> usize {
        self.inner.router.shard(self.inner.router.hash(id))
    }

    /// How many shards there are.
    pub fn shards(&self) -> usize {
        self.inner.shards.len()
    }

    /// The counters of each shard; [`ShardStats`] tells how far they are consistent under load.
    ///
    /// Reads a few numbers for each worker: for a monitor, not for each command.
    pub fn stats(&self) -> Vec<ShardStats> {
        self.inner.shards.iter().map(|shard| shard.front.stats()).collect()
    }

    /// Whether intake is closed on every shard.
    pub fn is_closed(&self) -> bool {
        self.inner.shards.iter().all(|shard| shard.front.is_closed())
    }

    /// Ends the pool in two phases (G15). This call stops intake: from its return on, submissions
    /// are refused, also waiting ones and those of running handlers, and get their command back.
    /// Then everything that was accepted finishes, and the future is ready when the last of the
    /// pool's futures has ended.
    ///
    /// Can be called any number of times, by any number of callers.
    pub fn drain(&self) -> Drain {
        self.inner.close();
        Drain::new(&self.inner.lifecycle, &self.inner.peers, &self.inner.clock)
    }

    /// As [`drain`](Self::drain), but what has not started is resolved as
    /// [`Aborted`](crate::CommandError::Aborted), as soon as dispatchers and workers are polled.
    /// Commands that have started run to their end, with
    /// [`is_cancelled`](crate::Context::is_cancelled) set.
    pub fn abort(&self) -> Drain {
        for shard in &self.inner.shards {
            shard.front.abort();
        }
        Drain::new(&self.inner.lifecycle, &self.inner.peers, &self.inner.clock)
    }

    /// A handle that does not keep the pool open: for handlers that must reach their own pool.
    pub fn downgrade(&self) -> WeakPool<C, O, E> {
        WeakPool { inner: Arc::downgrade(&self.inner) }
    }
}

impl<C: Command, O: Send, E: Send> Clone for ShardPool<C, O, E> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

impl<C: Command, O: Send, E: Send> fmt::Debug for ShardPool<C, O, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.inner.shards.iter().map(|shard| shard.front.stats())).finish()
    }
}

/// A handle that does not keep its pool open. A handler that holds a [`ShardPool`] of its own pool
/// would keep it open for ever; one that holds this does not (G17).
///
/// ```
/// use shardpool::{Command, Context, Failure, ShardPool, WeakPool, async_handler_fn, executors::Threads};
/// use std::sync::{Arc, OnceLock};
///
/// struct Visit(&'static str, Option<&'static str>);
/// impl Command for Visit {
///     type AggregateId = &'static str;
///     fn aggregate_id(&self) -> &&'static str { &self.0 }
/// }
///
/// let slot: Arc<OnceLock<WeakPool<Visit, u64, &'static str>>> = Arc::default();
/// let of_handler = Arc::clone(&slot);
/// let pool = ShardPool::builder(async_handler_fn(move |visit: Visit, cx: Context| {
///     let pool = of_handler.get().and_then(WeakPool::upgrade);
///     async move {
///         let (Some(next), Some(pool)) = (visit.1, pool) else { return Ok(cx.version()) };
///         match pool.send(Visit(next, None)).await {
///             Ok(receipt) => Ok(receipt.version),
///             Err(_) => Err(Failure::Rejected("the next one did not commit")),
///         }
///     }
/// }))
/// .start(Threads::new())
/// .unwrap();
/// slot.set(pool.downgrade()).unwrap();
///
/// assert_eq!(pool.blocking_send(Visit("a", Some("b"))).unwrap().output, 1);
/// // A handler that waits for its own aggregate is refused instead of hanging.
/// assert!(pool.blocking_send(Visit("a", Some("a"))).is_err());
/// ```
pub struct WeakPool<C: Command, O: Send, E: Send> {
    inner: Weak<Inner<TypesOf<C, O, E>>>,
}

impl<C: Command, O: Send + 'static, E: Send + 'static> WeakPool<C, O, E> {
    /// A full handle, unless the last one is gone.
    pub fn upgrade(&self) -> Option<ShardPool<C, O, E>> {
        self.inner.upgrade().map(|inner| ShardPool { inner })
    }
}

impl<C: Command, O: Send, E: Send> Clone for WeakPool<C, O, E> {
    fn clone(&self) -> Self {
        Self { inner: Weak::clone(&self.inner) }
    }
}

impl<C: Command, O: Send, E: Send> fmt::Debug for WeakPool<C, O, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WeakPool")
    }
}
