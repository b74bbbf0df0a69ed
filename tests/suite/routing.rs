//! G3: one id, one shard.

use crate::harness::{Bed, suite, yield_at_random};
use crate::script::{Act, Actor, Do, Pool, Store};
use futures::future::join_all;
use shardpool::{Command, Context, Failure, ShardPool, SubmitError, TrySubmitError, handler_fn};
use std::hash::{BuildHasher, BuildHasherDefault, Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

suite!(
    g03_an_id_goes_to_the_same_shard_while_the_pool_lives,
    g03_the_shard_that_is_told_is_the_one_that_runs_the_command,
    g03_ids_that_pile_up_in_one_pool_spread_in_another,
    g03_a_hasher_of_the_users_is_asked_and_decides,
    g03_a_fixed_hasher_routes_alike_in_every_pool,
    g03_a_weak_hasher_still_spreads_ids_over_all_shards,
    g03_an_id_is_hashed_once_per_command_and_cloned_once_per_aggregate,
    g03_ids_chosen_against_a_fixed_hash_cost_what_others_do,
    g03_a_command_for_another_shard_is_refused_and_handed_back,
);

fn pool(bed: &Bed, shards: usize) -> Pool {
    let pool = ShardPool::builder(Actor::default()).shards(shards).start(bed.executor()).unwrap();
    bed.watch(pool.clone());
    pool
}

async fn g03_an_id_goes_to_the_same_shard_while_the_pool_lives(bed: Bed) {
    const AGGREGATES: u32 = 40;
    let store = Store::default();
    // With evictions, failures and panics, so that most are met as new again.
    let pool = ShardPool::builder(Actor { store: Some(store.clone()), ..Actor::default() })
        .loader(store.clone())
        .shards(7)
        .workers_per_shard(3)
        .max_resident(2)
        .start(bed.executor())
        .unwrap();
    bed.watch(pool.clone());
    let homes: Arc<Mutex<Vec<Option<usize>>>> =
        Arc::new(Mutex::new(vec![None; AGGREGATES as usize]));
    let submitters = (0..4).map(|_| {
        let (pool, homes) = (pool.clone(), Arc::clone(&homes));
        bed.spawn(async move {
            let mut tickets = Vec::new();
            for tag in 0..500 {
                let id = fastrand::u32(..AGGREGATES);
                let act = [Act::Commit, Act::Reject, Act::Fail, Act::Panic][fastrand::usize(..4)];
                let ticket = pool.submit(Do::new(id, tag, act)).await.unwrap();
                if act == Act::Commit {
                    tickets.push((id, ticket));
                }
                yield_at_random().await;
            }
            for (id, ticket) in tickets {
                let shard = ticket.await.unwrap().output.shard;
                let home = *homes.lock().unwrap()[id as usize].get_or_insert(shard);
                assert_eq!(home, shard, "aggregate {id} has moved");
            }
        })
    });
    join_all(submitters).await;
    let loads = store.loads().len();
    assert!(loads > AGGREGATES as usize, "some were loaded again");
}

async fn g03_the_shard_that_is_told_is_the_one_that_runs_the_command(bed: Bed) {
    for shards in [1, 2, 3, 8, 13] {
        let taken: Arc<[AtomicU64]> = (0..shards).map(|_| AtomicU64::new(0)).collect();
        let count = Arc::clone(&taken);
        let pool = ShardPool::builder(Actor::default())
            .shards(shards)
            .on_dispatched(move |shard| {
                count[shard].fetch_add(1, Ordering::SeqCst);
            })
            .start(bed.executor())
            .unwrap();
        bed.watch(pool.clone());
        let handles = [pool.clone(), pool.downgrade().upgrade().unwrap(), pool];
        let mut expected = vec![0; shards];
        let mut tickets = Vec::new();
        for id in 0..300 {
            let home = handles[0].shard_of(&id);
            assert!(handles.iter().all(|pool| pool.shard_of(&id) == home));
            expected[home] += 1;
            let handle = &handles[id as usize % handles.len()];
            tickets.push((home, handle.submit(Do::commit(id, 0)).await.unwrap()));
        }
        for (home, ticket) in tickets {
            assert_eq!(ticket.await.unwrap().output.shard, home);
        }
        let taken: Vec<u64> = taken.iter().map(|n| n.load(Ordering::SeqCst)).collect();
        assert_eq!(taken, expected, "what each dispatcher took");
    }
}

async fn g03_ids_that_pile_up_in_one_pool_spread_in_another(bed: Bed) {
    const SHARDS: usize = 8;
    let known = pool(&bed, SHARDS);
    // What an outsider would send, had they found out how one pool routes.
    let piled: Vec<u32> = (0..).filter(|id| known.shard_of(id) == 0).take(400).collect();
    for _ in 0..5 {
        let other = pool(&bed, SHARDS);
        let mut load = [0; SHARDS];
        for id in &piled {
            load[other.shard_of(id)] += 1;
        }
        // 50 on each is the mean; 120 is ten deviations away.
        assert!(load.iter().all(|&n| n < 120), "{load:?}");
    }
}

/// Numbers as they are, counted.
#[derive(Clone, Default)]
struct Asked(Arc<AtomicU64>);

#[derive(Default)]
struct Plain(u64);

impl Hasher for Plain {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 << 8) | u64::from(byte);
        }
    }
    fn write_u32(&mut self, n: u32) {
        self.0 = u64::from(n);
    }
    fn write_u64(&mut self, n: u64) {
        self.0 = n;
    }
}

