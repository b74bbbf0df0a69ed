//! The cell that a submitter and a shard share for one command: first it carries the command,
//! then the outcome.
//!
//! # Who may touch what, and when
//!
//! Two parties hold a cell: the **queue side** (an [`Envelope`], later a [`Claimed`]; there is one
//! at a time) and the **caller side** (a `Ticket`, or a submission that waits for room). Before that it
//! is a [`Draft`], all of which is the submitter's; what follows is about cells that are shared. Clones of a
//! handler's context and waits that handlers have published hold the cell too; they read `state` and `lane`.
//!
//! | field | who | when |
//! | --- | --- | --- |
//! | `state` | both | always; it decides the rest |
//! | `slot` | queue side | until it stores `DONE`, or `REFUSED_*` |
//! | `slot` | caller side | after it has seen `DONE` or `REFUSED_*` |
//! | `slot` | the last holder | when it drops or recycles the cell |
//! | `next` | queue side | always: it links the envelopes of a chain |
//! | `lane` | queue side | once, when the command comes to its lane; everybody reads it |
//! | `holders` | who holds the cell | when a hold is cloned or dropped; the last to go ends the cell |
//! | `waker` | caller side | while the state has no `WATCHED` |
//! | `waker` | both read | while the state has `WATCHED`; the caller may compare it a moment longer, see below |
//! | `waker` | who replaced a state with `WATCHED` by one without | once: it owns the waker |
//! | `extra.lobby` | a waiting submission registers, and takes its waker when it gives up; queue side wakes | until it is decided, and right after |
//! | `front`, `has_extra`, the rest of `extra` | everybody reads | never written while shared |
//!
//! A state hands over what the table says goes with it, so what sets one releases, and what reads one
//! acquires. Accesses that are relaxed look at a state, or leave it, for what it says alone.
//!
//! # The states
//!
//! ```text
//!            waiting submission                       accepted command
//!  WAITING ──▶ GRANTING ──▶ QUEUED  ◀── (room at once)
//!     │            │           │
//!     │            │           ├──▶ CLAIMED ──▶ CLAIMED_ASKED ──▶ DONE ──▶ TAKEN
//!     │            │           │        └───────────────────────────▲
//!     │            ▼           └──▶ WITHDRAWING ──▶ WITHDRAWN | HELD
//!     │     REFUSED_*                    └────────▶ DISCARDED
//!     └──▶ ABANDONED                      (DENIED: still waiting, to be refused)
//! ```
//!
//! From `QUEUED` to `CLAIMED_ASKED` a state may have the flag `WATCHED` in addition: the caller has
//! left its waker. `DONE` may have it for a moment, while the caller finds out that it came too late.
//!
//! A caller that has seen `WATCHED` compares the waker with its new one, and the queue side may take it out
//! meanwhile. Nobody but the caller writes one over it, and `will_wake` compares two pointers and follows
//! neither, so it does not matter if what they point to is gone.
//!
//! **Exactly one outcome** (G5): the only ways out of `QUEUED` are two compare-and-exchanges from
//! `QUEUED`, the queue side's to `CLAIMED` and the caller's to `WITHDRAWING`; one of them wins.
//! A claimed command has one `Claimed`, which completes it when consumed or when dropped.
//!
//! **No wake-up is lost.** The caller writes its waker and then sets `WATCHED`; the queue side writes
//! the outcome and then swaps the state for `DONE`. Both are read-modify-writes of one byte, so one
//! comes first: either the swap finds `WATCHED`, and wakes; or setting the flag finds `DONE`, and the
//! caller does not wait. That is one such operation for each side, where an `AtomicWaker` takes
//! two for each, and the end of a command is known to be the waker's end as well.
mod caller;
mod claimed;
mod draft;
mod envelope;
mod held;
mod probe;
mod slot;

