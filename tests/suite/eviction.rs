//! G12: the bound on resident aggregates.

use crate::harness::{Bed, Door, suite, until};
use crate::script::{Act, Actor, Do, Log, Pool, Store, only};
use shardpool::{Command, Context, Failure, Loaded, ShardPool, handler_fn, loader_fn};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

suite!(
    g12_evicts_the_least_recently_used_first,
    g12_an_aggregate_with_a_backlog_is_never_evicted,
    g12_an_aggregate_that_waits_for_its_turn_is_never_evicted,
    g12_a_running_aggregate_is_never_evicted,
    g12_the_cap_is_soft_while_more_are_busy_and_holds_again_once_they_are_idle,
    g12_trap03_the_map_is_pruned_under_load,
    g12_an_evicted_aggregate_is_loaded_when_it_is_next_used,
    g12_an_evicted_state_is_dropped,
    g12_a_cap_of_one_works,
    g12_without_a_cap_nothing_is_evicted,
);

fn over(bed: &Bed, store: &Store, workers: usize, cap: Option<usize>) -> (Pool, Log) {
    let log = Log::default();
    let mut builder = ShardPool::builder(Actor { log: log.clone(), store: Some(store.clone()) })
        .loader(store.clone())
        .shards(1)
        .workers_per_shard(workers)
        .queue_depth(4096);
    if let Some(cap) = cap {
        builder = builder.max_resident(cap);
    }
    let pool = builder.start(bed.executor()).unwrap();
    bed.watch(pool.clone());
    (pool, log)
}

async fn g12_evicts_the_least_recently_used_first(bed: Bed) {
    const CAP: usize = 4;
    let store = Store::default();
    // With one worker, only the aggregate last used can still be on its way home when the next
    // command comes, and that one is the last to be evicted: the order is exact.
    let (pool, _) = over(&bed, &store, 1, Some(CAP));
    let mut expected = Vec::new();
    // The resident ones, least recently used first.
    let mut recent: VecDeque<u32> = VecDeque::new();
    for tag in 0..1_500 {
        let id = fastrand::u32(..9);
        match recent.iter().position(|&other| other == id) {
            Some(at) => drop(recent.remove(at)),
            None => {
                expected.push(id);
                if recent.len() == CAP {
                    recent.pop_front();
                }
            }
        }
        recent.push_back(id);
        pool.send(Do::commit(id, tag)).await.unwrap();
        assert_eq!(store.loads().len(), expected.len(), "command {tag} for {id}, {recent:?}");
    }
    assert_eq!(store.loads(), expected);
}

async fn g12_an_aggregate_with_a_backlog_is_never_evicted(bed: Bed) {
    let store = Store::default();
    let (pool, _) = over(&bed, &store, 3, Some(2));
    let door = Door::closed();
    let mut held = Vec::new();
    for id in 0..2 {
        for tag in 0..200 {
            held.push((tag, pool.submit(Do::commit(id, tag).at(&door)).await.unwrap()));
        }
    }
    until(|| door.arrived() == 2).await;
    let mut others = Vec::new();
    for tag in 0..5 {
        for id in 10..60 {
            others.push(pool.submit(Do::commit(id, tag)).await.unwrap());
        }
    }
    for ticket in others {
        ticket.await.unwrap();
    }
    door.open();
    for (tag, ticket) in held {
        assert_eq!(ticket.await.unwrap().output.state, tag);
    }
    assert_eq!((store.loads_of(0), store.loads_of(1)), (1, 1));
}

