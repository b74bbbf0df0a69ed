//! The cell that a submitter and a shard share for one command: first it carries the command,
//! then the outcome.
//!
//! # Who may touch what, and when
//!
//! Two parties hold a cell: the **queue side** (an [`Envelope`], later a [`Claimed`]; there is one
//! at a time) and the **caller side** (a `Ticket`, or a submission that waits for room).
//!
//! | field | who | when |
//! | --- | --- | --- |
//! | `state` | both | always; it decides the rest |
//! | `slot` | queue side | until it stores `DONE`, or `REFUSED_*` |
//! | `slot` | caller side | after it has seen `DONE` or `REFUSED_*` |
//! | `slot` | the last holder | when it drops or recycles the cell |
//! | `next` | queue side | always: it links the envelopes of a chain |
//! | `waker` | caller side | while the state has no `WATCHED` and is not `DONE` |
//! | `waker` | both read | while the state has `WATCHED` |
//! | `waker` | who replaced a state with `WATCHED` by one without | once: it owns the waker |
//! | `lobby` | a waiting submission registers, queue side wakes | before it is accepted |
//! | `hash`, `deadline`, `front` | everybody reads | never written while shared |
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
//! left its waker.
//!
//! **Exactly one outcome** (G5): the only ways out of `QUEUED` are two compare-and-exchanges from
//! `QUEUED`, the queue side's to `CLAIMED` and the caller's to `WITHDRAWING`; one of them wins.
//! A claimed command has one `Claimed`, which completes it when consumed or when dropped.
//!
//! **No wake-up is lost.** The caller writes its waker and then sets `WATCHED`; the queue side writes
//! the outcome and then swaps the state for `DONE`. Both are read-modify-writes of one byte, so one
//! comes first: either the swap finds `WATCHED`, and wakes; or setting the flag finds `DONE`, and the
//! caller does not wait. That is one such operation for each side, where an `AtomicWaker` takes
//! three and two, and the end of a command is known to be the waker's end as well.

use crate::command::{Context as HandlerContext, Receipt};
use crate::contain::{contain, drop_contained};
use crate::error::CommandError;
use crate::shard::front::Front;
use crate::stats::Kind;
use crate::sync::{Arc, AtomicU8, AtomicU64, AtomicWaker, Ordering, UnsafeCell, fence};
use crate::types::Types;
use std::any::TypeId;
use std::cell::RefCell;
use std::mem::{ManuallyDrop, MaybeUninit};
use std::task::{Context, Poll, Waker};
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
    /// Accepted, not started.
    pub(super) const QUEUED: u8 = 7;
    /// The queue side has taken the command, and owes an outcome.
    pub(super) const CLAIMED: u8 = 8;
    /// As `CLAIMED`; in addition somebody would like the handler to stop.
    pub(super) const CLAIMED_ASKED: u8 = 9;
    /// The caller has withdrawn the command and is giving its room back.
    pub(super) const WITHDRAWING: u8 = 10;
    /// Withdrawn, room given back. The envelope is a tombstone, counted as such.
    pub(super) const WITHDRAWN: u8 = 11;
    /// Withdrawn, but too many tombstones: the room goes with the envelope.
    pub(super) const HELD: u8 = 12;
    /// The envelope went while the caller was `WITHDRAWING`: nothing is left to count.
    pub(super) const DISCARDED: u8 = 13;
    /// The outcome is in the slot, and the caller's.
    pub(super) const DONE: u8 = 14;
    /// The caller has taken the outcome.
    pub(super) const TAKEN: u8 = 15;
    /// A flag: the caller's waker is in the cell.
    pub(super) const WATCHED: u8 = 128;

    /// The state without the flag.
    pub(super) fn of(flagged: u8) -> u8 {
        flagged & !WATCHED
    }
}

/// What a command's caller gets.
pub(crate) type Outcome<O, E> = Result<Receipt<O>, CommandError<E>>;

