//! The one door to atomics: those of the standard library, or loom's under `--cfg shardpool_loom`.
//!
//! Every file of the core with a protocol on atomics takes its types from here, but for `park.rs`, so that
//! the very code that ships is what the model checker runs. The adapters in `executors/` take the standard
//! library's, but for the timer's `WakerCell`. The channel is flume's, or a queue behind a lock that loom can look into.

#[cfg(not(shardpool_loom))]
mod imp {
    pub(crate) use arc_swap::ArcSwapOption;
    pub(crate) use atomic_waker::AtomicWaker;
    pub(crate) use flume::{Receiver, Sender, unbounded};
    pub(crate) use std::sync::atomic::{
        AtomicBool, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, fence,
    };

    /// `std::cell::UnsafeCell` with loom's way of access, which costs nothing here.
    #[derive(Debug, Default)]
    pub(crate) struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

    impl<T> UnsafeCell<T> {
        pub(crate) const fn new(value: T) -> Self {
            Self(std::cell::UnsafeCell::new(value))
        }

        #[inline(always)]
        pub(crate) fn with<R>(&self, f: impl FnOnce(*const T) -> R) -> R {
            f(self.0.get())
        }

        #[inline(always)]
        pub(crate) fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
            f(self.0.get())
        }

        pub(crate) fn get_mut(&mut self) -> &mut T {
            self.0.get_mut()
        }
    }
}

#[cfg(shardpool_loom)]
mod imp {
    pub(crate) use crate::loom::channel::{Receiver, Sender, unbounded};
    pub(crate) use crate::loom::swap::ArcSwapOption;
    pub(crate) use crate::loom::waker::AtomicWaker;
    pub(crate) use loom::sync::atomic::{
        AtomicBool, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, fence,
    };

    #[derive(Debug)]
    pub(crate) struct UnsafeCell<T>(loom::cell::UnsafeCell<T>);

    impl<T> UnsafeCell<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(loom::cell::UnsafeCell::new(value))
        }

        pub(crate) fn with<R>(&self, f: impl FnOnce(*const T) -> R) -> R {
            self.0.with(f)
        }

        pub(crate) fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
            self.0.with_mut(f)
        }

        pub(crate) fn get_mut(&mut self) -> &mut T {
            self.0.with_mut(|p| {
                // SAFETY: `&mut self` excludes every other access while the borrow lives.
                unsafe { &mut *p }
            })
        }
    }
}

pub(crate) use imp::*;
pub(crate) use std::sync::{Arc, Weak, atomic::Ordering};

/// Between two accesses that are SeqCst: loom gives these no more than acquire and release, and knows
/// the one order of all for fences alone.
#[inline(always)]
pub(crate) fn full_order_for_loom() {
    if cfg!(shardpool_loom) {
        fence(Ordering::SeqCst);
    }
}

/// Keeps a value on cache lines of its own: 128 bytes, since x86 fetches lines in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct CachePadded<T>(pub(crate) T);

impl<T> std::ops::Deref for CachePadded<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}
