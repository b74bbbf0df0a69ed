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
//! | `extra.lobby` | a waiting submission registers, and takes its waker when it gives up; queue side wakes | before it is accepted |
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

use crate::block;
use crate::command::{Command, Context as HandlerContext, Receipt};
use crate::contain::{contain, drop_contained};
use crate::error::CommandError;
use crate::prefetch::prefetch;
use crate::shard::front::Front;
use crate::stats::Kind;
use crate::sync::{Arc, AtomicU8, AtomicU32, AtomicU64, Ordering, UnsafeCell, fence};
use crate::types::{Types, TypesOf};
use crate::waker_cell::WakerCell;
use std::mem::{ManuallyDrop, MaybeUninit};
use std::ops::Deref;
use std::ptr::NonNull;
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
    /// Accepted, not started. A draft is made so, and accepted as it is.
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
    /// The caller has taken the outcome; or its command, which was not accepted.
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

/// What is in a cell: a command, or its outcome. Flat, and small: for small commands the whole cell
/// is then on one line of the cache, but for what is seldom looked at.
enum Slot<T: Types> {
    Empty,
    Command(T::Command),
    Committed(u64, T::Output),
    Rejected(T::Error),
    Failed(T::Error, bool),
    Panicked(Box<str>, bool),
    Expired,
    Aborted(bool),
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

    fn of(outcome: Outcome<T::Output, T::Error>) -> Self {
        match outcome {
            Ok(Receipt { version, output }) => Slot::Committed(version, output),
            Err(CommandError::Rejected(error)) => Slot::Rejected(error),
            Err(CommandError::Failed { error, started }) => Slot::Failed(error, started),
            Err(CommandError::Panicked { message, started }) => {
                Slot::Panicked(message.into_boxed_str(), started)
            }
            Err(CommandError::Expired) => Slot::Expired,
            Err(CommandError::Aborted { started }) => Slot::Aborted(started),
            // A withdrawal is told by the state, and a deadlock is not an outcome.
            Err(CommandError::Cancelled | CommandError::Deadlock) => {
                unreachable!("such an outcome is not published")
            }
        }
    }

