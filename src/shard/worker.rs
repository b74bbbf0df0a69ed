//! The worker: a future that takes lane after lane, and carries out the commands of each turn.

use crate::cell::{Claimed, Outcome};
use crate::chain::Chain;
use crate::command::{CommandHandler, Failure, Receipt, Source};
use crate::contain::{Panic, Quiet, contain, drop_contained};
use crate::error::CommandError;
use crate::executors::Clock;
use crate::lifecycle::Alive;
use crate::reentry::{Frame, Key, Peers};
use crate::shard::Plan;
use crate::shard::floor::Floor;
use crate::shard::lane::{Body, Hold};
use crate::stats::{Kind, Tally};
use crate::sync::Arc;
use crate::types::{HandlerTypes, IdOf, Types};
use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;

/// How many commands a worker carries out in one poll before it lets others have the thread.
const BUDGET: usize = 128;

/// What a worker works with; nothing here changes.
struct Tools<H: CommandHandler, L> {
    floor: Arc<Floor<HandlerTypes<H>, H::State>>,
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
    /// Lets others have the thread now and then.
    async fn spend(&mut self) {
        self.budget -= 1;
        if self.budget == 0 {
            self.budget = BUDGET;
            yield_now().await;
        }
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
        shard: usize,
        worker: usize,
        plan: &Plan<H, L>,
    ) -> Self {
        Self {
            tools: Tools {
                floor,
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
        if !self.ended {
            // A wake that was meant for this worker is lost with it; the dispatcher, woken by
            // this, sees the lanes that wait in the ring and wakes another.
            let floor = &self.tools.floor;
            floor.unlist(self.tools.worker, &mut true);
            // A handler may have leaked what it waited for.
            floor.front.board.clear(self.tools.worker);
            floor.front.worker_lost();
        }
    }
}

/// The worker's future.
pub(crate) async fn work<H, L>(mut post: Post<H, L>)
where
    H: CommandHandler,
    L: Source<IdOf<HandlerTypes<H>>, H::State, H::Error>,
{
    let (tools, pace) = (&post.tools, &mut post.pace);
    let mut listed = false;
    while let Some(hold) = poll_fn(|cx| tools.floor.poll_next(tools.worker, &mut listed, cx)).await
    {
        let mut job = Job { hold: Some(hold), floor: &tools.floor };
        tools.take_turn(pace, job.hold()).await;
        job.finish();
    }
    post.ended = true;
}

/// A lane in a worker's hands. Dropped in the middle of a turn, it aborts the rest, forgets the
/// state, which a handler may have left half done, and lets the lane go.
struct Job<'a, T: Types, S> {
    hold: Option<Hold<T, S>>,
    floor: &'a Floor<T, S>,
}

impl<T: Types, S> Job<'_, T, S> {
    fn hold(&mut self) -> &mut Hold<T, S> {
        self.hold.as_mut().expect("a job holds its lane until it is finished")
    }

    fn finish(mut self) {
        if let Some(hold) = self.hold.take() {
            self.floor.release(hold);
        }
    }
}

