//! A command that says what its handler is to do, a handler that does it and keeps a log, and a
//! store to load from.

use crate::harness::{Door, yield_at_random};
use shardpool::{
    Command, CommandHandler, Context, Failure, Loaded, Loader, PoolOf, ShardStats, Ticket,
};
use std::collections::{HashMap, HashSet, VecDeque};
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

pub(crate) type Pool = PoolOf<Actor>;
pub(crate) type Tick = Ticket<Do, Seen, Why>;

/// How a command ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Act {
    Commit,
    Reject,
    Fail,
    Panic,
    /// Writes to the store as a commit does, and fails after that.
    WriteThenFail,
}

/// A command that says what its handler is to do.
#[derive(Clone)]
pub(crate) struct Do {
    pub(crate) id: u32,
    pub(crate) tag: u64,
    pub(crate) act: Act,
    door: Option<Door>,
    restless: bool,
}

impl Do {
    pub(crate) fn new(id: u32, tag: u64, act: Act) -> Self {
        Self { id, tag, act, door: None, restless: false }
    }

    pub(crate) fn commit(id: u32, tag: u64) -> Self {
        Self::new(id, tag, Act::Commit)
    }

    /// Waits at a door first.
    pub(crate) fn at(mut self, door: &Door) -> Self {
        self.door = Some(door.clone());
        self
    }

    /// Yields at random while it runs.
    pub(crate) fn restless(mut self) -> Self {
        self.restless = true;
        self
    }
}

impl Command for Do {
    type AggregateId = u32;
    fn aggregate_id(&self) -> &u32 {
        &self.id
    }
}

/// What a handler saw when its command started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) version: u64,
    pub(crate) state: u64,
    pub(crate) shard: usize,
}

/// Who did not commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    Handler(Seen),
    Loader(u32),
}

/// What was started, in order.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Logged>);

#[derive(Default)]
struct Logged {
    starts: Mutex<Vec<(u32, u64)>>,
    busy: Mutex<HashSet<u32>>,
    overlaps: AtomicU64,
}

impl Log {
    fn begin(&self, id: u32, tag: u64) {
        if !self.0.busy.lock().unwrap().insert(id) {
            self.0.overlaps.fetch_add(1, Ordering::SeqCst);
        }
        self.0.starts.lock().unwrap().push((id, tag));
    }

    fn end(&self, id: u32) {
        self.0.busy.lock().unwrap().remove(&id);
    }

    /// Aggregate and tag of each command that was started, in order.
    pub(crate) fn starts(&self) -> Vec<(u32, u64)> {
        self.0.starts.lock().unwrap().clone()
    }

    pub(crate) fn started(&self) -> usize {
        self.0.starts.lock().unwrap().len()
    }

    /// The tags of one aggregate's commands, in the order in which they were started.
    pub(crate) fn tags_of(&self, id: u32) -> Vec<u64> {
        self.starts().into_iter().filter(|start| start.0 == id).map(|start| start.1).collect()
    }

    /// How often a command was started while another one of its aggregate ran.
    pub(crate) fn overlaps(&self) -> u64 {
        self.0.overlaps.load(Ordering::SeqCst)
    }
}

/// Does what its commands say. The state counts the commits that it has seen.
#[derive(Default)]
pub(crate) struct Actor {
    pub(crate) log: Log,
    pub(crate) store: Option<Store>,
}

/// Ends a run in the log, also when it ends by a panic.
struct Running<'a>(&'a Log, u32);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.end(self.1);
    }
}

impl CommandHandler for Actor {
    type Command = Do;
    type State = u64;
    type Output = Seen;
    type Error = Why;

    async fn handle(
        &self,
        state: &mut u64,
        command: Do,
        cx: &Context,
    ) -> Result<Seen, Failure<Why>> {
        self.log.begin(command.id, command.tag);
        let _running = Running(&self.log, command.id);
        let seen = Seen { version: cx.version(), state: *state, shard: cx.shard() };
        if let Some(door) = &command.door {
            door.pass().await;
        }
        if command.restless {
            yield_at_random().await;
        }
        if matches!(command.act, Act::Commit | Act::WriteThenFail)
            && let Some(store) = &self.store
        {
            store.write(command.id, cx.version());
        }
        match command.act {
            Act::Commit => {
                *state += 1;
                Ok(seen)
            }
            Act::Reject => Err(Failure::Rejected(Why::Handler(seen))),
            Act::Fail | Act::WriteThenFail => {
                *state += SPOILT;
                Err(Failure::Failed(Why::Handler(seen)))
            }
            Act::Panic => {
                *state += SPOILT;
                // Past the panic hook, which would print.
                resume_unwind(Box::new(format!("on purpose: {}", command.tag)))
            }
        }
    }
}

/// Added to the state by a command that fails: it must not be seen again.
const SPOILT: u64 = 1 << 40;

/// How a load goes wrong.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fault {
    Error,
    Panic,
}

/// A store that remembers the versions that were committed; a loader.
#[derive(Clone, Default)]
pub(crate) struct Store(Arc<Stored>);

#[derive(Default)]
struct Stored {
    journals: Mutex<HashMap<u32, Vec<u64>>>,
    loads: Mutex<Vec<u32>>,
    doors: Mutex<HashMap<u32, Door>>,
    faults: Mutex<HashMap<u32, VecDeque<Fault>>>,
}

impl Store {
    /// Writes the version of a commit.
    pub(crate) fn write(&self, id: u32, version: u64) {
        self.0.journals.lock().unwrap().entry(id).or_default().push(version);
    }

    /// The versions that were committed, in order.
    pub(crate) fn journal(&self, id: u32) -> Vec<u64> {
        self.0.journals.lock().unwrap().get(&id).cloned().unwrap_or_default()
    }

    /// The aggregates that were loaded, in order.
    pub(crate) fn loads(&self) -> Vec<u32> {
        self.0.loads.lock().unwrap().clone()
    }

    pub(crate) fn loads_of(&self, id: u32) -> usize {
        self.loads().into_iter().filter(|&other| other == id).count()
    }

    /// Lets the loads of an aggregate wait at a door.
    pub(crate) fn hold(&self, id: u32, door: &Door) {
        self.0.doors.lock().unwrap().insert(id, door.clone());
    }

    /// Lets the next loads of an aggregate go wrong.
    pub(crate) fn break_loads(&self, id: u32, faults: impl IntoIterator<Item = Fault>) {
        self.0.faults.lock().unwrap().entry(id).or_default().extend(faults);
    }
}

impl Loader for Store {
    type AggregateId = u32;
    type State = u64;
    type Error = Why;

    async fn load(&self, id: &u32) -> Result<Loaded<u64>, Why> {
        self.0.loads.lock().unwrap().push(*id);
        let door = self.0.doors.lock().unwrap().get(id).cloned();
        if let Some(door) = door {
            door.pass().await;
        }
        let fault = self.0.faults.lock().unwrap().get_mut(id).and_then(VecDeque::pop_front);
        match fault {
            Some(Fault::Error) => return Err(Why::Loader(*id)),
            Some(Fault::Panic) => resume_unwind(Box::new(format!("load of {id}"))),
            None => {}
        }
        let journal = self.journal(*id);
        Ok(Loaded::new(journal.len() as u64, journal.last().copied().unwrap_or(0)))
    }
}

/// The counters of a pool of one shard.
pub(crate) fn only(pool: &Pool) -> ShardStats {
    let stats = pool.stats();
    assert_eq!(stats.len(), 1, "a pool of one shard");
    stats[0]
}
