//! The right to run the dispatcher.

use crate::loom::check::{Counted, check};
use crate::shard::duty::{Duty, Left};
use crate::sync::{Arc, AtomicBool, Ordering};
use loom::cell::UnsafeCell;
use loom::thread;

/// What a dispatcher has seen of what two came for; loom sees two that run it at once.
struct Seen {
    seen: UnsafeCell<[bool; 2]>,
    _counted: Counted,
}

type Came = [AtomicBool; 2];

fn duty(counted: &Counted) -> Arc<Duty<Seen>> {
    let seen = UnsafeCell::new([false; 2]);
    Arc::new(Duty::new(Seen { seen, _counted: counted.clone() }))
}

fn look(dispatcher: &mut Seen, came: &Came) -> Left {
    dispatcher.seen.with_mut(|seen| {
        // SAFETY: loom has seen that nobody else is at it.
        unsafe { *seen = [0, 1].map(|n| came[n].load(Ordering::Relaxed)) }
    });
    Left::Asleep
}

/// Comes for something, and runs the dispatcher while it is to be run.
fn come(duty: &Duty<Seen>, came: &Came, number: usize) {
    came[number].store(true, Ordering::Relaxed);
    while duty.run(|dispatcher| look(dispatcher, came)) == Left::Busy {}
}

#[test]
fn what_each_came_for_is_seen_by_a_run() {
    check(|| {
        let (counted, _) = Counted::new();
        let (duty, came) = (duty(&counted), Arc::new(Came::default()));
        let other = (Arc::clone(&duty), Arc::clone(&came));
        let other = thread::spawn(move || come(&other.0, &other.1, 1));
        come(&duty, &came, 0);
        other.join().unwrap();
        duty.run(|dispatcher| {
            dispatcher.seen.with(|seen| {
                // SAFETY: as above.
                assert_eq!(unsafe { *seen }, [true, true]);
            });
            Left::Asleep
        });
    });
}

#[test]
fn a_dispatcher_is_dropped_once_and_by_nobody_while_another_runs_it() {
    check(|| {
        let (counted, live) = Counted::new();
        let (duty, came) = (duty(&counted), Arc::new(Came::default()));
        drop(counted);
        let other = Arc::clone(&duty);
        let other = thread::spawn(move || come(&other, &came, 1));
        duty.retire();
        other.join().unwrap();
        assert_eq!(live(), 0);
    });
}
