//! The last handle goes: accepted commands finish, every task ends, and nothing leaks (G17).

use crate::by_hand::{ByHand, Shard};
use crate::harness::{Bed, Door, load, suite, until, yield_at_random, yield_now};
use crate::tools::{
    Alive, Flag, Job, Live, Peek, Puppets, Script, Ticket, WakeWith, assert_quiet,
    hush_wanted_panics, poll_once, pool,
};
use shardpool::{
    Command, CommandError, CommandHandler, Context, Failure, Loaded, ShardPool, loader_fn,
};
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex, OnceLock};
use std::task::Waker;
use std::time::Duration;

suite!(
    g17_after_the_last_handle_accepted_commands_finish_and_every_task_ends,
    g17_an_idle_pool_ends_with_its_last_handle,
    g17_one_handle_of_many_keeps_the_pool_open,
    g17_the_last_handle_can_go_inside_a_handler,
    g17_the_last_handle_can_be_one_that_a_handler_upgraded,
    g17_a_weak_handle_upgrades_until_the_last_handle_goes,
    g17_a_weak_handle_and_a_drain_keep_no_pool_open,
    g17_tickets_outlive_the_pool,
    g17_nothing_leaks,
    g17_no_task_owns_the_executor,
);

async fn g17_after_the_last_handle_accepted_commands_finish_and_every_task_ends(bed: Bed) {
    let puppets = Puppets::new(bed.executor());
    let tasks = puppets.tasks();
    let pool = pool(puppets, 2, 2, 512);
    bed.watch(Peek(pool.downgrade()));
    assert_eq!(tasks.count(), 2 * (1 + 2));
    let door = Door::closed();
    // All of them run or wait behind one that runs when the handle goes.
    let tickets: Vec<_> =
        (0..400).map(|n| pool.try_submit(Job::at(n % 40, &door)).unwrap()).collect();
    until(|| door.arrived() == 4).await;
    drop(pool);
    door.open();
    for ticket in tickets {
        ticket.await.unwrap();
    }
    until(|| tasks.count() == 0).await;
}

async fn g17_an_idle_pool_ends_with_its_last_handle(bed: Bed) {
    for round in 0..16 {
        let puppets = Puppets::new(bed.executor());
        let tasks = puppets.tasks();
        let pool = pool(puppets, 2, 2, 8);
        for id in 0..round % 4 {
            pool.send(Job::plain(id)).await.unwrap();
        }
        // Most often long enough for its futures to fall asleep.
        for _ in 0..20 * round {
            yield_now().await;
            std::thread::yield_now();
        }
        drop(pool);
        until(|| tasks.count() == 0).await;
    }
}

async fn g17_one_handle_of_many_keeps_the_pool_open(bed: Bed) {
    let pool = pool(bed.executor(), 2, 1, 8);
    bed.watch(Peek(pool.downgrade()));
    let mut handles = vec![pool.clone(), pool.clone()];
    handles.push(pool);
    while let Some(handle) = handles.pop() {
        handle.send(Job::plain(1)).await.unwrap();
        assert!(!handle.is_closed());
    }
}

async fn g17_the_last_handle_can_go_inside_a_handler(bed: Bed) {
    for _ in 0..20 {
        let puppets = Puppets::new(bed.executor());
        let tasks = puppets.tasks();
        let pool = pool(puppets, 2, 2, 8);
        bed.watch(Peek(pool.downgrade()));
        let door = Door::closed();
        let (inner, of_job) = (pool.clone(), door.clone());
        let last = Job::new(0, move |_| async move {
            of_job.pass().await;
            drop(inner);
            yield_at_random().await;
            Ok(0)
        });
        let last = pool.try_submit(last).unwrap();
        until(|| door.arrived() == 1).await;
        let behind = pool.try_submit(Job::plain(0)).unwrap();
        drop(pool);
        door.open();
        last.await.unwrap();
        behind.await.unwrap();
        until(|| tasks.count() == 0).await;
    }
}

