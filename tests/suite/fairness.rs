//! G4: a hot aggregate runs at most `max_turn` commands before another that is ready.

use crate::harness::{Bed, Door, suite, until, yield_at_random};
use crate::script::{Actor, Do, Log, Pool};
use shardpool::{Command, Context, Failure, ShardPool, TrySubmitError, WeakPool, async_handler_fn};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

suite!(
    g04_a_cold_aggregate_waits_for_at_most_one_turn_of_a_hot_one,
    g04_two_hot_aggregates_take_turns,
    g04_a_turn_is_not_prolonged_by_what_comes_while_it_runs,
    g04_the_default_turn_is_bounded_too,
    g04_hot_aggregates_that_never_run_dry_do_not_starve_their_shard,
);

/// A shard of one worker, which is held at a door by aggregate 0 until the test lets it go. Until
/// then nothing starts, and the dispatcher takes what comes.
struct Held {
    pool: Pool,
    log: Log,
    door: Door,
    taken: Arc<AtomicU64>,
    submitted: u64,
}

impl Held {
    async fn new(bed: &Bed, turn: Option<usize>) -> Self {
        let (log, taken) = (Log::default(), Arc::new(AtomicU64::new(0)));
        let count = Arc::clone(&taken);
        let mut builder = ShardPool::builder(Actor { log: log.clone(), store: None })
            .shards(1)
            .workers_per_shard(1)
            .queue_depth(1 << 20)
            .on_dispatched(move |_| {
                count.fetch_add(1, Ordering::SeqCst);
            });
        if let Some(turn) = turn {
            builder = builder.max_turn(turn);
        }
        let pool = builder.start(bed.executor()).unwrap();
        bed.watch(pool.clone());
        let mut held = Self { pool, log, door: Door::closed(), taken, submitted: 0 };
        let door = held.door.clone();
        held.submit(Do::commit(0, 0).at(&door));
        until(|| held.door.arrived() == 1).await;
        held
    }

    /// The outcome is read from the log.
    fn submit(&mut self, command: Do) {
        drop(self.pool.try_submit(command).unwrap());
        self.submitted += 1;
    }

    /// Waits until the dispatcher has taken everything, then lets the worker go, and gives the
    /// aggregates of the commands in the order of their starts.
    async fn run(self) -> Vec<u32> {
        until(|| self.taken.load(Ordering::SeqCst) == self.submitted).await;
        self.door.open();
        until(|| self.log.started() as u64 == self.submitted).await;
        let starts: Vec<u32> = self.log.starts().into_iter().map(|start| start.0).collect();
        assert_eq!(starts[0], 0, "the one that held the door");
        starts[1..].to_vec()
    }
}

/// The longest run of one aggregate while commands of others still came after it.
fn longest_turn(starts: &[u32]) -> usize {
    let runs: Vec<&[u32]> = starts.chunk_by(|a, b| a == b).collect();
    let contended = &runs[..runs.len() - 1];
    contended.iter().map(|run| run.len()).max().unwrap_or(0)
}

async fn g04_a_cold_aggregate_waits_for_at_most_one_turn_of_a_hot_one(bed: Bed) {
    for turn in [1, 3, 64] {
        let mut held = Held::new(&bed, Some(turn)).await;
        for tag in 0..turn as u64 * 5 {
            held.submit(Do::commit(1, tag));
        }
        for cold in 2..12 {
            held.submit(Do::commit(cold, 0));
        }
        let starts = held.run().await;
        // All are ready from the start, the hot one first: one turn of it, then each of the others.
        let before_the_last = starts.iter().rposition(|&id| id > 1).unwrap();
        let hot = starts[..before_the_last].iter().filter(|&&id| id == 1).count();
        assert!(hot <= turn, "{hot} commands of the hot aggregate before a cold one's first");
    }
}

