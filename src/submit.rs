//! How a command gets into a shard: at once, after a wait for room, or not at all.

use crate::cell::{Cell, Refused, release};
use crate::command::{Command, Receipt};
use crate::contain::{Panic, contain};
use crate::error::{SendError, SubmitError, TrySubmitError};
use crate::park::block_on;
use crate::pool::Inner;
use crate::reentry::{self, Guard, Target, Verdict};
use crate::shard::Shard;
use crate::shard::front::Entry;
use crate::sync::Arc;
use crate::ticket::{Ticket, Waiter};
use crate::types::{Types, TypesOf};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

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
                let origin =
                    Waiter::<TypesOf<C, O, E>>::origin(&shard.front, route.command.aggregate_id());
                let cell = accept(shard, route, deadline);
                Ok(Ticket { inner: Waiter::new(cell).with_origin(origin) })
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

/// A command, and where it is to go.
pub(crate) struct Route<C> {
    command: C,
    hash: u64,
    shard: usize,
}

impl<T: Types> Inner<T> {
    /// Finds the shard of a command. Calls the id's `Hash`, which may panic.
    fn route(
        &self,
        wanted: Option<usize>,
        command: T::Command,
    ) -> Result<Route<T::Command>, SubmitError<T::Command>> {
        let hash = match contain(|| self.router.hash(command.aggregate_id())) {
            Ok(hash) => hash,
            Err(Panic(message)) => return Err(SubmitError::Panicked { command, message }),
        };
        let shard = self.router.shard(hash);
        match wanted {
            Some(wanted) if wanted != shard => {
                Err(SubmitError::WrongShard { command, shard: wanted, owner: shard })
            }
            _ => Ok(Route { command, hash, shard }),
        }
    }

    fn deadline(&self, time: Option<Duration>) -> Option<Instant> {
        // A time too long for the clock is none at all.
        time.and_then(|time| self.clock.now().checked_add(time))
    }

    fn has_passed(&self, deadline: Option<Instant>) -> bool {
        deadline.is_some_and(|deadline| self.clock.now() >= deadline)
    }
}

/// Hands an accepted command over to its shard.
fn accept<T: Types + 'static>(
    shard: &Shard<T>,
    route: Route<T::Command>,
    deadline: Option<Instant>,
) -> Arc<Cell<T>> {
    let (cell, envelope) = Cell::accepted(route.command, route.hash, deadline, &shard.front);
    shard.push_accepted(envelope);
    cell
}

/// A submission on its way to being accepted.
struct Entering<'p, T: Types> {
    pool: &'p Inner<T>,
    wanted: Option<usize>,
    deadline: Option<Instant>,
    step: Step<T>,
    guard: Option<Guard>,
    origin: Option<(Arc<crate::shard::front::Front>, Arc<dyn reentry::Key>)>,
}

/// An accepted command's cell, or why it was not accepted.
type Entered<T> = Result<Arc<Cell<T>>, SubmitError<<T as Types>::Command>>;

enum Step<T: Types> {
    /// Not polled yet: nothing has happened.
    New(T::Command),
    /// In the lobby.
    Waiting { cell: Arc<Cell<T>>, shard: usize },
    /// Accepted or refused.
    Over,
}

/// What a submission inside a handler waits for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum WaitsFor {
    Room,
    Outcome,
}

