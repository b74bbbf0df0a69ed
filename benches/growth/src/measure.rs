//! What a child process measures: one job, on a tokio runtime with two threads.

use crate::allocations::live;
use futures::future::join_all;
use serde::{Deserialize, Serialize};
use shardpool::executors::Tokio;
use shardpool::{
    Builder, Command, CommandHandler, Context, Failure, NoLoader, PoolOf, ShardPool, WeakPool,
    async_handler_fn,
};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::error::Error;
use std::future::Future;
use std::hash::{BuildHasherDefault, DefaultHasher};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use sysinfo::{ProcessRefreshKind, ProcessesToUpdate, System};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::sleep;

/// Threads of the runtime.
pub const THREADS: usize = 2;

/// Tasks that touch all aggregates before anything is measured.
const FILLERS: u64 = 64;

/// One pool, and what is done with it.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Job {
    pub task: Task,
    pub shards: usize,
    /// Of each shard.
    pub workers: usize,
    /// Of each shard.
    pub depth: usize,
    pub aggregates: u64,
    pub callers: u64,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub enum Task {
    /// Callers send a command, wait for its outcome, and send the next.
    Closed { warm_up_ms: u64, window_ms: u64 },
    /// The same callers without a pool: they yield to the runtime instead.
    Yield { warm_up_ms: u64, window_ms: u64 },
    /// Callers submit so many commands in all and wait for none, only for room.
    Flood { commands: u64 },
    /// Nothing but the start and the end of a pool, over and over.
    StartAndDrain { for_ms: u64 },
    /// So many commands queue up while all workers are held, then the pool drains.
    DrainQueued { commands: u64 },
    /// All aggregates are resident and idle, then the pool drains.
    DrainResident,
    /// A handler sends to all other aggregates at once, and waits for them; then the next.
    Nested { for_ms: u64 },
}

/// What a figure is a measure of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Quantity {
    /// Nanoseconds for each command.
    PerCommand,
    /// Bytes in use, for all of what is counted.
    Bytes,
    /// The same by the system's account: how much more of the process is in memory.
    Resident,
    /// Nanoseconds from the call to the first answer of every shard.
    Start,
    /// Nanoseconds from the call to the end of the pool's last future.
    Drain,
}

impl Quantity {
    pub fn is_memory(self) -> bool {
        matches!(self, Self::Bytes | Self::Resident)
    }
}

/// What came of a job.
pub type Figures = BTreeMap<Quantity, f64>;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// Does a job.
pub fn run(job: Job) -> Outcome<Figures> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .enable_time()
        .build()?;
    // A task, so that this thread only sleeps, and two work.
    let task = runtime.spawn(async move {
        match job.task {
            Task::Closed { warm_up_ms, window_ms } => closed(job, warm_up_ms, window_ms).await,
            Task::Yield { warm_up_ms, window_ms } => yields(job, warm_up_ms, window_ms).await,
            Task::Flood { commands } => flood(job, commands).await,
            Task::StartAndDrain { for_ms } => start_and_drain(job, for_ms).await,
            Task::DrainQueued { commands } => drain_queued(job, commands).await,
            Task::DrainResident => drain_resident(job).await,
            Task::Nested { for_ms } => nested(job, for_ms).await,
        }
    });
    runtime.block_on(task)?
}

/// Sixteen bytes: to which aggregate, and whether to wait at the gate.
struct Act {
    aggregate: u64,
    at_gate: bool,
}

impl Act {
    fn plain(aggregate: u64) -> Self {
        Self { aggregate, at_gate: false }
    }
}

impl Command for Act {
    type AggregateId = u64;

    fn aggregate_id(&self) -> &u64 {
        &self.aggregate
    }
}

/// Holds workers until it is opened.
#[derive(Default)]
struct Gate {
    open: AtomicBool,
    opened: Notify,
}

impl Gate {
    fn open(&self) {
        self.open.store(true, Ordering::Release);
        self.opened.notify_waiters();
    }

    async fn pass(&self) {
        // First: whoever opens the gate after this notifies it.
        let opened = self.opened.notified();
        if !self.open.load(Ordering::Acquire) {
            opened.await;
        }
    }
}

/// Counts, and does nothing else.
struct Counter(Arc<Gate>);