async fn g17_the_last_handle_can_be_one_that_a_handler_upgraded(bed: Bed) {
    let puppets = Puppets::new(bed.executor());
    let tasks = puppets.tasks();
    let pool = pool(puppets, 1, 2, 8);
    bed.watch(Peek(pool.downgrade()));
    let (weak, door) = (pool.downgrade(), Door::closed());
    let of_job = door.clone();
    let upgrades = Job::new(0, move |_| async move {
        let pool = weak.upgrade().expect("a handle lives");
        of_job.pass().await;
        // Open: this handle is as good as any.
        match pool.send(Job::plain(1)).await {
            Ok(receipt) => Ok(receipt.version),
            Err(error) => panic!("{error:?}"),
        }
    });
    let upgrades = pool.try_submit(upgrades).unwrap();
    until(|| door.arrived() == 1).await;
    drop(pool);
    door.open();
    assert_eq!(upgrades.await.unwrap().output, 1);
    until(|| tasks.count() == 0).await;
}

async fn g17_a_weak_handle_upgrades_until_the_last_handle_goes(bed: Bed) {
    let pool = pool(bed.executor(), 1, 1, 8);
    bed.watch(Peek(pool.downgrade()));
    let weak = pool.downgrade();
    let of_job = weak.clone();
    let (door, gone) = (Door::closed(), Flag::default());
    let (inner_door, inner_gone) = (door.clone(), gone.clone());
    let looks = Job::new(0, move |_| async move {
        inner_door.pass().await;
        if of_job.upgrade().is_none() {
            inner_gone.set();
        }
        Ok(0)
    });
    let looks = pool.try_submit(looks).unwrap();
    until(|| door.arrived() == 1).await;
    let other = weak.upgrade().expect("a handle lives");
    drop(pool);
    assert!(weak.upgrade().is_some(), "a handle lives");
    drop(other);
    assert!(weak.upgrade().is_none(), "no handle lives");
    // Its command still runs, and the handler is told the same.
    door.open();
    looks.await.unwrap();
    assert!(gone.is_set());
}

async fn g17_a_weak_handle_and_a_drain_keep_no_pool_open(bed: Bed) {
    let puppets = Puppets::new(bed.executor());
    let tasks = puppets.tasks();
    let pool = pool(puppets, 2, 2, 8);
    bed.watch(Peek(pool.downgrade()));
    let weak = pool.downgrade();
    let ticket = pool.submit(Job::plain(0)).await.unwrap();
    let drain = pool.drain();
    drop(pool);
    until(|| tasks.count() == 0).await;
    assert_eq!(drain.await.unwrap().committed, 1);
    assert!(weak.upgrade().is_none());
    ticket.await.unwrap();
}

async fn g17_tickets_outlive_the_pool(bed: Bed) {
    let puppets = Puppets::new(bed.executor());
    let tasks = puppets.tasks();
    let pool = pool(puppets, 2, 2, 128);
    bed.watch(Peek(pool.downgrade()));
    let tickets: Vec<Ticket> = (0..100)
        .map(|n| pool.try_submit(Job::new(n % 9, move |_| async move { Ok(n) })).unwrap())
        .collect();
    drop(pool);
    until(|| tasks.count() == 0).await;
    for (n, ticket) in (0..).zip(tickets) {
        assert!(ticket.is_finished());
        assert!(!ticket.withdraw());
        if n % 2 == 0 {
            assert_eq!(ticket.await.unwrap().output, n);
        }
    }
}

/// Everything of the user's that a pool holds, counted.
#[derive(Clone, Default)]
struct Census {
    ids: Live,
    commands: Live,
    states: Live,
    outputs: Live,
    errors: Live,
    /// Handler and loader.
    parts: Live,
    hooks: Live,
}

