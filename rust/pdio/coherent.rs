// SPDX-License-Identifier: GPL-2.0

//! Memory that a CPU and a device use at the same time.
//!
//! Contiguous where that can be had, otherwise single pages behind a contiguous kernel address:
//! the IOMMU makes them contiguous for the device, too.
//!
//! C headers: [`include/linux/gfp.h`](srctree/include/linux/gfp.h),
//! [`include/linux/vmalloc.h`](srctree/include/linux/vmalloc.h)

use core::{
    ffi::c_void,
    ptr,
    ptr::NonNull, //
};

use kernel::{
    alloc::flags::GFP_KERNEL,
    error::to_result,
    page::{
        page_align,
        PAGE_SHIFT,
        PAGE_SIZE, //
    },
    prelude::*, //
};

use crate::{
    bindings,
    scatterlist::page_to_phys, //
};

/// A physically contiguous piece of a mapping.
#[derive(Clone, Copy, Debug)]
pub struct Piece {
    /// Physical address of the first byte.
    pub phys: u64,
    /// Length in bytes.
    pub len: u64,
    /// Address for the device, once it is mapped.
    pub dma_address: u64,
}

impl Piece {
    /// A piece that is not mapped yet.
    pub const fn new(phys: u64, len: u64) -> Self {
        Self {
            phys,
            len,
            dma_address: 0,
        }
    }
}

/// Zeroed memory in whole pages.
///
/// # Invariants
///
/// `address` is what `alloc_pages_exact()` or `vmalloc()` returned for `len` bytes, and `self` owns
/// the memory.
pub struct Memory {
    address: NonNull<c_void>,
    len: usize,
}

impl Memory {
    /// Allocates at least `len` bytes; sleeps if `gfp` lets it, and then gets along without
    /// contiguous memory.
    pub(crate) fn alloc(len: usize, gfp: bindings::gfp_t) -> Option<Self> {
        if let Some(memory) = Self::alloc_contiguous(len, gfp | bindings::__GFP_NOWARN) {
            return Some(memory);
        }
        if gfp & 1 << bindings::___GFP_DIRECT_RECLAIM_BIT == 0 {
            return None;
        }

        let len = page_align(len)?;

        // SAFETY: There are no requirements.
        let address = NonNull::new(unsafe { bindings::pdio_vzalloc(len) })?;

        // INVARIANT: `address` came from `vmalloc()`.
        Some(Self { address, len })
    }

    /// Allocates at least `len` bytes of contiguous memory.
    pub(crate) fn alloc_contiguous(len: usize, gfp: bindings::gfp_t) -> Option<Self> {
        let len = page_align(len)?;

        // Zones are for devices that reach no further; the IOMMU lifts that.
        let gfp = gfp
            & !(1 << bindings::___GFP_DMA_BIT
                | 1 << bindings::___GFP_DMA32_BIT
                | 1 << bindings::___GFP_HIGHMEM_BIT
                | 1 << bindings::___GFP_COMP_BIT)
            | bindings::__GFP_ZERO;

        // SAFETY: There are no requirements.
        let address = NonNull::new(unsafe { bindings::alloc_pages_exact_noprof(len, gfp) })?;

        // INVARIANT: `address` came from `alloc_pages_exact()`.
        Some(Self { address, len })
    }

    /// Takes back what [`Memory::into_raw`] gave away.
    ///
    /// # Safety
    ///
    /// `address` is from [`Memory::into_raw`] of memory that was asked for with this `len`, and
    /// nobody uses it any more, unless the value is never dropped.
    pub(crate) unsafe fn from_raw(address: *mut c_void, len: usize) -> Self {
        Self {
            // INVARIANT: By the safety requirement.
            //
            // SAFETY: By the safety requirement it is not null.
            address: unsafe { NonNull::new_unchecked(address) },
            len: page_align(len).unwrap_or(len),
        }
    }

    /// Takes back contiguous memory by its first page.
    ///
    /// # Safety
    ///
    /// As for [`Memory::from_raw`].
    pub(crate) unsafe fn from_page(page: *mut bindings::page, len: usize) -> Self {
        // SAFETY: The base is set once, early in boot.
        let base = unsafe { bindings::page_offset_base };
        let address = page_to_phys(page) as usize + base;

        // SAFETY: By the safety requirement. RAM is mapped at the base.
        unsafe { Self::from_raw(ptr::with_exposed_provenance_mut(address), len) }
    }

    /// Gives the memory to the caller.
    pub(crate) fn into_raw(self) -> *mut c_void {
        core::mem::ManuallyDrop::new(self).address.as_ptr()
    }

