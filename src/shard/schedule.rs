//! The version map and the lanes, as a plain data structure: which aggregates the shard knows,
//! what each has in its backlog, and whose turn is next.
//!
//! Nothing here is async, reads a clock or touches an atomic. A [`Place`] stands for a lane, which
//! may be out with a worker, and in which the schedule has a [`Desk`] for its own notes; a
//! [`Backlog`] stands for a queue of commands. `dispatcher.rs` is what is around this; the tests
//! below run it against a naive model.
//!
//! An aggregate is in one of these:
//!
//! ```text
//!   idle   the lane is home (or let go without a word), nothing in the backlog
//!   ready  the lane is home, something in the backlog, a place in the ready queue
//!   out    the lane is out, with the commands of one turn; what comes meanwhile is in the
//!          backlog, and then the lane was asked to come back
//! ```
//!
//! **Fair** (G4): a lane that comes back with a backlog goes to the end of the ready queue, and a
//! turn has at most `max_turn` commands.

use hashbrown::HashTable;
use std::cell::Cell;
use std::collections::VecDeque;
use std::num::NonZero;

/// A handle of a lane, as the schedule sees it.
pub(crate) trait Place: Copy + PartialEq {
    type Id: Eq;
    type Backlog: Backlog;
    fn id(&self) -> &Self::Id;
    /// What the schedule keeps in the lane: one miss of the cache less than a table of its own.
    fn desk(&self) -> &Desk<Self>;
    /// Whether the lane is home; nothing is asked of it.
    fn is_home(&self) -> bool;
    /// Whether the lane is home; if not, it is asked to come back, and will be reported by
    /// [`Schedule::returned`].
    fn recall(&self) -> bool;
    /// Whether the lane was asked to come back.
    fn is_asked(&self) -> bool;
    /// The lane came back.
    fn is_back(&self);
    /// Asks the processor for the lane.
    fn prefetch(&self);
    /// Ends the lane; if it is out, as soon as it would come back.
    ///
    /// # Safety
    ///
    /// No copy of the handle is used after this.
    unsafe fn leave(self);
}

/// A queue of commands.
pub(crate) trait Backlog: Default {
    type Item;
    /// The commands of one turn.
    type Turn;
    /// A turn of one command.
    fn alone(item: Self::Item) -> Self::Turn;
    fn push_back(&mut self, item: Self::Item);
    fn take_front(&mut self, most: usize) -> Self::Turn;
    fn is_empty(&self) -> bool;
}

/// The schedule's notes on a lane.
pub(crate) struct Desk<P: Place> {
    /// Kept, so that no id is hashed again.
    hash: u64,
    backlog: Cell<P::Backlog>,
    /// Where in `behind` the lane is, counted from one, if it is there.
    behind_at: Cell<Option<NonZero<u32>>>,
    /// The lane is in the ready queue.
    ready: Cell<bool>,
    /// The lane is in the list of those that may be evicted.
    listed: Cell<bool>,
    /// Its neighbours there.
    older: Cell<Option<P>>,
    newer: Cell<Option<P>>,
}

impl<P: Place> Desk<P> {
    pub(crate) fn new(hash: u64) -> Self {
        Self {
            hash,
            backlog: Cell::default(),
            behind_at: Cell::new(None),
            ready: Cell::new(false),
            listed: Cell::new(false),
            older: Cell::new(None),
            newer: Cell::new(None),
        }
    }

    fn with_backlog<R>(&self, f: impl FnOnce(&mut P::Backlog) -> R) -> R {
        let mut backlog = self.backlog.take();
        let result = f(&mut backlog);
        self.backlog.set(backlog);
        result
    }

    fn has_backlog(&self) -> bool {
        self.with_backlog(|backlog| !backlog.is_empty())
    }
}

