//! The core names no runtime, and any runtime will do (G18, G19, G20).

use crate::harness::{Bed, On, Shared, run, suite, until, yield_now};
use crate::tools::{hush_wanted_panics, loud_waker, poll_once};
use shardpool::executors::{Clock, Executor, SpawnError, SystemClock, Task, Threads};
use shardpool::{Command, Context, Failure, ShardPool, StartError, async_handler_fn, handler_fn};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

suite!(
    g18_tasks_are_spawned_at_the_start_only,
    g18_a_failing_spawn_is_an_error_and_leaves_nothing,
    g18_an_executor_that_drops_the_futures_at_once_is_an_error,
    g19_pools_on_all_executors_work_side_by_side,
    g20_any_context_can_submit,
    g18_what_points_to_an_executor_is_that_executor,
);

struct Add(u32, u64);

impl Command for Add {
    type AggregateId = u32;
    fn aggregate_id(&self) -> &u32 {
        &self.0
    }
}

type Pool = ShardPool<Add, u64, ()>;

fn start(executor: impl Executor) -> Pool {
    ShardPool::builder(handler_fn(|sum: &mut u64, add: Add, _: &Context| {
        *sum += add.1;
        Ok::<_, Failure<()>>(*sum)
    }))
    .shards(3)
    .workers_per_shard(4)
    .start(executor)
    .unwrap()
}

/// Keeps count of the futures that it spawns and that have not been dropped.
#[derive(Clone)]
struct Counted {
    inner: Shared,
    spawned: Arc<AtomicUsize>,
    alive: Arc<AtomicUsize>,
    /// Takes this many futures, and refuses the next.
    most: usize,
}

impl Counted {
    fn new(inner: Shared, most: usize) -> Self {
        Self { inner, spawned: Arc::default(), alive: Arc::default(), most }
    }
}

