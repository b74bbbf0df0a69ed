//! The two-phase end of a pool.

use crate::contain::contain;
use crate::error::DrainError;
use crate::executors::{Clock, SystemClock, Task};
use crate::lifecycle::Lifecycle;
use crate::park::block_on;
use crate::reentry::{self, Guard, Peers, Target, Verdict};
use crate::stats::Outcomes;
use crate::sync::{Arc, AtomicWaker};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

/// The future of [`drain`](crate::ShardPool::drain) and [`abort`](crate::ShardPool::abort): ready
/// when every future of the pool has ended, with what became of all its commands.
///
/// The call that made it has done its work already: intake is closed (G15) and, for `abort`, what
/// has not started is being resolved. The future only waits.
///
/// # Cancel safety
///
/// It can be dropped and made again at any time, by any number of callers (G16).
///
/// # Errors
///
/// [`DrainError::Timeout`] after the time of [`within`](Self::within);
/// [`DrainError::Deadlock`] inside a handler of the same pool, which it would wait for (G9).
pub struct Drain {
    lifecycle: Arc<Lifecycle>,
    peers: Arc<Peers>,
    clock: Arc<dyn Clock>,
    time: Option<Duration>,
    /// Made from `time` at the first poll.
    timer: Option<Task>,
    cell: Option<Arc<AtomicWaker>>,
    guard: Option<Guard>,
}

impl Drain {
    pub(crate) fn new(
        lifecycle: &Arc<Lifecycle>,
        peers: &Arc<Peers>,
        clock: &Arc<dyn Clock>,
    ) -> Self {
        Self {
            lifecycle: Arc::clone(lifecycle),
            peers: Arc::clone(peers),
            clock: Arc::clone(clock),
            time: None,
            timer: None,
            cell: None,
            guard: None,
        }
    }

    /// Waits no longer than this after the first poll, by the executor's clock; a time too long for
    /// the clock is no limit. The pool stays closed after that, what
    /// was accepted goes on, and `drain` or `abort` can be called again.
    pub fn within(mut self, time: Duration) -> Self {
        self.time = self.clock.now().checked_add(time).map(|_| time);
        self
    }

    /// Blocks the thread until the pool has ended, or the time of [`within`](Self::within) is over
    /// by the system's clock.
    ///
    /// Not for async code: it holds up its executor, perhaps the one that has to end the pool.
    ///
    /// # Errors
    ///
    /// As for the future; [`DrainError::Deadlock`] also where it would block the last thread of the
    /// executor.
    pub fn blocking_wait(mut self) -> Result<Outcomes, DrainError> {
        let Some(_blocked) = reentry::may_block() else { return Err(DrainError::Deadlock) };
        // The executor's timer may need the very thread that this blocks.
        self.clock = Arc::new(SystemClock);
        block_on(self)
    }
}

impl Future for Drain {
    type Output = Result<Outcomes, DrainError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let fronts = &this.peers.fronts;
        if !this.lifecycle.is_over() {
            this.lifecycle.register(&mut this.cell, cx.waker());
        }
        if this.lifecycle.is_over() {
            this.guard = None;
            return Poll::Ready(Ok(fronts.iter().map(|front| front.outcomes()).sum()));
        }
        if let Some(time) = this.time.take() {
            this.timer = Some(this.clock.sleep(time));
        }
        match &mut this.timer {
            Some(timer) => {
                // A runtime's timer may panic when the runtime is shut down: then time is over.
                let time = contain(|| timer.as_mut().poll(cx)).unwrap_or(Poll::Ready(()));
                time.map(|()| {
                    Err(DrainError::Timeout {
                        queued: fronts.iter().map(|front| front.queued()).sum(),
                        running: fronts.iter().map(|front| front.running()).sum(),
                    })
                })
            }
            None => {
                let peers = &this.peers;
                let target = || Some(Target::Drain(Arc::clone(peers)));
                match reentry::watch(&mut this.guard, target) {
                    Verdict::Stuck => Poll::Ready(Err(DrainError::Deadlock)),
                    Verdict::Fine | Verdict::Unknown => Poll::Pending,
                }
            }
        }
    }
}

impl fmt::Debug for Drain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Drain").field("is_over", &self.lifecycle.is_over()).finish()
    }
}
