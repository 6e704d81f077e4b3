// SPDX-License-Identifier: GPL-2.0

//! A device that does DMA for its driver, and single pages that it is given.
//!
//! The `kernel` crate has coherent allocations and scatter-gather tables that stay mapped; here one
//! page, a part of it, or a list of them is mapped for one transfer.
//!
//! C header: [`include/linux/dma-mapping.h`](srctree/include/linux/dma-mapping.h)

use core::{
    mem::ManuallyDrop,
    ops::Range, //
};

use kernel::{
    device::{
        Core,
        Device, //
    },
    devres::Devres,
    dma::{
        DataDirection,
        Device as _,
        DmaMask, //
    },
    page::PAGE_SIZE,
    pci,
    prelude::*,
    sync::{
        aref::ARef,
        Arc, //
    }, //
};

use crate::{
    bindings,
    coherent::Memory,
    device::raw,
    scatterlist::page_to_phys, //
};

/// A page of memory that a device may read and change while a CPU does.
pub struct Frame(Memory);

// SAFETY: Memory belongs to no thread.
unsafe impl Send for Frame {}

// SAFETY: All accesses are volatile, byte by byte; which of several at once comes first matters to
// nobody's safety.
unsafe impl Sync for Frame {}

impl Frame {
    /// Allocates a page. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub fn new() -> Result<Arc<Self>> {
        Ok(Arc::new(Self::alloc(bindings::GFP_KERNEL)?, GFP_KERNEL)?)
    }

    fn alloc(gfp: bindings::gfp_t) -> Result<Self> {
        Ok(Self(
            Memory::alloc_contiguous(PAGE_SIZE, gfp).ok_or(ENOMEM)?,
        ))
    }

    /// Where the page is.
    pub fn phys(&self) -> u64 {
        page_to_phys(self.0.page(0))
    }

    /// Sets each byte to what `f` returns for its offset.
    pub fn fill(&self, f: impl Fn(usize) -> u8) {
        for index in 0..PAGE_SIZE {
            // SAFETY: The page is ours and has that many bytes.
            unsafe { self.0.as_ptr().add(index).write_volatile(f(index)) };
        }
    }

    /// Counts the bytes of a part for which `f` returns true, called with the offset and the byte.
    pub fn count(&self, part: Range<usize>, f: impl Fn(usize, u8) -> bool) -> usize {
        part.filter(|&index| {
            // SAFETY: The page is ours, and what is beyond it is not read.
            index < PAGE_SIZE && f(index, unsafe { self.0.as_ptr().add(index).read_volatile() })
        })
        .count()
    }

    /// Frees the page and allocates the very same again, as its next owner would.
    ///
    /// # Errors
    ///
    /// `EBUSY`: somebody else has a reference to the page. `EAGAIN`: somebody else was faster.
    /// `ENOMEM`.
    pub fn give_away(self: Arc<Self>) -> Result<Arc<Self>> {
        /// Pages that are allocated at most; the one that was freed last comes first.
        const TRIES: usize = 16;

        let phys = self.phys();
        // Has its memory before the page is free and could be taken for it.
        let mut others = KVec::with_capacity(TRIES, GFP_ATOMIC)?;

        drop(Arc::into_unique_or_drop(self).ok_or(EBUSY)?);
        for _ in 0..TRIES {
            let frame = Self::alloc(bindings::GFP_ATOMIC)?;

            if frame.phys() == phys {
                return Ok(Arc::new(frame, GFP_ATOMIC)?);
            }
            others.push(frame, GFP_ATOMIC)?;
        }
        Err(EAGAIN)
    }
}

/// What is mapped by one call.
enum Extent {
    /// A part of a page.
    Part {
        address: bindings::dma_addr_t,
        len: usize,
    },
    /// A list of whole pages.
    List(KVec<bindings::scatterlist>),
}

/// Memory that is mapped for a device.
///
/// It is not freed before [`Master::unmap`], and never if that is not called.
pub struct Mapping {
    frames: ManuallyDrop<KVec<Arc<Frame>>>,
    device: ARef<Device>,
    extent: Extent,
    direction: DataDirection,
}

impl Mapping {
    /// Where the device finds the first byte of a part, or of the page of that index in a list.
    pub fn address(&self, index: usize) -> Option<u64> {
        match &self.extent {
            Extent::Part { address, .. } => (index == 0).then_some(*address),
            Extent::List(entries) => {
                // Pages that are adjacent for the device may be one segment.
                let mut offset = (index * PAGE_SIZE) as u64;

                for entry in entries {
                    let len = u64::from(entry.dma_length);

                    if offset < len {
                        return Some(entry.dma_address + offset);
                    }
                    offset -= len;
                }
                None
            }
        }
    }
}

/// A device that a driver is bound to and that may do DMA.
///
/// # Invariants
///
/// The value is within a [`Devres`] of the device, so a driver is bound as long as it can be had.
pub struct Master {
    device: ARef<Device>,
}