pub(crate) struct Schedule<P: Place> {
    /// With the hash of each, so that a lane is only looked at when it is probably the right one.
    lanes: HashTable<(u64, P)>,
    /// Lanes that are home and have a backlog, in the order of their turns.
    ready: VecDeque<P>,
    /// Lanes that are out and have a backlog: with `ready`, all that have one.
    behind: Vec<P>,
    /// How many lanes will be reported by `returned`.
    asked: usize,
    max_turn: usize,
    /// The most lanes to keep, if there is a limit; then `oldest` and `newest` are in use.
    max_resident: Option<usize>,
    /// The ends of the list of lanes that may be evicted, in the order of last use.
    oldest: Option<P>,
    newest: Option<P>,
    /// Every lane that is out was asked to come back, and every one that goes out will be.
    recalling: bool,
}

/// One turn of one lane.
pub(crate) struct Turn<P: Place> {
    pub(crate) place: P,
    pub(crate) commands: <P::Backlog as Backlog>::Turn,
    /// The lane must come back by itself: more waits for it, or somebody counts.
    pub(crate) wanted: bool,
}

type ItemOf<P> = <<P as Place>::Backlog as Backlog>::Item;

impl<P: Place> Schedule<P> {
    pub(crate) fn new(max_turn: usize, max_resident: Option<usize>) -> Self {
        Self {
            lanes: HashTable::new(),
            ready: VecDeque::new(),
            behind: Vec::new(),
            asked: 0,
            max_turn,
            max_resident,
            oldest: None,
            newest: None,
            recalling: false,
        }
    }

    /// How many aggregates are resident.
    pub(crate) fn resident(&self) -> usize {
        self.lanes.len()
    }

    /// All lanes, with their hashes.
    pub(crate) fn lanes(&self) -> impl ExactSizeIterator<Item = (u64, P)> {
        self.lanes.iter().copied()
    }

    /// The lane of an aggregate. Calls the id's `Eq`, which may panic: nothing has changed then.
    #[inline]
    pub(crate) fn find(&self, hash: u64, id: &P::Id) -> Option<P> {
        self.lanes.find(hash, |(h, lane)| *h == hash && lane.id() == id).map(|(_, lane)| *lane)
    }

    /// Asks the processor for the lane with this hash. Called for a whole batch before the first of it
    /// is looked up: the misses of many overlap, where those of one come one after the other.
    #[inline]
    pub(crate) fn prefetch(&self, hash: u64) {
        if let Some((_, lane)) = self.lanes.find(hash, |(h, _)| *h == hash) {
            lane.prefetch();
        }
    }

    /// Adds a lane, which is home; its id is not in the schedule.
    pub(crate) fn insert(&mut self, lane: P) {
        self.lanes.insert_unique(lane.desk().hash, (lane.desk().hash, lane), |(h, _)| *h);
        self.list(lane);
    }

    /// Adds a command to a lane. If nobody is before it, and `at_once` says that a turn can be given
    /// out, its turn is the answer; if not, it is in the lane's backlog. Most lanes are idle when a
    /// command comes for them, and need not pass through the ready queue.
    #[inline]
    pub(crate) fn push(&mut self, lane: P, command: ItemOf<P>, at_once: bool) -> Option<Turn<P>> {
        if self.max_resident.is_some() {
            self.unlist(lane);
            self.list(lane);
        }
        // With too many lanes the backlog is what keeps this one from being evicted. A lane at home
        // that is not ready has no backlog.
        if at_once && self.ready.is_empty() && !self.is_over() && lane.is_home() {
            debug_assert!(!lane.desk().has_backlog(), "a lane with a backlog is not ready");
            let (commands, wanted) = (P::Backlog::alone(command), self.recalling);
            self.asked += usize::from(wanted);
            return Some(Turn { place: lane, commands, wanted });
        }
        let first = lane.desk().with_backlog(|backlog| {
            let first = backlog.is_empty();
            backlog.push_back(command);
            first
        });
        if first {
            self.settle(lane);
        }
        self.evict();
        None
    }

    /// Puts a lane with a backlog where it belongs: in the ready queue, or among those that are
    /// behind.
    fn settle(&mut self, lane: P) {
        if self.asked_to_come(lane) {
            self.add_behind(lane);
        } else if !lane.desk().ready.replace(true) {
            self.ready.push_back(lane);
        }
    }

    fn add_behind(&mut self, lane: P) {
        if lane.desk().behind_at.get().is_none() {
            self.behind.push(lane);
            self.note_behind(self.behind.len());
        }
    }

