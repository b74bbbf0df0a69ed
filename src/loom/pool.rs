//! The whole pool: each of its futures on a thread of the model.

use crate::executors::{Executor, SpawnError, Task};
use crate::loom::check::{To, block_on, check, check_large};
use crate::{Context, Failure, ShardPool, Ticket, handler_fn};
use loom::cell::UnsafeCell;
use loom::thread;
use std::collections::hash_map::DefaultHasher;
use std::hash::BuildHasherDefault;

/// A state on which loom sees two handlers at once.
struct Lone(UnsafeCell<u64>);

impl Default for Lone {
    fn default() -> Self {
        Self(UnsafeCell::new(0))
    }
}

/// Each future has a thread.
struct Model;

impl Executor for Model {
    fn spawn(&self, task: Task) -> Result<(), SpawnError> {
        thread::spawn(|| block_on(task));
        Ok(())
    }
}

type Pool = ShardPool<To, u64, ()>;

/// A pool of one shard whose handlers count in the state.
fn pool(workers: usize, depth: usize) -> Pool {
    let handler = handler_fn(|lone: &mut Lone, _: To, _: &Context| {
        Ok::<_, Failure<()>>(lone.0.with_mut(|n| {
            // SAFETY: loom has seen that nobody else is at it.
            unsafe {
                *n += 1;
                *n
            }
        }))
    });
    ShardPool::builder(handler)
        .shards(1)
        .workers_per_shard(workers)
        .queue_depth(depth)
        .hasher(BuildHasherDefault::<DefaultHasher>::default())
        .start(Model)
        .unwrap()
}

/// A pool that has answered a command to each of two aggregates, and come to rest. A model that is not
/// about the beginning does not look at its interleavings.
fn warm(workers: usize, depth: usize) -> Pool {
    loom::stop_exploring();
    let pool = pool(workers, depth);
    for id in [1, 2] {
        assert_eq!(block_on(pool.send(To(id))).unwrap().output, 1);
    }
    loom::explore();
    pool
}

/// What every model ends with: drains the pool, and counts. A model that is not about the end does not
/// look at its interleavings.
fn drain(pool: &Pool, committed: u64) {
    let outcomes = block_on(pool.drain()).unwrap();
    assert_eq!((outcomes.committed, outcomes.total()), (committed, committed));
}

fn settle(pool: &Pool, committed: u64) {
    loom::stop_exploring();
    drain(pool, committed + 2);
}

fn submit(pool: &Pool, id: u8) -> Ticket<To, u64, ()> {
    pool.try_submit(To(id)).unwrap()
}

fn output(ticket: Ticket<To, u64, ()>) -> u64 {
    block_on(ticket).unwrap().output
}

#[test]
fn a_command_is_answered_and_the_pool_ends() {
    check(|| {
        let pool = pool(1, 1);
        assert_eq!(output(submit(&pool, 1)), 1);
        drain(&pool, 1);
    });
}

#[test]
fn two_commands_of_one_aggregate_run_in_order() {
    check(|| {
        let pool = warm(1, 2);
        let (first, second) = (submit(&pool, 1), submit(&pool, 1));
        assert_eq!((output(second), output(first)), (3, 2));
        // Who has seen an outcome sees it counted.
        assert_eq!(pool.stats()[0].outcomes.committed, 4);
        settle(&pool, 2);
    });
}

#[test]
fn a_submission_that_waits_for_room_gets_it() {
    check_large(1, || {
        let pool = warm(1, 1);
        let first = submit(&pool, 1);
        assert_eq!(block_on(pool.send(To(2))).unwrap().output, 2);
        assert_eq!(output(first), 2);
        settle(&pool, 2);
    });
}

#[test]
fn two_callers_are_answered() {
    check_large(1, || {
        let pool = warm(1, 2);
        let other = pool.clone();
        let caller = thread::spawn(move || output(submit(&other, 2)));
        assert_eq!(output(submit(&pool, 1)), 2);
        assert_eq!(caller.join().unwrap(), 2);
        settle(&pool, 2);
    });
}

#[test]
fn two_workers_share_the_work() {
    check_large(2, || {
        let pool = warm(2, 2);
        let tickets = [1, 2].map(|id| submit(&pool, id));
        assert_eq!(tickets.map(output), [2, 2]);
        settle(&pool, 2);
    });
}

#[test]
fn a_submission_during_a_drain_is_refused_or_answered() {
    check(|| {
        let pool = warm(1, 1);
        let other = pool.clone();
        let caller = thread::spawn(move || match other.try_submit(To(1)) {
            Ok(ticket) => output(ticket),
            Err(_) => 0,
        });
        let outcomes = block_on(pool.drain()).unwrap();
        assert_eq!(caller.join().unwrap() == 2, outcomes.committed == 3);
    });
}

#[test]
fn an_abort_resolves_what_is_queued() {
    check_large(1, || {
        let pool = warm(1, 2);
        let (first, second) = (submit(&pool, 1), submit(&pool, 1));
        let outcomes = block_on(pool.abort()).unwrap();
        let committed = [first, second].map(|ticket| u64::from(block_on(ticket).is_ok()));
        assert_eq!(outcomes.committed, 2 + committed[0] + committed[1]);
        assert_eq!(outcomes.total(), 4);
    });
}
