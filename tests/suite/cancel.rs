//! Withdrawing, and what callers that go away do and don't (G8).

use crate::by_hand::{ByHand, Shard};
use crate::harness::{Bed, Door, suite, until, yield_at_random};
use crate::tools::{
    Flag, Job, Live, Peek, Pool, Puppets, Ticket, assert_quiet, poll_once, pool,
    pool_that_counts_loads,
};
use shardpool::CommandError;
use std::collections::HashMap;
use std::future::Future;
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::task::{Poll, Waker};

suite!(
    g08_trap07_under_load_a_withdrawn_command_never_runs_and_any_other_does,
    g08_trap07_an_outcome_and_a_withdrawal_never_both_win,
    g08_a_withdrawn_command_consumes_no_version,
    g08_a_withdrawn_command_wakes_whoever_awaits_its_ticket,
    g08_trap06_trap07_room_is_back_at_once_and_withdrawn_commands_stay_bounded,
    g08_trap07_withdrawn_commands_are_swept_out_of_a_backlog,
    g08_trap07_withdrawn_commands_are_swept_out_of_a_turn,
    g08_trap07_withdrawn_commands_are_swept_out_of_the_ring,
    g08_room_of_a_withdrawn_command_goes_to_who_waits_first,
    g08_a_started_command_runs_to_its_end_and_sees_the_flag,
    g08_the_flag_is_not_set_for_others,
    g08_a_clone_of_the_context_tells_that_the_command_has_ended,
    g08_a_dropped_ticket_does_not_withdraw,
    g08_a_send_dropped_after_acceptance_does_not_withdraw,
    g08_a_submission_dropped_before_acceptance_never_runs,
    g08_a_submission_that_nobody_polled_is_not_accepted,
    g08_a_granted_submission_dropped_unpolled_runs,
);

const WORKERS: usize = 4;

async fn g08_trap07_under_load_a_withdrawn_command_never_runs_and_any_other_does(bed: Bed) {
    const AGGREGATES: u64 = 60;
    const COMMANDS: u64 = 8_000;
    let pool = pool(bed.executor(), 2, WORKERS, 300);
    bed.watch(pool.clone());
    let submitters: Vec<_> = (0..4)
        .map(|me| {
            let pool = pool.clone();
            bed.spawn(async move {
                let mut tickets = Vec::new();
                let mut versions = HashMap::<u64, Vec<u64>>::new();
                let mut withdrawn = 0;
                for n in 0..COMMANDS / 4 {
                    let ran = Flag::default();
                    let mark = ran.clone();
                    let id = n * 4 % AGGREGATES + me;
                    let job = Job::new(id, move |cx| async move {
                        mark.set();
                        yield_at_random().await;
                        Ok(cx.version())
                    });
                    tickets.push((id, pool.submit(job).await.unwrap(), ran, false));
                    // Some at once, some later, some more than once, some after their end.
                    let at = tickets.len() - 1 - fastrand::usize(..tickets.len().min(40));
                    if fastrand::bool() {
                        let (_, ticket, _, was) = &mut tickets[at];
                        let now = ticket.withdraw();
                        assert!(!(now && *was), "withdrawn twice");
                        *was |= now;
                    }
                }
                for (id, ticket, ran, was) in tickets {
                    withdrawn += u64::from(was);
                    match ticket.await {
                        Ok(receipt) => {
                            assert!(!was && ran.is_set(), "withdrawn {was}, but committed");
                            versions.entry(id).or_default().push(receipt.version);
                        }
                        Err(CommandError::Cancelled) => {
                            assert!(was && !ran.is_set(), "withdrawn {was}, but cancelled");
                        }
                        Err(other) => panic!("{other:?}"),
                    }
                }
                for versions in versions.values() {
                    assert!(versions.iter().copied().eq(1..=versions.len() as u64), "{versions:?}");
                }
                withdrawn
            })
        })
        .collect();
    let mut withdrawn = 0;
    for submitter in submitters {
        withdrawn += submitter.await;
    }
    let outcomes = pool.drain().await.unwrap();
    assert_eq!(outcomes.cancelled, withdrawn);
    assert_eq!(outcomes.committed, COMMANDS - withdrawn);
    assert!(outcomes.cancelled > 0 && outcomes.committed > 0);
    assert_quiet(&pool);
}

