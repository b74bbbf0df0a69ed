//! The figures of `benches/peers`: read from a file, or measured now.

use serde::Deserialize;
use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;
use std::process::{Command, Stdio};

/// The contender that others are compared with.
pub const REFERENCE: &str = "shardpool-tokio";

/// A contender on a workload: a line of what `benches/peers --json` prints.
#[derive(Debug, Clone, Deserialize)]
pub struct Entry {
    pub workload: String,
    pub contender: String,
    pub commands_per_s: f64,
    pub p50_ns: f64,
    pub p99_ns: f64,
    pub allocations_per_command: f64,
    pub failed: u64,
    pub rounds: u64,
    pub ratio_to: BTreeMap<String, f64>,
    pub ratio_min: BTreeMap<String, f64>,
    pub ratio_max: BTreeMap<String, f64>,
    pub kept: Option<f64>,
    pub blocks_per_s: Option<f64>,
    pub seconds: Option<f64>,
    pub ideal_seconds: Option<f64>,
}

impl Entry {
    pub fn is_shardpool(&self) -> bool {
        self.contender.starts_with("shardpool-")
    }

    /// Bare tasks that do the work, or only the loop of the callers.
    pub fn is_bound(&self) -> bool {
        self.is_harness() || self.contender.starts_with("limit")
    }

    pub fn is_harness(&self) -> bool {
        self.contender == "harness"
    }
}

/// All contenders on one workload.
#[derive(Debug)]
pub struct Workload {
    pub name: String,
    pub entries: Vec<Entry>,
}

impl Workload {
    /// The reference's rate over that of a contender: median, least and greatest of the rounds.
    pub fn over(&self, entry: &Entry) -> Option<(f64, f64, f64)> {
        let reference = self.entries.iter().find(|other| other.contender == REFERENCE)?;
        let of = |ratios: &BTreeMap<String, f64>| ratios.get(&entry.contender).copied();
        Some((of(&reference.ratio_to)?, of(&reference.ratio_min)?, of(&reference.ratio_max)?))
    }

    /// Fastest first.
    pub fn ranked(&self) -> Vec<&Entry> {
        let mut entries: Vec<&Entry> = self.entries.iter().collect();
        entries.sort_by(|a, b| b.commands_per_s.total_cmp(&a.commands_per_s));
        entries
    }
}

/// Reads lines, in the order of the workloads in them. What is no line of JSON is skipped: it may
/// be something that a build has said.
pub fn parse(text: &str) -> Vec<Workload> {
    let mut workloads: Vec<Workload> = Vec::new();
    for entry in text.lines().filter_map(|line| serde_json::from_str::<Entry>(line).ok()) {
        match workloads.iter_mut().find(|workload| workload.name == entry.workload) {
            Some(workload) => workload.entries.push(entry),
            None => {
                workloads.push(Workload { name: entry.workload.clone(), entries: vec![entry] });
            }
        }
    }
    workloads
}

/// Runs `benches/peers`: its lines, and whether all contenders did what they should. If one failed, the others' lines
/// are there all the same.
pub fn run(manifest: &Path, quick: bool) -> Result<(String, bool), Box<dyn Error>> {
    let mut cargo = Command::new("cargo");
    cargo.args(["run", "--release", "--quiet", "--manifest-path"]).arg(manifest);
    cargo.args(["--", "--json"]);
    if quick {
        cargo.args(["--rounds", "1"]);
    }
    let output = cargo.stderr(Stdio::inherit()).output()?;
    Ok((String::from_utf8(output.stdout)?, output.status.success()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_by_workload_and_other_text_is_skipped() {
        let line = |contender: &str, ratios: &str| {
            format!(
                r#"{{"workload":"W1","contender":"{contender}","commands_per_s":2.0,"p50_ns":1.0,
                "p99_ns":1.0,"allocations_per_command":0.0,"failed":0,"rounds":1,
                "ratio_to":{ratios},"ratio_min":{ratios},"ratio_max":{ratios}}}"#
            )
            .replace('\n', "")
        };
        let text =
            ["Compiling something", &line(REFERENCE, r#"{"other":1.5}"#), &line("other", "{}")]
                .join("\n");
        let workloads = parse(&text);
        assert_eq!(workloads.len(), 1);
        let [reference, other] = &workloads[0].entries[..] else { panic!("{workloads:?}") };
        assert_eq!(workloads[0].over(other), Some((1.5, 1.5, 1.5)));
        assert_eq!(workloads[0].over(reference), None);
    }
}
