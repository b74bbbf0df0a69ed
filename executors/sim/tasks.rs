//! The tasks of one run: who is ready, who is next, and how they are woken.
//!
//! One thread polls, but wakers and handles may be used anywhere, so all is behind one lock. No code
//! of others (a poll, a wake, a destructor) runs under it.
//!
//! ```text
//!   waiting ──wake──▶ ready ──chosen──▶ waiting, and polled ──▶ over
//!      └──wake, late──▶ late ──so many polls later──▶ ready
//!   whatever ──shut down──▶ doomed ──chosen──▶ over, and dropped
//! ```

use super::faults::Faults;
use super::lock;
use super::rng::Rng;
use super::time::Time;
use super::trace::{Event, Trace};
use crate::executors::Task;
use std::fmt;
use std::panic::Location;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::task::{Wake, Waker};

/// How many polls a late wake is late at most.
const LATEST: u64 = 32;

/// The main future's number. It is polled by who runs the simulation, and not owned here.
pub(super) const MAIN: usize = 0;

pub(super) struct Tasks {
    pub(super) time: Arc<Time>,
    state: Mutex<State>,
}

pub(super) struct State {
    tasks: Vec<Entry>,
    /// For the choices of the scheduler; apart from the numbers that the test asks for, so that one
    /// more of those does not change everything.
    schedule: Rng,
    pub(super) numbers: Rng,
    faults: Faults,
    /// Whether each task has a speed of its own.
    uneven: bool,
    pub(super) is_shut_down: bool,
    /// The run is over: nothing is taken any more.
    is_over: bool,
    pub(super) steps: u64,
    pub(super) trace: Trace,
    /// Who waits until nobody is ready.
    pub(super) settling: Vec<Waker>,
    /// How often nobody was ready.
    pub(super) settled: u64,
    /// Why the run fails, as soon as that is known.
    pub(super) failure: Option<String>,
}

struct Entry {
    kind: Kind,
    status: Status,
    /// Not here while it is polled, nor for the main future.
    future: Option<Task>,
    polls: u64,
    /// Which of its wakers counts.
    epoch: u64,
    waker: Waker,
    /// How often it is chosen, compared to others.
    speed: u64,
}

