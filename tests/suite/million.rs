//! Order, exclusion and conservation at once, under load.

use crate::harness::{Bed, load, suite, yield_at_random};
use shardpool::{Command, CommandHandler, Context, Failure, ShardPool};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

suite!(g01_g05_g10_a_million_commands_keep_order_versions_and_count);

const AGGREGATES: usize = 1_000;
const COMMANDS: usize = load(100_000, 1_000_000);

struct Numbered {
    aggregate: usize,
    number: u64,
}

impl Command for Numbered {
    type AggregateId = usize;
    fn aggregate_id(&self) -> &usize {
        &self.aggregate
    }
}

struct Checking {
    busy: Arc<[AtomicBool]>,
}

impl CommandHandler for Checking {
    type Command = Numbered;
    /// The number of the next command.
    type State = u64;
    type Output = u64;
    type Error = u64;

    async fn handle(
        &self,
        next: &mut u64,
        command: Numbered,
        cx: &Context,
    ) -> Result<u64, Failure<u64>> {
        let busy = &self.busy[command.aggregate];
        assert!(!busy.swap(true, Ordering::SeqCst), "aggregate {} overlaps", command.aggregate);
        assert_eq!(*next, command.number, "aggregate {} is out of order", command.aggregate);
        *next += 1;
        yield_at_random().await;
        assert!(busy.swap(false, Ordering::SeqCst), "aggregate {} overlaps", command.aggregate);
        // Every tenth is rejected, and must give its version back.
        if command.number % 10 == 9 {
            Err(Failure::Rejected(cx.version()))
        } else {
            Ok(command.number)
        }
    }
}

async fn g01_g05_g10_a_million_commands_keep_order_versions_and_count(bed: Bed) {
    let busy: Arc<[AtomicBool]> = (0..AGGREGATES).map(|_| AtomicBool::new(false)).collect();
    let pool = ShardPool::builder(Checking { busy })
        .shards(8)
        .workers_per_shard(8)
        .start(bed.executor())
        .unwrap();
    bed.watch(pool.clone());
    // Four submitters, each with aggregates of its own, all of them open loop.
    let submitters: Vec<_> = (0..4)
        .map(|submitter| {
            let pool = pool.clone();
            bed.spawn(async move {
                let mut tickets = Vec::new();
                let mut numbers = vec![0; AGGREGATES / 4];
                for _ in 0..COMMANDS / 4 {
                    let slot = fastrand::usize(..numbers.len());
                    let command =
                        Numbered { aggregate: slot * 4 + submitter, number: numbers[slot] };
                    numbers[slot] += 1;
                    tickets.push((slot, pool.submit(command).await.unwrap()));
                }
                let mut versions = vec![0; AGGREGATES / 4];
                let mut rejected = 0;
                for (slot, ticket) in tickets {
                    match ticket.await {
                        Ok(receipt) => {
                            versions[slot] += 1;
                            assert_eq!(receipt.version, versions[slot], "a gap or a duplicate");
                        }
                        Err(shardpool::CommandError::Rejected(version)) => {
                            rejected += 1;
                            assert_eq!(version, versions[slot] + 1, "a version was not given back");
                        }
                        Err(other) => panic!("{other:?}"),
                    }
                }
                (versions.iter().sum::<u64>(), rejected)
            })
        })
        .collect();
    let (mut committed, mut rejected) = (0, 0);
    for submitter in submitters {
        let (c, r) = submitter.await;
        committed += c;
        rejected += r;
    }
    let stats = pool.stats();
    assert_eq!(stats.iter().map(|s| s.accepted).sum::<u64>(), COMMANDS as u64);
    for shard in &stats {
        assert_eq!(shard.accepted, shard.outcomes.total());
        assert_eq!((shard.queued, shard.running, shard.waiting), (0, 0, 0));
    }
    let outcomes = pool.drain().await.unwrap();
    assert_eq!((outcomes.committed, outcomes.rejected), (committed, rejected));
    assert_eq!(outcomes.total(), COMMANDS as u64);
}
