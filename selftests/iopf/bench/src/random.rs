// SPDX-License-Identifier: GPL-2.0

//! Numbers that look random and are the same in every run.

/// Where they come from: Marsaglia's xorshift with the shifts 13, 7, 17.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Another sequence for each `seed`.
    pub fn new(seed: u64) -> Self {
        // Any number but 0; the multiplier is 2^64 divided by the golden ratio.
        Self(seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next one.
    pub fn number(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// One below `limit`, which must not be 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.number() % limit
    }

    /// One from 0 up to 1.
    pub fn fraction(&mut self) -> f64 {
        (self.number() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// All numbers below `count`, in any order (Fisher and Yates).
    pub fn permutation(&mut self, count: usize) -> Vec<usize> {
        let mut all: Vec<usize> = (0..count).collect();
        for last in (1..count).rev() {
            // Not above `last`.
            all.swap(last, self.below(last as u64 + 1) as usize);
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_have_sequences_of_their_own() {
        let of = |seed| {
            let mut random = Random::new(seed);
            [random.number(), random.number()]
        };
        assert_eq!(of(3), of(3));
        assert_ne!(of(3), of(4));
        assert_ne!(of(0)[0], of(0)[1]);
    }

    #[test]
    fn a_permutation_has_all_numbers_once() {
        let mut all = Random::new(2).permutation(100);
        assert_ne!(all, (0..100).collect::<Vec<_>>());
        all.sort_unstable();
        assert_eq!(all, (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn fractions_are_below_one() {
        let mut random = Random::new(5);
        assert!((0..1000).all(|_| (0.0..1.0).contains(&random.fraction())));
    }
}