impl<T: Types, S> Drop for Job<'_, T, S> {
    fn drop(&mut self) {
        if let Some(mut hold) = self.hold.take() {
            hold.spoil();
            self.floor.release(hold);
        }
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
    async fn take_turn(&self, pace: &mut Pace, hold: &mut Hold<HandlerTypes<H>, H::State>) {
        let lane = hold.number();
        let (id, body) = hold.parts();
        loop {
            self.obey(pace, &mut body.turn);
            if body.state.is_none() {
                self.discard_ended(&mut body.turn);
                if body.turn.is_empty() {
                    return;
                }
                // Loaded or not, look at the turn again: it may have changed meanwhile, and a
                // load that failed has ended the command that it was for.
                self.load(pace, id, lane, body).await;
                pace.spend().await;
                continue;
            }
            let Some(envelope) = body.turn.pop_front() else { return };
            if self.clock.has_passed(envelope.deadline()) {
                envelope.end_unstarted(CommandError::Expired, Kind::Expired);
            } else if let Some(claimed) = envelope.claim() {
                self.carry_out(pace, id, lane, body, claimed).await;
            }
            pace.spend().await;
        }
    }

    /// Looks at the dispatcher's orders: to abort what has not started, or to sweep. True if the
    /// pool aborts.
    fn obey(&self, pace: &mut Pace, turn: &mut Chain<HandlerTypes<H>>) -> bool {
        let orders = self.floor.orders();
        // The pool's own word counts before the dispatcher has passed it on.
        let abort =
            Floor::<HandlerTypes<H>, H::State>::is_abort(orders) || self.floor.front.is_aborting();
        if abort {
            drop(std::mem::take(turn));
        } else if orders != pace.seen {
            let (front, before) = (&self.floor.front, turn.len());
            // A handler that waits has less behind it than it said; until that is known, nothing.
            front.board.set_behind(self.worker, 0);
            turn.sweep();
            front.board.set_behind(self.worker, turn.len());
            if turn.len() < before {
                front.ask_for_review_if_waiting();
            }
        }
        pace.seen = orders;
        abort
    }

    /// Ends what is at the front of a turn and must not start, so that no load is made for it.
    fn discard_ended(&self, turn: &mut Chain<HandlerTypes<H>>) {
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
        id: &IdOf<HandlerTypes<H>>,
        lane: u64,
        body: &mut Body<HandlerTypes<H>, H::State>,
    ) {
        let restore = pin!(Some(async { self.handler.1.restore(id).await }));
        let (error, kind) = match self.drive(pace, id, lane, &mut body.turn, true, restore).await {
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
            if let Some(claimed) = envelope.claim() {
                claimed.end_unstarted(error, kind);
                return;
            }
        }
        drop_contained(error);
    }

    async fn carry_out(
        &self,
        pace: &mut Pace,
        id: &IdOf<HandlerTypes<H>>,
        lane: u64,
        body: &mut Body<HandlerTypes<H>, H::State>,
        claimed: Claimed<HandlerTypes<H>>,
    ) {
        let Body { turn, version, state } = body;
        let Some(next) = version.checked_add(1) else {
            let message =
                format!("version {version} is the last: the aggregate can't commit again");
            let error = CommandError::Panicked { message, started: false };
            return claimed.end_unstarted(error, Kind::Panicked);
        };
        let mut running = Running::start(claimed, self.floor.front.worker_tally(self.worker));
        let command = running.claimed().start();
        let cx = running.claimed().context(&self.floor.front, next, self.shard);
        let driven = {
            let resident = state.as_mut().expect("a command starts with its state loaded");
            // The call itself is user code too: an async block makes it at the first poll.
            let handle = pin!(Some(async { self.handler.0.handle(resident, command, &cx).await }));
            self.drive(pace, id, lane, turn, false, handle).await
        };
        match driven {
            Driven::Done(Ok(output)) => {
                *version = next;
                running.end(Ok(Receipt { version: next, output }), Kind::Committed);
            }
            Driven::Done(Err(Failure::Rejected(error))) => {
                running.end(Err(CommandError::Rejected(error)), Kind::Rejected);
            }
            Driven::Done(Err(Failure::Failed(error))) => {
                drop_contained(state.take());
                running.end(Err(CommandError::Failed { error, started: true }), Kind::Failed);
            }
            Driven::Panicked(Panic(message)) => {
                drop_contained(state.take());
                running.end(Err(CommandError::Panicked { message, started: true }), Kind::Panicked);
            }
            Driven::Stopped => unreachable!("a started command is never stopped"),
        }
    }

    /// Polls a future of the user's to its end: inside a frame, with panics contained, and with an
    /// eye on the dispatcher's orders while it is pending. On an abort a load is given up; a handler
    /// goes on, and finds its context cancelled.
    async fn drive<F: Future>(
        &self,
        pace: &mut Pace,
        id: &IdOf<HandlerTypes<H>>,
        lane: u64,
        turn: &mut Chain<HandlerTypes<H>>,
        is_load: bool,
        future: Pin<&mut Option<F>>,
    ) -> Driven<F::Output> {
        pace.run += 1;
        let mut published = false;
        let mut future = DropContained(future);
        poll_fn(|cx| {
            let frame = Frame {
                peers: &self.peers,
                shard: self.shard,
                worker: self.worker,
                id: id as &dyn Key,
                lane,
                run: pace.run,
                behind: turn.len(),
                published: Cell::from_mut(&mut published),
            };
            // Polled, and dropped as soon as it is ready, inside the frame: both are the user's.
            let polled = frame.scope(|| {
                let polled = contain(|| future.poll(cx));
                match polled {
                    Ok(Poll::Pending) => Poll::Pending,
                    Ok(Poll::Ready(result)) => Poll::Ready(match future.end() {
                        Ok(()) => Driven::Done(result),
                        Err(panic) => {
                            drop_contained(result);
                            Driven::Panicked(panic)
                        }
                    }),
                    Err(panic) => {
                        // What the destructor has to say comes second to why it runs.
                        let _ = future.end();
                        Poll::Ready(Driven::Panicked(panic))
                    }
                }
            });
            if polled.is_ready() {
                if published {
                    self.floor.front.board.clear(self.worker);
                }
                return polled;
            }
            // Register, then look: an order that comes after this look wakes the worker.
            self.floor.register(self.worker, cx.waker());
            if self.obey(pace, turn) && is_load {
                return Poll::Ready(Driven::Stopped);
            }
            Poll::Pending
        })
        .await
    }
}

/// A command whose handler runs. Dropped, it counts and gives `Aborted`.
struct Running<'a, T: Types> {
    claimed: Option<Claimed<T>>,
    tally: &'a Tally,
}

impl<'a, T: Types> Running<'a, T> {
    fn start(claimed: Claimed<T>, tally: &'a Tally) -> Self {
        tally.start();
        Self { claimed: Some(claimed), tally }
    }

    fn claimed(&mut self) -> &mut Claimed<T> {
        self.claimed.as_mut().expect("a running command is claimed until it ends")
    }

    fn end(mut self, outcome: Outcome<T::Output, T::Error>, kind: Kind) {
        // The count first: who sees the outcome sees it counted.
        self.tally.end(kind);
        if let Some(claimed) = self.claimed.take() {
            claimed.complete(outcome);
        }
    }
}

impl<T: Types> Drop for Running<'_, T> {
    fn drop(&mut self) {
        if self.claimed.is_some() {
            self.tally.end(Kind::Aborted);
            // Dropping what is claimed and started publishes the abort.
            self.claimed = None;
        }
    }
}

/// Drops a pinned future in place, and keeps to itself what its destructor throws: also when the
/// worker is dropped in the middle of it.
struct DropContained<'a, F>(Pin<&'a mut Option<F>>);

impl<F: Future> DropContained<'_, F> {
    fn poll(&mut self, cx: &mut std::task::Context<'_>) -> Poll<F::Output> {
        self.0.as_mut().as_pin_mut().expect("a future is polled until it is ready").poll(cx)
    }
}

impl<F> DropContained<'_, F> {
    fn end(&mut self) -> Result<(), Panic> {
        contain(|| self.0.set(None))
    }
}

impl<F> Drop for DropContained<'_, F> {
    fn drop(&mut self) {
        // The outcome is already decided, or the worker is going: nobody to tell.
        let _ = self.end();
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
