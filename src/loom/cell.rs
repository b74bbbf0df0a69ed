//! The cell between a caller and the queue side.

use crate::cell::{Claimed, Draft, Envelope, Held, Refusal, Refused};
use crate::command::{Command, Receipt};
use crate::error::CommandError;
use crate::loom::check::{Counted, Parker, block_on, check};
use crate::shard::front::{Entry, Front};
use crate::stats::Kind;
use crate::sync::Arc;
use crate::types::TypesOf;
use loom::thread;
use std::future::poll_fn;
use std::task::{Context, Waker};

type Model = TypesOf<Tracked, Counted, ()>;

/// A command that must be dropped once; so must its output, which is what it carries.
struct Tracked(Counted);

impl Command for Tracked {
    type AggregateId = u8;

    fn aggregate_id(&self) -> &u8 {
        &1
    }
}

fn front() -> Arc<Front> {
    Arc::new(Front::new(1, 1))
}

/// An accepted command, and the way to tell what of it lives.
fn accepted(front: &Arc<Front>) -> (Held<Model>, Envelope<Model>, impl Fn() -> usize + use<>) {
    assert_eq!(front.try_enter(), Entry::Accepted);
    let (counted, living) = Counted::new();
    let (cell, envelope) = Draft::new(Tracked(counted), None, front).accepted();
    (cell, envelope, living)
}

/// A command that waits for room.
fn waiting(front: &Arc<Front>) -> (Held<Model>, Envelope<Model>, impl Fn() -> usize + use<>) {
    assert_eq!(front.try_enter(), Entry::Accepted);
    assert_eq!(front.enter_or_wait(), Entry::Full);
    let (counted, living) = Counted::new();
    let (cell, envelope) = Draft::new(Tracked(counted), None, front).waiting();
    (cell, envelope, living)
}

/// As a worker: counts the outcome, then publishes it.
fn commit(front: &Front, mut claimed: Claimed<Model>) {
    let tally = front.worker_tally(0);
    tally.start();
    let Tracked(output) = claimed.start();
    tally.end(Kind::Committed);
    claimed.complete(Ok(Receipt { version: 1, output }));
}

/// As a worker: carries the command out, if it is still there.
fn carry_out(front: &Arc<Front>, envelope: Envelope<Model>) -> impl FnOnce() + Send + 'static {
    let front = Arc::clone(front);
    move || {
        if let Some(claimed) = envelope.claim(&front, 0) {
            commit(&front, claimed);
        }
    }
}

fn outcome(cell: &Held<Model>) -> Result<Receipt<Counted>, CommandError<()>> {
    block_on(poll_fn(|cx| cell.poll_outcome(cx)))
}

/// Polls once, with a waker that nobody waits for; gives it to be counted.
fn poll_once(cell: &Held<Model>) -> (Arc<Parker>, bool) {
    let parker = Arc::new(Parker::default());
    let waker = Waker::from(Arc::clone(&parker));
    let polled = cell.poll_outcome(&mut Context::from_waker(&waker));
    (parker, polled.is_ready())
}

#[test]
fn an_outcome_wakes_a_caller_that_falls_asleep() {
    check(|| {
        let front = front();
        let (cell, envelope, living) = accepted(&front);
        thread::spawn(carry_out(&front, envelope));
        let receipt = outcome(&cell).ok().unwrap();
        // Who has seen an outcome sees it counted.
        assert_eq!((front.outcomes().committed, front.queued(), front.running()), (1, 0, 0));
        drop((receipt, cell));
        assert_eq!(living(), 0);
    });
}

#[test]
fn an_outcome_wakes_whoever_polled_last_and_no_waker_is_left() {
    check(|| {
        let front = front();
        let (cell, envelope, living) = accepted(&front);
        let worker = thread::spawn(carry_out(&front, envelope));
        let (parker, over) = poll_once(&cell);
        if !over {
            assert!(outcome(&cell).is_ok());
        }
        drop(cell);
        worker.join().unwrap();
        assert_eq!((Arc::strong_count(&parker), living()), (1, 0));
    });
}

#[test]
fn a_ticket_that_is_dropped_leaves_nothing() {
    check(|| {
        let front = front();
        let (cell, envelope, living) = accepted(&front);
        let worker = thread::spawn(carry_out(&front, envelope));
        let (parker, _) = poll_once(&cell);
        drop(cell);
        worker.join().unwrap();
        assert_eq!((Arc::strong_count(&parker), living()), (1, 0));
    });
}

