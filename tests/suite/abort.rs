//! Drain is bounded and repeatable; abort resolves at once what has not started (G16).

use crate::by_hand::Shard;
use crate::harness::{Bed, Door, On, Shared, load, run, suite, until, yield_at_random, yield_now};
use crate::tools::{
    Crowd, Error, Flag, Job, Live, Peek, Pool, Script, Ticket, assert_quiet, id_on, poll_once, pool,
};
use shardpool::executors::{Clock, Executor, SpawnError, Task};
use shardpool::{CommandError, Context, DrainError, Loaded, Outcomes, ShardPool, loader_fn};
use std::iter::once;
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Poll, Waker};
use std::thread;
use std::time::Duration;

suite!(
    g16_trap12_a_drain_out_of_time_reports_and_can_be_called_again,
    g16_trap12_a_drain_with_no_time_at_all_reports_and_can_be_called_again,
    g16_a_drain_with_more_time_than_a_clock_can_count_waits_for_the_end,
    g16_a_drain_that_has_ended_is_never_out_of_time,
    g16_an_abort_that_nobody_polls_aborts,
    g16_an_abort_resolves_what_is_in_the_channel,
    g16_an_abort_refuses_who_waits_for_room,
    g16_an_abort_resolves_the_backlog_of_a_busy_aggregate,
    g16_an_abort_resolves_aggregates_that_no_worker_has_taken,
    g16_an_abort_resolves_the_turn_behind_a_pending_handler,
    g16_an_abort_inside_a_handler_starts_nothing_behind_it,
    g16_an_abort_gives_up_a_pending_load_and_what_is_behind_it,
    g16_an_abort_ends_a_drain_that_waits,
    g16_a_running_handler_sees_an_abort_and_no_drain,
    g16_any_number_of_drains_and_aborts_at_once_end_the_same,
);

/// Every one has ended as aborted and not started.
async fn all_aborted(tickets: Vec<Ticket>) {
    for ticket in tickets {
        let error = ticket.await.unwrap_err();
        assert_eq!(error, CommandError::Aborted { started: false });
    }
}

/// An executor that does not poll the pool's futures before the door is open.
struct Late {
    on: Shared,
    door: Door,
}

impl Executor for Late {
    fn spawn(&self, task: Task) -> Result<(), SpawnError> {
        let door = self.door.clone();
        self.on.spawn(Box::pin(async move {
            door.pass().await;
            task.await;
        }))
    }

    fn clock(&self) -> Arc<dyn Clock> {
        self.on.clock()
    }

    fn threads(&self) -> usize {
        self.on.threads()
    }
}

/// Three handlers at the door, and seven commands behind them.
async fn ten(pool: &Pool, door: &Door) -> Vec<Ticket> {
    let mut tickets: Vec<_> =
        (0..3).map(|id| pool.try_submit(Job::at(id, door)).unwrap()).collect();
    until(|| door.arrived() == 3).await;
    tickets.extend((0..7).map(|n| pool.try_submit(Job::plain(n % 3)).unwrap()));
    tickets
}

async fn reports_and_can_be_called_again(bed: Bed, time: Duration) {
    let pool = pool(bed.executor(), 1, 3, 16);
    bed.watch(Peek(pool.downgrade()));
    let door = Door::closed();
    let tickets = ten(&pool, &door).await;
    for _ in 0..20 {
        let late = pool.drain().within(time).await.unwrap_err();
        assert_eq!(late, DrainError::Timeout { queued: 7, running: 3 });
    }
    let late = pool.drain().within(time).blocking_wait().unwrap_err();
    assert_eq!(late, DrainError::Timeout { queued: 7, running: 3 });
    assert!(pool.is_closed());
    // One without a time is not done when that of another is over.
    let mut last = pool.drain();
    let _ = poll_once(&mut last, Waker::noop());
    pool.drain().within(Duration::from_millis(2)).await.unwrap_err();
    let polled = poll_once(&mut last, Waker::noop());
    assert!(polled.is_pending(), "{polled:?}");
    door.open();
    for ticket in tickets {
        ticket.await.unwrap();
    }
    assert_eq!(last.await.unwrap().committed, 10);
}

