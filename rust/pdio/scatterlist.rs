// SPDX-License-Identifier: GPL-2.0

//! Scatter-gather lists as the DMA API hands them to an implementation.
//!
//! The `kernel` crate has the driver's side of them.
//!
//! C header: [`include/linux/scatterlist.h`](srctree/include/linux/scatterlist.h)

use core::{
    marker::PhantomData,
    mem,
    ptr, //
};

use kernel::page::PAGE_SHIFT;

use crate::bindings;

/// The flags in the low bits of `page_link` (`SG_PAGE_LINK_MASK`).
const PAGE_LINK_MASK: usize = 3;

/// The physical address of the page that a `struct page` describes.
///
/// `page_to_phys()` with a virtual memory map (`CONFIG_SPARSEMEM_VMEMMAP`), the only memory model
/// of x86-64.
#[inline]
pub(crate) fn page_to_phys(page: *const bindings::page) -> u64 {
    // SAFETY: The base is set once, early in boot.
    let base = unsafe { bindings::vmemmap_base };

    ((page.addr() - base) / mem::size_of::<bindings::page>() << PAGE_SHIFT) as u64
}

/// One entry of a list.
#[repr(transparent)]
pub struct Entry(bindings::scatterlist);

impl Entry {
    /// Physical address of the buffer.
    #[inline]
    pub fn phys(&self) -> u64 {
        let page = (self.0.page_link & !PAGE_LINK_MASK) as *const bindings::page;

        page_to_phys(page) + u64::from(self.0.offset)
    }

    /// Length of the buffer in bytes.
    #[inline]
    pub fn len(&self) -> u64 {
        self.0.length.into()
    }

    /// Whether the buffer has no bytes.
    pub fn is_empty(&self) -> bool {
        self.0.length == 0
    }

    /// The address that the device was given.
    #[inline]
    pub fn dma_address(&self) -> u64 {
        self.0.dma_address
    }

    /// The number of bytes that the device was given.
    #[inline]
    pub fn dma_len(&self) -> u64 {
        self.0.dma_length.into()
    }

    /// Gives the whole buffer to the device, at `dma_address`.
    #[inline]
    pub fn set_dma_address(&mut self, dma_address: u64) {
        self.0.dma_address = dma_address;
        self.0.dma_length = self.0.length;
    }
}

/// A list of entries.
///
/// # Invariants
///
/// `first` is the first of `len` entries, linked as `sg_next()` expects it, that nobody else uses
/// for `'a`.
pub struct EntryList<'a> {
    first: *mut bindings::scatterlist,
    len: usize,
    _entries: PhantomData<&'a mut Entry>,
}

impl<'a> EntryList<'a> {
    /// The list that starts with `first`.
    ///
    /// # Safety
    ///
    /// `first` is the first of `len` linked entries that nobody else uses for `'a`.
    pub(crate) unsafe fn from_raw(first: *mut bindings::scatterlist, len: usize) -> Self {
        // INVARIANT: By the safety requirement.
        Self {
            first,
            len,
            _entries: PhantomData,
        }
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The entries in order.
    pub fn iter_mut(&mut self) -> IterMut<'_> {
        IterMut {
            next: self.first,
            left: self.len,
            _entries: PhantomData,
        }
    }
}

/// The rest of the entries of an [`EntryList`].
///
/// # Invariants
///
/// `next` is the first of `left` entries that were not handed out yet.
pub struct IterMut<'a> {
    next: *mut bindings::scatterlist,
    left: usize,
    _entries: PhantomData<&'a mut Entry>,
}

impl<'a> Iterator for IterMut<'a> {
    type Item = &'a mut Entry;

    #[inline]
    fn next(&mut self) -> Option<&'a mut Entry> {
        self.left = self.left.checked_sub(1)?;

        let entry = self.next;

        self.next = if self.left == 0 {
            ptr::null_mut()
        } else {
            // `sg_next()` without the call: the next in memory, or where a chain link there leads.
            //
            // SAFETY: By the type invariant there is another entry after this one, so what follows
            // in memory is it or a link to it.
            unsafe {
                let next = entry.add(1);

                if (*next).page_link & bindings::SG_CHAIN as usize == 0 {
                    next
                } else {
                    ((*next).page_link & !PAGE_LINK_MASK) as *mut bindings::scatterlist
                }
            }
        };

        // SAFETY: By the type invariant the entry is valid and handed out once; `Entry` is
        // transparent.
        Some(unsafe { &mut *entry.cast() })
    }
}
