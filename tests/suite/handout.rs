//! A free worker takes what is ready (G2), whatever the moment at which it became free.

use crate::by_hand::{ByHand, Shard};
use crate::deadline::Hands;
use crate::harness::{Bed, Door, load, suite, until, yield_at_random};
use crate::tools::{Error, Job, Peek, Ticket, WithClock, poll_once, pool};
use futures::future::BoxFuture;
use shardpool::Failure;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::Waker;
use std::time::Duration;

suite!(g02_no_worker_sleeps_beside_an_aggregate_that_is_ready);

async fn g02_no_worker_sleeps_beside_an_aggregate_that_is_ready(bed: Bed) {
    const WORKERS: u64 = 4;
    const ROUNDS: usize = load(1_500, 20_000);
    let pool = pool(bed.executor(), 1, WORKERS as usize, 1024);
    bed.watch(Peek(pool.downgrade()));
    for round in 0..ROUNDS {
        let door = Door::closed();
        let mut tickets = Vec::new();
        for n in 0..WORKERS {
            // Short ones in between leave workers at any point of their way to sleep.
            if fastrand::bool() {
                tickets.push(pool.try_submit(Job::plain(100 + n)).unwrap());
            }
            tickets.push(pool.try_submit(Job::at(n, &door)).unwrap());
            if round % 2 == 0 {
                yield_at_random().await;
            }
        }
        // As many as there are workers, and each runs: else a ready one waits beside a free worker.
        until(|| door.arrived() == WORKERS).await;
        door.open();
        for ticket in tickets {
            ticket.await.unwrap();
        }
    }
}

/// One shard with one worker, polled by hand, and how many handlers were called.
struct Counted {
    shard: Shard,
    clock: Hands,
    calls: Arc<AtomicU64>,
}

impl Counted {
    fn new(depth: usize) -> Self {
        let (executor, clock) = (ByHand::default(), Hands::new());
        let pool = pool(WithClock(Arc::new(executor.clone()), clock.clone()), 1, 1, depth);
        Self { shard: Shard::of(pool, &executor), clock, calls: Arc::default() }
    }

    /// A command whose handler counts.
    fn job(&self, id: u64) -> Job {
        let calls = Arc::clone(&self.calls);
        Job::new(id, move |_| async move { Ok(calls.fetch_add(1, Ordering::SeqCst)) })
    }

    fn submit(&self, id: u64) -> Ticket {
        self.shard.pool.try_submit(self.job(id)).unwrap()
    }

    /// One that is late when its turn comes, and another behind it, for aggregate 1.
    fn submit_behind_a_late_one(&self) -> Ticket {
        let soon = self.shard.pool.within(Duration::from_secs(1));
        drop(soon.try_submit(self.job(1)).unwrap());
        self.clock.turn(1);
        self.submit(1)
    }

    /// Fills the shard with commands of aggregate 1, which will be one turn, and has so many submissions
    /// wait for room, which go on to do so while they are kept.
    fn in_one_turn<R>(
        &mut self,
        waiting: usize,
        fill: impl FnOnce(&Self) -> R,
    ) -> (R, Vec<BoxFuture<'static, ()>>) {
        self.in_one_turn_after(Job::at, waiting, fill)
    }

    /// Behind a command that is over when its door opens.
    fn in_one_turn_after<R>(
        &mut self,
        first: impl FnOnce(u64, &Door) -> Job,
        waiting: usize,
        fill: impl FnOnce(&Self) -> R,
    ) -> (R, Vec<BoxFuture<'static, ()>>) {
        let door = Door::closed();
        drop(self.shard.pool.try_submit(first(1, &door)).unwrap());
        self.shard.settle();
        let filled = fill(self);
        let wait = |_| {
            let pool = self.shard.pool.clone();
            let mut waits: BoxFuture<'_, _> =
                Box::pin(async move { drop(pool.submit(Job::plain(3)).await) });
            assert!(poll_once(&mut waits, Waker::noop()).is_pending());
            waits
        };
        let waiting = (0..waiting).map(wait).collect();
        self.shard.poll_dispatcher();
        door.open();
        self.shard.workers.poll();
        (filled, waiting)
    }