enum Slot<T: Types> {
    Empty,
    Command(T::Command),
    Outcome(Outcome<T::Output, T::Error>),
    /// Keeps the front of the shard alive for a caller that is giving room back to it.
    Front(#[expect(dead_code, reason = "held, not read")] Arc<Front>),
}

impl<T: Types> Slot<T> {
    /// Drops what the user put in. Mostly there is nothing any more.
    fn drop_contained(self) {
        if !matches!(self, Slot::Empty) {
            drop_contained(self);
        }
    }
}

pub(crate) struct Cell<T: Types> {
    state: AtomicU8,
    waker: UnsafeCell<MaybeUninit<Waker>>,
    slot: UnsafeCell<Slot<T>>,
    next: UnsafeCell<Option<Envelope<T>>>,
    hash: u64,
    deadline: Option<Instant>,
    /// The number of the aggregate's lane, once the dispatcher knows it; 0 before.
    lane: AtomicU64,
    /// The shard's front, not counted: see `Cell::front`.
    front: *const Front,
    /// Of a submission that waits, or has waited in this cell, for room.
    lobby: Option<Box<AtomicWaker>>,
    /// Keeps the cell for another command, or frees it: see `cache`.
    recycle: fn(Arc<Self>),
}

// SAFETY: the table above gives `slot`, `next` and `waker` one writer at a time, and the handovers
// are release/acquire pairs on `state` or on the queue that carries the envelope. `front` is only
// read, and points to a `Front`, which is `Sync`. Commands, outputs and errors move between
// threads, so they must be `Send`; they are never shared, so they need not be `Sync`.
unsafe impl<T: Types> Send for Cell<T> {}
// SAFETY: as above.
unsafe impl<T: Types> Sync for Cell<T> {}

/// What a handler's context and the detection of deadlocks may ask of a cell of any type.
pub(crate) trait Probe: Send + Sync {
    /// Whether the handler was asked to stop.
    fn is_cancel_asked(&self) -> bool;
    /// Where the command is.
    fn stage(&self) -> Stage;
    /// The number of the lane that the command waits in or runs in, 0 if not known yet.
    fn lane(&self) -> u64;
}

/// How far a command has come, as far as a wait for it is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// A submission that waits for room.
    Waiting,
    /// Accepted, not started.
    Queued,
    /// Its handler runs.
    Started,
    /// There is nothing left to wait for.
    Over,
}

impl<T: Types> Probe for Cell<T> {
    fn is_cancel_asked(&self) -> bool {
        state::of(self.state.load(Ordering::Relaxed)) == state::CLAIMED_ASKED
    }

    fn stage(&self) -> Stage {
        match state::of(self.state.load(Ordering::Acquire)) {
            state::WAITING | state::GRANTING | state::DENIED => Stage::Waiting,
            state::QUEUED => Stage::Queued,
            state::CLAIMED | state::CLAIMED_ASKED => Stage::Started,
            _ => Stage::Over,
        }
    }

    fn lane(&self) -> u64 {
        self.lane.load(Ordering::Acquire)
    }
}

impl<T: Types> Cell<T> {
    /// A cell for a command that the shard has room for, and its envelope.
    pub(crate) fn accepted(
        command: T::Command,
        hash: u64,
        deadline: Option<Instant>,
        front: &Arc<Front>,
    ) -> (Arc<Self>, Envelope<T>)
    where
        T: 'static,
    {
        Self::new(state::QUEUED, command, hash, deadline, front)
    }

    /// A cell for a command that waits for room, and its envelope.
    pub(crate) fn waiting(
        command: T::Command,
        hash: u64,
        deadline: Option<Instant>,
        front: &Arc<Front>,
    ) -> (Arc<Self>, Envelope<T>)
    where
        T: 'static,
    {
        Self::new(state::WAITING, command, hash, deadline, front)
    }

    #[inline]
    fn new(
        state: u8,
        command: T::Command,
        hash: u64,
        deadline: Option<Instant>,
        front: &Arc<Front>,
    ) -> (Arc<Self>, Envelope<T>)
    where
        T: 'static,
    {
        let front = Arc::as_ptr(front);
        let slot = UnsafeCell::new(Slot::Command(command));
        let mut cell = match cache::take::<T>() {
            Some(mut cell) => {
                let reused = unique(&mut cell).expect("a cached cell has one holder");
                reused.state = AtomicU8::new(state);
                reused.slot = slot;
                reused.hash = hash;
                reused.deadline = deadline;
                reused.lane = AtomicU64::new(0);
                reused.front = front;
                cell
            }
            None => Arc::new(Self {
                state: AtomicU8::new(state),
                waker: UnsafeCell::new(MaybeUninit::uninit()),
                slot,
                next: UnsafeCell::new(None),
                hash,
                deadline,
                lane: AtomicU64::new(0),
                front,
                lobby: None,
                recycle: cache::put::<T>,
            }),
        };
        if state == state::WAITING {
            let waiting = unique(&mut cell).expect("a new cell has one holder");
            waiting.lobby.get_or_insert_default();
        }
        let envelope = Envelope::new(Arc::clone(&cell));
        (cell, envelope)
    }

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

