//! Whether a worker's poll has had a dispatcher or a worker go on with its work, so that others should run before the
//! next handler does.
//!
//! tokio keeps the task that a thread has woken last with that thread, where no other can take it. If that is a
//! dispatcher or a worker, and the poll that woke it goes on to a handler that blocks its thread, then whatever needs
//! it is held up (G2). So a worker looks here before it claims a command, whoever did the waking: the worker itself, a
//! handler that it has polled, or a destructor of the user's. What this does not cover: the wakes after that look, for
//! the room that the claim gives back, and by the handler itself before it blocks; and callers whose command has ended.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

#[cfg(not(shardpool_loom))]
thread_local! {
    static WOKEN: Cell<bool> = const { Cell::new(false) };
}

// loom runs all of a model's threads on one of the system's.
#[cfg(shardpool_loom)]
loom::thread_local! {
    static WOKEN: Cell<bool> = Cell::new(false);
}

/// The future of a worker, whose every poll begins with nobody woken.
pub(crate) struct Polls<F>(pub(crate) F);

impl<F: Future> Future for Polls<F> {
    type Output = F::Output;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        // SAFETY: the future is pinned with this: nothing else reaches it here, it is not moved, and neither `Drop`
        // nor `Unpin` is implemented by hand.
        let future = unsafe { self.map_unchecked_mut(|this| &mut this.0) };
        scope(|| future.poll(cx))
    }
}

/// A poll may be inside that of another, which then has woken whom this wakes.
#[inline]
pub(super) fn scope<R>(poll: impl FnOnce() -> R) -> R {
    let outer = WOKEN.try_with(|woken| woken.replace(false));
    let polled = poll();
    if outer.unwrap_or(false) {
        note();
    }
    polled
}

/// This thread has woken a dispatcher or a worker.
pub(crate) fn note() {
    // A thread that is ending may have lost its note: then it polls no worker any more.
    let _ = WOKEN.try_with(|woken| woken.set(true));
}

/// Whether this poll has woken any.
#[inline]
pub(crate) fn is_any() -> bool {
    WOKEN.try_with(Cell::get).unwrap_or(false)
}

#[cfg(all(test, not(shardpool_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_poll_begins_with_nobody_woken_and_one_around_it_has_woken_whom_it_wakes() {
        note();
        scope(|| {
            assert!(!is_any());
            scope(|| assert!(!is_any()));
            assert!(!is_any());
            scope(note);
            assert!(is_any());
            scope(|| assert!(!is_any()));
            assert!(is_any());
        });
    }
}
