//! Handlers that wait for other commands of their own pool (G9): what could never end is refused, so
//! everything ends.

use crate::load::Settings;
use futures::channel::oneshot;
use futures::future::BoxFuture;
use shardpool::sim::{Explorer, Faults, Sim, explore};
use shardpool::{
    Command, CommandError, CommandHandler, Context, DrainError, Failure, PoolOf, SendError,
    ShardPool, SubmitError, Ticket, WeakPool, async_handler_fn,
};
use std::future::Future;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

/// A command that goes on to others.
struct Visit {
    id: u32,
    /// How many rounds of visits are below this one.
    rounds: u32,
}

impl Command for Visit {
    type AggregateId = u32;
    fn aggregate_id(&self) -> &u32 {
        &self.id
    }
}

type Weak = WeakPool<Visit, (), &'static str>;

struct Visitor {
    sim: Sim,
    ids: u64,
    pool: Arc<OnceLock<Weak>>,
    drains: bool,
}

impl Visitor {
    /// One visit, in one way or another. A refusal is an answer.
    async fn visit(&self, rounds: u32) {
        let sim = &self.sim;
        let Some(pool) = self.pool.get().and_then(WeakPool::upgrade) else { return };
        let next = Visit { id: sim.below(self.ids) as u32, rounds };
        match sim.below(if self.drains { 20 } else { 19 }) {
            0..8 => match pool.send(next).await {
                Ok(_) | Err(SendError::Command(_)) => {}
                Err(SendError::NotAccepted(SubmitError::Closed(_) | SubmitError::Deadlock(_))) => {}
                Err(other) => sim.fail(format!("a visit got {other:?}")),
            },
            8..14 => {
                let Ok(ticket) = pool.submit(next).await else { return };
                sim.yield_at_random().await;
                let _ = ticket.await;
            }
            14..16 => drop(pool.submit(next).await),
            16..19 => drop(pool.try_submit(next)),
            _ => {
                let drained = pool.drain().await;
                if drained != Err(DrainError::Deadlock) {
                    sim.fail(format!("a drain inside its pool got {drained:?}"));
                }
            }
        }
    }
}

impl CommandHandler for Visitor {
    type Command = Visit;
    type State = ();
    type Output = ();
    type Error = &'static str;

    async fn handle(
        &self,
        (): &mut (),
        visit: Visit,
        _: &Context,
    ) -> Result<(), Failure<&'static str>> {
        if self.sim.chance(0.2) {
            self.sim.sleep(Duration::from_millis(self.sim.below(10))).await;
        }
        self.sim.yield_at_random().await;
        if visit.rounds > 0 {
            for _ in 0..self.sim.below(3) {
                self.visit(visit.rounds - 1).await;
            }
        }
        Ok(())
    }
}

fn start(sim: &Sim, settings: &Settings, drains: bool) -> PoolOf<Visitor> {
    let pool = Arc::new(OnceLock::new());
    let ids = settings.aggregates;
    let visitor = Visitor { sim: sim.clone(), ids, pool: Arc::clone(&pool), drains };
    let started = sim
        .builder(visitor)
        .shards(settings.shards)
        .workers_per_shard(settings.workers)
        .queue_depth(settings.depth)
        .max_turn(settings.turn)
        .start(sim.clone())
        .unwrap();
    pool.set(started.downgrade()).unwrap();
    started
}

async fn visits(sim: Sim, drains: bool) -> PoolOf<Visitor> {
    let settings = Settings::random(&sim);
    let pool = start(&sim, &settings, drains);
    let clients: Vec<_> = (0..settings.clients)
        .map(|_| {
            let (sim, pool, settings) = (sim.clone(), pool.clone(), settings.clone());
            sim.clone().spawn(async move {
                for _ in 0..settings.commands.min(4) {
                    let id = sim.below(settings.aggregates) as u32;
                    let rounds = sim.below(4) as u32;
                    match pool.send(Visit { id, rounds }).await {
                        // From outside of handlers nothing is refused as a circle.
                        Err(SendError::Command(CommandError::Deadlock))
                        | Err(SendError::NotAccepted(SubmitError::Deadlock(_))) => {
                            panic!("a client was refused")
                        }
                        _ => {}
                    }
                }
            })
        })
        .collect();
    for client in clients {
        client.await;
    }
    pool
}

#[test]
fn sim_g09_waits_inside_handlers_all_end() {
    explore(2_000, |sim| async move {
        let pool = visits(sim.clone(), false).await;
        let outcomes = pool.drain().await.unwrap();
        let accepted: u64 = pool.stats().iter().map(|shard| shard.accepted).sum();
        assert_eq!((outcomes.committed, outcomes.total()), (accepted, accepted));
    });
}

