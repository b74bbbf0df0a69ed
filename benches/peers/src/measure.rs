//! One run: callers, a stretch of time in which their commands count, and what came of it.

use crate::allocations;
use crate::contenders::{Contender, Outside};
use crate::domain::{self, Command, Id, Refused, Work};
use crate::runtimes::Runtime;
use crate::window::Window;
use crate::workload::{Load, MEASURED, Step, Workload};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// What came of a run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Run {
    pub commands: u64,
    /// Commands that did not commit.
    pub failed: u64,
    pub seconds: f64,
    pub p50_ns: u64,
    pub p99_ns: u64,
    pub allocations: u64,
    /// The rate beside a blocking handler, over the rate without it.
    pub kept: Option<f64>,
    /// Of the blocking handler.
    pub blocks_per_s: Option<f64>,
}

impl Run {
    pub fn commands_per_s(&self) -> f64 {
        self.commands as f64 / self.seconds
    }
}

/// For how many microseconds the handler blocks, in the workload where one does.
const BLOCK: u32 = 5_000;

/// What all callers of a process share.
pub struct World {
    ids: Vec<Id>,
    /// An aggregate that nobody else sends to.
    apart: Id,
    steps: Vec<Step>,
    work: Work,
}

impl World {
    pub fn new(workload: &Workload, steps_per_us: f64) -> Self {
        Self {
            ids: (0..workload.aggregates).map(domain::id).collect(),
            apart: domain::id(workload.aggregates),
            steps: workload.plan.map(|plan| plan.steps()).unwrap_or_default(),
            work: workload.task.work(steps_per_us),
        }
    }

    fn command(&self, aggregate: usize) -> Command {
        Command { id: Arc::clone(&self.ids[aggregate]), work: self.work }
    }

    fn step(&self, step: usize) -> Option<Command> {
        let &(aggregate, wait) = self.steps.get(step)?;
        Some(Command { id: Arc::clone(&self.ids[aggregate]), work: Work::WaitFine(wait) })
    }
}

/// Tells callers whether what they do counts.
struct Gate(AtomicU8);

const WARM: u8 = 0;
const COUNTS: u8 = 1;
const OVER: u8 = 2;

impl Gate {
    fn new() -> Self {
        Self(AtomicU8::new(WARM))
    }

    // Relaxed: nothing is published through it, and a moment's delay is the same for all.
    fn set(&self, phase: u8) {
        self.0.store(phase, Relaxed);
    }

    fn counts(&self) -> bool {
        self.0.load(Relaxed) == COUNTS
    }

    fn is_over(&self) -> bool {
        self.0.load(Relaxed) == OVER
    }
}

/// What one caller has seen.
struct Tally {
    commands: u64,
    failed: u64,
    latencies: Histogram<u32>,
    timed: u32,
    until_timed: u32,
}

impl Tally {
    fn new(timed: u32) -> Self {
        let latencies =
            Histogram::new_with_bounds(1, 60_000_000_000, 2).expect("bounds that can be");
        Self { commands: 0, failed: 0, latencies, timed, until_timed: 0 }
    }

    /// When the command began, if it is one of those that are timed.
    fn begin(&mut self) -> Option<Instant> {
        if self.until_timed == 0 {
            self.until_timed = self.timed - 1;
            return Some(Instant::now());
        }
        self.until_timed -= 1;
        None
    }

    fn end(&mut self, counts: bool, begun: Option<Instant>, outcome: &Result<u64, Refused>) {
        if outcome.is_err() {
            self.failed += 1;
        } else if counts {
            self.commands += 1;
            if let Some(begun) = begun {
                self.latencies.saturating_record(begun.elapsed().as_nanos() as u64);
            }
        }
    }

    fn add(&mut self, other: &Self) {
        self.commands += other.commands;
        self.failed += other.failed;
        self.latencies.add(&other.latencies).expect("the same bounds");
    }
}

/// One who sends to random aggregates until it is over.
struct Caller {
    world: &'static World,
    gate: Arc<Gate>,
    rng: fastrand::Rng,
    hot: bool,
    tally: Tally,
}

