//! Waits inside handlers that could never end are refused (G9).
//!
//! While a worker polls a handler, a thread-local points to a [`Frame`]: which aggregate, shard and
//! worker the code on this thread works for. A wait of the pool's that finds a frame publishes what
//! it waits for on the [`Board`] of the handler's shard, and then looks whether the wait could end:
//!
//! * a handler can end if each of its published waits can;
//! * a wait for a command can end if the command is over, or if the handler that its aggregate is
//!   busy with can end and, unless it has started, some worker of its shard is free or can end;
//! * a wait for room can end if some worker of the shard is free or can end, unless every queued
//!   command is behind a handler that can't ([`jammed`], which only dispatchers can tell);
//! * a wait for a drain can end if every handler of the pool can.
//!
//! What is not published counts as able to end. The answer is the least fixed point of these rules:
//! handlers that wait for each other in a circle are not in it.
//!
//! **No circle is missed.** Each party publishes first, then has a sequentially consistent fence,
//! then reads the boards. Of the parties of a circle, the one whose fence comes last sees all.
//! (Two that close it at the same moment may both be refused.)
//!
//! **None is invented.** What a judgement counts on was there at one moment: it looks twice at each slot that
//! matters. And a wait is *settled* when it was found able to end; until then it may be refused. A handler that could
//! go on but for waits that are not settled has its own polled again. Dispatchers, whose judgement is for good, count
//! settled ones alone, also of a handler that has others: who settles has a fence, and then asks the dispatchers that
//! it finds to judge again; a dispatcher has one before it looks. So one of the two sees the other. Who settles need
//! not ask if it waits for a command that still can end, whatever those wait for that wait by then: if that changes, it
//! is by somebody whose fence comes later, who sees this wait settled, and who asks; or because the command comes to a
//! lobby, and then its submitter asks.
//!
//! **A jam** is a circle that goes through full shards. A dispatcher that has no room, nothing ready
//! and somebody waiting reports on its board how much waits behind each lane that is out, and judges by
//! all reports. A dispatcher retracts its report before it makes any of it untrue (it hands a lane out,
//! grants room, sweeps), and who judges looks last whether the reports that it counted on still stand.
//! It goes on without those that don't. The handler that makes a jam complete, by a wait or by coming to a lobby, asks
//! all its dispatchers. Of these the one that reports last sees all, and need not have the others look again: its report
//! matters to them only if a handler waits for room in its own shard, and that wait it refuses itself. (If its own
//! judgement does not reach that handler, what it does reach is a jam without it, in which another has reported last.)
//!
//! # Who may touch what, and when
//!
//! | field | who writes |
//! | --- | --- |
//! | `slots` | who polls the handler adds a wait or refines it, who drops the wait takes it off, the worker clears all |
//! | `behind` | the worker |
//! | `report` | the dispatcher |
//! | `settled` | who judges the wait, once |
//! | `blocked` | whoever blocks a thread inside a handler, before and after |
//!
//! Only waits inside handlers come here: a command that waits for nothing pays for setting the
//! thread-local. The boards are read without blocking through `arc_swap`.

use crate::cell::{Probed, Stage};
use crate::command::Command;
use crate::contain::{Panic, Quiet, contain};
use crate::shard::front::Front;
use crate::sync::{Arc, ArcSwapOption, AtomicBool, AtomicUsize, Ordering, fence};
use crate::waits::Waits;
use std::any::Any;
use std::cell::Cell;
use std::ops::Range;
use std::ptr::NonNull;
use std::task::Context;

/// An aggregate id of any type.
pub(crate) trait Key: Any + Send + Sync {
    fn same(&self, other: &dyn Key) -> bool;
    fn to_shared(&self) -> Arc<dyn Key>;
}

impl<K: Eq + Clone + Send + Sync + 'static> Key for K {
    fn same(&self, other: &dyn Key) -> bool {
        (other as &dyn Any).downcast_ref::<K>().is_some_and(|other| self == other)
    }

    fn to_shared(&self) -> Arc<dyn Key> {
        Arc::new(self.clone())
    }
}

/// What all shards of a pool share for this.
pub(crate) struct Peers {
    pub(crate) fronts: Box<[Arc<Front>]>,
    /// How many handlers block their thread in a wait of the pool's.
    blocked: AtomicUsize,
    /// How many threads the executor has.
    threads: usize,
}

