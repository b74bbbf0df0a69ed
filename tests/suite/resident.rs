//! G11: the resident state, and where it comes from.

use crate::harness::{Bed, Door, suite, until};
use crate::script::{Act, Actor, Do, Fault, Log, Pool, Store, Tick, Why, only};
use shardpool::{Command, CommandError, CommandHandler, Context, Failure, ShardPool};
use std::sync::{Arc, Mutex};

suite!(
    g11_the_handler_is_lent_the_state_and_told_the_version_it_would_commit,
    g11_loads_once_before_the_first_command_and_not_again,
    g11_loads_again_after_a_failure,
    g11_loads_again_after_a_panic,
    g11_a_rejection_keeps_the_resident_state,
    g11_trap10_a_failure_after_the_write_says_so_and_the_next_command_sees_the_write,
    g11_a_failed_load_ends_one_command_unstarted_and_the_next_asks_again,
    g11_a_panic_in_a_load_ends_one_command_unstarted_and_the_next_asks_again,
    g11_a_load_holds_up_its_own_aggregate_only,
    g11_loads_occupy_one_worker_each,
    g11_without_a_loader_state_starts_from_default_and_version_from_zero,
    g11_without_a_loader_a_failure_resets_the_state_and_keeps_the_version,
);

/// A pool of one shard over a store.
fn over(bed: &Bed, store: &Store, workers: usize) -> (Pool, Log) {
    let log = Log::default();
    let pool = ShardPool::builder(Actor { log: log.clone(), store: Some(store.clone()) })
        .loader(store.clone())
        .shards(1)
        .workers_per_shard(workers)
        .start(bed.executor())
        .unwrap();
    bed.watch(pool.clone());
    (pool, log)
}

fn without(bed: &Bed) -> Pool {
    let pool = ShardPool::builder(Actor::default())
        .shards(1)
        .workers_per_shard(4)
        .start(bed.executor())
        .unwrap();
    bed.watch(pool.clone());
    pool
}

/// Submits all of them before any can start, then lets them go: one backlog, open loop.
async fn burst(pool: &Pool, id: u32, acts: &[Act]) -> Vec<Tick> {
    let door = Door::closed();
    let mut tickets = Vec::new();
    for (&act, tag) in acts.iter().zip(0..) {
        tickets.push(pool.submit(Do::new(id, tag, act).at(&door)).await.unwrap());
    }
    door.open();
    tickets
}

/// Versions of a receipt, its handler's word, and the state that the handler found.
async fn committed(ticket: Tick) -> (u64, u64, u64) {
    let receipt = ticket.await.unwrap();
    (receipt.version, receipt.output.version, receipt.output.state)
}

struct Push {
    stack: u8,
    value: u32,
}

impl Command for Push {
    type AggregateId = u8;
    fn aggregate_id(&self) -> &u8 {
        &self.stack
    }
}

struct Stacks;

impl CommandHandler for Stacks {
    type Command = Push;
    type State = Vec<u32>;
    type Output = (u64, Vec<u32>);
    type Error = ();

    async fn handle(
        &self,
        stack: &mut Vec<u32>,
        push: Push,
        cx: &Context,
    ) -> Result<Self::Output, Failure<()>> {
        stack.push(push.value);
        crate::harness::yield_at_random().await;
        Ok((cx.version(), stack.clone()))
    }
}

async fn g11_the_handler_is_lent_the_state_and_told_the_version_it_would_commit(bed: Bed) {
    let pool =
        ShardPool::builder(Stacks).shards(2).workers_per_shard(4).start(bed.executor()).unwrap();
    bed.watch(pool.clone());
    let mut tickets = Vec::new();
    for value in 0..100 {
        for stack in 0..10 {
            tickets.push((value, pool.submit(Push { stack, value }).await.unwrap()));
        }
    }
    for (value, ticket) in tickets {
        let receipt = ticket.await.unwrap();
        let (told, stack) = receipt.output;
        assert_eq!(told, receipt.version);
        assert_eq!(stack, (0..=value).collect::<Vec<_>>(), "what earlier commands left");
    }
}

async fn g11_loads_once_before_the_first_command_and_not_again(bed: Bed) {
    let store = Store::default();
    for id in 0..25 {
        for version in 1..=u64::from(id) {
            store.write(id, version);
        }
    }
    let (pool, _) = over(&bed, &store, 4);
    let mut tickets = Vec::new();
    for tag in 0..40 {
        for id in 0..25 {
            tickets.push((u64::from(id) + tag, pool.submit(Do::commit(id, tag)).await.unwrap()));
        }
    }
    for (before, ticket) in tickets {
        assert_eq!(committed(ticket).await, (before + 1, before + 1, before));
    }
    let mut loads = store.loads();
    loads.sort_unstable();
    assert_eq!(loads, (0..25).collect::<Vec<_>>(), "one load for each");
}

