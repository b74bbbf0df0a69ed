//! Where somebody who waits leaves a waker, which is user code: an `AtomicWaker`, and whether a waker's panic has
//! spoiled it (G7).
//!
//! # Who may touch what, and when
//!
//! | field | who |
//! | --- | --- |
//! | `waker` | who waits registers, and takes it when it waits no more; who wakes takes it |
//! | `registers` | who waits |
//!
//! Of a registration and a wake one comes first, as `AtomicWaker` has it: who wakes after it has changed something
//! either finds the waker, or is seen by who looks for the change after it has registered.

use crate::contain::{contain, drop_contained};
use crate::sync::{AtomicBool, AtomicWaker, Ordering};
use std::task::Waker;

#[derive(Debug, Default)]
pub(crate) struct WakerCell {
    waker: AtomicWaker,
    /// Set during a registration. A waker that panics in the middle of it leaves this set; as it is cloned, it leaves
    /// the `AtomicWaker` of no use for ever as well.
    registers: AtomicBool,
}

impl WakerCell {
    /// Only for who waits. With a cell of no use the waker is called at once: its task looks again and again, unless
    /// it takes a new cell.
    ///
    /// # Panics
    ///
    /// If the waker does.
    pub(crate) fn register(&self, waker: &Waker) {
        // Relaxed, here and below: for one side alone.
        if self.registers.swap(true, Ordering::Relaxed) {
            return waker.wake_by_ref();
        }
        // What it replaces goes before: a destructor that panics in the middle of a registration would spoil it too.
        drop_contained(self.waker.take());
        self.waker.register(waker);
        self.registers.store(false, Ordering::Relaxed);
    }

    /// Only for who waits.
    pub(crate) fn is_spoiled(&self) -> bool {
        self.registers.load(Ordering::Relaxed)
    }

    /// Only for who waits, and waits no more. The cell may be kept for a while: not what the waker holds.
    pub(crate) fn clear(&self) {
        drop_contained(self.waker.take());
    }

    /// Wakes who waits.
    pub(crate) fn wake(&self) {
        let _ = contain(|| self.waker.wake());
    }
}

#[cfg(all(test, not(shardpool_loom)))]
mod tests {
    use super::*;
    use crate::park::tests::{Woken, loath};
    use std::sync::Arc;

    #[test]
    fn who_registers_again_and_again_is_woken_by_the_wake_alone() {
        let (cell, woken) = (WakerCell::default(), Arc::new(Woken::default()));
        for _ in 0..3 {
            cell.register(&Waker::from(Arc::clone(&woken)));
            assert!(!woken.get() && !cell.is_spoiled());
        }
        cell.wake();
        assert!(woken.get());
        cell.register(&Waker::from(Arc::clone(&woken)));
        assert_eq!(Arc::strong_count(&woken), 2);
        cell.clear();
        assert_eq!(Arc::strong_count(&woken), 1);
    }

    #[test]
    fn g07_a_waker_that_panics_as_it_is_cloned_costs_the_next_no_wake_up() {
        let (cell, woken) = (WakerCell::default(), Arc::new(Woken::default()));
        contain(|| cell.register(&loath())).unwrap_err();
        assert!(cell.is_spoiled());
        cell.register(&Waker::from(Arc::clone(&woken)));
        assert!(woken.get());
    }
}
