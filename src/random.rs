//! Jitter. Nothing here needs to be unpredictable, only spread out: splitmix64, seeded by the
//! standard library's per-process hash keys.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    time::Duration,
};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Random {
    state: u64,
}

impl Random {
    pub(crate) fn new() -> Self {
        Self::seeded(RandomState::new().build_hasher().finish())
    }

    pub(crate) fn seeded(seed: u64) -> Self {
        Self { state: seed }
    }

    /// Returns an independent generator.
    pub(crate) fn split(&mut self) -> Self {
        Self::seeded(self.next())
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Returns a uniform duration in `[0, most]`.
    pub(crate) fn up_to(&mut self, most: Duration) -> Duration {
        most.mul_f64(self.unit())
    }

    /// Returns a uniform duration within a fifth of `around`.
    pub(crate) fn spread(&mut self, around: Duration) -> Duration {
        around.mul_f64(0.8 + 0.4 * self.unit())
    }

    /// Returns `most`, reduced by up to two fifths: jitter for a cap that must hold.
    pub(crate) fn spread_below(&mut self, most: Duration) -> Duration {
        most.mul_f64(1.0 - 0.4 * self.unit())
    }

    /// Returns a uniform number in `[0, 1)`.
    fn unit(&mut self) -> f64 {
        #[allow(clippy::cast_precision_loss, reason = "53 bits fit a double")]
        let bits = (self.next() >> 11) as f64;
        bits / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_spread_over_their_range() {
        let mut random = Random::new();
        let minute = Duration::from_secs(60);
        let mean = (0..10_000).map(|_| random.up_to(minute).as_secs_f64()).sum::<f64>() / 10_000.0;
        assert!((28.0..32.0).contains(&mean), "{mean}");
        for _ in 0..10_000 {
            assert!(random.up_to(minute) < minute);
            let around = random.spread(minute).as_secs_f64();
            assert!((48.0..=72.0).contains(&around), "{around}");
        }
    }
}
