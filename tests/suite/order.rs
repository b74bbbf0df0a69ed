//! G1: one at a time and in order for each aggregate. G2: in parallel across aggregates.

use crate::harness::{Bed, Door, suite, until, yield_at_random, yield_now};
use crate::script::{Act, Actor, Do, Log, Pool, only};
use futures::future::join_all;
use shardpool::{Command, Context, Failure, ShardPool, TrySubmitError, handler_fn};
use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::Arc;

suite!(
    g01_trap01_commands_of_one_aggregate_never_overlap,
    g01_trap01_commands_start_in_the_order_of_acceptance_for_any_shards_and_workers,
    g01_acceptance_in_turn_by_several_tasks_is_the_order_of_starts,
    g01_two_submissions_of_a_task_keep_their_order_when_the_first_had_to_wait,
    g01_two_submissions_of_a_task_keep_their_order_when_the_second_has_to_wait,
    g01_order_outlives_rejections_failures_and_panics,
    g02_all_workers_of_a_shard_are_busy_at_once,
    g02_aggregates_run_past_one_that_is_stuck,
    g02_every_worker_is_found_by_some_aggregate_while_others_are_stuck,
    g02_two_aggregates_find_two_workers_however_these_fall_asleep,
    g02_ids_that_share_a_hash_have_states_and_versions_of_their_own,
    g02_ids_that_share_a_hash_run_in_parallel,
    g02_an_id_type_that_hashes_to_nothing_is_told_apart_by_eq,
);

/// A pool, with the log of what it starts.
fn pool(bed: &Bed, shards: usize, workers: usize, depth: usize, turn: usize) -> (Pool, Log) {
    let log = Log::default();
    let pool = ShardPool::builder(Actor { log: log.clone(), store: None })
        .shards(shards)
        .workers_per_shard(workers)
        .queue_depth(depth)
        .max_turn(turn)
        .start(bed.executor())
        .unwrap();
    bed.watch(pool.clone());
    (pool, log)
}

/// Fails unless each aggregate's tags were started as 0, 1, 2, ...
fn assert_in_order(log: &Log, aggregates: u32, each: u64) {
    let mut next = vec![0; aggregates as usize];
    for (id, tag) in log.starts() {
        assert_eq!(tag, next[id as usize], "aggregate {id} is out of order");
        next[id as usize] += 1;
    }
    assert_eq!(next, vec![each; aggregates as usize], "every command was started once");
}

async fn g01_trap01_commands_of_one_aggregate_never_overlap(bed: Bed) {
    let (pool, log) = pool(&bed, 2, 8, 4096, 3);
    let mut tickets = Vec::new();
    // Few aggregates for many workers: whatever lets two of a kind run at once will.
    for tag in 0..2_000 {
        for id in 0..5 {
            tickets.push(pool.submit(Do::commit(id, tag).restless()).await.unwrap());
        }
    }
    for ticket in tickets {
        ticket.await.unwrap();
    }
    assert_eq!(log.overlaps(), 0);
}

async fn g01_trap01_commands_start_in_the_order_of_acceptance_for_any_shards_and_workers(bed: Bed) {
    const AGGREGATES: u32 = 20;
    const EACH: u64 = 60;
    for (shards, workers) in [(1, 1), (1, 2), (1, 8), (3, 1), (3, 4), (8, 8)] {
        for turn in [1, 4, 64] {
            // A small depth, so that some wait for room and some do not.
            let (pool, log) = pool(&bed, shards, workers, 32, turn);
            let submitters = (0..4).map(|submitter| {
                let pool = pool.clone();
                bed.spawn(async move {
                    let mut tickets = Vec::new();
                    for tag in 0..EACH {
                        for id in (submitter..AGGREGATES).step_by(4) {
                            let command = Do::commit(id, tag).restless();
                            tickets.push(pool.submit(command).await.unwrap());
                        }
                        yield_at_random().await;
                    }
                    for ticket in tickets {
                        ticket.await.unwrap();
                    }
                })
            });
            join_all(submitters).await;
            assert_in_order(&log, AGGREGATES, EACH);
        }
    }
}

async fn g01_acceptance_in_turn_by_several_tasks_is_the_order_of_starts(bed: Bed) {
    const EACH: u64 = 2_000;
    let (pool, log) = pool(&bed, 1, 8, 16, 2);
    // Whoever holds the number submits with it, so the tasks accept one after the other.
    let number = Arc::new(futures::lock::Mutex::new(0));
    let submitters = (0..4).map(|_| {
        let (pool, number) = (pool.clone(), Arc::clone(&number));
        bed.spawn(async move {
            let mut tickets = Vec::new();
            loop {
                let mut next = number.lock().await;
                if *next == EACH {
                    break;
                }
                let command = Do::commit(0, *next).restless();
                let command = match pool.try_submit(command) {
                    Ok(ticket) => {
                        tickets.push(ticket);
                        None
                    }
                    Err(TrySubmitError::Full(command)) => Some(command),
                    Err(other) => panic!("{other}"),
                };
                if let Some(command) = command {
                    tickets.push(pool.submit(command).await.unwrap());
                }
                *next += 1;
                drop(next);
                // Others of the shard keep the workers busy.
                tickets.push(pool.submit(Do::commit(1 + fastrand::u32(..8), 0)).await.unwrap());
                yield_at_random().await;
            }
            for ticket in tickets {
                ticket.await.unwrap();
            }
        })
    });
    join_all(submitters).await;
    assert_eq!(log.tags_of(0), (0..EACH).collect::<Vec<_>>());
}

