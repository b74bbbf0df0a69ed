//! The simulation itself: what it reports, and that it goes by its own time.

use crate::things::{Bomb, quiet_panic};
use shardpool::executors::{Executor, SpawnError};
use shardpool::sim::{Explorer, Faults, Finding, Reason, Sim, explore};
use std::cell::Cell;
use std::sync::{Arc, Mutex};
use std::time::Duration;

#[test]
fn sim_time_goes_from_sleep_to_sleep_in_order() {
    explore(100, |sim| async move {
        let woken = Arc::new(Mutex::new(Vec::new()));
        let sleepers: Vec<_> = (0..10)
            .map(|_| {
                let (sim, woken) = (sim.clone(), Arc::clone(&woken));
                let time = Duration::from_secs(sim.below(5));
                sim.clone().spawn(async move {
                    sim.sleep(time).await;
                    assert_eq!(sim.elapsed(), time);
                    woken.lock().unwrap().push(time);
                })
            })
            .collect();
        for sleeper in sleepers {
            sleeper.await;
        }
        assert!(woken.lock().unwrap().is_sorted());
    });
}

#[test]
fn sim_the_clock_goes_with_the_simulation_and_has_no_end() {
    explore(20, |sim| async move {
        let clock = sim.clock();
        let begin = clock.now();
        clock.sleep(Duration::from_secs(5)).await;
        assert_eq!(clock.now() - begin, Duration::from_secs(5));
        // Dropped, a sleep holds nothing up and wakes nobody.
        drop(clock.sleep(Duration::from_secs(1)));
        let never = sim.spawn(clock.sleep(Duration::MAX));
        sim.sleep(Duration::from_secs(1)).await;
        assert!(!never.is_finished());
    });
}

#[test]
fn sim_a_sleep_without_end_is_a_deadlock() {
    let found = Explorer::new(1).find(|sim| async move { sim.sleep(Duration::MAX).await });
    assert_eq!(found.unwrap().reason(), &Reason::Deadlock);
}

#[test]
fn sim_a_report_says_what_waits_and_how_to_see_it_again() {
    let found = Explorer::new(10).find(|sim| async move {
        let stuck = sim.spawn(std::future::pending::<()>());
        sim.note("before the end");
        stuck.await;
    });
    let report = found.unwrap().to_string();
    for part in [
        "seed 0 fails: deadlock",
        "SHARDPOOL_SIM_SEED=0 cargo test",
        "simulator::sim_a_report_says_what_waits_and_how_to_see_it_again",
        "task 0 (the main future): waits to be woken",
        "task 1 (spawned at tests/sim/simulator.rs:",
        "note: before the end",
    ] {
        assert!(report.contains(part), "no {part:?} in {report}");
    }
    assert!(!report.contains("NOT THE SAME"), "{report}");
}

#[test]
fn sim_a_run_that_goes_another_way_the_second_time_is_named() {
    let runs = Cell::new(0);
    let found = Explorer::new(1).find(|sim| {
        runs.set(runs.get() + 1);
        let first = runs.get() == 1;
        async move {
            sim.note(if first { "first" } else { "second" });
            assert!(!first, "only once");
        }
    });
    let report = found.unwrap().to_string();
    assert!(report.contains("NOT THE SAME AGAIN"), "{report}");
}

#[test]
fn sim_panics_fail_the_run_wherever_they_come_from() {
    let reason = |test: fn(shardpool::sim::Sim)| {
        let found = Explorer::new(1).faults(Faults::none()).find(|sim| {
            test(sim.clone());
            async move { sim.settle().await }
        });
        match found.map(|found| found.reason().clone()) {
            Some(Reason::Panicked { what, message }) => format!("{what}: {message}"),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(reason(|_| quiet_panic("in the test")), "task 0 (the main future): in the test");
    let of_client = reason(|sim| drop(sim.spawn(async { quiet_panic("in a client") })));
    assert!(of_client.starts_with("task 1 (spawned at") && of_client.ends_with("in a client"));
    let left = reason(|sim| {
        let bomb = Bomb("at the end");
        drop(sim.spawn(async move {
            std::future::pending::<()>().await;
            drop(bomb);
        }));
    });
    assert_eq!(left, "what was left at the end, as it was dropped: at the end");
}

#[test]
fn sim_a_shut_down_runtime_takes_no_task_and_drops_those_it_has() {
    explore(50, |sim| async move {
        let alive = Arc::new(());
        let held = Arc::clone(&alive);
        let task = async move {
            std::future::pending::<()>().await;
            drop(held);
        };
        Executor::spawn(&sim, Box::pin(task)).unwrap();
        sim.shut_down();
        let refused: Result<(), SpawnError> = Executor::spawn(&sim, Box::pin(async {}));
        assert!(refused.is_err());
        sim.settle().await;
        assert_eq!((Arc::strong_count(&alive), sim.live_tasks()), (1, 0));
    });
}

#[test]
fn sim_a_handle_that_outlives_its_run_holds_nothing() {
    let (kept, alive) = (Mutex::new(None), Arc::new(()));
    explore(1, |sim| {
        *kept.lock().unwrap() = Some(sim.clone());
        let (held, holds_itself) = (Arc::clone(&alive), sim.clone());
        drop(sim.spawn(async move {
            std::future::pending::<()>().await;
            drop((held, holds_itself));
        }));
        async {}
    });
    assert_eq!(Arc::strong_count(&alive), 1);
    let sim = kept.into_inner().unwrap().unwrap();
    let late = Arc::clone(&alive);
    let never = sim.spawn(async move { drop(late) });
    assert!(!never.is_finished());
    assert_eq!(Arc::strong_count(&alive), 1, "what nobody will poll is kept");
}

/// Lets the run fail when it is dropped.
struct Complains(Sim);

impl Drop for Complains {
    fn drop(&mut self) {
        self.0.fail("dropped");
    }
}

fn complains(found: Option<Finding>) {
    let found = found.expect("it passes");
    assert_eq!(found.reason(), &Reason::Failed("dropped".into()));
}

#[test]
fn sim_a_destructor_of_a_task_that_is_left_can_let_the_run_fail() {
    complains(Explorer::new(5).find(|sim| {
        let complains = Complains(sim.clone());
        drop(sim.spawn(async move {
            std::future::pending::<()>().await;
            drop(complains);
        }));
        async move { sim.settle().await }
    }));
}

#[test]
fn sim_a_destructor_of_the_main_future_can_let_the_run_fail() {
    complains(Explorer::new(5).find(|sim| {
        let complains = Complains(sim);
        std::future::poll_fn(move |_| {
            let _kept = &complains;
            std::task::Poll::Ready(())
        })
    }));
}

#[test]
fn sim_of_a_word_and_a_panic_after_it_the_word_counts() {
    complains(Explorer::new(1).find(|sim| async move {
        sim.fail("dropped");
        quiet_panic("a panic");
    }));
}
