//! Who is woken for what a dispatcher hands out: no more than it takes (G18), as a wake-up costs more
//! than all else.

use crate::by_hand::Shard;

#[test]
fn g18_one_command_wakes_one_worker_and_the_dispatcher_sleeps() {
    let mut shard = Shard::new(3, 8);
    let ticket = shard.submit(0);
    assert_eq!((shard.poll_dispatcher(), shard.workers.wakes()), (false, 1));
    shard.run(ticket).unwrap();
}

#[test]
fn g02_each_poll_wakes_one_worker_more_while_what_was_handed_out_waits() {
    let mut shard = Shard::new(4, 16);
    let mut tickets: Vec<_> = (0..3).map(|id| shard.submit(id)).collect();
    assert_eq!((shard.poll_dispatcher(), shard.workers.wakes()), (true, 1));
    // More comes: the worker that is woken for what is left is awake for that as well.
    tickets.push(shard.submit(3));
    assert_eq!((shard.poll_dispatcher(), shard.workers.wakes()), (true, 2));
    assert_eq!((shard.poll_dispatcher(), shard.workers.wakes()), (true, 3));
    assert_eq!((shard.poll_dispatcher(), shard.workers.wakes()), (false, 4));
    shard.run_all(tickets);
}

#[test]
fn g18_a_dispatcher_with_nothing_to_hand_out_wakes_nobody() {
    let mut shard = Shard::new(2, 8);
    let ticket = shard.submit(0);
    shard.run(ticket).unwrap();
    let before = shard.workers.wakes();
    assert_eq!((shard.poll_dispatcher(), shard.workers.wakes()), (false, before));
}

#[test]
fn g18_a_worker_that_is_awake_takes_what_comes_without_being_woken() {
    let mut shard = Shard::new(1, 8);
    let tickets = [0, 1].map(|id| {
        let ticket = shard.submit(id);
        assert!(!shard.poll_dispatcher());
        ticket
    });
    assert_eq!(shard.workers.wakes(), 1);
    shard.run_all(tickets);
}
