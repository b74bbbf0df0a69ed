//! Who holds a cell, and the end of it.
//!
//! Who may touch what, and when, is at the top of `mod.rs`.

use super::Cell;
use crate::block;
use crate::command::Command;
use crate::sync::{AtomicU32, Ordering, fence};
use crate::types::{Types, TypesOf};
use std::ops::Deref;
use std::ptr::NonNull;

/// A hold on a cell: an `Arc` but for three things. The count is on the line that both sides write
/// anyway; the two holders of a new cell are counted at once; and the memory is kept for the next.
pub(crate) struct Held<T: Types>(pub(super) NonNull<Cell<T>>);

// SAFETY: as for an `Arc` of a cell, which is `Send` and `Sync`. (Not for any `T: Types`: a command or an output
// that holds its own pool would need the answer to this to give the answer.)
unsafe impl<C: Command, O: Send, E: Send> Send for Held<TypesOf<C, O, E>> {}
// SAFETY: as above.
unsafe impl<C: Command, O: Send, E: Send> Sync for Held<TypesOf<C, O, E>> {}

impl<T: Types> Held<T> {
    /// Tells one cell from another.
    pub(crate) fn address(&self) -> *const () {
        self.0.as_ptr().cast_const().cast()
    }
}

impl<T: Types> Deref for Held<T> {
    type Target = Cell<T>;

    fn deref(&self) -> &Cell<T> {
        // SAFETY: the cell is there while it is held. While it is shared no `&mut` to it is made: one is
        // by a draft, in `Draft::waiting`, which has the only hold by value, and one when all are gone.
        unsafe { self.0.as_ref() }
    }
}

impl<T: Types> Drop for Held<T> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: this holder was counted, and is gone with this.
        unsafe { let_go(self.0) }
    }
}

pub(super) fn hold(holders: &AtomicU32) {
    // Relaxed: whoever gets the new hold gets it from one that exists.
    if holders.fetch_add(1, Ordering::Relaxed) > u32::MAX / 2 {
        // Somebody forgets contexts in a loop. Going on would free a cell that is in use.
        std::process::abort();
    }
}

/// # Safety
///
/// The caller is a counted holder, and does not use the pointer any more.
#[inline]
pub(super) unsafe fn let_go<T: Types>(cell: NonNull<Cell<T>>) {
    // SAFETY: it is held until here.
    let holders = unsafe { &(*cell.as_ptr()).holders };
    // The load first: mostly the other side has gone before, and nobody but a holder adds one. Acquire,
    // here or after the release of one's own: what the others did to the cell is over.
    if holders.load(Ordering::Acquire) != 1 {
        if holders.fetch_sub(1, Ordering::Release) != 1 {
            return;
        }
        fence(Ordering::Acquire);
    }
    // SAFETY: the last holder owns the cell, which came from `block::begin`.
    unsafe { block::end(cell) };
}
