//! Settings, checked together when the pool starts.

use crate::PoolOf;
use crate::command::{Command, CommandHandler, Loader, Loading, NoLoader, Source};
use crate::error::{SettingError, StartError};
use crate::executors::{Executor, SpawnError};
use crate::lifecycle::Lifecycle;
use crate::pool::{Inner, ShardPool};
use crate::reentry::Peers;
use crate::router::Router;
use crate::shard::front::{Front, MAX_DEPTH};
use crate::shard::{Hook, Plan, Shard, futures};
use crate::sync::Arc;
use crate::types::{HandlerTypes, IdOf};
use std::fmt;
use std::hash::BuildHasher;
use std::thread::available_parallelism;

/// The most shards, workers per shard, and workers in all. Each is a future; far more than this
/// is a slip, and the sizes computed from it stay far from overflow.
const MAX_SHARDS: usize = 1 << 16;
const MAX_WORKERS: usize = 1 << 16;
const MAX_TASKS: usize = 1 << 20;

/// Sets up a pool. Setters can't fail; [`start`](Self::start) checks all of them.
///
/// ```
/// # use shardpool::{Command, Context, Failure, ShardPool, StartError, executors::Threads, handler_fn};
/// # struct Add(u32);
/// # impl Command for Add { type AggregateId = u32; fn aggregate_id(&self) -> &u32 { &self.0 } }
/// let builder = ShardPool::builder(handler_fn(|n: &mut u32, add: Add, _: &Context| {
///     *n += add.0;
///     Ok::<_, Failure<()>>(*n)
/// }))
/// .shards(8)
/// .workers_per_shard(0);
/// let error = builder.start(Threads::new()).unwrap_err();
/// assert_eq!(error.to_string(), "bad setting: workers_per_shard(0): must be at least 1");
/// ```
#[must_use = "a builder does nothing until it is started"]
pub struct Builder<H: CommandHandler, L> {
    handler: H,
    source: L,
    shards: usize,
    workers_per_shard: usize,
    queue_depth: usize,
    max_turn: usize,
    max_resident: Option<usize>,
    make_router: MakeRouter<IdOf<HandlerTypes<H>>>,
    hook: Option<Hook>,
}

/// Makes the router, with a hasher that is known before the number of shards is.
type MakeRouter<K> = Box<dyn FnOnce(usize) -> Router<K> + Send>;

impl<H: CommandHandler> Builder<H, NoLoader> {
    pub(crate) fn new(handler: H) -> Self {
        Self {
            handler,
            source: NoLoader,
            shards: available_parallelism().map_or(1, usize::from),
            workers_per_shard: 8,
            queue_depth: 1024,
            max_turn: 64,
            max_resident: None,
            make_router: Box::new(Router::seeded),
            hook: None,
        }
    }

    /// Where state and version come from: see [`Loader`]. Without one, state starts from its
    /// `Default` and the version from 0.
    ///
    /// ```
    /// # use shardpool::{Command, Context, Failure, ShardPool, executors::Threads, handler_fn};
    /// # #[derive(Debug, PartialEq)]
    /// # struct Add(&'static str, u32);
    /// # impl Command for Add { type AggregateId = &'static str; fn aggregate_id(&self) -> &&'static str { &self.0 } }
    /// use shardpool::{Loaded, loader_fn};
    /// use std::sync::atomic::{AtomicU32, Ordering};
    /// # use std::sync::Arc;
    /// # let handler = handler_fn(|sum: &mut u32, add: Add, _: &Context| {
    /// #     if add.1 == 0 { return Err(Failure::Failed("disk full")); }
    /// #     *sum += add.1;
    /// #     Ok(*sum)
    /// # });
    ///
    /// # let loads = Arc::new(AtomicU32::new(0));
    /// # let counter = Arc::clone(&loads);
    /// let loader = loader_fn(move |_: &'static str| {
    ///     counter.fetch_add(1, Ordering::Relaxed);
    ///     async { Ok(Loaded::new(10, 7)) }
    /// });
    /// let pool = ShardPool::builder(handler).loader(loader).start(Threads::new())?;
    /// assert_eq!(pool.blocking_send(Add("a", 1)).unwrap().version, 8);
    /// assert_eq!(pool.blocking_send(Add("a", 1)).unwrap().output, 12); // still resident
    ///
    /// pool.blocking_send(Add("a", 0)).unwrap_err(); // failed: what was written is not known
    /// assert_eq!(pool.blocking_send(Add("a", 1)).unwrap().output, 11);
    /// assert_eq!(loads.load(Ordering::Relaxed), 2);
    /// # Ok::<(), shardpool::StartError>(())
    /// ```
    pub fn loader<L>(self, loader: L) -> Builder<H, Loading<L>>
    where
        L: Loader<
                AggregateId = <H::Command as Command>::AggregateId,
                State = H::State,
                Error = H::Error,
            >,
    {
        Builder {
            handler: self.handler,
            source: Loading(loader),
            shards: self.shards,
            workers_per_shard: self.workers_per_shard,
            queue_depth: self.queue_depth,
            max_turn: self.max_turn,
            max_resident: self.max_resident,
            make_router: self.make_router,
            hook: self.hook,
        }
    }
}

