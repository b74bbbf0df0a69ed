//! A lane between the dispatcher and one worker.

use crate::loom::check::{Counted, check};
use crate::shard::lane::{Returned, Seat};
use crate::shard::models::{Lone, Model, lane, work};
use crate::shard::schedule::Place;
use crate::sync::Arc;
use loom::thread;

fn returned() -> Arc<Returned<Model, Lone>> {
    Arc::new(Returned::new())
}

/// The dispatcher's end of the stack: waits until so many lanes have come back.
fn await_returned(returned: &Returned<Model, Lone>, mut many: usize) {
    while many > 0 {
        returned.take_all(|seat| {
            seat.is_back();
            many -= 1;
        });
        if many > 0 {
            thread::yield_now();
        }
    }
}

/// As a dispatcher with another turn for a lane: gets it home.
fn get_home(seat: Seat<Model, Lone>, returned: &Returned<Model, Lone>) {
    if !seat.recall() {
        assert!(!seat.recall(), "a lane that was asked for comes by the stack, not before");
        await_returned(returned, 1);
    }
}

#[test]
fn a_lane_that_is_recalled_comes_back_and_has_one_owner() {
    check(|| {
        let (returned, (counted, _)) = (returned(), Counted::new());
        let seat = lane(1, &counted);
        let mut hold = seat.hand_out(Default::default(), false);
        let back = Arc::clone(&returned);
        thread::spawn(move || {
            work(&mut hold);
            let _ = hold.release(&back);
        });
        get_home(seat, &returned);
        let mut hold = seat.hand_out(Default::default(), false);
        assert_eq!(work(&mut hold), 1);
        let _ = hold.release(&returned);
        // SAFETY: the last use of the handle.
        unsafe { seat.leave() };
    });
}

#[test]
fn lanes_that_two_workers_return_all_come_back() {
    check(|| {
        let (returned, (counted, _)) = (returned(), Counted::new());
        let seats = [1, 2].map(|id| lane(id, &counted));
        for seat in seats {
            let mut hold = seat.hand_out(Default::default(), true);
            let back = Arc::clone(&returned);
            thread::spawn(move || {
                work(&mut hold);
                assert!(hold.release(&back));
            });
        }
        await_returned(&returned, 2);
        for seat in seats {
            assert!(seat.is_home());
            assert_eq!(work(&mut seat.hand_out(Default::default(), false)), 1);
            seat.is_back();
            // SAFETY: the last use of the handle.
            unsafe { seat.leave() };
        }
    });
}

/// A dispatcher that goes while a worker lets the lane go, asked for it or not.
fn leave_while_out(asked: bool) {
    check(move || {
        let (returned, (counted, living)) = (returned(), Counted::new());
        let seat = lane(1, &counted);
        drop(counted);
        let mut hold = seat.hand_out(Default::default(), false);
        let back = Arc::clone(&returned);
        let worker = thread::spawn(move || {
            work(&mut hold);
            let _ = hold.release(&back);
        });
        if asked {
            seat.recall();
        }
        // SAFETY: the last use of the handle.
        unsafe { seat.leave() };
        worker.join().unwrap();
        drop(returned);
        assert_eq!(living(), 0);
    });
}

#[test]
fn a_lane_that_is_left_while_out_is_freed_once() {
    leave_while_out(false);
}

#[test]
fn a_lane_that_is_left_after_a_recall_is_freed_once() {
    leave_while_out(true);
}
