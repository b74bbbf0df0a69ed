//! G14: settings that can't be are errors, and those that can be are in force.

use crate::harness::{Bed, Door, Shared, suite, until};
use crate::script::{Act, Actor, Do, Store};
use shardpool::executors::{Clock, Executor, SpawnError, Task};
use shardpool::{Builder, NoLoader, SettingError, ShardPool, StartError};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

suite!(
    g14_zero_shards_are_refused,
    g14_trap13_zero_workers_are_refused,
    g14_trap06_a_depth_of_zero_is_refused,
    g14_a_turn_of_zero_is_refused,
    g14_a_cap_of_zero_is_refused,
    g12_g14_a_cap_without_a_loader_is_refused,
    g14_sizes_that_overflow_are_refused,
    g14_the_largest_sizes_are_accepted,
    g14_the_error_names_the_setting_and_the_value,
    g14_what_is_accepted_is_in_force,
);

/// An executor that counts what it is given.
#[derive(Clone)]
struct Counting {
    inner: Shared,
    spawned: Arc<AtomicUsize>,
}

impl Executor for Counting {
    fn spawn(&self, task: Task) -> Result<(), SpawnError> {
        self.spawned.fetch_add(1, Ordering::SeqCst);
        self.inner.spawn(task)
    }
    fn clock(&self) -> Arc<dyn Clock> {
        self.inner.clock()
    }
    fn threads(&self) -> usize {
        self.inner.threads()
    }
}

/// An executor that takes nothing: a size that is too large must not be tried out.
struct Unwilling;

impl Executor for Unwilling {
    fn spawn(&self, _: Task) -> Result<(), SpawnError> {
        Err(SpawnError::new("asked to run something"))
    }
}

/// Fails unless the builder refuses this setting and starts nothing.
fn refused(
    setting: &str,
    value: usize,
    set: impl FnOnce(Builder<Actor, NoLoader>) -> Builder<Actor, NoLoader>,
) -> SettingError {
    let error = match set(ShardPool::builder(Actor::default())).start(Unwilling) {
        Err(StartError::Setting(error)) => error,
        Err(other) => panic!("{setting}({value}) passed: {other}"),
        Ok(pool) => panic!("{setting}({value}) was accepted: {pool:?}"),
    };
    assert_eq!((error.setting, error.value), (setting, value));
    error
}

async fn g14_zero_shards_are_refused(_: Bed) {
    refused("shards", 0, |builder| builder.shards(0));
}

async fn g14_trap13_zero_workers_are_refused(_: Bed) {
    refused("workers_per_shard", 0, |builder| builder.workers_per_shard(0));
}

async fn g14_trap06_a_depth_of_zero_is_refused(_: Bed) {
    refused("queue_depth", 0, |builder| builder.queue_depth(0));
}

async fn g14_a_turn_of_zero_is_refused(_: Bed) {
    refused("max_turn", 0, |builder| builder.max_turn(0));
}

async fn g14_a_cap_of_zero_is_refused(_: Bed) {
    let builder = ShardPool::builder(Actor::default()).loader(Store::default()).max_resident(0);
    let error = builder.start(Unwilling).unwrap_err();
    let StartError::Setting(error) = error else { panic!("{error}") };
    assert_eq!((error.setting, error.value), ("max_resident", 0));
}

async fn g12_g14_a_cap_without_a_loader_is_refused(_: Bed) {
    for cap in [1, 5, usize::MAX] {
        let error = refused("max_resident", cap, |builder| builder.max_resident(cap));
        assert!(error.reason.contains("loader"), "{error}");
    }
}

async fn g14_sizes_that_overflow_are_refused(_: Bed) {
    for n in [65_537, usize::MAX / 2 + 1, usize::MAX] {
        refused("shards", n, |builder| builder.shards(n));
        refused("workers_per_shard", n, |builder| builder.workers_per_shard(n));
    }
    for n in [1 << 31, usize::MAX] {
        refused("queue_depth", n, |builder| builder.queue_depth(n));
    }
    // Each is fine, but not both.
    for (shards, workers) in [(17, 65_536), (65_536, 17), (1 << 16, 1 << 16)] {
        refused("workers_per_shard", workers, |builder| {
            builder.shards(shards).workers_per_shard(workers)
        });
    }
}

async fn g14_the_largest_sizes_are_accepted(bed: Bed) {
    let builder = || ShardPool::builder(Actor::default()).shards(1).workers_per_shard(1);
    for builder in [builder().shards(65_536), builder().workers_per_shard(65_536)] {
        // It is past the settings when it comes to the executor.
        let error = builder.start(Unwilling).unwrap_err();
        assert!(matches!(error, StartError::Spawn(_)), "{error}");
    }
    let pool = builder().queue_depth((1 << 31) - 1).max_turn(usize::MAX).start(bed.executor());
    assert_eq!(pool.unwrap().send(Do::commit(1, 0)).await.unwrap().version, 1);
    let pool = builder().loader(Store::default()).max_resident(usize::MAX).start(bed.executor());
    assert_eq!(pool.unwrap().send(Do::commit(1, 0)).await.unwrap().version, 1);
}

async fn g14_the_error_names_the_setting_and_the_value(_: Bed) {
    let errors = [
        refused("shards", 70_000, |builder| builder.shards(70_000)),
        refused("workers_per_shard", 0, |builder| builder.workers_per_shard(0)),
        refused("queue_depth", 1 << 40, |builder| builder.queue_depth(1 << 40)),
    ];
    for error in errors {
        for text in [error.to_string(), StartError::Setting(error.clone()).to_string()] {
            assert!(text.contains(error.setting), "{text}");
            assert!(text.contains(&error.value.to_string()), "{text}");
        }
    }
}

async fn g14_what_is_accepted_is_in_force(bed: Bed) {
    for (shards, workers, depth) in [(1, 1, 1), (3, 2, 5), (2, 7, 40)] {
        let executor = Counting { inner: bed.executor(), spawned: Arc::default() };
        let store = Store::default();
        let pool = ShardPool::builder(Actor { store: Some(store.clone()), ..Actor::default() })
            .loader(store)
            .shards(shards)
            .workers_per_shard(workers)
            .queue_depth(depth)
            .max_resident(2)
            .start(executor.clone())
            .unwrap();
        bed.watch(pool.clone());
        assert_eq!(pool.shards(), shards);
        assert_eq!(pool.stats().len(), shards);
        assert_eq!(executor.spawned.load(Ordering::SeqCst), shards * (1 + workers));
        let mut tickets = Vec::new();
        for shard in 0..shards {
            // As many run at once as there are workers, and as many wait as the depth says.
            let door = Door::closed();
            let mut ids = (0u32..).filter(|id| pool.shard_of(id) == shard);
            for n in 1..=workers {
                let command = Do::new(ids.next().unwrap(), 0, Act::Commit).at(&door);
                tickets.push(pool.submit(command).await.unwrap());
                until(|| door.arrived() == n as u64).await;
            }
            for _ in 0..depth {
                tickets.push(pool.try_submit(Do::commit(ids.next().unwrap(), 0)).unwrap());
            }
            assert!(pool.try_submit(Do::commit(ids.next().unwrap(), 0)).unwrap_err().is_full());
            let stats = pool.stats()[shard];
            assert_eq!((stats.running, stats.queued), (workers as u64, depth as u64));
            door.open();
        }
        for ticket in tickets {
            ticket.await.unwrap();
        }
        until(|| pool.stats().iter().all(|shard| shard.resident <= 2)).await;
    }
}
