//! The version map and the lanes, as a plain data structure: which aggregates the shard knows,
//! what each has in its backlog, and whose turn is next.
//!
//! Nothing here is async, reads a clock or touches an atomic. A [`Place`] stands for a lane, which
//! may be out with a worker; a [`Backlog`] for a queue of commands. `dispatcher.rs` is the future
//! around this; the tests below run it against a naive model.
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
use crate::prefetch::prefetch;
use slab::Slab;
use std::collections::VecDeque;

/// A lane, as the schedule sees it.
pub(crate) trait Place {
    type Id: Eq;
    fn id(&self) -> &Self::Id;
    /// Whether the lane is home; nothing is asked of it.
    fn is_home(&mut self) -> bool;
    /// Whether the lane is home; if not, it is asked to come back, and will be reported by
    /// [`Schedule::returned`].
    fn recall(&mut self) -> bool;
    /// Whether the lane was asked to come back.
    fn is_asked(&self) -> bool;
    /// The lane came back.
    fn is_back(&mut self);
    /// Asks the processor for the lane.
    fn prefetch(&self);
}

/// A queue of commands.
pub(crate) trait Backlog: Default {
    type Item;
    fn push_back(&mut self, item: Self::Item);
    fn take_front(&mut self, most: usize) -> Self;
    fn is_empty(&self) -> bool;
}

pub(crate) struct Schedule<P: Place, B: Backlog> {
    /// Hash and key in `desks`. The hash is kept, so that no id is hashed again.
    table: HashTable<(u64, usize)>,
    desks: Slab<Desk<P, B>>,
    /// Lanes that are home and have a backlog, in the order of their turns.
    ready: VecDeque<usize>,
    /// Lanes that are out and have a backlog: with `ready`, all that have one.
    behind: Vec<usize>,
    /// How many lanes will be reported by `returned`.
    asked: usize,
    max_turn: usize,
    /// The most lanes to keep, if there is a limit; then `recent` is in use.
    max_resident: Option<usize>,
    recent: Recent,
    /// Every lane that is out was asked to come back, and every one that goes out will be.
    recalling: bool,
}

/// Small, so that there is one line of the cache for each lane.
struct Desk<P, B> {
    place: P,
    backlog: B,
    hash: u64,
    /// Where in `behind` the lane is.
    behind_at: Index,
    /// Neighbours in the order of last use.
    older: Index,
    newer: Index,
    ready: bool,
}

/// The ends of the list of lanes in the order of last use.
#[derive(Default)]
struct Recent {
    oldest: Index,
    newest: Index,
}

/// An optional index in four bytes. A shard has less than 2^32 - 1 lanes: each takes a hundred bytes
/// and more.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Index(u32);

impl Index {
    const NONE: Self = Self(u32::MAX);

    fn new(index: usize) -> Self {
        let index = u32::try_from(index).ok().filter(|&index| index != u32::MAX);
        Self(index.expect("a shard holds less than 2^32 - 1 aggregates"))
    }

    fn get(self) -> Option<usize> {
        (self != Self::NONE).then_some(self.0 as usize)
    }

    fn take(&mut self) -> Option<usize> {
        std::mem::replace(self, Self::NONE).get()
    }
}

impl Default for Index {
    fn default() -> Self {
        Self::NONE
    }
}

/// One turn of one lane.
pub(crate) struct Turn<'a, P, B> {
    pub(crate) place: &'a mut P,
    pub(crate) commands: B,
    /// The lane must come back by itself: more waits for it, or somebody counts.
    pub(crate) wanted: bool,
}

impl<P: Place, B: Backlog> Schedule<P, B> {
    pub(crate) fn new(max_turn: usize, max_resident: Option<usize>) -> Self {
        Self {
            table: HashTable::new(),
            desks: Slab::new(),
            ready: VecDeque::new(),
            behind: Vec::new(),
            asked: 0,
            max_turn,
            max_resident,
            recent: Recent::default(),
            recalling: false,
        }
    }

    /// How many aggregates are resident.
    pub(crate) fn resident(&self) -> usize {
        self.desks.len()
    }

