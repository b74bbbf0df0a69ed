//! The whole pool: each of its futures on a thread of the model.

use crate::executors::{Executor, SpawnError, Task};
use crate::loom::check::{block_on, check};
use crate::{Command, Context, Failure, ShardPool, handler_fn};
use loom::cell::UnsafeCell;
use loom::thread;
use std::collections::hash_map::DefaultHasher;
use std::hash::BuildHasherDefault;

/// A command, which is nothing but its aggregate's id.
struct To(u8);

impl Command for To {
    type AggregateId = u8;

    fn aggregate_id(&self) -> &u8 {
        &self.0
    }
}

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

/// What every model ends with: drains the pool, and counts.
fn drain(pool: &Pool, committed: u64) {
    let outcomes = block_on(pool.drain()).unwrap();
    assert_eq!((outcomes.committed, outcomes.total()), (committed, committed));
}

#[test]
fn a_command_is_answered_and_the_pool_ends() {
    check(|| {
        let pool = pool(1, 1);
        assert_eq!(block_on(pool.send(To(1))).unwrap().output, 1);
        drain(&pool, 1);
    });
}
