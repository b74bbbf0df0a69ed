//! Where the dispatcher and the workers of a shard meet: the ring of ready lanes, the lanes that
//! come back, and what all must know.
//!
//! # Who may touch what, and when
//!
//! | field | who writes |
//! | --- | --- |
//! | `ring` | the dispatcher pushes; workers pop, and the dispatcher when it sweeps, aborts or ends |
//! | `returned` | workers push, and the dispatcher at its end, what it takes out of the ring; the dispatcher takes |
//! | `more`, `orders`, `ended` | the dispatcher |
//!
//! `orders` and `ended` are written with release and read with acquire: who obeys has seen what led to it.
//!
//! # No wake-up of a worker is lost
//!
//! A worker that finds the ring empty (1) registers its waker, (2) puts itself in the idle set,
//! (3) fence, (4) looks at the ring and at `ended` again, and sleeps only if there is nothing. The
//! dispatcher (a) pushes, (b) fence, (c) looks at the idle set. Of the two fences one comes first:
//! either (4) sees the push, or (c) sees the worker. In the second case the dispatcher takes the
//! worker out of the set and wakes it; the waker is registered, by (1) before (2). If a worker runs the
//! dispatcher and there is one lane, it leaves (c) out: it is itself not in the set, and looks at the ring next.
//!
//! One wake is not owed to one job: a worker that is awake takes job after job, and the dispatcher
//! watches the rest (`dispatcher.rs`).
//!
//! # The dispatcher hears of room in the ring
//!
//! With more ready lanes than the ring has room for, the dispatcher sets `more` (SeqCst), then reads
//! how far the ring was popped (SeqCst), and sleeps if the ring is more than half full. A worker
//! pops (SeqCst), then reads `more` (SeqCst), and wakes the dispatcher if the ring is at most half
//! full. In the one order of these four, either the dispatcher sees the pop or the worker sees
//! `more`; and the ring can't get from full to empty without a pop that finds it half full.
//!
//! # Orders
//!
//! `orders` has `ABORT` in its lowest bit and a count of sweeps above. The dispatcher changes it and
//! wakes every worker. A worker compares it with what it has seen before each command, and each
//! time its handler returns pending, after it has registered its waker.

use crate::shard::front::Front;
use crate::shard::lane::{Hold, Lane, Returned, Seat};
use crate::shard::ring::Ring;
use crate::sync::{Arc, AtomicBool, AtomicU64, CachePadded, Ordering, fence, full_order_for_loom};
use crate::types::Types;
use std::task::{Context, Poll};

/// For so many ready lanes the ring has room, or for twice the workers if that is more; the rest waits in the
/// schedule.
const RING: usize = if cfg!(shardpool_loom) { 2 } else { 256 };

const ABORT: u64 = 1;
const SWEEP: u64 = 2;

pub(crate) struct Floor<T: Types, S> {
    ring: Ring<Lane<T, S>>,
    returned: CachePadded<Returned<T, S>>,
    more: AtomicBool,
    ended: AtomicBool,
    orders: AtomicU64,
    // Last: whatever is dropped with the lanes that came back may still need it.
    pub(crate) front: Arc<Front>,
}

impl<T: Types, S> Floor<T, S> {
    pub(crate) fn new(front: &Arc<Front>) -> Self {
        let workers = front.workers();
        Self {
            front: Arc::clone(front),
            ring: Ring::new(RING.max((2 * workers).next_power_of_two())),
            returned: CachePadded(Returned::new()),
            more: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            orders: AtomicU64::new(0),
        }
    }

    // ---- workers ----

