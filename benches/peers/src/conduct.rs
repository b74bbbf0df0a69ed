//! Rounds: one run of each contender, in an order that rotates, each in a process of its own; and
//! ratios within each round, as the machine's speed drifts from one to the next.

use crate::child::{READY, RUN};
use crate::contenders::{Entry, REFERENCE, is_shardpool};
use crate::measure::Run;
use crate::runtimes::ENVIRONMENT;
use crate::workload::Workload;
use std::collections::BTreeMap;
use std::fmt;
use std::io::{BufRead, BufReader, Write};
use std::process::{self, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

/// After this long without an answer a child hangs.
const PATIENCE: Duration = Duration::from_secs(120);

/// Median, least and greatest of some figures.
#[derive(Debug, Clone, Copy)]
pub struct Spread {
    pub median: f64,
    pub min: f64,
    pub max: f64,
}

impl Spread {
    fn of(figures: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut figures: Vec<f64> =
            figures.into_iter().filter(|figure| figure.is_finite()).collect();
        figures.sort_by(f64::total_cmp);
        let middle = figures.len() / 2;
        let median = match figures.len() {
            0 => return None,
            n if n % 2 == 0 => (figures[middle - 1] + figures[middle]) / 2.0,
            _ => figures[middle],
        };
        Some(Self { median, min: figures[0], max: figures[figures.len() - 1] })
    }
}

/// A contender on a workload, over all rounds.
#[derive(Debug)]
pub struct Summary {
    pub contender: &'static str,
    pub commands_per_s: Spread,
    pub p50_ns: f64,
    pub p99_ns: f64,
    pub allocations_per_command: f64,
    pub failed: u64,
    /// Of the commands of one run.
    pub commands: u64,
    pub seconds: f64,
    pub kept: Option<Spread>,
    pub blocks_per_s: Option<Spread>,
    pub rounds: usize,
    /// Of the pool's contenders: their rate over each other's. Of others: that of the reference
    /// over theirs.
    pub ratio_to: BTreeMap<&'static str, Spread>,
}

/// Why there is no figure, or why it is not to be trusted.
#[derive(Debug)]
pub struct Trouble {
    workload: &'static str,
    contender: &'static str,
    what: String,
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}: {}", self.contender, self.workload, self.what)
    }
}

/// A child process. Killed when dropped.
pub struct Child {
    process: process::Child,
    lines: mpsc::Receiver<String>,
}

