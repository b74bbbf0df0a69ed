//! The side of a shard that submitters see: room, the gate, the counters, and where the dispatcher
//! sleeps.
//!
//! # Who may touch what, and when
//!
//! | field | who writes |
//! | --- | --- |
//! | `word` | submitters, the dispatcher, whoever closes, aborts or wakes: see below |
//! | `freed` | who looks for room and has counted anew; it only may be too low |
//! | `posts` | each worker its own tally; whoever gives room back adds to one `freed` of them |
//! | `attention` | set by who waits or closes; cleared by the dispatcher, which may set it again (`relax`) |
//! | `tombstones` | a caller that withdraws adds, and subtracts its own if the envelope is gone; the queue side subtracts |
//! | `abandoned` | a submission that gives up waiting adds, the dispatcher takes off those it has cleared away |
//! | `orders` | anybody sets a bit; the dispatcher clears all but `ABORT` |
//! | `workers_left` | a worker that is dropped subtracts |
//! | `taken`, `resident` | the dispatcher |
//! | `waker` | the dispatcher's own task registers it, and takes it when it goes; who summons it takes it |
//! | `tally` | whoever ends a command that no worker counts, by one addition |
//!
//! # The word
//!
//! What a submission must decide on is one atomic word, so that it decides on all at once:
//!
//! ```text
//!   63      62    61      60 ....... 32   31 ......... 0
//!   CLOSED  DEAD  ASLEEP  waiting         accepted
//! ```
//!
//! * `accepted` counts the commands that were ever accepted, by its last 32 bits. It is raised
//!   before the envelope is pushed, so it covers a submitter on its way in: the dispatcher ends only
//!   when it reads `CLOSED`, nobody waiting, and everything accepted given back; from there on
//!   nothing can raise it. That is the gate between `submit` and `drain` (G15): there is no separate
//!   flag to read too early.
//! * `waiting` counts submissions in the lobby that are neither granted nor abandoned. While it is
//!   not zero only the dispatcher grants room: first come, first served (G13).
//! * `ASLEEP` says that the dispatcher sleeps, or is about to and will look once more.
//! * `DEAD` says that the dispatcher is gone: a submitter that reads it after its push empties the
//!   channels itself.
//!
//! It is written by submitters, also by those that give up waiting; by the dispatcher; by whoever closes or
//! aborts; by whoever refuses a submission that waits, as a submitter may that empties the lobby; and by whoever
//! wakes the dispatcher, which takes `ASLEEP` away: workers and withdrawing callers do so too.
//!
//! # Room
//!
//! Queued is what was accepted and is not given back. The two are counted apart, so that a worker
//! which starts a command writes no line that submitters write: `accepted` in the word, and what was
//! given back in a few counters, the sum of which only grows. `freed` is a sum that somebody has
//! made before: too low, but good enough as long as it shows room. A fresh sum may count a command
//! that a word read earlier does not, so the difference to it is signed.
//!
//! # The dispatcher hears of room
//!
//! A worker gives room back (SeqCst), then reads `attention` (SeqCst), and wakes the dispatcher if it
//! is set. Who waits raises `waiting`, then sets `attention` (SeqCst), then has the dispatcher look,
//! which has a fence before its last look. Either the worker sees `attention`, or its room is seen by
//! that look. The dispatcher clears `attention` (SeqCst), then reads the word (SeqCst), and sets it
//! again if somebody waits or intake is closed: a submission that this read does not see sets it
//! afterwards.
//!
//! # No wake-up of the dispatcher is lost
//!
//! The dispatcher (1) is run, by its own task, which has registered its waker, or by a worker in its place
//! (`duty.rs`), (2) sets `ASLEEP`, (3) has a fence, (4) looks for work once more, and sleeps only if there is
//! none. Who clears `ASLEEP` has it run: by its own task, which is always registered or going to be polled,
//! or by a worker (`crew.rs`).
//!
//! * Who pushes on the command channel reads the word after the push. If it reads one from before (2), it
//!   was accepted before (2) as well, in the order of this one word; so the dispatcher, which reads at (2)
//!   that more was accepted than it has taken, asks the channel, under its lock. If it asks after the
//!   push it finds it; if before, the push took the lock after it, and so reads what came after (2).
//! * Who does anything else, a push in the lobby included, has a fence between that and reading the word
//!   (`wake`). Of this fence and (3) one comes first: either the word shows `ASLEEP`, or (4) sees what was
//!   done.
//!
//! Operations on the word are relaxed unless said otherwise: it carries counts, and commands travel
//! through flume's lock. What the modification order of one word gives is enough.