async fn g16_trap12_a_drain_out_of_time_reports_and_can_be_called_again(bed: Bed) {
    reports_and_can_be_called_again(bed, Duration::from_millis(2)).await;
}

async fn g16_trap12_a_drain_with_no_time_at_all_reports_and_can_be_called_again(bed: Bed) {
    reports_and_can_be_called_again(bed, Duration::ZERO).await;
}

async fn g16_a_drain_with_more_time_than_a_clock_can_count_waits_for_the_end(bed: Bed) {
    // The first is too long for any clock, the others for what some timers count in.
    let times = [Duration::MAX, Duration::from_secs(u64::MAX / 4), Duration::from_secs(1 << 40)];
    let pool = pool(bed.executor(), 1, 3, 16);
    bed.watch(Peek(pool.downgrade()));
    let door = Door::closed();
    let tickets = ten(&pool, &door).await;
    let mut drains = times.map(|time| pool.drain().within(time));
    for drain in &mut drains {
        let polled = poll_once(drain, Waker::noop());
        assert!(polled.is_pending(), "{polled:?}");
    }
    let blocking: Vec<_> = times
        .map(|time| {
            let drain = pool.drain().within(time);
            thread::spawn(|| drain.blocking_wait())
        })
        .into();
    door.open();
    for drain in drains {
        assert_eq!(drain.await.unwrap().committed, 10);
    }
    for ticket in tickets {
        ticket.await.unwrap();
    }
    for drain in blocking {
        assert_eq!(drain.join().unwrap().unwrap().committed, 10);
    }
}

async fn g16_a_drain_that_has_ended_is_never_out_of_time(bed: Bed) {
    let pool = pool(bed.executor(), 2, 1, 8);
    bed.watch(Peek(pool.downgrade()));
    pool.send(Job::plain(1)).await.unwrap();
    let outcomes = pool.drain().await.unwrap();
    assert_eq!(pool.drain().within(Duration::ZERO).await, Ok(outcomes));
    assert_eq!(pool.abort().within(Duration::ZERO).await, Ok(outcomes));
    assert_eq!(pool.drain().within(Duration::ZERO).blocking_wait(), Ok(outcomes));
}

async fn g16_an_abort_that_nobody_polls_aborts(bed: Bed) {
    let pool = pool(bed.executor(), 2, 1, 64);
    bed.watch(Peek(pool.downgrade()));
    let door = Door::closed();
    let ids = [0, 1].map(|shard| id_on(&pool, shard, &[]));
    let running = ids.map(|id| pool.try_submit(Job::at(id, &door)).unwrap());
    until(|| door.arrived() == 2).await;
    let queued = (0..20).map(|id| pool.try_submit(Job::plain(id)).unwrap()).collect();
    drop(pool.abort());
    assert!(pool.is_closed());
    all_aborted(queued).await;
    door.open();
    for ticket in running {
        ticket.await.unwrap();
    }
    let outcomes = pool.drain().await.unwrap();
    assert_eq!((outcomes.committed, outcomes.aborted), (2, 20));
    assert_quiet(&pool);
}

async fn g16_an_abort_resolves_what_is_in_the_channel(bed: Bed) {
    const COMMANDS: u64 = 1_000;
    let door = Door::closed();
    let late = Late { on: bed.executor(), door: door.clone() };
    let pool = pool(late, 1, 2, COMMANDS as usize);
    bed.watch(Peek(pool.downgrade()));
    let ran = Flag::default();
    let tickets = (0..COMMANDS)
        .map(|n| {
            let ran = ran.clone();
            let job = Job::new(n % 30, move |_| async move {
                ran.set();
                Ok(0)
            });
            pool.try_submit(job).unwrap()
        })
        .collect();
    let end = pool.abort();
    door.open();
    all_aborted(tickets).await;
    assert_eq!(end.await.unwrap().aborted, COMMANDS);
    assert!(!ran.is_set());
}

