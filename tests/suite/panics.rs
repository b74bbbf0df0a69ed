//! Panics of user code end at most the command at hand (G7).

use crate::by_hand::{ByHand, Shard};
use crate::harness::{Bed, Door, On, run, suite, until, yield_at_random, yield_now};
use crate::tools::{
    Bomb, Error, Flag, Handled, Job, Live, Peek, Pool, Puppets, Script, Touch, WANTED, WakeWith,
    assert_quiet, hush_wanted_panics, loud_waker, poll_once, pool,
};
use shardpool::{
    Command, CommandError, CommandHandler, Context, Failure, Loaded, Outcomes, ShardPool,
    SubmitError, TrySubmitError, handler_fn, loader_fn,
};
use std::future::Future;
use std::hash::{Hash, Hasher};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Poll, Waker};

suite!(
    g07_trap08_under_load_panics_end_their_commands_alone,
    g07_a_panic_of_a_handler_before_its_first_await_is_contained,
    g07_a_panic_of_a_handler_after_an_await_is_contained,
    g07_a_panic_of_a_handler_before_it_has_a_future_is_contained,
    g07_a_panic_of_a_loader_is_contained_and_the_next_command_loads_again,
    g07_a_panicked_state_is_discarded_and_loaded_again,
    g07_without_a_loader_a_panicked_state_starts_anew_and_the_version_stays,
    g07_a_panic_that_carries_no_text_is_contained,
    g07_a_destructor_of_a_command_is_contained_wherever_it_ends,
    g07_a_destructor_of_a_state_is_contained,
    g07_a_destructor_of_a_state_is_contained_at_an_eviction,
    g07_a_destructor_of_an_output_or_an_error_is_contained,
    g07_a_destructor_of_a_handlers_future_ends_its_command,
    g07_a_destructor_in_a_dropped_worker_strands_no_ticket,
    g07_a_hash_that_panics_refuses_and_gives_the_command_back,
    g07_an_eq_that_panics_ends_its_command_alone,
    g07_a_clone_that_panics_ends_its_command_alone,
    g07_a_waker_that_panics_costs_nobody_else_anything,
    g07_a_waker_that_calls_the_pool_does_not_hang,
    g07_a_hook_that_panics_ends_its_command_alone,
);

fn panicked<T: std::fmt::Debug, E: std::fmt::Debug + PartialEq>(
    ended: Result<T, CommandError<E>>,
    why: &str,
    was_started: bool,
) {
    match ended {
        Err(CommandError::Panicked { message, started }) => {
            assert_eq!((message, started), (format!("{WANTED}: {why}"), was_started));
        }
        other => panic!("not a panic: {other:?}"),
    }
}

const WORKERS: usize = 3;

fn ready(bed: &Bed) -> (Pool, Live) {
    hush_wanted_panics();
    let puppets = Puppets::new(bed.executor());
    let tasks = puppets.tasks();
    let pool = pool(puppets, 1, WORKERS, 1024);
    bed.watch(Peek(pool.downgrade()));
    (pool, tasks)
}

async fn ends_well(pool: Pool, tasks: Live) -> Outcomes {
    assert_eq!(tasks.count(), 1 + WORKERS, "a future of the pool has ended");
    // All the workers at once.
    let door = Door::closed();
    let tickets: Vec<_> = (0..WORKERS as u64)
        .map(|id| pool.try_submit(Job::at(1_000 + id, &door)).unwrap())
        .collect();
    until(|| door.arrived() == WORKERS as u64).await;
    door.open();
    for ticket in tickets {
        ticket.await.unwrap();
    }
    let outcomes = pool.drain().await.unwrap();
    assert_eq!(assert_quiet(&pool), outcomes);
    until(|| tasks.count() == 0).await;
    outcomes
}

async fn g07_trap08_under_load_panics_end_their_commands_alone(bed: Bed) {
    let (pool, tasks) = ready(&bed);
    let submitters: Vec<_> = (0..4)
        .map(|me| {
            let pool = pool.clone();
            bed.spawn(async move {
                let mut tickets = Vec::new();
                for n in 0..1_000_u64 {
                    let bad = fastrand::u8(..5) == 0;
                    let job = Job::new(n * 4 % 40 + me, move |_| async move {
                        yield_at_random().await;
                        assert!(!bad, "wanted panic: {n}");
                        yield_at_random().await;
                        Ok(n)
                    });
                    tickets.push((n, bad, pool.submit(job).await.unwrap()));
                }
                let mut bad_ones = 0;
                for (n, bad, ticket) in tickets {
                    match ticket.await {
                        Ok(receipt) => assert_eq!((receipt.output, bad), (n, false)),
                        ended => {
                            assert!(bad);
                            bad_ones += 1;
                            panicked(ended, &n.to_string(), true);
                        }
                    }
                }
                bad_ones
            })
        })
        .collect();
    let mut bad_ones = 0;
    for submitter in submitters {
        bad_ones += submitter.await;
    }
    let outcomes = ends_well(pool, tasks).await;
    assert!(bad_ones > 0);
    assert_eq!(outcomes.panicked, bad_ones);
    assert_eq!(outcomes.committed, 4_000 - bad_ones + WORKERS as u64);
}

