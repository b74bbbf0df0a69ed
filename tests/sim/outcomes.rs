//! Exactly one outcome for each accepted command (G5); withdrawals and deadlines (G8).

use crate::load::{Fate, Load, Settings};
use crate::script::{Act, Pause};
use crate::things::polls_at_most;
use shardpool::sim::explore;
use shardpool::{CommandError, SubmitError};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

#[test]
fn sim_g05_each_accepted_command_has_one_outcome_whatever_happens() {
    explore(2_000, |sim| async move {
        let load = Load::new(&sim, Settings::random(&sim));
        for report in load.run().await {
            if let Fate::Ended(Err(CommandError::Aborted { .. })) = report.fate {
                panic!("{:?} was aborted, by nobody", report.tag);
            }
        }
    });
}

#[test]
fn sim_g05_the_counters_say_what_the_callers_saw() {
    explore(1_500, |sim| async move {
        let settings = Settings { impatience: 0.0, ..Settings::random(&sim) };
        let load = Load::new(&sim, settings);
        let pool = load.pool();
        for client in load.clients(&pool) {
            client.await;
        }
        let outcomes = pool.drain().await.unwrap();
        let accepted: u64 = pool.stats().iter().map(|shard| shard.accepted).sum();
        drop(pool);
        let reports = load.ended().await;
        let count = |kind: fn(&CommandError<u64>) -> bool| {
            let is_it = |fate: &Fate| matches!(fate, Fate::Ended(Err(error)) if kind(error));
            reports.iter().filter(|report| is_it(&report.fate)).count() as u64
        };
        let committed = reports.iter().filter(|r| matches!(r.fate, Fate::Ended(Ok(_)))).count();
        assert_eq!(outcomes.committed, committed as u64);
        assert_eq!(outcomes.rejected, count(|e| matches!(e, CommandError::Rejected(_))));
        assert_eq!(outcomes.failed, count(|e| matches!(e, CommandError::Failed { .. })));
        assert_eq!(outcomes.panicked, count(|e| matches!(e, CommandError::Panicked { .. })));
        assert_eq!(outcomes.cancelled, count(|e| matches!(e, CommandError::Cancelled)));
        assert_eq!(outcomes.expired, count(|e| matches!(e, CommandError::Expired)));
        assert_eq!(outcomes.aborted, 0);
        assert_eq!(accepted, outcomes.total());
        assert_eq!(
            accepted,
            reports.iter().filter(|r| matches!(r.fate, Fate::Ended(_))).count() as u64
        );
    });
}

#[test]
fn sim_g08_a_dropped_ticket_does_not_withdraw() {
    explore(1_000, |sim| async move {
        let settings = Settings { impatience: 0.5, ..Settings::plain(&sim) };
        let load = Load::new(&sim, settings);
        for report in load.run().await {
            if let Fate::Forgotten = report.fate {
                assert!(load.world.has_started(report.tag), "{:?} never ran", report.tag);
            }
        }
    });
}

#[test]
fn sim_g08_what_is_withdrawn_never_runs_and_gives_its_room_back_at_once() {
    explore(1_000, |sim| async move {
        let depth = 1 + sim.below(6) as usize;
        let settings = Settings { shards: 1, workers: 1, depth, ..Settings::plain(&sim) };
        let load = Load::new(&sim, settings);
        let pool = load.pool();
        let mut first = load.world.command(0, (0, 0), Act::Commit);
        first.pause = Pause::Sleeps(Duration::from_secs(1));
        let first = pool.try_submit(first).unwrap();
        sim.settle().await;
        let mut queued = Vec::new();
        let mut withdrawn = Vec::new();
        // As many withdrawn envelopes as the depth give their room back before they are swept; half as
        // many are swept.
        let mut unswept = 0;
        for number in 1..60 {
            let command = load.world.command(sim.below(3) as u32, (0, number), Act::Commit);
            let full = queued.len() == depth;
            match pool.try_submit(command) {
                Ok(ticket) => {
                    assert!(!full, "more than {depth} are held");
                    queued.push((number, ticket));
                }
                Err(error) => assert!(error.is_full() && full, "{error:?} at {queued:?}"),
            }
            if queued.len() == depth {
                let at = sim.below(depth as u64) as usize;
                let (number, ticket) = queued.swap_remove(at);
                assert!(ticket.withdraw());
                withdrawn.push((number, ticket));
                unswept += 1;
            }
            if sim.chance(0.3) {
                sim.yield_at_random().await;
            }
            if unswept == (depth / 2).max(1) {
                sim.settle().await;
                unswept = 0;
            }
        }
        for (number, ticket) in withdrawn {
            assert_eq!(ticket.await, Err(CommandError::Cancelled));
            assert!(!load.world.has_started((0, number)));
        }
        first.await.unwrap();
        for (_, ticket) in queued {
            ticket.await.unwrap();
        }
        pool.drain().await.unwrap();
        load.assert_quiet(&pool);
    });
}