    /// The dispatcher sleeps, then the worker is polled and wakes it. A handler that it calls in the same
    /// poll, and that blocks its thread, could hold up the dispatcher: tokio keeps what a thread has woken
    /// last for that thread. `but` so many handlers that were due already.
    fn no_handler_is_called_in_the_poll_that_wakes_the_dispatcher(
        &mut self,
        but: u64,
        begin: impl FnOnce(),
    ) {
        let at_the_wake = Arc::new(OnceLock::new());
        let (noted, calls) = (Arc::clone(&at_the_wake), Arc::clone(&self.calls));
        self.shard.lull(move || {
            noted.get_or_init(|| calls.load(Ordering::SeqCst));
        });
        begin();
        let mut polls = 0..100;
        let before = loop {
            assert!(polls.next().is_some(), "nobody wakes the dispatcher: {:?}", self.shard.pool);
            self.shard.workers.poll();
            if let Some(before) = at_the_wake.get() {
                break *before;
            }
        };
        let calls = || self.calls.load(Ordering::SeqCst) - before;
        assert_eq!(calls(), but, "called after the wake");
        self.shard.workers.poll();
        assert!(calls() > but, "not called by the next poll either");
    }
}

#[test]
fn g02_a_worker_that_wakes_the_dispatcher_by_a_lane_lets_it_run_first() {
    let (mut pool, door) = (Counted::new(8), Door::closed());
    drop(pool.shard.pool.try_submit(Job::at(1, &door)).unwrap());
    pool.shard.settle();
    // One that waits for the lane, and one that is ready.
    drop((pool.shard.submit(1), pool.submit(2)));
    pool.no_handler_is_called_in_the_poll_that_wakes_the_dispatcher(0, || door.open());
}

#[test]
fn g02_a_worker_that_wakes_the_dispatcher_by_room_lets_it_run_first() {
    let mut pool = Counted::new(2);
    let _waiting = pool.in_one_turn(1, |pool| drop((pool.submit(1), pool.submit(1))));
    // The command that starts is the one that gives the room back.
    pool.no_handler_is_called_in_the_poll_that_wakes_the_dispatcher(1, || ());
}

#[test]
fn g02_a_worker_that_wakes_the_dispatcher_by_the_room_of_a_late_command_lets_it_run_first() {
    let mut pool = Counted::new(2);
    let _kept = pool.in_one_turn(1, Counted::submit_behind_a_late_one);
    pool.no_handler_is_called_in_the_poll_that_wakes_the_dispatcher(0, || ());
}

#[test]
fn g02_a_worker_that_wakes_the_dispatcher_by_a_late_command_before_a_load_lets_it_run_first() {
    let mut pool = Counted::new(2);
    let fails = |id, door: &Door| {
        let door = door.clone();
        Job::new(id, |_| async move {
            door.pass().await;
            Err(Failure::Failed(Error("the state is forgotten")))
        })
    };
    let _kept = pool.in_one_turn_after(fails, 1, Counted::submit_behind_a_late_one);
    pool.no_handler_is_called_in_the_poll_that_wakes_the_dispatcher(0, || ());
}

#[test]
fn g02_a_worker_that_wakes_the_dispatcher_by_the_last_tombstone_lets_it_run_first() {
    let mut pool = Counted::new(4);
    let (first, _waiting) = pool.in_one_turn(2, |pool| {
        let first = pool.submit(1);
        (0..3).for_each(|_| drop(pool.submit(1)));
        first
    });
    // Its room goes to one of the two that wait; the other may have to be refused.
    assert!(first.withdraw());
    pool.no_handler_is_called_in_the_poll_that_wakes_the_dispatcher(0, || ());
}

#[test]
fn g02_a_worker_that_wakes_the_dispatcher_by_a_sweep_of_its_turn_lets_it_run_first() {
    let mut pool = Counted::new(3);
    let (second, _waiting) = pool.in_one_turn(3, |pool| {
        let second = pool.submit_behind_a_late_one();
        drop(pool.submit(1));
        second
    });
    pool.shard.lull(|| ());
    // It ends the late one, and lets others run; then the second is withdrawn, and is to be swept.
    pool.shard.workers.poll();
    assert!(second.withdraw());
    pool.no_handler_is_called_in_the_poll_that_wakes_the_dispatcher(0, || ());
}

#[test]
fn g02_a_worker_that_wakes_the_dispatcher_by_room_in_the_ring_lets_it_run_first() {
    let mut pool = Counted::new(1_000);
    // More than the ring has room for.
    (0..300).for_each(|id| drop(pool.submit(id)));
    pool.no_handler_is_called_in_the_poll_that_wakes_the_dispatcher(0, || ());
}

#[test]
fn g02_a_worker_whose_handler_wakes_the_dispatcher_lets_it_run_first() {
    let mut pool = Counted::new(8);
    let _kept = pool.in_one_turn(0, |pool| {
        let inside = pool.shard.pool.clone();
        let submits = move |_| async move {
            drop(inside.try_submit(Job::plain(2)).unwrap());
            Ok(0)
        };
        drop(pool.shard.pool.try_submit(Job::new(1, submits)).unwrap());
        drop(pool.submit(1));
    });
    pool.no_handler_is_called_in_the_poll_that_wakes_the_dispatcher(0, || ());
}
