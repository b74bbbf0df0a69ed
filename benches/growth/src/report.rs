//! The report: `docs/performance.md`, and the plots beside it.

use crate::conduct::Measured;
use crate::fit::{self, Cost, LIMIT};
use crate::machine::{self, Caches};
use crate::measure::{Quantity, THREADS};
use crate::peers::{Entry, REFERENCE, Workload};
use crate::plot::{self, Bar, Chart, Kind, Point};
use crate::series::{self, Figure, Line};
use std::error::Error;
use std::fmt::Write;
use std::fs;
use std::path::Path;

/// All that the report is made of.
pub struct Results {
    pub quick: bool,
    pub measured: Vec<Measured>,
    pub peers: Vec<Workload>,
    pub caches: Caches,
    pub versions: Vec<String>,
}

type Done<T = ()> = Result<T, Box<dyn Error>>;

const TITLE: &str = "# Performance

What a command costs, how that grows, and how it compares. This page and its plots are made by

```console
$ cargo run --release --manifest-path benches/growth/Cargo.toml
```
";

const QUICK: &str = "
**This was a quick pass** (`--quick`): short windows and few rounds. Take the figures for their magnitude.
";

const GROWTH: &str = "
## How cost grows

The rule: *no cost may grow faster than its cause.* For each line below the cause is varied and all else stays. The
exponent is the slope of the whole cost over the cause, both in logarithms, by least squares over the upper half of
the points: 1 is in proportion, 0 is constant, 2 is quadratic. Of a cost per command the whole is that of one command
for each: each aggregate, each caller. So 1 means that a command costs the same however many there are.
What is above 1.1 is marked, and the text beneath its plot says what limits it.
";

const PEERS: &str = "
## Peers

The same workloads over shardpool and over what else does its job, or part of it. What each contender does not promise,
and the workloads in detail, are in the [README of the benchmark](../benches/peers/README.md). The last column is
the rate of `shardpool-tokio` over that of the contender, taken within each round: median, least and greatest.
Above 1 shardpool is faster. `limit` is bare tasks that do the same work, and `harness` a contender that completes
at once: what the callers' own loop costs. `seed-port` and `mutex-per-key-spawned` do not keep the order of a key, and
the first not even its commands apart, which is why it is ahead in W9/1 and W9/20. `mutex-per-key`,
`mutex-per-key-spawned` and `kameo` have no limit of how many commands are under way at once, as the others have it in
W6/64, W9/1000 and W9/unordered.
";

const OUTSIDE: &str = "
## Submitting from outside of the runtime, and blocking

Four OS threads that are not of the runtime. In X1 each blocks until its command is done, so a command is a wake-up of
the runtime's thread, and one of the caller's by the system: that is what is measured here, more than any pool.
In X2 each submits 64 commands with blocking calls, then waits for all of them: most of the outcomes are there when it
comes to them, and the wake-ups are shared.
";

/// What the workloads are, in a word; more is in the README of the peers.
const WORKLOADS: [(&str, &str); 19] = [
    ("W1", "64 callers"),
    ("W2", "2 callers, 256 commands in flight each"),
    ("W3", "1 caller"),
    ("W4", "1,024 callers"),
    ("W5", "64 callers, half of the commands to one aggregate"),
    ("W6/64", "handlers wait 1 ms, 8 × 64 workers"),
    ("W6/1024", "handlers wait 1 ms, 8 × 1,024 workers"),
    ("W7/1us", "handlers compute for 1 µs"),
    ("W7/10us", "handlers compute for 10 µs"),
    ("W7/100us", "handlers compute for 100 µs"),
    ("W8", "64 callers beside a handler that blocks its thread"),
    ("W9/1", "handlers wait 0 to 5 ms, 1 aggregate"),
    ("W9/20", "handlers wait 0 to 5 ms, 20 aggregates"),
    ("W9/1000", "handlers wait 0 to 5 ms, 1,000 aggregates"),
    ("W9/unordered", "handlers wait 0 to 5 ms, an aggregate for each command"),
    ("W10/fits", "event-sourced, 1 KiB of state, all resident"),
    ("W10/evicts", "event-sourced, 1 KiB of state, a tenth resident"),
    ("X1", "4 threads outside, one command at a time each"),
    ("X2", "4 threads outside, 64 commands in flight each"),
];

