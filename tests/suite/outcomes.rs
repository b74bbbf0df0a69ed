//! Every accepted command has exactly one outcome (G5), and nobody need wait for it (G6).

use crate::harness::{Bed, Door, load, suite, until, yield_at_random};
use crate::tools::{
    Error, Flag, Handled, Job, Live, Peek, Pool, Puppets, Script, Ticket, assert_quiet,
    hush_wanted_panics, pool,
};
use shardpool::{CommandError, Failure, Loaded, Outcomes, SendError, ShardPool, loader_fn};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

suite!(
    g05_g15_trap04_trap05_a_drain_under_load_leaves_each_command_with_one_outcome_or_its_caller,
    g05_g16_an_abort_under_load_leaves_each_command_with_one_outcome_or_its_caller,
    g05_a_pool_dropped_under_load_leaves_each_command_with_one_outcome,
    g05_any_future_dropped_from_outside_closes_its_shard_alone_and_strands_no_ticket,
    g05_a_dropped_worker_aborts_what_it_ran_as_started_and_what_it_held_as_not,
    g05_a_dropped_dispatcher_aborts_what_it_held_and_refuses_who_waited,
    g05_a_shard_whose_workers_are_all_dropped_strands_nothing,
    g05_every_outcome_tells_whether_the_handler_had_started,
    g06_outcomes_that_nobody_takes_hold_up_no_worker,
);

/// How a round of load ends.
#[derive(Clone, Copy)]
enum End {
    Drain,
    Abort,
}

const SUBMITTERS: u64 = 64;
const ROUNDS: usize = load(30, 1_000);

/// What one submitter has seen.
#[derive(Default)]
struct Seen {
    accepted: u64,
    outcomes: Outcomes,
}

fn count(seen: &mut Outcomes, ended: &Result<shardpool::Receipt<u64>, CommandError<Error>>) {
    *match ended {
        Ok(_) => &mut seen.committed,
        Err(CommandError::Rejected(_)) => &mut seen.rejected,
        Err(CommandError::Cancelled) => &mut seen.cancelled,
        Err(CommandError::Expired) => &mut seen.expired,
        Err(CommandError::Aborted { .. }) => &mut seen.aborted,
        Err(other) => panic!("no command here can end as {other:?}"),
    } += 1;
}

/// Commits or, every seventh, is rejected. Counts its run and whether it ran twice.
fn counted_job(number: u64, runs: &Arc<AtomicU64>, live: &Live) -> Job {
    let runs = Arc::clone(runs);
    let work = move |_| async move {
        runs.fetch_add(1, Ordering::SeqCst);
        yield_at_random().await;
        if number % 7 == 6 { Err(Failure::Rejected(Error("the seventh"))) } else { Ok(number) }
    };
    Job::new(fastrand::u64(..40), work).number(number).counted(live)
}

/// Submits in all ways, open loop, until it is refused; then takes every outcome.
async fn submit_until_refused(pool: Pool, me: u64, runs: Arc<AtomicU64>, live: Live) -> Seen {
    let mut seen = Seen::default();
    let mut tickets: Vec<Ticket> = Vec::new();
    for number in (me..).step_by(SUBMITTERS as usize) {
        let job = counted_job(number, &runs, &live);
        let back = match fastrand::u8(..10) {
            0 => match pool.send(job).await {
                Err(SendError::NotAccepted(refused)) => Some(refused.into_command()),
                Err(SendError::Command(error)) => {
                    seen.accepted += 1;
                    count(&mut seen.outcomes, &Err(error));
                    None
                }
                Err(other) => panic!("{other:?}"),
                Ok(receipt) => {
                    seen.accepted += 1;
                    count(&mut seen.outcomes, &Ok(receipt));
                    None
                }
            },
            1..5 => match pool.try_submit(job) {
                Ok(ticket) => {
                    tickets.push(ticket);
                    None
                }
                Err(refused) if refused.is_full() => {
                    assert_eq!(refused.into_command().number, number);
                    yield_at_random().await;
                    continue;
                }
                Err(refused) => Some(refused.into_command()),
            },
            _ => match pool.submit(job).await {
                Ok(ticket) => {
                    tickets.push(ticket);
                    None
                }
                Err(refused) => Some(refused.into_command()),
            },
        };
        if let Some(back) = back {
            assert_eq!(back.number, number, "another command came back");
            break;
        }
        if fastrand::u8(..10) == 0
            && let Some(ticket) = tickets.last()
        {
            let withdrawn = ticket.withdraw();
            let ended = tickets.pop().unwrap().await;
            seen.accepted += 1;
            assert_eq!(withdrawn, matches!(ended, Err(CommandError::Cancelled)));
            count(&mut seen.outcomes, &ended);
        }
        yield_at_random().await;
    }
    seen.accepted += tickets.len() as u64;
    for ticket in tickets {
        count(&mut seen.outcomes, &ticket.await);
    }
    seen
}

