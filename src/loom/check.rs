//! Runs a model, and says how many interleavings it has.

use crate::command::Command;
use crate::sync::Arc;
use loom::sync::{Condvar, Mutex};
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

/// How many preemptions a thread suffers at most, unless `LOOM_MAX_PREEMPTIONS` says otherwise.
const BOUND: usize = 2;

/// How many steps one interleaving has at most.
const STEPS: usize = 5_000;

/// Runs a model under each of its interleavings, and prints how many there were.
pub(crate) fn check(model: impl Fn() + Send + Sync + 'static) {
    check_large(0, model);
}

/// As `check`, for a model of so many steps or threads that it is run with so many preemptions less.
pub(crate) fn check_large(less: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    let bound = builder.preemption_bound.unwrap_or(BOUND).saturating_sub(less);
    builder.preemption_bound = Some(bound);
    builder.max_branches = STEPS;
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    builder.check(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        model();
    });
    let (count, this) = (count.load(Ordering::Relaxed), std::thread::current());
    println!("{count:>9} interleavings at bound {bound}: {}", this.name().unwrap_or("?"));
    assert!(count > 1, "nothing in this model runs in parallel");
}

/// Blocks a thread of a model until it is woken. It never wakes by itself: a wake-up that is lost is a
/// deadlock, which loom reports.
#[derive(Default)]
pub(crate) struct Parker {
    woken: Mutex<bool>,
    wake: Condvar,
}

impl Parker {
    pub(crate) fn park(&self) {
        let mut woken = self.woken.lock().unwrap();
        while !*woken {
            woken = self.wake.wait(woken).unwrap();
        }
        *woken = false;
    }
}

impl Wake for Parker {
    fn wake(self: Arc<Self>) {
        *self.woken.lock().unwrap() = true;
        self.wake.notify_one();
    }
}

/// Runs a future on this thread of a model.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    let parker = Arc::new(Parker::default());
    let waker = Waker::from(Arc::clone(&parker));
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        parker.park();
    }
}

/// A command, which is nothing but its aggregate's id.
#[derive(Debug)]
pub(crate) struct To(pub(crate) u8);

impl Command for To {
    type AggregateId = u8;

    fn aggregate_id(&self) -> &u8 {
        &self.0
    }
}

/// Something that must be dropped once: counts those that live.
pub(crate) struct Counted(Arc<()>);

impl Counted {
    /// One of them, and the way to tell how many live.
    pub(crate) fn new() -> (Self, impl Fn() -> usize + Send) {
        let count = Arc::new(());
        (Self(Arc::clone(&count)), move || Arc::strong_count(&count) - 1)
    }
}

impl Clone for Counted {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}