impl Census {
    fn counts(&self) -> [(&'static str, usize); 6] {
        [
            ("ids", self.ids.count()),
            ("commands", self.commands.count()),
            ("states", self.states.count()),
            ("outputs", self.outputs.count()),
            ("errors", self.errors.count()),
            ("parts", self.parts.count()),
        ]
    }
}

struct Id {
    name: u64,
    live: Live,
    _one: Alive,
}

impl Id {
    fn new(name: u64, live: &Live) -> Self {
        Self { name, live: live.clone(), _one: live.one() }
    }
}

impl Clone for Id {
    fn clone(&self) -> Self {
        Self::new(self.name, &self.live)
    }
}

impl PartialEq for Id {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Id {}

impl Hash for Id {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.name.hash(hasher);
    }
}

#[derive(Clone, Copy)]
enum Ends {
    Commits,
    Rejects,
    Fails,
    Panics,
}

struct Order {
    id: Id,
    ends: Ends,
    _one: Alive,
}

impl Command for Order {
    type AggregateId = Id;
    fn aggregate_id(&self) -> &Id {
        &self.id
    }
}

struct Counting {
    census: Census,
    _one: Alive,
}

impl CommandHandler for Counting {
    type Command = Order;
    type State = Alive;
    type Output = Alive;
    type Error = Alive;