impl<H: CommandHandler, L> Builder<H, L> {
    /// How many shards. Default: the number of cores. 1 to 65,536.
    ///
    /// ```
    /// # use shardpool::{Command, Context, Failure, ShardPool, executors::Threads, handler_fn};
    /// # #[derive(Debug, PartialEq)]
    /// # struct Add(&'static str, u32);
    /// # impl Command for Add { type AggregateId = &'static str; fn aggregate_id(&self) -> &&'static str { &self.0 } }
    /// # let builder = ShardPool::builder(handler_fn(|sum: &mut u32, add: Add, _: &Context| {
    /// #     if add.1 == 0 { return Err(Failure::Rejected("nothing to add")); }
    /// #     *sum += add.1;
    /// #     Ok(*sum)
    /// # }));
    /// let pool = builder.shards(3).start(Threads::new())?;
    /// assert_eq!(pool.shards(), 3);
    /// # Ok::<(), shardpool::StartError>(())
    /// ```
    pub fn shards(mut self, shards: usize) -> Self {
        self.shards = shards;
        self
    }

    /// How many workers each shard has: how many of its aggregates can be busy at once. Default: 8.
    /// 1 to 65,536, and no more than 1,048,576 in the whole pool.
    ///
    /// ```
    /// # use shardpool::{Command, Context, Failure, ShardPool, executors::Threads, handler_fn};
    /// # #[derive(Debug, PartialEq)]
    /// # struct Add(&'static str, u32);
    /// # impl Command for Add { type AggregateId = &'static str; fn aggregate_id(&self) -> &&'static str { &self.0 } }
    /// use std::sync::Barrier;
    ///
    /// let both = Barrier::new(2);
    /// let handler = handler_fn(move |_: &mut (), _: Add, _: &Context| {
    ///     both.wait(); // until a second handler is here
    ///     Ok::<_, Failure<()>>(())
    /// });
    /// let pool = ShardPool::builder(handler).shards(1).workers_per_shard(2).start(Threads::new())?;
    /// let a = pool.blocking_submit(Add("a", 1)).unwrap();
    /// let b = pool.blocking_submit(Add("b", 1)).unwrap();
    /// assert!(a.blocking_wait().is_ok() && b.blocking_wait().is_ok());
    /// # Ok::<(), shardpool::StartError>(())
    /// ```
    pub fn workers_per_shard(mut self, workers: usize) -> Self {
        self.workers_per_shard = workers;
        self
    }

    /// How many accepted commands that have not started each shard holds, wherever they wait (G13).
    /// Default: 1,024. 1 to 2,147,483,647. Nothing is allocated in advance.
    ///
    /// ```
    /// # use shardpool::{Command, Context, Failure, ShardPool, executors::Threads, handler_fn};
    /// # #[derive(Debug, PartialEq)]
    /// # struct Add(&'static str, u32);
    /// # impl Command for Add { type AggregateId = &'static str; fn aggregate_id(&self) -> &&'static str { &self.0 } }
    /// # let (open, gate) = std::sync::mpsc::channel::<()>();
    /// # let (tell, started) = std::sync::mpsc::channel();
    /// # let gate = std::sync::Mutex::new(gate);
    /// # let builder = ShardPool::builder(handler_fn(move |_: &mut (), _: Add, _: &Context| {
    /// #     tell.send(()).ok();
    /// #     gate.lock().unwrap().recv().ok();
    /// #     Ok::<_, Failure<&'static str>>(())
    /// # })).shards(1).workers_per_shard(1);
    /// let pool = builder.queue_depth(2).start(Threads::new())?;
    /// let running = pool.try_submit(Add("a", 1)).unwrap();
    /// started.recv().unwrap(); // what has started is not counted
    /// let queued = [pool.try_submit(Add("a", 2)).unwrap(), pool.try_submit(Add("b", 3)).unwrap()];
    /// assert!(pool.try_submit(Add("c", 4)).is_err());
    /// # Ok::<(), shardpool::StartError>(())
    /// ```
    pub fn queue_depth(mut self, depth: usize) -> Self {
        self.queue_depth = depth;
        self
    }

