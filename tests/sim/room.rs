//! Backpressure (G13).

use crate::load::{Fate, Load, Settings};
use crate::script::{Act, Pause};
use crate::things::polls_at_most;
use shardpool::TrySubmitError;
use shardpool::sim::explore;
use std::future::poll_fn;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

#[test]
fn sim_g13_a_shard_holds_no_more_than_its_depth() {
    explore(1_500, |sim| async move {
        let depth = 1 + sim.below(4) as usize;
        let settings = Settings { shards: 1, depth, ..Settings::plain(&sim) };
        let load = Load::new(&sim, settings);
        let pool = load.pool();
        let seen = Arc::new(Mutex::new(0));
        let clients: Vec<_> = (0..8)
            .map(|client| {
                let (sim, pool, world) = (sim.clone(), pool.clone(), load.world.clone());
                let seen = Arc::clone(&seen);
                sim.clone().spawn(async move {
                    for number in 0..5 {
                        let id = sim.below(3) as u32;
                        let mut command = world.command(id, (client, number), Act::Commit);
                        command.pause = Pause::Yields;
                        drop(pool.submit(command).await.unwrap());
                        // Accepted as far as anybody knows, less what has started.
                        let mut seen = seen.lock().unwrap();
                        *seen += 1;
                        let held = *seen - world.book().starts.len() as i64;
                        assert!(held <= depth as i64, "{held} are held");
                    }
                })
            })
            .collect();
        for client in clients {
            client.await;
        }
        assert_eq!(pool.drain().await.unwrap().committed, 40);
    });
}

#[test]
fn sim_g13_who_waits_is_served_first_come_first_served() {
    explore(1_500, |sim| async move {
        let depth = 1 + sim.below(4) as usize;
        let settings = Settings { shards: 1, depth, loads: false, ..Settings::plain(&sim) };
        let load = Load::new(&sim, Settings { resident: None, ..settings });
        let pool = load.pool();
        let arrivals = Arc::new(Mutex::new(Vec::new()));
        let clients: Vec<_> = (0..12)
            .map(|client| {
                let (sim, pool, world) = (sim.clone(), pool.clone(), load.world.clone());
                let arrivals = Arc::clone(&arrivals);
                let polls = if sim.chance(0.2) { 1 + sim.below(3) } else { u64::MAX };
                sim.clone().spawn(async move {
                    sim.yield_at_random().await;
                    let tag = (client, 0);
                    let mut command = world.command(0, tag, Act::Commit);
                    command.pause = Pause::Yields;
                    arrivals.lock().unwrap().push(tag);
                    if let Some(submitted) = polls_at_most(polls, pool.submit(command)).await {
                        submitted.unwrap().await.unwrap();
                    }
                })
            })
            .collect();
        for client in clients {
            client.await;
        }
        pool.drain().await.unwrap();
        let starts = load.world.starts_of(0);
        // One who gave up may have been accepted all the same.
        let mut arrivals = std::mem::take(&mut *arrivals.lock().unwrap());
        arrivals.retain(|tag| starts.contains(tag));
        assert_eq!(starts, arrivals);
    });
}

#[test]
fn sim_g13_nobody_gets_past_those_who_wait() {
    explore(1_000, |sim| async move {
        let settings =
            Settings { shards: 1, depth: 1 + sim.below(2) as usize, ..Settings::plain(&sim) };
        let load = Load::new(&sim, settings);
        let pool = load.pool();
        let clients = load.clients(&pool);
        for number in 0..20 {
            let waiting = pool.stats()[0].waiting;
            let command = load.world.command(9, (9, number), Act::Commit);
            match pool.try_submit(command) {
                Ok(_) => assert_eq!(waiting, 0, "it went past those who wait"),
                Err(error) => assert!(error.is_full()),
            }
            sim.yield_at_random().await;
        }
        for client in clients {
            client.await;
        }
    });
}

#[test]
fn sim_g13_a_granted_submission_that_nobody_polls_holds_up_no_one() {
    explore(1_000, |sim| async move {
        let depth = 1 + sim.below(3) as usize;
        let settings = Settings { shards: 1, depth, commands: 8, ..Settings::plain(&sim) };
        let load = Load::new(&sim, settings);
        let pool = load.pool();
        let clients = load.clients(&pool);
        for _ in 0..sim.below(4) {
            sim.yield_at_random().await;
        }
        let mut lazy: Vec<_> = (0..3)
            .map(|number| pool.submit(load.world.command(7, (7, number), Act::Commit)))
            .collect();
        let mut tickets = Vec::new();
        for submission in &mut lazy {
            poll_fn(|cx| {
                if let Poll::Ready(ticket) = std::pin::Pin::new(&mut *submission).poll(cx) {
                    tickets.push(ticket.unwrap());
                }
                Poll::Ready(())
            })
            .await;
        }
        for client in clients {
            client.await;
        }
        let done = tickets.len();
        // Accepted or not, each comes to its end when somebody looks.
        for submission in lazy.into_iter().skip(done) {
            tickets.push(submission.await.unwrap());
        }
        for ticket in tickets {
            ticket.await.unwrap();
        }
        pool.drain().await.unwrap();
    });
}

#[test]
fn sim_g13_a_full_shard_gives_the_command_back_and_has_room_again_later() {
    explore(1_000, |sim| async move {
        let depth = 1 + sim.below(4) as usize;
        let settings = Settings { shards: 1, workers: 1, depth, ..Settings::plain(&sim) };
        let load = Load::new(&sim, settings);
        let pool = load.pool();
        for round in 0..3 {
            let mut tickets = Vec::new();
            let mut long = load.world.command(0, (round, 0), Act::Commit);
            long.pause = Pause::Sleeps(Duration::from_secs(1));
            tickets.push(pool.try_submit(long).unwrap());
            sim.settle().await;
            // It has started; there is room for as many as the depth, not less, not more.
            for number in 1..=depth as u32 {
                let command = load.world.command(number, (round, number), Act::Commit);
                tickets.push(pool.try_submit(command).unwrap());
                sim.yield_at_random().await;
            }
            let one_more = load.world.command(0, (round, 1000), Act::Commit);
            let refused = pool.try_submit(one_more).unwrap_err();
            assert!(
                matches!(&refused, TrySubmitError::Full(command) if command.tag == (round, 1000))
            );
            for ticket in tickets {
                ticket.await.unwrap();
            }
        }
    });
}

#[test]
fn sim_g13_callers_that_give_up_waiting_were_not_accepted_or_run_once() {
    explore(1_500, |sim| async move {
        let settings = Settings { depth: 1, impatience: 0.7, clients: 5, ..Settings::random(&sim) };
        let load = Load::new(&sim, settings);
        for report in load.run().await {
            if let Fate::Refused = report.fate {
                assert!(!load.world.has_started(report.tag));
            }
        }
    });
}