pub(crate) use caller::Refused;
pub(crate) use claimed::Claimed;
pub(crate) use draft::Draft;
pub(crate) use envelope::{Envelope, Link, Refusal};
pub(crate) use held::Held;
pub(crate) use probe::{Probed, Stage};
pub(crate) use slot::Outcome;

use crate::contain::drop_contained;
use crate::shard::front::Front;
use crate::sync::{AtomicU8, AtomicU32, AtomicU64, Ordering, UnsafeCell};
use crate::types::Types;
use crate::waker_cell::WakerCell;
use slot::Slot;
use std::mem::MaybeUninit;
use std::task::Waker;
use std::time::Instant;

mod state {
    /// A submission waits for room. Set before the cell is shared.
    pub(super) const WAITING: u8 = 0;
    /// The dispatcher is deciding whether the waiting submission is accepted. The caller can no
    /// longer abandon it, and does not have long to wait.
    pub(super) const GRANTING: u8 = 1;
    /// The waiting submission was dropped. The queue side drops the command.
    pub(super) const ABANDONED: u8 = 2;
    /// Not accepted: intake is closed. The command is the caller's.
    pub(super) const REFUSED_CLOSED: u8 = 3;
    /// Not accepted: the deadline passed while it waited. The command is the caller's.
    pub(super) const REFUSED_EXPIRED: u8 = 4;
    /// Not accepted: its wait could never end. The command is the caller's.
    pub(super) const REFUSED_DEADLOCK: u8 = 5;
    /// The waiting submission is to be refused, since its wait could never end.
    pub(super) const DENIED: u8 = 6;
    /// Accepted, not started. A draft is made so, and accepted as it is.
    pub(super) const QUEUED: u8 = 7;
    /// The queue side has taken the command, and owes an outcome.
    pub(super) const CLAIMED: u8 = 8;
    /// As `CLAIMED`; in addition somebody would like the handler to stop.
    pub(super) const CLAIMED_ASKED: u8 = 9;
    /// The caller has withdrawn the command and is giving its room back.
    pub(super) const WITHDRAWING: u8 = 10;
    /// Withdrawn, room given back. The envelope is a tombstone.
    pub(super) const WITHDRAWN: u8 = 11;
    /// The same, but there were too many tombstones: the room goes with the envelope.
    pub(super) const HELD: u8 = 12;
    /// The envelope went while the caller was `WITHDRAWING`: nothing is left to count.
    pub(super) const DISCARDED: u8 = 13;
    /// The outcome is in the slot, and the caller's.
    pub(super) const DONE: u8 = 14;
    /// The caller has taken the outcome; or its command, which was not accepted.
    pub(super) const TAKEN: u8 = 15;
    /// A flag: the caller's waker is in the cell.
    pub(super) const WATCHED: u8 = 128;

    /// The state without the flag.
    pub(super) fn of(flagged: u8) -> u8 {
        flagged & !WATCHED
    }
}

/// In this order: what both sides work on is in front, on the first line of the cache.
#[repr(C, align(64))]
pub(crate) struct Cell<T: Types> {
    /// How many hold the cell: both sides, clones of a handler's context, waits that handlers have published.
    holders: AtomicU32,
    state: AtomicU8,
    /// Whether there is something in `extra`, which is not on the first line.
    has_extra: bool,
    /// The number of the aggregate's lane, once the dispatcher knows it; 0 before.
    lane: AtomicU64,
    next: UnsafeCell<Option<Envelope<T>>>,
    waker: UnsafeCell<MaybeUninit<Waker>>,
    slot: UnsafeCell<Slot<T>>,
    // The second line, if commands are small.
    /// The shard's front, not counted: see `Cell::front`.
    front: *const Front,
    extra: MaybeUninit<Extra>,
}

/// What most commands do without.
struct Extra {
    deadline: Option<Instant>,
    /// Of a submission that waits, or has waited, for room.
    lobby: Option<Box<WakerCell>>,
}

