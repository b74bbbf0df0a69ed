//! How a command gets into a shard: at once, after a wait for room, or not at all.

use crate::command::{Command, Receipt};
use crate::contain::Panic;
use crate::entering::{Entering, Route, accept, without_waiting};
use crate::error::{SendError, SubmitError, TrySubmitError};
use crate::park::block_on;
use crate::pool::Inner;
use crate::reentry::{self, Watch};
use crate::shard::front::Entry;
use crate::ticket::{Ticket, Waiter};
use crate::types::TypesOf;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

/// A way into a pool with something decided in advance: a deadline for each command, or the shard.
///
/// Made by [`ShardPool::within`](crate::ShardPool::within) and
/// [`ShardPool::shard`](crate::ShardPool::shard); copy it as you like.
///
/// ```
/// # use shardpool::{Command, Context, Failure, ShardPool, TrySubmitError, executors::Threads, handler_fn};
/// # struct Add(u32);
/// # impl Command for Add { type AggregateId = u32; fn aggregate_id(&self) -> &u32 { &self.0 } }
/// # let pool = ShardPool::builder(handler_fn(|n: &mut u32, add: Add, _: &Context| {
/// #     *n += add.0;
/// #     Ok::<_, Failure<()>>(*n)
/// # })).shards(4).start(Threads::new()).unwrap();
/// use std::time::Duration;
///
/// // For those who route for themselves: the shard's own way in.
/// let home = pool.shard_of(&7);
/// let shard = pool.shard(home).expect("there is a shard for each id");
/// assert_eq!(shard.within(Duration::from_secs(60)).blocking_send(Add(7)).unwrap().version, 1);
///
/// let other = pool.shard((home + 1) % 4).unwrap();
/// assert!(matches!(other.try_submit(Add(7)), Err(TrySubmitError::WrongShard { .. })));
/// ```
#[must_use = "a submitter does nothing until a command is sent through it"]
pub struct Submitter<'p, C: Command, O: Send, E: Send> {
    pub(crate) pool: &'p Inner<TypesOf<C, O, E>>,
    pub(crate) shard: Option<usize>,
    pub(crate) time: Option<Duration>,
}

impl<C: Command, O: Send, E: Send> Clone for Submitter<'_, C, O, E> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<C: Command, O: Send, E: Send> Copy for Submitter<'_, C, O, E> {}

impl<C: Command, O: Send, E: Send> fmt::Debug for Submitter<'_, C, O, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Submitter").field("shard", &self.shard).field("within", &self.time).finish()
    }
}

impl<'p, C: Command, O: Send, E: Send> Submitter<'p, C, O, E> {
    /// Gives each command a deadline, so long after the call that submits it.
    ///
    /// **Not a timeout of the wait**: no timer runs. The deadline is looked at when the command is submitted,
    /// when room could be granted, and when its turn comes, by the executor's clock; a command that is late
    /// then is not run, and ends as expired (G8). Until then its caller waits, however late it is. To stop
    /// waiting sooner, put a timeout of your runtime around the ticket, and
    /// [`withdraw`](crate::Ticket::withdraw). A command that has started is not stopped by a deadline. A time
    /// too long for the clock is none.
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
    /// # use std::{sync::{Arc, Mutex}, time::Instant};
    /// # use shardpool::executors::{Clock, Executor, SpawnError, Task};
    /// # #[derive(Clone)]
    /// # struct Simulation(Arc<Mutex<Instant>>);
    /// # impl Simulation { fn advance(&self, time: Duration) { *self.0.lock().unwrap() += time } }
    /// # impl Clock for Simulation {
    /// #     fn now(&self) -> Instant { *self.0.lock().unwrap() }
    /// #     fn sleep(&self, _: Duration) -> Task { unreachable!() }
    /// # }
    /// # impl Executor for Simulation {
    /// #     fn spawn(&self, task: Task) -> Result<(), SpawnError> { Threads::new().spawn(task) }
    /// #     fn clock(&self) -> Arc<dyn Clock> { Arc::new(self.clone()) }
    /// # }
    /// # let clock = Simulation(Arc::new(Mutex::new(Instant::now())));
    /// # let pool = builder.start(clock.clone()).unwrap();
    /// use shardpool::CommandError;
    /// use std::time::Duration;
    ///
    /// let soon = pool.within(Duration::from_secs(5));
    /// let first = soon.blocking_submit(Add("a", 1)).unwrap();
    /// let second = soon.blocking_submit(Add("a", 2)).unwrap();
    /// started.recv().unwrap(); // the first has started
    /// clock.advance(Duration::from_secs(5)); // a simulated clock
    /// # drop(open);
    /// assert!(first.blocking_wait().is_ok());
    /// assert_eq!(second.blocking_wait().unwrap_err(), CommandError::Expired);
    /// ```
    pub fn within(mut self, time: Duration) -> Self {
        self.time = Some(time);
        self
    }