async fn g08_trap07_an_outcome_and_a_withdrawal_never_both_win(bed: Bed) {
    let pool = pool(bed.executor(), 1, 2, 1024);
    bed.watch(pool.clone());
    let mut won = [0, 0];
    for round in 0..4_000_u64 {
        let ran = Flag::default();
        let mark = ran.clone();
        let job = Job::new(round % 3, move |_| async move {
            mark.set();
            Ok(1)
        });
        let ticket = pool.submit(job).await.unwrap();
        if round % 8 == 7 {
            // On a loaded machine no number of yields lets another thread run.
            until(|| ran.is_set()).await;
        }
        for _ in 0..round % 7 {
            yield_at_random().await;
        }
        let withdrawn = ticket.withdraw();
        won[usize::from(withdrawn)] += 1;
        match ticket.await {
            Ok(_) => assert!(!withdrawn && ran.is_set()),
            Err(error) => {
                assert_eq!(error, CommandError::Cancelled);
                assert!(withdrawn && !ran.is_set());
            }
        }
    }
    assert!(won[0] > 0 && won[1] > 0, "only one of the two ever wins: {won:?}");
}

async fn g08_a_withdrawn_command_consumes_no_version(bed: Bed) {
    let pool = pool(bed.executor(), 1, WORKERS, 1024);
    bed.watch(pool.clone());
    let door = Door::closed();
    let blocked: Vec<_> = (0..4).map(|id| pool.try_submit(Job::at(id, &door)).unwrap()).collect();
    until(|| door.arrived() == 4).await;
    let behind: Vec<_> =
        (0..400).map(|n| (n, pool.try_submit(Job::plain(n % 4)).unwrap())).collect();
    for (n, ticket) in &behind {
        assert!(n % 3 != 0 || ticket.withdraw());
    }
    door.open();
    let mut next = [1; 4];
    for ticket in blocked {
        ticket.await.unwrap();
    }
    for (n, ticket) in behind {
        if n % 3 != 0 {
            let version = &mut next[n as usize % 4];
            *version += 1;
            assert_eq!(ticket.await.unwrap().version, *version);
        }
    }
}

async fn g08_a_withdrawn_command_wakes_whoever_awaits_its_ticket(bed: Bed) {
    let pool = pool(bed.executor(), 1, 1, 8);
    let door = Door::closed();
    let blocked = pool.try_submit(Job::at(1, &door)).unwrap();
    until(|| door.arrived() == 1).await;
    let ticket = Arc::new(futures::lock::Mutex::new(pool.try_submit(Job::plain(1)).unwrap()));
    let polled = Flag::default();
    let (awaited, mark) = (Arc::clone(&ticket), polled.clone());
    let awaiting = bed.spawn(std::future::poll_fn(move |cx| {
        // The lock is let go between polls, so that the test can withdraw.
        let Some(mut ticket) = awaited.try_lock() else {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        };
        let ended = std::pin::Pin::new(&mut *ticket).poll(cx);
        mark.set();
        ended
    }));
    until(|| polled.is_set()).await;
    assert!(ticket.lock().await.withdraw());
    assert_eq!(awaiting.await.unwrap_err(), CommandError::Cancelled);
    door.open();
    blocked.await.unwrap();
}

