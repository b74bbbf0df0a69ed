//! Waits inside handlers: what could never end is refused, what can end does (G9).

use crate::by_hand::{ByHand, Shard};
use crate::harness::{Bed, Door, On, load, run, suite, until, yield_at_random};
use crate::tools::{
    Error, Flag, Job, Peek, Pool, Script, Ticket, WakeWith, assert_quiet, id_on, poll_once, pool,
    was_refused,
};
use futures::channel::oneshot;
use futures::future::BoxFuture;
use shardpool::executors::{Executor, SpawnError, Task, Threads};
use shardpool::{
    CommandError, DrainError, Failure, Loaded, SendError, Sending, ShardPool, Submission,
    SubmitError, loader_fn,
};
use std::future::pending;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Poll, Wake, Waker};

suite!(
    g09_a_send_to_the_own_aggregate_is_refused_and_gives_the_command_back,
    g09_a_ticket_of_the_own_aggregate_is_refused_and_its_command_runs,
    g09_a_blocking_wait_for_the_own_aggregate_is_refused,
    g09_a_drain_awaited_in_a_handler_is_refused_and_intake_closes,
    g09_a_drain_made_outside_and_awaited_in_a_handler_is_refused,
    g09_a_to_b_to_a_is_refused,
    g09_a_long_circle_is_refused_once,
    g09_a_circle_through_a_queued_command_is_refused,
    g09_a_circle_that_closes_at_one_moment_is_refused,
    g09_trap11_one_worker_that_sends_to_its_own_shard_is_refused,
    g09_all_workers_of_a_shard_in_waits_are_not_left_waiting,
    g09_two_shards_whose_workers_wait_for_each_other_are_not_left_waiting,
    g09_a_ticket_that_came_after_a_wait_for_room_is_refused_when_it_can_not_end,
    g09_a_wait_for_room_that_can_not_end_is_refused,
    g09_room_that_only_the_waiting_handler_itself_could_make_is_refused,
    g09_a_send_that_waits_for_room_behind_its_own_backlog_is_refused,
    g09_a_circle_through_the_room_of_another_shard_is_refused,
    g09_a_wait_for_room_that_can_end_is_not_refused,
    g09_a_ticket_made_outside_is_refused_when_it_can_not_end,
    g09_a_ticket_made_outside_is_not_refused_when_it_can_end,
    g09_a_submission_made_outside_is_refused_when_it_can_not_end,
    g09_a_ticket_moved_from_one_handler_to_another_is_judged_anew,
    g09_a_ticket_moved_from_a_handler_to_a_load_is_judged_anew,
    g09_waits_that_a_handler_gave_up_do_not_count,
    g09_a_wait_that_was_given_up_while_its_command_runs_does_not_count,
    g09_a_wait_that_was_leaked_does_not_outlive_its_handler,
    g09_several_waits_of_one_handler_at_once_are_seen,
    g09_no_false_refusal_of_a_chain_with_enough_workers,
    g09_no_false_refusal_of_the_last_free_worker,
    g09_no_false_refusal_of_random_nested_sends_without_circles,
    g09_under_load_random_nested_sends_with_circles_all_end,
    g09_under_load_random_nested_sends_with_circles_and_waits_for_room_all_end,
    g09_ids_with_one_hash_are_told_apart,
    g09_a_blocking_send_to_another_aggregate_ends_or_is_refused,
);

/// Sends to `to` from within a handler, and says whether that was refused.
fn sending_job<K>(pool: &Pool<K>, id: K, to: K) -> Job<K>
where
    K: Eq + Hash + Clone + Send + Sync + 'static,
{
    let pool = pool.clone();
    Job::new(id, |_| async move {
        yield_at_random().await;
        Ok(u64::from(was_refused(pool.send(Job::plain(to)).await)))
    })
}

async fn g09_a_send_to_the_own_aggregate_is_refused_and_gives_the_command_back(bed: Bed) {
    let pool = pool(bed.executor(), 2, 4, 64);
    bed.watch(Peek(pool.downgrade()));
    for id in 0..20 {
        let inner = pool.clone();
        let job = Job::new(id, move |_| async move {
            match inner.send(Job::plain(id).number(77)).await {
                Err(SendError::NotAccepted(SubmitError::Deadlock(job))) => Ok(job.number),
                other => panic!("{other:?}"),
            }
        });
        assert_eq!(pool.send(job).await.unwrap().output, 77);
    }
    assert_eq!(pool.drain().await.unwrap().total(), 20);
}

async fn g09_a_ticket_of_the_own_aggregate_is_refused_and_its_command_runs(bed: Bed) {
    let pool = pool(bed.executor(), 2, 4, 64);
    bed.watch(Peek(pool.downgrade()));
    for id in 0..20 {
        let inner = pool.clone();
        let job = Job::new(id, move |_| async move {
            let by_try = inner.try_submit(Job::plain(id)).unwrap();
            let by_wait = inner.submit(Job::plain(id)).await.unwrap();
            yield_at_random().await;
            assert_eq!(by_try.await.unwrap_err(), CommandError::Deadlock);
            assert_eq!(by_wait.await.unwrap_err(), CommandError::Deadlock);
            Ok(0)
        });
        pool.send(job).await.unwrap();
    }
    // What was accepted stays so.
    assert_eq!(pool.drain().await.unwrap().committed, 60);
}

async fn g09_a_blocking_wait_for_the_own_aggregate_is_refused(bed: Bed) {
    let pool = pool(bed.executor(), 1, 3, 64);
    bed.watch(Peek(pool.downgrade()));
    let inner = pool.clone();
    let job = Job::new(1, move |_| async move {
        let refused = was_refused(inner.blocking_send(Job::plain(1)));
        let ticket = inner.blocking_submit(Job::plain(1)).unwrap();
        assert_eq!(ticket.blocking_wait().unwrap_err(), CommandError::Deadlock);
        assert_eq!(inner.drain().blocking_wait().unwrap_err(), DrainError::Deadlock);
        Ok(u64::from(refused))
    });
    assert_eq!(pool.send(job).await.unwrap().output, 1);
    assert_eq!(pool.drain().await.unwrap().committed, 2);
}

async fn g09_a_drain_awaited_in_a_handler_is_refused_and_intake_closes(bed: Bed) {
    for abort in [false, true] {
        let pool = pool(bed.executor(), 2, 2, 64);
        bed.watch(Peek(pool.downgrade()));
        let inner = pool.clone();
        let job = Job::new(1, move |_| async move {
            yield_at_random().await;
            let end = if abort { inner.abort() } else { inner.drain() };
            assert_eq!(end.await.unwrap_err(), DrainError::Deadlock);
            assert!(inner.try_submit(Job::plain(2)).is_err());
            Ok(5)
        });
        assert_eq!(pool.send(job).await.unwrap().output, 5);
        assert!(pool.is_closed());
        assert_eq!(pool.drain().await.unwrap().committed, 1);
    }
}

async fn g09_a_drain_made_outside_and_awaited_in_a_handler_is_refused(bed: Bed) {
    let pool = pool(bed.executor(), 2, 2, 64);
    bed.watch(Peek(pool.downgrade()));
    let (sender, drain) = futures::channel::oneshot::channel::<shardpool::Drain>();
    let job = Job::new(1, |_| async move {
        assert_eq!(drain.await.unwrap().await.unwrap_err(), DrainError::Deadlock);
        Ok(0)
    });
    let ticket = pool.try_submit(job).unwrap();
    let mut drain = pool.drain();
    assert!(poll_once(&mut drain, Waker::noop()).is_pending());
    sender.send(drain).unwrap();
    ticket.await.unwrap();
    pool.drain().await.unwrap();
}

