//! The same workloads over shardpool and over what else does its job, or part of it.
//! `README.md` says what is measured, and how.

mod allocations;
mod child;
mod conduct;
mod contenders;
mod domain;
mod measure;
mod profile;
mod report;
mod runtimes;
mod window;
mod workload;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand};
use contenders::Entry;
use std::process::ExitCode;
use workload::Workload;

#[global_allocator]
static ALLOCATOR: allocations::Counting = allocations::Counting;

/// Measures shardpool and its peers on the same workloads.
#[derive(Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Arguments {
    /// How many rounds; by default 7, and fewer where a run is long
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000), value_name = "1..=1000")]
    rounds: Option<u32>,
    /// Workloads, as in W1,W6/64 (W6: all of its variants); by default all
    #[arg(long, value_delimiter = ',', value_parser = workloads, value_name = "WORKLOAD")]
    only: Vec<Workloads>,
    /// Contenders; by default all
    #[arg(long, value_delimiter = ',', value_parser = contender, value_name = "CONTENDER")]
    contenders: Vec<&'static Entry>,
    /// A line of JSON for each contender on each workload, instead of a table
    #[arg(long)]
    json: bool,
    #[command(subcommand)]
    command: Option<Otherwise>,
}

#[derive(Subcommand)]
enum Otherwise {
    /// Where the processor's time goes, by part of the program (Linux, with `perf`)
    Profile {
        /// Workloads, as in W1,W6/64; not W8, W9 and W10
        #[arg(long, value_delimiter = ',', value_parser = workloads, value_name = "WORKLOAD", required = true)]
        only: Vec<Workloads>,
        #[arg(long, value_delimiter = ',', value_parser = contender, value_name = "CONTENDER", required = true)]
        contenders: Vec<&'static Entry>,
        /// For how long each is watched
        #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=600), value_name = "1..=600")]
        seconds: u32,
    },
    /// What this program runs itself as, for each contender
    #[command(hide = true)]
    Child {
        #[arg(long, value_parser = contender)]
        contender: &'static Entry,
        #[arg(long, value_parser = workload)]
        workload: Workload,
        #[arg(long)]
        steps_per_us: f64,
    },
}

/// What one word on the command line means.
#[derive(Clone)]
struct Workloads(Vec<Workload>);

fn workloads(word: &str) -> Result<Workloads, String> {
    let meant = workload::meant_by(word);
    if meant.is_empty() {
        let names: Vec<_> = workload::ALL.iter().map(|workload| workload.name).collect();
        return Err(format!(
            "there is no such workload; there are {}; what is before a `/` means all of its variants",
            names.join(", ")
        ));
    }
    Ok(Workloads(meant))
}

fn workload(name: &str) -> Result<Workload, String> {
    workload::named(name).ok_or_else(|| "there is no such workload".to_owned())
}

fn contender(name: &str) -> Result<&'static Entry, String> {
    contenders::named(name).ok_or_else(|| {
        let names: Vec<_> = contenders::ALL.iter().map(|entry| entry.name).collect();
        format!("there is no such contender; there are {}", names.join(", "))
    })
}

/// Ends the program because of its arguments.
fn wrong(what: String) -> ! {
    Arguments::command().error(ErrorKind::ValueValidation, what).exit()
}

/// Those of the workloads in which one of the contenders takes part. Ends the program if there are none.
fn taken(workloads: Vec<Workload>, contenders: &[&'static Entry]) -> Vec<Workload> {
    let named = |names: Vec<&str>| names.join(", ");
    let asked = named(workloads.iter().map(|workload| workload.name).collect());
    let takes = |workload: &Workload| contenders.iter().any(|entry| (entry.takes)(workload));
    let taken: Vec<_> = workloads.into_iter().filter(takes).collect();
    if taken.is_empty() {
        let contenders = named(contenders.iter().map(|entry| entry.name).collect());
        wrong(format!("none of {contenders} takes part in {asked}; the README says who does"));
    }
    taken
}

fn main() -> ExitCode {
    // Wrong arguments end the program here, with a message and code 2.
    let arguments = Arguments::parse();
    match arguments.command {
        Some(Otherwise::Child { contender, workload, steps_per_us }) => {
            (contender.serve)(workload, steps_per_us);
            return ExitCode::SUCCESS;
        }
        Some(Otherwise::Profile { only, contenders, seconds }) => {
            let asked = only.into_iter().flat_map(|Workloads(meant)| meant).collect();
            let workloads = taken(asked, &contenders);
            for workload in &workloads {
                if let Some(why) = workload.no_profile() {
                    wrong(format!("there is no profile of {}: {why}", workload.name));
                }
            }
            let steps_per_us = domain::steps_per_us();
            for workload in workloads {
                if let Err(what) = profile::profile(&workload, &contenders, seconds, steps_per_us) {
                    eprintln!("error: {what}");
                    return ExitCode::FAILURE;
                }
            }
            return ExitCode::SUCCESS;
        }
        None => {}
    }

    let asked = |workload: &Workload| {
        let mut words = arguments.only.iter().flat_map(|Workloads(meant)| meant);
        arguments.only.is_empty() || words.any(|meant| meant.name == workload.name)
    };
    let chosen = |entry: &&'static Entry| {
        arguments.contenders.is_empty()
            || arguments.contenders.iter().any(|chosen| chosen.name == entry.name)
    };
    let contenders: Vec<_> = contenders::ALL.iter().filter(chosen).collect();
    let workloads = taken(workload::ALL.into_iter().filter(asked).collect(), &contenders);
    let rounds = arguments.rounds.map(|rounds| rounds as usize);
    let steps_per_us = domain::steps_per_us();

    let mut troubles = Vec::new();
    for workload in workloads {
        let (summaries, new) = conduct::conduct(&workload, &contenders, rounds, steps_per_us);
        if arguments.json {
            report::lines(&workload, &summaries);
        } else if !summaries.is_empty() {
            report::table(&workload, &summaries);
        }
        troubles.extend(new);
    }
    for trouble in &troubles {
        eprintln!("{trouble}");
    }
    if troubles.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
