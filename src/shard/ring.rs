//! The ready lanes that no worker has taken yet: a ring with one producer and many consumers.
//!
//! # Who may touch what, and when
//!
//! `tail` and the slots are written by the producer alone, the dispatcher. `head` is moved by
//! consumers, by compare-and-exchange. Indices only grow; a slot is `index & mask`.
//!
//! A consumer reads the slot before it moves `head`. What it read is its own only if its exchange
//! succeeds: the producer overwrites a slot only after it has seen `head` beyond it, so if the slot
//! was overwritten in between, `head` has moved and the exchange fails.

use crate::sync::{AtomicPtr, AtomicUsize, CachePadded, Ordering};
use std::ptr::{NonNull, null_mut};

pub(crate) struct Ring<T> {
    head: CachePadded<AtomicUsize>,
    tail: CachePadded<AtomicUsize>,
    slots: Box<[AtomicPtr<T>]>,
}

impl<T> Ring<T> {
    /// `capacity` is a power of two.
    pub(crate) fn new(capacity: usize) -> Self {
        assert!(capacity.is_power_of_two(), "ring capacity {capacity} is not a power of two");
        Self {
            head: CachePadded(AtomicUsize::new(0)),
            tail: CachePadded(AtomicUsize::new(0)),
            slots: (0..capacity).map(|_| AtomicPtr::new(null_mut())).collect(),
        }
    }

    fn slot(&self, index: usize) -> &AtomicPtr<T> {
        &self.slots[index & (self.slots.len() - 1)]
    }

    pub(crate) fn capacity(&self) -> usize {
        self.slots.len()
    }

    /// Only for the producer. `false` if the ring is full.
    pub(crate) fn push(&self, item: NonNull<T>) -> bool {
        let tail = self.tail.load(Ordering::Relaxed);
        // Acquire: the consumers that moved `head` have read their slots.
        if tail.wrapping_sub(self.head.load(Ordering::Acquire)) == self.slots.len() {
            return false;
        }
        self.slot(tail).store(item.as_ptr(), Ordering::Relaxed);
        // Release: hands over the slot, and what the item points to.
        self.tail.store(tail.wrapping_add(1), Ordering::Release);
        true
    }

    pub(crate) fn pop(&self) -> Option<NonNull<T>> {
        // Acquire, here and where the exchange fails: whoever moved `head` this far had seen a `tail`
        // beyond it, and so must the load of `tail` below. An older `tail` would let this consumer
        // take a slot that was not pushed yet.
        let mut head = self.head.load(Ordering::Acquire);
        loop {
            // Acquire: pairs with the push of the slot that is read next.
            let tail = self.tail.load(Ordering::Acquire);
            // `head` may be older than `tail` by more than the ring is long: then the exchange fails.
            if head == tail {
                return None;
            }
            let item = self.slot(head).load(Ordering::Relaxed);
            // SeqCst, not AcqRel: a consumer goes on to read whether the dispatcher has more, and
            // the dispatcher reads `head` after it has said so; see `floor.rs`.
            match self.head.compare_exchange_weak(
                head,
                head.wrapping_add(1),
                Ordering::SeqCst,
                Ordering::Acquire,
            ) {
                Ok(_) => return NonNull::new(item),
                Err(now) => head = now,
            }
        }
    }

    /// How many have been pushed so far.
    pub(crate) fn pushed(&self) -> usize {
        self.tail.load(Ordering::Relaxed)
    }

    /// How many have been popped so far.
    pub(crate) fn popped(&self) -> usize {
        self.head.load(Ordering::SeqCst)
    }

    pub(crate) fn len(&self) -> usize {
        // `head` first: read the other way round it could be ahead.
        let head = self.popped();
        self.tail.load(Ordering::Acquire).wrapping_sub(head)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(all(test, not(shardpool_loom)))]
mod tests {
    use super::*;

    #[test]
    fn what_is_pushed_is_popped_once_in_order_and_counted_round_after_round() {
        let (ring, mut items) = (Ring::new(4), [0u8; 4]);
        let items = items.each_mut().map(NonNull::from);
        let mut count = 0;
        for most in [1, 3, 4, 2, 4, 3] {
            for (len, &item) in items[..most].iter().enumerate() {
                assert_eq!((ring.len(), ring.is_empty()), (len, len == 0));
                assert!(ring.push(item));
            }
            assert_eq!(ring.push(items[0]), most < ring.capacity());
            let extra = (most < ring.capacity()).then_some(items[0]);
            for item in items[..most].iter().copied().chain(extra) {
                assert_eq!(ring.popped(), count);
                assert_eq!(ring.pop(), Some(item));
                count += 1;
            }
            assert_eq!((ring.pop(), ring.pushed(), ring.popped()), (None, count, count));
        }
    }
}
