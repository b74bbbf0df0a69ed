//! One error type per operation. A command that was not accepted comes back in the error.

use crate::executors::SpawnError;
use std::error::Error;
use std::fmt;

/// Why an accepted command did not commit.
///
/// `E` is the handler's error. Every variant but [`Deadlock`](Self::Deadlock) is an outcome.
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
/// use shardpool::CommandError;
///
/// let ticket = pool.blocking_submit(Add("a", 0)).unwrap();
/// let report = match ticket.blocking_wait() {
///     Ok(receipt) => format!("version {}", receipt.version),
///     Err(CommandError::Rejected(why)) => format!("no: {why}"),
///     Err(error) if error.started() => format!("look at the store: {error}"),
///     Err(error) => format!("can be tried again: {error}"),
/// };
/// assert_eq!(report, "no: nothing to add");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum CommandError<E> {
    /// The handler refused: nothing was written, the version did not move.
    Rejected(E),
    /// The handler failed (`started: true`): something may have been written. Or the loader did
    /// (`started: false`): the handler never saw the command.
    Failed {
        /// What the handler or the loader returned.
        error: E,
        /// Whether the handler had started, and so may have written.
        started: bool,
    },
    /// User code panicked: the handler (`started: true`), or the loader, the state's `Default`, the id's `Eq` or
    /// `Clone`, or the hook for tests (`started: false`). Also, with `started: false`, if the aggregate's version is `u64::MAX`,
    /// so that it can't commit again.
    Panicked {
        /// The message of the panic.
        message: String,
        /// Whether the handler had started, and so may have written.
        started: bool,
    },
    /// The command was withdrawn before it started; it never runs.
    Cancelled,
    /// The deadline had passed when the command's turn came; it never runs.
    Expired,
    /// The pool was aborted, or its executor dropped a future of the shard: the one that held the command, or
    /// workers without which it could not start.
    Aborted {
        /// Whether the handler had started, and so may have written.
        started: bool,
    },
    /// Not an outcome: this wait, made inside a handler, could never have ended, or would have
    /// blocked the executor's last thread, and was refused (G9). The command is still accepted and
    /// will have its outcome, which is lost unless the ticket was awaited by reference: then it can be
    /// awaited again elsewhere.
    Deadlock,
}

impl<E> CommandError<E> {
    /// Whether the handler may have started, and so may have written something: if not, the command can be
    /// tried again. A rejection counts as started, though by its own word nothing was written; and so does
    /// [`Deadlock`](Self::Deadlock), which is no outcome: the command is still accepted, and runs.
    ///
    /// ```
    /// use shardpool::CommandError;
    ///
    /// assert!(CommandError::<()>::Aborted { started: true }.started());
    /// assert!(!CommandError::<()>::Cancelled.started());
    /// ```
    pub fn started(&self) -> bool {
        match self {
            Self::Rejected(_) | Self::Deadlock => true,
            Self::Failed { started, .. }
            | Self::Panicked { started, .. }
            | Self::Aborted { started } => *started,
            Self::Cancelled | Self::Expired => false,
        }
    }

    /// The handler's own error, of a rejected or failed command.
    ///
    /// ```
    /// use shardpool::CommandError;
    ///
    /// assert_eq!(CommandError::Rejected("no money").into_error(), Some("no money"));
    /// assert_eq!(CommandError::<&str>::Expired.into_error(), None);
    /// ```
    pub fn into_error(self) -> Option<E> {
        match self {
            Self::Rejected(error) | Self::Failed { error, .. } => Some(error),
            _ => None,
        }
    }
}

/// Why a wait inside a handler was refused.
const DEADLOCK: &str = "wait refused inside a handler: it could never end, or would block the executor's \
                        last thread (there, await rather than block)";

fn started_suffix(started: bool) -> &'static str {
    if started { "after the handler had started" } else { "before the handler started" }
}

impl<E: fmt::Display> fmt::Display for CommandError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rejected(error) => write!(f, "command rejected: {error}"),
            Self::Failed { error, started } => {
                write!(f, "command failed {}: {error}", started_suffix(*started))
            }
            Self::Panicked { message, started } => {
                write!(f, "command panicked {}: {message}", started_suffix(*started))
            }
            Self::Cancelled => f.write_str("command withdrawn before it started"),
            Self::Expired => f.write_str("deadline passed before the command started"),
            Self::Aborted { started } => {
                write!(f, "command aborted {}", started_suffix(*started))
            }
            Self::Deadlock => write!(f, "{DEADLOCK}; the command stays accepted"),
        }
    }
}