#[test]
fn sim_g09_drains_inside_handlers_are_refused_and_the_rest_ends() {
    explore(2_000, |sim| async move {
        let pool = visits(sim.clone(), true).await;
        pool.drain().await.unwrap();
    });
}

/// Two full shards, and a handler on each that goes to the other after so many seconds: what is queued is behind
/// these handlers. Each shard by itself sees free workers on the other.
async fn two_full_shards(sim: Sim, by_send: bool, seconds: [u64; 2]) {
    let own = Arc::new(OnceLock::<WeakPool<Visit, (), ()>>::new());
    let (of_handler, of_sim) = (Arc::clone(&own), sim.clone());
    let handler = async_handler_fn(move |visit: Visit, _: Context| {
        let (own, sim) = (Arc::clone(&of_handler), of_sim.clone());
        async move {
            if visit.rounds > 0 {
                let pool = own.get().and_then(WeakPool::upgrade).expect("the test has a handle");
                let here = pool.shard_of(&visit.id);
                // Until both shards are full.
                sim.sleep(Duration::from_secs(seconds[here])).await;
                let id = (10..).find(|id| pool.shard_of(id) != here).unwrap();
                let next = Visit { id, rounds: 0 };
                if by_send {
                    drop(pool.send(next).await);
                } else {
                    drop(pool.submit(next).await);
                }
            }
            Ok::<_, Failure<()>>(())
        }
    });
    let builder = sim.builder(handler).shards(2).workers_per_shard(3).queue_depth(1);
    let pool = builder.start(sim.clone()).unwrap();
    own.set(pool.downgrade()).unwrap();
    let mut tickets = Vec::new();
    for shard in 0..2 {
        let id = (0..).find(|id| pool.shard_of(id) == shard).unwrap();
        tickets.push(pool.try_submit(Visit { id, rounds: 1 }).unwrap());
        sim.settle().await;
        tickets.push(pool.try_submit(Visit { id, rounds: 0 }).unwrap());
    }
    for ticket in tickets {
        ticket.await.unwrap();
    }
}

#[test]
fn sim_g09_a_jam_over_two_shards_is_refused() {
    explore(100, |sim| two_full_shards(sim, false, [1, 1]));
}

/// When the first comes to the other shard nobody waits there yet, so that its dispatcher reports nothing. The second
/// might have been accepted.
#[test]
fn sim_g09_a_jam_that_a_send_to_a_lobby_closes_is_refused() {
    explore(100, |sim| two_full_shards(sim, true, [1, 2]));
}

/// One shard, two workers: a handler waits for a command that the other worker is to run, and that
/// worker is dropped. The wait was judged while it could end; what it waits for is aborted.
#[test]
fn sim_g09_a_wait_that_a_lost_worker_has_made_endless_ends() {
    explore(100, |sim| async move {
        let own = Arc::new(OnceLock::<WeakPool<Visit, (), ()>>::new());
        let of_handler = Arc::clone(&own);
        let handler = async_handler_fn(move |visit: Visit, _: Context| {
            let pool = of_handler.get().and_then(WeakPool::upgrade);
            async move {
                if let (true, Some(pool)) = (visit.rounds > 0, pool) {
                    let _ = pool.send(Visit { id: 1, rounds: 0 }).await;
                }
                Ok::<_, Failure<()>>(())
            }
        });
        let builder = sim.builder(handler).shards(1).workers_per_shard(2);
        let pool = builder.start(sim.clone()).unwrap();
        own.set(pool.downgrade()).unwrap();
        let ticket = pool.try_submit(Visit { id: 0, rounds: 1 }).unwrap();
        sim.yield_at_random().await;
        sim.drop_task(2);
        let _ = ticket.await;
    });
}

#[test]
fn sim_g09_waits_inside_handlers_end_when_tasks_are_dropped() {
    Explorer::new(2_000).faults(Faults::default().lost_tasks(0.003)).run(|sim| async move {
        let pool = visits(sim.clone(), false).await;
        let outcomes = pool.drain().await.unwrap();
        let accepted: u64 = pool.stats().iter().map(|shard| shard.accepted).sum();
        assert_eq!(outcomes.total(), accepted);
    });
}

