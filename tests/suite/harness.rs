//! What every test stands on: the executors, a bound on time that dumps state, and small tools.

use shardpool::executors::{Executor, Threads};
use std::fmt::Debug;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Poll};
use std::thread;
use std::time::Duration;

/// How long a test may take before it counts as hung. Far more than any needs, also on a loaded
/// machine: it is a bound, not a measure.
const BOUND: Duration = Duration::from_secs(600);

/// The bound in seconds can be set for a while, to see a broken test fail sooner.
fn bound() -> Duration {
    let set = std::env::var("SUITE_BOUND").ok().and_then(|s| s.parse().ok());
    set.map_or(BOUND, Duration::from_secs)
}

/// How much of what is random a test does: a sample in a debug build, all of it with `--release`. Compiled
/// with `SUITE_LIGHT` set, a tenth of the sample: for tools under which everything is slow.
pub(crate) const fn load(sample: usize, all: usize) -> usize {
    if option_env!("SUITE_LIGHT").is_some() {
        sample / 10
    } else if cfg!(debug_assertions) {
        sample
    } else {
        all
    }
}

/// Instantiates test functions for each executor that is compiled in. Once per file.
macro_rules! suite {
    ($($(#[$attr:meta])* $name:ident),+ $(,)?) => {
        mod threads {
            $($(#[$attr])* #[test] fn $name() {
                crate::harness::run(crate::harness::On::Threads, super::$name);
            })+
        }
        #[cfg(feature = "tokio")]
        mod tokio {
            $($(#[$attr])* #[test] fn $name() {
                crate::harness::run(crate::harness::On::Tokio, super::$name);
            })+
        }
        #[cfg(feature = "smol")]
        mod smol {
            $($(#[$attr])* #[test] fn $name() {
                crate::harness::run(crate::harness::On::Smol, super::$name);
            })+
        }
        #[cfg(feature = "async-std")]
        mod async_std {
            $($(#[$attr])* #[test] fn $name() {
                crate::harness::run(crate::harness::On::AsyncStd, super::$name);
            })+
        }
    };
}
pub(crate) use suite;

/// The executor that a test is run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum On {
    Threads,
    #[cfg(feature = "tokio")]
    Tokio,
    #[cfg(feature = "smol")]
    Smol,
    #[cfg(feature = "async-std")]
    AsyncStd,
}

/// What a test gets: its executor, and a place to leave what the bound should dump.
#[derive(Clone)]
pub(crate) struct Bed {
    executor: Arc<dyn Executor>,
    dumps: Arc<Mutex<Vec<Dump>>>,
}

type Dump = Box<dyn Fn() -> String + Send>;

impl Bed {
    /// To start a pool on.
    pub(crate) fn executor(&self) -> Shared {
        Arc::clone(&self.executor)
    }

    /// Names something whose state is printed should the test hang; usually a pool. A pool is kept
    /// open by this: where that matters, name a `tools::Peek` of it.
    pub(crate) fn watch(&self, what: impl Debug + Send + 'static) {
        self.dumps.lock().unwrap().push(Box::new(move || format!("{what:?}")));
    }

    /// Spawns a future on the executor that the test runs on.
    pub(crate) fn spawn<F>(&self, future: F) -> Joined<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        let (sender, receiver) = futures::channel::oneshot::channel();
        self.executor
            .spawn(Box::pin(async move {
                // Nobody need wait for it.
                let _ = sender.send(future.await);
            }))
            .expect("the executor takes a future");
        Joined(receiver)
    }
}

/// The output of a spawned future.
pub(crate) struct Joined<T>(futures::channel::oneshot::Receiver<T>);

impl<T> Future for Joined<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        Pin::new(&mut self.0).poll(cx).map(|result| result.expect("a spawned future ends"))
    }
}

/// An executor that several pools share.
pub(crate) type Shared = Arc<dyn Executor>;