impl<E: Error + 'static> Error for CommandError<E> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            // Its own text is in the text of this one.
            Self::Rejected(error) | Self::Failed { error, .. } => error.source(),
            _ => None,
        }
    }
}

/// Why [`submit`](crate::ShardPool::submit) did not accept a command, which comes back.
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
/// use shardpool::SubmitError;
///
/// let _ = pool.drain();
/// let error = pool.blocking_submit(Add("a", 3)).unwrap_err();
/// assert_eq!(error, SubmitError::Closed(Add("a", 3)));
/// assert_eq!(error.to_string(), "command not accepted: intake is closed: the pool drains, was aborted or dropped, or its executor dropped a future of this shard");
/// ```
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SubmitError<C> {
    /// The pool drains, was aborted or dropped, or the shard lost one of its futures.
    Closed(C),
    /// The deadline had passed when the command was submitted, or when there would have been room.
    Expired(C),
    /// A submitter of one shard was given a command of another.
    WrongShard {
        /// The command.
        command: C,
        /// The shard that was asked.
        shard: usize,
        /// The shard that serves the command's aggregate.
        owner: usize,
    },
    /// This wait, made inside a handler, could never have ended, or would have blocked the
    /// executor's last thread (G9).
    Deadlock(C),
    /// `aggregate_id` or the id's `Hash` panicked; or, inside a handler, the id's `Clone`.
    Panicked {
        /// The command.
        command: C,
        /// The message of the panic.
        message: String,
    },
}

/// Why [`try_submit`](crate::ShardPool::try_submit) did not accept a command, which comes back.
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
/// use shardpool::TrySubmitError;
///
/// let pool = builder.queue_depth(1).start(Threads::new()).unwrap();
/// let running = pool.try_submit(Add("a", 1)).unwrap();
/// started.recv().unwrap();
/// let queued = pool.try_submit(Add("a", 2)).unwrap();
/// assert_eq!(pool.try_submit(Add("a", 3)).unwrap_err(), TrySubmitError::Full(Add("a", 3)));
/// ```
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum TrySubmitError<C> {
    /// The shard has no room, or others wait for it.
    Full(C),
    /// As in [`SubmitError::Closed`].
    Closed(C),
    /// The deadline had passed when the command was submitted.
    Expired(C),
    /// As in [`SubmitError::WrongShard`].
    WrongShard {
        /// The command.
        command: C,
        /// The shard that was asked.
        shard: usize,
        /// The shard that serves the command's aggregate.
        owner: usize,
    },
    /// As in [`SubmitError::Panicked`].
    Panicked {
        /// The command.
        command: C,
        /// The message of the panic.
        message: String,
    },
}

/// Why [`send`](crate::ShardPool::send) has no receipt: the command was not accepted, or it was
/// and did not commit.
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
/// use shardpool::{CommandError, SendError, SubmitError};
///
/// let rejected = pool.blocking_send(Add("a", 0)).unwrap_err();
/// assert_eq!(rejected, SendError::Command(CommandError::Rejected("nothing to add")));
///
/// let _ = pool.drain();
/// let refused = pool.blocking_send(Add("a", 3)).unwrap_err();
/// assert_eq!(refused, SendError::NotAccepted(SubmitError::Closed(Add("a", 3))));
/// ```
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SendError<C, E> {
    /// The command was not accepted, and comes back.
    NotAccepted(SubmitError<C>),
    /// The command was accepted and did not commit.
    Command(CommandError<E>),
}

impl<C> SubmitError<C> {
    /// The command that was not accepted.
    ///
    /// ```
    /// use shardpool::SubmitError;
    ///
    /// let error = SubmitError::WrongShard { command: "deposit", shard: 0, owner: 1 };
    /// assert_eq!(error.into_command(), "deposit");
    /// ```
    pub fn into_command(self) -> C {
        match self {
            Self::Closed(command)
            | Self::Expired(command)
            | Self::Deadlock(command)
            | Self::WrongShard { command, .. }
            | Self::Panicked { command, .. } => command,
        }
    }
}

