//! G10: versions without gap or duplicate.

use crate::by_hand::ByHand;
use crate::harness::{Bed, Door, Shared, suite, until, yield_at_random};
use crate::script::{Act, Actor, Do, Pool, Store, Why};
use crate::tools::{Touch, poll_once};
use futures::future::join_all;
use shardpool::executors::{Clock, Executor, SpawnError, SystemClock, Task};
use shardpool::{
    Command, CommandError, Context, Failure, Loaded, ShardPool, handler_fn, loader_fn,
};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

suite!(
    g10_trap02_a_burst_with_rejections_has_no_gap_and_no_duplicate,
    g10_trap02_versions_have_no_gap_with_many_workers_and_all_that_gives_back,
    g10_a_withdrawn_command_consumes_no_version,
    g10_an_expired_command_consumes_no_version,
    g10_trap03_a_second_run_goes_on_where_the_store_is,
    g10_trap03_the_version_is_the_loaded_one_and_one,
    g10_g11_versions_go_on_from_what_each_load_says,
    g10_nothing_comes_after_the_last_version,
    g10_trap09_any_error_of_the_domain_is_a_rejection,
    g10_trap09_an_error_by_question_mark_is_a_failure,
);

fn pool(bed: &Bed, workers: usize, executor: impl Executor) -> Pool {
    let pool = ShardPool::builder(Actor::default())
        .shards(2)
        .workers_per_shard(workers)
        .queue_depth(1 << 16)
        .max_turn(5)
        .start(executor)
        .unwrap();
    bed.watch(pool.clone());
    pool
}

async fn g10_trap02_a_burst_with_rejections_has_no_gap_and_no_duplicate(bed: Bed) {
    let pool = pool(&bed, 8, bed.executor());
    for id in 0..50 {
        // All at once, and nothing is looked at before all are on their way.
        let acts: Vec<Act> =
            (0..40).map(|_| if fastrand::bool() { Act::Commit } else { Act::Reject }).collect();
        let mut tickets = Vec::new();
        for (&act, tag) in acts.iter().zip(0..) {
            tickets.push((act, pool.submit(Do::new(id, tag, act).restless()).await.unwrap()));
        }
        let mut version = 0;
        for (act, ticket) in tickets {
            match (act, ticket.await) {
                (Act::Commit, Ok(receipt)) => {
                    version += 1;
                    assert_eq!(receipt.version, version);
                }
                (Act::Reject, Err(CommandError::Rejected(Why::Handler(seen)))) => {
                    assert_eq!(seen.version, version + 1, "what it would have committed");
                }
                (act, result) => panic!("{act:?}: {result:?}"),
            }
        }
    }
}

/// An executor whose clock the test moves.
#[derive(Clone)]
struct Timed {
    inner: Shared,
    clock: Arc<Moved>,
}

struct Moved {
    zero: Instant,
    millis: AtomicU64,
}

impl Clock for Moved {
    fn now(&self) -> Instant {
        self.zero + Duration::from_millis(self.millis.load(Ordering::SeqCst))
    }
    fn sleep(&self, time: Duration) -> Task {
        SystemClock.sleep(time)
    }
}

impl Timed {
    fn new(bed: &Bed) -> Self {
        let clock = Moved { zero: Instant::now(), millis: AtomicU64::new(0) };
        Self { inner: bed.executor(), clock: Arc::new(clock) }
    }

    fn advance(&self, millis: u64) {
        self.clock.millis.fetch_add(millis, Ordering::SeqCst);
    }
}

impl Executor for Timed {
    fn spawn(&self, task: Task) -> Result<(), SpawnError> {
        self.inner.spawn(task)
    }
    fn clock(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.clock) as Arc<dyn Clock>
    }
}

