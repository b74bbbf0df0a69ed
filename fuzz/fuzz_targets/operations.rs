//! Bytes become settings and a sequence of operations on a simulated pool. The model of `tests/sim` says
//! what each handler must find; here is what each caller must be told.
//!
//! An input that fails is printed as operations by `cargo fuzz fmt operations FILE`.
#![no_main]

// The model needs no more than these two; what only the tests of the pool use is not used here.
#[allow(dead_code)]
#[path = "../../tests/sim/script.rs"]
mod script;
#[allow(dead_code)]
#[path = "../../tests/sim/things.rs"]
mod things;

mod driver;
mod input;

use input::Input;
use libfuzzer_sys::fuzz_target;
use shardpool::sim::Explorer;

/// Each input runs with so many schedules; some have polls that nobody asked for, some have none.
const SEEDS: u64 = 3;

fuzz_target!(
    init: {
        // The fuzzer ends the process at the first panic. The simulation catches it, and tells more.
        let _ = std::panic::take_hook();
    },
    |input: Input| {
        let found = Explorer::new(SEEDS).find(|sim| driver::run(sim, &input));
        if let Some(finding) = found {
            eprintln!("{finding}\n{input:#?}");
            std::process::abort();
        }
    }
);
