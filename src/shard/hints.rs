//! Where lanes probably are, so that whoever is about to wake somebody for one command asks the processor for its
//! lane first.
//!
//! For a batch the misses of the cache at its lanes overlap (`Schedule::prefetch`); a command that comes alone has
//! nothing to overlap with but the wake. Its submitter must not look into the schedule, but it may guess: a slot
//! holds the address of one of the lanes whose hash falls there, mostly the newest.
//!
//! # Who may touch what, and when
//!
//! The dispatcher writes, everybody reads, all relaxed: an address is never followed, only handed to the processor,
//! which may be told of memory that is freed. So a slot is not cleared when its lane goes, and nothing else
//! depends on it; loom need not know of it. The dispatcher alone makes the slots, so nobody ever waits in the
//! `OnceLock`: for readers it is one load.

use crate::prefetch::{CAN_ASK, prefetch};
use std::ptr::null_mut;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, Ordering};

/// With fewer lanes all are in the caches.
const WORTHWHILE: usize = 256;

/// With a few thousand lanes most have a slot to themselves. With many more the hints are worth little; the size
/// is for what one caller can go through in the time in which a cache forgets.
const SLOTS: usize = 4096;

#[derive(Default)]
pub(crate) struct Hints {
    slots: OnceLock<Box<[AtomicPtr<()>]>>,
}

impl Hints {
    /// A lane was made; `lanes` are all that there are, with the new one. Only for the dispatcher.
    pub(crate) fn note(
        &self,
        hash: u64,
        lane: *const (),
        lanes: impl ExactSizeIterator<Item = (u64, *const ())>,
    ) {
        if let Some(slots) = self.slots.get() {
            set(slots, hash, lane);
        } else if CAN_ASK && lanes.len() >= WORTHWHILE {
            let empty = || (0..SLOTS).map(|_| AtomicPtr::new(null_mut())).collect();
            let slots = self.slots.get_or_init(empty);
            lanes.for_each(|(hash, lane)| set(slots, hash, lane));
        }
    }

    /// Asks the processor for the lane with this hash, if it is known.
    #[inline]
    pub(crate) fn prefetch(&self, hash: u64) {
        if let Some(slots) = self.slots.get() {
            prefetch(slots[slot(hash)].load(Ordering::Relaxed));
        }
    }
}

fn set(slots: &[AtomicPtr<()>], hash: u64, lane: *const ()) {
    slots[slot(hash)].store(lane.cast_mut(), Ordering::Relaxed);
}

/// By the low bits, as in the schedule's map: the shard is chosen by others.
fn slot(hash: u64) -> usize {
    hash as usize % SLOTS
}

#[cfg(all(test, target_arch = "x86_64", not(miri), not(shardpool_loom)))]
mod tests {
    use super::*;

    fn at(hints: &Hints, hash: u64) -> Option<*const ()> {
        Some(hints.slots.get()?[slot(hash)].load(Ordering::Relaxed).cast_const())
    }

    #[test]
    fn all_lanes_have_a_hint_once_there_are_enough_and_the_newest_of_two() {
        let (hints, memory) = (Hints::default(), [0u8; WORTHWHILE + 1]);
        let lanes: Vec<(u64, *const ())> =
            (0..).zip(&memory).map(|(hash, byte)| (hash, (&raw const *byte).cast())).collect();
        let note = |count: usize| {
            let (hash, lane) = lanes[count - 1];
            hints.note(hash, lane, lanes[..count].iter().copied());
        };
        (1..WORTHWHILE).for_each(note);
        assert_eq!(at(&hints, 0), None);
        (WORTHWHILE..=lanes.len()).for_each(note);
        for &(hash, lane) in &lanes {
            assert_eq!(at(&hints, hash), Some(lane));
        }
        let (newest, of_old_hash) = (lanes[1].1, SLOTS as u64);
        hints.note(of_old_hash, newest, lanes.iter().copied());
        assert_eq!((at(&hints, 0), at(&hints, 1)), (Some(newest), Some(lanes[1].1)));
    }
}
