// SPDX-License-Identifier: GPL-2.0

//! The memory of a guest.

use std::ops::Range;

use crate::model::dma::{GuestMemory, Span};

/// One piece of memory.
#[derive(Clone, Debug)]
pub(crate) struct Ram(pub(crate) Range<u64>);

impl GuestMemory for Ram {
    fn contains(&self, span: Span) -> bool {
        span.start >= self.0.start && span.start + u64::from(span.len) <= self.0.end
    }
}
