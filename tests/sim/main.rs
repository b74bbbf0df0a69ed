//! The pool under simulated schedules: each guarantee for many seeds.
//!
//! `SHARDPOOL_SIM_SEEDS=100000 cargo test --release --features sim --test sim` makes the long run; the
//! report of a failure has the line that makes it again.

mod determinism;
mod load;
mod script;
mod things;

mod aggregates;
mod ends;
mod outcomes;
mod panics;
mod reentry;
mod room;
mod simulator;
mod wakers;

/// How many seeds to try where a test makes its own runs.
fn seeds(default: u64) -> u64 {
    let set = std::env::var("SHARDPOOL_SIM_SEEDS").ok().and_then(|text| text.parse().ok());
    set.unwrap_or(default)
}
