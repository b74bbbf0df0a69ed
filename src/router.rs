//! From an aggregate id to its shard (G3).

use std::hash::{BuildHasher, Hash, RandomState};

/// Hashes ids, and tells the shard of a hash.
pub(crate) struct Router<K> {
    hasher: Hasher<K>,
    shards: u64,
}

enum Hasher<K> {
    /// Seeded for each pool, so that nobody outside can choose ids that collide.
    Seeded(RandomState),
    /// The user's, erased: one virtual call per command.
    Given(Box<dyn Fn(&K) -> u64 + Send + Sync>),
}

impl<K: Hash + 'static> Router<K> {
    pub(crate) fn seeded(shards: usize) -> Self {
        Self { hasher: Hasher::Seeded(RandomState::new()), shards: shards as u64 }
    }

    pub(crate) fn with_hasher<B>(hasher: B, shards: usize) -> Self
    where
        B: BuildHasher + Send + Sync + 'static,
    {
        // Hashers made for speed leave patterns in some of their bits; shard and map use
        // different bits, and need all of them.
        let hash = move |id: &K| mix(hasher.hash_one(id));
        Self { hasher: Hasher::Given(Box::new(hash)), shards: shards as u64 }
    }

    /// May panic, as the id's `Hash` may.
    pub(crate) fn hash(&self, id: &K) -> u64 {
        match &self.hasher {
            Hasher::Seeded(state) => state.hash_one(id),
            Hasher::Given(hash) => hash(id),
        }
    }

    pub(crate) fn shard(&self, hash: u64) -> usize {
        // The map of a shard takes its bucket from the low bits and its tag from the top seven.
        // The shard is taken from the 32 bits below those, by multiplication: the larger bits
        // decide, so up to 2^25 buckets share no bit with it.
        let bits = (hash << 7) >> 32;
        ((bits * self.shards) >> 32) as usize
    }
}

/// The finalizer of MurmurHash3: every bit of the input changes half of the output's.
fn mix(mut hash: u64) -> u64 {
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::hash::BuildHasherDefault;

    /// A hasher that gives small integers back as they are.
    #[derive(Default)]
    struct Identity(u64);

    impl std::hash::Hasher for Identity {
        fn finish(&self) -> u64 {
            self.0
        }
        fn write(&mut self, bytes: &[u8]) {
            for &byte in bytes {
                self.0 = self.0 << 8 | u64::from(byte);
            }
        }
        fn write_u64(&mut self, n: u64) {
            self.0 = n;
        }
    }

    #[test]
    fn ids_spread_over_all_shards_whatever_the_hasher() {
        let identity = BuildHasherDefault::<Identity>::default();
        for router in [Router::<u64>::seeded(7), Router::with_hasher(identity, 7)] {
            let mut load = [0u32; 7];
            for id in 0..7_000 {
                load[router.shard(router.hash(&id))] += 1;
            }
            assert!(load.iter().all(|n| (800..1200).contains(n)), "{load:?}");
        }
    }

    #[test]
    fn g03_the_bits_that_the_map_uses_are_not_those_of_the_shard() {
        // Of the ids of one shard, buckets (low bits) and tags (the top seven) are as even as those
        // of all.
        let router = Router::<u64>::seeded(8);
        let (mut buckets, mut tags, mut ids) = ([0u32; 16], [0u32; 16], 0);
        for hash in (0..200_000).map(|id| router.hash(&id)).filter(|&h| router.shard(h) == 3) {
            buckets[(hash & 15) as usize] += 1;
            tags[(hash >> 60) as usize] += 1;
            ids += 1;
        }
        let even = ids / 16;
        for count in buckets.into_iter().chain(tags) {
            assert!((even * 8 / 10..even * 12 / 10).contains(&count), "{buckets:?} {tags:?}");
        }
    }

    #[test]
    fn hashes_are_mixed_as_murmur_hash_3_does_it() {
        // What its finalizer gives, reckoned elsewhere.
        assert_eq!(mix(1), 0xb456_bcfc_34c2_cb2c);
        assert_eq!(mix(0x0123_4567_89ab_cdef), 0x87cb_fbfe_8902_2cea);
        assert_eq!(mix(u64::MAX), 0x64b5_720b_4b82_5f21);
    }

    #[test]
    fn every_shard_is_in_range_at_the_ends() {
        let router = Router::<u64>::seeded(1_000);
        assert_eq!((router.shard(0), router.shard(u64::MAX)), (0, 999));
    }
}
