// SPDX-License-Identifier: GPL-2.0

//! Numbers that a user can set while a device runs.

use core::sync::atomic::{
    AtomicU64,
    Ordering::Relaxed, //
};

/// A number was outside its range or not a multiple of its step; the old one stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfRange;

/// What values a [`Tunable`] can have. Units are in the name of the tunable.
#[derive(Clone, Copy, Debug)]
pub struct Range {
    /// Smallest value.
    pub min: u64,
    /// Largest value.
    pub max: u64,
    /// Values are multiples of it.
    pub step: u64,
    /// Value before anyone sets it.
    pub default: u64,
}

/// A number that is read on the fly and never torn.
pub struct Tunable {
    value: AtomicU64,
    range: Range,
}

impl Tunable {
    /// A tunable at its default.
    pub const fn new(range: Range) -> Self {
        Self {
            value: AtomicU64::new(range.default),
            range,
        }
    }

    /// The value.
    #[inline]
    pub fn get(&self) -> u64 {
        self.value.load(Relaxed)
    }

    /// Sets the value.
    ///
    /// # Errors
    ///
    /// [`OutOfRange`]: nothing changed.
    pub fn set(&self, value: u64) -> Result<(), OutOfRange> {
        let Range { min, max, step, .. } = self.range;

        if value < min || value > max || value.checked_rem(step) != Some(0) {
            return Err(OutOfRange);
        }

        self.value.store(value, Relaxed);
        Ok(())
    }
}
