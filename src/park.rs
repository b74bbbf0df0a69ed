//! Waiting and waking.
//!
//! # Who may touch what, and when
//!
//! A [`Sleeper`] has one sleeper, the dispatcher, and any number of wakers. `asleep` is set by the
//! sleeper alone, and cleared by the sleeper or by the one waker that then wakes it.
//!
//! # No wake-up is lost
//!
//! The sleeper: (1) registers its waker, (2) sets `asleep`, (3) looks for work once more, and
//! returns `Pending` only if there is none. A waker: (a) leaves work, (b) reads `asleep`, and wakes
//! if it is set. If (b) reads the value before (2), then (3) must find the work of (a). Two ways to
//! be sure of that:
//!
//! * [`Sleeper::wake`] has a sequentially consistent fence between (a) and (b), and
//!   [`Sleeper::prepare`] one between (2) and (3). One fence comes first; the side with the later
//!   one sees what the other did before its own.
//! * [`Sleeper::wake_after_push`] needs no fence where (a) is a push on a flume channel and (3)
//!   looks at the same channel: both take the channel's lock. If the look came first, the push
//!   takes the lock after the look released it, so (b) sees (2). Otherwise the look sees the push.

use crate::contain::contain;
use crate::sync::{Arc, AtomicBool, AtomicWaker, Ordering, fence};
use std::cell::Cell;
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

/// Where one task sleeps while it has nothing to do.
#[derive(Debug, Default)]
pub(crate) struct Sleeper {
    asleep: AtomicBool,
    waker: AtomicWaker,
}

impl Sleeper {
    /// The sleeper is about to sleep: it must look for work after this, and before it does.
    pub(crate) fn prepare(&self, waker: &Waker) {
        self.waker.register(waker);
        // Release: who swaps it away also sees the registered waker.
        self.asleep.store(true, Ordering::Release);
        fence(Ordering::SeqCst);
    }

    /// The sleeper goes on working: it needs no wake until it prepares again.
    pub(crate) fn awake(&self) {
        // Relaxed: a waker that still reads `true` wakes once more than needed. The load first: mostly
        // a waker has cleared it, and the line stays shared with all who ask.
        if self.asleep.load(Ordering::Relaxed) {
            self.asleep.store(false, Ordering::Relaxed);
        }
    }

    /// Wakes the sleeper if it sleeps, after any change that it looks at.
    pub(crate) fn wake(&self) {
        fence(Ordering::SeqCst);
        self.wake_after_push();
    }

    /// Wakes the sleeper if it sleeps, after a push on a flume channel that it looks at.
    pub(crate) fn wake_after_push(&self) {
        // The load first: most of the time the sleeper is awake, and the line stays shared.
        if self.asleep.load(Ordering::Relaxed) && self.asleep.swap(false, Ordering::AcqRel) {
            let _ = contain(|| self.waker.wake());
        }
    }
}

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
        while !unparker.notified.swap(false, Ordering::Acquire) {
            thread::park();
        }
    };
    // A thread that is ending has no place to keep it; then it is freed.
    let _ = UNPARKER.try_with(|slot| slot.set(Some(unparker)));
    output
}

#[cfg(all(test, not(shardpool_loom)))]
mod tests {
    use super::*;
    use std::future::poll_fn;

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
