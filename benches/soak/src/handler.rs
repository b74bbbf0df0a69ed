//! Commands that say what their handler does, and a model that says what each must find.

use crate::client;
use crate::round::Round;
use crate::things::{Alive, quiet_panic};
use shardpool::{
    Command, CommandError, CommandHandler, Context, Failure, Loaded, Loader, PoolOf, Receipt,
    WeakPool,
};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

pub(crate) type Pool = PoolOf<Actor>;
pub(crate) type Weak = WeakPool<Do, u64, u64>;
pub(crate) type Ticket = shardpool::Ticket<Do, u64, u64>;
pub(crate) type Outcome = Result<Receipt<u64>, CommandError<u64>>;

/// Who has made a command, and which of its own it is.
pub(crate) type Tag = (u32, u32);

/// The maker of what handlers send: of many handlers at once, so in no order.
pub(crate) const HANDLERS: u32 = u32::MAX;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Act {
    Commit,
    Reject,
    Fail,
    PanicAtOnce,
    PanicLater,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Pause {
    None,
    Yields(u8),
    Sleeps(Duration),
    /// For the thread.
    Blocks(Duration),
    /// The planted hang.
    ForEver,
}

pub(crate) struct Do {
    pub(crate) id: u32,
    pub(crate) tag: Tag,
    pub(crate) act: Act,
    pub(crate) pause: Pause,
    /// How many rounds of commands the handler sends to its own pool, one below the other.
    pub(crate) visits: u8,
    pub(crate) _alive: Alive,
}

impl Command for Do {
    type AggregateId = u32;
    fn aggregate_id(&self) -> &u32 {
        &self.id
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Truth {
    version: u64,
    /// How many commits the state has seen.
    commits: u64,
}

/// What is true of one pool.
#[derive(Default)]
pub(crate) struct Book {
    truths: HashMap<u32, Truth>,
    /// Who runs, for each aggregate.
    busy: HashMap<u32, Tag>,
    started: HashSet<Tag>,
    /// The last that was started of each maker's commands for each aggregate.
    last: HashMap<(u32, u32), u32>,
}

#[derive(Default)]
pub(crate) struct State {
    commits: u64,
    _alive: Option<Alive>,
}

/// Added to the state by what fails: nobody may see it again.
const SPOILT: u64 = 1 << 40;

/// One start of a handler. What is true is set when it ends, in whatever way.
struct Run<'a> {
    round: &'a Round,
    id: u32,
    truth: Truth,
}

impl<'a> Run<'a> {
    fn start(round: &'a Round, command: &Do, version: u64, commits: u64) -> Self {
        let (id, tag) = (command.id, command.tag);
        let mut book = round.book();
        let other = book.busy.insert(id, tag);
        assert_eq!(other, None, "G1: {tag:?} of {id} is started while another runs");
        assert!(book.started.insert(tag), "G5: {tag:?} of {id} is started twice");
        if tag.0 != HANDLERS {
            let before = book.last.insert((id, tag.0), tag.1);
            assert!(before < Some(tag.1), "G1: {tag:?} of {id} is started after {before:?}");
        }
        let truth = book.truths.get(&id).copied().unwrap_or_default();
        let finds = Truth { version: version.wrapping_sub(1), commits };
        assert_eq!(finds, truth, "G10, G11: {tag:?} of {id} finds the first");
        // Without a store, a handler that does not come to its end leaves the default.
        let truth = if round.settings.loads { truth } else { Truth { commits: 0, ..truth } };
        Self { round, id, truth }
    }
}

impl Drop for Run<'_> {
    fn drop(&mut self) {
        let mut book = self.round.book();
        book.busy.remove(&self.id);
        book.truths.insert(self.id, self.truth);
    }
}

pub(crate) struct Actor {
    pub(crate) round: Arc<Round>,
    pub(crate) _alive: Alive,
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
        let round = &*self.round;
        let mut run = Run::start(round, &command, cx.version(), state.commits);
        let before = std::mem::replace(&mut state.commits, SPOILT);
        if command.act == Act::PanicAtOnce {
            quiet_panic("at once");
        }
        match command.pause {
            Pause::None => {}
            Pause::Yields(times) => client::yields(times).await,
            Pause::Sleeps(time) => round.sleep(time).await,
            Pause::Blocks(time) => std::thread::sleep(time),
            Pause::ForEver => std::future::pending().await,
        }
        for _ in 0..command.visits {
            client::visit(round, command.visits - 1).await;
        }
        let version = cx.version();
        match command.act {
            Act::Commit => {
                state.commits = before + 1;
                run.truth = Truth { version, commits: before + 1 };
                Ok(version)
            }
            Act::Reject => {
                state.commits = before;
                run.truth = Truth { version: version - 1, commits: before };
                Err(Failure::Rejected(version))
            }
            Act::Fail => Err(Failure::Failed(version)),
            Act::PanicAtOnce | Act::PanicLater => quiet_panic("later"),
        }
    }
}

/// What the model says is true, as a store would.
pub(crate) struct Store(pub(crate) Arc<Round>);

impl Loader for Store {
    type AggregateId = u32;
    type State = State;
    type Error = u64;

    async fn load(&self, id: &u32) -> Result<Loaded<State>, u64> {
        let faults = self.0.settings.failures / 4.0;
        if fastrand::f64() < faults {
            quiet_panic("load");
        }
        client::yields(fastrand::u8(..3)).await;
        if fastrand::f64() < faults {
            return Err(0);
        }
        let truth = self.0.book().truths.get(id).copied().unwrap_or_default();
        let state = State { commits: truth.commits, _alive: Some(self.0.live.one()) };
        Ok(Loaded::new(state, truth.version))
    }
}

impl Book {
    pub(crate) fn has_started(&self, tag: Tag) -> bool {
        self.started.contains(&tag)
    }
}