async fn g09_a_to_b_to_a_is_refused(bed: Bed) {
    let pool = pool(bed.executor(), 2, 4, 256);
    bed.watch(Peek(pool.downgrade()));
    for n in 0..20 {
        let (a, b, outer) = (2 * n, 2 * n + 1, pool.clone());
        let job = Job::new(a, move |_| async move {
            // B says that it was refused; A's own wait ends well.
            Ok(outer.send(sending_job(&outer, b, a)).await.unwrap().output)
        });
        assert_eq!(pool.send(job).await.unwrap().output, 1);
    }
    assert_eq!(pool.drain().await.unwrap().total(), 40);
}

async fn g09_a_long_circle_is_refused_once(bed: Bed) {
    /// Each sends to the next, and the last to the first.
    fn link(pool: Pool, at: u64, last: u64) -> Job {
        Job::new(at, move |_| async move {
            if at == last {
                return Ok(u64::from(was_refused(pool.send(Job::plain(0)).await)));
            }
            let next = link(pool.clone(), at + 1, last);
            Ok(pool.send(next).await.unwrap().output)
        })
    }
    let pool = pool(bed.executor(), 2, 8, 64);
    bed.watch(Peek(pool.downgrade()));
    for last in 1..6 {
        assert_eq!(pool.send(link(pool.clone(), 0, last)).await.unwrap().output, 1);
    }
}

async fn g09_a_circle_through_a_queued_command_is_refused(bed: Bed) {
    // B#1 runs. A#1 waits for B#2, which is queued behind B#1. Then B#1 sends to A.
    let pool = pool(bed.executor(), 1, 4, 64);
    bed.watch(Peek(pool.downgrade()));
    for round in 0..20 {
        let (a, b) = (2 * round, 2 * round + 1);
        let (door, asks) = (Door::closed(), Flag::default());
        let (of_b, inner) = (door.clone(), pool.clone());
        let b1 = Job::new(b, move |_| async move {
            of_b.pass().await;
            Ok(u64::from(was_refused(inner.send(Job::plain(a)).await)))
        });
        let b1 = pool.try_submit(b1).unwrap();
        let (of_a, inner) = (asks.clone(), pool.clone());
        let a1 = Job::new(a, move |_| async move {
            let mut sending = inner.send(Job::plain(b));
            assert!(poll_once(&mut sending, Waker::noop()).is_pending());
            of_a.set();
            Ok(u64::from(was_refused(sending.await)))
        });
        let a1 = pool.try_submit(a1).unwrap();
        until(|| door.arrived() == 1 && asks.is_set()).await;
        door.open();
        // B#1 closes the circle and is refused; A, who waited first, is served.
        assert_eq!((b1.await.unwrap().output, a1.await.unwrap().output), (1, 0));
    }
}

async fn g09_a_circle_that_closes_at_one_moment_is_refused(bed: Bed) {
    let pool = pool(bed.executor(), 2, 4, 64);
    bed.watch(Peek(pool.downgrade()));
    for round in 0..load(300, 5_000) as u64 {
        let (a, b) = (2 * (round % 8), 2 * (round % 8) + 1);
        let start = Door::closed();
        let side = |id, to| {
            let (pool, start) = (pool.clone(), start.clone());
            Job::new(id, move |_| async move {
                start.pass().await;
                Ok(u64::from(was_refused(pool.send(Job::plain(to)).await)))
            })
        };
        let (to_b, to_a) =
            (pool.try_submit(side(a, b)).unwrap(), pool.try_submit(side(b, a)).unwrap());
        until(|| start.arrived() == 2).await;
        start.open();
        let refused = to_b.await.unwrap().output + to_a.await.unwrap().output;
        assert!(refused >= 1, "both sides of a circle say they were served");
    }
}

async fn g09_trap11_one_worker_that_sends_to_its_own_shard_is_refused(bed: Bed) {
    let pool = pool(bed.executor(), 2, 1, 64);
    bed.watch(Peek(pool.downgrade()));
    let here = id_on(&pool, 0, &[]);
    let there = id_on(&pool, 0, &[here]);
    for round in 0..20 {
        let inner = pool.clone();
        let job = Job::new(here, move |_| async move {
            let mut refused = u64::from(was_refused(inner.send(Job::plain(there)).await));
            let ticket = inner.submit(Job::plain(there)).await.unwrap();
            refused += u64::from(ticket.await == Err(CommandError::Deadlock));
            Ok(refused)
        });
        let others: Vec<_> = (0..5).map(|_| pool.try_submit(Job::plain(there)).unwrap()).collect();
        assert_eq!(pool.send(job).await.unwrap().output, 2, "in round {round}");
        for ticket in others {
            ticket.await.unwrap();
        }
    }
}

/// Handlers that have all started before any of them sends.
fn at_once(pool: &Pool, pairs: impl IntoIterator<Item = (u64, u64)>, start: &Door) -> Vec<Ticket> {
    let side = |(id, to)| {
        let (inner, start) = (pool.clone(), start.clone());
        let job = Job::new(id, move |_| async move {
            start.pass().await;
            yield_at_random().await;
            Ok(u64::from(was_refused(inner.send(Job::plain(to)).await)))
        });
        pool.try_submit(job).unwrap()
    };
    pairs.into_iter().map(side).collect()
}

async fn refusals(tickets: Vec<Ticket>) -> u64 {
    let mut refused = 0;
    for ticket in tickets {
        refused += ticket.await.unwrap().output;
    }
    refused
}

async fn g09_all_workers_of_a_shard_in_waits_are_not_left_waiting(bed: Bed) {
    const WORKERS: u64 = 4;
    let pool = pool(bed.executor(), 1, WORKERS as usize, 64);
    bed.watch(Peek(pool.downgrade()));
    for _ in 0..100 {
        let start = Door::closed();
        let tickets = at_once(&pool, (0..WORKERS).map(|n| (n, 100 + n)), &start);
        until(|| start.arrived() == WORKERS).await;
        start.open();
        assert!(refusals(tickets).await >= 1, "all workers wait, and all were served");
        // One worker fewer, and nobody need be refused.
        let start = Door::closed();
        let tickets = at_once(&pool, (0..WORKERS - 1).map(|n| (n, 100 + n)), &start);
        until(|| start.arrived() == WORKERS - 1).await;
        start.open();
        assert_eq!(refusals(tickets).await, 0, "refused with a worker to spare");
    }
}

async fn g09_two_shards_whose_workers_wait_for_each_other_are_not_left_waiting(bed: Bed) {
    for workers in [1, 2, 3] {
        let pool = pool(bed.executor(), 2, workers, 64);
        bed.watch(Peek(pool.downgrade()));
        let mut ids = [Vec::new(), Vec::new()];
        for id in 0..1_000 {
            ids[pool.shard_of(&id)].push(id);
        }
        let here = ids[0][..workers].iter().zip(&ids[1][workers..]).map(|(a, b)| (*a, *b));
        let there = ids[1][..workers].iter().zip(&ids[0][workers..]).map(|(a, b)| (*a, *b));
        let all: Vec<_> = here.chain(there).collect();
        for _ in 0..50 {
            let start = Door::closed();
            let tickets = at_once(&pool, all.iter().copied(), &start);
            until(|| start.arrived() == 2 * workers as u64).await;
            start.open();
            assert!(refusals(tickets).await >= 1);
            // One of them less, and nobody need be refused.
            let start = Door::closed();
            let tickets = at_once(&pool, all[1..].iter().copied(), &start);
            until(|| start.arrived() == 2 * workers as u64 - 1).await;
            start.open();
            assert_eq!(refusals(tickets).await, 0, "refused with a worker to spare");
        }
    }
}

