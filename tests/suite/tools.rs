//! Commands that carry what they do, things that are counted while they live, and an executor whose
//! futures a test can drop.

use crate::harness::{Bed, Door, Joined, Shared, until};
use futures::future::BoxFuture;
use shardpool::executors::{Clock, Executor, SpawnError, Task};
use shardpool::{
    Command, CommandError, CommandHandler, Context, Failure, Loaded, Outcomes, Receipt, SendError,
    ShardPool, SubmitError, WeakPool, loader_fn,
};
use std::fmt;
use std::future::Future;
use std::hash::Hash;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Once};
use std::task::{Poll, Wake, Waker};

/// What a handler here refuses or fails with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Error(pub(crate) &'static str);

pub(crate) type Pool<K = u64> = ShardPool<Job<K>, u64, Error>;
pub(crate) type Ticket<K = u64> = shardpool::Ticket<Job<K>, u64, Error>;

/// What a handler returns here.
pub(crate) type Handled = Result<u64, Failure<Error>>;

type Run = Box<dyn FnOnce(Context) -> BoxFuture<'static, Handled> + Send>;

/// A command that carries what its handler does.
pub(crate) struct Job<K = u64> {
    pub(crate) id: K,
    /// For the test to know it again.
    pub(crate) number: u64,
    run: Run,
    _live: Option<Alive>,
}

impl<K> Job<K> {
    pub(crate) fn new<F>(id: K, run: impl FnOnce(Context) -> F + Send + 'static) -> Self
    where
        F: Future<Output = Handled> + Send + 'static,
    {
        Self { id, number: 0, run: Box::new(move |cx| Box::pin(run(cx))), _live: None }
    }

    /// Commits.
    pub(crate) fn plain(id: K) -> Self {
        Self::new(id, |_| async { Ok(0) })
    }

    /// Commits once the door is open.
    pub(crate) fn at(id: K, door: &Door) -> Self {
        let door = door.clone();
        Self::new(id, |_| async move {
            door.pass().await;
            Ok(0)
        })
    }

    pub(crate) fn number(mut self, number: u64) -> Self {
        self.number = number;
        self
    }

    /// Counts as living until the command is dropped or its handler has ended.
    pub(crate) fn counted(mut self, live: &Live) -> Self {
        self._live = Some(live.one());
        self
    }
}

impl<K: Eq + Hash + Clone + Send + Sync + 'static> Command for Job<K> {
    type AggregateId = K;
    fn aggregate_id(&self) -> &K {
        &self.id
    }
}

/// A command that says nothing.
pub(crate) struct Touch;

impl Command for Touch {
    type AggregateId = ();

    fn aggregate_id(&self) -> &() {
        &()
    }
}

/// Does what the command says.
pub(crate) struct Script<K = u64>(PhantomData<fn() -> K>);

impl<K> Script<K> {
    pub(crate) fn new() -> Self {
        Self(PhantomData)
    }
}

impl<K: Eq + Hash + Clone + Send + Sync + 'static> CommandHandler for Script<K> {
    type Command = Job<K>;
    type State = ();
    type Output = u64;
    type Error = Error;

    async fn handle(&self, _: &mut (), job: Job<K>, cx: &Context) -> Handled {
        (job.run)(cx.clone()).await
    }
}

/// A pool of scripted commands on an executor.
pub(crate) fn pool(executor: impl Executor, shards: usize, workers: usize, depth: usize) -> Pool {
    ShardPool::builder(Script::new())
        .shards(shards)
        .workers_per_shard(workers)
        .queue_depth(depth)
        .start(executor)
        .unwrap()
}

/// A pool of one shard and one worker, and how often it has loaded an aggregate.
pub(crate) fn pool_that_counts_loads(executor: impl Executor) -> (Pool, Arc<AtomicU64>) {
    let loads = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&loads);
    let pool = ShardPool::builder(Script::new())
        .loader(loader_fn(move |_: u64| {
            count.fetch_add(1, Ordering::SeqCst);
            async { Ok::<_, Error>(Loaded::new((), 0)) }
        }))
        .shards(1)
        .workers_per_shard(1)
        .start(executor)
        .unwrap();
    (pool, loads)
}

