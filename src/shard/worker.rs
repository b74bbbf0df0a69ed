//! The worker: a future that takes lane after lane, and carries out the commands of each turn.

use crate::cell::{Claimed, Outcome};
use crate::chain::Turn;
use crate::command::{CommandHandler, Failure, Receipt, Source};
use crate::contain::{Panic, Quiet, contain, drop_contained};
use crate::error::CommandError;
use crate::executors::Clock;
use crate::lifecycle::Alive;
use crate::reentry::{Frame, Key, Peers};
use crate::shard::Plan;
use crate::shard::dispatcher::{By, Dispatcher};
use crate::shard::duty::{Duty, Left};
use crate::shard::floor::Floor;
use crate::shard::lane::{Body, Hold};
use crate::shard::woken;
use crate::stats::{Kind, Tally};
use crate::sync::Arc;
use crate::types::{HandlerTypes, IdOf, Types};
use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::mem::ManuallyDrop;
use std::pin::{Pin, pin};
use std::task::Poll;

/// How many commands a worker carries out in one poll before it lets others have the thread.
const BUDGET: usize = 128;

/// What a worker works with; nothing here changes.
struct Tools<H: CommandHandler, L> {
    floor: Arc<Floor<HandlerTypes<H>, H::State>>,
    duty: Arc<Duty<Dispatcher<HandlerTypes<H>, H::State>>>,
    handler: Quiet<Arc<(H, L)>>,
    clock: Quiet<Arc<dyn Clock>>,
    peers: Arc<Peers>,
    shard: usize,
    worker: usize,
}

/// What a worker keeps count of.
struct Pace {
    /// What it has seen of the dispatcher's orders.
    seen: u64,
    /// How many of the user's futures it has driven.
    run: u64,
    /// How many more commands it may carry out in this poll.
    budget: usize,
}

impl Pace {
    /// Counts a command. True if others should have the thread now.
    fn spend(&mut self) -> bool {
        self.budget -= 1;
        if self.budget == 0 {
            self.budget = BUDGET;
            return true;
        }
        false
    }
}

/// A worker's place in its shard. Dropped before the worker has come to its end, it closes the
/// shard.
pub(crate) struct Post<H: CommandHandler, L> {
    tools: Tools<H, L>,
    pace: Pace,
    ended: bool,
    // Last: the pool has ended only when all of the above is gone.
    _alive: Alive,
}

impl<H: CommandHandler, L> Post<H, L> {
    pub(crate) fn new(
        floor: Arc<Floor<HandlerTypes<H>, H::State>>,
        duty: Arc<Duty<Dispatcher<HandlerTypes<H>, H::State>>>,
        shard: usize,
        worker: usize,
        plan: &Plan<H, L>,
    ) -> Self {
        Self {
            tools: Tools {
                floor,
                duty,
                handler: Quiet::new(Arc::clone(&plan.handler)),
                clock: Quiet::new(Arc::clone(&plan.clock)),
                peers: Arc::clone(&plan.peers),
                shard,
                worker,
            },
            pace: Pace { seen: 0, run: 0, budget: BUDGET },
            ended: false,
            _alive: plan.lifecycle.alive(),
        }
    }
}

impl<H: CommandHandler, L> Drop for Post<H, L> {
    fn drop(&mut self) {
        let (front, worker) = (&self.tools.floor.front, self.tools.worker);
        if !self.ended {
            // A wake that was meant for this worker is lost with it, and so may be an errand; the dispatcher
            // sees what waits in channel and ring, and wakes another.
            front.crew.unlist(worker);
            // A handler may have leaked what it waited for.
            front.board.clear(worker);
            front.worker_lost();
            front.summon();
        }
        front.crew.forget(worker);
    }
}

/// The worker's future; it is to be polled by `woken::Polls`.
///
/// What a command passes through on its way is in this one function, but for the handler's own future: each layer of
/// async code more costs some fifty instructions.
pub(crate) async fn work<H, L>(mut post: Post<H, L>)
where
    H: CommandHandler,
    L: Source<IdOf<HandlerTypes<H>>, H::State, H::Error>,
{
    let (tools, pace) = (&post.tools, &mut post.pace);
    let mut listed = false;
    while let Some(hold) = poll_fn(|cx| {
        let stand_in = || tools.stand_in();
        tools.floor.poll_next(tools.worker, &mut listed, cx, stand_in)
    })
    .await
    {
        let mut job = Job::new(hold, &tools.floor);
        let (at, body, half_done) = job.parts();
        while !body.turn.is_empty() {
            match tools.next(pace, body) {
                Next::Over => break,
                Next::Ended => {}
                Next::Others => {
                    yield_now().await;
                    continue;
                }
                // Loaded or not, look at the turn again: it may have changed meanwhile, and a load
                // that failed has ended the command that it was for.
                Next::Load => tools.load(pace, at, body).await,
                Next::Command(claimed, version) => {
                    let mut running = Running::start(claimed, tools.tally(), half_done);
                    let command = running.claimed().start();
                    let cx = running.claimed().context(&tools.floor.front, version, tools.shard);
                    let driven = {
                        let state = body.state.as_mut().expect("a command starts with its state");
                        // The call is user code too: an async block makes it at the first poll.
                        let call = async { tools.handler.0.handle(state, command, &cx).await };
                        let call = pin!(Some(call));
                        let mut call = Driving::new(call);
                        pace.run += 1;
                        let turn = &mut body.turn;
                        poll_fn(|cx| tools.drive(pace, at, turn, false, &mut call, cx)).await
                    };
                    body.settle(&mut running, driven, version);
                }
            }
            if pace.spend() {
                yield_now().await;
            }
        }
        drop(job);
    }
    post.ended = true;
}

