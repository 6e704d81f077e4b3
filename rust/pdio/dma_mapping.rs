// SPDX-License-Identifier: GPL-2.0

//! The driver's side of the DMA API, for tests and measurements.
//!
//! The `kernel` crate has coherent allocations and scatter-gather tables that stay mapped; this
//! maps and unmaps pages again and again.
//!
//! C header: [`include/linux/dma-mapping.h`](srctree/include/linux/dma-mapping.h)

use core::ptr;

use kernel::{
    alloc::KVVec,
    page::PAGE_SIZE,
    prelude::*, //
};

use crate::{
    bindings,
    coherent::Memory,
    device::BoundDevice,
    dma_map_multi::{
        map_multi,
        release,
        retain,
        unmap_multi,
        Buffer, //
    },
    dma_map_ops::Direction,
    scatterlist::page_to_phys, //
};

/// How the buffers of a batch lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// One after the other.
    Contiguous,
    /// With a gap of a page between any two.
    Scattered,
}

/// By which calls buffers are mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Api {
    /// `dma_map_page()`, for each.
    Page,
    /// `dma_map_sg()`.
    Sg,
    /// `dma_map_multi()`.
    Multi,
}

/// What [`Batches`] are made of.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Buffers in a batch.
    pub batch: usize,
    /// Number of batches.
    pub batches: usize,
    /// Bytes in a buffer. Each begins at the start of a page.
    pub len: usize,
    /// Of the buffers in a batch; batches lie anywhere.
    pub layout: Layout,
}

/// Buffers, in batches that are mapped by one call.
///
/// # Invariants
///
/// `pages` has `batch` pages of each of `_memory`, from where on `len` bytes are a buffer of its own;
/// `singles`, `entries` and `buffers` are as long as a batch.
pub struct Batches {
    shape: Shape,
    /// The batch that is mapped.
    chosen: usize,
    _memory: KVVec<Memory>,
    pages: KVVec<*mut bindings::page>,
    singles: KVVec<Single>,
    entries: KVVec<bindings::scatterlist>,
    buffers: KVVec<Buffer>,
}

/// A buffer that is mapped by a call of its own.
///
/// What is done for it besides is measured with the call, so its two halves lie side by side.
struct Single {
    page: *mut bindings::page,
    /// All ones: not mapped.
    address: bindings::dma_addr_t,
}

impl Single {
    /// Not mapped yet.
    const NOWHERE: Self = Self {
        page: ptr::null_mut(),
        address: bindings::dma_addr_t::MAX,
    };
}

/// What the device may do with the buffers.
const DIRECTION: bindings::dma_data_direction = bindings::dma_data_direction_DMA_BIDIRECTIONAL;

impl Batches {
    /// Allocates buffers. May sleep.
    ///
    /// # Errors
    ///
    /// `EINVAL` if there are none, or empty ones. `ENOMEM`; also if a batch cannot be had in a row.
    pub fn new(shape: Shape) -> Result<Self> {
        let Shape {
            batch,
            batches,
            len,
            layout,
        } = shape;
        let pages_each = len.div_ceil(PAGE_SIZE);
        let stride = match layout {
            Layout::Contiguous => pages_each,
            Layout::Scattered => pages_each + 1,
        };
        let bytes = batch
            .checked_mul(stride)
            .and_then(|pages| pages.checked_mul(PAGE_SIZE))
            .filter(|&bytes| bytes != 0 && len != 0 && batches != 0)
            .ok_or(EINVAL)?;
        let total = batch.checked_mul(batches).ok_or(EINVAL)?;
        let length = u32::try_from(len)?;
        let mut memory = KVVec::with_capacity(batches, GFP_KERNEL)?;
        let mut pages = KVVec::with_capacity(total, GFP_KERNEL)?;
        let mut singles = KVVec::with_capacity(batch, GFP_KERNEL)?;
        let mut entries = KVVec::with_capacity(batch, GFP_KERNEL)?;
        let mut buffers = KVVec::with_capacity(batch, GFP_KERNEL)?;

        for _ in 0..batches {
            let block =
                Memory::alloc_contiguous(bytes, bindings::GFP_KERNEL | bindings::__GFP_NOWARN)
                    .ok_or(ENOMEM)?;

            for index in 0..batch {
                pages.push(block.page(index * stride), GFP_KERNEL)?;
            }
            memory.push(block, GFP_KERNEL)?;
        }
        for _ in 0..batch {
            singles.push(Single::NOWHERE, GFP_KERNEL)?;
            entries.push(bindings::scatterlist::default(), GFP_KERNEL)?;
            buffers.push(Buffer::new(0, len as u64), GFP_KERNEL)?;
        }
        // SAFETY: The vector has `batch` entries.
        unsafe { bindings::sg_init_table(entries.as_mut_ptr(), u32::try_from(batch)?) };
        for entry in entries.iter_mut() {
            entry.length = length;
        }

        let mut this = Self {
            shape,
            chosen: 0,
            _memory: memory,
            pages,
            singles,
            entries,
            buffers,
        };

        this.choose(0);
        Ok(this)
    }