impl Child {
    pub fn start(entry: &Entry, workload: &Workload, steps_per_us: f64) -> Result<Self, String> {
        let program = std::env::current_exe().map_err(|error| error.to_string())?;
        let mut process = Command::new(program)
            .arg("child")
            .args(["--contender", entry.name, "--workload", workload.name])
            .args(["--steps-per-us", &steps_per_us.to_string()])
            .envs(ENVIRONMENT)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("can't be started: {error}"))?;
        let out = process.stdout.take().expect("it was asked for");
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let mut child = Self { process, lines };
        match child.answer()? {
            line if line == READY => Ok(child),
            line => Err(format!("said `{line}` instead of being ready")),
        }
    }

    fn answer(&mut self) -> Result<String, String> {
        match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => Ok(line),
            Err(RecvTimeoutError::Timeout) => {
                Err(format!("hung, killed after {} s", PATIENCE.as_secs()))
            }
            Err(RecvTimeoutError::Disconnected) => Err(match self.process.wait() {
                Ok(status) => format!("ended early, {status}"),
                Err(error) => format!("ended early, {error}"),
            }),
        }
    }

    pub fn id(&self) -> u32 {
        self.process.id()
    }

    pub fn run(&mut self) -> Result<Run, String> {
        let orders = self.process.stdin.as_mut().expect("it was asked for");
        // Should it have ended, the answer tells how.
        let _ = writeln!(orders, "{RUN}").and_then(|()| orders.flush());
        let line = self.answer()?;
        serde_json::from_str(&line).map_err(|error| format!("said `{line}`: {error}"))
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// One contender while its workload runs.
struct Seat {
    entry: &'static Entry,
    child: Option<Child>,
    /// One for each round, until it failed.
    runs: Vec<Run>,
    trouble: Option<String>,
}

impl Seat {
    fn run(&mut self, workload: &Workload, steps_per_us: f64) {
        if self.trouble.is_some() {
            return;
        }
        match self.try_run(workload, steps_per_us) {
            Ok(run) => self.runs.push(run),
            Err(what) => {
                self.child = None;
                self.trouble = Some(what);
            }
        }
    }

    fn try_run(&mut self, workload: &Workload, steps_per_us: f64) -> Result<Run, String> {
        let child = match &mut self.child {
            Some(child) => child,
            None => self.child.insert(Child::start(self.entry, workload, steps_per_us)?),
        };
        let run = child.run()?;
        if workload.fresh {
            self.child = None;
        }
        if run.commands == 0 {
            return Err(format!("no command committed, {} failed", run.failed));
        }
        Ok(run)
    }

    fn summary(&self, seats: &[Seat]) -> Option<Summary> {
        let name = self.entry.name;
        let runs = &self.runs;
        let spread = |figure: &dyn Fn(&Run) -> f64| Spread::of(runs.iter().map(figure));
        let ratio = |over: &Seat, under: &Seat| {
            Spread::of(
                over.runs
                    .iter()
                    .zip(&under.runs)
                    .map(|(over, under)| over.commands_per_s() / under.commands_per_s()),
            )
        };
        let others = seats.iter().filter(|seat| seat.entry.name != name);
        let ratio_to = if is_shardpool(name) {
            others.filter_map(|other| Some((other.entry.name, ratio(self, other)?))).collect()
        } else {
            others
                .filter(|other| other.entry.name == REFERENCE)
                .filter_map(|reference| Some((REFERENCE, ratio(reference, self)?)))
                .collect()
        };
        Some(Summary {
            contender: name,
            commands_per_s: spread(&Run::commands_per_s)?,
            p50_ns: spread(&|run| run.p50_ns as f64)?.median,
            p99_ns: spread(&|run| run.p99_ns as f64)?.median,
            allocations_per_command: spread(&|run| run.allocations as f64 / run.commands as f64)?
                .median,
            failed: runs.iter().map(|run| run.failed).sum(),
            commands: runs[0].commands,
            seconds: spread(&|run| run.seconds)?.median,
            kept: Spread::of(runs.iter().filter_map(|run| run.kept)),
            blocks_per_s: Spread::of(runs.iter().filter_map(|run| run.blocks_per_s)),
            rounds: runs.len(),
            ratio_to,
        })
    }
}

/// Runs a workload with its contenders. Progress goes to standard error.
pub fn conduct(
    workload: &Workload,
    contenders: &[&'static Entry],
    rounds: Option<usize>,
    steps_per_us: f64,
) -> (Vec<Summary>, Vec<Trouble>) {
    let mut seats: Vec<Seat> = contenders
        .iter()
        .filter(|entry| (entry.takes)(workload))
        .map(|entry| Seat { entry, child: None, runs: Vec::new(), trouble: None })
        .collect();
    let rounds = if seats.is_empty() { 0 } else { rounds.unwrap_or(workload.rounds) };
    for round in 0..rounds {
        eprint!("{} round {} of {rounds}:", workload.name, round + 1);
        for turn in 0..seats.len() {
            let index = (round + turn) % seats.len();
            eprint!(" {}", seats[index].entry.name);
            seats[index].run(workload, steps_per_us);
        }
        eprintln!();
    }
    let summaries = seats.iter().filter_map(|seat| seat.summary(&seats)).collect();
    let troubles = seats
        .iter_mut()
        .filter_map(|seat| {
            let failed: u64 = seat.runs.iter().map(|run| run.failed).sum();
            let failures = (failed > 0).then(|| format!("{failed} commands did not commit"));
            let what: Vec<_> = seat.trouble.take().into_iter().chain(failures).collect();
            let trouble = Trouble {
                workload: workload.name,
                contender: seat.entry.name,
                what: what.join("; "),
            };
            (!what.is_empty()).then_some(trouble)
        })
        .collect();
    (summaries, troubles)
}
