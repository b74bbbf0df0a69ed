//! The front: the dispatcher's sleep, room and who waits for it, and the gate.
//!
//! The dispatcher here is what `dispatcher.rs` does with the front, and no more; the pool's own is in
//! the models of the whole pool.

use crate::cell::{Draft, Envelope, Refusal, Refused};
use crate::loom::check::{To, block_on, check, check_large};
use crate::shard::front::{Entry, Front};
use crate::shard::models::Model;
use crate::shard::{Sent, Shard};
use crate::sync::Arc;
use loom::thread;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::Poll;

fn shard(depth: usize) -> Arc<Shard<Model>> {
    Arc::new(Shard::new(Arc::new(Front::new(depth, 1))))
}

/// A submission that does not wait. True if it was accepted.
fn submit(shard: &Shard<Model>) -> bool {
    if shard.front.try_enter() != Entry::Accepted {
        return false;
    }
    push(shard);
    true
}

fn push(shard: &Shard<Model>) {
    let (cell, envelope) = Draft::new(To(1), None, &shard.front).accepted();
    shard.push_accepted(0, envelope);
    drop(cell);
}

/// A submission that waits for room. True if it was accepted in the end.
fn submit_or_wait(shard: &Shard<Model>) -> bool {
    match shard.front.enter_or_wait() {
        Entry::Accepted => {
            push(shard);
            true
        }
        Entry::Closed => false,
        Entry::Full => {
            let (cell, envelope) = Draft::new(To(1), None, &shard.front).waiting();
            shard.push_waiting(0, envelope);
            match block_on(poll_fn(|cx| cell.poll_granted(cx))) {
                Ok(()) => true,
                Err(Refused::Closed(_)) => false,
                Err(_) => unreachable!("nobody else refuses"),
            }
        }
    }
}

#[test]
fn g21_what_is_told_is_never_ahead_of_what_was_accepted() {
    check(|| {
        let shard = shard(1);
        let dispatcher = thread::spawn({
            let shard = Arc::clone(&shard);
            move || {
                // For as much as is there by now.
                let taken = shard.front.accepted_since(0);
                shard.front.tell(taken.into(), 0);
            }
        });
        let reader = thread::spawn({
            let shard = Arc::clone(&shard);
            move || assert!(shard.front.stats().accepted <= 1)
        });
        assert!(submit(&shard));
        dispatcher.join().unwrap();
        reader.join().unwrap();
        drop(shard.commands.pop());
    });
}

/// What a dispatcher does with the front.
struct Dispatcher {
    lobby: VecDeque<Sent<Model>>,
    gave_up: u64,
    /// What it has taken, in the order in which it did.
    taken: Vec<Envelope<Model>>,
    /// How many of these it has no more.
    ended: usize,
    // Last: envelopes need it to their end.
    shard: Arc<Shard<Model>>,
}

impl Dispatcher {
    fn new(shard: &Arc<Shard<Model>>) -> Self {
        let shard = Arc::clone(shard);
        Self { shard, lobby: VecDeque::new(), gave_up: 0, taken: Vec::new(), ended: 0 }
    }

    /// Works until `is_over`, and sleeps while there is nothing to do.
    fn run(&mut self, mut is_over: impl FnMut(&mut Self) -> bool) {
        block_on(poll_fn(|cx| {
            let shard = Arc::clone(&self.shard);
            let front = &shard.front;
            front.register(cx.waker());
            front.awake();
            let calm = self.is_calm();
            self.gave_up = front.abandoned();
            if !calm && front.has_lobby() {
                self.lobby.extend(std::iter::from_fn(|| shard.lobby.pop()));
            }
            while front.accepted_since(self.count()) > 0
                && let Some(sent) = shard.commands.pop()
            {
                self.taken.push(sent.envelope);
            }
            if !calm {
                self.grant();
            }
            if is_over(self) {
                return Poll::Ready(());
            }
            if calm {
                front.relax();
            }
            let accepted = front.prepare(self.count());
            if (accepted && !shard.commands.is_empty())
                || (!self.is_calm() && self.has_special_work())
            {
                cx.waker().wake_by_ref();
            }
            Poll::Pending
        }));
    }

