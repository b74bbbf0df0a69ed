//! The boards on which handlers publish their waits.

use crate::loom::check::check;
use crate::reentry::{Frame, Peers, Target, Verdict, Watch};
use crate::shard::front::Front;
use crate::sync::Arc;
use loom::thread;
use std::cell::Cell;

/// As the handler of an aggregate that begins to wait for a command of another one.
fn wait(peers: &Arc<Peers>, id: u8, other: u8) -> (Watch, Verdict) {
    let published = Cell::new(false);
    let frame = Frame {
        peers,
        shard: 0,
        worker: usize::from(id),
        id: &id,
        lane: u64::from(id) + 1,
        run: 1,
        behind: &|| 0,
        published: &published,
    };
    let target = || {
        let front = Arc::clone(&peers.fronts[0]);
        Target::Command { front, id: Some(Arc::new(other)), cell: None }
    };
    let mut watch = Watch::default();
    let verdict = frame.scope(|| watch.judge(|_| Some(target())));
    (watch, verdict)
}

#[test]
fn two_handlers_that_wait_for_each_other_are_not_both_let() {
    check(|| {
        // One worker more than there are handlers: none is refused for want of one.
        let fronts = Box::new([Arc::new(Front::new(4, 3))]);
        let peers = Arc::new(Peers::new(fronts, 3));
        let other = Arc::clone(&peers);
        let other = thread::spawn(move || wait(&other, 1, 0));
        let (_watch, first) = wait(&peers, 0, 1);
        let (_watch, second) = other.join().unwrap();
        assert!(first == Verdict::Stuck || second == Verdict::Stuck);
    });
}