async fn g16_an_abort_refuses_who_waits_for_room(bed: Bed) {
    const WAITING: u64 = 5;
    let pool = pool(bed.executor(), 1, 1, 2);
    bed.watch(Peek(pool.downgrade()));
    let door = Door::closed();
    let runs = pool.try_submit(Job::at(0, &door)).unwrap();
    until(|| door.arrived() == 1).await;
    let queued = (0..2).map(|id| pool.try_submit(Job::plain(id)).unwrap()).collect();
    let crowd = Crowd::waits(&bed, &pool, WAITING).await;
    let end = pool.abort();
    crowd.all_refused().await;
    all_aborted(queued).await;
    door.open();
    runs.await.unwrap();
    // Who was refused has no outcome.
    assert_eq!(end.await.unwrap().total(), 3);
}

async fn g16_an_abort_resolves_the_backlog_of_a_busy_aggregate(bed: Bed) {
    let pool = pool(bed.executor(), 1, 2, 256);
    bed.watch(Peek(pool.downgrade()));
    let door = Door::closed();
    let runs = pool.try_submit(Job::at(0, &door)).unwrap();
    until(|| door.arrived() == 1).await;
    let backlog: Vec<_> = (0..200).map(|_| pool.try_submit(Job::plain(0)).unwrap()).collect();
    // The other aggregate is later in the channel: when it is done, these have left it.
    pool.send(Job::plain(1)).await.unwrap();
    let end = pool.abort();
    all_aborted(backlog).await;
    door.open();
    runs.await.unwrap();
    assert_eq!(end.await.unwrap().aborted, 200);
    assert_quiet(&pool);
}

async fn g16_an_abort_resolves_aggregates_that_no_worker_has_taken(bed: Bed) {
    // More than the ring between dispatcher and workers has places for.
    const READY: u64 = 400;
    let seen = Live::default();
    let of_hook = seen.clone();
    let counted: Arc<Mutex<Vec<_>>> = Arc::default();
    let pool: Pool = ShardPool::builder(Script::new())
        .shards(1)
        .workers_per_shard(1)
        .queue_depth(1024)
        .on_dispatched(move |_| counted.lock().unwrap().push(of_hook.one()))
        .start(bed.executor())
        .unwrap();
    bed.watch(Peek(pool.downgrade()));
    let door = Door::closed();
    let runs = pool.try_submit(Job::at(0, &door)).unwrap();
    until(|| door.arrived() == 1).await;
    let ready: Vec<_> = (1..=READY).map(|id| pool.try_submit(Job::plain(id)).unwrap()).collect();
    until(|| seen.count() as u64 == 1 + READY).await;
    let end = pool.abort();
    all_aborted(ready).await;
    door.open();
    runs.await.unwrap();
    assert_eq!(end.await.unwrap().aborted, READY);
    assert_quiet(&pool);
}

/// Gives aggregate 0's commands to the one worker in one turn: they wait behind one that runs.
async fn in_one_turn(pool: &Pool, jobs: impl Iterator<Item = Job>) -> Vec<Ticket> {
    let door = Door::closed();
    let runs = pool.try_submit(Job::at(0, &door)).unwrap();
    until(|| door.arrived() == 1).await;
    let turn = jobs.map(|job| pool.try_submit(job).unwrap()).collect();
    // The dispatcher has taken them when it knows of an aggregate that came after them.
    let last = pool.try_submit(Job::plain(1)).unwrap();
    until(|| pool.stats()[0].resident == 2).await;
    door.open();
    runs.await.unwrap();
    last.await.unwrap();
    turn
}

async fn g16_an_abort_resolves_the_turn_behind_a_pending_handler(bed: Bed) {
    let pool = pool(bed.executor(), 1, 1, 64);
    bed.watch(Peek(pool.downgrade()));
    let door = Door::closed();
    let jobs = once(Job::at(0, &door)).chain((0..20).map(|_| Job::plain(0)));
    let mut turn = in_one_turn(&pool, jobs).await;
    let runs = turn.remove(0);
    until(|| door.arrived() == 1).await;
    let end = pool.abort();
    all_aborted(turn).await;
    door.open();
    runs.await.unwrap();
    assert_eq!(end.await.unwrap().aborted, 20);
    assert_quiet(&pool);
}

