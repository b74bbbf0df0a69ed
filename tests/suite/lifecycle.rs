//! The end of a pool: drain, abort, the drop of the last handle (G15, G16, G17).

use crate::harness::{Bed, Door, suite, until, yield_at_random};
use crate::tools::{Error, Flag, Job, Live, Pool, Puppets, assert_quiet, pool};
use shardpool::{CommandError, DrainError, Outcomes, SubmitError, TrySubmitError};
use std::time::Duration;

suite!(
    g15_intake_stops_when_drain_is_called_not_when_it_is_polled,
    g15_a_waiting_submission_is_refused_and_gets_its_command_back,
    g15_submissions_of_running_handlers_are_refused_and_everything_accepted_finishes,
    g16_trap12_a_drain_that_timed_out_says_what_is_left_and_can_be_called_again,
    g16_abort_resolves_at_once_all_that_has_not_started,
    g16_a_running_handler_sees_the_abort,
    g16_any_number_of_drains_and_aborts_end_alike,
    g17_the_last_handle_finishes_what_was_accepted_then_ends_every_task,
    g17_the_last_handle_can_go_inside_a_handler,
    g17_a_weak_handle_does_not_keep_the_pool_open,
    g17_nothing_is_left_of_commands_and_tickets,
    g17_no_task_owns_its_executor,
);

async fn g15_intake_stops_when_drain_is_called_not_when_it_is_polled(bed: Bed) {
    let pool = pool(bed.executor(), 3, 2, 64);
    bed.watch(pool.clone());
    let accepted: Vec<_> = (0..30).map(|id| pool.try_submit(Job::plain(id)).unwrap()).collect();
    let drain = pool.drain();
    for id in 0..30 {
        match pool.try_submit(Job::plain(id).number(id)) {
            Err(TrySubmitError::Closed(job)) => assert_eq!(job.number, id),
            other => panic!("{other:?}"),
        }
        match pool.submit(Job::plain(id).number(id)).await {
            Err(SubmitError::Closed(job)) => assert_eq!(job.number, id),
            other => panic!("{other:?}"),
        }
    }
    assert!(pool.is_closed());
    // Dropped before its first poll, and called again.
    drop(drain);
    assert_eq!(pool.drain().await.unwrap().committed, 30);
    for ticket in accepted {
        ticket.await.unwrap();
    }
}

async fn g15_a_waiting_submission_is_refused_and_gets_its_command_back(bed: Bed) {
    let pool = pool(bed.executor(), 1, 1, 2);
    bed.watch(pool.clone());
    let door = Door::closed();
    let running = pool.try_submit(Job::at(0, &door)).unwrap();
    until(|| door.arrived() == 1).await;
    let queued: Vec<_> = (0..2).map(|id| pool.try_submit(Job::plain(id)).unwrap()).collect();
    let mut waiting: Vec<_> =
        (0..10).map(|id| pool.submit(Job::plain(id).number(100 + id))).collect();
    for submission in &mut waiting {
        assert!(futures::poll!(submission).is_pending());
    }
    let drain = pool.drain();
    for (id, submission) in waiting.into_iter().enumerate() {
        match submission.await {
            Err(SubmitError::Closed(job)) => assert_eq!(job.number, 100 + id as u64),
            other => panic!("{other:?}"),
        }
    }
    door.open();
    let outcomes = drain.await.unwrap();
    assert_eq!((outcomes.committed, outcomes.total()), (3, 3));
    for ticket in queued.into_iter().chain([running]) {
        ticket.await.unwrap();
    }
}

async fn g15_submissions_of_running_handlers_are_refused_and_everything_accepted_finishes(
    bed: Bed,
) {
    const QUEUED: u64 = 200;
    let pool = pool(bed.executor(), 2, 3, QUEUED as usize);
    bed.watch(pool.clone());
    let door = Door::closed();
    let inner = pool.clone();
    let at_door = door.clone();
    let asking = Job::new(1, move |_| async move {
        at_door.pass().await;
        match inner.send(Job::plain(2).number(7)).await {
            Err(error) => Ok(error.into_command().map_or(0, |job| job.number)),
            Ok(_) => Ok(0),
        }
    });
    let asking = pool.try_submit(asking).unwrap();
    until(|| door.arrived() == 1).await;
    // Backlogs of many aggregates, one of them busy.
    let tickets: Vec<_> = (0..QUEUED)
        .map(|n| {
            let job = Job::new(n % 13, |cx| async move {
                yield_at_random().await;
                Ok(cx.version())
            });
            pool.try_submit(job).unwrap()
        })
        .collect();
    let drain = pool.drain();
    door.open();
    let outcomes = drain.await.unwrap();
    assert_eq!(outcomes.committed, QUEUED + 1);
    assert_eq!(asking.await.unwrap().output, 7, "the command came back to the handler");
    for ticket in tickets {
        // Nothing that was accepted is still to come when the drain is over.
        assert!(ticket.is_done());
        ticket.await.unwrap();
    }
    assert_quiet(&pool);
}