    /// Notes in a lane where in `behind` it is, counted from one.
    fn note_behind(&self, at: usize) {
        if let Some(lane) = self.behind.get(at.wrapping_sub(1)) {
            let at = u32::try_from(at).ok().and_then(NonZero::new);
            debug_assert!(at.is_some(), "more lanes are out than ring and workers can hold");
            lane.desk().behind_at.set(at);
        }
    }

    /// Recalls a lane; true if it is out and will be reported.
    fn asked_to_come(&mut self, lane: P) -> bool {
        let before = lane.is_asked();
        if lane.recall() {
            debug_assert!(!before, "a lane that was asked for is home before it was reported");
            return false;
        }
        if !before {
            self.asked += 1;
        }
        true
    }

    /// The next turn, if any lane is ready.
    pub(crate) fn next_turn(&mut self) -> Option<Turn<P>> {
        let lane = self.ready.pop_front()?;
        lane.desk().ready.set(false);
        self.list(lane);
        let max_turn = self.max_turn;
        let (commands, more) = lane.desk().with_backlog(|backlog| {
            debug_assert!(!backlog.is_empty(), "a lane without a backlog is ready");
            (backlog.take_front(max_turn), !backlog.is_empty())
        });
        let wanted = self.recalling || self.is_over() || more;
        self.asked += usize::from(wanted);
        if more {
            self.add_behind(lane);
        }
        Some(Turn { place: lane, commands, wanted })
    }

    pub(crate) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// A lane that was asked for has come back.
    pub(crate) fn returned(&mut self, lane: P) {
        if lane.is_asked() {
            self.asked -= 1;
        }
        lane.is_back();
        if let Some(at) = lane.desk().behind_at.take() {
            let at = at.get() as usize;
            self.behind.swap_remove(at - 1);
            self.note_behind(at);
        }
        self.list(lane);
        if lane.desk().has_backlog() {
            self.settle(lane);
        } else {
            self.evict();
        }
    }

    /// Asks every lane that is out to come back, now and from now on.
    pub(crate) fn recall_all(&mut self) {
        if !self.recalling {
            self.recalling = true;
            let lanes: Vec<P> = self.lanes.iter().map(|(_, lane)| *lane).collect();
            for lane in lanes {
                self.asked_to_come(lane);
            }
        }
    }

    pub(crate) fn is_recalling(&self) -> bool {
        self.recalling
    }

    /// After `recall_all`: whether every lane is home and has nothing to do.
    pub(crate) fn is_quiet(&self) -> bool {
        self.recalling && self.asked == 0 && self.ready.is_empty()
    }

    /// Calls back with every backlog that is not empty, to take commands out. Lanes at home that have none
    /// left are idle after it.
    pub(crate) fn revise_backlogs(&mut self, mut revise: impl FnMut(&mut P::Backlog)) {
        for lane in &self.behind {
            lane.desk().with_backlog(&mut revise);
        }
        // All at once: taken out one by one, many of them would take the square of their number.
        for lane in std::mem::take(&mut self.ready) {
            lane.desk().with_backlog(&mut revise);
            if lane.desk().has_backlog() {
                self.ready.push_back(lane);
            } else {
                lane.desk().ready.set(false);
                self.list(lane);
            }
        }
        self.evict();
    }

    /// Calls back with every lane that is out and has a backlog.
    pub(crate) fn for_each_behind(&self, mut each: impl FnMut(&P, &P::Backlog)) {
        for lane in &self.behind {
            lane.desk().with_backlog(|backlog| each(lane, backlog));
        }
    }

    // ---- eviction (G12) ----

    fn is_over(&self) -> bool {
        self.max_resident.is_some_and(|most| self.lanes.len() > most)
    }

    /// Drops idle lanes, least recently used first, while there are too many. A lane that is in use is taken
    /// off the list, and is on it again, as just used, when it is handed out, comes back or loses its backlog:
    /// so it is met once for each use, and what idle lanes there are behind it are found.
    fn evict(&mut self) {
        while self.is_over()
            && let Some(lane) = self.oldest
        {
            self.unlist(lane);
            if !lane.desk().has_backlog() && !self.asked_to_come(lane) {
                self.remove(lane);
            }
        }
    }