// SAFETY: the table above gives `slot`, `next` and `waker` one writer at a time, and the handovers
// are release/acquire pairs on `state` or on the queue that carries the envelope. `front` is only
// read, and points to a `Front`, which is `Sync`. Commands, outputs and errors move between
// threads, so they must be `Send`; they are never shared, so they need not be `Sync`.
unsafe impl<T: Types> Send for Cell<T> {}
// SAFETY: as above.
unsafe impl<T: Types> Sync for Cell<T> {}

impl<T: Types> Cell<T> {
    /// The shard's front.
    ///
    /// # Safety
    ///
    /// Either the caller owns the envelope of this cell: then it belongs to the shard's channel,
    /// dispatcher or worker, each of which owns an `Arc<Front>`. Or the caller has moved the
    /// state from `QUEUED` to `WITHDRAWING` and holds the cell: then the envelope still exists,
    /// or its owner has left an `Arc<Front>` in the slot, which goes with the cell.
    unsafe fn front(&self) -> &Front {
        // SAFETY: the pointer came from an `Arc<Front>` that still has an owner, as above.
        unsafe { &*self.front }
    }

    pub(crate) fn front_ptr(&self) -> *const Front {
        self.front
    }

    /// Moves the waker out.
    ///
    /// # Safety
    ///
    /// The caller is the one that has cleared `WATCHED`.
    unsafe fn take_waker(&self) -> Waker {
        self.waker.with(|waker| {
            // SAFETY: the flag was set, so there is a waker; the one who cleared it owns it.
            unsafe { (*waker).assume_init_read() }
        })
    }

    /// From one state to another, with the flag kept as far as `keep` says. Gives the old state with
    /// its flag; or, as an error, what it is instead.
    #[inline]
    fn exchange(&self, from: u8, to: u8, keep: u8) -> Result<u8, u8> {
        let mut now = self.state.load(Ordering::Relaxed);
        loop {
            // AcqRel: hands over the waker, the slot, and what was counted before; see the callers.
            let (new, success) = (to | (now & keep), Ordering::AcqRel);
            let expected = from | (now & state::WATCHED);
            match self.state.compare_exchange(expected, new, success, Ordering::Acquire) {
                Ok(_) => return Ok(expected),
                // Only the flag has changed: again.
                Err(then) if state::of(then) == from => now = then,
                Err(then) => return Err(then),
            }
        }
    }

    fn extra(&self) -> Option<&Extra> {
        self.has_extra.then(|| {
            // SAFETY: it was written together with `has_extra`, before the cell was shared.
            unsafe { self.extra.assume_init_ref() }
        })
    }

    fn lobby(&self) -> Option<&WakerCell> {
        self.extra()?.lobby.as_deref()
    }

    fn wake_lobby(&self) {
        if let Some(lobby) = self.lobby() {
            lobby.wake();
        }
    }
}

impl<T: Types> Drop for Cell<T> {
    #[inline]
    fn drop(&mut self) {
        debug_assert!(
            self.state.load(Ordering::Relaxed) & state::WATCHED == 0,
            "a cell ended with a waker in it"
        );
        // What users have left in it: a command, an outcome, or the waker of a waiting submission.
        if !matches!(self.slot.get_mut(), Slot::Empty) {
            std::mem::replace(self.slot.get_mut(), Slot::Empty).drop_contained();
        }
        if self.has_extra {
            // SAFETY: as in `extra`; nobody looks at it any more.
            drop_contained(unsafe { self.extra.assume_init_read() });
        }
    }
}

#[cfg(all(test, not(shardpool_loom)))]
mod tests {
    use super::*;
    use crate::command::tests::Small;
    use crate::types::TypesOf;
    use std::mem::offset_of;

    #[test]
    #[cfg(target_pointer_width = "64")]
    fn of_a_small_command_all_that_both_sides_work_on_is_on_one_line() {
        type Of = TypesOf<Small, u64, ()>;
        assert!(offset_of!(Cell<Of>, slot) + size_of::<Slot<Of>>() <= 64);
        assert_eq!(align_of::<Cell<Of>>(), 64);
    }
}
