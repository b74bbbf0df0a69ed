//! The runtimes that callers and handlers run on, each with two threads.

use std::future::Future;
use std::sync::OnceLock;
use std::time::Duration;

/// Threads of each runtime.
pub const THREADS: usize = 2;

/// A runtime of the process's, started when first used.
pub trait Runtime: Send + Sync + 'static {
    /// Runs a future to its end.
    fn spawn(future: impl Future<Output = ()> + Send + 'static);

    /// Waits, in the way that a handler on this runtime should.
    fn sleep(time: Duration) -> impl Future<Output = ()> + Send;

    /// Waits as long as it was told, on a timer without a grain: async-io's, which runs on any runtime.
    fn sleep_fine(time: Duration) -> impl Future<Output = ()> + Send {
        async move {
            smol::Timer::after(time).await;
        }
    }
}

/// A tokio runtime with two threads.
pub struct Tokio;

impl Tokio {
    /// Its handle.
    pub fn handle() -> &'static tokio::runtime::Handle {
        static RUNTIME: OnceLock<tokio::runtime::Runtime> = OnceLock::new();
        RUNTIME
            .get_or_init(|| {
                tokio::runtime::Builder::new_multi_thread()
                    .worker_threads(THREADS)
                    .enable_all()
                    .build()
                    .expect("a runtime can be started")
            })
            .handle()
    }
}

impl Runtime for Tokio {
    fn spawn(future: impl Future<Output = ()> + Send + 'static) {
        drop(Self::handle().spawn(future));
    }

    async fn sleep(time: Duration) {
        tokio::time::sleep(time).await;
    }
}

/// smol's global executor; the environment gives it two threads.
pub struct Smol;

impl Runtime for Smol {
    fn spawn(future: impl Future<Output = ()> + Send + 'static) {
        smol::spawn(future).detach();
    }

    async fn sleep(time: Duration) {
        smol::Timer::after(time).await;
    }
}

/// async-std's executor; the environment gives it two threads.
pub struct AsyncStd;

impl Runtime for AsyncStd {
    fn spawn(future: impl Future<Output = ()> + Send + 'static) {
        drop(async_std::task::spawn(future));
    }

    async fn sleep(time: Duration) {
        async_std::task::sleep(time).await;
    }
}

/// Handlers that may block their thread; callers are on a tokio runtime with two threads.
pub struct Blocking;

impl Runtime for Blocking {
    fn spawn(future: impl Future<Output = ()> + Send + 'static) {
        Tokio::spawn(future);
    }

    async fn sleep(time: Duration) {
        std::thread::sleep(time);
    }

    async fn sleep_fine(time: Duration) {
        std::thread::sleep(time);
    }
}

/// The environment that a child needs for these.
pub const ENVIRONMENT: [(&str, &str); 2] = [("SMOL_THREADS", "2"), ("ASYNC_STD_THREAD_COUNT", "2")];