/// One bad command between good ones of its aggregate and of others.
async fn one_bad(bed: &Bed, why: &str, was_started: bool, bad: impl Fn() -> Job) {
    let (pool, tasks) = ready(bed);
    for _ in 0..3 * WORKERS {
        let before = pool.submit(Job::plain(1)).await.unwrap();
        let bad = pool.submit(bad()).await.unwrap();
        let after = pool.submit(Job::plain(1)).await.unwrap();
        let other = pool.submit(Job::plain(2)).await.unwrap();
        let version = before.await.unwrap().version;
        panicked(bad.await, why, was_started);
        assert_eq!(after.await.unwrap().version, version + 1, "a panic has used a version");
        other.await.unwrap();
    }
    assert_eq!(ends_well(pool, tasks).await.panicked, 3 * WORKERS as u64);
}

async fn g07_a_panic_of_a_handler_before_its_first_await_is_contained(bed: Bed) {
    one_bad(&bed, "at once", true, || {
        Job::new(1, |_| async { panic!("wanted panic: {}", "at once") })
    })
    .await;
}

async fn g07_a_panic_of_a_handler_after_an_await_is_contained(bed: Bed) {
    one_bad(&bed, "later", true, || {
        Job::new(1, |_| async {
            yield_now().await;
            panic!("wanted panic: later")
        })
    })
    .await;
}

async fn g07_a_panic_of_a_handler_before_it_has_a_future_is_contained(bed: Bed) {
    /// Panics in `handle` itself, which returns no future then.
    struct Hasty;
    impl CommandHandler for Hasty {
        type Command = Job;
        type State = ();
        type Output = u64;
        type Error = Error;
        fn handle(
            &self,
            _: &mut (),
            job: Job,
            _: &Context,
        ) -> impl Future<Output = Handled> + Send {
            assert!(job.number != 1, "wanted panic: no future");
            std::future::ready(Ok(0))
        }
    }
    hush_wanted_panics();
    let pool =
        ShardPool::builder(Hasty).shards(1).workers_per_shard(1).start(bed.executor()).unwrap();
    bed.watch(Peek(pool.downgrade()));
    let bad = pool.try_submit(Job::plain(1).number(1)).unwrap();
    let after = pool.try_submit(Job::plain(1)).unwrap();
    panicked(bad.await, "no future", true);
    after.await.unwrap();
    assert_eq!(pool.drain().await.unwrap().panicked, 1);
}

/// A store that can be told to panic.
fn store(bad: &Arc<AtomicU64>, late: bool) -> impl Fn(u64) -> LoadFuture + Send + Sync + 'static {
    let bad = Arc::clone(bad);
    move |_| {
        let bad = Arc::clone(&bad);
        Box::pin(async move {
            if late {
                yield_now().await;
            }
            let left = bad.fetch_sub(1, Ordering::SeqCst);
            assert!(left <= 1, "wanted panic: of the loader");
            bad.store(1, Ordering::SeqCst);
            Ok(Loaded::new((), 10))
        })
    }
}

type LoadFuture = Pin<Box<dyn Future<Output = Result<Loaded<()>, Error>> + Send>>;

async fn g07_a_panic_of_a_loader_is_contained_and_the_next_command_loads_again(bed: Bed) {
    hush_wanted_panics();
    for late in [false, true] {
        // Counts down to 1: the first two loads panic.
        let bad = Arc::new(AtomicU64::new(3));
        let pool: Pool = ShardPool::builder(Script::new())
            .loader(loader_fn(store(&bad, late)))
            .shards(1)
            .workers_per_shard(WORKERS)
            .start(bed.executor())
            .unwrap();
        bed.watch(Peek(pool.downgrade()));
        let tickets: Vec<_> = (0..4).map(|_| pool.try_submit(Job::plain(1)).unwrap()).collect();
        for (n, ticket) in tickets.into_iter().enumerate() {
            if n < 2 {
                panicked(ticket.await, "of the loader", false);
            } else {
                assert_eq!(ticket.await.unwrap().version, 9 + n as u64);
            }
        }
        pool.send(Job::plain(2)).await.unwrap();
        assert_eq!(pool.drain().await.unwrap().panicked, 2);
    }
}

