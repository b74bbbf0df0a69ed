//! The two-phase end of a pool.

use crate::contain::{contain, drop_contained};
use crate::error::DrainError;
use crate::executors::{Clock, SystemClock, Task};
use crate::lifecycle::Lifecycle;
use crate::park::block_on;
use crate::reentry::{self, Peers, Target, Watch};
use crate::stats::Outcomes;
use crate::sync::Arc;
use crate::waker_cell::WakerCell;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// The future of [`drain`](crate::ShardPool::drain) and [`abort`](crate::ShardPool::abort): ready
/// when every future of the pool has ended, with what became of all its commands.
///
/// The call that made it has done its work already: intake is closed (G15) and, for `abort`, what
/// has not started is being resolved. The future only waits.
///
/// ```
/// # use shardpool::{Command, Context, Failure, ShardPool, executors::Threads, handler_fn};
/// # #[derive(Debug, PartialEq)]
/// # struct Add(&'static str, u32);
/// # impl Command for Add { type AggregateId = &'static str; fn aggregate_id(&self) -> &&'static str { &self.0 } }
/// # let builder = ShardPool::builder(handler_fn(|sum: &mut u32, add: Add, _: &Context| {
/// #     if add.1 == 0 { return Err(Failure::Rejected("nothing to add")); }
/// #     *sum += add.1;
/// #     Ok(*sum)
/// # }));
/// # let pool = builder.shards(4).workers_per_shard(2).start(Threads::new()).unwrap();
/// # futures::executor::block_on(async {
/// pool.send(Add("a", 3)).await.unwrap();
/// let (one, other) = futures::join!(pool.drain(), pool.drain());
/// assert_eq!(one.unwrap().committed, 1);
/// assert_eq!(one, other);
/// # });
/// ```
///
/// # Cancel safety
///
/// It can be dropped and made again at any time, by any number of callers (G16).
///
/// # Errors
///
/// [`DrainError::Timeout`] after the time of [`within`](Self::within);
/// [`DrainError::Deadlock`] inside a handler that it would have to wait for (G9), unless `within` bounds the
/// wait.
#[must_use = "intake is closed already, but nothing waits for what was accepted: await this, or call \
              `blocking_wait`"]
