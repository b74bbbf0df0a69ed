//! A lane: what a shard keeps for one aggregate, owned by one party at a time.
//!
//! # Who may touch what, and when
//!
//! Two handles point to a lane: the dispatcher's [`Seat`], which lives as long as the aggregate is
//! resident, and a [`Hold`], which exists while the lane is out: in the ring, with a worker, or with the
//! dispatcher, which has taken it out of the ring again.
//!
//! | field | who | when |
//! | --- | --- | --- |
//! | `id`, `number` | everybody reads | never written while shared |
//! | `out`, `asked`, `desk` | the dispatcher | always |
//! | `body` | the holder | while a `Hold` exists |
//! | `body` | the dispatcher | while the lane is home |
//! | `next` | who pushes the lane on the stack of returned lanes: a worker, or the dispatcher at its end | |
//! | `next` | who takes the stack: the dispatcher, or the stack's drop | |
//! | `status` | both, as follows | |
//!
//! ```text
//!   HOME ──(dispatcher hands out)──▶ OUT ──(worker: swap)──▶ HOME
//!     │                              │
//!     │          (dispatcher, when it wants the lane back)
//!     │                              ▼
//!     └──(handed out, to come ───▶ WANTED ──(worker: swap)──▶ HOME, and the worker pushes the
//!         back by itself)            │                        lane on the stack and wakes
//!     (dispatcher gone: swap,        ▼
//!      of `OUT` as well)          ORPHAN ──(worker: swap)──▶ the worker frees the lane
//! ```
//!
//! **Single owner.** The body changes hands at three places:
//!
//! * through the ring, by a release push and an acquire pop;
//! * by the worker's one swap to `HOME` (release), which the dispatcher reads with acquire, or which the
//!   stack carries;
//! * when the dispatcher takes a lane out of the ring again: it has the body by that pop. If it ends the hold by
//!   `into_raw`, the status stays as it is, and the seat's `out` says that the lane is home. At its end it
//!   lets the lane go as a worker does.
//!
//! After its swap to `HOME` a worker does not touch the lane, unless the swap told it one of two things. The
//! lane was `WANTED`: then it is still the worker's until the push, since a dispatcher that has asked for a
//! lane waits for it to come by the stack, and frees no lane that it waits for. Or it was an `ORPHAN`: then it
//! is the worker's for good, which frees it.
//!
//! **Freed once.** A dispatcher that goes swaps the status of each lane that is out to `ORPHAN`. If
//! the old value is `OUT` or `WANTED`, the worker's later swap reads `ORPHAN`, and the worker frees
//! the lane. If it is `HOME`, the worker's swap came first: the dispatcher frees the lane, unless
//! it had asked for it; then the lane is on the stack or about to be, and goes with the stack.

use crate::chain::{Chain, Turn};
use crate::contain::drop_contained;
use crate::prefetch::prefetch;
use crate::shard::schedule::{Desk, Place};
use crate::sync::{AtomicPtr, AtomicU8, Ordering, UnsafeCell};
use crate::types::{IdOf, Types};
use std::cell::Cell;
use std::ptr::{NonNull, null_mut};

mod status {
    /// The body is the dispatcher's; if it waits for the lane, once that has come by the stack.
    pub(super) const HOME: u8 = 0;
    /// The body is the holder's; nobody waits for the lane. It stays so on a lane that the dispatcher has taken
    /// out of the ring again and kept: then the seat's `out` says that it is home, and the body is the
    /// dispatcher's.
    pub(super) const OUT: u8 = 1;
    /// The body is the holder's; the dispatcher waits for the lane. For one that was taken out of the ring
    /// again, as `OUT`.
    pub(super) const WANTED: u8 = 2;
    /// The body is the holder's, and the lane as well: the dispatcher is gone.
    pub(super) const ORPHAN: u8 = 3;
}