    /// How many it has ever taken.
    fn count(&self) -> u64 {
        (self.taken.len() + self.ended) as u64
    }

    /// Works until nothing can come any more; what it takes ends at once.
    fn drain(&mut self) {
        self.run(|this| {
            this.ended += this.taken.drain(..).count();
            this.shard.front.is_exhausted()
        });
    }

    fn is_calm(&self) -> bool {
        self.shard.front.is_calm() && self.lobby.is_empty()
    }

    fn has_special_work(&self) -> bool {
        let front = &self.shard.front;
        (front.has_lobby() && !self.shard.lobby.is_empty())
            || front.has_orders()
            || (!self.lobby.is_empty() && (front.has_room() || front.is_closed()))
            || self.must_clear(front.abandoned())
            || front.is_exhausted()
    }

    fn must_clear(&self, gave_up: u64) -> bool {
        gave_up > 0 && !self.shard.front.has_waiting()
    }

    fn grant(&mut self) {
        let front = Arc::clone(&self.shard.front);
        while !self.lobby.is_empty() && (front.has_room() || front.is_closed()) {
            let Some(Sent { envelope, .. }) = self.lobby.pop_front() else { return };
            if !envelope.begin_grant() {
                continue;
            }
            if front.is_closed() {
                front.refuse_waiting();
                envelope.refuse(Refusal::Closed);
            } else if front.grant() {
                envelope.grant();
                self.taken.push(envelope);
            } else {
                envelope.refuse(Refusal::Closed);
            }
        }
        if self.must_clear(self.gave_up) {
            front.clear_abandoned(self.gave_up);
            self.lobby.retain(|sent| !sent.envelope.is_abandoned());
        }
    }

    /// Ends what was taken. No model looks at that.
    fn end(self) {
        loom::stop_exploring();
        drop(self);
    }
}

#[test]
fn a_push_wakes_a_dispatcher_that_falls_asleep() {
    check(|| {
        let shard = shard(2);
        for _ in 0..2 {
            let shard = Arc::clone(&shard);
            thread::spawn(move || assert!(submit(&shard)));
        }
        let mut dispatcher = Dispatcher::new(&shard);
        dispatcher.run(|this| this.taken.len() == 2);
        dispatcher.end();
    });
}

/// A dispatcher that has taken the one command there is room for.
fn full() -> (Arc<Shard<Model>>, Dispatcher) {
    let shard = shard(1);
    assert!(submit(&shard));
    let mut dispatcher = Dispatcher::new(&shard);
    dispatcher.run(|this| this.taken.len() == 1);
    (shard, dispatcher)
}

/// As a worker: starts what a full dispatcher has taken first.
fn start_first(dispatcher: &mut Dispatcher) -> impl FnOnce() + Send + 'static {
    let (shard, envelope) = (Arc::clone(&dispatcher.shard), dispatcher.taken.remove(0));
    dispatcher.ended += 1;
    move || drop(envelope.claim(&shard.front, 0))
}

/// Somebody has waited for room, and waits no more: at its next run the dispatcher has something to relax.
fn no_longer_wait(dispatcher: &mut Dispatcher) {
    assert_eq!(dispatcher.shard.front.enter_or_wait(), Entry::Full);
    dispatcher.shard.front.stop_waiting();
    // Clears away what was given up. While there is some, no run is calm.
    dispatcher.run(|this| this.is_calm());
}

#[test]
fn room_given_back_wakes_for_a_submission_that_waits() {
    check(|| {
        let (shard, mut dispatcher) = full();
        thread::spawn(start_first(&mut dispatcher));
        thread::spawn(move || assert!(submit_or_wait(&shard)));
        dispatcher.run(|this| this.taken.len() == 1);
        dispatcher.end();
    });
}

#[test]
fn a_dispatcher_that_relaxes_misses_nobody_who_begins_to_wait() {
    check(|| {
        let (shard, mut dispatcher) = full();
        no_longer_wait(&mut dispatcher);
        thread::spawn(start_first(&mut dispatcher));
        thread::spawn(move || assert!(submit_or_wait(&shard)));
        dispatcher.run(|this| this.taken.len() == 1);
        dispatcher.end();
    });
}