async fn g12_an_aggregate_that_waits_for_its_turn_is_never_evicted(bed: Bed) {
    const AGGREGATES: u32 = 600;
    let (store, taken) = (Store::default(), Arc::new(AtomicU64::new(0)));
    let count = Arc::clone(&taken);
    let pool = ShardPool::builder(Actor { store: Some(store.clone()), ..Actor::default() })
        .loader(store.clone())
        .shards(1)
        .workers_per_shard(1)
        .queue_depth(4096)
        .max_resident(3)
        .on_dispatched(move |_| {
            count.fetch_add(1, Ordering::SeqCst);
        })
        .start(bed.executor())
        .unwrap();
    bed.watch(pool.clone());
    let door = Door::closed();
    let first = pool.submit(Do::commit(0, 0).at(&door)).await.unwrap();
    until(|| door.arrived() == 1).await;
    let mut tickets = Vec::new();
    // Round after round: whoever is evicted in between is met again, with a gap or a second load.
    for tag in 0..3 {
        for id in 1..AGGREGATES {
            tickets.push((tag, pool.submit(Do::commit(id, tag)).await.unwrap()));
        }
    }
    // Only what the dispatcher has taken makes an aggregate busy.
    until(|| taken.load(Ordering::SeqCst) == 1 + tickets.len() as u64).await;
    until(|| only(&pool).resident == u64::from(AGGREGATES)).await;
    door.open();
    first.await.unwrap();
    for (tag, ticket) in tickets {
        let receipt = ticket.await.unwrap();
        assert_eq!((receipt.version, receipt.output.state), (tag + 1, tag));
    }
    assert_eq!(store.loads().len(), AGGREGATES as usize, "one load for each");
}

async fn g12_a_running_aggregate_is_never_evicted(bed: Bed) {
    let store = Store::default();
    let (pool, log) = over(&bed, &store, 4, Some(1));
    let door = Door::closed();
    let mut running = Vec::new();
    for id in 0..3 {
        running.push(pool.submit(Do::commit(id, 0).at(&door)).await.unwrap());
        // One by one: the first runs before there are too many.
        until(|| door.arrived() == u64::from(id) + 1).await;
    }
    for tag in 0..100 {
        pool.send(Do::commit(10 + tag as u32 % 7, tag)).await.unwrap();
    }
    // A second lane for a running aggregate would start these at once.
    let mut next = Vec::new();
    for id in 0..3 {
        next.push(pool.submit(Do::commit(id, 1)).await.unwrap());
    }
    for tag in 0..100 {
        pool.send(Do::commit(10 + tag as u32 % 7, tag)).await.unwrap();
    }
    assert_eq!((0..3).map(|id| log.tags_of(id).len()).sum::<usize>(), 3);
    door.open();
    for ticket in running {
        assert_eq!(ticket.await.unwrap().version, 1);
    }
    for ticket in next {
        assert_eq!(ticket.await.unwrap().version, 2);
    }
    assert_eq!(log.overlaps(), 0);
}

async fn g12_the_cap_is_soft_while_more_are_busy_and_holds_again_once_they_are_idle(bed: Bed) {
    const CAP: usize = 4;
    let store = Store::default();
    let (pool, _) = over(&bed, &store, 10, Some(CAP));
    for round in 0..20 {
        let door = Door::closed();
        let mut tickets = Vec::new();
        for id in 0..30 {
            tickets.push(pool.submit(Do::commit(id, round).at(&door)).await.unwrap());
        }
        until(|| door.arrived() == 10).await;
        // Ten run and twenty wait: none of them may go.
        until(|| only(&pool).resident >= 30).await;
        door.open();
        for ticket in tickets {
            ticket.await.unwrap();
        }
        // Without another command: nothing may be needed to bring the shard below its cap again.
        until(|| only(&pool).resident <= CAP as u64).await;
    }
}

async fn g12_trap03_the_map_is_pruned_under_load(bed: Bed) {
    const CAP: u64 = 100;
    const DEPTH: u64 = 32;
    const WORKERS: u64 = 4;
    /// How many commands the dispatcher takes at most before it looks at what came back.
    const RUN: u64 = 256;
    let store = Store::default();
    let pool = ShardPool::builder(Actor { store: Some(store.clone()), ..Actor::default() })
        .loader(store)
        .shards(1)
        .workers_per_shard(WORKERS as usize)
        .queue_depth(DEPTH as usize)
        .max_resident(CAP as usize)
        .start(bed.executor())
        .unwrap();
    bed.watch(pool.clone());
    for id in 0..10_000 {
        drop(pool.submit(Do::commit(id, 0)).await.unwrap());
        let resident = only(&pool).resident;
        // Those that are busy come on top, and those of which it does not know yet that they are not.
        assert!(resident <= CAP + DEPTH + WORKERS + RUN, "{resident} resident");
    }
    until(|| {
        let shard = only(&pool);
        shard.outcomes.committed == 10_000 && shard.resident <= CAP
    })
    .await;
}

