// SPDX-License-Identifier: GPL-2.0

//! The driver's side of the DMA API, for tests and measurements.
//!
//! The `kernel` crate has coherent allocations and scatter-gather tables that stay mapped; this
//! maps and unmaps pages again and again.
//!
//! C header: [`include/linux/dma-mapping.h`](srctree/include/linux/dma-mapping.h)

use kernel::{
    page::PAGE_SIZE,
    prelude::*, //
};

use crate::{
    bindings,
    coherent::Memory,
    device::LockedDevice, //
};

/// Where the pages of [`Pages`] lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// One after the other.
    Contiguous,
    /// With a gap of a page between any two.
    Scattered,
}

/// Pages, and their addresses while they are mapped.
///
/// # Invariants
///
/// `pages` are pages of `memory`, and `entries` is an initialized list of them.
pub struct Pages {
    _memory: Memory,
    pages: KVVec<*mut bindings::page>,
    addresses: KVVec<bindings::dma_addr_t>,
    entries: KVVec<bindings::scatterlist>,
}

impl Pages {
    /// Allocates pages. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; also if that many pages in a row cannot be had.
    pub fn new(count: usize, layout: Layout) -> Result<Self> {
        let stride = match layout {
            Layout::Contiguous => 1,
            Layout::Scattered => 2,
        };
        let len = count
            .checked_mul(stride * PAGE_SIZE)
            .filter(|&len| len != 0)
            .ok_or(EINVAL)?;
        let memory = Memory::alloc_contiguous(len, bindings::GFP_KERNEL | bindings::__GFP_NOWARN)
            .ok_or(ENOMEM)?;
        let mut entries = KVVec::with_capacity(count, GFP_KERNEL)?;

        for _ in 0..count {
            entries.push(bindings::scatterlist::default(), GFP_KERNEL)?;
        }
        // SAFETY: The vector has `count` entries.
        unsafe { bindings::sg_init_table(entries.as_mut_ptr(), u32::try_from(count)?) };

        let mut pages = KVVec::with_capacity(count, GFP_KERNEL)?;

        for (index, entry) in entries.iter_mut().enumerate() {
            let page = memory.page(index * stride);

            // The end mark that was just set stays in the low bits.
            entry.page_link |= page.addr();
            entry.length = PAGE_SIZE as u32;
            pages.push(page, GFP_KERNEL)?;
        }

        Ok(Self {
            _memory: memory,
            pages,
            addresses: KVVec::from_elem(0, count, GFP_KERNEL)?,
            entries,
        })
    }

    /// Number of pages.
    pub fn count(&self) -> usize {
        self.addresses.len()
    }

    /// Maps each page by a call of its own, for both directions.
    ///
    /// # Errors
    ///
    /// `EIO`: nothing is mapped.
    #[inline]
    pub fn map_each(&mut self, device: &LockedDevice<'_>) -> Result {
        for index in 0..self.addresses.len() {
            let (Some(&page), Some(slot)) = (self.pages.get(index), self.addresses.get_mut(index))
            else {
                break;
            };

            // SAFETY: The device is valid, and a driver is bound, or its caller has seen to it that
            // it can do DMA; the page is ours until it is unmapped.
            let address = unsafe {
                bindings::dma_map_page_attrs(
                    device.as_raw(),
                    page,
                    0,
                    PAGE_SIZE,
                    bindings::dma_data_direction_DMA_BIDIRECTIONAL,
                    0,
                )
            };

            if address == bindings::dma_addr_t::MAX {
                self.unmap_first(device, index);
                return Err(EIO);
            }
            *slot = address;
        }
        Ok(())
    }

    /// Unmaps what [`Pages::map_each`] mapped.
    #[inline]
    pub fn unmap_each(&mut self, device: &LockedDevice<'_>) {
        self.unmap_first(device, self.addresses.len());
    }

    /// Unmaps the first `count` pages.
    #[inline]
    fn unmap_first(&mut self, device: &LockedDevice<'_>, count: usize) {
        for &address in self.addresses.iter().take(count) {
            // SAFETY: The device is valid and the page was mapped so.
            unsafe {
                bindings::dma_unmap_page_attrs(
                    device.as_raw(),
                    address,
                    PAGE_SIZE,
                    bindings::dma_data_direction_DMA_BIDIRECTIONAL,
                    0,
                )
            };
        }
    }

    /// Maps all pages by one call, for both directions.
    ///
    /// # Errors
    ///
    /// `EIO`: nothing is mapped.
    pub fn map_list(&mut self, device: &LockedDevice<'_>) -> Result {
        // SAFETY: As in `map_each`; by the type invariant the list has that many entries.
        let mapped = unsafe {
            bindings::dma_map_sg_attrs(
                device.as_raw(),
                self.entries.as_mut_ptr(),
                self.entries.len() as i32,
                bindings::dma_data_direction_DMA_BIDIRECTIONAL,
                0,
            )
        };

        if mapped == 0 {
            return Err(EIO);
        }
        Ok(())
    }

    /// Unmaps what [`Pages::map_list`] mapped.
    pub fn unmap_list(&mut self, device: &LockedDevice<'_>) {
        // SAFETY: The device is valid and the list was mapped so.
        unsafe {
            bindings::dma_unmap_sg_attrs(
                device.as_raw(),
                self.entries.as_mut_ptr(),
                self.entries.len() as i32,
                bindings::dma_data_direction_DMA_BIDIRECTIONAL,
                0,
            )
        };
    }
}