async fn g16_an_abort_inside_a_handler_starts_nothing_behind_it(bed: Bed) {
    let pool = pool(bed.executor(), 1, 1, 64);
    bed.watch(Peek(pool.downgrade()));
    let inner = pool.clone();
    let job = Job::new(0, move |_| async move {
        drop(inner.abort());
        Ok(0)
    });
    let jobs = once(job).chain((0..20).map(|_| Job::plain(0)));
    let mut turn = in_one_turn(&pool, jobs).await;
    let aborts = turn.remove(0);
    all_aborted(turn).await;
    aborts.await.unwrap();
    assert_eq!(pool.abort().await.unwrap().aborted, 20);
    assert_quiet(&pool);
}

async fn g16_an_abort_gives_up_a_pending_load_and_what_is_behind_it(bed: Bed) {
    let (door, loads) = (Door::closed(), Live::default());
    let (of_loader, live) = (door.clone(), loads.clone());
    let pool: Pool = ShardPool::builder(Script::new())
        .loader(loader_fn(move |_: u64| {
            let (door, one) = (of_loader.clone(), live.one());
            async move {
                door.pass().await;
                drop(one);
                Ok::<_, Error>(Loaded::new((), 0))
            }
        }))
        .shards(1)
        .workers_per_shard(2)
        .start(bed.executor())
        .unwrap();
    bed.watch(Peek(pool.downgrade()));
    let tickets = (0..20).map(|n| pool.try_submit(Job::plain(n % 2)).unwrap()).collect();
    until(|| door.arrived() == 2).await;
    let end = pool.abort();
    all_aborted(tickets).await;
    assert_eq!(end.await.unwrap().aborted, 20);
    assert_eq!(loads.count(), 0, "a load is left over");
}

async fn g16_an_abort_ends_a_drain_that_waits(bed: Bed) {
    let pool = pool(bed.executor(), 1, 1, 64);
    bed.watch(Peek(pool.downgrade()));
    let door = Door::closed();
    let runs = pool.try_submit(Job::at(0, &door)).unwrap();
    until(|| door.arrived() == 1).await;
    let queued = (0..20).map(|n| pool.try_submit(Job::at(n, &door)).unwrap()).collect();
    let mut drain = pool.drain();
    assert!(poll_once(&mut drain, Waker::noop()).is_pending());
    let end = pool.abort();
    all_aborted(queued).await;
    door.open();
    runs.await.unwrap();
    let outcomes = drain.await.unwrap();
    assert_eq!((outcomes.committed, outcomes.aborted), (1, 20));
    assert_eq!(end.await.unwrap(), outcomes);
}

async fn g16_a_running_handler_sees_an_abort_and_no_drain(bed: Bed) {
    let pool = pool(bed.executor(), 2, 1, 8);
    bed.watch(Peek(pool.downgrade()));
    let (door, contexts) = (Door::closed(), Arc::<Mutex<Vec<Context>>>::default());
    let running = [0, 1].map(|shard| {
        let (door, contexts) = (door.clone(), Arc::clone(&contexts));
        let job = Job::new(id_on(&pool, shard, &[]), move |cx| async move {
            contexts.lock().unwrap().push(cx.clone());
            door.pass().await;
            Ok(u64::from(cx.is_cancelled()))
        });
        pool.try_submit(job).unwrap()
    });
    until(|| door.arrived() == 2).await;
    let contexts = std::mem::take(&mut *contexts.lock().unwrap());
    let drain = pool.drain();
    assert!(contexts.iter().all(|cx| !cx.is_cancelled()), "a drain asks no handler to stop");
    let abort = pool.abort();
    assert!(contexts.iter().all(Context::is_cancelled));
    door.open();
    for ticket in running {
        // To its end: it commits, and has seen the flag.
        assert_eq!(ticket.await.unwrap().output, 1);
    }
    assert_eq!(drain.await, abort.await);
}

