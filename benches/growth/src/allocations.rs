//! Counts the bytes that are in use, without threads getting in each other's way.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering::Relaxed};

/// More than there are threads, so that a counter is seldom shared.
const STRIPES: usize = 16;

#[repr(align(64))]
struct Stripe(AtomicI64);

static LIVE: [Stripe; STRIPES] = [const { Stripe(AtomicI64::new(0)) }; STRIPES];
static NEXT: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    // Constant and without a destructor: it allocates nothing, and can be used while a thread ends.
    static MINE: Cell<usize> = const { Cell::new(usize::MAX) };
}

/// How many bytes are in use, as they were asked for. Exact when no other thread allocates.
pub fn live() -> i64 {
    LIVE.iter().map(|stripe| stripe.0.load(Relaxed)).sum()
}

fn note(bytes: i64) {
    let stripe = match MINE.get() {
        usize::MAX => {
            let next = NEXT.fetch_add(1, Relaxed) % STRIPES;
            MINE.set(next);
            next
        }
        stripe => stripe,
    };
    LIVE[stripe].0.fetch_add(bytes, Relaxed);
}

/// The system's allocator, counted.
pub struct Counting;

// SAFETY: every call goes to the system's allocator with the caller's arguments. `realloc` is the
// provided one, made of the two others.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size() as i64);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        note(-(layout.size() as i64));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}
