//! Flights as commands to the aircraft that flew them, each leg an event in a store.
//!
//! `cargo run --release --features tokio --example flights`, and see the README beside this file.

mod digest;
mod fleet;
mod miles;
mod options;
mod report;
mod rows;
mod run;
mod runtime;
mod store;

use options::Options;
use std::env;
use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;

const NOT_ALL_WENT_WELL: u8 = 1;
const NOTHING_WAS_RUN: u8 = 2;

fn main() -> ExitCode {
    let options = match Options::parse(env::args_os().skip(1)) {
        Ok(Some(options)) => options,
        Ok(None) => {
            return match io::stdout().write_all(options::HELP.as_bytes()) {
                Ok(()) => ExitCode::SUCCESS,
                Err(_) => ExitCode::from(NOT_ALL_WENT_WELL),
            };
        }
        Err(error) => return refuse(error),
    };
    match options.runtime.block_on(run::run(&options)) {
        Ok(Ok(true)) => ExitCode::SUCCESS,
        Ok(Ok(false)) => ExitCode::from(NOT_ALL_WENT_WELL),
        Ok(Err(error)) => refuse(error),
        Err(error) => refuse(format_args!("the runtime can't be started: {error}")),
    }
}

fn refuse(error: impl Display) -> ExitCode {
    complain(error);
    ExitCode::from(NOTHING_WAS_RUN)
}

/// Not `eprintln`, which panics when nobody reads stderr any more.
fn complain(what: impl Display) {
    let _ = writeln!(io::stderr(), "flights: {what}");
}
