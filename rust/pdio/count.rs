// SPDX-License-Identifier: GPL-2.0

//! Numbers that say what has happened, for statistics. They order nothing: whoever reads several of them
//! while they change gets each as it was at some moment.

use core::sync::atomic::{
    AtomicU64,
    Ordering::Relaxed, //
};

/// A number that only grows, until somebody begins anew. In any context.
pub struct Count(AtomicU64);

impl Count {
    /// 0.
    #[expect(clippy::new_without_default)]
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Adds to it.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }

    /// 0 again.
    pub fn reset(&self) {
        self.0.store(0, Relaxed);
    }

    /// The number.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A number that goes up and down. In any context.
pub struct Level(AtomicU64);

impl Level {
    /// 0.
    #[expect(clippy::new_without_default)]
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Sets it.
    #[inline]
    pub fn set(&self, n: u64) {
        self.0.store(n, Relaxed);
    }

    /// The number.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}
