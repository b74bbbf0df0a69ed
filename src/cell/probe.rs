//! What a handler's context and the detection of deadlocks may ask of a cell, whatever its types.
//!
//! Who may touch what, and when, is at the top of `mod.rs`.

use super::held::{Held, hold, let_go};
use super::{Cell, state};
use crate::sync::{AtomicU32, Ordering};
use crate::types::Types;
use std::ops::Deref;
use std::ptr::NonNull;

/// What a handler's context and the detection of deadlocks may ask of a cell of any type.
pub(crate) trait Probe: Send + Sync {
    /// Whether the handler was asked to stop, or has ended.
    fn is_to_stop(&self) -> bool;
    /// Where the command is.
    fn stage(&self) -> Stage;
    /// The number of the lane that the command waits in or runs in, 0 if not known yet.
    fn lane(&self) -> u64;
    /// How many hold the cell.
    fn holders(&self) -> &AtomicU32;
}

/// How far a command has come, as far as a wait for it is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// A submission that waits for room.
    Waiting,
    /// Accepted, not started.
    Queued,
    /// Its handler runs.
    Started,
    /// There is nothing left to wait for.
    Over,
}

impl<T: Types> Probe for Cell<T> {
    fn is_to_stop(&self) -> bool {
        // Of a command that has started, what comes later: asked, done, taken.
        state::of(self.state.load(Ordering::Relaxed)) > state::CLAIMED
    }

    fn stage(&self) -> Stage {
        match state::of(self.state.load(Ordering::Acquire)) {
            state::WAITING | state::GRANTING | state::DENIED => Stage::Waiting,
            state::QUEUED => Stage::Queued,
            state::CLAIMED | state::CLAIMED_ASKED => Stage::Started,
            _ => Stage::Over,
        }
    }

    fn lane(&self) -> u64 {
        self.lane.load(Ordering::Acquire)
    }

    fn holders(&self) -> &AtomicU32 {
        &self.holders
    }
}

/// A hold on a cell of any type.
pub(crate) struct Probed {
    cell: NonNull<dyn Probe>,
    let_go: unsafe fn(NonNull<()>),
}

// SAFETY: as for `Held`; every `Probe` is both.
unsafe impl Send for Probed {}
// SAFETY: as above.
unsafe impl Sync for Probed {}

impl<T: Types> Held<T> {
    /// A hold on the same cell that does not know its type.
    pub(crate) fn probe(&self) -> Probed {
        hold(&self.holders);
        // SAFETY: counted just now.
        unsafe { self.lend() }
    }

    /// As `probe`, not counted.
    ///
    /// # Safety
    ///
    /// What is returned is not dropped, and not used once `self` is gone.
    pub(super) unsafe fn lend(&self) -> Probed {
        let cell: NonNull<dyn Probe + '_> = self.0;
        // SAFETY: the lifetime alone changes. Only a pool makes cells, and all that it carries is
        // `'static`: `Builder::start` sees to that.
        let cell =
            unsafe { std::mem::transmute::<NonNull<dyn Probe + '_>, NonNull<dyn Probe>>(cell) };
        // SAFETY: only a dropped `Probed` calls this, with the pointer that is in it.
        Probed { cell, let_go: |cell| unsafe { let_go::<T>(cell.cast()) } }
    }
}

impl Probed {
    /// As [`Held::address`].
    pub(crate) fn address(&self) -> *const () {
        self.cell.as_ptr().cast_const().cast()
    }
}

impl Deref for Probed {
    type Target = dyn Probe;

    fn deref(&self) -> &(dyn Probe + 'static) {
        // SAFETY: as for `Held`.
        unsafe { self.cell.as_ref() }
    }
}

impl Clone for Probed {
    fn clone(&self) -> Self {
        hold(self.holders());
        Self { cell: self.cell, let_go: self.let_go }
    }
}

impl Drop for Probed {
    fn drop(&mut self) {
        // SAFETY: as for `Held`; the function is that of the cell's type.
        unsafe { (self.let_go)(self.cell.cast()) }
    }
}
