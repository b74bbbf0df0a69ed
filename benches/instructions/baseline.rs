//! The committed counts, and whether new ones are as good.

use std::fmt;
use std::fs;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/instructions.txt");

const BLESS: &str = "cargo bench --features tokio --bench instructions -- --bless";

/// How much a count may rise, in percent. Compilers and C libraries differ a little.
const TOLERANCE: u64 = 5;

/// Instructions per command, and what they were counted with.
pub(crate) struct Baseline {
    rustc: String,
    target: String,
    counts: Vec<(String, u64)>,
}

impl Baseline {
    /// Without counts yet.
    pub(crate) fn of_this_build() -> Self {
        let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".into());
        let version = std::process::Command::new(rustc).arg("--version").output();
        Self {
            rustc: version.map_or("unknown".into(), |output| {
                String::from_utf8_lossy(&output.stdout).trim().to_owned()
            }),
            target: format!("{} {}", std::env::consts::ARCH, std::env::consts::OS),
            counts: Vec::new(),
        }
    }

    pub(crate) fn push(&mut self, name: &str, instructions: u64) {
        self.counts.push((name.to_owned(), instructions));
    }

    pub(crate) fn read() -> Self {
        let text = fs::read_to_string(FILE).unwrap_or_else(|error| panic!("{FILE}: {error}"));
        let mut read = Self { rustc: String::new(), target: String::new(), counts: Vec::new() };
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            match line.split_once(' ').map(|(name, value)| (name, value.trim())) {
                Some(("compiler", value)) => read.rustc = value.to_owned(),
                Some(("target", value)) => read.target = value.to_owned(),
                Some((name, value)) => {
                    let count =
                        value.parse().unwrap_or_else(|_| panic!("{FILE}: not a count: {line}"));
                    read.push(name, count);
                }
                None => {}
            }
        }
        read
    }

    pub(crate) fn write(&self) {
        let text = format!("# Instructions per command. Written by\n# {BLESS}\n{self}");
        fs::write(FILE, text).unwrap_or_else(|error| panic!("{FILE}: {error}"));
    }

    /// Compares with what was committed, and says how.
    pub(crate) fn is_no_worse_than(&self, committed: &Self) -> bool {
        if self.target != committed.target {
            println!("SKIPPED: the baseline is for {}, this is {}", committed.target, self.target);
            print!("{self}");
            return true;
        }
        if self.rustc != committed.rustc {
            println!(
                "the baseline is of another compiler: {}, now {}",
                committed.rustc, self.rustc
            );
        }
        let mut is_good = true;
        println!("{:<16}{:>10}{:>10}", "", "baseline", "now");
        for (name, now) in &self.counts {
            let Some((_, was)) = committed.counts.iter().find(|count| count.0 == *name) else {
                println!("{name:<16}{:>10}{now:>10}  NOT IN THE BASELINE", "-");
                is_good = false;
                continue;
            };
            let change = (*now as f64 / *was as f64 - 1.0) * 100.0;
            let has_risen = now * 100 > was * (100 + TOLERANCE);
            let note = if has_risen {
                "  TOO MANY"
            } else if now * 100 < was * (100 - TOLERANCE) {
                // What is gained could be lost again unseen.
                "  fewer: worth a new baseline"
            } else {
                ""
            };
            println!("{name:<16}{was:>10}{now:>10}{change:>+8.1} %{note}");
            is_good &= !has_risen;
        }
        if !is_good {
            println!(
                "more than {TOLERANCE} % above, or new; if that is meant, accept it by\n  {BLESS}"
            );
        }
        is_good
    }
}

/// As in the file.
impl fmt::Display for Baseline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<16}{}", "compiler", self.rustc)?;
        writeln!(f, "{:<16}{}", "target", self.target)?;
        self.counts.iter().try_for_each(|(name, count)| writeln!(f, "{name:<16}{count}"))
    }
}
