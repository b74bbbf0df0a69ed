//! What commands and aggregates cost in memory, counted at the allocator.
//!
//! One test, since everything in the process counts: `cargo test --release --test costs -- --nocapture`
//! prints the figures of `ARCHITECTURE.md`.

use shardpool::executors::Threads;
use shardpool::{Command, Context, Failure, ShardPool, handler_fn};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static LIVE: AtomicI64 = AtomicI64::new(0);
static LIVE_BYTES: AtomicI64 = AtomicI64::new(0);

// SAFETY: passes every call on to the system's allocator, unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Relaxed);
        LIVE.fetch_add(1, Relaxed);
        LIVE_BYTES.fetch_add(layout.size() as i64, Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, p: *mut u8, layout: Layout) {
        LIVE.fetch_sub(1, Relaxed);
        LIVE_BYTES.fetch_sub(layout.size() as i64, Relaxed);
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
    .start(Threads::new())
    .unwrap()
}

#[test]
fn costs() {
    no_allocation_per_command_once_warm();
    an_idle_aggregate_costs_what_is_written();
    a_queued_command_costs_what_is_written();
    a_shard_and_a_worker_cost_what_is_written();
    g17_nothing_is_left_after_many_pools();
}

fn no_allocation_per_command_once_warm() {
    const COMMANDS: u64 = 20_000;
    let pool = start(4, 4, 1024);
    let run = || {
        // Several in flight, so that chains and the channel are in use.
        let mut tickets = Vec::with_capacity(64);
        for n in 0..COMMANDS {
            tickets.push(pool.blocking_submit(Act::Count(n % 100)).unwrap());
            if tickets.len() == 64 {
                for ticket in tickets.drain(..) {
                    ticket.blocking_wait().unwrap();
                }
            }
        }
        for ticket in tickets {
            ticket.blocking_wait().unwrap();
        }
    };
    run();
    let before = ALLOCATIONS.load(Relaxed);
    run();
    let each = (ALLOCATIONS.load(Relaxed) - before) as f64 / COMMANDS as f64;
    println!("allocations per command, warm: {each:.4}");
    assert!(each <= 0.05, "{each} allocations per command");
    pool.drain().blocking_wait().unwrap();
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
    assert!(each <= 400.0, "{each} bytes per idle aggregate");
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
    assert!(each <= 320.0, "{each} bytes per queued command");
    door.wait();
    first.blocking_wait().unwrap();
    for ticket in tickets {
        ticket.blocking_wait().unwrap();
    }
    pool.drain().blocking_wait().unwrap();
}

fn a_shard_and_a_worker_cost_what_is_written() {
    let bytes = |shards, workers| {
        let before = LIVE_BYTES.load(Relaxed);
        let pool = start(shards, workers, 1024);
        // Every future has been polled once: it has answered a command, or nothing is to be said.
        pool.blocking_send(Act::Count(0)).unwrap();
        let after = LIVE_BYTES.load(Relaxed);
        pool.drain().blocking_wait().unwrap();
        (after - before) as f64
    };
    let base = bytes(8, 1);
    println!(
        "bytes per shard with one worker, thread included: {:.0}",
        (bytes(24, 1) - base) / 16.0
    );
    println!("bytes per worker, thread included: {:.0}", (bytes(8, 9) - base) / 64.0);
}

fn g17_nothing_is_left_after_many_pools() {
    let cycle = || {
        let pool = start(2, 2, 16);
        let tickets: Vec<_> =
            (0..200).map(|id| pool.blocking_submit(Act::Count(id)).unwrap()).collect();
        drop(tickets);
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
    least_of(80);
    let late = least_of(10);
    println!("live allocations after 10 pools: {early}, after 100: {late}");
    assert!(late <= early + 8, "{} allocations are left by 90 pools", late - early);
}
