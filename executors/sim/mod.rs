//! Your handlers under thousands of schedules, in a unit test that runs the same way each time.
//!
//! A bug of concurrency shows in one order of events among many, on a loaded machine, once. A
//! simulation has no threads and no real time: it polls all tasks itself, and every choice that a
//! runtime has (who is polled next, when a wake takes effect, whether a task is polled once too often)
//! is drawn from a *seed*. Same seed, same run. So a test runs for many seeds, and when one fails, that
//! one number is all that is needed to see the failure again. Needs the feature `sim`.
//!
//! # A bug that one test in a thousand would see
//!
//! Commands of one aggregate never overlap, but those of two aggregates do. Here two accounts share one
//! budget, and the handler looks at it before an await and writes it after:
//!
//! ```
//! use shardpool::sim::{Explorer, Sim};
//! use shardpool::{Command, Context, Failure, ShardPool, async_handler_fn};
//! use std::sync::Arc;
//! use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
//!
//! struct Spend { account: &'static str, cents: u64 }
//! impl Command for Spend {
//!     type AggregateId = &'static str;
//!     fn aggregate_id(&self) -> &&'static str { &self.account }
//! }
//!
//! async fn spend_twice(sim: Sim) {
//!     let budget = Arc::new(AtomicU64::new(100));
//!     let (of_handler, of_sim) = (budget.clone(), sim.clone());
//!     let handler = async_handler_fn(move |spend: Spend, _: Context| {
//!         let (budget, sim) = (of_handler.clone(), of_sim.clone());
//!         async move {
//!             let left = budget.load(Relaxed);
//!             if left < spend.cents {
//!                 return Err(Failure::Rejected("the budget is used up"));
//!             }
//!             sim.yield_now().await; // in earnest: the bank is asked
//!             budget.store(left - spend.cents, Relaxed);
//!             Ok(())
//!         }
//!     });
//!     let pool = sim.builder(handler).shards(2).start(sim.clone()).unwrap();
//!
//!     let clients = ["alice", "bob"].map(|account| {
//!         let pool = pool.clone();
//!         sim.spawn(async move { pool.send(Spend { account, cents: 60 }).await.is_ok() })
//!     });
//!     let mut spent = 0;
//!     for client in clients {
//!         spent += if client.await { 60 } else { 0 };
//!     }
//!     assert_eq!(budget.load(Relaxed) + spent, 100, "money was lost");
//! }
//!
//! let found = Explorer::new(1_000).find(spend_twice).expect("a seed where both look first");
//! assert!(found.to_string().contains("money was lost"));
//! ```
//!
//! In a test of yours, [`explore`] is enough; it panics with a report like this:
//!
//! ```text
//! seed 3 fails: task 0 (the main future) panicked: assertion `left == right` failed: money was lost
//!   again: SHARDPOOL_SIM_SEED=3 cargo test spend_twice
//!   after 42 steps and 0ns of virtual time
//!   tasks that are left:
//!     task 1 (number 0 of the pool's): waits to be woken, polled 2 times
//!     ...
//! ```
//!
//! With `SHARDPOOL_SIM_SEED` set, that seed alone is run. `SHARDPOOL_SIM_SEEDS=100000` runs so many,
//! whatever the tests say: for the long run at night.
//!
//! # What a test may use
//!
//! The [`Sim`] that it gets is the executor of its pools ([`Sim::builder`], then `start(sim.clone())`),
//! and the rest of its world: it [spawns](Sim::spawn) the clients, [sleeps](Sim::sleep) in virtual time,
//! and has [random numbers](Sim::below). Deadlines and `Drain::within` go by its clock.
//!
//! * **Time** stands still while anybody is ready, then jumps to the next sleep that ends. An hour costs
//!   nothing; a deadline never passes because the machine is slow.
//! * **Assertions** are panics of the main future or of a spawned task. The pool contains a panic inside a
//!   handler: look at the outcome, or say [`Sim::fail`].
//! * **The end** is when the main future is ready. Await what it spawned; what is left is dropped.
//! * **A hang is found at once**: the main future is pending, nobody is ready, no sleep is left. A run that
//!   goes on for ever is given up after [a number of polls](Explorer::max_polls).
//!
//! The same run needs the same choices, and so nothing else may make some: no threads, no real clock
//! or I/O, no `HashMap` with its default hasher where the order matters, no `blocking_` calls (they would
//! block the one thread there is, for ever). A pool's default hasher is seeded at random: take
//! [`Sim::builder`], or pass [`Sim::hasher`]. A run that fails is made once more, and the report says so
//! if it went another way.
//!
//! # What goes wrong in it
//!
//! [`Faults`] are polls that nobody asked for, wakes that come late, and wakers that change; more, if you
//! say so: tasks of the pool that are dropped at any point ([`Faults::lost_tasks`], [`Sim::drop_task`]),
//! and a runtime that shuts down ([`Faults::shutdown`], [`Sim::shut_down`]).
//!
//! # What it does not find
//!
//! Tasks are interleaved poll by poll. What happens between two threads inside of two polls (a torn
//! counter, an ordering too weak) is for a model checker such as loom, or a sanitizer.
//!
//! # Cancel safety
//!
//! The simulation's own futures can be dropped at any time: a dropped [`JoinHandle`] detaches its task, a
//! dropped sleep holds nothing up.