    /// Removes a lane that is idle and in no list.
    fn remove(&mut self, lane: P) {
        match self.lanes.find_entry(lane.desk().hash, |(_, other)| *other == lane) {
            Ok(entry) => drop(entry.remove()),
            Err(_) => debug_assert!(false, "a lane is not in the table"),
        }
        // SAFETY: the handle is in none of the lists; without a backlog it is neither ready nor behind.
        unsafe { lane.leave() };
    }

    /// Makes a lane the last to be evicted, unless it is in the list, or there is no limit.
    fn list(&mut self, lane: P) {
        if self.max_resident.is_none() || lane.desk().listed.replace(true) {
            return;
        }
        let before = self.newest.replace(lane);
        lane.desk().older.set(before);
        match before {
            Some(before) => before.desk().newer.set(Some(lane)),
            None => self.oldest = Some(lane),
        }
    }

    /// Takes a lane off the list, if it is there.
    fn unlist(&mut self, lane: P) {
        if !lane.desk().listed.replace(false) {
            return;
        }
        let (older, newer) = (lane.desk().older.take(), lane.desk().newer.take());
        match older {
            Some(older) => older.desk().newer.set(newer),
            None => self.oldest = newer,
        }
        match newer {
            Some(newer) => newer.desk().older.set(older),
            None => self.newest = older,
        }
    }
}

impl<P: Place> Drop for Schedule<P> {
    fn drop(&mut self) {
        for (_, lane) in self.lanes.drain() {
            // Now, not with the lane: that may be out for long.
            drop(lane.desk().backlog.take());
            // SAFETY: the other lists go with this, and do nothing with the handles in them.
            unsafe { lane.leave() };
        }
    }
}

