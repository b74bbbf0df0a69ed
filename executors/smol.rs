//! The adapter for smol. Who may touch a task that is spawned on it, and when: see `Guarded`.

use super::{Clock, Executor, SpawnError, Task};
use atomic_waker::AtomicWaker;
use std::cell::UnsafeCell;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering, fence};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

/// Runs the pool's futures on smol: on its global executor, or on one of yours. Needs the feature `smol`.
///
/// **A dropped executor.** smol's global executor lives as long as the process. One of yours drops
/// the pool's futures when it is dropped: each shard closes, commands that had not started are
/// aborted, those whose handler was at an await are aborted as started, and later submissions are
/// refused. A future that is woken meanwhile may outlive the executor by a moment, on a thread of
/// smol's. Neither the pool nor its futures hold the `Arc`: drop your own, and the executor goes. Keep
/// it in its `Arc` as long as it runs: taken out of that, it counts as dropped. An executor that nobody
/// runs holds everything up.
///
/// ```
/// # use shardpool::{Command, Context, Failure, ShardPool, handler_fn};
/// use shardpool::executors::Smol;
///
/// # struct Add(u32);
/// # impl Command for Add { type AggregateId = u32; fn aggregate_id(&self) -> &u32 { &self.0 } }
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// smol::block_on(async {
///     let handler = handler_fn(|n: &mut u32, add: Add, _: &Context| {
///         *n += add.0;
///         Ok::<_, Failure<std::io::Error>>(*n)
///     });
///     let pool = ShardPool::builder(handler).start(Smol::global())?;
///     assert_eq!(pool.send(Add(3)).await?.output, 3);
///     pool.drain().await?;
///     Ok(())
/// })
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Smol {
    /// `None`: the global one.
    executor: Option<Arc<::smol::Executor<'static>>>,
    threads: usize,
}

impl Smol {
    /// On smol's global executor, which has `SMOL_THREADS` threads, by default one.
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
    /// use shardpool::executors::Smol;
    ///
    /// let pool = builder.start(Smol::global())?;
    /// assert_eq!(pool.blocking_send(Add("a", 3)).unwrap().output, 3);
    /// # Ok::<(), shardpool::StartError>(())
    /// ```
    pub fn global() -> Self {
        let threads = std::env::var("SMOL_THREADS").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
        Self { executor: None, threads }
    }

    /// On this executor. It counts as run by one thread, see [`with_threads`](Self::with_threads).
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
    /// use shardpool::executors::Smol;
    /// use std::sync::Arc;
    ///
    /// let executor = Arc::new(smol::Executor::new());
    /// let pool = builder.start(Smol::new(Arc::clone(&executor)))?;
    /// // Somebody must run it: here, as long as this command takes.
    /// let receipt = smol::block_on(executor.run(pool.send(Add("a", 3)))).unwrap();
    /// assert_eq!(receipt.output, 3);
    /// # Ok::<(), shardpool::StartError>(())
    /// ```
    pub fn new(executor: Arc<::smol::Executor<'static>>) -> Self {
        Self { executor: Some(executor), threads: 1 }
    }

    /// Says how many threads run the executor: one less than this many handlers may block their
    /// thread in a blocking wait of the pool's (G9).
    ///
    /// ```
    /// use shardpool::executors::{Executor, Smol};
    ///
    /// let executor = std::sync::Arc::new(smol::Executor::new());
    /// let run_by_four = Smol::new(executor).with_threads(4);
    /// assert_eq!(run_by_four.threads(), 4);
    /// ```
    pub fn with_threads(mut self, threads: usize) -> Self {
        self.threads = threads;
        self
    }
}

impl Executor for Smol {
    fn spawn(&self, task: Task) -> Result<(), SpawnError> {
        match &self.executor {
            // A dropped smol task is cancelled, so each is detached.
            Some(executor) => executor.spawn(Guarded::new(task, executor)).detach(),
            None => ::smol::spawn(task).detach(),
        }
        Ok(())
    }