async fn g16_trap12_a_drain_that_timed_out_says_what_is_left_and_can_be_called_again(bed: Bed) {
    let pool = pool(bed.executor(), 1, 2, 64);
    bed.watch(pool.clone());
    let door = Door::closed();
    let mut tickets: Vec<_> =
        (0..2).map(|id| pool.try_submit(Job::at(id, &door)).unwrap()).collect();
    until(|| door.arrived() == 2).await;
    tickets.extend((0..5).map(|id| pool.try_submit(Job::plain(id)).unwrap()));
    for time in [Duration::ZERO, Duration::from_millis(1), Duration::ZERO] {
        let timeout = DrainError::Timeout { queued: 5, running: 2 };
        assert_eq!(pool.drain().within(time).await, Err(timeout));
    }
    door.open();
    let outcomes = pool.drain().within(Duration::MAX).await.unwrap();
    assert_eq!(outcomes.committed, 7);
    assert_eq!(pool.drain().within(Duration::ZERO).await, Ok(outcomes));
    for ticket in tickets {
        ticket.await.unwrap();
    }
}

async fn g16_abort_resolves_at_once_all_that_has_not_started(bed: Bed) {
    const DEPTH: u64 = 300;
    let pool = pool(bed.executor(), 1, 2, DEPTH as usize);
    bed.watch(pool.clone());
    let door = Door::closed();
    // The first two take both workers. Behind them: turns in their hands, backlogs, the ring, more
    // ready lanes than that, the channel, and the lobby.
    let first = pool.try_submit(Job::at(0, &door)).unwrap();
    let second = pool.try_submit(Job::at(1, &door)).unwrap();
    let queued: Vec<_> = (0..DEPTH - 2)
        .chain([0, 1])
        .filter_map(|id| pool.try_submit(Job::plain(id / 2)).ok())
        .collect();
    until(|| door.arrived() == 2).await;
    let more: Vec<_> =
        std::iter::from_fn(|| pool.try_submit(Job::plain(0)).ok()).take(DEPTH as usize).collect();
    let mut waiting = pool.submit(Job::plain(3).number(3));
    assert!(futures::poll!(&mut waiting).is_pending());
    let abort = pool.abort();
    let aborted = (queued.len() + more.len()) as u64;
    for ticket in queued.into_iter().chain(more) {
        // While both handlers are still pending.
        assert_eq!(ticket.await.unwrap_err(), CommandError::Aborted { started: false });
    }
    match waiting.await {
        Err(SubmitError::Closed(job)) => assert_eq!(job.number, 3),
        other => panic!("{other:?}"),
    }
    assert!(!first.is_done() && !second.is_done());
    door.open();
    first.await.unwrap();
    second.await.unwrap();
    let outcomes = abort.await.unwrap();
    assert_eq!((outcomes.committed, outcomes.aborted), (2, aborted));
    assert_quiet(&pool);
}

async fn g16_a_running_handler_sees_the_abort(bed: Bed) {
    let pool = pool(bed.executor(), 1, 2, 64);
    bed.watch(pool.clone());
    let started = Flag::default();
    let mark = started.clone();
    // Pending, and woken by nothing but the abort itself.
    let job = Job::new(1, move |cx| async move {
        mark.set();
        std::future::poll_fn(|_| {
            if cx.is_cancelled() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
        })
        .await;
        Ok(1)
    });
    let ticket = pool.try_submit(job).unwrap();
    until(|| started.is_set()).await;
    let outcomes = pool.abort().await.unwrap();
    assert_eq!((outcomes.committed, outcomes.total()), (1, 1));
    ticket.await.unwrap();
}

async fn g16_any_number_of_drains_and_aborts_end_alike(bed: Bed) {
    for round in 0..20 {
        let pool = pool(bed.executor(), 2, 2, 256);
        bed.watch(pool.clone());
        let tickets: Vec<_> = (0..100)
            .map(|id| {
                let job = Job::new(id % 9, |_| async {
                    yield_at_random().await;
                    Ok(0)
                });
                pool.try_submit(job).unwrap()
            })
            .collect();
        let ends: Vec<_> = (0..8)
            .map(|n| {
                let pool = pool.clone();
                bed.spawn(async move {
                    yield_at_random().await;
                    let end = if n % 2 == 0 { pool.drain() } else { pool.abort() };
                    if n % 4 == 0 {
                        // Dropped while it waits.
                        let mut end = end;
                        let _ = futures::poll!(&mut end);
                        drop(end);
                        return pool.drain().await.unwrap();
                    }
                    end.await.unwrap()
                })
            })
            .collect();
        let mut all: Vec<Outcomes> = Vec::new();
        for end in ends {
            all.push(end.await);
        }
        assert!(all.iter().all(|outcomes| *outcomes == all[0]), "round {round}: {all:?}");
        assert_eq!(all[0].total(), 100);
        for ticket in tickets {
            assert!(ticket.is_done());
        }
    }
}

