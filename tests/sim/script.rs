//! Commands that say what their handler does, a handler that does it, and a model that says what each
//! must find: it fails the run where it does not.

use crate::things::{Alive, Bomb, Id, Live, quiet_panic};
use shardpool::sim::Sim;
use shardpool::{
    Command, CommandError, CommandHandler, Context, Failure, Loaded, Loader, PoolOf, Receipt,
};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

pub(crate) type Pool = PoolOf<Actor>;
pub(crate) type Ticket = shardpool::Ticket<Do, u64, u64>;
pub(crate) type Outcome = Result<Receipt<u64>, CommandError<u64>>;

/// How a command ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Act {
    Commit,
    Reject,
    Fail,
    /// Writes to the store as a commit does, and fails after that.
    WriteThenFail,
    /// Panics before the handler's first await.
    PanicAtOnce,
    /// Panics after it.
    PanicLater,
    /// Panics in a destructor as the handler's future is dropped, its output being there already.
    PanicAtEnd,
}

/// What the handler does on its way.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Pause {
    None,
    Yields,
    Sleeps(Duration),
}

pub(crate) struct Do {
    pub(crate) id: Id,
    /// Client and number.
    pub(crate) tag: (u32, u32),
    pub(crate) act: Act,
    pub(crate) pause: Pause,
    /// It must not start then or later.
    pub(crate) not_after: Option<Duration>,
    /// Goes off when the command is dropped.
    pub(crate) bomb: Option<Bomb>,
    _alive: Alive,
}

impl Command for Do {
    type AggregateId = Id;
    fn aggregate_id(&self) -> &Id {
        &self.id
    }
}

/// What should be there.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Truth {
    version: u64,
    state: u64,
}

/// The state of an aggregate: how many commits it has seen.
#[derive(Default)]
pub(crate) struct State {
    commits: u64,
    _alive: Option<Alive>,
}

/// Added to the state by what fails: nobody may see it again.
const SPOILT: u64 = 1 << 40;

/// What one run knows of itself.
#[derive(Clone)]
pub(crate) struct World {
    pub(crate) sim: Sim,
    pub(crate) live: Live,
    /// Whether there is a store behind.
    pub(crate) loads: bool,
    book: Arc<Mutex<Book>>,
}

#[derive(Default)]
pub(crate) struct Book {
    truths: BTreeMap<u32, Truth>,
    /// Who runs, for each aggregate.
    busy: BTreeMap<u32, (u32, u32)>,
    /// What was started, in order.
    pub(crate) starts: Vec<(u32, (u32, u32))>,
    pub(crate) ended: usize,
    pub(crate) loads: Vec<u32>,
    /// The most that ran at once.
    pub(crate) most_running: usize,
}

impl World {
    pub(crate) fn new(sim: &Sim, loads: bool) -> Self {
        Self { sim: sim.clone(), live: Live::default(), loads, book: Arc::default() }
    }

    pub(crate) fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap()
    }

    pub(crate) fn actor(&self) -> Actor {
        Actor { world: self.clone(), _alive: self.live.one() }
    }

    pub(crate) fn store(&self, faults: f64) -> Store {
        Store { world: self.clone(), faults }
    }

    pub(crate) fn command(&self, id: u32, tag: (u32, u32), act: Act) -> Do {
        let (id, _alive) = (Id::new(id), self.live.one());
        Do { id, tag, act, pause: Pause::None, not_after: None, bomb: None, _alive }
    }

    /// Whether this command's handler was started.
    pub(crate) fn has_started(&self, tag: (u32, u32)) -> bool {
        self.book().starts.iter().any(|start| start.1 == tag)
    }

    /// The commands of one aggregate that were started, in order.
    pub(crate) fn starts_of(&self, id: u32) -> Vec<(u32, u32)> {
        self.book().starts.iter().filter(|start| start.0 == id).map(|start| start.1).collect()
    }

    /// What the outcome of a command says must be what happened to it.
    pub(crate) fn judge(&self, tag: (u32, u32), act: Act, outcome: &Outcome) {
        let started = self.has_started(tag);
        let said = match outcome {
            Ok(receipt) => {
                assert_eq!(act, Act::Commit, "{tag:?} committed");
                assert_eq!(receipt.version, receipt.output, "{tag:?} is told another version");
                true
            }
            Err(error) => {
                match error {
                    CommandError::Rejected(_) => assert_eq!(act, Act::Reject, "{tag:?} rejected"),
                    CommandError::Failed { started: true, .. } => {
                        assert!(matches!(act, Act::Fail | Act::WriteThenFail), "{tag:?} failed");
                    }
                    CommandError::Panicked { started: true, message } => assert!(
                        matches!(act, Act::PanicAtOnce | Act::PanicLater | Act::PanicAtEnd)
                            || message == "in the command",
                        "{tag:?} panicked: {message}"
                    ),
                    _ => {}
                }
                error.started()
            }
        };
        assert_eq!(said, started, "{tag:?} ended as {outcome:?}; was it started?");
    }
}

