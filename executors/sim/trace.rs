//! What happened in a run, for two runs to be compared.

use std::fmt;
use std::time::Duration;

/// All that happened in one run, in order: two runs with equal traces took the same way.
///
/// Got by [`Explorer::record`](super::Explorer::record); its `Display` has one line for each event.
///
/// ```
/// use shardpool::sim::Explorer;
///
/// let test = |sim: shardpool::sim::Sim| async move {
///     let numbers = [1, 2, 3].map(|n| sim.spawn(async move { n }));
///     for number in numbers { number.await; }
/// };
/// let explorer = Explorer::new(1);
/// assert_eq!(explorer.record(7, test), explorer.record(7, test));
/// assert_ne!(explorer.record(7, test), explorer.record(8, test));
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trace(pub(super) Vec<Event>);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Event {
    Spawned(usize),
    Polled { task: usize, ready: bool },
    Woken { task: usize, late: bool },
    Dropped(usize),
    ShutDown,
    Time(Duration),
    Note(String),
}

impl Trace {
    /// How many events there were.
    ///
    /// ```
    /// let trace = shardpool::sim::Explorer::new(1).record(0, |_| async {});
    /// assert_eq!(trace.len(), 1); // the one poll of the main future
    /// ```
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there was no event: only in a run of no poll.
    ///
    /// ```
    /// let trace = shardpool::sim::Explorer::new(1).record(0, |_| async {});
    /// assert!(!trace.is_empty());
    /// ```
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|event| writeln!(f, "{event}"))
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Spawned(task) => write!(f, "task {task} spawned"),
            Self::Polled { task, ready: true } => write!(f, "task {task} polled: ready"),
            Self::Polled { task, ready: false } => write!(f, "task {task} polled"),
            Self::Woken { task, late: true } => write!(f, "task {task} woken, late"),
            Self::Woken { task, late: false } => write!(f, "task {task} woken"),
            Self::Dropped(task) => write!(f, "task {task} dropped"),
            Self::ShutDown => f.write_str("runtime shut down"),
            Self::Time(now) => write!(f, "time is {now:?}"),
            Self::Note(text) => write!(f, "note: {text}"),
        }
    }
}
