//! The ring: one producer, many consumers.

use crate::loom::check::check;
use crate::shard::ring::Ring;
use crate::sync::Arc;
use loom::cell::UnsafeCell;
use loom::thread;
use std::ptr::NonNull;

struct Item {
    number: usize,
    /// What the ring hands over with it.
    body: UnsafeCell<usize>,
}

/// Takes what is there; gives the numbers.
fn consume(ring: &Ring<Item>, most: usize) -> Vec<usize> {
    let mut numbers = Vec::new();
    for _ in 0..most {
        if let Some(item) = ring.pop() {
            // SAFETY: it is in a vector that lives longer, and nobody else has popped it: loom sees
            // if somebody has.
            let item = unsafe { item.as_ref() };
            item.body.with_mut(|body| {
                // SAFETY: as above.
                assert_eq!(unsafe { *body }, item.number);
            });
            numbers.push(item.number);
        }
    }
    numbers
}

#[test]
fn each_item_is_popped_once_and_with_what_it_carries() {
    check(|| {
        let ring = Arc::new(Ring::new(2));
        let items: Vec<_> =
            (0..3).map(|number| Item { number, body: UnsafeCell::new(0) }).collect();
        let consumers = [(); 2].map(|()| {
            let ring = Arc::clone(&ring);
            thread::spawn(move || consume(&ring, 2))
        });
        let mut popped = Vec::new();
        for item in &items {
            item.body.with_mut(|body| {
                // SAFETY: it is not in the ring yet.
                unsafe { *body = item.number }
            });
            while !ring.push(NonNull::from(item)) {
                // As a dispatcher that takes one out again.
                popped.extend(consume(&ring, 1));
            }
        }
        popped.extend(consumers.into_iter().flat_map(|consumer| consumer.join().unwrap()));
        popped.extend(consume(&ring, 3));
        popped.sort_unstable();
        assert_eq!(popped, [0, 1, 2]);
    });
}
