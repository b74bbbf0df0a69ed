//! Callers with wakers of all kinds, and callers that go away at each poll (G6, G7, G8, G13).

use crate::load::{Load, Settings};
use crate::script::{Act, Pause, Pool};
use crate::things::{polls_at_most, quiet_panic};
use shardpool::sim::{Sim, explore};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

/// What a waker does in addition to what it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Habit {
    Panics,
    WakesTwice,
    WakesLate,
    /// Drops the future that waits.
    Drops,
}

const HABITS: [Habit; 4] = [Habit::Panics, Habit::WakesTwice, Habit::WakesLate, Habit::Drops];

/// Polls a future with a new waker each time, which has a habit. `None` if the future was dropped.
struct Strange<F: Future> {
    future: Arc<Mutex<Option<Pin<Box<F>>>>>,
    habit: Habit,
    sim: Sim,
}

impl<F: Future> Strange<F> {
    fn new(sim: &Sim, future: F) -> Self {
        let habit = HABITS[sim.below(4) as usize];
        Self { future: Arc::new(Mutex::new(Some(Box::pin(future)))), habit, sim: sim.clone() }
    }
}

struct Waking<F> {
    future: Arc<Mutex<Option<Pin<Box<F>>>>>,
    habit: Habit,
    sim: Sim,
    inner: Waker,
}

impl<F: Send + 'static> Wake for Waking<F> {
    fn wake(self: Arc<Self>) {
        match self.habit {
            Habit::Panics => {
                self.inner.wake_by_ref();
                quiet_panic("in a waker");
            }
            Habit::WakesTwice => {
                self.inner.wake_by_ref();
                self.inner.wake_by_ref();
            }
            Habit::WakesLate => {
                let (sim, inner) = (self.sim.clone(), self.inner.clone());
                drop(self.sim.spawn(async move {
                    sim.yield_at_random().await;
                    inner.wake();
                }));
            }
            Habit::Drops => {
                // Not while it is polled: then it is the poll's.
                let future = self.future.try_lock().ok().and_then(|mut future| future.take());
                drop(future);
                self.inner.wake_by_ref();
            }
        }
    }
}

impl<F: Future + Send + 'static> Future for Strange<F> {
    type Output = Option<F::Output>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let waker = Waker::from(Arc::new(Waking {
            future: Arc::clone(&self.future),
            habit: self.habit,
            sim: self.sim.clone(),
            inner: cx.waker().clone(),
        }));
        let mut future = self.future.lock().unwrap();
        let Some(inner) = &mut *future else { return Poll::Ready(None) };
        inner.as_mut().poll(&mut Context::from_waker(&waker)).map(Some)
    }
}

/// Owns its handle, so that its futures can go where they want.
async fn strange_client(load: Load, pool: Pool, client: u32) {
    let sim = load.world.sim.clone();
    for number in 0..6 {
        let mut command = load.world.command(sim.below(3) as u32, (client, number), Act::Commit);
        command.pause = Pause::Yields;
        let (pool, world) = (pool.clone(), load.world.clone());
        let tag = (client, number);
        if sim.chance(0.5) {
            let send = async move { pool.send(command).await };
            if let Some(answer) = Strange::new(&sim, send).await {
                let receipt = answer.unwrap();
                world.judge(tag, Act::Commit, &Ok(receipt));
            }
            continue;
        }
        let submit = async move { pool.submit(command).await };
        let Some(ticket) = Strange::new(&sim, submit).await else { continue };
        sim.yield_at_random().await;
        if let Some(outcome) = Strange::new(&sim, ticket.unwrap()).await {
            world.judge(tag, Act::Commit, &outcome);
            outcome.unwrap();
        }
    }
}

#[test]
fn sim_g07_wakers_of_all_kinds_keep_nobody_else_waiting() {
    explore(2_000, |sim| async move {
        let load = Load::new(&sim, Settings::plain(&sim));
        let pool = load.pool();
        let mut clients = load.clients(&pool);
        for client in 10..13 {
            clients.push(sim.spawn(strange_client(load.clone(), pool.clone(), client)));
        }
        for client in clients {
            client.await;
        }
        if let Some(outcomes) = Strange::new(&sim, pool.drain()).await {
            assert_eq!(outcomes.unwrap().aborted, 0);
        }
        pool.drain().await.unwrap();
        load.assert_quiet(&pool);
        drop(pool);
        load.ended().await;
    });
}

/// One caller gives up at its poll number k, for each k; the others must not notice.
fn gives_up<F: Future<Output = ()> + Send + 'static>(
    caller: impl Fn(u64, Load, Pool) -> F + Copy + Send + 'static,
) {
    explore(1_500, |sim| async move {
        // Every k is there, and some more often: few futures are polled a dozen times.
        let k = sim.seed() % 6;
        let settings = Settings { depth: 1 + sim.below(2) as usize, ..Settings::plain(&sim) };
        let load = Load::new(&sim, settings);
        let pool = load.pool();
        let mut clients = load.clients(&pool);
        for _ in 0..2 {
            clients.push(sim.spawn(caller(k, load.clone(), pool.clone())));
        }
        for client in clients {
            client.await;
        }
        pool.drain().await.unwrap();
        load.assert_quiet(&pool);
        drop(pool);
        load.ended().await;
    });
}

fn tag(load: &Load) -> (u32, u32) {
    (1000, load.world.sim.below(1 << 30) as u32)
}

#[test]
fn sim_g08_a_send_may_be_dropped_at_each_poll() {
    gives_up(|k, load, pool| async move {
        let command = load.world.command(0, tag(&load), Act::Commit);
        let _ = polls_at_most(k, pool.send(command)).await;
    });
}

#[test]
fn sim_g08_a_submission_may_be_dropped_at_each_poll() {
    gives_up(|k, load, pool| async move {
        let command = load.world.command(0, tag(&load), Act::Commit);
        let _ = polls_at_most(k, pool.submit(command)).await;
    });
}

#[test]
fn sim_g08_a_ticket_may_be_dropped_at_each_poll() {
    gives_up(|k, load, pool| async move {
        let tag = tag(&load);
        let command = load.world.command(0, tag, Act::Commit);
        let ticket = pool.submit(command).await.unwrap();
        let _ = polls_at_most(k, ticket).await;
        // Withdrawn it is not.
        while !load.world.has_started(tag) {
            load.world.sim.settle().await;
            load.world.sim.sleep(Duration::from_millis(1)).await;
        }
    });
}

#[test]
fn sim_g16_a_drain_may_be_dropped_at_each_poll() {
    explore(1_500, |sim| async move {
        let k = sim.seed() % 6;
        let load = Load::new(&sim, Settings::random(&sim));
        let pool = load.pool();
        let clients = load.clients(&pool);
        for _ in 0..sim.below(6) {
            sim.yield_at_random().await;
        }
        let _ = polls_at_most(k, pool.drain()).await;
        let _ = polls_at_most(k, pool.drain().within(Duration::from_millis(5))).await;
        assert!(pool.is_closed());
        pool.drain().await.unwrap();
        for client in clients {
            client.await;
        }
        load.assert_quiet(&pool);
        drop(pool);
        load.ended().await;
    });
}
