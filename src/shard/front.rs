//! The side of a shard that submitters see: room, the gate, the counters.
//!
//! # Who may touch what, and when
//!
//! | field | who writes |
//! | --- | --- |
//! | `word` | everybody: see below |
//! | `accepted` | whoever moved `word` to accept |
//! | `tombstones` | a caller that withdraws adds, the queue side subtracts |
//! | `abandoned` | a submission that gives up waiting adds, the dispatcher resets |
//! | `orders` | anybody sets a bit; the dispatcher clears all but `ABORT` |
//! | `workers` | each worker its own tally |
//! | `resident` | the dispatcher |
//!
//! # The word
//!
//! Room, waiting submissions and the gate are one atomic word, so that a submission decides on all
//! three at once:
//!
//! ```text
//!   63      62     61 ........ 31   30 ........ 0
//!   CLOSED  DEAD   waiting          queued
//! ```
//!
//! * `queued` counts commands accepted and not started. It is raised before the envelope is pushed
//!   and lowered when it is claimed, so it covers a submitter on its way in: the dispatcher ends
//!   only when it reads `CLOSED` with both counts at zero, and from there on nothing can raise
//!   them. That is the gate between `submit` and `drain` (G15): there is no separate flag to read
//!   too early.
//! * `waiting` counts submissions in the lobby that are neither granted nor abandoned. While it is
//!   not zero only the dispatcher grants room: first come, first served (G13).
//! * `DEAD` says that the dispatcher is gone: a submitter that reads it after its push empties the
//!   channels itself.
//!
//! All operations on the word are relaxed unless said otherwise: it carries counts, and commands
//! travel through flume's lock. What the modification order of one word gives is enough.

use crate::park::Sleeper;
use crate::reentry::Board;
use crate::stats::{Kind, Outcomes, ShardStats, Tally};
use crate::sync::{AtomicU8, AtomicU64, AtomicUsize, CachePadded, Ordering};

const QUEUED_ONE: u64 = 1;
const COUNT_MASK: u64 = (1 << 31) - 1;
const WAITING_SHIFT: u32 = 31;
const WAITING_ONE: u64 = 1 << WAITING_SHIFT;
const DEAD: u64 = 1 << 62;
const CLOSED: u64 = 1 << 63;

/// The largest queue depth that the word has bits for.
pub(crate) const MAX_DEPTH: usize = COUNT_MASK as usize;

/// How many envelopes of abandoned submissions the lobby may hold before anybody minds.
pub(crate) const LOBBY_SLACK: u64 = 64;

fn queued(word: u64) -> u64 {
    word & COUNT_MASK
}

fn waiting(word: u64) -> u64 {
    (word >> WAITING_SHIFT) & COUNT_MASK
}

mod order {
    /// Everything that has not started is to be aborted.
    pub(super) const ABORT: u8 = 1;
    /// Tombstones are to be discarded.
    pub(super) const SWEEP: u8 = 2;
    /// Somebody in the lobby may have to be refused.
    pub(super) const REVIEW: u8 = 4;
}

/// How a submission got on.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// Accepted: the submitter must push the command now.
    Accepted,
    /// No room, or others wait.
    Full,
    /// Intake is closed.
    Closed,
}

pub(crate) struct Front {
    hot: CachePadded<Hot>,
    depth: u64,
    tombstones: AtomicU64,
    sweep_at: u64,
    abandoned: AtomicU64,
    orders: AtomicU8,
    workers_left: AtomicUsize,
    resident: AtomicU64,
    tally: CachePadded<Tally>,
    workers: Box<[CachePadded<Tally>]>,
    /// Where the dispatcher sleeps.
    pub(crate) dispatcher: CachePadded<Sleeper>,
    /// What the handlers of this shard wait for.
    pub(crate) board: Board,
}

/// What every submission writes: one line.
struct Hot {
    word: AtomicU64,
    accepted: AtomicU64,
}

