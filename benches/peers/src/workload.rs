//! The workloads: who sends what, to how many aggregates, on a pool of which size.

use crate::domain::Work;
use std::time::Duration;

/// For how long commands count.
pub const MEASURED: Duration = Duration::from_millis(300);

/// What a contender starts with.
#[derive(Debug, Clone, Copy)]
pub struct Setup {
    pub shards: usize,
    /// Workers of each shard: `shards * workers` is how many handlers may be under way at once,
    /// in contenders that have such a limit.
    pub workers: usize,
    /// Commands that may wait in each shard.
    pub depth: usize,
    /// Aggregates in the store, if there is one.
    pub stored: Option<usize>,
    /// Handlers wait, so that it matters how many are under way at once.
    pub handlers_wait: bool,
    /// Aggregates that each shard keeps.
    pub max_resident: Option<usize>,
}

impl Setup {
    /// How many handlers may be under way at once.
    pub fn concurrency(&self) -> usize {
        self.shards * self.workers
    }

    /// How many tasks, for a contender whose task carries out one command at a time: as many as others
    /// have shards, unless that would keep handlers that wait from waiting together.
    pub fn serial_tasks(&self) -> usize {
        if self.handlers_wait { self.concurrency() } else { self.shards }
    }
}

/// What a command does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    Nothing,
    WaitMs(u32),
    SpinUs(u32),
    Append,
    /// As the plan says.
    Planned,
}

impl Task {
    pub fn work(self, steps_per_us: f64) -> Work {
        match self {
            Self::Nothing | Self::Planned => Work::Nothing,
            Self::WaitMs(ms) => Work::Wait(1_000 * ms),
            Self::SpinUs(us) => Work::Spin((f64::from(us) * steps_per_us) as u32),
            Self::Append => Work::Append,
        }
    }
}

/// Who sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Load {
    /// Tasks that send a command, wait for its outcome, and send the next.
    Closed { callers: usize },
    /// Tasks that hold so many tickets each, and await the oldest before they submit the next command.
    Ring { callers: usize, tickets: usize },
    /// Tasks that keep so many commands in flight each, whichever end first.
    Windowed { callers: usize, window: usize },
    /// As `Closed`, without and then with one more caller whose commands block their thread.
    Blocked { callers: usize },
    /// OS threads outside the runtime; with a window of one they wait for each outcome.
    Outside { threads: usize, window: usize },
    /// A fixed list of commands, sent in order.
    Planned { callers: usize, window: usize },
    /// The same list by bare tasks, each of which takes one aggregate's commands after another's.
    Chains { tasks: usize },
}

/// A fixed list of commands that wait from 0 to 5 ms at random, over so many aggregates.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    pub aggregates: usize,
    pub commands: usize,
}

/// An aggregate's number and its command's wait in microseconds.
pub type Step = (usize, u32);

impl Plan {
    /// The list, the same in each process.
    pub fn steps(&self) -> Vec<Step> {
        let mut rng = fastrand::Rng::with_seed(9);
        (0..self.commands)
            .map(|i| {
                let wait = rng.u32(0..=5_000);
                // As many aggregates as commands: each has its own.
                let to =
                    if self.aggregates == self.commands { i } else { rng.usize(..self.aggregates) };
                (to, wait)
            })
            .collect()
    }

    /// The shortest time in which timers without error could do it.
    pub fn ideal(&self, concurrency: usize) -> Duration {
        let mut sums = vec![Duration::ZERO; self.aggregates];
        for (aggregate, wait) in self.steps() {
            sums[aggregate] += Duration::from_micros(wait.into());
        }
        let total: Duration = sums.iter().sum();
        let longest = sums.into_iter().max().unwrap_or_default();
        longest.max(total / concurrency.max(1) as u32)
    }
}

/// One workload, or one variant of one.
#[derive(Debug, Clone, Copy)]
pub struct Workload {
    pub name: &'static str,
    pub about: &'static str,
    pub load: Load,
    pub task: Task,
    pub setup: Setup,
    pub aggregates: usize,
    /// Half of the commands go to one aggregate.
    pub hot: bool,
    pub plan: Option<Plan>,
    /// For how long callers run before what they do counts.
    pub warm_up: Duration,
    /// One command in so many is timed.
    pub timed: u32,
    /// Rounds, unless the command line says how many.
    pub rounds: usize,
    /// Each run is a process of its own: the state is too large to keep one for each contender, or is
    /// to be new.
    pub fresh: bool,
    /// Each aggregate gets a command before the first run.
    pub touch_all: bool,
}

const USUAL: Workload = Workload {
    name: "",
    about: "",
    load: Load::Closed { callers: 64 },
    task: Task::Nothing,
    setup: Setup {
        shards: 8,
        workers: 8,
        depth: 1024,
        handlers_wait: false,
        stored: None,
        max_resident: None,
    },
    aggregates: 10_000,
    hot: false,
    plan: None,
    warm_up: Duration::from_millis(60),
    timed: 16,
    rounds: 7,
    fresh: false,
    touch_all: true,
};

/// Commands that wait: 16,384 of them in flight.
const fn waiting(name: &'static str, about: &'static str, workers: usize) -> Workload {
    Workload {
        name,
        about,
        load: Load::Windowed { callers: 64, window: 256 },
        task: Task::WaitMs(1),
        // Room for all, however unevenly the ids spread.
        setup: Setup { workers, depth: 4096, handlers_wait: true, ..USUAL.setup },
        aggregates: 100_000,
        // The first 16,384 are done by then, unless a contender is very slow.
        warm_up: Duration::from_millis(300),
        timed: 1,
        rounds: 5,
        ..USUAL
    }
}

