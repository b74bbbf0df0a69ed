//! The boards on which handlers publish their waits.

use crate::loom::check::check;
use crate::reentry::tests::{Verdict, as_handler, as_handler_at, command};
use crate::reentry::{Peers, Watch, has_worker};
use crate::shard::front::Front;
use crate::sync::Arc;
use loom::thread;

/// As the handler of an aggregate of the first shard that polls a wait for a command of another one.
fn poll(watch: &mut Watch, peers: &Arc<Peers>, id: u8, other: u8) -> Verdict {
    poll_at(watch, peers, id, other, 0)
}

/// The same, with the shard of the other one.
fn poll_at(watch: &mut Watch, peers: &Arc<Peers>, id: u8, other: u8, shard: usize) -> Verdict {
    as_handler(peers, id, || watch.judge(|_| Some(command(peers, shard, other))))
}

/// The first poll of one.
fn wait(peers: &Arc<Peers>, id: u8, other: u8) -> (Watch, Verdict) {
    let mut watch = Watch::default();
    let verdict = poll(&mut watch, peers, id, other);
    (watch, verdict)
}

/// A shard with so many workers.
fn peers(workers: usize) -> Arc<Peers> {
    let fronts = Box::new([Arc::new(Front::new(4, workers))]);
    Arc::new(Peers::new(fronts, workers))
}

/// The first shard loses a worker; then its dispatcher judges whether one is left.
fn lose_a_worker(peers: &Peers) -> thread::JoinHandle<bool> {
    let front = Arc::clone(&peers.fronts[0]);
    thread::spawn(move || {
        front.worker_lost();
        has_worker(&front)
    })
}

#[test]
fn two_handlers_that_wait_for_each_other_are_not_both_let() {
    check(|| {
        // One worker more than there are handlers: none is refused for want of one.
        let peers = peers(3);
        let other = Arc::clone(&peers);
        let other = thread::spawn(move || wait(&other, 1, 0));
        let (mut of_first, mut first) = wait(&peers, 0, 1);
        let (mut of_second, mut second) = other.join().unwrap();
        // Who gives way is polled again.
        while first == Verdict::Unknown {
            first = poll(&mut of_first, &peers, 0, 1);
        }
        while second == Verdict::Unknown {
            second = poll(&mut of_second, &peers, 1, 0);
        }
        assert!(first == Verdict::Stuck || second == Verdict::Stuck);
    });
}

#[test]
fn a_handler_that_waits_for_a_member_of_a_circle_is_not_refused_for_it() {
    check(|| {
        let peers = peers(4);
        let (_watch, waits) = wait(&peers, 1, 0);
        assert_eq!(waits, Verdict::Fine);
        let others = Arc::clone(&peers);
        // Closes the circle, and goes on.
        let closer = thread::spawn(move || wait(&others, 0, 1).1);
        let (_watch, bystander) = wait(&peers, 2, 0);
        assert_ne!(bystander, Verdict::Stuck);
        assert_eq!(closer.join().unwrap(), Verdict::Stuck);
    });
}

#[test]
fn waits_that_come_one_after_the_other_are_no_circle() {
    check(|| {
        let peers = peers(4);
        let third = Arc::clone(&peers);
        let third = thread::spawn(move || wait(&third, 2, 0));
        let (watch, first) = wait(&peers, 0, 1);
        drop(watch);
        let (_watch, second) = wait(&peers, 1, 0);
        let (_watch, third) = third.join().unwrap();
        assert_eq!([first, second, third], [Verdict::Fine; 3]);
    });
}

#[test]
fn a_wait_that_is_refused_is_none_that_a_dispatcher_counts() {
    check(|| {
        let peers = peers(1);
        let front = Arc::clone(&peers.fronts[0]);
        let dispatcher = thread::spawn(move || has_worker(&front));
        // For its own aggregate. It goes on.
        assert_eq!(wait(&peers, 0, 0).1, Verdict::Stuck);
        assert!(dispatcher.join().unwrap());
    });
}

#[test]
fn a_wait_that_counts_on_a_lost_worker_is_judged_again() {
    check(|| {
        let peers = peers(2);
        let dispatcher = lose_a_worker(&peers);
        // For an aggregate that is not busy.
        let (watch, verdict) = wait(&peers, 0, 1);
        let left = dispatcher.join().unwrap();
        // The dispatcher knows that nobody can end, or is told to look again.
        assert!(verdict == Verdict::Stuck || !left || peers.fronts[0].take_review());
        drop(watch);
    });
}

#[test]
fn a_wait_that_is_not_settled_hides_none_of_its_handler_that_is() {
    check(|| {
        let fronts = Box::new([Arc::new(Front::new(4, 2)), Arc::new(Front::new(4, 1))]);
        let peers = Arc::new(Peers::new(fronts, 3));
        // For an aggregate that is not busy: counts on the other worker, which is lost.
        let (first, verdict) = wait(&peers, 0, 1);
        assert_eq!(verdict, Verdict::Fine);
        let dispatcher = lose_a_worker(&peers);
        // In another shard, and soon over.
        let mut second = Watch::default();
        let verdict = poll_at(&mut second, &peers, 0, 7, 1);
        assert_eq!(verdict, Verdict::Fine);
        drop(second);
        let left = dispatcher.join().unwrap();
        assert!(!left || peers.fronts[0].take_review());
        drop(first);
    });
}

#[test]
fn a_circle_through_another_shard_that_a_loss_closes_is_seen_by_the_last_to_close_it() {
    check(|| {
        let fronts = Box::new([Arc::new(Front::new(4, 2)), Arc::new(Front::new(4, 1))]);
        let peers = Arc::new(Peers::new(fronts, 3));
        let dispatcher = lose_a_worker(&peers);
        let others = Arc::clone(&peers);
        // Has the only worker of the other shard, and counts on the one that is lost.
        let other = thread::spawn(move || {
            let mut watch = Watch::default();
            let poll = || watch.judge(|_| Some(command(&others, 0, 9)));
            let verdict = as_handler_at(&others, 1, 0, 5, poll);
            (watch, verdict)
        });
        let mut of_first = Watch::default();
        let first = poll_at(&mut of_first, &peers, 0, 7, 1);
        let (_of_second, second) = other.join().unwrap();
        let left = dispatcher.join().unwrap();
        if first == Verdict::Fine && second == Verdict::Fine {
            assert!(!left || peers.fronts[0].take_review());
        }
    });
}