async fn g01_two_submissions_of_a_task_keep_their_order_when_the_first_had_to_wait(bed: Bed) {
    const BATCH: u64 = 24;
    const BATCHES: u64 = 100;
    let (pool, log) = pool(&bed, 1, 4, 4, 64);
    let mut tickets = Vec::new();
    for batch in 0..BATCHES {
        // Several submissions at a time, first polled in order: most find the shard full, and room
        // comes free between two polls.
        let mut batch: Vec<_> = (0..BATCH)
            .map(|n| Box::pin(pool.submit(Do::commit(0, batch * BATCH + n).restless())))
            .collect();
        let mut waiting = Vec::new();
        for mut submission in batch.drain(..) {
            match futures::poll!(&mut submission) {
                std::task::Poll::Ready(ticket) => tickets.push(ticket.unwrap()),
                std::task::Poll::Pending => waiting.push(submission),
            }
            yield_at_random().await;
        }
        for ticket in join_all(waiting).await {
            tickets.push(ticket.unwrap());
        }
    }
    for ticket in tickets {
        ticket.await.unwrap();
    }
    assert_eq!(log.tags_of(0), (0..BATCH * BATCHES).collect::<Vec<_>>());
}

async fn g01_two_submissions_of_a_task_keep_their_order_when_the_second_has_to_wait(bed: Bed) {
    const ROUNDS: u64 = 300;
    let (pool, log) = pool(&bed, 1, 2, 8, 64);
    let mut tickets = Vec::new();
    let mut tag = 0;
    for _ in 0..ROUNDS {
        // Up to the brim without a wait, and one more that has to wait for one of those.
        loop {
            let command = Do::commit(0, tag).restless();
            tag += 1;
            match pool.try_submit(command) {
                Ok(ticket) => tickets.push(ticket),
                Err(full) => {
                    assert!(full.is_full());
                    tickets.push(pool.submit(full.into_command()).await.unwrap());
                    break;
                }
            }
        }
    }
    for ticket in tickets {
        ticket.await.unwrap();
    }
    assert_eq!(log.tags_of(0), (0..tag).collect::<Vec<_>>());
}

async fn g01_order_outlives_rejections_failures_and_panics(bed: Bed) {
    const AGGREGATES: u32 = 12;
    const EACH: u64 = 200;
    let (pool, log) = pool(&bed, 2, 4, 4096, 5);
    let mut tickets = Vec::new();
    for tag in 0..EACH {
        for id in 0..AGGREGATES {
            let act = [Act::Commit, Act::Reject, Act::Fail, Act::Panic][fastrand::usize(..4)];
            tickets.push(pool.submit(Do::new(id, tag, act).restless()).await.unwrap());
        }
    }
    // How they end is not the point here, only that they do.
    drop(join_all(tickets).await);
    assert_in_order(&log, AGGREGATES, EACH);
    assert_eq!(log.overlaps(), 0);
}

async fn g02_all_workers_of_a_shard_are_busy_at_once(bed: Bed) {
    for workers in [1, 2, 8, 70] {
        let (pool, _) = pool(&bed, 1, workers, 1024, 64);
        let door = Door::closed();
        let mut tickets = Vec::new();
        for id in 0..workers as u32 * 2 {
            tickets.push(pool.submit(Do::commit(id, 0).at(&door)).await.unwrap());
        }
        // No more can: there are no more workers. Less would mean that an aggregate waits for
        // another while a worker is idle.
        until(|| door.arrived() == workers as u64).await;
        assert_eq!(only(&pool).running, workers as u64);
        door.open();
        for ticket in tickets {
            ticket.await.unwrap();
        }
    }
}

async fn g02_aggregates_run_past_one_that_is_stuck(bed: Bed) {
    let (pool, log) = pool(&bed, 1, 2, 4096, 2);
    let door = Door::closed();
    let mut stuck = Vec::new();
    let mut others = Vec::new();
    // What is behind a stuck command must not take the other worker either.
    for tag in 0..50 {
        stuck.push(pool.submit(Do::commit(0, tag).at(&door)).await.unwrap());
        for id in 1..30 {
            others.push(pool.submit(Do::commit(id, tag).restless()).await.unwrap());
        }
    }
    for ticket in others {
        ticket.await.unwrap();
    }
    until(|| door.arrived() != 0).await;
    assert_eq!(log.tags_of(0), [0], "the stuck aggregate is at its first command");
    door.open();
    for ticket in stuck {
        ticket.await.unwrap();
    }
}