impl<'p, T: Types + 'static> Entering<'p, T> {
    fn new(
        pool: &'p Inner<T>,
        wanted: Option<usize>,
        time: Option<Duration>,
        command: T::Command,
    ) -> Self {
        Self {
            pool,
            wanted,
            deadline: pool.deadline(time),
            step: Step::New(command),
            guard: None,
            origin: None,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>, waits_for: WaitsFor) -> Poll<Entered<T>> {
        match std::mem::replace(&mut self.step, Step::Over) {
            Step::New(command) => match self.enter(command, waits_for) {
                Ok(Some(cell)) => return Poll::Ready(Ok(cell)),
                Ok(None) => {}
                Err(error) => return Poll::Ready(Err(error)),
            },
            waiting @ Step::Waiting { .. } => self.step = waiting,
            Step::Over => panic!("submission polled after it was ready"),
        }
        let Step::Waiting { cell, .. } = &self.step else { unreachable!("entered or waiting") };
        match cell.poll_granted(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(granted) => {
                let Step::Waiting { cell, .. } = std::mem::replace(&mut self.step, Step::Over)
                else {
                    unreachable!("it was waiting a moment ago")
                };
                Poll::Ready(match granted {
                    Ok(()) => Ok(cell),
                    Err(refused) => {
                        release(cell);
                        Err(match refused {
                            Refused::Closed(command) => SubmitError::Closed(command),
                            Refused::Expired(command) => SubmitError::Expired(command),
                        })
                    }
                })
            }
        }
    }

    /// The first poll: accepted with a cell, or in the lobby.
    fn enter(
        &mut self,
        command: T::Command,
        waits_for: WaitsFor,
    ) -> Result<Option<Arc<Cell<T>>>, SubmitError<T::Command>> {
        let route = self.pool.route(self.wanted, command)?;
        if self.pool.has_passed(self.deadline) {
            return Err(SubmitError::Expired(route.command));
        }
        let shard = self.pool.shard(route.shard);
        let front = &shard.front;
        self.origin = Waiter::<T>::origin(front, route.command.aggregate_id());
        if front.is_closed() {
            return Err(SubmitError::Closed(route.command));
        }
        if let Some((front, id)) = &self.origin
            && waits_for == WaitsFor::Outcome
        {
            let (front, id) = (Arc::clone(front), Some(Arc::clone(id)));
            if reentry::watch(&mut self.guard, || Some(Target::Command { front, id, cell: None }))
                == Verdict::Stuck
            {
                return Err(SubmitError::Deadlock(route.command));
            }
        }
        let mut entry = front.try_enter();
        if entry == Entry::Full {
            if self.origin.is_some() && waits_for == WaitsFor::Room {
                let room = || Some(Target::Room { front: Arc::clone(front), cell: None });
                if reentry::watch(&mut self.guard, room) == Verdict::Stuck {
                    return Err(SubmitError::Deadlock(route.command));
                }
            }
            entry = front.enter_or_wait();
        }
        let cell = match entry {
            Entry::Closed => return Err(SubmitError::Closed(route.command)),
            Entry::Accepted => {
                let cell = accept(shard, route, self.deadline);
                self.refine(waits_for, &cell);
                return Ok(Some(cell));
            }
            Entry::Full => {
                let (cell, envelope) =
                    Cell::waiting(route.command, route.hash, self.deadline, front);
                shard.push_waiting(envelope);
                cell
            }
        };
        self.refine(waits_for, &cell);
        self.step = Step::Waiting { cell, shard: route.shard };
        Ok(None)
    }

    /// Tells the published wait which cell to look at.
    fn refine(&self, waits_for: WaitsFor, cell: &Arc<Cell<T>>) {
        let (Some(guard), Some((front, id))) = (&self.guard, &self.origin) else { return };
        let (front, cell) = (Arc::clone(front), Some(cell.clone() as Arc<_>));
        guard.refine(&match waits_for {
            WaitsFor::Room => Target::Room { front, cell },
            WaitsFor::Outcome => Target::Command { front, id: Some(Arc::clone(id)), cell },
        });
    }
}

impl<T: Types> Drop for Entering<'_, T> {
    fn drop(&mut self) {
        if let Step::Waiting { cell, shard } = std::mem::replace(&mut self.step, Step::Over) {
            if cell.abandon() {
                self.pool.shard(shard).front.stop_waiting();
            }
            release(cell);
        }
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
            entering.guard = None;
            Ticket { inner: Waiter::new(cell).with_origin(entering.origin.take()) }
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
                Poll::Ready(Ok(cell)) => this.waiter.insert(
                    Waiter::new(cell)
                        .with_origin(this.entering.origin.take())
                        .with_guard(this.entering.guard.take()),
                ),
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
