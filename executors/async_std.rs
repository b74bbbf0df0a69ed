//! The adapter for async-std.

use super::{Clock, Executor, SpawnError, Task};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Runs the pool's futures on async-std's executor. Needs the feature `async-std`.
///
/// async-std is no longer maintained (RUSTSEC-2025-0052); the adapter is for programs that still
/// use it. Its executor belongs to the process and can't be dropped; at the end of the process what
/// has not finished is lost, so drain first.
///
/// ```
/// # use shardpool::{Command, Context, Failure, ShardPool, handler_fn};
/// use shardpool::executors::AsyncStd;
///
/// # struct Add(u32);
/// # impl Command for Add { type AggregateId = u32; fn aggregate_id(&self) -> &u32 { &self.0 } }
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// async_std::task::block_on(async {
///     let handler = handler_fn(|n: &mut u32, add: Add, _: &Context| {
///         *n += add.0;
///         Ok::<_, Failure<std::io::Error>>(*n)
///     });
///     let pool = ShardPool::builder(handler).start(AsyncStd::new())?;
///     assert_eq!(pool.send(Add(3)).await?.output, 3);
///     pool.drain().await?;
///     Ok(())
/// })
/// # }
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct AsyncStd(());

impl AsyncStd {
    /// On async-std's executor.
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
    /// use shardpool::executors::AsyncStd;
    ///
    /// let pool = builder.start(AsyncStd::new())?;
    /// // The caller may be outside of async-std.
    /// assert_eq!(pool.blocking_send(Add("a", 3)).unwrap().output, 3);
    /// # Ok::<(), shardpool::StartError>(())
    /// ```
    pub fn new() -> Self {
        Self(())
    }
}

impl Executor for AsyncStd {
    fn spawn(&self, task: Task) -> Result<(), SpawnError> {
        // Dropping the handle detaches the task.
        drop(::async_std::task::spawn(task));
        Ok(())
    }

    fn clock(&self) -> Arc<dyn Clock> {
        Arc::new(AsyncStdClock)
    }

    fn threads(&self) -> usize {
        std::env::var("ASYNC_STD_THREAD_COUNT")
            .ok()
            .and_then(|n| n.parse().ok())
            .or_else(|| std::thread::available_parallelism().ok().map(usize::from))
            .unwrap_or(1)
    }
}

/// The system's clock, with async-std's timer.
struct AsyncStdClock;

impl Clock for AsyncStdClock {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn sleep(&self, time: Duration) -> Task {
        Box::pin(::async_std::task::sleep(time))
    }
}