    // ---- the caller side ----

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
                match slot {
                    Slot::Outcome(outcome) => outcome,
                    _ => unreachable!("a done cell holds an outcome"),
                }
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
            |tombstone| {
                let to = if tombstone { state::WITHDRAWN } else { state::HELD };
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

    /// Polls a waiting submission: `Ok` when accepted, or why not, with the command.
    pub(crate) fn poll_granted(
        &self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Refused<T::Command>>> {
        if let Some(result) = self.try_granted() {
            return Poll::Ready(result);
        }
        if let Some(lobby) = &self.lobby {
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

    fn wake_lobby(&self) {
        if let Some(lobby) = &self.lobby {
            // A waker is user code too.
            let _ = contain(|| lobby.wake());
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

    fn take_back(&self) -> T::Command {
        self.state.store(state::TAKEN, Ordering::Relaxed);
        let slot = self.slot.with_mut(|slot| {
            // SAFETY: after `REFUSED_*` the slot is the caller's, and there is one caller: the
            // submission, which polls through `&mut`.
            unsafe { std::mem::replace(&mut *slot, Slot::Empty) }
        });
        match slot {
            Slot::Command(command) => command,
            _ => unreachable!("a refused cell holds its command"),
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
        give_up(state::WAITING) || give_up(state::DENIED)
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

/// Why a waiting submission was not accepted.
pub(crate) enum Refused<C> {
    Closed(C),
    Expired(C),
    Deadlock(C),
}

/// The same, for the queue side to say.
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
    ManuallyDrop<Arc<Cell<T>>>,
);

impl<T: Types> Envelope<T> {
    fn new(cell: Arc<Cell<T>>) -> Self {
        Self(ManuallyDrop::new(cell))
    }

    fn cell(&self) -> &Arc<Cell<T>> {
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

    /// Tells one cell from another.
    pub(crate) fn address(&self) -> *const () {
        Arc::as_ptr(self.cell()).cast()
    }

    pub(crate) fn hash(&self) -> u64 {
        self.cell().hash
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.cell().deadline
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
        release(cell);
    }

    /// Takes an accepted command out of the queue: it gives its room back, and its outcome is
    /// owed. `None` for a withdrawn one, whose tombstone is gone with this.
    pub(crate) fn claim(self) -> Option<Claimed<T>> {
        claim(self.into_cell())
    }

    /// Ends a command that has not started.
    pub(crate) fn end_unstarted(self, error: CommandError<T::Error>, kind: Kind) {
        if let Some(claimed) = self.claim() {
            claimed.end_unstarted(error, kind);
        }
    }
}

#[inline]
fn claim<T: Types>(cell: Arc<Cell<T>>) -> Option<Claimed<T>> {
    match cell.exchange(state::QUEUED, state::CLAIMED, state::WATCHED) {
        Ok(_) => {
            // SAFETY: this is the queue side; it had the envelope a moment ago and its owner is
            // still on the stack below.
            unsafe { cell.front() }.give_room_back();
            Some(Claimed { cell: ManuallyDrop::new(cell), started: false })
        }
        Err(_) => {
            bury(cell);
            None
        }
    }
}

/// Discards the envelope of a withdrawn or abandoned command.
fn bury<T: Types>(cell: Arc<Cell<T>>) {
    let mut now = cell.state.load(Ordering::Acquire);
    if now == state::ABANDONED {
        // Never accepted: it has no room and no tombstone. The command goes with the cell.
        release(cell);
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
        state::HELD => front.give_room_back(),
        state::WITHDRAWING => {}
        other => unreachable!("an envelope in state {other} can't be discarded"),
    }
    release(cell);
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
            _ => {
                if let Some(claimed) = claim(cell) {
                    claimed.end_unstarted(CommandError::Aborted { started: false }, Kind::Aborted);
                }
            }
        }
    }
}

impl<T: Types> Envelope<T> {
    fn into_cell(self) -> Arc<Cell<T>> {
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
        Link(Arc::as_ptr(self.cell()))
    }

    /// As `with_next`, for an envelope that was moved into a chain by whoever holds the link.
    pub(crate) fn with_next_of<R>(link: Link<T>, f: impl FnOnce(&mut Option<Self>) -> R) -> R {
        // SAFETY: a link is only followed by the owner of the chain that its envelope is in
        // (`chain.rs` drops the link when the envelope leaves): the cell is alive, and `next` is
        // the queue side's.
        let cell = unsafe { &*link.0 };
        cell.next.with_mut(|next| {
            // SAFETY: as above; the closure gets the only reference.
            f(unsafe { &mut *next })
        })
    }
}

/// The place of an envelope in a chain. Only `chain.rs` makes use of it.
pub(crate) struct Link<T: Types>(*const Cell<T>);

impl<T: Types> Clone for Link<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T: Types> Copy for Link<T> {}

// SAFETY: a link is followed only by the owner of its chain; see `with_next_of`.
unsafe impl<T: Types> Send for Link<T> {}

/// The queue side of a command that has left the queue: it owes the outcome. Dropped, it gives
/// `Aborted`.
pub(crate) struct Claimed<T: Types> {
    /// Moved out by `complete`, or by the drop.
    cell: ManuallyDrop<Arc<Cell<T>>>,
    started: bool,
}

impl<T: Types> Claimed<T> {
    fn cell(&self) -> &Arc<Cell<T>> {
        &self.cell
    }

    /// Takes the command out, for the handler. From here on it counts as started.
    pub(crate) fn start(&mut self) -> T::Command {
        self.started = true;
        let slot = self.cell().slot.with_mut(|slot| {
            // SAFETY: the slot is the queue side's until `DONE`.
            unsafe { std::mem::replace(&mut *slot, Slot::Empty) }
        });
        match slot {
            Slot::Command(command) => command,
            _ => unreachable!("a claimed command starts once"),
        }
    }

    /// What the handler may know of its command. The context borrows this side's hold on the cell
    /// instead of counting one of its own; a clone that the handler makes counts as usual.
    pub(crate) fn context(
        &self,
        front: &Arc<Front>,
        version: u64,
        shard: usize,
    ) -> ManuallyDrop<HandlerContext>
    where
        T: 'static,
    {
        // SAFETY: the pointers are those of `Arc`s that `self` and the worker hold. The ones made
        // of them here are never dropped, and the worker keeps both for as long as it lends the
        // context out.
        let (command, front) =
            unsafe { (Arc::from_raw(Arc::as_ptr(self.cell())), Arc::from_raw(Arc::as_ptr(front))) };
        ManuallyDrop::new(HandlerContext { command, front, version, shard })
    }

    /// Publishes the outcome and wakes the caller. The outcome has been counted before.
    #[inline]
    pub(crate) fn complete(self, outcome: Outcome<T::Output, T::Error>) {
        let mut this = ManuallyDrop::new(self);
        // SAFETY: `this` is not dropped any more, so nobody takes its cell a second time.
        publish(unsafe { ManuallyDrop::take(&mut this.cell) }, outcome);
    }

    /// Ends a command that never started, and counts it.
    pub(crate) fn end_unstarted(self, error: CommandError<T::Error>, kind: Kind) {
        // SAFETY: this is the queue side, whose owner is on the stack below.
        unsafe { self.cell().front() }.tally().add_shared(kind);
        self.complete(Err(error));
    }
}

#[inline]
fn publish<T: Types>(cell: Arc<Cell<T>>, outcome: Outcome<T::Output, T::Error>) {
    let old = cell.slot.with_mut(|slot| {
        // SAFETY: the slot is the queue side's until `DONE`.
        unsafe { std::mem::replace(&mut *slot, Slot::Outcome(outcome)) }
    });
    // Release: hands the slot to the caller. Acquire: the waker was written before the flag.
    let before = cell.state.swap(state::DONE, Ordering::AcqRel);
    if before & state::WATCHED != 0 {
        // SAFETY: this call has cleared the flag.
        let waker = unsafe { cell.take_waker() };
        // A waker is user code too.
        let _ = contain(|| waker.wake());
    }
    old.drop_contained();
    release(cell);
}

impl<T: Types> Drop for Claimed<T> {
    fn drop(&mut self) {
        // SAFETY: this is the end of the claim, so nobody takes its cell a second time.
        let cell = unsafe { ManuallyDrop::take(&mut self.cell) };
        if !self.started {
            // SAFETY: this is the queue side, whose owner is on the stack below.
            unsafe { cell.front() }.tally().add_shared(Kind::Aborted);
        }
        publish(cell, Err(CommandError::Aborted { started: self.started }));
    }
}

/// Whether a caller has nothing to wait for.
#[inline]
fn is_over(now: u8) -> bool {
    state::of(now) >= state::WITHDRAWING
}

/// The cell, if nobody else holds it.
#[inline]
fn unique<T: Types>(cell: &mut Arc<Cell<T>>) -> Option<&mut Cell<T>> {
    // Nobody ever makes a weak pointer to a cell, and nobody but this holder could add a strong one,
    // so a count of one stays one: `Arc::get_mut` would lock the weak count to be sure of that.
    if Arc::strong_count(cell) != 1 {
        return None;
    }
    // Pairs with the release of the holder that went last: what it did to the cell is over.
    fence(Ordering::Acquire);
    // SAFETY: there is one holder, and it is borrowed exclusively.
    Some(unsafe { &mut *Arc::as_ptr(cell).cast_mut() })
}

/// Lets go of one side's hold on a cell; the last side recycles it.
#[inline]
pub(crate) fn release<T: Types>(mut cell: Arc<Cell<T>>) {
    // With two holders letting go at the same time both may see the other, and the cell is
    // freed by the second instead of recycled: correct, and rare.
    if let Some(unique) = unique(&mut cell) {
        unique.empty();
        let recycle = unique.recycle;
        recycle(cell);
    }
}

impl<T: Types> Cell<T> {
    /// Drops what users have left in the cell: a command or an outcome, and a waker.
    #[inline]
    fn empty(&mut self) {
        if !matches!(self.slot.get_mut(), Slot::Empty) {
            std::mem::replace(self.slot.get_mut(), Slot::Empty).drop_contained();
        }
        debug_assert!(
            self.state.load(Ordering::Relaxed) & state::WATCHED == 0,
            "a cell ended with a waker in it"
        );
        if let Some(lobby) = &mut self.lobby {
            // Not `take`: a waker that panicked while it was registered leaves it locked.
            drop_contained(std::mem::take(&mut **lobby));
        }
    }
}

impl<T: Types> Drop for Cell<T> {
    fn drop(&mut self) {
        self.empty();
    }
}

/// Cells that a thread keeps for its next commands, so that none is allocated once warm.
mod cache {
    use super::{Arc, Cell, RefCell, TypeId, Types};

    /// How many cells of one type a thread keeps, and how many bytes of them.
    const MAX_CELLS: usize = 1024;
    const MAX_BYTES: usize = 256 * 1024;

    /// Cells of one type, as raw `Arc`s.
    struct List {
        of: TypeId,
        cells: Vec<*const ()>,
        free: fn(*const ()),
    }

    impl Drop for List {
        fn drop(&mut self) {
            for cell in self.cells.drain(..) {
                (self.free)(cell);
            }
        }
    }

    thread_local! {
        /// One list per type of cell; a program has few.
        static CACHE: RefCell<Vec<List>> = const { RefCell::new(Vec::new()) };
    }

    fn free<T: Types>(cell: *const ()) {
        // SAFETY: only called with what `put` of the same type has left in a list.
        drop(unsafe { Arc::from_raw(cell.cast::<Cell<T>>()) });
    }

    #[inline]
    pub(super) fn take<T: Types + 'static>() -> Option<Arc<Cell<T>>> {
        if cfg!(shardpool_loom) {
            return None;
        }
        // A thread that ends has no cache any more. Nothing in here runs user code, so the borrow
        // is never taken twice.
        CACHE.try_with(|cache| {
            let mut cache = cache.borrow_mut();
            let list = cache.iter_mut().find(|list| list.of == TypeId::of::<Cell<T>>())?;
            let cell = list.cells.pop()?;
            // SAFETY: the list has cells of this type only, each by `Arc::into_raw`.
            Some(unsafe { Arc::from_raw(cell.cast()) })
        })
        .ok()
        .flatten()
    }

    /// The cell is empty and has one holder.
    #[inline]
    pub(super) fn put<T: Types + 'static>(cell: Arc<Cell<T>>) {
        if cfg!(shardpool_loom) {
            return;
        }
        let most = const {
            let most = MAX_BYTES / size_of::<Cell<T>>();
            if most > MAX_CELLS { MAX_CELLS } else if most == 0 { 1 } else { most }
        };
        // A cell that is not kept is freed after the borrow has ended.
        let _rest = CACHE.try_with(|cache| {
            let mut cache = cache.borrow_mut();
            let of = TypeId::of::<Cell<T>>();
            let at = cache.iter().position(|list| list.of == of).unwrap_or_else(|| {
                cache.push(List { of, cells: Vec::new(), free: free::<T> });
                cache.len() - 1
            });
            let list = &mut cache[at];
            if list.cells.len() == most {
                return Some(cell);
            }
            list.cells.push(Arc::into_raw(cell).cast());
            None
        });
    }
}
