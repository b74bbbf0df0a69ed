//! The end: drain, abort, the last handle dropped (G15 to G17); tasks that are dropped from outside and
//! runtimes that shut down (G5). Always in the middle of a load.

use crate::load::{Fate, Load, Settings};
use crate::script::{Act, Pause, Pool};
use shardpool::sim::{Explorer, Faults, Sim, explore};
use shardpool::{CommandError, DrainError, SubmitError};
use std::time::Duration;

/// Some way into the load.
async fn a_while(sim: &Sim) {
    for _ in 0..sim.below(8) {
        sim.yield_at_random().await;
    }
    if sim.chance(0.2) {
        sim.sleep(Duration::from_millis(sim.below(30))).await;
    }
}

fn was_aborted(fate: &Fate) -> Option<bool> {
    match fate {
        Fate::Ended(Err(CommandError::Aborted { started })) => Some(*started),
        _ => None,
    }
}

async fn assert_closed(load: &Load, pool: &Pool) {
    let refused = pool.submit(load.world.command(0, (99, 99), Act::Commit)).await;
    assert!(matches!(refused, Err(SubmitError::Closed(_))), "{refused:?}");
}

#[test]
fn sim_g15_a_drain_finishes_what_was_accepted_and_lets_nothing_slip_in() {
    explore(2_000, |sim| async move {
        let load = Load::new(&sim, Settings::random(&sim));
        let pool = load.pool();
        let clients = load.clients(&pool);
        a_while(&sim).await;
        let drain = pool.drain();
        let accepted = |pool: &Pool| pool.stats().iter().map(|s| s.accepted).sum::<u64>();
        let then = accepted(&pool);
        assert_closed(&load, &pool).await;
        a_while(&sim).await;
        let outcomes = drain.await.unwrap();
        assert_eq!((accepted(&pool), outcomes.total()), (then, then), "something slipped in");
        assert_eq!(outcomes.aborted, 0);
        load.assert_quiet(&pool);
        for client in clients {
            client.await;
        }
        drop(pool);
        load.ended().await;
    });
}

#[test]
fn sim_g15_a_drain_finishes_what_is_queued_behind_many_withdrawn_commands() {
    explore(100, |sim| async move {
        let settings = Settings { shards: 1, depth: 1000, ..Settings::plain(&sim) };
        let load = Load::new(&sim, settings);
        let pool = load.pool();
        // More than the dispatcher takes in one poll: none of them gives it a lane to wait for.
        for number in 0..300 {
            let ticket = pool.try_submit(load.world.command(0, (0, number), Act::Commit)).unwrap();
            assert!(ticket.withdraw());
        }
        let last = pool.try_submit(load.world.command(0, (0, 300), Act::Commit)).unwrap();
        let drain = pool.drain();
        assert!(last.await.is_ok());
        assert_eq!(drain.await.unwrap().committed, 1);
    });
}

#[test]
fn sim_g16_an_abort_resolves_what_has_not_started() {
    explore(2_000, |sim| async move {
        let load = Load::new(&sim, Settings::random(&sim));
        let pool = load.pool();
        let clients = load.clients(&pool);
        a_while(&sim).await;
        let end = pool.abort();
        assert_closed(&load, &pool).await;
        end.await.unwrap();
        load.assert_quiet(&pool);
        for client in clients {
            client.await;
        }
        drop(pool);
        for report in load.ended().await {
            // What has started runs to its end.
            assert_ne!(was_aborted(&report.fate), Some(true), "{:?}", report.tag);
        }
    });
}

#[test]
fn sim_g16_an_abort_does_not_wait_for_a_handler_that_is_pending() {
    explore(1_000, |sim| async move {
        let settings = Settings { depth: 1000, ..Settings::plain(&sim) };
        let load = Load::new(&sim, settings);
        let pool = load.pool();
        let tickets: Vec<_> = (0..20)
            .map(|number| {
                let mut command = load.world.command(number % 3, (0, number), Act::Commit);
                command.pause = Pause::Sleeps(Duration::from_secs(3600));
                (number, pool.try_submit(command).unwrap())
            })
            .collect();
        a_while(&sim).await;
        let begin = sim.elapsed();
        drop(pool.abort());
        sim.settle().await;
        for (number, ticket) in tickets {
            if load.world.has_started((0, number)) {
                continue;
            }
            assert_eq!(ticket.await, Err(CommandError::Aborted { started: false }));
        }
        assert_eq!(sim.elapsed(), begin, "who has not started has waited");
    });
}

#[test]
fn sim_g16_a_drain_with_a_deadline_can_be_repeated() {
    explore(1_500, |sim| async move {
        let load = Load::new(&sim, Settings { sleeps: 0.8, ..Settings::random(&sim) });
        let pool = load.pool();
        let clients = load.clients(&pool);
        a_while(&sim).await;
        let begin = sim.elapsed();
        let time = Duration::from_millis(sim.below(30));
        match pool.drain().within(time).await {
            Ok(_) => assert!(sim.elapsed() - begin <= time, "it was late"),
            // That nothing is queued or running may be: then the pool's futures have yet to end.
            Err(DrainError::Timeout { .. }) => assert_eq!(sim.elapsed() - begin, time),
            Err(other) => panic!("{other}"),
        }
        let long = pool.drain().within(Duration::MAX).await.unwrap();
        assert_eq!(pool.drain().await.unwrap(), long);
        load.assert_quiet(&pool);
        for client in clients {
            client.await;
        }
    });
}

