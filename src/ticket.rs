//! What a submitter holds for an accepted command.

use crate::cell::{Held, Outcome};
use crate::command::Command;
use crate::error::CommandError;
use crate::park::block_on;
use crate::reentry::{self, Target, Watch};
use crate::types::{Types, TypesOf};
use std::fmt;
use std::future::Future;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::pin::Pin;
use std::task::{Context, Poll};

/// The claim to the outcome of an accepted command: a future of it.
///
/// Dropping a ticket does not withdraw its command: it runs all the same, and its result is
/// dropped (G6, G8).
///
/// ```
/// # use shardpool::{Command, Context, Failure, ShardPool, executors::Threads, handler_fn};
/// # struct Add(u32);
/// # impl Command for Add { type AggregateId = u32; fn aggregate_id(&self) -> &u32 { &self.0 } }
/// # let pool = ShardPool::builder(handler_fn(|n: &mut u32, add: Add, _: &Context| {
/// #     *n += add.0;
/// #     Ok::<_, Failure<()>>(*n)
/// # })).start(Threads::new()).unwrap();
/// # futures::executor::block_on(async {
/// let ticket = pool.submit(Add(3)).await.unwrap();
/// // ... other work ...
/// assert_eq!(ticket.await.unwrap().output, 3);
/// # });
/// ```
///
/// # Cancel safety
///
/// A ticket is the future itself: `(&mut ticket).await` can be dropped and awaited again, nothing
/// is lost.
///
/// # Errors
///
/// The outcome, when it is not a commit; or [`CommandError::Deadlock`] inside a handler, when the
/// wait could never end (G9). That is not the outcome: the ticket can be awaited again elsewhere.
///
/// # Panics
///
/// If it is polled again after it gave the outcome, other than that of a withdrawal.
#[must_use = "a ticket that is dropped loses the outcome, though the command runs all the same"]
pub struct Ticket<C: Command, O: Send, E: Send> {
    pub(crate) inner: Waiter<TypesOf<C, O, E>>,
}

/// The caller side of an accepted command.
pub(crate) struct Waiter<T: Types> {
    // First: the published wait holds the cell as well, which is to be recycled.
    watch: Watch,
    cell: Held<T>,
}

impl<T: Types> Waiter<T> {
    pub(crate) fn new(cell: Held<T>, watch: Watch) -> Self {
        Self { watch, cell }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Outcome<T::Output, T::Error>> {
        poll_outcome(&self.cell, &mut self.watch, cx)
    }
}

/// Polls for the outcome of an accepted command; inside a handler, also for whether it can come.
#[inline]
pub(crate) fn poll_outcome<T: Types>(
    cell: &Held<T>,
    watch: &mut Watch,
    cx: &mut Context<'_>,
) -> Poll<Outcome<T::Output, T::Error>> {
    if let Poll::Ready(outcome) = cell.poll_outcome(cx) {
        watch.take_off();
        return Poll::Ready(outcome);
    }
    let is_stuck = watch.is_stuck(cx, |origin| match origin {
        Some(origin) => Some(origin.target(Some(cell.probe()))),
        None => Target::of_ticket(cell.front_ptr(), cell.probe()),
    });
    if is_stuck { Poll::Ready(Err(CommandError::Deadlock)) } else { Poll::Pending }
}

impl<C: Command, O: Send, E: Send> Ticket<C, O, E> {
    /// Takes the command back before it starts: it never runs, consumes no version, and its room
    /// is free at once (G8).
    ///
    /// True if this call did it; then the ticket gives [`CommandError::Cancelled`]. False if the
    /// command had started, ended or been withdrawn before. If its handler runs, the handler's
    /// [`is_cancelled`](crate::Context::is_cancelled) tells it from here on.
    ///
    /// "At once" has one limit: at most `queue_depth` withdrawn commands can sit in the shard's
    /// queues with their room given back; the room of more is free as soon as dispatcher and workers,
    /// woken by this, have swept them out. A handler that blocks its thread delays that for its own turn.
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
    /// use shardpool::CommandError;
    ///
    /// let running = pool.blocking_submit(Add("a", 1)).unwrap();
    /// let queued = pool.blocking_submit(Add("a", 2)).unwrap();
    /// started.recv().unwrap();
    /// assert!(!running.withdraw()); // too late
    /// assert!(queued.withdraw());
    /// assert_eq!(queued.blocking_wait().unwrap_err(), CommandError::Cancelled);
    /// # drop(open);
    /// assert_eq!(running.blocking_wait().unwrap().version, 1);
    /// ```
    pub fn withdraw(&self) -> bool {
        self.inner.cell.withdraw()
    }

    /// Whether the outcome is there, so that awaiting the ticket would not wait.
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
    /// let ticket = pool.blocking_submit(Add("a", 1)).unwrap();
    /// assert!(!ticket.is_finished()); // the handler still waits for something
    /// # drop(open);
    /// pool.drain().blocking_wait().unwrap();
    /// assert!(ticket.is_finished());
    /// ```
    pub fn is_finished(&self) -> bool {
        self.inner.cell.is_done()
    }

    /// Blocks the thread until the outcome is there.
    ///
    /// Not for async code: it holds up its executor. Inside a handler it is refused with
    /// [`CommandError::Deadlock`] when the wait could never end, or would block the executor's last
    /// thread (G9), which on tokio is always so.
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
    /// let ticket = pool.blocking_submit(Add("a", 0)).unwrap();
    /// let error = ticket.blocking_wait().unwrap_err(); // this handler rejects a zero
    /// assert_eq!(error.into_error(), Some("nothing to add"));
    /// ```
    ///
    /// # Errors
    ///
    /// The outcome, when it is not a commit; or `Deadlock`, which is not an outcome: the command
    /// stays accepted, and as the ticket is gone, nobody is told what becomes of it.
    ///
    /// # Panics
    ///
    /// If the ticket has been awaited to its end before, unless by a withdrawal.
    pub fn blocking_wait(mut self) -> Result<crate::Receipt<O>, CommandError<E>> {
        if !self.is_finished() {
            let Some(_blocked) = reentry::may_block() else { return Err(CommandError::Deadlock) };
            return block_on(self);
        }
        block_on(&mut self)
    }
}

impl<C: Command, O: Send, E: Send> Future for Ticket<C, O, E> {
    type Output = Result<crate::Receipt<O>, CommandError<E>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.inner.poll(cx)
    }
}

impl<C: Command, O: Send, E: Send> Unpin for Ticket<C, O, E> {}

// As for a pool's handle.
impl<C: Command, O: Send, E: Send> UnwindSafe for Ticket<C, O, E> {}
impl<C: Command, O: Send, E: Send> RefUnwindSafe for Ticket<C, O, E> {}

impl<C: Command, O: Send, E: Send> fmt::Debug for Ticket<C, O, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket").field("is_finished", &self.inner.cell.is_done()).finish()
    }
}