#[test]
fn sim_g08_withdrawals_under_load() {
    explore(1_500, |sim| async move {
        let settings = Settings { withdrawals: 0.8, ..Settings::random(&sim) };
        Load::new(&sim, settings).run().await;
    });
}

#[test]
fn sim_g08_nothing_starts_after_its_deadline() {
    explore(1_500, |sim| async move {
        let settings = Settings { deadlines: 0.8, sleeps: 0.8, ..Settings::random(&sim) };
        Load::new(&sim, settings).run().await;
    });
}

#[test]
fn sim_g08_a_deadline_covers_the_wait_for_room() {
    explore(1_000, |sim| async move {
        let settings = Settings { shards: 1, workers: 1, depth: 1, ..Settings::plain(&sim) };
        let load = Load::new(&sim, settings);
        let pool = load.pool();
        let long = load.long(&pool).await;
        let next = pool.try_submit(load.world.command(1, (0, 1), Act::Commit)).unwrap();
        let late = load.world.command(1, (0, 2), Act::Commit);
        let refused = pool.within(Duration::from_secs(1 + sim.below(60))).submit(late).await;
        let Err(SubmitError::Expired(late)) = refused else { panic!("{refused:?}") };
        assert_eq!(late.tag, (0, 2));
        let soon = load.world.command(1, (0, 3), Act::Commit);
        pool.within(Duration::MAX).send(soon).await.unwrap();
        long.await.unwrap();
        next.await.unwrap();
    });
}

#[test]
fn sim_g08_a_withdrawal_wakes_who_waits_for_the_ticket() {
    explore(1_000, |sim| async move {
        let settings = Settings { shards: 1, workers: 1, depth: 1000, ..Settings::plain(&sim) };
        let load = Load::new(&sim, settings);
        let pool = load.pool();
        let long = load.long(&pool).await;
        let ticket = pool.try_submit(load.world.command(1, (0, 1), Act::Commit)).unwrap();
        let ticket = Arc::new(Mutex::new(ticket));
        let of_waiter = Arc::clone(&ticket);
        let waiter = sim.spawn(poll_fn(move |cx| {
            let mut ticket = of_waiter.lock().unwrap();
            Pin::new(&mut *ticket).poll(cx)
        }));
        sim.yield_at_random().await;
        assert!(ticket.lock().unwrap().withdraw());
        assert_eq!(waiter.await, Err(CommandError::Cancelled));
        assert_eq!(sim.elapsed(), Duration::ZERO, "it was told when the worker came by");
        long.await.unwrap();
    });
}

#[test]
fn sim_g08_a_submission_that_is_dropped_while_it_waits_is_not_accepted() {
    explore(1_000, |sim| async move {
        let settings = Settings { shards: 1, workers: 1, depth: 1, ..Settings::plain(&sim) };
        let load = Load::new(&sim, settings);
        let pool = load.pool();
        let long = load.long(&pool).await;
        let next = pool.try_submit(load.world.command(1, (0, 1), Act::Commit)).unwrap();
        for number in 2..8 {
            let command = load.world.command(1, (0, number), Act::Commit);
            let polls = 1 + sim.below(3);
            let gone = polls_at_most(polls, pool.submit(command));
            if sim.chance(0.5) {
                // Polled by hand, as nobody will wake it.
                let mut gone = gone;
                while poll_fn(|cx| Poll::Ready(Pin::new(&mut gone).poll(cx).is_pending())).await {
                    sim.yield_at_random().await;
                }
            }
        }
        assert_eq!(pool.stats()[0].waiting, 0);
        long.await.unwrap();
        next.await.unwrap();
        pool.drain().await.unwrap();
        assert_eq!(load.world.book().starts.len(), 2, "one who gave up was accepted");
    });
}