pub(crate) struct Actor {
    world: World,
    _alive: Alive,
}

/// One start of a handler. Dropped before its end, the state is not to be trusted.
struct Run<'a> {
    world: &'a World,
    id: u32,
    /// What is true from now on.
    truth: Truth,
}

impl<'a> Run<'a> {
    fn start(world: &'a World, command: &Do, version: u64, state: u64) -> Self {
        let (id, tag) = (command.id.number, command.tag);
        let mut book = world.book();
        if let Some(other) = book.busy.insert(id, tag) {
            world.sim.fail(format!("G1: {tag:?} of {id} is started while {other:?} runs"));
        }
        if book.starts.iter().any(|start| start.1 == tag) {
            world.sim.fail(format!("G5: {tag:?} of {id} is started twice"));
        }
        book.starts.push((id, tag));
        let now = world.sim.elapsed();
        if command.not_after.is_some_and(|deadline| deadline <= now) {
            world.sim.fail(format!("G8: {tag:?} of {id} is started late, at {now:?}"));
        }
        book.most_running = book.most_running.max(book.busy.len());
        let truth = *book.truths.entry(id).or_default();
        let found = Truth { version: version.wrapping_sub(1), state };
        if found != truth {
            world
                .sim
                .fail(format!("G10, G11: {tag:?} of {id} finds {found:?}, should be {truth:?}"));
        }
        drop(book);
        // Without a store, a handler that does not come to its end leaves the default.
        let truth = if world.loads { truth } else { Truth { state: 0, ..truth } };
        Self { world, id, truth }
    }

    fn has_committed(&mut self) {
        let mut book = self.world.book();
        let truth = book.truths.entry(self.id).or_default();
        (truth.version, truth.state) = (truth.version + 1, truth.state + 1);
        self.truth = *truth;
    }

    fn has_rejected(&mut self) {
        self.truth = self.world.book().truths[&self.id];
    }
}

impl Drop for Run<'_> {
    fn drop(&mut self) {
        let mut book = self.world.book();
        book.busy.remove(&self.id);
        book.truths.insert(self.id, self.truth);
        book.ended += 1;
    }
}

impl CommandHandler for Actor {
    type Command = Do;
    type State = State;
    /// The version.
    type Output = u64;
    type Error = u64;

    async fn handle(
        &self,
        state: &mut State,
        command: Do,
        cx: &Context,
    ) -> Result<u64, Failure<u64>> {
        let mut run = Run::start(&self.world, &command, cx.version(), state.commits);
        let sim = &self.world.sim;
        if command.act == Act::PanicAtOnce {
            state.commits += SPOILT;
            quiet_panic("at once");
        }
        match command.pause {
            Pause::None => {}
            Pause::Yields => sim.yield_at_random().await,
            Pause::Sleeps(time) => sim.sleep(time).await,
        }
        let version = cx.version();
        match command.act {
            Act::Commit => {
                // Before anything is written: it may go off.
                drop(command);
                run.has_committed();
                state.commits += 1;
                Ok(version)
            }
            Act::Reject => {
                drop(command);
                run.has_rejected();
                Err(Failure::Rejected(version))
            }
            Act::Fail => {
                state.commits += SPOILT;
                Err(Failure::Failed(version))
            }
            Act::WriteThenFail => {
                if self.world.loads {
                    run.has_committed();
                }
                state.commits += SPOILT;
                Err(Failure::Failed(version))
            }
            Act::PanicAtOnce | Act::PanicLater => {
                state.commits += SPOILT;
                quiet_panic("later")
            }
            Act::PanicAtEnd => {
                state.commits += SPOILT;
                let _bomb = Bomb("at the end");
                Ok(version)
            }
        }
    }
}

/// What the model says is true, as a store would.
pub(crate) struct Store {
    world: World,
    /// How often a load fails or panics.
    faults: f64,
}

impl Loader for Store {
    type AggregateId = Id;
    type State = State;
    type Error = u64;

    async fn load(&self, id: &Id) -> Result<Loaded<State>, u64> {
        let World { sim, live, .. } = &self.world;
        self.world.book().loads.push(id.number);
        if sim.chance(self.faults) {
            quiet_panic("load, at once");
        }
        sim.yield_at_random().await;
        if sim.chance(self.faults) {
            return Err(0);
        }
        if sim.chance(self.faults) {
            quiet_panic("load, later");
        }
        let truth = self.world.book().truths.get(&id.number).copied().unwrap_or_default();
        let state = State { commits: truth.state, _alive: Some(live.one()) };
        Ok(Loaded::new(state, truth.version))
    }
}
