// SPDX-License-Identifier: GPL-2.0

//! Allocation of IOVA space.
//!
//! C header: [`include/linux/iova.h`](srctree/include/linux/iova.h)

use kernel::{
    error::to_result,
    prelude::*,
    types::Opaque, //
};

use crate::bindings;

/// log2 of the size of a page of IOVA space.
const PAGE_SHIFT: u32 = kernel::page::PAGE_SHIFT as u32;

/// An allocator for a part of the IOVA space of a device, with per-CPU caches in front.
///
/// # Invariants
///
/// `domain` is initialized with caches; it is linked into CPU hot-plug lists, so it is pinned.
#[pin_data(PinnedDrop)]
pub struct IovaAllocator {
    #[pin]
    domain: Opaque<bindings::iova_domain>,
}

// SAFETY: The allocator belongs to no thread.
unsafe impl Send for IovaAllocator {}

// SAFETY: It does its own locking.
unsafe impl Sync for IovaAllocator {}

impl IovaAllocator {
    /// An allocator for addresses from `start` on, a multiple of the page size; page 0 is never
    /// handed out. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub fn new(start: u64) -> impl PinInit<Self, Error> {
        let first_page = (start >> PAGE_SHIFT).max(1) as usize;

        try_pin_init!(Self {
            // INVARIANT: The initializer leaves a domain with caches, or fails.
            domain <- Opaque::try_ffi_init(|domain| {
                // SAFETY: `domain` is pinned memory for an `iova_domain`. The slab cache is
                // referenced before the first allocation and given back after the last one.
                unsafe {
                    to_result(bindings::iova_cache_get())?;
                    bindings::init_iova_domain(domain, 1 << PAGE_SHIFT, first_page);
                    to_result(bindings::iova_domain_init_rcaches(domain)).inspect_err(|_| {
                        bindings::put_iova_domain(domain);
                        bindings::iova_cache_put();
                    })
                }
            }),
        })
    }

    /// Keeps the pages of `start..=last` from being handed out. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub fn reserve(&self, start: u64, last: u64) -> Result {
        // SAFETY: By the type invariant the domain is initialized.
        let iova = unsafe {
            bindings::reserve_iova(
                self.domain.get(),
                (start >> PAGE_SHIFT) as usize,
                (last >> PAGE_SHIFT) as usize,
            )
        };

        if iova.is_null() {
            return Err(ENOMEM);
        }
        Ok(())
    }

    /// Takes `pages` pages, aligned to their number rounded up to a power of two, of which the
    /// last byte is not above `limit`. May be called in any context.
    #[inline]
    pub fn alloc(&self, pages: u64, limit: u64) -> Option<u64> {
        // SAFETY: By the type invariant the domain is initialized.
        let page = unsafe {
            bindings::alloc_iova_fast(
                self.domain.get(),
                pages as usize,
                (limit.saturating_add(1) >> PAGE_SHIFT).checked_sub(1)? as usize,
                true,
            )
        };

        (page != 0).then_some((page as u64) << PAGE_SHIFT)
    }

    /// Gives back what [`IovaAllocator::alloc`] returned for the same number of pages. May be
    /// called in any context.
    #[inline]
    pub fn free(&self, start: u64, pages: u64) {
        // SAFETY: By the type invariant the domain is initialized. What is not allocated is
        // ignored.
        unsafe {
            bindings::free_iova_fast(
                self.domain.get(),
                (start >> PAGE_SHIFT) as usize,
                pages as usize,
            )
        };
    }
}

#[pinned_drop]
impl PinnedDrop for IovaAllocator {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariant the domain is initialized, and nobody uses it any more.
        unsafe {
            bindings::put_iova_domain(self.domain.get());
            bindings::iova_cache_put();
        }
    }
}
