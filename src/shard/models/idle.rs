//! The set of workers that sleep.

use crate::loom::check::check;
use crate::shard::idle::IdleSet;
use crate::sync::Arc;
use loom::thread;

#[test]
fn a_worker_that_wakes_by_itself_is_taken_out_once_and_the_next_is_found() {
    check(|| {
        let set = Arc::new(IdleSet::new(2));
        set.insert(0);
        set.insert(1);
        let own = Arc::clone(&set);
        let own = thread::spawn(move || own.remove(0));
        let popped = [set.pop(), set.pop()];
        assert!(popped[0].is_some(), "one sleeps all the while");
        let taken = |worker| popped.iter().filter(|&&by_pop| by_pop == Some(worker)).count();
        assert_eq!((taken(0) + usize::from(own.join().unwrap()), taken(1)), (1, 1));
        assert!(set.is_empty());
    });
}