impl Front {
    /// `depth` is at least 1 and at most `MAX_DEPTH`.
    pub(crate) fn new(depth: usize, workers: usize) -> Self {
        let depth = depth as u64;
        Self {
            hot: CachePadded(Hot { word: AtomicU64::new(0), accepted: AtomicU64::new(0) }),
            depth,
            tombstones: AtomicU64::new(0),
            sweep_at: (depth / 2).max(1),
            abandoned: AtomicU64::new(0),
            orders: AtomicU8::new(0),
            workers_left: AtomicUsize::new(workers),
            resident: AtomicU64::new(0),
            tally: CachePadded(Tally::default()),
            workers: (0..workers).map(|_| CachePadded(Tally::default())).collect(),
            dispatcher: CachePadded(Sleeper::default()),
            board: Board::new(workers),
        }
    }

    // ---- submitters ----

    /// Takes room for one command, if there is some and nobody waits.
    pub(crate) fn try_enter(&self) -> Entry {
        self.enter(false)
    }

    /// Takes room for one command, or a place among those who wait (`Full`).
    pub(crate) fn enter_or_wait(&self) -> Entry {
        self.enter(true)
    }

    fn enter(&self, wait: bool) -> Entry {
        let mut word = self.hot.word.load(Ordering::Relaxed);
        loop {
            if word & CLOSED != 0 {
                return Entry::Closed;
            }
            let room = queued(word) < self.depth && waiting(word) == 0;
            if !room && !wait {
                return Entry::Full;
            }
            let (next, entry) = if room {
                (word + QUEUED_ONE, Entry::Accepted)
            } else {
                (word + WAITING_ONE, Entry::Full)
            };
            match self.hot.word.compare_exchange_weak(
                word,
                next,
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => {
                    if entry == Entry::Accepted {
                        self.hot.accepted.fetch_add(1, Ordering::Relaxed);
                    }
                    return entry;
                }
                Err(now) => word = now,
            }
        }
    }

    /// Whether the dispatcher is gone. Asked after each push.
    pub(crate) fn is_dead(&self) -> bool {
        // Relaxed: the push before this took the channel's lock. If the dispatcher's last look
        // took it earlier, `DEAD`, set before that look, is visible here.
        self.hot.word.load(Ordering::Relaxed) & DEAD != 0
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.hot.word.load(Ordering::Relaxed) & CLOSED != 0
    }

    /// A waiting submission gave up, and its cell says so.
    pub(crate) fn stop_waiting(&self) {
        let word = self.hot.word.fetch_sub(WAITING_ONE, Ordering::Relaxed);
        let abandoned = self.abandoned.fetch_add(1, Ordering::Relaxed) + 1;
        // Envelopes of abandoned submissions go when there are more of them than of live ones.
        if word & CLOSED != 0 || abandoned > LOBBY_SLACK.max(waiting(word)) {
            self.dispatcher.wake();
        }
    }

    /// A waiting submission was denied, or a handler has begun to wait that could have made room: the
    /// dispatcher is to see whom it must refuse.
    pub(crate) fn ask_for_review(&self) {
        self.order(order::REVIEW);
    }

    /// As `ask_for_review`, if anybody waits.
    pub(crate) fn ask_for_review_if_waiting(&self) {
        if self.has_waiting() {
            self.ask_for_review();
        }
    }

    // ---- room ----

    /// A queued command has started, or ended without a start.
    pub(crate) fn give_room_back(&self) {
        let word = self.hot.word.fetch_sub(QUEUED_ONE, Ordering::Relaxed);
        debug_assert!(queued(word) > 0, "more room given back than taken");
        // Somebody waits for the room, or the dispatcher for the last command.
        if waiting(word) != 0 || word & CLOSED != 0 {
            self.dispatcher.wake();
        }
    }

