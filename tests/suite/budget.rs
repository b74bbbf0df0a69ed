//! One poll of a future of the pool's does so much and no more: whoever shares its thread has a turn (G18).

use crate::by_hand::ByHand;
use crate::tools::{Touch, poll_once};
use shardpool::{Context, Failure, ShardPool, handler_fn};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Waker;

/// Polls a task until a count has come to `all`; the most that one poll has added.
fn most_in_one_poll(all: usize, count: &AtomicUsize, mut poll: impl FnMut()) -> usize {
    let now = || count.load(Ordering::SeqCst);
    let mut most = 0;
    while now() < all {
        let before = now();
        poll();
        most = most.max(now() - before);
    }
    most
}

#[test]
fn g18_a_poll_takes_and_carries_out_no_more_than_a_part_of_what_waits() {
    const COMMANDS: usize = 2_000;
    const PART: usize = COMMANDS / 4;
    let (taken, run) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (take, count) = (Arc::clone(&taken), Arc::clone(&run));
    let handler = handler_fn(move |_: &mut (), _: Touch, _: &Context| {
        count.fetch_add(1, Ordering::SeqCst);
        Ok::<_, Failure<()>>(())
    });
    let executor = ByHand::default();
    let pool = ShardPool::builder(handler)
        .shards(1)
        .workers_per_shard(1)
        .queue_depth(COMMANDS)
        .max_turn(COMMANDS)
        .on_dispatched(move |_| {
            take.fetch_add(1, Ordering::SeqCst);
        })
        .start(executor.clone())
        .unwrap();
    for _ in 0..COMMANDS {
        drop(pool.try_submit(Touch).unwrap());
    }
    let mut tasks = executor.tasks();
    let most = most_in_one_poll(COMMANDS, &taken, || {
        assert!(poll_once(&mut tasks[0], Waker::noop()).is_pending());
    });
    assert!(most < PART, "the dispatcher has taken {most} in one poll");
    let most = most_in_one_poll(COMMANDS, &run, || {
        for task in &mut tasks {
            assert!(poll_once(task, Waker::noop()).is_pending());
        }
    });
    assert!(most < PART, "the worker has carried out {most} in one poll");
}
