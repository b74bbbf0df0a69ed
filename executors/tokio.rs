//! The adapter for tokio.

use super::{Clock, Executor, SpawnError, Task};
use ::tokio::runtime::Handle;
use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Runs the pool's futures on a tokio runtime. Needs the feature `tokio`.
///
/// **A dropped runtime.** Shutting a runtime down drops the pool's futures, wherever they are at
/// that moment. Each shard then closes; commands that had not started are aborted, those whose
/// handler was at an await are aborted as started, and later submissions are refused. No ticket
/// waits for ever. The adapter holds a `Handle`, which does not keep the runtime alive.
///
/// Deadlines follow tokio's clock, also a paused one. The runtime should have its timer enabled
/// (`enable_time`); without it [`Drain::within`](crate::Drain::within) falls back to a timer thread,
/// after a caught panic of tokio's, whose message appears. A current-thread runtime that nobody blocks on stands
/// still, its timer too: there [`Drain::blocking_wait`](crate::Drain::blocking_wait) keeps its time, and an
/// awaited drain does not.
///
/// **Handlers that block.** As everywhere on tokio, a handler that blocks its thread holds up what
/// that thread has woken last, which no other thread can take over: what the handler itself has woken, be it a
/// shard to which it has sent a command; a caller of the command before it; or, where submissions wait for room or
/// intake is closed, the dispatcher, which the start of its command wakes. Wrap such work in `block_in_place` or
/// `spawn_blocking`, or use [`Threads`](super::Threads).
/// Blocking waits of the pool's inside a handler are always refused (G9).
///
/// ```
/// # use shardpool::{Command, Context, Failure, ShardPool, handler_fn};
/// use shardpool::executors::Tokio;
///
/// # struct Add(u32);
/// # impl Command for Add { type AggregateId = u32; fn aggregate_id(&self) -> &u32 { &self.0 } }
/// #[tokio::main]
/// async fn main() -> Result<(), Box<dyn std::error::Error>> {
///     let handler = handler_fn(|n: &mut u32, add: Add, _: &Context| {
///         *n += add.0;
///         Ok::<_, Failure<std::io::Error>>(*n)
///     });
///     let pool = ShardPool::builder(handler).start(Tokio::current()?)?;
///     assert_eq!(pool.send(Add(3)).await?.output, 3);
///     pool.drain().await?;
///     Ok(())
/// }
/// ```
#[derive(Debug, Clone)]
pub struct Tokio {
    handle: Handle,
}

impl Tokio {
    /// On the runtime of this handle.
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
    /// use shardpool::executors::Tokio;
    ///
    /// let runtime = tokio::runtime::Runtime::new()?;
    /// let pool = builder.start(Tokio::new(runtime.handle().clone()))?;
    /// // The caller may be outside of the runtime.
    /// assert_eq!(pool.blocking_send(Add("a", 3)).unwrap().output, 3);
    ///
    /// drop(runtime); // its futures go with it: the pool is closed
    /// assert!(pool.is_closed());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn new(handle: Handle) -> Self {
        Self { handle }
    }

    /// On the runtime that this code runs in.
    ///
    /// ```
    /// use shardpool::executors::Tokio;
    ///
    /// assert!(Tokio::current().is_err()); // no runtime here
    /// let runtime = tokio::runtime::Runtime::new().unwrap();
    /// assert!(runtime.block_on(async { Tokio::current() }).is_ok());
    /// ```
    ///
    /// # Errors
    ///
    /// This code does not run in one.
    pub fn current() -> Result<Self, NoRuntime> {
        Handle::try_current().map(Self::new).map_err(|_| NoRuntime(()))
    }
}

impl Executor for Tokio {
    fn spawn(&self, task: Task) -> Result<(), SpawnError> {
        // Dropping the handle detaches the task. A runtime that is shut down drops the task here;
        // the pool finds that out by itself.
        drop(self.handle.spawn(task));
        Ok(())
    }

    fn clock(&self) -> Arc<dyn Clock> {
        Arc::new(TokioClock { handle: self.handle.clone() })
    }

    // `threads` stays at its default of one, whatever the runtime has: tokio keeps the task that was
    // woken last with the thread that woke it, where no other thread can take it. A handler that
    // woke a dispatcher or worker and blocks would wait for a task that waits for its thread.
}

/// Tokio's clock, which a test can pause. A handle does not keep the runtime's tasks alive.
struct TokioClock {
    handle: Handle,
}

impl Clock for TokioClock {
    fn now(&self) -> Instant {
        // A paused clock is the runtime's: ask inside.
        let _entered = self.handle.enter();
        ::tokio::time::Instant::now().into_std()
    }

    fn sleep(&self, time: Duration) -> Task {
        let _entered = self.handle.enter();
        // There is no way to ask whether the timer is enabled, but by this panic.
        match crate::contain::contain(|| ::tokio::time::sleep(time)) {
            Ok(sleep) => Box::pin(sleep),
            Err(_) => super::timer::sleep(time),
        }
    }
}

/// [`Tokio::current`] was called outside a tokio runtime.
///
/// ```
/// use shardpool::executors::{NoRuntime, Tokio};
///
/// let error: NoRuntime = Tokio::current().unwrap_err();
/// assert_eq!(error.to_string(), "not inside a tokio runtime; pass a handle to `Tokio::new`, or enter one");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoRuntime(());

impl fmt::Display for NoRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not inside a tokio runtime; pass a handle to `Tokio::new`, or enter one")
    }
}

impl Error for NoRuntime {}