async fn g04_two_hot_aggregates_take_turns(bed: Bed) {
    for turn in [1, 2, 7] {
        let mut held = Held::new(&bed, Some(turn)).await;
        // One after the other, so that without turns all of the first would come first.
        for id in [1, 2] {
            for tag in 0..200 {
                held.submit(Do::commit(id, tag));
            }
        }
        let starts = held.run().await;
        assert!(longest_turn(&starts) <= turn, "a turn of {} commands", longest_turn(&starts));
    }
}

async fn g04_a_turn_is_not_prolonged_by_what_comes_while_it_runs(bed: Bed) {
    const TURN: usize = 4;
    let mut held = Held::new(&bed, Some(TURN)).await;
    let inner = Door::closed();
    held.submit(Do::commit(1, 0).at(&inner));
    held.submit(Do::commit(2, 0));
    until(|| held.taken.load(Ordering::SeqCst) == held.submitted).await;
    held.door.open();
    // The turn of 1 has begun, with one command in it; more come now.
    until(|| inner.arrived() == 1).await;
    for tag in 1..40 {
        held.submit(Do::commit(1, tag));
    }
    until(|| held.taken.load(Ordering::SeqCst) == held.submitted).await;
    inner.open();
    let starts = held.run().await;
    let before = starts.iter().position(|&id| id == 2).unwrap();
    assert!(before <= TURN, "{before} commands before another aggregate's");
}

async fn g04_the_default_turn_is_bounded_too(bed: Bed) {
    let mut held = Held::new(&bed, None).await;
    for id in [1, 2] {
        for tag in 0..1_000 {
            held.submit(Do::commit(id, tag));
        }
    }
    let starts = held.run().await;
    // As documented.
    assert!(longest_turn(&starts) <= 64, "a turn of {} commands", longest_turn(&starts));
}

/// A command that, when hot, puts another one in its place before it ends.
#[derive(Clone)]
struct Ember {
    id: u32,
    hot: bool,
}

impl Command for Ember {
    type AggregateId = u32;
    fn aggregate_id(&self) -> &u32 {
        &self.id
    }
}

async fn g04_hot_aggregates_that_never_run_dry_do_not_starve_their_shard(bed: Bed) {
    let stop = Arc::new(AtomicBool::new(false));
    let own: Arc<OnceLock<WeakPool<Ember, (), ()>>> = Arc::default();
    let (stopped, of_handler) = (Arc::clone(&stop), Arc::clone(&own));
    let pool = ShardPool::builder(async_handler_fn(move |ember: Ember, _: Context| {
        let next = (ember.hot && !stopped.load(Ordering::SeqCst)).then(|| ember.clone());
        let pool = of_handler.get().and_then(WeakPool::upgrade);
        async move {
            yield_at_random().await;
            if let (Some(next), Some(pool)) = (next, pool) {
                // Closed is what the last ones may find: the test is over by then.
                if let Err(error) = pool.try_submit(next) {
                    assert!(matches!(error, TrySubmitError::Closed(_)), "{error}");
                }
            }
            Ok::<_, Failure<()>>(())
        }
    }))
    .shards(1)
    .workers_per_shard(2)
    .max_turn(8)
    .queue_depth(4096)
    .start(bed.executor())
    .unwrap();
    bed.watch(pool.stats());
    own.set(pool.downgrade()).unwrap();
    // More hot aggregates than workers, each with a backlog of several turns all the time.
    for _ in 0..30 {
        for id in 0..6 {
            drop(pool.submit(Ember { id, hot: true }).await.unwrap());
        }
    }
    until(|| pool.stats()[0].outcomes.committed > 500).await;
    let mut cold = Vec::new();
    for id in 10..110 {
        cold.push(pool.submit(Ember { id, hot: false }).await.unwrap());
    }
    for ticket in cold {
        ticket.await.unwrap();
    }
    stop.store(true, Ordering::SeqCst);
    let outcomes = pool.drain().await.unwrap();
    assert_eq!(outcomes.committed, outcomes.total());
}
