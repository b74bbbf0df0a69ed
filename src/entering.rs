//! A submission on its way into a shard: routed, then accepted, refused, or waiting for room.

use crate::cell::{Draft, Held, Probed, Refused};
use crate::command::{Command, Receipt};
use crate::contain::{Panic, contain};
use crate::error::{SendError, SubmitError, TrySubmitError};
use crate::pool::Inner;
use crate::reentry::{self, Origin, Target, Watch};
use crate::shard::Shard;
use crate::shard::front::{Entry, Front};
use crate::sync::Arc;
use crate::ticket::{Waiter, poll_outcome};
use crate::types::Types;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

/// A command, and where it is to go.
pub(crate) struct Route<C> {
    pub(crate) command: C,
    pub(crate) shard: usize,
    hash: u64,
}

impl<T: Types> Inner<T> {
    /// Finds the shard of a command that is not late. Calls the id's `Hash`, which may panic.
    #[inline]
    pub(crate) fn route(
        &self,
        wanted: Option<usize>,
        deadline: Option<Instant>,
        command: T::Command,
    ) -> Result<Route<T::Command>, TrySubmitError<T::Command>> {
        let hash = match contain(|| self.router.hash(command.aggregate_id())) {
            Ok(hash) => hash,
            Err(Panic(message)) => return Err(TrySubmitError::Panicked { command, message }),
        };
        let shard = self.router.shard(hash);
        match wanted {
            Some(wanted) if wanted != shard => {
                Err(TrySubmitError::WrongShard { command, shard: wanted, owner: shard })
            }
            _ if self.clock.has_passed(deadline) => Err(TrySubmitError::Expired(command)),
            _ => Ok(Route { command, shard, hash }),
        }
    }

    #[inline]
    pub(crate) fn deadline(&self, time: Option<Duration>) -> Option<Instant> {
        // A time too long for the clock is none at all.
        time.and_then(|time| self.clock.now().checked_add(time))
    }
}

/// What refused a command at once, as the error of a submission that would wait, but must not.
pub(crate) fn without_waiting<C>(error: TrySubmitError<C>) -> SubmitError<C> {
    match error {
        TrySubmitError::Full(command) => SubmitError::Deadlock(command),
        TrySubmitError::Closed(command) => SubmitError::Closed(command),
        TrySubmitError::Expired(command) => SubmitError::Expired(command),
        TrySubmitError::WrongShard { command, shard, owner } => {
            SubmitError::WrongShard { command, shard, owner }
        }
        TrySubmitError::Panicked { command, message } => SubmitError::Panicked { command, message },
    }
}

/// Hands an accepted command over to its shard.
#[inline]
pub(crate) fn accept<T: Types>(
    shard: &Shard<T>,
    route: Route<T::Command>,
    deadline: Option<Instant>,
) -> Held<T> {
    push(shard, route.hash, Draft::new(route.command, deadline, &shard.front))
}

#[inline]
fn push<T: Types>(shard: &Shard<T>, hash: u64, draft: Draft<T>) -> Held<T> {
    let (cell, envelope) = draft.accepted();
    shard.push_accepted(hash, envelope);
    cell
}

/// What a submission waits for, as far as a handler that makes it is concerned.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum WaitsFor {
    Room,
    Outcome,
}

/// What becomes of a command that is sent.
type SentOutcome<T> =
    Result<Receipt<<T as Types>::Output>, SendError<<T as Types>::Command, <T as Types>::Error>>;

/// The state of a submission. Three fields instead of one enumeration: that would be moved as a whole
/// right after it was stored in pieces, which the processor waits for.
pub(crate) struct Entering<'p, T: Types> {
    pool: &'p Inner<T>,
    wanted: Option<usize>,
    deadline: Option<Instant>,
    /// Until the first poll: nothing has happened.
    command: Option<T::Command>,
    /// Then, until it is refused or what was accepted is taken.
    cell: Option<Held<T>>,
    /// The shard in whose lobby the cell is; if `None`, it is accepted.
    waits_at: Option<usize>,
    watch: Watch,
}