struct OnDrop(Arc<AtomicUsize>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Executor for Counted {
    fn spawn(&self, task: Task) -> Result<(), SpawnError> {
        if self.spawned.fetch_add(1, Ordering::SeqCst) >= self.most {
            return Err(SpawnError::new("no more than that"));
        }
        self.alive.fetch_add(1, Ordering::SeqCst);
        let alive = OnDrop(Arc::clone(&self.alive));
        self.inner.spawn(Box::pin(async move {
            let _alive = alive;
            task.await;
        }))
    }
    fn clock(&self) -> Arc<dyn Clock> {
        self.inner.clock()
    }
}

async fn g18_tasks_are_spawned_at_the_start_only(bed: Bed) {
    let executor = Counted::new(bed.executor(), usize::MAX);
    let pool = start(executor.clone());
    let at_start = executor.spawned.load(Ordering::SeqCst);
    assert_eq!(at_start, 3 * (1 + 4));
    let tickets: Vec<_> =
        (0..500).map(|n| pool.try_submit(Add(n % 50, 1)).expect("there is room")).collect();
    for ticket in tickets {
        ticket.await.unwrap();
    }
    pool.drain().await.unwrap();
    assert_eq!(executor.spawned.load(Ordering::SeqCst), at_start);
    // The futures are over when the drain is; that they are dropped is the executor's next step.
    until(|| executor.alive.load(Ordering::SeqCst) == 0).await;
}

/// One that says that it has three threads.
struct Three(Shared);

impl Executor for Three {
    fn spawn(&self, task: Task) -> Result<(), SpawnError> {
        self.0.spawn(task)
    }
    fn clock(&self) -> Arc<dyn Clock> {
        Arc::new(Stopped)
    }
    fn threads(&self) -> usize {
        3
    }
}

/// Says that it is a day ago.
struct Stopped;

impl Clock for Stopped {
    fn now(&self) -> Instant {
        Instant::now() - Duration::from_secs(86_400)
    }
    fn sleep(&self, _: Duration) -> Task {
        Box::pin(async {})
    }
}

async fn g18_what_points_to_an_executor_is_that_executor(bed: Bed) {
    let boxed: Box<dyn Executor> = Box::new(Three(bed.executor()));
    let shared: Arc<dyn Executor> = Arc::new(Three(bed.executor()));
    for executor in [&boxed as &dyn Executor, &shared] {
        assert_eq!(executor.threads(), 3);
        assert!(executor.clock().now() < Instant::now() - Duration::from_secs(3_600));
    }
    for pool in [start(boxed), start(shared)] {
        assert_eq!(pool.send(Add(1, 2)).await.unwrap().output, 2);
        pool.drain().await.unwrap();
    }
}

async fn g18_a_failing_spawn_is_an_error_and_leaves_nothing(bed: Bed) {
    for most in [0, 1, 4, 7, 14] {
        let executor = Counted::new(bed.executor(), most);
        let failed = ShardPool::builder(handler_fn(|_: &mut (), _: Add, _: &Context| {
            Ok::<_, Failure<()>>(())
        }))
        .shards(3)
        .workers_per_shard(4)
        .start(executor.clone());
        let error = failed.expect_err("a future was refused");
        assert!(matches!(error, StartError::Spawn(_)), "{error:?}");
        assert_eq!(error.to_string(), "could not spawn the pool's futures: no more than that");
        until(|| executor.alive.load(Ordering::SeqCst) == 0).await;
    }
}

async fn g18_an_executor_that_drops_the_futures_at_once_is_an_error(_: Bed) {
    struct Drops;
    impl Executor for Drops {
        fn spawn(&self, task: Task) -> Result<(), SpawnError> {
            drop(task);
            Ok(())
        }
    }
    let failed =
        ShardPool::builder(handler_fn(|_: &mut (), _: Add, _: &Context| Ok::<_, Failure<()>>(())))
            .start(Drops);
    assert!(matches!(failed, Err(StartError::Spawn(_))));
}

async fn g19_pools_on_all_executors_work_side_by_side(bed: Bed) {
    // The bed's own, one on threads, and one on an executor that no adapter covers.
    let pools = [start(bed.executor()), start(Threads::new()), start(OnFutures::new())];
    let mut tickets = Vec::new();
    for n in 0..600 {
        tickets.push(pools[n % 3].submit(Add(n as u32 % 40, 1)).await.unwrap());
    }
    for ticket in tickets {
        ticket.await.unwrap();
    }
    for pool in pools {
        assert_eq!(pool.drain().await.unwrap().committed, 200);
    }
}

async fn g20_any_context_can_submit(bed: Bed) {
    let pool = start(bed.executor());
    bed.watch(pool.clone());
    // Blocking code on a thread of its own.
    let blocking = std::thread::spawn({
        let pool = pool.clone();
        move || {
            for _ in 0..50 {
                pool.blocking_send(Add(1, 1)).unwrap();
                pool.blocking_submit(Add(2, 1)).unwrap().blocking_wait().unwrap();
            }
        }
    });
    // A runtime that is not the pool's.
    let foreign = futures::executor::ThreadPool::builder().pool_size(1).create().unwrap();
    let (sender, other) = futures::channel::oneshot::channel();
    foreign.spawn_ok({
        let pool = pool.clone();
        async move {
            for _ in 0..50 {
                pool.send(Add(1, 1)).await.unwrap();
                yield_now().await;
            }
            sender.send(()).unwrap();
        }
    });
    // And the pool's own.
    for _ in 0..50 {
        pool.send(Add(1, 1)).await.unwrap();
    }
    other.await.unwrap();
    until(|| blocking.is_finished()).await;
    blocking.join().unwrap();
    assert_eq!(pool.send(Add(1, 0)).await.unwrap().output, 150);
}

/// An executor that none of the adapters covers.
struct OnFutures(futures::executor::ThreadPool);

impl OnFutures {
    fn new() -> Self {
        Self(futures::executor::ThreadPool::builder().pool_size(2).create().unwrap())
    }
}

impl Executor for OnFutures {
    fn spawn(&self, task: Task) -> Result<(), SpawnError> {
        self.0.spawn_ok(task);
        Ok(())
    }
}

#[test]
fn g19_a_runtime_of_ones_own_needs_one_small_trait() {
    let pool = ShardPool::builder(async_handler_fn(|add: Add, cx: Context| async move {
        yield_now().await;
        Ok::<_, Failure<()>>(add.1 + cx.version())
    }))
    .start(OnFutures::new())
    .unwrap();
    assert_eq!(pool.blocking_send(Add(1, 41)).unwrap().output, 42);
    let late = pool.drain().within(Duration::MAX).blocking_wait();
    assert_eq!(late.unwrap().committed, 1);
}

/// The files of a folder, and of the folders in it, with their text.
fn sources(folder: &str) -> Vec<(String, String)> {
    let root = format!("{}/{folder}", env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    let mut folders = vec![std::path::PathBuf::from(root)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let text = std::fs::read_to_string(&path).unwrap();
                files.push((path.display().to_string(), text));
            }
        }
    }
    assert!(!files.is_empty());
    files
}