async fn g10_trap02_versions_have_no_gap_with_many_workers_and_all_that_gives_back(bed: Bed) {
    const AGGREGATES: u32 = 30;
    let timed = Timed::new(&bed);
    let pool = pool(&bed, 8, timed.clone());
    let submitters = (0..3).map(|submitter| {
        let (pool, timed) = (pool.clone(), timed.clone());
        bed.spawn(async move {
            let mut tickets = Vec::new();
            let mut withdrawn = 0;
            for tag in 0..3_000 {
                // Aggregates of its own, so that it knows the order of acceptance.
                let id = fastrand::u32(..AGGREGATES / 3) * 3 + submitter;
                let act = if fastrand::u8(..3) == 0 { Act::Reject } else { Act::Commit };
                let command = Do::new(id, tag, act).restless();
                let ticket = match fastrand::u8(..4) {
                    0 => match pool.within(Duration::from_millis(3)).submit(command).await {
                        Ok(ticket) => ticket,
                        // The others moved the clock in between.
                        Err(error) => {
                            assert!(matches!(error, shardpool::SubmitError::Expired(_)));
                            continue;
                        }
                    },
                    _ => pool.submit(command).await.unwrap(),
                };
                tickets.push((id, ticket));
                // One of the last few: wherever it is by now.
                let (_, recent) =
                    &tickets[tickets.len() - fastrand::usize(1..=tickets.len().min(50))];
                if fastrand::u8(..4) == 0 && recent.withdraw() {
                    withdrawn += 1;
                }
                if fastrand::u8(..4) == 0 {
                    timed.advance(1);
                }
                yield_at_random().await;
            }
            let mut versions: HashMap<u32, u64> = HashMap::new();
            let mut expired = 0;
            for (id, ticket) in tickets {
                let version = versions.entry(id).or_default();
                match ticket.await {
                    Ok(receipt) => {
                        *version += 1;
                        assert_eq!(receipt.version, *version, "aggregate {id}");
                        assert_eq!(receipt.output.state + 1, *version, "aggregate {id}");
                    }
                    Err(CommandError::Rejected(Why::Handler(seen))) => {
                        assert_eq!(seen.version, *version + 1, "aggregate {id}");
                    }
                    Err(CommandError::Expired) => expired += 1,
                    Err(CommandError::Cancelled) => withdrawn -= 1,
                    other => panic!("{other:?}"),
                }
            }
            assert_eq!(withdrawn, 0, "each withdrawn command says so");
            expired
        })
    });
    let expired: u64 = join_all(submitters).await.into_iter().sum();
    let outcomes = pool.drain().await.unwrap();
    assert_eq!(outcomes.expired, expired);
    assert!(outcomes.rejected > 0 && outcomes.cancelled > 0, "{outcomes:?}");
}

async fn g10_a_withdrawn_command_consumes_no_version(bed: Bed) {
    let taken = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&taken);
    let pool = ShardPool::builder(Actor::default())
        .shards(1)
        .workers_per_shard(1)
        .on_dispatched(move |_| {
            count.fetch_add(1, Ordering::SeqCst);
        })
        .start(bed.executor())
        .unwrap();
    bed.watch(pool.clone());
    let (outer, inner) = (Door::closed(), Door::closed());
    drop(pool.submit(Do::commit(0, 0).at(&outer)).await.unwrap());
    until(|| outer.arrived() == 1).await;
    // The first is held at the inner door, with others of its turn behind it, ...
    let mut tickets = Vec::new();
    for tag in 0..10 {
        tickets.push(pool.submit(Do::commit(1, tag).at(&inner)).await.unwrap());
    }
    until(|| taken.load(Ordering::SeqCst) == 11).await;
    outer.open();
    until(|| inner.arrived() == 1).await;
    // ... and these are in the backlog; withdrawn in the channel, they would come to no lane.
    for tag in 10..31 {
        tickets.push(pool.submit(Do::commit(1, tag).at(&inner)).await.unwrap());
    }
    until(|| taken.load(Ordering::SeqCst) == 32).await;
    // Every third stays.
    for (ticket, n) in tickets.iter().zip(0..) {
        assert!(n % 3 == 0 || ticket.withdraw());
    }
    inner.open();
    let mut version = 0;
    for (ticket, n) in tickets.into_iter().zip(0..) {
        if n % 3 == 0 {
            version += 1;
            assert_eq!(ticket.await.unwrap().version, version);
        } else {
            assert_eq!(ticket.await, Err(CommandError::Cancelled));
        }
    }
    assert_eq!(version, 11);
}