async fn g08_trap06_trap07_room_is_back_at_once_and_withdrawn_commands_stay_bounded(bed: Bed) {
    const DEPTH: usize = 32;
    let pool = pool(bed.executor(), 1, 2, DEPTH);
    bed.watch(pool.clone());
    let (door, live) = (Door::closed(), Live::default());
    let blocked: Vec<_> = (0..2).map(|id| pool.try_submit(Job::at(id, &door)).unwrap()).collect();
    until(|| door.arrived() == 2).await;
    // Behind busy aggregates, and for idle ones that no worker is free for.
    let job = || Job::plain(fastrand::u64(..6)).counted(&live);
    let mut queue: Vec<_> = (0..DEPTH).map(|_| pool.try_submit(job()).unwrap()).collect();
    for round in 0..50 * DEPTH {
        assert!(pool.try_submit(job()).unwrap_err().is_full());
        let ticket = queue.swap_remove(fastrand::usize(..DEPTH));
        assert!(ticket.withdraw());
        drop(ticket);
        if round < DEPTH {
            queue.push(pool.try_submit(job()).expect("the room is back at once"));
        } else {
            // There may be as many withdrawn ones in the queues by now as may be; then the room is
            // back when the dispatcher has swept.
            let mut again = None;
            until(|| {
                again = pool.try_submit(job()).ok();
                again.is_some()
            })
            .await;
            queue.push(again.unwrap());
        }
        assert_eq!(pool.stats()[0].queued, DEPTH as u64);
        assert!(live.count() <= 2 * DEPTH, "{} commands, {DEPTH} accepted", live.count());
    }
    door.open();
    for ticket in blocked.into_iter().chain(queue) {
        ticket.await.unwrap();
    }
    until(|| live.count() == 0).await;
    assert_eq!(pool.drain().await.unwrap().cancelled, 50 * DEPTH as u64);
    assert_quiet(&pool);
}

const SWEPT: usize = 32;

/// A shard of one worker, which is held at a door by aggregate 0.
async fn one_held(bed: &Bed) -> (Pool, Door, Ticket) {
    let pool = pool(bed.executor(), 1, 1, SWEPT);
    bed.watch(pool.clone());
    let door = Door::closed();
    let held = pool.try_submit(Job::at(0, &door)).unwrap();
    until(|| door.arrived() == 1).await;
    (pool, door, held)
}

/// A dispatcher that has made a lane for the last of so many aggregates has taken what came before: it
/// is in its lane, and no longer in the channel.
async fn until_taken(pool: &Pool, aggregates: u64) {
    until(|| pool.stats()[0].resident == aggregates).await;
}

/// Withdraws all, and waits until fewer are left than there is a sweep for.
async fn assert_swept(tickets: Vec<Ticket>, live: &Live) {
    for ticket in tickets {
        assert!(ticket.withdraw());
    }
    until(|| live.count() < SWEPT / 2).await;
}

async fn g08_trap07_withdrawn_commands_are_swept_out_of_a_backlog(bed: Bed) {
    let (pool, door, held) = one_held(&bed).await;
    let live = Live::default();
    let job = |_| pool.try_submit(Job::plain(0).counted(&live)).unwrap();
    let tickets = (1..SWEPT).map(job).collect();
    let last = pool.try_submit(Job::plain(1)).unwrap();
    until_taken(&pool, 2).await;
    assert_swept(tickets, &live).await;
    door.open();
    held.await.unwrap();
    last.await.unwrap();
}

async fn g08_trap07_withdrawn_commands_are_swept_out_of_a_turn(bed: Bed) {
    let (pool, door, held) = one_held(&bed).await;
    let (live, inner) = (Live::default(), Door::closed());
    // In the backlog at first; the next turn begins with one that is held as well.
    let first = pool.try_submit(Job::at(0, &inner)).unwrap();
    let job = |_| pool.try_submit(Job::plain(0).counted(&live)).unwrap();
    let tickets = (2..SWEPT).map(job).collect();
    let last = pool.try_submit(Job::plain(1)).unwrap();
    until_taken(&pool, 2).await;
    door.open();
    until(|| inner.arrived() == 1).await;
    assert_swept(tickets, &live).await;
    inner.open();
    for ticket in [held, first, last] {
        ticket.await.unwrap();
    }
}

