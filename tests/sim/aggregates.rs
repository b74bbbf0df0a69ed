//! Order, parallelism and fairness (G1, G2, G4); versions, resident state and eviction (G10 to G12).
//!
//! That commands of one aggregate do not overlap, and find the version and the state that they should,
//! is checked at each start, in every test: see `script.rs`.

use crate::load::{Fate, Load, Settings};
use crate::script::{Act, Pause};
use shardpool::sim::{Explorer, explore};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

#[test]
fn sim_g01_commands_of_a_client_start_in_program_order() {
    explore(1_500, |sim| async move {
        let load = Load::new(&sim, Settings::random(&sim));
        load.run().await;
        let mut last: BTreeMap<(u32, u32), u32> = BTreeMap::new();
        for &(id, (client, number)) in &load.world.book().starts {
            let before = last.insert((id, client), number);
            assert!(before < Some(number), "of {id}, {client}'s {number} comes after {before:?}");
        }
    });
}

#[test]
fn sim_g01_commands_of_an_aggregate_start_in_the_order_of_acceptance() {
    explore(1_000, |sim| async move {
        let load = Load::new(&sim, Settings { depth: 1000, ..Settings::plain(&sim) });
        let pool = load.pool();
        let accepted = Arc::new(Mutex::new(BTreeMap::<u32, Vec<(u32, u32)>>::new()));
        let clients: Vec<_> = (0..4)
            .map(|client| {
                let (sim, pool, world) = (sim.clone(), pool.clone(), load.world.clone());
                let accepted = Arc::clone(&accepted);
                sim.clone().spawn(async move {
                    for number in 0..10 {
                        let id = sim.below(3) as u32;
                        let mut command = world.command(id, (client, number), Act::Commit);
                        command.pause = Pause::Yields;
                        drop(pool.try_submit(command).expect("there is room"));
                        accepted.lock().unwrap().entry(id).or_default().push((client, number));
                        sim.yield_at_random().await;
                    }
                })
            })
            .collect();
        for client in clients {
            client.await;
        }
        assert_eq!(pool.drain().await.unwrap().committed, 40);
        for (id, order) in &*accepted.lock().unwrap() {
            assert_eq!(&load.world.starts_of(*id), order, "of {id}");
        }
    });
}

#[test]
fn sim_g02_as_many_aggregates_run_at_once_as_there_are_workers() {
    explore(1_000, |sim| async move {
        let (workers, same_hash) = (1 + sim.below(4) as usize, sim.chance(0.5));
        let settings =
            Settings { shards: 1, workers, same_hash, depth: 1000, ..Settings::plain(&sim) };
        let load = Load::new(&sim, settings);
        let pool = load.pool();
        // Each runs for an hour: they overlap, or time would pass.
        let tickets: Vec<_> = (0..3 * workers as u32)
            .map(|id| {
                let mut command = load.world.command(id, (0, id), Act::Commit);
                command.pause = Pause::Sleeps(Duration::from_secs(3600));
                pool.try_submit(command).unwrap()
            })
            .collect();
        for ticket in tickets {
            ticket.await.unwrap();
        }
        assert_eq!(sim.elapsed(), Duration::from_secs(3 * 3600), "a worker was idle");
        assert_eq!(load.world.book().most_running, workers);
    });
}

#[test]
fn sim_g02_what_comes_while_a_worker_sleeps_need_not_wait() {
    explore(1_000, |sim| async move {
        let settings = Settings { shards: 1, workers: 2, depth: 1000, ..Settings::plain(&sim) };
        let load = Load::new(&sim, settings);
        let pool = load.pool();
        let mut long = load.world.command(0, (0, 0), Act::Commit);
        long.pause = Pause::Sleeps(Duration::from_secs(3600));
        let long = pool.try_submit(long).unwrap();
        for number in 0..10 {
            sim.yield_at_random().await;
            let id = 1 + sim.below(3) as u32;
            let mut command = load.world.command(id, (1, number), Act::Commit);
            command.pause = Pause::Yields;
            pool.send(command).await.unwrap();
        }
        assert_eq!(sim.elapsed(), Duration::ZERO);
        long.await.unwrap();
    });
}

#[test]
fn sim_g04_a_hot_aggregate_lets_others_in() {
    explore(1_000, |sim| async move {
        let settings = Settings { shards: 1, workers: 1, depth: 1000, ..Settings::plain(&sim) };
        let load = Load::new(&sim, settings);
        let pool = load.pool();
        for number in 0..40 {
            let mut command = load.world.command(0, (0, number), Act::Commit);
            command.pause = Pause::Yields;
            drop(pool.try_submit(command).unwrap());
        }
        // Somewhere in the middle.
        for _ in 0..sim.below(6) {
            sim.yield_at_random().await;
        }
        let before = load.world.starts_of(0).len();
        let cold = load.world.command(1, (1, 0), Act::Commit);
        pool.send(cold).await.unwrap();
        let starts = load.world.book().starts.clone();
        let at = starts.iter().position(|start| start.0 == 1).unwrap();
        // The turn that is out, and one that may have been ready before it.
        let hot = at - before;
        assert!(hot <= 2 * load.settings.turn, "{hot} commands went first");
    });
}