mod explore;
mod faults;
mod report;
mod rng;
mod run;
mod tasks;
mod time;
mod trace;

pub use explore::{Explorer, explore};
pub use faults::Faults;
pub use report::{Finding, Reason};
pub use trace::Trace;

use super::{Clock, Executor, SpawnError, Task};
use crate::command::{CommandHandler, NoLoader};
use crate::{Builder, ShardPool};
use std::fmt;
use std::future::{Future, poll_fn};
use std::hash::{BuildHasher, DefaultHasher, Hasher};
use std::panic::Location;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tasks::Tasks;
use time::SimClock;
use trace::Event;

/// One run's world, and the executor of its pools. Clones are handles of the same.
///
/// ```
/// # use shardpool::{Command, Context, Failure, handler_fn};
/// # #[derive(Debug, PartialEq)]
/// # struct Add(&'static str, u32);
/// # impl Command for Add { type AggregateId = &'static str; fn aggregate_id(&self) -> &&'static str { &self.0 } }
/// # let handler = || handler_fn(|sum: &mut u32, add: Add, _: &Context| {
/// #     *sum += add.1;
/// #     Ok::<_, Failure<&'static str>>(*sum)
/// # });
/// use shardpool::sim::{Sim, explore};
///
/// explore(100, |sim: Sim| {
///     let pool = sim.builder(handler()).shards(2).start(sim.clone()).unwrap();
///     async move {
///         let clients = [1, 2, 3].map(|n| {
///             let pool = pool.clone();
///             sim.spawn(async move { pool.send(Add("a", n)).await })
///         });
///         for client in clients {
///             client.await.unwrap();
///         }
///         assert_eq!(pool.drain().await.unwrap().committed, 3);
///     }
/// });
/// ```
#[derive(Clone)]
pub struct Sim {
    tasks: Arc<Tasks>,
    seed: u64,
}

impl Sim {
    /// The seed of this run.
    ///
    /// ```
    /// shardpool::sim::explore(5, |sim| async move { assert!(sim.seed() < 5) });
    /// # // Not so with a seed from the environment, which nobody sets here.
    /// ```
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// As [`ShardPool::builder`], with the hasher of [`hasher`](Self::hasher).
    ///
    /// ```
    /// # use shardpool::{Command, Context, Failure, handler_fn};
    /// # struct Add(&'static str, u32);
    /// # impl Command for Add { type AggregateId = &'static str; fn aggregate_id(&self) -> &&'static str { &self.0 } }
    /// # let handler = || handler_fn(|sum: &mut u32, add: Add, _: &Context| {
    /// #     *sum += add.1;
    /// #     Ok::<_, Failure<&'static str>>(*sum)
    /// # });
    /// shardpool::sim::explore(10, |sim| {
    ///     let pool = sim.builder(handler()).workers_per_shard(2).start(sim.clone()).unwrap();
    ///     async move { assert_eq!(pool.send(Add("a", 3)).await.unwrap().output, 3) }
    /// });
    /// ```
    pub fn builder<H: CommandHandler>(&self, handler: H) -> Builder<H, NoLoader> {
        ShardPool::builder(handler).hasher(self.hasher())
    }