impl Caller {
    fn next(&mut self) -> Option<(Command, Option<Instant>)> {
        if self.gate.is_over() {
            return None;
        }
        let aggregate =
            if self.hot && self.rng.bool() { 0 } else { self.rng.usize(..self.world.ids.len()) };
        Some((self.world.command(aggregate), self.tally.begin()))
    }

    fn done(&mut self, outcome: Result<u64, Refused>, begun: Option<Instant>) {
        self.tally.end(self.gate.counts(), begun, &outcome);
    }
}

/// The callers of a run, and the measurement of what they do.
struct Callers<C: Contender> {
    contender: &'static C,
    world: &'static World,
    workload: Workload,
    gate: Arc<Gate>,
    tallies: (mpsc::Sender<Tally>, mpsc::Receiver<Tally>),
    started: usize,
}

impl<C: Contender> Callers<C> {
    fn new(contender: &'static C, world: &'static World, workload: Workload) -> Self {
        let gate = Arc::new(Gate::new());
        Self { contender, world, workload, gate, tallies: mpsc::channel(), started: 0 }
    }

    fn caller(&mut self) -> (Caller, mpsc::Sender<Tally>) {
        self.started += 1;
        let caller = Caller {
            world: self.world,
            gate: Arc::clone(&self.gate),
            rng: fastrand::Rng::with_seed(self.started as u64),
            hot: self.workload.hot,
            tally: Tally::new(self.workload.timed),
        };
        (caller, self.tallies.0.clone())
    }

    fn start_closed(&mut self) {
        let (mut caller, tallies) = self.caller();
        let contender = self.contender;
        C::Runtime::spawn(async move {
            while let Some((command, begun)) = caller.next() {
                let outcome = contender.send(command).await;
                caller.done(outcome, begun);
            }
            let _ = tallies.send(caller.tally);
        });
    }

    /// A ring of tickets: the oldest is awaited before the next command.
    fn start_ring(&mut self, size: usize) {
        let (mut caller, tallies) = self.caller();
        let contender = self.contender;
        C::Runtime::spawn(async move {
            let mut ring = VecDeque::with_capacity(size);
            loop {
                if ring.len() == size
                    && let Some((ticket, begun)) = ring.pop_front()
                {
                    caller.done(ticket.await, begun);
                }
                let Some((command, begun)) = caller.next() else { break };
                match contender.submit(command).await {
                    Ok(ticket) => ring.push_back((ticket, begun)),
                    Err(refused) => caller.done(Err(refused), begun),
                }
            }
            for (ticket, begun) in ring {
                caller.done(ticket.await, begun);
            }
            let _ = tallies.send(caller.tally);
        });
    }

    fn start_windowed(&mut self, window: usize) {
        let (mut caller, tallies) = self.caller();
        let contender = self.contender;
        C::Runtime::spawn(async move {
            let next = |caller: &mut Caller| {
                caller.next().map(|(command, begun)| (contender.send(command), begun))
            };
            Window::new(window).run(&mut caller, next, Caller::done).await;
            let _ = tallies.send(caller.tally);
        });
    }

    /// One whose commands block their thread, and who counts by itself.
    fn start_blocker(&mut self) -> mpsc::Receiver<Tally> {
        let contender = self.contender;
        let command = Command { id: Arc::clone(&self.world.apart), work: Work::Block(BLOCK) };
        let gate = Arc::clone(&self.gate);
        let (sender, tally_to_come) = mpsc::channel();
        C::Runtime::spawn(async move {
            let mut tally = Tally::new(1);
            while !gate.is_over() {
                let outcome = contender.send(command.clone()).await;
                tally.end(gate.counts(), None, &outcome);
            }
            let _ = sender.send(tally);
        });
        tally_to_come
    }

    /// Lets the callers warm up, counts what they do for a while, and waits for them to end.
    fn measure(self) -> Run {
        thread::sleep(self.workload.warm_up);
        let (begun, allocated) = (Instant::now(), allocations::count());
        self.gate.set(COUNTS);
        thread::sleep(MEASURED);
        self.gate.set(OVER);
        let (elapsed, allocations) = (begun.elapsed(), allocations::count() - allocated);
        Run::of(&self.wait(), elapsed, allocations)
    }

