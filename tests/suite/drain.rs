//! Drain in two phases (G15): intake stops when it is called, then everything accepted finishes.

use crate::harness::{Bed, Door, On, load, run, suite, until, yield_now};
use crate::tools::{
    Crowd, Error, Flag, Job, Live, Peek, Puppets, Ticket, WithClock, assert_quiet, id_on,
    poll_once, pool,
};
use shardpool::executors::{Clock, Task};
use shardpool::{DrainError, SendError, SubmitError, TrySubmitError, WeakPool};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Waker;
use std::thread;
use std::time::{Duration, Instant};

suite!(
    g15_a_drain_that_nobody_polls_refuses_whatever_comes_after_its_call,
    g15_a_drain_refuses_who_waits_for_room,
    g15_a_drain_refuses_a_handler_that_waits_for_room,
    g15_a_drain_refuses_submissions_of_running_handlers,
    g15_everything_accepted_finishes_in_order,
    g15_a_drain_finishes_a_pool_whose_handlers_still_submit,
    g15_no_command_slips_in_between,
    g15_submissions_that_give_up_meanwhile_hold_up_no_drain,
    g15_a_drain_is_over_when_the_last_handler_is,
    g15_a_drain_dropped_and_made_again_ends_the_same,
    g15_an_idle_pool_drains,
);

async fn g15_a_drain_that_nobody_polls_refuses_whatever_comes_after_its_call(bed: Bed) {
    let pool = pool(bed.executor(), 2, 1, 8);
    bed.watch(Peek(pool.downgrade()));
    let unpolled = pool.drain();
    assert!(pool.is_closed());
    for shard in 0..2 {
        let job = |number| Job::plain(id_on(&pool, shard, &[])).number(number);
        let back = pool.try_submit(job(1));
        assert!(matches!(back, Err(TrySubmitError::Closed(job)) if job.number == 1));
        let back = pool.submit(job(2)).await;
        assert!(matches!(back, Err(SubmitError::Closed(job)) if job.number == 2));
        let back = pool.send(job(3)).await.unwrap_err();
        let SendError::NotAccepted(SubmitError::Closed(back)) = back else { panic!("{back:?}") };
        assert_eq!(back.number, 3);
        let back = pool.within(Duration::MAX).submit(job(4)).await;
        assert!(matches!(back, Err(SubmitError::Closed(job)) if job.number == 4));
        let back = pool.shard(shard).unwrap().try_submit(job(5));
        assert!(matches!(back, Err(TrySubmitError::Closed(job)) if job.number == 5));
    }
    assert_eq!(unpolled.await.unwrap().total(), 0);
}

async fn g15_a_drain_refuses_who_waits_for_room(bed: Bed) {
    const WAITING: u64 = 5;
    let pool = pool(bed.executor(), 1, 2, 2);
    bed.watch(Peek(pool.downgrade()));
    let door = Door::closed();
    let mut accepted = vec![pool.try_submit(Job::at(0, &door)).unwrap()];
    until(|| door.arrived() == 1).await;
    // Behind it, though a worker is free: there is no room until the door opens.
    accepted.extend((0..2).map(|_| pool.try_submit(Job::plain(0)).unwrap()));
    let crowd = Crowd::waits(&bed, &pool, WAITING).await;
    let unpolled = pool.drain();
    // The door is closed: this does not wait for what was accepted.
    crowd.all_refused().await;
    door.open();
    for ticket in accepted {
        ticket.await.unwrap();
    }
    assert_eq!(unpolled.await.unwrap().total(), 3);
}

async fn g15_a_drain_refuses_a_handler_that_waits_for_room(bed: Bed) {
    let pool = pool(bed.executor(), 1, 2, 1);
    bed.watch(Peek(pool.downgrade()));
    let (door, start) = (Door::closed(), Door::closed());
    let runs = pool.try_submit(Job::at(0, &door)).unwrap();
    until(|| door.arrived() == 1).await;
    let (inner, of_job) = (pool.clone(), start.clone());
    let submits = pool
        .try_submit(Job::new(1, move |_| async move {
            of_job.pass().await;
            match inner.submit(Job::plain(2).number(77)).await {
                Err(SubmitError::Closed(job)) => Ok(job.number),
                other => panic!("not refused: {other:?}"),
            }
        }))
        .unwrap();
    until(|| start.arrived() == 1).await;
    let queued = pool.try_submit(Job::plain(0)).unwrap();
    start.open();
    until(|| pool.stats()[0].waiting == 1).await;
    let drain = pool.drain();
    assert_eq!(submits.await.unwrap().output, 77);
    door.open();
    runs.await.unwrap();
    queued.await.unwrap();
    assert_eq!(drain.await.unwrap().total(), 3);
}

