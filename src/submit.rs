//! How a command gets into a shard: at once, after a wait for room, or not at all.

use crate::command::{Command, Receipt};
use crate::entering::{Entering, WaitsFor, accept};
use crate::error::{SendError, SubmitError, TrySubmitError};
use crate::park::block_on;
use crate::pool::Inner;
use crate::reentry;
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
/// assert_eq!(shard.within(Duration::from_secs(5)).blocking_send(Add(7)).unwrap().version, 1);
///
/// let other = pool.shard((home + 1) % 4).unwrap();
/// assert!(matches!(other.try_submit(Add(7)), Err(TrySubmitError::WrongShard { .. })));
/// ```
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

impl<'p, C: Command, O: Send + 'static, E: Send + 'static> Submitter<'p, C, O, E> {
    /// Gives each command a deadline, so long after the call that submits it.
    ///
    /// The deadline covers the wait for room and the wait for the command's turn. It is looked at
    /// when room is granted and when the turn comes, by the executor's clock; there is no timer, so
    /// a command whose turn does not come is not told (G8). A command that has started is not
    /// stopped by it.
    pub fn within(mut self, time: Duration) -> Self {
        self.time = Some(time);
        self
    }

    /// As [`ShardPool::send`](crate::ShardPool::send).
    pub fn send(self, command: C) -> Sending<'p, C, O, E> {
        Sending { entering: Entering::new(self.pool, self.shard, self.time, command), waiter: None }
    }

    /// As [`ShardPool::submit`](crate::ShardPool::submit).
    pub fn submit(self, command: C) -> Submission<'p, C, O, E> {
        Submission { entering: Entering::new(self.pool, self.shard, self.time, command) }
    }

    /// As [`ShardPool::try_submit`](crate::ShardPool::try_submit).
    ///
    /// # Errors
    ///
    /// The command was not accepted, and comes back.
    pub fn try_submit(self, command: C) -> Result<Ticket<C, O, E>, TrySubmitError<C>> {
        let route = self.pool.route(self.shard, command)?;
        let deadline = self.pool.deadline(self.time);
        if self.pool.has_passed(deadline) {
            return Err(TrySubmitError::Expired(route.command));
        }
        let shard = self.pool.shard(route.shard);
        match shard.front.try_enter() {
            Entry::Accepted => {
                let (cell, origin) = accept(shard, route, deadline);
                Ok(Ticket { inner: Waiter::new(cell, origin, None) })
            }
            Entry::Full => Err(TrySubmitError::Full(route.command)),
            Entry::Closed => Err(TrySubmitError::Closed(route.command)),
        }
    }

    /// As [`ShardPool::blocking_send`](crate::ShardPool::blocking_send).
    ///
    /// # Errors
    ///
    /// The command was not accepted, and comes back; or it did not commit.
    pub fn blocking_send(self, command: C) -> Result<Receipt<O>, SendError<C, E>> {
        let Some(_blocked) = reentry::may_block() else {
            return Err(SendError::NotAccepted(SubmitError::Deadlock(command)));
        };
        block_on(self.send(command))
    }

    /// As [`ShardPool::blocking_submit`](crate::ShardPool::blocking_submit).
    ///
    /// # Errors
    ///
    /// The command was not accepted, and comes back.
    pub fn blocking_submit(self, command: C) -> Result<Ticket<C, O, E>, SubmitError<C>> {
        let Some(_blocked) = reentry::may_block() else {
            // Without the wait there is no danger.
            return self.try_submit(command).map_err(|error| match error {
                TrySubmitError::Full(command) => SubmitError::Deadlock(command),
                TrySubmitError::Closed(command) => SubmitError::Closed(command),
                TrySubmitError::Expired(command) => SubmitError::Expired(command),
                TrySubmitError::WrongShard { command, shard, owner } => {
                    SubmitError::WrongShard { command, shard, owner }
                }
                TrySubmitError::Panicked { command, message } => {
                    SubmitError::Panicked { command, message }
                }
            });
        };
        block_on(self.submit(command))
    }
}

/// The future of [`submit`](crate::ShardPool::submit).
///
/// # Cancel safety
///
/// Nothing happens before the first poll. Dropped before it is ready, the command is not accepted;
/// unless room was granted and the future not yet polled since: then the command is accepted and
/// runs, and its outcome is dropped (G8).
///
/// # Panics
///
/// If it is polled again after it was ready.
#[must_use = "futures do nothing unless they are polled"]
pub struct Submission<'p, C: Command, O: Send, E: Send> {
    entering: Entering<'p, TypesOf<C, O, E>>,
}

impl<C: Command, O: Send + 'static, E: Send + 'static> Future for Submission<'_, C, O, E> {
    type Output = Result<Ticket<C, O, E>, SubmitError<C>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let entering = &mut self.entering;
        entering.poll(cx, WaitsFor::Room).map_ok(|cell| {
            let (origin, _) = entering.take_origin();
            Ticket { inner: Waiter::new(cell, origin, None) }
        })
    }
}

/// The future of [`send`](crate::ShardPool::send).
///
/// # Cancel safety
///
/// Nothing happens before the first poll. Dropped while it waits for room, the command is not
/// accepted. Dropped after acceptance, the command runs all the same, and its outcome is dropped
/// (G8). To know which, use [`submit`](crate::ShardPool::submit).
///
/// # Panics
///
/// If it is polled again after it was ready.
#[must_use = "futures do nothing unless they are polled"]
pub struct Sending<'p, C: Command, O: Send, E: Send> {
    entering: Entering<'p, TypesOf<C, O, E>>,
    waiter: Option<Waiter<TypesOf<C, O, E>>>,
}

impl<C: Command, O: Send + 'static, E: Send + 'static> Future for Sending<'_, C, O, E> {
    type Output = Result<Receipt<O>, SendError<C, E>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let waiter = match &mut this.waiter {
            Some(waiter) => waiter,
            None => match this.entering.poll(cx, WaitsFor::Outcome) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(SendError::NotAccepted(error))),
                Poll::Ready(Ok(cell)) => {
                    let (origin, guard) = this.entering.take_origin();
                    this.waiter.insert(Waiter::new(cell, origin, guard))
                }
            },
        };
        waiter.poll(cx).map_err(SendError::Command)
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