async fn g17_the_last_handle_finishes_what_was_accepted_then_ends_every_task(bed: Bed) {
    let puppets = Puppets::new(bed.executor());
    let pool = pool(puppets.clone(), 2, 3, 256);
    let tasks = puppets.tasks();
    assert_eq!(tasks.count(), 2 * (1 + 3));
    let tickets: Vec<_> = (0..200)
        .map(|id| {
            let job = Job::new(id % 17, |_| async {
                yield_at_random().await;
                Ok(0)
            });
            pool.try_submit(job).unwrap()
        })
        .collect();
    let other = pool.clone();
    drop(pool);
    // Not the last.
    let late = other.try_submit(Job::plain(1)).unwrap();
    drop(other);
    for ticket in tickets.into_iter().chain([late]) {
        ticket.await.unwrap();
    }
    until(|| tasks.count() == 0).await;
}

async fn g17_the_last_handle_can_go_inside_a_handler(bed: Bed) {
    let puppets = Puppets::new(bed.executor());
    let pool = pool(puppets.clone(), 2, 2, 16);
    let tasks = puppets.tasks();
    let inner = pool.clone();
    let door = Door::closed();
    let at_door = door.clone();
    let job = Job::new(1, move |_| async move {
        at_door.pass().await;
        drop(inner);
        yield_at_random().await;
        Ok(3)
    });
    let ticket = pool.try_submit(job).unwrap();
    until(|| door.arrived() == 1).await;
    drop(pool);
    door.open();
    assert_eq!(ticket.await.unwrap().output, 3);
    until(|| tasks.count() == 0).await;
}

async fn g17_a_weak_handle_does_not_keep_the_pool_open(bed: Bed) {
    let puppets = Puppets::new(bed.executor());
    let pool = pool(puppets.clone(), 1, 2, 16);
    let weak = pool.downgrade();
    let strong = weak.upgrade().expect("a handle is left");
    drop(pool);
    strong.send(Job::plain(1)).await.unwrap();
    drop(strong);
    assert!(weak.upgrade().is_none());
    until(|| puppets.tasks().count() == 0).await;
}

async fn g17_nothing_is_left_of_commands_and_tickets(bed: Bed) {
    let live = Live::default();
    let pool = pool(bed.executor(), 2, 2, 64);
    let weak = pool.downgrade();
    let mut kept = Vec::new();
    for n in 0..400_u64 {
        let job = match n % 4 {
            0 => Job::new(n % 7, |_| async { Err(shardpool::Failure::Failed(Error("oh"))) }),
            1 => Job::new(n % 7, |_| async { Err(shardpool::Failure::Rejected(Error("no"))) }),
            _ => Job::plain(n % 7),
        };
        let ticket = pool.submit(job.counted(&live)).await.unwrap();
        if n % 3 == 0 {
            // Too late or not, its command goes like the others.
            let _ = ticket.withdraw();
        }
        if n % 5 == 0 {
            kept.push(ticket);
        }
    }
    let outcomes = pool.drain().await.unwrap();
    assert_eq!(outcomes.total(), 400);
    drop(pool);
    until(|| live.count() == 0).await;
    assert!(weak.upgrade().is_none());
    // Tickets outlive their pool.
    for ticket in kept {
        assert!(ticket.is_done());
        assert!(!ticket.withdraw());
        let _ = ticket.await;
    }
}

async fn g17_no_task_owns_its_executor(bed: Bed) {
    let puppets = Puppets::new(bed.executor());
    let executors = puppets.executors();
    let door = Door::closed();
    let pool: Pool = pool(puppets, 1, 2, 16);
    // The executor was needed for the start alone.
    assert_eq!(executors.count(), 0);
    let inner = pool.clone();
    let at_door = door.clone();
    let job = Job::new(1, move |_| async move {
        // A handler with a full handle across an await.
        at_door.pass().await;
        drop(inner);
        Ok(0)
    });
    let ticket = pool.try_submit(job).unwrap();
    until(|| door.arrived() == 1).await;
    assert_eq!(executors.count(), 0);
    door.open();
    ticket.await.unwrap();
    pool.drain().await.unwrap();
}