impl<C> TrySubmitError<C> {
    /// The command that was not accepted.
    ///
    /// ```
    /// use shardpool::TrySubmitError;
    ///
    /// assert_eq!(TrySubmitError::Full("deposit").into_command(), "deposit");
    /// ```
    pub fn into_command(self) -> C {
        match self {
            Self::Full(command)
            | Self::Closed(command)
            | Self::Expired(command)
            | Self::WrongShard { command, .. }
            | Self::Panicked { command, .. } => command,
        }
    }

    /// Whether there was no room, or others waited for it. Trying again later may help, but not inside a
    /// handler that alone could make that room.
    ///
    /// ```
    /// use shardpool::TrySubmitError;
    ///
    /// assert!(TrySubmitError::Full("deposit").is_full());
    /// assert!(!TrySubmitError::Closed("deposit").is_full());
    /// ```
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Full(_))
    }
}

impl<C, E> SendError<C, E> {
    /// The command, if it was not accepted.
    ///
    /// ```
    /// use shardpool::{CommandError, SendError, SubmitError};
    ///
    /// let refused: SendError<_, ()> = SendError::NotAccepted(SubmitError::Closed("deposit"));
    /// assert_eq!(refused.into_command(), Some("deposit"));
    /// let expired: SendError<&str, ()> = SendError::Command(CommandError::Expired);
    /// assert_eq!(expired.into_command(), None);
    /// ```
    pub fn into_command(self) -> Option<C> {
        match self {
            Self::NotAccepted(error) => Some(error.into_command()),
            Self::Command(_) => None,
        }
    }

    /// The handler's own error, of a rejected or failed command.
    ///
    /// ```
    /// use shardpool::{CommandError, SendError, SubmitError};
    ///
    /// let rejected = SendError::<(), _>::from(CommandError::Rejected("no money"));
    /// assert_eq!(rejected.into_error(), Some("no money"));
    /// assert_eq!(SendError::<_, &str>::from(SubmitError::Closed("deposit")).into_error(), None);
    /// ```
    pub fn into_error(self) -> Option<E> {
        match self {
            Self::Command(error) => error.into_error(),
            Self::NotAccepted(_) => None,
        }
    }

    /// As [`CommandError::started`], and false if the command was not accepted.
    ///
    /// ```
    /// use shardpool::{CommandError, SendError, SubmitError};
    ///
    /// let failed = CommandError::Failed { error: "disk full", started: true };
    /// assert!(SendError::<(), _>::Command(failed).started());
    /// assert!(!SendError::<_, ()>::NotAccepted(SubmitError::Closed("deposit")).started());
    /// ```
    pub fn started(&self) -> bool {
        matches!(self, Self::Command(error) if error.started())
    }
}

/// The names of the variants, without asking `Debug` of the command.
macro_rules! debug_by_name {
    ($name:ident: $($variant:ident),+) => {
        impl<C> fmt::Debug for $name<C> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $(Self::$variant(_) => f.write_str(concat!(stringify!($variant), "(..)")),)+
                    Self::WrongShard { shard, owner, .. } => f
                        .debug_struct("WrongShard")
                        .field("shard", shard)
                        .field("owner", owner)
                        .finish_non_exhaustive(),
                    Self::Panicked { message, .. } => f
                        .debug_struct("Panicked")
                        .field("message", message)
                        .finish_non_exhaustive(),
                }
            }
        }
    };
}

debug_by_name!(SubmitError: Closed, Expired, Deadlock);
debug_by_name!(TrySubmitError: Full, Closed, Expired);

impl<C, E: fmt::Debug> fmt::Debug for SendError<C, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAccepted(error) => f.debug_tuple("NotAccepted").field(error).finish(),
            Self::Command(error) => f.debug_tuple("Command").field(error).finish(),
        }
    }
}

/// What the two say alike, and what each says besides.
macro_rules! display_reason {
    ($name:ident: $($variant:ident => $text:expr),+) => {
        impl<C> fmt::Display for $name<C> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("command not accepted: ")?;
                match self {
                    $(Self::$variant(_) => f.write_str($text),)+
                    Self::Closed(_) => f.write_str(
                        "intake is closed: the pool drains, was aborted or dropped, or its executor \
                         dropped a future of this shard",
                    ),
                    Self::Expired(_) => f.write_str("deadline passed before the command was accepted"),
                    Self::WrongShard { shard, owner, .. } => write!(
                        f,
                        "shard {shard} does not serve this aggregate: send it to shard {owner}, or \
                         to the pool"
                    ),
                    Self::Panicked { message, .. } => {
                        write!(f, "the command's id panicked: {message}")
                    }
                }
            }
        }
    };
}

