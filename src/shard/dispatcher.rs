//! The dispatcher, which owns a shard's version map and decides what runs next: a thin shell around
//! `schedule.rs`. Who runs it: `duty.rs`.
//!
//! # One run
//!
//! 1. Abort, if somebody asked for it.
//! 2. Take the lanes that came back, and hand out those that are ready.
//! 3. Move the lobby to the dispatcher's own queue, then take commands, up to a budget.
//! 4. Sweep, if somebody asked for it. If the channel was found empty, grant room to those who wait.
//!    The lobby is read before the channel is found empty, so whatever a waiting task submitted earlier
//!    is in its lane by now: acceptance keeps the program order of a task (G1).
//! 5. Hand what has become ready to the ring, and wake workers.
//! 6. End, or go on, or sleep.
//!
//! # Waking: 'watch'
//!
//! A wake-up costs more than everything else here, and a worker that is awake needs none. So at most one
//! worker is woken for what a run hands out. If more lanes wait in the ring than workers were
//! woken, and some worker sleeps, the dispatcher does not sleep but is run again; what
//! still waits then gets one more worker. A worker that blocks its thread thus holds up nobody, while another
//! thread of the runtime is free. For one lane alone, a worker that runs the dispatcher wakes nobody: it looks
//! at the ring next.
//!
//! # One command, or many
//!
//! While runs find one command, as with few callers, a worker stands in for the dispatcher and goes on
//! with that command: one wake for both. If there is more to do, the dispatcher's own task goes on, and the
//! worker lets others run before it takes a lane: a handler may block its thread, and on tokio that holds
//! up the task that the thread has woken last. For the same reason a worker in whose poll a dispatcher or a worker was
//! woken, be it by a handler, lets others run before it claims the next command (`woken.rs`).
//!
//! While runs find more, the more they find the less each costs. So the dispatcher's own task, when it is
//! woken, first lets the others run, who may bring more.

use crate::cell::{Envelope, Refusal};
use crate::chain::{Chain, Turn};
use crate::command::{Command, CommandHandler};
use crate::contain::{Panic, Quiet, contain};
use crate::error::CommandError;
use crate::executors::Clock;
use crate::lifecycle::Alive;
use crate::reentry;
use crate::shard::duty::{Duty, Left};
use crate::shard::floor::Floor;
use crate::shard::front::{Front, LOBBY_SLACK};
use crate::shard::lane::Seat;
use crate::shard::schedule::{self, Backlog, Schedule};
use crate::shard::{Plan, Sent, Shard};
use crate::stats::Kind;
use crate::sync::{Arc, Ordering, fence};
use crate::types::{HandlerTypes, Types};
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

/// How many commands are taken in one run before others have the thread.
const BUDGET: usize = 256;

/// How many commands are looked up together: see `Schedule::prefetch`.
const BATCH: usize = 32;

/// Called with the shard's index for each command on its way to its lane (G21).
pub(crate) type Hook = Arc<dyn Fn(usize) + Send + Sync>;

impl<T: Types> Backlog for Chain<T> {
    type Item = Envelope<T>;
    type Turn = Turn<T>;

    #[inline]
    fn alone(envelope: Envelope<T>) -> Turn<T> {
        Turn::alone(envelope)
    }

    fn push_back(&mut self, envelope: Envelope<T>) {
        Chain::push_back(self, envelope);
    }

    fn take_front(&mut self, most: usize) -> Turn<T> {
        Chain::take_front(self, most)
    }

    fn is_empty(&self) -> bool {
        Chain::is_empty(self)
    }
}

