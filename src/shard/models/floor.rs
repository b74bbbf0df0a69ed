//! The floor: dispatcher and workers that sleep, and wake each other.
//!
//! The dispatcher here hands out and waits as `dispatcher.rs` does; the pool's own is in the models of
//! the whole pool.

use crate::loom::check::{Counted, Parker, block_on, check};
use crate::shard::floor::Floor;
use crate::shard::lane::{Hold, Seat};
use crate::shard::models::{Lone, Model, front, lane, work};
use crate::shard::schedule::Place;
use crate::sync::{Arc, AtomicBool, Ordering, fence};
use loom::thread::{self, JoinHandle};
use std::future::poll_fn;
use std::task::{Poll, Wake};

fn floor(workers: usize) -> Arc<Floor<Model, Lone>> {
    Arc::new(Floor::new(&front(workers)))
}

/// A worker that takes so many lanes; without a number, until the end. Gives how many it took.
fn worker(
    floor: &Arc<Floor<Model, Lone>>,
    number: usize,
    most: Option<usize>,
) -> JoinHandle<usize> {
    let floor = Arc::clone(floor);
    thread::spawn(move || {
        let (mut listed, mut taken) = (false, 0);
        let nobody = || unreachable!("nobody sends a worker here");
        while most != Some(taken)
            && let Some(mut hold) =
                block_on(poll_fn(|cx| floor.poll_next(number, &mut listed, cx, nobody)))
        {
            work(&mut hold);
            floor.release(hold);
            taken += 1;
        }
        floor.unlist(number, &mut listed);
        taken
    })
}

/// Hands out a lane and wakes one worker.
fn hand_out(floor: &Floor<Model, Lone>, seat: Seat<Model, Lone>, wanted: bool) {
    floor.offer(seat.hand_out(Default::default(), wanted));
    fence(Ordering::SeqCst);
    floor.front.crew.wake_one();
}

