//! The adapter for smol.

use super::{Clock, Executor, SpawnError, Task};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Runs the pool's futures on smol: on its global executor, or on one of yours.
///
/// **A dropped executor.** smol's global executor lives as long as the process. One of yours drops
/// the pool's futures when it is dropped: each shard closes, commands that had not started are
/// aborted, those whose handler was at an await are aborted as started, and later submissions are
/// refused. Neither the pool nor its futures hold the `Arc`: drop your own, and the executor goes. An
/// executor that nobody runs holds everything up.
///
/// One gap is smol's own: a task that another thread is waking at the very moment in which the
/// executor is dropped can be left neither polled nor dropped (async-executor 1.14), and then its
/// shard's commands are not answered. Drain the pool before you drop the executor, or see to it that
/// nobody submits from other threads meanwhile.
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

    /// On this executor. It counts as run by one thread, see [`threads`](Self::threads).
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
    /// let run_by_four = Smol::new(executor).threads(4);
    /// assert_eq!(Executor::threads(&run_by_four), 4);
    /// ```
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads;
        self
    }
}

impl Executor for Smol {
    fn spawn(&self, task: Task) -> Result<(), SpawnError> {
        match &self.executor {
            // A dropped smol task is cancelled, so each is detached.
            Some(executor) => executor.spawn(task).detach(),
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