/// In this order, and on lines of its own: with a small id and a small state, all that a command on its
/// way through an idle lane touches is on the first line of the cache, and the rest on the second.
#[repr(C, align(64))]
pub(crate) struct Lane<T: Types, S> {
    id: IdOf<T>,
    /// Names the lane among all of the shard's, past and present.
    number: u64,
    status: AtomicU8,
    /// A hold was given out and is not known to have ended.
    out: Cell<bool>,
    /// The hold that is out will come back by the stack.
    asked: Cell<bool>,
    body: UnsafeCell<Body<T, S>>,
    next: UnsafeCell<*mut Lane<T, S>>,
    desk: Desk<Seat<T, S>>,
}

/// What the party that owns the lane works on.
#[repr(C)]
pub(crate) struct Body<T: Types, S> {
    /// The commands of this turn, in order.
    pub(crate) turn: Turn<T>,
    /// How many commands the aggregate has committed.
    pub(crate) version: u64,
    /// The aggregate's state; `None` before the first load, and when it is not to be trusted.
    pub(crate) state: Option<S>,
}

// SAFETY: the table above gives `body`, `next` and what is the dispatcher's one owner at a time, and
// the handovers are release/acquire pairs. The id is read by both sides at once, and ids are `Sync`; state, commands,
// outputs and errors only move, and are `Send`.
unsafe impl<T: Types, S: Send> Send for Lane<T, S> {}
// SAFETY: as above.
unsafe impl<T: Types, S: Send> Sync for Lane<T, S> {}

impl<T: Types, S> Drop for Lane<T, S> {
    fn drop(&mut self) {
        drop_contained(self.body.get_mut().state.take());
    }
}

/// Frees a lane, whose id may have a destructor that panics.
///
/// # Safety
///
/// The caller owns the lane, which came from `Seat::new`, and nobody uses another pointer to it.
unsafe fn free<T: Types, S>(lane: NonNull<Lane<T, S>>) {
    // SAFETY: as promised by the caller; `Seat::new` made it from a box.
    drop_contained(unsafe { Box::from_raw(lane.as_ptr()) });
}

/// The dispatcher's handle of a lane: a pointer, which is good until [`Place::leave`].
pub(crate) struct Seat<T: Types, S>(NonNull<Lane<T, S>>);

// SAFETY: a pointer to a `Lane`, which is `Send` and `Sync`; it is used by the dispatcher alone, which
// is one party whoever runs it.
unsafe impl<T: Types, S: Send> Send for Seat<T, S> {}

impl<T: Types, S> Clone for Seat<T, S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T: Types, S> Copy for Seat<T, S> {}

impl<T: Types, S> PartialEq for Seat<T, S> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl<T: Types, S> Seat<T, S> {
    pub(crate) fn new(id: IdOf<T>, number: u64, hash: u64) -> Self {
        let lane = Box::new(Lane {
            id,
            number,
            status: AtomicU8::new(status::HOME),
            out: Cell::new(false),
            asked: Cell::new(false),
            body: UnsafeCell::new(Body { turn: Turn::default(), version: 0, state: None }),
            next: UnsafeCell::new(null_mut()),
            desk: Desk::new(hash),
        });
        Self(NonNull::from(Box::leak(lane)))
    }

    fn lane(&self) -> &Lane<T, S> {
        // SAFETY: a lane lives at least until its seat leaves: only that, or a holder that comes after
        // it, frees it. No `&mut` to the whole lane is ever made.
        unsafe { self.0.as_ref() }
    }

    /// For a hint to the processor.
    pub(crate) fn address(&self) -> *const () {
        self.0.as_ptr().cast_const().cast()
    }

    pub(crate) fn number(&self) -> u64 {
        self.lane().number
    }