impl CommandHandler for Counter {
    type Command = Act;
    type State = u64;
    type Output = u64;
    type Error = Infallible;

    async fn handle(&self, n: &mut u64, act: Act, _: &Context) -> Result<u64, Failure<Infallible>> {
        if act.at_gate {
            self.0.pass().await;
        }
        *n += 1;
        Ok(*n)
    }
}

type Pool = PoolOf<Counter>;

fn builder(job: &Job, gate: &Arc<Gate>) -> Builder<Counter, NoLoader> {
    ShardPool::builder(Counter(Arc::clone(gate)))
        .shards(job.shards)
        .workers_per_shard(job.workers)
        .queue_depth(job.depth)
}

fn start(job: &Job, gate: &Arc<Gate>) -> Outcome<Pool> {
    Ok(builder(job, gate).start(Tokio::current()?)?)
}

/// Memory in use, for what came after this was made.
struct Memory {
    live: i64,
    resident: u64,
}

impl Memory {
    /// With fewer of what is counted, the pages of all else are most of what the system counts.
    const MANY: u64 = 10_000;

    fn now() -> Self {
        Self { live: live(), resident: resident() }
    }

    fn since(&self, count: u64) -> Figures {
        // What was kept from before may be given back meanwhile, or used.
        let bytes = (live() - self.live).max(0) as f64;
        let mut figures = Figures::from([(Quantity::Bytes, bytes)]);
        if count >= Self::MANY {
            let resident = resident().saturating_sub(self.resident) as f64;
            figures.insert(Quantity::Resident, resident);
        }
        figures
    }
}

/// How many bytes of this process are in memory.
fn resident() -> u64 {
    let Ok(me) = sysinfo::get_current_pid() else { return 0 };
    let mut system = System::new();
    let only_memory = ProcessRefreshKind::nothing().with_memory();
    system.refresh_processes_specifics(ProcessesToUpdate::Some(&[me]), false, only_memory);
    system.process(me).map_or(0, |process| process.memory())
}

/// Runs so many tasks, and waits for what they give.
async fn together<F, T>(tasks: u64, task: impl Fn(u64) -> F) -> Outcome<Vec<T>>
where
    F: Future<Output = Outcome<T>> + Send + 'static,
    T: Send + 'static,
{
    let handles: Vec<JoinHandle<_>> = (0..tasks).map(|n| tokio::spawn(task(n))).collect();
    let mut given = Vec::with_capacity(handles.len());
    for handle in handles {
        given.push(handle.await??);
    }
    Ok(given)
}

/// Sends a command to each aggregate; how much memory they take.
async fn touch_all(pool: &Pool, aggregates: u64) -> Outcome<Figures> {
    let send = |first: u64, last: u64, step: u64| {
        let pool = pool.clone();
        async move {
            for aggregate in (first..last).step_by(step as usize) {
                pool.send(Act::plain(aggregate)).await.map_err(|error| error.to_string())?;
            }
            Ok(())
        }
    };
    // First as many commands at once, to one aggregate: buffers and cells are not to be counted.
    for _ in 0..10 {
        together(FILLERS, |_| send(0, 1, 1)).await?;
    }
    let before = Memory::now();
    together(FILLERS, |n| send(1 + n, aggregates, FILLERS)).await?;
    Ok(before.since(aggregates))
}

const WARMING: u8 = 0;
const COUNTING: u8 = 1;
const OVER: u8 = 2;

async fn closed(job: Job, warm_up_ms: u64, window_ms: u64) -> Outcome<Figures> {
    let pool = start(&job, &Arc::default())?;
    let mut figures = touch_all(&pool, job.aggregates).await?;
    let send = move |aggregate| {
        let pool = pool.clone();
        async move {
            let answered = pool.send(Act::plain(aggregate)).await;
            answered.map(drop).map_err(|error| error.to_string().into())
        }
    };
    let per_command = in_window(job, warm_up_ms, window_ms, send).await?;
    figures.insert(Quantity::PerCommand, per_command);
    Ok(figures)
}

