//! The suite: each behaviour once, on every executor that is compiled in.
//!
//! A test function bears the id of the guarantee that it checks; `harness::suite!` runs it on plain
//! threads, and on tokio, smol and async-std where those features are on.

mod by_hand;
mod harness;
mod script;
mod spawned;
mod tools;

mod abort;
mod backpressure;
mod budget;
mod cancel;
mod deadline;
mod drain;
mod drop;
mod errors;
mod eviction;
mod fairness;
mod handout;
mod last_look;
mod million;
mod observe;
mod order;
mod outcomes;
mod panics;
mod reentry;
mod resident;
mod routing;
mod runtimes;
mod send_sync;
mod settings;
mod shutdown;
mod stand_in;
mod tickets;
mod versions;
mod wakes;
