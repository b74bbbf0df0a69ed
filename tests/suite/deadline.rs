//! Deadlines (G8), by a clock that the test turns.

use crate::harness::{Bed, Door, suite, until};
use crate::tools::{
    Flag, Job, Peek, Pool, Script, WithClock, assert_quiet, poll_once, pool_that_counts_loads,
};
use shardpool::executors::{Clock, SystemClock, Task};
use shardpool::{CommandError, SendError, ShardPool, SubmitError, TrySubmitError};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

suite!(
    g08_an_expired_command_never_runs_and_consumes_no_version,
    g08_an_expired_command_gives_its_room_back,
    g08_a_deadline_that_has_passed_refuses_at_once,
    g08_a_deadline_covers_the_wait_for_room,
    g08_who_waits_behind_an_expired_submission_is_served,
    g08_a_deadline_covers_the_wait_for_the_outcome_of_a_send,
    g08_a_started_command_is_not_stopped_by_its_deadline,
    g08_a_deadline_of_one_command_is_no_other_s,
    g08_an_expired_command_is_not_loaded_for,
    g08_a_deadline_too_far_to_count_never_passes,
    g08_for_a_command_without_a_deadline_no_clock_is_read,
);

const SECOND: Duration = Duration::from_secs(1);

/// A clock that stands still until it is turned.
#[derive(Clone)]
pub(crate) struct Hands {
    start: Instant,
    seconds: Arc<AtomicU64>,
    reads: Arc<AtomicU64>,
}

impl Hands {
    pub(crate) fn new() -> Self {
        Self { start: Instant::now(), seconds: Arc::default(), reads: Arc::default() }
    }

    pub(crate) fn turn(&self, seconds: u64) {
        self.seconds.fetch_add(seconds, Ordering::SeqCst);
    }
}

impl Clock for Hands {
    fn now(&self) -> Instant {
        self.reads.fetch_add(1, Ordering::SeqCst);
        self.start + SECOND * u32::try_from(self.seconds.load(Ordering::SeqCst)).unwrap()
    }

    fn sleep(&self, time: Duration) -> Task {
        SystemClock.sleep(time)
    }
}

fn clocked(bed: &Bed, workers: usize, depth: usize) -> (Pool, Hands) {
    let clock = Hands::new();
    let pool = ShardPool::builder(Script::new())
        .shards(1)
        .workers_per_shard(workers)
        .queue_depth(depth)
        .start(WithClock(bed.executor(), clock.clone()))
        .unwrap();
    bed.watch(Peek(pool.downgrade()));
    (pool, clock)
}

/// Commands that keep every worker busy until the door opens.
async fn block(pool: &Pool, workers: u64, door: &Door) {
    for id in 0..workers {
        drop(pool.try_submit(Job::at(id, door)).unwrap());
    }
    until(|| door.arrived() == workers).await;
}

fn marked(id: u64, ran: &Flag) -> Job {
    let ran = ran.clone();
    Job::new(id, |cx| async move {
        ran.set();
        Ok(cx.version())
    })
}

async fn g08_an_expired_command_never_runs_and_consumes_no_version(bed: Bed) {
    let (pool, clock) = clocked(&bed, 3, 1024);
    let (door, ran) = (Door::closed(), Flag::default());
    block(&pool, 3, &door).await;
    let mut tickets = Vec::new();
    for n in 0..300 {
        // Behind busy aggregates and in ones of their own, between others that have time.
        let (late, timely) = (Flag::default(), Flag::default());
        let id = n % 9;
        tickets.push((pool.within(SECOND * 5).try_submit(marked(id, &late)).unwrap(), late, false));
        let timely_job = marked(id, &timely);
        tickets.push((pool.within(SECOND * 6).try_submit(timely_job).unwrap(), timely, true));
    }
    // Exactly at the deadline it has passed.
    clock.turn(5);
    door.open();
    let mut versions = [1, 1, 1, 0, 0, 0, 0, 0, 0];
    for (n, (ticket, ran, timely)) in tickets.into_iter().enumerate() {
        match ticket.await {
            Ok(receipt) => {
                assert!(timely && ran.is_set(), "ran after its deadline");
                versions[n / 2 % 9] += 1;
                assert_eq!(receipt.version, versions[n / 2 % 9], "a version was consumed");
            }
            Err(error) => {
                assert_eq!(error, CommandError::Expired);
                assert!(!timely && !ran.is_set());
            }
        }
    }
    assert!(!ran.is_set());
    let outcomes = pool.drain().await.unwrap();
    assert_eq!((outcomes.committed, outcomes.expired), (303, 300));
    assert_quiet(&pool);
}

