//! How many instructions a command takes, counted by callgrind, against `benches/instructions.txt`:
//! `cargo bench --features tokio --bench instructions`, and `-- --bless` to write the file anew.
//!
//! Unlike time, that is the same in each run, so that a few percent are seen. Everything runs on one
//! thread, and each figure is taken in a process of its own. Self-written, since gungraun, which does
//! this job, needs a runner of the very same version to be installed beside it, and keeps its
//! baselines in the target directory.

mod baseline;
mod callgrind;
#[path = "../loads/mod.rs"]
mod loads;

use baseline::Baseline;
use callgrind::{Missing, counted};
use loads::steps::{self, STEPS};
use loads::whole::{self, LOADS};
use shardpool::executors::Tokio;
use std::process::ExitCode;

/// How many commands are counted: so many that what a run costs once does not show.
const COMMANDS: usize = 16_384;

/// Tells a process that it is the one that is counted.
const CHILD: &str = "--counted";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [first, name] = &arguments[..]
        && first == CHILD
    {
        child(name);
        return ExitCode::SUCCESS;
    }
    // Cargo adds arguments of its own.
    let bless = arguments.iter().any(|argument| argument == "--bless");

    let mut now = Baseline::of_this_build();
    let names = STEPS.map(|(name, _)| name).into_iter().chain(LOADS.map(|(name, _)| name));
    for name in names {
        match callgrind::count(&[CHILD, name]) {
            Ok(instructions) => now.push(name, instructions / COMMANDS as u64),
            Err(Missing) => {
                println!("SKIPPED: valgrind is not installed, so no instructions are counted");
                return if bless { ExitCode::FAILURE } else { ExitCode::SUCCESS };
            }
        }
    }
    if bless {
        print!("{now}");
        now.write();
        return ExitCode::SUCCESS;
    }
    if now.is_no_worse_than(&Baseline::read()) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn child(name: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let executor = Tokio::new(runtime.handle().clone());
    let pool = loads::start(executor.clone());
    runtime.block_on(loads::warm(&pool));

    // Twice, and only the second time counts: caches of cells and buffers have found their size.
    for is_counted in [false, true] {
        let measure = |work: &mut dyn FnMut()| if is_counted { counted(work) } else { work() };
        if let Some((_, step)) = STEPS.iter().find(|step| step.0 == name) {
            steps::run(&runtime, &pool, *step, COMMANDS, measure);
        } else if let Some((_, load)) = LOADS.iter().find(|load| load.0 == name) {
            measure(&mut || runtime.block_on(whole::run(&executor, &pool, *load, COMMANDS)));
        }
    }
}
