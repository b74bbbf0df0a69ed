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
use std::panic::{RefUnwindSafe, UnwindSafe};
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

/// What the handles of a pool share. The pool's futures do not hold it, but each holds what it needs of the
/// shards, the clock, the peers and the lifecycle.
pub(crate) struct Inner<T: Types> {
    pub(crate) shards: Box<[Arc<Shard<T>>]>,
    pub(crate) router: Router<IdOf<T>>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) peers: Arc<Peers>,
    pub(crate) lifecycle: Arc<Lifecycle>,
}

// A panic of user code ends a command and leaves nothing of the pool's half changed (G7).
impl<T: Types> UnwindSafe for Inner<T> {}
impl<T: Types> RefUnwindSafe for Inner<T> {}

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

impl<C: Command, O: Send, E: Send> ShardPool<C, O, E> {
    /// Begins to set up a pool for a handler: a [`CommandHandler`], or a closure through
    /// [`handler_fn`](crate::handler_fn) or [`async_handler_fn`](crate::async_handler_fn).
    ///
    /// ```
    /// use shardpool::{Command, Context, Failure, ShardPool, executors::Threads, handler_fn};
    ///
    /// # struct Touch(u32);
    /// # impl Command for Touch { type AggregateId = u32; fn aggregate_id(&self) -> &u32 { &self.0 } }
    /// let handler = handler_fn(|_: &mut (), _: Touch, cx: &Context| Ok::<_, Failure<()>>(cx.version()));
    /// let pool = ShardPool::builder(handler).shards(2).start(Threads::new())?;
    /// assert_eq!(pool.blocking_send(Touch(1)).unwrap().output, 1);
    /// # Ok::<(), shardpool::StartError>(())
    /// ```
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
    /// ```
    /// # use shardpool::{Command, Context, Failure, ShardPool, executors::Threads, handler_fn};
    /// # #[derive(Debug, PartialEq)]
    /// # struct Add(&'static str, u32);
    /// # impl Command for Add { type AggregateId = &'static str; fn aggregate_id(&self) -> &&'static str { &self.0 } }
    /// # let builder = ShardPool::builder(handler_fn(|sum: &mut u32, add: Add, _: &Context| {
    /// #     if add.1 == 0 { return Err(Failure::Rejected("nothing to add")); }
    /// #     *sum += add.1;
    /// #     Ok(*sum)
    /// # }));
    /// # let pool = builder.shards(4).workers_per_shard(2).start(Threads::new()).unwrap();
    /// # futures::executor::block_on(async {
    /// use shardpool::{CommandError, SendError};
    ///
    /// let receipt = pool.send(Add("a", 3)).await.unwrap();
    /// assert_eq!((receipt.version, receipt.output), (1, 3));
    ///
    /// // This handler rejects a zero.
    /// match pool.send(Add("a", 0)).await {
    ///     Err(SendError::Command(CommandError::Rejected(why))) => assert_eq!(why, "nothing to add"),
    ///     other => panic!("{other:?}"),
    /// }
    /// # });
    /// ```
    ///
    /// # Errors
    ///
    /// [`SendError::NotAccepted`]: the command comes back. [`SendError::Command`]: it was accepted,
    /// and did not commit. Inside a handler, a wait that could never end is refused with `Deadlock`
    /// (G9).
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
    /// ```
    /// # use shardpool::{Command, Context, Failure, ShardPool, executors::Threads, handler_fn};
    /// # #[derive(Debug, PartialEq)]
    /// # struct Add(&'static str, u32);
    /// # impl Command for Add { type AggregateId = &'static str; fn aggregate_id(&self) -> &&'static str { &self.0 } }
    /// # let builder = ShardPool::builder(handler_fn(|sum: &mut u32, add: Add, _: &Context| {
    /// #     if add.1 == 0 { return Err(Failure::Rejected("nothing to add")); }
    /// #     *sum += add.1;
    /// #     Ok(*sum)
    /// # }));
    /// # let pool = builder.shards(4).workers_per_shard(2).start(Threads::new()).unwrap();
    /// # futures::executor::block_on(async {
    /// let first = pool.submit(Add("a", 1)).await.unwrap();
    /// let second = pool.submit(Add("a", 2)).await.unwrap();
    /// // Both are accepted; they run in this order, whoever asks first.
    /// assert_eq!(second.await.unwrap().version, 2);
    /// assert_eq!(first.await.unwrap().version, 1);
    /// # });
    /// ```
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
    /// ```
    /// # use shardpool::{Command, Context, Failure, ShardPool, executors::Threads, handler_fn};
    /// # #[derive(Debug, PartialEq)]
    /// # struct Add(&'static str, u32);
    /// # impl Command for Add { type AggregateId = &'static str; fn aggregate_id(&self) -> &&'static str { &self.0 } }
    /// # let builder = ShardPool::builder(handler_fn(|sum: &mut u32, add: Add, _: &Context| {
    /// #     if add.1 == 0 { return Err(Failure::Rejected("nothing to add")); }
    /// #     *sum += add.1;
    /// #     Ok(*sum)
    /// # }));
    /// # let pool = builder.shards(4).workers_per_shard(2).start(Threads::new()).unwrap();
    /// use shardpool::TrySubmitError;
    ///
    /// let ticket = pool.try_submit(Add("a", 3)).unwrap();
    /// assert_eq!(ticket.blocking_wait().unwrap().output, 3);
    ///
    /// let _ = pool.drain();
    /// assert_eq!(pool.try_submit(Add("a", 4)).unwrap_err(), TrySubmitError::Closed(Add("a", 4)));
    /// ```
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
    /// **Not for async code**: it blocks a thread of the executor, perhaps the one that has to run the command;
    /// on a runtime with one thread it then never returns. That is seen inside handlers alone: there it is
    /// refused with `Deadlock` when the wait could never end, or would block the executor's last thread (G9),
    /// which on tokio is always so.
    ///
    /// ```
    /// # use shardpool::{Command, Context, Failure, ShardPool, executors::Threads, handler_fn};
    /// # #[derive(Debug, PartialEq)]
    /// # struct Add(&'static str, u32);
    /// # impl Command for Add { type AggregateId = &'static str; fn aggregate_id(&self) -> &&'static str { &self.0 } }
    /// # let builder = ShardPool::builder(handler_fn(|sum: &mut u32, add: Add, _: &Context| {
    /// #     if add.1 == 0 { return Err(Failure::Rejected("nothing to add")); }
    /// #     *sum += add.1;
    /// #     Ok(*sum)
    /// # }));
    /// # let pool = builder.shards(4).workers_per_shard(2).start(Threads::new()).unwrap();
    /// let caller = std::thread::spawn({
    ///     let pool = pool.clone();
    ///     move || pool.blocking_send(Add("a", 3)).unwrap().output
    /// });
    /// assert_eq!(caller.join().unwrap(), 3);
    /// ```
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send).
    pub fn blocking_send(&self, command: C) -> Result<Receipt<O>, SendError<C, E>> {
        self.submitter().blocking_send(command)
    }

    /// As [`submit`](Self::submit), for code that is not async: blocks the thread while there is no
    /// room. Needs no runtime on this thread (G20).
    ///
    /// **Not for async code**, as [`blocking_send`](Self::blocking_send). Inside a handler, where there is no
    /// room, it is refused with [`SubmitError::Deadlock`] when the wait could never end, or would block the
    /// executor's last thread (G9), which on tokio is always so.
    ///
    /// ```
    /// # use shardpool::{Command, Context, Failure, ShardPool, executors::Threads, handler_fn};
    /// # #[derive(Debug, PartialEq)]
    /// # struct Add(&'static str, u32);
    /// # impl Command for Add { type AggregateId = &'static str; fn aggregate_id(&self) -> &&'static str { &self.0 } }
    /// # let builder = ShardPool::builder(handler_fn(|sum: &mut u32, add: Add, _: &Context| {
    /// #     if add.1 == 0 { return Err(Failure::Rejected("nothing to add")); }
    /// #     *sum += add.1;
    /// #     Ok(*sum)
    /// # }));
    /// # let pool = builder.shards(4).workers_per_shard(2).start(Threads::new()).unwrap();
    /// let tickets: Vec<_> = (1..=3).map(|n| pool.blocking_submit(Add("a", n)).unwrap()).collect();
    /// let sums: Vec<_> = tickets.into_iter().map(|ticket| ticket.blocking_wait().unwrap().output).collect();
    /// assert_eq!(sums, [1, 3, 6]);
    /// ```
    ///
    /// # Errors
    ///
    /// As [`submit`](Self::submit).
    pub fn blocking_submit(&self, command: C) -> Result<Ticket<C, O, E>, SubmitError<C>> {
        self.submitter().blocking_submit(command)
    }

    /// A way in that gives each command a deadline, after which it is not started any more. Not a timeout of
    /// the wait: see [`Submitter::within`].
    ///
    /// ```
    /// # use shardpool::{Command, Context, Failure, ShardPool, executors::Threads, handler_fn};
    /// # #[derive(Debug, PartialEq)]
    /// # struct Add(&'static str, u32);
    /// # impl Command for Add { type AggregateId = &'static str; fn aggregate_id(&self) -> &&'static str { &self.0 } }
    /// # let builder = ShardPool::builder(handler_fn(|sum: &mut u32, add: Add, _: &Context| {
    /// #     if add.1 == 0 { return Err(Failure::Rejected("nothing to add")); }
    /// #     *sum += add.1;
    /// #     Ok(*sum)
    /// # }));
    /// # let pool = builder.shards(4).workers_per_shard(2).start(Threads::new()).unwrap();
    /// use shardpool::{SendError, SubmitError};
    /// use std::time::Duration;
    ///
    /// assert!(pool.within(Duration::from_secs(60)).blocking_send(Add("a", 3)).is_ok());
    ///
    /// let late = pool.within(Duration::ZERO).blocking_send(Add("a", 4));
    /// assert_eq!(late.unwrap_err(), SendError::NotAccepted(SubmitError::Expired(Add("a", 4))));
    /// ```
    pub fn within(&self, time: Duration) -> Submitter<'_, C, O, E> {
        self.submitter().within(time)
    }

    /// One shard's own way in, for those who route for themselves: a command for an aggregate of
    /// another shard is refused, not misrouted. `None` if there is no such shard.
    ///
    /// ```
    /// # use shardpool::{Command, Context, Failure, ShardPool, executors::Threads, handler_fn};
    /// # #[derive(Debug, PartialEq)]
    /// # struct Add(&'static str, u32);
    /// # impl Command for Add { type AggregateId = &'static str; fn aggregate_id(&self) -> &&'static str { &self.0 } }
    /// # let builder = ShardPool::builder(handler_fn(|sum: &mut u32, add: Add, _: &Context| {
    /// #     if add.1 == 0 { return Err(Failure::Rejected("nothing to add")); }
    /// #     *sum += add.1;
    /// #     Ok(*sum)
    /// # }));
    /// # let pool = builder.shards(4).workers_per_shard(2).start(Threads::new()).unwrap();
    /// let home = pool.shard_of(&"a");
    /// let shard = pool.shard(home).unwrap();
    /// assert_eq!(shard.blocking_send(Add("a", 3)).unwrap().output, 3);
    /// assert!(pool.shard(pool.shards()).is_none());
    /// ```
    pub fn shard(&self, index: usize) -> Option<Submitter<'_, C, O, E>> {
        let submitter = self.submitter();
        (index < self.shards()).then_some(Submitter { shard: Some(index), ..submitter })
    }

    /// The shard that serves an aggregate, the same while the pool lives (G3).
    ///
    /// ```
    /// # use shardpool::{Command, Context, Failure, ShardPool, executors::Threads, handler_fn};
    /// # #[derive(Debug, PartialEq)]
    /// # struct Add(&'static str, u32);
    /// # impl Command for Add { type AggregateId = &'static str; fn aggregate_id(&self) -> &&'static str { &self.0 } }
    /// # let builder = ShardPool::builder(handler_fn(|sum: &mut u32, add: Add, _: &Context| {
    /// #     if add.1 == 0 { return Err(Failure::Rejected("nothing to add")); }
    /// #     *sum += add.1;
    /// #     Ok(*sum)
    /// # }));
    /// # let pool = builder.shards(4).workers_per_shard(2).start(Threads::new()).unwrap();
    /// let home = pool.shard_of(&"a");
    /// pool.blocking_send(Add("a", 3)).unwrap();
    /// assert_eq!(pool.stats()[home].outcomes.committed, 1);
    /// ```
    ///
    /// # Panics
    ///
    /// If the id's `Hash` does.
    pub fn shard_of(&self, id: &C::AggregateId) -> usize {
        self.inner.router.shard(self.inner.router.hash(id))
    }

    /// How many shards there are.
    ///
    /// ```
    /// # use shardpool::{Command, Context, Failure, ShardPool, executors::Threads, handler_fn};
    /// # #[derive(Debug, PartialEq)]
    /// # struct Add(&'static str, u32);
    /// # impl Command for Add { type AggregateId = &'static str; fn aggregate_id(&self) -> &&'static str { &self.0 } }
    /// # let builder = ShardPool::builder(handler_fn(|sum: &mut u32, add: Add, _: &Context| {
    /// #     if add.1 == 0 { return Err(Failure::Rejected("nothing to add")); }
    /// #     *sum += add.1;
    /// #     Ok(*sum)
    /// # }));
    /// let pool = builder.shards(5).start(Threads::new())?;
    /// assert!(pool.shard_of(&"a") < pool.shards());
    /// assert_eq!(pool.shards(), pool.stats().len());
    /// # Ok::<(), shardpool::StartError>(())
    /// ```
    pub fn shards(&self) -> usize {
        self.inner.shards.len()
    }

    /// The counters of each shard; [`ShardStats`] tells how far they are consistent under load.
    ///
    /// Reads a few numbers for each worker: for a monitor, not for each command.
    ///
    /// ```
    /// # use shardpool::{Command, Context, Failure, ShardPool, executors::Threads, handler_fn};
    /// # #[derive(Debug, PartialEq)]
    /// # struct Add(&'static str, u32);
    /// # impl Command for Add { type AggregateId = &'static str; fn aggregate_id(&self) -> &&'static str { &self.0 } }
    /// # let builder = ShardPool::builder(handler_fn(|sum: &mut u32, add: Add, _: &Context| {
    /// #     if add.1 == 0 { return Err(Failure::Rejected("nothing to add")); }
    /// #     *sum += add.1;
    /// #     Ok(*sum)
    /// # }));
    /// # let pool = builder.shards(4).workers_per_shard(2).start(Threads::new()).unwrap();
    /// for id in ["a", "b", "c"] {
    ///     pool.blocking_send(Add(id, 1)).unwrap();
    /// }
    /// let stats = pool.stats(); // one for each shard, by its index
    /// assert_eq!(stats.iter().map(|shard| shard.accepted).sum::<u64>(), 3);
    /// assert_eq!(stats.iter().map(|shard| shard.resident).sum::<u64>(), 3);
    /// ```
    pub fn stats(&self) -> Vec<ShardStats> {
        self.inner.shards.iter().map(|shard| shard.front.stats()).collect()
    }

    /// Whether intake is closed on every shard. A shard that has lost one of its futures is closed alone: see
    /// [`ShardStats::closed`].
    ///
    /// ```
    /// # use shardpool::{Command, Context, Failure, ShardPool, executors::Threads, handler_fn};
    /// # #[derive(Debug, PartialEq)]
    /// # struct Add(&'static str, u32);
    /// # impl Command for Add { type AggregateId = &'static str; fn aggregate_id(&self) -> &&'static str { &self.0 } }
    /// # let builder = ShardPool::builder(handler_fn(|sum: &mut u32, add: Add, _: &Context| {
    /// #     if add.1 == 0 { return Err(Failure::Rejected("nothing to add")); }
    /// #     *sum += add.1;
    /// #     Ok(*sum)
    /// # }));
    /// # let pool = builder.shards(4).workers_per_shard(2).start(Threads::new()).unwrap();
    /// assert!(!pool.is_closed());
    /// let _ = pool.drain();
    /// assert!(pool.is_closed());
    /// ```
    pub fn is_closed(&self) -> bool {
        self.inner.shards.iter().all(|shard| shard.front.is_closed())
    }

    /// Ends the pool in two phases (G15). This call stops intake: from its return on, submissions
    /// are refused, also waiting ones and those of running handlers, and get their command back.
    /// Then everything that was accepted finishes, and the future is ready when the last of the
    /// pool's futures has ended.
    ///
    /// Can be called any number of times, by any number of callers (G16). Errors and cancel safety:
    /// see [`Drain`].
    ///
    /// ```
    /// # use shardpool::{Command, Context, Failure, ShardPool, executors::Threads, handler_fn};
    /// # #[derive(Debug, PartialEq)]
    /// # struct Add(&'static str, u32);
    /// # impl Command for Add { type AggregateId = &'static str; fn aggregate_id(&self) -> &&'static str { &self.0 } }
    /// # let (open, gate) = std::sync::mpsc::channel::<()>();
    /// # let (tell, started) = std::sync::mpsc::channel();
    /// # let gate = std::sync::Mutex::new(gate);
    /// # let builder = ShardPool::builder(handler_fn(move |_: &mut (), _: Add, _: &Context| {
    /// #     tell.send(()).ok();
    /// #     gate.lock().unwrap().recv().ok();
    /// #     Ok::<_, Failure<&'static str>>(())
    /// # })).shards(1).workers_per_shard(1);
    /// # let pool = builder.start(Threads::new()).unwrap();
    /// let first = pool.blocking_submit(Add("a", 1)).unwrap();
    /// let second = pool.blocking_submit(Add("a", 2)).unwrap();
    ///
    /// let drain = pool.drain();
    /// assert!(pool.try_submit(Add("a", 3)).is_err()); // closed at once, awaited or not
    /// # drop(open);
    /// let outcomes = drain.blocking_wait().unwrap();
    /// assert_eq!(outcomes.committed, 2); // what was accepted has finished
    /// ```
    pub fn drain(&self) -> Drain {
        self.inner.close();
        Drain::new(&self.inner.lifecycle, &self.inner.peers, &self.inner.clock)
    }

    /// As [`drain`](Self::drain), but what has not started is resolved as
    /// [`Aborted`](crate::CommandError::Aborted), as soon as dispatchers and workers are polled.
    /// Commands that have started run to their end, with
    /// [`is_cancelled`](crate::Context::is_cancelled) set; the future waits for them, so bound it with
    /// [`Drain::within`]. What is in the turn of a handler that blocks its thread is resolved when that
    /// returns or comes to an await. Errors and cancel safety: see [`Drain`].
    ///
    /// ```
    /// # use shardpool::{Command, Context, Failure, ShardPool, async_handler_fn, executors::Threads};
    /// # use futures::FutureExt;
    /// # struct Add(&'static str, u32);
    /// # impl Command for Add { type AggregateId = &'static str; fn aggregate_id(&self) -> &&'static str { &self.0 } }
    /// # let (open, gate) = futures::channel::oneshot::channel::<()>();
    /// # let gate = gate.shared();
    /// # let (tell, started) = std::sync::mpsc::channel();
    /// # let pool = ShardPool::builder(async_handler_fn(move |_: Add, _: Context| {
    /// #     tell.send(()).ok();
    /// #     let gate = gate.clone();
    /// #     async move { gate.await.ok(); Ok::<_, Failure<&'static str>>(()) }
    /// # })).shards(1).workers_per_shard(1).start(Threads::new()).unwrap();
    /// use shardpool::CommandError;
    ///
    /// let running = pool.blocking_submit(Add("a", 1)).unwrap();
    /// let queued = pool.blocking_submit(Add("a", 2)).unwrap();
    /// started.recv().unwrap(); // the handler of the first is at an await
    ///
    /// let end = pool.abort();
    /// assert_eq!(queued.blocking_wait().unwrap_err(), CommandError::Aborted { started: false });
    /// # drop(open);
    /// assert!(running.blocking_wait().is_ok()); // goes on to its end
    /// assert_eq!(end.blocking_wait().unwrap().aborted, 1);
    /// ```
    pub fn abort(&self) -> Drain {
        for shard in &self.inner.shards {
            shard.front.abort();
        }
        Drain::new(&self.inner.lifecycle, &self.inner.peers, &self.inner.clock)
    }

    /// A handle that does not keep the pool open: for handlers that must reach their own pool.
    ///
    /// ```
    /// # use shardpool::{Command, Context, Failure, ShardPool, executors::Threads, handler_fn};
    /// # #[derive(Debug, PartialEq)]
    /// # struct Add(&'static str, u32);
    /// # impl Command for Add { type AggregateId = &'static str; fn aggregate_id(&self) -> &&'static str { &self.0 } }
    /// # let builder = ShardPool::builder(handler_fn(|sum: &mut u32, add: Add, _: &Context| {
    /// #     if add.1 == 0 { return Err(Failure::Rejected("nothing to add")); }
    /// #     *sum += add.1;
    /// #     Ok(*sum)
    /// # }));
    /// # let pool = builder.shards(4).workers_per_shard(2).start(Threads::new()).unwrap();
    /// let weak = pool.downgrade();
    /// assert_eq!(weak.upgrade().unwrap().shards(), pool.shards());
    /// drop(pool); // the last full handle: intake closes
    /// assert!(weak.upgrade().is_none());
    /// ```
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

impl<C: Command, O: Send, E: Send> WeakPool<C, O, E> {
    /// A full handle, unless the last one is gone.
    ///
    /// ```
    /// # use shardpool::{Command, Context, Failure, ShardPool, executors::Threads, handler_fn};
    /// # #[derive(Debug, PartialEq)]
    /// # struct Add(&'static str, u32);
    /// # impl Command for Add { type AggregateId = &'static str; fn aggregate_id(&self) -> &&'static str { &self.0 } }
    /// # let builder = ShardPool::builder(handler_fn(|sum: &mut u32, add: Add, _: &Context| {
    /// #     if add.1 == 0 { return Err(Failure::Rejected("nothing to add")); }
    /// #     *sum += add.1;
    /// #     Ok(*sum)
    /// # }));
    /// # let pool = builder.shards(4).workers_per_shard(2).start(Threads::new()).unwrap();
    /// let weak = pool.downgrade();
    /// if let Some(pool) = weak.upgrade() {
    ///     assert_eq!(pool.blocking_send(Add("a", 3)).unwrap().output, 3);
    /// }
    /// drop(pool);
    /// assert!(weak.upgrade().is_none());
    /// ```
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