use crate::contain::contain;
use crate::prefetch::ToWrite;
use crate::reentry::Board;
use crate::shard::crew::Crew;
use crate::shard::woken;
use crate::stats::{Kind, Outcomes, ShardStats, Tally};
use crate::sync::{
    AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, AtomicWaker, CachePadded, Ordering,
    fence, full_order_for_loom,
};
use std::task::Waker;

const ACCEPTED: u64 = u32::MAX as u64;
const WAITING_ONE: u64 = 1 << 32;
const WAITING: u64 = ((1 << 29) - 1) << 32;
const ASLEEP: u64 = 1 << 61;
const DEAD: u64 = 1 << 62;
const CLOSED: u64 = 1 << 63;

/// The largest queue depth: differences of two counts of 32 bits are to be told apart.
pub(crate) const MAX_DEPTH: usize = (1 << 31) - 1;

/// How many envelopes of abandoned submissions the lobby may hold before anybody minds, while somebody waits.
pub(crate) const LOBBY_SLACK: u64 = 64;

/// In how many counters room is given back at most: enough to keep workers apart, few enough to sum.
const COUNTERS: usize = 8;

fn accepted(word: u64) -> u32 {
    (word & ACCEPTED) as u32
}

fn waiting(word: u64) -> u64 {
    (word & WAITING) >> 32
}

/// One more accepted: the count goes round without a carry.
fn accept(word: u64) -> u64 {
    (word & !ACCEPTED) | u64::from(accepted(word).wrapping_add(1))
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
    // What follows is read often and written seldom.
    to_write: ToWrite,
    depth: u32,
    sweep_at: u64,
    attention: AtomicBool,
    orders: AtomicU8,
    workers_left: AtomicUsize,
    abandoned: AtomicU64,
    tombstones: AtomicU64,
    posts: Box<[CachePadded<Post>]>,
    /// For outcomes that no worker counts.
    tally: CachePadded<Tally>,
    dispatcher: CachePadded<Dispatcher>,
    pub(crate) crew: Crew,
    /// What the handlers of this shard wait for.
    pub(crate) board: Board,
}

/// What every submission writes: one line.
struct Hot {
    word: AtomicU64,
    freed: AtomicU32,
}

/// What a worker writes: one line, if all goes well.
#[derive(Default)]
#[repr(C)]
struct Post {
    /// How many commands have given their room back here.
    freed: AtomicU32,
    tally: Tally,
}

/// What the dispatcher writes.
#[derive(Default)]
struct Dispatcher {
    taken: AtomicU64,
    resident: AtomicU64,
    waker: AtomicWaker,
}

impl Front {
    /// `depth` is at least 1 and at most `MAX_DEPTH`.
    pub(crate) fn new(depth: usize, workers: usize) -> Self {
        Self {
            hot: CachePadded(Hot { word: AtomicU64::new(0), freed: AtomicU32::new(0) }),
            to_write: ToWrite::detect(),
            depth: depth as u32,
            sweep_at: (depth as u64 / 2).max(1),
            attention: AtomicBool::new(false),
            orders: AtomicU8::new(0),
            workers_left: AtomicUsize::new(workers),
            abandoned: AtomicU64::new(0),
            tombstones: AtomicU64::new(0),
            posts: (0..workers).map(|_| CachePadded::default()).collect(),
            tally: CachePadded(Tally::default()),
            dispatcher: CachePadded(Dispatcher::default()),
            crew: Crew::new(workers),
            board: Board::new(workers),
        }
    }

