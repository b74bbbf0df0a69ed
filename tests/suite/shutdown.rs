//! An executor that goes away under load strands nothing (G5).

use crate::harness::{Bed, Door, load, suite, until, yield_at_random};
use crate::tools::{Flag, Job, Live, Peek, Pool, Puppets, Ticket, assert_quiet, id_on, pool};
use shardpool::{CommandError, SubmitError, TrySubmitError};
use std::ops::AddAssign;

suite!(g05_futures_dropped_in_any_order_under_load_strand_nothing);

const SUBMITTERS: u64 = 64;
/// Of two shards, each with a dispatcher and three workers.
const FUTURES: usize = 2 * (1 + 3);
const ROUNDS: usize = load(60, 1_000);

/// What submitters were told.
#[derive(Debug, Default, Clone, Copy)]
struct Told {
    committed: u64,
    aborted_started: u64,
    aborted_unstarted: u64,
}

impl AddAssign for Told {
    fn add_assign(&mut self, other: Self) {
        self.committed += other.committed;
        self.aborted_started += other.aborted_started;
        self.aborted_unstarted += other.aborted_unstarted;
    }
}

impl Told {
    async fn by(&mut self, ticket: Ticket, started: &Flag) {
        match ticket.await {
            Ok(_) => {
                assert!(started.is_set());
                self.committed += 1;
            }
            Err(CommandError::Aborted { started: said }) => {
                assert_eq!(said, started.is_set(), "the outcome is wrong about the start");
                *(if said { &mut self.aborted_started } else { &mut self.aborted_unstarted }) += 1;
            }
            Err(other) => panic!("no command here can end as {other:?}"),
        }
    }
}

/// Submits, waiting for room or not, until intake is closed; then takes every outcome.
async fn submit_until_closed(pool: Pool, live: Live) -> Told {
    let mut told = Told::default();
    let mut tickets = Vec::new();
    for number in 0.. {
        let started = Flag::default();
        let by_handler = started.clone();
        let job = Job::new(fastrand::u64(..40), |_| async move {
            by_handler.set();
            yield_at_random().await;
            Ok(0)
        })
        .number(number)
        .counted(&live);
        let submitted = if fastrand::bool() {
            pool.submit(job).await.map_err(|refused| {
                assert!(matches!(refused, SubmitError::Closed(_)), "{refused:?}");
                TrySubmitError::Closed(refused.into_command())
            })
        } else {
            pool.try_submit(job)
        };
        match submitted {
            Ok(ticket) if fastrand::u8(..4) == 0 => told.by(ticket, &started).await,
            Ok(ticket) => tickets.push((ticket, started)),
            Err(refused) => {
                let closed = matches!(refused, TrySubmitError::Closed(_));
                assert!(closed || refused.is_full(), "{refused:?}");
                assert_eq!(refused.into_command().number, number, "another command came back");
                assert!(!started.is_set(), "a refused command has run");
                if closed {
                    break;
                }
            }
        }
        yield_at_random().await;
    }
    for (ticket, started) in tickets {
        told.by(ticket, &started).await;
    }
    told
}

/// After the end of a round: nobody was told anything that the pool has not counted, or twice.
async fn assert_settled(pool: &Pool, told: Told, live: &Live) {
    let outcomes = pool.drain().await.unwrap();
    let aborted = told.aborted_started + told.aborted_unstarted;
    assert_eq!((outcomes.committed, outcomes.aborted), (told.committed, aborted));
    assert_eq!(outcomes.total(), told.committed + aborted);
    assert_quiet(pool);
    assert_eq!(live.count(), 0, "a command is left over");
    let late = pool.submit(Job::plain(1).number(7)).await;
    assert!(matches!(late, Err(SubmitError::Closed(job)) if job.number == 7));
}

/// Else the rounds would have checked less than they say.
fn assert_hit(total: Told) {
    let hit = total.committed > 0 && total.aborted_started > 0 && total.aborted_unstarted > 0;
    assert!(hit, "{total:?}");
}

async fn until_accepted(pool: &Pool, some: u64) {
    until(|| pool.stats().iter().map(|shard| shard.accepted).sum::<u64>() >= some).await;
}