#[derive(Clone, Copy)]
pub(super) enum Kind {
    Main,
    /// Spawned by a pool; its place among those.
    Pool(usize),
    Client(&'static Location<'static>),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Status {
    Waiting,
    Ready,
    /// Woken; ready when so many steps are done.
    Late(u64),
    /// To be dropped.
    Doomed,
    Over,
}

/// What is to be done next.
pub(super) enum Step {
    Poll(usize, Option<Task>, Waker),
    Drop(Task),
    /// Nobody is ready.
    Idle,
}

impl Tasks {
    pub(super) fn new(seed: u64, faults: Faults) -> Arc<Self> {
        let mut schedule = Rng::new(seed);
        let numbers = Rng::new(schedule.next());
        // A poll too many can hide a wake that was forgotten: half of the runs are without.
        let faults = if schedule.chance(0.5) { faults.without_harmless() } else { faults };
        // Tasks that are far ahead or far behind find what an even mix hides, and the other way round.
        let uneven = schedule.chance(0.5);
        let tasks = Arc::new(Self {
            time: Time::new(),
            state: Mutex::new(State {
                tasks: Vec::new(),
                schedule,
                numbers,
                faults,
                uneven,
                is_shut_down: false,
                steps: 0,
                trace: Trace::default(),
                settling: Vec::new(),
                settled: 0,
                is_over: false,
                failure: None,
            }),
        });
        tasks.add(Kind::Main, None);
        tasks
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn add(self: &Arc<Self>, kind: Kind, future: Option<Task>) {
        let mut state = self.state();
        let task = state.tasks.len();
        let waker = self.waker(task, 0);
        let speed = if state.uneven { 1 << state.schedule.below(8) } else { 1 };
        let status = Status::Ready;
        state.tasks.push(Entry { kind, status, future, polls: 0, epoch: 0, waker, speed });
        if task != MAIN {
            state.trace.0.push(Event::Spawned(task));
        }
    }

    fn waker(self: &Arc<Self>, task: usize, epoch: u64) -> Waker {
        Arc::new(TaskWaker { tasks: Arc::downgrade(self), task, epoch }).into()
    }

    /// Takes a task of the pool's. Gives it back if the runtime is shut down.
    pub(super) fn spawn_pool(self: &Arc<Self>, future: Task) -> Result<(), Task> {
        let place = {
            let state = self.state();
            if state.is_shut_down {
                return Err(future);
            }
            state.tasks.iter().filter(|entry| matches!(entry.kind, Kind::Pool(_))).count()
        };
        self.add(Kind::Pool(place), Some(future));
        Ok(())
    }

    pub(super) fn spawn_client(self: &Arc<Self>, at: &'static Location<'static>, future: Task) {
        // Dropped, not kept, if nobody will ever poll it: see `take_all`.
        if !self.state().is_over {
            self.add(Kind::Client(at), Some(future));
        }
    }

    /// Decides what is next.
    pub(super) fn step(self: &Arc<Self>) -> Step {
        let mut state = self.state();
        let state = &mut *state;
        state.steps += 1;
        if !state.is_shut_down && state.schedule.chance(state.faults.shutdown) {
            state.shut_down();
        }
        if state.schedule.chance(state.faults.lost_tasks)
            && let Some(task) = state.choose(|entry| entry.is_alive_in_pool())
            && let Some(future) = state.end(task)
        {
            return Step::Drop(future);
        }
        let Some(mut task) = state.next() else { return Step::Idle };
        if state.schedule.chance(state.faults.spurious_polls)
            && let Some(other) = state.choose(|entry| entry.status == Status::Waiting)
        {
            task = other;
        }
        let entry = &mut state.tasks[task];
        if entry.status == Status::Doomed {
            return match state.end(task) {
                Some(future) => Step::Drop(future),
                None => Step::Idle,
            };
        }
        entry.status = Status::Waiting;
        entry.polls += 1;
        if state.schedule.chance(state.faults.new_wakers) {
            entry.epoch += 1;
            entry.waker = self.waker(task, entry.epoch);
        }
        Step::Poll(task, entry.future.take(), entry.waker.clone())
    }

    /// After a poll. Gives back what is to be dropped.
    pub(super) fn polled(&self, task: usize, future: Option<Task>, ready: bool) -> Option<Task> {
        let mut state = self.state();
        state.trace.0.push(Event::Polled { task, ready });
        let entry = &mut state.tasks[task];
        if ready {
            entry.status = Status::Over;
        }
        if entry.status == Status::Over {
            return future;
        }
        entry.future = future;
        None
    }

    /// Drops a task of the pool's. False if there is none in this place, or no more.
    pub(super) fn drop_pool(&self, place: usize) -> bool {
        let mut state = self.state();
        let is_it = |entry: &Entry| matches!(entry.kind, Kind::Pool(p) if p == place);
        let Some(task) = state.tasks.iter().position(|e| is_it(e) && e.is_alive_in_pool()) else {
            return false;
        };
        let future = state.end(task);
        drop(state);
        drop(future);
        true
    }

    /// Nobody is ready: gives back who waits for that.
    pub(super) fn settle(&self) -> Vec<Waker> {
        let mut state = self.state();
        state.settled += 1;
        std::mem::take(&mut state.settling)
    }

    /// Everything that is left, to be dropped. Nothing is taken after this.
    pub(super) fn take_all(&self) -> Vec<Task> {
        drop(self.settle());
        let mut state = self.state();
        (state.is_shut_down, state.is_over) = (true, true);
        state.tasks.iter_mut().filter_map(Entry::end).collect()
    }
}

impl State {
    /// Who is polled next: late ones only when they are due, or when there is nobody else.
    fn next(&mut self) -> Option<usize> {
        let steps = self.steps;
        let soonest = self.tasks.iter().filter_map(|entry| match entry.status {
            Status::Late(due) => Some(due),
            _ => None,
        });
        let mut due = steps;
        if !self.tasks.iter().any(Entry::is_ready) {
            due = due.max(soonest.min().unwrap_or(0));
        }
        for entry in &mut self.tasks {
            if matches!(entry.status, Status::Late(at) if at <= due) {
                entry.status = Status::Ready;
            }
        }
        self.choose(Entry::is_ready)
    }

