//! The caller side of a cell: a ticket, or a submission that waits for room.
//!
//! Who may touch what, and when, is at the top of `mod.rs`.

use super::probe::Probe;
use super::{Cell, Outcome, Slot, Stage, state};
use crate::contain::contain;
use crate::error::CommandError;
use crate::sync::Ordering;
use crate::types::Types;
use std::mem::MaybeUninit;
use std::task::{Context, Poll};

impl<T: Types> Cell<T> {
    /// Polls for the outcome, and takes it. Only for the one caller, which has its ticket by `&mut`.
    ///
    /// # Panics
    ///
    /// If the outcome was taken before.
    #[inline]
    pub(crate) fn poll_outcome(&self, cx: &mut Context<'_>) -> Poll<Outcome<T::Output, T::Error>> {
        // Acquire, here and below: the slot was written before `DONE` was released.
        let mut now = self.state.load(Ordering::Acquire);
        if now & state::WATCHED != 0 {
            let same = self.waker.with(|waker| {
                // SAFETY: the flag is set, so there is a waker. Only this side ever writes one over it;
                // the queue side may be reading it out, which changes nothing here.
                unsafe { (*waker).assume_init_ref() }.will_wake(cx.waker())
            });
            if same {
                return Poll::Pending;
            }
            // AcqRel: the release keeps the comparison before whatever follows.
            now = self.state.fetch_and(!state::WATCHED, Ordering::AcqRel);
            if now & state::WATCHED != 0 {
                // SAFETY: this call has cleared the flag.
                drop(unsafe { self.take_waker() });
            }
        }
        if !is_over(now) {
            let new = MaybeUninit::new(cx.waker().clone());
            self.waker.with_mut(|waker| {
                // SAFETY: without the flag the waker is this side's.
                unsafe { waker.write(new) }
            });
            // Release: hands over the waker.
            now = self.state.fetch_or(state::WATCHED, Ordering::AcqRel);
            if !is_over(now) {
                return Poll::Pending;
            }
            // The outcome came first, and the queue side has seen no waker: nobody else looks at the
            // state any more.
            self.state.store(now, Ordering::Relaxed);
            // SAFETY: this call has set the flag and cleared it.
            drop(unsafe { self.take_waker() });
        }
        Poll::Ready(self.take_outcome(now))
    }

    /// Takes what is there when `is_over`.
    #[inline]
    fn take_outcome(&self, now: u8) -> Outcome<T::Output, T::Error> {
        match now {
            state::DONE => {
                self.state.store(state::TAKEN, Ordering::Relaxed);
                let slot = self.slot.with_mut(|slot| {
                    // SAFETY: after `DONE` the slot is the caller's, and there is one caller:
                    // the ticket, which polls through `&mut`.
                    unsafe { std::mem::replace(&mut *slot, Slot::Empty) }
                });
                slot.outcome()
            }
            state::TAKEN => panic!("ticket polled after it had given its outcome"),
            _ => Err(CommandError::Cancelled),
        }
    }

    /// Whether the outcome is there.
    pub(crate) fn is_done(&self) -> bool {
        matches!(self.stage(), Stage::Over)
    }

    /// Takes an accepted command back before it starts. True if this call did it.
    pub(crate) fn withdraw(&self) -> bool {
        let Ok(before) = self.exchange(state::QUEUED, state::WITHDRAWING, 0) else {
            // Too late to take it back; not too late to say so to its handler.
            let _ = self.exchange(state::CLAIMED, state::CLAIMED_ASKED, state::WATCHED);
            return false;
        };
        // SAFETY: this call has moved the state to `WITHDRAWING`, and `&self` holds the cell.
        let front = unsafe { self.front() };
        front.withdrawn(
            // AcqRel: the release orders what the front counted before the discarding side's
            // view of it; the acquire pairs with a discarding side that came first.
            |give_back| {
                let to = if give_back { state::WITHDRAWN } else { state::HELD };
                self.state
                    .compare_exchange(state::WITHDRAWING, to, Ordering::AcqRel, Ordering::Acquire)
                    .is_ok()
            },
        );
        if before & state::WATCHED != 0 {
            // Somebody else than the withdrawing task may be waiting on the ticket.
            // SAFETY: this call has cleared the flag.
            let waker = unsafe { self.take_waker() };
            let _ = contain(|| waker.wake());
        }
        true
    }