    /// How many commands of one aggregate run before another that is ready gets its turn (G4).
    /// Default: 64. At least 1. A wait inside a handler counts what is left of its turn: with very long turns that
    /// is what it costs.
    ///
    /// ```
    /// # use shardpool::{Command, Context, Failure, ShardPool, executors::Threads, handler_fn};
    /// # #[derive(Debug, PartialEq)]
    /// # struct Add(&'static str, u32);
    /// # impl Command for Add { type AggregateId = &'static str; fn aggregate_id(&self) -> &&'static str { &self.0 } }
    /// # use std::sync::{Arc, Mutex};
    /// # let log = Arc::new(Mutex::new(Vec::new()));
    /// # let of_handler = Arc::clone(&log);
    /// # let builder = ShardPool::builder(handler_fn(move |_: &mut (), add: Add, _: &Context| {
    /// #     of_handler.lock().unwrap().push(add.0);
    /// #     Ok::<_, Failure<()>>(())
    /// # }));
    /// let pool = builder.shards(1).workers_per_shard(1).max_turn(1).start(Threads::new())?;
    /// for id in ["hot", "hot", "cold", "hot", "hot", "hot"] {
    ///     let _ticket = pool.blocking_submit(Add(id, 1)).unwrap();
    /// }
    /// pool.drain().blocking_wait().unwrap();
    /// // The handler has logged the order: "cold" had its turn before the backlog was worked off.
    /// assert_eq!(log.lock().unwrap().last(), Some(&"hot"));
    /// # Ok::<(), shardpool::StartError>(())
    /// ```
    pub fn max_turn(mut self, commands: usize) -> Self {
        self.max_turn = commands;
        self
    }

    /// How many aggregates each shard keeps. Beyond that, idle ones are evicted, least recently
    /// used first, and loaded again when they are next used (G12). Needs a [`loader`](Self::loader).
    /// Default: no limit. At least 1.
    ///
    /// An aggregate is used when the dispatcher takes a command for it; one that is busy when the
    /// limit is reached counts as just used. More can be resident while more are busy.
    ///
    /// ```
    /// # use shardpool::{Command, Context, Failure, Loaded, ShardPool, executors::Threads, handler_fn, loader_fn};
    /// # struct Touch(u32);
    /// # impl Command for Touch { type AggregateId = u32; fn aggregate_id(&self) -> &u32 { &self.0 } }
    /// # let handler = handler_fn(|_: &mut u32, _: Touch, _: &Context| Ok::<_, Failure<()>>(()));
    /// # let loader = loader_fn(|id: u32| async move { Ok(Loaded::new(id, 0)) });
    /// let pool = ShardPool::builder(handler).loader(loader).shards(1).max_resident(10).start(Threads::new())?;
    /// for id in 0..100 {
    ///     pool.blocking_send(Touch(id)).unwrap();
    /// }
    /// assert!(pool.stats()[0].resident < 100);
    /// # Ok::<(), shardpool::StartError>(())
    /// ```
    pub fn max_resident(mut self, aggregates: usize) -> Self {
        self.max_resident = Some(aggregates);
        self
    }

