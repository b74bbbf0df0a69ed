//! One run: a main future and what it spawns, until the main future is ready.

use super::Sim;
use super::faults::Faults;
use super::report::{Finding, Reason};
use super::tasks::{MAIN, Step, Tasks};
use super::trace::{Event, Trace};
use crate::contain::{Panic, contain};
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

/// How a run went.
pub(super) struct Ran {
    pub(super) finding: Option<Finding>,
    pub(super) trace: Trace,
}

pub(super) fn run<F: Future<Output = ()>>(
    seed: u64,
    faults: Faults,
    max_polls: u64,
    test: impl Fn(Sim) -> F,
) -> Ran {
    let tasks = Tasks::new(seed, faults);
    // The call of the test is its first code: it may panic as well.
    let sim = Sim { tasks: Arc::clone(&tasks), seed };
    let mut reason = match contain(|| test(sim)) {
        Ok(main) => {
            let mut main = pin!(Some(main));
            let reason = to_the_end(&tasks, max_polls, main.as_mut());
            let dropped = contain(|| main.set(None));
            reason
                .or_else(|| failed(&tasks))
                .or_else(|| dropped.err().map(|panic| panicked(&tasks, MAIN, panic)))
        }
        Err(panic) => Some(panicked(&tasks, MAIN, panic)),
    };
    let finding = |reason| Finding::new(seed, reason, &tasks);
    let mut found = reason.take().map(finding);
    // Handlers and clients may hold the simulation, which holds them.
    for task in tasks.take_all() {
        if let Err(Panic(message)) = contain(|| drop(task)) {
            let what = "what was left at the end, as it was dropped".to_owned();
            let panicked = Reason::Panicked { what, message };
            found = found.or_else(|| Some(finding(failed(&tasks).unwrap_or(panicked))));
        }
    }
    // A destructor may have had its word, too.
    found = found.or_else(|| failed(&tasks).map(finding));
    let trace = std::mem::take(&mut tasks.state().trace);
    Ran { finding: found, trace }
}

/// Until the main future is ready; or why it is not.
fn to_the_end<F: Future<Output = ()>>(
    tasks: &Arc<Tasks>,
    max_polls: u64,
    mut main: Pin<&mut Option<F>>,
) -> Option<Reason> {
    for _ in 0..max_polls {
        match tasks.step() {
            Step::Poll(task, mut future, waker) => {
                let mut cx = Context::from_waker(&waker);
                let polled = contain(|| match (&mut future, main.as_mut().as_pin_mut()) {
                    (Some(future), _) => future.as_mut().poll(&mut cx),
                    (None, Some(main)) => main.poll(&mut cx),
                    (None, None) => Poll::Pending,
                });
                let ready = !matches!(polled, Ok(Poll::Pending));
                let left = tasks.polled(task, future, ready);
                if let Err(panic) = polled.and_then(|_| contain(|| drop(left))) {
                    return failed(tasks).or_else(|| Some(panicked(tasks, task, panic)));
                }
                if ready && task == MAIN {
                    return failed(tasks);
                }
            }
            Step::Drop(future) => {
                if let Err(Panic(message)) = contain(|| drop(future)) {
                    let what = "a task of the pool's, as it was dropped".to_owned();
                    return failed(tasks).or(Some(Reason::Panicked { what, message }));
                }
            }
            Step::Idle => {
                let settling = tasks.settle();
                if settling.is_empty() {
                    if !tasks.time.advance() {
                        return Some(Reason::Deadlock);
                    }
                    let now = tasks.time.elapsed();
                    tasks.state().trace.0.push(Event::Time(now));
                }
                settling.into_iter().for_each(Waker::wake);
            }
        }
        if let Some(reason) = failed(tasks) {
            return Some(reason);
        }
    }
    Some(Reason::Livelock { polls: max_polls })
}

fn failed(tasks: &Tasks) -> Option<Reason> {
    tasks.state().failure.take().map(Reason::Failed)
}

fn panicked(tasks: &Tasks, task: usize, Panic(message): Panic) -> Reason {
    Reason::Panicked { what: tasks.state().name(task), message }
}
