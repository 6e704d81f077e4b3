// SPDX-License-Identifier: GPL-2.0

//! `strict`: a buffer is unreachable when its unmap returns.
//!
//! Map allocates IOVA space and writes the page table; unmap clears it, invalidates and gives the
//! space back. What the device can still reach after unmap: nothing.

use super::{
    address::PageRange,
    backend::{
        Arena,
        Backend, //
    },
};

/// Takes down `runs`, which lie in `whole`, and gives `whole` back.
#[inline]
pub fn unmap<B: Backend>(
    backend: &B,
    arena: Arena,
    whole: PageRange,
    runs: impl Iterator<Item = PageRange>,
) {
    backend.unmap_flush(runs);
    backend.free_iova(arena, whole);
}