    /// As [`ShardPool::send`](crate::ShardPool::send): errors and cancel safety are the same, and
    /// [`SubmitError::Expired`] and [`SubmitError::WrongShard`] come in.
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
    /// let soon = pool.within(std::time::Duration::from_secs(60));
    /// assert_eq!(soon.send(Add("a", 1)).await.unwrap().output, 1);
    /// assert_eq!(soon.send(Add("a", 2)).await.unwrap().output, 3); // a deadline of its own
    /// # });
    /// ```
    pub fn send(self, command: C) -> Sending<'p, C, O, E> {
        Sending { entering: Entering::new(self.pool, self.shard, self.time, command) }
    }

    /// As [`ShardPool::submit`](crate::ShardPool::submit): errors and cancel safety are the same,
    /// and [`SubmitError::Expired`] and [`SubmitError::WrongShard`] come in.
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
    /// let shard = pool.shard(pool.shard_of(&"a")).unwrap();
    /// let ticket = shard.submit(Add("a", 3)).await.unwrap();
    /// assert_eq!(ticket.await.unwrap().output, 3);
    /// # });
    /// ```
    pub fn submit(self, command: C) -> Submission<'p, C, O, E> {
        Submission { entering: Entering::new(self.pool, self.shard, self.time, command) }
    }

    /// As [`ShardPool::try_submit`](crate::ShardPool::try_submit).
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
    /// let late = pool.within(std::time::Duration::ZERO).try_submit(Add("a", 3));
    /// assert_eq!(late.unwrap_err(), TrySubmitError::Expired(Add("a", 3)));
    /// ```
    ///
    /// # Errors
    ///
    /// The command was not accepted, and comes back.
    pub fn try_submit(self, command: C) -> Result<Ticket<C, O, E>, TrySubmitError<C>> {
        let deadline = self.pool.deadline(self.time);
        let route = self.pool.route(self.shard, deadline, command)?;
        let shard = self.pool.shard(route.shard);
        let watch = if reentry::in_handler() {
            match Watch::of(&shard.front, &route.command) {
                Ok(watch) => watch,
                Err(Panic(message)) => {
                    return Err(TrySubmitError::Panicked { command: route.command, message });
                }
            }
        } else {
            Watch::default()
        };
        match shard.front.try_enter() {
            Entry::Accepted => {
                Ok(Ticket { inner: Waiter::new(accept(shard, route, deadline), watch) })
            }
            Entry::Full => Err(TrySubmitError::Full(route.command)),
            Entry::Closed => Err(TrySubmitError::Closed(route.command)),
        }
    }

    /// As [`ShardPool::blocking_send`](crate::ShardPool::blocking_send).
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
    /// let shard = pool.shard(pool.shard_of(&"b")).unwrap();
    /// assert_eq!(shard.blocking_send(Add("b", 3)).unwrap().version, 1);
    /// ```
    ///
    /// # Errors
    ///
    /// The command was not accepted, and comes back; or it did not commit.
    pub fn blocking_send(self, command: C) -> Result<Receipt<O>, SendError<C, E>> {
        let Some(_blocked) = reentry::may_block() else {
            return Err(SendError::NotAccepted(self.refuse_to_block(command)));
        };
        block_on(self.send(command))
    }

    /// The wait would be refused; but what refuses the command without one comes first.
    fn refuse_to_block(self, command: C) -> SubmitError<C> {
        match self.pool.route(self.shard, self.pool.deadline(self.time), command) {
            Err(error) => without_waiting(error),
            Ok(Route { command, shard, .. }) if self.pool.shard(shard).front.is_closed() => {
                SubmitError::Closed(command)
            }
            Ok(Route { command, .. }) => SubmitError::Deadlock(command),
        }
    }

    /// As [`ShardPool::blocking_submit`](crate::ShardPool::blocking_submit).
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
    /// use shardpool::SubmitError;
    ///
    /// let home = pool.shard_of(&"a");
    /// let other = (home + 1) % pool.shards();
    /// let error = pool.shard(other).unwrap().blocking_submit(Add("a", 3)).unwrap_err();
    /// assert_eq!(error, SubmitError::WrongShard { command: Add("a", 3), shard: other, owner: home });
    /// ```
    ///
    /// # Errors
    ///
    /// The command was not accepted, and comes back.
    pub fn blocking_submit(self, command: C) -> Result<Ticket<C, O, E>, SubmitError<C>> {
        let Some(_blocked) = reentry::may_block() else {
            // Without the wait there is no danger.
            return self.try_submit(command).map_err(without_waiting);
        };
        block_on(self.submit(command))
    }
}

