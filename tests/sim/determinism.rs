//! Same seed, same run, to the last dispatch.

use crate::load::{Load, Settings};
use shardpool::sim::{Explorer, Faults};
use std::collections::BTreeSet;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};

#[test]
fn sim_a_seed_takes_the_same_way_each_time() {
    let faults = Faults::default().lost_tasks(0.001).shutdown(0.0005);
    let explorer = Explorer::new(1).faults(faults);
    let hasher = BuildHasherDefault::<DefaultHasher>::default();
    let mut ways = BTreeSet::new();
    let (seeds, mut dispatched) = (crate::seeds(500), 0);
    for seed in 0..seeds {
        let test = |sim| Load::new(&sim, Settings::random(&sim)).run_noting(sim);
        let (first, second) = (explorer.record(seed, test), explorer.record(seed, test));
        assert!(first == second, "seed {seed} took two ways:\n{first}\n-- and --\n{second}");
        // Not in every run, as some are shut down at once.
        let text = first.to_string();
        dispatched += text.matches("dispatched").count() as u64;
        // The hash is enough, and a long run has many.
        ways.insert(hasher.hash_one(text));
    }
    assert!(dispatched > seeds, "the runs are about nothing");
    assert_eq!(ways.len() as u64, seeds, "two seeds took the same way");
}