#[test]
fn room_is_given_once() {
    check(|| {
        let (shard, mut dispatcher) = full();
        let start = start_first(&mut dispatcher);
        let callers = [(); 2].map(|()| {
            let shard = Arc::clone(&shard);
            thread::spawn(move || shard.front.try_enter() == Entry::Accepted)
        });
        start();
        let accepted = callers.map(|caller| usize::from(caller.join().unwrap()));
        assert!(accepted[0] + accepted[1] <= 1);
    });
}

#[test]
fn nothing_is_accepted_after_the_end() {
    check(|| {
        let shard = shard(2);
        let (caller, closer) = (Arc::clone(&shard), Arc::clone(&shard));
        let caller = thread::spawn(move || submit(&caller));
        thread::spawn(move || closer.front.close());
        let mut dispatcher = Dispatcher::new(&shard);
        dispatcher.drain();
        assert_eq!(usize::from(caller.join().unwrap()), dispatcher.ended);
    });
}

#[test]
fn a_submission_that_waits_is_granted_room_or_refused_but_not_granted_after_the_gate_was_closed() {
    check_large(1, || {
        let (shard, mut dispatcher) = full();
        let (caller, closer, start) =
            (Arc::clone(&shard), Arc::clone(&shard), start_first(&mut dispatcher));
        let caller = thread::spawn(move || submit_or_wait(&caller));
        let closer = thread::spawn(move || {
            start();
            closer.front.close();
            closer.front.accepted_since(0)
        });
        dispatcher.drain();
        assert_eq!(usize::from(caller.join().unwrap()) + 1, dispatcher.ended);
        assert_eq!(closer.join().unwrap(), shard.front.accepted_since(0));
    });
}

#[test]
fn a_submission_that_gives_up_holds_up_no_drain() {
    check(|| {
        let (shard, mut dispatcher) = full();
        assert_eq!(shard.front.enter_or_wait(), Entry::Full);
        let (cell, envelope) = Draft::new(To(1), None, &shard.front).waiting();
        shard.push_waiting(0, envelope);
        start_first(&mut dispatcher)();
        let (caller, closer) = (Arc::clone(&shard), Arc::clone(&shard));
        thread::spawn(move || {
            if cell.abandon() {
                caller.front.stop_waiting();
            }
        });
        thread::spawn(move || closer.front.close());
        dispatcher.drain();
    });
}

/// The dispatcher has seen somebody who waits, and gives room to that one while another comes and goes.
#[test]
fn a_submission_that_gives_up_while_the_last_other_is_granted_is_found() {
    check(|| {
        let (shard, mut dispatcher) = full();
        let wait = |shard: &Shard<Model>| {
            assert_eq!(shard.front.enter_or_wait(), Entry::Full);
            let (cell, envelope) = Draft::new(To(1), None, &shard.front).waiting();
            shard.push_waiting(0, envelope);
            cell
        };
        let first = wait(&shard);
        dispatcher.run(|this| this.lobby.len() == 1);
        let caller = Arc::clone(&shard);
        let second = wait(&shard);
        thread::spawn(move || {
            if second.abandon() {
                caller.front.stop_waiting();
            }
        });
        start_first(&mut dispatcher)();
        dispatcher
            .run(|this| this.taken.len() == 1 && this.lobby.is_empty() && shard.lobby.is_empty());
        drop(first);
        dispatcher.end();
    });
}

#[test]
fn the_last_room_given_back_wakes_for_the_end() {
    check(|| {
        let (shard, mut dispatcher) = full();
        no_longer_wait(&mut dispatcher);
        thread::spawn(start_first(&mut dispatcher));
        thread::spawn(move || shard.front.close());
        dispatcher.drain();
    });
}

#[test]
fn an_order_wakes_a_dispatcher_that_falls_asleep() {
    check(|| {
        let shard = shard(1);
        let orderer = Arc::clone(&shard);
        thread::spawn(move || orderer.front.ask_for_review());
        Dispatcher::new(&shard).run(|this| this.shard.front.take_review());
    });
}