async fn g15_a_drain_refuses_submissions_of_running_handlers(bed: Bed) {
    let pool = pool(bed.executor(), 2, 2, 8);
    bed.watch(Peek(pool.downgrade()));
    let door = Door::closed();
    // One of each shard, and each submits to both.
    let running: Vec<_> = (0..2)
        .map(|shard| {
            let (inner, door) = (pool.clone(), door.clone());
            let own = id_on(&pool, shard, &[]);
            let others = [0, 1].map(|shard| id_on(&pool, shard, &[own]));
            let job = Job::new(own, move |_| async move {
                door.pass().await;
                let mut back = 0;
                for id in others {
                    let refused = inner.try_submit(Job::plain(id).number(1));
                    back += refused.unwrap_err().into_command().number;
                    let refused = inner.submit(Job::plain(id).number(10)).await;
                    back += refused.unwrap_err().into_command().number;
                    match inner.send(Job::plain(id).number(100)).await {
                        Err(SendError::NotAccepted(refused)) => {
                            back += refused.into_command().number;
                        }
                        other => panic!("not refused: {other:?}"),
                    }
                }
                Ok(back)
            });
            pool.try_submit(job).unwrap()
        })
        .collect();
    until(|| door.arrived() == 2).await;
    let drain = pool.drain();
    door.open();
    for ticket in running {
        assert_eq!(ticket.await.unwrap().output, 222);
    }
    assert_eq!(drain.await.unwrap().total(), 2);
}

async fn g15_everything_accepted_finishes_in_order(bed: Bed) {
    // More than the ring between dispatcher and workers has places for, also per shard.
    const AGGREGATES: u64 = 700;
    const EACH: u64 = 6;
    let pool = pool(bed.executor(), 2, 3, (AGGREGATES * EACH) as usize);
    bed.watch(Peek(pool.downgrade()));
    let door = Door::closed();
    // Every worker is busy with one: all the rest is queued when the drain is called.
    let mut held: Vec<Ticket> = Vec::new();
    for shard in 0..2 {
        let mut ids = Vec::new();
        for _ in 0..3 {
            ids.push(id_on(&pool, shard, &ids));
        }
        held.extend(ids.into_iter().map(|id| pool.try_submit(Job::at(id, &door)).unwrap()));
    }
    until(|| door.arrived() == 6).await;
    let first: Vec<u64> = (0..AGGREGATES).map(|id| u64::from(is_held(&pool, id))).collect();
    let tickets: Vec<(u64, u64, Ticket)> = (0..EACH)
        .flat_map(|n| (0..AGGREGATES).map(move |id| (id, n)))
        .map(|(id, n)| (id, n, pool.try_submit(Job::plain(id)).unwrap()))
        .collect();
    let drain = pool.drain();
    door.open();
    for ticket in held {
        assert_eq!(ticket.await.unwrap().version, 1);
    }
    for (id, n, ticket) in tickets {
        assert_eq!(ticket.await.unwrap().version, first[id as usize] + n + 1);
    }
    assert_eq!(drain.await.unwrap().committed, 6 + AGGREGATES * EACH);
    assert_quiet(&pool);
}

/// Whether an aggregate is one of the three of its shard that `id_on` gives first.
fn is_held(pool: &crate::tools::Pool, id: u64) -> bool {
    let shard = pool.shard_of(&id);
    (0..id).filter(|other| pool.shard_of(other) == shard).count() < 3
}

#[derive(Default)]
struct Litter {
    accepted: AtomicU64,
    back: AtomicU64,
}

/// Its handler submits two more of the same kind, one of them waiting for room.
fn breeding(pool: WeakPool<Job, u64, Error>, litter: Arc<Litter>, live: Live) -> Job {
    let of_job = live.clone();
    let run = move |_| async move {
        let open = pool.upgrade().expect("the test has a handle");
        for waits in [false, true] {
            let child = breeding(pool.clone(), Arc::clone(&litter), of_job.clone());
            let accepted = if waits {
                open.submit(child).await.is_ok()
            } else {
                open.try_submit(child).is_ok()
            };
            (if accepted { &litter.accepted } else { &litter.back }).fetch_add(1, Ordering::SeqCst);
        }
        Ok(0)
    };
    Job::new(fastrand::u64(..50), run).counted(&live)
}

