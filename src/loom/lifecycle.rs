//! The end of the pool's futures, and who drains.

use crate::lifecycle::Lifecycle;
use crate::loom::check::{block_on, check};
use crate::sync::Arc;
use loom::thread;
use std::future::poll_fn;
use std::task::{Context, Poll, Waker};

/// Waits as a drain does.
fn drain(lifecycle: &Arc<Lifecycle>) {
    let mut cell = None;
    block_on(poll_fn(|cx| {
        if !lifecycle.is_over() {
            lifecycle.register(&mut cell, cx.waker());
        }
        if lifecycle.is_over() { Poll::Ready(()) } else { Poll::Pending }
    }));
}

#[test]
fn the_last_future_wakes_who_drains() {
    check(|| {
        let lifecycle = Lifecycle::new();
        for alive in [lifecycle.alive(), lifecycle.alive()] {
            thread::spawn(move || drop(alive));
        }
        drain(&lifecycle);
    });
}

#[test]
fn a_drain_that_tidies_up_takes_no_other_off_the_list() {
    check(|| {
        let lifecycle = Lifecycle::new();
        let alive = lifecycle.alive();
        // One that was given up, to be tidied up.
        lifecycle.register(&mut None, Context::from_waker(Waker::noop()).waker());
        let other = Arc::clone(&lifecycle);
        let other = thread::spawn(move || drain(&other));
        thread::spawn(move || drop(alive));
        drain(&lifecycle);
        other.join().unwrap();
    });
}