/// As many rounds as the constant says: load from 64 submitters, and an end in the middle of it.
async fn end_under_load(bed: &Bed, end: End) {
    let mut total = Outcomes::default();
    for _ in 0..ROUNDS {
        let pool = pool(bed.executor(), 2, 3, 16);
        bed.watch(Peek(pool.downgrade()));
        let (runs, live) = (Arc::<AtomicU64>::default(), Live::default());
        let submitters: Vec<_> = (0..SUBMITTERS)
            .map(|me| {
                bed.spawn(submit_until_refused(pool.clone(), me, Arc::clone(&runs), live.clone()))
            })
            .collect();
        let some = fastrand::u64(..200);
        until(|| pool.stats().iter().map(|shard| shard.accepted).sum::<u64>() >= some).await;
        let ending = match end {
            End::Drain => pool.drain(),
            End::Abort => pool.abort(),
        };
        let mut seen = Seen::default();
        for submitter in submitters {
            let one = submitter.await;
            seen.accepted += one.accepted;
            seen.outcomes += one.outcomes;
        }
        let outcomes = ending.await.unwrap();
        assert_eq!(outcomes, seen.outcomes, "what the pool counted is not what callers were told");
        assert_eq!(outcomes.total(), seen.accepted, "an outcome too many or too few");
        assert_eq!(runs.load(Ordering::SeqCst), outcomes.committed + outcomes.rejected);
        assert_eq!(assert_quiet(&pool), outcomes);
        assert_eq!(live.count(), 0, "a command is left over");
        total += outcomes;
    }
    // Else the rounds would have checked less than they say.
    assert!(total.committed > 0 && total.rejected > 0 && total.cancelled > 0, "{total:?}");
    assert_eq!(matches!(end, End::Abort), total.aborted > 0, "{total:?}");
}

async fn g05_g15_trap04_trap05_a_drain_under_load_leaves_each_command_with_one_outcome_or_its_caller(
    bed: Bed,
) {
    end_under_load(&bed, End::Drain).await;
}

async fn g05_g16_an_abort_under_load_leaves_each_command_with_one_outcome_or_its_caller(bed: Bed) {
    end_under_load(&bed, End::Abort).await;
}

async fn g05_a_pool_dropped_under_load_leaves_each_command_with_one_outcome(bed: Bed) {
    for _ in 0..ROUNDS {
        let pool = pool(bed.executor(), 2, 3, 16);
        bed.watch(Peek(pool.downgrade()));
        let (runs, live) = (Arc::<AtomicU64>::default(), Live::default());
        let submitters: Vec<_> = (0..SUBMITTERS / 4)
            .map(|me| {
                let (pool, runs, live) = (pool.clone(), Arc::clone(&runs), live.clone());
                bed.spawn(async move {
                    let mut tickets = Vec::new();
                    for number in 0..fastrand::u64(1..20) {
                        tickets.push(pool.submit(counted_job(number, &runs, &live)).await.unwrap());
                        if me % 2 == 0 {
                            yield_at_random().await;
                        }
                    }
                    // The handle goes first.
                    drop(pool);
                    let mut seen = Outcomes::default();
                    for ticket in tickets {
                        count(&mut seen, &ticket.await);
                    }
                    seen
                })
            })
            .collect();
        drop(pool);
        let mut seen = Outcomes::default();
        for submitter in submitters {
            seen += submitter.await;
        }
        assert_eq!(seen.committed + seen.rejected, seen.total(), "{seen:?}");
        assert_eq!(runs.load(Ordering::SeqCst), seen.total());
        until(|| live.count() == 0).await;
    }
}