/// Adds to its state, and then may panic.
struct Adding;

struct Add {
    id: u64,
    then: Then,
}

#[derive(Clone, Copy, PartialEq)]
enum Then {
    Commit,
    Panic,
}

impl Command for Add {
    type AggregateId = u64;
    fn aggregate_id(&self) -> &u64 {
        &self.id
    }
}

impl CommandHandler for Adding {
    type Command = Add;
    type State = u64;
    type Output = u64;
    type Error = Error;
    async fn handle(&self, sum: &mut u64, add: Add, _: &Context) -> Handled {
        *sum += 1;
        yield_at_random().await;
        assert!(add.then != Then::Panic, "wanted panic: half done");
        Ok(*sum)
    }
}

async fn g07_a_panicked_state_is_discarded_and_loaded_again(bed: Bed) {
    hush_wanted_panics();
    let loads = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&loads);
    let pool = ShardPool::builder(Adding)
        .loader(loader_fn(move |id: u64| {
            // Each load of an aggregate can be told from the last.
            let load = count.fetch_add(1, Ordering::SeqCst);
            async move { Ok(Loaded::new(1_000 * (load + 1), 50 + id)) }
        }))
        .shards(1)
        .workers_per_shard(WORKERS)
        .start(bed.executor())
        .unwrap();
    bed.watch(Peek(pool.downgrade()));
    let run = |then| pool.try_submit(Add { id: 1, then }).unwrap();
    let (a, bad, b, c) =
        (run(Then::Commit), run(Then::Panic), run(Then::Commit), run(Then::Commit));
    let a = a.await.unwrap();
    assert_eq!((a.version, a.output), (52, 1_001));
    panicked(bad.await, "half done", true);
    let (b, c) = (b.await.unwrap(), c.await.unwrap());
    assert_eq!((b.version, b.output), (52, 2_001), "the state of before the panic is there");
    assert_eq!((c.version, c.output), (53, 2_002), "loaded once too often");
    assert_eq!(loads.load(Ordering::SeqCst), 2);
}

async fn g07_without_a_loader_a_panicked_state_starts_anew_and_the_version_stays(bed: Bed) {
    hush_wanted_panics();
    let pool = ShardPool::builder(Adding)
        .shards(1)
        .workers_per_shard(WORKERS)
        .start(bed.executor())
        .unwrap();
    bed.watch(Peek(pool.downgrade()));
    for round in 0..20 {
        let run = |then| pool.try_submit(Add { id: 1, then }).unwrap();
        let (a, b, bad, c) =
            (run(Then::Commit), run(Then::Commit), run(Then::Panic), run(Then::Commit));
        a.await.unwrap();
        assert_eq!(b.await.unwrap().version, 3 * round + 2);
        panicked(bad.await, "half done", true);
        let c = c.await.unwrap();
        assert_eq!((c.version, c.output), (3 * round + 3, 1));
    }
}

async fn g07_a_panic_that_carries_no_text_is_contained(bed: Bed) {
    let (pool, tasks) = ready(&bed);
    let job = Job::new(1, |_| async { std::panic::resume_unwind(Box::new(Bomb("the payload"))) });
    let ended = pool.send(job).await.unwrap_err();
    assert!(ended.started());
    pool.send(Job::plain(1)).await.unwrap();
    assert_eq!(ends_well(pool, tasks).await.panicked, 1);
}

/// A command whose destructor panics.
fn bomb_job(id: u64) -> Job {
    let bomb = Bomb("a command");
    Job::new(id, |_| async move {
        // Dropped within the handler, at its end.
        let _bomb = bomb;
        Ok(0)
    })
}