impl BuildHasher for Asked {
    type Hasher = Plain;
    fn build_hasher(&self) -> Plain {
        self.0.fetch_add(1, Ordering::SeqCst);
        Plain::default()
    }
}

async fn g03_a_hasher_of_the_users_is_asked_and_decides(bed: Bed) {
    let asked = Asked::default();
    let pool = ShardPool::builder(Actor::default())
        .shards(5)
        .hasher(asked.clone())
        .start(bed.executor())
        .unwrap();
    bed.watch(pool.clone());
    for id in 0..50 {
        let home = pool.shard_of(&id);
        assert_eq!(pool.send(Do::commit(id, 0)).await.unwrap().output.shard, home);
    }
    assert_eq!(asked.0.load(Ordering::SeqCst), 100, "asked once per call");
    // It says the same for all: so all are on one shard.
    let pool = ShardPool::builder(handler_fn(|_: &mut (), _: Silent, cx: &Context| {
        Ok::<_, Failure<()>>(cx.shard())
    }))
    .shards(5)
    .hasher(Asked::default())
    .start(bed.executor())
    .unwrap();
    let first = pool.send(Silent(0)).await.unwrap().output;
    for n in 1..50 {
        assert_eq!(pool.send(Silent(n)).await.unwrap().output, first);
    }
}

/// Gives nothing to its hasher.
#[derive(PartialEq, Eq, Clone)]
struct Silent(u32);

impl Hash for Silent {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}

impl Command for Silent {
    type AggregateId = Silent;
    fn aggregate_id(&self) -> &Silent {
        self
    }
}

async fn g03_a_fixed_hasher_routes_alike_in_every_pool(bed: Bed) {
    let start = || {
        ShardPool::builder(Actor::default())
            .shards(11)
            .hasher(BuildHasherDefault::<Plain>::default())
            .start(bed.executor())
            .unwrap()
    };
    let (one, two) = (start(), start());
    for id in 0..500 {
        assert_eq!(one.shard_of(&id), two.shard_of(&id));
    }
}

struct Wide(u64);

impl Command for Wide {
    type AggregateId = u64;
    fn aggregate_id(&self) -> &u64 {
        &self.0
    }
}

async fn g03_a_weak_hasher_still_spreads_ids_over_all_shards(bed: Bed) {
    const SHARDS: usize = 8;
    let pool =
        ShardPool::builder(handler_fn(|_: &mut (), _: Wide, _: &Context| Ok::<_, Failure<()>>(())))
            .shards(SHARDS)
            .hasher(BuildHasherDefault::<Plain>::default())
            .start(bed.executor())
            .unwrap();
    // Whichever bits of the hash tell the ids apart.
    for shift in 0..=54 {
        let mut load = [0; SHARDS];
        for id in 0..800u64 {
            load[pool.shard_of(&(id << shift))] += 1;
        }
        assert!(load.iter().all(|n| (50..200).contains(n)), "ids << {shift}: {load:?}");
    }
}

/// An id that counts.
struct Counted {
    id: u32,
    hashed: Arc<AtomicU64>,
    cloned: Arc<AtomicU64>,
}

impl PartialEq for Counted {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for Counted {}

impl Hash for Counted {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.hashed.fetch_add(1, Ordering::SeqCst);
        self.id.hash(state);
    }
}

impl Clone for Counted {
    fn clone(&self) -> Self {
        self.cloned.fetch_add(1, Ordering::SeqCst);
        Self { id: self.id, hashed: Arc::clone(&self.hashed), cloned: Arc::clone(&self.cloned) }
    }
}

struct Visit(Counted);

impl Command for Visit {
    type AggregateId = Counted;
    fn aggregate_id(&self) -> &Counted {
        &self.0
    }
}