/// The same for a failure and a panic.
async fn loads_again_after(bed: Bed, bad: Act) {
    let store = Store::default();
    // What the store says is not what the pool has counted, so a load can't be missed.
    store.write(1, 100);
    let (pool, _) = over(&bed, &store, 4);
    let acts = [Act::Commit, Act::Commit, bad, Act::Commit, bad, bad, Act::Commit];
    let mut results = Vec::new();
    for ticket in burst(&pool, 1, &acts).await {
        results.push(ticket.await.map(|receipt| (receipt.version, receipt.output.state)));
    }
    let versions: Vec<_> = results.iter().map(|result| result.as_ref().ok().copied()).collect();
    let (a, b, c, d) = ((101, 1), (102, 2), (103, 3), (104, 4));
    assert_eq!(versions, [Some(a), Some(b), None, Some(c), None, None, Some(d)]);
    assert!(results.iter().filter_map(|r| r.as_ref().err()).all(|error| error.started()));
    assert_eq!(store.loads(), [1; 4], "at first, and after each that went wrong");
    assert_eq!(only(&pool).outcomes.total(), 7);
}

async fn g11_loads_again_after_a_failure(bed: Bed) {
    loads_again_after(bed, Act::Fail).await;
}

async fn g11_loads_again_after_a_panic(bed: Bed) {
    loads_again_after(bed, Act::Panic).await;
}

async fn g11_a_rejection_keeps_the_resident_state(bed: Bed) {
    let store = Store::default();
    let (pool, _) = over(&bed, &store, 4);
    let mut tickets = burst(&pool, 1, &[Act::Commit, Act::Reject, Act::Reject, Act::Commit]).await;
    assert_eq!(committed(tickets.pop().unwrap()).await, (2, 2, 1));
    assert_eq!(store.loads(), [1], "nothing was written, nothing is unknown");
}

/// Adds once per key, whatever happens: the state is what the store has.
struct Once {
    written: Arc<Mutex<Vec<u64>>>,
}

struct Add {
    key: u64,
    fail: bool,
}

impl Command for Add {
    type AggregateId = ();
    fn aggregate_id(&self) -> &() {
        &()
    }
}

impl CommandHandler for Once {
    type Command = Add;
    type State = Vec<u64>;
    type Output = ();
    type Error = &'static str;

    async fn handle(
        &self,
        known: &mut Vec<u64>,
        add: Add,
        _: &Context,
    ) -> Result<(), Failure<&'static str>> {
        if known.contains(&add.key) {
            return Err(Failure::Rejected("known"));
        }
        self.written.lock().unwrap().push(add.key);
        if add.fail {
            return Err(Failure::Failed("the connection was lost"));
        }
        known.push(add.key);
        Ok(())
    }
}

async fn g11_trap10_a_failure_after_the_write_says_so_and_the_next_command_sees_the_write(
    bed: Bed,
) {
    let written = Arc::new(Mutex::new(Vec::new()));
    let store = Arc::clone(&written);
    let pool = ShardPool::builder(Once { written: Arc::clone(&written) })
        .loader(shardpool::loader_fn(move |()| {
            let known = store.lock().unwrap().clone();
            async move { Ok(shardpool::Loaded::new(known.clone(), known.len() as u64)) }
        }))
        .start(bed.executor())
        .unwrap();
    bed.watch(pool.clone());
    let mut tickets = Vec::new();
    // Each fails after its write, and its retry is already in the queue.
    for key in 0..20 {
        for fail in [true, false] {
            tickets.push((fail, pool.submit(Add { key, fail }).await.unwrap()));
        }
    }
    for (fail, ticket) in tickets {
        let error = ticket.await.unwrap_err();
        assert!(error.started(), "it may have written: {error:?}");
        let expected = if fail {
            CommandError::Failed { error: "the connection was lost", started: true }
        } else {
            CommandError::Rejected("known")
        };
        assert_eq!(error, expected);
    }
    assert_eq!(*written.lock().unwrap(), (0..20).collect::<Vec<_>>(), "each was written once");
    // The version counts what was written, too.
    let receipt = pool.send(Add { key: 99, fail: false }).await.unwrap();
    assert_eq!(receipt.version, 21);
}