    fn outcome(self) -> Outcome<T::Output, T::Error> {
        Err(match self {
            Slot::Committed(version, output) => return Ok(Receipt { version, output }),
            Slot::Rejected(error) => CommandError::Rejected(error),
            Slot::Failed(error, started) => CommandError::Failed { error, started },
            Slot::Panicked(message, started) => {
                CommandError::Panicked { message: message.into_string(), started }
            }
            Slot::Expired => CommandError::Expired,
            Slot::Aborted(started) => CommandError::Aborted { started },
            Slot::Empty | Slot::Command(_) | Slot::Front(_) => {
                unreachable!("a done cell holds an outcome")
            }
        })
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

/// What a handler's context and the detection of deadlocks may ask of a cell of any type.
pub(crate) trait Probe: Send + Sync {
    /// Whether the handler was asked to stop, or has ended.
    fn is_to_stop(&self) -> bool;
    /// Where the command is.
    fn stage(&self) -> Stage;
    /// The number of the lane that the command waits in or runs in, 0 if not known yet.
    fn lane(&self) -> u64;
    /// How many hold the cell.
    fn holders(&self) -> &AtomicU32;
}

/// A hold on a cell: an `Arc` but for three things. The count is on the line that both sides write
/// anyway; the two holders of a new cell are counted at once; and the memory is kept for the next.
pub(crate) struct Held<T: Types>(NonNull<Cell<T>>);

/// A hold on a cell of any type.
pub(crate) struct Probed {
    cell: NonNull<dyn Probe>,
    let_go: unsafe fn(NonNull<()>),
}

// SAFETY: as for an `Arc` of a cell, which is `Send` and `Sync`. (Not for any `T: Types`: a command or an output
// that holds its own pool would need the answer to this to give the answer.)
unsafe impl<C: Command, O: Send, E: Send> Send for Held<TypesOf<C, O, E>> {}
// SAFETY: as above.
unsafe impl<C: Command, O: Send, E: Send> Sync for Held<TypesOf<C, O, E>> {}
// SAFETY: as above; every `Probe` is both.
unsafe impl Send for Probed {}
// SAFETY: as above.
unsafe impl Sync for Probed {}

impl<T: Types> Held<T> {
    /// A hold on the same cell that does not know its type.
    pub(crate) fn probe(&self) -> Probed {
        hold(&self.holders);
        // SAFETY: counted just now.
        unsafe { self.lend() }
    }

    /// As `probe`, not counted.
    ///
    /// # Safety
    ///
    /// What is returned is not dropped, and not used once `self` is gone.
    unsafe fn lend(&self) -> Probed {
        let cell: NonNull<dyn Probe + '_> = self.0;
        // SAFETY: the lifetime alone changes. Only a pool makes cells, and all that it carries is
        // `'static`: `Builder::start` sees to that.
        let cell =
            unsafe { std::mem::transmute::<NonNull<dyn Probe + '_>, NonNull<dyn Probe>>(cell) };
        // SAFETY: only a dropped `Probed` calls this, with the pointer that is in it.
        Probed { cell, let_go: |cell| unsafe { let_go::<T>(cell.cast()) } }
    }

    /// Tells one cell from another.
    pub(crate) fn address(&self) -> *const () {
        self.0.as_ptr().cast_const().cast()
    }
}

impl Probed {
    /// As [`Held::address`].
    pub(crate) fn address(&self) -> *const () {
        self.cell.as_ptr().cast_const().cast()
    }
}

impl<T: Types> Deref for Held<T> {
    type Target = Cell<T>;

    fn deref(&self) -> &Cell<T> {
        // SAFETY: the cell is there while it is held. While it is shared no `&mut` to it is made: one is
        // by a draft, in `Draft::waiting`, which has the only hold by value, and one when all are gone.
        unsafe { self.0.as_ref() }
    }
}

impl Deref for Probed {
    type Target = dyn Probe;

    fn deref(&self) -> &(dyn Probe + 'static) {
        // SAFETY: as for `Held`.
        unsafe { self.cell.as_ref() }
    }
}

impl Clone for Probed {
    fn clone(&self) -> Self {
        hold(self.holders());
        Self { cell: self.cell, let_go: self.let_go }
    }
}

impl<T: Types> Drop for Held<T> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: this holder was counted, and is gone with this.
        unsafe { let_go(self.0) }
    }
}

impl Drop for Probed {
    fn drop(&mut self) {
        // SAFETY: as for `Held`; the function is that of the cell's type.
        unsafe { (self.let_go)(self.cell.cast()) }
    }
}

fn hold(holders: &AtomicU32) {
    // Relaxed: whoever gets the new hold gets it from one that exists.
    if holders.fetch_add(1, Ordering::Relaxed) > u32::MAX / 2 {
        // Somebody forgets contexts in a loop. Going on would free a cell that is in use.
        std::process::abort();
    }
}

/// # Safety
///
/// The caller is a counted holder, and does not use the pointer any more.
#[inline]
unsafe fn let_go<T: Types>(cell: NonNull<Cell<T>>) {
    // SAFETY: it is held until here.
    let holders = unsafe { &(*cell.as_ptr()).holders };
    // The load first: mostly the other side has gone before, and nobody but a holder adds one. Acquire,
    // here or after the release of one's own: what the others did to the cell is over.
    if holders.load(Ordering::Acquire) != 1 {
        if holders.fetch_sub(1, Ordering::Release) != 1 {
            return;
        }
        fence(Ordering::Acquire);
    }
    // SAFETY: the last holder owns the cell, which came from `block::begin`.
    unsafe { block::end(cell) };
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
    fn is_to_stop(&self) -> bool {
        // Of a command that has started, what comes later: asked, done, taken.
        state::of(self.state.load(Ordering::Relaxed)) > state::CLAIMED
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

    fn holders(&self) -> &AtomicU32 {
        &self.holders
    }
}

/// A cell that nobody shares yet: its command is on its way in. Dropped, it drops the command.
///
/// Who submits to wait makes it before room is asked for: the word that tells is mostly on its way
/// from another core, and that time is for free.
pub(crate) struct Draft<T: Types>(Held<T>);

impl<T: Types> Draft<T> {
    #[inline]
    pub(crate) fn new(command: T::Command, deadline: Option<Instant>, front: &Arc<Front>) -> Self {
        let cell = block::begin::<Cell<T>>();
        let this = cell.as_ptr();
        // Field by field: a whole one would be made on the stack first, and copied in pieces of another
        // size, which the processor waits for.
        // SAFETY: it is memory for a cell, and nobody else's. All fields are written but `waker`, which
        // may be anything at first.
        unsafe {
            (&raw mut (*this).holders).write(AtomicU32::new(1));
            (&raw mut (*this).state).write(AtomicU8::new(state::QUEUED));
            (&raw mut (*this).has_extra).write(deadline.is_some());
            (&raw mut (*this).lane).write(AtomicU64::new(0));
            (&raw mut (*this).next).write(UnsafeCell::new(None));
            #[cfg(shardpool_loom)]
            (&raw mut (*this).waker).write(UnsafeCell::new(MaybeUninit::uninit()));
            (&raw mut (*this).slot).write(UnsafeCell::new(Slot::Command(command)));
            (&raw mut (*this).front).write(Arc::as_ptr(front));
            if deadline.is_some() {
                (&raw mut (*this).extra).write(MaybeUninit::new(Extra { deadline, lobby: None }));
            }
        }
        Self(Held(cell))
    }

    /// The shard has room for it: the caller's hold, and the envelope.
    #[inline]
    pub(crate) fn accepted(self) -> (Held<T>, Envelope<T>) {
        let Self(held) = self;
        // Relaxed: who gets the other hold gets what was written before with it.
        held.holders.store(2, Ordering::Relaxed);
        let envelope = Envelope::new(Held(held.0));
        (held, envelope)
    }

    /// It is to wait for room.
    pub(crate) fn waiting(mut self) -> (Held<T>, Envelope<T>) {
        let deadline = self.0.extra().and_then(|extra| extra.deadline);
        // SAFETY: nobody shares the cell yet, and this is its only hold.
        let cell = unsafe { self.0.0.as_mut() };
        // What is written over holds nothing that must be dropped.
        cell.extra = MaybeUninit::new(Extra { deadline, lobby: Some(Box::default()) });
        cell.has_extra = true;
        cell.state.store(state::WAITING, Ordering::Relaxed);
        self.accepted()
    }

    /// It was not accepted: the command is the caller's again.
    pub(crate) fn into_command(self) -> T::Command {
        self.0.take_back()
    }
}

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
    ManuallyDrop<Held<T>>,
);

impl<T: Types> Envelope<T> {
    fn new(cell: Held<T>) -> Self {
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
                Some(Claimed { cell: ManuallyDrop::new(cell), started: false })
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
        state::HELD => front.give_room_back(0),
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

/// The queue side of a command that has left the queue: it owes the outcome. Dropped, it gives
/// `Aborted`.
pub(crate) struct Claimed<T: Types> {
    /// Moved out by `complete`, or by the drop.
    cell: ManuallyDrop<Held<T>>,
    started: bool,
}

impl<T: Types> Claimed<T> {
    fn cell(&self) -> &Held<T> {
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
    ) -> ManuallyDrop<HandlerContext> {
        // SAFETY: the pointers are those of what `self` and the worker hold. The ones made of them
        // here are never dropped, and the worker keeps both for as long as it lends the context out.
        let (command, front) = unsafe { (self.cell().lend(), Arc::from_raw(Arc::as_ptr(front))) };
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
fn publish<T: Types>(cell: Held<T>, outcome: Outcome<T::Output, T::Error>) {
    let old = cell.slot.with_mut(|slot| {
        // SAFETY: the slot is the queue side's until `DONE`.
        unsafe { std::mem::replace(&mut *slot, Slot::of(outcome)) }
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
    use crate::command::tests::{Small, Touch};
    use crate::park::tests::{Woken, loath};
    use crate::shard::front::Entry;
    use crate::types::TypesOf;
    use std::mem::offset_of;

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

    #[test]
    #[cfg(target_pointer_width = "64")]
    fn of_a_small_command_all_that_both_sides_work_on_is_on_one_line() {
        type Of = TypesOf<Small, u64, ()>;
        assert!(offset_of!(Cell<Of>, slot) + size_of::<Slot<Of>>() <= 64);
        assert_eq!(align_of::<Cell<Of>>(), 64);
    }
}
