//! What the handlers of one shard wait for, for others to see.
//!
//! Who may touch what, and why no circle is missed and none invented, is at the top of `mod.rs`.

use super::frame::{Frame, Key};
use super::target::{Target, add_new, is_among};
use super::waits::Waits;
use crate::contain::{Panic, Quiet, contain};
use crate::shard::front::Front;
use crate::sync::{Arc, ArcSwapOption, AtomicBool, AtomicUsize, Ordering, fence};

// Ids and cells are the user's, and whoever holds a wait last drops them: in the middle of a change of the board, maybe.
pub(super) struct Wait {
    pub(super) settled: Settled,
    pub(super) target: Quiet<Target>,
}

/// A handler that waits: its aggregate, and what for.
#[derive(Clone)]
pub(super) struct Waiting {
    pub(super) id: Arc<Quiet<Arc<dyn Key>>>,
    pub(super) lane: u64,
    pub(super) waits: Waits<Arc<Wait>>,
    /// The shards that they are for, and some that they were.
    pub(super) fronts: Arc<Vec<Arc<Front>>>,
}

/// Whether a wait was found able to end; one that was not yet may be refused. It also tells one wait from another.
pub(super) type Settled = Arc<AtomicBool>;

/// Lanes by their numbers, in ascending order, and how many commands wait for each.
pub(crate) type Backlogs = Vec<(u64, usize)>;

/// What the handlers of one shard wait for, by worker.
pub(crate) struct Board {
    /// Of a shard in which nothing moves but by handlers that run: how many commands the dispatcher
    /// has for each lane that is out.
    pub(super) report: ArcSwapOption<Backlogs>,
    pub(super) slots: Box<[ArcSwapOption<Waiting>]>,
    /// How many commands are in each worker's turn behind the one whose handler waits.
    pub(super) behind: Box<[AtomicUsize]>,
}

impl Board {
    pub(crate) fn new(workers: usize) -> Self {
        Self {
            report: ArcSwapOption::empty(),
            slots: (0..workers).map(|_| ArcSwapOption::empty()).collect(),
            behind: (0..workers).map(|_| AtomicUsize::new(0)).collect(),
        }
    }

    /// Only for the worker: at each wait that is published, and when its turn was swept meanwhile.
    pub(crate) fn set_behind(&self, worker: usize, commands: usize) {
        // Relaxed: the publication that follows carries it; after a sweep, the count of tombstones.
        self.behind[worker].store(commands, Ordering::Relaxed);
    }

    /// Only for the dispatcher. What it has said before stands, if nothing has changed.
    pub(super) fn report(&self, backlogs: Backlogs) {
        if self.report.load().as_deref() != Some(&backlogs) {
            self.report.store(Some(Arc::new(backlogs)));
        }
    }

    /// Only for the dispatcher: what it reported is about to become untrue.
    pub(crate) fn retract(&self) {
        self.report.store(None);
        // Who sees something of what follows also sees this: see `stands` (`graph.rs`).
        fence(Ordering::SeqCst);
    }

    /// Whether no handler of this shard waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.slots.iter().all(|slot| slot.load().is_none())
    }

    fn edit(&self, worker: usize, edit: impl Fn(Option<Waiting>) -> Option<Waiting>) {
        // A compare-and-exchange loop: the worker's thread adds, and a wait that was moved to
        // another thread may be dropped there at the same time.
        drop(self.slots[worker].rcu(|old| edit(old.as_deref().cloned()).map(Arc::new)));
    }

    /// The handler of this worker is over: it waits for nothing.
    pub(crate) fn clear(&self, worker: usize) {
        self.slots[worker].store(None);
    }
}

/// A published wait. Dropped, it is taken off the board.
pub(crate) struct Guard {
    front: Arc<Front>,
    worker: usize,
    run: u64,
    number: u64,
    /// If so, whoever makes it unable to end is refused instead.
    settled: Settled,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.edit(|waits, _| waits.remove(self.number));
    }
}

impl Guard {
    /// Whether it is of the handler that this frame is of.
    pub(super) fn is_of(&self, frame: &Frame<'_>) -> bool {
        Arc::ptr_eq(frame.front(), &self.front)
            && (frame.worker, frame.run) == (self.worker, self.run)
    }

