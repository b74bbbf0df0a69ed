//! Same seed, same run, to the last dispatch.

use crate::load::{Load, Settings};
use shardpool::sim::{Explorer, Faults};

#[test]
fn sim_a_seed_takes_the_same_way_each_time() {
    let faults = Faults::default().lost_tasks(0.001).shutdown(0.0005);
    let explorer = Explorer::new(1).faults(faults);
    let mut traces = std::collections::BTreeSet::new();
    let (seeds, mut dispatched) = (crate::seeds(200), 0);
    for seed in 0..seeds {
        let test = |sim| Load::new(&sim, Settings::random(&sim)).run_noting(sim);
        let (first, second) = (explorer.record(seed, test), explorer.record(seed, test));
        // Not in every run, as some are shut down at once.
        dispatched += first.to_string().matches("dispatched").count() as u64;
        assert!(first == second, "seed {seed} took two ways:\n{first}\n-- and --\n{second}");
        traces.insert(first.to_string());
    }
    assert!(dispatched > seeds, "the runs are about nothing");
    assert_eq!(traces.len() as u64, seeds, "two seeds took the same way");
}
