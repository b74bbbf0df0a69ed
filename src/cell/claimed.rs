//! The queue side of a cell once its command is claimed.
//!
//! Who may touch what, and when, is at the top of `mod.rs`.

use super::{Held, Outcome, Slot, state};
use crate::command::Context as HandlerContext;
use crate::contain::contain;
use crate::error::CommandError;
use crate::shard::front::Front;
use crate::stats::Kind;
use crate::sync::{Arc, Ordering};
use crate::types::Types;
use std::mem::ManuallyDrop;

/// The queue side of a command that has left the queue: it owes the outcome. Dropped, it gives
/// `Aborted`.
pub(crate) struct Claimed<T: Types> {
    /// Moved out by `complete`, or by the drop.
    cell: ManuallyDrop<Held<T>>,
    started: bool,
}

impl<T: Types> Claimed<T> {
    pub(super) fn new(cell: Held<T>) -> Self {
        Self { cell: ManuallyDrop::new(cell), started: false }
    }

    fn cell(&self) -> &Held<T> {
        &self.cell
    }

    /// Takes the command out, for the handler. From here on it counts as started.
    pub(crate) fn start(&mut self) -> T::Command {
        self.started = true;
        let slot = self.cell().slot.with_mut(|slot| {
            // SAFETY: the slot is the queue side's until `DONE`.
            unsafe { std::mem::replace(&mut *slot, Slot::Empty) }
        });
        match slot {
            Slot::Command(command) => command,
            _ => unreachable!("a claimed command starts once"),
        }
    }

    /// What the handler may know of its command. The context borrows this side's hold on the cell
    /// instead of counting one of its own; a clone that the handler makes counts as usual.
    pub(crate) fn context(
        &self,
        front: &Arc<Front>,
        version: u64,
        shard: usize,
    ) -> ManuallyDrop<HandlerContext> {
        // SAFETY: the pointers are those of what `self` and the worker hold. The ones made of them
        // here are never dropped, and the worker keeps both for as long as it lends the context out.
        let (command, front) = unsafe { (self.cell().lend(), Arc::from_raw(Arc::as_ptr(front))) };
        ManuallyDrop::new(HandlerContext { command, front, version, shard })
    }

    /// Publishes the outcome and wakes the caller. The outcome has been counted before.
    #[inline]
    pub(crate) fn complete(self, outcome: Outcome<T::Output, T::Error>) {
        let mut this = ManuallyDrop::new(self);
        // SAFETY: `this` is not dropped any more, so nobody takes its cell a second time.
        publish(unsafe { ManuallyDrop::take(&mut this.cell) }, outcome);
    }

    /// Ends a command that never started, and counts it.
    pub(crate) fn end_unstarted(self, error: CommandError<T::Error>, kind: Kind) {
        // SAFETY: this is the queue side, whose owner is on the stack below.
        unsafe { self.cell().front() }.tally().add_shared(kind);
        self.complete(Err(error));
    }
}

#[inline]
fn publish<T: Types>(cell: Held<T>, outcome: Outcome<T::Output, T::Error>) {
    let old = cell.slot.with_mut(|slot| {
        // SAFETY: the slot is the queue side's until `DONE`.
        unsafe { std::mem::replace(&mut *slot, Slot::of(outcome)) }
    });
    // Release: hands the slot to the caller. Acquire: the waker was written before the flag.
    let before = cell.state.swap(state::DONE, Ordering::AcqRel);
    if before & state::WATCHED != 0 {
        // SAFETY: this call has cleared the flag.
        let waker = unsafe { cell.take_waker() };
        // A waker is user code too.
        let _ = contain(|| waker.wake());
    }
    old.drop_contained();
}

impl<T: Types> Drop for Claimed<T> {
    fn drop(&mut self) {
        // SAFETY: this is the end of the claim, so nobody takes its cell a second time.
        let cell = unsafe { ManuallyDrop::take(&mut self.cell) };
        if !self.started {
            // SAFETY: this is the queue side, whose owner is on the stack below.
            unsafe { cell.front() }.tally().add_shared(Kind::Aborted);
        }
        publish(cell, Err(CommandError::Aborted { started: self.started }));
    }
}