    /// Polls a waiting submission: `Ok` when accepted, or why not, with the command.
    pub(crate) fn poll_granted(
        &self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Refused<T::Command>>> {
        if let Some(result) = self.try_granted() {
            return Poll::Ready(result);
        }
        if let Some(lobby) = self.lobby() {
            lobby.register(cx.waker());
        }
        // Register, then look again: a decision before the registration is seen here, one after it
        // finds the waker. Both are read-modify-writes on the waker's own state, so one comes first,
        // and hands over what was written before it.
        match self.try_granted() {
            Some(result) => Poll::Ready(result),
            None => Poll::Pending,
        }
    }

    fn try_granted(&self) -> Option<Result<(), Refused<T::Command>>> {
        match self.state.load(Ordering::Acquire) {
            state::WAITING | state::GRANTING | state::DENIED => None,
            state::REFUSED_CLOSED => Some(Err(Refused::Closed(self.take_back()))),
            state::REFUSED_EXPIRED => Some(Err(Refused::Expired(self.take_back()))),
            state::REFUSED_DEADLOCK => Some(Err(Refused::Deadlock(self.take_back()))),
            _ => Some(Ok(())),
        }
    }

    pub(super) fn take_back(&self) -> T::Command {
        self.state.store(state::TAKEN, Ordering::Relaxed);
        let slot = self.slot.with_mut(|slot| {
            // SAFETY: of a draft, and after `REFUSED_*`, the slot is the caller's, and there is one
            // caller: the submission, which polls through `&mut`.
            unsafe { std::mem::replace(&mut *slot, Slot::Empty) }
        });
        match slot {
            Slot::Command(command) => command,
            _ => unreachable!("a cell that was not accepted holds its command"),
        }
    }

    /// Gives up a waiting submission. True if it was still waiting, and now is not accepted.
    pub(crate) fn abandon(&self) -> bool {
        let give_up = |from| {
            // AcqRel keeps the caller's later count of waiting submissions behind this. The command
            // stays the queue side's.
            self.state
                .compare_exchange(from, state::ABANDONED, Ordering::AcqRel, Ordering::Acquire)
                .is_ok()
        };
        let given_up = give_up(state::WAITING) || give_up(state::DENIED);
        if let (true, Some(lobby)) = (given_up, self.lobby()) {
            // The envelope may stay for a while.
            lobby.clear();
        }
        given_up
    }

    /// Asks the dispatcher to refuse a waiting submission and to give its command back.
    pub(crate) fn deny(&self) {
        // Relaxed: hands nothing over. If it fails, the submission waits no more.
        let _ = self.state.compare_exchange(
            state::WAITING,
            state::DENIED,
            Ordering::Relaxed,
            Ordering::Relaxed,
        );
    }
}

/// Whether a caller has nothing to wait for.
#[inline]
fn is_over(now: u8) -> bool {
    state::of(now) >= state::WITHDRAWING
}

/// Why a waiting submission was not accepted.
pub(crate) enum Refused<C> {
    Closed(C),
    Expired(C),
    Deadlock(C),
}

#[cfg(all(test, not(shardpool_loom)))]
mod tests {
    use super::*;
    use crate::cell::{Draft, Envelope, Held};
    use crate::command::tests::Touch;
    use crate::park::tests::{Woken, loath};
    use crate::shard::front::Front;
    use crate::sync::Arc;
    use crate::types::TypesOf;
    use std::task::Waker;

    type Touches = TypesOf<Touch, (), ()>;

    /// A submission that waits for room, and what tells whether its waker was called.
    fn waiting(front: &Arc<Front>) -> (Held<Touches>, Envelope<Touches>, Arc<Woken>) {
        let (cell, envelope) = Draft::new(Touch, None, front).waiting();
        (cell, envelope, Arc::default())
    }

    fn poll_granted(cell: &Held<Touches>, waker: &Waker) -> Poll<bool> {
        cell.poll_granted(&mut Context::from_waker(waker)).map(|granted| granted.is_ok())
    }

    #[test]
    fn g07_a_waker_that_panics_as_it_is_cloned_costs_a_wait_for_room_no_wake_up() {
        let front = Arc::new(Front::new(1, 1));
        let (cell, envelope, woken) = waiting(&front);
        contain(|| poll_granted(&cell, &loath())).unwrap_err();
        assert_eq!(poll_granted(&cell, &Waker::from(Arc::clone(&woken))), Poll::Pending);
        assert!(envelope.begin_grant());
        envelope.grant();
        assert!(woken.get());
        assert_eq!(poll_granted(&cell, Waker::noop()), Poll::Ready(true));
    }

    #[test]
    fn g17_a_wait_for_room_that_was_given_up_keeps_no_waker() {
        let front = Arc::new(Front::new(1, 1));
        let (cell, envelope, woken) = waiting(&front);
        assert_eq!(poll_granted(&cell, &Waker::from(Arc::clone(&woken))), Poll::Pending);
        assert!(cell.abandon());
        assert_eq!(Arc::strong_count(&woken), 1);
        drop((cell, envelope));
    }
}