async fn g10_an_expired_command_consumes_no_version(bed: Bed) {
    let timed = Timed::new(&bed);
    let pool = pool(&bed, 4, timed.clone());
    let door = Door::closed();
    let first = pool.submit(Do::commit(1, 0).at(&door)).await.unwrap();
    until(|| door.arrived() == 1).await;
    let mut tickets = Vec::new();
    for tag in 1..=30 {
        let time = Duration::from_millis(if tag % 3 == 0 { 20 } else { 10 });
        tickets.push(pool.within(time).submit(Do::commit(1, tag)).await.unwrap());
    }
    timed.advance(15);
    door.open();
    assert_eq!(first.await.unwrap().version, 1);
    let mut version = 1;
    for (ticket, tag) in tickets.into_iter().zip(1..) {
        if tag % 3 == 0 {
            version += 1;
            assert_eq!(ticket.await.unwrap().version, version);
        } else {
            assert_eq!(ticket.await, Err(CommandError::Expired));
        }
    }
    assert_eq!(version, 11);
}

async fn g10_trap03_a_second_run_goes_on_where_the_store_is(bed: Bed) {
    const AGGREGATES: u32 = 40;
    let store = Store::default();
    let mut committed = 0;
    for _ in 0..3 {
        // A restart: a new pool over the same store.
        let pool = ShardPool::builder(Actor { store: Some(store.clone()), ..Actor::default() })
            .loader(store.clone())
            .shards(2)
            .workers_per_shard(8)
            .start(bed.executor())
            .unwrap();
        bed.watch(pool.clone());
        for tag in 0..1_500 {
            let act = if fastrand::u8(..4) == 0 { Act::Reject } else { Act::Commit };
            let command = Do::new(fastrand::u32(..AGGREGATES), tag, act).restless();
            drop(pool.submit(command).await.unwrap());
        }
        committed += pool.drain().await.unwrap().committed;
    }
    let mut written = 0;
    for id in 0..AGGREGATES {
        let journal = store.journal(id);
        assert_eq!(journal, (1..=journal.len() as u64).collect::<Vec<_>>(), "aggregate {id}");
        written += journal.len() as u64;
    }
    assert_eq!(written, committed);
}

async fn g10_trap03_the_version_is_the_loaded_one_and_one(bed: Bed) {
    let store = Store::default();
    for id in 0..20 {
        store.write(id, u64::from(id) * 1_000);
    }
    let pool = ShardPool::builder(Actor::default()).loader(store).start(bed.executor()).unwrap();
    bed.watch(pool.clone());
    let mut tickets = Vec::new();
    for tag in 1..=5 {
        for id in 0..20 {
            tickets.push((id, tag, pool.submit(Do::commit(id, tag)).await.unwrap()));
        }
    }
    for (id, tag, ticket) in tickets {
        assert_eq!(ticket.await.unwrap().version, u64::from(id) * 1_000 + tag);
    }
}