/// Sleeps until so many lanes have come back.
fn await_returned(floor: &Floor<Model, Lone>, mut many: usize) {
    block_on(poll_fn(|cx| {
        floor.front.register(cx.waker());
        floor.front.awake();
        floor.take_returned(|seat| {
            seat.is_back();
            many -= 1;
        });
        if many == 0 {
            return Poll::Ready(());
        }
        floor.front.prepare(0);
        if floor.has_returned() {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }));
}

/// A push, and who waits until a run of the dispatcher has seen it.
#[derive(Clone, Default)]
struct Push {
    made: Arc<AtomicBool>,
    seen: Arc<Parker>,
}

impl Push {
    fn make(&self) {
        self.made.store(true, Ordering::Relaxed);
    }

    /// A run of the dispatcher.
    fn run(&self) {
        if self.made.load(Ordering::Relaxed) {
            self.seen.wake_by_ref();
        }
    }

    /// What a worker takes next; sent, it runs the dispatcher before.
    fn next(&self, floor: &Floor<Model, Lone>, listed: &mut bool) -> Option<Hold<Model, Lone>> {
        block_on(poll_fn(|cx| {
            floor.poll_next(0, listed, cx, || {
                self.run();
                false
            })
        }))
    }

    /// A worker that takes a lane, and has a handler that ends only when the dispatcher has run.
    fn worker_in_need(&self, floor: &Arc<Floor<Model, Lone>>) -> JoinHandle<()> {
        let (floor, push) = (Arc::clone(floor), self.clone());
        thread::spawn(move || {
            let mut listed = false;
            let hold = push.next(&floor, &mut listed);
            push.seen.park();
            floor.unlist(0, &mut listed);
            floor.release(hold.expect("there is a lane"));
        })
    }
}

fn leave(seats: &[Seat<Model, Lone>]) {
    for seat in seats {
        // SAFETY: the last use of the handle.
        unsafe { seat.leave() };
    }
}

#[test]
fn a_worker_that_falls_asleep_hears_of_a_lane_and_the_dispatcher_of_its_return() {
    check(|| {
        let (floor, (counted, _)) = (floor(1), Counted::new());
        let seat = lane(1, &counted);
        worker(&floor, 0, Some(2));
        for _ in 0..2 {
            hand_out(&floor, seat, true);
            await_returned(&floor, 1);
        }
        leave(&[seat]);
    });
}

#[test]
fn two_workers_that_fall_asleep_hear_of_a_lane_each() {
    check(|| {
        let (floor, (counted, _)) = (floor(2), Counted::new());
        let seats = [1, 2].map(|id| lane(id, &counted));
        let workers = [0, 1].map(|number| worker(&floor, number, Some(1)));
        for seat in seats {
            hand_out(&floor, seat, false);
        }
        // As a dispatcher that watches: what one wake is not enough for gets another.
        while floor.unclaimed() > 0 && floor.front.crew.has_idle() {
            floor.front.crew.wake_one();
        }
        assert_eq!(workers.map(|worker| worker.join().unwrap()), [1, 1]);
        leave(&seats);
    });
}

#[test]
fn a_worker_that_falls_asleep_hears_that_it_is_to_stand_in() {
    check(|| {
        let floor = floor(1);
        let push = Push::default();
        let (worker, run) = (Arc::clone(&floor), push.clone());
        let worker = thread::spawn(move || run.next(&worker, &mut false));
        // Somebody else wakes it, and has nothing for it.
        let other = Arc::clone(&floor);
        let other = thread::spawn(move || other.front.crew.wake_one());
        push.make();
        if floor.front.crew.send_one() {
            push.seen.park();
        }
        floor.end();
        other.join().unwrap();
        assert!(worker.join().unwrap().is_none());
    });
}

#[test]
fn a_worker_that_is_to_stand_in_takes_no_lane_before() {
    check(|| {
        let (floor, (counted, _)) = (floor(1), Counted::new());
        let seat = lane(1, &counted);
        let push = Push::default();
        let worker = push.worker_in_need(&floor);
        // The dispatcher hands out a lane, and sleeps.
        hand_out(&floor, seat, false);
        push.make();
        if !floor.front.crew.send_one() {
            // Its own task is polled.
            push.run();
        }
        worker.join().unwrap();
        leave(&[seat]);
    });
}

#[test]
fn a_worker_that_is_to_stand_in_takes_no_lane_before_whoever_wakes_it() {
    check(|| {
        let (floor, (counted, _)) = (floor(1), Counted::new());
        let seat = lane(1, &counted);
        let push = Push::default();
        let worker = push.worker_in_need(&floor);
        let other = Arc::clone(&floor);
        let other = thread::spawn(move || {
            other.offer(seat.hand_out(Default::default(), false));
            fence(Ordering::SeqCst);
            // As for an order: nobody is taken out of the idle set.
            other.front.crew.wake_all();
        });
        push.make();
        if !floor.front.crew.send_one() {
            // The dispatcher's own task is polled.
            push.run();
        }
        other.join().unwrap();
        worker.join().unwrap();
        leave(&[seat]);
    });
}

#[test]
fn an_errand_that_is_taken_back_with_anothers_is_run_for_both() {
    check(|| {
        let floor = floor(1);
        let push = Push::default();
        let (worker, run) = (Arc::clone(&floor), push.clone());
        let worker = thread::spawn(move || run.next(&worker, &mut false));
        let (other, run) = (Arc::clone(&floor), push.clone());
        let other = thread::spawn(move || {
            run.make();
            if !other.front.crew.send_one() {
                // The dispatcher's own task is polled.
                run.run();
            }
        });
        // As well here, and it looks for what the other has pushed.
        if !floor.front.crew.send_one() {
            push.run();
        }
        push.seen.park();
        floor.end();
        other.join().unwrap();
        assert!(worker.join().unwrap().is_none());
    });
}

#[test]
fn workers_that_fall_asleep_hear_of_the_end() {
    check(|| {
        let floor = floor(2);
        let workers = [0, 1].map(|number| worker(&floor, number, None));
        floor.end();
        assert_eq!(workers.map(|worker| worker.join().unwrap()), [0, 0]);
    });
}

#[test]
fn room_in_the_ring_wakes_a_dispatcher_that_has_more() {
    check(|| {
        let (floor, (counted, _)) = (floor(1), Counted::new());
        let seats = [1, 2, 3].map(|id| lane(id, &counted));
        worker(&floor, 0, Some(3));
        let mut ready = seats.iter();
        block_on(poll_fn(|cx| {
            floor.front.register(cx.waker());
            floor.front.awake();
            while floor.room() > 0
                && let Some(seat) = ready.next()
            {
                hand_out(&floor, *seat, false);
            }
            let more = !ready.as_slice().is_empty();
            floor.say_more(more);
            if !more {
                return Poll::Ready(());
            }
            floor.front.prepare(0);
            if floor.is_half_empty() {
                cx.waker().wake_by_ref();
            }
            Poll::Pending
        }));
        leave(&seats);
    });
}

#[test]
fn an_order_reaches_a_worker_that_falls_asleep_in_a_handler() {
    check(|| {
        let floor = floor(1);
        let worker = Arc::clone(&floor);
        thread::spawn(move || {
            block_on(poll_fn(|cx| {
                // As for a handler that is pending: register, then look.
                worker.front.crew.register(0, cx.waker());
                match Floor::<Model, Lone>::is_abort(worker.orders()) {
                    true => Poll::Ready(()),
                    false => Poll::Pending,
                }
            }));
        });
        floor.order_abort();
    });
}
