// SPDX-License-Identifier: GPL-2.0

//! `batched`: strict protection, with page-table passes and invalidations shared where they can be.
//!
//! - A list, or all that `dma_map_multi()` is given, is one range of IOVA space, one page-table
//!   pass for each run of contiguous memory, one clear and one invalidation: [`exact`](super::exact).
//! - Buffers that are mapped one by one share what they can: a page is mapped while any buffer in it
//!   is, so two halves of a page, or the many small ones of a slab, cost one page-table entry and one
//!   invalidation together: [`counted`](super::counted), with nothing kept. A buffer that can share
//!   nothing is mapped as `strict` maps it.
//!
//! "Batched TCE updates" and the `dma_map_multi()` proposal in *Utilizing IOMMUs for
//! Virtualization in Linux and Xen*, OLS 2006. What the device can still reach after unmap:
//! nothing.

use super::{
    address::Buffer,
    counted::Retention, //
};

/// What may be kept.
pub const RETENTION: Retention = Retention {
    pages: 0,
    max_age_ms: 0,
};

/// Whether other buffers can save a buffer its invalidation: there is no whole page in it.
///
/// A page that is all in one buffer has no room for another, so it is to be withdrawn with that
/// buffer, which takes an invalidation whatever becomes of the pages beside it. Counting such pages
/// would save nothing, and costs more than an IOVA.
#[inline]
pub const fn may_share(buffer: Buffer) -> bool {
    buffer.whole_pages() == 0
}