    /// The first byte.
    pub(crate) fn as_ptr(&self) -> *mut u8 {
        self.address.as_ptr().cast()
    }

    /// Number of bytes, a multiple of the page size.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Whether the memory is single pages behind a contiguous kernel address.
    fn is_vmalloc(&self) -> bool {
        // SAFETY: There are no requirements.
        unsafe { bindings::pdio_is_vmalloc_addr(self.address.as_ptr()) }
    }

    /// The page at an offset in pages, which must lie within the memory.
    pub(crate) fn page(&self, index: usize) -> *mut bindings::page {
        let address = self.address.as_ptr().wrapping_byte_add(index << PAGE_SHIFT);

        if self.is_vmalloc() {
            // SAFETY: The address lies in memory from `vmalloc()`.
            return unsafe { bindings::vmalloc_to_page(address) };
        }

        // SAFETY: Both bases are set once, early in boot. RAM is mapped at the first, and the
        // second is an array with an element for each page of it.
        unsafe {
            let offset = address.addr() - bindings::page_offset_base;
            let map = ptr::with_exposed_provenance_mut::<bindings::page>(bindings::vmemmap_base);

            map.wrapping_add(offset >> PAGE_SHIFT)
        }
    }

    /// Runs `f` with the pieces that the memory consists of.
    ///
    /// [`None`]: there is no memory to list them.
    pub(crate) fn with_pieces<R>(&self, f: impl FnOnce(&mut [Piece]) -> R) -> Option<R> {
        if !self.is_vmalloc() {
            let piece = Piece::new(page_to_phys(self.page(0)), self.len as u64);

            return Some(f(&mut [piece]));
        }

        let pages = self.len >> PAGE_SHIFT;
        let mut pieces = KVVec::with_capacity(pages, GFP_KERNEL).ok()?;

        for index in 0..pages {
            let piece = Piece::new(page_to_phys(self.page(index)), PAGE_SIZE as u64);

            pieces.push(piece, GFP_KERNEL).ok()?;
        }
        Some(f(&mut pieces))
    }

    /// Maps the memory, from the offset that the area says, into a process.
    ///
    /// # Errors
    ///
    /// `ENXIO` if the area reaches beyond the memory, `ENOMEM`.
    ///
    /// # Safety
    ///
    /// `vma` is an area that is being set up.
    pub(crate) unsafe fn mmap(&self, vma: *mut bindings::vm_area_struct) -> Result {
        // SAFETY: By the safety requirement.
        let (start, end, first, protection) = unsafe {
            let range = &(*vma).__bindgen_anon_1.__bindgen_anon_1;

            (
                range.vm_start,
                range.vm_end,
                (*vma).vm_pgoff,
                (*vma).vm_page_prot,
            )
        };
        let pages = (end - start) >> PAGE_SHIFT;
        let have = self.len >> PAGE_SHIFT;

        if first >= have || pages > have - first {
            return Err(ENXIO);
        }

        for index in 0..pages {
            let frame = page_to_phys(self.page(first + index)) as usize >> PAGE_SHIFT;

            // SAFETY: The area is being set up and the address lies in it; the driver keeps the
            // memory until the area is gone, as `dma_mmap_attrs()` demands.
            to_result(unsafe {
                bindings::remap_pfn_range(
                    vma,
                    start + (index << PAGE_SHIFT),
                    frame,
                    PAGE_SIZE,
                    protection,
                )
            })?;
        }
        Ok(())
    }

    /// Makes a table of the first `len` bytes.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    ///
    /// # Safety
    ///
    /// `table` is memory for a table.
    pub(crate) unsafe fn fill_sg_table(
        &self,
        table: *mut bindings::sg_table,
        len: usize,
    ) -> Result {
        let count = self.len >> PAGE_SHIFT;
        let mut pages = KVVec::with_capacity(count, GFP_KERNEL)?;

        for index in 0..count {
            pages.push(self.page(index), GFP_KERNEL)?;
        }

        // SAFETY: `table` is memory for a table, and the array has `count` pages.
        to_result(unsafe {
            bindings::sg_alloc_table_from_pages_segment(
                table,
                pages.as_mut_ptr(),
                count as u32,
                0,
                len,
                u32::MAX,
                bindings::GFP_KERNEL,
            )
        })
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: By the type invariant `self` owns the memory, and this is where it came from.
        unsafe {
            if self.is_vmalloc() {
                bindings::pdio_vfree(self.address.as_ptr());
            } else {
                bindings::free_pages_exact(self.address.as_ptr(), self.len);
            }
        }
    }
}
