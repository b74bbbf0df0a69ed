//! Rounds over the points of a sweep, each point in a process of its own.

use crate::fit::Cost;
use crate::measure::{Figures, Job, Quantity};
use crate::series::{Effort, Sweep};
use std::io::Read;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// After this long a child hangs.
const PATIENCE: Duration = Duration::from_secs(300);

/// What came of a sweep.
pub struct Measured {
    pub sweep: Sweep,
    /// For each point, the figures of each round that succeeded.
    figures: Vec<Vec<Figures>>,
    pub troubles: Vec<String>,
}

impl Measured {
    /// One quantity over the sweep, without the points that have no figure.
    pub fn costs(&self, quantity: Quantity) -> Vec<Cost> {
        let points = self.sweep.points.iter().zip(&self.figures);
        points
            .filter_map(|((cause, _), rounds)| {
                let figures = rounds.iter().filter_map(|round| round.get(&quantity).copied());
                Cost::over(*cause, figures.collect())
            })
            .collect()
    }
}

/// Measures all points, round by round; each round begins with another one. A point that fails is
/// not tried again.
pub fn conduct(sweep: Sweep, effort: Effort) -> Measured {
    let points = sweep.points.len();
    let mut measured = Measured { figures: vec![Vec::new(); points], troubles: Vec::new(), sweep };
    let mut failed = vec![false; points];
    for round in 0..effort.rounds(&measured.sweep) {
        for point in (0..points).map(|n| (n + round) % points) {
            if failed[point] {
                continue;
            }
            let (cause, job) = &measured.sweep.points[point];
            match child(job) {
                Ok(figures) => measured.figures[point].push(figures),
                Err(what) => {
                    failed[point] = true;
                    let trouble = format!(
                        "{}, {} {}: {what}",
                        measured.sweep.name, cause, measured.sweep.cause
                    );
                    eprintln!("{trouble}");
                    measured.troubles.push(trouble);
                }
            }
        }
    }
    measured
}

fn child(job: &Job) -> Result<Figures, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let job = serde_json::to_string(job).map_err(|error| error.to_string())?;
    let mut process = Command::new(program)
        .args(["measure", &job])
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| format!("can't be started: {error}"))?;
    let mut out = process.stdout.take().expect("it was asked for");
    let (sender, answer) = mpsc::channel();
    thread::spawn(move || {
        let mut text = String::new();
        let _ = sender.send(out.read_to_string(&mut text).map(|_| text));
    });
    let answer = answer.recv_timeout(PATIENCE);
    // It has closed its output or has hung: either way it does no more.
    if answer.is_err() {
        let _ = process.kill();
    }
    let status = process.wait().map_err(|error| error.to_string())?;
    match answer {
        Err(_) => Err(format!("killed after {} s", PATIENCE.as_secs())),
        Ok(_) if !status.success() => Err(format!("failed, {status}")),
        Ok(Err(error)) => Err(error.to_string()),
        Ok(Ok(text)) => {
            serde_json::from_str(&text).map_err(|error| format!("said `{}`: {error}", text.trim()))
        }
    }
}
