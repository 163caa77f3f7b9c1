//! [`Dice`]: chance that can be replayed, for jitter and spreading.

/// Sebastiano Vigna's SplitMix64: small, fast, and the same for the same seed.
#[derive(Clone, Debug)]
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    /// Uniform in 0.0 ..= 1.0.
    pub(super) fn share(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) as f64 / u64::MAX as f64
    }

    /// Around 1.0, by at most `jitter` in both directions.
    pub(super) fn swing(&mut self, jitter: f64) -> f64 {
        1.0 + jitter * (2.0 * self.share() - 1.0)
    }
}