async fn g11_a_failed_load_ends_one_command_unstarted_and_the_next_asks_again(bed: Bed) {
    let store = Store::default();
    store.break_loads(1, [Fault::Error, Fault::Error]);
    let (pool, log) = over(&bed, &store, 4);
    let tickets = burst(&pool, 1, &[Act::Commit; 5]).await;
    for (ticket, n) in tickets.into_iter().zip(0..) {
        if n < 2 {
            let expected = CommandError::Failed { error: Why::Loader(1), started: false };
            assert_eq!(ticket.await, Err(expected));
        } else {
            assert_eq!(committed(ticket).await, (n - 1, n - 1, n - 2));
        }
    }
    assert_eq!(log.tags_of(1), [2, 3, 4], "the handler never saw the first two");
    assert_eq!(store.loads_of(1), 3);
    assert_eq!(only(&pool).outcomes.failed, 2);
}

async fn g11_a_panic_in_a_load_ends_one_command_unstarted_and_the_next_asks_again(bed: Bed) {
    let store = Store::default();
    store.break_loads(1, [Fault::Panic, Fault::Panic]);
    let (pool, log) = over(&bed, &store, 4);
    let tickets = burst(&pool, 1, &[Act::Commit; 5]).await;
    for (ticket, n) in tickets.into_iter().zip(0..) {
        if n < 2 {
            let message = "load of 1".to_owned();
            assert_eq!(ticket.await, Err(CommandError::Panicked { message, started: false }));
        } else {
            assert_eq!(committed(ticket).await, (n - 1, n - 1, n - 2));
        }
    }
    assert_eq!(log.tags_of(1), [2, 3, 4], "the handler never saw the first two");
    assert_eq!(store.loads_of(1), 3);
    assert_eq!(only(&pool).outcomes.panicked, 2);
}

async fn g11_a_load_holds_up_its_own_aggregate_only(bed: Bed) {
    let store = Store::default();
    let door = Door::closed();
    store.hold(0, &door);
    let (pool, log) = over(&bed, &store, 2);
    let (mut held, mut others) = (Vec::new(), Vec::new());
    for tag in 0..20 {
        held.push(pool.submit(Do::commit(0, tag)).await.unwrap());
        for id in 1..25 {
            others.push(pool.submit(Do::commit(id, tag).restless()).await.unwrap());
        }
    }
    // More aggregates, each with a load of its own, pass while one load is pending.
    for ticket in others {
        ticket.await.unwrap();
    }
    assert_eq!(log.tags_of(0), [0; 0], "it waits for its load");
    door.open();
    for (ticket, version) in held.into_iter().zip(1..) {
        assert_eq!(ticket.await.unwrap().version, version);
    }
}

async fn g11_loads_occupy_one_worker_each(bed: Bed) {
    const WORKERS: u32 = 5;
    let store = Store::default();
    let door = Door::closed();
    for id in 0..WORKERS - 1 {
        store.hold(id, &door);
    }
    let (pool, _) = over(&bed, &store, WORKERS as usize);
    let mut held = Vec::new();
    for tag in 0..4 {
        for id in 0..WORKERS - 1 {
            held.push(pool.submit(Do::commit(id, tag)).await.unwrap());
        }
    }
    // All of them load at once, and the one worker that is left does the rest.
    until(|| door.arrived() == u64::from(WORKERS - 1)).await;
    let mut others = Vec::new();
    for id in WORKERS..WORKERS + 50 {
        others.push(pool.submit(Do::commit(id, 0)).await.unwrap());
    }
    for ticket in others {
        ticket.await.unwrap();
    }
    assert_eq!(only(&pool).queued, u64::from(WORKERS - 1) * 4, "a load starts no command");
    door.open();
    for ticket in held {
        ticket.await.unwrap();
    }
}

async fn g11_without_a_loader_state_starts_from_default_and_version_from_zero(bed: Bed) {
    let pool = without(&bed);
    for id in 0..20 {
        let tickets = burst(&pool, id, &[Act::Commit; 10]).await;
        for (ticket, state) in tickets.into_iter().zip(0..) {
            assert_eq!(committed(ticket).await, (state + 1, state + 1, state));
        }
    }
}

async fn g11_without_a_loader_a_failure_resets_the_state_and_keeps_the_version(bed: Bed) {
    let pool = without(&bed);
    for bad in [Act::Fail, Act::Panic] {
        let acts = [Act::Commit, Act::Commit, Act::Commit, bad, Act::Commit, bad, Act::Commit];
        let mut seen = Vec::new();
        for ticket in burst(&pool, bad as u32, &acts).await {
            seen.push(ticket.await.ok().map(|receipt| (receipt.version, receipt.output.state)));
        }
        let (a, b, c, d, e) = ((1, 0), (2, 1), (3, 2), (4, 0), (5, 0));
        assert_eq!(seen, [Some(a), Some(b), Some(c), None, Some(d), None, Some(e)]);
    }
}