    /// Gives the lane out, with the commands of one turn. It must be home.
    #[inline]
    pub(crate) fn hand_out(&self, turn: Turn<T>, wanted: bool) -> Hold<T, S> {
        let lane = self.lane();
        debug_assert!(!lane.out.get(), "a lane is handed out while it is out");
        lane.body.with_mut(|body| {
            // SAFETY: the lane is home, so the body is the dispatcher's, which this is.
            let old = unsafe { std::mem::replace(&mut (*body).turn, turn) };
            debug_assert!(old.is_empty(), "a lane that is home has a turn left");
            // It is empty, and need not be looked at.
            std::mem::forget(old);
        });
        let status = if wanted { status::WANTED } else { status::OUT };
        // Relaxed: the hold travels through the ring, whose push is a release.
        lane.status.store(status, Ordering::Relaxed);
        lane.out.set(true);
        lane.asked.set(wanted);
        Hold { lane: self.0 }
    }
}

impl<T: Types, S> Place for Seat<T, S> {
    type Id = IdOf<T>;
    type Backlog = Chain<T>;

    fn id(&self) -> &IdOf<T> {
        &self.lane().id
    }

    fn desk(&self) -> &Desk<Self> {
        &self.lane().desk
    }

    /// Also if its holder has just let it go without a word.
    #[inline]
    fn is_home(&self) -> bool {
        let lane = self.lane();
        if !lane.out.get() {
            return true;
        }
        // Acquire: pairs with the holder's swap; from here on the body is the dispatcher's.
        if !lane.asked.get() && lane.status.load(Ordering::Acquire) == status::HOME {
            lane.out.set(false);
            return true;
        }
        false
    }

    fn recall(&self) -> bool {
        if self.is_home() {
            return true;
        }
        let lane = self.lane();
        if !lane.asked.get() {
            match lane.status.compare_exchange(
                status::OUT,
                status::WANTED,
                // Relaxed: hands nothing over; it is the holder's swap that does.
                Ordering::Relaxed,
                // Acquire: the holder was faster, and the body is the dispatcher's.
                Ordering::Acquire,
            ) {
                Ok(_) => lane.asked.set(true),
                Err(_) => lane.out.set(false),
            }
        }
        !lane.out.get()
    }

    fn is_asked(&self) -> bool {
        self.lane().asked.get()
    }

    /// It came by the stack, or the dispatcher holds its hold.
    fn is_back(&self) {
        self.lane().out.set(false);
        self.lane().asked.set(false);
    }

    fn prefetch(&self) {
        prefetch(self.address());
    }

    unsafe fn leave(self) {
        let lane = self.lane();
        if lane.out.get() {
            let asked = lane.asked.get();
            // AcqRel: if the holder was faster, its body is ours to free; if not, it must see
            // all that the dispatcher did before it frees the lane.
            let old = lane.status.swap(status::ORPHAN, Ordering::AcqRel);
            if old != status::HOME || asked {
                return;
            }
        }
        // SAFETY: the lane is home and not on its way through the stack: nobody else has it; and no
        // handle is used after this.
        unsafe { free(self.0) };
    }
}

/// The right to work on a lane: with the ring, with a worker, or with a dispatcher that took it
/// out of the ring again. It ends by [`Hold::release`] or [`Hold::into_raw`]; simply dropped, it
/// would leave the lane out for ever.
pub(crate) struct Hold<T: Types, S> {
    lane: NonNull<Lane<T, S>>,
}

// SAFETY: as for `Seat`.
unsafe impl<T: Types, S: Send> Send for Hold<T, S> {}

impl<T: Types, S> Hold<T, S> {
    pub(crate) fn into_raw(self) -> NonNull<Lane<T, S>> {
        self.lane
    }

    /// # Safety
    ///
    /// The pointer came from `into_raw`, and this is the only call for it.
    pub(crate) unsafe fn from_raw(lane: NonNull<Lane<T, S>>) -> Self {
        Self { lane }
    }

    fn lane(&self) -> &Lane<T, S> {
        // SAFETY: the lane lives while it is out: the seat's drop leaves it to the holder.
        unsafe { self.lane.as_ref() }
    }

    pub(crate) fn number(&self) -> u64 {
        self.lane().number
    }

    /// The dispatcher's handle. Only for the dispatcher.
    pub(crate) fn seat(&self) -> Seat<T, S> {
        Seat(self.lane)
    }