    /// Changes the wait on the board, if it is there: its number may be one of a later handler's by now.
    fn edit(&self, edit: impl Fn(&mut Waits<Arc<Wait>>, &Wait)) {
        self.front.board.edit(self.worker, |waiting| {
            let mut waiting = waiting?;
            let wait = waiting.waits.get(self.number).map(Arc::clone);
            if let Some(wait) = wait.filter(|wait| Arc::ptr_eq(&self.settled, &wait.settled)) {
                edit(&mut waiting.waits, &wait);
            }
            (!waiting.waits.is_empty()).then_some(waiting)
        });
    }

    pub(super) fn is_settled(&self) -> bool {
        // Relaxed: who asks has settled it itself, if anybody has.
        self.settled.load(Ordering::Relaxed)
    }

    pub(super) fn settle(&self) {
        // Relaxed: a fence follows.
        self.settled.store(true, Ordering::Relaxed);
    }

    /// Says more exactly what is waited for.
    pub(super) fn refine(&self, target: &Target) {
        self.edit(|waits, wait| {
            let settled = Arc::clone(&wait.settled);
            let target = Quiet::new(target.clone());
            waits.replace(self.number, Arc::new(Wait { settled, target }));
        });
    }
}

/// Calls the `Clone` of the handler's own id, which may panic.
pub(super) fn publish(frame: &Frame<'_>, target: Target) -> Result<Guard, Panic> {
    let &Frame { worker, run, lane, .. } = frame;
    let front = Arc::clone(frame.front());
    let published =
        front.board.slots[worker].load().as_ref().map(|waiting| Arc::clone(&waiting.id));
    let id = match published {
        Some(id) => id,
        None => Arc::new(Quiet::new(contain(|| frame.id.to_shared())?)),
    };
    let settled = Settled::new(AtomicBool::new(false));
    let wait = Arc::new(Wait { settled: Arc::clone(&settled), target: Quiet::new(target) });
    let number = frame.published.get();
    frame.published.set(number + 1);
    front.board.set_behind(worker, (frame.behind)());
    front.board.edit(worker, |waiting| {
        let mut waiting = waiting.unwrap_or_else(|| {
            let (id, waits, fronts) = (Arc::clone(&id), Waits::new(), Arc::default());
            Waiting { id, lane, waits, fronts }
        });
        if !wait.target.fronts().iter().all(|front| is_among(&waiting.fronts, front)) {
            let mut fronts = Vec::clone(&waiting.fronts);
            add_new(&mut fronts, wait.target.fronts());
            waiting.fronts = Arc::new(fronts);
        }
        waiting.waits.push(number, Arc::clone(&wait));
        Some(waiting)
    });
    Ok(Guard { front, worker, run, number, settled })
}

#[cfg(all(test, not(shardpool_loom)))]
mod tests {
    use super::*;
    use crate::reentry::Peers;
    use crate::reentry::frame::with_current;
    use crate::reentry::tests::{as_handler, command};
    use std::cell::Cell;

    #[test]
    fn g09_a_wait_that_outlives_its_handler_takes_none_of_the_next_one_off() {
        let peers = Arc::new(Peers::new(Box::new([Arc::new(Front::new(4, 2))]), 2));
        let wait = || {
            as_handler(&peers, 0, || {
                with_current(|frame| publish(frame, command(&peers, 0, 1)).ok()).flatten()
            })
        };
        let board = &peers.fronts[0].board;
        let leaked = wait();
        board.clear(0);
        let next = wait();
        drop(leaked);
        assert!(!board.is_empty());
        drop(next);
        assert!(board.is_empty());
    }

    #[test]
    fn g09_a_wait_whose_destructor_panics_while_another_is_published_hides_none() {
        #[derive(Clone, PartialEq, Eq)]
        struct Bomb;

        impl Drop for Bomb {
            fn drop(&mut self) {
                panic!("a destructor of the user's");
            }
        }

        let peers = Arc::new(Peers::new(Box::new([Arc::new(Front::new(4, 2))]), 2));
        let front = &peers.fronts[0];
        let of_bomb = Some(Arc::new(Bomb) as Arc<dyn Key>);
        let bomb = Target::Command { front: Arc::clone(front), id: of_bomb, cell: None };
        let first = Cell::new(as_handler(&peers, 0, || {
            with_current(|frame| publish(frame, bomb).ok()).flatten()
        }));
        // While one is published, the first, which was moved to another thread, is dropped there.
        front.board.edit(0, |waiting| {
            drop(first.take());
            let (id, waits) = (Arc::new(Quiet::new(Arc::new(0_u8) as Arc<dyn Key>)), Waits::new());
            let new = Waiting { id, lane: 1, waits, fronts: Arc::default() };
            Some(waiting.unwrap_or(new))
        });
        assert!(!front.board.is_empty());
    }
}