pub(crate) struct Dispatcher<T: Types, S: Send> {
    shard: Arc<Shard<T>>,
    floor: Arc<Floor<T, S>>,
    schedule: Schedule<Seat<T, S>>,
    /// Commands on their way from the channel to their lanes; empty between runs.
    batch: Vec<Sent<T>>,
    /// Submissions that wait for room, in the order in which they came.
    lobby: VecDeque<Sent<T>>,
    /// How many had given up when the lobby's channel was last emptied: of these nothing is in it any more.
    gave_up: u64,
    /// Somebody in the lobby was denied.
    review: bool,
    /// The board has a report of this dispatcher's.
    reported: bool,
    /// How many lanes there have been.
    lanes: u64,
    /// How many commands have been taken.
    taken: u64,
    usual: Usual,
    /// How many had been taken, and how many lanes there were, when that was last told.
    told: (u64, usize),
    /// How many more lanes the ring had room for at the start of this run.
    room: usize,
    /// What the ring had been offered when the last run ended.
    offered: usize,
    /// The abort has been carried out; what comes later is aborted as it comes.
    aborted: bool,
    index: usize,
    clock: Quiet<Arc<dyn Clock>>,
    hook: Quiet<Option<Hook>>,
    /// How many workers there were when others were last told of a loss.
    workers_left: usize,
    /// The dispatcher has come to its end.
    ended: bool,
    // Last: the pool has ended only when all of the above is gone.
    _alive: Alive,
}

impl<T: Types, S: Send> Dispatcher<T, S> {
    pub(crate) fn new<H, L>(
        shard: Arc<Shard<T>>,
        floor: Arc<Floor<T, S>>,
        index: usize,
        plan: &Plan<H, L>,
    ) -> Self
    where
        H: CommandHandler<State = S>,
        HandlerTypes<H>: Types<Command = T::Command>,
    {
        let workers_left = shard.front.workers();
        Self {
            shard,
            floor,
            schedule: Schedule::new(plan.max_turn, plan.max_resident),
            batch: Vec::with_capacity(BATCH),
            lobby: VecDeque::new(),
            gave_up: 0,
            review: false,
            reported: false,
            lanes: 0,
            taken: 0,
            usual: Usual::default(),
            told: (0, 0),
            room: 0,
            offered: 0,
            aborted: false,
            index,
            clock: Quiet::new(Arc::clone(&plan.clock)),
            hook: Quiet::new(plan.hook.clone()),
            workers_left,
            ended: false,
            _alive: plan.lifecycle.alive(),
        }
    }

    /// Moves who waits for room from the lobby's channel to the dispatcher's own queue.
    fn take_lobby(&mut self) {
        // The order first, and the count: whoever is denied or counted is in the channel already, and is found
        // below.
        self.review |= self.shard.front.take_review();
        self.gave_up = self.shard.front.abandoned();
        if self.shard.front.has_lobby() {
            while let Some(sent) = self.shard.lobby.pop() {
                self.lobby.push_back(sent);
            }
        }
    }

    /// Takes commands from the channel; true if it was found empty.
    ///
    /// To find it empty is one more turn of its lock, so it is not asked while the count of accepted
    /// commands tells the same. (What is on its way is found later: by `has_work`.)
    fn take_commands(&mut self) -> bool {
        let mut batch = std::mem::take(&mut self.batch);
        let (mut emptied, mut more) = (false, 0);
        for _ in 0..BUDGET / BATCH {
            while batch.len() < BATCH {
                if more == 0 {
                    more = self.shard.front.accepted_since(self.taken);
                }
                let Some(sent) = (more > 0).then(|| self.shard.commands.pop()).flatten() else {
                    emptied = true;
                    break;
                };
                more -= 1;
                self.taken += 1;
                if more > 0 || !batch.is_empty() {
                    sent.envelope.prefetch();
                    self.schedule.prefetch(sent.hash);
                }
                batch.push(sent);
            }
            for sent in batch.drain(..) {
                self.admit(sent);
            }
            if emptied {
                break;
            }
        }
        self.batch = batch;
        emptied
    }

