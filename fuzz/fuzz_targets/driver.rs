//! One caller that carries out the operations, and checks what it is told.

use crate::input::{Finish, Input, Job, Operation, Pause};
use crate::script::{self, Act, Do, Outcome, Pool, Ticket, World};
use shardpool::sim::Sim;
use shardpool::{
    CommandError, DrainError, Outcomes, SendError, ShardPool, SubmitError, TrySubmitError,
};
use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

/// The ids of the others are less.
const AGGREGATES: u32 = 8;
/// The ids of what is only touched begin here.
const TOUCHED: u32 = 100;

/// What the caller knows of a command.
#[derive(Debug, Clone, Copy)]
struct Told {
    tag: (u32, u32),
    act: Act,
    has_deadline: bool,
    is_withdrawn: bool,
}

type Arrivals = Rc<RefCell<Vec<(u32, u32)>>>;
type Boxed<T> = Pin<Box<dyn Future<Output = T>>>;

/// What the caller holds.
enum Held {
    Submission(Told, Boxed<Result<Ticket, SubmitError<Do>>>),
    Sending(Told, Boxed<Result<shardpool::Receipt<u64>, SendError<Do, u64>>>),
    Ticket(Told, Ticket),
    /// A drain or an abort; whether it has a deadline.
    Ending(bool, shardpool::Drain),
}

/// What it is told when one of these is ready.
enum Answer {
    Accepted(Told, Ticket),
    Refused(Told, SubmitError<Do>),
    Ended(Told, Outcome),
    Over(bool, Result<Outcomes, DrainError>),
}

impl Held {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Answer> {
        Poll::Ready(match self {
            Self::Submission(told, submission) => match ready!(submission.as_mut().poll(cx)) {
                Ok(ticket) => Answer::Accepted(*told, ticket),
                Err(error) => Answer::Refused(*told, error),
            },
            Self::Sending(told, sending) => match ready!(sending.as_mut().poll(cx)) {
                Ok(receipt) => Answer::Ended(*told, Ok(receipt)),
                Err(SendError::Command(error)) => Answer::Ended(*told, Err(error)),
                Err(SendError::NotAccepted(error)) => Answer::Refused(*told, error),
                Err(other) => panic!("unknown: {other:?}"),
            },
            Self::Ticket(told, ticket) => Answer::Ended(*told, ready!(Pin::new(ticket).poll(cx))),
            Self::Ending(is_bounded, drain) => {
                Answer::Over(*is_bounded, ready!(Pin::new(drain).poll(cx)))
            }
        })
    }
}

struct Caller {
    sim: Sim,
    world: World,
    depth: usize,
    pool: Option<Pool>,
    peek: shardpool::WeakPool<Do, u64, u64>,
    held: Vec<Held>,
    made: u32,
    /// Who has come to the pool so far, in this order: that is the order of acceptance as well.
    arrivals: Arrivals,
    /// What was refused and what has ended: looked at again when all is over.
    refused: Vec<Told>,
    ended: Vec<(Told, Outcome)>,
    /// Whether futures of the pool were dropped: then also what runs is aborted.
    has_losses: bool,
}

pub async fn run(sim: Sim, input: &Input) {
    let world = World::new(&sim, input.settings.store.is_some());
    let pool = start(&sim, &world, input);
    let mut caller = Caller {
        depth: input.settings.depth,
        peek: pool.downgrade(),
        pool: Some(pool),
        held: Vec::new(),
        made: 0,
        arrivals: Arrivals::default(),
        refused: Vec::new(),
        ended: Vec::new(),
        has_losses: false,
        sim,
        world,
    };
    for operation in &input.operations {
        caller.carry_out(operation).await;
        caller.assert_depth();
    }
    caller.end().await;
}

fn start(sim: &Sim, world: &World, input: &Input) -> Pool {
    let settings = &input.settings;
    let builder = ShardPool::builder(world.actor())
        .hasher(sim.hasher())
        .shards(settings.shards)
        .workers_per_shard(settings.workers)
        .queue_depth(settings.depth)
        .max_turn(settings.turn);
    let Some(store) = &settings.store else { return builder.start(sim.clone()).unwrap() };
    let builder = builder.loader(world.store(if store.has_faults { 0.1 } else { 0.0 }));
    let builder = match store.resident {
        Some(most) => builder.max_resident(most),
        None => builder,
    };
    builder.start(sim.clone()).unwrap()
}