#[cfg(all(test, not(shardpool_loom)))]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::option::of;
    use proptest::prelude::*;
    use proptest::test_runner::{Config, TestRunner};
    use std::cell::Cell;
    use std::collections::BTreeMap;
    use std::rc::Rc;

    #[derive(Debug, Clone, Copy, Default, PartialEq)]
    enum Where {
        #[default]
        Home,
        Out,
        Wanted,
    }

    /// A lane whose worker is the test.
    struct Lane {
        id: u32,
        at: Rc<Cell<Where>>,
        out: Cell<bool>,
        asked: Cell<bool>,
        desk: Desk<Fake>,
        /// Lives as long as the lane.
        _resident: Rc<()>,
    }

    thread_local! {
        /// How often the schedule has looked at a lane.
        static LOOKS: Cell<u64> = const { Cell::new(0) };
    }

    #[derive(Clone, Copy)]
    struct Fake(*const Lane);

    impl PartialEq for Fake {
        fn eq(&self, other: &Self) -> bool {
            LOOKS.set(LOOKS.get() + 1);
            std::ptr::eq(self.0, other.0)
        }
    }

    impl std::ops::Deref for Fake {
        type Target = Lane;

        fn deref(&self) -> &Lane {
            // SAFETY: made from a box, which `leave` takes back.
            unsafe { &*self.0 }
        }
    }

    impl Place for Fake {
        type Id = u32;
        type Backlog = VecDeque<u64>;

        fn id(&self) -> &u32 {
            &self.id
        }

        fn desk(&self) -> &Desk<Self> {
            LOOKS.set(LOOKS.get() + 1);
            &self.desk
        }

        fn is_home(&self) -> bool {
            if self.out.get() && !self.asked.get() && self.at.get() == Where::Home {
                self.out.set(false);
            }
            !self.out.get()
        }

        fn recall(&self) -> bool {
            if !self.is_home() && !self.asked.get() {
                self.at.set(Where::Wanted);
                self.asked.set(true);
            }
            !self.out.get()
        }

        fn is_asked(&self) -> bool {
            self.asked.get()
        }

        fn is_back(&self) {
            self.out.set(false);
            self.asked.set(false);
        }

        fn prefetch(&self) {}

        unsafe fn leave(self) {
            // SAFETY: it came from a box, and its handles are used no more.
            drop(unsafe { Box::from_raw(self.0.cast_mut()) });
        }
    }

    impl Backlog for VecDeque<u64> {
        type Item = u64;
        type Turn = Self;

        fn alone(item: u64) -> Self {
            Self::from([item])
        }

        fn push_back(&mut self, item: u64) {
            VecDeque::push_back(self, item);
        }

        fn take_front(&mut self, most: usize) -> Self {
            self.drain(..most.min(self.len())).collect()
        }

        fn is_empty(&self) -> bool {
            VecDeque::is_empty(self)
        }
    }

    /// What the schedule should do, as slowly and plainly as can be.
    struct Aggregate {
        lane: Fake,
        at: Rc<Cell<Where>>,
        resident: std::rc::Weak<()>,
        /// Commands pushed and not given out yet.
        backlog: VecDeque<u64>,
        /// When its backlog and the lane at home first came together, while waiting for a turn.
        ready_since: Option<u64>,
        out: bool,
    }

    struct World {
        schedule: Schedule<Fake>,
        model: BTreeMap<u32, Aggregate>,
        /// Those that may be evicted, least recently used first. Who is met in use when there are too many leaves it,
        /// until it is used or comes back.
        evictable: Vec<u32>,
        max_turn: usize,
        cap: Option<usize>,
        /// How many different hashes the ids have.
        hashes: u32,
        clock: u64,
        next: u64,
    }

    impl World {
        fn new(max_turn: usize, cap: Option<usize>) -> Self {
            Self {
                schedule: Schedule::new(max_turn, cap),
                model: BTreeMap::new(),
                evictable: Vec::new(),
                max_turn,
                cap,
                // Few, so that ids share them.
                hashes: 3,
                clock: 0,
                next: 0,
            }
        }

        fn tick(&mut self) -> u64 {
            self.clock += 1;
            self.clock
        }

        fn may_evict(&mut self, id: u32) {
            if !self.evictable.contains(&id) {
                self.evictable.push(id);
            }
        }

        /// Now the schedule looks whether there are too many.
        fn evict(&mut self) {
            while self.cap.is_some_and(|cap| self.model.len() > cap) && !self.evictable.is_empty() {
                let id = self.evictable.remove(0);
                let aggregate = &self.model[&id];
                if !aggregate.out && aggregate.backlog.is_empty() {
                    let resident = self.model.remove(&id).unwrap().resident;
                    assert_eq!(resident.strong_count(), 0, "{id} is to be evicted, and was not");
                }
            }
            self.all_others_are_resident();
        }

        fn all_others_are_resident(&self) {
            for (id, aggregate) in &self.model {
                assert_eq!(aggregate.resident.strong_count(), 1, "evicted {id}");
            }
            assert_eq!(self.schedule.resident(), self.model.len());
        }

        fn push(&mut self, id: u32, at_once: bool) {
            let now = self.tick();
            let command = self.next;
            self.next += 1;
            let hash = u64::from(id % self.hashes);
            let lane = self.schedule.find(hash, &id).unwrap_or_else(|| {
                assert!(!self.model.contains_key(&id), "lost {id}");
                let (at, resident) = (Rc::new(Cell::new(Where::Home)), Rc::new(()));
                let lane = Fake(Box::into_raw(Box::new(Lane {
                    id,
                    at: Rc::clone(&at),
                    out: Cell::new(false),
                    asked: Cell::new(false),
                    desk: Desk::new(hash),
                    _resident: Rc::clone(&resident),
                })));
                let (backlog, resident) = (VecDeque::new(), Rc::downgrade(&resident));
                let (ready_since, out) = (None, false);
                self.model.insert(id, Aggregate { lane, at, resident, backlog, ready_since, out });
                self.schedule.insert(lane);
                lane
            });
            let aggregate = self.model.get_mut(&id).unwrap();
            assert!(aggregate.lane == lane);
            aggregate.backlog.push_back(command);
            if !aggregate.out {
                aggregate.ready_since.get_or_insert(now);
            }
            self.evictable.retain(|other| *other != id);
            self.may_evict(id);
            let expected = first_ready(&self.model);
            match self.schedule.push(lane, command, at_once) {
                Some(turn) => {
                    assert!(at_once, "a turn that was not asked for");
                    give(&mut self.model, self.max_turn, turn, expected);
                    self.all_others_are_resident();
                }
                None => self.evict(),
            }
        }

        fn turn(&mut self) -> bool {
            let expected = first_ready(&self.model);
            let turn = self.schedule.next_turn();
            assert_eq!(turn.is_some(), expected.is_some(), "a turn for a lane that is ready");
            let given = turn.map(|turn| give(&mut self.model, self.max_turn, turn, expected));
            expected.into_iter().for_each(|id| self.may_evict(id));
            self.all_others_are_resident();
            given.is_some()
        }

        fn recall(&mut self) {
            self.schedule.recall_all();
            // Those that had come home without a word are not out any more.
            assert!(self.model.values().all(|a| !a.out || a.at.get() == Where::Wanted));
        }

        /// All commands but those of turns are withdrawn.
        fn sweep(&mut self) {
            let expected: usize = self.model.values().map(|a| a.backlog.len()).sum();
            let mut told = 0;
            self.schedule.revise_backlogs(|backlog| told += backlog.drain(..).count());
            assert_eq!(told, expected, "what is in backlogs");
            while let Some(id) = first_ready(&self.model) {
                self.model.get_mut(&id).unwrap().backlog.clear();
                self.may_evict(id);
            }
            for aggregate in self.model.values_mut() {
                aggregate.backlog.clear();
                aggregate.ready_since = None;
            }
            self.evict();
        }

        /// What the schedule tells of itself.
        fn check(&mut self) {
            assert!(self.schedule.has_ready() || first_ready(&self.model).is_none());
            let behind = |a: &Aggregate| a.out && !a.backlog.is_empty();
            let expected: usize =
                self.model.values().filter(|a| behind(a)).map(|a| a.backlog.len()).sum();
            let mut told = 0;
            self.schedule.for_each_behind(|lane, backlog| {
                assert!(lane.out.get(), "behind itself");
                told += backlog.len();
            });
            assert_eq!(told, expected, "what is behind lanes that are out");
            let busy = |a: &Aggregate| a.out || a.ready_since.is_some();
            let quiet = self.schedule.is_recalling() && !self.model.values().any(busy);
            assert_eq!(self.schedule.is_quiet(), quiet);
            let is_over = self.cap.is_some_and(|cap| self.model.len() > cap);
            let idle = self.model.iter().find(|(_, a)| !a.out && a.backlog.is_empty());
            assert!(
                !is_over || idle.is_none(),
                "over the limit, and {:?} is idle",
                idle.unwrap().0
            );
        }

        /// A worker finishes one turn, of those that are out the one that `which` says.
        fn finish(&mut self, which: usize) -> bool {
            let out: Vec<u32> =
                self.model.iter().filter(|(_, a)| a.out).map(|(id, _)| *id).collect();
            let Some(&id) = out.get(which % out.len().max(1)) else { return false };
            let now = self.tick();
            let aggregate = self.model.get_mut(&id).unwrap();
            aggregate.out = false;
            let wanted = aggregate.at.replace(Where::Home) == Where::Wanted;
            let (lane, is_idle) = (aggregate.lane, aggregate.backlog.is_empty());
            if !is_idle {
                assert!(wanted, "nobody asked for {id}, which has a backlog");
                aggregate.ready_since = Some(now);
            }
            if wanted {
                self.schedule.returned(lane);
                self.may_evict(id);
            }
            if wanted && is_idle {
                self.evict();
            }
            self.all_others_are_resident();
            true
        }
    }

    /// Whose turn it is.
    fn first_ready(model: &BTreeMap<u32, Aggregate>) -> Option<u32> {
        let waiting = model.iter().filter(|(_, a)| !a.backlog.is_empty());
        let ready = waiting.filter_map(|(id, a)| a.ready_since.map(|since| (since, *id)));
        ready.min().map(|(_, id)| id)
    }

    /// A worker gets a turn.
    fn give(
        model: &mut BTreeMap<u32, Aggregate>,
        max_turn: usize,
        turn: Turn<Fake>,
        expected: Option<u32>,
    ) {
        let id = turn.place.id;
        assert_eq!(Some(id), expected, "not the lane that was ready first");
        let aggregate = model.get_mut(&id).unwrap();
        assert!(!aggregate.out, "{id} is out twice");
        assert!(turn.commands.len() <= max_turn, "the turn is too long");
        for command in &turn.commands {
            assert_eq!(Some(*command), aggregate.backlog.pop_front(), "out of order");
        }
        assert!(aggregate.backlog.is_empty() || turn.commands.len() == max_turn);
        aggregate.ready_since = None;
        aggregate.out = true;
        aggregate.at.set(if turn.wanted { Where::Wanted } else { Where::Out });
        turn.place.out.set(true);
        turn.place.asked.set(turn.wanted);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Push { id: u32, at_once: bool },
        Turn,
        Finish { which: usize },
        Sweep,
        Recall,
    }

    #[derive(Debug, Clone)]
    struct History {
        max_turn: usize,
        cap: Option<usize>,
        steps: Vec<Step>,
    }

    fn histories() -> impl Strategy<Value = History> {
        let step = |ids: u32| {
            prop_oneof![
                5 => (0..ids, any::<bool>()).prop_map(|(id, at_once)| Step::Push { id, at_once }),
                3 => Just(Step::Turn),
                2 => (0..12usize).prop_map(|which| Step::Finish { which }),
                1 => Just(Step::Sweep),
            ]
        };
        let steps = (1..12u32).prop_flat_map(move |ids| vec(step(ids), 1..120));
        // The recall may come at any time, or never.
        (1..5usize, of(1..6usize), steps, 0..200usize).prop_map(|(max_turn, cap, mut steps, at)| {
            if at <= steps.len() {
                steps.insert(at, Step::Recall);
            }
            History { max_turn, cap, steps }
        })
    }

    fn live(history: History) {
        let mut world = World::new(history.max_turn, history.cap);
        for step in history.steps {
            match step {
                Step::Push { id, at_once } => world.push(id, at_once),
                Step::Turn => drop(world.turn()),
                Step::Finish { which } => drop(world.finish(which)),
                Step::Sweep => world.sweep(),
                Step::Recall => world.recall(),
            }
            world.check();
        }
        while world.turn() || world.finish(0) {}
        for (id, aggregate) in &world.model {
            assert!(aggregate.backlog.is_empty() && !aggregate.out, "{id} has something left");
        }
        if world.schedule.is_recalling() {
            assert!(world.schedule.is_quiet());
        }
        if let Some(cap) = world.cap {
            assert!(world.schedule.resident() <= cap, "over the limit with nothing busy");
        }
        let World { schedule, model, .. } = world;
        drop(schedule);
        assert!(model.values().all(|a| a.resident.strong_count() == 0), "a lane is leaked");
    }

    #[test]
    fn g12_what_is_swept_is_evicted_at_a_cost_in_proportion() {
        let looks = |lanes: u32| {
            let mut world = World::new(1, Some(1));
            world.hashes = lanes;
            (0..lanes).for_each(|id| world.push(id, false));
            let before = LOOKS.get();
            world.schedule.revise_backlogs(VecDeque::clear);
            assert_eq!(world.schedule.resident(), 1);
            LOOKS.get() - before
        };
        let (few, many) = (looks(100), looks(800));
        assert!(many <= 9 * few, "{few} looks at 100 lanes, {many} at 800");
    }

    /// `PROPTEST_CASES` says how many, if not 1,000.
    #[test]
    fn histories_agree_with_a_naive_model() {
        let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok());
        let config = Config {
            cases: cases.unwrap_or(1_000),
            // Shrunk anew each time: a file would have to be kept beside the sources.
            failure_persistence: None,
            ..Config::default()
        };
        TestRunner::new(config)
            .run(&histories(), |history| {
                live(history);
                Ok(())
            })
            .unwrap_or_else(|failed| panic!("{failed}"));
    }
}