/// One command, and whether its handler has started, by its own word.
fn marked_job(id: u64, started: &Flag, pause: bool) -> Job {
    let started = started.clone();
    Job::new(id, move |_| async move {
        started.set();
        if pause {
            yield_at_random().await;
        }
        Ok(0)
    })
}

async fn g05_any_future_dropped_from_outside_closes_its_shard_alone_and_strands_no_ticket(
    bed: Bed,
) {
    const WORKERS: usize = 3;
    let mut aborted = (0, 0);
    for round in 0..ROUNDS * (WORKERS + 1) {
        let puppets = Puppets::new(bed.executor());
        let (killer, tasks) = (puppets.killer(), puppets.tasks());
        let pool = pool(puppets, 2, WORKERS, 64);
        bed.watch(Peek(pool.downgrade()));
        let submitters: Vec<_> = (0..8)
            .map(|_| {
                let pool = pool.clone();
                bed.spawn(async move {
                    let mut tickets = Vec::new();
                    let mut refused = 0;
                    while refused < 3 {
                        let id = fastrand::u64(..100);
                        let started = Flag::default();
                        match pool.submit(marked_job(id, &started, true)).await {
                            Ok(ticket) => tickets.push((ticket, started, pool.shard_of(&id))),
                            Err(back) => {
                                refused += 1;
                                let back = back.into_command();
                                assert_eq!(back.id, id);
                                assert!(!started.is_set(), "a refused command has run");
                                yield_at_random().await;
                            }
                        }
                    }
                    let (mut not_started, mut was_started) = (0, 0);
                    for (ticket, started, shard) in tickets {
                        match ticket.await {
                            Ok(_) => assert!(started.is_set()),
                            Err(CommandError::Aborted { started: said }) => {
                                assert_eq!(said, started.is_set(), "the flag is wrong");
                                assert_eq!(shard, 0, "another shard lost a command");
                                *(if said { &mut was_started } else { &mut not_started }) += 1;
                            }
                            Err(other) => panic!("{other:?}"),
                        }
                    }
                    (not_started, was_started)
                })
            })
            .collect();
        // One handler of the shard is at an await for sure.
        let (door, of_lost) = (Door::closed(), (100..).find(|id| pool.shard_of(id) == 0).unwrap());
        let pending = pool.submit(Job::at(of_lost, &door)).await.unwrap();
        let some = fastrand::u64(..100);
        until(|| door.arrived() == 1 && pool.stats()[0].accepted >= some).await;
        // The futures of shard 0 come first, its dispatcher among them.
        killer.kill(round % (WORKERS + 1));
        door.open();
        match pending.await {
            Ok(_) => {}
            Err(error) => {
                assert_eq!(error, CommandError::Aborted { started: true });
                aborted.1 += 1;
            }
        }
        for submitter in submitters {
            let (not_started, was_started) = submitter.await;
            aborted.0 += not_started;
            aborted.1 += was_started;
        }
        let of_other = (0..).find(|id| pool.shard_of(id) == 1).unwrap();
        assert!(
            pool.try_submit(Job::plain(of_lost)).is_err(),
            "a shard that lost a future is open"
        );
        assert!(pool.stats()[0].closed && !pool.stats()[1].closed && !pool.is_closed());
        pool.send(Job::plain(of_other)).await.unwrap();
        pool.drain().await.unwrap();
        assert_quiet(&pool);
        until(|| tasks.count() == 0).await;
    }
    assert!(aborted.0 > 0 && aborted.1 > 0, "the load has hit nothing: {aborted:?}");
}