impl Caller {
    async fn carry_out(&mut self, operation: &Operation) {
        match operation {
            Operation::TrySubmit(job) => self.try_submit(job),
            Operation::Submit(job) => self.submit(job),
            Operation::Send(job) => self.send(job),
            Operation::Poll(place) => {
                if let Some(place) = self.place(*place) {
                    let held = &mut self.held[place];
                    let polled = poll_fn(|cx| Poll::Ready(held.poll(cx))).await;
                    if let Poll::Ready(answer) = polled {
                        self.held.swap_remove(place);
                        self.hear(answer);
                    }
                }
            }
            Operation::Await(place) => {
                if let Some(place) = self.place(*place) {
                    self.wait_for(place).await;
                }
            }
            Operation::Drop(place) => {
                if let Some(place) = self.place(*place) {
                    self.held.swap_remove(place);
                }
            }
            Operation::Withdraw(place) => {
                if let Some(place) = self.place(*place)
                    && let Held::Ticket(told, ticket) = &mut self.held[place]
                {
                    told.is_withdrawn |= ticket.withdraw();
                }
            }
            Operation::Drain(time) => {
                if let Some(pool) = &self.pool {
                    let drain = match time {
                        Some(time) => pool.drain().within(millis(*time)),
                        None => pool.drain(),
                    };
                    self.held.push(Held::Ending(time.is_some(), drain));
                }
            }
            Operation::Abort => {
                if let Some(pool) = &self.pool {
                    self.held.push(Held::Ending(false, pool.abort()));
                }
            }
            Operation::DropHandle => self.pool = None,
            Operation::Touch(aggregates) => {
                for id in 0..u32::from(*aggregates) {
                    if let Some(pool) = &self.pool {
                        let tag = (1, self.made);
                        self.made += 1;
                        // Nobody waits for it: full or not, it is touched or it is not.
                        drop(pool.try_submit(self.world.command(TOUCHED + id, tag, Act::Commit)));
                    }
                }
            }
            Operation::Yield(times) => {
                for _ in 0..*times {
                    self.sim.yield_now().await;
                }
            }
            Operation::Settle => self.sim.settle().await,
            Operation::Sleep(time) => self.sim.sleep(millis(*time)).await,
            Operation::LoseTask(place) => {
                self.has_losses |= self.sim.drop_task(usize::from(*place));
            }
            Operation::ShutDown => {
                self.sim.shut_down();
                self.has_losses = true;
            }
        }
    }

    fn place(&self, place: u8) -> Option<usize> {
        usize::from(place).checked_rem(self.held.len())
    }

    /// A command, what the caller knows of it, and its time.
    fn command(&mut self, job: &Job) -> (Do, Told, Duration) {
        let tag = (0, self.made);
        self.made += 1;
        let act = match job.end {
            Finish::Commit => Act::Commit,
            Finish::Reject => Act::Reject,
            Finish::Fail => Act::Fail,
            Finish::WriteThenFail => Act::WriteThenFail,
            Finish::PanicAtOnce => Act::PanicAtOnce,
            Finish::PanicLater => Act::PanicLater,
            Finish::PanicAtEnd => Act::PanicAtEnd,
        };
        let mut command = self.world.command(job.aggregate, tag, act);
        command.pause = match job.pause {
            Pause::None => script::Pause::None,
            Pause::Yields => script::Pause::Yields,
            Pause::Sleeps(time) => script::Pause::Sleeps(millis(time)),
        };
        let told = Told { tag, act, has_deadline: job.deadline.is_some(), is_withdrawn: false };
        // `within` of `None` can't be said; `MAX` is the same.
        (command, told, job.deadline.map_or(Duration::MAX, millis))
    }

    fn try_submit(&mut self, job: &Job) {
        let (mut command, told, time) = self.command(job);
        let Some(pool) = &self.pool else { return };
        command.not_after = self.sim.elapsed().checked_add(time);
        self.arrivals.borrow_mut().push(command.tag);
        match pool.within(time).try_submit(command) {
            Ok(ticket) => self.hear(Answer::Accepted(told, ticket)),
            Err(error) => {
                let is_expected = match error {
                    TrySubmitError::Full(_) | TrySubmitError::Closed(_) => true,
                    TrySubmitError::Expired(_) => told.has_deadline,
                    _ => false,
                };
                assert!(is_expected, "{told:?} is refused as {error:?}");
                self.refuse(told, error.into_command());
            }
        }
    }

    fn submit(&mut self, job: &Job) {
        let (mut command, told, time) = self.command(job);
        let Some(pool) = self.pool.clone() else { return };
        let (sim, arrivals) = (self.sim.clone(), Rc::clone(&self.arrivals));
        let submission = Box::pin(async move {
            command.not_after = sim.elapsed().checked_add(time);
            arrivals.borrow_mut().push(command.tag);
            pool.within(time).submit(command).await
        });
        self.held.push(Held::Submission(told, submission));
    }

    fn send(&mut self, job: &Job) {
        let (mut command, told, time) = self.command(job);
        let Some(pool) = self.pool.clone() else { return };
        let (sim, arrivals) = (self.sim.clone(), Rc::clone(&self.arrivals));
        let sending = Box::pin(async move {
            command.not_after = sim.elapsed().checked_add(time);
            arrivals.borrow_mut().push(command.tag);
            pool.within(time).send(command).await
        });
        self.held.push(Held::Sending(told, sending));
    }

    async fn wait_for(&mut self, place: usize) {
        let mut held = self.held.swap_remove(place);
        let answer = poll_fn(|cx| held.poll(cx)).await;
        drop(held);
        self.hear(answer);
    }

