// SPDX-License-Identifier: GPL-2.0

//! How many pages devices may keep of the memory of processes.
//!
//! A page is charged to its binding and to the device, before it is mapped, and is given back after
//! the device cannot reach it any more. Whoever is refused gives up pages of their own, or, if they
//! have no more than their share, those of the binding that has the most.

use core::sync::atomic::{
    AtomicU64,
    Ordering::Relaxed, //
};

use super::{
    page::SHIFT,
    tunable::{
        OutOfRange,
        Range,
        Tunable, //
    },
};

/// So many pages are charged already that there is room for this many only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exhausted {
    /// Pages that can still be charged.
    pub room: u64,
}

/// A limit and what is charged against it.
pub struct Budget {
    limit_bytes: Tunable,
    charged: AtomicU64,
}

impl Budget {
    /// What limits can be, in bytes: at least a page, with which a device gets on that needs one at
    /// a time.
    pub const RANGE: Range = Range {
        min: 1 << SHIFT,
        max: 1 << 52,
        step: 1 << SHIFT,
        default: 1 << SHIFT,
    };

    /// Nothing charged, against a limit in bytes, in whole pages.
    pub const fn new(default_bytes: u64) -> Self {
        Self {
            limit_bytes: Tunable::new(Range {
                default: default_bytes,
                ..Self::RANGE
            }),
            charged: AtomicU64::new(0),
        }
    }

    /// The limit in bytes.
    pub fn limit_bytes(&self) -> u64 {
        self.limit_bytes.get()
    }

    /// Sets the limit. What is charged already stays so: see [`Budget::excess`].
    ///
    /// # Errors
    ///
    /// [`OutOfRange`]: it is 0, not in whole pages or above 2^52.
    pub fn set_limit_bytes(&self, bytes: u64) -> Result<(), OutOfRange> {
        self.limit_bytes.set(bytes)
    }

    /// The limit in pages.
    pub fn limit(&self) -> u64 {
        self.limit_bytes.get() >> SHIFT
    }

    /// Pages that are charged.
    pub fn charged(&self) -> u64 {
        self.charged.load(Relaxed)
    }

    /// Pages that are charged beyond the limit, after it was lowered.
    pub fn excess(&self) -> u64 {
        self.charged().saturating_sub(self.limit())
    }

    /// Charges pages, or none.
    ///
    /// # Errors
    ///
    /// [`Exhausted`]: nothing is charged.
    pub fn charge(&self, pages: u64) -> Result<(), Exhausted> {
        let limit = self.limit();

        self.charged
            .fetch_update(Relaxed, Relaxed, |charged| {
                charged.checked_add(pages).filter(|&sum| sum <= limit)
            })
            .map(|_| ())
            .map_err(|charged| Exhausted {
                room: limit.saturating_sub(charged),
            })
    }

    /// Gives pages back that were charged.
    pub fn uncharge(&self, pages: u64) {
        let before = self.charged.fetch_sub(pages, Relaxed);

        debug_assert!(before >= pages, "more is given back than was charged");
    }
}

/// Which binding of a device gives up pages when the device may have no more: `own` is what the one
/// that wants more has, `others` are the rest, and what they have. `None` is itself.
///
/// It takes from the one that has the most, but only what is beyond an equal share of the limit: who
/// has less than others is not kept from growing by them, and who has the most is not fed by the rest.
pub fn donor<T>(own: u64, limit: u64, others: impl Iterator<Item = (T, u64)> + Clone) -> Option<T> {
    let share = limit / (others.clone().count() as u64 + 1);

    if own > share.max(1) {
        return None;
    }
    others
        .filter(|&(_, pages)| pages > own && pages > share)
        .max_by_key(|&(_, pages)| pages)
        .map(|(other, _)| other)
}
