//! What the pool's futures run on.
//!
//! The pool is told its executor when it [starts](crate::Builder::start), and never looks for one in
//! its surroundings. It spawns one future per dispatcher and per worker, then nothing more.
//!
//! | adapter | feature | a dropped runtime |
//! | --- | --- | --- |
//! | [`Threads`] | always there | can't be dropped: one OS thread per future, until the pool ends |
//! | `Tokio` | `tokio` | drops the futures: shards close, what they held is aborted |
//! | `Smol` | `smol` | the same; the global one can't be dropped |
//! | `AsyncStd` | `async-std` | can't be dropped: it is the process's |
//! | `sim::Sim` | `sim` | as `Tokio`, when the test says so; for tests |
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
#[cfg(feature = "sim")]
pub mod sim;
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
///
/// ```
/// use shardpool::executors::Task;
///
/// let task: Task = Box::pin(async { assert_eq!(1 + 1, 2) });
/// futures::executor::block_on(task);
/// ```
pub type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A runtime, as the pool needs it. Needed at the start only: the pool does not keep it. Object safe, and an
/// `Arc` or a `Box` of one is one, so that which it is can be decided at run time.
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
/// use shardpool::executors::{Executor, SpawnError, Task};
///
/// /// A thread with a name for each future.
/// struct Named(&'static str);
///
/// impl Executor for Named {
///     fn spawn(&self, task: Task) -> Result<(), SpawnError> {
///         let thread = std::thread::Builder::new().name(self.0.to_owned());
///         let spawned = thread.spawn(|| futures::executor::block_on(task));
///         spawned.map(drop).map_err(SpawnError::new)
///     }
/// }
///
/// let pool = builder.shards(1).start(Named("billing"))?;
/// assert_eq!(pool.blocking_send(Add("a", 3)).unwrap().output, 3);
/// # Ok::<(), shardpool::StartError>(())
/// ```
pub trait Executor: Send + Sync + 'static {
    /// Runs a future to its end, whatever becomes of the caller: the pool keeps no handle, and a
    /// runtime whose dropped handles cancel their task must detach it.
    ///
    /// If the future is dropped before its end, its shard closes (G5). A future that is neither
    /// polled nor dropped when it is due holds its shard up for ever.
    ///
    /// ```
    /// use shardpool::executors::{Executor, Threads};
    /// use std::sync::mpsc;
    ///
    /// let (sender, receiver) = mpsc::channel();
    /// Threads::new().spawn(Box::pin(async move { sender.send("done").unwrap() }))?;
    /// assert_eq!(receiver.recv(), Ok("done"));
    /// # Ok::<(), shardpool::executors::SpawnError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The future was not taken. Then the pool does not start.
    fn spawn(&self, task: Task) -> Result<(), SpawnError>;

    /// The clock by which deadlines pass. The pool and its futures keep it, so it must not own the
    /// executor, which owns the futures (G17). Default: [`SystemClock`].
    ///
    /// ```
    /// use shardpool::executors::{Executor, Threads};
    /// use std::time::Instant;
    ///
    /// let before = Instant::now();
    /// assert!(Threads::new().clock().now() >= before); // the default: the system's clock
    /// ```
    fn clock(&self) -> Arc<dyn Clock> {
        Arc::new(SystemClock)
    }

    /// How many threads poll the pool's futures, where a thread that is blocked leaves all others to
    /// the rest; `usize::MAX` if each future has its own. When all but one are blocked by handlers in
    /// blocking waits of the pool's, a further one is refused (G9). Counted for each pool: of two
    /// pools on one executor, each counts its own.
    ///
    /// Default: 1, so that a blocking wait inside a handler is always refused.
    ///
    /// ```
    /// # use shardpool::executors::{SpawnError, Task, Threads};
    /// use shardpool::executors::Executor;
    ///
    /// struct Mine;
    /// impl Executor for Mine {
    /// #   fn spawn(&self, task: Task) -> Result<(), SpawnError> { Threads::new().spawn(task) }
    ///     // ...
    /// }
    /// assert_eq!(Mine.threads(), 1);
    /// assert_eq!(Threads::new().threads(), usize::MAX);
    /// ```
    fn threads(&self) -> usize {
        1
    }
}