async fn g02_every_worker_is_found_by_some_aggregate_while_others_are_stuck(bed: Bed) {
    let (pool, _) = pool(&bed, 1, 6, 4096, 8);
    for round in 0..30u64 {
        // All workers but one are stuck; the last one must do all the rest.
        let door = Door::closed();
        let mut stuck = Vec::new();
        let mut others = Vec::new();
        for id in 0..40 {
            if id % 8 == 7 {
                stuck.push(pool.submit(Do::commit(id, round).at(&door)).await.unwrap());
            } else {
                others.push(pool.submit(Do::commit(id, round).restless()).await.unwrap());
            }
        }
        for ticket in others {
            ticket.await.unwrap();
        }
        until(|| door.arrived() == 5).await;
        door.open();
        for ticket in stuck {
            ticket.await.unwrap();
        }
    }
}

async fn g02_two_aggregates_find_two_workers_however_these_fall_asleep(bed: Bed) {
    let (pool, _) = pool(&bed, 1, 2, 64, 64);
    for round in 0..3_000 {
        // The workers have just run dry. What comes now meets them awake, asleep, or in between,
        // and a wake-up must not be spent on a worker that is taken already.
        drop(pool.submit(Do::commit(2, round)).await.unwrap());
        let door = Door::closed();
        let mut tickets = Vec::new();
        for id in 0..2 {
            tickets.push(pool.submit(Do::commit(id, round).at(&door)).await.unwrap());
            yield_at_random().await;
        }
        until(|| door.arrived() == 2).await;
        door.open();
        for ticket in tickets {
            ticket.await.unwrap();
        }
    }
}

/// Gives every id the same hash.
#[derive(Clone, Copy)]
struct Constant;

impl BuildHasher for Constant {
    type Hasher = Constant;
    fn build_hasher(&self) -> Constant {
        Constant
    }
}

impl Hasher for Constant {
    fn finish(&self) -> u64 {
        42
    }
    fn write(&mut self, _: &[u8]) {}
}

fn colliding(bed: &Bed, workers: usize) -> Pool {
    let pool = ShardPool::builder(Actor::default())
        .shards(3)
        .workers_per_shard(workers)
        .hasher(Constant)
        .start(bed.executor())
        .unwrap();
    bed.watch(pool.clone());
    pool
}

async fn g02_ids_that_share_a_hash_have_states_and_versions_of_their_own(bed: Bed) {
    const AGGREGATES: u32 = 50;
    let pool = colliding(&bed, 4);
    let mut tickets = Vec::new();
    for tag in 0..20 {
        for id in 0..AGGREGATES {
            // One of them fails again and again, which must not touch the others.
            let act = if id == 7 && tag % 3 == 2 { Act::Panic } else { Act::Commit };
            tickets.push((id, tag, pool.submit(Do::new(id, tag, act).restless()).await.unwrap()));
        }
    }
    for (id, tag, ticket) in tickets {
        let result = ticket.await;
        if id != 7 {
            let receipt = result.unwrap();
            assert_eq!((receipt.version, receipt.output.state), (tag + 1, tag), "aggregate {id}");
        }
    }
}

async fn g02_ids_that_share_a_hash_run_in_parallel(bed: Bed) {
    let pool = colliding(&bed, 5);
    let door = Door::closed();
    let mut stuck = Vec::new();
    for id in 0..4 {
        for tag in 0..3 {
            stuck.push(pool.submit(Do::commit(id, tag).at(&door)).await.unwrap());
        }
    }
    until(|| door.arrived() == 4).await;
    let mut others = Vec::new();
    for id in 4..40 {
        others.push(pool.submit(Do::commit(id, 0)).await.unwrap());
    }
    for ticket in others {
        ticket.await.unwrap();
    }
    door.open();
    for ticket in stuck {
        ticket.await.unwrap();
    }
}

/// Ids that are told apart by `Eq` alone.
#[derive(Clone, PartialEq, Eq)]
struct Silent(u32);

impl Hash for Silent {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}

struct Touch(Silent);

impl Command for Touch {
    type AggregateId = Silent;
    fn aggregate_id(&self) -> &Silent {
        &self.0
    }
}

async fn g02_an_id_type_that_hashes_to_nothing_is_told_apart_by_eq(bed: Bed) {
    let pool = ShardPool::builder(handler_fn(|count: &mut u64, _: Touch, _: &Context| {
        *count += 1;
        Ok::<_, Failure<()>>(*count)
    }))
    .shards(4)
    .start(bed.executor())
    .unwrap();
    bed.watch(pool.clone());
    let mut tickets = Vec::new();
    for round in 1..=10 {
        for id in 0..20 {
            tickets.push((round, pool.submit(Touch(Silent(id))).await.unwrap()));
        }
        yield_now().await;
    }
    for (round, ticket) in tickets {
        let receipt = ticket.await.unwrap();
        assert_eq!((receipt.version, receipt.output), (round, round));
    }
}
