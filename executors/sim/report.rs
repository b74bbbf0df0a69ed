//! What a simulation has found, and how to see it again.

use super::tasks::Tasks;
use std::fmt::{self, Write};
use std::time::Duration;

/// How many of the last events a report shows.
const LAST: usize = 24;

/// A run that failed. Its `Display` is the report that [`Explorer::run`](super::Explorer::run) panics
/// with: the seed, the line that runs it again, what each task does, and the last events.
///
/// ```
/// use shardpool::sim::{Explorer, Reason};
///
/// let found = Explorer::new(10).find(|_| std::future::pending()).unwrap();
/// assert_eq!((found.seed(), found.reason()), (0, &Reason::Deadlock));
/// let report = found.to_string();
/// assert!(report.contains("SHARDPOOL_SIM_SEED=0 cargo test"), "{report}");
/// ```
#[derive(Debug, Clone)]
pub struct Finding {
    seed: u64,
    reason: Reason,
    steps: u64,
    elapsed: Duration,
    tasks: String,
    events: String,
    pub(super) is_again: bool,
}

/// Why a run failed.
///
/// ```
/// use shardpool::sim::{Explorer, Reason};
///
/// let found = Explorer::new(10).find(|_| async { assert_eq!(1 + 1, 3, "sums") }).unwrap();
/// let Reason::Panicked { what, message } = found.reason() else { panic!("{found}") };
/// assert_eq!(what, "task 0 (the main future)");
/// assert!(message.contains("sums"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// A task panicked.
    Panicked {
        /// Which one.
        what: String,
        /// What it said.
        message: String,
    },
    /// The test said so: see [`Sim::fail`](super::Sim::fail).
    Failed(String),
    /// The main future is pending, nobody is ready, and nobody waits for time to pass.
    Deadlock,
    /// The main future is still pending after so many polls.
    Livelock {
        /// See [`Explorer::max_polls`](super::Explorer::max_polls).
        polls: u64,
    },
}

impl Finding {
    pub(super) fn new(seed: u64, reason: Reason, tasks: &Tasks) -> Self {
        let elapsed = tasks.time.elapsed();
        let state = tasks.state();
        let mut list = String::new();
        // A string takes everything.
        let _ = state.describe(&mut list);
        let first = state.trace.0.len().saturating_sub(LAST);
        let events = state.trace.0[first..].iter().fold(String::new(), |mut text, event| {
            let _ = writeln!(text, "    {event}");
            text
        });
        Self { seed, reason, steps: state.steps, elapsed, tasks: list, events, is_again: true }
    }

    /// The seed of the run.
    ///
    /// ```
    /// let found = shardpool::sim::Explorer::new(10).find(|sim| async move { assert!(sim.seed() < 3) });
    /// assert_eq!(found.unwrap().seed(), 3);
    /// ```
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Why it failed.
    ///
    /// ```
    /// use shardpool::sim::{Explorer, Reason};
    ///
    /// let found = Explorer::new(1).max_polls(100).find(|sim| async move { loop { sim.yield_now().await } });
    /// assert_eq!(found.unwrap().reason(), &Reason::Livelock { polls: 100 });
    /// ```
    pub fn reason(&self) -> &Reason {
        &self.reason
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Panicked { what, message } => write!(f, "{what} panicked: {message}"),
            Self::Failed(message) => f.write_str(message),
            Self::Deadlock => f.write_str(
                "deadlock: the main future is pending, nobody is ready, no timer is left",
            ),
            Self::Livelock { polls } => {
                write!(f, "livelock: the main future is still pending after {polls} polls")
            }
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, reason, steps, elapsed, tasks, events, is_again } = self;
        writeln!(f, "seed {seed} fails: {reason}")?;
        writeln!(f, "  again: {}", line(*seed))?;
        if !is_again {
            writeln!(
                f,
                "  NOT THE SAME AGAIN: the run takes another way than the seed's. Is there a `HashMap` with \
                 its default hasher, a thread, a real clock, or a pool without the simulation's hasher?"
            )?;
        }
        writeln!(f, "  after {steps} steps and {elapsed:?} of virtual time")?;
        write!(f, "  tasks that are left:\n{tasks}  last events:\n{events}")
    }
}

/// The line that runs a seed again.
fn line(seed: u64) -> String {
    // Cargo says which package it tests, and the test harness names its threads after the tests. A test
    // that is run on the main thread is none that is known by name.
    let features = match std::env::var("CARGO_PKG_NAME") {
        Ok(name) if name == env!("CARGO_PKG_NAME") => " --features sim",
        _ => "",
    };
    let thread = std::thread::current();
    let test =
        thread.name().filter(|name| *name != "main").map_or(String::new(), |n| format!(" {n}"));
    format!("SHARDPOOL_SIM_SEED={seed} cargo test{features}{test}")
}