async fn g08_trap07_withdrawn_commands_are_swept_out_of_the_ring(bed: Bed) {
    let (pool, door, held) = one_held(&bed).await;
    let live = Live::default();
    // Each for an idle aggregate.
    let job = |id| pool.try_submit(Job::plain(id).counted(&live)).unwrap();
    let tickets = (1..=SWEPT as u64).map(job).collect();
    until_taken(&pool, SWEPT as u64 + 1).await;
    assert_swept(tickets, &live).await;
    door.open();
    held.await.unwrap();
}

async fn g08_room_of_a_withdrawn_command_goes_to_who_waits_first(bed: Bed) {
    let pool = pool(bed.executor(), 1, 1, 1);
    bed.watch(pool.clone());
    let door = Door::closed();
    let blocked = pool.try_submit(Job::at(1, &door)).unwrap();
    until(|| door.arrived() == 1).await;
    let mut queued = pool.try_submit(Job::plain(1)).unwrap();
    for _ in 0..300 {
        let waiting = bed.spawn({
            let pool = pool.clone();
            async move { pool.submit(Job::plain(1)).await.map_err(drop) }
        });
        until(|| pool.stats()[0].waiting == 1).await;
        assert!(queued.withdraw());
        // The door is shut all the while: only the withdrawal can have made this room.
        queued = waiting.await.unwrap();
    }
    door.open();
    blocked.await.unwrap();
    queued.await.unwrap();
}

#[test]
fn g08_a_withdrawn_command_is_not_loaded_for() {
    let executor = ByHand::default();
    let (pool, loads) = pool_that_counts_loads(executor.clone());
    let mut shard = Shard::of(pool, &executor);
    // One that the dispatcher has not seen yet, and one that was handed out.
    assert!(shard.submit(0).withdraw());
    let handed_out = shard.submit(1);
    shard.poll_dispatcher();
    assert!(handed_out.withdraw());
    shard.settle();
    assert_eq!(loads.load(Ordering::SeqCst), 0, "loaded for a command that can't run");
    let ticket = shard.submit(2);
    shard.run(ticket).unwrap();
    assert_eq!(loads.load(Ordering::SeqCst), 1);
}

async fn g08_a_started_command_runs_to_its_end_and_sees_the_flag(bed: Bed) {
    let pool = pool(bed.executor(), 1, 8, 64);
    bed.watch(pool.clone());
    let (door, sent) = (Door::closed(), Flag::default());
    let jobs: Vec<_> = (0..8)
        .map(|id| {
            let (door, sent) = (door.clone(), sent.clone());
            let job = Job::new(id, |cx| async move {
                assert!(!cx.is_cancelled());
                door.pass().await;
                assert_eq!(cx.is_cancelled(), sent.is_set());
                yield_at_random().await;
                // It runs long after it was asked to stop, and its result counts.
                Ok(7)
            });
            pool.try_submit(job).unwrap()
        })
        .collect();
    until(|| door.arrived() == 8).await;
    for ticket in &jobs {
        assert!(!ticket.withdraw(), "a started command was withdrawn");
        assert!(!ticket.withdraw());
        assert!(!ticket.is_finished());
    }
    sent.set();
    door.open();
    for ticket in jobs {
        assert_eq!(ticket.await.unwrap().output, 7);
    }
    assert_eq!(pool.drain().await.unwrap().committed, 8);
}

/// What a handler has left to work elsewhere would miss a request to stop that comes right before its end.
async fn g08_a_clone_of_the_context_tells_that_the_command_has_ended(bed: Bed) {
    let pool = pool(bed.executor(), 1, 1, 8);
    bed.watch(pool.clone());
    let (keep, kept) = mpsc::channel();
    let job = Job::new(1, |cx| async move {
        assert!(!cx.is_cancelled());
        keep.send(cx).unwrap();
        Ok(7)
    });
    let ticket = pool.submit(job).await.unwrap();
    assert_eq!(ticket.await.unwrap().output, 7);
    assert!(kept.recv().unwrap().is_cancelled());
}