    fn word(&self) -> u64 {
        self.hot.word.load(Ordering::Relaxed)
    }

    // ---- submitters ----

    /// Asks the processor for the word. Only for who will write it, whatever it says: somebody who looks
    /// into a full shard again and again would take it from those who work.
    #[inline]
    pub(crate) fn prefetch_word(&self) {
        self.to_write.prefetch(&raw const self.hot.word);
    }

    /// Takes room for one command, if there is some and nobody waits.
    #[inline]
    pub(crate) fn try_enter(&self) -> Entry {
        self.enter(false)
    }

    /// Takes room for one command, or a place among those who wait (`Full`).
    #[inline]
    pub(crate) fn enter_or_wait(&self) -> Entry {
        self.enter(true)
    }

    #[inline]
    fn enter(&self, wait: bool) -> Entry {
        let mut word = self.word();
        loop {
            if word & CLOSED != 0 {
                return Entry::Closed;
            }
            let room = waiting(word) == 0 && self.shows_room(word);
            if !room && !wait {
                return Entry::Full;
            }
            let next = if room { accept(word) } else { word + WAITING_ONE };
            // SeqCst: a submission that begins to wait sets `attention` after this.
            match self.hot.word.compare_exchange_weak(
                word,
                next,
                Ordering::SeqCst,
                Ordering::Relaxed,
            ) {
                Ok(_) if room => return Entry::Accepted,
                Ok(_) => {
                    full_order_for_loom();
                    self.attention.store(true, Ordering::SeqCst);
                    return Entry::Full;
                }
                Err(now) => word = now,
            }
        }
    }

    /// Whether there is room, going by a word that was read.
    #[inline]
    fn shows_room(&self, word: u64) -> bool {
        // Unsigned: a sum that is ahead of the word, or far behind it, shows nothing.
        if accepted(word).wrapping_sub(self.hot.freed.load(Ordering::Relaxed)) < self.depth {
            return true;
        }
        let freed = self.count_freed();
        // Relaxed, and without a comparison: an older sum than the one before is too low, no more.
        self.hot.freed.store(freed, Ordering::Relaxed);
        (accepted(word).wrapping_sub(freed) as i32) < self.depth as i32
    }

    /// How many commands have given their room back.
    fn count_freed(&self) -> u32 {
        let counters = self.posts.iter().take(COUNTERS);
        // Acquire: who finds that all is given back sees what was done before.
        counters.fold(0, |sum, post| sum.wrapping_add(post.freed.load(Ordering::Acquire)))
    }

    /// Asked after each push on the command channel: whether the dispatcher sleeps or is gone.
    #[inline]
    pub(crate) fn is_away(&self) -> bool {
        // Relaxed: see the top. If the dispatcher is gone, its last look took the channel's lock before
        // the push did, and `DEAD`, set before that look, is visible here.
        self.word() & (ASLEEP | DEAD) != 0
    }

    /// Whether the dispatcher is gone.
    pub(crate) fn is_dead(&self) -> bool {
        self.word() & DEAD != 0
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.word() & CLOSED != 0
    }

    /// A waiting submission gave up, and its cell says so.
    pub(crate) fn stop_waiting(&self) {
        // This first: one of the two counts tells of the envelope at any time. Release: see `abandoned`.
        let abandoned = self.abandoned.fetch_add(1, Ordering::Release) + 1;
        // Release: a dispatcher that has read this, and so is not woken for the last, sees the count above in its
        // last look.
        let word = self.hot.word.fetch_sub(WAITING_ONE, Ordering::Release);
        // Envelopes of abandoned submissions go when there are more of them than of live ones, but for a few; and
        // with the last, for nothing else might make the dispatcher look, which may wait for that to end.
        if waiting(word) == 1 || abandoned > LOBBY_SLACK.max(waiting(word)) {
            self.wake();
        }
    }

