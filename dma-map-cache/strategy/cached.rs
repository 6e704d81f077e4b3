// SPDX-License-Identifier: GPL-2.0

//! `cached`: a mapping outlives its use and serves the next map of the same page.
//!
//! "Cache map / unmap calls in the DMA-API itself" in *Utilizing IOMMUs for Virtualization in
//! Linux and Xen*, OLS 2006. [`counted`](super::counted) does the work; this says how much of it is
//! kept, and for how long. What the device can still reach after unmap: idle pages, at most
//! [`Cached::budget_bytes`] of them, each for at most [`Cached::max_age_ms`].

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
pub struct Cached {
    /// Bytes of idle mappings that are kept. The default of 64 MiB holds the buffers of a dozen
    /// fast network queues; 0 keeps nothing.
    pub budget_bytes: Tunable,
    /// Milliseconds after which an idle mapping is withdrawn. Ten seconds by default: what was not
    /// used for so long is not worth its exposure.
    pub max_age_ms: Tunable,
}

impl Cached {
    /// With the defaults.
    pub(super) const fn new() -> Self {
        Self {
            budget_bytes: Tunable::new(Range {
                min: 0,
                max: 1 << 40,
                step: PAGE_SIZE,
                default: 64 << 20,
            }),
            max_age_ms: Tunable::new(Range {
                min: 1,
                max: 3_600_000,
                step: 1,
                default: 10_000,
            }),
        }
    }

    /// What may be kept.
    pub fn retention(&self) -> Retention {
        Retention {
            pages: self.budget_bytes.get() >> PAGE_SHIFT,
            max_age_ms: self.max_age_ms.get(),
        }
    }
}
