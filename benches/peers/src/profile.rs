//! Where the processor's time goes while a contender runs a workload, by part of the program: samples
//! of Linux's `perf`, which has to be there.

use crate::conduct::Child;
use crate::contenders::Entry;
use crate::workload::Workload;
use addr2line::Loader;
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;
use std::process::{self, Command};

/// Samples per second and thread.
const HERTZ: u32 = 4_000;

/// What a sample can belong to, in the order of the table's lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Part {
    Harness,
    Submission,
    Word,
    Dispatcher,
    Lanes,
    Worker,
    Outcome,
    PoolElse,
    Contender,
    Channel,
    Hash,
    Map,
    Runtime,
    Library,
    Kernel,
    Other,
}

impl Part {
    fn name(self) -> &'static str {
        match self {
            Part::Harness => "the callers' loop: random id, clock, ring",
            Part::Submission => "pool: submission",
            Part::Word => "pool: the shard's word (room, gate, sleep)",
            Part::Dispatcher => "pool: dispatcher and its map",
            Part::Lanes => "pool: lanes and ring",
            Part::Worker => "pool: worker",
            Part::Outcome => "pool: outcome and its cell",
            Part::PoolElse => "pool: all else",
            Part::Contender => "the contender's own code",
            Part::Channel => "channels and wakers",
            Part::Hash => "SipHash",
            Part::Map => "maps",
            Part::Runtime => "runtime",
            Part::Library => "C library: allocator, copies",
            Part::Kernel => "kernel",
            Part::Other => "all else",
        }
    }

    /// The part that a function is of, by its file; none if it serves whoever calls it.
    fn of(file: &str) -> Option<Self> {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let (_, krate) = file.split_once("/registry/src/").unwrap_or_default();
        let (_, krate) = krate.split_once('/').unwrap_or_default();
        if file.contains("hash/sip") {
            return Some(Part::Hash);
        }
        // The one of the standard library is not where other crates are.
        if file.contains("/hashbrown-") || krate.starts_with("dashmap") {
            return Some(Part::Map);
        }
        if ["flume", "atomic-waker", "futures-channel"].iter().any(|name| krate.starts_with(name))
            || krate.starts_with("tokio-") && krate.contains("src/sync/")
        {
            return Some(Part::Channel);
        }
        const PEERS: [&str; 4] = ["kameo", "ractor", "grommet", "task-exec-queue"];
        // Of the last, the waker of the callers' windows.
        const HARNESS: [&str; 3] = ["fastrand", "hdrhistogram", "futures-core"];
        const RUNTIMES: [&str; 8] = [
            "tokio-",
            "async-",
            "smol",
            "concurrent-queue",
            "parking-",
            "event-",
            "polling",
            "futures-lite",
        ];
        if RUNTIMES.iter().any(|name| krate.starts_with(name)) {
            return Some(Part::Runtime);
        }
        if let Ok(of_peers) = Path::new(file).strip_prefix(here) {
            let own = of_peers.starts_with("src/contenders") && !file.ends_with("bare.rs");
            return Some(if own { Part::Contender } else { Part::Harness });
        }
        let pool = here.ancestors().nth(2)?;
        let Ok(of_pool) = Path::new(file).strip_prefix(pool) else {
            return match krate {
                _ if PEERS.iter().any(|name| krate.starts_with(name)) => Some(Part::Contender),
                _ if HARNESS.iter().any(|name| krate.starts_with(name)) => Some(Part::Harness),
                _ => None,
            };
        };
        Some(match of_pool.to_str()? {
            "src/sync.rs" | "src/contain.rs" | "src/prefetch.rs" => return None,
            "src/submit.rs" | "src/command.rs" | "src/entering.rs" | "src/pool.rs"
            | "src/block.rs" | "src/router.rs" => Part::Submission,
            "src/shard/front.rs" | "src/park.rs" => Part::Word,
            "src/shard/dispatcher.rs"
            | "src/shard/schedule.rs"
            | "src/shard/duty.rs"
            | "src/shard/crew.rs"
            | "src/shard/idle.rs"
            | "src/shard/floor.rs" => Part::Dispatcher,
            "src/shard/lane.rs" | "src/shard/ring.rs" | "src/chain.rs" => Part::Lanes,
            "src/shard/worker.rs" => Part::Worker,
            "src/ticket.rs" => Part::Outcome,
            path if path.starts_with("src/cell/") => Part::Outcome,
            _ => Part::PoolElse,
        })
    }
}

/// The part that an address in the program belongs to: that of the innermost function, inlined or not,
/// that is of one.
fn part_at(program: &Loader, address: u64) -> Part {
    let Ok(mut frames) = program.find_frames(address) else { return Part::Other };
    while let Ok(Some(frame)) = frames.next() {
        let file = frame.location.and_then(|location| location.file);
        if let Some(part) = file.and_then(Part::of) {
            return part;
        }
    }
    Part::Other
}

/// What one contender takes.
struct Profile {
    /// Nanoseconds of a processor for a command, by part.
    parts: BTreeMap<Part, f64>,
    commands_per_s: f64,
}