impl Peers {
    pub(crate) fn new(fronts: Box<[Arc<Front>]>, threads: usize) -> Self {
        Self { fronts, blocked: AtomicUsize::new(0), threads }
    }
}

/// Which handler the code on this thread works for.
pub(crate) struct Frame<'a> {
    pub(crate) peers: &'a Arc<Peers>,
    pub(crate) shard: usize,
    pub(crate) worker: usize,
    pub(crate) id: &'a dyn Key,
    pub(crate) lane: u64,
    /// Counts the futures that this worker has driven, so that a wait can tell one handler from the next.
    pub(crate) run: u64,
    /// Counts the commands of the same turn that wait behind this one.
    pub(crate) behind: &'a dyn Fn() -> usize,
    /// How many waits the handler has published: the number of the next, and whether the worker must clean up
    /// after it, as it may leak one.
    pub(crate) published: &'a Cell<u64>,
}

#[cfg(not(shardpool_loom))]
thread_local! {
    static CURRENT: Cell<Option<NonNull<()>>> = const { Cell::new(None) };
}

// loom runs all of a model's threads on one of the system's.
#[cfg(shardpool_loom)]
loom::thread_local! {
    static CURRENT: Cell<Option<NonNull<()>>> = Cell::new(None);
}

impl Frame<'_> {
    /// Runs `f` with this frame as the thread's current one.
    #[inline]
    pub(crate) fn scope<R>(&self, f: impl FnOnce() -> R) -> R {
        struct Restore(Option<NonNull<()>>);

        impl Drop for Restore {
            fn drop(&mut self) {
                CURRENT.with(|current| current.set(self.0));
            }
        }

        let _restore =
            Restore(CURRENT.with(|current| current.replace(Some(NonNull::from(self).cast()))));
        f()
    }

    fn front(&self) -> &Arc<Front> {
        &self.peers.fronts[self.shard]
    }

    fn is_that_of(&self, guard: &Guard) -> bool {
        Arc::ptr_eq(self.front(), &guard.front)
            && (self.worker, self.run) == (guard.worker, guard.run)
    }
}