    /// Starts the callers, and waits for them to end by themselves; all they do counts.
    fn measure_to_the_end(self, tasks: Vec<impl Future<Output = ()> + Send + 'static>) -> Run {
        self.gate.set(COUNTS);
        let (begun, allocated) = (Instant::now(), allocations::count());
        tasks.into_iter().for_each(C::Runtime::spawn);
        let tallies = self.wait();
        let (elapsed, allocations) = (begun.elapsed(), allocations::count() - allocated);
        Run::of(&tallies, elapsed, allocations)
    }

    /// Waits for the callers to end.
    fn wait(self) -> Vec<Tally> {
        let mut all = Vec::with_capacity(self.started);
        let (sender, tallies) = self.tallies;
        drop(sender);
        all.extend(tallies);
        assert_eq!(all.len(), self.started, "callers that ended with their tally");
        all
    }
}

impl Run {
    fn of(tallies: &[Tally], elapsed: Duration, allocations: u64) -> Self {
        let mut total = Tally::new(1);
        tallies.iter().for_each(|tally| total.add(tally));
        Self {
            commands: total.commands,
            failed: total.failed,
            seconds: elapsed.as_secs_f64(),
            p50_ns: total.latencies.value_at_quantile(0.5),
            p99_ns: total.latencies.value_at_quantile(0.99),
            allocations,
            kept: None,
            blocks_per_s: None,
        }
    }
}

/// Gives each aggregate a command, so that none is met for the first time while it counts.
pub fn touch_all<C: Contender>(contender: &'static C, world: &'static World) {
    let next = Arc::new(AtomicUsize::new(0));
    let task = world.work;
    let (ended, ends) = mpsc::channel();
    for _ in 0..crate::runtimes::THREADS {
        let (next, ended) = (Arc::clone(&next), ended.clone());
        C::Runtime::spawn(async move {
            let mut committed = 0;
            let take = |_: &mut usize| {
                let id = world.ids.get(next.fetch_add(1, Relaxed))?;
                // What takes time need not be done to be known.
                let work = if matches!(task, Work::Append) { task } else { Work::Nothing };
                Some((contender.send(Command { id: Arc::clone(id), work }), None))
            };
            let done = |committed: &mut usize, outcome: Result<u64, Refused>, _| {
                *committed += usize::from(outcome.is_ok());
            };
            Window::new(256).run(&mut committed, take, done).await;
            let _ = ended.send(committed);
        });
    }
    drop(ended);
    let committed: usize = ends.into_iter().sum();
    assert_eq!(committed, world.ids.len(), "aggregates whose first command committed");
}

/// Has an aggregate of its own carry out a command, so that the runtime, its timer and the contender's tasks have
/// started before the clock does.
pub fn touch_one<C: Contender>(contender: &'static C, world: &'static World) {
    let command = Command { id: Arc::clone(&world.apart), work: Work::WaitFine(1) };
    let (ended, end) = mpsc::channel();
    C::Runtime::spawn(async move {
        let _ = ended.send(contender.send(command).await);
    });
    assert_eq!(end.recv(), Ok(Ok(1)), "the first command");
}

