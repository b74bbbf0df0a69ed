//! Which handler the code on a thread works for.
//!
//! Who may touch what is at the top of `mod.rs`.

use crate::shard::front::Front;
use crate::sync::{Arc, AtomicUsize};
use std::any::Any;
use std::cell::Cell;
use std::ptr::NonNull;

/// An aggregate id of any type.
pub(crate) trait Key: Any + Send + Sync {
    fn same(&self, other: &dyn Key) -> bool;
    fn to_shared(&self) -> Arc<dyn Key>;
}

impl<K: Eq + Clone + Send + Sync + 'static> Key for K {
    fn same(&self, other: &dyn Key) -> bool {
        (other as &dyn Any).downcast_ref::<K>().is_some_and(|other| self == other)
    }

    fn to_shared(&self) -> Arc<dyn Key> {
        Arc::new(self.clone())
    }
}

/// What all shards of a pool share for the judgement of waits.
pub(crate) struct Peers {
    pub(crate) fronts: Box<[Arc<Front>]>,
    /// How many handlers block their thread in a wait of the pool's.
    pub(super) blocked: AtomicUsize,
    /// How many threads the executor has.
    pub(super) threads: usize,
}

impl Peers {
    pub(crate) fn new(fronts: Box<[Arc<Front>]>, threads: usize) -> Self {
        Self { fronts, blocked: AtomicUsize::new(0), threads }
    }
}

/// Which handler the code on this thread works for.
pub(crate) struct Frame<'a> {
    pub(crate) peers: &'a Arc<Peers>,
    pub(crate) shard: usize,
    pub(crate) worker: usize,
    pub(crate) id: &'a dyn Key,
    pub(crate) lane: u64,
    /// Counts the futures that this worker has driven, so that a wait can tell one handler from the next.
    pub(crate) run: u64,
    /// Counts the commands of the same turn that wait behind this one.
    pub(crate) behind: &'a dyn Fn() -> usize,
    /// How many waits the handler has published: the number of the next, and whether the worker must clean up
    /// after it, as it may leak one.
    pub(crate) published: &'a Cell<u64>,
}

#[cfg(not(shardpool_loom))]
thread_local! {
    static CURRENT: Cell<Option<NonNull<()>>> = const { Cell::new(None) };
}

// loom runs all of a model's threads on one of the system's.
#[cfg(shardpool_loom)]
loom::thread_local! {
    static CURRENT: Cell<Option<NonNull<()>>> = Cell::new(None);
}

impl Frame<'_> {
    /// Runs `f` with this frame as the thread's current one.
    #[inline]
    pub(crate) fn scope<R>(&self, f: impl FnOnce() -> R) -> R {
        struct Restore(Option<NonNull<()>>);

        impl Drop for Restore {
            fn drop(&mut self) {
                CURRENT.with(|current| current.set(self.0));
            }
        }

        let _restore =
            Restore(CURRENT.with(|current| current.replace(Some(NonNull::from(self).cast()))));
        f()
    }

    pub(super) fn front(&self) -> &Arc<Front> {
        &self.peers.fronts[self.shard]
    }
}

/// Calls back with the current frame, if this is inside a handler.
pub(super) fn with_current<R>(f: impl FnOnce(&Frame<'_>) -> R) -> Option<R> {
    let frame = CURRENT.try_with(Cell::get).ok().flatten()?;
    // SAFETY: the pointer was made from a `&Frame` by `scope`, which is further up this thread's
    // stack, and which restores the old one before that borrow ends.
    Some(f(unsafe { frame.cast::<Frame<'_>>().as_ref() }))
}

/// Whether this is inside a handler of some pool.
#[inline]
pub(crate) fn in_handler() -> bool {
    CURRENT.try_with(Cell::get).ok().flatten().is_some()
}