async fn g07_a_destructor_of_a_command_is_contained_wherever_it_ends(bed: Bed) {
    let (pool, tasks) = ready(&bed);
    // In the handler.
    panicked(pool.try_submit(bomb_job(1)).unwrap().await, "a command", true);
    // Withdrawn: nobody is told, and the command ends as what it is.
    let door = Door::closed();
    let blocked: Vec<_> =
        (0..WORKERS as u64).map(|id| pool.try_submit(Job::at(id, &door)).unwrap()).collect();
    until(|| door.arrived() == WORKERS as u64).await;
    let withdrawn: Vec<_> = (0..30).map(|n| pool.try_submit(bomb_job(n % 6)).unwrap()).collect();
    for ticket in &withdrawn {
        assert!(ticket.withdraw());
    }
    door.open();
    for ticket in blocked {
        ticket.await.unwrap();
    }
    drop(withdrawn);
    let outcomes = ends_well(pool, tasks).await;
    assert_eq!((outcomes.panicked, outcomes.cancelled), (1, 30));

    // Aborted.
    let (pool, tasks) = ready(&bed);
    let door = Door::closed();
    let blocked = pool.try_submit(Job::at(1, &door)).unwrap();
    until(|| door.arrived() == 1).await;
    let aborted: Vec<_> = (0..30).map(|_| pool.try_submit(bomb_job(1)).unwrap()).collect();
    let end = pool.abort();
    for ticket in aborted {
        assert_eq!(ticket.await.unwrap_err(), CommandError::Aborted { started: false });
    }
    door.open();
    blocked.await.unwrap();
    assert_eq!(end.await.unwrap().aborted, 30);
    until(|| tasks.count() == 0).await;
}

/// Its state panics when it is dropped.
struct Fragile;

#[derive(Default)]
struct FragileState(Option<Bomb>);

impl CommandHandler for Fragile {
    type Command = Job;
    type State = FragileState;
    type Output = u64;
    type Error = Error;
    async fn handle(&self, state: &mut FragileState, job: Job, _: &Context) -> Handled {
        state.0.get_or_insert_with(|| Bomb("a state"));
        yield_at_random().await;
        match job.number {
            0 => Ok(0),
            1 => Err(Failure::Failed(Error("disk"))),
            _ => panic!("wanted panic: of the handler"),
        }
    }
}

async fn g07_a_destructor_of_a_state_is_contained(bed: Bed) {
    hush_wanted_panics();
    let puppets = Puppets::new(bed.executor());
    let tasks = puppets.tasks();
    let pool =
        ShardPool::builder(Fragile).shards(1).workers_per_shard(WORKERS).start(puppets).unwrap();
    bed.watch(Peek(pool.downgrade()));
    for _ in 0..5 {
        let tickets: Vec<_> =
            (0..30).map(|n| pool.try_submit(Job::plain(n % 5).number(n % 3)).unwrap()).collect();
        for (n, ticket) in tickets.into_iter().enumerate() {
            match n % 3 {
                0 => drop(ticket.await.unwrap()),
                1 => assert_eq!(
                    ticket.await.unwrap_err(),
                    CommandError::Failed { error: Error("disk"), started: true }
                ),
                _ => panicked(ticket.await, "of the handler", true),
            }
        }
    }
    assert_eq!(tasks.count(), 1 + WORKERS);
    // What is resident now goes with the pool.
    let outcomes = pool.drain().await.unwrap();
    assert_eq!((outcomes.committed, outcomes.failed, outcomes.panicked), (50, 50, 50));
    until(|| tasks.count() == 0).await;
}

async fn g07_a_destructor_of_a_state_is_contained_at_an_eviction(bed: Bed) {
    hush_wanted_panics();
    let puppets = Puppets::new(bed.executor());
    let tasks = puppets.tasks();
    let pool = ShardPool::builder(Fragile)
        .loader(loader_fn(|_: u64| async { Ok(Loaded::new(FragileState::default(), 0)) }))
        .max_resident(2)
        .shards(1)
        .workers_per_shard(WORKERS)
        .start(puppets)
        .unwrap();
    bed.watch(Peek(pool.downgrade()));
    let tickets: Vec<_> = (0..300).map(|n| pool.try_submit(Job::plain(n % 30)).unwrap()).collect();
    for ticket in tickets {
        ticket.await.unwrap();
    }
    until(|| pool.stats()[0].resident <= 2).await;
    assert_eq!(tasks.count(), 1 + WORKERS);
    assert_eq!(pool.drain().await.unwrap().committed, 300);
    until(|| tasks.count() == 0).await;
}

/// Its outputs and errors panic when they are dropped.
struct Returning;

impl CommandHandler for Returning {
    type Command = Job;
    type State = ();
    type Output = Bomb;
    type Error = Bomb;
    async fn handle(&self, _: &mut (), job: Job, _: &Context) -> Result<Bomb, Failure<Bomb>> {
        yield_at_random().await;
        match job.number {
            0 => Ok(Bomb("an output")),
            1 => Err(Failure::Rejected(Bomb("a rejection"))),
            _ => Err(Failure::Failed(Bomb("a failure"))),
        }
    }
}

