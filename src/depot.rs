//! A depot: slots in which threads leave things for each other.
//!
//! # Who may touch what, and when
//!
//! A slot is null, or owns what it points to. Who changes it from null gives that away (Release: with all
//! that was written to it), who changes it to null owns it from then on (Acquire). Nothing is read through
//! a pointer that is still in a slot; so one that is seen in it twice, for two things, does no harm.

use crate::sync::{AtomicPtr, Ordering};
use std::ptr::{NonNull, null_mut};

/// So many slots. What is in them when it ends is not dropped.
pub(crate) struct Depot<T, const SLOTS: usize>([AtomicPtr<T>; SLOTS]);

impl<T, const SLOTS: usize> Depot<T, SLOTS> {
    #[cfg(not(shardpool_loom))]
    pub(crate) const fn new() -> Self {
        Self([const { AtomicPtr::new(null_mut()) }; SLOTS])
    }

    /// Not `const`, as loom's atomics are not.
    #[cfg(all(test, shardpool_loom))]
    pub(crate) fn new() -> Self {
        Self(std::array::from_fn(|_| AtomicPtr::new(null_mut())))
    }

    /// Leaves it for others. False if all slots are taken: it is still the caller's.
    pub(crate) fn put(&self, thing: NonNull<T>) -> bool {
        self.0.iter().any(|slot| {
            // Relaxed loads, here and below, choose a slot that is worth a try, and nothing else. Nor does
            // a failed exchange read anything.
            slot.load(Ordering::Relaxed).is_null()
                && slot
                    .compare_exchange(
                        null_mut(),
                        thing.as_ptr(),
                        Ordering::Release,
                        Ordering::Relaxed,
                    )
                    .is_ok()
        })
    }

    /// Takes what somebody has left.
    pub(crate) fn take(&self) -> Option<NonNull<T>> {
        self.0.iter().find_map(|slot| {
            if slot.load(Ordering::Relaxed).is_null() {
                return None;
            }
            NonNull::new(slot.swap(null_mut(), Ordering::Acquire))
        })
    }
}
