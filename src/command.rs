//! What a user writes: a command, the handler that carries it out, and where state comes from.

use crate::cell::Probed;
use crate::shard::front::Front;
use std::fmt;
use std::future::{Future, ready};
use std::hash::Hash;
use std::sync::Arc;

/// One request to change one aggregate.
///
/// Give the type no lifetime parameter, not even for `'static`: the compiler forgets lifetimes inside async blocks,
/// and would refuse to spawn one that sends such a command. A field that is a `&'static str` does no harm.
///
/// ```
/// use shardpool::Command;
///
/// struct Deposit {
///     account: String,
///     cents: u64,
/// }
///
/// impl Command for Deposit {
///     type AggregateId = String;
///     fn aggregate_id(&self) -> &String {
///         &self.account
///     }
/// }
/// # let d = Deposit { account: "a".into(), cents: 1 };
/// # assert_eq!((d.aggregate_id().as_str(), d.cents), ("a", 1));
/// ```
pub trait Command: Send + 'static {
    /// Names the aggregate that the command changes.
    ///
    /// The id is hashed once per command and cloned when the aggregate is met for the first time, or again after an
    /// eviction; [`loader_fn`](crate::loader_fn) clones it for each load. For the detection of deadlocks submissions
    /// inside a handler clone it as well, and a wait inside a handler clones the id of the handler's own aggregate: if
    /// that panics, the wait is refused.
    type AggregateId: Eq + Hash + Clone + Send + Sync + 'static;

    /// The aggregate of this command. It must be the same at each call.
    ///
    /// ```
    /// use shardpool::Command;
    ///
    /// struct Reserve { hotel: u32, room: (u32, u16) }
    ///
    /// impl Command for Reserve {
    ///     type AggregateId = (u32, u16); // a part of the command, lent
    ///     fn aggregate_id(&self) -> &(u32, u16) { &self.room }
    /// }
    /// assert_eq!(Reserve { hotel: 1, room: (1, 204) }.aggregate_id(), &(1, 204));
    /// ```
    fn aggregate_id(&self) -> &Self::AggregateId;
}

/// Carries commands out, one at a time per aggregate.
///
/// ```
/// use shardpool::{Command, CommandHandler, Context, Failure, ShardPool, executors::Threads};
///
/// struct Withdraw { account: &'static str, cents: u64 }
///
/// impl Command for Withdraw {
///     type AggregateId = &'static str;
///     fn aggregate_id(&self) -> &&'static str { &self.account }
/// }
///
/// struct Bank;
///
/// impl CommandHandler for Bank {
///     type Command = Withdraw;
///     type State = u64; // cents taken so far
///     type Output = u64;
///     type Error = &'static str;
///
///     async fn handle(&self, taken: &mut u64, command: Withdraw, _cx: &Context) -> Result<u64, Failure<&'static str>> {
///         if *taken + command.cents > 100 {
///             return Err(Failure::Rejected("over the limit"));
///         }
///         *taken += command.cents;
///         Ok(*taken)
///     }
/// }
///
/// let pool = ShardPool::builder(Bank).shards(2).start(Threads::new())?;
/// let receipt = pool.blocking_send(Withdraw { account: "a", cents: 60 }).unwrap();
/// assert_eq!((receipt.version, receipt.output), (1, 60));
/// assert!(pool.blocking_send(Withdraw { account: "a", cents: 60 }).is_err());
/// # Ok::<(), shardpool::StartError>(())
/// ```
pub trait CommandHandler: Send + Sync + 'static {
    /// The commands that this handler carries out.
    type Command: Command;
    /// What the pool keeps in memory for one aggregate between its commands.
    type State: Send + 'static;
    /// What a committed command gives back to its caller.
    type Output: Send + 'static;
    /// What a rejected or failed command gives back to its caller.
    type Error: Send + 'static;

    /// Carries out one command. Usually written as
    /// `async fn handle(&self, state: &mut S, command: C, cx: &Context) -> Result<O, Failure<E>>`.
    ///
    /// While it runs, no other command of the same aggregate does (G1), and the state is its
    /// own. Once started it runs to its end, whatever its caller does (G8); it is dropped at an
    /// await only when the executor drops the worker.
    ///
    /// ```
    /// # use shardpool::{Command, CommandHandler, Context, Failure, ShardPool, executors::Threads};
    /// # use std::sync::{Arc, Mutex};
    /// # struct Note(&'static str);
    /// # impl Command for Note { type AggregateId = &'static str; fn aggregate_id(&self) -> &&'static str { &self.0 } }
    /// struct Audit { log: Mutex<Vec<String>> }
    ///
    /// impl CommandHandler for Audit {
    /// #     type Command = Note; type State = u32; type Output = (); type Error = ();
    ///     // ...
    ///     async fn handle(&self, times: &mut u32, note: Note, cx: &Context) -> Result<(), Failure<()>> {
    ///         *times += 1;
    ///         self.log.lock().unwrap().push(format!("{} {times} v{}", note.0, cx.version()));
    ///         Ok(())
    ///     }
    /// }
    ///
    /// // An `Arc` of a handler is a handler too: what it shares stays within reach.
    /// let audit = Arc::new(Audit { log: Mutex::default() });
    /// let pool = ShardPool::builder(Arc::clone(&audit)).start(Threads::new())?;
    /// pool.blocking_send(Note("a")).unwrap();
    /// assert_eq!(*audit.log.lock().unwrap(), ["a 1 v1"]);
    /// # Ok::<(), shardpool::StartError>(())
    /// ```
    ///
    /// # Panics
    ///
    /// A panic ends the command as [`CommandError::Panicked`](crate::CommandError::Panicked);
    /// the aggregate's state is dropped, and loaded again before its next command (G7); without a loader it
    /// begins again from its default.
    fn handle(
        &self,
        state: &mut Self::State,
        command: Self::Command,
        cx: &Context,
    ) -> impl Future<Output = Result<Self::Output, Failure<Self::Error>>> + Send;
}