/// Submissions that wait for room in a pool of one shard, which has none.
pub(crate) struct Crowd(Vec<Joined<Result<Ticket, SubmitError<Job>>>>);

impl Crowd {
    /// When this is over, so many wait.
    pub(crate) async fn waits(bed: &Bed, pool: &Pool, most: u64) -> Self {
        let waiting = (0..most)
            .map(|number| {
                let pool = pool.clone();
                bed.spawn(async move { pool.submit(Job::plain(number).number(number)).await })
            })
            .collect();
        until(|| pool.stats()[0].waiting == most).await;
        Self(waiting)
    }

    /// Each is refused, since the pool is closed, and gets its own command back.
    pub(crate) async fn all_refused(self) {
        for (number, submission) in (0..).zip(self.0) {
            let back = submission.await;
            let Err(SubmitError::Closed(job)) = back else { panic!("not refused: {back:?}") };
            assert_eq!(job.number, number, "another command came back");
        }
    }
}

/// Shows a pool to the bound without keeping it open.
pub(crate) struct Peek<C: Command, O: Send + 'static, E: Send + 'static>(
    pub(crate) WeakPool<C, O, E>,
);

impl<C: Command, O: Send + 'static, E: Send + 'static> fmt::Debug for Peek<C, O, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0.upgrade(), f)
    }
}

/// An id that the shard serves, other than those `taken`.
pub(crate) fn id_on(pool: &Pool, shard: usize, taken: &[u64]) -> u64 {
    (0..).find(|id| pool.shard_of(id) == shard && !taken.contains(id)).unwrap()
}

/// At a quiet moment every accepted command is in the outcomes, and in nothing else (G5).
pub(crate) fn assert_quiet<K>(pool: &Pool<K>) -> Outcomes
where
    K: Eq + Hash + Clone + Send + Sync + 'static,
{
    let stats = pool.stats();
    for shard in &stats {
        assert_eq!(shard.accepted, shard.outcomes.total(), "{stats:?}");
        assert_eq!((shard.queued, shard.running, shard.waiting), (0, 0, 0), "{stats:?}");
    }
    stats.iter().map(|shard| shard.outcomes).sum()
}

/// Whether a wait was refused as one that can't end. Anything else but a commit is a failure.
pub(crate) fn was_refused<K>(result: Result<Receipt<u64>, SendError<Job<K>, Error>>) -> bool {
    match result {
        Ok(_) => false,
        Err(
            SendError::NotAccepted(SubmitError::Deadlock(_))
            | SendError::Command(CommandError::Deadlock),
        ) => true,
        Err(other) => panic!("neither committed nor refused: {other:?}"),
    }
}

/// Counts things that live.
#[derive(Clone, Default)]
pub(crate) struct Live(Arc<AtomicUsize>);

/// One of them.
pub(crate) struct Alive(Arc<AtomicUsize>);

impl Live {
    pub(crate) fn one(&self) -> Alive {
        self.0.fetch_add(1, Ordering::SeqCst);
        Alive(Arc::clone(&self.0))
    }

    pub(crate) fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// An executor that keeps the pool's futures in reach, to count them and to drop them from outside.
#[derive(Clone)]
pub(crate) struct Puppets {
    on: Shared,
    slots: Arc<Mutex<Vec<Arc<Slot>>>>,
    tasks: Live,
    executors: Live,
    _one: Arc<Alive>,
}

#[derive(Default)]
struct Slot {
    task: Mutex<Option<(Task, Alive)>>,
    waker: Mutex<Option<Waker>>,
}

impl Slot {
    fn drop_task(&self) {
        let task = self.task.lock().unwrap().take();
        drop(task);
    }
}

/// What the executor owns: when it drops this, the pool's future is dropped.
struct Owned(Arc<Slot>);

impl Drop for Owned {
    fn drop(&mut self) {
        self.0.drop_task();
    }
}

impl Puppets {
    pub(crate) fn new(on: Shared) -> Self {
        let executors = Live::default();
        let _one = Arc::new(executors.one());
        Self { on, slots: Arc::default(), tasks: Live::default(), executors, _one }
    }

    /// The futures that are neither ended nor dropped.
    pub(crate) fn tasks(&self) -> Live {
        self.tasks.clone()
    }