async fn g09_a_wait_for_room_that_can_not_end_is_refused(bed: Bed) {
    let pool = pool(bed.executor(), 1, 2, 3);
    bed.watch(Peek(pool.downgrade()));
    for round in 0..50 {
        let start = Door::closed();
        let side = |id: u64| {
            let (inner, start) = (pool.clone(), start.clone());
            Job::new(id, move |_| async move {
                start.pass().await;
                // More than there can be room for, of aggregates that no worker is free for.
                let mut refused = 0;
                for n in 0..4 {
                    match inner.submit(Job::plain(10 + n).number(n)).await {
                        Ok(ticket) => drop(ticket),
                        Err(SubmitError::Deadlock(back)) => {
                            assert_eq!(back.number, n);
                            refused += 1;
                        }
                        Err(other) => panic!("{other:?}"),
                    }
                }
                Ok(refused)
            })
        };
        let tickets =
            vec![pool.submit(side(0)).await.unwrap(), pool.submit(side(1)).await.unwrap()];
        until(|| start.arrived() == 2).await;
        start.open();
        assert!(refusals(tickets).await >= 1, "in round {round}");
        until(|| pool.stats()[0].queued == 0 && pool.stats()[0].running == 0).await;
    }
}

async fn g09_a_ticket_that_came_after_a_wait_for_room_is_refused_when_it_can_not_end(bed: Bed) {
    let pool = pool(bed.executor(), 1, 2, 1);
    bed.watch(Peek(pool.downgrade()));
    let door = Door::closed();
    let running = pool.try_submit(Job::at(9, &door)).unwrap();
    until(|| door.arrived() == 1).await;
    let inner = pool.clone();
    let job = Job::new(1, move |_| async move {
        // All the room there is.
        let queued = inner.try_submit(Job::plain(9)).unwrap();
        let own = inner.submit(Job::plain(1)).await.unwrap();
        queued.await.unwrap();
        Ok(u64::from(matches!(own.await, Err(CommandError::Deadlock))))
    });
    let waits = pool.try_submit(job).unwrap();
    until(|| pool.stats()[0].waiting == 1).await;
    door.open();
    running.await.unwrap();
    assert_eq!(waits.await.unwrap().output, 1);
    assert_eq!(pool.drain().await.unwrap().committed, 4);
}

/// Fills the shard with commands that are all behind the handler that calls this.
fn fill(pool: &Pool, id: u64) {
    while pool.try_submit(Job::plain(id)).is_ok() {}
}

async fn g09_room_that_only_the_waiting_handler_itself_could_make_is_refused(bed: Bed) {
    // Three workers are free, and there is nothing that they could start.
    let pool = pool(bed.executor(), 1, 4, 4);
    bed.watch(Peek(pool.downgrade()));
    let inner = pool.clone();
    let job = Job::new(1, move |_| async move {
        fill(&inner, 1);
        match inner.submit(Job::plain(2)).await {
            Err(SubmitError::Deadlock(_)) => Ok(1),
            other => panic!("{other:?}"),
        }
    });
    assert_eq!(pool.send(job).await.unwrap().output, 1);
    assert_eq!(pool.drain().await.unwrap().committed, 5);
}

async fn g09_a_send_that_waits_for_room_behind_its_own_backlog_is_refused(bed: Bed) {
    let pool = pool(bed.executor(), 1, 4, 4);
    bed.watch(Peek(pool.downgrade()));
    let inner = pool.clone();
    let job = Job::new(1, move |_| async move {
        fill(&inner, 1);
        Ok(u64::from(was_refused(inner.send(Job::plain(2)).await)))
    });
    assert_eq!(pool.send(job).await.unwrap().output, 1);
    assert_eq!(pool.drain().await.unwrap().committed, 5);
}

async fn g09_a_circle_through_the_room_of_another_shard_is_refused(bed: Bed) {
    // A, on shard 0, waits for C, on shard 1, whose handler needs room on shard 0; and that is full
    // of commands behind A.
    let pool = pool(bed.executor(), 2, 4, 4);
    bed.watch(Peek(pool.downgrade()));
    let a = id_on(&pool, 0, &[]);
    let (b, c) = (id_on(&pool, 0, &[a]), id_on(&pool, 1, &[]));
    let inner = pool.clone();
    let job = Job::new(a, move |_| async move {
        fill(&inner, a);
        Ok(inner.send(sending_job(&inner, c, b)).await.unwrap().output)
    });
    assert_eq!(pool.send(job).await.unwrap().output, 1);
}

async fn g09_a_wait_for_room_that_can_end_is_not_refused(bed: Bed) {
    let pool = pool(bed.executor(), 1, 3, 2);
    bed.watch(Peek(pool.downgrade()));
    for _ in 0..30 {
        let inner = pool.clone();
        let job = Job::new(1, move |_| async move {
            // For others, and never full for good: two workers are free.
            for n in 0..50 {
                drop(inner.submit(Job::plain(10 + n % 4)).await.unwrap());
            }
            Ok(0)
        });
        pool.send(job).await.unwrap();
    }
    assert_eq!(pool.drain().await.unwrap().committed, 30 * 51);
}

/// A job that awaits a ticket that it is given after it has started.
fn awaiting_job(id: u64) -> (Job, futures::channel::oneshot::Sender<Ticket>) {
    let (sender, ticket) = futures::channel::oneshot::channel::<Ticket>();
    let job = Job::new(id, |_| async move {
        match ticket.await.unwrap().await {
            Ok(_) => Ok(0),
            Err(CommandError::Deadlock) => Ok(1),
            Err(other) => panic!("{other:?}"),
        }
    });
    (job, sender)
}

async fn g09_a_ticket_made_outside_is_refused_when_it_can_not_end(bed: Bed) {
    let pool = pool(bed.executor(), 1, 2, 64);
    bed.watch(Peek(pool.downgrade()));
    for polled in [false, true].into_iter().cycle().take(20) {
        // Of its own aggregate,
        let (job, sender) = awaiting_job(1);
        let first = pool.try_submit(job).unwrap();
        let mut second = pool.try_submit(Job::plain(1)).unwrap();
        // (also one that was awaited outside before)
        assert!(!polled || poll_once(&mut second, Waker::noop()).is_pending());
        assert!(sender.send(second).is_ok());
        assert_eq!(first.await.unwrap().output, 1);

        // and of one whose handler waits for it.
        let (job_a, to_a) = awaiting_job(1);
        let (job_b, to_b) = awaiting_job(2);
        let (a1, b1) = (pool.try_submit(job_a).unwrap(), pool.try_submit(job_b).unwrap());
        let (a2, b2) =
            (pool.try_submit(Job::plain(1)).unwrap(), pool.try_submit(Job::plain(2)).unwrap());
        assert!(to_a.send(b2).is_ok() && to_b.send(a2).is_ok());
        assert!(a1.await.unwrap().output + b1.await.unwrap().output >= 1);
    }
}

async fn g09_a_ticket_made_outside_is_not_refused_when_it_can_end(bed: Bed) {
    let pool = pool(bed.executor(), 2, 2, 64);
    bed.watch(Peek(pool.downgrade()));
    for n in 0..50 {
        let (job, sender) = awaiting_job(1);
        let first = pool.try_submit(job).unwrap();
        let other = pool.try_submit(Job::plain(2 + n % 5)).unwrap();
        assert!(sender.send(other).is_ok());
        assert_eq!(first.await.unwrap().output, 0);
    }
}

async fn g09_a_submission_made_outside_is_refused_when_it_can_not_end(bed: Bed) {
    // A handler that waits for a submission of somebody else's needs a pool that outlives it.
    let pool: &'static Pool = Box::leak(Box::new(pool(bed.executor(), 1, 1, 1)));
    bed.watch(pool.clone());
    let (hand_in, handed_in) = oneshot::channel::<Submission<'static, Job, u64, Error>>();
    let job = Job::new(1, move |_| async move {
        match handed_in.await.unwrap().await {
            Err(SubmitError::Deadlock(job)) => Ok(job.number),
            other => panic!("{other:?}"),
        }
    });
    let waits = pool.try_submit(job).unwrap();
    until(|| pool.stats()[0].running == 1).await;
    // Not behind the handler that waits: only the worker is missing.
    let queued = pool.try_submit(Job::plain(2)).unwrap();
    let mut submission = pool.submit(Job::plain(3).number(77));
    assert!(poll_once(&mut submission, Waker::noop()).is_pending());
    assert!(hand_in.send(submission).is_ok());
    assert_eq!(waits.await.unwrap().output, 77);
    queued.await.unwrap();
    pool.drain().await.unwrap();
}