impl Profile {
    fn take(
        entry: &Entry,
        workload: &Workload,
        seconds: u32,
        steps_per_us: f64,
    ) -> Result<Self, String> {
        let path = std::env::current_exe().map_err(|error| error.to_string())?;
        let name = path.to_string_lossy().into_owned();
        let samples = std::env::temp_dir().join(format!("peers-{}.perf", std::process::id()));

        let mut child = Child::start(entry, workload, steps_per_us)?;
        child.run()?; // warm
        let recorder = Command::new("perf")
            .args(["record", "--quiet", "--event", "cpu-clock", "--freq", &HERTZ.to_string()])
            .args(["--pid", &child.id().to_string(), "--output"])
            .arg(&samples)
            .args(["--", "sleep", &seconds.to_string()])
            .spawn()
            .map_err(|error| format!("`perf record` can't be started: {error}"))?;
        let mut recording = Recording { recorder, samples: &samples };
        let mut rates = Vec::new();
        let ended = loop {
            rates.push(child.run()?.commands_per_s());
            if let Some(status) =
                recording.recorder.try_wait().map_err(|error| error.to_string())?
            {
                break status;
            }
        };
        if !ended.success() {
            return Err(format!("`perf record` failed: {ended}"));
        }
        let loaded_at = loaded_at(child.id(), &name)?;
        drop(child);

        let script = Command::new("perf")
            .args(["script", "--fields", "ip,dso", "--input"])
            .arg(&samples)
            .output()
            .map_err(|error| format!("`perf script` can't be started: {error}"))?;
        drop(recording);
        if !script.status.success() {
            let said = String::from_utf8_lossy(&script.stderr);
            return Err(format!("`perf script` failed: {}: {}", script.status, said.trim()));
        }
        let program = Loader::new(&path).map_err(|error| error.to_string())?;
        let mut known = HashMap::new();
        let mut counts: BTreeMap<Part, u64> = BTreeMap::new();
        for line in String::from_utf8_lossy(&script.stdout).lines() {
            let Some((address, object)) = line.trim().split_once(' ') else { continue };
            let object = object.trim().trim_matches(['(', ')']);
            let part = if object == name {
                let address =
                    u64::from_str_radix(address, 16).map_err(|error| error.to_string())?;
                *known
                    .entry(address)
                    .or_insert_with(|| part_at(&program, address.wrapping_sub(loaded_at)))
            } else if object.starts_with('/') {
                Part::Library
            } else {
                Part::Kernel
            };
            *counts.entry(part).or_default() += 1;
        }

        rates.sort_by(f64::total_cmp);
        let commands_per_s = rates[rates.len() / 2];
        let ns_per_sample = 1e9 / f64::from(HERTZ) / (commands_per_s * f64::from(seconds));
        let parts =
            counts.into_iter().map(|(part, count)| (part, count as f64 * ns_per_sample)).collect();
        Ok(Self { parts, commands_per_s })
    }
}

/// Samples that are being taken, or that are still to be read.
struct Recording<'a> {
    recorder: process::Child,
    samples: &'a Path,
}

impl Drop for Recording<'_> {
    fn drop(&mut self) {
        // It has ended, unless something went wrong; then nobody is left to be told of more.
        let _ = self.recorder.kill();
        let _ = self.recorder.wait();
        let _ = fs::remove_file(self.samples);
    }
}

/// Where a process has its program.
fn loaded_at(process: u32, program: &str) -> Result<u64, String> {
    let maps =
        fs::read_to_string(format!("/proc/{process}/maps")).map_err(|error| error.to_string())?;
    let first = maps.lines().find(|line| line.ends_with(program));
    let start = first.and_then(|line| line.split('-').next());
    start
        .and_then(|start| u64::from_str_radix(start, 16).ok())
        .ok_or_else(|| format!("process {process} does not have {program}"))
}

/// Prints a table for a workload: parts by contenders.
pub fn profile(
    workload: &Workload,
    contenders: &[&'static Entry],
    seconds: u32,
    steps_per_us: f64,
) -> Result<(), String> {
    let mut profiles = Vec::new();
    for entry in contenders.iter().filter(|entry| (entry.takes)(workload)) {
        let profile = Profile::take(entry, workload, seconds, steps_per_us)
            .map_err(|what| format!("{} at {}: {what}", entry.name, workload.name))?;
        profiles.push((entry.name, profile));
    }
    println!("\n{}, nanoseconds of a processor for a command:\n", workload.name);
    let cells = |first: &str, cell: &dyn Fn(&Profile) -> String| {
        let cells: Vec<_> = profiles.iter().map(|(_, profile)| cell(profile)).collect();
        println!("| {first} | {} |", cells.join(" | "));
    };
    let names: Vec<_> = profiles.iter().map(|(name, _)| format!("`{name}`")).collect();
    println!("| | {} |", names.join(" | "));
    println!("| --- |{}", " ---: |".repeat(names.len()));
    let mut parts: Vec<_> =
        profiles.iter().flat_map(|(_, profile)| profile.parts.keys().copied()).collect();
    parts.sort();
    parts.dedup();
    for part in parts {
        cells(part.name(), &|profile| match profile.parts.get(&part) {
            Some(ns) if *ns >= 0.5 => format!("{ns:.0}"),
            _ => String::new(),
        });
    }
    cells("**sum**", &|profile| format!("**{:.0}**", profile.parts.values().sum::<f64>()));
    cells("commands per second", &|profile| format!("{:.0}", profile.commands_per_s));
    Ok(())
}
