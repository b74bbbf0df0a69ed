//! The set of workers that sleep, a bit each.
//!
//! # Who may touch what, and when
//!
//! A worker sets its own bit before its last look at the ring. It is cleared by whoever is going to
//! make the worker look again: the dispatcher or a submitter, which then wakes it, or the worker itself when
//! that last look found something, when it is polled, or when it goes. The old value of one read-modify-write decides who it was.

use crate::sync::{AtomicU64, Ordering};

pub(crate) struct IdleSet {
    words: Box<[AtomicU64]>,
}

impl IdleSet {
    pub(crate) fn new(workers: usize) -> Self {
        Self { words: (0..workers.div_ceil(64)).map(|_| AtomicU64::new(0)).collect() }
    }

    #[inline]
    pub(crate) fn insert(&self, worker: usize) {
        // SeqCst here and in `is_empty`, with the fences of `Floor`: see there.
        self.words[worker / 64].fetch_or(1 << (worker % 64), Ordering::SeqCst);
    }

    /// True if the worker was in the set: nobody else has taken it out.
    #[inline]
    pub(crate) fn remove(&self, worker: usize) -> bool {
        let bit = 1 << (worker % 64);
        // Acquire: who takes a worker out sees the waker that it registered before it was listed. Release: the
        // worker, which tries as well, sees the errand that was set before (`crew.rs`).
        self.words[worker / 64].fetch_and(!bit, Ordering::AcqRel) & bit != 0
    }

    /// Takes the worker out, if nobody has. Only for the worker itself.
    #[inline]
    pub(crate) fn leave(&self, worker: usize) {
        // The load first: mostly who woke it has taken it out. A bit that is gone stays so, for nobody else puts it
        // there. Acquire: as in `remove`.
        if self.words[worker / 64].load(Ordering::Acquire) & (1 << (worker % 64)) != 0 {
            self.remove(worker);
        }
    }

    /// Takes one worker out. Whoever gets it must wake it.
    pub(crate) fn pop(&self) -> Option<usize> {
        for (i, word) in self.words.iter().enumerate() {
            // Relaxed: a guess; `remove` decides.
            let mut bits = word.load(Ordering::Relaxed);
            while bits != 0 {
                let bit = bits.trailing_zeros() as usize;
                if self.remove(i * 64 + bit) {
                    return Some(i * 64 + bit);
                }
                bits &= bits - 1;
            }
        }
        None
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.words.iter().all(|word| word.load(Ordering::SeqCst) == 0)
    }
}

#[cfg(all(test, not(shardpool_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_worker_is_taken_out_once_also_beyond_64() {
        let set = IdleSet::new(130);
        for worker in [3, 64, 65, 129] {
            set.insert(worker);
        }
        set.leave(65);
        set.leave(65);
        assert!(set.remove(64));
        assert!(!set.remove(64));
        assert_eq!((set.pop(), set.pop(), set.pop()), (Some(3), Some(129), None));
        assert!(set.is_empty());
    }
}