    /// Hashes ids with this instead of SipHash with a seed of the pool's own (G3).
    ///
    /// With a hasher that has no seed, whoever can choose ids can choose ones that pile up on one
    /// shard and slow its map. With a fixed hasher an id goes to the same shard in every process with the same
    /// number of shards and the same version of this crate, as far as the hasher and the `Hash` of the id are
    /// the same there: the standard library's may differ between platforms (sizes, byte order) and versions,
    /// and so may its `DefaultHasher`, as below. For more, take a hasher that is specified.
    ///
    /// ```
    /// # use shardpool::{Command, Context, Failure, ShardPool, executors::Threads, handler_fn};
    /// # #[derive(Debug, PartialEq)]
    /// # struct Add(&'static str, u32);
    /// # impl Command for Add { type AggregateId = &'static str; fn aggregate_id(&self) -> &&'static str { &self.0 } }
    /// use std::hash::{BuildHasherDefault, DefaultHasher};
    ///
    /// let pool = || {
    ///     let handler = handler_fn(|_: &mut (), _: Add, _: &Context| Ok::<_, Failure<()>>(()));
    ///     ShardPool::builder(handler)
    ///         .shards(4)
    ///         .hasher(BuildHasherDefault::<DefaultHasher>::default())
    ///         .start(Threads::new())
    /// };
    /// // No seed: two pools agree on where an id goes.
    /// assert_eq!(pool()?.shard_of(&"a"), pool()?.shard_of(&"a"));
    /// # Ok::<(), shardpool::StartError>(())
    /// ```
    pub fn hasher<B>(mut self, hasher: B) -> Self
    where
        B: BuildHasher + Send + Sync + 'static,
    {
        self.make_router = Box::new(move |shards| Router::with_hasher(hasher, shards));
        self
    }

    /// A hook for tests, which needs the feature `test-util`: called by a dispatcher, with its shard's index, for each command on its way
    /// to its aggregate (G21), in its own task or in a worker's that runs it. A panic in it ends that command
    /// as panicked.
    ///
    /// ```
    /// # use shardpool::{Command, Context, Failure, ShardPool, executors::Threads, handler_fn};
    /// # #[derive(Debug, PartialEq)]
    /// # struct Add(&'static str, u32);
    /// # impl Command for Add { type AggregateId = &'static str; fn aggregate_id(&self) -> &&'static str { &self.0 } }
    /// # let builder = ShardPool::builder(handler_fn(|sum: &mut u32, add: Add, _: &Context| {
    /// #     if add.1 == 0 { return Err(Failure::Rejected("nothing to add")); }
    /// #     *sum += add.1;
    /// #     Ok(*sum)
    /// # }));
    /// use std::sync::mpsc;
    ///
    /// let (sender, taken) = mpsc::channel();
    /// let pool = builder.shards(1).on_dispatched(move |shard| sender.send(shard).unwrap()).start(Threads::new())?;
    /// pool.blocking_send(Add("a", 1)).unwrap();
    /// assert_eq!(taken.try_recv(), Ok(0)); // the shard's index
    /// # Ok::<(), shardpool::StartError>(())
    /// ```
    #[cfg(feature = "test-util")]
    pub fn on_dispatched(mut self, hook: impl Fn(usize) + Send + Sync + 'static) -> Self {
        self.hook = Some(Arc::new(hook));
        self
    }

    fn check(&self, loads: bool) -> Result<(), SettingError> {
        let ranges = [
            ("shards", self.shards, MAX_SHARDS, "must be at most 65536"),
            ("workers_per_shard", self.workers_per_shard, MAX_WORKERS, "must be at most 65536"),
            ("queue_depth", self.queue_depth, MAX_DEPTH, "must be at most 2147483647"),
            ("max_turn", self.max_turn, usize::MAX, ""),
            ("max_resident", self.max_resident.unwrap_or(1), usize::MAX, ""),
        ];
        for (setting, value, most, reason) in ranges {
            if value == 0 {
                return Err(SettingError { setting, value, reason: "must be at least 1" });
            }
            if value > most {
                return Err(SettingError { setting, value, reason });
            }
        }
        if self.shards.saturating_mul(self.workers_per_shard) > MAX_TASKS {
            return Err(SettingError {
                setting: "workers_per_shard",
                value: self.workers_per_shard,
                reason: "times the number of shards must be at most 1048576",
            });
        }
        if let Some(value) = self.max_resident
            && !loads
        {
            return Err(SettingError {
                setting: "max_resident",
                value,
                reason: "needs a loader: without one an evicted aggregate would lose its state",
            });
        }
        Ok(())
    }