    async fn handle(
        &self,
        _: &mut Alive,
        order: Order,
        _: &Context,
    ) -> Result<Alive, Failure<Alive>> {
        yield_at_random().await;
        match order.ends {
            Ends::Commits => Ok(self.census.outputs.one()),
            Ends::Rejects => Err(Failure::Rejected(self.census.errors.one())),
            Ends::Fails => Err(Failure::Failed(self.census.errors.one())),
            Ends::Panics => panic!("wanted panic: of the handler"),
        }
    }
}

fn census_pool(bed: &Bed, census: &Census) -> ShardPool<Order, Alive, Alive> {
    let (of_loader, loader, hook) = (census.clone(), census.parts.one(), census.hooks.one());
    let hook = Mutex::new(hook);
    ShardPool::builder(Counting { census: census.clone(), _one: census.parts.one() })
        .loader(loader_fn(move |id: Id| {
            let _of_closure = &loader;
            let census = of_loader.clone();
            async move {
                yield_at_random().await;
                match id.name % 8 {
                    6 => Err(census.errors.one()),
                    7 => panic!("wanted panic: of the loader"),
                    _ => Ok(Loaded::new(census.states.one(), 0)),
                }
            }
        }))
        .shards(2)
        .workers_per_shard(2)
        .queue_depth(64)
        .max_resident(5)
        .on_dispatched(move |_| drop(hook.lock()))
        .start(bed.executor())
        .unwrap()
}

async fn g17_nothing_leaks(bed: Bed) {
    hush_wanted_panics();
    const ROUNDS: usize = load(30, 1_000);
    const ENDS: [Ends; 4] = [Ends::Commits, Ends::Rejects, Ends::Fails, Ends::Panics];
    for round in 0..ROUNDS {
        let census = Census::default();
        let pool = census_pool(&bed, &census);
        bed.watch(Peek(pool.downgrade()));
        let mut tickets = Vec::new();
        for n in 0..300 {
            let order = Order {
                id: Id::new(fastrand::u64(..40), &census.ids),
                ends: ENDS[fastrand::usize(..4)],
                _one: census.commands.one(),
            };
            // Some expire, while they wait for room or for their turn.
            let time = if n % 5 == 0 { Duration::from_micros(20) } else { Duration::MAX };
            match pool.within(time).submit(order).await {
                Ok(ticket) => match fastrand::u8(..4) {
                    0 => drop(ticket),
                    1 => {
                        ticket.withdraw();
                    }
                    _ => tickets.push(ticket),
                },
                Err(expired) => drop(expired),
            }
        }
        let weak = pool.downgrade();
        let outcomes = match round % 3 {
            0 => pool.drain().await.unwrap(),
            1 => pool.abort().await.unwrap(),
            // Closed by the drop alone.
            _ => {
                let weak = pool.downgrade();
                drop(pool);
                assert!(weak.upgrade().is_none());
                for ticket in &mut tickets {
                    let _ = ticket.await;
                }
                tickets.clear();
                until(|| census.counts().iter().all(|&(_, n)| n == 0)).await;
                until(|| census.hooks.count() == 0).await;
                continue;
            }
        };
        assert_eq!(outcomes, pool.drain().await.unwrap());
        // Half of them hold outcomes that nobody has taken.
        for ticket in tickets.drain(..).step_by(2) {
            match ticket.await {
                Ok(_) | Err(CommandError::Rejected(_) | CommandError::Failed { .. }) => {}
                Err(error) => assert!(!error.started() || is_panic(&error)),
            }
        }
        drop((tickets, pool));
        // Exact and at once: a drain is over when everything that was the pool's is gone.
        for (what, left) in census.counts() {
            assert_eq!(left, 0, "{what} left over");
        }
        // The hook goes with the dispatcher, as soon as the executor drops what has ended.
        until(|| census.hooks.count() == 0).await;
        drop(weak);
    }
}

fn is_panic<E>(error: &CommandError<E>) -> bool {
    matches!(error, CommandError::Panicked { .. })
}

async fn g17_no_task_owns_the_executor(bed: Bed) {
    let puppets = Puppets::new(bed.executor());
    let executors = puppets.executors();
    let pool = pool(puppets, 2, 3, 8);
    bed.watch(Peek(pool.downgrade()));
    assert_eq!(executors.count(), 0, "the pool holds the executor that it was started on");
    pool.send(Job::plain(1)).await.unwrap();
    pool.drain().within(Duration::MAX).await.unwrap();
    assert_quiet(&pool);
}

/// Of all that a pool can hold of smol's: deadlines and drains included.
#[cfg(feature = "smol")]
#[test]
fn g17_no_task_owns_a_smol_executor() {
    use std::sync::Arc;
    let executor = Arc::new(::smol::Executor::new());
    let pool = pool(shardpool::executors::Smol::new(Arc::clone(&executor)), 2, 3, 8);
    let ticket = pool.within(Duration::from_secs(60)).try_submit(Job::plain(1)).unwrap();
    ::smol::block_on(executor.run(ticket)).unwrap();
    let mut drain = pool.drain().within(Duration::from_secs(60));
    let _ = crate::tools::poll_once(&mut drain, std::task::Waker::noop());
    assert_eq!(Arc::strong_count(&executor), 1);
}

/// A handle of tokio's, which the pool has, is no owner: the runtime's tasks go with the runtime.
#[cfg(feature = "tokio")]
#[test]
fn g17_no_task_owns_a_tokio_runtime() {
    let runtime = ::tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let live = Live::default();
    let pool = pool(shardpool::executors::Tokio::new(runtime.handle().clone()), 1, 1, 8);
    let one = live.one();
    runtime.spawn(async move {
        let _one = one;
        std::future::pending::<()>().await;
    });
    runtime.block_on(pool.send(Job::plain(1))).unwrap();
    drop(runtime);
    assert_eq!(live.count(), 0);
    assert!(pool.is_closed());
}

#[test]
fn g17_the_hook_is_gone_when_a_drain_is_over() {
    let (live, executor) = (Live::default(), ByHand::default());
    let held = live.one();
    let builder = ShardPool::builder(Script::new()).shards(1).workers_per_shard(1);
    let pool = builder.on_dispatched(move |_| _ = &held).start(executor.clone()).unwrap();
    let mut shard = Shard::of(pool, &executor);
    let (left, count) = (Arc::new(OnceLock::new()), live.clone());
    let noted = Arc::clone(&left);
    let waker = Waker::from(Arc::new(WakeWith(move || {
        noted.get_or_init(|| count.count());
    })));
    let mut drain = shard.pool.drain();
    assert!(poll_once(&mut drain, &waker).is_pending());
    // Before the dispatcher, which then is the last to end.
    shard.workers.lose_one();
    shard.settle();
    assert_eq!(left.get(), Some(&0));
}
