//! The right to run the dispatcher: there is one dispatcher, and whoever has the duty runs it.
//!
//! With many commands that is its own task. But a dispatcher that sleeps and has one command to hand out would
//! be woken, to wake a worker, where waking costs more than all else. So a submitter wakes a worker that
//! sleeps; it runs the dispatcher, and goes on with what that hands out. The idea is that of leader and
//! followers (Schmidt et al., *Pattern-Oriented Software Architecture*, volume 2).
//!
//! # Who may touch what, and when
//!
//! | field | who |
//! | --- | --- |
//! | `state` | everybody |
//! | `dispatcher` | who has replaced a state without `HELD` and `GONE` by one with `HELD`, until it takes `HELD` away |
//! | `dispatcher` | who adds `GONE` to a state without `HELD` and `GONE`, or takes `HELD` away from one with `GONE`: it drops it |
//!
//! # Nobody waits for the duty
//!
//! Who comes while somebody has it adds `AGAIN` and goes away: the holder takes `HELD` and `AGAIN` away in one
//! exchange, sees `AGAIN`, and has the dispatcher run again. So what made the other come is seen by a run that
//! begins after it came; unless the dispatcher goes, which ends all that there is.

use crate::sync::{AtomicU8, Ordering, UnsafeCell};

/// Somebody runs the dispatcher.
const HELD: u8 = 1;
/// Somebody else came meanwhile.
const AGAIN: u8 = 2;
/// Nobody will run it any more.
const GONE: u8 = 4;

/// How the dispatcher was left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Left {
    /// It sleeps; or somebody else runs it, and will look again.
    Asleep,
    /// It is to be run again, after others had the thread.
    Busy,
    /// It has come to its end, or is gone.
    Over,
}

pub(crate) struct Duty<D> {
    state: AtomicU8,
    dispatcher: UnsafeCell<Option<D>>,
}

// SAFETY: the table above gives the dispatcher one user at a time, and the handovers are
// release/acquire pairs on `state`. It moves between threads, so it must be `Send`.
unsafe impl<D: Send> Send for Duty<D> {}
// SAFETY: as above.
unsafe impl<D: Send> Sync for Duty<D> {}

impl<D> Duty<D> {
    pub(crate) fn new(dispatcher: D) -> Self {
        Self { state: AtomicU8::new(0), dispatcher: UnsafeCell::new(Some(dispatcher)) }
    }

    /// Runs the dispatcher, if nobody else does. If `run` panics, the dispatcher is dropped.
    #[inline]
    pub(crate) fn run(&self, run: impl FnOnce(&mut D) -> Left) -> Left {
        // Relaxed: a guess, which the exchange tests; and who finds `GONE` touches nothing.
        let mut state = self.state.load(Ordering::Relaxed);
        loop {
            if state & GONE != 0 {
                return Left::Over;
            }
            // Acquire: sees what the last holder did. Release: the holder sees what the caller came for.
            let (new, order) = match state & HELD {
                0 => (HELD, Ordering::Acquire),
                _ => (HELD | AGAIN, Ordering::Release),
            };
            match self.state.compare_exchange_weak(state, new, order, Ordering::Relaxed) {
                Ok(_) if new == HELD => break,
                Ok(_) => return Left::Asleep,
                Err(now) => state = now,
            }
        }
        let held = Held(self);
        let left = self.dispatcher.with_mut(|dispatcher| {
            // SAFETY: this call has added `HELD`, and takes it away below, or by the drop of `held`.
            unsafe { &mut *dispatcher }.as_mut().map_or(Left::Over, run)
        });
        std::mem::forget(held);
        match (self.release(), left) {
            (true, Left::Asleep) => Left::Busy,
            (_, left) => left,
        }
    }

    /// Takes `HELD` away. True if somebody came meanwhile.
    #[inline]
    fn release(&self) -> bool {
        // AcqRel: hands over what the run did, and takes what others came for.
        let state = self.state.fetch_and(!(HELD | AGAIN), Ordering::AcqRel);
        if state & GONE != 0 {
            // SAFETY: this has taken `HELD` away from a state with `GONE`.
            unsafe { self.end() }
        }
        state & AGAIN != 0
    }

    /// The dispatcher is to go: now, or when who runs it is done.
    pub(crate) fn retire(&self) {
        // AcqRel: as for who takes the duty, or for who drops the dispatcher in this one's place.
        if self.state.fetch_or(GONE, Ordering::AcqRel) & (HELD | GONE) == 0 {
            // SAFETY: this call has added `GONE` to a state without both.
            unsafe { self.end() }
        }
    }

    /// # Safety
    ///
    /// The caller is the one that drops the dispatcher, see the top.
    unsafe fn end(&self) {
        let dispatcher = self.dispatcher.with_mut(|dispatcher| {
            // SAFETY: nobody else has it, by the contract of this function.
            unsafe { (*dispatcher).take() }
        });
        drop(dispatcher);
    }
}

/// A run that has not come back. Dropped, it has panicked.
struct Held<'a, D>(&'a Duty<D>);

impl<D> Drop for Held<'_, D> {
    fn drop(&mut self) {
        // Relaxed: the release hands over.
        self.0.state.fetch_or(GONE, Ordering::Relaxed);
        self.0.release();
    }
}

#[cfg(all(test, not(shardpool_loom)))]
mod tests {
    use super::*;
    use crate::contain::contain;
    use crate::sync::Arc;

    /// A dispatcher, and how many hold what it holds.
    fn duty() -> (Duty<Arc<()>>, impl Fn() -> usize) {
        let held = Arc::new(());
        (Duty::new(Arc::clone(&held)), move || Arc::strong_count(&held) - 1)
    }

    #[test]
    fn who_comes_during_a_run_goes_away_and_the_dispatcher_is_run_again() {
        let (duty, _) = duty();
        let mut inner = None;
        let outer = duty.run(|_| {
            inner = Some(duty.run(|_| unreachable!("two run it at once")));
            Left::Asleep
        });
        assert_eq!((inner, outer), (Some(Left::Asleep), Left::Busy));
        assert_eq!(duty.run(|_| Left::Asleep), Left::Asleep);
        for left in [Left::Busy, Left::Over] {
            let outer = duty.run(|_| {
                duty.run(|_| unreachable!("two run it at once"));
                left
            });
            assert_eq!(outer, left);
        }
    }

    #[test]
    fn g05_a_dispatcher_that_is_to_go_during_a_run_goes_after_it() {
        let (duty, live) = duty();
        duty.run(|_| {
            duty.retire();
            assert_eq!((live(), duty.run(|_| Left::Asleep)), (1, Left::Over));
            Left::Asleep
        });
        assert_eq!((live(), duty.run(|_| Left::Asleep)), (0, Left::Over));
        duty.retire();
    }

    #[test]
    fn g05_a_dispatcher_that_panics_is_dropped_whoever_runs_it() {
        let (duty, live) = duty();
        assert!(contain(|| duty.run(|_| panic!("a fault of the pool"))).is_err());
        assert_eq!((live(), duty.run(|_| Left::Asleep)), (0, Left::Over));
        duty.retire();
    }
}