async fn yields(job: Job, warm_up_ms: u64, window_ms: u64) -> Outcome<Figures> {
    let go_on = |_| async {
        tokio::task::yield_now().await;
        Ok(())
    };
    let per_command = in_window(job, warm_up_ms, window_ms, go_on).await?;
    Ok(Figures::from([(Quantity::PerCommand, per_command)]))
}

/// Callers do one thing after another to random aggregates; nanoseconds for each that was done while
/// the window was open.
async fn in_window<F>(
    job: Job,
    warm_up_ms: u64,
    window_ms: u64,
    act: impl Fn(u64) -> F + Clone + Send + 'static,
) -> Outcome<f64>
where
    F: Future<Output = Outcome<()>> + Send,
{
    // Relaxed throughout: nothing is published through it.
    let phase = Arc::new(AtomicU8::new(WARMING));
    let callers = tokio::spawn(together(job.callers, {
        let phase = Arc::clone(&phase);
        move |seed| {
            let (act, phase) = (act.clone(), Arc::clone(&phase));
            let mut rng = fastrand::Rng::with_seed(seed);
            async move {
                let mut counted = 0_u64;
                loop {
                    act(rng.u64(..job.aggregates)).await?;
                    match phase.load(Ordering::Relaxed) {
                        WARMING => {}
                        COUNTING => counted += 1,
                        _ => return Ok(counted),
                    }
                }
            }
        }
    }));
    sleep(Duration::from_millis(warm_up_ms)).await;
    phase.store(COUNTING, Ordering::Relaxed);
    let begun = Instant::now();
    sleep(Duration::from_millis(window_ms)).await;
    phase.store(OVER, Ordering::Relaxed);
    let elapsed = begun.elapsed();
    match callers.await??.into_iter().sum::<u64>() {
        0 => Err("nothing was done".into()),
        counted => Ok(nanos(elapsed) / counted as f64),
    }
}

async fn flood(job: Job, commands: u64) -> Outcome<Figures> {
    let pool = start(&job, &Arc::default())?;
    touch_all(&pool, job.aggregates).await?;
    let submit = |commands: u64| {
        together(job.callers, {
            let pool = pool.clone();
            move |seed| {
                let pool = pool.clone();
                let mut rng = fastrand::Rng::with_seed(seed);
                async move {
                    for _ in 0..commands / job.callers {
                        let act = Act::plain(rng.u64(..job.aggregates));
                        drop(pool.submit(act).await.map_err(|error| error.to_string())?);
                    }
                    Ok(())
                }
            }
        })
    };
    // The queue fills once before it counts.
    submit(commands / 2).await?;
    while pool.stats().iter().any(|shard| shard.queued + shard.running > 0) {
        sleep(Duration::from_millis(1)).await;
    }
    let begun = Instant::now();
    submit(commands).await?;
    pool.drain().await?;
    Ok(Figures::from([(Quantity::PerCommand, nanos(begun.elapsed()) / commands as f64)]))
}

async fn start_and_drain(job: Job, for_ms: u64) -> Outcome<Figures> {
    let gate = Arc::default();
    // Not seeded: an aggregate of each shard is known before its pool has started.
    let start = || -> Outcome<Pool> {
        let hasher = BuildHasherDefault::<DefaultHasher>::default();
        Ok(builder(&job, &gate).hasher(hasher).start(Tokio::current()?)?)
    };
    let before = Memory::now();
    let pool = start()?;
    // Until every future has been polled.
    sleep(Duration::from_millis(50)).await;
    let mut figures = before.since(0);
    let of_shard = |shard| (0..).find(|aggregate| pool.shard_of(aggregate) == shard);
    let aggregates: Vec<u64> = (0..job.shards).filter_map(of_shard).collect();
    pool.drain().await?;
    drop(pool);

    let (mut starts, mut drains) = (Vec::new(), Vec::new());
    let over = Instant::now() + Duration::from_millis(for_ms);
    while starts.len() < 5 || Instant::now() < over {
        let begun = Instant::now();
        let pool = start()?;
        let mut tickets = Vec::with_capacity(aggregates.len());
        for &aggregate in &aggregates {
            let act = Act::plain(aggregate);
            tickets.push(pool.submit(act).await.map_err(|error| error.to_string())?);
        }
        for ticket in tickets {
            ticket.await?;
        }
        starts.push(nanos(begun.elapsed()));

        // Until it is idle.
        sleep(Duration::from_millis(1)).await;
        let begun = Instant::now();
        pool.drain().await?;
        drains.push(nanos(begun.elapsed()));
    }
    figures.insert(Quantity::Start, median(&mut starts));
    figures.insert(Quantity::Drain, median(&mut drains));
    Ok(figures)
}