    /// One as long as anybody has this executor or a clone of it.
    pub(crate) fn executors(&self) -> Live {
        self.executors.clone()
    }

    /// A way to drop the pool's futures that does not keep the executor.
    pub(crate) fn killer(&self) -> Killer {
        Killer(Arc::clone(&self.slots))
    }
}

pub(crate) struct Killer(Arc<Mutex<Vec<Arc<Slot>>>>);

impl Killer {
    /// Drops one future, in the order in which they were spawned, as a runtime may at any await.
    pub(crate) fn kill(&self, index: usize) {
        let slot = Arc::clone(&self.0.lock().unwrap()[index]);
        slot.drop_task();
        let waker = slot.waker.lock().unwrap().take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Executor for Puppets {
    fn spawn(&self, task: Task) -> Result<(), SpawnError> {
        let slot = Arc::new(Slot::default());
        *slot.task.lock().unwrap() = Some((task, self.tasks.one()));
        self.slots.lock().unwrap().push(Arc::clone(&slot));
        let owned = Owned(slot);
        self.on.spawn(Box::pin(std::future::poll_fn(move |cx| {
            let slot = &owned.0;
            *slot.waker.lock().unwrap() = Some(cx.waker().clone());
            let mut held = slot.task.lock().unwrap();
            let Some((task, _)) = &mut *held else { return Poll::Ready(()) };
            if task.as_mut().poll(cx).is_ready() {
                *held = None;
                return Poll::Ready(());
            }
            Poll::Pending
        })))
    }

    fn clock(&self) -> Arc<dyn Clock> {
        self.on.clock()
    }

    fn threads(&self) -> usize {
        self.on.threads()
    }
}

/// A waker that does what the test wants.
pub(crate) struct WakeWith<F>(pub(crate) F);

impl<F: Fn() + Send + Sync + 'static> Wake for WakeWith<F> {
    fn wake(self: Arc<Self>) {
        (self.0)();
    }
    fn wake_by_ref(self: &Arc<Self>) {
        (self.0)();
    }
}

/// Polls once.
pub(crate) fn poll_once<F: Future + Unpin>(future: &mut F, waker: &Waker) -> Poll<F::Output> {
    std::pin::Pin::new(future).poll(&mut std::task::Context::from_waker(waker))
}

/// What every panic that a test wants begins with.
pub(crate) const WANTED: &str = "wanted panic";

/// Keeps the reports of wanted panics out of the output.
pub(crate) fn hush_wanted_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let report = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let payload = info.payload();
            let text = payload.downcast_ref::<&str>().copied();
            let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
            if !text.is_some_and(|text| text.starts_with(WANTED)) {
                report(info);
            }
        }));
    });
}

/// Panics when it is dropped, unless that happens while its thread panics.
pub(crate) struct Bomb(pub(crate) &'static str);

impl Drop for Bomb {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            panic!("{WANTED}: {}", self.0);
        }
    }
}

/// A waker whose destructor panics.
struct LoudWaker(#[expect(dead_code, reason = "dropped with it")] Bomb);

impl Wake for LoudWaker {
    fn wake(self: Arc<Self>) {}
}

pub(crate) fn loud_waker() -> Waker {
    Waker::from(Arc::new(LoudWaker(Bomb("a waker"))))
}

/// Something that happens at most once, seen from several threads.
#[derive(Clone, Debug, Default)]
pub(crate) struct Flag(Arc<AtomicBool>);

impl Flag {
    pub(crate) fn set(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    pub(crate) fn clear(&self) {
        self.0.store(false, Ordering::SeqCst);
    }

    /// How many have it.
    pub(crate) fn holders(&self) -> usize {
        Arc::strong_count(&self.0)
    }
}

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.set();
    }
}

/// An executor with another clock.
pub(crate) struct WithClock<C>(pub(crate) Shared, pub(crate) C);

impl<C: Clock + Clone + 'static> Executor for WithClock<C> {
    fn spawn(&self, task: Task) -> Result<(), SpawnError> {
        self.0.spawn(task)
    }
    fn clock(&self) -> Arc<dyn Clock> {
        Arc::new(self.1.clone())
    }
    fn threads(&self) -> usize {
        self.0.threads()
    }
}