    /// Puts an accepted command into the lane of its aggregate.
    fn admit(&mut self, Sent { hash, envelope }: Sent<T>) {
        if self.aborted {
            // It came after the abort: it ends as aborted by being dropped.
            return drop(envelope);
        }
        if let Some(hook) = &*self.hook
            && let Err(panic) = contain(|| hook(self.index))
        {
            return end_panicked(envelope, panic);
        }
        if envelope.is_withdrawn() {
            // Buries the tombstone; no lane is made for it.
            return drop(envelope);
        }
        match self.lane_of(hash, &envelope) {
            Ok(lane) => {
                envelope.set_lane(lane.number());
                if let Some(turn) = self.schedule.push(lane, envelope, self.room > 0) {
                    self.offer(turn);
                }
            }
            Err(panic) => end_panicked(envelope, panic),
        }
    }

    /// Finds the aggregate's lane, or makes one. The id's `Eq` and `Clone` may panic.
    #[inline]
    fn lane_of(&mut self, hash: u64, envelope: &Envelope<T>) -> Result<Seat<T, S>, Panic> {
        match contain(|| self.schedule.find(hash, envelope.command().aggregate_id()))? {
            Some(lane) => Ok(lane),
            None => self.new_lane(hash, envelope),
        }
    }

    #[cold]
    fn new_lane(&mut self, hash: u64, envelope: &Envelope<T>) -> Result<Seat<T, S>, Panic> {
        let id = contain(|| envelope.command().aggregate_id().clone())?;
        self.lanes += 1;
        let lane = Seat::new(id, self.lanes, hash);
        self.schedule.insert(lane);
        let lanes = self.schedule.lanes().map(|(hash, lane)| (hash, lane.address()));
        self.shard.hints.note(hash, lane.address(), lanes);
        // Before a worker can answer a command, its aggregate is counted.
        self.tell();
        Ok(lane)
    }

    /// Tells who reads the counters.
    fn tell(&mut self) {
        let now = (self.taken, self.schedule.resident());
        if self.told != now {
            self.told = now;
            self.shard.front.tell(now.0, now.1);
        }
    }

    /// Grants room to those who wait, first come, first served.
    fn grant(&mut self) {
        if std::mem::take(&mut self.review) {
            self.refuse(Envelope::is_denied);
        }
        let front = Arc::clone(&self.shard.front);
        while let Some(first) = self.lobby.front() {
            let decided = front.has_room() || front.is_closed();
            if !decided && !first.envelope.is_abandoned() {
                break;
            }
            let Some(sent) = self.lobby.pop_front() else { break };
            let envelope = &sent.envelope;
            if !envelope.begin_grant() {
                // Abandoned: nobody waits for it, and nothing counts it.
                continue;
            }
            let late = self.clock.has_passed(envelope.deadline());
            if late || front.is_closed() {
                front.refuse_waiting();
                sent.envelope.refuse(if late { Refusal::Expired } else { Refusal::Closed });
                continue;
            }
            self.retract();
            if front.grant() {
                envelope.grant();
                self.taken += 1;
                self.admit(sent);
            } else {
                // Closed in this very moment.
                sent.envelope.refuse(Refusal::Closed);
            }
        }
        if !self.lobby.is_empty() && !self.schedule.has_ready() && self.floor.unclaimed() == 0 {
            self.refuse_jammed();
        }
        if self.lobby.is_empty() {
            // Before the shard is calm again.
            self.retract();
        }
        if self.must_clear(self.gave_up) {
            front.clear_abandoned(self.gave_up);
            self.lobby.retain(|sent| !sent.envelope.is_abandoned());
        }
    }

    /// Whether the lobby is to be cleared of submissions that gave up, if there are so many of them: too many, or
    /// nobody waits beside them.
    fn must_clear(&self, gave_up: u64) -> bool {
        gave_up > LOBBY_SLACK.max(self.lobby.len() as u64 / 2)
            || (gave_up > 0 && !self.shard.front.has_waiting())
    }