/// The lines of code: no comments, no docs.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|line| !line.starts_with("//"))
}

#[test]
fn g18_the_core_and_the_adapters_have_no_lock() {
    // Not what is there for tests alone: the simulation, and the models for loom.
    let is_shipped = |path: &str| !["/sim/", "/loom/", "/models/"].iter().any(|p| path.contains(p));
    for (path, text) in sources("src").into_iter().chain(sources("executors")) {
        for line in code(&text).filter(|_| is_shipped(&path)) {
            for word in ["Mutex", "RwLock", "Condvar", "spin_loop"] {
                assert!(!line.contains(word), "{path}: {line}");
            }
        }
    }
}

#[test]
fn g18_the_core_names_no_runtime() {
    for (path, text) in sources("src") {
        for line in code(&text) {
            for word in ["tokio", "smol", "async_std", "async-std"] {
                assert!(!line.contains(word), "{path}: {line}");
            }
        }
    }
}

#[test]
fn g07_a_waker_whose_destructor_panics_harms_neither_its_sleep_nor_another() {
    run(On::Threads, |_| async {
        hush_wanted_panics();
        let hour = || SystemClock.sleep(Duration::from_secs(3600));
        // More than the timer keeps without a look at which of them were dropped.
        for n in 0..100 {
            let waker = if n == 0 { loud_waker() } else { Waker::noop().clone() };
            let mut sleep = hour();
            assert!(poll_once(&mut sleep, &waker).is_pending());
            drop(waker);
            // The last holder of the waker.
            drop(sleep);
        }
        SystemClock.sleep(Duration::from_millis(1)).await;
        let mut long = hour();
        assert!(poll_once(&mut long, Waker::noop()).is_pending());
        SystemClock.sleep(Duration::from_millis(1)).await;
        assert!(poll_once(&mut long, Waker::noop()).is_pending(), "rung too early: nobody waits");
    });
}

/// A waker that keeps the thread that calls it, parked, until it is let go.
#[derive(Default)]
struct Parks {
    at: OnceLock<Thread>,
    unparked: AtomicUsize,
    let_go: AtomicBool,
}

impl Wake for Parks {
    fn wake(self: Arc<Self>) {
        self.at.set(thread::current()).unwrap();
        while !self.let_go.load(Ordering::SeqCst) {
            thread::park();
            self.unparked.fetch_add(1, Ordering::SeqCst);
        }
    }
}

#[test]
fn g16_a_waker_that_parks_the_timers_thread_costs_no_sleep_its_end() {
    run(On::Threads, |_bed| async {
        let parks = Arc::new(Parks::default());
        let mut first = SystemClock.sleep(Duration::from_millis(1));
        // Pending or, if this thread had to wait for that long, ready: the waker is called.
        let _ = poll_once(&mut first, &Waker::from(Arc::clone(&parks)));
        until(|| parks.at.get().is_some()).await;
        let mut second = SystemClock.sleep(Duration::from_millis(1));
        let before = parks.unparked.load(Ordering::SeqCst);
        assert!(poll_once(&mut second, Waker::noop()).is_pending());
        // The waker has got what was to tell the timer of the second sleep.
        until(|| parks.unparked.load(Ordering::SeqCst) > before).await;
        parks.let_go.store(true, Ordering::SeqCst);
        parks.at.get().unwrap().unpark();
        until(|| poll_once(&mut second, Waker::noop()).is_ready()).await;
    });
}
