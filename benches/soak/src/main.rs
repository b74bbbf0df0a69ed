//! Pools under chaos on all runtimes side by side, for so many seconds: `soak SECONDS`.
//!
//! Each runtime has some slots. In each, one pool after the other is started with random settings, loaded,
//! ended in one way or another, and checked. The first thing that is wrong ends the program with 1.

mod client;
mod handler;
mod memory;
mod round;
mod runtimes;
mod tally;
// Small things that the simulated tests use as well.
#[allow(dead_code)]
#[path = "../../../tests/sim/things.rs"]
mod things;

use memory::Memory;
use runtimes::{Slot, start};
use std::process::exit;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// A slot in which nothing happens for so long hangs.
const BOUND: Duration = Duration::from_secs(30);

/// Says what was found, and ends the program.
fn found(what: String) -> ! {
    eprintln!("soak: FOUND {what}");
    exit(1)
}

fn main() {
    let mut words = std::env::args().skip(1);
    let seconds = words.next().and_then(|word| word.parse().ok());
    // `--hang`: one handler in a thousand never ends, to see the watchdog fire.
    let (Some(seconds), hangs) = (seconds, words.next().as_deref() == Some("--hang")) else {
        eprintln!("usage: soak SECONDS");
        exit(2)
    };
    // What the load panics with goes past the hook; this is an assertion, perhaps inside a handler, where
    // the pool would contain it.
    std::panic::set_hook(Box::new(|panic| found(panic.to_string())));
    let (begin, time) = (Instant::now(), Duration::from_secs(seconds));
    let runtimes = start(hangs);
    let mut memory = Memory::default();
    let mut seen: Vec<(Arc<Slot>, u64, Instant)> = runtimes
        .iter()
        .flat_map(|runtime| &runtime.slots)
        .map(|slot| (Arc::clone(slot), 0, begin))
        .collect();
    while begin.elapsed() < time {
        thread::sleep(Duration::from_secs(1));
        memory.sample();
        for (slot, progress, since) in &mut seen {
            let now = slot.progress();
            if now != *progress {
                (*progress, *since) = (now, Instant::now());
            } else if since.elapsed() >= BOUND {
                found(format!("{slot:?}\n      nothing has happened for {BOUND:?}"));
            }
        }
    }
    for runtime in &runtimes {
        println!("{:>9}: {}", runtime.name, runtime.tally());
    }
    println!("soak: {:.0?} of chaos, nothing found; {memory}", begin.elapsed());
    if let Err(growth) = memory.is_flat() {
        found(growth);
    }
}