    /// A waiting submission was denied, or a handler has begun to wait that could have made room: the
    /// dispatcher is to see whom it must refuse.
    pub(crate) fn ask_for_review(&self) {
        self.order(order::REVIEW);
    }

    /// Tombstones are in the way of a judgement about who waits.
    pub(crate) fn ask_for_sweep(&self) {
        self.order(order::SWEEP);
    }

    /// As `ask_for_review`, if anybody waits, or all that is queued may have to end without a worker.
    pub(crate) fn ask_for_review_if_it_matters(&self) {
        if self.has_waiting() || self.workers_left() < self.workers() {
            self.ask_for_review();
        }
    }

    // ---- room ----

    /// A queued command has started, or ended without a start. The worker is whoever does it, or any.
    #[inline]
    pub(crate) fn give_room_back(&self, worker: usize) {
        let counter = &self.posts[worker % COUNTERS].freed;
        // SeqCst: see the top.
        counter.fetch_add(1, Ordering::SeqCst);
        full_order_for_loom();
        // Somebody waits for the room, or the dispatcher for the last command.
        if self.attention.load(Ordering::SeqCst) {
            self.wake();
        }
    }

    /// A command was withdrawn: gives its room back, now or with its envelope.
    ///
    /// `settle(true)` marks the envelope as a tombstone without room, `settle(false)` as one that still
    /// has its room; it returns false if the envelope is gone already. Both count: neither is a command that
    /// waits behind a handler (G9).
    pub(crate) fn withdrawn(&self, settle: impl FnOnce(bool) -> bool) {
        self.tally.add_shared(Kind::Cancelled);
        // Relaxed throughout: the settling exchange orders the count before whoever sees the mark.
        let before = self.tombstones.fetch_add(1, Ordering::Relaxed);
        let give_back = before < u64::from(self.depth);
        let settled = settle(give_back);
        if !settled {
            self.tombstones.fetch_sub(1, Ordering::Relaxed);
        }
        if give_back || !settled {
            self.give_room_back(0);
        }
        if before + 1 >= self.sweep_at {
            self.order(order::SWEEP);
        }
    }

    /// The envelope of a withdrawn command is gone.
    pub(crate) fn tombstone_gone(&self) {
        // Release: who sees none sees what was told before the last was buried.
        let before = self.tombstones.fetch_sub(1, Ordering::Release);
        debug_assert!(before > 0, "more tombstones gone than there were");
        // They were in the way of a judgement about who waits.
        if before == 1 {
            self.ask_for_review_if_it_matters();
        }
    }

    /// Whether withdrawn commands sit in the shard's queues.
    pub(crate) fn has_tombstones(&self) -> bool {
        // Acquire: see `tombstone_gone`.
        self.tombstones.load(Ordering::Acquire) != 0
    }

    // ---- the gate ----

    /// Stops intake: from the return of this call on nothing is accepted (G15).
    pub(crate) fn close(&self) {
        self.shut(CLOSED);
        self.wake();
    }

    /// Stops intake and asks for everything that has not started to be aborted (G16).
    pub(crate) fn abort(&self) {
        self.shut(CLOSED);
        self.order(order::ABORT);
    }

    /// The dispatcher is going: set before its last look at the channels.
    pub(crate) fn die(&self) {
        self.shut(CLOSED | DEAD);
    }

    fn shut(&self, flags: u64) {
        // SeqCst: before `attention`, as for a submission that waits.
        self.hot.word.fetch_or(flags, Ordering::SeqCst);
        full_order_for_loom();
        self.attention.store(true, Ordering::SeqCst);
    }

    fn order(&self, order: u8) {
        // Release: who acts on the order sees what led to it.
        self.orders.fetch_or(order, Ordering::Release);
        self.wake();
    }