async fn g09_a_ticket_moved_from_one_handler_to_another_is_judged_anew(bed: Bed) {
    // A polls a ticket of B, which is fine, and hands it to B, where it can't end.
    let pool = pool(bed.executor(), 1, 3, 64);
    bed.watch(Peek(pool.downgrade()));
    for _ in 0..20 {
        let (job_b, to_b) = awaiting_job(2);
        let b1 = pool.try_submit(job_b).unwrap();
        let mut b2 = pool.try_submit(Job::plain(2)).unwrap();
        let job_a = Job::new(1, |_| async move {
            for _ in 0..3 {
                assert!(poll_once(&mut b2, Waker::noop()).is_pending());
                yield_at_random().await;
            }
            assert!(to_b.send(b2).is_ok());
            Ok(0)
        });
        pool.send(job_a).await.unwrap();
        assert_eq!(b1.await.unwrap().output, 1);
    }
}

/// A ticket of A's is polled in B's handler, which is fine, and then in A's load, where it can't end. The
/// same worker does both, as the other one is busy.
async fn g09_a_ticket_moved_from_a_handler_to_a_load_is_judged_anew(bed: Bed) {
    let moved = Arc::new(Mutex::new(None::<Ticket>));
    let (of_loader, refused) = (Arc::clone(&moved), Flag::default());
    let mark = refused.clone();
    let loader = loader_fn(move |_: u64| {
        let (ticket, mark) = (of_loader.lock().unwrap().take(), mark.clone());
        async move {
            if let Some(ticket) = ticket
                && ticket.await == Err(CommandError::Deadlock)
            {
                mark.set();
            }
            Ok::<_, Error>(Loaded::new((), 0))
        }
    });
    let builder = ShardPool::builder(Script::new()).loader(loader).shards(1).workers_per_shard(2);
    let pool: Pool = builder.start(bed.executor()).unwrap();
    bed.watch(Peek(pool.downgrade()));
    let (door, of_b) = (Door::closed(), Door::closed());
    let busy = pool.try_submit(Job::at(3, &door)).unwrap();
    let (give, given) = oneshot::channel::<Ticket>();
    let begin = of_b.clone();
    let b = Job::new(2, move |_| async move {
        begin.pass().await;
        let mut ticket = given.await.unwrap();
        assert!(poll_once(&mut ticket, Waker::noop()).is_pending());
        *moved.lock().unwrap() = Some(ticket);
        Ok(0)
    });
    let b = pool.try_submit(b).unwrap();
    until(|| door.arrived() == 1 && of_b.arrived() == 1).await;
    assert!(give.send(pool.try_submit(Job::plain(1)).unwrap()).is_ok());
    // Until it is in its lane, for another has come after it: before, a wait for it is asked about again.
    let last = pool.try_submit(Job::plain(4)).unwrap();
    until(|| pool.stats()[0].resident == 4).await;
    of_b.open();
    b.await.unwrap();
    until(|| refused.is_set()).await;
    door.open();
    busy.await.unwrap();
    last.await.unwrap();
    assert_eq!(pool.drain().await.unwrap().committed, 4);
}

async fn g09_waits_that_a_handler_gave_up_do_not_count(bed: Bed) {
    let pool = pool(bed.executor(), 1, 2, 64);
    bed.watch(Peek(pool.downgrade()));
    for _ in 0..20 {
        let (door, waits) = (Door::closed(), Flag::default());
        let (of_a, inner, mark) = (door.clone(), pool.clone(), waits.clone());
        let job_a = Job::new(1, move |_| async move {
            let mut sending = inner.send(Job::plain(2));
            let _ = poll_once(&mut sending, Waker::noop());
            drop(sending);
            mark.set();
            of_a.pass().await;
            Ok(0)
        });
        let a = pool.try_submit(job_a).unwrap();
        until(|| waits.is_set()).await;
        // A waits for B no more: B may wait for A.
        let b = pool.try_submit(sending_job(&pool, 2, 1)).unwrap();
        until(|| pool.stats()[0].queued == 1 && pool.stats()[0].running == 2).await;
        door.open();
        a.await.unwrap();
        assert_eq!(b.await.unwrap().output, 0, "refused for a wait that was given up");
    }
}