/// The future of [`submit`](crate::ShardPool::submit).
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
/// drop(pool.submit(Add("a", 1))); // never polled: nothing has happened
/// let submission = pool.submit(Add("a", 2));
/// assert_eq!(submission.await.unwrap().await.unwrap().output, 2);
/// assert_eq!(pool.drain().await.unwrap().total(), 1);
/// # });
/// ```
///
/// # Cancel safety
///
/// Nothing happens before the first poll, though a deadline is counted from the call. Dropped
/// before it is ready, the command is not accepted; unless room was granted and the future not yet
/// polled since: then the command is accepted and runs, and its outcome is dropped (G8).
///
/// # Errors
///
/// [`SubmitError`]: the command was not accepted, and comes back.
///
/// # Panics
///
/// If it is polled again after it was ready.
#[must_use = "futures do nothing unless they are polled"]
pub struct Submission<'p, C: Command, O: Send, E: Send> {
    entering: Entering<'p, TypesOf<C, O, E>>,
}

impl<C: Command, O: Send, E: Send> Future for Submission<'_, C, O, E> {
    type Output = Result<Ticket<C, O, E>, SubmitError<C>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.entering.poll_ticket(cx).map_ok(|inner| Ticket { inner })
    }
}

/// The future of [`send`](crate::ShardPool::send).
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
/// use futures::FutureExt;
///
/// // One poll: there was room, so the command is accepted. Then the caller goes away.
/// let _ = pool.send(Add("a", 3)).now_or_never();
/// assert_eq!(pool.drain().blocking_wait().unwrap().committed, 1);
/// ```
///
/// # Cancel safety
///
/// Nothing happens before the first poll, though a deadline is counted from the call. Dropped while
/// it waits for room, the command is not accepted; unless room was granted and the future not yet
/// polled since. Dropped after acceptance, the command runs all the same, and its outcome is dropped
/// (G8). To know which, use [`submit`](crate::ShardPool::submit).
///
/// # Errors
///
/// [`SendError`]: the command was not accepted, and comes back; or it was, and did not commit.
///
/// # Panics
///
/// If it is polled again after it was ready.
#[must_use = "futures do nothing unless they are polled"]
pub struct Sending<'p, C: Command, O: Send, E: Send> {
    entering: Entering<'p, TypesOf<C, O, E>>,
}

impl<C: Command, O: Send, E: Send> Future for Sending<'_, C, O, E> {
    type Output = Result<Receipt<O>, SendError<C, E>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.entering.poll_outcome(cx)
    }
}

impl<C: Command, O: Send, E: Send> Unpin for Submission<'_, C, O, E> {}
impl<C: Command, O: Send, E: Send> Unpin for Sending<'_, C, O, E> {}

impl<C: Command, O: Send, E: Send> fmt::Debug for Submission<'_, C, O, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Submission")
    }
}

impl<C: Command, O: Send, E: Send> fmt::Debug for Sending<'_, C, O, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sending")
    }
}