    /// Takes the next lane, or sleeps. `listed` is the worker's note that it is in the idle set; `stand_in`
    /// runs the dispatcher, and is true if it was left with more to do.
    #[inline]
    pub(crate) fn poll_next(
        &self,
        worker: usize,
        listed: &mut bool,
        cx: &mut Context<'_>,
        mut stand_in: impl FnMut() -> bool,
    ) -> Poll<Option<Hold<T, S>>> {
        let crew = &self.front.crew;
        loop {
            // First: who wakes a listed worker counts on it to look for an errand and at the ring after that.
            self.unlist(worker, listed);
            if crew.take_errand() && stand_in() {
                // Others first: a handler that blocks its thread would hold up whom this run has woken.
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            if let Some(hold) = self.take() {
                return Poll::Ready(Some(hold));
            }
            if self.ended.load(Ordering::Acquire) {
                return Poll::Ready(None);
            }
            crew.register(worker, cx.waker());
            crew.list(worker);
            *listed = true;
            fence(Ordering::SeqCst);
            if self.ring.is_empty() && !self.ended.load(Ordering::Acquire) {
                return Poll::Pending;
            }
        }
    }

    /// Takes the worker out of the idle set, if it may be in it.
    pub(crate) fn unlist(&self, worker: usize, listed: &mut bool) {
        if std::mem::take(listed) {
            self.front.crew.unlist(worker);
        }
    }

    fn take(&self) -> Option<Hold<T, S>> {
        let lane = self.ring.pop()?;
        full_order_for_loom();
        if self.more.load(Ordering::SeqCst) && self.is_half_empty() {
            self.front.wake();
        }
        // SAFETY: what is in the ring came from `Hold::into_raw`, and is popped once.
        Some(unsafe { Hold::from_raw(lane) })
    }

    /// Lets a lane go.
    pub(crate) fn release(&self, hold: Hold<T, S>) {
        if hold.release(&self.returned) {
            self.front.wake();
        }
    }

    /// What the dispatcher has ordered so far.
    pub(crate) fn orders(&self) -> u64 {
        // Acquire: a worker that obeys sees what led to the order.
        self.orders.load(Ordering::Acquire)
    }

    /// Whether these orders say that nothing may start any more.
    pub(crate) fn is_abort(orders: u64) -> bool {
        orders & ABORT != 0
    }

    // ---- the dispatcher ----

    /// How many lanes the ring has room for.
    pub(crate) fn room(&self) -> usize {
        self.ring.capacity() - self.ring.len()
    }

    /// Puts a lane in the ring, which has room.
    pub(crate) fn offer(&self, hold: Hold<T, S>) {
        let pushed = self.ring.push(hold.into_raw());
        assert!(pushed, "the ring is full, though only the dispatcher fills it");
    }

    /// Takes a lane out of the ring again.
    pub(crate) fn take_back(&self) -> Option<Hold<T, S>> {
        // SAFETY: as in `take`.
        self.ring.pop().map(|lane| unsafe { Hold::from_raw(lane) })
    }

    /// Says whether more lanes are ready than the ring has room for.
    pub(crate) fn say_more(&self, more: bool) {
        // Relaxed: the dispatcher reads what it wrote itself.
        if self.more.load(Ordering::Relaxed) != more {
            self.more.store(more, Ordering::SeqCst);
        }
    }

    pub(crate) fn is_half_empty(&self) -> bool {
        self.ring.len() <= self.ring.capacity() / 2
    }

    /// How many lanes wait in the ring.
    pub(crate) fn unclaimed(&self) -> usize {
        self.ring.len()
    }

    /// How many lanes were ever put in the ring.
    pub(crate) fn offered(&self) -> usize {
        self.ring.pushed()
    }

    /// How many of them were taken.
    pub(crate) fn taken(&self) -> usize {
        self.ring.popped()
    }

    /// Calls back with each lane that came back, oldest first.
    pub(crate) fn take_returned(&self, each: impl FnMut(Seat<T, S>)) {
        self.returned.take_all(each);
    }

    pub(crate) fn has_returned(&self) -> bool {
        !self.returned.is_empty()
    }

    pub(crate) fn order_abort(&self) {
        if self.orders.fetch_or(ABORT, Ordering::Release) & ABORT == 0 {
            self.front.crew.wake_all();
        }
    }

    pub(crate) fn order_sweep(&self) {
        self.orders.fetch_add(SWEEP, Ordering::Release);
        self.front.crew.wake_all();
    }

    /// Nothing more will come: workers end when the ring is empty.
    pub(crate) fn end(&self) {
        self.ended.store(true, Ordering::Release);
        fence(Ordering::SeqCst);
        self.front.crew.wake_all();
    }
}