/// Writes the report and its plots into a folder.
pub fn write(results: &Results, docs: &Path) -> Done {
    let plots = docs.join("performance");
    // Plots of an earlier run that this one does not have would be out of date.
    if plots.exists() {
        fs::remove_dir_all(&plots)?;
    }
    fs::create_dir_all(&plots)?;
    let mut page = TITLE.to_owned();
    if results.quick {
        page += QUICK;
    }
    page += &machine(results);
    page += GROWTH;
    page += &overview(results);
    for figure in series::figures() {
        page += &section(results, &figure, &plots)?;
    }
    page += &troubles(results);
    page += &peers(results, &plots)?;
    page += &method(results);
    fs::write(docs.join("performance.md"), page)?;
    Ok(())
}

fn machine(results: &Results) -> String {
    let mut text = "\n| measured on | |\n| --- | --- |\n".to_owned();
    for (what, value) in machine::rows(results.caches) {
        let _ = writeln!(text, "| {what} | {value} |");
    }
    let _ = writeln!(text, "| Crates | {} |", results.versions.join(", "));
    text
}

fn costs(results: &Results, line: &Line) -> Vec<Cost> {
    let measured = results.measured.iter().find(|measured| measured.sweep.name == line.sweep);
    measured.map(|measured| measured.costs(line.quantity)).unwrap_or_default()
}

// ---- growth ----

/// One row for each line of each plot.
fn overview(results: &Results) -> String {
    let mut text = "\n| cost | least cause | greatest cause | cost for each, there | and there | exponent | |\n\
                    | --- | ---: | ---: | ---: | ---: | ---: | --- |\n"
        .to_owned();
    for figure in series::figures() {
        for line in &figure.lines {
            let costs = costs(results, line);
            let (Some(first), Some(last)) = (costs.first(), costs.last()) else { continue };
            let exponent = fit::exponent(&costs, line.quantity);
            let _ = writeln!(
                text,
                "| [{}](#{}): {} | {} | {} | {} | {} | {} | {} |",
                figure.heading,
                anchor(figure.heading),
                line.label,
                grouped(first.cause),
                grouped(last.cause),
                each(first, line.quantity),
                each(last, line.quantity),
                exponent.map_or_else(|| "–".to_owned(), |exponent| format!("{exponent:.2}")),
                exponent.map_or("", verdict),
            );
        }
    }
    text
}

fn verdict(exponent: f64) -> &'static str {
    if exponent > LIMIT { "**faster than its cause**" } else { "" }
}

fn anchor(heading: &str) -> String {
    heading.to_lowercase().replace([',', '\''], "").replace(' ', "-")
}

fn section(results: &Results, figure: &Figure, plots: &Path) -> Done<String> {
    let lines: Vec<(&Line, Vec<Cost>)> = figure
        .lines
        .iter()
        .map(|line| (line, costs(results, line)))
        .filter(|(_, costs)| !costs.is_empty())
        .collect();
    let mut text = format!("\n### {}\n\n{}\n", figure.heading, figure.about);
    if lines.is_empty() {
        text += "\nNo figures: see what failed.\n";
        return Ok(text);
    }
    fs::write(plots.join(format!("{}.svg", figure.name)), draw(results, figure, &lines)?)?;
    let _ = writeln!(text, "\n![{}](performance/{}.svg)", figure.heading, figure.name);
    text += &table(figure, &lines);
    for (line, costs) in &lines {
        text += &growth(line, costs);
    }
    let _ = writeln!(text, "\n\n{}", figure.why);
    if figure.name == "aggregates" {
        text += &cache_text(results);
    }
    Ok(text)
}

