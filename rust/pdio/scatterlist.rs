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

/// The address in the entry behind that of the last segment, if there are fewer segments than
/// entries: `DMA_MAPPING_ERROR`.
const NO_SEGMENT: u64 = bindings::dma_addr_t::MAX;

/// The physical address of the page that a `struct page` describes.
///
/// `page_to_phys()` with a virtual memory map (`CONFIG_SPARSEMEM_VMEMMAP`), the only memory model
/// of x86-64.
#[inline]
pub(crate) fn page_to_phys(page: *const bindings::page) -> u64 {
    // SAFETY: The base is set once, early in boot.
    let base = unsafe { bindings::vmemmap_base };

    (page.addr().wrapping_sub(base) / mem::size_of::<bindings::page>() << PAGE_SHIFT) as u64
}

/// What [`page_to_phys`] undoes; also for addresses that have no `struct page`, which may then only
/// be asked for its address.
#[inline]
fn phys_to_page(phys: u64) -> usize {
    // SAFETY: The base is set once, early in boot.
    let base = unsafe { bindings::vmemmap_base };

    base.wrapping_add((phys >> PAGE_SHIFT) as usize * mem::size_of::<bindings::page>())
}

/// One entry of a list.
#[repr(transparent)]
pub struct Entry(bindings::scatterlist);

impl Entry {
    /// Physical address of the buffer.
    #[inline]
    pub fn phys(&self) -> u64 {
        let page = (self.0.page_link & !PAGE_LINK_MASK) as *const bindings::page;

        page_to_phys(page).wrapping_add(self.0.offset.into())
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

    /// An entry for `len` bytes at `phys`, the start of a page, for a function that looks at no more
    /// than where they are.
    #[inline]
    pub(crate) fn at(phys: u64, len: u32) -> Self {
        // SAFETY: Numbers only, of which 0 is one. Which there are depends on the configuration.
        let mut entry = unsafe { mem::zeroed::<bindings::scatterlist>() };

        entry.page_link = phys_to_page(phys);
        entry.length = len;
        Self(entry)
    }

    /// Gives the whole buffer to the device, at `dma_address`.
    #[inline]
    pub fn set_dma_address(&mut self, dma_address: u64) {
        self.0.dma_address = dma_address;
        self.0.dma_length = self.0.length;
    }
}

/// A list of entries, and of the segments that the device has for them: one for each, or fewer.
///
/// # Invariants
///
/// `first` is the first of `len` entries, linked as `sg_next()` expects it, that nobody else uses
/// for `'a`. `segments` is not above `len`.
pub struct EntryList<'a> {
    first: *mut bindings::scatterlist,
    len: usize,
    segments: usize,
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
            segments: len,
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

    /// Number of segments, as far as [`EntryList::rewrite`] has changed it for this list.
    pub(crate) fn mapped_len(&self) -> usize {
        self.segments
    }

    /// The entries in order.
    #[inline]
    pub fn iter_mut(&mut self) -> IterMut<'_> {
        // INVARIANT: None was, by this one.
        IterMut(self.walk())
    }

    /// The entries that hold a segment, when all have been mapped.
    #[inline]
    pub fn iter_mapped(&mut self) -> impl Iterator<Item = &mut Entry> {
        self.iter_mut()
            .take_while(|entry| entry.0.dma_address != NO_SEGMENT)
    }

    /// Gives the device other segments: `f` is called with address and length of each there is, in
    /// order, and at the end with `None`, and returns the new ones, never more than it was given.
    #[inline]
    pub fn rewrite(&mut self, mut f: impl FnMut(Option<(u64, u32)>) -> Option<(u64, u32)>) {
        let (mut from, mut to) = (self.walk(), self.walk());
        let mut segments = 0;

        loop {
            let taken = from.next().map(|entry| {
                // SAFETY: The walk is over the entries of this list, which nobody else uses.
                unsafe { ((*entry).dma_address, (*entry).dma_length) }
            });

            if let Some((dma_address, len)) = f(taken) {
                let Some(entry) = to.next() else {
                    break;
                };

                // SAFETY: As above.
                unsafe {
                    (*entry).dma_address = dma_address;
                    (*entry).dma_length = len;
                }
                segments += 1;
            }
            if taken.is_none() {
                break;
            }
        }

        // INVARIANT: The walk has no more steps than there are entries.
        self.segments = segments;
        if let Some(entry) = to.next() {
            // SAFETY: As above.
            unsafe {
                (*entry).dma_address = NO_SEGMENT;
                (*entry).dma_length = 0;
            }
        }
    }

    /// Walks the entries.
    #[inline]
    fn walk(&self) -> Walk<'a> {
        // INVARIANT: By that of the list.
        Walk {
            next: self.first,
            left: self.len,
            _entries: PhantomData,
        }
    }
}

/// A way along the entries of an [`EntryList`].
///
/// # Invariants
///
/// `next` is the first of `left` linked entries, which are valid for `'a`.
struct Walk<'a> {
    next: *mut bindings::scatterlist,
    left: usize,
    _entries: PhantomData<&'a mut Entry>,
}

impl Iterator for Walk<'_> {
    type Item = *mut bindings::scatterlist;

    // A list is walked several times, and a call costs more than the step.
    #[inline(always)]
    fn next(&mut self) -> Option<*mut bindings::scatterlist> {
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

        Some(entry)
    }
}

/// The rest of the entries of an [`EntryList`].
///
/// # Invariants
///
/// None of them was handed out yet.
pub struct IterMut<'a>(Walk<'a>);

impl<'a> Iterator for IterMut<'a> {
    type Item = &'a mut Entry;

    #[inline(always)]
    fn next(&mut self) -> Option<&'a mut Entry> {
        let entry = self.0.next()?;

        // SAFETY: The entry is valid, and by the type invariant it is handed out once; `Entry` is
        // transparent.
        Some(unsafe { &mut *entry.cast() })
    }
}