impl<H: CommandHandler> CommandHandler for Arc<H> {
    type Command = H::Command;
    type State = H::State;
    type Output = H::Output;
    type Error = H::Error;

    fn handle(
        &self,
        state: &mut Self::State,
        command: Self::Command,
        cx: &Context,
    ) -> impl Future<Output = Result<Self::Output, Failure<Self::Error>>> + Send {
        (**self).handle(state, command, cx)
    }
}

/// Why a handler did not commit. The difference is what the pool may assume of the state.
///
/// `?` on an error gives `Failed`, the safe choice; a rejection is said in so many words:
/// `.map_err(Failure::Rejected)?`. Only on an error of the handler's own type: convert others first,
/// `.map_err(MyError::from)?`.
///
/// ```
/// use shardpool::Failure;
///
/// fn parse(s: &str) -> Result<u32, Failure<std::num::ParseIntError>> {
///     Ok(s.parse::<u32>()?)
/// }
/// assert!(matches!(parse("x"), Err(Failure::Failed(_))));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure<E> {
    /// A refusal by the domain. The version stays, and so does the resident state (G10), as the handler left
    /// it: the pool undoes nothing. So return this only if nothing was written to a store **and** `state` is
    /// as it was: check first, then change. If you can't be sure, return `Failed`.
    Rejected(E),
    /// Something may have been written: the state is dropped and loaded again before the next
    /// command (G11).
    Failed(E),
}

impl<E> From<E> for Failure<E> {
    fn from(error: E) -> Self {
        Failure::Failed(error)
    }
}

/// Tells what an aggregate's state and version are in the user's store.
///
/// Asked before the first command of an aggregate, and again after a failure, a panic or an
/// eviction (G11, G12). A load occupies one worker and holds up its own aggregate only.
///
/// ```
/// use shardpool::{Loaded, Loader};
///
/// struct Store;
///
/// impl Loader for Store {
///     type AggregateId = String;
///     type State = u64;
///     type Error = std::io::Error;
///
///     async fn load(&self, id: &String) -> Result<Loaded<u64>, std::io::Error> {
///         Ok(Loaded::new(id.len() as u64, 7))
///     }
/// }
///
/// let loaded = futures::executor::block_on(Store.load(&"alice".to_owned()))?;
/// assert_eq!((loaded.state, loaded.version), (5, 7));
/// # Ok::<(), std::io::Error>(())
/// ```
pub trait Loader: Send + Sync + 'static {
    /// As in [`Command::AggregateId`].
    type AggregateId;
    /// As in [`CommandHandler::State`].
    type State;
    /// As in [`CommandHandler::Error`].
    type Error;

    /// Reads the state and the version of one aggregate; for one that the store does not know,
    /// usually the empty state and version 0.
    ///
    /// What it waits for of the pool's is judged as in a handler (G9).
    ///
    /// ```
    /// # use shardpool::{Command, Context, Failure, ShardPool, executors::Threads, handler_fn};
    /// # #[derive(Debug, PartialEq)]
    /// # struct Add(&'static str, u32);
    /// # impl Command for Add { type AggregateId = &'static str; fn aggregate_id(&self) -> &&'static str { &self.0 } }
    /// use shardpool::{CommandError, SendError, loader_fn};
    ///
    /// let handler = handler_fn(|_: &mut u32, _: Add, _: &Context| Ok(()));
    /// let loader = loader_fn(|_: &'static str| async { Err("no connection") });
    /// let pool = ShardPool::builder(handler).loader(loader).start(Threads::new())?;
    /// assert_eq!(
    ///     pool.blocking_send(Add("a", 1)).unwrap_err(),
    ///     SendError::Command(CommandError::Failed { error: "no connection", started: false }),
    /// );
    /// # Ok::<(), shardpool::StartError>(())
    /// ```
    ///
    /// # Cancel safety
    ///
    /// The load is dropped at an await when the pool aborts, or the executor drops the worker.
    ///
    /// # Errors
    ///
    /// An error ends the command that asked for the load as
    /// [`CommandError::Failed`](crate::CommandError::Failed) with `started: false`, or, if that was withdrawn
    /// meanwhile, the next of its turn; the command after that asks again.
    ///
    /// # Panics
    ///
    /// A panic ends that command as [`CommandError::Panicked`](crate::CommandError::Panicked) with
    /// `started: false`; the next command asks again (G7).
    fn load(
        &self,
        id: &Self::AggregateId,
    ) -> impl Future<Output = Result<Loaded<Self::State>, Self::Error>> + Send;
}