    /// The id, and the body to work on.
    pub(crate) fn parts(&mut self) -> (&IdOf<T>, &mut Body<T, S>) {
        let lane = self.lane();
        let body = lane.body.with_mut(|body| {
            // SAFETY: the body is the holder's, and `&mut self` makes this the only borrow.
            unsafe { &mut *body }
        });
        (&lane.id, body)
    }

    /// Lets the lane go. If the dispatcher waits for it, it is on `returned` after this, and the
    /// caller must wake the dispatcher: then the answer is true.
    #[must_use = "a dispatcher that waits for the lane must be woken"]
    pub(crate) fn release(self, returned: &Returned<T, S>) -> bool {
        let lane = self.into_raw();
        // SAFETY: the hold was live, and `into_raw` has ended it without letting the lane go.
        // AcqRel: the release hands the body over; the acquire matters for an orphan, which is
        // freed with all that the dispatcher wrote.
        let old = unsafe { lane.as_ref() }.status.swap(status::HOME, Ordering::AcqRel);
        match old {
            status::WANTED => {
                // SAFETY: the lane is still this party's until it is pushed, see the top.
                unsafe { returned.push(lane) };
                true
            }
            status::ORPHAN => {
                // SAFETY: the seat is gone and has left the lane to its holder.
                unsafe { free(lane) };
                false
            }
            _ => false,
        }
    }

    /// Aborts the turn, and forgets a state that is half done.
    pub(crate) fn abort(&mut self, half_done: bool) {
        let (_, body) = self.parts();
        drop(std::mem::take(&mut body.turn));
        if half_done {
            drop_contained(body.state.take());
        }
    }
}

/// The lanes that workers gave back because the dispatcher waits for them: a stack that workers
/// push on one by one, and that the dispatcher takes whole, so no node is popped that could be
/// pushed again in the meantime.
pub(crate) struct Returned<T: Types, S> {
    head: AtomicPtr<Lane<T, S>>,
}

impl<T: Types, S> Returned<T, S> {
    pub(crate) fn new() -> Self {
        Self { head: AtomicPtr::new(null_mut()) }
    }

    pub(crate) fn is_empty(&self) -> bool {
        // Relaxed: a guess; who sleeps on it has a fence before (`front.rs`), and `take_all` acquires.
        self.head.load(Ordering::Relaxed).is_null()
    }

    /// # Safety
    ///
    /// The caller owns the lane, and leaves it to the stack.
    unsafe fn push(&self, lane: NonNull<Lane<T, S>>) {
        let mut head = self.head.load(Ordering::Relaxed);
        loop {
            // SAFETY: the lane is the caller's until the exchange succeeds.
            unsafe { lane.as_ref() }.next.with_mut(|next| {
                // SAFETY: as above.
                unsafe { *next = head }
            });
            // Release: hands over the lane, and the link.
            match self.head.compare_exchange_weak(
                head,
                lane.as_ptr(),
                Ordering::Release,
                Ordering::Relaxed,
            ) {
                Ok(_) => return,
                Err(now) => head = now,
            }
        }
    }

    /// Takes all, oldest first, and calls back with the dispatcher's handle of each.
    pub(crate) fn take_all(&self, mut each: impl FnMut(Seat<T, S>)) {
        if self.is_empty() {
            return;
        }
        // Acquire: pairs with the pushes; each push's release covers the ones before it, as the
        // exchanges form a release sequence.
        let mut lane = self.head.swap(null_mut(), Ordering::Acquire);
        let mut oldest: *mut Lane<T, S> = null_mut();
        while let Some(this) = NonNull::new(lane) {
            // SAFETY: what is on the stack is the taker's.
            lane = unsafe { this.as_ref() }.next.with_mut(|next| {
                // SAFETY: as above.
                unsafe { std::mem::replace(&mut *next, oldest) }
            });
            oldest = this.as_ptr();
        }
        while let Some(this) = NonNull::new(oldest) {
            // SAFETY: as above; the link is read before the callback can hand the lane out again.
            oldest = unsafe { this.as_ref().next.with_mut(|next| *next) };
            each(Seat(this));
        }
    }
}