    #[inline]
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
        // A load first: this is asked in every run. Nobody else takes an order.
        let is_there = self.orders.load(Ordering::Relaxed) & order != 0;
        if is_there {
            self.orders.fetch_and(!order, Ordering::Acquire);
        }
        is_there
    }

    pub(crate) fn has_orders(&self) -> bool {
        self.orders.load(Ordering::Relaxed) & (order::SWEEP | order::REVIEW) != 0
    }

    /// The dispatcher goes on working: it needs no wake until it prepares again.
    pub(crate) fn awake(&self) {
        // The load first: mostly who woke it has cleared the flag.
        if self.word() & ASLEEP != 0 {
            self.hot.word.fetch_and(!ASLEEP, Ordering::Relaxed);
        }
    }

    /// The dispatcher's own task is polled. It calls this before all else, so it always is either
    /// registered, or going to be polled.
    pub(crate) fn register(&self, waker: &Waker) {
        self.dispatcher.waker.register(waker);
    }

    /// The dispatcher is about to sleep: it must look for work after this, and before it does. True if
    /// more was accepted than it says it has taken: then it must look into the channel as well.
    pub(crate) fn prepare(&self, taken: u64) -> bool {
        // Release: who clears the flag also sees that the dispatcher's own task has registered.
        let word = self.hot.word.fetch_or(ASLEEP, Ordering::Release);
        fence(Ordering::SeqCst);
        accepted(word) != taken as u32
    }

    /// Wakes the dispatcher if it sleeps, after any change that it looks at.
    pub(crate) fn wake(&self) {
        fence(Ordering::SeqCst);
        if self.rouse().is_some() {
            self.summon();
        }
    }

    /// Wakes the dispatcher if it sleeps, after a push on the command channel.
    pub(crate) fn wake_after_push(&self) {
        // A worker in its place, unless there is more to do than to hand out a command, as far as the word tells.
        if let Some(word) = self.rouse()
            && (word & (CLOSED | WAITING) != 0 || !self.crew.send_one())
        {
            self.summon();
        }
    }

    /// Takes `ASLEEP` away. If it was there, gives the word, and the caller must have the dispatcher run.
    fn rouse(&self) -> Option<u64> {
        let asleep = |word: u64| (word & ASLEEP != 0).then_some(word);
        // The load first: most of the time the dispatcher is awake. Acquire: pairs with `prepare`.
        asleep(self.word())?;
        asleep(self.hot.word.fetch_and(!ASLEEP, Ordering::Acquire))
    }

    /// The dispatcher's own task is going.
    pub(crate) fn forget(&self) {
        let _ = contain(|| drop(self.dispatcher.waker.take()));
    }

    /// Has the dispatcher's own task polled.
    pub(crate) fn summon(&self) {
        woken::note();
        // A waker is user code too.
        let _ = contain(|| self.dispatcher.waker.wake());
    }

    /// Whether nothing is out of the ordinary: intake is open, nobody waits for room, nobody has
    /// ordered anything.
    #[inline]
    pub(crate) fn is_calm(&self) -> bool {
        self.word() & (CLOSED | WAITING) == 0
            && self.orders.load(Ordering::Acquire) == 0
            && self.abandoned() == 0
    }

    /// Nobody waits any more: room that is given back need not be told, unless that has changed.
    pub(crate) fn relax(&self) {
        if self.attention.load(Ordering::Relaxed) {
            self.attention.store(false, Ordering::SeqCst);
            full_order_for_loom();
            if self.hot.word.load(Ordering::SeqCst) & (CLOSED | WAITING) != 0 {
                self.attention.store(true, Ordering::SeqCst);
            }
        }
    }

    /// How many more commands were accepted than the dispatcher says it has taken. Who has seen
    /// something of a task's has also seen what the task was granted before.
    pub(crate) fn accepted_since(&self, taken: u64) -> u32 {
        accepted(self.word()).wrapping_sub(taken as u32)
    }

    /// Whether a submission waits for room.
    pub(crate) fn has_waiting(&self) -> bool {
        waiting(self.word()) != 0
    }

    /// Whether there may be something in the lobby's channel: somebody waits, or gave up.
    pub(crate) fn has_lobby(&self) -> bool {
        self.has_waiting() || self.abandoned() > 0
    }

    /// Whether a waiting submission could be granted room.
    pub(crate) fn has_room(&self) -> bool {
        self.shows_room(self.word())
    }

    /// Turns a place among those who wait into room. False if intake is closed; the place is
    /// given up either way. Only the dispatcher calls this, after it has seen that there is room:
    /// nobody else can have taken it, since somebody waits.
    pub(crate) fn grant(&self) -> bool {
        let mut word = self.word();
        loop {
            let open = word & CLOSED == 0;
            let next = if open { accept(word) } else { word } - WAITING_ONE;
            match self.hot.word.compare_exchange_weak(
                word,
                next,
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => return open,
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
        // Acquire: who takes the lobby's channel after this finds the envelopes of all of them.
        self.abandoned.load(Ordering::Acquire)
    }

    /// So many of them are gone.
    pub(crate) fn clear_abandoned(&self, gone: u64) {
        // Relaxed: hands nothing over.
        self.abandoned.fetch_sub(gone, Ordering::Relaxed);
    }

    /// Closed, and nothing accepted is left to start: nothing can come any more.
    pub(crate) fn is_exhausted(&self) -> bool {
        // Acquire: who finds the end sees what was done before intake was closed.
        let word = self.hot.word.load(Ordering::Acquire);
        word & CLOSED != 0 && waiting(word) == 0 && self.count_freed() == accepted(word)
    }

    /// How many commands the dispatcher has taken, and how many lanes it has. Told when it has changed.
    pub(crate) fn tell(&self, taken: u64, resident: usize) {
        // Release: the dispatcher has read a word that counts them, and who reads this, in `stats`, reads
        // no older one.
        self.dispatcher.taken.store(taken, Ordering::Release);
        self.dispatcher.resident.store(resident as u64, Ordering::Relaxed);
    }

    // ---- workers ----

    #[inline]
    pub(crate) fn worker_tally(&self, worker: usize) -> &Tally {
        &self.posts[worker].tally
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
        self.posts.len()
    }

    /// For outcomes that no worker counts.
    pub(crate) fn tally(&self) -> &Tally {
        &self.tally
    }

    pub(crate) fn queued(&self) -> u64 {
        // The word first: read the other way round, more could be queued than ever were at once.
        let word = self.hot.word.load(Ordering::Acquire);
        // Never below zero: the sum may count commands that the word does not.
        u64::try_from(accepted(word).wrapping_sub(self.count_freed()) as i32).unwrap_or(0)
    }

    pub(crate) fn running(&self) -> u64 {
        self.posts.iter().map(|post| post.tally.running()).sum()
    }

    pub(crate) fn outcomes(&self) -> Outcomes {
        self.posts.iter().map(|post| post.tally.outcomes()).sum::<Outcomes>()
            + self.tally.outcomes()
    }

    pub(crate) fn stats(&self) -> ShardStats {
        // What was taken first, by an acquire: the word is not behind it, and not ahead by 2^32.
        let taken = self.dispatcher.taken.load(Ordering::Acquire);
        let queued = self.queued();
        ShardStats {
            accepted: taken + u64::from(self.accepted_since(taken)),
            queued,
            running: self.running(),
            waiting: waiting(self.word()),
            resident: self.dispatcher.resident.load(Ordering::Relaxed),
            outcomes: self.outcomes(),
            closed: self.is_closed(),
        }
    }
}

#[cfg(all(test, not(shardpool_loom)))]
mod tests {
    use super::*;
    use crate::park::tests::Woken;
    use crate::sync::Arc;

    /// A front whose dispatcher is about to sleep, and what tells whether it was woken.
    fn asleep(front: &Front) -> Arc<Woken> {
        let woken = Arc::new(Woken::default());
        front.register(&Waker::from(Arc::clone(&woken)));
        front.prepare(0);
        woken
    }

    #[test]
    fn g15_who_gives_up_waiting_wakes_a_dispatcher_that_waits_for_the_end() {
        let front = Front::new(1, 1);
        assert_eq!((front.try_enter(), front.enter_or_wait()), (Entry::Accepted, Entry::Full));
        front.close();
        // It has found the cell abandoned, and the submission still counted.
        let woken = asleep(&front);
        front.stop_waiting();
        assert!(woken.get());
    }

    #[test]
    fn g17_the_last_to_give_up_waiting_wakes_the_dispatcher() {
        let front = Front::new(1, 1);
        assert_eq!(front.try_enter(), Entry::Accepted);
        for _ in 0..2 {
            assert_eq!(front.enter_or_wait(), Entry::Full);
        }
        let woken = asleep(&front);
        front.stop_waiting();
        assert!(!woken.get());
        front.stop_waiting();
        assert!(woken.get());
    }

    #[test]
    fn who_gives_up_waiting_wakes_nobody_before_the_lobby_holds_more_dead_than_alive() {
        let front = Front::new(1, 1);
        assert_eq!(front.try_enter(), Entry::Accepted);
        for _ in 0..LOBBY_SLACK + 30 {
            assert_eq!(front.enter_or_wait(), Entry::Full);
        }
        front.awake();
        let woken = asleep(&front);
        for _ in 0..LOBBY_SLACK {
            front.stop_waiting();
        }
        assert_eq!((front.abandoned(), woken.get()), (LOBBY_SLACK, false));
        front.stop_waiting();
        assert!(woken.get());
    }

    #[test]
    fn the_lobby_is_looked_at_while_somebody_waits_or_gave_up() {
        let front = Front::new(1, 1);
        assert_eq!(
            (front.try_enter(), front.has_waiting(), front.has_lobby()),
            (Entry::Accepted, false, false)
        );
        for waiting in 1..=LOBBY_SLACK {
            assert_eq!((front.enter_or_wait(), front.stats().waiting), (Entry::Full, waiting));
        }
        for _ in 0..LOBBY_SLACK {
            assert!(front.has_waiting() && front.has_lobby() && !front.is_calm());
            front.stop_waiting();
        }
        assert_eq!((front.has_waiting(), front.has_lobby(), front.is_calm()), (false, true, false));
        front.clear_abandoned(LOBBY_SLACK);
        assert_eq!((front.abandoned(), front.has_lobby(), front.is_calm()), (0, false, true));
    }

    #[test]
    fn a_dispatcher_is_woken_once_and_only_when_it_sleeps() {
        let front = Front::new(1, 1);
        assert!(!front.is_away());
        let woken = asleep(&front);
        assert!(front.is_away());
        front.awake();
        front.wake();
        assert_eq!((front.is_away(), woken.get()), (false, false));
        let woken = asleep(&front);
        front.wake();
        assert_eq!((front.is_away(), woken.get()), (false, true));
        front.die();
        assert!(front.is_away());
    }

    #[test]
    fn a_dispatcher_that_is_behind_does_not_sleep() {
        let front = Front::new(2, 1);
        assert_eq!(front.try_enter(), Entry::Accepted);
        assert!(front.prepare(0));
        assert!(!front.prepare(1));
    }

    #[test]
    fn an_order_is_seen_until_it_is_taken_and_taken_once() {
        let front = Front::new(1, 1);
        assert!(front.is_calm() && !front.has_orders());
        front.ask_for_sweep();
        assert!(front.has_orders() && !front.is_calm());
        assert_eq!(
            (front.take_review(), front.take_sweep(), front.take_sweep()),
            (false, true, false)
        );
        front.ask_for_review();
        assert!(front.has_orders() && !front.is_calm());
        assert_eq!(
            (front.take_sweep(), front.take_review(), front.take_review()),
            (false, true, false)
        );
        assert!(front.is_calm() && !front.has_orders());
    }

    #[test]
    fn g13_room_that_is_given_back_is_asked_for_while_somebody_waits_or_intake_is_closed() {
        let front = Front::new(1, 1);
        let attention = || front.attention.load(Ordering::Relaxed);
        assert_eq!((front.try_enter(), front.enter_or_wait()), (Entry::Accepted, Entry::Full));
        front.relax();
        assert!(attention());
        front.stop_waiting();
        front.relax();
        assert!(!attention());
        front.close();
        assert!(!front.is_calm());
        front.relax();
        assert!(attention());
    }

    #[test]
    fn g13_room_comes_back_from_every_worker() {
        const WORKERS: usize = 9 * COUNTERS;
        let front = Front::new(WORKERS, WORKERS);
        for worker in 0..WORKERS {
            assert_eq!(front.try_enter(), Entry::Accepted);
            front.give_room_back(worker);
        }
        assert_eq!(front.queued(), 0);
    }

    #[test]
    fn g13_room_and_what_is_queued_are_right_when_the_counts_go_round() {
        let front = Front::new(2, 1);
        // One round takes the count from two below its end beyond it.
        let mut taken = u64::from(u32::MAX) - 2;
        front.hot.word.store(taken, Ordering::Relaxed);
        front.posts[0].freed.store(taken as u32, Ordering::Relaxed);
        for _ in 0..3 {
            front.tell(taken, 0);
            for accepted in 1..=2 {
                assert_eq!(front.try_enter(), Entry::Accepted);
                assert_eq!(
                    (front.queued(), front.accepted_since(taken)),
                    (accepted, accepted as u32)
                );
                assert_eq!(front.stats().accepted, taken + accepted);
            }
            assert_eq!((front.try_enter(), front.stats().waiting), (Entry::Full, 0));
            assert!(front.prepare(taken));
            taken += 2;
            for left in [1, 0] {
                front.give_room_back(0);
                assert_eq!(front.queued(), left);
            }
            assert!(!front.prepare(taken));
        }
        front.close();
        assert!(front.is_exhausted());
    }

    #[test]
    fn a_submission_counts_what_workers_gave_back_only_when_it_must() {
        let front = Front::new(2, 1);
        let counted = || front.hot.freed.load(Ordering::Relaxed);
        assert_eq!(front.try_enter(), Entry::Accepted);
        front.give_room_back(0);
        assert_eq!((front.try_enter(), counted()), (Entry::Accepted, 0));
        assert_eq!((front.try_enter(), counted()), (Entry::Accepted, 1));
        assert_eq!(front.try_enter(), Entry::Full);
    }

    #[test]
    fn g08_a_withdrawal_gives_room_back_unless_there_are_as_many_tombstones() {
        const DEPTH: usize = 4;
        let front = Front::new(DEPTH, 1);
        for before in 0..=DEPTH {
            assert_eq!(
                (front.has_tombstones(), front.take_sweep()),
                (before > 0, before >= DEPTH / 2)
            );
            assert_eq!(front.try_enter(), Entry::Accepted);
            front.withdrawn(|give_back| {
                assert_eq!(give_back, before < DEPTH);
                true
            });
        }
        // The last one's room goes with its envelope.
        assert_eq!((front.queued(), front.outcomes().cancelled), (1, DEPTH as u64 + 1));
        assert!(front.take_sweep());
        for left in (0..=DEPTH).rev() {
            front.tombstone_gone();
            assert_eq!(front.has_tombstones(), left > 0);
        }
    }

    #[test]
    fn g09_a_review_is_asked_for_once_a_worker_is_lost_though_nobody_waits() {
        let front = Front::new(1, 2);
        front.ask_for_review_if_it_matters();
        assert!(!front.take_review());
        front.worker_lost();
        front.ask_for_review_if_it_matters();
        assert!(front.take_review());
    }

    #[test]
    fn g09_the_last_tombstone_to_go_asks_for_a_review_if_somebody_waits() {
        let front = Front::new(3, 1);
        for _ in 0..2 {
            assert_eq!(front.try_enter(), Entry::Accepted);
            front.withdrawn(|_| true);
        }
        while front.try_enter() == Entry::Accepted {}
        assert_eq!(front.enter_or_wait(), Entry::Full);
        front.tombstone_gone();
        assert!(!front.take_review());
        front.tombstone_gone();
        assert!(front.take_review());
    }
}