impl Master {
    /// Lets a device that reaches 64 address bits do DMA; called once, when a driver is being bound.
    /// May sleep.
    ///
    /// # Errors
    ///
    /// `EIO`: whoever serves the device's DMA API cannot serve it. `ENOMEM`.
    pub fn new(device: &pci::Device<Core<'_>>) -> Result<Devres<Self>> {
        // SAFETY: Nothing is mapped without a value of this type, and there is none yet.
        unsafe { device.dma_set_mask_and_coherent(DmaMask::new::<64>())? };
        device.set_master();

        let device: &Device<Core<'_>> = device.as_ref();
        let unbound: &Device = device;

        // INVARIANT: The value goes into a `Devres` of the device.
        Devres::new::<Error>(
            device,
            Ok(Self {
                device: unbound.into(),
            }),
        )
    }

    /// Maps a part of a page.
    ///
    /// # Errors
    ///
    /// `EINVAL`: there is no such part. `EIO`: nothing is mapped. `ENOMEM`.
    pub fn map(
        &self,
        frame: &Arc<Frame>,
        part: Range<usize>,
        direction: DataDirection,
    ) -> Result<Mapping> {
        if part.is_empty() || part.end > PAGE_SIZE {
            return Err(EINVAL);
        }

        let mut frames = KVec::with_capacity(1, GFP_ATOMIC)?;

        frames.push(frame.clone(), GFP_ATOMIC)?;

        // SAFETY: By the type invariant a driver is bound; the mapping keeps the page.
        let address = unsafe {
            bindings::dma_map_page_attrs(
                raw(&self.device),
                frame.0.page(0),
                part.start,
                part.len(),
                direction.into(),
                0,
            )
        };

        if address == bindings::dma_addr_t::MAX {
            return Err(EIO);
        }
        Ok(Mapping {
            frames: ManuallyDrop::new(frames),
            device: self.device.clone(),
            extent: Extent::Part {
                address,
                len: part.len(),
            },
            direction,
        })
    }

    /// Maps a list of pages by one call.
    ///
    /// # Errors
    ///
    /// `EIO`: nothing is mapped. `ENOMEM`.
    pub fn map_list(&self, frames: KVec<Arc<Frame>>, direction: DataDirection) -> Result<Mapping> {
        let mut entries = KVec::with_capacity(frames.len(), GFP_ATOMIC)?;

        for _ in &frames {
            entries.push(bindings::scatterlist::default(), GFP_ATOMIC)?;
        }
        // SAFETY: The vector has that many entries.
        unsafe { bindings::sg_init_table(entries.as_mut_ptr(), u32::try_from(frames.len())?) };
        for (frame, entry) in frames.iter().zip(&mut entries) {
            // The end mark that was just set stays in the low bits.
            entry.page_link |= frame.0.page(0).addr();
            entry.length = PAGE_SIZE as u32;
        }

        // SAFETY: By the type invariant a driver is bound; the list has that many entries, and the
        // mapping keeps it and the pages.
        let mapped = unsafe {
            bindings::dma_map_sg_attrs(
                raw(&self.device),
                entries.as_mut_ptr(),
                entries.len() as i32,
                direction.into(),
                0,
            )
        };

        if mapped == 0 {
            return Err(EIO);
        }
        Ok(Mapping {
            frames: ManuallyDrop::new(frames),
            device: self.device.clone(),
            extent: Extent::List(entries),
            direction,
        })
    }

    /// Lets the CPU see what the device has written so far.
    ///
    /// # Errors
    ///
    /// `EINVAL`: the mapping is another device's.
    pub fn sync_for_cpu(&self, mapping: &mut Mapping) -> Result {
        self.owns(mapping)?;

        let direction = mapping.direction.into();

        // SAFETY: By the type invariant a driver is bound; it was mapped so and still is.
        unsafe {
            match &mut mapping.extent {
                Extent::Part { address, len } => bindings::pdio_dma_sync_single_for_cpu(
                    raw(&self.device),
                    *address,
                    *len,
                    direction,
                ),
                Extent::List(entries) => bindings::pdio_dma_sync_sg_for_cpu(
                    raw(&self.device),
                    entries.as_mut_ptr(),
                    entries.len() as i32,
                    direction,
                ),
            }
        };
        Ok(())
    }

    /// Unmaps, and gives up the references to the pages.
    ///
    /// # Errors
    ///
    /// `EINVAL`: the mapping is another device's; it stays.
    pub fn unmap(&self, mut mapping: Mapping) -> Result {
        self.owns(&mapping)?;

        let direction = mapping.direction.into();

        // SAFETY: By the type invariant a driver is bound; it was mapped so and still is, for this
        // takes it.
        unsafe {
            match &mut mapping.extent {
                Extent::Part { address, len } => {
                    bindings::dma_unmap_page_attrs(raw(&self.device), *address, *len, direction, 0)
                }
                Extent::List(entries) => bindings::dma_unmap_sg_attrs(
                    raw(&self.device),
                    entries.as_mut_ptr(),
                    entries.len() as i32,
                    direction,
                    0,
                ),
            }
        };
        drop(ManuallyDrop::into_inner(mapping.frames));
        Ok(())
    }

    /// Whether a mapping is one of this device.
    fn owns(&self, mapping: &Mapping) -> Result {
        if core::ptr::eq(raw(&self.device), raw(&mapping.device)) {
            Ok(())
        } else {
            Err(EINVAL)
        }
    }
}