async fn g05_a_dropped_worker_aborts_what_it_ran_as_started_and_what_it_held_as_not(bed: Bed) {
    let puppets = Puppets::new(bed.executor());
    let (killer, tasks) = (puppets.killer(), puppets.tasks());
    let pool = pool(puppets, 1, 1, 64);
    bed.watch(Peek(pool.downgrade()));
    let door = Door::closed();
    let runs = pool.try_submit(Job::at(1, &door)).unwrap();
    until(|| door.arrived() == 1).await;
    let waits: Vec<_> = (0..20)
        .map(|n| pool.try_submit(marked_job(n % 4, &Flag::default(), false)).unwrap())
        .collect();
    // The first future may be the dispatcher's: kill the last, which is the worker's.
    killer.kill(1);
    assert_eq!(runs.await.unwrap_err(), CommandError::Aborted { started: true });
    for ticket in waits {
        assert_eq!(ticket.await.unwrap_err(), CommandError::Aborted { started: false });
    }
    assert!(pool.is_closed());
    assert_eq!(pool.drain().await.unwrap().aborted, 21);
    assert_quiet(&pool);
    until(|| tasks.count() == 0).await;
}

async fn g05_a_dropped_dispatcher_aborts_what_it_held_and_refuses_who_waited(bed: Bed) {
    let puppets = Puppets::new(bed.executor());
    let (killer, tasks) = (puppets.killer(), puppets.tasks());
    let pool = pool(puppets, 1, 2, 4);
    bed.watch(Peek(pool.downgrade()));
    let door = Door::closed();
    let runs: Vec<_> = (0..2).map(|id| pool.try_submit(Job::at(id, &door)).unwrap()).collect();
    until(|| door.arrived() == 2).await;
    let held: Vec<_> =
        (0..4).map(|n| pool.try_submit(marked_job(n, &Flag::default(), false)).unwrap()).collect();
    let waiting: Vec<_> = (0..5)
        .map(|number| {
            let pool = pool.clone();
            bed.spawn(async move { pool.submit(Job::plain(9).number(number)).await.unwrap_err() })
        })
        .collect();
    until(|| pool.stats()[0].waiting == 5).await;
    killer.kill(0);
    for (number, submission) in waiting.into_iter().enumerate() {
        assert_eq!(submission.await.into_command().number, number as u64);
    }
    for ticket in held {
        assert_eq!(ticket.await.unwrap_err(), CommandError::Aborted { started: false });
    }
    door.open();
    for ticket in runs {
        ticket.await.unwrap();
    }
    let outcomes = pool.drain().await.unwrap();
    assert_eq!((outcomes.committed, outcomes.aborted), (2, 4));
    assert_quiet(&pool);
    until(|| tasks.count() == 0).await;
}

async fn g05_a_shard_whose_workers_are_all_dropped_strands_nothing(bed: Bed) {
    for round in 0..ROUNDS * 4 {
        let puppets = Puppets::new(bed.executor());
        let (killer, tasks) = (puppets.killer(), puppets.tasks());
        let pool = pool(puppets, 1, 3, 256);
        bed.watch(Peek(pool.downgrade()));
        let tickets: Vec<_> = (0..100)
            .map(|n| {
                let started = Flag::default();
                (pool.try_submit(marked_job(n % 9, &started, true)).unwrap(), started)
            })
            .collect();
        for worker in 1..=3 {
            for _ in 0..round % 5 {
                yield_at_random().await;
            }
            killer.kill(worker);
        }
        for (ticket, started) in tickets {
            match ticket.await {
                Ok(_) => assert!(started.is_set()),
                Err(error) => {
                    assert_eq!(error, CommandError::Aborted { started: started.is_set() });
                }
            }
        }
        pool.drain().await.unwrap();
        assert_quiet(&pool);
        until(|| tasks.count() == 0).await;
    }
}