async fn g10_g11_versions_go_on_from_what_each_load_says(bed: Bed) {
    const AGGREGATES: u32 = 24;
    let store = Store::default();
    let pool = ShardPool::builder(Actor { store: Some(store.clone()), ..Actor::default() })
        .loader(store.clone())
        .shards(2)
        .workers_per_shard(6)
        // Loads because of evictions come on top of those because of failures.
        .max_resident(3)
        .start(bed.executor())
        .unwrap();
    bed.watch(pool.clone());
    for tag in 0..6_000 {
        let act = match fastrand::u8(..10) {
            0 => Act::Fail,
            1 => Act::Panic,
            // Written, so the next load must count it.
            2 => Act::WriteThenFail,
            3 | 4 => Act::Reject,
            _ => Act::Commit,
        };
        let command = Do::new(fastrand::u32(..AGGREGATES), tag, act).restless();
        drop(pool.submit(command).await.unwrap());
    }
    pool.drain().await.unwrap();
    for id in 0..AGGREGATES {
        let journal = store.journal(id);
        assert_eq!(journal, (1..=journal.len() as u64).collect::<Vec<_>>(), "aggregate {id}");
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Refusal {
    NotEnough { missing: u64 },
    Frozen,
    Unknown(String),
}

struct Ask(Refusal);

impl Command for Ask {
    type AggregateId = u8;
    fn aggregate_id(&self) -> &u8 {
        &0
    }
}

fn refusals() -> [Refusal; 3] {
    [Refusal::NotEnough { missing: 3 }, Refusal::Frozen, Refusal::Unknown("who?".into())]
}

async fn g10_trap09_any_error_of_the_domain_is_a_rejection(bed: Bed) {
    let pool = ShardPool::builder(handler_fn(|asked: &mut u64, ask: Ask, cx: &Context| {
        assert_eq!(cx.version(), 1, "each before gave its version back");
        *asked += 1;
        Err::<u64, _>(Failure::Rejected((*asked, ask.0)))
    }))
    .start(bed.executor())
    .unwrap();
    bed.watch(pool.clone());
    let mut tickets = Vec::new();
    for refusal in refusals() {
        tickets.push((refusal.clone(), pool.submit(Ask(refusal)).await.unwrap()));
    }
    for ((refusal, ticket), asked) in tickets.into_iter().zip(1..) {
        // The resident state stays, too.
        assert_eq!(ticket.await, Err(CommandError::Rejected((asked, refusal))));
    }
    let outcomes = pool.drain().await.unwrap();
    assert_eq!((outcomes.rejected, outcomes.total()), (3, 3));
}

async fn g10_trap09_an_error_by_question_mark_is_a_failure(bed: Bed) {
    // The safe choice: nothing is said about what was written.
    let pool = ShardPool::builder(handler_fn(|_: &mut (), ask: Ask, _: &Context| {
        Err(ask.0)?;
        Ok(())
    }))
    .start(bed.executor())
    .unwrap();
    bed.watch(pool.clone());
    for refusal in refusals() {
        let error = pool.submit(Ask(refusal.clone())).await.unwrap().await.unwrap_err();
        assert_eq!(error, CommandError::Failed { error: refusal, started: true });
    }
}

async fn g10_nothing_comes_after_the_last_version(bed: Bed) {
    let handler = handler_fn(|_: &mut (), _: Touch, _: &Context| Ok::<_, Failure<()>>(()));
    let loader = loader_fn(|()| async { Ok(Loaded::new((), u64::MAX - 1)) });
    let pool = ShardPool::builder(handler).loader(loader).start(bed.executor()).unwrap();
    bed.watch(pool.clone());
    assert_eq!(pool.send(Touch).await.unwrap().version, u64::MAX);
    let after = pool.submit(Touch).await.unwrap().await;
    assert!(matches!(after, Err(CommandError::Panicked { started: false, .. })), "{after:?}");
}

struct Count;

impl Command for Count {
    type AggregateId = ();
    fn aggregate_id(&self) -> &() {
        &()
    }
}

#[test]
fn g11_a_worker_that_is_dropped_between_two_commands_leaves_the_state_as_it_was() {
    let executor = ByHand::default();
    let handler = handler_fn(|count: &mut u64, _: Count, _: &Context| {
        *count += 1;
        Ok::<_, Failure<()>>(*count)
    });
    let builder = ShardPool::builder(handler).shards(1).workers_per_shard(2).max_turn(64);
    let pool = builder.start(executor.clone()).unwrap();
    let mut tasks = executor.tasks();
    let mut poll = |at: usize| assert!(poll_once(&mut tasks[at], Waker::noop()).is_pending());
    let mut tickets: Vec<_> = (0..130).map(|_| pool.try_submit(Count).unwrap()).collect();
    // A worker lets others run after a load and 127 commands: in the middle of the third turn.
    while !tickets[126].is_finished() {
        poll(0);
        poll(1);
    }
    assert!(!tickets[127].is_finished());
    drop(tasks.remove(1));
    let (mut last, next) = (tickets.pop().unwrap(), tickets.pop().unwrap());
    assert_eq!(next.blocking_wait().unwrap_err(), CommandError::Aborted { started: false });
    for _ in 0..20 {
        tasks.retain_mut(|task| poll_once(task, Waker::noop()).is_pending());
    }
    let Poll::Ready(Ok(receipt)) = poll_once(&mut last, Waker::noop()) else {
        panic!("no receipt: {:?}", pool.stats());
    };
    assert_eq!((receipt.version, receipt.output), (128, 128));
}
