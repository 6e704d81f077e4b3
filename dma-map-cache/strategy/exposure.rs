// SPDX-License-Identifier: GPL-2.0

//! What a device can reach though its driver has unmapped it: how many pages, for how long.
//!
//! Every page that stays reachable after its unmap is counted when that ends (by its next use, by
//! an eviction or by a flush), in one of [`Age::COUNT`] numbers for how long it lasted. RAM that
//! `premapped` maps is not among them: it is reachable all the time, whether it was ever used or
//! not.

use super::{
    backend::Backend,
    counter::{
        Counter,
        Flow, //
    },
};

/// A range of durations: under 2 ms, then twice as long each.
///
/// The clock is that of the timer tick, so what is shorter than a tick is in the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Age(u8);

impl Age {
    /// Number of ranges: all that milliseconds in 32 bits can have.
    pub const COUNT: usize = u32::BITS as usize;

    /// The range of a duration.
    #[inline(always)]
    pub const fn of_ms(ms: u32) -> Self {
        Self((u32::BITS - 1 - (ms | 1).leading_zeros()) as u8)
    }

    /// All of them, the shortest first.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..Self::COUNT as u8).map(Self)
    }

    /// Position among them.
    #[inline(always)]
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// The longest duration, in milliseconds.
    pub const fn last_ms(self) -> u64 {
        (2u64 << self.0) - 1
    }
}

/// How long pages stayed reachable after their unmap.
pub struct Exposure {
    /// Number of pages by age.
    pub pages: [u64; Age::COUNT],
}

impl Exposure {
    /// What was counted until now.
    pub fn of<B: Backend>(backend: &B) -> Self {
        let mut pages = [0; Age::COUNT];

        for (age, pages) in Age::all().zip(&mut pages) {
            *pages = backend.sum(Counter::Idled(age)) + backend.sum(Counter::Queued(age));
        }
        Self { pages }
    }

    /// The milliseconds that `percent` of all pages were not exposed longer than, rounded up to
    /// the end of an [`Age`]; 0 if nothing was exposed.
    pub fn percentile_ms(&self, percent: u64) -> u64 {
        let all: u64 = self.pages.iter().sum();
        let mut left = (all * percent).div_ceil(100);

        for (age, &pages) in Age::all().zip(&self.pages) {
            if left <= pages && pages != 0 {
                return age.last_ms();
            }
            left = left.saturating_sub(pages);
        }
        0
    }
}

/// Pages that the device can reach now though the driver has unmapped them, because their mapping
/// is kept or not flushed yet.
pub fn kept_pages<B: Backend>(backend: &B) -> u64 {
    backend.outstanding(Flow::Idle) + backend.outstanding(Flow::Queue)
}