const fn spinning(name: &'static str, about: &'static str, us: u32) -> Workload {
    Workload { name, about, task: Task::SpinUs(us), timed: if us < 100 { 16 } else { 1 }, ..USUAL }
}

/// As Confluent's Parallel Consumer by default: 100 at once, 1,000 taken and not yet done.
const fn planned(name: &'static str, about: &'static str, plan: Plan) -> Workload {
    Workload {
        name,
        about,
        load: Load::Planned { callers: 4, window: 250 },
        task: Task::Planned,
        setup: Setup { shards: 4, workers: 25, handlers_wait: true, ..USUAL.setup },
        aggregates: plan.aggregates,
        plan: Some(plan),
        timed: 1,
        rounds: 3,
        // Aggregates are new to whoever carries the list out.
        fresh: true,
        touch_all: false,
        ..USUAL
    }
}

const MILLION: usize = 1_000_000;

const fn sourced(name: &'static str, about: &'static str, max_resident: usize) -> Workload {
    let setup = Setup {
        stored: Some(MILLION),
        max_resident: Some(max_resident / USUAL.setup.shards),
        ..USUAL.setup
    };
    Workload {
        name,
        about,
        task: Task::Append,
        setup,
        aggregates: MILLION,
        rounds: 3,
        fresh: true,
        touch_all: true,
        ..USUAL
    }
}

const fn usual(name: &'static str, about: &'static str, load: Load, hot: bool) -> Workload {
    Workload { name, about, load, hot, ..USUAL }
}

/// All of them, in the order in which they run.
pub const ALL: [Workload; 19] = [
    usual("W1", "64 callers", Load::Closed { callers: 64 }, false),
    usual("W2", "2 callers, 256 tickets each", Load::Ring { callers: 2, tickets: 256 }, false),
    usual("W3", "1 caller", Load::Closed { callers: 1 }, false),
    usual("W4", "1,024 callers", Load::Closed { callers: 1024 }, false),
    usual("W5", "64 callers, half to one aggregate", Load::Closed { callers: 64 }, true),
    waiting("W6/64", "handlers wait 1 ms, 8 x 64 workers", 64),
    waiting("W6/1024", "handlers wait 1 ms, 8 x 1,024 workers", 1024),
    spinning("W7/1us", "handlers compute for 1 us", 1),
    spinning("W7/10us", "handlers compute for 10 us", 10),
    spinning("W7/100us", "handlers compute for 100 us", 100),
    usual("W8", "64 callers beside a handler that blocks", Load::Blocked { callers: 64 }, false),
    // A fiftieth of the list: the whole takes 25 s with one aggregate.
    planned("W9/1", "0 to 5 ms, 1 aggregate", Plan { aggregates: 1, commands: 200 }),
    planned("W9/20", "0 to 5 ms, 20 aggregates", Plan { aggregates: 20, commands: 10_000 }),
    planned("W9/1000", "0 to 5 ms, 1,000 aggregates", Plan { aggregates: 1_000, commands: 10_000 }),
    planned(
        "W9/unordered",
        "0 to 5 ms, each its own",
        Plan { aggregates: 10_000, commands: 10_000 },
    ),
    // Twice the aggregates, as ids do not spread evenly over the shards.
    sourced("W10/fits", "1 KiB of state, all resident", 2 * MILLION),
    sourced("W10/evicts", "1 KiB of state, a tenth resident", MILLION / 10),
    usual("X1", "4 threads outside", Load::Outside { threads: 4, window: 1 }, false),
    usual(
        "X2",
        "4 threads outside, 64 in flight each",
        Load::Outside { threads: 4, window: 64 },
        false,
    ),
];

/// The workload of this name.
pub fn named(name: &str) -> Option<Workload> {
    ALL.into_iter().find(|workload| workload.name == name)
}

/// Those that a word on the command line means: one variant, or all of a workload.
pub fn meant_by(word: &str) -> Vec<Workload> {
    let of = |workload: &Workload| {
        workload.name == word || workload.name.split('/').next() == Some(word)
    };
    ALL.into_iter().filter(of).collect()
}

impl Workload {
    /// Whether no handler has anything to do.
    pub fn is_idle(&self) -> bool {
        self.task == Task::Nothing && !matches!(self.load, Load::Blocked { .. })
    }

    /// Why there is no profile of it, if so.
    pub fn no_profile(&self) -> Option<&'static str> {
        if self.fresh {
            Some("it runs once in each process, too short for a profile")
        } else if matches!(self.load, Load::Blocked { .. }) {
            Some("its rate is that of one half of a run")
        } else {
            None
        }
    }

    /// What is in the way of nobody: the load of bare tasks that do the same work.
    pub fn limit(mut self) -> Self {
        let concurrency = self.setup.concurrency();
        self.load = match self.load {
            Load::Windowed { callers, window } => {
                Load::Closed { callers: concurrency.min(callers * window) }
            }
            Load::Planned { .. } => Load::Chains { tasks: concurrency.min(self.aggregates) },
            _ if matches!(self.task, Task::SpinUs(_)) => {
                Load::Closed { callers: crate::runtimes::THREADS }
            }
            load => load,
        };
        self
    }
}
