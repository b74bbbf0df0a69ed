//! Counts allocations, and keeps some of them apart, at the same small price for every contender.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

/// Two lines of the cache, since processors fetch them in pairs.
const LINES: usize = 128;

/// More than there are threads in most contenders, so that a counter is seldom shared.
const STRIPES: usize = 128;

#[repr(align(64))]
struct Stripe(AtomicU64);

static COUNTS: [Stripe; STRIPES] = [const { Stripe(AtomicU64::new(0)) }; STRIPES];
static NEXT: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    // Constant and without a destructor: it allocates nothing, and can be used while a thread ends.
    static MINE: Cell<usize> = const { Cell::new(usize::MAX) };
    static APART: Cell<bool> = const { Cell::new(false) };
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

/// Starts something, and gives each thing that the thread allocates meanwhile lines of the cache of its
/// own.
///
/// A runtime and a contender have words that their threads write for each task or command, and not all
/// of those are padded: whether two share a line would be up to chance, and differ by contender. With
/// the heads of tokio's run queues on one line, the pool did a fifth less in W1.
pub fn apart<R>(start: impl FnOnce() -> R) -> R {
    APART.set(true);
    let started = start();
    APART.set(false);
    started
}

/// What is asked of the system for a layout.
fn placed(layout: Layout) -> Layout {
    // On Unix the system's allocator frees by the address alone; elsewhere it wants the alignment again.
    if cfg!(unix) && APART.get() {
        layout.align_to(LINES).map_or(layout, |layout| layout.pad_to_align())
    } else {
        layout
    }
}

/// The system's allocator, counted.
pub struct Counting;

// SAFETY: every call goes to the system's allocator, with the caller's arguments or, where a block is to
// stand apart, for one that is larger and more aligned: that is freed and grown as any other, see `placed`.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note();
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(placed(layout)) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note();
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc_zeroed(placed(layout)) }
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