impl<'p, T: Types> Entering<'p, T> {
    #[inline]
    pub(crate) fn new(
        pool: &'p Inner<T>,
        wanted: Option<usize>,
        time: Option<Duration>,
        command: T::Command,
    ) -> Self {
        let deadline = pool.deadline(time);
        let command = Some(command);
        Self {
            pool,
            wanted,
            deadline,
            command,
            cell: None,
            waits_at: None,
            watch: Watch::default(),
        }
    }

    /// Polls until the command is accepted, and gives the claim to its outcome.
    pub(crate) fn poll_ticket(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Waiter<T>, SubmitError<T::Command>>> {
        ready!(self.poll_accepted(cx, WaitsFor::Room))?;
        let cell = self.cell.take().expect("a submission that was accepted has its cell");
        self.watch.take_off();
        Poll::Ready(Ok(Waiter::new(cell, std::mem::take(&mut self.watch))))
    }

    /// Polls until the command has ended.
    #[inline]
    pub(crate) fn poll_outcome(&mut self, cx: &mut Context<'_>) -> Poll<SentOutcome<T>> {
        ready!(self.poll_accepted(cx, WaitsFor::Outcome)).map_err(SendError::NotAccepted)?;
        let cell = self.cell.as_ref().expect("a submission that was accepted has its cell");
        let outcome = ready!(poll_outcome(cell, &mut self.watch, cx));
        self.cell = None;
        Poll::Ready(outcome.map_err(SendError::Command))
    }

    #[inline]
    fn poll_accepted(
        &mut self,
        cx: &mut Context<'_>,
        waits_for: WaitsFor,
    ) -> Poll<Result<(), SubmitError<T::Command>>> {
        if let Some(command) = self.command.take() {
            if let Err(error) = self.enter(command, cx, waits_for) {
                self.watch.take_off();
                return Poll::Ready(Err(error));
            }
        } else if self.cell.is_none() {
            panic!("submission polled after it was ready");
        }
        match self.waits_at {
            None => Poll::Ready(Ok(())),
            Some(shard) => self.poll_waiting(shard, cx, waits_for),
        }
    }

    #[cold]
    fn poll_waiting(
        &mut self,
        shard: usize,
        cx: &mut Context<'_>,
        waits_for: WaitsFor,
    ) -> Poll<Result<(), SubmitError<T::Command>>> {
        let cell = self.cell.as_ref().expect("a submission that waits has its cell");
        let granted = match cell.poll_granted(cx) {
            Poll::Ready(granted) => granted,
            Poll::Pending => {
                let front = &self.pool.shard(shard).front;
                let target = |origin: Option<&Origin>| {
                    Some(target(front, origin, waits_for, Some(cell.probe())))
                };
                if self.watch.is_stuck(cx, target) {
                    // Judged by the handler that polls it now. The command is the queue side's: the
                    // dispatcher must give it back.
                    cell.deny();
                    front.ask_for_review();
                }
                return Poll::Pending;
            }
        };
        self.waits_at = None;
        self.watch.granted();
        Poll::Ready(granted.map_err(|refused| {
            self.watch.take_off();
            self.cell = None;
            match refused {
                Refused::Closed(command) => SubmitError::Closed(command),
                Refused::Expired(command) => SubmitError::Expired(command),
                Refused::Deadlock(command) => SubmitError::Deadlock(command),
            }
        }))
    }

    /// The first poll: accepted, or in the lobby.
    #[inline]
    fn enter(
        &mut self,
        command: T::Command,
        cx: &mut Context<'_>,
        waits_for: WaitsFor,
    ) -> Result<(), SubmitError<T::Command>> {
        let route =
            self.pool.route(self.wanted, self.deadline, command).map_err(without_waiting)?;
        let shard = self.pool.shard(route.shard);
        if reentry::in_handler() {
            return self.enter_inside(shard, route, cx, waits_for);
        }
        let (at, hash) = (route.shard, route.hash);
        // The word comes while the cell is made: see `Draft`.
        shard.front.prefetch_word();
        let draft = Draft::new(route.command, self.deadline, &shard.front);
        match shard.front.enter_or_wait() {
            Entry::Closed => return Err(SubmitError::Closed(draft.into_command())),
            Entry::Accepted => self.cell = Some(push(shard, hash, draft)),
            Entry::Full => self.wait(at, hash, draft, waits_for),
        }
        Ok(())
    }

    /// As `enter`, inside a handler: a wait that could never end is refused.
    #[cold]
    fn enter_inside(
        &mut self,
        shard: &Shard<T>,
        route: Route<T::Command>,
        cx: &mut Context<'_>,
        waits_for: WaitsFor,
    ) -> Result<(), SubmitError<T::Command>> {
        let front = &shard.front;
        if front.is_closed() {
            return Err(SubmitError::Closed(route.command));
        }
        self.watch = match Watch::of(front, &route.command) {
            Ok(watch) => watch,
            Err(Panic(message)) => {
                return Err(SubmitError::Panicked { command: route.command, message });
            }
        };
        let target = |origin: Option<&Origin>| Some(target(front, origin, waits_for, None));
        if waits_for == WaitsFor::Outcome && self.watch.is_stuck(cx, target) {
            return Err(SubmitError::Deadlock(route.command));
        }
        let mut entry = front.try_enter();
        if entry == Entry::Full {
            if waits_for == WaitsFor::Room && self.watch.is_stuck(cx, target) {
                return Err(SubmitError::Deadlock(route.command));
            }
            entry = front.enter_or_wait();
        }
        match entry {
            Entry::Closed => return Err(SubmitError::Closed(route.command)),
            Entry::Accepted => {
                let (cell, envelope) = Draft::new(route.command, self.deadline, front).accepted();
                // Before the push: a wait without its cell counts as one, also when the command is over.
                self.refine(front, waits_for, &cell);
                shard.push_accepted(route.hash, envelope);
                self.cell = Some(cell);
            }
            Entry::Full => {
                let draft = Draft::new(route.command, self.deadline, front);
                self.wait(route.shard, route.hash, draft, waits_for);
            }
        }
        Ok(())
    }

    /// Goes to the lobby, with a place among those who wait.
    #[cold]
    fn wait(&mut self, at: usize, hash: u64, draft: Draft<T>, waits_for: WaitsFor) {
        let shard = self.pool.shard(at);
        let (cell, envelope) = draft.waiting();
        // Before the push: a dispatcher that finds no room will ever come looks for it.
        self.refine(&shard.front, waits_for, &cell);
        shard.push_waiting(hash, envelope);
        if waits_for == WaitsFor::Outcome {
            let target = |origin: Option<&Origin>| {
                target(&shard.front, origin, waits_for, Some(cell.probe()))
            };
            self.watch.came_to_a_lobby(target);
        }
        self.cell = Some(cell);
        self.waits_at = Some(at);
    }

    /// Tells the published wait which cell to look at.
    fn refine(&self, front: &Arc<Front>, waits_for: WaitsFor, cell: &Held<T>) {
        self.watch.refine(|origin| target(front, origin, waits_for, Some(cell.probe())));
    }
}

/// What a handler waits for that polls this. A submission that was first polled elsewhere does not
/// know its aggregate; until it is accepted it waits for room at least.
fn target(
    front: &Arc<Front>,
    origin: Option<&Origin>,
    waits_for: WaitsFor,
    cell: Option<Probed>,
) -> Target {
    match (origin, waits_for) {
        (Some(origin), WaitsFor::Outcome) => origin.target(cell),
        _ => Target::Room { front: Arc::clone(front), cell },
    }
}

impl<T: Types> Drop for Entering<'_, T> {
    #[inline]
    fn drop(&mut self) {
        if let Some(cell) = self.cell.take() {
            self.give_up(cell);
        }
    }
}

impl<T: Types> Entering<'_, T> {
    #[cold]
    fn give_up(&mut self, cell: Held<T>) {
        // The published wait first: it holds the cell as well, which is to be recycled.
        self.watch.take_off();
        if let Some(shard) = self.waits_at
            && cell.abandon()
        {
            self.pool.shard(shard).front.stop_waiting();
        }
    }
}
