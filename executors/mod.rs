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
//!
//! struct OnFutures(ThreadPool);
//!
//! impl Executor for OnFutures {
//!     fn spawn(&self, task: Task) -> Result<(), SpawnError> {
//!         self.0.spawn_ok(task);
//!         Ok(())
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
mod timer;
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

/// A runtime, as the pool needs it. Object safe. Needed at the start only: the pool does not keep it.
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

    /// The clock by which deadlines pass. The pool and its futures keep it, so it must not own the
    /// executor, which owns the futures (G17). Default: [`SystemClock`].
    fn clock(&self) -> Arc<dyn Clock> {
        Arc::new(SystemClock)
    }

    /// How many threads poll the pool's futures, where a thread that is blocked leaves all others to
    /// the rest; `usize::MAX` if each future has its own. When all but one are blocked by handlers in
    /// blocking waits of the pool's, a further one is refused (G9). Counted for each pool: of two
    /// pools on one executor, each counts its own.
    ///
    /// Default: 1, so that a blocking wait inside a handler is always refused.
    fn threads(&self) -> usize {
        1
    }
}

/// Tells the time, and waits. A simulation can tell its own.
pub trait Clock: Send + Sync + 'static {
    /// The time now. It never goes back.
    fn now(&self) -> Instant;

    /// A future that is ready after this time by this clock. Used by
    /// [`Drain::within`](crate::Drain::within) alone.
    fn sleep(&self, time: Duration) -> Task;
}

/// The system's monotonic clock; it waits by a timer thread of the process's.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn sleep(&self, time: Duration) -> Task {
        timer::sleep(time)
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
