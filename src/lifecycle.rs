//! How many of a pool's futures are left, and who waits for the last.
//!
//! # Who may touch what, and when
//!
//! Each future owns an [`Alive`] and lowers `alive` once, when it is dropped. A drain that waits
//! leaves a waker cell in `waiters` and then looks at `alive` again. Whoever lowers `alive` to zero
//! empties `waiters` after that. Both take the lock of the same flume channel: if the emptying came
//! first, the drain's later look sees zero; otherwise the emptying finds the cell.
//!
//! A drain that registers also takes up to two cells off, and puts back those that are in use: the emptying
//! may miss such a cell. So the drain looks at `alive` after that, and if it is zero empties `waiters` itself.

use crate::contain::drop_contained;
use crate::sync::{Arc, AtomicUsize, Ordering, Receiver, Sender, unbounded};
use crate::waker_cell::WakerCell;
use std::task::Waker;

pub(crate) struct Lifecycle {
    alive: AtomicUsize,
    waiters: (Sender<Arc<WakerCell>>, Receiver<Arc<WakerCell>>),
}

impl Lifecycle {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { alive: AtomicUsize::new(0), waiters: unbounded() })
    }

    /// For one more future.
    pub(crate) fn alive(self: &Arc<Self>) -> Alive {
        // Relaxed: raised only while the pool is being built, by one thread.
        self.alive.fetch_add(1, Ordering::Relaxed);
        Alive(Arc::clone(self))
    }

    /// Whether every future is gone.
    pub(crate) fn is_over(&self) -> bool {
        // Acquire: pairs with each future's last release, so that all they did is seen.
        self.alive.load(Ordering::Acquire) == 0
    }

    /// Registers a waiter; the caller must ask `is_over` after this. The cell is made at the first
    /// call, and anew if a waker has spoiled it.
    pub(crate) fn register(&self, cell: &mut Option<Arc<WakerCell>>, waker: &Waker) {
        // A cell of no use stays in the list until it is tidied up, as that of a drain that was dropped.
        if cell.as_ref().is_some_and(|cell| cell.is_spoiled()) {
            *cell = None;
        }
        if let Some(cell) = cell {
            return cell.register(waker);
        }
        let new = Arc::new(WakerCell::default());
        new.register(waker);
        self.forget_dropped();
        self.add(Arc::clone(&new));
        *cell = Some(new);
    }

    fn add(&self, cell: Arc<WakerCell>) {
        // The receiver is in the same struct: it can't be gone.
        if self.waiters.0.try_send(cell).is_err() {
            debug_assert!(false, "flume refused a waiter");
        }
    }

    /// Two cells of drains that were dropped go for each new one, so that draining again and again
    /// with a deadline does not pile them up.
    fn forget_dropped(&self) {
        for _ in 0..2 {
            match self.waiters.1.try_recv() {
                Ok(cell) if Arc::strong_count(&cell) > 1 => self.add(cell),
                // With somebody else's waker in it.
                Ok(cell) => drop_contained(cell),
                Err(_) => {}
            }
        }
        // A live cell may have been on its way from one end to the other when the last future went.
        if self.is_over() {
            self.wake_all();
        }
    }

    fn wake_all(&self) {
        while let Ok(cell) = self.waiters.1.try_recv() {
            cell.wake();
        }
    }
}

/// One of the pool's futures exists.
pub(crate) struct Alive(Arc<Lifecycle>);

impl Drop for Alive {
    fn drop(&mut self) {
        // AcqRel: the last one, and who it wakes, sees what all others did.
        if self.0.alive.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.wake_all();
        }
    }
}

#[cfg(all(test, not(shardpool_loom)))]
mod tests {
    use super::*;
    use crate::contain::contain;
    use crate::park::tests::{Woken, loath};

    #[test]
    fn g17_drains_that_are_given_up_do_not_pile_up_and_one_that_waits_is_kept() {
        let lifecycle = Lifecycle::new();
        let last = lifecycle.alive();
        let (woken, mut waits) = (Arc::new(Woken::default()), None);
        lifecycle.register(&mut waits, &Waker::from(Arc::clone(&woken)));
        for _ in 0..100 {
            lifecycle.register(&mut None, Waker::noop());
        }
        assert!(lifecycle.waiters.1.len() <= 3, "{} are kept", lifecycle.waiters.1.len());
        drop(last);
        assert!(woken.get());
    }

    #[test]
    fn g07_a_waker_that_panics_as_it_is_cloned_costs_a_drain_no_wake_up() {
        let lifecycle = Lifecycle::new();
        let last = lifecycle.alive();
        let (woken, mut waits) = (Arc::new(Woken::default()), None);
        for good in [Waker::noop().clone(), Waker::from(Arc::clone(&woken))] {
            contain(|| lifecycle.register(&mut waits, &loath())).unwrap_err();
            lifecycle.register(&mut waits, &good);
        }
        assert!(!woken.get());
        drop(last);
        assert!(woken.get());
    }
}
