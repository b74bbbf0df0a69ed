//! The process' resident memory over time.

use std::fmt;

/// In bytes, one sample a second.
#[derive(Default)]
pub(crate) struct Memory(Vec<u64>);

/// For a run that is too short to tell growth from warming up.
const LEAST_SAMPLES: usize = 40;
const SLACK: u64 = 8 << 20;

impl Memory {
    pub(crate) fn sample(&mut self) {
        let pages = std::fs::read_to_string("/proc/self/statm").ok().and_then(|statm| {
            statm.split_whitespace().nth(1).and_then(|resident| resident.parse::<u64>().ok())
        });
        self.0.extend(pages.map(|pages| pages * 4096));
    }

    /// The median of a quarter, counted from 0.
    fn quarter(&self, quarter: usize) -> u64 {
        let length = self.0.len() / 4;
        let mut samples = self.0[quarter * length..(quarter + 1) * length].to_vec();
        samples.sort_unstable();
        samples.get(length / 2).copied().unwrap_or_default()
    }

    /// The first quarter is for warming up.
    pub(crate) fn is_flat(&self) -> Result<(), String> {
        let (second, last) = (self.quarter(1), self.quarter(3));
        if self.0.len() < LEAST_SAMPLES || last <= second + second / 5 + SLACK {
            return Ok(());
        }
        Err(format!("growth: {self}"))
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let peak = self.0.iter().copied().max().unwrap_or_default();
        write!(f, "resident memory: peak {:.1} MiB, median of each quarter", mib(peak))?;
        (0..4).try_for_each(|quarter| write!(f, " {:.1}", mib(self.quarter(quarter))))?;
        write!(f, " MiB")
    }
}