    /// A command was withdrawn: gives its room back, now or with its envelope.
    ///
    /// `settle(true)` marks the envelope as a counted tombstone, `settle(false)` as one that still
    /// has its room; it returns false if the envelope is gone already.
    pub(crate) fn withdrawn(&self, settle: impl FnOnce(bool) -> bool) {
        self.tally.add_shared(Kind::Cancelled);
        // Relaxed throughout: the settling exchange orders the count before whoever sees the mark.
        let before = self.tombstones.fetch_add(1, Ordering::Relaxed);
        let tombstone = before < self.depth;
        if !tombstone {
            self.tombstones.fetch_sub(1, Ordering::Relaxed);
        }
        let settled = settle(tombstone);
        if tombstone && !settled {
            self.tombstones.fetch_sub(1, Ordering::Relaxed);
        }
        if tombstone || !settled {
            self.give_room_back();
        }
        if before + 1 >= self.sweep_at {
            self.order(order::SWEEP);
        }
    }

    /// The envelope of a counted tombstone is gone.
    pub(crate) fn tombstone_gone(&self) {
        let before = self.tombstones.fetch_sub(1, Ordering::Relaxed);
        debug_assert!(before > 0, "more tombstones gone than there were");
        if before == 1 {
            // They were in the way of a judgement about who waits.
            self.ask_for_review_if_waiting();
        }
    }

    /// Whether withdrawn commands sit in the shard's queues.
    pub(crate) fn has_tombstones(&self) -> bool {
        self.tombstones.load(Ordering::Relaxed) != 0
    }

    // ---- the gate ----

    /// Stops intake: from the return of this call on nothing is accepted (G15).
    pub(crate) fn close(&self) {
        self.hot.word.fetch_or(CLOSED, Ordering::Relaxed);
        self.dispatcher.wake();
    }

    /// Stops intake and asks for everything that has not started to be aborted (G16).
    pub(crate) fn abort(&self) {
        self.hot.word.fetch_or(CLOSED, Ordering::Relaxed);
        self.order(order::ABORT);
    }

    fn order(&self, order: u8) {
        // Release: who acts on the order sees what led to it.
        self.orders.fetch_or(order, Ordering::Release);
        self.dispatcher.wake();
    }

    pub(crate) fn is_aborting(&self) -> bool {
        self.orders.load(Ordering::Acquire) & order::ABORT != 0
    }

    // ---- the dispatcher ----

    /// Whether a sweep was asked for since the last time.
    pub(crate) fn take_sweep(&self) -> bool {
        self.take_order(order::SWEEP)
    }

    /// Whether the lobby was to be reviewed since the last time.
    pub(crate) fn take_review(&self) -> bool {
        self.take_order(order::REVIEW)
    }

    fn take_order(&self, order: u8) -> bool {
        // A load first: this is asked at every poll.
        self.orders.load(Ordering::Relaxed) & order != 0
            && self.orders.fetch_and(!order, Ordering::Acquire) & order != 0
    }

    pub(crate) fn has_orders(&self) -> bool {
        self.orders.load(Ordering::Relaxed) & (order::SWEEP | order::REVIEW) != 0
    }

    /// Whether nothing is out of the ordinary: intake is open, nobody waits for room, nobody has
    /// ordered anything.
    #[inline]
    pub(crate) fn is_calm(&self) -> bool {
        self.hot.word.load(Ordering::Relaxed) & !COUNT_MASK == 0
            && self.orders.load(Ordering::Acquire) == 0
            && self.abandoned() <= LOBBY_SLACK
    }

    /// How many commands were ever accepted. Who has seen something of a task's has also seen what the
    /// task was granted before.
    pub(crate) fn accepted(&self) -> u64 {
        self.hot.accepted.load(Ordering::Relaxed)
    }

    /// Whether a submission waits for room.
    pub(crate) fn has_waiting(&self) -> bool {
        waiting(self.hot.word.load(Ordering::Relaxed)) != 0
    }