    /// One of those that `fit`, the faster ones more often.
    fn choose(&mut self, fit: impl Fn(&Entry) -> bool) -> Option<usize> {
        let sum: u64 = self.tasks.iter().filter(|entry| fit(entry)).map(|entry| entry.speed).sum();
        let mut left = self.schedule.below(sum);
        self.tasks.iter().position(|entry| {
            fit(entry) && {
                let hit = left < entry.speed;
                left = left.saturating_sub(entry.speed);
                hit
            }
        })
    }

    /// Ends a task before its end. Its future is to be dropped, unless it is being polled: then it is
    /// dropped after that.
    fn end(&mut self, task: usize) -> Option<Task> {
        self.trace.0.push(Event::Dropped(task));
        self.tasks[task].end()
    }

    pub(super) fn shut_down(&mut self) {
        self.is_shut_down = true;
        self.trace.0.push(Event::ShutDown);
        for entry in &mut self.tasks {
            if entry.is_alive_in_pool() {
                entry.status = Status::Doomed;
            }
        }
    }

    pub(super) fn wake(&mut self, task: usize, epoch: u64) {
        let entry = &mut self.tasks[task];
        if entry.epoch != epoch || entry.status != Status::Waiting {
            return;
        }
        let late = self.schedule.chance(self.faults.late_wakes);
        entry.status = if late {
            Status::Late(self.steps + 1 + self.schedule.below(LATEST))
        } else {
            Status::Ready
        };
        self.trace.0.push(Event::Woken { task, late });
    }

    pub(super) fn live_in_pool(&self) -> usize {
        self.tasks.iter().filter(|entry| entry.is_alive_in_pool()).count()
    }

    /// A name for a task, for people.
    pub(super) fn name(&self, task: usize) -> String {
        format!("task {task} ({})", self.tasks[task].kind)
    }

    /// What each task that is left does.
    pub(super) fn describe(&self, f: &mut impl fmt::Write) -> fmt::Result {
        for (task, entry) in self.tasks.iter().enumerate() {
            let status = match entry.status {
                Status::Waiting => "waits to be woken",
                Status::Ready => "is ready",
                Status::Late(_) => "was woken, late",
                Status::Doomed => "is to be dropped",
                Status::Over => continue,
            };
            writeln!(f, "    {}: {status}, polled {} times", self.name(task), entry.polls)?;
        }
        Ok(())
    }
}

impl Entry {
    fn is_ready(&self) -> bool {
        matches!(self.status, Status::Ready | Status::Doomed)
    }

    fn is_alive_in_pool(&self) -> bool {
        matches!(self.kind, Kind::Pool(_)) && self.status != Status::Over
    }

    fn end(&mut self) -> Option<Task> {
        self.status = Status::Over;
        self.future.take()
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Main => f.write_str("the main future"),
            Self::Pool(place) => write!(f, "number {place} of the pool's"),
            Self::Client(at) => write!(f, "spawned at {at}"),
        }
    }
}

struct TaskWaker {
    /// Wakers are kept by what the tasks own.
    tasks: Weak<Tasks>,
    task: usize,
    epoch: u64,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if let Some(tasks) = self.tasks.upgrade() {
            tasks.state().wake(self.task, self.epoch);
        }
    }
}
