//! Random numbers from a seed: SplitMix64, which is small, fast, and the same everywhere.

pub(super) struct Rng(u64);

impl Rng {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Less than `bound`; 0 if that is 0.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    /// True with this probability; a number that is none counts as 0.
    pub(super) fn chance(&mut self, probability: f64) -> bool {
        // Without a draw where nothing is to be decided: faults that are off cost nothing.
        probability > 0.0 && (((self.next() >> 11) as f64) < probability * (1u64 << 53) as f64)
    }
}