fn draw(results: &Results, figure: &Figure, lines: &[(&Line, Vec<Cost>)]) -> Done<String> {
    let in_all = figure.y == "time";
    let lines: Vec<plot::Line> = lines
        .iter()
        .map(|(line, costs)| plot::Line {
            label: line.label,
            points: costs.iter().map(|cost| point(line, cost)).collect(),
        })
        .collect();
    let heights = || lines.iter().flat_map(|line| &line.points).map(|point| point.y);
    let of_one_magnitude =
        heights().fold(0.0, f64::max) < 40.0 * heights().fold(f64::INFINITY, f64::min);
    let marks = match figure.name {
        "aggregates" => cache_marks(results),
        _ => Vec::new(),
    };
    plot::chart(&Chart {
        x: figure.x,
        y: figure.y,
        lines,
        from_nought: !in_all && of_one_magnitude,
        unit: if in_all { plot::duration } else { plot::short },
        proportion: in_all,
        marks,
    })
}

/// Memory is shown for each, all else as it was measured.
fn point(line: &Line, cost: &Cost) -> Point {
    let scale = if line.quantity.is_memory() { 1.0 / cost.cause } else { 1.0 };
    let Cost { cause, median, min, max } = *cost;
    Point { x: cause, y: median * scale, min: min * scale, max: max * scale }
}

/// A row for each cause, columns for each line.
fn table(figure: &Figure, lines: &[(&Line, Vec<Cost>)]) -> String {
    let mut causes: Vec<f64> =
        lines.iter().flat_map(|(_, costs)| costs.iter().map(|cost| cost.cause)).collect();
    causes.sort_by(f64::total_cmp);
    causes.dedup();
    let mut text = format!("\n| {} |", figure.x);
    let mut rule = "| ---: |".to_owned();
    for (line, _) in lines {
        let label = line.label;
        match line.quantity {
            Quantity::PerCommand => {
                let _ = write!(text, " {label}, ns per command | least to greatest |");
            }
            Quantity::Bytes | Quantity::Resident => {
                let _ = write!(text, " {label}, bytes for each |");
            }
            _ => {
                let _ = write!(text, " {label} | for each |");
            }
        }
        rule += if line.quantity.is_memory() { " ---: |" } else { " ---: | ---: |" };
    }
    let _ = writeln!(text, "\n{rule}");
    for cause in causes {
        let _ = write!(text, "| {} |", grouped(cause));
        for (line, costs) in lines {
            let cost = costs.iter().find(|cost| cost.cause == cause);
            let _ = match (cost, line.quantity) {
                (None, quantity) if quantity.is_memory() => write!(text, " |"),
                (None, _) => write!(text, " | |"),
                (Some(cost), Quantity::PerCommand) => write!(
                    text,
                    " {} | {} to {} |",
                    grouped(cost.median),
                    grouped(cost.min),
                    grouped(cost.max)
                ),
                (Some(cost), quantity) if quantity.is_memory() => {
                    write!(text, " {} |", each(cost, quantity))
                }
                (Some(cost), quantity) => {
                    write!(text, " {} | {} |", time(cost.median), each(cost, quantity))
                }
            };
        }
        text.push('\n');
    }
    text
}

fn growth(line: &Line, costs: &[Cost]) -> String {
    let Some(exponent) = fit::exponent(costs, line.quantity) else { return String::new() };
    let [first, .., last] = fit::upper_half(costs) else { return String::new() };
    let mut text = format!(
        "\n- {}: exponent **{exponent:.2}** from {} to {}, {:.2} times the cost for each at {} times as many",
        line.label,
        grouped(first.cause),
        grouped(last.cause),
        last.each(line.quantity) / first.each(line.quantity),
        grouped(last.cause / first.cause),
    );
    if line.quantity.is_memory()
        && let Some(more) = fit::marginal(costs, line.quantity)
    {
        let _ = write!(text, "; at the end one more takes {} bytes", grouped(more));
    }
    if exponent > LIMIT {
        text += ": **faster than its cause**";
    }
    text.push('.');
    text
}

/// How many bytes an aggregate takes, at the largest number that was measured.
fn bytes_per_aggregate(results: &Results) -> Option<f64> {
    let line = Line { sweep: "aggregates", quantity: Quantity::Bytes, label: "" };
    costs(results, &line).last().map(|cost| cost.each(Quantity::Bytes))
}

