//! The suite: each behaviour once, on every executor that is compiled in.
//!
//! A test function bears the id of the guarantee that it checks; `harness::suite!` runs it on plain
//! threads, and on tokio, smol and async-std where those features are on.

mod harness;
mod tools;

mod cancel;
mod deadline;
mod handout;
mod million;
mod observe;
mod outcomes;
mod panics;
mod reentry;
mod runtimes;
mod send_sync;
