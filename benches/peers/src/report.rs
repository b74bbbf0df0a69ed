//! A table for people, or a line of JSON for each contender on each workload.

use crate::conduct::{Spread, Summary};
use crate::contenders::REFERENCE;
use crate::workload::Workload;
use serde_json::{Map, Value, json};

/// Prints what came of a workload, for people.
pub fn table(workload: &Workload, summaries: &[Summary]) {
    println!("\n{}  {}", workload.name, workload.about);
    println!(
        "  {:<22} {:>11} {:>23} {:>9} {:>9} {:>7}  {REFERENCE} over it",
        "", "commands/s", "(min .. max)", "p50", "p99", "allocs"
    );
    for summary in summaries {
        let Spread { median, min, max } = summary.commands_per_s;
        let mut line = format!(
            "  {:<22} {:>11} {:>23} {:>9} {:>9} {:>7.2}",
            summary.contender,
            grouped(median),
            format!("({} .. {})", grouped(min), grouped(max)),
            time(summary.p50_ns),
            time(summary.p99_ns),
            summary.allocations_per_command,
        );
        if let Some(ratio) = over_it(summary, summaries) {
            line += &format!("  {:.2} ({:.2} .. {:.2})", ratio.median, ratio.min, ratio.max);
        }
        if let Some(kept) = summary.kept {
            line += &format!("  kept {:.2} ({:.2} .. {:.2})", kept.median, kept.min, kept.max);
        }
        if let Some(blocks) = summary.blocks_per_s {
            line += &format!("  {:.0} blocks/s", blocks.median);
        }
        if workload.plan.is_some() {
            line += &format!("  {:.2} s", summary.seconds);
        }
        if summary.failed > 0 {
            line += &format!("  {} FAILED", summary.failed);
        }
        println!("{line}");
    }
    if let Some(plan) = workload.plan {
        let ideal = plan.ideal(workload.setup.concurrency()).as_secs_f64();
        println!("  {:<22} {:.2} s for {} commands", "ideal", ideal, plan.commands);
    }
}

/// The reference's rate over this one's.
fn over_it(summary: &Summary, summaries: &[Summary]) -> Option<Spread> {
    if summary.contender == REFERENCE {
        return None;
    }
    let reference = summaries.iter().find(|other| other.contender == REFERENCE)?;
    reference.ratio_to.get(summary.contender).copied()
}

/// Prints what came of a workload, for programs.
pub fn lines(workload: &Workload, summaries: &[Summary]) {
    for summary in summaries {
        let ratios = |of: fn(&Spread) -> f64| -> Map<String, Value> {
            let figures = summary.ratio_to.iter();
            figures.map(|(name, ratio)| ((*name).to_owned(), json!(of(ratio)))).collect()
        };
        let mut line = json!({
            "workload": workload.name,
            "contender": summary.contender,
            "commands_per_s": summary.commands_per_s.median,
            "commands_per_s_min": summary.commands_per_s.min,
            "commands_per_s_max": summary.commands_per_s.max,
            "p50_ns": summary.p50_ns,
            "p99_ns": summary.p99_ns,
            "allocations_per_command": summary.allocations_per_command,
            "failed": summary.failed,
            "rounds": summary.rounds,
            "ratio_to": ratios(|ratio| ratio.median),
            "ratio_min": ratios(|ratio| ratio.min),
            "ratio_max": ratios(|ratio| ratio.max),
        });
        if let Some(kept) = summary.kept {
            line["kept"] = json!(kept.median);
            line["kept_min"] = json!(kept.min);
            line["kept_max"] = json!(kept.max);
        }
        if let Some(blocks) = summary.blocks_per_s {
            line["blocks_per_s"] = json!(blocks.median);
        }
        if let Some(plan) = workload.plan {
            line["commands"] = json!(summary.commands);
            line["seconds"] = json!(summary.seconds);
            line["ideal_seconds"] = json!(plan.ideal(workload.setup.concurrency()).as_secs_f64());
        }
        println!("{line}");
    }
}

fn grouped(figure: f64) -> String {
    let digits = format!("{figure:.0}");
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn time(ns: f64) -> String {
    match ns {
        1e6.. => format!("{:.1} ms", ns / 1e6),
        1e3.. => format!("{:.1} us", ns / 1e3),
        _ => format!("{ns:.0} ns"),
    }
}