fn cache_marks(results: &Results) -> Vec<(f64, String)> {
    let Some(bytes) = bytes_per_aggregate(results) else { return Vec::new() };
    let Caches { l2, l3 } = results.caches;
    let marks = [(l2, "L2 is full"), (l3, "L3 is full")];
    marks.into_iter().filter_map(|(size, what)| Some((size? / bytes, what.to_owned()))).collect()
}

fn cache_text(results: &Results) -> String {
    let Some(bytes) = bytes_per_aggregate(results) else { return String::new() };
    let Caches { l2: Some(l2), l3: Some(l3) } = results.caches else { return String::new() };
    let mib = f64::from(1 << 20);
    format!(
        "\nAt {bytes:.0} bytes for each aggregate, {} of them fill the {} MiB of L2 that a core has here, and {} the \
         {} MiB of L3. Beyond the first, a miss is served by L3; beyond the second, by memory.\n",
        grouped(two_digits(l2 / bytes)),
        l2 / mib,
        grouped(two_digits(l3 / bytes)),
        l3 / mib,
    )
}

fn troubles(results: &Results) -> String {
    let troubles: Vec<&String> =
        results.measured.iter().flat_map(|measured| &measured.troubles).collect();
    if troubles.is_empty() {
        return String::new();
    }
    let mut text = "\n### What failed\n\n".to_owned();
    for trouble in troubles {
        let _ = writeln!(text, "- {trouble}");
    }
    text
}

// ---- peers ----

fn peers(results: &Results, plots: &Path) -> Done<String> {
    if results.peers.is_empty() {
        return Ok("\n## Peers\n\nNot measured in this run.\n".to_owned());
    }
    let mut text = PEERS.to_owned();
    let is_outside = |workload: &&Workload| workload.name.starts_with('X');
    for workload in results.peers.iter().filter(|workload| !is_outside(workload)) {
        text += &compared(workload, plots)?;
    }
    let mut outside = results.peers.iter().filter(is_outside).peekable();
    if outside.peek().is_some() {
        text += OUTSIDE;
    }
    for workload in outside {
        text += &compared(workload, plots)?;
    }
    Ok(text)
}

fn compared(workload: &Workload, plots: &Path) -> Done<String> {
    let name = &workload.name;
    let ranked = workload.ranked();
    let file = format!("peers-{}.svg", name.to_lowercase().replace('/', "-"));
    // The harness is far beyond all others: it would leave them no room.
    let bars: Vec<Bar> = ranked
        .iter()
        .filter(|entry| !entry.is_harness())
        .map(|entry| Bar {
            label: &entry.contender,
            value: entry.commands_per_s,
            text: grouped(entry.commands_per_s),
            kind: match entry {
                entry if entry.is_shardpool() => Kind::Own,
                entry if entry.is_bound() => Kind::Bound,
                _ => Kind::Other,
            },
        })
        .collect();
    fs::write(plots.join(&file), plot::bars(&bars, "commands per second")?)?;

    let about = WORKLOADS.iter().find(|(of, _)| of == name).map_or("", |(_, about)| about);
    let mut text = format!("\n### {name}: {about}\n\n![{name}: {about}](performance/{file})\n");
    // Some workloads tell more of each contender than others.
    let more: Vec<&More> =
        MORE.iter().filter(|more| ranked.iter().any(|entry| (more.of)(entry).is_some())).collect();
    text += "\n| | commands/s | p50 | p99 | allocations per command |";
    for more in &more {
        let _ = write!(text, " {} |", more.name);
    }
    let _ = writeln!(text, " {REFERENCE} over it |");
    let _ = writeln!(text, "| --- |{}", " ---: |".repeat(5 + more.len()));
    for entry in &ranked {
        let _ = write!(
            text,
            "| `{}` | {} | {} | {} | {:.2} |",
            entry.contender,
            grouped(entry.commands_per_s),
            time(entry.p50_ns),
            time(entry.p99_ns),
            entry.allocations_per_command,
        );
        for more in &more {
            let _ = write!(text, " {} |", (more.of)(entry).unwrap_or_default());
        }
        let _ = match workload.over(entry) {
            Some((median, min, max)) if entry.rounds > 1 => {
                writeln!(text, " {median:.2} ({min:.2} to {max:.2}) |")
            }
            Some((median, ..)) => writeln!(text, " {median:.2} |"),
            None => writeln!(text, " |"),
        };
    }
    if let Some(ideal) = ranked.iter().find_map(|entry| entry.ideal_seconds) {
        let _ = writeln!(text, "\nTimers without error could do it in {ideal:.2} s.");
    }
    Ok(text)
}