async fn g07_a_destructor_of_an_output_or_an_error_is_contained(bed: Bed) {
    hush_wanted_panics();
    let puppets = Puppets::new(bed.executor());
    let tasks = puppets.tasks();
    let pool =
        ShardPool::builder(Returning).shards(1).workers_per_shard(WORKERS).start(puppets).unwrap();
    bed.watch(Peek(pool.downgrade()));
    for n in 0..300 {
        // Whether the pool drops it or the ticket does, it is dropped there.
        drop(pool.submit(Job::plain(n % 5).number(n % 3)).await.unwrap());
    }
    until(|| pool.stats()[0].outcomes.total() == 300).await;
    assert_eq!(tasks.count(), 1 + WORKERS);
    let outcomes = pool.drain().await.unwrap();
    assert_eq!((outcomes.committed, outcomes.rejected, outcomes.failed), (100, 100, 100));
    until(|| tasks.count() == 0).await;
}

/// A future whose destructor panics, after it has given its result.
struct BadFuture {
    number: u64,
    _bomb: Option<Bomb>,
}

impl Future for BadFuture {
    type Output = Handled;
    fn poll(self: Pin<&mut Self>, _: &mut std::task::Context<'_>) -> Poll<Handled> {
        Poll::Ready(Ok(self.number))
    }
}

async fn g07_a_destructor_of_a_handlers_future_ends_its_command(bed: Bed) {
    struct Handler;
    impl CommandHandler for Handler {
        type Command = Job;
        type State = ();
        type Output = u64;
        type Error = Error;
        fn handle(
            &self,
            _: &mut (),
            job: Job,
            _: &Context,
        ) -> impl Future<Output = Handled> + Send {
            let _bomb = (job.number == 1).then(|| Bomb("a future"));
            BadFuture { number: job.number, _bomb }
        }
    }
    hush_wanted_panics();
    let puppets = Puppets::new(bed.executor());
    let tasks = puppets.tasks();
    let pool =
        ShardPool::builder(Handler).shards(1).workers_per_shard(WORKERS).start(puppets).unwrap();
    bed.watch(Peek(pool.downgrade()));
    let tickets: Vec<_> =
        (0..60).map(|n| pool.try_submit(Job::plain(n % 7).number(n % 2)).unwrap()).collect();
    for (n, ticket) in tickets.into_iter().enumerate() {
        if n % 2 == 1 {
            panicked(ticket.await, "a future", true);
        } else {
            assert_eq!(ticket.await.unwrap().output, 0);
        }
    }
    assert_eq!(tasks.count(), 1 + WORKERS);
    assert_eq!(pool.drain().await.unwrap().panicked, 30);
}

/// Polled by hand: a panic in one of the pool's futures would be this test's.
#[test]
fn g07_a_destructor_of_a_handler_does_not_unwind_into_the_executor() {
    hush_wanted_panics();
    let live = Live::default();
    let (one, bomb) = (live.one(), Bomb("a handler"));
    let handler = handler_fn(move |_: &mut (), _: Touch, _: &Context| {
        let _held = (&one, &bomb);
        Ok::<_, Failure<()>>(())
    });
    let executor = ByHand::default();
    let pool = ShardPool::builder(handler).shards(1).workers_per_shard(1).start(executor.clone());
    let mut ticket = pool.unwrap().try_submit(Touch).unwrap();
    let mut tasks = executor.tasks();
    for _ in 0..20 {
        tasks.retain_mut(|task| poll_once(task, Waker::noop()).is_pending());
    }
    assert!(tasks.is_empty() && poll_once(&mut ticket, Waker::noop()).is_ready());
    assert_eq!(live.count(), 0, "the handler is still there");
}

async fn g07_a_destructor_in_a_dropped_worker_strands_no_ticket(bed: Bed) {
    hush_wanted_panics();
    let puppets = Puppets::new(bed.executor());
    let (killer, tasks) = (puppets.killer(), puppets.tasks());
    let pool = pool(puppets, 1, 1, 64);
    bed.watch(Peek(pool.downgrade()));
    let door = Door::closed();
    let of_handler = door.clone();
    let running = Job::new(1, |_| async move {
        let _bomb = Bomb("a local of a handler");
        of_handler.pass().await;
        Ok(0)
    });
    let running = pool.try_submit(running).unwrap();
    until(|| door.arrived() == 1).await;
    let queued: Vec<_> = (0..20).map(|n| pool.try_submit(bomb_job(n % 3)).unwrap()).collect();
    killer.kill(1);
    assert_eq!(running.await.unwrap_err(), CommandError::Aborted { started: true });
    for ticket in queued {
        assert_eq!(ticket.await.unwrap_err(), CommandError::Aborted { started: false });
    }
    assert_eq!(pool.drain().await.unwrap().aborted, 21);
    until(|| tasks.count() == 0).await;
}