    /// The lane of an aggregate. Calls the id's `Eq`, which may panic: nothing has changed then.
    pub(crate) fn find(&self, hash: u64, id: &P::Id) -> Option<usize> {
        self.table
            .find(hash, |&(h, desk)| h == hash && self.desks[desk].place.id() == id)
            .map(|&(_, desk)| desk)
    }

    /// Where the lane with this hash probably is. The first of three steps that are each taken for a
    /// whole batch before the next: `guess`, [`prefetch`](Self::prefetch), `find_at`. The misses of
    /// many commands overlap then, where those of one come one after the other.
    pub(crate) fn guess(&self, hash: u64) -> Option<usize> {
        let &(_, desk) = self.table.find(hash, |&(h, _)| h == hash)?;
        if let Some(desk) = self.desks.get(desk) {
            prefetch(desk);
        }
        Some(desk)
    }

    /// Asks the processor for the lane of a guess.
    pub(crate) fn prefetch(&self, guess: Option<usize>) {
        if let Some(desk) = guess.and_then(|desk| self.desks.get(desk)) {
            desk.place.prefetch();
        }
    }

    /// As `find`, with a guess, which may have become wrong.
    pub(crate) fn find_at(&self, guess: Option<usize>, hash: u64, id: &P::Id) -> Option<usize> {
        if let Some(at) = guess
            && let Some(desk) = self.desks.get(at)
            && desk.hash == hash
            && desk.place.id() == id
        {
            return guess;
        }
        self.find(hash, id)
    }

    /// The key that the next new lane will have.
    pub(crate) fn next_desk(&self) -> u32 {
        Index::new(self.desks.vacant_key()).0
    }

    /// Adds a lane, which is home; its id is not in the schedule.
    pub(crate) fn insert(&mut self, hash: u64, place: P) -> usize {
        let desk = self.desks.insert(Desk {
            place,
            backlog: B::default(),
            hash,
            behind_at: Index::NONE,
            older: Index::NONE,
            newer: Index::NONE,
            ready: false,
        });
        self.table.insert_unique(hash, (hash, desk), |&(h, _)| h);
        if self.max_resident.is_some() {
            self.link_newest(desk);
        }
        desk
    }

    pub(crate) fn place(&mut self, desk: usize) -> &mut P {
        &mut self.desks[desk].place
    }

