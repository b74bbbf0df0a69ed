//! A submission on its way into a shard: routed, then accepted, refused, or waiting for room.

use crate::cell::{Cell, Probe, Refused, release};
use crate::command::Command;
use crate::contain::{Panic, contain};
use crate::error::SubmitError;
use crate::pool::Inner;
use crate::reentry::{self, Guard, Key, Origin, Target, Verdict};
use crate::shard::Shard;
use crate::shard::front::{Entry, Front};
use crate::sync::Arc;
use crate::types::Types;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// A command, and where it is to go.
pub(crate) struct Route<C> {
    pub(crate) command: C,
    pub(crate) shard: usize,
    hash: u64,
    /// The aggregate, if this is inside a handler: the command is about to be moved away.
    id: Option<Arc<dyn Key>>,
}

impl<T: Types> Inner<T> {
    /// Finds the shard of a command. Calls the id's `Hash`, and inside a handler its `Clone`, which
    /// may panic.
    pub(crate) fn route(
        &self,
        wanted: Option<usize>,
        command: T::Command,
    ) -> Result<Route<T::Command>, SubmitError<T::Command>> {
        let asked = contain(|| {
            let id = command.aggregate_id();
            (self.router.hash(id), reentry::in_handler().then(|| Key::to_shared(id)))
        });
        let (hash, id) = match asked {
            Ok(asked) => asked,
            Err(Panic(message)) => return Err(SubmitError::Panicked { command, message }),
        };
        let shard = self.router.shard(hash);
        match wanted {
            Some(wanted) if wanted != shard => {
                Err(SubmitError::WrongShard { command, shard: wanted, owner: shard })
            }
            _ => Ok(Route { command, shard, hash, id }),
        }
    }

    pub(crate) fn deadline(&self, time: Option<Duration>) -> Option<Instant> {
        // A time too long for the clock is none at all.
        time.and_then(|time| self.clock.now().checked_add(time))
    }
}

/// Hands an accepted command over to its shard.
pub(crate) fn accept<T: Types + 'static>(
    shard: &Shard<T>,
    route: Route<T::Command>,
    deadline: Option<Instant>,
) -> (Arc<Cell<T>>, Option<Origin>) {
    let origin = route.id.map(|id| Origin::new(&shard.front, id));
    let (cell, envelope) = Cell::accepted(route.command, route.hash, deadline, &shard.front);
    shard.push_accepted(envelope);
    (cell, origin)
}

/// What a submission waits for, as far as a handler that makes it is concerned.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum WaitsFor {
    Room,
    Outcome,
}

/// An accepted command's cell, or why it was not accepted.
pub(crate) type Entered<T> = Result<Arc<Cell<T>>, SubmitError<<T as Types>::Command>>;

/// The state of a submission.
pub(crate) struct Entering<'p, T: Types> {
    pool: &'p Inner<T>,
    wanted: Option<usize>,
    deadline: Option<Instant>,
    step: Step<T>,
    origin: Option<Origin>,
    guard: Option<Guard>,
}

enum Step<T: Types> {
    /// Not polled yet: nothing has happened.
    New(T::Command),
    /// In the lobby.
    Waiting { cell: Arc<Cell<T>>, shard: usize },
    /// Accepted or refused.
    Over,
}

