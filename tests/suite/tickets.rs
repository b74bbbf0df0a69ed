//! What a ticket is as a future.

use crate::by_hand::Shard;
use crate::harness::{On, run};
use crate::tools::{Flag, Job, Live, Touch, poll_once};
use shardpool::{Context, Failure, ShardPool, handler_fn};
use std::sync::{Arc, Mutex};
use std::task::Waker;
use std::time::Duration;

#[test]
fn g17_a_ticket_keeps_the_waker_it_was_last_polled_with_and_no_other() {
    let mut shard = Shard::new(1, 8);
    let mut ticket = shard.submit(0);
    let wakers = [(); 2].map(|()| Arc::new(Flag::default()));
    let holders = || wakers.each_ref().map(Arc::strong_count);
    for (at, kept) in [(0, [2, 1]), (0, [2, 1]), (1, [1, 2]), (0, [2, 1])] {
        assert!(poll_once(&mut ticket, &Waker::from(Arc::clone(&wakers[at]))).is_pending());
        assert_eq!(holders(), kept);
    }
    let drain = shard.pool.drain();
    shard.run(drain).unwrap();
    assert_eq!((holders(), wakers.each_ref().map(|w| w.is_set())), ([1, 1], [true, false]));
    shard.run(ticket).unwrap();
}

#[test]
fn g17_a_clone_of_a_context_keeps_what_its_command_left_no_longer_than_it_lives() {
    let (live, kept) = (Live::default(), Arc::new(Mutex::new(None)));
    let (of_output, keep) = (live.clone(), Arc::clone(&kept));
    let handler = handler_fn(move |_: &mut (), _: Touch, cx: &Context| {
        *keep.lock().unwrap() = Some(cx.clone());
        drop(cx.clone());
        Ok::<_, Failure<()>>(of_output.one())
    });
    run(On::Threads, |bed| async move {
        let pool = ShardPool::builder(handler).shards(1).start(bed.executor()).unwrap();
        drop(pool.try_submit(Touch).unwrap());
        pool.drain().await.unwrap();
        assert_eq!(live.count(), 1);
        drop(kept.lock().unwrap().take());
        assert_eq!(live.count(), 0);
    });
}

#[test]
#[should_panic(expected = "ticket polled after it had given its outcome")]
fn a_ticket_that_is_polled_after_its_outcome_panics() {
    let mut shard = Shard::new(1, 8);
    let mut ticket = shard.submit(0);
    shard.run(&mut ticket).unwrap();
    let _ = poll_once(&mut ticket, Waker::noop());
}

#[test]
fn g06_a_ticket_is_done_when_its_outcome_is_there_and_not_before() {
    let mut shard = Shard::new(1, 8);
    let (ticket, withdrawn) = (shard.submit(0), shard.submit(0));
    assert!(!ticket.is_finished() && !withdrawn.is_finished());
    assert!(withdrawn.withdraw() && withdrawn.is_finished());
    let drain = shard.pool.drain();
    shard.run(drain).unwrap();
    assert!(ticket.is_finished());
}

#[test]
fn g09_a_blocking_wait_for_what_is_done_is_never_refused() {
    let mut shard = Shard::new(1, 8);
    let done = shard.submit(0);
    let later = shard.submit(1);
    shard.run(later).unwrap();
    assert!(done.is_finished());
    let job = Job::new(2, |_| async { Ok(u64::from(done.blocking_wait().is_ok())) });
    let ticket = shard.pool.try_submit(job).unwrap();
    assert_eq!(shard.run(ticket).unwrap().output, 1);
}

#[test]
fn g17_a_drain_that_is_dropped_keeps_no_waker() {
    let shard = Shard::new(1, 8);
    let waker = Arc::new(Flag::default());
    for time in [None, Some(Duration::from_secs(3_600))] {
        let mut drain = shard.pool.drain();
        if let Some(time) = time {
            drain = drain.within(time);
        }
        assert!(poll_once(&mut drain, &Waker::from(Arc::clone(&waker))).is_pending());
        assert!(Arc::strong_count(&waker) > 1);
        drop(drain);
        assert_eq!(Arc::strong_count(&waker), 1, "within {time:?}");
    }
}
