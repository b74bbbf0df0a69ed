//! Models of what dispatcher, workers and submitters of one shard do with each other.

mod duty;
mod floor;
mod front;
mod idle;
mod lane;
mod ring;

use crate::loom::check::{Counted, To};
use crate::shard::front::Front;
use crate::shard::lane::{Hold, Seat};
use crate::shard::schedule::Place;
use crate::sync::Arc;
use crate::types::TypesOf;
use loom::cell::UnsafeCell;

type Model = TypesOf<To, (), ()>;

/// A state on which loom sees two owners at once.
struct Lone {
    turns: UnsafeCell<u32>,
    _counted: Counted,
}

/// A lane whose state counts its turns.
fn lane(id: u8, counted: &Counted) -> Seat<Model, Lone> {
    let seat = Seat::new(id, u64::from(id), 0);
    let mut hold = seat.hand_out(Default::default(), false);
    hold.parts().1.state = Some(Lone { turns: UnsafeCell::new(0), _counted: counted.clone() });
    // As for a lane that is taken out of the ring again.
    let _ = hold.into_raw();
    seat.is_back();
    seat
}

/// What a worker does with a lane: gives how many turns it has had before.
fn work(hold: &mut Hold<Model, Lone>) -> u32 {
    let state = hold.parts().1.state.as_mut().unwrap();
    state.turns.with_mut(|turns| {
        // SAFETY: loom has seen that nobody else is at it.
        unsafe {
            *turns += 1;
            *turns - 1
        }
    })
}

fn front(workers: usize) -> Arc<Front> {
    Arc::new(Front::new(4, workers))
}