/// A column that only some workloads have.
struct More {
    name: &'static str,
    of: fn(&Entry) -> Option<String>,
}

const MORE: [More; 4] = [
    More { name: "rate kept", of: |entry| entry.kept.map(|kept| format!("{kept:.2}")) },
    More { name: "blocks/s", of: |entry| entry.blocks_per_s.map(grouped) },
    More { name: "in all", of: |entry| entry.seconds.map(|seconds| format!("{seconds:.2} s")) },
    More { name: "**failed**", of: |entry| (entry.failed > 0).then(|| entry.failed.to_string()) },
];

// ---- how ----

fn method(results: &Results) -> String {
    let mut text = format!(
        "
## How it is measured

**Growth.** Each point in each round is a process of its own, with a pool of its own, on a tokio runtime with
{THREADS} threads that callers and pool share. Rounds go over all points, and each begins with another point, so
that a drift of the machine's speed is not taken for growth. Shown are medians of the rounds, and the least and the
greatest where there is room. A cost per command is the time of the clock over the commands that were answered in it,
so with two busy threads it is half of what a thread spends. It contains the caller: its task, a random number, and
the wait for the outcome. Memory is what was asked of the allocator, counted there, unless it says otherwise.
"
    );
    if let Some(rounds) = results.peers.iter().flat_map(|w| &w.entries).map(|e| e.rounds).max() {
        let _ = write!(
            text,
            "
**Peers.** Each contender runs in a process of its own, while all others idle. Rounds are interleaved and the order of
the contenders rotates; ratios are taken within a round, as the machine's speed drifts from one to the next. Shown are
medians over the rounds of each workload ({rounds} at most). Callers, commands and handlers are the same for all. The
callers' loop is part of every figure; `harness` shows what it costs, and nothing is subtracted. What a contender and its
runtime allocate when they start has lines of the cache of its own.
"
        );
    }
    text
}

// ---- numbers ----

fn each(cost: &Cost, quantity: Quantity) -> String {
    let each = cost.each(quantity);
    match quantity {
        Quantity::PerCommand => format!("{} ns", grouped(each)),
        Quantity::Bytes | Quantity::Resident => format!("{} B", grouped(each)),
        Quantity::Start | Quantity::Drain => time(each),
    }
}

/// Digits in groups of three.
fn grouped(figure: f64) -> String {
    let digits = format!("{:.0}", figure.abs());
    let mut text = if figure <= -0.5 { "-".to_owned() } else { String::new() };
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Nanoseconds, in the unit that suits them.
fn time(ns: f64) -> String {
    match ns {
        1e9.. => format!("{:.2} s", ns / 1e9),
        1e6.. => format!("{:.1} ms", ns / 1e6),
        1e3.. => format!("{:.1} µs", ns / 1e3),
        _ => format!("{ns:.0} ns"),
    }
}

/// Of a number that is only roughly known.
fn two_digits(value: f64) -> f64 {
    let unit = 10_f64.powf(value.log10().floor() - 1.0);
    (value / unit).round() * unit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_grouped() {
        let cases = [(0.0, "0"), (999.4, "999"), (1_000.0, "1,000"), (-1_234_567.0, "-1,234,567")];
        for (figure, text) in cases {
            assert_eq!(grouped(figure), text);
        }
    }

    #[test]
    fn rough_numbers_have_two_digits() {
        assert_eq!(two_digits(4_371.0), 4_400.0);
        assert_eq!(two_digits(139_810.0), 140_000.0);
    }
}