#[test]
fn sim_g02_more_aggregates_than_are_handed_out_at_once_all_have_their_turn() {
    // Few seeds: each is many commands.
    Explorer::new(20).run(|sim| async move {
        let settings = Settings { shards: 1, workers: 1, depth: 1_000, ..Settings::plain(&sim) };
        let load = Load::new(&sim, Settings { loads: false, resident: None, ..settings });
        let pool = load.pool();
        let mut first = load.world.command(0, (0, 0), Act::Commit);
        first.pause = Pause::Sleeps(Duration::from_secs(1));
        let mut tickets = vec![pool.try_submit(first).unwrap()];
        for id in 1..=400 {
            tickets.push(pool.try_submit(load.world.command(id, (0, id), Act::Commit)).unwrap());
        }
        // Nobody looks at the pool again: the worker alone can tell the dispatcher to go on.
        sim.settle().await;
        for ticket in tickets {
            ticket.await.unwrap();
        }
    });
}

#[test]
fn sim_g04_turns_go_round_with_more_aggregates_than_are_handed_out_at_once() {
    // Few seeds: each is a thousand commands.
    Explorer::new(10).run(|sim| async move {
        const MANY: u32 = 400;
        let settings =
            Settings { shards: 1, workers: 1, turn: 1, depth: 10_000, ..Settings::plain(&sim) };
        let load = Load::new(&sim, Settings { loads: false, resident: None, ..settings });
        let pool = load.pool();
        let mut first = load.world.command(MANY, (0, 0), Act::Commit);
        first.pause = Pause::Sleeps(Duration::from_secs(1));
        drop(pool.try_submit(first).unwrap());
        for round in 1..=2 {
            for id in 0..MANY {
                drop(pool.try_submit(load.world.command(id, (round, id), Act::Commit)).unwrap());
            }
        }
        // All are in their lanes before the second turn begins.
        sim.settle().await;
        pool.drain().await.unwrap();
        let starts = load.world.book().starts.clone();
        let rounds: Vec<u32> = starts.iter().map(|(_, (round, _))| *round).collect();
        assert!(rounds.is_sorted(), "a second turn came before a first");
    });
}

#[test]
fn sim_g10_versions_have_no_gap_and_no_duplicate() {
    explore(1_500, |sim| async move {
        // Every outcome is seen, and nothing is written by what fails.
        let settings = Settings {
            loads: false,
            resident: None,
            impatience: 0.0,
            failures: 0.4,
            ..Settings::random(&sim)
        };
        let load = Load::new(&sim, settings);
        let mut versions: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
        for report in load.run().await {
            if let Fate::Ended(Ok(receipt)) = report.fate {
                versions.entry(report.id).or_default().push(receipt.version);
            }
        }
        for (id, versions) in &mut versions {
            versions.sort();
            let all: Vec<u64> = (1..=versions.len() as u64).collect();
            assert_eq!(versions, &all, "of {id}");
        }
    });
}

#[test]
fn sim_g11_state_is_loaded_once_and_again_after_a_failure() {
    explore(1_500, |sim| async move {
        let failures = if sim.chance(0.5) { 0.4 } else { 0.0 };
        let settings = Settings { loads: true, resident: None, failures, ..Settings::plain(&sim) };
        let load = Load::new(&sim, settings);
        load.run().await;
        if failures == 0.0 {
            let mut loads = load.world.book().loads.clone();
            let all = loads.len();
            loads.sort();
            loads.dedup();
            assert_eq!(loads.len(), all, "something was loaded twice");
        }
    });
}

#[test]
fn sim_g12_idle_aggregates_are_evicted_beyond_the_cap() {
    explore(1_500, |sim| async move {
        let most = 1 + sim.below(3);
        let settings = Settings {
            loads: true,
            resident: Some(most as usize),
            aggregates: 8,
            clients: 4,
            commands: 8,
            ..Settings::random(&sim)
        };
        let load = Load::new(&sim, settings);
        let pool = load.pool();
        for client in load.clients(&pool) {
            client.await;
        }
        // What was forgotten may still run.
        while pool.stats().iter().any(|shard| shard.accepted != shard.outcomes.total()) {
            sim.settle().await;
            sim.sleep(Duration::from_millis(1)).await;
        }
        sim.settle().await;
        for shard in pool.stats() {
            assert!(shard.resident <= most, "more than {most}: {shard:?}");
        }
        drop(pool);
        load.ended().await;
    });
}