/// Calls back with the current frame, if this is inside a handler.
fn with_current<R>(f: impl FnOnce(&Frame<'_>) -> R) -> Option<R> {
    let frame = CURRENT.try_with(Cell::get).ok().flatten()?;
    // SAFETY: the pointer was made from a `&Frame` by `scope`, which is further up this thread's
    // stack, and which restores the old one before that borrow ends.
    Some(f(unsafe { frame.cast::<Frame<'_>>().as_ref() }))
}

/// Whether this is inside a handler of some pool.
#[inline]
pub(crate) fn in_handler() -> bool {
    CURRENT.try_with(Cell::get).ok().flatten().is_some()
}

/// What a handler waits for.
#[derive(Clone)]
pub(crate) enum Target {
    /// The outcome of a command. `id` or, once it is dispatched, `cell` tells its aggregate.
    Command { front: Arc<Front>, id: Option<Arc<dyn Key>>, cell: Option<Probed> },
    /// Room in a shard's queue.
    Room { front: Arc<Front>, cell: Option<Probed> },
    /// The end of a pool.
    Drain(Arc<Peers>),
}

fn is_among(fronts: &[Arc<Front>], other: &Arc<Front>) -> bool {
    fronts.iter().any(|front| Arc::ptr_eq(front, other))
}

/// Adds those of some shards that are not there yet.
fn add_new(fronts: &mut Vec<Arc<Front>>, others: &[Arc<Front>]) {
    for other in others {
        if !is_among(fronts, other) {
            fronts.push(Arc::clone(other));
        }
    }
}

impl Target {
    /// The shards that must do something for it.
    fn fronts(&self) -> &[Arc<Front>] {
        match self {
            Target::Command { front, .. } | Target::Room { front, .. } => {
                std::slice::from_ref(front)
            }
            Target::Drain(peers) => &peers.fronts,
        }
    }

    /// The number of the lane that the awaited command is in, 0 if it is not known.
    fn lane(&self) -> u64 {
        match self {
            Target::Command { cell: Some(cell), .. } => cell.lane(),
            _ => 0,
        }
    }

    /// The target for a ticket of the pool that the current handler belongs to, whose aggregate is
    /// not known. `None` for one of another pool.
    pub(crate) fn of_ticket(front: *const Front, cell: Probed) -> Option<Self> {
        with_current(|frame| {
            let front = frame.peers.fronts.iter().find(|f| Arc::as_ptr(f) == front)?;
            Some(Target::Command { front: Arc::clone(front), id: None, cell: Some(cell) })
        })
        .flatten()
    }
}

/// Of a submission that was made inside a handler: its aggregate.
pub(crate) struct Origin {
    front: Arc<Front>,
    id: Arc<dyn Key>,
}

impl Origin {
    /// What a wait for the outcome waits for.
    pub(crate) fn target(&self, cell: Option<Probed>) -> Target {
        let (front, id) = (Arc::clone(&self.front), Some(Arc::clone(&self.id)));
        Target::Command { front, id, cell }
    }
}

// Ids and cells are the user's, and whoever holds a wait last drops them: in the middle of a change of the board, maybe.
struct Wait {
    settled: Settled,
    target: Quiet<Target>,
}

/// A handler that waits: its aggregate, and what for.
#[derive(Clone)]
struct Waiting {
    id: Arc<Quiet<Arc<dyn Key>>>,
    lane: u64,
    waits: Waits<Arc<Wait>>,
    /// The shards that they are for, and some that they were.
    fronts: Arc<Vec<Arc<Front>>>,
}

/// Whether a wait was found able to end; one that was not yet may be refused. It also tells one wait from another.
type Settled = Arc<AtomicBool>;

/// Lanes by their numbers, in ascending order, and how many commands wait for each.
pub(crate) type Backlogs = Vec<(u64, usize)>;

/// What the handlers of one shard wait for, by worker.
pub(crate) struct Board {
    /// Of a shard in which nothing moves but by handlers that run: how many commands the dispatcher
    /// has for each lane that is out.
    report: ArcSwapOption<Backlogs>,
    slots: Box<[ArcSwapOption<Waiting>]>,
    /// How many commands are in each worker's turn behind the one whose handler waits.
    behind: Box<[AtomicUsize]>,
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
    fn report(&self, backlogs: Backlogs) {
        if self.report.load().as_deref() != Some(&backlogs) {
            self.report.store(Some(Arc::new(backlogs)));
        }
    }

    /// Only for the dispatcher: what it reported is about to become untrue.
    pub(crate) fn retract(&self) {
        self.report.store(None);
        // Who sees something of what follows also sees this: see [`stands`].
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

    fn is_settled(&self) -> bool {
        // Relaxed: who asks has settled it itself, if anybody has.
        self.settled.load(Ordering::Relaxed)
    }

    fn settle(&self) {
        // Relaxed: a fence follows.
        self.settled.store(true, Ordering::Relaxed);
    }

    /// Says more exactly what is waited for.
    fn refine(&self, target: &Target) {
        self.edit(|waits, wait| {
            let settled = Arc::clone(&wait.settled);
            let target = Quiet::new(target.clone());
            waits.replace(self.number, Arc::new(Wait { settled, target }));
        });
    }
}

/// Whether a wait may go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It can end, or this is not inside a handler.
    Fine,
    /// It could never end.
    Stuck,
    /// The aggregate of the awaited command is not known yet, or it depends on waits that may yet be refused: have
    /// it polled again.
    Unknown,
}

/// What a future of the pool's keeps for a wait: nothing, outside of handlers.
#[derive(Default)]
pub(crate) struct Watch(Option<Box<Watched>>);

#[derive(Default)]
struct Watched {
    /// Of a submission that was made inside a handler.
    origin: Option<Origin>,
    /// Of a wait that a handler has polled.
    guard: Option<Guard>,
    /// How often it gave way to others.
    gave_way: u32,
}

impl Watch {
    /// For a command that is submitted inside a handler. Calls the id's `Clone`, which may panic.
    pub(crate) fn of<C: Command>(front: &Arc<Front>, command: &C) -> Result<Self, Panic> {
        let id = contain(|| Key::to_shared(command.aggregate_id()))?;
        let origin = Some(Origin { front: Arc::clone(front), id });
        Ok(Self(Some(Box::new(Watched { origin, ..Watched::default() }))))
    }

    /// Called at each poll of a wait: whether it could never end. While that can't be told, it is polled again.
    #[inline]
    pub(crate) fn is_stuck(
        &mut self,
        cx: &mut Context<'_>,
        target: impl FnOnce(Option<&Origin>) -> Option<Target>,
    ) -> bool {
        let verdict = self.judge(target);
        if verdict == Verdict::Unknown {
            // A command that is still in its channel needs no more than one run of the dispatcher, which is awake.
            cx.waker().wake_by_ref();
        }
        verdict == Verdict::Stuck
    }

    /// Inside a handler, publishes the wait, once, and tells whether it can end. `target` may answer that there
    /// is nothing to publish.
    #[inline]
    pub(crate) fn judge(
        &mut self,
        target: impl FnOnce(Option<&Origin>) -> Option<Target>,
    ) -> Verdict {
        if self.0.is_none() && !in_handler() {
            return Verdict::Fine;
        }
        let Watched { origin, guard, gave_way } = &mut **self.0.get_or_insert_default();
        watch(guard, gave_way, || target(origin.as_ref()))
    }

    /// Says more exactly what is waited for, if the wait is published.
    pub(crate) fn refine(&self, target: impl FnOnce(Option<&Origin>) -> Target) {
        if let Some(watched) = &self.0
            && let Some(guard) = &watched.guard
        {
            guard.refine(&target(watched.origin.as_ref()));
        }
    }

    /// A submission whose outcome is waited for, and which might have been accepted, has come to a lobby. What it depends
    /// on has changed; so those judge anew who have done so before.
    pub(crate) fn came_to_a_lobby(&self, target: impl FnOnce(Option<&Origin>) -> Target) {
        if let Some(watched) = &self.0
            && watched.guard.is_some()
        {
            fence(Ordering::SeqCst);
            ask_for_reviews(&target(watched.origin.as_ref()));
        }
    }

    /// A submission was granted room. If it was made outside, and polled by a handler since, it was that
    /// which was published; what it waits for next is published and judged anew.
    pub(crate) fn granted(&mut self) {
        if let Some(watched) = &mut self.0
            && watched.origin.is_none()
        {
            watched.guard = None;
        }
    }

    /// Takes the wait off the board.
    #[inline]
    pub(crate) fn take_off(&mut self) {
        if let Some(watched) = &mut self.0 {
            watched.guard = None;
        }
    }
}

/// So often a wait gives way to others that may yet be refused. Then it is refused itself.
const GIVE_WAY: u32 = if cfg!(shardpool_loom) { 1 } else { 64 };

#[cold]
fn watch(
    guard: &mut Option<Guard>,
    gave_way: &mut u32,
    target: impl FnOnce() -> Option<Target>,
) -> Verdict {
    let verdict = with_current(|frame| {
        if let Some(published) = guard.as_ref()
            && frame.is_that_of(published)
            && published.is_settled()
        {
            return Verdict::Fine;
        }
        // Polled by another handler than before, or not settled yet: publish anew.
        *guard = None;
        let Some(target) = target() else { return Verdict::Fine };
        // A wait that can't be published can't be told from one that never ends.
        let Ok(published) = publish(frame, target.clone()) else { return Verdict::Stuck };
        fence(Ordering::SeqCst);
        let verdict = match judge(frame, &target) {
            Judged::ByUnsettled if *gave_way < GIVE_WAY => {
                *gave_way += 1;
                Verdict::Unknown
            }
            Judged::ByUnsettled => Verdict::Stuck,
            Judged::As(verdict) => verdict,
        };
        if verdict != Verdict::Unknown {
            *gave_way = 0;
        }
        if verdict == Verdict::Stuck {
            // Off the board before anything else: nobody is to be judged by a wait that is refused.
            drop(published);
            return verdict;
        }
        if verdict == Verdict::Fine {
            published.settle();
            // From here on dispatchers count it. This may have been the last handler that could have made room
            // in any shard on which it depends by now. A wake alone would be lost on a dispatcher that has looked
            // at the boards and is about to sleep.
            fence(Ordering::SeqCst);
            if !can_end_anyway(&target) {
                ask_for_reviews(&target);
            }
        }
        *guard = Some(published);
        verdict
    });
    verdict.unwrap_or_else(|| {
        // Moved out of the handler that it was first polled in.
        *guard = None;
        Verdict::Fine
    })
}

/// Calls the `Clone` of the handler's own id, which may panic.
fn publish(frame: &Frame<'_>, target: Target) -> Result<Guard, Panic> {
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

/// A handler that waits.
struct Node {
    front: usize,
    worker: usize,
    waiting: Arc<Waiting>,
    /// What was known of each of its waits at first sight.
    seen: Vec<Seen>,
    /// They all count, settled or not.
    all_count: bool,
    can_end: bool,
}

#[derive(Clone, Copy)]
struct Seen {
    /// Of the command that is waited for, 0 if it was not known.
    lane: u64,
    settled: bool,
}

impl Node {
    /// The waits that count.
    fn counted(&self) -> impl Iterator<Item = (u64, &Arc<Wait>, Seen)> {
        let waits = self.waiting.waits.iter().zip(&self.seen);
        let waits = waits.map(|((number, wait), &seen)| (number, wait, seen));
        waits.filter(|(.., seen)| self.all_count || seen.settled)
    }
}

/// A shard that handlers wait for.
struct Reached {
    front: Arc<Front>,
    /// Of its dispatcher, if that can tell that no room will come.
    report: Option<Arc<Backlogs>>,
    /// Every queued command is behind a handler that can't end.
    full: bool,
}

/// Who judges.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    /// A handler, of its own wait: all that is published counts.
    Handler,
    /// A dispatcher that has lost a worker. It counts settled waits alone.
    Bereft,
    /// A dispatcher that has no room. It doesn't either, and counts reports.
    Jammed,
}

/// What a judgement looks at: the boards that can be reached from the wait in question.
#[derive(Default)]
struct Graph {
    fronts: Vec<Reached>,
    nodes: Vec<Node>,
}

/// What a handler finds of its wait.
enum Judged {
    /// Whether it can end, but for jams.
    As(Verdict),
    /// It can't, but only because of waits of others that may yet be refused.
    ByUnsettled,
}

fn judge(frame: &Frame<'_>, target: &Target) -> Judged {
    // What is not known yet stays unknown for the whole judgement: a lane that became known halfway
    // would find its own handler already taken for one that can end.
    let lane = target.lane();
    let verdict = Graph::at(target).can_end(target, lane);
    if verdict != Verdict::Stuck {
        return Judged::As(verdict);
    }
    let mut graph = Graph::around(target, By::Handler);
    match graph.can_end(target, lane) {
        Verdict::Stuck if !graph.is_stuck_by_settled(frame, target, lane) => Judged::ByUnsettled,
        verdict => Judged::As(verdict),
    }
}

/// Whether a command that is not in a lobby ends whatever the handlers that wait now wait for. For one that is about to
/// be submitted, and comes to a lobby, see `came_to_a_lobby`.
fn can_end_anyway(target: &Target) -> bool {
    let Target::Command { cell, .. } = target else { return false };
    cell.as_ref().is_none_or(|cell| cell.stage() != Stage::Waiting)
        && Graph::at(target).can_end(target, target.lane()) == Verdict::Fine
}

/// Asked by a dispatcher that has no room, nothing ready, no tombstones and somebody waiting: whether
/// every queued command is behind a handler that can't end. If so, room will never come; the answer is
/// the cells of what those handlers wait for: the submissions among them are to be refused.
pub(crate) fn jammed(front: &Arc<Front>, backlogs: Backlogs) -> Vec<*const ()> {
    front.board.report(backlogs);
    fence(Ordering::SeqCst);
    let room = Target::Room { front: Arc::clone(front), cell: None };
    let graph = Graph::around(&room, By::Jammed);
    if !graph.is_full(front) {
        return Vec::new();
    }
    graph
        .nodes
        .iter()
        .filter(|node| !node.can_end)
        .flat_map(|node| node.waiting.waits.iter().map(|(_, wait)| wait))
        // Whichever of them are in this shard's lobby.
        .filter_map(|wait| match &*wait.target {
            Target::Room { cell, .. } | Target::Command { cell, .. } => cell.as_ref(),
            Target::Drain(_) => None,
        })
        .map(Probed::address)
        .collect()
}

/// Asked by a dispatcher that has lost a worker: whether one is left that is free, or busy with a
/// handler that can end. A wait that was found able to end counted on the lost one, maybe.
pub(crate) fn has_worker(front: &Arc<Front>) -> bool {
    // The loss first, then the look at who has settled: see `watch`.
    fence(Ordering::SeqCst);
    let room = Target::Room { front: Arc::clone(front), cell: None };
    Graph::around(&room, By::Bereft).has_worker(front)
}

/// Said by a dispatcher that has lost a worker, once: a shard may be jammed now that counted on that. Who begins to wait
/// later sees the loss.
pub(crate) fn tell_of_loss(front: &Arc<Front>) {
    // The loss first, then the look at who has settled: see `watch`.
    fence(Ordering::SeqCst);
    ask_for_reviews(&Target::Room { front: Arc::clone(front), cell: None });
}

/// Has the dispatchers of all shards that a wait depends on judge anew those who wait there.
fn ask_for_reviews(target: &Target) {
    let mut fronts = target.fronts().to_vec();
    let mut at = 0;
    while let Some(front) = fronts.get(at).map(Arc::clone) {
        for slot in &front.board.slots {
            if let Some(waiting) = slot.load().as_ref() {
                add_new(&mut fronts, &waiting.fronts);
            }
        }
        front.ask_for_review_if_it_matters();
        at += 1;
    }
}

impl Graph {
    /// All that bears on a wait, with what can end marked.
    fn around(target: &Target, by: By) -> Self {
        loop {
            let mut graph = Self::see(target, by);
            // What was counted on is looked at last.
            while graph.mark_nodes() || graph.mark_fronts() || graph.mark_stale() {}
            // The slots were read one after the other. If those that matter are the same still, there was a moment
            // at which all of them were so; and if not, somebody has gone on.
            if graph.nodes.iter().all(|node| node.can_end || graph.is_still_there(node)) {
                return graph;
            }
        }
    }

    fn is_still_there(&self, node: &Node) -> bool {
        let now = self.fronts[node.front].front.board.slots[node.worker].load();
        now.as_ref().is_some_and(|now| {
            let is_there =
                |number, wait| now.waits.get(number).is_some_and(|other| Arc::ptr_eq(other, wait));
            Arc::ptr_eq(now, &node.waiting)
                || node.counted().all(|(number, wait, _)| is_there(number, wait))
        })
    }

    /// What a wait depends on at first hand: the shards that it is for, and the handlers that wait there, taken for
    /// such as can't end. Most waits can end all the same, and need no look at what those wait for.
    fn at(target: &Target) -> Self {
        let mut graph = Self::default();
        graph.reach(target);
        for at in 0..graph.fronts.len() {
            graph.look_at(at);
        }
        graph
    }

    /// Adds the handlers that wait in a shard.
    fn look_at(&mut self, at: usize) -> Range<usize> {
        let first = self.nodes.len();
        for (worker, slot) in self.fronts[at].front.board.slots.iter().enumerate() {
            let Some(waiting) = slot.load_full() else { continue };
            let (seen, all_count, can_end) = (Vec::new(), true, false);
            self.nodes.push(Node { front: at, worker, waiting, seen, all_count, can_end });
        }
        first..self.nodes.len()
    }

    /// All that bears on a wait.
    fn see(target: &Target, by: By) -> Self {
        let mut graph = Self::default();
        graph.reach(target);
        let mut at = 0;
        while at < graph.fronts.len() {
            let nodes = graph.look_at(at);
            for n in nodes {
                let waiting = Arc::clone(&graph.nodes[n].waiting);
                for (_, wait) in waiting.waits.iter() {
                    graph.reach(&wait.target);
                    // Relaxed: the fences of who settles and of who judges decide.
                    let settled = wait.settled.load(Ordering::Relaxed);
                    graph.nodes[n].seen.push(Seen { lane: wait.target.lane(), settled });
                }
                graph.nodes[n].all_count = by == By::Handler;
            }
            if by == By::Jammed {
                let report = graph.fronts[at].front.board.report.load_full();
                graph.fronts[at].full = report.is_some();
                graph.fronts[at].report = report;
            }
            at += 1;
        }
        graph
    }

    /// Of a wait that can't end: whether that is so without waits of other handlers that may yet be refused.
    fn is_stuck_by_settled(&mut self, frame: &Frame<'_>, target: &Target, lane: u64) -> bool {
        for node in &mut self.nodes {
            node.all_count = node.worker == frame.worker
                && Arc::ptr_eq(&self.fronts[node.front].front, frame.front());
            node.can_end = false;
        }
        while self.mark_nodes() {}
        self.can_end(target, lane) == Verdict::Stuck
    }

    /// Marks the handlers that can end by what is known; true if there are more than before.
    fn mark_nodes(&mut self) -> bool {
        let ends: Vec<usize> = (0..self.nodes.len())
            .filter(|&n| {
                let node = &self.nodes[n];
                let can_end =
                    |wait: &Wait, lane| self.can_end(&wait.target, lane) != Verdict::Stuck;
                !node.can_end && node.counted().all(|(_, wait, seen)| can_end(wait, seen.lane))
            })
            .collect();
        for &n in &ends {
            self.nodes[n].can_end = true;
        }
        !ends.is_empty()
    }

    /// Marks the shards in which room will come by what is known; true if there are more than before.
    fn mark_fronts(&mut self) -> bool {
        let opens: Vec<usize> = (0..self.fronts.len())
            .filter(|&at| {
                let Reached { front, report: Some(report), full: true } = &self.fronts[at] else {
                    return false;
                };
                let backlog = |lane| {
                    report.binary_search_by_key(&lane, |&(lane, _)| lane).map_or(0, |i| report[i].1)
                };
                let stuck = self.nodes.iter().filter(|node| node.front == at && !node.can_end);
                let behind: usize = stuck
                    .map(|node| {
                        let turn = front.board.behind[node.worker].load(Ordering::Relaxed);
                        turn + backlog(node.waiting.lane)
                    })
                    .sum();
                // While somebody waits, only the dispatcher adds to the queue, and it retracts its
                // report first: the queue can but have become less.
                (behind as u64) < front.queued()
            })
            .collect();
        for &at in &opens {
            self.fronts[at].full = false;
        }
        !opens.is_empty()
    }

    /// Marks the shards whose reports are not true any more; true if there are any.
    fn mark_stale(&mut self) -> bool {
        let mut found = false;
        for Reached { front, report, full } in self.fronts.iter_mut().filter(|r| r.full) {
            if !stands(front, report.as_ref()) {
                *full = false;
                found = true;
            }
        }
        found
    }

    fn is_full(&self, front: &Arc<Front>) -> bool {
        self.fronts.iter().any(|reached| reached.full && Arc::ptr_eq(&reached.front, front))
    }

    fn reach(&mut self, target: &Target) {
        for front in target.fronts() {
            if !self.fronts.iter().any(|reached| Arc::ptr_eq(&reached.front, front)) {
                self.fronts.push(Reached { front: Arc::clone(front), report: None, full: false });
            }
        }
    }

    fn nodes_of<'a>(&'a self, front: &'a Arc<Front>) -> impl Iterator<Item = &'a Node> {
        self.nodes.iter().filter(|node| Arc::ptr_eq(&self.fronts[node.front].front, front))
    }

    /// Some worker of the shard is free, or busy with a handler that can end.
    fn has_worker(&self, front: &Arc<Front>) -> bool {
        let mut waiting = 0;
        for node in self.nodes_of(front) {
            if node.can_end {
                return true;
            }
            waiting += 1;
        }
        waiting < front.workers_left()
    }

    /// By what is known so far: `can_end` of the nodes only ever turns from false to true.
    fn can_end(&self, target: &Target, lane: u64) -> Verdict {
        let fine = |yes: bool| if yes { Verdict::Fine } else { Verdict::Stuck };
        match target {
            Target::Room { front, cell } => {
                let stage = cell.as_ref().map_or(Stage::Waiting, |cell| cell.stage());
                fine(stage != Stage::Waiting || (!self.is_full(front) && self.has_worker(front)))
            }
            Target::Drain(peers) => {
                fine(peers.fronts.iter().all(|front| self.nodes_of(front).all(|node| node.can_end)))
            }
            Target::Command { front, id, cell } => {
                let stage = cell.as_ref().map_or(Stage::Waiting, |cell| cell.stage());
                if stage == Stage::Over {
                    return Verdict::Fine;
                }
                if stage == Stage::Waiting && cell.is_some() && self.is_full(front) {
                    return Verdict::Stuck;
                }
                if id.is_none() && lane == 0 {
                    return fine_or_unknown(self.has_worker(front));
                }
                // Not the first alone: what a lost worker had leaked may be there as well.
                let mut busy = self.nodes_of(front).filter(|node| match id {
                    // The user's `Eq`: if it panics, they are not known to be the same.
                    Some(id) => contain(|| id.same(&***node.waiting.id)).unwrap_or(false),
                    None => node.waiting.lane == lane,
                });
                fine(
                    busy.all(|node| node.can_end)
                        && (stage == Stage::Started || self.has_worker(front)),
                )
            }
        }
    }
}

/// Whether a shard's report is still true.
fn stands(front: &Front, report: Option<&Arc<Backlogs>>) -> bool {
    if front.has_tombstones() {
        // Counted as commands, maybe. Its dispatcher must have looked at them before it counts.
        front.ask_for_sweep();
        return false;
    }
    if front.has_room() || front.is_closed() {
        return false;
    }
    // After the look at the room: who has seen a grant sees that the report was retracted.
    fence(Ordering::SeqCst);
    let now = front.board.report.load();
    now.as_ref().zip(report).is_some_and(|(now, then)| Arc::ptr_eq(now, then))
}

fn fine_or_unknown(has_worker: bool) -> Verdict {
    if has_worker { Verdict::Unknown } else { Verdict::Stuck }
}

/// A handler that blocks its thread in a wait of the pool's.
pub(crate) struct Blocked(Option<Arc<Peers>>);

impl Drop for Blocked {
    fn drop(&mut self) {
        if let Some(peers) = &self.0 {
            // Relaxed: as in `may_block`.
            peers.blocked.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Asked before a blocking wait. Inside a handler the thread is the executor's; `None` if it is the
/// last one: then nobody would be left to end the wait.
pub(crate) fn may_block() -> Option<Blocked> {
    with_current(|frame| {
        let peers = frame.peers;
        // Relaxed: a count, decided by the order of its own modifications. One that is refused never counts.
        let counted = peers.blocked.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |blocked| {
            (blocked + 1 < peers.threads).then_some(blocked + 1)
        });
        counted.is_ok().then(|| Blocked(Some(Arc::clone(peers))))
    })
    .unwrap_or(Some(Blocked(None)))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Acts as the handler of an aggregate of the first shard, which has the worker of the same number.
    pub(crate) fn as_handler<R>(peers: &Arc<Peers>, id: u8, act: impl FnOnce() -> R) -> R {
        as_handler_at(peers, 0, usize::from(id), id, act)
    }

    /// Acts as the handler of an aggregate that some worker of some shard has.
    pub(crate) fn as_handler_at<R>(
        peers: &Arc<Peers>,
        shard: usize,
        worker: usize,
        id: u8,
        act: impl FnOnce() -> R,
    ) -> R {
        let published = Cell::new(0);
        let frame = Frame {
            peers,
            shard,
            worker,
            id: &id,
            lane: u64::from(id) + 1,
            run: 1,
            behind: &|| 0,
            published: &published,
        };
        frame.scope(act)
    }

    /// A command of an aggregate of this shard.
    pub(crate) fn command(peers: &Peers, shard: usize, id: u8) -> Target {
        let front = Arc::clone(&peers.fronts[shard]);
        Target::Command { front, id: Some(Arc::new(id)), cell: None }
    }

    #[cfg(not(shardpool_loom))]
    #[test]
    fn g09_a_wait_gives_way_to_one_that_may_yet_be_refused_but_not_for_ever() {
        let peers = Arc::new(Peers::new(Box::new([Arc::new(Front::new(4, 3))]), 3));
        // One has said what it waits for, and does not know yet whether that can end.
        let other = as_handler(&peers, 0, || {
            with_current(|frame| publish(frame, command(&peers, 0, 1)).ok()).flatten()
        })
        .expect("the clone of a number does not panic");
        let mut watch = Watch::default();
        let mut poll = || as_handler(&peers, 1, || watch.judge(|_| Some(command(&peers, 0, 0))));
        for _ in 0..2 {
            for _ in 0..GIVE_WAY {
                assert_eq!(poll(), Verdict::Unknown);
            }
            assert_eq!(poll(), Verdict::Stuck);
        }
        // Now it goes on waiting.
        other.settle();
        assert_eq!(poll(), Verdict::Stuck);
    }

    #[cfg(not(shardpool_loom))]
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

    #[cfg(not(shardpool_loom))]
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

    #[cfg(not(shardpool_loom))]
    #[test]
    fn g09_a_report_stands_until_there_is_room_or_the_end_or_it_is_taken_back() {
        use crate::shard::front::Entry;

        let stands_after = |change: fn(&Front)| {
            let front = Front::new(1, 1);
            assert_eq!(front.try_enter(), Entry::Accepted);
            front.board.report(Vec::new());
            let report = front.board.report.load_full();
            change(&front);
            stands(&front, report.as_ref())
        };
        assert!(stands_after(|_| {}));
        assert!(!stands_after(|front| front.give_room_back(0)));
        assert!(!stands_after(Front::close));
        assert!(!stands_after(|front| front.board.retract()));
    }
}