    /// Whether there may be something in the lobby's channel: somebody waits, or enough gave up.
    pub(crate) fn has_lobby(&self) -> bool {
        self.has_waiting() || self.abandoned() > LOBBY_SLACK
    }

    /// Whether a waiting submission could be granted room.
    pub(crate) fn has_room(&self) -> bool {
        queued(self.hot.word.load(Ordering::Relaxed)) < self.depth
    }

    /// Turns a place among those who wait into room. False if intake is closed; the place is
    /// given up either way. Only the dispatcher calls this, after it has seen that there is room:
    /// nobody else can have taken it, since somebody waits.
    pub(crate) fn grant(&self) -> bool {
        let mut word = self.hot.word.load(Ordering::Relaxed);
        loop {
            let open = word & CLOSED == 0;
            let next = word - WAITING_ONE + if open { QUEUED_ONE } else { 0 };
            match self.hot.word.compare_exchange_weak(
                word,
                next,
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => {
                    if open {
                        self.hot.accepted.fetch_add(1, Ordering::Relaxed);
                    }
                    return open;
                }
                Err(now) => word = now,
            }
        }
    }

    /// A waiting submission is refused: it waits no more.
    pub(crate) fn refuse_waiting(&self) {
        self.hot.word.fetch_sub(WAITING_ONE, Ordering::Relaxed);
    }

    /// How many envelopes of abandoned submissions may sit in the lobby.
    pub(crate) fn abandoned(&self) -> u64 {
        self.abandoned.load(Ordering::Relaxed)
    }

    pub(crate) fn reset_abandoned(&self) {
        self.abandoned.store(0, Ordering::Relaxed);
    }

    /// Closed, and nothing accepted is left to start: nothing can come any more.
    pub(crate) fn is_exhausted(&self) -> bool {
        // Acquire: after this, what the last submitters wrote is seen.
        let word = self.hot.word.load(Ordering::Acquire);
        word & CLOSED != 0 && queued(word) == 0 && waiting(word) == 0
    }

    /// The dispatcher is going: set before its last look at the channels.
    pub(crate) fn die(&self) {
        self.hot.word.fetch_or(CLOSED | DEAD, Ordering::Relaxed);
    }

    pub(crate) fn set_resident(&self, n: usize) {
        self.resident.store(n as u64, Ordering::Relaxed);
    }

    // ---- workers ----

    pub(crate) fn worker_tally(&self, worker: usize) -> &Tally {
        &self.workers[worker]
    }

    /// A worker's future was dropped from outside: the shard closes (G5).
    pub(crate) fn worker_lost(&self) {
        // Release: with the acquire in `workers_left`, what the worker left is seen.
        self.workers_left.fetch_sub(1, Ordering::Release);
        self.close();
    }

    pub(crate) fn workers_left(&self) -> usize {
        self.workers_left.load(Ordering::Acquire)
    }

    // ---- everybody ----

    /// How many workers the shard was started with.
    pub(crate) fn workers(&self) -> usize {
        self.workers.len()
    }

    /// For outcomes that no worker counts.
    pub(crate) fn tally(&self) -> &Tally {
        &self.tally
    }

    pub(crate) fn queued(&self) -> u64 {
        queued(self.hot.word.load(Ordering::Relaxed))
    }

    pub(crate) fn running(&self) -> u64 {
        self.workers.iter().map(|tally| tally.running()).sum()
    }

    pub(crate) fn outcomes(&self) -> Outcomes {
        self.workers.iter().map(|tally| tally.outcomes()).sum::<Outcomes>() + self.tally.outcomes()
    }

    pub(crate) fn stats(&self) -> ShardStats {
        let word = self.hot.word.load(Ordering::Relaxed);
        ShardStats {
            accepted: self.accepted(),
            queued: queued(word),
            running: self.running(),
            waiting: waiting(word),
            resident: self.resident.load(Ordering::Relaxed),
            outcomes: self.outcomes(),
        }
    }
}