    /// Checks the settings, and starts the pool's futures on an executor: one dispatcher and the
    /// workers of each shard. Nothing is spawned after that (G18).
    ///
    /// ```
    /// # use shardpool::{Command, Context, Failure, ShardPool, executors::Threads, handler_fn};
    /// # #[derive(Debug, PartialEq)]
    /// # struct Add(&'static str, u32);
    /// # impl Command for Add { type AggregateId = &'static str; fn aggregate_id(&self) -> &&'static str { &self.0 } }
    /// # let builder = ShardPool::builder(handler_fn(|sum: &mut u32, add: Add, _: &Context| {
    /// #     if add.1 == 0 { return Err(Failure::Rejected("nothing to add")); }
    /// #     *sum += add.1;
    /// #     Ok(*sum)
    /// # }));
    /// use shardpool::executors::{Executor, SpawnError, Task};
    /// # use std::sync::{Arc, atomic::{AtomicUsize, Ordering}};
    ///
    /// struct Counting(Arc<AtomicUsize>);
    ///
    /// impl Executor for Counting {
    ///     fn spawn(&self, task: Task) -> Result<(), SpawnError> {
    ///         self.0.fetch_add(1, Ordering::Relaxed);
    ///         Threads::new().spawn(task)
    ///     }
    /// }
    ///
    /// let spawned = Arc::new(AtomicUsize::new(0));
    /// let pool = builder.shards(2).workers_per_shard(3).start(Counting(Arc::clone(&spawned)))?;
    /// pool.blocking_send(Add("a", 1)).unwrap();
    /// assert_eq!(spawned.load(Ordering::Relaxed), 2 + 2 * 3);
    /// # Ok::<(), shardpool::StartError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`StartError::Setting`] for an invalid setting; nothing is started then.
    /// [`StartError::Spawn`] if the executor does not take the futures, or drops them at once; what
    /// was started ends.
    pub fn start(self, executor: impl Executor) -> Result<PoolOf<H>, StartError>
    where
        L: Source<<H::Command as Command>::AggregateId, H::State, H::Error>,
    {
        self.check(L::LOADS)?;
        let fronts: Box<[Arc<Front>]> = (0..self.shards)
            .map(|_| Arc::new(Front::new(self.queue_depth, self.workers_per_shard)))
            .collect();
        let shards: Box<[_]> =
            fronts.iter().map(|front| Arc::new(Shard::new(Arc::clone(front)))).collect();
        let plan = Plan {
            handler: Arc::new((self.handler, self.source)),
            clock: executor.clock(),
            peers: Arc::new(Peers::new(fronts, executor.threads())),
            lifecycle: Lifecycle::new(),
            max_turn: self.max_turn,
            max_resident: self.max_resident,
            hook: self.hook,
        };
        // The handle first: should a spawn fail, its drop closes what has been started.
        let pool = ShardPool {
            inner: Arc::new(Inner {
                router: (self.make_router)(self.shards),
                shards,
                clock: Arc::clone(&plan.clock),
                peers: Arc::clone(&plan.peers),
                lifecycle: Arc::clone(&plan.lifecycle),
            }),
        };
        for (index, shard) in pool.inner.shards.iter().enumerate() {
            for task in futures(shard, index, &plan) {
                executor.spawn(task)?;
            }
        }
        if pool.inner.shards.iter().any(|shard| shard.front.is_closed()) {
            return Err(SpawnError::new(
                "the executor dropped the futures at once: is it shut down?",
            )
            .into());
        }
        Ok(pool)
    }
}

impl<H: CommandHandler, L> fmt::Debug for Builder<H, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("shards", &self.shards)
            .field("workers_per_shard", &self.workers_per_shard)
            .field("queue_depth", &self.queue_depth)
            .field("max_turn", &self.max_turn)
            .field("max_resident", &self.max_resident)
            .finish_non_exhaustive()
    }
}

#[cfg(all(test, not(shardpool_loom)))]
mod tests {
    use crate::command::tests::Touch;
    use crate::{Context, Failure, ShardPool, handler_fn};

    #[test]
    fn g14_as_many_workers_as_are_allowed_are_accepted_and_not_one_more() {
        let handler = || handler_fn(|_: &mut (), _: Touch, _: &Context| Ok::<_, Failure<()>>(()));
        let check = |shards, workers| {
            let builder = ShardPool::builder(handler()).shards(shards).workers_per_shard(workers);
            builder.check(false).map_err(|error| error.value)
        };
        assert_eq!((check(1024, 1024), check(1024, 1025)), (Ok(()), Err(1025)));
    }
}