/// An id whose traits can be told to panic. All of them share one hash.
#[derive(Debug)]
struct BadId {
    name: u64,
    hash: bool,
    eq: bool,
    clone: bool,
}

impl BadId {
    const fn good(name: u64) -> Self {
        Self { name, hash: false, eq: false, clone: false }
    }
}

impl Hash for BadId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        assert!(!self.hash, "wanted panic: of the hash");
        1.hash(state);
    }
}

impl PartialEq for BadId {
    fn eq(&self, other: &Self) -> bool {
        assert!(!self.eq && !other.eq, "wanted panic: of the eq");
        self.name == other.name
    }
}

impl Eq for BadId {}

impl Clone for BadId {
    fn clone(&self) -> Self {
        assert!(!self.clone, "wanted panic: of the clone");
        Self { ..*self }
    }
}

/// A pool over such ids that has met three of them.
async fn bad_ids(bed: &Bed) -> (Pool<BadId>, Live) {
    hush_wanted_panics();
    let puppets = Puppets::new(bed.executor());
    let tasks = puppets.tasks();
    let pool = ShardPool::builder(Script::new())
        .shards(1)
        .workers_per_shard(WORKERS)
        .start(puppets)
        .unwrap();
    bed.watch(Peek(pool.downgrade()));
    for name in 0..3 {
        pool.send(Job::plain(BadId::good(name))).await.unwrap();
    }
    (pool, tasks)
}

async fn one_bad_id(bed: &Bed, why: &str, bad: fn() -> BadId) {
    let (pool, tasks) = bad_ids(bed).await;
    for round in 0..20 {
        let before = pool.try_submit(Job::plain(BadId::good(0))).unwrap();
        let bad = pool.try_submit(Job::plain(bad())).unwrap();
        let after = pool.try_submit(Job::plain(BadId::good(0))).unwrap();
        assert_eq!(before.await.unwrap().version, 2 + 2 * round);
        panicked(bad.await, why, false);
        assert_eq!(after.await.unwrap().version, 3 + 2 * round);
    }
    assert_eq!(tasks.count(), 1 + WORKERS);
    let outcomes = pool.drain().await.unwrap();
    assert_eq!((outcomes.committed, outcomes.panicked), (43, 20));
    assert_quiet(&pool);
}

