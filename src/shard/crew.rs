//! The workers of a shard, as those see them who wake them.
//!
//! # Who may touch what, and when
//!
//! | field | who writes |
//! | --- | --- |
//! | `idle` | see `idle.rs` |
//! | `wakers` | each worker registers its own; whoever wakes it takes it |
//! | `errand` | set by a submitter, cleared by the worker that runs it |
//! | `lone` | the dispatcher; a hint |
//!
//! # An errand
//!
//! While commands come alone, a submitter that finds the dispatcher asleep sends a worker that sleeps, to
//! stand in for it (`duty.rs`): it sets `errand`, takes a worker out of the idle set, and wakes it. Any
//! worker that looks for work may take the errand before it takes a lane. If none sleeps, the submitter
//! takes the errand back, unless somebody was faster, and has the dispatcher's own task polled.
//!
//! **It is not lost.** A worker that was taken out has a look at `errand` before it works or sleeps again:
//!
//! * Polled while it is listed, it tries to take itself out. If it comes second, by the exchanges on the
//!   set it sees the errand, which was set before the first.
//! * Falling asleep, it registers its waker and looks at `errand` after that. Of this registration and the
//!   submitter's wake, both on one `AtomicWaker`, one comes first: either the wake finds the waker, or the
//!   look finds the errand.
//! * Dropped, it has the dispatcher's own task polled (`worker.rs`), after it tried to take itself out: that
//!   task sees what was pushed before it was.

use crate::contain::contain;
use crate::shard::idle::IdleSet;
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
        self.idle.remove(worker);
    }

    /// Whether somebody is to stand in for the dispatcher.
    pub(crate) fn has_errand(&self) -> bool {
        self.errand.load(Ordering::Relaxed)
    }

    /// Takes the errand, if there is one.
    pub(crate) fn take_errand(&self) -> bool {
        // Acquire: who runs it sees what was pushed. The load first: this is asked before each lane.
        self.has_errand() && self.errand.swap(false, Ordering::Acquire)
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

    /// Sends a worker to stand in for the dispatcher; false if none sleeps, or commands do not come alone.
    pub(crate) fn send_one(&self) -> bool {
        if !self.is_lone() {
            return false;
        }
        // Before a worker is taken out, so that it takes no lane without a look at this.
        self.errand.store(true, Ordering::Release);
        match self.idle.pop() {
            Some(worker) => {
                self.wake(worker);
                true
            }
            // Acquire: another submitter's errand may be taken back with it.
            None => !self.errand.swap(false, Ordering::AcqRel),
        }
    }

    /// Wakes one worker that sleeps; false if none does.
    pub(crate) fn wake_one(&self) -> bool {
        let Some(worker) = self.idle.pop() else { return false };
        self.wake(worker);
        true
    }

    pub(crate) fn has_idle(&self) -> bool {
        !self.idle.is_empty()
    }

    fn wake(&self, worker: usize) {
        // A waker is user code too.
        let _ = contain(|| self.wakers[worker].wake());
    }

    pub(crate) fn wake_all(&self) {
        for worker in 0..self.wakers.len() {
            self.wake(worker);
        }
    }
}
