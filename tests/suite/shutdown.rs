//! A runtime that goes while the pool is under load: no ticket waits for ever (G5).

use crate::harness::{Bed, suite, yield_now};
use crate::tools::{Job, Pool, Puppets, assert_quiet, pool};
use shardpool::{CommandError, TrySubmitError};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

suite!(g05_futures_dropped_under_load_strand_nobody);

const SUBMITTERS: usize = 64;

/// How often a runtime is shut down.
#[cfg(any(feature = "tokio", feature = "smol"))]
const ROUNDS: usize = if cfg!(debug_assertions) { 40 } else { 1_000 };

/// Submits until the pool is closed, and sees that every accepted command has an outcome and that
/// every refused one comes back. Gives the number of accepted ones. The flag is set when there are
/// some.
fn load(pool: &Pool) -> (impl Future<Output = u64> + Send + use<>, Arc<AtomicBool>) {
    let under_way = Arc::new(AtomicBool::new(false));
    let started = Arc::clone(&under_way);
    let pool = pool.clone();
    let all = async move {
        let submitter = |me: usize| {
            let (pool, started) = (pool.clone(), Arc::clone(&started));
            async move {
                let mut accepted = 0;
                for n in 0.. {
                    let job = Job::new((me % 16) as u64, |_| async {
                        yield_now().await;
                        Ok(0)
                    });
                    // Half of them wait for room and for their outcome.
                    let ticket = if me.is_multiple_of(2) {
                        match pool.submit(job.number(n)).await {
                            Ok(ticket) => ticket,
                            Err(error) => {
                                assert_eq!(error.into_command().number, n);
                                return accepted;
                            }
                        }
                    } else {
                        match pool.try_submit(job.number(n)) {
                            Ok(ticket) => ticket,
                            Err(TrySubmitError::Full(_)) => {
                                yield_now().await;
                                continue;
                            }
                            Err(error) => {
                                assert_eq!(error.into_command().number, n);
                                return accepted;
                            }
                        }
                    };
                    accepted += 1;
                    started.store(true, Ordering::SeqCst);
                    match ticket.await {
                        Ok(_) | Err(CommandError::Aborted { .. }) => {}
                        Err(other) => panic!("{other:?}"),
                    }
                }
                unreachable!("the pool closes")
            }
        };
        futures::future::join_all((0..SUBMITTERS).map(submitter)).await.into_iter().sum()
    };
    (all, under_way)
}

/// The load, on a thread of its own.
fn submit_from_outside(pool: &Pool) -> (thread::JoinHandle<u64>, Arc<AtomicBool>) {
    let (load, under_way) = load(pool);
    (thread::spawn(move || futures::executor::block_on(load)), under_way)
}

fn wait_for(flag: &AtomicBool) {
    while !flag.load(Ordering::SeqCst) {
        thread::yield_now();
    }
}

#[cfg(feature = "tokio")]
#[test]
fn g05_a_tokio_runtime_shut_down_under_load_strands_nobody() {
    async fn test(_: Bed) {
        for round in 0..ROUNDS {
            let runtime = ::tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .unwrap();
            let pool = pool(shardpool::executors::Tokio::new(runtime.handle().clone()), 4, 4, 8);
            let (driver, under_way) = submit_from_outside(&pool);
            wait_for(&under_way);
            if round % 2 == 0 {
                drop(runtime)
            } else {
                runtime.shutdown_background()
            }
            let accepted = driver.join().unwrap();
            assert_eq!(accepted, assert_quiet(&pool).total());
        }
    }
    crate::harness::run(crate::harness::On::Threads, test);
}

#[cfg(feature = "smol")]
#[test]
fn g05_a_smol_executor_dropped_under_load_strands_nobody() {
    async fn test(_: Bed) {
        for _ in 0..ROUNDS {
            let executor = Arc::new(::smol::Executor::new());
            let pool = pool(shardpool::executors::Smol::new(Arc::clone(&executor)), 4, 4, 8);
            let (stop, stopped) = ::smol::channel::bounded::<()>(1);
            let runner = thread::spawn(move || {
                // Ends when `stop` is dropped.
                assert!(::smol::block_on(executor.run(stopped.recv())).is_err());
                drop(executor);
            });
            let (driver, under_way) = submit_from_outside(&pool);
            wait_for(&under_way);
            drop(stop);
            runner.join().unwrap();
            let accepted = driver.join().unwrap();
            assert_eq!(accepted, assert_quiet(&pool).total());
        }
    }
    crate::harness::run(crate::harness::On::Threads, test);
}

async fn g05_futures_dropped_under_load_strand_nobody(bed: Bed) {
    for round in 0..if cfg!(debug_assertions) { 24 } else { 200 } {
        let puppets = Puppets::new(bed.executor());
        let killer = puppets.killer();
        let pool = pool(puppets, 2, 2, 8);
        bed.watch(pool.clone());
        let (driver, under_way) = submit_from_outside(&pool);
        wait_for(&under_way);
        // Each shard has its dispatcher, then its two workers; one of each shard goes. What is
        // left of a shard goes on until the drain.
        killer.kill(round % 3);
        killer.kill(3 + (round / 3) % 3);
        pool.drain().await.unwrap();
        let accepted = driver.join().unwrap();
        assert_eq!(accepted, assert_quiet(&pool).total());
    }
}
