//! What commands and aggregates cost in memory, counted at the allocator.
//!
//! One test, since everything in the process counts: `cargo test --release --test costs -- --nocapture`
//! prints the figures of `ARCHITECTURE.md`; with `--all-features`, allocations on each runtime.

use futures::channel::oneshot;
use futures::executor::block_on;
use futures::future::join_all;
use shardpool::executors::{Executor, Threads};
use shardpool::{
    Command, Context, Failure, ShardPool, Ticket, TrySubmitError, WeakPool, async_handler_fn,
    handler_fn,
};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::task::{self, Waker};

#[path = "suite/spawned.rs"]
mod spawned;

use spawned::ByHand;

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static ALLOCATED_BYTES: AtomicU64 = AtomicU64::new(0);
static LIVE: AtomicI64 = AtomicI64::new(0);
static LIVE_BYTES: AtomicI64 = AtomicI64::new(0);

thread_local! {
    /// What this thread has allocated and freed. Nothing that another one still frees moves it.
    static OWN_BYTES: Cell<i64> = const { Cell::new(0) };
}

// SAFETY: passes every call on to the system's allocator, unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Relaxed);
        ALLOCATED_BYTES.fetch_add(layout.size() as u64, Relaxed);
        LIVE.fetch_add(1, Relaxed);
        LIVE_BYTES.fetch_add(layout.size() as i64, Relaxed);
        OWN_BYTES.set(OWN_BYTES.get() + layout.size() as i64);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, p: *mut u8, layout: Layout) {
        LIVE.fetch_sub(1, Relaxed);
        LIVE_BYTES.fetch_sub(layout.size() as i64, Relaxed);
        OWN_BYTES.set(OWN_BYTES.get() - layout.size() as i64);
        // SAFETY: as above.
        unsafe { System.dealloc(p, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What a command is about: which aggregate, and a door to wait at.
#[derive(Clone)]
enum Act {
    Count(u64),
    Wait(u64, std::sync::Arc<std::sync::Barrier>),
}

impl Command for Act {
    type AggregateId = u64;
    fn aggregate_id(&self) -> &u64 {
        match self {
            Act::Count(id) | Act::Wait(id, _) => id,
        }
    }
}

type Pool = ShardPool<Act, u64, ()>;

fn start(shards: usize, workers: usize, depth: usize) -> Pool {
    start_on(Threads::new(), shards, workers, depth)
}

fn start_on(executor: impl Executor, shards: usize, workers: usize, depth: usize) -> Pool {
    ShardPool::builder(handler_fn(|n: &mut u64, act: Act, _: &Context| {
        if let Act::Wait(_, door) = act {
            door.wait();
            door.wait();
        }
        *n += 1;
        Ok::<_, Failure<()>>(*n)
    }))
    .shards(shards)
    .workers_per_shard(workers)
    .queue_depth(depth)
    .start(executor)
    .unwrap()
}

#[test]
fn costs() {
    // First: what the others leave to the depot of cells, and pools use up, would hide a leak.
    g17_nothing_is_left_after_many_pools();
    no_allocation_per_command_once_warm();
    an_idle_aggregate_costs_what_is_written();
    a_queued_command_costs_what_is_written();
    g13_ten_million_commands_are_queued_and_not_one_more();
    a_shard_and_a_worker_cost_what_is_written();
    g09_a_wait_of_a_handler_does_not_pay_for_its_others();
}

fn no_allocation_per_command_once_warm() {
    const NONE: f64 = 0.05;
    allocations_on("threads", Threads::new(), |_| NONE);
    #[cfg(feature = "tokio")]
    {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(2).build().unwrap();
        let executor = shardpool::executors::Tokio::new(runtime.handle().clone());
        allocations_on("tokio", executor, |_| NONE);
    }
    // The queue of async-executor, which both run on, allocates a block for every 31 wakes. A
    // command has some three: of the dispatcher and a worker, for itself or with others, and of the caller.
    #[cfg(any(feature = "smol", feature = "async-std"))]
    let of_the_queue = 3.0 / 31.0;
    #[cfg(feature = "smol")]
    allocations_on("smol", shardpool::executors::Smol::global(), |_| NONE + of_the_queue);
    #[cfg(feature = "async-std")]
    allocations_on("async-std", shardpool::executors::AsyncStd::new(), |_| NONE + of_the_queue);
}

/// How callers use the pool.
#[derive(Debug, Clone, Copy)]
enum Load {
    /// 64 callers, each of which waits for each outcome.
    Callers,
    /// The same, half of the commands to one aggregate.
    HotAggregate,
    /// Two callers, each with a ring of 256 tickets.
    Rings,
    /// A thread that blocks, 64 commands at a time, so that chains and the channel are in use.
    Blocking,
}

fn allocations_on(name: &str, executor: impl Executor + Clone, most: impl Fn(Load) -> f64) {
    const COMMANDS: u64 = 64_000;
    let pool = start_on(executor.clone(), 4, 4, 1024);
    for load in [Load::Callers, Load::HotAggregate, Load::Rings, Load::Blocking] {
        let run = || match load {
            Load::Callers => call(&executor, &pool, 64, COMMANDS, false),
            Load::HotAggregate => call(&executor, &pool, 64, COMMANDS, true),
            Load::Rings => keep_in_flight(&executor, &pool, 2, COMMANDS),
            Load::Blocking => block(&pool, COMMANDS),
        };
        let count = || {
            let before = ALLOCATIONS.load(Relaxed);
            run();
            ALLOCATIONS.load(Relaxed) - before
        };
        count();
        // What is new to one run, as when other threads than before come to free the cells, is not to the next.
        let each = count().min(count()) as f64 / COMMANDS as f64;
        println!("allocations per command, warm, {name}, {load:?}: {each:.4}");
        assert!(each <= most(load), "{each} allocations per command on {name}, {load:?}");
    }
    pool.drain().blocking_wait().unwrap();
}

fn call(executor: &impl Executor, pool: &Pool, callers: u64, commands: u64, is_hot: bool) {
    as_tasks(executor, callers, |caller| {
        let pool = pool.clone();
        async move {
            for n in 0..commands / callers {
                let id = if is_hot && n % 2 == 0 { 0 } else { spread(caller, n) };
                pool.send(Act::Count(id)).await.unwrap();
            }
        }
    });
}

fn keep_in_flight(executor: &impl Executor, pool: &Pool, callers: u64, commands: u64) {
    as_tasks(executor, callers, |caller| {
        let pool = pool.clone();
        async move {
            let mut ring: VecDeque<Ticket<Act, u64, ()>> = VecDeque::with_capacity(256);
            for n in 0..commands / callers {
                if ring.len() == 256 {
                    ring.pop_front().unwrap().await.unwrap();
                }
                ring.push_back(pool.submit(Act::Count(spread(caller, n))).await.unwrap());
            }
            for ticket in ring {
                ticket.await.unwrap();
            }
        }
    });
}

fn block(pool: &Pool, commands: u64) {
    let mut tickets = Vec::with_capacity(64);
    for n in 0..commands {
        tickets.push(pool.blocking_submit(Act::Count(spread(0, n))).unwrap());
        if tickets.len() == 64 {
            for ticket in tickets.drain(..) {
                ticket.blocking_wait().unwrap();
            }
        }
    }
    for ticket in tickets {
        ticket.blocking_wait().unwrap();
    }
}

/// Over 1,000 aggregates; different callers seldom meet.
fn spread(caller: u64, n: u64) -> u64 {
    (caller * 31 + n * 7919) % 1000
}

/// Runs callers on the pool's own executor, to their end.
fn as_tasks<F>(executor: &impl Executor, callers: u64, caller: impl Fn(u64) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    block_on(join_all((0..callers).map(|n| {
        let (done, is_done) = oneshot::channel();
        let caller = caller(n);
        let task = Box::pin(async move {
            caller.await;
            done.send(()).ok();
        });
        executor.spawn(task).unwrap();
        async { is_done.await.expect("a caller that did not panic") }
    })));
}

fn an_idle_aggregate_costs_what_is_written() {
    const AGGREGATES: u64 = 100_000;
    let pool = start(1, 2, 1024);
    pool.blocking_send(Act::Count(0)).unwrap();
    let before = LIVE_BYTES.load(Relaxed);
    for id in 1..=AGGREGATES {
        pool.blocking_send(Act::Count(id)).unwrap();
    }
    let each = (LIVE_BYTES.load(Relaxed) - before) as f64 / AGGREGATES as f64;
    println!("bytes per idle aggregate (u64 id, u64 state): {each:.0}");
    // A line of the cache more is too much.
    assert!(each <= 200.0, "{each} bytes per idle aggregate");
    pool.drain().blocking_wait().unwrap();
}

fn a_queued_command_costs_what_is_written() {
    const QUEUED: u64 = 100_000;
    let pool = start(1, 1, QUEUED as usize);
    let door = std::sync::Arc::new(std::sync::Barrier::new(2));
    let first = pool.blocking_submit(Act::Wait(0, door.clone())).unwrap();
    door.wait();
    let mut tickets = Vec::with_capacity(QUEUED as usize);
    let before = LIVE_BYTES.load(Relaxed);
    for _ in 0..QUEUED {
        tickets.push(pool.blocking_submit(Act::Count(0)).unwrap());
    }
    let each = (LIVE_BYTES.load(Relaxed) - before) as f64 / QUEUED as f64;
    println!("bytes per queued command ({}-byte command): {each:.0}", size_of::<Act>());
    // A line of the cache more is too much.
    assert!(each <= 180.0, "{each} bytes per queued command");
    door.wait();
    first.blocking_wait().unwrap();
    for ticket in tickets {
        ticket.blocking_wait().unwrap();
    }
    pool.drain().blocking_wait().unwrap();
}

fn g13_ten_million_commands_are_queued_and_not_one_more() {
    /// In a debug build a hundredth.
    const QUEUED: u64 = if cfg!(debug_assertions) { 100_000 } else { 10_000_000 };
    let pool = start(1, 2, QUEUED as usize);
    let door = std::sync::Arc::new(std::sync::Barrier::new(2));
    let first = pool.blocking_submit(Act::Wait(0, door.clone())).unwrap();
    door.wait();
    // Behind the one that runs, so that the other worker can't start them.
    for _ in 0..QUEUED {
        drop(pool.try_submit(Act::Count(0)).unwrap());
    }
    for _ in 0..100 {
        let refused = pool.try_submit(Act::Count(1));
        assert!(matches!(refused, Err(TrySubmitError::Full(Act::Count(1)))), "{refused:?}");
    }
    assert_eq!(pool.stats()[0].queued, QUEUED);
    door.wait();
    assert_eq!(first.blocking_wait().unwrap().version, 1);
    let outcomes = pool.drain().blocking_wait().unwrap();
    assert_eq!((outcomes.committed, outcomes.total()), (QUEUED + 1, QUEUED + 1));
}

fn a_shard_and_a_worker_cost_what_is_written() {
    let bytes = |shards, workers| {
        // Polled by hand, on this thread, whose bytes alone count: not what a runtime's task or thread
        // takes, nor what threads of the pools before free when they end.
        let executor = ByHand::default();
        let before = OWN_BYTES.get();
        let pool = start_on(executor.clone(), shards, workers, 1024);
        let mut tasks = executor.tasks();
        tasks.shrink_to_fit();
        let mut poll_all = || {
            let mut cx = task::Context::from_waker(Waker::noop());
            tasks.retain_mut(|task| task.as_mut().poll(&mut cx).is_pending());
            tasks.is_empty()
        };
        poll_all();
        let after = OWN_BYTES.get();
        let drain = pool.drain();
        while !poll_all() {}
        drain.blocking_wait().unwrap();
        (after - before) as f64
    };
    let base = bytes(8, 1);
    let shard = (bytes(24, 1) - base) / 16.0;
    println!("bytes per shard with one worker: {shard:.0}");
    assert!(shard <= 6_000.0, "{shard} bytes per shard");
    let worker = (bytes(8, 9) - base) / 64.0;
    println!("bytes per worker: {worker:.0}");
    assert!(worker <= 850.0, "{worker} bytes per worker");
}

fn g09_a_wait_of_a_handler_does_not_pay_for_its_others() {
    // The handler of 0 sends to so many others at once, and waits for all.
    let bytes_for_each_of = |waits: u64| {
        let own = std::sync::Arc::new(OnceLock::<WeakPool<Act, u64, ()>>::new());
        let pool = std::sync::Arc::clone(&own);
        let pool = ShardPool::builder(async_handler_fn(move |act: Act, _| {
            let pool = std::sync::Arc::clone(&pool);
            async move {
                let Act::Wait(..) = act else { return Ok::<_, Failure<()>>(1) };
                let pool = pool.get().and_then(WeakPool::upgrade).expect("the test holds the pool");
                let sends = (1..=waits).map(|id| pool.send(Act::Count(id)));
                Ok(join_all(sends).await.into_iter().flatten().map(|receipt| receipt.output).sum())
            }
        }))
        .shards(1)
        .workers_per_shard(2)
        .queue_depth(waits as usize)
        .start(Threads::new())
        .unwrap();
        own.set(pool.downgrade()).unwrap();
        let door = std::sync::Arc::new(std::sync::Barrier::new(1));
        // Once for the aggregates and the cells.
        pool.blocking_send(Act::Wait(0, door.clone())).unwrap();
        let before = ALLOCATED_BYTES.load(Relaxed);
        assert_eq!(pool.blocking_send(Act::Wait(0, door)).unwrap().output, waits);
        let allocated = ALLOCATED_BYTES.load(Relaxed) - before;
        pool.drain().blocking_wait().unwrap();
        allocated as f64 / waits as f64
    };
    let (few, many) = (bytes_for_each_of(256), bytes_for_each_of(4_096));
    println!("bytes allocated for each of 256 waits of a handler: {few:.0}, of 4,096: {many:.0}");
    // In proportion to the others it would be 16 times as much.
    assert!(many <= 4.0 * few, "{few} bytes for each of 256 waits, {many} for each of 4,096");
}

fn g17_nothing_is_left_after_many_pools() {
    let cycle = || {
        let pool = start(2, 2, 16);
        let tickets: Vec<_> =
            (0..200).map(|id| pool.blocking_submit(Act::Count(id)).unwrap()).collect();
        // What is not done yet is freed elsewhere, and at another time.
        for ticket in tickets {
            ticket.blocking_wait().unwrap();
        }
        pool.drain().blocking_wait().unwrap();
    };
    // Threads that have run their task to the end still free what is their own, so a single look
    // may find some of it; the least of several looks does not.
    let least_of = |cycles: usize| {
        (0..cycles)
            .map(|_| {
                cycle();
                LIVE.load(Relaxed)
            })
            .min()
            .unwrap_or_default()
    };
    let early = least_of(10);
    least_of(280);
    let late = least_of(10);
    println!("live allocations after 10 pools: {early}, after 300: {late}");
    // Threads that end just then make a difference of about a dozen, and cells that workers have let go of last one
    // of three; one allocation a pool would make 290.
    assert!(late <= early + 150, "{} allocations are left by 290 pools", late - early);
}