display_reason!(SubmitError: Deadlock => DEADLOCK);
display_reason!(TrySubmitError:
    Full => "shard is full; wait with `submit`, or try again later");

impl<C, E: fmt::Display> fmt::Display for SendError<C, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAccepted(error) => error.fmt(f),
            Self::Command(error) => error.fmt(f),
        }
    }
}

impl<C> Error for SubmitError<C> {}
impl<C> Error for TrySubmitError<C> {}
impl<C, E: Error + 'static> Error for SendError<C, E> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::NotAccepted(_) => None,
            Self::Command(error) => error.source(),
        }
    }
}

impl<C, E> From<SubmitError<C>> for SendError<C, E> {
    fn from(error: SubmitError<C>) -> Self {
        Self::NotAccepted(error)
    }
}

impl<C, E> From<CommandError<E>> for SendError<C, E> {
    fn from(error: CommandError<E>) -> Self {
        Self::Command(error)
    }
}

/// Why a [`Drain`](crate::Drain) ended without the pool having ended.
///
/// ```
/// use shardpool::DrainError;
///
/// let error = DrainError::Timeout { queued: 2, running: 1 };
/// assert_eq!(
///     error.to_string(),
///     "drain ran out of time with 2 commands queued and 1 running; drain again to go on waiting, or abort",
/// );
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum DrainError {
    /// The time given to [`within`](crate::Drain::within) is over. Intake stays closed, what was
    /// accepted goes on, and `drain` or `abort` can be called again.
    Timeout {
        /// Accepted commands that have not started.
        queued: u64,
        /// Commands that have started and not ended.
        running: u64,
    },
    /// The drain was awaited, with no limit of time, inside a handler that it would have to wait
    /// for; or it would have blocked the executor's last thread (G9). Intake is closed all the same.
    Deadlock,
}

impl fmt::Display for DrainError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Timeout { queued, running } => write!(
                f,
                "drain ran out of time with {queued} commands queued and {running} running; \
                 drain again to go on waiting, or abort"
            ),
            Self::Deadlock => f.write_str(
                "drain refused inside a handler: the pool would wait for that handler, or the \
                 executor's last thread would block; intake is closed, await the drain elsewhere",
            ),
        }
    }
}

impl Error for DrainError {}

/// A setting of the builder that is not valid (G14).
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
/// use shardpool::StartError;
///
/// let error = builder.queue_depth(0).start(Threads::new()).unwrap_err();
/// let StartError::Setting(error) = error else { panic!("{error}") };
/// assert_eq!((error.setting, error.value, error.reason), ("queue_depth", 0, "must be at least 1"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SettingError {
    /// The name of the setting.
    pub setting: &'static str,
    /// The value that it was given.
    pub value: usize,
    /// What is wrong with it, and what would be right.
    pub reason: &'static str,
}

impl fmt::Display for SettingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({}): {}", self.setting, self.value, self.reason)
    }
}

impl Error for SettingError {}

/// Why a pool could not start.
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
/// use shardpool::StartError;
/// use shardpool::executors::{Executor, SpawnError, Task};
///
/// struct Refuses;
/// impl Executor for Refuses {
///     fn spawn(&self, _: Task) -> Result<(), SpawnError> {
///         Err(SpawnError::new("it is late"))
///     }
/// }
///
/// let error = builder.start(Refuses).unwrap_err();
/// assert!(matches!(error, StartError::Spawn(_)));
/// assert_eq!(error.to_string(), "could not spawn the pool's futures: it is late");
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum StartError {
    /// A setting was refused; nothing was started.
    Setting(SettingError),
    /// The executor did not take one of the pool's futures, or dropped it at once; those that it
    /// had taken end.
    Spawn(SpawnError),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Setting(error) => write!(f, "bad setting: {error}"),
            Self::Spawn(error) => write!(f, "could not spawn the pool's futures: {error}"),
        }
    }
}

impl Error for StartError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            // Their own text is in the text of this one.
            Self::Setting(error) => error.source(),
            Self::Spawn(error) => error.source(),
        }
    }
}

impl From<SettingError> for StartError {
    fn from(error: SettingError) -> Self {
        Self::Setting(error)
    }
}

impl From<SpawnError> for StartError {
    fn from(error: SpawnError) -> Self {
        Self::Spawn(error)
    }
}
