//! Many runs, one for each seed.

use super::Sim;
use super::faults::Faults;
use super::report::Finding;
use super::run::{Ran, run};
use super::trace::Trace;
use std::future::Future;

/// Runs a test once for each seed from 0 up to, not including, `seeds`, with the harmless
/// [`Faults`]; an [`Explorer`] has more to set.
///
/// ```
/// shardpool::sim::explore(1_000, |sim| async move {
///     let (a, b) = (sim.spawn(async { 1 }), sim.spawn(async { 2 }));
///     assert_eq!(a.await + b.await, 3);
/// });
/// ```
///
/// # Panics
///
/// If a run fails, with the report of the first that does; and if there are no seeds.
#[track_caller]
pub fn explore<F: Future<Output = ()>>(seeds: u64, test: impl Fn(Sim) -> F) {
    Explorer::new(seeds).run(test);
}

/// Settings of a simulation.
///
/// Two environment variables go before what is set here: with `SHARDPOOL_SIM_SEED` that seed is the only
/// one, and with `SHARDPOOL_SIM_SEEDS` there are so many.
///
/// ```
/// use shardpool::sim::{Explorer, Faults};
///
/// Explorer::new(100).faults(Faults::none()).max_polls(10_000).run(|sim| async move {
///     sim.spawn(async {}).await;
/// });
/// ```
#[derive(Debug, Clone)]
#[must_use = "an explorer does nothing until it is run"]
pub struct Explorer {
    seeds: u64,
    faults: Faults,
    max_polls: u64,
}

impl Explorer {
    /// With so many seeds, the harmless faults, and a million steps at most: polls, drops of tasks, jumps of time.
    ///
    /// ```
    /// use std::cell::Cell;
    ///
    /// let runs = Cell::new(0);
    /// shardpool::sim::Explorer::new(50).run(|_| { runs.set(runs.get() + 1); async {} });
    /// # if std::env::vars().any(|(name, _)| name.starts_with("SHARDPOOL_SIM")) { return }
    /// assert_eq!(runs.get(), 50);
    /// ```
    pub fn new(seeds: u64) -> Self {
        Self { seeds, faults: Faults::default(), max_polls: 1_000_000 }
    }

    /// What goes wrong.
    ///
    /// ```
    /// use shardpool::sim::{Explorer, Faults};
    ///
    /// Explorer::new(10).faults(Faults::default().shutdown(0.01)).run(|sim| async move {
    ///     for _ in 0..10 { sim.yield_now().await }
    /// });
    /// ```
    pub fn faults(mut self, faults: Faults) -> Self {
        self.faults = faults;
        self
    }

    /// After how many steps (polls, drops of tasks, jumps of time) a run counts as one that never ends.
    ///
    /// ```should_panic
    /// shardpool::sim::Explorer::new(10).max_polls(1_000).run(|sim| async move {
    ///     loop { sim.yield_now().await }
    /// });
    /// ```
    pub fn max_polls(mut self, polls: u64) -> Self {
        self.max_polls = polls;
        self
    }

    /// Runs the test once for each seed.
    ///
    /// ```should_panic
    /// shardpool::sim::Explorer::new(10).run(|sim| async move {
    ///     let (first, second) = (sim.spawn(async {}), sim.spawn(async {}));
    ///     sim.yield_now().await;
    ///     // Not in every order of polls.
    ///     assert!(first.is_finished() || !second.is_finished());
    /// });
    /// ```
    ///
    /// # Panics
    ///
    /// If a run fails, with the report of the first that does; and if an environment variable is not a
    /// number, or there are no seeds.
    #[track_caller]
    pub fn run<F: Future<Output = ()>>(&self, test: impl Fn(Sim) -> F) {
        if let Some(finding) = self.find(test) {
            panic!("{finding}");
        }
    }

    /// As [`run`](Self::run), but gives back what the first run that fails has found.
    ///
    /// ```
    /// let explorer = shardpool::sim::Explorer::new(100);
    /// assert!(explorer.find(|sim| async move { sim.yield_now().await }).is_none());
    /// let found = explorer.find(|sim| async move { assert!(sim.below(10) > 0) }).unwrap();
    /// println!("{found}");
    /// ```
    ///
    /// # Panics
    ///
    /// If an environment variable is not a number, or there are no seeds.
    #[track_caller]
    pub fn find<F: Future<Output = ()>>(&self, test: impl Fn(Sim) -> F) -> Option<Finding> {
        // Not in a closure, which would be the caller that a panic names.
        let seeds = match only_seed() {
            Some(seed) => seed..=seed,
            None => 0..=seeds_wanted(self.seeds) - 1,
        };
        seeds.into_iter().find_map(|seed| {
            let ran = self.once(seed, &test);
            let mut finding = ran.finding?;
            finding.is_again = self.once(seed, &test).trace == ran.trace;
            Some(finding)
        })
    }

    /// Runs one seed, whatever the environment says, and gives back what happened, failed or not.
    ///
    /// ```
    /// let explorer = shardpool::sim::Explorer::new(1);
    /// println!("{}", explorer.record(42, |sim| async move { sim.yield_now().await }));
    /// ```
    pub fn record<F: Future<Output = ()>>(&self, seed: u64, test: impl Fn(Sim) -> F) -> Trace {
        self.once(seed, &test).trace
    }

    fn once<F: Future<Output = ()>>(&self, seed: u64, test: impl Fn(Sim) -> F) -> Ran {
        run(seed, self.faults, self.max_polls, test)
    }
}

#[track_caller]
fn only_seed() -> Option<u64> {
    number("SHARDPOOL_SIM_SEED")
}

#[track_caller]
fn seeds_wanted(default: u64) -> u64 {
    let seeds = number("SHARDPOOL_SIM_SEEDS").unwrap_or(default);
    assert!(seeds > 0, "no seeds: a test that is not run does not pass; ask for one at least");
    seeds
}

/// A slip here must not pass for a test that passed.
#[track_caller]
fn number(variable: &str) -> Option<u64> {
    let text = std::env::var_os(variable)?;
    let number = text.to_str().and_then(|text| text.parse().ok());
    Some(number.unwrap_or_else(|| panic!("{variable} is {text:?}, which is not a number")))
}