async fn g15_a_drain_finishes_a_pool_whose_handlers_still_submit(bed: Bed) {
    const ROUNDS: usize = load(20, 500);
    const SEEDS: u64 = 8;
    for _ in 0..ROUNDS {
        let pool = pool(bed.executor(), 2, 4, 32);
        bed.watch(Peek(pool.downgrade()));
        let (litter, live) = (Arc::new(Litter::default()), Live::default());
        for _ in 0..SEEDS {
            // Those before it may have filled the shard already: this waits.
            let seed = breeding(pool.downgrade(), Arc::clone(&litter), live.clone());
            drop(pool.submit(seed).await.unwrap());
        }
        let some = fastrand::u64(..300);
        until(|| litter.accepted.load(Ordering::SeqCst) >= some).await;
        let outcomes = pool.drain().await.unwrap();
        assert_eq!(outcomes.committed, outcomes.total());
        let (accepted, back) =
            (litter.accepted.load(Ordering::SeqCst), litter.back.load(Ordering::SeqCst));
        assert_eq!(outcomes.committed, SEEDS + accepted);
        // Each handler that ran has heard of both.
        assert_eq!(accepted + back, 2 * outcomes.committed);
        assert_eq!(live.count(), 0, "a command is left over");
    }
}

async fn g15_no_command_slips_in_between(bed: Bed) {
    const ROUNDS: usize = load(150, 2_000);
    for _ in 0..ROUNDS {
        let pool = pool(bed.executor(), 2, 2, 8);
        bed.watch(Peek(pool.downgrade()));
        let called = Flag::default();
        let submitters: Vec<_> = (0..4)
            .map(|_| {
                let (pool, called) = (pool.clone(), called.clone());
                thread::spawn(move || {
                    let mut tickets: Vec<Ticket> = Vec::new();
                    loop {
                        let late = called.is_set();
                        match pool.try_submit(Job::plain(fastrand::u64(..9))) {
                            Ok(ticket) => {
                                assert!(!late, "accepted after the call of drain");
                                tickets.push(ticket);
                            }
                            Err(TrySubmitError::Full(_)) => thread::yield_now(),
                            Err(_) => return tickets,
                        }
                    }
                })
            })
            .collect();
        let some = fastrand::u64(..50);
        until(|| pool.stats().iter().map(|shard| shard.accepted).sum::<u64>() >= some).await;
        let drain = pool.drain();
        called.set();
        let outcomes = drain.await.unwrap();
        let mut accepted = 0;
        for submitter in submitters {
            for ticket in submitter.join().unwrap() {
                // One that had slipped in behind the dispatcher's back would be aborted, or wait.
                ticket.await.unwrap();
                accepted += 1;
            }
        }
        assert_eq!(outcomes.committed, accepted, "the drain was over too early");
    }
}

async fn g15_submissions_that_give_up_meanwhile_hold_up_no_drain(bed: Bed) {
    const ROUNDS: usize = load(300, 5_000);
    for _ in 0..ROUNDS {
        let pool = pool(bed.executor(), 1, 1, 1);
        bed.watch(Peek(pool.downgrade()));
        let door = Door::closed();
        let runs = pool.try_submit(Job::at(0, &door)).unwrap();
        until(|| door.arrived() == 1).await;
        let queued = pool.try_submit(Job::plain(0)).unwrap();
        let mut waiting: Vec<_> = (0..4).map(|id| pool.submit(Job::plain(id))).collect();
        for submission in &mut waiting {
            assert!(poll_once(submission, Waker::noop()).is_pending());
        }
        door.open();
        // Racing: each is granted room, refused or given up.
        let drain = pool.drain();
        drop(waiting);
        runs.await.unwrap();
        queued.await.unwrap();
        let outcomes = drain.await.unwrap();
        assert_eq!(outcomes.committed, outcomes.total());
    }
}

