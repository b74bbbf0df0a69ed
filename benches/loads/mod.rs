//! What both benchmarks do with a pool. Ids come from fixed seeds, and their hash has a fixed key,
//! so that each run does the same.

pub(crate) mod steps;
pub(crate) mod whole;

use shardpool::executors::Executor;
use shardpool::{Command, Context, Failure, ShardPool, Ticket, handler_fn};
use std::convert::Infallible;
use std::hash::{BuildHasherDefault, DefaultHasher};

/// How many aggregates there are.
const AGGREGATES: u64 = 10_000;

/// How many tickets are in flight at once, where it is more than one for each caller.
const IN_FLIGHT: usize = 256;

/// A command that has nothing to say but whom it is for.
pub(crate) struct Touch(u64);

impl Command for Touch {
    type AggregateId = u64;
    fn aggregate_id(&self) -> &u64 {
        &self.0
    }
}

pub(crate) type Pool = ShardPool<Touch, u64, Infallible>;

type Claim = Ticket<Touch, u64, Infallible>;

/// A pool whose handler does next to nothing: what is measured is the pool.
pub(crate) fn start(executor: impl Executor) -> Pool {
    ShardPool::builder(handler_fn(|n: &mut u64, _: Touch, _: &Context| {
        *n += 1;
        Ok::<_, Failure<Infallible>>(*n)
    }))
    .shards(8)
    .workers_per_shard(8)
    .hasher(BuildHasherDefault::<DefaultHasher>::default())
    .start(executor)
    .expect("valid settings")
}

/// Has every aggregate made, so that nothing is new to the pool any more.
pub(crate) async fn warm(pool: &Pool) {
    for id in 0..AGGREGATES {
        pool.send(Touch(id)).await.expect("a commit");
    }
}

/// Commands to aggregates at random.
struct Commands {
    random: fastrand::Rng,
    /// Half of them are to one aggregate.
    hot: bool,
}

impl Commands {
    fn new(seed: u64, hot: bool) -> Self {
        Self { random: fastrand::Rng::with_seed(seed), hot }
    }

    fn next(&mut self) -> Touch {
        let hot = self.hot && self.random.bool();
        Touch(if hot { 0 } else { self.random.u64(..AGGREGATES) })
    }
}