    /// Everything queued is behind handlers that run. If none of those can end, since they wait for
    /// room here themselves or for each other, their submissions are refused (G9).
    fn refuse_jammed(&mut self) {
        // Those wait that have settled before this, or ask for another judgement: see `reentry/mod.rs`.
        fence(Ordering::SeqCst);
        if self.shard.front.board.is_empty() {
            return;
        }
        if self.shard.front.has_tombstones() {
            // They would be counted as commands. Those in the turns go when the workers obey; the last
            // one to go asks for this again.
            self.sweep();
            if self.shard.front.has_tombstones() {
                return;
            }
        }
        let mut backlogs = Vec::new();
        self.schedule.for_each_behind(|place, backlog| {
            backlogs.push((place.number(), backlog.len()));
        });
        backlogs.sort_unstable();
        self.reported = true;
        let jammed = reentry::jammed(&self.shard.front, backlogs);
        self.refuse(|envelope| jammed.contains(&envelope.address()));
    }

    /// Called before anything is done that a report does not allow for.
    fn retract(&mut self) {
        if std::mem::take(&mut self.reported) {
            self.shard.front.board.retract();
        }
    }

    /// Refuses some of those who wait in the lobby: their wait could never end.
    fn refuse(&mut self, which: impl Fn(&Envelope<T>) -> bool) {
        for sent in std::mem::take(&mut self.lobby) {
            if which(&sent.envelope) && sent.envelope.begin_grant() {
                self.shard.front.refuse_waiting();
                sent.envelope.refuse(Refusal::Deadlock);
            } else {
                self.lobby.push_back(sent);
            }
        }
    }

    /// Hands ready lanes to the ring, while there is room.
    fn offer_ready(&mut self) {
        while self.room > 0
            && let Some(turn) = self.schedule.next_turn()
        {
            self.offer(turn);
        }
    }

    /// Puts a turn in the ring, which has room.
    fn offer(&mut self, turn: schedule::Turn<Seat<T, S>>) {
        self.room -= 1;
        self.floor.offer(turn.place.hand_out(turn.commands, turn.wanted));
    }

    /// Hands ready lanes to the ring and wakes workers. True if the rest must be watched.
    fn hand_out(&mut self, by: By) -> bool {
        // What was offered before this run and is still there.
        let left = self.offered.wrapping_sub(self.floor.taken()) as isize > 0;
        if self.schedule.has_ready() {
            self.room = self.floor.room();
            self.offer_ready();
        }
        let (floor, crew) = (&self.floor, &self.shard.front.crew);
        floor.say_more(self.schedule.has_ready());
        let new = floor.offered() != self.offered;
        self.offered = floor.offered();
        if !new && !left {
            return false;
        }
        // Before the wakes: a woken worker may claim a lane at once, and is counted already.
        let unclaimed = floor.unclaimed();
        if by == By::Worker && unclaimed <= 1 {
            // It takes the lane itself.
            return false;
        }
        // Between the offers and the look at the idle set: see `floor.rs`.
        fence(Ordering::SeqCst);
        let mut woken = 0;
        if left && crew.wake_one() {
            woken += 1;
        }
        if new && woken == 0 && unclaimed > 0 && crew.wake_one() {
            woken += 1;
        }
        // A worker takes no lane in the poll in which its run has woken another.
        (by == By::Worker && woken > 0) || (unclaimed > woken && crew.has_idle())
    }

    /// Aborts everything that has not started (G16).
    fn abort(&mut self) {
        self.aborted = true;
        self.retract();
        self.shard.front.close();
        // First: no worker starts a command after another was told that it is aborted.
        self.floor.order_abort();
        self.shard.clear();
        self.lobby.clear();
        self.schedule.revise_backlogs(|backlog| drop(std::mem::take(backlog)));
        self.revise_ring(|turn| drop(std::mem::take(turn)));
    }

    /// Discards the envelopes of withdrawn commands, wherever they are.
    fn sweep(&mut self) {
        self.retract();
        self.schedule.revise_backlogs(Chain::sweep);
        self.revise_ring(Turn::sweep);
        self.floor.order_sweep();
    }

