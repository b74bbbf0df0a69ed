//! A process that runs one contender on one workload, at its parent's orders: a line in for each
//! run, a line out with what came of it.

use crate::allocations;
use crate::contenders::{Contender, Outside};
use crate::measure::{self, Run, World};
use crate::runtimes::Runtime;
use crate::workload::{Load, Workload};
use std::io::{self, BufRead, Write};

/// What a child says when its contender has started.
pub const READY: &str = "ready";
/// What its parent says for a run.
pub const RUN: &str = "run";

/// Starts a contender and runs it at each order. Both are leaked: they live as long as the process.
fn obey<C: Contender>(
    workload: Workload,
    steps_per_us: f64,
    mut run: impl FnMut(&'static C, &'static World) -> Run,
) {
    let world: &World = Box::leak(Box::new(World::new(&workload, steps_per_us)));
    let contender = allocations::apart(|| {
        C::Runtime::spawn(async {}); // starts it
        Box::new(C::start(&workload.setup))
    });
    let contender: &C = Box::leak(contender);
    if workload.touch_all {
        measure::touch_all(contender, world);
    } else {
        measure::touch_one(contender, world);
    }
    say(READY);
    for line in io::stdin().lock().lines() {
        match line.as_deref() {
            Ok(RUN) => {
                say(&serde_json::to_string(&run(contender, world)).expect("a run is plain data"))
            }
            _ => break,
        }
    }
    // Not a return: whatever threads there are need not be waited for.
    std::process::exit(0);
}

fn say(line: &str) {
    let mut out = io::stdout().lock();
    // A parent that has gone wants nothing more.
    if writeln!(out, "{line}").and_then(|()| out.flush()).is_err() {
        std::process::exit(1);
    }
}

/// A contender with callers inside the runtime: over an idle domain, or over one that is not.
pub fn serve<I: Contender, B: Contender>(workload: Workload, steps_per_us: f64) {
    if workload.is_idle() {
        inside::<I>(workload, steps_per_us);
    } else {
        inside::<B>(workload, steps_per_us);
    }
}

fn inside<C: Contender>(workload: Workload, steps_per_us: f64) {
    obey::<C>(workload, steps_per_us, |contender, world| measure::run(contender, world, workload));
}

/// One that can be called from outside as well.
pub fn serve_outside<I: Outside, B: Outside>(workload: Workload, steps_per_us: f64) {
    if workload.is_idle() {
        anywhere::<I>(workload, steps_per_us);
    } else {
        anywhere::<B>(workload, steps_per_us);
    }
}

fn anywhere<C: Outside>(workload: Workload, steps_per_us: f64) {
    obey::<C>(workload, steps_per_us, |contender, world| match workload.load {
        Load::Outside { threads, window } => {
            measure::run_outside(contender, world, workload, threads, window)
        }
        _ => measure::run(contender, world, workload),
    });
}

/// Bare tasks that do nothing but the work.
pub fn serve_limit<C: Contender>(workload: Workload, steps_per_us: f64) {
    inside::<C>(workload.limit(), steps_per_us);
}