async fn g05_futures_dropped_in_any_order_under_load_strand_nothing(bed: Bed) {
    let mut total = Told::default();
    for _ in 0..ROUNDS / 2 {
        let puppets = Puppets::new(bed.executor());
        let (killer, tasks) = (puppets.killer(), puppets.tasks());
        let (pool, live) = (pool(puppets, 2, 3, 16), Live::default());
        bed.watch(Peek(pool.downgrade()));
        let submitters: Vec<_> = (0..SUBMITTERS)
            .map(|_| bed.spawn(submit_until_closed(pool.clone(), live.clone())))
            .collect();
        // One handler of each shard is at an await for sure.
        let door = Door::closed();
        let mut held = Vec::new();
        for shard in 0..2 {
            let (door, started) = (door.clone(), Flag::default());
            let by_handler = started.clone();
            let job = Job::new(id_on(&pool, shard, &[]), |_| async move {
                by_handler.set();
                door.pass().await;
                Ok(0)
            });
            held.push((pool.submit(job.counted(&live)).await.unwrap(), started));
        }
        until(|| door.arrived() == 2).await;
        until_accepted(&pool, fastrand::u64(..200)).await;
        let mut order: Vec<usize> = (0..FUTURES).collect();
        fastrand::shuffle(&mut order);
        // At times all of them, at times only some: the others end by themselves.
        let mut killed = [false; 2];
        for &future in &order[..fastrand::usize(1..=FUTURES)] {
            killer.kill(future);
            killed[future / (FUTURES / 2)] = true;
            yield_at_random().await;
        }
        door.open();
        // A submitter goes on while one shard is open.
        if killed != [true; 2] {
            drop(pool.drain());
        }
        let mut told = Told::default();
        for submitter in submitters {
            told += submitter.await;
        }
        for (ticket, started) in held {
            told.by(ticket, &started).await;
        }
        assert_settled(&pool, told, &live).await;
        until(|| tasks.count() == 0).await;
        total += told;
    }
    assert_hit(total);
}

#[cfg(any(feature = "tokio", feature = "smol"))]
mod runtimes {
    use super::*;
    use crate::harness::{On, run};
    use futures::future::BoxFuture;
    #[cfg(feature = "tokio")]
    use {
        crate::tools::poll_once,
        std::sync::Arc,
        std::sync::atomic::{AtomicUsize, Ordering},
        std::task::Waker,
        std::time::Duration,
    };

    /// Submitters that have nothing to do with the runtime that goes: each on a thread of its own,
    /// or all on the threads of another runtime.
    struct Outside(futures::executor::ThreadPool);

    impl Outside {
        fn new() -> Self {
            Self(futures::executor::ThreadPool::builder().pool_size(2).create().unwrap())
        }

