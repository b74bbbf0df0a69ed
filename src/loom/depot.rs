//! What threads leave for each other.

use crate::depot::Depot;
use crate::loom::check::check;
use crate::sync::{Arc, UnsafeCell};
use loom::thread;
use std::ptr::NonNull;

/// What is left on a depot: a number that only its owner may touch.
type Thing = UnsafeCell<u32>;

fn thing(number: u32) -> NonNull<Thing> {
    NonNull::from(Box::leak(Box::new(Thing::new(number))))
}

/// As its owner: adds one.
fn touch(thing: NonNull<Thing>) {
    // SAFETY: things live until the model ends them; that this one has one owner is what loom checks.
    unsafe { thing.as_ref() }.with_mut(|number| unsafe { *number += 1 });
}

/// As its last owner.
fn end(thing: NonNull<Thing>) -> u32 {
    // SAFETY: it came from a box, and the caller is the last to have it.
    unsafe { Box::from_raw(thing.as_ptr()) }.with(|number| unsafe { *number })
}

#[test]
fn what_is_left_on_a_shelf_has_one_owner_after_the_other() {
    check(|| {
        let depot = Arc::new(Depot::<Thing, 2>::new());
        assert!(depot.put(thing(0)) && depot.put(thing(0)));
        let users: Vec<_> = (0..2)
            .map(|_| {
                let depot = Arc::clone(&depot);
                thread::spawn(move || {
                    let (mut touched, mut ended) = (0, Vec::new());
                    for _ in 0..2 {
                        if let Some(thing) = depot.take() {
                            touch(thing);
                            touched += 1;
                            // A slot may look as if it were taken still.
                            if !depot.put(thing) {
                                ended.push(end(thing));
                            }
                        }
                    }
                    (touched, ended)
                })
            })
            .collect();
        let (mut touched, mut ended) = (0, Vec::new());
        for user in users {
            let (more, refused) = user.join().unwrap();
            touched += more;
            ended.extend(refused);
        }
        ended.extend(std::iter::from_fn(|| depot.take()).map(end));
        assert_eq!((ended.len(), ended.iter().sum::<u32>()), (2, touched));
    });
}

#[test]
fn one_slot_takes_one_thing() {
    check(|| {
        let depot = Arc::new(Depot::<Thing, 1>::new());
        let other = Arc::clone(&depot);
        // Refused, it is still one's own.
        let put = |depot: &Depot<Thing, 1>, thing| if depot.put(thing) { 0 } else { end(thing) };
        let other = thread::spawn(move || put(&other, thing(1)));
        let refused = put(&depot, thing(2)) + other.join().unwrap();
        let kept = depot.take().map(end);
        assert_eq!(kept, Some(3 - refused));
        assert!(depot.take().is_none());
    });
}