    /// Adds a command to a lane. If nobody is before it, and `at_once` says that a turn can be given
    /// out, its turn is the answer; if not, it is in the lane's backlog. Most lanes are idle when a
    /// command comes for them, and need not pass through the ready queue.
    #[inline]
    pub(crate) fn push(
        &mut self,
        desk: usize,
        command: B::Item,
        at_once: bool,
    ) -> Option<Turn<'_, P, B>> {
        if self.max_resident.is_some() {
            self.unlink(desk);
            self.link_newest(desk);
        }
        // With too many lanes the backlog is what keeps this one from being evicted.
        let at_once = at_once && self.ready.is_empty() && !self.is_over();
        let entry = &mut self.desks[desk];
        let first = entry.backlog.is_empty();
        if !(at_once && first && entry.place.is_home()) {
            entry.backlog.push_back(command);
            if first {
                self.settle(desk);
            }
            if self.max_resident.is_some() {
                self.evict();
            }
            return None;
        }
        let wanted = self.recalling;
        self.asked += usize::from(wanted);
        let mut commands = B::default();
        commands.push_back(command);
        Some(Turn { place: &mut self.desks[desk].place, commands, wanted })
    }

    /// Puts a lane with a backlog where it belongs: in the ready queue, or among those that are
    /// behind.
    fn settle(&mut self, desk: usize) {
        let asked = self.asked_to_come(desk);
        let entry = &mut self.desks[desk];
        if asked {
            if entry.behind_at == Index::NONE {
                entry.behind_at = Index::new(self.behind.len());
                self.behind.push(desk);
            }
        } else if !entry.ready {
            entry.ready = true;
            self.ready.push_back(desk);
        }
    }

    /// Recalls a lane; true if it is out and will be reported.
    fn asked_to_come(&mut self, desk: usize) -> bool {
        let place = &mut self.desks[desk].place;
        let before = place.is_asked();
        if place.recall() {
            debug_assert!(!before, "a lane that was asked for is home before it was reported");
            return false;
        }
        if !before {
            self.asked += 1;
        }
        true
    }

    /// The next turn, if any lane is ready.
    pub(crate) fn next_turn(&mut self) -> Option<Turn<'_, P, B>> {
        loop {
            let desk = self.ready.pop_front()?;
            let over = self.is_over();
            let entry = &mut self.desks[desk];
            entry.ready = false;
            let commands = entry.backlog.take_front(self.max_turn);
            if commands.is_empty() {
                // Swept in the meantime: the lane is idle again.
                self.evict();
                continue;
            }
            let wanted = self.recalling || over || !entry.backlog.is_empty();
            if wanted {
                self.asked += 1;
                if !entry.backlog.is_empty() {
                    entry.behind_at = Index::new(self.behind.len());
                    self.behind.push(desk);
                }
            }
            let place = &mut self.desks[desk].place;
            return Some(Turn { place, commands, wanted });
        }
    }

    pub(crate) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// A lane that was asked for has come back.
    pub(crate) fn returned(&mut self, desk: usize) {
        let entry = &mut self.desks[desk];
        if entry.place.is_asked() {
            self.asked -= 1;
        }
        entry.place.is_back();
        if let Some(at) = entry.behind_at.take() {
            self.behind.swap_remove(at);
            if let Some(&moved) = self.behind.get(at) {
                self.desks[moved].behind_at = Index::new(at);
            }
        }
        if !self.desks[desk].backlog.is_empty() {
            self.settle(desk);
        } else {
            self.evict();
        }
    }

    /// Asks every lane that is out to come back, now and from now on.
    pub(crate) fn recall_all(&mut self) {
        if !self.recalling {
            self.recalling = true;
            let keys: Vec<usize> = self.desks.iter().map(|(desk, _)| desk).collect();
            for desk in keys {
                self.asked_to_come(desk);
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

    /// Calls back with every backlog that is not empty.
    pub(crate) fn for_each_backlog(&mut self, mut each: impl FnMut(&mut B)) {
        for &desk in self.ready.iter().chain(&self.behind) {
            each(&mut self.desks[desk].backlog);
        }
    }

    /// Calls back with every lane that is out and has a backlog.
    pub(crate) fn for_each_behind(&self, mut each: impl FnMut(&P, &B)) {
        for &desk in &self.behind {
            let entry = &self.desks[desk];
            each(&entry.place, &entry.backlog);
        }
    }

    // ---- eviction (G12) ----

    fn is_over(&self) -> bool {
        self.max_resident.is_some_and(|most| self.desks.len() > most)
    }

    /// Drops idle lanes, least recently used first, while there are too many. A lane that is in use
    /// counts as just used; it is asked to come back, so that the limit is looked at again then.
    fn evict(&mut self) {
        // A bound on the lanes in use that one call steps over: each call adds at most one lane,
        // and steps over several, so all are asked in the end.
        let mut in_use = 4;
        while self.is_over() && in_use > 0 {
            let Some(desk) = self.recent.oldest.get() else { return };
            let entry = &mut self.desks[desk];
            if entry.backlog.is_empty() && !self.asked_to_come(desk) {
                self.remove(desk);
            } else {
                self.unlink(desk);
                self.link_newest(desk);
                in_use -= 1;
            }
        }
    }

    fn remove(&mut self, desk: usize) {
        self.unlink(desk);
        let hash = self.desks[desk].hash;
        match self.table.find_entry(hash, |&(_, other)| other == desk) {
            Ok(entry) => drop(entry.remove()),
            Err(_) => debug_assert!(false, "lane {desk} is not in the table"),
        }
        // A lane swept while it was ready is still in the queue; its key may be used again.
        if self.desks[desk].ready {
            self.ready.retain(|&other| other != desk);
        }
        drop(self.desks.remove(desk));
    }

    fn link_newest(&mut self, desk: usize) {
        let index = Index::new(desk);
        let before = std::mem::replace(&mut self.recent.newest, index);
        self.desks[desk].older = before;
        self.desks[desk].newer = Index::NONE;
        match before.get() {
            Some(before) => self.desks[before].newer = index,
            None => self.recent.oldest = index,
        }
    }

    fn unlink(&mut self, desk: usize) {
        let entry = &mut self.desks[desk];
        let older = std::mem::take(&mut entry.older);
        let newer = std::mem::take(&mut entry.newer);
        match older.get() {
            Some(older) => self.desks[older].newer = newer,
            None => self.recent.oldest = newer,
        }
        match newer.get() {
            Some(newer) => self.desks[newer].older = older,
            None => self.recent.newest = older,
        }
    }
}

#[cfg(all(test, not(shardpool_loom)))]
mod tests {
    use super::*;
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
    struct Fake {
        id: u32,
        at: Rc<Cell<Where>>,
        out: bool,
        asked: bool,
        /// Lives as long as the lane.
        _resident: Rc<()>,
    }

    impl Place for Fake {
        type Id = u32;

        fn id(&self) -> &u32 {
            &self.id
        }

        fn is_home(&mut self) -> bool {
            if self.out && !self.asked && self.at.get() == Where::Home {
                self.out = false;
            }
            !self.out
        }

        fn recall(&mut self) -> bool {
            match self.at.get() {
                _ if !self.out || self.asked => {}
                Where::Home => self.out = false,
                _ => {
                    self.at.set(Where::Wanted);
                    self.asked = true;
                }
            }
            !self.out
        }

        fn is_asked(&self) -> bool {
            self.asked
        }

        fn is_back(&mut self) {
            self.out = false;
            self.asked = false;
        }

        fn prefetch(&self) {}
    }

    impl Backlog for VecDeque<u64> {
        type Item = u64;

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
    #[derive(Default)]
    struct Aggregate {
        desk: usize,
        at: Rc<Cell<Where>>,
        resident: std::rc::Weak<()>,
        /// Commands pushed and not given out yet.
        backlog: VecDeque<u64>,
        /// When its backlog and the lane at home first came together, while waiting for a turn.
        ready_since: Option<u64>,
        out: bool,
        last_use: u64,
    }

    struct World {
        schedule: Schedule<Fake, VecDeque<u64>>,
        model: BTreeMap<u32, Aggregate>,
        max_turn: usize,
        cap: Option<usize>,
        clock: u64,
        next: u64,
    }

    impl World {
        fn new(rng: &mut fastrand::Rng) -> Self {
            let max_turn = rng.usize(1..5);
            let cap = rng.bool().then(|| rng.usize(1..6));
            Self {
                schedule: Schedule::new(max_turn, cap),
                model: BTreeMap::new(),
                max_turn,
                cap,
                clock: 0,
                next: 0,
            }
        }

        fn tick(&mut self) -> u64 {
            self.clock += 1;
            self.clock
        }

        fn forget_evicted(&mut self) {
            let newest_idle_before: Vec<(u32, u64)> = self
                .model
                .iter()
                .filter(|(_, a)| !a.out && a.backlog.is_empty())
                .map(|(id, a)| (*id, a.last_use))
                .collect();
            let gone: Vec<u32> = self
                .model
                .iter()
                .filter(|(_, a)| a.resident.strong_count() == 0)
                .map(|(id, _)| *id)
                .collect();
            let nothing_busy = self.model.values().all(|a| !a.out && a.backlog.is_empty());
            for id in gone {
                assert!(self.cap.is_some(), "evicted {id} without a limit");
                let evicted = self.model.remove(&id).unwrap();
                assert!(!evicted.out, "evicted {id} while it was out");
                assert!(evicted.backlog.is_empty(), "evicted {id} with a backlog");
                if nothing_busy {
                    for (other, last_use) in &newest_idle_before {
                        if self.model.contains_key(other) {
                            assert!(*last_use > evicted.last_use, "evicted {id}, not {other}");
                        }
                    }
                }
            }
            assert_eq!(self.schedule.resident(), self.model.len());
        }

        fn push(&mut self, id: u32, at_once: bool) {
            let now = self.tick();
            let command = self.next;
            self.next += 1;
            // Few hashes, so that ids share them.
            let hash = u64::from(id % 3);
            let desk = match self.schedule.find(hash, &id) {
                Some(desk) => desk,
                None => {
                    assert!(!self.model.contains_key(&id), "lost {id}");
                    let at = Rc::new(Cell::new(Where::Home));
                    let resident = Rc::new(());
                    let desk = self.schedule.next_desk() as usize;
                    self.model.insert(
                        id,
                        Aggregate {
                            desk,
                            at: Rc::clone(&at),
                            resident: Rc::downgrade(&resident),
                            ..Aggregate::default()
                        },
                    );
                    self.schedule.insert(
                        hash,
                        Fake { id, at, out: false, asked: false, _resident: resident },
                    )
                }
            };
            let aggregate = self.model.get_mut(&id).unwrap();
            assert_eq!(aggregate.desk, desk);
            aggregate.last_use = now;
            aggregate.backlog.push_back(command);
            if !aggregate.out {
                aggregate.ready_since.get_or_insert(now);
            }
            let expected = first_ready(&self.model);
            if let Some(turn) = self.schedule.push(desk, command, at_once) {
                assert!(at_once, "a turn that was not asked for");
                give(&mut self.model, self.max_turn, turn, expected);
            }
            self.forget_evicted();
        }

        fn turn(&mut self) -> bool {
            let expected = first_ready(&self.model);
            let Some(turn) = self.schedule.next_turn() else {
                assert_eq!(expected, None, "a ready lane got no turn");
                return false;
            };
            give(&mut self.model, self.max_turn, turn, expected);
            true
        }

        /// A worker finishes one turn.
        fn finish(&mut self, rng: &mut fastrand::Rng) -> bool {
            let out: Vec<u32> =
                self.model.iter().filter(|(_, a)| a.out).map(|(id, _)| *id).collect();
            let Some(&id) = rng.choice(&out) else { return false };
            let now = self.tick();
            let aggregate = self.model.get_mut(&id).unwrap();
            aggregate.out = false;
            let wanted = aggregate.at.replace(Where::Home) == Where::Wanted;
            if !aggregate.backlog.is_empty() {
                assert!(wanted, "nobody asked for {id}, which has a backlog");
                aggregate.ready_since = Some(now);
            }
            if wanted {
                let desk = aggregate.desk;
                self.schedule.returned(desk);
            }
            self.forget_evicted();
            true
        }
    }

    /// Whose turn it is.
    fn first_ready(model: &BTreeMap<u32, Aggregate>) -> Option<u32> {
        let ready = model.iter().filter_map(|(id, a)| a.ready_since.map(|since| (since, *id)));
        ready.min().map(|(_, id)| id)
    }

    /// A worker gets a turn.
    fn give(
        model: &mut BTreeMap<u32, Aggregate>,
        max_turn: usize,
        turn: Turn<'_, Fake, VecDeque<u64>>,
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
        turn.place.out = true;
        turn.place.asked = turn.wanted;
    }

    fn history(seed: u64) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut world = World::new(&mut rng);
        let ids = rng.u32(1..12);
        for _ in 0..rng.usize(1..120) {
            match rng.u8(..10) {
                0..5 => world.push(rng.u32(..ids), rng.bool()),
                5..8 => drop(world.turn()),
                _ => drop(world.finish(&mut rng)),
            }
        }
        // To the end, by way of the recall half of the time.
        if rng.bool() {
            world.schedule.recall_all();
        }
        while world.turn() || world.finish(&mut rng) {}
        for (id, aggregate) in &world.model {
            assert!(aggregate.backlog.is_empty() && !aggregate.out, "{id} has something left");
        }
        if world.schedule.is_recalling() {
            assert!(world.schedule.is_quiet());
        }
        if let Some(cap) = world.cap {
            assert!(world.schedule.resident() <= cap, "over the limit with nothing busy");
        }
    }

    #[test]
    fn random_histories_agree_with_a_naive_model() {
        for seed in 0..10_000 {
            let done = std::panic::catch_unwind(|| history(seed));
            assert!(done.is_ok(), "seed {seed}");
        }
    }
}