async fn g07_a_hash_that_panics_refuses_and_gives_the_command_back(bed: Bed) {
    let (pool, tasks) = bad_ids(&bed).await;
    let bad = || Job::plain(BadId { hash: true, ..BadId::good(7) }).number(9);
    match pool.try_submit(bad()) {
        Err(TrySubmitError::Panicked { command, message }) => {
            assert_eq!((command.number, message.as_str()), (9, "wanted panic: of the hash"));
        }
        other => panic!("{other:?}"),
    }
    match pool.submit(bad()).await {
        Err(SubmitError::Panicked { command, message }) => {
            assert_eq!((command.number, message.as_str()), (9, "wanted panic: of the hash"));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(pool.send(bad()).await.unwrap_err().into_command().unwrap().number, 9);
    pool.send(Job::plain(BadId::good(0))).await.unwrap();
    assert_eq!(tasks.count(), 1 + WORKERS);
    assert_eq!(pool.drain().await.unwrap().total(), 4, "what was refused has an outcome");
}

async fn g07_an_eq_that_panics_ends_its_command_alone(bed: Bed) {
    one_bad_id(&bed, "of the eq", || BadId { eq: true, ..BadId::good(0) }).await;
}

async fn g07_a_clone_that_panics_ends_its_command_alone(bed: Bed) {
    one_bad_id(&bed, "of the clone", || BadId { clone: true, ..BadId::good(77) }).await;
}

async fn g07_a_waker_that_panics_costs_nobody_else_anything(bed: Bed) {
    let (pool, tasks) = ready(&bed);
    let bad = Waker::from(Arc::new(WakeWith(|| panic!("wanted panic: of a waker"))));
    let door = Door::closed();
    let mut tickets: Vec<_> =
        (0..40).map(|n| pool.try_submit(Job::at(n % 6, &door)).unwrap()).collect();
    for ticket in tickets.iter_mut().step_by(2) {
        assert!(poll_once(ticket, &bad).is_pending());
    }
    // By a withdrawal,
    until(|| door.arrived() == WORKERS as u64).await;
    let mut withdrawn = pool.try_submit(Job::plain(1)).unwrap();
    assert!(poll_once(&mut withdrawn, &bad).is_pending());
    assert!(withdrawn.withdraw());
    assert_eq!(withdrawn.await.unwrap_err(), CommandError::Cancelled);
    // by an outcome,
    door.open();
    for ticket in tickets {
        ticket.await.unwrap();
    }
    // and by the end.
    let mut ends = [pool.drain(), pool.drain(), pool.drain()];
    let outcomes = {
        let (first, rest) = ends.split_first_mut().unwrap();
        let _ = poll_once(first, &bad);
        let _ = poll_once(&mut rest[0], &bad);
        (&mut rest[1]).await.unwrap()
    };
    assert_eq!((outcomes.committed, outcomes.cancelled), (40, 1));
    until(|| tasks.count() == 0).await;
}

async fn g07_a_waker_that_calls_the_pool_does_not_hang(bed: Bed) {
    let (pool, tasks) = ready(&bed);
    let door = Door::closed();
    let mut tickets: Vec<_> =
        (0..40).map(|n| pool.try_submit(Job::at(n % 6, &door)).unwrap()).collect();
    let woken = Arc::new(AtomicU64::new(0));
    for (n, ticket) in tickets.iter_mut().enumerate() {
        let (pool, woken) = (pool.downgrade(), Arc::clone(&woken));
        // Wakes run in the middle of whoever ends the command.
        let waker = Waker::from(Arc::new(WakeWith(move || {
            if let Some(pool) = pool.upgrade() {
                let ticket = pool.try_submit(Job::plain(n as u64 % 6)).unwrap();
                let mut own = pool.submit(Job::plain(7));
                let _ = poll_once(&mut own, Waker::noop());
                ticket.withdraw();
                drop((ticket, own));
                pool.stats();
            }
            woken.fetch_add(1, Ordering::SeqCst);
        })));
        assert!(poll_once(ticket, &waker).is_pending());
    }
    door.open();
    until(|| woken.load(Ordering::SeqCst) == 40).await;
    for ticket in tickets {
        ticket.await.unwrap();
    }
    assert_eq!(ends_well(pool, tasks).await.total(), 120 + WORKERS as u64);
}

async fn g07_a_hook_that_panics_ends_its_command_alone(bed: Bed) {
    hush_wanted_panics();
    let puppets = Puppets::new(bed.executor());
    let tasks = puppets.tasks();
    let seen = AtomicU64::new(0);
    let ran = Flag::default();
    let pool: Pool = ShardPool::builder(Script::new())
        .shards(1)
        .workers_per_shard(WORKERS)
        .on_dispatched(move |_| {
            let n = seen.fetch_add(1, Ordering::SeqCst);
            assert!(n % 3 != 1, "wanted panic: of the hook");
        })
        .start(puppets)
        .unwrap();
    bed.watch(Peek(pool.downgrade()));
    for round in 0..20 {
        let mark = ran.clone();
        let bad = Job::new(1, |_| async move {
            mark.set();
            Ok(0)
        });
        let first = pool.submit(Job::plain(1)).await.unwrap();
        let bad = pool.submit(bad).await.unwrap();
        let last = pool.submit(Job::plain(1)).await.unwrap();
        assert_eq!(first.await.unwrap().version, 2 * round + 1);
        panicked(bad.await, "of the hook", false);
        assert_eq!(last.await.unwrap().version, 2 * round + 2);
    }
    assert!(!ran.is_set());
    assert_eq!(tasks.count(), 1 + WORKERS);
    assert_eq!(pool.drain().await.unwrap().panicked, 20);
    until(|| tasks.count() == 0).await;
}

thread_local! {
    /// Whether ids that are `Touchy` panic when they are compared.
    static TOUCHY: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

#[derive(Debug, Clone)]
struct Touchy(u64);

impl Hash for Touchy {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.0.hash(hasher);
    }
}

impl PartialEq for Touchy {
    fn eq(&self, other: &Self) -> bool {
        assert!(!TOUCHY.get(), "{WANTED}: an id is compared");
        self.0 == other.0
    }
}

impl Eq for Touchy {}

#[test]
fn g07_an_eq_that_panics_in_a_judgement_of_waits_costs_no_shard() {
    hush_wanted_panics();
    let executor = ByHand::default();
    let builder = ShardPool::builder(Script::<Touchy>::new()).shards(1).workers_per_shard(2);
    let pool = builder.queue_depth(1).start(executor.clone()).unwrap();
    let mut tasks = executor.tasks();
    let mut settle = || {
        for _ in 0..20 {
            for task in &mut tasks {
                let _ = poll_once(task, Waker::noop());
            }
        }
    };
    let (first, go) = (Door::closed(), Door::closed());
    let holds = pool.try_submit(Job::at(Touchy(1), &first)).unwrap();
    settle();
    let (inner, door) = (pool.clone(), go.clone());
    let job = Job::new(Touchy(2), |_| async move {
        door.pass().await;
        let sent = inner.send(Job::plain(Touchy(3))).await;
        Ok(u64::from(sent.is_ok()))
    });
    let waits = pool.try_submit(job).unwrap();
    settle();
    // Behind the first: the shard is full, and the other waits for room.
    let behind = pool.try_submit(Job::plain(Touchy(1))).unwrap();
    settle();
    go.open();
    settle();
    assert_eq!(pool.stats()[0].waiting, 1);
    // One more that waits has the dispatcher judge.
    TOUCHY.set(true);
    let mut bystander = Box::pin(pool.submit(Job::plain(Touchy(4))));
    assert!(poll_once(&mut bystander, Waker::noop()).is_pending());
    settle();
    TOUCHY.set(false);
    assert!(!pool.stats()[0].closed, "the shard is closed");
    first.open();
    settle();
    for mut ticket in [holds, waits, behind] {
        let Poll::Ready(outcome) = poll_once(&mut ticket, Waker::noop()) else {
            panic!("no outcome: {:?}", pool.stats())
        };
        outcome.unwrap();
    }
}

/// An id that panics when it is cloned, once it is told to.
#[derive(Debug)]
struct Loath(u64, Flag);

impl Hash for Loath {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.0.hash(hasher);
    }
}

impl PartialEq for Loath {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl Eq for Loath {}

impl Clone for Loath {
    fn clone(&self) -> Self {
        assert!(!self.1.is_set(), "{WANTED}: an id is cloned");
        Self(self.0, self.1.clone())
    }
}

#[test]
fn g07_a_clone_that_panics_when_a_handler_waits_refuses_the_wait_and_loses_no_command() {
    run(On::Threads, |bed| async move {
        hush_wanted_panics();
        let builder = ShardPool::builder(Script::<Loath>::new()).shards(1).workers_per_shard(2);
        let pool = builder.start(bed.executor()).unwrap();
        bed.watch(Peek(pool.downgrade()));
        let (inner, told) = (pool.downgrade(), Flag::default());
        let tell = told.clone();
        let outer = Job::new(Loath(1, told), move |_| async move {
            let pool = inner.upgrade().unwrap();
            tell.set();
            let job = Job::plain(Loath(2, Flag::default())).number(9);
            let refused = pool.send(job).await.unwrap_err();
            let command = refused.into_command().expect("it comes back");
            Ok(command.number)
        });
        assert_eq!(pool.send(outer).await.unwrap().output, 9);
    });
}

#[test]
fn g07_a_destructor_of_a_waker_costs_no_wake_up_of_who_waits_for_room() {
    hush_wanted_panics();
    let mut shard = Shard::new(1, 1);
    let first = shard.submit(1);
    let pool = shard.pool.clone();
    let (mut waits, woken) = (pool.submit(Job::plain(2)), Flag::default());
    assert!(poll_once(&mut waits, &loud_waker()).is_pending());
    assert!(poll_once(&mut waits, &Waker::from(Arc::new(woken.clone()))).is_pending());
    shard.run(first).unwrap();
    shard.settle();
    assert!(woken.is_set());
    assert!(poll_once(&mut waits, Waker::noop()).is_ready());
}

#[test]
fn g07_a_destructor_of_a_waker_costs_no_wake_up_of_a_drain() {
    run(On::Threads, |bed| async move {
        hush_wanted_panics();
        let (pool, door) = (pool(bed.executor(), 1, 1, 8), Door::closed());
        let ticket = pool.submit(Job::at(1, &door)).await.unwrap();
        let mut drain = pool.drain();
        assert!(poll_once(&mut drain, &loud_waker()).is_pending());
        let woken = Flag::default();
        assert!(poll_once(&mut drain, &Waker::from(Arc::new(woken.clone()))).is_pending());
        door.open();
        ticket.await.unwrap();
        until(|| woken.is_set()).await;
    });
}
