//! What every contender carries out: the same command, the same handler, the same store.

use crate::runtimes::Runtime;
use std::error::Error;
use std::fmt;
use std::future::Future;
use std::hint::black_box;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The id of an aggregate: 14 characters, cloned into each command.
pub type Id = Arc<str>;

/// The id of the aggregate of this number.
pub fn id(number: usize) -> Id {
    format!("order-{number:08}").into()
}

/// The number of the aggregate of this id.
fn number(id: &str) -> usize {
    id.bytes().skip(6).fold(0, |n, digit| 10 * n + usize::from(digit - b'0'))
}

/// What to do for a command.
#[derive(Debug, Clone, Copy)]
pub enum Work {
    /// Nothing.
    Nothing,
    /// Wait on the runtime's timer for so many microseconds.
    Wait(u32),
    /// Wait for so many microseconds, and hardly longer.
    WaitFine(u32),
    /// Use the processor for so many steps.
    Spin(u32),
    /// Block the thread for so many microseconds.
    Block(u32),
    /// Change the document, and append an event to the store.
    Append,
}

/// One request to change one aggregate.
#[derive(Debug, Clone)]
pub struct Command {
    pub id: Id,
    pub work: Work,
}

// The id and eight bytes, so that nobody is measured by how fast it copies.
const _: () = assert!(size_of::<Command>() == size_of::<Id>() + 8);

impl shardpool::Command for Command {
    type AggregateId = Id;

    fn aggregate_id(&self) -> &Id {
        &self.id
    }
}

/// What is resident for an aggregate.
#[derive(Debug, Default)]
pub struct State {
    commits: u64,
    /// Only there when it was loaded from a store.
    document: Option<Box<[u8; DOCUMENT]>>,
}

/// Bytes of a document.
const DOCUMENT: usize = 1024;

/// A state, and the version that it has.
#[derive(Debug, Default)]
pub struct Versioned {
    pub state: State,
    pub version: u64,
}

/// Why a command did not commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// The store has another version: somebody else has written.
    Conflict,
    /// The contender did not carry the command out.
    Lost,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Conflict => "another command has written this version",
            Self::Lost => "the command was not carried out",
        })
    }
}

impl Error for Refused {}

impl grommet::ProcessError for Refused {
    fn fallout(&self) -> grommet::Fallout {
        grommet::Fallout::Untouched
    }
}

/// An event store, of which only the versions are kept: it refuses a version that was written
/// before, so that a contender without order or exclusion per key is found out.
pub struct Store {
    versions: Box<[AtomicU64]>,
}

impl Store {
    pub fn new(aggregates: usize) -> Self {
        Self { versions: (0..aggregates).map(|_| AtomicU64::new(0)).collect() }
    }

    fn load(&self, id: &str) -> Versioned {
        let number = number(id);
        // Relaxed: the contender orders the commands of one aggregate.
        let version = self.versions[number].load(Ordering::Relaxed);
        let document = Some(Box::new([number as u8; DOCUMENT]));
        Versioned { state: State { commits: version, document }, version }
    }

    fn append(&self, id: &str, version: u64) -> Result<(), Refused> {
        self.versions[number(id)]
            .compare_exchange(version - 1, version, Ordering::Relaxed, Ordering::Relaxed)
            .map(drop)
            .map_err(|_| Refused::Conflict)
    }
}

/// The handler, and what is behind it.
pub trait Domain: Send + Sync + 'static {
    /// With a store of so many aggregates, or without one.
    fn new(stored: Option<usize>) -> Self;

    /// An aggregate as it is before its first command here.
    fn load(&self, id: &Id) -> impl Future<Output = Versioned> + Send;

    /// Carries a command out that will have this version.
    fn handle(
        &self,
        state: &mut State,
        version: u64,
        command: Command,
    ) -> impl Future<Output = Result<u64, Refused>> + Send;

    /// As [`handle`](Self::handle), for contenders whose aggregates count their version themselves.
    fn commit(
        &self,
        held: &mut Versioned,
        command: Command,
    ) -> impl Future<Output = Result<u64, Refused>> + Send {
        async {
            let output = self.handle(&mut held.state, held.version + 1, command).await?;
            held.version += 1;
            Ok(output)
        }
    }
}

/// For workloads in which there is nothing to do: its futures never wait, and have no room for it.
pub struct Idle;

impl Domain for Idle {
    fn new(_: Option<usize>) -> Self {
        Self
    }

    async fn load(&self, _: &Id) -> Versioned {
        Versioned::default()
    }

    async fn handle(
        &self,
        state: &mut State,
        version: u64,
        command: Command,
    ) -> Result<u64, Refused> {
        debug_assert!(matches!(command.work, Work::Nothing));
        state.commits += 1;
        Ok(version)
    }
}

/// For all others.
pub struct Busy<R> {
    store: Option<Store>,
    runtime: PhantomData<fn() -> R>,
}

impl<R: Runtime> Domain for Busy<R> {
    fn new(stored: Option<usize>) -> Self {
        Self { store: stored.map(Store::new), runtime: PhantomData }
    }

    async fn load(&self, id: &Id) -> Versioned {
        match &self.store {
            Some(store) => store.load(id),
            None => Versioned::default(),
        }
    }

    async fn handle(
        &self,
        state: &mut State,
        version: u64,
        command: Command,
    ) -> Result<u64, Refused> {
        match command.work {
            Work::Nothing => {}
            Work::Wait(us) => R::sleep(Duration::from_micros(us.into())).await,
            Work::WaitFine(us) => R::sleep_fine(Duration::from_micros(us.into())).await,
            Work::Spin(steps) => spin(steps),
            Work::Block(us) => std::thread::sleep(Duration::from_micros(us.into())),
            Work::Append => {
                if let Some(document) = &mut state.document {
                    document[version as usize % DOCUMENT] = version as u8;
                }
                if let Some(store) = &self.store {
                    store.append(&command.id, version)?;
                }
            }
        }
        state.commits += 1;
        Ok(version)
    }
}

/// Uses the processor for so many steps: a count, not a time, so that a thread that is interrupted
/// does not get its work for nothing.
pub fn spin(steps: u32) {
    let mut x = 1_u64;
    for _ in 0..steps {
        x = black_box(x.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(17));
    }
    black_box(x);
}

/// How many steps take a microsecond here.
pub fn steps_per_us() -> f64 {
    const STEPS: u32 = 1_000_000;
    let best = (0..10)
        .map(|_| {
            let begun = std::time::Instant::now();
            spin(STEPS);
            begun.elapsed()
        })
        .min()
        .unwrap_or(Duration::from_millis(1));
    f64::from(STEPS) / (best.as_nanos() as f64 / 1e3)
}
