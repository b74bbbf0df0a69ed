//! A cell before it is shared.
//!
//! Who may touch what, and when, is at the top of `mod.rs`.

use super::{Cell, Envelope, Extra, Held, Slot, state};
use crate::block;
use crate::shard::front::Front;
use crate::sync::{Arc, AtomicU8, AtomicU32, AtomicU64, Ordering, UnsafeCell};
use crate::types::Types;
use std::mem::MaybeUninit;
use std::time::Instant;

/// A cell that nobody shares yet: its command is on its way in. Dropped, it drops the command.
///
/// Who submits to wait, outside of handlers, makes it before room is asked for: the word that tells is mostly on its way
/// from another core, and that time is for free.
pub(crate) struct Draft<T: Types>(Held<T>);

impl<T: Types> Draft<T> {
    #[inline]
    pub(crate) fn new(command: T::Command, deadline: Option<Instant>, front: &Arc<Front>) -> Self {
        let cell = block::begin::<Cell<T>>();
        let this = cell.as_ptr();
        // Field by field: a whole one would be made on the stack first, and copied in pieces of another
        // size, which the processor waits for.
        // SAFETY: it is memory for a cell, and nobody else's. All fields are written but `waker`, which
        // may be anything at first.
        unsafe {
            (&raw mut (*this).holders).write(AtomicU32::new(1));
            (&raw mut (*this).state).write(AtomicU8::new(state::QUEUED));
            (&raw mut (*this).has_extra).write(deadline.is_some());
            (&raw mut (*this).lane).write(AtomicU64::new(0));
            (&raw mut (*this).next).write(UnsafeCell::new(None));
            #[cfg(shardpool_loom)]
            (&raw mut (*this).waker).write(UnsafeCell::new(MaybeUninit::uninit()));
            (&raw mut (*this).slot).write(UnsafeCell::new(Slot::Command(command)));
            (&raw mut (*this).front).write(Arc::as_ptr(front));
            if deadline.is_some() {
                (&raw mut (*this).extra).write(MaybeUninit::new(Extra { deadline, lobby: None }));
            }
        }
        Self(Held(cell))
    }

    /// The shard has room for it: the caller's hold, and the envelope.
    #[inline]
    pub(crate) fn accepted(self) -> (Held<T>, Envelope<T>) {
        let Self(held) = self;
        // Relaxed: who gets the other hold gets what was written before with it.
        held.holders.store(2, Ordering::Relaxed);
        let envelope = Envelope::new(Held(held.0));
        (held, envelope)
    }

    /// It is to wait for room.
    pub(crate) fn waiting(mut self) -> (Held<T>, Envelope<T>) {
        let deadline = self.0.extra().and_then(|extra| extra.deadline);
        // SAFETY: nobody shares the cell yet, and this is its only hold.
        let cell = unsafe { self.0.0.as_mut() };
        // What is written over holds nothing that must be dropped.
        cell.extra = MaybeUninit::new(Extra { deadline, lobby: Some(Box::default()) });
        cell.has_extra = true;
        cell.state.store(state::WAITING, Ordering::Relaxed);
        self.accepted()
    }

    /// It was not accepted: the command is the caller's again.
    pub(crate) fn into_command(self) -> T::Command {
        self.0.take_back()
    }
}