/// Waits that only go to shards with higher numbers: none can be part of a circle, however full the
/// shards are.
#[test]
fn sim_g09_waits_that_go_one_way_are_never_refused() {
    explore(2_000, |sim| async move {
        const SHARDS: usize = 3;
        let own = Arc::new(OnceLock::<WeakPool<Visit, (), ()>>::new());
        let (of_handler, of_sim) = (Arc::clone(&own), sim.clone());
        let handler = async_handler_fn(move |visit: Visit, _: Context| {
            let (own, sim) = (Arc::clone(&of_handler), of_sim.clone());
            async move {
                sim.yield_at_random().await;
                for _ in 0..sim.below(3) {
                    let pool =
                        own.get().and_then(WeakPool::upgrade).expect("the test has a handle");
                    let id = sim.below(24) as u32;
                    if pool.shard_of(&id) <= pool.shard_of(&visit.id) {
                        continue;
                    }
                    let ticket = match pool.submit(Visit { id, rounds: 0 }).await {
                        Ok(ticket) => ticket,
                        Err(SubmitError::Closed(_)) => break,
                        Err(error) => panic!("{} could not wait for room: {error}", visit.id),
                    };
                    sim.yield_at_random().await;
                    match sim.below(4) {
                        0 => drop(ticket),
                        1 => {
                            ticket.withdraw();
                        }
                        _ => drop(ticket.await.unwrap()),
                    }
                }
                Ok::<_, Failure<()>>(())
            }
        });
        let builder = sim
            .builder(handler)
            .shards(SHARDS)
            .workers_per_shard(1 + sim.below(3) as usize)
            .queue_depth(1 + sim.below(3) as usize)
            .max_turn(1 + sim.below(3) as usize);
        let pool = builder.start(sim.clone()).unwrap();
        own.set(pool.downgrade()).unwrap();
        let clients: Vec<_> = (0..4)
            .map(|_| {
                let (sim, pool) = (sim.clone(), pool.clone());
                sim.clone().spawn(async move {
                    for _ in 0..5 {
                        let ticket = pool
                            .submit(Visit { id: sim.below(24) as u32, rounds: 0 })
                            .await
                            .unwrap();
                        if sim.chance(0.3) {
                            ticket.withdraw();
                        } else if sim.chance(0.7) {
                            ticket.await.unwrap();
                        }
                    }
                })
            })
            .collect();
        for client in clients {
            client.await;
        }
        let outcomes = pool.drain().await.unwrap();
        assert_eq!(outcomes.panicked, 0, "a handler was refused");
    });
}

/// A visit that, after so many seconds, sends another: to which pool, and to whom.
struct Tour {
    id: u64,
    next: Option<(u64, usize, u64)>,
}

impl Command for Tour {
    type AggregateId = u64;
    fn aggregate_id(&self) -> &u64 {
        &self.id
    }
}

/// A circle through a full shard of another pool, closed by a wait that is not for room.
#[test]
fn sim_g09_a_jam_over_two_pools_is_refused() {
    explore(100, |sim| async move {
        let weak: Arc<[OnceLock<WeakPool<Tour, (), ()>>; 2]> = Arc::default();
        let start = |workers, depth| {
            let (weak, of_sim) = (Arc::clone(&weak), sim.clone());
            let handler = async_handler_fn(move |tour: Tour, _: Context| {
                let (weak, sim) = (Arc::clone(&weak), of_sim.clone());
                async move {
                    if let Some((seconds, pool, id)) = tour.next {
                        sim.sleep(Duration::from_secs(seconds)).await;
                        let pool = weak[pool].get().and_then(WeakPool::upgrade);
                        let pool = pool.expect("the test has a handle");
                        drop(pool.send(Tour { id, next: None }).await);
                    }
                    Ok::<_, Failure<()>>(())
                }
            });
            let builder = sim.builder(handler).shards(1);
            builder.workers_per_shard(workers).queue_depth(depth).start(sim.clone()).unwrap()
        };
        let pools = [start(3, 8), start(2, 1)];
        for (weak, pool) in weak.iter().zip(&pools) {
            weak.set(pool.downgrade()).unwrap();
        }
        let mut tickets = Vec::new();
        for (pool, id, next) in [
            // The last to wait: for what waits for room.
            (0, 10, Some((100, 0, 20))),
            // In the other pool: for the last.
            (1, 30, Some((1, 0, 10))),
            // All that is queued there: the pool is full.
            (1, 30, None),
            (0, 20, Some((2, 1, 31))),
        ] {
            tickets.push(pools[pool].try_submit(Tour { id, next }).unwrap());
            sim.settle().await;
        }
        for ticket in tickets {
            ticket.await.unwrap();
        }
    });
}

/// A command that is what it does.
struct Job {
    id: u64,
    run: BoxFuture<'static, ()>,
}

