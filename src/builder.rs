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
    pub fn shards(mut self, shards: usize) -> Self {
        self.shards = shards;
        self
    }

    /// How many workers each shard has: how many of its aggregates can be busy at once. Default: 8.
    /// 1 to 65,536, and no more than 1,048,576 in the whole pool.
    pub fn workers_per_shard(mut self, workers: usize) -> Self {
        self.workers_per_shard = workers;
        self
    }

    /// How many accepted commands that have not started each shard holds, wherever they wait (G13).
    /// Default: 1,024. 1 to 2,147,483,647. Nothing is allocated in advance.
    pub fn queue_depth(mut self, depth: usize) -> Self {
        self.queue_depth = depth;
        self
    }

    /// How many commands of one aggregate run before another that is ready gets its turn (G4).
    /// Default: 64. At least 1.
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
    pub fn max_resident(mut self, aggregates: usize) -> Self {
        self.max_resident = Some(aggregates);
        self
    }

    /// Hashes ids with this instead of SipHash with a seed of the pool's own (G3).
    ///
    /// With a hasher that has no seed, whoever can choose ids can choose ones that pile up on one
    /// shard and slow its map. With a fixed hasher an id goes to the same shard in every process,
    /// as far as the `Hash` of the id is the same there: the standard library's may differ between
    /// platforms (sizes, byte order) and versions.
    pub fn hasher<B>(mut self, hasher: B) -> Self
    where
        B: BuildHasher + Send + Sync + 'static,
    {
        self.make_router = Box::new(move |shards| Router::with_hasher(hasher, shards));
        self
    }

    /// A hook for tests: called by a dispatcher, with its shard's index, for each command that it
    /// takes from its channel (G21). A panic in it ends that command as panicked.
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
        if self.shards * self.workers_per_shard > MAX_TASKS {
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
    /// # Errors
    ///
    /// [`StartError::Setting`] for a setting that can't be; nothing is started then.
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