#[test]
fn a_command_is_withdrawn_or_carried_out_and_its_room_is_given_back_once() {
    check(|| {
        let front = front();
        let (cell, envelope, living) = accepted(&front);
        let worker = thread::spawn(carry_out(&front, envelope));
        let withdrawn = cell.withdraw();
        match outcome(&cell) {
            Ok(_) => assert!(!withdrawn),
            Err(error) => assert!(withdrawn && error == CommandError::Cancelled),
        }
        drop(cell);
        worker.join().unwrap();
        assert_eq!((front.outcomes().total(), front.queued(), living()), (1, 0, 0));
        assert!(!front.has_tombstones());
        // Exactly as much as was taken.
        assert_eq!((front.try_enter(), front.try_enter()), (Entry::Accepted, Entry::Full));
    });
}

#[test]
fn a_withdrawal_wakes_who_awaits_the_ticket() {
    check(|| {
        let front = front();
        let (cell, envelope, _) = accepted(&front);
        let cell = Arc::new(cell);
        let (withdrawing, worker) = (Arc::clone(&cell), carry_out(&front, envelope));
        let (parker, over) = poll_once(&cell);
        assert!(!over);
        thread::spawn(move || withdrawing.withdraw());
        thread::spawn(worker);
        parker.park();
        assert!(cell.is_done());
    });
}

#[test]
fn a_submission_is_granted_or_given_up() {
    check(|| {
        let front = front();
        let (cell, envelope, living) = waiting(&front);
        let queue = thread::spawn(move || {
            let granted = envelope.begin_grant();
            if granted {
                envelope.grant();
            }
            // It ends as aborted, or is buried.
            drop(envelope);
            granted
        });
        let abandoned = cell.abandon();
        if !abandoned {
            assert!(block_on(poll_fn(|cx| cell.poll_granted(cx))).is_ok());
            assert!(outcome(&cell).is_err());
        }
        assert_eq!(queue.join().unwrap(), !abandoned);
        drop(cell);
        assert_eq!(living(), 0);
    });
}

/// As when a dispatcher is dropped, or panics in the middle of a decision.
fn drop_waiting(begin: bool) {
    check(move || {
        let front = front();
        let (cell, envelope, living) = waiting(&front);
        let queue = thread::spawn(move || {
            // False if the submission was given up before.
            let _ = begin && envelope.begin_grant();
            drop(envelope);
        });
        if cell.abandon() {
            front.stop_waiting();
        } else {
            let refused = block_on(poll_fn(|cx| cell.poll_granted(cx)));
            assert!(matches!(refused, Err(Refused::Closed(_))));
        }
        queue.join().unwrap();
        assert!(!front.has_waiting());
        drop(cell);
        assert_eq!(living(), 0);
    });
}

#[test]
fn a_waiting_submission_whose_envelope_is_dropped_is_refused_or_given_up() {
    drop_waiting(false);
}

#[test]
fn a_submission_whose_envelope_is_dropped_in_a_decision_is_refused_or_given_up() {
    drop_waiting(true);
}

#[test]
fn a_grant_wakes_a_submission_that_falls_asleep_and_then_it_is_answered() {
    check(|| {
        let front = front();
        let (cell, envelope, living) = waiting(&front);
        let worker = Arc::clone(&front);
        thread::spawn(move || {
            assert!(envelope.begin_grant());
            envelope.grant();
            carry_out(&worker, envelope)();
        });
        assert!(block_on(poll_fn(|cx| cell.poll_granted(cx))).is_ok());
        assert!(outcome(&cell).is_ok());
        drop(cell);
        assert_eq!(living(), 0);
    });
}

#[test]
fn a_refusal_wakes_a_submission_that_falls_asleep_and_gives_its_command_back() {
    check(|| {
        let front = front();
        let (cell, envelope, living) = waiting(&front);
        thread::spawn(move || {
            assert!(envelope.begin_grant());
            envelope.refuse(Refusal::Expired);
        });
        match block_on(poll_fn(|cx| cell.poll_granted(cx))) {
            Err(Refused::Expired(command)) => drop(command),
            _ => panic!("not refused"),
        }
        drop(cell);
        assert_eq!(living(), 0);
    });
}

#[test]
fn the_last_of_three_holders_frees_the_cell() {
    check(|| {
        let front = front();
        let (cell, envelope, living) = accepted(&front);
        let probe = cell.probe();
        let prober = thread::spawn(move || drop(probe.clone()));
        let worker = thread::spawn(carry_out(&front, envelope));
        drop(cell);
        prober.join().unwrap();
        worker.join().unwrap();
        assert_eq!(living(), 0);
    });
}
