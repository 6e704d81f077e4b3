// SPDX-License-Identifier: GPL-2.0

//! `persistent`: what was mapped once stays mapped.
//!
//! "Never free" in *Utilizing IOMMUs for Virtualization in Linux and Xen*, OLS 2006: a device that
//! goes on using the same memory pays for each page once. As [`cached`](super::cached), but nothing
//! grows too old. What the device can still reach after unmap: all pages ever mapped, up to
//! [`Persistent::cap_bytes`] of them, until the strategy changes, the driver is unbound or memory
//! gets short.

use super::{
    address::{
        PAGE_SHIFT,
        PAGE_SIZE, //
    },
    counted::Retention,
    tunable::{
        Range,
        Tunable, //
    },
};

/// What a user can set of the strategy.
pub struct Persistent {
    /// Bytes of idle mappings that are kept. One GiB by default: sixteen times what `cached` keeps,
    /// its page tables and page states take 4 MiB for each direction.
    pub cap_bytes: Tunable,
}

impl Persistent {
    /// With the default.
    pub(super) const fn new() -> Self {
        Self {
            cap_bytes: Tunable::new(Range {
                min: 0,
                max: 1 << 40,
                step: PAGE_SIZE,
                default: 1 << 30,
            }),
        }
    }

    /// What may be kept.
    pub fn retention(&self) -> Retention {
        Retention {
            pages: self.cap_bytes.get() >> PAGE_SHIFT,
            max_age_ms: Retention::FOR_GOOD,
        }
    }
}