async fn g08_the_flag_is_not_set_for_others(bed: Bed) {
    let pool = pool(bed.executor(), 1, 2, 64);
    bed.watch(pool.clone());
    let door = Door::closed();
    let at_door = |id| {
        let door = door.clone();
        let job = Job::new(id, |cx| async move {
            door.pass().await;
            Ok(u64::from(cx.is_cancelled()))
        });
        pool.try_submit(job).unwrap()
    };
    let (asked, other, behind) = (at_door(1), at_door(2), at_door(1));
    until(|| door.arrived() == 2).await;
    assert!(!asked.withdraw());
    drop(pool.try_submit(Job::plain(1)).unwrap());
    door.open();
    let flags = (asked.await.unwrap(), other.await.unwrap(), behind.await.unwrap());
    assert_eq!((flags.0.output, flags.1.output, flags.2.output), (1, 0, 0));
}

async fn g08_a_dropped_ticket_does_not_withdraw(bed: Bed) {
    let pool = pool(bed.executor(), 2, WORKERS, 4_000);
    bed.watch(pool.clone());
    let door = Door::closed();
    for n in 0..3_000 {
        let ticket = pool.submit(Job::at(n % 30, &door)).await.unwrap();
        // Polled or not.
        if n % 2 == 0 {
            let mut ticket = ticket;
            assert!(poll_once(&mut ticket, Waker::noop()).is_pending());
        }
    }
    door.open();
    let outcomes = pool.drain().await.unwrap();
    assert_eq!((outcomes.committed, outcomes.total()), (3_000, 3_000));
}

async fn g08_a_send_dropped_after_acceptance_does_not_withdraw(bed: Bed) {
    let pool = pool(bed.executor(), 1, WORKERS, 1024);
    bed.watch(pool.clone());
    let door = Door::closed();
    for n in 0..500 {
        let mut sending = pool.send(Job::at(n % 30, &door));
        assert!(poll_once(&mut sending, Waker::noop()).is_pending());
    }
    assert_eq!(pool.stats()[0].accepted, 500);
    door.open();
    assert_eq!(pool.drain().await.unwrap().committed, 500);
}

async fn g08_a_submission_dropped_before_acceptance_never_runs(bed: Bed) {
    let pool = pool(bed.executor(), 1, 2, 2);
    bed.watch(pool.clone());
    let (door, live) = (Door::closed(), Live::default());
    let blocked: Vec<_> = (0..2).map(|id| pool.try_submit(Job::at(id, &door)).unwrap()).collect();
    until(|| door.arrived() == 2).await;
    let queued: Vec<_> = (0..2).map(|id| pool.try_submit(Job::plain(id)).unwrap()).collect();
    let ran = Flag::default();
    let job = || {
        let ran = ran.clone();
        Job::new(fastrand::u64(..3), |_| async move {
            ran.set();
            Ok(0)
        })
        .counted(&live)
    };
    for round in 0..500 {
        let mut submission = pool.submit(job());
        let mut sending = pool.send(job());
        assert!(poll_once(&mut submission, Waker::noop()).is_pending());
        assert!(poll_once(&mut sending, Waker::noop()).is_pending());
        if round % 2 == 0 {
            // The dispatcher may have looked at them, or not.
            yield_at_random().await;
        }
        assert_eq!(pool.stats()[0].waiting, 2);
        drop((sending, submission));
        assert_eq!(pool.stats()[0].waiting, 0, "who went away is still counted");
    }
    door.open();
    for ticket in blocked.into_iter().chain(queued) {
        ticket.await.unwrap();
    }
    assert_eq!(pool.drain().await.unwrap().total(), 4, "what was not accepted has an outcome");
    assert!(!ran.is_set());
    assert_eq!(live.count(), 0);
}