impl Job {
    fn new(id: u64, run: impl Future<Output = ()> + Send + 'static) -> Self {
        Self { id, run: Box::pin(run) }
    }
}

impl Command for Job {
    type AggregateId = u64;
    fn aggregate_id(&self) -> &u64 {
        &self.id
    }
}

async fn carry_out(job: Job, _: Context) -> Result<(), Failure<()>> {
    job.run.await;
    Ok(())
}

/// What a handler does with a ticket of the other shard, while it waits for room that only it could make.
#[derive(Clone, Copy)]
enum Beside {
    /// Awaits it as well.
    Awaited,
    /// Polls it once, and keeps it.
    PolledOnce,
}

type Slot = Arc<Mutex<Option<Ticket<Job, (), ()>>>>;

/// The handler fills its own shard, and waits for room there.
async fn wait_for_own_room(sim: Sim, beside: Beside) {
    let builder =
        sim.builder(async_handler_fn(carry_out)).shards(2).workers_per_shard(3).queue_depth(1);
    let pool = builder.start(sim.clone()).unwrap();
    let [own, other, far] = [(0, 0), (0, 1), (1, 0)].map(|(shard, nth)| {
        (0..).filter(|id| pool.shard_of(id) == shard).nth(nth).expect("an id of each shard")
    });
    let slot = Slot::default();
    let (open, gate) = oneshot::channel::<()>();
    let (weak, taken) = (pool.downgrade(), Arc::clone(&slot));
    let waits = Job::new(own, async move {
        let _ = gate.await;
        let pool = weak.upgrade().unwrap();
        let mut ticket = taken.lock().unwrap().take().unwrap();
        let submission = pool.submit(Job::new(other, async {}));
        let refused = match beside {
            Beside::Awaited => {
                let (refused, ended) = futures::join!(submission, &mut ticket);
                ended.unwrap();
                refused
            }
            Beside::PolledOnce => {
                assert!(futures::poll!(&mut ticket).is_pending());
                submission.await
            }
        };
        assert!(matches!(refused, Err(SubmitError::Deadlock(_))), "{refused:?}");
    });
    let waits = pool.try_submit(waits).unwrap();
    sim.settle().await;
    let behind = pool.try_submit(Job::new(own, async {})).unwrap();
    sim.settle().await;
    let sleeps = sim.clone();
    let long = Job::new(far, async move { sleeps.sleep(Duration::from_secs(5)).await });
    *slot.lock().unwrap() = Some(pool.try_submit(long).unwrap());
    open.send(()).unwrap();
    waits.await.unwrap();
    behind.await.unwrap();
    pool.drain().await.unwrap();
}

#[test]
fn sim_g09_a_wait_for_room_is_judged_whatever_else_its_handler_waits_for() {
    explore(500, |sim| wait_for_own_room(sim, Beside::Awaited));
}

#[test]
fn sim_g09_a_wait_for_room_is_judged_beside_one_that_is_not_polled_any_more() {
    explore(500, |sim| wait_for_own_room(sim, Beside::PolledOnce));
}

#[test]
fn sim_g09_shards_that_have_lost_a_worker_each_let_each_other_sleep() {
    explore(50, |sim| async move {
        let builder = sim.builder(async_handler_fn(carry_out)).shards(2).workers_per_shard(3);
        let pool = builder.start(sim.clone()).unwrap();
        let id = |shard, nth| (0..).filter(|id| pool.shard_of(id) == shard).nth(nth).unwrap();
        let mut tickets = Vec::new();
        for shard in 0..2 {
            let sleeps = sim.clone();
            let long = async move { sleeps.sleep(Duration::from_secs(10)).await };
            tickets.push(pool.try_submit(Job::new(id(shard, 0), long)).unwrap());
        }
        sim.settle().await;
        for shard in 0..2 {
            let (weak, next) = (pool.downgrade(), id(1 - shard, 0));
            let waits = async move {
                let _ = weak.upgrade().unwrap().send(Job::new(next, async {})).await;
            };
            tickets.push(pool.try_submit(Job::new(id(shard, 1), waits)).unwrap());
        }
        sim.settle().await;
        // The last worker of each, of those tasks that are left.
        for place in [3, 6] {
            assert!(sim.drop_task(place));
        }
        for ticket in tickets {
            let _ = ticket.await;
        }
        pool.drain().await.unwrap();
    });
}