#[test]
fn sim_g16_any_number_may_drain_and_abort_at_once() {
    explore(1_500, |sim| async move {
        let load = Load::new(&sim, Settings::random(&sim));
        let pool = load.pool();
        let clients = load.clients(&pool);
        let ends: Vec<_> = (0..4)
            .map(|_| {
                let (sim, pool) = (sim.clone(), pool.clone());
                sim.clone().spawn(async move {
                    a_while(&sim).await;
                    let end = if sim.chance(0.5) { pool.drain() } else { pool.abort() };
                    a_while(&sim).await;
                    if sim.chance(0.2) { None } else { Some(end.await.unwrap()) }
                })
            })
            .collect();
        let mut outcomes = Vec::new();
        for end in ends {
            outcomes.extend(end.await);
        }
        outcomes.dedup();
        assert!(outcomes.len() <= 1, "ends that differ: {outcomes:?}");
        for client in clients {
            client.await;
        }
        drop(pool);
        load.ended().await;
    });
}

#[test]
fn sim_g17_the_last_handle_finishes_what_was_accepted_and_leaves_nothing() {
    explore(2_000, |sim| async move {
        let settings = Settings { depth: 1000, ..Settings::plain(&sim) };
        let load = Load::new(&sim, settings);
        let pool = load.pool();
        let clients = load.clients(&pool);
        for number in 0..sim.below(20) as u32 {
            let mut command = load.world.command(sim.below(3) as u32, (50, number), Act::Commit);
            command.pause = Pause::Yields;
            drop(pool.try_submit(command).unwrap());
        }
        let weak = pool.downgrade();
        drop(pool);
        for client in clients {
            client.await;
        }
        assert!(weak.upgrade().is_none());
        let forgotten = load.world.book().starts.len();
        load.ended().await;
        let book = load.world.book();
        let (starts, ended) = (book.starts.len(), book.ended);
        drop(book);
        assert!(starts >= forgotten && starts == ended);
        let all = (0..20).take_while(|&number| load.world.has_started((50, number))).count();
        assert_eq!(starts, all + load.settings.clients as usize * load.settings.commands as usize);
    });
}

/// Whatever becomes of the pool's tasks, every client comes to its end, and all is counted.
async fn survive(load: Load) {
    let sim = load.world.sim.clone();
    // The runtime may be gone before the pool has started.
    let pool = load.pool();
    let clients = load.clients(&pool);
    for client in clients {
        client.await;
    }
    let _ = pool.drain().await.unwrap();
    load.assert_quiet(&pool);
    assert_closed(&load, &pool).await;
    drop(pool);
    load.ended().await;
    assert_eq!(sim.live_tasks(), 0);
}

#[test]
fn sim_g05_tasks_of_the_pool_that_are_dropped_keep_nobody_waiting() {
    let faults = Faults::default().lost_tasks(0.005);
    Explorer::new(2_000).faults(faults).run(|sim| survive(Load::new(&sim, Settings::random(&sim))));
}

#[test]
fn sim_g05_one_task_dropped_at_one_point_closes_its_shard_only() {
    explore(2_000, |sim| async move {
        let settings = Settings { shards: 2, same_hash: false, ..Settings::random(&sim) };
        let load = Load::new(&sim, settings);
        let pool = load.pool();
        let clients = load.clients(&pool);
        a_while(&sim).await;
        let each = 1 + load.settings.workers;
        let place = sim.below(2 * each as u64) as usize;
        let (closed, other) = (place / each, 1 - place / each);
        assert!(sim.drop_task(place));
        for client in clients {
            client.await;
        }
        // The other shard goes on as before.
        assert!(!pool.is_closed());
        for id in 10..30 {
            let answer = pool.send(load.world.command(id, (70, id), Act::Commit)).await;
            let failed = load.settings.loads && load.settings.failures > 0.0;
            if pool.shard_of(&crate::things::Id::new(id)) == other && !failed {
                assert!(answer.is_ok(), "{answer:?}");
            } else if pool.shard_of(&crate::things::Id::new(id)) == closed {
                assert!(answer.is_err());
            }
        }
        pool.drain().await.unwrap();
        load.assert_quiet(&pool);
        drop(pool);
        load.ended().await;
    });
}

#[test]
fn sim_g05_a_dropped_dispatcher_aborts_what_has_not_started_at_once() {
    explore(1_000, |sim| async move {
        let settings = Settings { shards: 1, depth: 1000, ..Settings::plain(&sim) };
        let load = Load::new(&sim, settings);
        let pool = load.pool();
        let tickets: Vec<_> = (0..20)
            .map(|number| {
                let mut command = load.world.command(number % 3, (0, number), Act::Commit);
                command.pause = Pause::Sleeps(Duration::from_secs(3600));
                (number, pool.try_submit(command).unwrap())
            })
            .collect();
        a_while(&sim).await;
        let begin = sim.elapsed();
        assert!(sim.drop_task(0));
        sim.settle().await;
        for (number, ticket) in tickets {
            if !load.world.has_started((0, number)) {
                assert_eq!(ticket.await, Err(CommandError::Aborted { started: false }));
            }
        }
        assert_eq!(sim.elapsed(), begin, "who has not started has waited");
    });
}

#[test]
fn sim_g05_a_runtime_that_is_shut_down_keeps_nobody_waiting() {
    explore(2_000, |sim| async move {
        let load = Load::new(&sim, Settings::random(&sim));
        let end = sim.clone();
        let killer = sim.spawn(async move {
            a_while(&end).await;
            end.shut_down();
        });
        survive(load).await;
        killer.await;
    });
}