impl<L: Loader> Loader for Arc<L> {
    type AggregateId = L::AggregateId;
    type State = L::State;
    type Error = L::Error;

    fn load(
        &self,
        id: &Self::AggregateId,
    ) -> impl Future<Output = Result<Loaded<Self::State>, Self::Error>> + Send {
        (**self).load(id)
    }
}

/// An aggregate as the store has it.
///
/// ```
/// use shardpool::Loaded;
///
/// // As an event store has it: fold the events, count them.
/// let events = [10, 20, -5];
/// let account = Loaded { state: events.iter().sum::<i64>(), version: events.len() as u64 };
/// assert_eq!(account, Loaded::new(25, 3));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loaded<S> {
    /// The state after `version` commits.
    pub state: S,
    /// How many commands the aggregate has committed. The next one commits `version + 1`.
    pub version: u64,
}

impl<S> Loaded<S> {
    /// The state and the version that belong together.
    ///
    /// ```
    /// use shardpool::Loaded;
    ///
    /// let unknown = Loaded::new(String::new(), 0); // its first commit will be version 1
    /// assert_eq!(unknown.version, 0);
    /// ```
    pub fn new(state: S, version: u64) -> Self {
        Self { state, version }
    }
}

/// Where resident state comes from: a [`Loader`], or [`NoLoader`].
///
/// Sealed; the two implementations are all there are.
///
/// ```
/// # use shardpool::{Command, Context, Failure, ShardPool, executors::Threads, handler_fn};
/// # #[derive(Debug, PartialEq)]
/// # struct Add(&'static str, u32);
/// # impl Command for Add { type AggregateId = &'static str; fn aggregate_id(&self) -> &&'static str { &self.0 } }
/// use shardpool::{Builder, CommandHandler, PoolOf, Source, StartError};
///
/// /// Starts a builder, whether it was given a loader or not.
/// fn start<H, L>(builder: Builder<H, L>) -> Result<PoolOf<H>, StartError>
/// where
///     H: CommandHandler<Command = Add>,
///     L: Source<&'static str, H::State, H::Error>,
/// {
///     builder.shards(2).start(Threads::new())
/// }
/// let handler = handler_fn(|_: &mut (), _: Add, _: &Context| Ok::<_, Failure<()>>(()));
/// assert_eq!(start(ShardPool::builder(handler))?.shards(), 2);
/// # Ok::<(), shardpool::StartError>(())
/// ```
pub trait Source<K, S, E>: Send + Sync + 'static + sealed::Sealed {
    #[doc(hidden)]
    const LOADS: bool;

    #[doc(hidden)]
    fn restore(&self, id: &K) -> impl Future<Output = Result<(S, Option<u64>), E>> + Send;
}