async fn g05_every_outcome_tells_whether_the_handler_had_started(bed: Bed) {
    hush_wanted_panics();
    const BAD_LOAD: u64 = 1_000;
    const PANICKING_LOAD: u64 = 1_001;
    let pool: Pool = ShardPool::builder(Script::new())
        .loader(loader_fn(|id: u64| async move {
            match id {
                BAD_LOAD => Err(Error("no such row")),
                PANICKING_LOAD => panic!("wanted panic: of the loader"),
                _ => Ok(Loaded::new((), 0)),
            }
        }))
        .shards(2)
        .workers_per_shard(2)
        .start(bed.executor())
        .unwrap();
    bed.watch(Peek(pool.downgrade()));
    let run = async |id, handled: Handled| {
        pool.submit(Job::new(id, |_| async { handled })).await.unwrap().await.unwrap_err()
    };
    assert_eq!(
        run(1, Err(Failure::Rejected(Error("no")))).await,
        CommandError::Rejected(Error("no"))
    );
    let error = run(1, Err(Failure::Failed(Error("disk")))).await;
    assert_eq!(error, CommandError::Failed { error: Error("disk"), started: true });
    let error = run(BAD_LOAD, Ok(0)).await;
    assert_eq!(error, CommandError::Failed { error: Error("no such row"), started: false });
    let error = run(PANICKING_LOAD, Ok(0)).await;
    let message = "wanted panic: of the loader".to_owned();
    assert_eq!(error, CommandError::Panicked { message, started: false });
    let job = Job::new(1, |_| async { panic!("wanted panic: of the handler") });
    let error = pool.submit(job).await.unwrap().await.unwrap_err();
    let message = "wanted panic: of the handler".to_owned();
    assert_eq!(error, CommandError::Panicked { message, started: true });

    let door = Door::closed();
    let runs = pool.submit(Job::at(1, &door)).await.unwrap();
    until(|| door.arrived() == 1).await;
    let withdrawn = pool.submit(Job::plain(1)).await.unwrap();
    let late = pool.within(Duration::from_nanos(1)).submit(Job::plain(1)).await;
    let queued = pool.submit(Job::plain(1)).await.unwrap();
    assert!(withdrawn.withdraw());
    let error = withdrawn.await.unwrap_err();
    assert!(error == CommandError::Cancelled && !error.started());
    // Whether it was still in time when it was accepted is another test's business.
    if let Ok(late) = late {
        assert!(!late.withdraw() || !late.await.unwrap_err().started());
    }
    let end = pool.abort();
    assert_eq!(queued.await.unwrap_err(), CommandError::Aborted { started: false });
    door.open();
    runs.await.unwrap();
    let outcomes = end.await.unwrap();
    assert_eq!((outcomes.rejected, outcomes.failed, outcomes.panicked), (1, 2, 2));
    assert_quiet(&pool);
}

async fn g06_outcomes_that_nobody_takes_hold_up_no_worker(bed: Bed) {
    const EACH: u64 = 5_000;
    let pool = pool(bed.executor(), 1, 2, 3 * EACH as usize);
    bed.watch(Peek(pool.downgrade()));
    let mut kept = HashMap::new();
    for n in 0..EACH {
        drop(pool.try_submit(Job::plain(n % 50)).unwrap());
        kept.insert(n, pool.try_submit(Job::new(n % 50, move |_| async move { Ok(n) })).unwrap());
    }
    // Nothing has been polled, and all of it ends.
    until(|| pool.stats()[0].outcomes.committed == 2 * EACH).await;
    // A command is counted before its outcome is there; at the end both are.
    pool.drain().await.unwrap();
    for (n, ticket) in kept {
        assert!(ticket.is_finished());
        assert_eq!(ticket.await.unwrap().output, n);
    }
}