async fn drain_queued(job: Job, commands: u64) -> Outcome<Figures> {
    let gate = Arc::default();
    let pool = start(&job, &gate)?;
    touch_all(&pool, job.aggregates).await?;
    // Every worker of every shard gets an aggregate of its own to wait for.
    let mut missing = vec![job.workers; job.shards];
    let mut aggregate = job.aggregates;
    while missing.iter().any(|missing| *missing > 0) {
        let missing = &mut missing[pool.shard_of(&aggregate)];
        if *missing > 0 {
            *missing -= 1;
            let act = Act { aggregate, at_gate: true };
            drop(pool.submit(act).await.map_err(|error| error.to_string())?);
        }
        aggregate += 1;
    }
    let held = (job.shards * job.workers) as u64;
    while pool.stats().iter().map(|shard| shard.running).sum::<u64>() < held {
        sleep(Duration::from_millis(1)).await;
    }

    let mut rng = fastrand::Rng::with_seed(1);
    let before = Memory::now();
    for _ in 0..commands {
        let act = Act::plain(rng.u64(..job.aggregates));
        drop(pool.submit(act).await.map_err(|error| error.to_string())?);
    }
    // Until the dispatchers have put them where they wait.
    sleep(Duration::from_millis(50)).await;
    let mut figures = before.since(commands);

    let drain = pool.drain();
    let begun = Instant::now();
    gate.open();
    drain.await?;
    figures.insert(Quantity::Drain, nanos(begun.elapsed()));
    Ok(figures)
}

async fn drain_resident(job: Job) -> Outcome<Figures> {
    let pool = start(&job, &Arc::default())?;
    touch_all(&pool, job.aggregates).await?;
    sleep(Duration::from_millis(5)).await;
    let begun = Instant::now();
    pool.drain().await?;
    Ok(Figures::from([(Quantity::Drain, nanos(begun.elapsed()))]))
}

async fn nested(job: Job, for_ms: u64) -> Outcome<Figures> {
    let own = Arc::new(OnceLock::<WeakPool<Act, u64, Infallible>>::new());
    let pool = Arc::clone(&own);
    let handler = async_handler_fn(move |act: Act, _| {
        let pool = pool.get().and_then(WeakPool::upgrade);
        async move {
            let Some(pool) = pool.filter(|_| act.aggregate == 0) else { return Ok(1) };
            let sends = (1..=job.aggregates).map(|other| pool.send(Act::plain(other)));
            let answers = join_all(sends).await;
            Ok(answers.into_iter().filter(Result::is_ok).count() as u64)
        }
    });
    let pool = ShardPool::builder(handler)
        .shards(job.shards)
        .workers_per_shard(job.workers)
        .queue_depth(job.depth)
        .start(Tokio::current()?)?;
    let _ = own.set(pool.downgrade());
    let send = || async {
        match pool.send(Act::plain(0)).await.map_err(|error| error.to_string())?.output {
            answers if answers == job.aggregates => Ok(()),
            answers => Err(format!("{answers} of {} were answered", job.aggregates)),
        }
    };
    // The first time aggregates are new.
    send().await?;
    let (mut waits, begun) = (0, Instant::now());
    while waits == 0 || begun.elapsed() < Duration::from_millis(for_ms) {
        send().await?;
        waits += job.aggregates;
    }
    Ok(Figures::from([(Quantity::PerCommand, nanos(begun.elapsed()) / waits as f64)]))
}

fn nanos(time: Duration) -> f64 {
    time.as_nanos() as f64
}

/// The middle of some figures, of which there is at least one.
pub fn median(figures: &mut [f64]) -> f64 {
    figures.sort_by(f64::total_cmp);
    let middle = figures.len() / 2;
    if figures.len().is_multiple_of(2) {
        (figures[middle - 1] + figures[middle]) / 2.0
    } else {
        figures[middle]
    }
}
