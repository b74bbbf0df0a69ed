//! What happens while a dispatcher's poll comes to its end is seen by its last look: no wake-up is
//! lost (G5). A dispatcher that is being polled is awake, so that nobody wakes it.

use crate::by_hand::Shard;
use crate::tools::{Job, Ticket, poll_once};
use shardpool::{CommandError, SubmitError, TrySubmitError};
use std::future::Future;
use std::sync::{Arc, Mutex, mpsc};
use std::task::Waker;

#[test]
fn g18_a_dispatcher_that_has_handed_out_all_sleeps() {
    let mut shard = Shard::new(1, 8);
    let ticket = shard.submit(0);
    assert!(!shard.poll(|| ()));
    shard.run(ticket).unwrap();
}

#[test]
fn g05_a_command_that_comes_while_a_dispatcher_hands_out_is_taken() {
    let mut shard = Shard::new(1, 8);
    let ticket = shard.submit(0);
    let (tell, told) = mpsc::channel();
    let pool = shard.pool.clone();
    assert!(shard.poll(move || tell.send(pool.try_submit(Job::plain(1)).unwrap()).unwrap()));
    shard.run(told.recv().unwrap()).unwrap();
    shard.run(ticket).unwrap();
}

#[test]
fn g05_a_busy_aggregate_that_is_let_go_while_a_dispatcher_hands_out_has_its_next_turn() {
    let mut shard = Shard::new(1, 8);
    let tickets = [shard.submit(0), shard.submit(0)];
    let workers = shard.workers.clone();
    assert!(shard.poll(move || workers.poll()));
    shard.run_all(tickets);
}

#[test]
fn g02_what_is_ready_is_handed_out_when_workers_have_taken_half_of_what_was() {
    // More than are handed out at once, and than one poll takes.
    const AGGREGATES: u64 = 300;
    let mut shard = Shard::new(2, 512);
    let tickets: Vec<_> = (0..AGGREGATES).map(|id| shard.submit(id)).collect();
    assert!(shard.poll(|| ()));
    let workers = shard.workers.clone();
    assert!(shard.poll(move || workers.poll()));
    shard.run_all(tickets);
}

#[test]
fn g18_a_dispatcher_sleeps_while_workers_have_more_than_half_of_what_it_can_hand_out() {
    let mut shard = Shard::new(2, 512);
    let tickets: Vec<_> = (0..300).map(|id| shard.submit(id)).collect();
    assert!(shard.poll(|| ()));
    assert!(!shard.poll(|| ()));
    shard.run_all(tickets);
}

#[test]
fn g13_who_comes_to_wait_for_room_while_a_dispatcher_hands_out_is_seen() {
    let mut shard = Shard::new(1, 1);
    let ticket = shard.submit(0);
    let (pool, waiting) = (shard.pool.clone(), Arc::new(Mutex::new(None)));
    let slot = Arc::clone(&waiting);
    assert!(shard.poll(move || {
        let mut submission = Box::pin(async move { pool.submit(Job::plain(1)).await });
        assert!(poll_once(&mut submission, Waker::noop()).is_pending());
        *slot.lock().unwrap() = Some(submission);
    }));
    let submission = waiting.lock().unwrap().take().unwrap();
    let accepted = shard.run(submission).unwrap();
    shard.run(accepted).unwrap();
    shard.run(ticket).unwrap();
}

/// A shard with room for one command, which it has, and a submission that waits.
fn full() -> (Shard, Ticket, impl Future<Output = Result<Ticket, SubmitError<Job>>> + Unpin) {
    let shard = Shard::new(1, 1);
    let ticket = shard.submit(0);
    let pool = shard.pool.clone();
    let mut submission = Box::pin(async move { pool.submit(Job::plain(1)).await });
    assert!(poll_once(&mut submission, Waker::noop()).is_pending());
    (shard, ticket, submission)
}

#[test]
fn g18_a_dispatcher_sleeps_while_there_is_no_room_for_who_waits() {
    let (mut shard, ticket, submission) = full();
    assert!(!shard.poll(|| ()));
    shard.run(ticket).unwrap();
    let accepted = shard.run(submission).unwrap();
    shard.run(accepted).unwrap();
}

#[test]
fn g13_room_that_is_given_back_while_a_dispatcher_hands_out_is_granted() {
    let (mut shard, ticket, submission) = full();
    let workers = shard.workers.clone();
    assert!(shard.poll(move || workers.poll()));
    let accepted = shard.run(submission).unwrap();
    shard.run(accepted).unwrap();
    shard.run(ticket).unwrap();
}

#[test]
fn g15_a_drain_that_begins_while_a_dispatcher_hands_out_refuses_who_waits() {
    let (mut shard, ticket, submission) = full();
    let pool = shard.pool.clone();
    assert!(shard.poll(move || drop(pool.drain())));
    assert!(matches!(shard.run(submission), Err(SubmitError::Closed(_))));
    shard.run(ticket).unwrap();
}

#[test]
fn g15_a_drain_of_what_ends_while_a_dispatcher_hands_out_ends() {
    let mut shard = Shard::new(1, 8);
    let ticket = shard.submit(0);
    let (pool, workers) = (shard.pool.clone(), shard.workers.clone());
    assert!(shard.poll(move || {
        workers.poll();
        drop(pool.drain());
    }));
    let drain = shard.pool.drain();
    assert_eq!(shard.run(drain).unwrap().committed, 1);
    shard.run(ticket).unwrap();
}

#[test]
fn g16_an_abort_while_a_dispatcher_hands_out_is_carried_out() {
    let mut shard = Shard::new(1, 8);
    let tickets = [shard.submit(0), shard.submit(0)];
    let pool = shard.pool.clone();
    assert!(shard.poll(move || drop(pool.abort())));
    for ticket in tickets {
        assert_eq!(shard.run(ticket), Err(CommandError::Aborted { started: false }));
    }
}

#[test]
fn g08_a_withdrawal_while_a_dispatcher_hands_out_has_it_look_again() {
    let mut shard = Shard::new(1, 2);
    let (ticket, other) = (shard.submit(0), Arc::new(shard.submit(0)));
    let withdrawn = Arc::clone(&other);
    assert!(shard.poll(move || assert!(withdrawn.withdraw())));
    shard.run(ticket).unwrap();
}

#[test]
fn g05_what_was_accepted_runs_on_the_workers_that_are_left() {
    let mut shard = Shard::new(2, 8);
    let tickets = [0, 0, 1, 1].map(|id| shard.submit(id));
    shard.workers.lose_one();
    shard.run_all(tickets);
    assert!(matches!(shard.pool.try_submit(Job::plain(0)), Err(TrySubmitError::Closed(_))));
}
