//! Blocking a thread until a future is ready.
//!
//! # Who may touch what, and when
//!
//! Whoever wakes sets `notified`, and unparks the thread if it was not set. The thread, when a poll was pending,
//! clears it and polls again if it was set, and parks if not.

use crate::sync::{Arc, Ordering};
use std::cell::Cell;
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

/// Wakes a thread that blocks in [`block_on`].
#[derive(Debug)]
struct Unparker {
    thread: Thread,
    notified: std::sync::atomic::AtomicBool,
}

impl Wake for Unparker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Release, with the acquire in `block_on`: the poll after a wake sees what led to it.
        if !self.notified.swap(true, Ordering::Release) {
            self.thread.unpark();
        }
    }
}

thread_local! {
    /// The thread's unparker, so that a blocking call allocates nothing. A nested call finds it
    /// gone and makes its own: the outer call's notice must not be eaten by the inner one.
    static UNPARKER: Cell<Option<Arc<Unparker>>> = const { Cell::new(None) };
}

/// Runs a future on this thread, which sleeps while it is pending.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    let unparker = UNPARKER.try_with(Cell::take).ok().flatten().unwrap_or_else(|| {
        Arc::new(Unparker {
            thread: thread::current(),
            notified: std::sync::atomic::AtomicBool::new(false),
        })
    });
    let waker = Waker::from(Arc::clone(&unparker));
    let mut cx = Context::from_waker(&waker);
    let mut future = pin!(future);
    let output = loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut cx) {
            break output;
        }
        if unparker.notified.load(Ordering::Relaxed) {
            // It has woken itself, perhaps to see what others have done meanwhile: they may need the processor.
            thread::yield_now();
        }
        while !unparker.notified.swap(false, Ordering::Acquire) {
            thread::park();
        }
    };
    // A thread that is ending has no place to keep it; then it is freed.
    let _ = UNPARKER.try_with(|slot| slot.set(Some(unparker)));
    output
}

#[cfg(all(test, not(shardpool_loom)))]
pub(crate) mod tests {
    use super::*;
    use crate::sync::AtomicBool;
    use std::future::poll_fn;
    use std::task::{RawWaker, RawWakerVTable};

    /// A waker that notes whether it was woken.
    #[derive(Default)]
    pub(crate) struct Woken(AtomicBool);

    impl Woken {
        pub(crate) fn get(&self) -> bool {
            self.0.load(Ordering::Relaxed)
        }
    }

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    /// A waker that panics when it is cloned.
    pub(crate) fn loath() -> Waker {
        fn clone(_: *const ()) -> RawWaker {
            panic!("a waker is cloned")
        }
        static TABLE: RawWakerVTable = RawWakerVTable::new(clone, |_| (), |_| (), |_| ());
        // SAFETY: there is no data, and nothing but the clone does anything.
        unsafe { Waker::from_raw(RawWaker::new(std::ptr::null(), &TABLE)) }
    }

    #[test]
    fn a_nested_block_on_leaves_the_outer_wake_alone() {
        let mut polls = 0;
        block_on(poll_fn(|cx| {
            polls += 1;
            if polls == 2 {
                return Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            let mut inner = 0;
            block_on(poll_fn(|cx| {
                inner += 1;
                cx.waker().wake_by_ref();
                if inner == 2 { Poll::Ready(()) } else { Poll::Pending }
            }));
            Poll::Pending
        }));
        assert_eq!(polls, 2);
    }
}