    /// Takes the lanes in the ring out, one by one, and puts back those that keep commands.
    fn revise_ring(&mut self, mut revise: impl FnMut(&mut Turn<T>)) {
        for _ in 0..self.floor.unclaimed() {
            let Some(mut hold) = self.floor.take_back() else { return };
            let (_, body) = hold.parts();
            revise(&mut body.turn);
            if body.turn.is_empty() {
                let seat = hold.seat();
                // The lane is home: its hold ends here, by the hand of the seat's own owner.
                let _ = hold.into_raw();
                self.schedule.returned(seat);
            } else {
                self.floor.offer(hold);
            }
        }
    }

    /// Whether there is something to do that a wake-up may have come too early for.
    fn has_work(&self, accepted: bool) -> bool {
        (accepted && !self.shard.commands.is_empty())
            || self.floor.has_returned()
            || (self.schedule.has_ready() && self.floor.is_half_empty())
            || (!self.is_calm() && self.has_special_work())
    }

    /// Whether nothing is to be done but to hand out commands.
    fn is_calm(&self) -> bool {
        self.shard.front.is_calm() && self.lobby.is_empty()
    }

    #[cold]
    fn has_special_work(&self) -> bool {
        let front = &self.shard.front;
        (front.has_lobby() && !self.shard.lobby.is_empty())
            || front.has_orders()
            || (self.must_abort() && !self.aborted)
            || (!self.lobby.is_empty() && (front.has_room() || front.is_closed()))
            || self.must_clear(front.abandoned())
            || (front.is_exhausted() && (!self.schedule.is_recalling() || self.schedule.is_quiet()))
    }

    /// Whether everything that has not started is to be aborted: somebody said so, or there is no
    /// worker left to start it. Once a worker is lost, those that wait for ever do not count.
    fn must_abort(&self) -> bool {
        let front = &self.shard.front;
        front.is_aborting()
            || (front.workers_left() < front.workers() && !reentry::has_worker(front))
    }

    /// Tells other shards of workers that were lost since it last did. Once for each: they would wake each other
    /// for ever.
    fn tell_of_loss(&mut self) {
        let left = self.shard.front.workers_left();
        if std::mem::replace(&mut self.workers_left, left) != left {
            reentry::tell_of_loss(&self.shard.front);
        }
    }

    /// The end, in order or by a drop from outside: closes the shard, ends what is left, and lets
    /// the workers go.
    fn end(&mut self) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        self.retract();
        // Before the last look at the channels: whoever pushes after it sees it.
        self.shard.front.die();
        self.shard.clear();
        self.lobby.clear();
        while let Some(mut hold) = self.floor.take_back() {
            hold.abort(true);
            self.floor.release(hold);
        }
        // Aborts the backlogs, and leaves the lanes that are out to their workers.
        self.schedule = Schedule::new(1, None);
        self.tell();
        self.floor.end();
    }
}

fn end_panicked<T: Types>(envelope: Envelope<T>, Panic(message): Panic) {
    let error = CommandError::Panicked { message, started: false };
    envelope.end_unstarted(error, Kind::Panicked);
}

/// How many commands a run finds, if it finds any: a moving average in which the last has an eighth.
struct Usual(u64);

impl Usual {
    /// So fine that what is rounded down at each note does not add up.
    const ONE: u64 = 1 << 16;

    fn note(&mut self, found: u64) {
        self.0 = self.0 - self.0 / 8 + found * Self::ONE / 8;
    }

    /// Rather one than two.
    fn is_one(&self) -> bool {
        self.0 < Self::ONE * 3 / 2
    }
}

impl Default for Usual {
    fn default() -> Self {
        Self(Self::ONE)
    }
}

/// Who runs the dispatcher.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    /// Its own task.
    Itself,
    /// A worker that goes on with a lane.
    Worker,
}