async fn g08_an_expired_command_gives_its_room_back(bed: Bed) {
    const DEPTH: usize = 10;
    let (pool, clock) = clocked(&bed, 2, DEPTH);
    for _ in 0..50 {
        let door = Door::closed();
        block(&pool, 2, &door).await;
        let late: Vec<_> = (0..DEPTH)
            .map(|n| pool.within(SECOND).try_submit(Job::plain(n as u64 % 4)).unwrap())
            .collect();
        assert!(pool.try_submit(Job::plain(1)).unwrap_err().is_full());
        clock.turn(1);
        door.open();
        for ticket in late {
            assert_eq!(ticket.await.unwrap_err(), CommandError::Expired);
        }
        // Who has seen the outcomes sees the room.
        assert_eq!(pool.stats()[0].queued, 0);
        until(|| pool.stats()[0].running == 0).await;
    }
}

async fn g08_a_deadline_that_has_passed_refuses_at_once(bed: Bed) {
    let (pool, clock) = clocked(&bed, 2, 8);
    let refused = pool.within(Duration::ZERO).try_submit(Job::plain(1).number(1)).unwrap_err();
    assert!(matches!(&refused, TrySubmitError::Expired(job) if job.number == 1), "{refused:?}");
    // The time is counted from the call, not from the first poll.
    let (submission, sending) = (
        pool.within(SECOND).submit(Job::plain(1).number(2)),
        pool.within(SECOND).send(Job::plain(1)),
    );
    clock.turn(1);
    let refused = submission.await.unwrap_err();
    assert!(matches!(&refused, SubmitError::Expired(job) if job.number == 2), "{refused:?}");
    let refused = sending.await.unwrap_err();
    assert!(matches!(refused, SendError::NotAccepted(SubmitError::Expired(_))), "{refused:?}");
    assert_eq!(pool.stats()[0].accepted, 0);
}

async fn g08_a_deadline_covers_the_wait_for_room(bed: Bed) {
    let (pool, clock) = clocked(&bed, 1, 1);
    let (door, ran) = (Door::closed(), Flag::default());
    block(&pool, 1, &door).await;
    let queued = pool.try_submit(Job::plain(0)).unwrap();
    let mut late = pool.within(SECOND).submit(marked(0, &ran).number(5));
    let mut late_send = pool.within(SECOND).send(marked(0, &ran).number(6));
    assert!(poll_once(&mut late, Waker::noop()).is_pending());
    assert!(poll_once(&mut late_send, Waker::noop()).is_pending());
    clock.turn(1);
    door.open();
    let refused = late.await.unwrap_err();
    assert!(matches!(&refused, SubmitError::Expired(job) if job.number == 5), "{refused:?}");
    let back = late_send.await.unwrap_err().into_command();
    assert_eq!(back.map(|job| job.number), Some(6));
    queued.await.unwrap();
    // It was never accepted: it has no outcome.
    assert_eq!(pool.drain().await.unwrap().total(), 2);
    assert!(!ran.is_set());
}

async fn g08_who_waits_behind_an_expired_submission_is_served(bed: Bed) {
    let (pool, clock) = clocked(&bed, 1, 1);
    let door = Door::closed();
    block(&pool, 1, &door).await;
    let queued = pool.try_submit(Job::plain(0)).unwrap();
    let mut late: Vec<_> = (0..20).map(|_| pool.within(SECOND).submit(Job::plain(0))).collect();
    let mut timely = pool.submit(Job::plain(0));
    for submission in &mut late {
        assert!(poll_once(submission, Waker::noop()).is_pending());
    }
    assert!(poll_once(&mut timely, Waker::noop()).is_pending());
    clock.turn(1);
    door.open();
    // Nobody polls the late ones, and they hold nobody up.
    timely.await.unwrap().await.unwrap();
    queued.await.unwrap();
    for submission in late {
        assert!(matches!(submission.await.unwrap_err(), SubmitError::Expired(_)));
    }
    assert_quiet(&pool);
}

