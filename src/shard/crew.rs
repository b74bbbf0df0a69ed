//! The workers of a shard, as those see them who wake them.
//!
//! # Who may touch what, and when
//!
//! | field | who writes |
//! | --- | --- |
//! | `idle` | see `idle.rs` |
//! | `wakers` | each worker registers its own; whoever wakes it takes it, and it does itself when it goes |
//! | `errand` | set by submitters, each of whom may take back what is there; cleared by the worker that takes it |
//! | `lone` | the dispatcher; a hint |
//!
//! # An errand
//!
//! While commands come alone, a submitter that finds the dispatcher asleep sends a worker that sleeps, to
//! stand in for it (`duty.rs`): it sets `errand`, takes a worker out of the idle set, and wakes it. Any
//! worker that looks for work may take the errand before it takes a lane. If none sleeps, the submitter
//! takes the errand back, unless somebody was faster, and has the dispatcher's own task polled.
//!
//! **It is not lost.** Whoever takes a worker out of the set wakes it, and it has registered its waker before
//! it was listed, so it is polled or dropped after that.
//!
//! * Polled, be it by another's wake, it first tries to take itself out. It comes second, and by what it reads
//!   of the set sees the errand, which was set before the first. So it takes no lane without a look at it.
//! * Dropped, it has the dispatcher's own task polled (`worker.rs`), after it has tried to take itself out: so
//!   that task sees what was pushed.

use crate::contain::contain;
use crate::shard::idle::IdleSet;
use crate::shard::woken;
use crate::sync::{AtomicBool, AtomicWaker, CachePadded, Ordering};
use std::task::Waker;

pub(crate) struct Crew {
    idle: CachePadded<IdleSet>,
    wakers: Box<[CachePadded<AtomicWaker>]>,
    errand: AtomicBool,
    lone: AtomicBool,
}

impl Crew {
    pub(crate) fn new(workers: usize) -> Self {
        Self {
            idle: CachePadded(IdleSet::new(workers)),
            wakers: (0..workers).map(|_| CachePadded(AtomicWaker::new())).collect(),
            errand: AtomicBool::new(false),
            lone: AtomicBool::new(true),
        }
    }

    // ---- workers ----

    pub(crate) fn register(&self, worker: usize, waker: &Waker) {
        self.wakers[worker].register(waker);
    }

    /// A worker that has registered its waker sleeps, unless it finds something in a last look.
    pub(crate) fn list(&self, worker: usize) {
        self.idle.insert(worker);
    }

    /// Takes a worker out of the idle set, if nobody has: then a wake that is on its way comes for
    /// nothing.
    pub(crate) fn unlist(&self, worker: usize) {
        self.idle.leave(worker);
    }

    /// Takes the errand, if there is one.
    pub(crate) fn take_errand(&self) -> bool {
        // Acquire: who runs it sees what was pushed. The load first: this is asked before each lane.
        self.errand.load(Ordering::Relaxed) && self.errand.swap(false, Ordering::Acquire)
    }

    /// The worker is going: nobody wakes it any more.
    pub(crate) fn forget(&self, worker: usize) {
        let _ = contain(|| drop(self.wakers[worker].take()));
    }

    // ---- who wakes them ----

    /// Whether the dispatcher finds one command at a time.
    pub(crate) fn is_lone(&self) -> bool {
        self.lone.load(Ordering::Relaxed)
    }

    /// Only for the dispatcher.
    pub(crate) fn say_lone(&self, lone: bool) {
        // Mostly it stays as it is, and on all cores.
        if self.is_lone() != lone {
            self.lone.store(lone, Ordering::Relaxed);
        }
    }

    /// While commands come alone: has a worker stand in for the dispatcher. False if none is going to.
    pub(crate) fn send_one(&self) -> bool {
        if !self.is_lone() || !self.has_idle() {
            return false;
        }
        // Before a worker is taken out, so that it takes no lane without a look at this. An exchange, not a
        // store: who takes it sees what all have pushed who had set it.
        self.errand.swap(true, Ordering::Release);
        if self.wake_one() {
            return true;
        }
        // Acquire: another submitter's errand may be taken back with it.
        !self.errand.swap(false, Ordering::Acquire)
    }

    /// Wakes one worker that sleeps; false if none does, or its waker panics.
    pub(crate) fn wake_one(&self) -> bool {
        self.idle.pop().is_some_and(|worker| self.wake(worker))
    }

    pub(crate) fn has_idle(&self) -> bool {
        !self.idle.is_empty()
    }

    /// False if the waker panics, which is user code too.
    fn wake(&self, worker: usize) -> bool {
        woken::note();
        contain(|| self.wakers[worker].wake()).is_ok()
    }

    pub(crate) fn wake_all(&self) {
        for worker in 0..self.wakers.len() {
            self.wake(worker);
        }
    }
}

#[cfg(all(test, not(shardpool_loom)))]
mod tests {
    use super::*;

    #[test]
    fn g02_a_poll_that_wakes_a_worker_knows_it() {
        let crew = Crew::new(1);
        crew.register(0, Waker::noop());
        crew.list(0);
        woken::scope(|| assert!(crew.wake_one() && woken::is_any()));
    }
}