impl<'p, T: Types + 'static> Entering<'p, T> {
    pub(crate) fn new(
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
            origin: None,
            guard: None,
        }
    }

    /// What a wait for the accepted command goes on with.
    pub(crate) fn take_origin(&mut self) -> (Option<Origin>, Option<Guard>) {
        (self.origin.take(), self.guard.take())
    }

    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, waits_for: WaitsFor) -> Poll<Entered<T>> {
        match std::mem::replace(&mut self.step, Step::Over) {
            Step::New(command) => match self.enter(command, waits_for) {
                Ok(Some(cell)) => return Poll::Ready(Ok(cell)),
                Ok(None) => {}
                Err(error) => {
                    self.guard = None;
                    return Poll::Ready(Err(error));
                }
            },
            waiting @ Step::Waiting { .. } => self.step = waiting,
            Step::Over => panic!("submission polled after it was ready"),
        }
        let Step::Waiting { cell, shard } = &self.step else { unreachable!("entered or waiting") };
        let granted = match cell.poll_granted(cx) {
            Poll::Ready(granted) => granted,
            Poll::Pending => {
                let front = &self.pool.shard(*shard).front;
                let origin = &self.origin;
                let target = || Some(target(front, origin, waits_for, Some(cell.clone())));
                if reentry::watch(&mut self.guard, target) == Verdict::Stuck {
                    // Judged by the handler that polls it now. The command is the queue side's:
                    // the dispatcher must give it back.
                    cell.deny();
                    front.ask_for_review();
                }
                return Poll::Pending;
            }
        };
        let Step::Waiting { cell, .. } = std::mem::replace(&mut self.step, Step::Over) else {
            unreachable!("it was waiting a moment ago")
        };
        Poll::Ready(match granted {
            Ok(()) => Ok(cell),
            Err(refused) => {
                self.guard = None;
                release(cell);
                Err(match refused {
                    Refused::Closed(command) => SubmitError::Closed(command),
                    Refused::Expired(command) => SubmitError::Expired(command),
                    Refused::Deadlock(command) => SubmitError::Deadlock(command),
                })
            }
        })
    }

    /// The first poll: accepted with a cell, or in the lobby.
    fn enter(
        &mut self,
        command: T::Command,
        waits_for: WaitsFor,
    ) -> Result<Option<Arc<Cell<T>>>, SubmitError<T::Command>> {
        let mut route = self.pool.route(self.wanted, command)?;
        if self.pool.clock.has_passed(self.deadline) {
            return Err(SubmitError::Expired(route.command));
        }
        let shard = self.pool.shard(route.shard);
        let front = &shard.front;
        if front.is_closed() {
            return Err(SubmitError::Closed(route.command));
        }
        self.origin = route.id.take().map(|id| Origin::new(front, id));
        if waits_for == WaitsFor::Outcome && self.is_stuck(front, waits_for) {
            return Err(SubmitError::Deadlock(route.command));
        }
        let mut entry = front.try_enter();
        if entry == Entry::Full {
            if waits_for == WaitsFor::Room && self.is_stuck(front, waits_for) {
                return Err(SubmitError::Deadlock(route.command));
            }
            entry = front.enter_or_wait();
        }
        match entry {
            Entry::Closed => Err(SubmitError::Closed(route.command)),
            Entry::Accepted => {
                let (cell, _) = accept(shard, route, self.deadline);
                self.refine(front, waits_for, &cell);
                Ok(Some(cell))
            }
            Entry::Full => {
                let (cell, envelope) =
                    Cell::waiting(route.command, route.hash, self.deadline, front);
                // Before the push: a dispatcher that finds no room will ever come looks for it.
                self.refine(front, waits_for, &cell);
                shard.push_waiting(envelope);
                self.step = Step::Waiting { cell, shard: route.shard };
                Ok(None)
            }
        }
    }

    /// Whether this is inside a handler that would wait for ever.
    fn is_stuck(&mut self, front: &Arc<Front>, waits_for: WaitsFor) -> bool {
        let origin = &self.origin;
        let target = || Some(target(front, origin, waits_for, None));
        origin.is_some() && reentry::watch(&mut self.guard, target) == Verdict::Stuck
    }

    /// Tells the published wait which cell to look at.
    fn refine(&self, front: &Arc<Front>, waits_for: WaitsFor, cell: &Arc<Cell<T>>) {
        if let Some(guard) = &self.guard {
            guard.refine(&target(front, &self.origin, waits_for, Some(cell.clone())));
        }
    }
}

/// What a handler waits for that polls this. A submission that was first polled elsewhere does not
/// know its aggregate; until it is accepted it waits for room at least.
fn target(
    front: &Arc<Front>,
    origin: &Option<Origin>,
    waits_for: WaitsFor,
    cell: Option<Arc<dyn Probe>>,
) -> Target {
    match (origin, waits_for) {
        (Some(origin), WaitsFor::Outcome) => origin.target(cell),
        _ => Target::Room { front: Arc::clone(front), cell },
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