pub struct Drain {
    lifecycle: Arc<Lifecycle>,
    peers: Arc<Peers>,
    clock: Arc<dyn Clock>,
    time: Option<Duration>,
    /// Made from `time` at the first poll, and when it goes off.
    timer: Option<(Task, Instant)>,
    cell: Option<Arc<WakerCell>>,
    watch: Watch,
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
            watch: Watch::default(),
        }
    }

    /// Waits no longer than this after the first poll, by the executor's clock, which must run; a time too long for
    /// the clock is no limit. The pool stays closed after that, what was accepted goes on, and
    /// `drain` or `abort` can be called again.
    ///
    /// ```
    /// # use shardpool::{Command, Context, Failure, ShardPool, executors::Threads, handler_fn};
    /// # #[derive(Debug, PartialEq)]
    /// # struct Add(&'static str, u32);
    /// # impl Command for Add { type AggregateId = &'static str; fn aggregate_id(&self) -> &&'static str { &self.0 } }
    /// # let (open, gate) = std::sync::mpsc::channel::<()>();
    /// # let (tell, started) = std::sync::mpsc::channel();
    /// # let gate = std::sync::Mutex::new(gate);
    /// # let builder = ShardPool::builder(handler_fn(move |_: &mut (), _: Add, _: &Context| {
    /// #     tell.send(()).ok();
    /// #     gate.lock().unwrap().recv().ok();
    /// #     Ok::<_, Failure<&'static str>>(())
    /// # })).shards(1).workers_per_shard(1);
    /// # let pool = builder.start(Threads::new()).unwrap();
    /// use shardpool::DrainError;
    /// use std::time::Duration;
    ///
    /// let running = pool.blocking_submit(Add("a", 1)).unwrap();
    /// let queued = pool.blocking_submit(Add("a", 2)).unwrap();
    /// started.recv().unwrap();
    /// let error = pool.drain().within(Duration::from_millis(1)).blocking_wait().unwrap_err();
    /// assert_eq!(error, DrainError::Timeout { queued: 1, running: 1 });
    /// # drop(open);
    /// assert_eq!(pool.drain().blocking_wait().unwrap().committed, 2);
    /// ```
    pub fn within(mut self, time: Duration) -> Self {
        self.time = self.clock.now().checked_add(time).map(|_| time);
        // What an earlier poll has begun: to count an earlier limit, or inside a handler to wait without one.
        self.timer = None;
        self.watch.take_off();
        self
    }

    /// Blocks the thread until the pool has ended, or the time of [`within`](Self::within) is over
    /// by the system's clock.
    ///
    /// Not for async code: it holds up its executor, perhaps the one that has to end the pool.
    ///
    /// ```
    /// # use shardpool::{Command, Context, Failure, ShardPool, executors::Threads, handler_fn};
    /// # #[derive(Debug, PartialEq)]
    /// # struct Add(&'static str, u32);
    /// # impl Command for Add { type AggregateId = &'static str; fn aggregate_id(&self) -> &&'static str { &self.0 } }
    /// # let builder = ShardPool::builder(handler_fn(|sum: &mut u32, add: Add, _: &Context| {
    /// #     if add.1 == 0 { return Err(Failure::Rejected("nothing to add")); }
    /// #     *sum += add.1;
    /// #     Ok(*sum)
    /// # }));
    /// # let pool = builder.shards(4).workers_per_shard(2).start(Threads::new()).unwrap();
    /// let _ticket = pool.blocking_submit(Add("a", 3)).unwrap();
    /// let outcomes = pool.drain().blocking_wait().unwrap();
    /// assert_eq!((outcomes.committed, outcomes.total()), (1, 1));
    /// ```
    ///
    /// # Errors
    ///
    /// As for the future; [`DrainError::Deadlock`] also where it would block the last thread of the
    /// executor.
    pub fn blocking_wait(mut self) -> Result<Outcomes, DrainError> {
        if self.lifecycle.is_over() {
            return Ok(self.outcomes());
        }
        let Some(_blocked) = reentry::may_block() else { return Err(DrainError::Deadlock) };
        // The executor's timer may need the very thread that this blocks; so may one that runs already.
        if let Some((_, at)) = self.timer.take() {
            self.time = Some(at.saturating_duration_since(self.clock.now()));
        }
        self.clock = Arc::new(SystemClock);
        block_on(self)
    }

    fn outcomes(&self) -> Outcomes {
        self.peers.fronts.iter().map(|front| front.outcomes()).sum()
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
            this.watch.take_off();
            return Poll::Ready(Ok(this.outcomes()));
        }
        if let Some(time) = this.time.take() {
            let at = this.clock.now().checked_add(time);
            this.timer = at.map(|at| (this.clock.sleep(time), at));
        }
        match &mut this.timer {
            Some((timer, at)) => {
                // A runtime's timer may panic when the runtime is shut down, while a handler that blocks goes on:
                // then the system's is asked for the rest of the time.
                let time = contain(|| timer.as_mut().poll(cx)).unwrap_or_else(|_| {
                    let left = at.saturating_duration_since(this.clock.now());
                    drop_contained(std::mem::replace(timer, SystemClock.sleep(left)));
                    timer.as_mut().poll(cx)
                });
                time.map(|()| {
                    Err(DrainError::Timeout {
                        queued: fronts.iter().map(|front| front.queued()).sum(),
                        running: fronts.iter().map(|front| front.running()).sum(),
                    })
                })
            }
            None => {
                let peers = &this.peers;
                if this.watch.is_stuck(cx, |_| Some(Target::Drain(Arc::clone(peers)))) {
                    Poll::Ready(Err(DrainError::Deadlock))
                } else {
                    Poll::Pending
                }
            }
        }
    }
}

impl Drop for Drain {
    fn drop(&mut self) {
        // The pool keeps the cell until its end.
        if let Some(cell) = &self.cell {
            cell.clear();
        }
    }
}

impl fmt::Debug for Drain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Drain").field("is_over", &self.lifecycle.is_over()).finish()
    }
}