    fn clock(&self) -> Arc<dyn Clock> {
        Arc::new(SmolClock)
    }

    fn threads(&self) -> usize {
        self.threads
    }
}

/// The system's clock, with smol's timer.
struct SmolClock;

impl Clock for SmolClock {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn sleep(&self, time: Duration) -> Task {
        Box::pin(async move {
            ::smol::Timer::after(time).await;
        })
    }
}

/// A future of the pool's on an executor that can be dropped.
///
/// async-executor (1.14) drops what is in its queue, but a task that another thread is waking at that
/// very moment is put in the queue after that: it is neither polled nor dropped any more. So the
/// future is shared with its waker: who wakes it and then finds the executor gone has it dropped, by a
/// thread of smol's for blocking work.
///
/// # Who may touch what, and when
///
/// `task` belongs to whoever moved `state` away from `FREE`: the poll, for its duration; or, for good,
/// whoever moved it to `GONE`.
struct Guarded {
    slot: Arc<Slot>,
    /// Of the slot; made once.
    waker: Waker,
}

struct Slot {
    state: AtomicU8,
    task: UnsafeCell<Option<Task>>,
    /// The executor's waker for the task.
    outer: AtomicWaker,
    executor: Weak<::smol::Executor<'static>>,
}

const FREE: u8 = 0;
const POLLED: u8 = 1;
const GONE: u8 = 2;

// SAFETY: `task` has one owner at a time, by `state`, and is `Send`.
unsafe impl Sync for Slot {}

impl Guarded {
    fn new(task: Task, executor: &Arc<::smol::Executor<'static>>) -> Self {
        let slot = Arc::new(Slot {
            state: AtomicU8::new(FREE),
            task: UnsafeCell::new(Some(task)),
            outer: AtomicWaker::new(),
            executor: Arc::downgrade(executor),
        });
        let waker = Waker::from(Arc::clone(&slot));
        Self { slot, waker }
    }
}

impl Slot {
    /// Takes the task for the time of one poll, or for good. False if somebody else has it.
    fn enter(&self, to: u8) -> bool {
        // Acquire: pairs with the release of the last poll. Who fails touches nothing.
        self.state.compare_exchange(FREE, to, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    /// Whether it is worth an attempt to take the task.
    fn is_free(&self) -> bool {
        // Relaxed: who takes it looks again.
        self.state.load(Ordering::Relaxed) == FREE
    }

    fn drop_task(&self) {
        if self.enter(GONE) {
            // SAFETY: the state was `FREE`, and is `GONE` by this call: the task is ours.
            drop(unsafe { (*self.task.get()).take() });
        }
    }
}

impl Future for Guarded {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let slot = &self.slot;
        // Before the poll: a wake that came earlier is answered by this poll.
        slot.outer.register(cx.waker());
        if !slot.enter(POLLED) {
            return Poll::Ready(());
        }
        // SAFETY: the state was `FREE`, and is `POLLED` by this call: the task is ours until it is
        // stored anew.
        let task = unsafe { &mut *slot.task.get() };
        let polled = match task {
            Some(task) => task.as_mut().poll(&mut Context::from_waker(&self.waker)),
            None => Poll::Ready(()),
        };
        if polled.is_ready() {
            *task = None;
        }
        // Release: hands the task on.
        slot.state.store(if polled.is_ready() { GONE } else { FREE }, Ordering::Release);
        polled
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        self.slot.drop_task();
    }
}

impl Wake for Slot {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.outer.wake();
        // Between the push on the executor's queue and the look whether it is there: if it is, its
        // drop has yet to empty the queue, and finds the task.
        fence(Ordering::SeqCst);
        if self.executor.strong_count() == 0 && self.is_free() {
            // Not here: who wakes may hold a lock that the drop of the future needs, as smol's channels do.
            let slot = Arc::clone(self);
            ::smol::unblock(move || slot.drop_task()).detach();
        }
    }
}