impl<T: Types, S> Drop for Returned<T, S> {
    fn drop(&mut self) {
        // The dispatcher is gone and its seats have left these lanes to the stack. Acquire: as in `take_all`.
        let mut lane = self.head.swap(null_mut(), Ordering::Acquire);
        while let Some(this) = NonNull::new(lane) {
            // SAFETY: the stack owns what is on it, and nobody else does any more.
            unsafe {
                lane = this.as_ref().next.with_mut(|next| *next);
                free(this);
            }
        }
    }
}

#[cfg(all(test, not(shardpool_loom)))]
mod tests {
    use super::*;
    use crate::command::Command;
    use crate::command::tests::Small;
    use crate::sync::Arc;
    use crate::types::TypesOf;

    #[derive(Clone, PartialEq, Eq, Hash)]
    struct Bomb;

    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("dropped");
        }
    }

    struct Touch(Bomb);

    impl Command for Touch {
        type AggregateId = Bomb;

        fn aggregate_id(&self) -> &Bomb {
            &self.0
        }
    }

    #[test]
    #[cfg(target_pointer_width = "64")]
    fn with_a_small_id_and_state_all_that_a_command_of_an_idle_lane_touches_is_on_one_line() {
        type Of = TypesOf<Small, (), ()>;
        assert!(std::mem::offset_of!(Lane<Of, u64>, body) + size_of::<Body<Of, u64>>() <= 64);
        assert_eq!(align_of::<Lane<Of, u64>>(), 64);
    }

    #[test]
    fn g07_an_id_and_a_state_whose_destructors_both_panic_go_with_their_lane() {
        let seat = Seat::<TypesOf<Touch, (), ()>, Bomb>::new(Bomb, 1, 0);
        let (mut hold, returned) = (seat.hand_out(Turn::default(), false), Returned::new());
        hold.parts().1.state = Some(Bomb);
        assert!(!hold.release(&returned));
        // SAFETY: the seat is used no more.
        unsafe { seat.leave() };
    }

    struct Plain;

    impl Command for Plain {
        type AggregateId = u8;

        fn aggregate_id(&self) -> &u8 {
            &0
        }
    }

    #[test]
    fn g17_a_lane_is_freed_whichever_side_goes_last() {
        for (wanted, seat_first) in [(false, false), (false, true), (true, false), (true, true)] {
            let state = Arc::new(());
            let seat = Seat::<TypesOf<Plain, (), ()>, _>::new(0, 1, 0);
            let (mut hold, returned) = (seat.hand_out(Turn::default(), wanted), Returned::new());
            hold.parts().1.state = Some(Arc::clone(&state));
            // SAFETY: the seat is used no more.
            let leave = || unsafe { seat.leave() };
            if seat_first {
                leave();
                assert!(!hold.release(&returned), "nobody waits for an orphan");
            } else {
                assert_eq!((hold.release(&returned), returned.is_empty()), (wanted, !wanted));
                leave();
            }
            drop(returned);
            assert_eq!(Arc::strong_count(&state), 1, "wanted: {wanted}, seat first: {seat_first}");
        }
    }

    #[test]
    fn lanes_that_were_asked_for_come_back_once_oldest_first() {
        let returned = Returned::new();
        for number in 1..4 {
            let seat = Seat::<TypesOf<Plain, (), ()>, ()>::new(0, number, 0);
            assert!(seat.hand_out(Turn::default(), true).release(&returned));
        }
        let mut seats = Vec::new();
        returned.take_all(|seat| seats.push(seat));
        assert!(returned.is_empty());
        assert_eq!(seats.iter().map(Seat::number).collect::<Vec<_>>(), [1, 2, 3]);
        for seat in seats {
            seat.is_back();
            // SAFETY: the seat is used no more.
            unsafe { seat.leave() };
        }
    }
}