async fn g15_a_drain_is_over_when_the_last_handler_is(bed: Bed) {
    let puppets = Puppets::new(bed.executor());
    let tasks = puppets.tasks();
    let pool = pool(puppets, 2, 2, 64);
    bed.watch(Peek(pool.downgrade()));
    let door = Door::closed();
    let runs = pool.try_submit(Job::at(0, &door)).unwrap();
    until(|| door.arrived() == 1).await;
    for id in 1..=20 {
        drop(pool.try_submit(Job::plain(id)).unwrap());
    }
    let mut drain = pool.drain();
    let committed = || pool.stats().iter().map(|shard| shard.outcomes.committed).sum::<u64>();
    until(|| committed() == 20).await;
    assert!(poll_once(&mut drain, Waker::noop()).is_pending(), "a handler still runs");
    door.open();
    assert_eq!(drain.await.unwrap().committed, 21);
    assert!(runs.is_finished(), "the drain was over before an outcome was there");
    // They have ended; that they are dropped is the executor's next step.
    until(|| tasks.count() == 0).await;
}

async fn g15_a_drain_dropped_and_made_again_ends_the_same(bed: Bed) {
    let pool = pool(bed.executor(), 1, 2, 8);
    bed.watch(Peek(pool.downgrade()));
    let door = Door::closed();
    let mut tickets = vec![pool.try_submit(Job::at(0, &door)).unwrap()];
    tickets.extend((0..5).map(|id| pool.try_submit(Job::plain(id)).unwrap()));
    until(|| door.arrived() == 1).await;
    let drop_some = || {
        for polled in [false, true].repeat(50) {
            let mut drain = pool.drain();
            assert!(!polled || poll_once(&mut drain, Waker::noop()).is_pending());
        }
    };
    drop_some();
    // Of one that waits among them, the wake-up must not get lost.
    let mut kept = pool.drain();
    let woken = Flag::default();
    let waker = Waker::from(Arc::new(woken.clone()));
    assert!(poll_once(&mut kept, &waker).is_pending());
    drop_some();
    assert!(pool.try_submit(Job::plain(9)).is_err(), "intake is open again");
    door.open();
    until(|| woken.is_set()).await;
    let outcomes = kept.await.unwrap();
    assert_eq!((outcomes.committed, outcomes.total()), (6, 6));
    for _ in 0..3 {
        assert_eq!(pool.drain().await.unwrap(), outcomes);
    }
    for ticket in tickets {
        ticket.await.unwrap();
    }
}

async fn g15_an_idle_pool_drains(bed: Bed) {
    for round in 0..16 {
        let puppets = Puppets::new(bed.executor());
        let tasks = puppets.tasks();
        let pool = pool(puppets, 2, 2, 8);
        bed.watch(Peek(pool.downgrade()));
        // Sometimes before its futures are first polled, most often when they sleep.
        for _ in 0..20 * round {
            yield_now().await;
            thread::yield_now();
        }
        assert_eq!(pool.drain().await.unwrap().total(), 0);
        until(|| tasks.count() == 0).await;
    }
}

/// A clock whose sleeps are over when the door opens.
#[derive(Clone)]
struct Rings(Door);

impl Clock for Rings {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn sleep(&self, _: Duration) -> Task {
        let door = self.0.clone();
        Box::pin(async move { door.pass().await })
    }
}

#[test]
fn g16_a_drain_that_blocks_after_a_poll_times_out_by_the_systems_clock() {
    run(On::Threads, |bed| async move {
        let (pool, door) =
            (pool(WithClock(bed.executor(), Rings(Door::closed())), 1, 1, 8), Door::closed());
        bed.watch(Peek(pool.downgrade()));
        let ticket = pool.submit(Job::at(1, &door)).await.unwrap();
        let mut drain = pool.drain().within(Duration::from_millis(1));
        assert!(poll_once(&mut drain, Waker::noop()).is_pending());
        let error = drain.blocking_wait().unwrap_err();
        assert!(matches!(error, DrainError::Timeout { .. }), "{error:?}");
        door.open();
        ticket.await.unwrap();
    });
}

#[test]
fn g16_a_drain_that_is_given_another_limit_forgets_the_first() {
    run(On::Threads, |bed| async move {
        let (alarm, door) = (Door::closed(), Door::closed());
        let pool = pool(WithClock(bed.executor(), Rings(alarm.clone())), 1, 1, 8);
        bed.watch(Peek(pool.downgrade()));
        let ticket = pool.submit(Job::at(1, &door)).await.unwrap();
        let mut drain = pool.drain().within(Duration::from_millis(1));
        assert!(poll_once(&mut drain, Waker::noop()).is_pending());
        let mut drain = drain.within(Duration::MAX);
        alarm.open();
        assert!(poll_once(&mut drain, Waker::noop()).is_pending());
        door.open();
        ticket.await.unwrap();
        assert_eq!(drain.await.unwrap().committed, 1);
    });
}