/// No store: state starts from its `Default` and the version from 0; after a failure or a panic
/// the state is reset and the version stays where it was (G11).
///
/// ```
/// # use shardpool::{Command, Context, Failure, ShardPool, executors::Threads, handler_fn};
/// # #[derive(Debug, PartialEq)]
/// # struct Add(&'static str, u32);
/// # impl Command for Add { type AggregateId = &'static str; fn aggregate_id(&self) -> &&'static str { &self.0 } }
/// # let handler = handler_fn(|sum: &mut u32, add: Add, _: &Context| {
/// #     *sum += add.1;
/// #     if add.1 == 0 { Err(Failure::Failed("disk full")) } else { Ok(*sum) }
/// # });
/// use shardpool::{Builder, NoLoader};
///
/// let builder: Builder<_, NoLoader> = ShardPool::builder(handler);
/// let pool = builder.start(Threads::new())?;
/// assert_eq!(pool.blocking_send(Add("a", 3)).unwrap().output, 3);
/// pool.blocking_send(Add("a", 0)).unwrap_err(); // this handler fails at a zero
/// let receipt = pool.blocking_send(Add("a", 4)).unwrap();
/// assert_eq!((receipt.output, receipt.version), (4, 2));
/// # Ok::<(), shardpool::StartError>(())
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct NoLoader;

/// A [`Loader`] that the builder was given.
///
/// ```
/// # use shardpool::{Command, CommandHandler, Context, Failure, Loaded, Loader, ShardPool, executors::Threads};
/// # struct Add(u32, u64);
/// # impl Command for Add { type AggregateId = u32; fn aggregate_id(&self) -> &u32 { &self.0 } }
/// # struct Counter;
/// # impl CommandHandler for Counter {
/// #     type Command = Add; type State = u64; type Output = u64; type Error = ();
/// #     async fn handle(&self, sum: &mut u64, add: Add, _: &Context) -> Result<u64, Failure<()>> {
/// #         *sum += add.1;
/// #         Ok(*sum)
/// #     }
/// # }
/// # struct Store;
/// # impl Loader for Store {
/// #     type AggregateId = u32; type State = u64; type Error = ();
/// #     async fn load(&self, _: &u32) -> Result<Loaded<u64>, ()> { Ok(Loaded::new(40, 1)) }
/// # }
/// use shardpool::{Builder, Loading};
///
/// // The builder's type tells that there is a loader.
/// let builder: Builder<Counter, Loading<Store>> = ShardPool::builder(Counter).loader(Store);
/// assert_eq!(builder.start(Threads::new())?.blocking_send(Add(1, 2)).unwrap().output, 42);
/// # Ok::<(), shardpool::StartError>(())
/// ```
pub struct Loading<L>(pub(crate) L);

impl<L> fmt::Debug for Loading<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Loading")
    }
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::NoLoader {}
    impl<L> Sealed for super::Loading<L> {}
}

impl<K, S: Default + Send, E: Send> Source<K, S, E> for NoLoader {
    const LOADS: bool = false;

    fn restore(&self, _: &K) -> impl Future<Output = Result<(S, Option<u64>), E>> + Send {
        ready(Ok((S::default(), None)))
    }
}

impl<L, K, S, E> Source<K, S, E> for Loading<L>
where
    L: Loader<AggregateId = K, State = S, Error = E>,
    K: Sync,
{
    const LOADS: bool = true;

    async fn restore(&self, id: &K) -> Result<(S, Option<u64>), E> {
        self.0.load(id).await.map(|loaded| (loaded.state, Some(loaded.version)))
    }
}

/// What a committed command gives back.
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
/// # let pool = builder.shards(4).workers_per_shard(2).start(Threads::new()).unwrap();
/// use shardpool::Receipt;
///
/// let Receipt { version, output, .. } = pool.blocking_send(Add("a", 3)).unwrap();
/// assert_eq!((version, output), (1, 3));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Receipt<O> {
    /// The version that the command committed: the aggregate's number of commits so far.
    pub version: u64,
    /// What the handler returned.
    pub output: O,
}

/// What a handler may know of the command that it carries out.
///
/// ```
/// # use shardpool::{Command, Context, Failure, ShardPool, executors::Threads, handler_fn};
/// # #[derive(Debug, PartialEq)]
/// # struct Add(&'static str, u32);
/// # impl Command for Add { type AggregateId = &'static str; fn aggregate_id(&self) -> &&'static str { &self.0 } }
/// let handler = handler_fn(|_: &mut (), _: Add, cx: &Context| Ok::<_, Failure<()>>(format!("{cx:?}")));
/// let pool = ShardPool::builder(handler).shards(1).start(Threads::new())?;
/// assert_eq!(
///     pool.blocking_send(Add("a", 1)).unwrap().output,
///     "Context { version: 1, shard: 0, is_cancelled: false }",
/// );
/// # Ok::<(), shardpool::StartError>(())
/// ```
#[derive(Clone)]
pub struct Context {
    pub(crate) command: Probed,
    pub(crate) front: Arc<Front>,
    pub(crate) version: u64,
    pub(crate) shard: usize,
}