    /// What they are made of.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Makes batch number `index`, modulo their number, the one that is mapped from now on. None may
    /// be mapped.
    pub fn choose(&mut self, index: usize) {
        self.chosen = index % self.shape.batches;

        let first = self.chosen * self.shape.batch;
        let pages = self.pages.get(first..).unwrap_or_default();

        for (((&page, single), entry), buffer) in pages
            .iter()
            .zip(&mut self.singles)
            .zip(&mut self.entries)
            .zip(&mut self.buffers)
        {
            single.page = page;
            // The end mark of the list stays in the low bits.
            entry.page_link = entry.page_link & bindings::SG_PAGE_LINK_MASK as usize | page.addr();
            *buffer = Buffer::new(page_to_phys(page), self.shape.len as u64);
        }
    }

    /// Makes a buffer of the chosen batch one that `dma_map_multi()` cannot map: longer than any
    /// IOVA space.
    ///
    /// # Errors
    ///
    /// `EINVAL`: there is no such buffer.
    pub fn spoil(&mut self, index: usize) -> Result {
        let buffer = self.buffers.get_mut(index).ok_or(EINVAL)?;

        *buffer = Buffer::new(buffer.phys(), 1 << 60);
        Ok(())
    }

    /// Retains all buffers of all batches, or none, for both directions. May sleep.
    ///
    /// # Errors
    ///
    /// What `dma_retain()` says.
    #[inline]
    pub fn retain(&mut self, device: &BoundDevice<'_>) -> Result {
        for index in 0..self.shape.batches {
            self.choose(index);

            // SAFETY: As in `map`; the buffers are ours until they are released.
            if let Err(error) = unsafe { retain(device, &self.buffers, Direction::BIDIRECTIONAL) } {
                self.release_first(index, device);
                return Err(error);
            }
        }
        self.choose(0);
        Ok(())
    }

    /// Ends what [`Batches::retain`] began. May sleep.
    #[inline]
    pub fn release(&mut self, device: &BoundDevice<'_>) {
        self.release_first(self.shape.batches, device);
    }

    /// Releases the first `count` batches.
    #[inline]
    fn release_first(&mut self, count: usize, device: &BoundDevice<'_>) {
        for index in 0..count {
            self.choose(index);
            // SAFETY: The buffers were retained so.
            unsafe { release(device, &self.buffers, Direction::BIDIRECTIONAL) };
        }
        self.choose(0);
    }

    /// Maps the chosen batch, for both directions.
    ///
    /// # Errors
    ///
    /// `EIO`, or what `dma_map_multi()` says: nothing is mapped.
    #[inline]
    pub fn map(&mut self, api: Api, device: &BoundDevice<'_>) -> Result {
        match api {
            Api::Page => self.map_each(device),
            Api::Sg => self.map_list(device),
            // SAFETY: A driver is bound to the device; the buffers are ours until they are
            // unmapped.
            Api::Multi => unsafe {
                map_multi(device, &mut self.buffers, Direction::BIDIRECTIONAL, 0)
            },
        }
    }

    /// Unmaps what [`Batches::map`] mapped by the same calls.
    #[inline]
    pub fn unmap(&mut self, api: Api, device: &BoundDevice<'_>) {
        match api {
            Api::Page => self.unmap_each(device),
            Api::Sg => self.unmap_list(device),
            // SAFETY: The buffers were mapped so.
            Api::Multi => unsafe {
                unmap_multi(device, &mut self.buffers, Direction::BIDIRECTIONAL, 0);
            },
        }
    }

    /// Unmaps what [`Batches::map`] mapped by [`Api::Multi`], in other groups: first each `step`th
    /// buffer by itself, then all others together.
    #[inline]
    pub fn unmap_regrouped(&mut self, step: usize, device: &BoundDevice<'_>) {
        let mut kept = 0;

        for index in 0..self.buffers.len() {
            let Some(buffer) = self.buffers.get(index) else {
                break;
            };

            if index % step.max(1) == 0 {
                // SAFETY: The buffer was mapped so.
                unsafe { unmap(device, buffer.dma_address().0, self.shape.len) };
            } else {
                self.buffers.swap(kept, index);
                kept += 1;
            }
        }

        let rest = self.buffers.get_mut(..kept).unwrap_or_default();

        // SAFETY: The buffers were mapped so.
        unsafe { unmap_multi(device, rest, Direction::BIDIRECTIONAL, 0) };
        self.choose(self.chosen);
    }

