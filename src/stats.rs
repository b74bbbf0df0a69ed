//! What anyone can read of a shard (G21).
//!
//! Who writes: a worker's tally has one writer, the worker; it adds by load and store. The
//! shard's shared tally has many writers and adds by one read-modify-write. Everything is
//! `Relaxed`: each number is a count on its own, and what makes a count visible to the caller who
//! has seen an outcome is the release of that outcome, which comes after the count.

use crate::sync::{AtomicU64, Ordering};
use std::iter::Sum;
use std::ops::{Add, AddAssign};

/// How many commands ended in each way. Every accepted command ends in exactly one (G5).
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
/// use shardpool::Outcomes;
///
/// pool.blocking_send(Add("a", 3)).unwrap();
/// pool.blocking_send(Add("b", 0)).unwrap_err(); // rejected by this handler
/// let all: Outcomes = pool.stats().iter().map(|shard| shard.outcomes).sum();
/// assert_eq!((all.committed, all.rejected), (1, 1));
/// assert_eq!(pool.drain().blocking_wait(), Ok(all));
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Outcomes {
    /// The handler returned `Ok`; the aggregate's version moved by one.
    pub committed: u64,
    /// The handler returned [`Failure::Rejected`](crate::Failure::Rejected).
    pub rejected: u64,
    /// The handler returned [`Failure::Failed`](crate::Failure::Failed), or the loader an error.
    pub failed: u64,
    /// User code panicked, or the version had reached `u64::MAX`.
    pub panicked: u64,
    /// Withdrawn before the start.
    pub cancelled: u64,
    /// The deadline had passed when the command's turn came.
    pub expired: u64,
    /// Ended by [`abort`](crate::ShardPool::abort), or by a runtime that dropped the pool's futures.
    pub aborted: u64,
}

impl Outcomes {
    /// The sum of all: at a quiet moment, the number of accepted commands.
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
    /// for n in [3, 0, 4] {
    ///     let _ = pool.blocking_send(Add("a", n));
    /// }
    /// let shard = pool.stats()[pool.shard_of(&"a")];
    /// assert_eq!(shard.outcomes.total(), shard.accepted);
    /// ```
    pub fn total(&self) -> u64 {
        self.committed
            + self.rejected
            + self.failed
            + self.panicked
            + self.cancelled
            + self.expired
            + self.aborted
    }
}

impl Add for Outcomes {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            committed: self.committed + other.committed,
            rejected: self.rejected + other.rejected,
            failed: self.failed + other.failed,
            panicked: self.panicked + other.panicked,
            cancelled: self.cancelled + other.cancelled,
            expired: self.expired + other.expired,
            aborted: self.aborted + other.aborted,
        }
    }
}

impl AddAssign for Outcomes {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sum for Outcomes {
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        iter.fold(Self::default(), Add::add)
    }
}

/// One shard's counters at one moment.
///
/// Each number is exact, but they are read one after the other: under load `accepted` can differ
/// from `queued + running + outcomes.total()` by what moved in between. Once a caller has seen
/// the outcome of a command, that command is in `outcomes` and no longer in `queued` or `running`, except
/// for one that was withdrawn by another thread at this very moment, and for withdrawn ones in such
/// numbers that [their room is not free at once](crate::Ticket::withdraw). At a quiet moment
/// `accepted == outcomes.total()`.
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
/// # let pool = builder.start(Threads::new()).unwrap();
/// let running = pool.blocking_submit(Add("a", 1)).unwrap();
/// started.recv().unwrap();
/// let queued = pool.blocking_submit(Add("a", 2)).unwrap();
///
/// let stats = pool.stats()[0];
/// assert_eq!((stats.accepted, stats.running, stats.queued), (2, 1, 1));
/// assert_eq!((stats.waiting, stats.resident, stats.outcomes.total()), (0, 1, 0));
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShardStats {
    /// Commands that the shard has taken since it started.
    pub accepted: u64,
    /// Accepted commands that have not started, wherever they wait: never more than the queue
    /// depth.
    pub queued: u64,
    /// Commands whose handler has started and not ended.
    pub running: u64,
    /// Submissions that wait for room; they are not accepted yet.
    pub waiting: u64,
    /// Aggregates that the shard keeps: at least their version, and their state once loaded.
    pub resident: u64,
    /// How the commands ended that are neither queued nor running.
    pub outcomes: Outcomes,
    /// Intake is closed: the pool drains, was aborted or dropped, or this shard has lost one of its futures.
    pub closed: bool,
}

/// The ways a command can end, as an index into a tally.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    Committed,
    Rejected,
    Failed,
    Panicked,
    Cancelled,
    Expired,
    Aborted,
}

/// Counts of started and ended commands.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    started: AtomicU64,
    outcomes: [AtomicU64; 7],
}

impl Tally {
    /// Only for the single writer of this tally.
    #[inline]
    pub(crate) fn start(&self) {
        bump(&self.started);
    }

    /// Only for the single writer of this tally, for a command that it has started.
    #[inline]
    pub(crate) fn end(&self, kind: Kind) {
        bump(&self.outcomes[kind as usize]);
    }

    pub(crate) fn add_shared(&self, kind: Kind) {
        self.outcomes[kind as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Of a worker: what it has started and not ended.
    pub(crate) fn running(&self) -> u64 {
        // What has ended first: read the other way round, a start and an end in between would give -1.
        let ended = self.outcomes().total();
        self.started.load(Ordering::Relaxed).saturating_sub(ended)
    }

    pub(crate) fn outcomes(&self) -> Outcomes {
        let n = |kind: Kind| self.outcomes[kind as usize].load(Ordering::Relaxed);
        Outcomes {
            committed: n(Kind::Committed),
            rejected: n(Kind::Rejected),
            failed: n(Kind::Failed),
            panicked: n(Kind::Panicked),
            cancelled: n(Kind::Cancelled),
            expired: n(Kind::Expired),
            aborted: n(Kind::Aborted),
        }
    }
}

/// One writer: a load and a store are enough, and half the price of a read-modify-write.
#[inline]
fn bump(counter: &AtomicU64) {
    counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}