impl Context {
    /// The version that this command will have if it commits: the resident version + 1.
    ///
    /// ```
    /// # use shardpool::{Command, Context, Failure, ShardPool, executors::Threads, handler_fn};
    /// # #[derive(Debug, PartialEq)]
    /// # struct Add(&'static str, u32);
    /// # impl Command for Add { type AggregateId = &'static str; fn aggregate_id(&self) -> &&'static str { &self.0 } }
    /// // An event store: what is appended carries the version that the command will have.
    /// let handler = handler_fn(|events: &mut Vec<(u64, u32)>, add: Add, cx: &Context| {
    ///     events.push((cx.version(), add.1));
    ///     Ok::<_, Failure<()>>(events.clone())
    /// });
    /// let pool = ShardPool::builder(handler).start(Threads::new())?;
    /// pool.blocking_send(Add("a", 30)).unwrap();
    /// assert_eq!(pool.blocking_send(Add("a", 40)).unwrap().output, [(1, 30), (2, 40)]);
    /// # Ok::<(), shardpool::StartError>(())
    /// ```
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The index of the shard that the command runs on.
    ///
    /// ```
    /// # use shardpool::{Command, Context, Failure, ShardPool, executors::Threads, handler_fn};
    /// # #[derive(Debug, PartialEq)]
    /// # struct Add(&'static str, u32);
    /// # impl Command for Add { type AggregateId = &'static str; fn aggregate_id(&self) -> &&'static str { &self.0 } }
    /// let handler = handler_fn(|_: &mut (), _: Add, cx: &Context| Ok::<_, Failure<()>>(cx.shard()));
    /// let pool = ShardPool::builder(handler).shards(4).start(Threads::new())?;
    /// assert_eq!(pool.blocking_send(Add("a", 1)).unwrap().output, pool.shard_of(&"a"));
    /// # Ok::<(), shardpool::StartError>(())
    /// ```
    pub fn shard(&self) -> usize {
        self.shard
    }

    /// Whether somebody wants this command to stop: its caller asked for
    /// [`withdraw`](crate::Ticket::withdraw) after it had started, or the pool aborts. And whether it has ended,
    /// for what a handler has left to work elsewhere with a clone of this.
    ///
    /// The pool never stops a started command; a handler that runs long may look at this and
    /// return early (G8).
    ///
    /// ```
    /// # use shardpool::{Command, Context, Failure, ShardPool, executors::Threads, handler_fn};
    /// # #[derive(Debug, PartialEq)]
    /// # struct Add(&'static str, u32);
    /// # impl Command for Add { type AggregateId = &'static str; fn aggregate_id(&self) -> &&'static str { &self.0 } }
    /// # let (tell, started) = std::sync::mpsc::channel();
    /// # let work_a_little = std::thread::yield_now;
    /// let handler = handler_fn(move |_: &mut (), _: Add, cx: &Context| {
    /// #     tell.send(()).ok();
    ///     while !cx.is_cancelled() {
    ///         work_a_little();
    ///     }
    ///     Err::<(), _>(Failure::Rejected("stopped early"))
    /// });
    /// let pool = ShardPool::builder(handler).start(Threads::new())?;
    /// let ticket = pool.blocking_submit(Add("a", 1)).unwrap();
    /// # started.recv().unwrap();
    /// assert!(!ticket.withdraw()); // it has started: not withdrawn, but told
    /// assert_eq!(ticket.blocking_wait().unwrap_err().into_error(), Some("stopped early"));
    /// # Ok::<(), shardpool::StartError>(())
    /// ```
    pub fn is_cancelled(&self) -> bool {
        self.command.is_to_stop() || self.front.is_aborting()
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("version", &self.version)
            .field("shard", &self.shard)
            .field("is_cancelled", &self.is_cancelled())
            .finish()
    }
}

#[cfg(all(test, not(shardpool_loom)))]
pub(crate) mod tests {
    use super::Command;

    /// A command for tests of what carries commands.
    pub(crate) struct Touch;

    impl Command for Touch {
        type AggregateId = ();

        fn aggregate_id(&self) -> &() {
            &()
        }
    }

    /// A command of two words, one of which is its id.
    pub(crate) struct Small(u64, #[expect(dead_code, reason = "it has a size")] u64);

    impl Command for Small {
        type AggregateId = u64;

        fn aggregate_id(&self) -> &u64 {
            &self.0
        }
    }
}
