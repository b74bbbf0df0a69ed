//! The runtimes, and the slots on each, in which one pool comes after the other.

use crate::handler::Weak;
use crate::round::round;
use crate::tally::Tally;
use shardpool::executors::{AsyncStd, Executor, Smol, Threads, Tokio};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;

/// So many pools at a time on each runtime.
const SLOTS: usize = 3;

pub(crate) struct Runtime {
    pub(crate) name: &'static str,
    pub(crate) slots: Vec<Arc<Slot>>,
}

pub(crate) struct Slot {
    pub(crate) name: &'static str,
    pub(crate) executor: Shared,
    pub(crate) hangs: bool,
    tally: Mutex<Tally>,
    progress: AtomicU64,
    pool: Mutex<Option<(String, Weak)>>,
}

/// An executor that several pools share.
pub(crate) type Shared = Arc<dyn Executor>;

impl Runtime {
    pub(crate) fn tally(&self) -> Tally {
        let mut sum = Tally::default();
        for slot in &self.slots {
            let of = slot.tally().clone();
            sum.pools += of.pools;
            sum.drains += of.drains;
            sum.late_drains += of.late_drains;
            sum.aborts += of.aborts;
            sum.drops += of.drops;
            sum.commands += of.commands;
            sum.refused += of.refused;
            sum.forgotten += of.forgotten;
            sum.outcomes += of.outcomes;
            sum.deadlocks += of.deadlocks;
        }
        sum
    }
}

impl Slot {
    pub(crate) fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap()
    }

    /// Something has come to an end.
    pub(crate) fn step(&self) {
        self.progress.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn progress(&self) -> u64 {
        self.progress.load(Ordering::Relaxed)
    }

    /// What to show should the slot hang.
    pub(crate) fn watch(&self, settings: String, pool: Weak) {
        *self.pool.lock().unwrap() = Some((settings, pool));
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "on {}", self.name)?;
        let Some((settings, pool)) = &*self.pool.lock().unwrap() else { return Ok(()) };
        match pool.upgrade() {
            Some(pool) => {
                write!(f, ", with {settings}")?;
                pool.stats().iter().try_for_each(|shard| write!(f, "\n      {shard:?}"))
            }
            None => write!(f, ", with {settings}; its last handle is gone"),
        }
    }
}

/// Starts all of them; they go on until the process ends.
pub(crate) fn start(hangs: bool) -> Vec<Runtime> {
    let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let handle = tokio.as_ref().expect("a runtime").handle().clone();
    // It lives as long as the process.
    std::mem::forget(tokio);
    let executors: [(&'static str, Shared); 4] = [
        ("tokio", Arc::new(Tokio::new(handle))),
        ("smol", Arc::new(Smol::global())),
        ("async-std", Arc::new(AsyncStd::new())),
        ("threads", Arc::new(Threads::new())),
    ];
    executors.map(|(name, executor)| runtime(name, executor, hangs)).into()
}

fn runtime(name: &'static str, executor: Shared, hangs: bool) -> Runtime {
    let slots = (0..SLOTS).map(|_| {
        let slot = Arc::new(Slot {
            name,
            executor: executor.clone(),
            hangs,
            tally: Mutex::default(),
            progress: AtomicU64::new(0),
            pool: Mutex::default(),
        });
        thread::spawn({
            let slot = Arc::clone(&slot);
            move || {
                loop {
                    round(&slot);
                }
            }
        });
        slot
    });
    Runtime { name, slots: slots.collect() }
}