async fn g03_an_id_is_hashed_once_per_command_and_cloned_once_per_aggregate(bed: Bed) {
    let (hashed, cloned) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let pool =
        ShardPool::builder(handler_fn(
            |_: &mut (), _: Visit, _: &Context| Ok::<_, Failure<()>>(()),
        ))
        .shards(4)
        // Some wait for room.
        .queue_depth(16)
        .start(bed.executor())
        .unwrap();
    bed.watch(pool.clone());
    let mut tickets = Vec::new();
    for n in 0..2_000 {
        let id = Counted { id: n % 100, hashed: Arc::clone(&hashed), cloned: Arc::clone(&cloned) };
        tickets.push(pool.submit(Visit(id)).await.unwrap());
    }
    for ticket in tickets {
        ticket.await.unwrap();
    }
    let counts = (hashed.load(Ordering::SeqCst), cloned.load(Ordering::SeqCst));
    assert_eq!(counts, (2_000, 100), "hashed, cloned");
}

/// A text that counts how often it is compared.
#[derive(Clone)]
struct Text {
    text: String,
    compared: Arc<AtomicU64>,
}

impl PartialEq for Text {
    fn eq(&self, other: &Self) -> bool {
        self.compared.fetch_add(1, Ordering::SeqCst);
        self.text == other.text
    }
}

impl Eq for Text {}

impl Hash for Text {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

struct Note(Text);

impl Command for Note {
    type AggregateId = Text;
    fn aggregate_id(&self) -> &Text {
        &self.0
    }
}

/// A hash that everybody can compute: `31 h + byte`, for which "Aa" and "BB" are the same.
#[derive(Default)]
struct Known(u64);

impl Hasher for Known {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = self.0.wrapping_mul(31).wrapping_add(u64::from(byte));
        }
    }
}

async fn g03_ids_chosen_against_a_fixed_hash_cost_what_others_do(bed: Bed) {
    const IDS: u32 = 512;
    const SHARDS: usize = 8;
    async fn cost<H>(bed: &Bed, hasher: Option<H>, text: impl Fn(u32) -> String) -> (u64, u64)
    where
        H: BuildHasher + Send + Sync + 'static,
    {
        let compared = Arc::new(AtomicU64::new(0));
        let handler = handler_fn(|_: &mut (), _: Note, _: &Context| Ok::<_, Failure<()>>(()));
        let builder = ShardPool::builder(handler).shards(SHARDS);
        let pool = match hasher {
            Some(hasher) => builder.hasher(hasher).start(bed.executor()),
            None => builder.start(bed.executor()),
        }
        .unwrap();
        bed.watch(pool.clone());
        for _ in 0..2 {
            for n in 0..IDS {
                let text = Text { text: text(n), compared: Arc::clone(&compared) };
                pool.send(Note(text)).await.unwrap();
            }
        }
        let fullest = pool.stats().iter().map(|shard| shard.resident).max().unwrap();
        (fullest, compared.load(Ordering::SeqCst))
    }
    type Fixed = BuildHasherDefault<Known>;
    let chosen = |n: u32| (0..9).map(|bit| ["Aa", "BB"][(n >> bit & 1) as usize]).collect();
    let other = |n: u32| format!("{:018}", fastrand::Rng::with_seed(u64::from(n)).u64(..));
    let hit = cost(&bed, Some(Fixed::default()), chosen).await;
    assert_eq!(hit.0, u64::from(IDS), "the ids were chosen well: one shard has them all");
    assert!(hit.1 > u64::from(IDS * IDS / 2), "each is compared with each: {hit:?}");
    let (fullest, compared) = cost(&bed, None::<Fixed>, chosen).await;
    let others = cost(&bed, None::<Fixed>, other).await;
    assert!(2 * fullest < 3 * others.0, "{fullest} on one shard, of others {}", others.0);
    assert!(2 * compared < 3 * others.1, "{compared} comparisons, of others {}", others.1);
}

async fn g03_a_command_for_another_shard_is_refused_and_handed_back(bed: Bed) {
    let pool = pool(&bed, 4);
    for id in 0..40 {
        let home = pool.shard_of(&id);
        for index in 0..4 {
            let shard = pool.shard(index).unwrap();
            if index == home {
                assert_eq!(shard.send(Do::commit(id, 1)).await.unwrap().output.shard, home);
                continue;
            }
            match shard.try_submit(Do::commit(id, 2)).unwrap_err() {
                TrySubmitError::WrongShard { command, shard, owner } => {
                    assert_eq!((command.id, command.tag), (id, 2));
                    assert_eq!((shard, owner), (index, home));
                }
                other => panic!("{other:?}"),
            }
            match shard.submit(Do::commit(id, 3)).await.unwrap_err() {
                SubmitError::WrongShard { command, shard, owner } => {
                    assert_eq!((command.id, command.tag), (id, 3));
                    assert_eq!((shard, owner), (index, home));
                }
                other => panic!("{other:?}"),
            }
        }
    }
    assert!(pool.shard(4).is_none());
    assert_eq!(pool.stats().iter().map(|shard| shard.accepted).sum::<u64>(), 40);
}