/// Runs one test on one executor, with a bound.
pub(crate) fn run<F>(on: On, test: impl FnOnce(Bed) -> F + Send + 'static)
where
    F: Future<Output = ()> + 'static,
{
    let dumps: Arc<Mutex<Vec<Dump>>> = Arc::default();
    let of_test = Arc::clone(&dumps);
    let (sender, done) = mpsc::channel::<()>();
    let body = thread::spawn(move || {
        let _sender = sender;
        enter(on, |executor| Bed { executor, dumps: of_test }, test);
    });
    let bound = bound();
    match done.recv_timeout(bound) {
        Err(mpsc::RecvTimeoutError::Timeout) => {
            for dump in dumps.lock().unwrap().iter() {
                eprintln!("{}", dump());
            }
            panic!("no end after {bound:?}: the test hangs");
        }
        _ => {
            if let Err(panic) = body.join() {
                std::panic::resume_unwind(panic);
            }
        }
    }
}

fn enter<F>(on: On, bed: impl FnOnce(Arc<dyn Executor>) -> Bed, test: impl FnOnce(Bed) -> F)
where
    F: Future<Output = ()>,
{
    match on {
        On::Threads => futures::executor::block_on(test(bed(Arc::new(Threads::new())))),
        #[cfg(feature = "tokio")]
        On::Tokio => {
            let runtime = ::tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .expect("a runtime");
            let executor = shardpool::executors::Tokio::new(runtime.handle().clone());
            runtime.block_on(test(bed(Arc::new(executor))));
        }
        #[cfg(feature = "smol")]
        On::Smol => {
            let executor = Arc::new(::smol::Executor::new());
            let (stop, stopped) = ::smol::channel::bounded::<()>(1);
            let runners: Vec<_> = (0..2)
                .map(|_| {
                    let (executor, stopped) = (Arc::clone(&executor), stopped.clone());
                    thread::spawn(move || {
                        // Ends when `stop` is dropped.
                        let _ = ::smol::block_on(executor.run(stopped.recv()));
                    })
                })
                .collect();
            let adapter = shardpool::executors::Smol::new(Arc::clone(&executor)).with_threads(2);
            ::smol::block_on(test(bed(Arc::new(adapter))));
            drop(stop);
            for runner in runners {
                runner.join().expect("the runner ends");
            }
        }
        #[cfg(feature = "async-std")]
        On::AsyncStd => {
            ::async_std::task::block_on(test(bed(Arc::new(shardpool::executors::AsyncStd::new()))));
        }
    }
}

/// Lets others run: pending once, then ready.
pub(crate) async fn yield_now() {
    let mut yielded = false;
    std::future::poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Yields none, one or a few times, at random.
pub(crate) async fn yield_at_random() {
    for _ in 0..[0, 0, 0, 1, 1, 2, 5][fastrand::usize(..7)] {
        yield_now().await;
    }
}

/// Waits until something holds, yielding. A hang ends at the test's bound.
pub(crate) async fn until(mut holds: impl FnMut() -> bool) {
    while !holds() {
        yield_now().await;
        thread::yield_now();
    }
}

/// A door that handlers wait at until the test opens it.
#[derive(Clone)]
pub(crate) struct Door {
    open: futures::channel::mpsc::UnboundedSender<std::convert::Infallible>,
    closed: Arc<
        futures::lock::Mutex<futures::channel::mpsc::UnboundedReceiver<std::convert::Infallible>>,
    >,
    /// How many have come to the door so far.
    waiting: Arc<AtomicU64>,
}

impl Door {
    pub(crate) fn closed() -> Self {
        let (open, closed) = futures::channel::mpsc::unbounded();
        Self { open, closed: Arc::new(futures::lock::Mutex::new(closed)), waiting: Arc::default() }
    }

    /// Waits, without blocking the thread, until the door is open.
    pub(crate) async fn pass(&self) {
        use futures::StreamExt;
        self.waiting.fetch_add(1, Ordering::SeqCst);
        // The receiver ends when the sender is closed; one after the other gets there.
        assert!(self.closed.lock().await.next().await.is_none());
    }

    pub(crate) fn open(&self) {
        self.open.close_channel();
    }

    /// How many have come to the door so far, passed or not.
    pub(crate) fn arrived(&self) -> u64 {
        self.waiting.load(Ordering::SeqCst)
    }
}