async fn g08_a_deadline_covers_the_wait_for_the_outcome_of_a_send(bed: Bed) {
    let (pool, clock) = clocked(&bed, 1, 4);
    let door = Door::closed();
    block(&pool, 1, &door).await;
    let mut late = pool.within(SECOND).send(Job::plain(0));
    assert!(poll_once(&mut late, Waker::noop()).is_pending());
    assert_eq!(pool.stats()[0].accepted, 2);
    clock.turn(1);
    door.open();
    let error = late.await.unwrap_err();
    assert!(matches!(error, SendError::Command(CommandError::Expired)), "{error:?}");
}

async fn g08_a_started_command_is_not_stopped_by_its_deadline(bed: Bed) {
    let (pool, clock) = clocked(&bed, 2, 8);
    let door = Door::closed();
    let handler_door = door.clone();
    let job = Job::new(1, |cx| async move {
        handler_door.pass().await;
        assert!(!cx.is_cancelled());
        Ok(3)
    });
    let mut ticket = pool.within(SECOND).try_submit(job).unwrap();
    until(|| door.arrived() == 1).await;
    clock.turn(100);
    assert!(matches!(poll_once(&mut ticket, Waker::noop()), Poll::Pending));
    door.open();
    assert_eq!(ticket.await.unwrap().output, 3);
}

async fn g08_a_deadline_of_one_command_is_no_other_s(bed: Bed) {
    // Cells are used again: a deadline must not stay in one.
    let (pool, clock) = clocked(&bed, 2, 64);
    for n in 0..200 {
        drop(pool.within(SECOND).submit(Job::plain(n % 5)).await.unwrap().await);
        clock.turn(2);
        pool.send(Job::plain(n % 5)).await.unwrap();
    }
    assert_eq!(pool.drain().await.unwrap().expired, 0);
}

async fn g08_an_expired_command_is_not_loaded_for(bed: Bed) {
    let clock = Hands::new();
    let (pool, loads) = pool_that_counts_loads(WithClock(bed.executor(), clock.clone()));
    bed.watch(pool.clone());
    let door = Door::closed();
    block(&pool, 1, &door).await;
    let late: Vec<_> =
        (10..30).map(|id| pool.within(SECOND).try_submit(Job::plain(id)).unwrap()).collect();
    clock.turn(1);
    door.open();
    for ticket in late {
        assert_eq!(ticket.await.unwrap_err(), CommandError::Expired);
    }
    assert_eq!(loads.load(Ordering::SeqCst), 1, "loaded for a command that can't run");
}

async fn g08_a_deadline_too_far_to_count_never_passes(bed: Bed) {
    let (pool, clock) = clocked(&bed, 2, 64);
    clock.turn(1_000);
    pool.within(Duration::MAX).send(Job::plain(1)).await.unwrap();
    pool.within(Duration::MAX).try_submit(Job::plain(1)).unwrap().await.unwrap();
}

async fn g08_for_a_command_without_a_deadline_no_clock_is_read(bed: Bed) {
    let (pool, clock) = clocked(&bed, 1, 1);
    let door = Door::closed();
    block(&pool, 1, &door).await;
    // One finds room, one waits for it, and both wait behind a handler.
    let queued = pool.submit(Job::plain(1)).await.unwrap();
    let mut waits = pool.submit(Job::plain(2));
    assert!(poll_once(&mut waits, Waker::noop()).is_pending());
    door.open();
    queued.await.unwrap();
    waits.await.unwrap().await.unwrap();
    pool.send(Job::plain(1)).await.unwrap();
    assert_eq!(clock.reads.load(Ordering::SeqCst), 0);
    pool.within(SECOND).send(Job::plain(1)).await.unwrap();
    assert_ne!(clock.reads.load(Ordering::SeqCst), 0);
}
