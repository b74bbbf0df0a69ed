//! Handlers and loaders from closures.

use crate::command::{Command, CommandHandler, Context, Failure, Loaded, Loader};
use std::fmt;
use std::future::{Future, ready};
use std::marker::PhantomData;

/// A handler from a synchronous closure that is lent the aggregate's state.
///
/// ```
/// use shardpool::{Command, Context, Failure, ShardPool, executors::Threads, handler_fn};
///
/// struct Add(u32, i64);
/// impl Command for Add {
///     type AggregateId = u32;
///     fn aggregate_id(&self) -> &u32 { &self.0 }
/// }
///
/// let pool = ShardPool::builder(handler_fn(|sum: &mut i64, add: Add, _: &Context| {
///     *sum += add.1;
///     Ok::<_, Failure<()>>(*sum)
/// }))
/// .start(Threads::new())?;
/// assert_eq!(pool.blocking_send(Add(1, 2)).unwrap().output, 2);
/// assert_eq!(pool.blocking_send(Add(1, 3)).unwrap().output, 5);
/// # Ok::<(), shardpool::StartError>(())
/// ```
pub fn handler_fn<F, S, C, O, E>(f: F) -> HandlerFn<F, S, C, O, E>
where
    F: Fn(&mut S, C, &Context) -> Result<O, Failure<E>> + Send + Sync + 'static,
    C: Command,
{
    HandlerFn { f, types: PhantomData }
}

/// A handler from a closure that returns a future. Such a future can't borrow the state, so
/// there is none: the closure gets the command and the context alone.
///
/// ```
/// use shardpool::{Command, Context, Failure, ShardPool, async_handler_fn, executors::Threads};
///
/// struct Ping(u32);
/// impl Command for Ping {
///     type AggregateId = u32;
///     fn aggregate_id(&self) -> &u32 { &self.0 }
/// }
///
/// let pool = ShardPool::builder(async_handler_fn(|ping: Ping, cx: Context| async move {
///     Ok::<_, Failure<()>>((ping.0, cx.version()))
/// }))
/// .start(Threads::new())?;
/// assert_eq!(pool.blocking_send(Ping(7)).unwrap().output, (7, 1));
/// # Ok::<(), shardpool::StartError>(())
/// ```
pub fn async_handler_fn<F, Fut, C, O, E>(f: F) -> AsyncHandlerFn<F, C, O, E>
where
    F: Fn(C, Context) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<O, Failure<E>>> + Send,
    C: Command,
{
    AsyncHandlerFn { f, types: PhantomData }
}

/// A loader from a closure that takes the id by value and returns a future.
///
/// ```
/// use shardpool::{Command, Context, Failure, Loaded, ShardPool, executors::Threads, handler_fn, loader_fn};
///
/// struct Touch(u32);
/// impl Command for Touch {
///     type AggregateId = u32;
///     fn aggregate_id(&self) -> &u32 { &self.0 }
/// }
///
/// let pool = ShardPool::builder(handler_fn(|_: &mut (), _: Touch, _: &Context| Ok::<_, Failure<()>>(())))
///     .loader(loader_fn(|id: u32| async move { Ok::<_, ()>(Loaded::new((), u64::from(id))) }))
///     .start(Threads::new())?;
/// assert_eq!(pool.blocking_send(Touch(41)).map(|r| r.version).ok(), Some(42));
/// # Ok::<(), shardpool::StartError>(())
/// ```
pub fn loader_fn<F, Fut, K, S, E>(f: F) -> LoaderFn<F, K, S, E>
where
    F: Fn(K) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Loaded<S>, E>> + Send,
    K: Clone,
{
    LoaderFn { f, types: PhantomData }
}

type Types<T> = PhantomData<fn() -> T>;

/// The handler that [`handler_fn`] makes.
///
/// ```
/// # use shardpool::{Command, Context, Failure, ShardPool, executors::Threads, handler_fn};
/// # #[derive(Debug, PartialEq)]
/// # struct Add(&'static str, u32);
/// # impl Command for Add { type AggregateId = &'static str; fn aggregate_id(&self) -> &&'static str { &self.0 } }
/// use shardpool::{HandlerFn, PoolOf};
///
/// // With a function pointer in the place of the closure, the type has a name.
/// type Adder = HandlerFn<fn(&mut u32, Add, &Context) -> Result<u32, Failure<()>>, u32, Add, u32, ()>;
///
/// fn add(sum: &mut u32, add: Add, _: &Context) -> Result<u32, Failure<()>> {
///     *sum += add.1;
///     Ok(*sum)
/// }
/// let handler: Adder = handler_fn(add);
/// let pool: PoolOf<Adder> = ShardPool::builder(handler).start(Threads::new())?;
/// assert_eq!(pool.blocking_send(Add("a", 3)).unwrap().output, 3);
/// # Ok::<(), shardpool::StartError>(())
/// ```
pub struct HandlerFn<F, S, C, O, E> {
    f: F,
    types: Types<(S, C, O, E)>,
}