/// What points to an executor is one: with its clock and its threads, not with the defaults.
macro_rules! forward {
    ($($pointer:ident),+) => {$(
        impl<E: Executor + ?Sized> Executor for $pointer<E> {
            fn spawn(&self, task: Task) -> Result<(), SpawnError> {
                (**self).spawn(task)
            }

            fn clock(&self) -> Arc<dyn Clock> {
                (**self).clock()
            }

            fn threads(&self) -> usize {
                (**self).threads()
            }
        }
    )+};
}
forward!(Arc, Box);

/// Tells the time, and waits. A simulation can tell its own.
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
/// # use std::{sync::{Arc, Mutex}, time::{Duration, Instant}};
/// # use shardpool::executors::{Executor, SpawnError, Task};
/// use shardpool::executors::Clock;
///
/// /// Time goes on when a test says so.
/// #[derive(Clone)]
/// struct ByHand(Arc<Mutex<Instant>>);
///
/// impl Clock for ByHand {
///     fn now(&self) -> Instant {
///         *self.0.lock().unwrap()
///     }
///     fn sleep(&self, time: Duration) -> Task {
///         let (clock, until) = (self.clone(), self.now() + time);
///         Box::pin(std::future::poll_fn(move |cx| {
///             cx.waker().wake_by_ref(); // looks again and again
///             if clock.now() >= until { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
///         }))
///     }
/// }
/// # struct Simulation(ByHand);
/// # impl Executor for Simulation {
/// #     fn spawn(&self, task: Task) -> Result<(), SpawnError> { Threads::new().spawn(task) }
/// #     fn clock(&self) -> Arc<dyn Clock> { Arc::new(self.0.clone()) }
/// # }
///
/// let clock = ByHand(Arc::new(Mutex::new(Instant::now())));
/// // An executor whose `clock` gives this one.
/// let pool = builder.start(Simulation(clock.clone()))?;
/// let submission = pool.within(Duration::from_secs(3600)).submit(Add("a", 3));
/// *clock.0.lock().unwrap() += Duration::from_secs(3600);
/// assert!(futures::executor::block_on(submission).is_err()); // an hour late
/// # Ok::<(), shardpool::StartError>(())
/// ```
pub trait Clock: Send + Sync + 'static {
    /// The time now. It never goes back.
    ///
    /// ```
    /// use shardpool::executors::{Clock, SystemClock};
    ///
    /// let first = SystemClock.now();
    /// assert!(SystemClock.now() >= first);
    /// ```
    fn now(&self) -> Instant;

    /// A future that is ready after this time by this clock. Used by
    /// [`Drain::within`](crate::Drain::within) alone.
    ///
    /// ```
    /// use shardpool::executors::{Clock, SystemClock};
    /// use std::time::Duration;
    ///
    /// let before = SystemClock.now();
    /// futures::executor::block_on(SystemClock.sleep(Duration::from_millis(1)));
    /// assert!(SystemClock.now() - before >= Duration::from_millis(1));
    /// ```
    fn sleep(&self, time: Duration) -> Task;
}

impl dyn Clock {
    /// Whether a command's deadline, if it has one, has passed. Without one the clock is not read.
    #[inline]
    pub(crate) fn has_passed(&self, deadline: Option<Instant>) -> bool {
        deadline.is_some_and(|deadline| self.now() >= deadline)
    }
}

/// The system's monotonic clock; it waits by a timer thread of the process's.
///
/// ```
/// use shardpool::executors::{Clock, SystemClock};
/// use std::sync::Arc;
///
/// let clock: Arc<dyn Clock> = Arc::new(SystemClock);
/// assert!(clock.now() <= SystemClock.now());
/// ```
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
///
/// ```
/// use shardpool::executors::SpawnError;
///
/// // `?` and `map_err` on the runtime's own error.
/// let refused = std::io::Error::other("no more threads");
/// let error = Err::<(), _>(refused).map_err(SpawnError::new).unwrap_err();
/// assert_eq!(error.to_string(), "no more threads");
/// ```
#[derive(Debug)]
pub struct SpawnError(Box<dyn Error + Send + Sync>);

impl SpawnError {
    /// With the reason: an error, or a text.
    ///
    /// ```
    /// use shardpool::executors::SpawnError;
    ///
    /// assert_eq!(SpawnError::new("shut down").to_string(), "shut down");
    /// ```
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
