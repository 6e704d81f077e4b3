// SPDX-License-Identifier: GPL-2.0

//! How long devices waited for the pages that they asked for.

use core::sync::atomic::{
    AtomicU64,
    Ordering::Relaxed, //
};

/// Numbers of groups by how long they took, from the call of the handler to the answer.
pub struct Latency {
    groups: [AtomicU64; Self::RANGES],
}

impl Latency {
    /// Number of ranges: up to 1 µs, then twice as long each, the last without an end. An answer
    /// that takes 16 s is as bad as any that takes longer.
    pub const RANGES: usize = 26;

    /// Nothing counted.
    pub const fn new() -> Self {
        Self {
            groups: [const { AtomicU64::new(0) }; Self::RANGES],
        }
    }

    /// Counts a group that took `ns` nanoseconds.
    pub fn count(&self, ns: u64) {
        let us = ns.div_ceil(1000).max(1);
        let range = u64::BITS - (us - 1).leading_zeros();

        if let Some(groups) = self.groups.get((range as usize).min(Self::RANGES - 1)) {
            groups.fetch_add(1, Relaxed);
        }
    }

    /// The ranges: the longest time of each, in microseconds, and the number of groups.
    pub fn ranges(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        (0..)
            .zip(&self.groups)
            .map(|(range, groups)| (1 << range, groups.load(Relaxed)))
    }

    /// The microseconds that `percent` of all groups did not take longer than, rounded up to the
    /// end of a range; 0 if there was none.
    pub fn percentile_us(&self, percent: u64) -> u64 {
        let all: u64 = self.ranges().map(|(_, groups)| groups).sum();
        let mut left = (all * percent).div_ceil(100).max(1);

        for (us, groups) in self.ranges() {
            if left <= groups {
                return us;
            }
            left -= groups;
        }
        0
    }
}

impl Default for Latency {
    fn default() -> Self {
        Self::new()
    }
}
