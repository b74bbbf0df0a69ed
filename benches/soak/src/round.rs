//! One pool's life: random settings, a load, an end, and what must hold then.

use crate::client::{client, yields};
use crate::handler::{Actor, Book, Pool, Store, Weak};
use crate::runtimes::Slot;
use crate::things::Live;
use futures::channel::oneshot;
use futures::executor::block_on;
use shardpool::executors::{Clock, Executor};
use shardpool::{DrainError, Outcomes, ShardPool};
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::thread;
use std::time::Duration;

#[derive(Debug)]
pub(crate) struct Settings {
    shards: usize,
    workers: usize,
    depth: usize,
    turn: usize,
    pub(crate) loads: bool,
    resident: Option<usize>,
    clients: u32,
    pub(crate) aggregates: u32,
    pub(crate) commands: u32,
    pub(crate) failures: f64,
    pub(crate) impatience: f64,
    pub(crate) withdrawals: f64,
    pub(crate) deadlines: f64,
    pub(crate) sleeps: f64,
    pub(crate) visits: f64,
}

impl Settings {
    fn random() -> Self {
        let sometimes = |most: f64| if fastrand::bool() { most } else { 0.0 };
        let loads = fastrand::bool();
        Self {
            shards: fastrand::usize(1..=4),
            workers: fastrand::usize(1..=4),
            depth: if fastrand::bool() { fastrand::usize(1..=8) } else { 256 },
            turn: fastrand::usize(1..=16),
            loads,
            resident: (loads && fastrand::bool()).then(|| fastrand::usize(1..=8)),
            clients: fastrand::u32(1..=6),
            aggregates: [1, 5, 20, 200][fastrand::usize(..4)],
            commands: fastrand::u32(1..=500),
            failures: sometimes(0.3),
            impatience: sometimes(0.3),
            withdrawals: sometimes(0.3),
            deadlines: sometimes(0.3),
            sleeps: sometimes(0.02),
            visits: sometimes(0.05),
        }
    }
}

/// What one pool's clients and handlers share.
pub(crate) struct Round {
    pub(crate) slot: Arc<Slot>,
    pub(crate) settings: Settings,
    pub(crate) live: Live,
    pub(crate) weak: OnceLock<Weak>,
    /// The commands of handlers so far.
    pub(crate) visits: AtomicU32,
    clock: Arc<dyn Clock>,
    book: Mutex<Book>,
    told: Mutex<Outcomes>,
}

impl Round {
    pub(crate) fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap()
    }

    /// The outcomes that callers were told.
    pub(crate) fn told(&self) -> MutexGuard<'_, Outcomes> {
        self.told.lock().unwrap()
    }

    pub(crate) async fn sleep(&self, time: Duration) {
        self.clock.sleep(time).await;
    }

    fn start(self: &Arc<Self>) -> Pool {
        let settings = &self.settings;
        let actor = Actor { round: Arc::clone(self), _alive: self.live.one() };
        let builder = ShardPool::builder(actor)
            .shards(settings.shards)
            .workers_per_shard(settings.workers)
            .queue_depth(settings.depth)
            .max_turn(settings.turn);
        let executor = self.slot.executor.clone();
        let started = if settings.loads {
            let builder = builder.loader(Store(Arc::clone(self)));
            match settings.resident {
                Some(most) => builder.max_resident(most).start(executor),
                None => builder.start(executor),
            }
        } else {
            builder.start(executor)
        };
        started.expect("valid settings")
    }

    /// Spawns one: its end, when it comes.
    fn client(self: &Arc<Self>, pool: &Pool, number: u32) -> oneshot::Receiver<()> {
        let (sender, receiver) = oneshot::channel();
        let (round, pool) = (Arc::clone(self), pool.clone());
        let may_block = fastrand::u8(..4) == 0;
        let task = async move {
            client(&round, pool, number, may_block).await;
            drop(round);
            // The round waits for it.
            sender.send(()).ok();
        };
        if may_block {
            thread::spawn(|| block_on(task));
        } else {
            self.slot.executor.spawn(Box::pin(task)).expect("the runtime takes it");
        }
        receiver
    }

    /// Some way into the load.
    async fn a_while(&self) {
        let time = Duration::from_micros(fastrand::u64(..20_000));
        self.sleep(time).await;
    }
}