/// A lane in a worker's hands. Dropped, it lets the lane go. In the middle of a turn it aborts the rest, and the state
/// stays, unless a handler has left it half done.
struct Job<'a, T: Types, S> {
    /// Moved out by the drop.
    hold: ManuallyDrop<Hold<T, S>>,
    half_done: bool,
    floor: &'a Floor<T, S>,
}

impl<'a, T: Types, S> Job<'a, T, S> {
    fn new(hold: Hold<T, S>, floor: &'a Floor<T, S>) -> Self {
        Self { hold: ManuallyDrop::new(hold), half_done: false, floor }
    }

    fn parts(&mut self) -> (At<'_, T>, &mut Body<T, S>, &mut bool) {
        let lane = self.hold.number();
        let (id, body) = self.hold.parts();
        (At { id, lane }, body, &mut self.half_done)
    }
}

impl<T: Types, S> Drop for Job<'_, T, S> {
    #[inline]
    fn drop(&mut self) {
        self.hold.abort(self.half_done);
        // SAFETY: this is the end of the job, so nobody takes its lane a second time.
        self.floor.release(unsafe { ManuallyDrop::take(&mut self.hold) });
    }
}

/// How a user's future ended.
enum Driven<R> {
    Done(R),
    Panicked(Panic),
    /// Given up, because the pool aborts.
    Stopped,
}

