//! What the pool's futures run on.
//!
//! The pool is told its executor when it [starts](crate::Builder::start), and never looks for one in
//! its surroundings. It spawns one future per dispatcher and per worker, then nothing more.
//!
//! | adapter | feature | a dropped runtime |
//! | --- | --- | --- |
//! | [`Threads`] | always there | can't be dropped: one OS thread per future, until the pool ends |
//! | `Tokio` | `tokio` | drops the futures: shards close, what they held is aborted |
//! | `Smol` | `smol` | the same |
//! | `AsyncStd` | `async-std` | can't be dropped: it is the process's |
//!
//! A runtime of your own needs [`Executor`]:
//!
//! ```
//! use futures::executor::ThreadPool;
//! use shardpool::executors::{Executor, SpawnError, Task};
//! use std::time::Duration;
//!
//! struct OnFutures(ThreadPool);
//!
//! impl Executor for OnFutures {
//!     fn spawn(&self, task: Task) -> Result<(), SpawnError> {
//!         self.0.spawn_ok(task);
//!         Ok(())
//!     }
//!
//!     fn sleep(&self, time: Duration) -> Task {
//!         shardpool::executors::Threads::new().sleep(time)
//!     }
//! }
//! # let _: Box<dyn Executor> = Box::new(OnFutures(ThreadPool::new().unwrap()));
//! ```

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

#[cfg(feature = "async-std")]
mod async_std;
#[cfg(feature = "smol")]
mod smol;
mod threads;
#[cfg(feature = "tokio")]
mod tokio;

#[cfg(feature = "async-std")]
pub use self::async_std::AsyncStd;
#[cfg(feature = "smol")]
pub use self::smol::Smol;
pub use self::threads::Threads;
#[cfg(feature = "tokio")]
pub use self::tokio::{NoRuntime, Tokio};

/// A future of the pool's, to be polled by an executor.
pub type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A runtime, as the pool needs it. Object safe.
pub trait Executor: Send + Sync + 'static {
    /// Runs a future to its end, whatever becomes of the caller: the pool keeps no handle, and a
    /// runtime whose dropped handles cancel their task must detach it.
    ///
    /// If the future is dropped before its end, its shard closes (G5). A future that is neither
    /// polled nor dropped when it is due holds its shard up for ever.
    ///
    /// # Errors
    ///
    /// The future was not taken. Then the pool does not start.
    fn spawn(&self, task: Task) -> Result<(), SpawnError>;

    /// A future that is ready after this time by the executor's clock; for a time too long to
    /// count, never. Used by [`Drain::within`](crate::Drain::within) alone.
    fn sleep(&self, time: Duration) -> Task;

    /// The clock by which deadlines pass. The pool's futures keep it, so it must not own the
    /// executor, which owns them (G17). Default: the system's monotonic clock.
    fn clock(&self) -> Arc<dyn Clock> {
        Arc::new(SystemClock)
    }

    /// How many threads poll the pool's futures; `usize::MAX` if each has its own. When all but one
    /// are blocked by handlers in blocking waits of the pool's, a further one is refused (G9).
    /// Default: 1, so a blocking wait inside a handler is always refused.
    fn threads(&self) -> usize {
        1
    }
}

/// Tells the time. A simulation can tell its own.
pub trait Clock: Send + Sync + 'static {
    /// The time now. It never goes back.
    fn now(&self) -> Instant;
}

/// The system's monotonic clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Instant {
        Instant::now()
    }
}

/// Why an executor did not take a future.
#[derive(Debug)]
pub struct SpawnError(Box<dyn Error + Send + Sync>);

impl SpawnError {
    /// With the reason: an error, or a text.
    pub fn new(reason: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self(reason.into())
    }
}

impl fmt::Display for SpawnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Error for SpawnError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source()
    }
}