async fn g16_any_number_of_drains_and_aborts_at_once_end_the_same(bed: Bed) {
    const ROUNDS: usize = load(20, 500);
    let mut total = Outcomes::default();
    for round in 0..ROUNDS {
        let pool = pool(bed.executor(), 2, 2, 128);
        bed.watch(Peek(pool.downgrade()));
        let mut tickets: Vec<_> = (0..100)
            .map(|n| {
                let job = Job::new(n % 9, |_| async {
                    yield_at_random().await;
                    Ok(0)
                });
                pool.try_submit(job).unwrap()
            })
            .collect();
        if round % 2 == 0 {
            // Surely not done before an abort.
            let until_asked = Job::new(0, |cx| async move {
                while !cx.is_cancelled() {
                    yield_now().await;
                }
                Ok(0)
            });
            tickets.insert(0, pool.try_submit(until_asked).unwrap());
        }
        let end = move |pool: &Pool, n| {
            // Aborts in every other round.
            if n % 2 == 0 && round % 2 == 0 { pool.abort() } else { pool.drain() }
        };
        let ends: Vec<_> = (0..16)
            .map(|n| {
                let pool = pool.clone();
                bed.spawn(async move {
                    yield_at_random().await;
                    match n / 2 % 3 {
                        0 => end(&pool, n).await,
                        1 => end(&pool, n).within(Duration::MAX).await,
                        _ => loop {
                            match end(&pool, n).within(Duration::ZERO).await {
                                Err(DrainError::Timeout { .. }) => yield_now().await,
                                ended => break ended,
                            }
                        },
                    }
                })
            })
            .collect();
        let blocking = [0, 1].map(|n| {
            let pool = pool.clone();
            thread::spawn(move || end(&pool, n).blocking_wait())
        });
        let mut seen = Outcomes::default();
        for ticket in tickets {
            match ticket.await {
                Ok(_) => seen.committed += 1,
                Err(CommandError::Aborted { started: false }) => seen.aborted += 1,
                Err(other) => panic!("{other:?}"),
            }
        }
        for end in ends {
            assert_eq!(end.await, Ok(seen));
        }
        for end in blocking {
            assert_eq!(end.join().unwrap(), Ok(seen));
        }
        total += seen;
    }
    // Else the aborts came too late to abort anything.
    assert!(total.committed > 0 && total.aborted > 0, "{total:?}");
}

#[test]
fn g16_a_handler_that_blocks_its_thread_delays_its_own_turn_alone() {
    // Where each future has a thread of its own, so that a blocked one holds up no other future.
    run(On::Threads, |bed| async move {
        // Many: what is told first must not be told before the worker is.
        for _ in 0..100 {
            let pool = pool(bed.executor(), 1, 1, 256);
            bed.watch(Peek(pool.downgrade()));
            let (release, blocked) = mpsc::channel::<()>();
            let started = Flag::default();
            let of_job = started.clone();
            let job = Job::new(0, move |_| async move {
                of_job.set();
                assert!(blocked.recv().is_ok(), "the test has ended");
                Ok(0)
            });
            let jobs = once(job).chain((0..20).map(|_| Job::plain(0)));
            let mut turn = in_one_turn(&pool, jobs).await;
            let runs = turn.remove(0);
            until(|| started.is_set()).await;
            let others: Vec<_> =
                (0..60).map(|n| pool.try_submit(Job::plain(n % 7)).unwrap()).collect();
            let end = pool.abort();
            all_aborted(others).await;
            release.send(()).unwrap();
            all_aborted(turn).await;
            runs.await.unwrap();
            assert_eq!(end.await.unwrap().aborted, 80);
        }
    });
}

#[test]
fn g16_a_worker_obeys_an_abort_that_the_dispatcher_has_not_passed_on() {
    let mut shard = Shard::new(1, 8);
    let mut ticket = shard.submit(0);
    // Hands it out.
    shard.poll_dispatcher();
    drop(shard.pool.abort());
    shard.workers.poll();
    let aborted = Err(CommandError::Aborted { started: false });
    assert_eq!(poll_once(&mut ticket, Waker::noop()), Poll::Ready(aborted));
}