/// In one way or another to random aggregates of one or two pools of little room, also at once, with tickets that are
/// kept, withdrawn, or left to other handlers. All of it ends by itself: no drain refuses anything.
async fn mess(sim: Sim) {
    type Left = Arc<Mutex<Vec<Ticket<Visit, (), ()>>>>;

    async fn go_on(sim: &Sim, pool: &ShardPool<Visit, (), ()>, left: &Left, ids: u64, rounds: u32) {
        let next =
            || Visit { id: sim.below(ids) as u32, rounds: sim.below(u64::from(rounds)) as u32 };
        match sim.below(8) {
            0..3 => drop(pool.send(next()).await),
            3 => drop(futures::join!(pool.send(next()), pool.send(next()))),
            4 => {
                let Ok(ticket) = pool.submit(next()).await else { return };
                sim.yield_at_random().await;
                drop(ticket.await);
            }
            5 => {
                let Ok(mut ticket) = pool.try_submit(next()) else { return };
                if sim.chance(0.5) {
                    drop(futures::poll!(&mut ticket));
                }
                match sim.below(3) {
                    0 => drop(ticket.withdraw()),
                    1 => left.lock().unwrap().push(ticket),
                    _ => drop(ticket.await),
                }
            }
            6 => {
                let ticket = left.lock().unwrap().pop();
                if let Some(ticket) = ticket {
                    drop(ticket.await);
                }
            }
            _ => {
                let (accepted, _) = futures::join!(pool.submit(next()), pool.send(next()));
                if let Ok(ticket) = accepted {
                    drop(ticket.await);
                }
            }
        }
    }

    let ids = 2 + sim.below(8);
    let all = Arc::new(OnceLock::<Vec<WeakPool<Visit, (), ()>>>::new());
    let left = Left::default();
    let start = |_| {
        let (all, left, of_sim) = (Arc::clone(&all), Arc::clone(&left), sim.clone());
        let handler = async_handler_fn(move |visit: Visit, _: Context| {
            let (all, left, sim) = (Arc::clone(&all), Arc::clone(&left), of_sim.clone());
            async move {
                if sim.chance(0.5) {
                    sim.sleep(Duration::from_millis(sim.below(8))).await;
                }
                for _ in 0..u64::from(visit.rounds > 0) * (1 + sim.below(2)) {
                    let pools = all.get().expect("the pools have started");
                    let to = &pools[sim.below(pools.len() as u64) as usize];
                    let Some(pool) = to.upgrade() else { break };
                    go_on(&sim, &pool, &left, ids, visit.rounds).await;
                }
                Ok::<_, Failure<()>>(())
            }
        });
        let builder = sim
            .builder(handler)
            .shards(1 + sim.below(3) as usize)
            .workers_per_shard(1 + sim.below(4) as usize)
            .queue_depth(1 + sim.below(2) as usize)
            .max_turn(1 + sim.below(3) as usize);
        builder.start(sim.clone()).unwrap()
    };
    let pools: Vec<_> = (0..1 + sim.below(2)).map(start).collect();
    all.set(pools.iter().map(ShardPool::downgrade).collect()).unwrap();

    let client = |_| {
        let (sim, pools) = (sim.clone(), pools.clone());
        sim.clone().spawn(async move {
            let mut tickets = Vec::new();
            for _ in 0..1 + sim.below(3) {
                let pool = &pools[sim.below(pools.len() as u64) as usize];
                let visit = Visit { id: sim.below(ids) as u32, rounds: sim.below(4) as u32 };
                tickets.extend(pool.submit(visit).await.ok());
                sim.yield_at_random().await;
            }
            for ticket in tickets {
                let refused = Err(CommandError::Deadlock);
                assert_ne!(ticket.await.map(drop), refused, "a client was refused");
            }
        })
    };
    let clients: Vec<_> = (0..2 + sim.below(3)).map(client).collect();
    for client in clients {
        client.await;
    }
    let is_idle = |pool: &ShardPool<_, _, _>| {
        pool.stats().iter().all(|shard| shard.queued + shard.running + shard.waiting == 0)
    };
    while !pools.iter().all(is_idle) {
        assert!(sim.elapsed() < Duration::from_secs(60), "something waits for ever");
        sim.sleep(Duration::from_secs(1)).await;
    }
    left.lock().unwrap().clear();
    for pool in pools {
        pool.drain().await.unwrap();
    }
}

#[test]
fn sim_g09_all_that_handlers_wait_for_ends_by_itself() {
    explore(3_000, mess);
}

#[test]
fn sim_g09_all_that_handlers_wait_for_ends_by_itself_when_tasks_are_dropped() {
    Explorer::new(3_000).faults(Faults::default().lost_tasks(0.002)).run(mess);
}