/// A sends a command to B and lets go of the wait; the command, which still runs, then sends to A. True
/// if that was refused. A either ends with that, or first waits until it was judged.
async fn sent_back(bed: &Bed, let_go: fn(Sending<'_, Job, u64, Error>), a_stays: bool) -> bool {
    let pool = pool(bed.executor(), 1, 2, 64);
    bed.watch(Peek(pool.downgrade()));
    let (of_a, of_b, is_gone) = (Door::closed(), Door::closed(), Flag::default());
    let (tell, told) = oneshot::channel();
    let (back, judged, begin) = (pool.clone(), of_a.clone(), of_b.clone());
    let job_b = Job::new(2, move |_| async move {
        begin.pass().await;
        let mut sending = back.send(Job::plain(1));
        let first = poll_once(&mut sending, Waker::noop());
        judged.open();
        let result = if let Poll::Ready(result) = first { result } else { sending.await };
        tell.send(was_refused(result)).unwrap();
        Ok(0)
    });
    let (inner, mark) = (pool.clone(), is_gone.clone());
    let job_a = Job::new(1, move |_| async move {
        let mut sending = inner.send(job_b);
        assert!(poll_once(&mut sending, Waker::noop()).is_pending());
        let_go(sending);
        mark.set();
        if a_stays {
            of_a.pass().await;
        }
        Ok(0)
    });
    let a = pool.try_submit(job_a).unwrap();
    until(|| is_gone.is_set() && (a_stays || a.is_finished())).await;
    of_b.open();
    told.await.unwrap()
}

async fn g09_a_wait_that_was_given_up_while_its_command_runs_does_not_count(bed: Bed) {
    assert!(!sent_back(&bed, |sending| drop(sending), true).await);
}

async fn g09_a_wait_that_was_leaked_does_not_outlive_its_handler(bed: Bed) {
    assert!(!sent_back(&bed, |sending| std::mem::forget(sending), false).await);
}

async fn g09_several_waits_of_one_handler_at_once_are_seen(bed: Bed) {
    let pool = pool(bed.executor(), 1, 8, 64);
    bed.watch(Peek(pool.downgrade()));
    for _ in 0..20 {
        // A waits for B and C at once; C sends to A.
        let inner = pool.clone();
        let job = Job::new(1, move |_| async move {
            let (b, c) =
                futures::join!(inner.send(Job::plain(2)), inner.send(sending_job(&inner, 3, 1)));
            b.unwrap();
            Ok(c.unwrap().output)
        });
        assert_eq!(pool.send(job).await.unwrap().output, 1);
    }
}

/// A handler that sends to the next id, down to the last.
fn chain(pool: Pool, at: u64, last: u64) -> Job {
    Job::new(at, move |_| async move {
        yield_at_random().await;
        if at == last {
            return Ok(1);
        }
        let next = chain(pool.clone(), at + 1, last);
        match pool.send(next).await {
            Ok(receipt) => Ok(receipt.output + 1),
            Err(error) => panic!("a chain without a circle was refused: {error:?}"),
        }
    })
}

async fn g09_no_false_refusal_of_a_chain_with_enough_workers(bed: Bed) {
    for workers in 1..6 {
        let pool = pool(bed.executor(), 1, workers, 64);
        bed.watch(Peek(pool.downgrade()));
        for _ in 0..30 {
            // As long as there are workers, and no longer.
            let length = workers as u64;
            let receipt = pool.send(chain(pool.clone(), 0, length - 1)).await.unwrap();
            assert_eq!(receipt.output, length);
        }
    }
}

async fn g09_no_false_refusal_of_the_last_free_worker(bed: Bed) {
    // Three wait for one that runs, and for one that is queued behind it.
    let pool = pool(bed.executor(), 1, 4, 64);
    bed.watch(Peek(pool.downgrade()));
    for _ in 0..30 {
        let door = Door::closed();
        let last = pool.try_submit(Job::at(9, &door)).unwrap();
        until(|| door.arrived() == 1).await;
        let waiting: Vec<_> =
            (0..3).map(|id| pool.try_submit(sending_job(&pool, id, 9)).unwrap()).collect();
        until(|| pool.stats()[0].queued == 3).await;
        door.open();
        last.await.unwrap();
        assert_eq!(refusals(waiting).await, 0);
    }
}

/// Sends to ids above its own, so that no circle is possible; at most `layers` of them at once.
fn upwards(pool: Pool, layer: u64, layers: u64) -> Job {
    let id = layer * 10 + fastrand::u64(..6);
    Job::new(id, move |_| async move {
        yield_at_random().await;
        if layer + 1 == layers {
            return Ok(1);
        }
        let mut below = 0;
        for _ in 0..fastrand::u8(1..3) {
            let next = upwards(pool.clone(), layer + 1, layers);
            let receipt = if fastrand::bool() {
                pool.send(next).await.map_err(|error| panic!("refused: {error:?}"))
            } else {
                let ticket = pool.submit(next).await.unwrap();
                yield_at_random().await;
                ticket.await.map_err(|error| panic!("refused: {error:?}"))
            };
            below +=
                receipt.unwrap_or_else(|never: std::convert::Infallible| match never {}).output;
        }
        Ok(below + 1)
    })
}

async fn g09_no_false_refusal_of_random_nested_sends_without_circles(bed: Bed) {
    // Six aggregates in each of three layers: never more than 18 handlers at once, so that there
    // is a worker for each even if all are on one shard.
    const LAYERS: u64 = 3;
    let pool = pool(bed.executor(), 2, 6 * LAYERS as usize, 100_000);
    bed.watch(Peek(pool.downgrade()));
    let submitters: Vec<_> = (0..4)
        .map(|_| {
            let pool = pool.clone();
            bed.spawn(async move {
                let mut tickets = Vec::new();
                for _ in 0..200 {
                    tickets.push(pool.submit(upwards(pool.clone(), 0, LAYERS)).await.unwrap());
                    yield_at_random().await;
                }
                let mut handlers = 0;
                for ticket in tickets {
                    handlers += ticket.await.unwrap().output;
                }
                handlers
            })
        })
        .collect();
    let mut handlers = 0;
    for submitter in submitters {
        handlers += submitter.await;
    }
    let outcomes = pool.drain().await.unwrap();
    assert_eq!((outcomes.committed, outcomes.total()), (handlers, handlers));
}

async fn g09_under_load_random_nested_sends_with_circles_all_end(bed: Bed) {
    nested_sends_anywhere(bed, 100_000).await;
}

async fn g09_under_load_random_nested_sends_with_circles_and_waits_for_room_all_end(bed: Bed) {
    nested_sends_anywhere(bed, 20).await;
}

async fn nested_sends_anywhere(bed: Bed, depth: usize) {
    /// Sends anywhere, a few levels deep, and passes on how often that was refused. Holds its part
    /// of `left` until it has ended.
    fn anywhere(pool: Pool, depth: u8, left: Arc<()>) -> Job {
        Job::new(fastrand::u64(..12), move |_| async move {
            yield_at_random().await;
            if depth == 0 {
                return Ok(0);
            }
            let next = anywhere(pool.clone(), depth - 1, Arc::clone(&left));
            match pool.send(next).await {
                Ok(receipt) => Ok(receipt.output),
                Err(SendError::NotAccepted(SubmitError::Deadlock(_)))
                | Err(SendError::Command(CommandError::Deadlock)) => Ok(1),
                Err(other) => panic!("{other:?}"),
            }
        })
    }
    let pool = pool(bed.executor(), 2, 3, depth);
    bed.watch(Peek(pool.downgrade()));
    let left = Arc::new(());
    let submitters: Vec<_> = (0..8)
        .map(|_| {
            let (pool, left) = (pool.clone(), Arc::clone(&left));
            bed.spawn(async move {
                let mut tickets = Vec::new();
                for _ in 0..150 {
                    let job = anywhere(pool.clone(), 3, Arc::clone(&left));
                    tickets.push(pool.submit(job).await.unwrap());
                }
                refusals(tickets).await
            })
        })
        .collect();
    let mut refused = 0;
    for submitter in submitters {
        refused += submitter.await;
    }
    assert!(refused > 0, "no circle in all this: the load checks nothing");
    // What was refused its wait for a command has ended; that command runs on, and may send.
    until(|| Arc::strong_count(&left) == 1).await;
    let outcomes = pool.drain().await.unwrap();
    assert_eq!(outcomes.committed, outcomes.total());
    assert_quiet(&pool);
}

/// Ids that all hash alike.
#[derive(Clone, PartialEq, Eq)]
struct Alike(u64);

impl Hash for Alike {
    fn hash<H: Hasher>(&self, state: &mut H) {
        7.hash(state);
    }
}

async fn g09_ids_with_one_hash_are_told_apart(bed: Bed) {
    let pool: Pool<Alike> = ShardPool::builder(Script::new())
        .shards(2)
        .workers_per_shard(3)
        .start(bed.executor())
        .unwrap();
    bed.watch(Peek(pool.downgrade()));
    for n in 0..20 {
        let (a, b) = (Alike(n), Alike(n + 1));
        let other = pool.submit(sending_job(&pool, a.clone(), b.clone())).await.unwrap();
        assert_eq!(other.await.unwrap().output, 0, "refused for another of the same hash");
        let own = pool.submit(sending_job(&pool, a.clone(), a.clone())).await.unwrap();
        assert_eq!(own.await.unwrap().output, 1);
        let inner = pool.clone();
        let circle = Job::new(a.clone(), |_| async move {
            Ok(inner.send(sending_job(&inner, b, a)).await.unwrap().output)
        });
        assert_eq!(pool.send(circle).await.unwrap().output, 1);
    }
}

async fn g09_a_blocking_send_to_another_aggregate_ends_or_is_refused(bed: Bed) {
    // One thread of the executor's blocks; each has at least two. Tokio leaves what a blocked
    // thread has woken with that thread, so there it must be refused; nowhere may it hang.
    let refused = u64::from(bed.executor().threads() == 1);
    let pool = pool(bed.executor(), 1, 3, 64);
    bed.watch(Peek(pool.downgrade()));
    for n in 0..50 {
        let inner = pool.clone();
        let job = Job::new(1, move |_| async move {
            Ok(u64::from(was_refused(inner.blocking_send(Job::plain(2 + n % 4)))))
        });
        assert_eq!(pool.send(job).await.unwrap().output, refused);
    }
}

/// On plain threads every handler may block, so more of them at once.
#[test]
fn g09_on_threads_blocking_waits_end_or_are_refused_as_others_are() {
    async fn test(bed: Bed) {
        let pool = pool(bed.executor(), 1, 4, 64);
        bed.watch(Peek(pool.downgrade()));
        /// As `chain`, blocking.
        fn blocking_chain(pool: Pool, at: u64, last: u64) -> Job {
            Job::new(at, move |_| async move {
                if at == last {
                    return Ok(1);
                }
                let next = blocking_chain(pool.clone(), at + 1, last);
                match pool.blocking_submit(next).unwrap().blocking_wait() {
                    Ok(receipt) => Ok(receipt.output + 1),
                    Err(CommandError::Deadlock) => Err(Failure::Rejected(Error("refused"))),
                    Err(other) => panic!("{other:?}"),
                }
            })
        }
        let shortest = AtomicU64::new(0);
        for _ in 0..20 {
            let receipt = pool.send(blocking_chain(pool.clone(), 0, 3)).await.unwrap();
            assert_eq!(receipt.output, 4);
            // One longer than there are workers.
            pool.send(blocking_chain(pool.clone(), 0, 4)).await.unwrap_err();
            // The commands that were refused the wait run all the same.
            until(|| pool.stats()[0].running + pool.stats()[0].queued == 0).await;
            shortest.fetch_add(1, Ordering::Relaxed);
        }
        // All workers block for one another's aggregates.
        let start = Door::closed();
        let refused = Arc::new(Mutex::new(0));
        let tickets: Vec<_> = (0..4)
            .map(|id| {
                let (inner, start, refused) = (pool.clone(), start.clone(), Arc::clone(&refused));
                let job = Job::new(id, move |_| async move {
                    start.pass().await;
                    if was_refused(inner.blocking_send(Job::plain((id + 1) % 4))) {
                        *refused.lock().unwrap() += 1;
                    }
                    Ok(0)
                });
                pool.try_submit(job).unwrap()
            })
            .collect();
        until(|| start.arrived() == 4).await;
        start.open();
        for ticket in tickets {
            ticket.await.unwrap();
        }
        assert!(*refused.lock().unwrap() >= 1);
    }
    run(On::Threads, test);
}

/// Passes a door, then sends to another aggregate; whether that was refused.
fn sending_job_at(pool: &Pool, id: u64, door: &Door, to: u64) -> Job {
    let (pool, door) = (pool.clone(), door.clone());
    Job::new(id, move |_| async move {
        door.pass().await;
        Ok(u64::from(was_refused(pool.send(Job::plain(to)).await)))
    })
}

#[test]
fn g09_no_false_refusal_of_a_send_to_an_aggregate_whose_own_send_waits_for_room() {
    let mut shard = Shard::new(3, 1);
    let doors = [(); 3].map(|()| Door::closed());
    let jobs = [
        sending_job_at(&shard.pool, 1, &doors[0], 4),
        sending_job_at(&shard.pool, 2, &doors[1], 1),
        Job::at(3, &doors[2]),
    ];
    let mut tickets = Vec::new();
    for job in jobs {
        tickets.push(shard.pool.try_submit(job).unwrap());
        shard.settle();
    }
    tickets.push(shard.submit(3));
    // The first waits for room, the second for the first; the third makes room.
    for door in doors {
        door.open();
        shard.settle();
    }
    for ticket in tickets {
        assert_eq!(shard.run(ticket).unwrap().output, 0, "a wait that can end was refused");
    }
}

#[test]
fn g09_a_blocking_wait_that_has_ended_leaves_its_thread_to_the_next() {
    /// All but one of its threads may block.
    #[derive(Clone)]
    struct OfTwo(Threads);

    impl Executor for OfTwo {
        fn spawn(&self, task: Task) -> Result<(), SpawnError> {
            self.0.spawn(task)
        }

        fn threads(&self) -> usize {
            2
        }
    }

    run(On::Threads, |bed| async move {
        let pool = pool(OfTwo(Threads::new()), 1, 2, 8);
        bed.watch(Peek(pool.downgrade()));
        for id in 0..3 {
            let inner = pool.clone();
            let job = Job::new(id, move |_| async move {
                Ok(u64::from(was_refused(inner.blocking_send(Job::plain(10)))))
            });
            assert_eq!(pool.send(job).await.unwrap().output, 0);
        }
    });
}

/// Passes a door, then submits to another aggregate; whether that was refused.
fn submitting_job(pool: &Pool, id: u64, door: &Door, to: u64) -> Job {
    let (pool, door) = (pool.clone(), door.clone());
    Job::new(id, move |_| async move {
        door.pass().await;
        match pool.submit(Job::plain(to)).await {
            Ok(ticket) => {
                drop(ticket);
                Ok(0)
            }
            Err(SubmitError::Deadlock(_)) => Ok(1),
            Err(other) => panic!("{other:?}"),
        }
    })
}

/// Two full shards, polled by hand. A, of shard 0, waits for room in shard 1; somebody else waits for
/// room in shard 0, which has said that all it holds is behind A. B, of shard 1, is about to wait for
/// room in shard 0.
struct TwoShards {
    pool: Pool,
    tasks: Vec<Task>,
    a: u64,
    behind_a: Ticket,
    /// Of A, B, and what is behind B.
    tickets: Vec<Ticket>,
    waits: BoxFuture<'static, Result<Ticket, SubmitError<Job>>>,
    door_b: Door,
}

impl TwoShards {
    /// `other` makes the job of who waits for room in shard 0.
    fn new(other: impl FnOnce(u64) -> Job) -> Self {
        let executor = ByHand::default();
        let pool = pool(executor.clone(), 2, 2, 1);
        let (a, b) = (id_on(&pool, 0, &[]), id_on(&pool, 1, &[]));
        let (door_a, door_b) = (Door::closed(), Door::closed());
        let jobs = [(a, &door_a, b), (b, &door_b, a)];
        let jobs = jobs.map(|(id, door, to)| submitting_job(&pool, id, door, to));
        let mut tickets: Vec<_> = jobs.into_iter().map(|j| pool.try_submit(j).unwrap()).collect();
        let mut tasks = executor.tasks();
        poll_all(&mut tasks);
        let behind_a = pool.try_submit(Job::plain(a)).unwrap();
        tickets.push(pool.try_submit(Job::plain(b)).unwrap());
        let (inner, other) = (pool.clone(), other(id_on(&pool, 0, &[a])));
        let mut waits: BoxFuture<_> = Box::pin(async move { inner.submit(other).await });
        assert!(poll_once(&mut waits, Waker::noop()).is_pending());
        poll_all(&mut tasks);
        door_a.open();
        poll_all(&mut tasks);
        Self { pool, tasks, a, behind_a, tickets, waits, door_b }
    }

    fn settle(&mut self) {
        poll_all(&mut self.tasks);
    }

    /// Who waited for room has some.
    fn grant(&mut self) {
        match poll_once(&mut self.waits, Waker::noop()) {
            Poll::Ready(granted) => self.tickets.push(granted.unwrap()),
            Poll::Pending => panic!("no room: {:?}", self.pool.stats()),
        }
    }

    /// B begins to wait, and the dispatcher of its shard judges before that of the other looks again.
    fn judge(&mut self) {
        self.door_b.open();
        poll_all(&mut self.tasks[4..6]);
        poll_all(&mut self.tasks[3..4]);
        self.settle();
    }

    fn assert_none_refused(self) {
        for mut ticket in self.tickets {
            let refused = output_of(&mut ticket, &self.pool);
            assert_eq!(refused, 0, "a wait that can end was refused");
        }
    }
}

/// Of a command that has committed.
fn output_of(ticket: &mut Ticket, pool: &Pool) -> u64 {
    match poll_once(ticket, Waker::noop()) {
        Poll::Ready(outcome) => outcome.unwrap().output,
        Poll::Pending => panic!("a command hangs: {:?}", pool.stats()),
    }
}

fn submit_and_poll(pool: &Pool, tasks: &mut [Task], job: Job) -> Ticket {
    let ticket = pool.try_submit(job).unwrap();
    poll_all(tasks);
    ticket
}

/// What has ended is replaced by what never does.
fn poll_all(tasks: &mut [Task]) {
    for _ in 0..20 {
        for task in &mut *tasks {
            if poll_once(task, Waker::noop()).is_ready() {
                *task = Box::pin(pending());
            }
        }
    }
}

#[test]
fn g09_what_a_shard_once_said_of_its_queue_counts_no_more_when_that_has_changed() {
    let door = Door::closed();
    let mut shards = TwoShards::new(|other| Job::at(other, &door));
    assert!(shards.behind_a.withdraw());
    shards.settle();
    shards.grant();
    // As many as were behind A, but behind a handler that will end.
    let other = id_on(&shards.pool, 0, &[shards.a]);
    shards.tickets.push(shards.pool.try_submit(Job::plain(other)).unwrap());
    shards.judge();
    door.open();
    shards.settle();
    shards.assert_none_refused();
}

#[test]
fn g09_what_a_shard_said_of_its_queue_is_not_counted_on_before_it_has_seen_a_withdrawal() {
    let mut shards = TwoShards::new(Job::plain);
    assert!(shards.behind_a.withdraw());
    shards.judge();
    shards.grant();
    shards.settle();
    shards.assert_none_refused();
}

/// A, of shard 0, waits for room in shard 1, where all is behind B; B waits for a command of shard 0, which
/// the other worker there is to run, and that is lost. Then only A's could, after A.
#[test]
fn g09_a_jam_that_a_lost_worker_has_closed_is_refused() {
    let executor = ByHand::default();
    let pool = pool(executor.clone(), 2, 2, 1);
    let mut tasks = executor.tasks();
    let (a, b) = (id_on(&pool, 0, &[]), id_on(&pool, 1, &[]));
    let (y, c) = (id_on(&pool, 0, &[a]), id_on(&pool, 1, &[b]));
    let (door_a, door_b) = (Door::closed(), Door::closed());
    let waits = pool.try_submit(submitting_job(&pool, a, &door_a, c)).unwrap();
    let sends = pool.try_submit(sending_job_at(&pool, b, &door_b, y)).unwrap();
    poll_all(&mut tasks);
    let behind = pool.try_submit(Job::plain(b)).unwrap();
    door_b.open();
    poll_all(&mut tasks[3..6]);
    // The worker that has A runs first, so it is that in front.
    poll_all(&mut tasks[0..1]);
    door_a.open();
    poll_all(&mut tasks[1..2]);
    poll_all(&mut tasks[3..4]);
    let asked = Flag::default();
    assert!(poll_once(&mut tasks[3], &Waker::from(Arc::new(asked.clone()))).is_pending());
    assert!(!asked.is_set());
    tasks[2] = Box::pin(pending());
    poll_all(&mut tasks[0..1]);
    assert!(asked.is_set(), "shard 1 is not asked to judge again");
    poll_all(&mut tasks);
    for (mut ticket, is_refused) in [(waits, 1), (sends, 0), (behind, 0)] {
        assert_eq!(output_of(&mut ticket, &pool), is_refused);
    }
}

/// A shard that is polled as soon as one of its tasks is woken, in the middle of whatever wakes it. Between
/// two rounds of polls something happens, once.
struct AtOnce {
    tasks: Mutex<Vec<Task>>,
    between: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl Wake for AtOnce {
    fn wake(self: Arc<Self>) {
        // One that is woken while it is polled is polled again below.
        let Ok(mut tasks) = self.tasks.try_lock() else { return };
        let waker = Waker::from(Arc::clone(&self));
        let mut poll = || {
            for _ in 0..10 {
                for task in &mut *tasks {
                    let _ = poll_once(task, &waker);
                }
            }
        };
        poll();
        if let Some(between) = self.between.lock().unwrap().take() {
            between();
            poll();
        }
    }
}

/// A sends to X, whose command has run before A gets any further. The next command of X sends to A, and can:
/// A waits for X no more.
#[test]
fn g09_a_wait_for_a_command_that_is_over_before_its_sender_goes_on_counts_no_more() {
    let executor = ByHand::default();
    let pool = pool(executor.clone(), 2, 1, 8);
    let mut tasks = executor.tasks();
    let (a, x) = (id_on(&pool, 0, &[]), id_on(&pool, 1, &[]));
    let sends = |pool: Pool, id, to| {
        let send = async move { Ok(u64::from(was_refused(pool.send(Job::plain(to)).await))) };
        Job::new(id, |_| send)
    };
    let (next, handle) = (Arc::new(Mutex::new(None)), pool.clone());
    let kept = Arc::clone(&next);
    let between = move || {
        let job = sends(handle.clone(), x, a);
        *kept.lock().unwrap() = Some(handle.try_submit(job).unwrap());
    };
    let at_once = Arc::new(AtOnce {
        tasks: Mutex::new(tasks.split_off(2)),
        between: Mutex::new(Some(Box::new(between))),
    });
    let waker = Waker::from(Arc::clone(&at_once));
    for task in at_once.tasks.lock().unwrap().iter_mut() {
        assert!(poll_once(task, &waker).is_pending());
    }
    let first = pool.try_submit(sends(pool.clone(), a, x)).unwrap();
    for _ in 0..10 {
        poll_all(&mut tasks);
        waker.wake_by_ref();
    }
    let second = next.lock().unwrap().take().expect("X has run in the middle of A's submission");
    for mut ticket in [first, second] {
        assert_eq!(output_of(&mut ticket, &pool), 0, "refused");
    }
}

/// One full shard, polled by hand. A waits for room, with two commands behind it in its turn; of those some
/// were withdrawn, and others, which are behind B, have got their room. B is about to wait for room as well.
struct Swept {
    pool: Pool,
    /// Of A, of B, and of all else that is to commit.
    tickets: Vec<Ticket>,
    dispatcher: Arc<Mutex<Task>>,
    /// The first has A, the second B.
    workers: Vec<Task>,
}

impl Swept {
    /// `beside` are commands behind neither A nor B, of which the first starts.
    fn new(withdrawn: usize, beside: Vec<Job>) -> Self {
        let executor = ByHand::default();
        let pool = pool(executor.clone(), 1, 3, 3 + beside.len().saturating_sub(1));
        let mut tasks = executor.tasks();
        let (first, a, b) = (Door::closed(), Door::closed(), Door::closed());
        let submit = |tasks: &mut Vec<Task>, job| submit_and_poll(&pool, tasks, job);

        // The turn of an aggregate that was idle has one command. What comes meanwhile is in its next.
        let mut others = vec![submit(&mut tasks, Job::at(1, &first))];
        let mut tickets = vec![submit(&mut tasks, submitting_job(&pool, 1, &a, 9))];
        let mut behind_a =
            vec![submit(&mut tasks, Job::plain(1)), submit(&mut tasks, Job::plain(1))];
        first.open();
        poll_all(&mut tasks);
        tickets.push(submit(&mut tasks, submitting_job(&pool, 2, &b, 9)));
        others.extend(beside.into_iter().map(|job| submit(&mut tasks, job)));
        others.push(submit(&mut tasks, Job::plain(2)));

        let mut waiting: Vec<BoxFuture<_>> = Vec::new();
        for _ in 0..withdrawn {
            let pool = pool.clone();
            waiting.push(Box::pin(async move { pool.submit(Job::plain(2)).await }));
            assert!(poll_once(waiting.last_mut().unwrap(), Waker::noop()).is_pending());
        }
        a.open();
        poll_all(&mut tasks);
        for ticket in behind_a.drain(..withdrawn) {
            assert!(ticket.withdraw());
        }
        poll_all(&mut tasks[..1]);
        for mut submission in waiting {
            match poll_once(&mut submission, Waker::noop()) {
                Poll::Ready(granted) => others.push(granted.unwrap()),
                Poll::Pending => panic!("no room: {:?}", pool.stats()),
            }
        }
        poll_all(&mut tasks[..1]);
        others.extend(behind_a);
        tickets.extend(others);
        b.open();
        let dispatcher = Arc::new(Mutex::new(tasks.remove(0)));
        Self { pool, tickets, dispatcher, workers: tasks }
    }

    /// B begins to wait. Then A's turn is swept, and in the middle of that the dispatcher judges, as it is
    /// polled while it is woken.
    fn judge_in_the_middle(&mut self) {
        poll_all(&mut self.workers[1..2]);
        let judged = Flag::default();
        let (dispatcher, mark) = (Arc::clone(&self.dispatcher), judged.clone());
        let waker = Waker::from(Arc::new(WakeWith(move || {
            // It may wake itself.
            if let Ok(mut dispatcher) = dispatcher.try_lock() {
                let _ = poll_once(&mut *dispatcher, Waker::noop());
                mark.set();
            }
        })));
        assert!(poll_once(&mut *self.dispatcher.lock().unwrap(), &waker).is_pending());
        assert!(!judged.is_set());
        poll_all(&mut self.workers[..1]);
        assert!(judged.is_set(), "the sweep has not woken the dispatcher");
    }

    fn outputs(&mut self) -> Vec<u64> {
        self.tickets.iter_mut().map(|ticket| output_of(ticket, &self.pool)).collect()
    }

    fn settle(&mut self) {
        for _ in 0..20 {
            let _ = poll_once(&mut *self.dispatcher.lock().unwrap(), Waker::noop());
            poll_all(&mut self.workers);
        }
    }
}

#[test]
fn g09_a_judgement_in_the_middle_of_a_sweep_refuses_no_wait_that_can_end() {
    let door = Door::closed();
    let mut swept = Swept::new(2, vec![Job::at(3, &door), Job::plain(3)]);
    swept.judge_in_the_middle();
    door.open();
    swept.settle();
    assert!(swept.outputs().iter().all(|&refused| refused == 0), "a wait that can end was refused");
}

#[test]
fn g09_a_judgement_in_the_middle_of_a_sweep_sees_a_jam() {
    let mut swept = Swept::new(1, Vec::new());
    swept.judge_in_the_middle();
    // Without another look of the dispatcher's.
    poll_all(&mut swept.workers);
    let refused: u64 =
        swept.tickets[..2].iter_mut().map(|ticket| output_of(ticket, &swept.pool)).sum();
    assert_eq!(refused, 2);
}

#[test]
fn g09_a_send_made_outside_is_judged_anew_when_it_is_granted_room() {
    let mut shard = Shard::new(2, 1);
    let (hand, handed) = oneshot::channel::<BoxFuture<'static, bool>>();
    let job = Job::new(1, |_| async move { Ok(u64::from(handed.await.unwrap().await)) });
    let waits = shard.pool.try_submit(job).unwrap();
    shard.settle();
    let door = Door::closed();
    let other = shard.pool.try_submit(Job::at(2, &door)).unwrap();
    shard.settle();
    // Behind the other: the shard is full.
    let queued = shard.submit(2);
    let pool = shard.pool.clone();
    let mut sending: BoxFuture<'_, _> =
        Box::pin(async move { was_refused(pool.send(Job::plain(1)).await) });
    assert!(poll_once(&mut sending, Waker::noop()).is_pending());
    assert!(hand.send(sending).is_ok());
    // It waits for room, which can come; then for its own aggregate.
    shard.settle();
    door.open();
    assert_eq!(shard.run(waits).unwrap().output, 1);
    shard.run_all([other, queued]);
}

#[test]
fn g09_a_blocking_call_that_would_not_wait_says_what_it_found() {
    let (mut ended, mut shard) = (Shard::new(1, 1), Shard::new(1, 8));
    let drain = ended.pool.drain();
    ended.run(drain).unwrap();
    let (over, pool) = (ended.pool.clone(), shard.pool.clone());
    let job = Job::new(1, |_| async move {
        assert_eq!(over.drain().blocking_wait().unwrap().total(), 0);
        let refused = |error| match error {
            SendError::NotAccepted(error) => error,
            SendError::Command(error) => panic!("{error:?}"),
            other => panic!("{other:?}"),
        };
        let late = pool.within(std::time::Duration::ZERO).blocking_send(Job::plain(2));
        assert!(matches!(late.map_err(refused), Err(SubmitError::Expired(_))));
        let stuck = pool.blocking_send(Job::plain(2));
        assert!(matches!(stuck.map_err(refused), Err(SubmitError::Deadlock(_))));
        drop(pool.drain());
        let closed = pool.blocking_send(Job::plain(2));
        assert!(matches!(closed.map_err(refused), Err(SubmitError::Closed(_))));
        Ok(0)
    });
    let ticket = shard.pool.try_submit(job).unwrap();
    shard.run(ticket).unwrap();
}

#[test]
fn g09_a_withdrawn_command_that_keeps_its_room_is_no_part_of_a_jam() {
    let executor = ByHand::default();
    let pool = pool(executor.clone(), 1, 2, 2);
    let mut tasks = executor.tasks();
    poll_all(&mut tasks);
    let (first, b) = (Door::closed(), Door::closed());
    let submit = |tasks: &mut Vec<Task>, job| submit_and_poll(&pool, tasks, job);
    let before = submit(&mut tasks, Job::at(2, &first));
    let mut b0 = submit(&mut tasks, submitting_job(&pool, 2, &b, 9));
    let b1 = submit(&mut tasks, Job::plain(2));
    first.open();
    poll_all(&mut tasks);
    // B0 is at its door, with B1 behind it in its turn.
    assert_eq!((pool.stats()[0].queued, pool.stats()[0].running), (1, 1));
    // As many tombstones as the depth, in the channel.
    for _ in 0..2 {
        assert!(pool.try_submit(Job::plain(5)).unwrap().withdraw());
    }
    // One more: it keeps its room.
    assert!(b1.withdraw());
    assert_eq!(pool.stats()[0].queued, 1);
    let behind = pool.try_submit(Job::plain(2)).unwrap();
    b.open();
    poll_all(&mut tasks[1..]);
    assert_eq!((pool.stats()[0].queued, pool.stats()[0].waiting), (2, 1), "B0 waits for room");
    // The dispatcher orders the workers to sweep, and judges.
    let _ = poll_once(&mut tasks[0], Waker::noop());
    poll_all(&mut tasks);
    assert_eq!(output_of(&mut b0, &pool), 0, "a wait that can end was refused");
    drop((before, behind));
}

#[test]
fn g09_a_send_in_the_lobby_that_is_settled_only_there_is_judged_by_the_dispatcher() {
    let executor = ByHand::default();
    let mut shard = Shard::of(pool(executor.clone(), 1, 2, 1), &executor);
    let (door_a, door_b, given_up) = (Door::closed(), Door::closed(), Door::closed());
    let sends = {
        let (pool, door) = (shard.pool.clone(), door_a.clone());
        Job::new(1, move |_| async move {
            door.pass().await;
            Ok(u64::from(was_refused(pool.send(Job::plain(2)).await)))
        })
    };
    // Waits for a command of A's aggregate, and gives that up.
    let behind_a = Arc::new(Mutex::new(None::<Ticket>));
    let waits = {
        let (behind_a, door, given_up) = (Arc::clone(&behind_a), door_b.clone(), given_up.clone());
        Job::new(2, move |_| async move {
            door.pass().await;
            let mut ticket = behind_a.lock().unwrap().take().expect("there is a ticket");
            assert!(futures::poll!(&mut ticket).is_pending());
            given_up.pass().await;
            drop(ticket);
            Ok(0)
        })
    };
    let mut of_a = shard.pool.try_submit(sends).unwrap();
    shard.settle();
    let of_b = shard.pool.try_submit(waits).unwrap();
    shard.settle();

    // B waits before anybody knows for whom: that is not settled. Then A's send may close a circle.
    *behind_a.lock().unwrap() = Some(shard.submit(1));
    door_b.open();
    shard.workers.poll();
    shard.lull(|| ());
    door_a.open();
    shard.workers.poll();
    let stats = shard.pool.stats()[0];
    assert_eq!((stats.queued, stats.running, stats.waiting), (1, 2, 1), "{stats:?}");
    // It does not, since B gives up. But A waits for room that only A itself can make.
    given_up.open();
    shard.workers.poll();
    let asked = Flag::default();
    let mark = asked.clone();
    shard.lull(move || mark.set());
    shard.workers.poll();
    assert!(asked.is_set(), "the dispatcher does not hear of it: {:?}", shard.pool.stats());
    shard.settle();
    assert_eq!(output_of(&mut of_a, &shard.pool), 1, "not refused");
    drop(of_b);
}