/// A run whose callers are in the runtime.
pub fn run<C: Contender>(contender: &'static C, world: &'static World, workload: Workload) -> Run {
    let mut callers = Callers::new(contender, world, workload);
    match workload.load {
        Load::Closed { callers: count } => {
            (0..count).for_each(|_| callers.start_closed());
            callers.measure()
        }
        Load::Windowed { callers: count, window } => {
            (0..count).for_each(|_| callers.start_windowed(window));
            callers.measure()
        }
        Load::Ring { callers: count, tickets } => {
            (0..count).for_each(|_| callers.start_ring(tickets));
            callers.measure()
        }
        Load::Blocked { callers: count } => {
            (0..count).for_each(|_| callers.start_closed());
            let without = callers.measure();
            let mut callers = Callers::new(contender, world, workload);
            let blocker = callers.start_blocker();
            (0..count).for_each(|_| callers.start_closed());
            let mut run = callers.measure();
            let blocks = blocker.recv().expect("the blocker ends with its tally");
            run.kept = Some(run.commands_per_s() / without.commands_per_s());
            run.blocks_per_s = Some(blocks.commands as f64 / run.seconds);
            run.failed += without.failed + blocks.failed;
            run
        }
        Load::Planned { callers: count, window } => {
            let next = Arc::new(AtomicUsize::new(0));
            let tasks: Vec<_> = (0..count).map(|_| planned(&mut callers, window, &next)).collect();
            callers.measure_to_the_end(tasks)
        }
        Load::Chains { tasks } => {
            let chains = Arc::new(chains(world));
            let next = Arc::new(AtomicUsize::new(0));
            let tasks: Vec<_> = (0..tasks).map(|_| chain(&mut callers, &chains, &next)).collect();
            callers.measure_to_the_end(tasks)
        }
        Load::Outside { .. } => unreachable!("this load is for callers outside"),
    }
}

/// A task that keeps a window of the plan's commands in flight.
fn planned<C: Contender>(
    callers: &mut Callers<C>,
    window: usize,
    next: &Arc<AtomicUsize>,
) -> impl Future<Output = ()> + Send + use<C> {
    let (mut caller, tallies) = callers.caller();
    let (contender, next) = (callers.contender, Arc::clone(next));
    let window = Window::new(window);
    async move {
        let take = |caller: &mut Caller| {
            let command = caller.world.step(next.fetch_add(1, Relaxed))?;
            Some((contender.send(command), caller.tally.begin()))
        };
        window.run(&mut caller, take, Caller::done).await;
        let _ = tallies.send(caller.tally);
    }
}

/// The plan's commands, by aggregate.
fn chains(world: &World) -> Vec<Vec<usize>> {
    let mut chains = vec![Vec::new(); world.ids.len()];
    for (step, &(aggregate, _)) in world.steps.iter().enumerate() {
        chains[aggregate].push(step);
    }
    chains
}

/// A task that takes one aggregate's commands after another's.
fn chain<C: Contender>(
    callers: &mut Callers<C>,
    chains: &Arc<Vec<Vec<usize>>>,
    next: &Arc<AtomicUsize>,
) -> impl Future<Output = ()> + Send + use<C> {
    let (mut caller, tallies) = callers.caller();
    let (contender, chains, next) = (callers.contender, Arc::clone(chains), Arc::clone(next));
    async move {
        while let Some(chain) = chains.get(next.fetch_add(1, Relaxed)) {
            for &step in chain {
                let Some(command) = caller.world.step(step) else { continue };
                let begun = caller.tally.begin();
                let outcome = contender.send(command).await;
                caller.done(outcome, begun);
            }
        }
        let _ = tallies.send(caller.tally);
    }
}

/// A run whose callers are OS threads outside the runtime.
pub fn run_outside<C: Outside>(
    contender: &'static C,
    world: &'static World,
    workload: Workload,
    threads: usize,
    window: usize,
) -> Run {
    let mut callers = Callers::new(contender, world, workload);
    for _ in 0..threads {
        let (mut caller, tallies) = callers.caller();
        thread::spawn(move || {
            if window == 1 {
                while let Some((command, begun)) = caller.next() {
                    caller.done(contender.blocking_send(command), begun);
                }
            } else {
                in_windows(contender, &mut caller, window);
            }
            let _ = tallies.send(caller.tally);
        });
    }
    callers.measure()
}

/// Submits a window of commands, then waits for all of them.
fn in_windows<C: Outside>(contender: &C, caller: &mut Caller, window: usize) {
    let mut tickets = Vec::with_capacity(window);
    loop {
        while tickets.len() < window
            && let Some((command, begun)) = caller.next()
        {
            tickets.push((contender.blocking_submit(command), begun));
        }
        if tickets.is_empty() {
            return;
        }
        for (ticket, begun) in tickets.drain(..) {
            caller.done(ticket.and_then(C::wait), begun);
        }
    }
}