    /// A hasher drawn from the seed: which aggregates share a shard is part of the run.
    ///
    /// ```
    /// use std::hash::BuildHasher;
    ///
    /// shardpool::sim::explore(5, |sim| async move {
    ///     assert_eq!(sim.hasher().hash_one("a"), sim.hasher().hash_one("a"));
    /// });
    /// ```
    pub fn hasher(&self) -> SeededHasher {
        SeededHasher(self.seed)
    }

    /// Spawns a task: a client, or whatever else the test needs. It is not one of the pool's, so it
    /// outlives [`shut_down`](Self::shut_down).
    ///
    /// ```
    /// shardpool::sim::explore(100, |sim| async move {
    ///     let answer = sim.spawn(async { 6 * 7 });
    ///     assert_eq!(answer.await, 42);
    /// });
    /// ```
    #[track_caller]
    pub fn spawn<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        let slot = Arc::new(Mutex::new(Slot::Running(None)));
        let of_task = Arc::clone(&slot);
        let task = Box::pin(async move {
            let done = Slot::Done(future.await);
            let before = std::mem::replace(&mut *lock(&of_task), done);
            if let Slot::Running(Some(waker)) = before {
                waker.wake();
            }
        });
        self.tasks.spawn_client(Location::caller(), task);
        JoinHandle(slot)
    }

    /// Lets others run: ready at a later poll.
    ///
    /// ```
    /// shardpool::sim::explore(10, |sim| async move { sim.yield_now().await });
    /// ```
    pub fn yield_now(&self) -> impl Future<Output = ()> + Send + use<> {
        self.yields(1)
    }

    /// Lets others run for a while that is drawn from the seed: mostly short, or no time at all.
    ///
    /// ```
    /// shardpool::sim::explore(10, |sim| async move { sim.yield_at_random().await });
    /// ```
    pub fn yield_at_random(&self) -> impl Future<Output = ()> + Send + use<> {
        let most = self.below(6);
        self.yields(self.below(1 << most))
    }

    fn yields(&self, mut times: u64) -> impl Future<Output = ()> + Send + use<> {
        poll_fn(move |cx| {
            if times == 0 {
                return Poll::Ready(());
            }
            times -= 1;
            cx.waker().wake_by_ref();
            Poll::Pending
        })
    }

    /// Ready when nobody else is, without time going on: nothing more happens by itself.
    ///
    /// ```
    /// shardpool::sim::explore(100, |sim| async move {
    ///     let task = sim.spawn({ let sim = sim.clone(); async move { sim.yield_at_random().await } });
    ///     sim.settle().await;
    ///     assert!(task.is_finished());
    /// });
    /// ```
    pub fn settle(&self) -> impl Future<Output = ()> + Send + use<> {
        let tasks = Arc::clone(&self.tasks);
        let mut since = None;
        poll_fn(move |cx| {
            // Not under the lock: a waker may be anybody's code.
            let waker = cx.waker().clone();
            let mut state = tasks.state();
            if *since.get_or_insert(state.settled) < state.settled {
                return Poll::Ready(());
            }
            state.settling.push(waker);
            Poll::Pending
        })
    }

    /// Ready when so much virtual time has passed since this call; with a time too long for the clock,
    /// such as [`Duration::MAX`], never.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// shardpool::sim::explore(10, |sim| async move {
    ///     sim.sleep(Duration::from_secs(3600)).await;
    ///     assert_eq!(sim.elapsed(), Duration::from_secs(3600));
    /// });
    /// ```
    pub fn sleep(&self, time: Duration) -> impl Future<Output = ()> + Send + use<> {
        self.tasks.time.sleep(time)
    }

    /// The virtual time since the start of the run.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// shardpool::sim::explore(10, |sim| async move {
    ///     sim.yield_now().await;
    ///     assert_eq!(sim.elapsed(), Duration::ZERO);
    /// });
    /// ```
    pub fn elapsed(&self) -> Duration {
        self.tasks.time.elapsed()
    }

    /// A random number less than `bound`, from the seed; 0 if the bound is 0.
    ///
    /// ```
    /// shardpool::sim::explore(100, |sim| async move { assert!(sim.below(6) < 6) });
    /// ```
    pub fn below(&self, bound: u64) -> u64 {
        self.tasks.state().numbers.below(bound)
    }

    /// True with this probability, drawn from the seed.
    ///
    /// ```
    /// shardpool::sim::explore(100, |sim| async move {
    ///     assert!(sim.chance(1.0) && !sim.chance(0.0));
    /// });
    /// ```
    pub fn chance(&self, probability: f64) -> bool {
        self.tasks.state().numbers.chance(probability)
    }

    /// Notes something in the trace: it is among the last events in a report, and part of what
    /// [`Explorer::record`] compares.
    ///
    /// ```
    /// let trace = shardpool::sim::Explorer::new(1).record(0, |sim| async move { sim.note("here") });
    /// assert!(trace.to_string().contains("note: here"));
    /// ```
    pub fn note(&self, text: impl Into<String>) {
        let event = Event::Note(text.into());
        self.tasks.state().trace.0.push(event);
    }

    /// Lets the run fail, also from inside a handler or a destructor, where a panic would end no more than the
    /// command. The run ends after this poll; the first word counts.
    ///
    /// ```
    /// use shardpool::sim::{Explorer, Reason};
    ///
    /// let found = Explorer::new(1).find(|sim| async move { sim.fail("impossible") }).unwrap();
    /// assert_eq!(found.reason(), &Reason::Failed("impossible".into()));
    /// ```
    pub fn fail(&self, why: impl Into<String>) {
        let why = why.into();
        self.tasks.state().failure.get_or_insert(why);
    }

    /// How many tasks of pools there are: spawned, and neither ended nor dropped.
    ///
    /// ```
    /// # use shardpool::{Command, Context, Failure, handler_fn};
    /// # struct Add(&'static str, u32);
    /// # impl Command for Add { type AggregateId = &'static str; fn aggregate_id(&self) -> &&'static str { &self.0 } }
    /// # let handler = || handler_fn(|sum: &mut u32, add: Add, _: &Context| {
    /// #     *sum += add.1;
    /// #     Ok::<_, Failure<&'static str>>(*sum)
    /// # });
    /// shardpool::sim::explore(10, |sim| {
    ///     let pool = sim.builder(handler()).shards(2).workers_per_shard(3).start(sim.clone()).unwrap();
    ///     async move {
    ///         assert_eq!(sim.live_tasks(), 2 * (1 + 3));
    ///         drop(pool);
    ///         sim.settle().await;
    ///         assert_eq!(sim.live_tasks(), 0);
    ///     }
    /// });
    /// ```
    pub fn live_tasks(&self) -> usize {
        self.tasks.state().live_in_pool()
    }

    /// Drops a task of a pool where it is, as a runtime may. They are counted from 0, in the order in
    /// which they were spawned: for each shard its dispatcher, then its workers. False if there is no
    /// such task, or no more.
    ///
    /// ```
    /// # use shardpool::{Command, Context, Failure, handler_fn};
    /// # struct Add(&'static str, u32);
    /// # impl Command for Add { type AggregateId = &'static str; fn aggregate_id(&self) -> &&'static str { &self.0 } }
    /// # let handler = || handler_fn(|sum: &mut u32, add: Add, _: &Context| {
    /// #     *sum += add.1;
    /// #     Ok::<_, Failure<&'static str>>(*sum)
    /// # });
    /// shardpool::sim::explore(10, |sim| {
    ///     let pool = sim.builder(handler()).shards(1).start(sim.clone()).unwrap();
    ///     async move {
    ///         assert!(sim.drop_task(0)); // the dispatcher
    ///         assert!(pool.send(Add("a", 1)).await.is_err()); // refused, at once
    ///     }
    /// });
    /// ```
    pub fn drop_task(&self, place: usize) -> bool {
        self.tasks.drop_pool(place)
    }

    /// Shuts the runtime of the pools down: from now on none of their tasks is polled. They are dropped
    /// one by one, between the polls of others; and none is taken any more.
    ///
    /// ```
    /// # use shardpool::{Command, Context, Failure, handler_fn};
    /// # struct Add(&'static str, u32);
    /// # impl Command for Add { type AggregateId = &'static str; fn aggregate_id(&self) -> &&'static str { &self.0 } }
    /// # let handler = || handler_fn(|sum: &mut u32, add: Add, _: &Context| {
    /// #     *sum += add.1;
    /// #     Ok::<_, Failure<&'static str>>(*sum)
    /// # });
    /// use shardpool::CommandError;
    ///
    /// shardpool::sim::explore(10, |sim| {
    ///     let pool = sim.builder(handler()).start(sim.clone()).unwrap();
    ///     async move {
    ///         let ticket = pool.try_submit(Add("a", 1)).unwrap();
    ///         sim.shut_down();
    ///         assert_eq!(ticket.await, Err(CommandError::Aborted { started: false }));
    ///     }
    /// });
    /// ```
    pub fn shut_down(&self) {
        self.tasks.state().shut_down();
    }

    /// Whether the runtime of the pools was shut down.
    ///
    /// ```
    /// shardpool::sim::explore(10, |sim| async move {
    ///     sim.shut_down();
    ///     assert!(sim.is_shut_down());
    /// });
    /// ```
    pub fn is_shut_down(&self) -> bool {
        self.tasks.state().is_shut_down
    }
}