async fn g12_an_evicted_aggregate_is_loaded_when_it_is_next_used(bed: Bed) {
    const AGGREGATES: u32 = 30;
    let store = Store::default();
    let (pool, _) = over(&bed, &store, 6, Some(5));
    let mut versions: HashMap<u32, u64> = HashMap::new();
    for round in 0..100 {
        let mut tickets = Vec::new();
        for tag in 0..50 {
            let id = fastrand::u32(..AGGREGATES);
            let act = if fastrand::u8(..5) == 0 { Act::Reject } else { Act::Commit };
            let command = Do::new(id, round * 50 + tag, act).restless();
            tickets.push((id, pool.submit(command).await.unwrap()));
        }
        // Between two rounds all are idle, and most are evicted.
        for (id, ticket) in tickets {
            let version = versions.entry(id).or_default();
            if let Ok(receipt) = ticket.await {
                *version += 1;
                assert_eq!((receipt.version, receipt.output.state + 1), (*version, *version));
            }
        }
    }
    assert!(store.loads().len() > AGGREGATES as usize, "some were evicted");
    assert!(pool.stats()[0].outcomes.rejected > 0);
}

/// A state that is counted while it lives.
struct Counted(Arc<AtomicU64>);

impl Counted {
    fn new(live: &Arc<AtomicU64>) -> Self {
        live.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(live))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

struct Touch(u32);

impl Command for Touch {
    type AggregateId = u32;
    fn aggregate_id(&self) -> &u32 {
        &self.0
    }
}

async fn g12_an_evicted_state_is_dropped(bed: Bed) {
    let live = Arc::new(AtomicU64::new(0));
    let of_loader = Arc::clone(&live);
    let pool = ShardPool::builder(handler_fn(|_: &mut Counted, _: Touch, _: &Context| {
        Ok::<_, Failure<()>>(())
    }))
    .loader(loader_fn(move |_: u32| {
        let state = Counted::new(&of_loader);
        async move { Ok::<_, ()>(Loaded::new(state, 0)) }
    }))
    .shards(1)
    .max_resident(7)
    .start(bed.executor())
    .unwrap();
    bed.watch(pool.clone());
    let mut tickets = Vec::new();
    for id in 0..500 {
        tickets.push(pool.submit(Touch(id)).await.unwrap());
    }
    for ticket in tickets {
        ticket.await.unwrap();
    }
    until(|| live.load(Ordering::SeqCst) == 7 && pool.stats()[0].resident == 7).await;
}

async fn g12_a_cap_of_one_works(bed: Bed) {
    let store = Store::default();
    let (pool, _) = over(&bed, &store, 3, Some(1));
    let mut tickets = Vec::new();
    for tag in 0..200 {
        for id in 0..5 {
            tickets.push((tag, pool.submit(Do::commit(id, tag).restless()).await.unwrap()));
        }
    }
    for (tag, ticket) in tickets {
        assert_eq!(ticket.await.unwrap().version, tag + 1);
    }
    until(|| only(&pool).resident <= 1).await;
}

async fn g12_without_a_cap_nothing_is_evicted(bed: Bed) {
    let store = Store::default();
    let (pool, _) = over(&bed, &store, 4, None);
    let mut tickets = Vec::new();
    for tag in 0..2 {
        for id in 0..1_500 {
            tickets.push(pool.submit(Do::commit(id, tag)).await.unwrap());
        }
    }
    for ticket in tickets {
        ticket.await.unwrap();
    }
    assert_eq!(store.loads().len(), 1_500);
    assert_eq!(only(&pool).resident, 1_500);
}