    fn hear(&mut self, answer: Answer) {
        match answer {
            Answer::Accepted(told, ticket) => self.held.push(Held::Ticket(told, ticket)),
            Answer::Refused(told, error) => {
                let is_expected = match error {
                    SubmitError::Closed(_) => true,
                    SubmitError::Expired(_) => told.has_deadline,
                    _ => false,
                };
                assert!(is_expected, "{told:?} is refused as {error:?}");
                self.refuse(told, error.into_command());
            }
            Answer::Ended(told, outcome) => {
                let is_expected = match outcome {
                    Err(CommandError::Cancelled) => told.is_withdrawn,
                    _ if told.is_withdrawn => false,
                    Err(CommandError::Expired) => told.has_deadline,
                    Err(CommandError::Aborted { started }) => !started || self.has_losses,
                    Err(CommandError::Deadlock) => false,
                    _ => true,
                };
                assert!(is_expected, "{told:?} ends as {outcome:?}");
                self.world.judge(told.tag, told.act, &outcome);
                self.ended.push((told, outcome));
            }
            Answer::Over(_, Ok(outcomes)) => {
                if let Some(pool) = self.peek.upgrade() {
                    assert_quiet(&pool, outcomes);
                }
            }
            Answer::Over(is_bounded, Err(error)) => {
                let is_late = matches!(error, DrainError::Timeout { .. });
                assert!(is_bounded && is_late, "a drain ends as {error:?}");
            }
        }
    }

    fn refuse(&mut self, told: Told, command: Do) {
        assert_eq!(command.tag, told.tag, "another command came back");
        self.refused.push(told);
    }

    fn assert_depth(&self) {
        if let Some(pool) = self.peek.upgrade() {
            for shard in pool.stats() {
                assert!(shard.queued <= self.depth as u64, "G13: {shard:?}");
            }
        }
    }

    /// Everything that is held ends, then the pool (G5, G17).
    async fn end(mut self) {
        while let Some(last) = self.held.len().checked_sub(1) {
            self.wait_for(last).await;
        }
        if let Some(pool) = self.pool.take() {
            let outcomes = pool.drain().await.expect("nothing bounds it");
            assert_quiet(&pool, outcomes);
            self.assert_counted(outcomes);
        }
        let Self { sim, world, .. } = &self;
        for _ in 0..100 {
            sim.settle().await;
            if sim.live_tasks() == 0 {
                break;
            }
            // A handler sleeps.
            sim.sleep(Duration::from_secs(1)).await;
        }
        assert_eq!(sim.live_tasks(), 0, "G17: futures of the pool are left");
        assert_eq!(world.live.count(), 0, "G17: commands, states or handlers are left");
        self.assert_order();
        for told in &self.refused {
            assert!(!world.has_started(told.tag), "{told:?} was refused, and is started");
        }
        for (told, outcome) in &self.ended {
            world.judge(told.tag, told.act, outcome);
        }
    }

    /// The commands of an aggregate start in the order of their acceptance (G1).
    fn assert_order(&self) {
        let arrivals = self.arrivals.borrow();
        let place = |tag| arrivals.iter().position(|arrival| *arrival == tag);
        for id in 0..AGGREGATES {
            let starts = self.world.starts_of(id);
            let in_order = starts.is_sorted_by_key(|tag| place(*tag));
            assert!(in_order, "G1: aggregate {id} has started {starts:?} of {arrivals:?}");
        }
    }

    /// What the caller was told is in the counters.
    fn assert_counted(&self, outcomes: Outcomes) {
        let told = |is: fn(&Outcome) -> bool| {
            self.ended.iter().filter(|(_, outcome)| is(outcome)).count() as u64
        };
        let pairs = [
            (told(|o| o.is_ok()), outcomes.committed),
            (told(|o| matches!(o, Err(CommandError::Rejected(_)))), outcomes.rejected),
            (told(|o| matches!(o, Err(CommandError::Failed { .. }))), outcomes.failed),
            (told(|o| matches!(o, Err(CommandError::Panicked { .. }))), outcomes.panicked),
            (told(|o| matches!(o, Err(CommandError::Cancelled))), outcomes.cancelled),
            (told(|o| matches!(o, Err(CommandError::Expired))), outcomes.expired),
            (told(|o| matches!(o, Err(CommandError::Aborted { .. }))), outcomes.aborted),
        ];
        // The outcomes of dropped tickets were told to nobody.
        assert!(pairs.iter().all(|(told, counted)| told <= counted), "G5: {pairs:?}");
    }
}

/// After the end each accepted command is in the outcomes, and in nothing else (G5).
fn assert_quiet(pool: &Pool, outcomes: Outcomes) {
    let stats = pool.stats();
    let accepted: u64 = stats.iter().map(|shard| shard.accepted).sum();
    assert_eq!(accepted, outcomes.total(), "G5: {stats:?}");
    for shard in &stats {
        assert_eq!(shard.accepted, shard.outcomes.total(), "G5: {stats:?}");
        assert_eq!((shard.queued, shard.running, shard.waiting), (0, 0, 0), "G5: {stats:?}");
    }
}

fn millis(time: u8) -> Duration {
    Duration::from_millis(time.into())
}
