//! The queue side of a cell until its command is claimed: an envelope.
//!
//! Who may touch what, and when, is at the top of `mod.rs`.

use super::{Cell, Claimed, Held, Slot, state};
use crate::contain::drop_contained;
use crate::error::CommandError;
use crate::prefetch::prefetch;
use crate::shard::front::Front;
use crate::stats::Kind;
use crate::sync::{Arc, Ordering};
use crate::types::Types;
use std::mem::ManuallyDrop;
use std::ptr::NonNull;
use std::time::Instant;

/// Why a waiting submission is not accepted, for the queue side to say: the caller gets a [`Refused`](super::Refused).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    Closed,
    Expired,
    Deadlock,
}

/// The queue side of a cell that is waiting or accepted. Dropped, it ends its command as aborted
/// (or refuses it, when it was still waiting for room), so that no caller waits for an envelope that
/// is gone.
pub(crate) struct Envelope<T: Types>(
    /// Moved out by `into_cell`, or by the drop.
    ManuallyDrop<Held<T>>,
);

impl<T: Types> Envelope<T> {
    pub(super) fn new(cell: Held<T>) -> Self {
        Self(ManuallyDrop::new(cell))
    }

    fn cell(&self) -> &Held<T> {
        &self.0
    }

    pub(crate) fn command(&self) -> &T::Command {
        self.cell().slot.with(|slot| {
            // SAFETY: the slot is the queue side's, and this is the queue side; nothing writes
            // it while this borrow lives, since writing takes the envelope by value.
            match unsafe { &*slot } {
                Slot::Command(command) => command,
                _ => unreachable!("an envelope holds its command"),
            }
        })
    }

    /// Asks the processor for the cell.
    pub(crate) fn prefetch(&self) {
        prefetch(self.cell().address());
    }

    /// Tells one cell from another.
    pub(crate) fn address(&self) -> *const () {
        self.cell().address()
    }

    #[inline]
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.cell().extra()?.deadline
    }

    /// The dispatcher tells which lane the command is in.
    pub(crate) fn set_lane(&self, number: u64) {
        // Release: a handler that reads the number acts on a wait published before it.
        self.cell().lane.store(number, Ordering::Release);
    }

    pub(crate) fn is_withdrawn(&self) -> bool {
        matches!(
            self.cell().state.load(Ordering::Acquire),
            state::WITHDRAWING | state::WITHDRAWN | state::HELD
        )
    }

    pub(crate) fn is_abandoned(&self) -> bool {
        self.cell().state.load(Ordering::Acquire) == state::ABANDONED
    }

    /// Whether the waiting submission is to be refused, since its wait could never end.
    pub(crate) fn is_denied(&self) -> bool {
        self.cell().state.load(Ordering::Relaxed) == state::DENIED
    }

    /// The dispatcher begins to decide on a waiting submission; `false` if it was abandoned.
    pub(crate) fn begin_grant(&self) -> bool {
        let begin = |from| {
            self.cell()
                .state
                .compare_exchange(from, state::GRANTING, Ordering::AcqRel, Ordering::Acquire)
                .is_ok()
        };
        begin(state::WAITING) || begin(state::DENIED)
    }

    /// The waiting submission is accepted. Only between `begin_grant` and nothing else.
    pub(crate) fn grant(&self) {
        let cell = self.cell();
        cell.state.store(state::QUEUED, Ordering::Release);
        cell.wake_lobby();
    }

    /// The waiting submission is not accepted; its command is the caller's.
    pub(crate) fn refuse(self, refusal: Refusal) {
        let cell = self.into_cell();
        let to = match refusal {
            Refusal::Closed => state::REFUSED_CLOSED,
            Refusal::Expired => state::REFUSED_EXPIRED,
            Refusal::Deadlock => state::REFUSED_DEADLOCK,
        };
        // Release: hands the slot to the caller.
        cell.state.store(to, Ordering::Release);
        cell.wake_lobby();
    }

    /// Takes an accepted command out of the queue: it gives its room back to the shard's front, by the
    /// hand of this worker, and its outcome is owed. `None` for a withdrawn one, whose tombstone is gone
    /// with this.
    #[inline]
    pub(crate) fn claim(self, front: &Front, worker: usize) -> Option<Claimed<T>> {
        let cell = self.into_cell();
        debug_assert!(std::ptr::eq(cell.front, front), "an envelope in the hands of another shard");
        match cell.exchange(state::QUEUED, state::CLAIMED, state::WATCHED) {
            Ok(_) => {
                front.give_room_back(worker);
                Some(Claimed::new(cell))
            }
            Err(_) => {
                bury(cell);
                None
            }
        }
    }

    /// Ends a command that has not started.
    pub(crate) fn end_unstarted(self, error: CommandError<T::Error>, kind: Kind) {
        // SAFETY: this is the queue side, whose owner is on the stack below: it owns an `Arc<Front>`,
        // which outlives the envelope.
        let front = unsafe { &*self.cell().front };
        if let Some(claimed) = self.claim(front, 0) {
            claimed.end_unstarted(error, kind);
        }
    }

    /// Ends a command as aborted, unless it was withdrawn.
    pub(crate) fn discard(self) {
        self.end_unstarted(CommandError::Aborted { started: false }, Kind::Aborted);
    }
}

