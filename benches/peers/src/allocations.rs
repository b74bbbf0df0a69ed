//! Counts allocations, at the same small price for every contender.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

/// More than there are threads in most contenders, so that a counter is seldom shared.
const STRIPES: usize = 128;

#[repr(align(64))]
struct Stripe(AtomicU64);

static COUNTS: [Stripe; STRIPES] = [const { Stripe(AtomicU64::new(0)) }; STRIPES];
static NEXT: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    // Constant and without a destructor: it allocates nothing, and can be used while a thread ends.
    static MINE: Cell<usize> = const { Cell::new(usize::MAX) };
}

/// How many allocations there have been in this process.
pub fn count() -> u64 {
    COUNTS.iter().map(|stripe| stripe.0.load(Relaxed)).sum()
}

fn note() {
    let stripe = MINE.get();
    let stripe = if stripe == usize::MAX {
        let next = NEXT.fetch_add(1, Relaxed) % STRIPES;
        MINE.set(next);
        next
    } else {
        stripe
    };
    COUNTS[stripe].0.fetch_add(1, Relaxed);
}

/// The system's allocator, counted.
pub struct Counting;

// SAFETY: every call goes to the system's allocator with the caller's arguments.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note();
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note();
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note();
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}
