//! The whole pool: each of its futures on a thread of the model.

use crate::executors::{Executor, SpawnError, Task};
use crate::loom::check::{To, block_on, check};
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

/// What every model ends with: drains the pool, and counts. A model that is not about the end does not
/// look at its interleavings.
fn drain(pool: &Pool, committed: u64) {
    let outcomes = block_on(pool.drain()).unwrap();
    assert_eq!((outcomes.committed, outcomes.total()), (committed, committed));
}

fn settle(pool: &Pool, committed: u64) {
    loom::stop_exploring();
    drain(pool, committed);
}

fn output(ticket: Ticket<To, u64, ()>) -> u64 {
    block_on(ticket).unwrap().output
}

#[test]
fn a_command_is_answered_and_the_pool_ends() {
    check(|| {
        let pool = pool(1, 1);
        assert_eq!(block_on(pool.send(To(1))).unwrap().output, 1);
        drain(&pool, 1);
    });
}

#[test]
fn two_commands_of_one_aggregate_run_in_order() {
    check(|| {
        let pool = pool(1, 2);
        let (first, second) = (pool.try_submit(To(1)).unwrap(), pool.try_submit(To(1)).unwrap());
        assert_eq!((output(second), output(first)), (2, 1));
        settle(&pool, 2);
    });
}

#[test]
fn a_submission_that_waits_for_room_gets_it() {
    check(|| {
        let pool = pool(1, 1);
        let first = pool.try_submit(To(1)).unwrap();
        assert_eq!(block_on(pool.send(To(1))).unwrap().output, 2);
        assert_eq!(output(first), 1);
        settle(&pool, 2);
    });
}

#[test]
fn two_callers_are_answered() {
    check(|| {
        let pool = pool(1, 2);
        let other = pool.clone();
        let caller = thread::spawn(move || output(other.try_submit(To(2)).unwrap()));
        assert_eq!(output(pool.try_submit(To(1)).unwrap()), 1);
        assert_eq!(caller.join().unwrap(), 1);
        settle(&pool, 2);
    });
}

#[test]
fn two_workers_share_the_work() {
    check(|| {
        let pool = pool(2, 3);
        let tickets = [1, 2, 1].map(|id| pool.try_submit(To(id)).unwrap());
        assert_eq!(tickets.map(output), [1, 1, 2]);
        settle(&pool, 3);
    });
}

#[test]
fn a_submission_during_a_drain_is_refused_or_answered() {
    check(|| {
        let pool = pool(1, 1);
        let other = pool.clone();
        let caller = thread::spawn(move || match other.try_submit(To(1)) {
            Ok(ticket) => output(ticket),
            Err(_) => 0,
        });
        let outcomes = block_on(pool.drain()).unwrap();
        assert_eq!(caller.join().unwrap(), outcomes.committed);
    });
}