/// Discards the envelope of a withdrawn or abandoned command.
#[cold]
fn bury<T: Types>(cell: Held<T>) {
    let mut now = cell.state.load(Ordering::Acquire);
    if now == state::ABANDONED {
        // Never accepted: it has no room and no tombstone. The command goes with the cell.
        return;
    }
    // SAFETY: this is the queue side, whose owner holds an `Arc<Front>`, so the count is at
    // least one, and the pointer came from `Arc::as_ptr`.
    let front = unsafe {
        Arc::increment_strong_count(cell.front);
        Arc::from_raw(cell.front)
    };
    let command = cell.slot.with_mut(|slot| {
        // SAFETY: the slot is the queue side's: a withdrawing caller never touches it.
        unsafe { std::mem::replace(&mut *slot, Slot::Front(Arc::clone(&front))) }
    });
    // The command first, then the count: what is counted as gone is gone.
    drop_contained(command);
    if now == state::WITHDRAWING {
        // The caller is between taking the command back and giving back its room. It has not
        // counted a tombstone for good, and must not. Release: leaves the front in the slot.
        match cell.state.compare_exchange(
            state::WITHDRAWING,
            state::DISCARDED,
            Ordering::AcqRel,
            Ordering::Acquire,
        ) {
            Ok(_) => {}
            Err(then) => now = then,
        }
    }
    match now {
        state::WITHDRAWN => front.tombstone_gone(),
        state::HELD => {
            // In this order: the room may have the dispatcher judge who waits, which tombstones put off.
            front.tombstone_gone();
            front.give_room_back(0);
        }
        state::WITHDRAWING => {}
        other => unreachable!("an envelope in state {other} can't be discarded"),
    }
}

impl<T: Types> Drop for Envelope<T> {
    fn drop(&mut self) {
        // SAFETY: this is the end of the envelope, so nobody takes its cell a second time.
        let cell = unsafe { ManuallyDrop::take(&mut self.0) };
        match cell.state.load(Ordering::Acquire) {
            now @ (state::WAITING | state::GRANTING | state::DENIED) => {
                let envelope = Envelope::new(cell);
                if now == state::GRANTING || envelope.begin_grant() {
                    // SAFETY: this is the queue side, whose owner is on the stack below.
                    unsafe { envelope.cell().front() }.refuse_waiting();
                    envelope.refuse(Refusal::Closed);
                } else {
                    // Abandoned in this very moment.
                    bury(envelope.into_cell());
                }
            }
            _ => Envelope::new(cell).discard(),
        }
    }
}

impl<T: Types> Envelope<T> {
    #[inline]
    fn into_cell(self) -> Held<T> {
        let mut this = ManuallyDrop::new(self);
        // SAFETY: the envelope is not dropped any more, so nobody takes its cell a second time.
        unsafe { ManuallyDrop::take(&mut this.0) }
    }

    /// The link to the next envelope of a chain; it is the owner's.
    pub(crate) fn with_next<R>(&self, f: impl FnOnce(&mut Option<Self>) -> R) -> R {
        Self::with_next_of(self.as_link(), f)
    }

    /// This envelope's cell, as a place to link to.
    pub(crate) fn as_link(&self) -> Link<T> {
        Link(self.cell().0)
    }

    /// As `with_next`, for an envelope that was moved into a chain by whoever holds the link.
    pub(crate) fn with_next_of<R>(link: Link<T>, f: impl FnOnce(&mut Option<Self>) -> R) -> R {
        // SAFETY: a link is only followed by the owner of the chain that its envelope is in
        // (`chain.rs` drops the link when the envelope leaves): the cell is alive, and `next` is
        // the queue side's.
        let cell = unsafe { link.0.as_ref() };
        cell.next.with_mut(|next| {
            // SAFETY: as above; the closure gets the only reference.
            f(unsafe { &mut *next })
        })
    }
}

/// The place of an envelope in a chain. Only `chain.rs` makes use of it.
pub(crate) struct Link<T: Types>(NonNull<Cell<T>>);

impl<T: Types> Clone for Link<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T: Types> Copy for Link<T> {}

// SAFETY: a link is followed only by the owner of its chain; see `with_next_of`.
unsafe impl<T: Types> Send for Link<T> {}

#[cfg(all(test, not(shardpool_loom)))]
mod tests {
    use super::*;
    use crate::cell::Draft;
    use crate::command::tests::Touch;
    use crate::shard::front::Entry;
    use crate::types::TypesOf;

    type Touches = TypesOf<Touch, (), ()>;

    #[test]
    fn g08_whoever_discards_a_command_leaves_the_front_to_a_caller_that_is_withdrawing_it() {
        let front = Arc::new(Front::new(1, 1));
        let live = || Arc::strong_count(&front) - 1;
        assert_eq!(front.try_enter(), Entry::Accepted);
        let (cell, envelope) = Draft::<Touches>::new(Touch, None, &front).accepted();
        assert_eq!(cell.exchange(state::QUEUED, state::WITHDRAWING, 0), Ok(state::QUEUED));
        drop(envelope);
        // All else that owns the front may go now, before the caller gives its room back.
        assert_eq!(live(), 1);
        drop(cell);
        assert_eq!(live(), 0);
    }
}