pub(crate) fn round(slot: &Arc<Slot>) {
    let round = Arc::new(Round {
        slot: Arc::clone(slot),
        settings: Settings::random(),
        live: Live::default(),
        weak: OnceLock::new(),
        visits: AtomicU32::new(0),
        clock: slot.executor.clock(),
        book: Mutex::default(),
        told: Mutex::default(),
    });
    let pool = round.start();
    slot.tally().pools += 1;
    round.weak.set(pool.downgrade()).expect("set once");
    slot.watch(format!("{:?}", round.settings), pool.downgrade());
    block_on(async {
        let clients: Vec<_> = (0..round.settings.clients).map(|n| round.client(&pool, n)).collect();
        end(&round, pool, clients).await;
        // The pool's futures have ended, or will; then nothing of it is left (G17). Bounded by the
        // watchdog.
        while round.live.count() > 0 {
            yields(1).await;
            thread::yield_now();
        }
    });
    slot.step();
}

async fn end(round: &Round, pool: Pool, clients: Vec<oneshot::Receiver<()>>) {
    let wait = async |clients: Vec<oneshot::Receiver<()>>| {
        for client in clients {
            client.await.expect("a client ends");
        }
    };
    let slot = &round.slot;
    match fastrand::u8(..5) {
        0 => {
            wait(clients).await;
            slot.tally().drains += 1;
            let outcomes = pool.drain().await.expect("nothing bounds it");
            check(round, &pool, outcomes);
        }
        1 => {
            round.a_while().await;
            assert_depth(round, &pool);
            let drain = pool.drain();
            let outcomes = drain.await.expect("nothing bounds it");
            assert_eq!(outcomes.aborted, 0, "G15: a drain aborts");
            wait(clients).await;
            slot.tally().drains += 1;
            check(round, &pool, outcomes);
        }
        2 => {
            round.a_while().await;
            assert_depth(round, &pool);
            // Some callers go away.
            drop((pool.drain(), pool.abort()));
            let outcomes = pool.abort().await.expect("nothing bounds it");
            wait(clients).await;
            slot.tally().aborts += 1;
            check(round, &pool, outcomes);
        }
        3 => {
            round.a_while().await;
            let time = Duration::from_micros(fastrand::u64(..5_000));
            match pool.drain().within(time).await {
                Ok(_) => slot.tally().drains += 1,
                Err(DrainError::Timeout { .. }) => {
                    let mut tally = slot.tally();
                    tally.late_drains += 1;
                    tally.aborts += 1;
                }
                Err(other) => panic!("a drain ends as {other:?}"),
            }
            let outcomes = pool.abort().await.expect("nothing bounds it");
            wait(clients).await;
            check(round, &pool, outcomes);
        }
        _ => {
            slot.tally().drops += 1;
            drop(pool);
            wait(clients).await;
        }
    }
}

fn assert_depth(round: &Round, pool: &Pool) {
    for shard in pool.stats() {
        assert!(shard.queued <= round.settings.depth as u64, "G13: {shard:?}");
    }
}

/// After the end each accepted command is in the outcomes, and in nothing else (G5); and what callers were
/// told is among it.
fn check(round: &Round, pool: &Pool, outcomes: Outcomes) {
    let stats = pool.stats();
    for shard in &stats {
        assert_eq!(shard.accepted, shard.outcomes.total(), "G5: {stats:?}");
        assert_eq!((shard.queued, shard.running, shard.waiting), (0, 0, 0), "G5: {stats:?}");
    }
    let counted: Outcomes = stats.iter().map(|shard| shard.outcomes).sum();
    assert_eq!(counted, outcomes, "a command came after the end");
    let told = *round.told();
    let is_counted = told.committed <= counted.committed
        && told.rejected <= counted.rejected
        && told.failed <= counted.failed
        && told.panicked <= counted.panicked
        && told.cancelled <= counted.cancelled
        && told.expired <= counted.expired
        && told.aborted <= counted.aborted;
    assert!(is_counted, "G5: {told:?} were told, {counted:?} are counted");
}