async fn g08_a_submission_that_nobody_polled_is_not_accepted(bed: Bed) {
    let pool = pool(bed.executor(), 1, 2, 8);
    let ran = Flag::default();
    let job = || {
        let ran = ran.clone();
        Job::new(1, |_| async move {
            ran.set();
            Ok(0)
        })
    };
    drop(pool.submit(job()));
    drop(pool.send(job()));
    pool.send(Job::plain(1)).await.unwrap();
    assert_eq!(pool.drain().await.unwrap().total(), 1);
    assert!(!ran.is_set());
}

async fn g08_a_granted_submission_dropped_unpolled_runs(bed: Bed) {
    for _ in 0..100 {
        let puppets = Puppets::new(bed.executor());
        let pool = pool(puppets, 1, 1, 1);
        bed.watch(Peek(pool.downgrade()));
        let door = Door::closed();
        let blocked = pool.try_submit(Job::at(1, &door)).unwrap();
        until(|| door.arrived() == 1).await;
        let queued = pool.try_submit(Job::plain(1)).unwrap();
        let mut waiting = pool.submit(Job::plain(1));
        assert!(poll_once(&mut waiting, Waker::noop()).is_pending());
        assert_eq!(pool.stats()[0].accepted, 2);
        door.open();
        until(|| pool.stats()[0].accepted == 3).await;
        drop(waiting);
        blocked.await.unwrap();
        queued.await.unwrap();
        assert_eq!(pool.drain().await.unwrap().committed, 3);
    }
}

#[test]
fn g17_what_gave_up_waiting_is_forgotten_though_nobody_comes_after_it() {
    for is_seen in [false, true] {
        let mut shard = Shard::new(1, 1);
        let door = Door::closed();
        let ticket = shard.pool.try_submit(Job::at(0, &door)).unwrap();
        shard.settle();
        let queued = shard.submit(0);
        shard.settle();
        let (live, pool) = (Live::default(), shard.pool.clone());
        let mut submission = Box::pin(pool.submit(Job::plain(0).counted(&live)));
        assert!(poll_once(&mut submission, Waker::noop()).is_pending());
        let asked = Flag::default();
        if is_seen {
            let mark = asked.clone();
            shard.lull(move || mark.set());
        }
        drop(submission);
        assert_eq!(asked.is_set(), is_seen);
        shard.poll_dispatcher();
        assert_eq!(live.count(), 0, "before the dispatcher looked: {}", !is_seen);
        door.open();
        shard.run_all([ticket, queued]);
        // Nor is it counted any more: the shard is calm, so a worker stands in.
        shard.lull(|| ());
        let alone = shard.submit(0);
        shard.workers.poll();
        assert!(alone.is_finished(), "before the dispatcher looked: {}", !is_seen);
    }
}

#[test]
fn g08_submissions_that_gave_up_waiting_are_forgotten_when_they_are_the_larger_part() {
    const WAITING: usize = 200;
    let mut shard = Shard::new(1, 1);
    let ticket = shard.submit(0);
    let live = Live::default();
    let pool = shard.pool.clone();
    let mut waiting: Vec<_> = (0..WAITING)
        .map(|_| {
            let mut submission = Box::pin(pool.submit(Job::plain(0).counted(&live)));
            assert!(poll_once(&mut submission, Waker::noop()).is_pending());
            submission
        })
        .collect();
    shard.poll_dispatcher();
    // Not those in front, which the dispatcher comes across.
    waiting.drain(1..100);
    shard.poll_dispatcher();
    assert_eq!(live.count(), WAITING);
    waiting.drain(1..3);
    shard.poll_dispatcher();
    assert_eq!(live.count(), waiting.len());
    drop(waiting);
    shard.run(ticket).unwrap();
}
