//! Plain threads: no runtime needed.

use super::{Executor, SpawnError, Task};
use crate::park::block_on;
use std::thread;

/// Runs each of the pool's futures on an OS thread of its own, which sleeps while the future is
/// pending: one per dispatcher and one per worker. Right for handlers that block.
///
/// With the builder's defaults that is nine threads for each core: set
/// [`shards`](crate::Builder::shards) and [`workers_per_shard`](crate::Builder::workers_per_shard).
///
/// The threads end with the pool. They are detached, so the end of the process does not wait for
/// them: drain first. A handler may await any future that needs no runtime around it.
///
/// ```
/// # use shardpool::{Command, Context, Failure, ShardPool, handler_fn};
/// use shardpool::executors::Threads;
///
/// # struct Add(u32);
/// # impl Command for Add { type AggregateId = u32; fn aggregate_id(&self) -> &u32 { &self.0 } }
/// let handler = handler_fn(|n: &mut u32, add: Add, _: &Context| {
///     *n += add.0; // may block
///     Ok::<_, Failure<std::io::Error>>(*n)
/// });
/// let pool = ShardPool::builder(handler).shards(1).workers_per_shard(4).start(Threads::new())?;
/// assert_eq!(pool.blocking_send(Add(3))?.output, 3);
/// pool.drain().blocking_wait()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct Threads(());

impl Threads {
    /// One thread per future.
    ///
    /// ```
    /// use shardpool::executors::{Executor, Threads};
    ///
    /// assert_eq!(Threads::new().threads(), usize::MAX); // none is shared, so any of them may block
    /// ```
    pub fn new() -> Self {
        Self(())
    }
}

impl Executor for Threads {
    fn spawn(&self, task: Task) -> Result<(), SpawnError> {
        thread::Builder::new()
            .name("shardpool".to_owned())
            .spawn(move || block_on(task))
            .map(drop)
            .map_err(SpawnError::new)
    }

    fn threads(&self) -> usize {
        usize::MAX
    }
}