        fn submit(
            &self,
            bed: &Bed,
            threads: bool,
            pool: &Pool,
            live: &Live,
        ) -> Vec<BoxFuture<'static, Told>> {
            use futures::task::SpawnExt;
            (0..SUBMITTERS)
                .map(|_| -> BoxFuture<'static, Told> {
                    let submits = submit_until_closed(pool.clone(), live.clone());
                    if threads {
                        Box::pin(bed.spawn(submits))
                    } else {
                        Box::pin(self.0.spawn_with_handle(submits).unwrap())
                    }
                })
                .collect()
        }
    }

    /// Rounds of load on a pool whose runtime ends in the middle of it.
    fn rounds(start: impl Fn(usize) -> (Pool, Box<dyn FnOnce()>) + Send + 'static) {
        run(On::Threads, move |bed| async move {
            let outside = Outside::new();
            let mut total = Told::default();
            for round in 0..ROUNDS {
                let (pool, end) = start(round);
                let live = Live::default();
                bed.watch(Peek(pool.downgrade()));
                let submitters = outside.submit(&bed, round % 8 == 0, &pool, &live);
                until_accepted(&pool, fastrand::u64(..200)).await;
                end();
                let mut told = Told::default();
                for submitter in submitters {
                    told += submitter.await;
                }
                assert_settled(&pool, told, &live).await;
                total += told;
            }
            assert_hit(total);
        });
    }

    #[cfg(feature = "tokio")]
    fn tokio_rounds(end: fn(::tokio::runtime::Runtime)) {
        rounds(move |_| {
            let runtime = ::tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .unwrap();
            let executor = shardpool::executors::Tokio::new(runtime.handle().clone());
            (pool(executor, 2, 3, 16), Box::new(move || end(runtime)))
        });
    }

    #[cfg(feature = "tokio")]
    #[test]
    fn g05_a_tokio_runtime_dropped_under_load_strands_nothing() {
        tokio_rounds(drop);
    }

    #[cfg(feature = "tokio")]
    #[test]
    fn g05_a_tokio_runtime_shut_down_in_the_background_under_load_strands_nothing() {
        tokio_rounds(::tokio::runtime::Runtime::shutdown_background);
    }

    #[cfg(feature = "smol")]
    #[test]
    fn g05_a_smol_executor_dropped_under_load_strands_nothing() {
        use std::sync::Arc;
        rounds(move |round| {
            let executor = Arc::new(::smol::Executor::new());
            let (stop, stopped) = ::smol::channel::bounded::<()>(1);
            let runners: Vec<_> = (0..2)
                .map(|_| {
                    let (executor, stopped) = (Arc::clone(&executor), stopped.clone());
                    std::thread::spawn(move || {
                        // Ends when `stop` is dropped.
                        let _ = ::smol::block_on(executor.run(stopped.recv()));
                    })
                })
                .collect();
            let adapter = shardpool::executors::Smol::new(Arc::clone(&executor));
            let pool = pool(adapter, 2, 3, 16);
            let end = move || {
                // The last owner drops it: a thread that has run it, or this one.
                let last = (round % 2 == 0).then_some(executor);
                drop(stop);
                for runner in runners {
                    runner.join().unwrap();
                }
                drop(last);
            };
            (pool, Box::new(end))
        });
    }

    /// A pool of two workers on an executor that the test runs itself, with these two handlers at an await.
    #[cfg(feature = "smol")]
    fn two_at_an_await(
        bed: &Bed,
        jobs: [Job; 2],
    ) -> (std::sync::Arc<::smol::Executor<'static>>, Vec<Ticket>) {
        let executor = std::sync::Arc::new(::smol::Executor::new());
        let pool = pool(shardpool::executors::Smol::new(executor.clone()), 1, 2, 8);
        bed.watch(Peek(pool.downgrade()));
        let start = |job| {
            let ticket = pool.try_submit(job).unwrap();
            while executor.try_tick() {}
            ticket
        };
        let tickets = jobs.into_iter().map(start).collect();
        (executor, tickets)
    }

    /// smol's channels wake under a lock that the drop of a receiver takes.
    #[cfg(feature = "smol")]
    #[test]
    fn g05_a_smol_executor_is_dropped_though_its_handlers_wait_for_each_other() {
        run(On::Threads, |bed| async move {
            for first in [true, false] {
                let (sender, receiver) = ::smol::channel::bounded::<()>(1);
                let sends = Job::new(1, |_| async move {
                    let _sender = sender;
                    std::future::pending().await
                });
                let receives = Job::new(2, |_| async move {
                    receiver.recv().await.unwrap();
                    Ok(0)
                });
                let jobs = if first { [sends, receives] } else { [receives, sends] };
                let (executor, tickets) = two_at_an_await(&bed, jobs);
                drop(executor);
                for ticket in tickets {
                    assert_eq!(ticket.await, Err(CommandError::Aborted { started: true }));
                }
            }
        });
    }

    /// Has another thread do something in the middle of a drop.
    #[cfg(feature = "smol")]
    struct Meanwhile(std::sync::mpsc::Sender<()>, std::sync::mpsc::Receiver<()>);

    #[cfg(feature = "smol")]
    impl Drop for Meanwhile {
        fn drop(&mut self) {
            self.0.send(()).unwrap();
            self.1.recv().unwrap();
        }
    }

    #[cfg(feature = "smol")]
    #[test]
    fn g05_whoever_wakes_a_handler_while_its_smol_executor_is_dropped_goes_on() {
        run(On::Threads, |bed| async move {
            let (sender, receiver) = ::smol::channel::bounded::<()>(1);
            let (tell, told) = std::sync::mpsc::channel();
            let (answer, answered) = std::sync::mpsc::channel();
            let other = std::thread::spawn(move || {
                told.recv().unwrap();
                drop(sender);
                answer.send(()).unwrap();
            });
            let meanwhile = Meanwhile(tell, answered);
            let waits = Job::new(1, |_| async move {
                let _meanwhile = meanwhile;
                std::future::pending().await
            });
            let receives = Job::new(2, |_| async move {
                let _ = receiver.recv().await;
                Ok(0)
            });
            let (executor, tickets) = two_at_an_await(&bed, [waits, receives]);
            drop(executor);
            other.join().unwrap();
            for ticket in tickets {
                assert_eq!(ticket.await, Err(CommandError::Aborted { started: true }));
            }
        });
    }

    /// The runtime's timer is gone then, and a handler that blocks is not.
    #[cfg(feature = "tokio")]
    #[test]
    fn g16_a_drain_on_a_tokio_runtime_that_was_shut_down_has_its_time() {
        run(On::Threads, |bed| async move {
            for polled_before in [true, false] {
                let ended = Arc::new(AtomicUsize::new(0));
                let of_threads = Arc::clone(&ended);
                let runtime = ::tokio::runtime::Builder::new_multi_thread()
                    .worker_threads(2)
                    .enable_all()
                    .on_thread_stop(move || _ = of_threads.fetch_add(1, Ordering::SeqCst))
                    .build()
                    .unwrap();
                let pool =
                    pool(shardpool::executors::Tokio::new(runtime.handle().clone()), 1, 1, 8);
                bed.watch(Peek(pool.downgrade()));
                let (tell, started) = futures::channel::oneshot::channel();
                let (open, gate) = std::sync::mpsc::channel::<()>();
                let job = Job::new(1, |_| async move {
                    ::tokio::task::block_in_place(|| {
                        tell.send(()).unwrap();
                        gate.recv().unwrap();
                    });
                    Ok(7)
                });
                let ticket = pool.submit(job).await.unwrap();
                started.await.unwrap();
                let mut drain = pool.drain().within(Duration::from_secs(3_600));
                if polled_before {
                    assert!(poll_once(&mut drain, Waker::noop()).is_pending());
                }
                runtime.shutdown_background();
                // One took the place of the thread that blocks. The last of the others takes the timer along.
                until(|| ended.load(Ordering::SeqCst) == 2).await;
                assert!(poll_once(&mut drain, Waker::noop()).is_pending());
                open.send(()).unwrap();
                assert_eq!(ticket.await.unwrap().output, 7);
                assert_eq!(drain.await.unwrap().committed, 1);
            }
        });
    }
}