impl<T: Types, S: Send> Dispatcher<T, S> {
    /// Does what there is to do.
    #[inline(never)]
    pub(crate) fn run(&mut self, by: By) -> Left {
        if self.ended {
            return Left::Over;
        }
        self.shard.front.awake();
        // Whatever else comes up during this run is seen before the dispatcher sleeps.
        let calm = self.is_calm();
        if !calm && by == By::Worker {
            // Others are woken by what is to be done, or it is the end: not in the worker's poll.
            return Left::Busy;
        }
        if !calm {
            self.tell_of_loss();
            if self.must_abort() {
                self.abort();
            }
        }
        let (floor, schedule) = (&self.floor, &mut self.schedule);
        self.room = floor.room();
        floor.take_returned(|seat| schedule.returned(seat));
        // Before commands are taken: those for idle lanes then find nobody before them.
        if self.schedule.has_ready() {
            self.retract();
            self.offer_ready();
        }
        if !calm {
            self.take_lobby();
        }
        let before = self.taken;
        let emptied = self.take_commands();
        if self.taken > before {
            self.usual.note(self.taken - before);
            self.shard.front.crew.say_lone(self.usual.is_one());
        }
        if !calm {
            if self.shard.front.take_sweep() {
                self.sweep();
            }
            if emptied {
                self.grant();
            }
        }
        self.tell();
        let watch = self.hand_out(by);
        let front = &self.shard.front;
        if !calm && front.is_exhausted() {
            self.schedule.recall_all();
            if self.schedule.is_quiet() {
                self.end();
                return Left::Over;
            }
        }
        if watch || !emptied {
            return Left::Busy;
        }
        if calm {
            front.relax();
        }
        let accepted = front.prepare(self.taken);
        if self.has_work(accepted) { Left::Busy } else { Left::Asleep }
    }
}

impl<T: Types, S: Send> Drop for Dispatcher<T, S> {
    fn drop(&mut self) {
        if !self.ended {
            // Dropped from outside: nobody will pass on an abort to the workers any more, so what
            // they hold for their turn is aborted now.
            self.floor.order_abort();
        }
        self.end();
    }
}

/// The dispatcher's own task: the future that is spawned for it. Dropped, it takes the dispatcher along.
pub(crate) struct Own<T: Types, S: Send> {
    duty: Arc<Duty<Dispatcher<T, S>>>,
    front: Arc<Front>,
    /// When it was last polled the dispatcher fell asleep, or was in other hands.
    slept: bool,
}

impl<T: Types, S: Send> Own<T, S> {
    pub(crate) fn new(duty: Arc<Duty<Dispatcher<T, S>>>, front: &Arc<Front>) -> Self {
        Self { duty, front: Arc::clone(front), slept: false }
    }
}

impl<T: Types, S: Send> Future for Own<T, S> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        // Before all else: see `Front::register`.
        self.front.register(cx.waker());
        if std::mem::take(&mut self.slept) && !self.front.crew.is_lone() && self.front.is_calm() {
            // Those who are about to run may bring more.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        match self.duty.run(|dispatcher| dispatcher.run(By::Itself)) {
            Left::Over => {
                // Now, and not when the executor drops this: the pool ends with it.
                self.duty.retire();
                return Poll::Ready(());
            }
            Left::Busy => cx.waker().wake_by_ref(),
            Left::Asleep => self.slept = true,
        }
        Poll::Pending
    }
}

impl<T: Types, S: Send> Drop for Own<T, S> {
    fn drop(&mut self) {
        self.duty.retire();
        self.front.forget();
    }
}

#[cfg(all(test, not(shardpool_loom)))]
mod tests {
    use super::*;

    #[test]
    fn g18_runs_that_find_one_and_a_half_commands_on_average_do_not_find_one() {
        let after = |found| {
            let mut usual = Usual::default();
            usual.note(found);
            usual.is_one()
        };
        // An eighth of five, and seven eighths of one, are one and a half.
        assert_eq!([1, 4, 5, 6].map(after), [true, true, false, false]);
    }

    #[test]
    fn g18_runs_that_find_two_commands_now_and_then_find_one_on_average() {
        let mut usual = Usual::default();
        for run in 1..=1_000 {
            usual.note(if run % 10 == 0 { 2 } else { 1 });
            assert!(usual.is_one(), "after {run} runs");
        }
    }
}