impl Executor for Sim {
    fn spawn(&self, task: Task) -> Result<(), SpawnError> {
        self.tasks
            .spawn_pool(task)
            .map_err(|_| SpawnError::new("the simulated runtime is shut down"))
    }

    fn clock(&self) -> Arc<dyn Clock> {
        Arc::new(SimClock(Arc::clone(&self.tasks.time)))
    }
}

impl fmt::Debug for Sim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sim").field("seed", &self.seed).finish_non_exhaustive()
    }
}

/// The output of a task that was [spawned](Sim::spawn). Dropped, it detaches the task.
///
/// ```
/// shardpool::sim::explore(100, |sim| async move {
///     let task = sim.spawn(async { "done" });
///     sim.settle().await;
///     assert!(task.is_finished());
///     assert_eq!(task.await, "done");
/// });
/// ```
///
/// # Panics
///
/// When it is polled after it was ready.
#[must_use = "a task runs by itself, but its output is lost"]
pub struct JoinHandle<T>(Arc<Mutex<Slot<T>>>);

enum Slot<T> {
    Running(Option<Waker>),
    Done(T),
    Taken,
}

/// A panic under a lock is the run's to report, not the next one's who locks.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<T> JoinHandle<T> {
    /// Whether the task has ended.
    ///
    /// ```
    /// shardpool::sim::explore(10, |sim| async move {
    ///     let task = sim.spawn(std::future::pending::<()>());
    ///     sim.settle().await;
    ///     assert!(!task.is_finished());
    /// });
    /// ```
    pub fn is_finished(&self) -> bool {
        !matches!(*lock(&self.0), Slot::Running(_))
    }
}

impl<T> Future for JoinHandle<T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let waker = cx.waker().clone();
        let mut slot = lock(&self.0);
        let (old, polled) = match &mut *slot {
            Slot::Running(old) => (old.replace(waker), Poll::Pending),
            done => match std::mem::replace(done, Slot::Taken) {
                Slot::Done(output) => (None, Poll::Ready(output)),
                _ => panic!("task polled after it had given its output"),
            },
        };
        // Not under the lock: a waker may be anybody's code.
        drop(slot);
        drop(old);
        polled
    }
}

impl<T> fmt::Debug for JoinHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinHandle").field("is_finished", &self.is_finished()).finish()
    }
}

/// See [`Sim::hasher`].
///
/// ```
/// use std::collections::HashMap;
///
/// // The same order in each run of a seed.
/// shardpool::sim::explore(5, |sim| async move {
///     let mut map = HashMap::with_hasher(sim.hasher());
///     map.insert("a", 1);
/// });
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeededHasher(u64);

impl BuildHasher for SeededHasher {
    type Hasher = DefaultHasher;

    fn build_hasher(&self) -> DefaultHasher {
        let mut hasher = DefaultHasher::new();
        hasher.write_u64(self.0);
        hasher
    }
}