impl<H, L> Tools<H, L>
where
    H: CommandHandler,
    L: Source<IdOf<HandlerTypes<H>>, H::State, H::Error>,
{
    fn tally(&self) -> &Tally {
        self.floor.front.worker_tally(self.worker)
    }

    /// Runs the dispatcher in the stead of its own task. True if that must go on.
    #[inline(never)]
    fn stand_in(&self) -> bool {
        let busy = self.duty.run(|dispatcher| dispatcher.run(By::Worker)) == Left::Busy;
        if busy {
            self.floor.front.summon();
        }
        busy
    }

    /// Takes the next command of a turn, which has one.
    fn next(
        &self,
        pace: &mut Pace,
        body: &mut Body<HandlerTypes<H>, H::State>,
    ) -> Next<HandlerTypes<H>> {
        self.obey(pace, &mut body.turn);
        if body.state.is_none() {
            self.discard_ended(&mut body.turn);
        }
        if body.turn.is_empty() {
            return Next::Over;
        }
        if woken::is_any() {
            // Before a command is claimed: from then on its room is another's, and it must start (G13).
            return Next::Others;
        }
        if body.state.is_none() {
            return Next::Load;
        }
        let Some(envelope) = body.turn.pop_front() else { return Next::Over };
        if self.clock.has_passed(envelope.deadline()) {
            envelope.end_unstarted(CommandError::Expired, Kind::Expired);
            return Next::Ended;
        }
        let Some(claimed) = envelope.claim(&self.floor.front, self.worker) else {
            return Next::Ended;
        };
        match body.version.checked_add(1) {
            Some(version) => Next::Command(claimed, version),
            None => {
                end_at_last(claimed, body.version);
                Next::Ended
            }
        }
    }

    /// Looks at the dispatcher's orders: to abort what has not started, or to sweep. True if the
    /// pool aborts.
    #[inline]
    fn obey(&self, pace: &mut Pace, turn: &mut Turn<HandlerTypes<H>>) -> bool {
        let orders = self.floor.orders();
        // The pool's own word counts before the dispatcher has passed it on.
        if orders == pace.seen && !self.floor.front.is_aborting() {
            return false;
        }
        self.carry_out(orders, pace, turn)
    }

    #[cold]
    fn carry_out(&self, orders: u64, pace: &mut Pace, turn: &mut Turn<HandlerTypes<H>>) -> bool {
        let front = &self.floor.front;
        let abort = Floor::<HandlerTypes<H>, H::State>::is_abort(orders) || front.is_aborting();
        if abort {
            // Not noted as seen: an abort is for ever.
            drop(std::mem::take(turn));
            return true;
        }
        pace.seen = orders;
        let mut withdrawn = turn.take_withdrawn();
        // A handler that waits has less behind it than it said. Told before the tombstones are buried: a
        // judgement counts on it only when there are none, and the last to go asks for another.
        front.board.set_behind(self.worker, turn.len());
        while let Some(envelope) = withdrawn.pop_front() {
            envelope.discard();
        }
        false
    }

    /// Ends what is at the front of a turn and must not start, so that no load is made for it.
    fn discard_ended(&self, turn: &mut Turn<HandlerTypes<H>>) {
        while let Some(first) = turn.front() {
            if !first.is_withdrawn() && !self.clock.has_passed(first.deadline()) {
                return;
            }
            if let Some(envelope) = turn.pop_front() {
                envelope.end_unstarted(CommandError::Expired, Kind::Expired);
            }
        }
    }

    /// Loads state and version. If that fails, the first command of the turn ends with it.
    async fn load(
        &self,
        pace: &mut Pace,
        at: At<'_, HandlerTypes<H>>,
        body: &mut Body<HandlerTypes<H>, H::State>,
    ) {
        let driven = {
            let restore = pin!(Some(async { self.handler.1.restore(at.id).await }));
            let mut restore = Driving::new(restore);
            pace.run += 1;
            poll_fn(|cx| self.drive(pace, at, &mut body.turn, true, &mut restore, cx)).await
        };
        let (error, kind) = match driven {
            Driven::Done(Ok((state, version))) => {
                body.state = Some(state);
                if let Some(version) = version {
                    body.version = version;
                }
                return;
            }
            Driven::Done(Err(error)) => {
                (CommandError::Failed { error, started: false }, Kind::Failed)
            }
            Driven::Panicked(Panic(message)) => {
                (CommandError::Panicked { message, started: false }, Kind::Panicked)
            }
            Driven::Stopped => return,
        };
        // The first that is still there: it may have been withdrawn during the load.
        while let Some(envelope) = body.turn.pop_front() {
            if let Some(claimed) = envelope.claim(&self.floor.front, self.worker) {
                claimed.end_unstarted(error, kind);
                return;
            }
        }
        drop_contained(error);
    }

    /// Polls a future of the user's: inside a frame, with panics contained, and, while it is
    /// pending, with an eye on the dispatcher's orders. On an abort a load is given up; a handler
    /// goes on, and finds its context cancelled.
    #[inline]
    fn drive<F: Future>(
        &self,
        pace: &mut Pace,
        at: At<'_, HandlerTypes<H>>,
        turn: &mut Turn<HandlerTypes<H>>,
        is_load: bool,
        driving: &mut Driving<'_, F>,
        cx: &mut std::task::Context<'_>,
    ) -> Poll<Driven<F::Output>> {
        let behind = || turn.len();
        let frame = Frame {
            peers: &self.peers,
            shard: self.shard,
            worker: self.worker,
            id: at.id as &dyn Key,
            lane: at.lane,
            run: pace.run,
            behind: &behind,
            published: Cell::from_mut(&mut driving.published),
        };
        let polled = frame.scope(|| driving.future.poll(cx));
        if polled.is_ready() {
            if driving.published > 0 {
                self.floor.front.board.clear(self.worker);
            }
            return polled;
        }
        // Register, then look: an order that comes after this look wakes the worker.
        self.floor.front.crew.register(self.worker, cx.waker());
        if self.obey(pace, turn) && is_load {
            if driving.published > 0 {
                self.floor.front.board.clear(self.worker);
            }
            return Poll::Ready(Driven::Stopped);
        }
        Poll::Pending
    }
}

/// What is next in a turn.
enum Next<T: Types> {
    /// Nothing.
    Over,
    /// Nothing yet: the state must be loaded first.
    Load,
    /// A command that ended without a start.
    Ended,
    /// Nothing before others have run.
    Others,
    /// A command, and the version that it makes when it commits.
    Command(Claimed<T>, u64),
}

impl<T: Types, S> Body<T, S> {
    /// What a handler has left: the version moves with a commit, and a state that a handler may have
    /// left half done is forgotten.
    #[inline]
    fn settle(
        &mut self,
        running: &mut Running<'_, T>,
        driven: Driven<Result<T::Output, Failure<T::Error>>>,
        version: u64,
    ) {
        match driven {
            Driven::Done(Ok(output)) => {
                self.version = version;
                running.end(Ok(Receipt { version, output }), Kind::Committed);
            }
            Driven::Done(Err(Failure::Rejected(error))) => {
                running.end(Err(CommandError::Rejected(error)), Kind::Rejected);
            }
            Driven::Done(Err(Failure::Failed(error))) => {
                drop_contained(self.state.take());
                running.end(Err(CommandError::Failed { error, started: true }), Kind::Failed);
            }
            Driven::Panicked(Panic(message)) => {
                drop_contained(self.state.take());
                running.end(Err(CommandError::Panicked { message, started: true }), Kind::Panicked);
            }
            Driven::Stopped => unreachable!("a started command is never stopped"),
        }
    }
}

