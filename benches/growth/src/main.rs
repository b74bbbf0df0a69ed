//! How the costs of shardpool grow, and the report on its performance: `docs/performance.md`, with
//! the figures of `benches/peers` in it.

mod allocations;
mod conduct;
mod fit;
mod machine;
mod measure;
mod peers;
mod plot;
mod report;
mod series;

use clap::{Parser, Subcommand};
use report::Results;
use series::Effort;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: allocations::Counting = allocations::Counting;

/// Measures how the costs of shardpool grow, and writes docs/performance.md.
#[derive(Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Arguments {
    /// A short pass: the magnitude of the figures, in some minutes
    #[arg(long)]
    quick: bool,
    /// What `benches/peers --json` has printed; by default it is run now
    #[arg(long, value_name = "FILE", conflicts_with = "skip_peers")]
    peers: Option<PathBuf>,
    /// Leave the peers out
    #[arg(long)]
    skip_peers: bool,
    #[command(subcommand)]
    child: Option<Child>,
}

#[derive(Subcommand)]
enum Child {
    /// What this program runs itself as, for each point
    #[command(hide = true)]
    Measure { job: String },
}

/// The crates whose speed is in the figures.
const CRATES: [&str; 6] = ["shardpool", "tokio", "flume", "atomic-waker", "hashbrown", "arc-swap"];
const PEERS: [&str; 7] =
    ["async-std", "dashmap", "grommet", "kameo", "ractor", "smol", "task-exec-queue"];

fn main() -> ExitCode {
    // Wrong arguments end the program here, with a message and code 2.
    let arguments = Arguments::parse();
    let done = match arguments.child {
        Some(Child::Measure { job }) => return answer(&job),
        None => report(&arguments),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Does one job, and prints what came of it.
fn answer(job: &str) -> ExitCode {
    let figures = serde_json::from_str(job)
        .map_err(Into::into)
        .and_then(measure::run)
        .and_then(|figures| Ok(serde_json::to_string(&figures)?));
    match figures {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn report(arguments: &Arguments) -> Result<ExitCode, Box<dyn Error>> {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let beside = package.join("../peers");
    // First: a file that can't be read is told at once, not after all has been measured.
    let (lines, peers_are_well) = match &arguments.peers {
        Some(file) => std::fs::read_to_string(file)
            .map(|lines| (lines, true))
            .map_err(|error| format!("{} can't be read: {error}", file.display()))?,
        None if arguments.skip_peers => (String::new(), true),
        None => peers::run(&beside.join("Cargo.toml"), arguments.quick)?,
    };
    let peers = peers::parse(&lines);
    if peers.is_empty() && !arguments.skip_peers {
        return Err("there is no line of the peers'".into());
    }

    let effort = Effort { quick: arguments.quick };
    let mut measured = Vec::new();
    for sweep in series::sweeps(effort) {
        eprintln!(
            "{}: {} points, {} rounds",
            sweep.name,
            sweep.points.len(),
            effort.rounds(&sweep)
        );
        measured.push(conduct::conduct(sweep, effort));
    }

    let mut versions = machine::versions(&package.join("Cargo.lock"), &CRATES);
    if !peers.is_empty() {
        versions.extend(machine::versions(&beside.join("Cargo.lock"), &PEERS));
    }
    let failed = measured.iter().any(|measured| !measured.troubles.is_empty());
    let caches = machine::caches();
    let results = Results { quick: arguments.quick, measured, peers, caches, versions };
    report::write(&results, &package.join("../../docs"))?;
    if !peers_are_well {
        eprintln!("contenders failed: benches/peers has named them above");
    }
    Ok(if failed || !peers_are_well { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