/// The handler that [`async_handler_fn`] makes.
///
/// ```
/// # use shardpool::{Command, Context, Failure, ShardPool, executors::Threads, handler_fn};
/// # #[derive(Debug, PartialEq)]
/// # struct Add(&'static str, u32);
/// # impl Command for Add { type AggregateId = &'static str; fn aggregate_id(&self) -> &&'static str { &self.0 } }
/// use shardpool::{AsyncHandlerFn, async_handler_fn};
/// use std::future::{Ready, ready};
///
/// type Echo = AsyncHandlerFn<fn(Add, Context) -> Ready<Result<u32, Failure<()>>>, Add, u32, ()>;
///
/// let handler: Echo = async_handler_fn(|add, _| ready(Ok(add.1)));
/// let pool = ShardPool::builder(handler).start(Threads::new())?;
/// assert_eq!(pool.blocking_send(Add("a", 3)).unwrap().output, 3);
/// # Ok::<(), shardpool::StartError>(())
/// ```
pub struct AsyncHandlerFn<F, C, O, E> {
    f: F,
    types: Types<(C, O, E)>,
}

/// The loader that [`loader_fn`] makes.
///
/// ```
/// use shardpool::{Loaded, Loader, LoaderFn, loader_fn};
/// use std::future::{Ready, ready};
///
/// type Fixed = LoaderFn<fn(u32) -> Ready<Result<Loaded<u64>, ()>>, u32, u64, ()>;
///
/// let loader: Fixed = loader_fn(|id| ready(Ok(Loaded::new(u64::from(id) * 10, 0))));
/// let loaded = futures::executor::block_on(loader.load(&4));
/// assert_eq!(loaded, Ok(Loaded::new(40, 0)));
/// ```
pub struct LoaderFn<F, K, S, E> {
    f: F,
    types: Types<(K, S, E)>,
}

impl<F, S, C, O, E> CommandHandler for HandlerFn<F, S, C, O, E>
where
    F: Fn(&mut S, C, &Context) -> Result<O, Failure<E>> + Send + Sync + 'static,
    C: Command,
    S: Send + 'static,
    O: Send + 'static,
    E: Send + 'static,
{
    type Command = C;
    type State = S;
    type Output = O;
    type Error = E;

    fn handle(
        &self,
        state: &mut S,
        command: C,
        cx: &Context,
    ) -> impl Future<Output = Result<O, Failure<E>>> + Send {
        ready((self.f)(state, command, cx))
    }
}

impl<F, Fut, C, O, E> CommandHandler for AsyncHandlerFn<F, C, O, E>
where
    F: Fn(C, Context) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<O, Failure<E>>> + Send,
    C: Command,
    O: Send + 'static,
    E: Send + 'static,
{
    type Command = C;
    type State = ();
    type Output = O;
    type Error = E;

    fn handle(
        &self,
        _: &mut (),
        command: C,
        cx: &Context,
    ) -> impl Future<Output = Result<O, Failure<E>>> + Send {
        (self.f)(command, cx.clone())
    }
}

impl<F, Fut, K, S, E> Loader for LoaderFn<F, K, S, E>
where
    F: Fn(K) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Loaded<S>, E>> + Send,
    K: Clone + 'static,
    S: 'static,
    E: 'static,
{
    type AggregateId = K;
    type State = S;
    type Error = E;

    fn load(&self, id: &K) -> impl Future<Output = Result<Loaded<S>, E>> + Send {
        (self.f)(id.clone())
    }
}

macro_rules! opaque_debug {
    ($($name:ident<$($p:ident),+>),+) => {$(
        impl<$($p),+> fmt::Debug for $name<$($p),+> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(stringify!($name))
            }
        }
    )+};
}

opaque_debug!(HandlerFn<F, S, C, O, E>, AsyncHandlerFn<F, C, O, E>, LoaderFn<F, K, S, E>);