    /// Maps the buffers of all batches one by one, again and again, until there are `count`
    /// mappings, and adds them to `held`.
    ///
    /// # Errors
    ///
    /// `EIO`: there are fewer. `ENOMEM`.
    pub fn hold(&self, count: usize, held: &mut Held, device: &BoundDevice<'_>) -> Result {
        for &page in self.pages.iter().cycle().take(count) {
            // SAFETY: As in `map_each`.
            let address = unsafe { map(device, page, self.shape.len) }.ok_or(EIO)?;

            held.0.push((address, self.shape.len), GFP_KERNEL)?;
        }
        Ok(())
    }

    /// Maps each buffer by a call of its own.
    #[inline]
    fn map_each(&mut self, device: &BoundDevice<'_>) -> Result {
        let len = self.shape.len;

        for single in &mut self.singles {
            // SAFETY: The page is ours until it is unmapped, with those that follow it.
            match unsafe { map(device, single.page, len) } {
                Some(address) => single.address = address,
                None => {
                    single.address = bindings::dma_addr_t::MAX;
                    self.unmap_mapped(device);
                    return Err(EIO);
                }
            }
        }
        Ok(())
    }

    /// Unmaps each buffer by a call of its own.
    #[inline]
    fn unmap_each(&self, device: &BoundDevice<'_>) {
        let len = self.shape.len;

        for single in &self.singles {
            // SAFETY: The buffer was mapped so.
            unsafe { unmap(device, single.address, len) };
        }
    }

    /// Unmaps the buffers before the first that could not be mapped.
    #[cold]
    fn unmap_mapped(&self, device: &BoundDevice<'_>) {
        let mapped = |single: &&Single| single.address != bindings::dma_addr_t::MAX;

        for single in self.singles.iter().take_while(mapped) {
            // SAFETY: The buffer was mapped so.
            unsafe { unmap(device, single.address, self.shape.len) };
        }
    }

    /// Maps all buffers by one call.
    #[inline]
    fn map_list(&mut self, device: &BoundDevice<'_>) -> Result {
        // SAFETY: The device is valid, a driver is bound, and by the type invariant the list has
        // that many entries.
        let mapped = unsafe {
            bindings::dma_map_sg_attrs(
                device.as_raw(),
                self.entries.as_mut_ptr(),
                self.entries.len() as i32,
                DIRECTION,
                0,
            )
        };

        if mapped == 0 {
            return Err(EIO);
        }
        Ok(())
    }

    /// Unmaps what [`Self::map_list`] mapped.
    #[inline]
    fn unmap_list(&mut self, device: &BoundDevice<'_>) {
        // SAFETY: The device is valid and the list was mapped so.
        unsafe {
            bindings::dma_unmap_sg_attrs(
                device.as_raw(),
                self.entries.as_mut_ptr(),
                self.entries.len() as i32,
                DIRECTION,
                0,
            )
        };
    }
}

/// Mappings that stay for a while: addresses and lengths.
#[derive(Default)]
pub struct Held(KVVec<(bindings::dma_addr_t, usize)>);

impl Held {
    /// None.
    pub const fn new() -> Self {
        Self(KVVec::new())
    }

    /// Unmaps all.
    ///
    /// The device must be the one that they were mapped for.
    pub fn release(&mut self, device: &BoundDevice<'_>) {
        for &(address, len) in &self.0 {
            // SAFETY: The device is valid and the buffer was mapped so.
            unsafe { unmap(device, address, len) };
        }
        self.0.clear();
    }
}

/// Maps `len` bytes from the start of a page on, or returns [`None`] if that fails.
///
/// # Safety
///
/// The bytes stay allocated until they are unmapped.
#[inline]
unsafe fn map(
    device: &BoundDevice<'_>,
    page: *mut bindings::page,
    len: usize,
) -> Option<bindings::dma_addr_t> {
    // SAFETY: The device is valid and a driver is bound; the rest is by the safety requirement.
    let address =
        unsafe { bindings::dma_map_page_attrs(device.as_raw(), page, 0, len, DIRECTION, 0) };

    (address != bindings::dma_addr_t::MAX).then_some(address)
}

/// Unmaps `len` bytes.
///
/// # Safety
///
/// They were mapped at `address`, with this length.
#[inline]
unsafe fn unmap(device: &BoundDevice<'_>, address: bindings::dma_addr_t, len: usize) {
    // SAFETY: The device is valid; the rest is by the safety requirement.
    unsafe { bindings::dma_unmap_page_attrs(device.as_raw(), address, len, DIRECTION, 0) };
}