/// The aggregate that a worker works for.
struct At<'a, T: Types> {
    id: &'a IdOf<T>,
    lane: u64,
}

impl<T: Types> Clone for At<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T: Types> Copy for At<'_, T> {}

/// A commit would need a version that there is none for.
#[cold]
fn end_at_last<T: Types>(claimed: Claimed<T>, version: u64) {
    let message = format!("version {version} is the last: the aggregate can't commit again");
    let error = CommandError::Panicked { message, started: false };
    claimed.end_unstarted(error, Kind::Panicked);
}

/// A command whose handler runs. Dropped before its end, it counts and gives `Aborted`, and notes that the state
/// is half done.
struct Running<'a, T: Types> {
    /// Until the end.
    claimed: Option<Claimed<T>>,
    tally: &'a Tally,
    half_done: &'a mut bool,
}

impl<'a, T: Types> Running<'a, T> {
    fn start(claimed: Claimed<T>, tally: &'a Tally, half_done: &'a mut bool) -> Self {
        tally.start();
        Self { claimed: Some(claimed), tally, half_done }
    }

    fn claimed(&mut self) -> &mut Claimed<T> {
        self.claimed.as_mut().expect("a command that runs has not ended")
    }

    #[inline]
    fn end(&mut self, outcome: Outcome<T::Output, T::Error>, kind: Kind) {
        if let Some(claimed) = self.claimed.take() {
            // The count first: who sees the outcome sees it counted.
            self.tally.end(kind);
            claimed.complete(outcome);
        }
    }
}

impl<T: Types> Drop for Running<'_, T> {
    fn drop(&mut self) {
        if self.claimed.is_some() {
            *self.half_done = true;
            // The count first, here too. Dropping what is claimed and started publishes the abort.
            self.tally.end(Kind::Aborted);
        }
    }
}

/// A future of the user's, and how many waits it has published.
struct Driving<'a, F> {
    future: Contained<'a, F>,
    published: u64,
}

impl<'a, F> Driving<'a, F> {
    fn new(future: Pin<&'a mut Option<F>>) -> Self {
        Self { future: Contained(future), published: 0 }
    }
}

/// A future of the user's that is dropped where it is pinned, as soon as it is ready. What it throws
/// is caught, and what its destructor throws too, also when the worker is dropped in the middle of
/// it.
struct Contained<'a, F>(Pin<&'a mut Option<F>>);

impl<F: Future> Contained<'_, F> {
    #[inline]
    fn poll(&mut self, cx: &mut std::task::Context<'_>) -> Poll<Driven<F::Output>> {
        let mut result = None;
        let polled = contain(|| {
            let future = self.0.as_mut().as_pin_mut();
            let future = future.expect("a future is polled until it is ready");
            if let Poll::Ready(ready) = future.poll(cx) {
                result = Some(ready);
                self.0.set(None);
            }
        });
        match (polled, result) {
            (Ok(()), None) => Poll::Pending,
            (Ok(()), Some(result)) => Poll::Ready(Driven::Done(result)),
            (Err(panic), result) => Poll::Ready(self.panicked(panic, result)),
        }
    }

    #[cold]
    fn panicked(&mut self, panic: Panic, result: Option<F::Output>) -> Driven<F::Output> {
        // What destructors have to say comes second to why they run.
        drop_contained(result);
        self.end();
        Driven::Panicked(panic)
    }
}

impl<F> Contained<'_, F> {
    fn end(&mut self) {
        if self.0.is_some() {
            let _ = contain(|| self.0.set(None));
        }
    }
}

impl<F> Drop for Contained<'_, F> {
    fn drop(&mut self) {
        // The outcome is already decided, or the worker is going: nobody to tell.
        self.end();
    }
}

async fn yield_now() {
    let mut yielded = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[cfg(all(test, not(shardpool_loom)))]
mod tests {
    use super::*;

    #[test]
    fn g18_a_worker_lets_others_have_the_thread_after_each_budget_of_commands() {
        let mut pace = Pace { seen: 0, run: 0, budget: BUDGET };
        for n in 1..=3 * BUDGET {
            assert_eq!(pace.spend(), n % BUDGET == 0, "command {n}");
        }
    }
}
