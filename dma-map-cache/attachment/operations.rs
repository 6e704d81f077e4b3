// SPDX-License-Identifier: GPL-2.0

//! How the DMA API and `dma_map_multi()` reach an attachment.

use kernel::prelude::*;
use pdio::{
    coherent::Piece,
    dma_map_multi::{
        self,
        export_dma_map_multi, //
    },
    dma_map_ops::{
        self,
        Direction,
        DmaAddress,
        DmaMapOps,
        Masks, //
    },
    scatterlist::EntryList,
    trace::dma_map_cache as trace, //
};

use super::Attachment;
use crate::strategy::{
    address::{
        Buffer,
        Iova,
        PageRange,
        Phys, //
    },
    backend::{
        Access,
        OutOfMemory,
        Target, //
    },
    counted::NotRetained,
    engine::Reach,
    list::SegmentLimits, //
};

/// The path for the strategies that keep pages; there is none for those that map exactly.
pub(super) const PATH_CACHED: usize = 1;
/// The path for `premapped`.
pub(super) const PATH_PREMAPPED: usize = 2;
/// The path for `pool`, and for all as long as something is left of it.
pub(super) const PATH_POOL: usize = 3;

const _: () = assert!(PATH_POOL == dma_map_ops::FIRST_SYNC_PATH);

impl DmaMapOps for Attachment {
    #[inline(always)]
    fn map<const PATH: usize>(
        &self,
        masks: Masks,
        phys: u64,
        len: u64,
        direction: Direction,
    ) -> DmaAddress {
        let buffer = Buffer {
            phys: Phys(phys),
            len,
        };
        let may_write = direction != Direction::TO_DEVICE;

        if !trace::map_is_on() {
            let hit = match PATH {
                PATH_CACHED => {
                    self.engine
                        .map_cached_hit(self, buffer, may_write, masks.streaming())
                }
                PATH_PREMAPPED => self
                    .engine
                    .map_premapped_hit(self, buffer, masks.streaming()),
                PATH_POOL if !masks.skips_sync() => self.engine.map_pool_hit(
                    self,
                    buffer,
                    access_of(direction),
                    masks.streaming(),
                    masks.min_align(),
                ),
                _ => None,
            };

            if let Some(iova) = hit {
                return DmaAddress(iova.0);
            }
        }

        match PATH {
            PATH_CACHED | PATH_PREMAPPED => {
                Self::map_pages_of::<PATH>(masks, phys, len, direction, self)
            }
            _ => Self::map_slowly(masks, phys, len, direction, self),
        }
    }

    #[inline(always)]
    fn unmap<const PATH: usize>(&self, dma_address: DmaAddress, len: u64) {
        let iova = Iova(dma_address.0);

        if !trace::unmap_is_on() {
            let done = match PATH {
                PATH_CACHED => self.engine.unmap_cached_hit(self, iova, len),
                PATH_PREMAPPED => self.engine.unmap_premapped_hit(self, iova, len),
                PATH_POOL => self.engine.unmap_pool_hit(self, iova, len),
                _ => false,
            };

            if done {
                return;
            }
        }

        match PATH {
            PATH_CACHED | PATH_PREMAPPED => self.unmap_pages_of::<PATH>(dma_address, len),
            _ => self.unmap_slowly(dma_address, len),
        }
    }

    fn map_list(&self, masks: Masks, list: &mut EntryList<'_>, direction: Direction) -> Result {
        let reach = Reach {
            segment: SegmentLimits {
                max_bytes: masks.max_segment().into(),
                boundary_mask: masks.segment_boundary(),
            },
            ..self.reach(masks)
        };
        self.engine
            .map_list(self, list, access_of(direction), reach)
            .map_err(|OutOfMemory| ENOMEM)?;
        if trace::map_is_on() {
            for entry in list.iter_mapped() {
                trace::map(
                    &self.device,
                    DmaAddress(entry.dma_address()),
                    entry.dma_len(),
                );
            }
        }
        Ok(())
    }

    fn unmap_list(&self, mut list: EntryList<'_>) {
        if trace::unmap_is_on() {
            for entry in list.iter_mapped() {
                trace::unmap(
                    &self.device,
                    DmaAddress(entry.dma_address()),
                    entry.dma_len(),
                );
            }
        }
        self.engine.unmap_list(self, &mut list);
    }

    fn discard(&self, dma_address: DmaAddress) {
        self.engine.discard(Iova(dma_address.0));
    }

    fn sync_for_device(&self, dma_address: DmaAddress, len: u64) {
        self.engine.sync_for_device(self, Iova(dma_address.0), len);
    }

    fn sync_for_cpu(&self, dma_address: DmaAddress, len: u64) {
        self.engine.sync_for_cpu(self, Iova(dma_address.0), len);
    }

    fn map_multi(
        &self,
        masks: Masks,
        buffers: &mut [dma_map_multi::Buffer],
        direction: Direction,
    ) -> Result {
        let reach = self.reach(masks);

        self.engine
            .map_multi(self, buffers, access_of(direction), reach)
            .map_err(|OutOfMemory| ENOMEM)?;
        if trace::map_is_on() {
            for buffer in buffers {
                trace::map(&self.device, buffer.dma_address(), buffer.len());
            }
        }
        Ok(())
    }

    fn retain(
        &self,
        masks: Masks,
        buffers: &[dma_map_multi::Buffer],
        direction: Direction,
    ) -> Result {
        let reach = self.reach(masks);

        self.engine
            .retain(self, buffers, access_of(direction), reach)
            .map_err(|reason| match reason {
                NotRetained::Distrusted => EPERM,
                NotRetained::OutOfReach => ERANGE,
                NotRetained::Busy => EAGAIN,
                NotRetained::OverBudget => ENOSPC,
                NotRetained::OutOfMemory => ENOMEM,
            })
    }

    fn release_retained(&self, buffers: &[dma_map_multi::Buffer], direction: Direction) {
        self.engine
            .release_retained(self, buffers, access_of(direction));
    }

    fn unmap_multi(&self, buffers: &mut [dma_map_multi::Buffer]) {
        if trace::unmap_is_on() {
            for buffer in buffers.iter() {
                trace::unmap(&self.device, buffer.dma_address(), buffer.len());
            }
        }
        self.engine.unmap_multi(self, buffers);
    }

    fn map_fixed(
        &self,
        limit: u64,
        mut pieces: &mut [Piece],
        direction: Direction,
        target: dma_map_ops::Target,
    ) -> DmaAddress {
        let target = match target {
            dma_map_ops::Target::Memory => Target::Memory,
            dma_map_ops::Target::Mmio => Target::Mmio,
        };
        let mapped = self
            .engine
            .map_fixed(self, &mut pieces, access_of(direction), target, limit);

        match (mapped, pieces.first()) {
            (Ok(()), Some(first)) => DmaAddress(first.dma_address),
            _ => DmaAddress::MAPPING_ERROR,
        }
    }

    fn unmap_fixed(&self, dma_address: DmaAddress, len: u64) {
        self.engine
            .unmap_fixed(self, PageRange::of(Iova(dma_address.0), len.max(1)));
    }
}

export_dma_map_multi!(Attachment);

impl Attachment {
    /// What the driver may be given now, in any buffer. Sees to it that the driver synchronizes what
    /// it is given, if it must.
    #[inline]
    fn reach(&self, masks: Masks) -> Reach {
        if self.engine.needs_sync() {
            masks.require_sync();
        }

        Reach {
            limit: masks.streaming(),
            segment: SegmentLimits::NONE,
            align_mask: masks.min_align(),
        }
    }

    /// Maps a buffer that does not lie within one page, or is no simple hit for another reason.
    ///
    /// Apart from the path of one page, which needs no stack frame, and from all that can happen:
    /// one in three receive buffers of a network card lies across the boundary of two pages.
    #[inline(never)]
    fn map_pages_of<const PATH: usize>(
        masks: Masks,
        phys: u64,
        len: u64,
        direction: Direction,
        this: &Self,
    ) -> DmaAddress {
        let buffer = Buffer {
            phys: Phys(phys),
            len,
        };
        let may_write = direction != Direction::TO_DEVICE;

        if len != 0 && !trace::map_is_on() {
            let limit = masks.streaming();
            let hit = match PATH {
                PATH_PREMAPPED => this.engine.map_premapped_hits(this, buffer, limit),
                _ => this.engine.map_cached_hits(this, buffer, may_write, limit),
            };

            if let Some(iova) = hit {
                return DmaAddress(iova.0);
            }
        }
        Self::map_slowly(masks, phys, len, direction, this)
    }

    /// Unmaps what [`Attachment::map_pages_of`] is there for.
    #[inline(never)]
    fn unmap_pages_of<const PATH: usize>(&self, dma_address: DmaAddress, len: u64) {
        let iova = Iova(dma_address.0);

        if len != 0 && !trace::unmap_is_on() {
            let done = match PATH {
                PATH_PREMAPPED => self.engine.unmap_premapped_hits(self, iova, len),
                _ => self.engine.unmap_cached_hits(self, iova, len),
            };

            if done {
                return;
            }
        }
        self.unmap_slowly(dma_address, len);
    }

    /// Maps a buffer that is no simple hit, or that somebody wants to hear of.
    ///
    /// The parameters are in the order in which the DMA core passes them, so that the path of a hit
    /// has no registers to shuffle.
    #[inline(never)]
    fn map_slowly(
        masks: Masks,
        phys: u64,
        len: u64,
        direction: Direction,
        this: &Self,
    ) -> DmaAddress {
        let buffer = Buffer {
            phys: Phys(phys),
            len: len.max(1),
        };
        let reach = this.reach(masks);
        match this.engine.map(this, buffer, access_of(direction), reach) {
            Ok(iova) => {
                if len == 0 {
                    // The byte that was mapped instead is somebody else's.
                    this.engine.discard(iova);
                }
                trace::map(&this.device, DmaAddress(iova.0), len);
                DmaAddress(iova.0)
            }
            Err(OutOfMemory) => DmaAddress::MAPPING_ERROR,
        }
    }

    /// Unmaps a buffer that was no simple hit, or that somebody wants to hear of.
    #[inline(never)]
    fn unmap_slowly(&self, dma_address: DmaAddress, len: u64) {
        trace::unmap(&self.device, dma_address, len);
        self.engine.unmap(self, Iova(dma_address.0), len.max(1));
    }
}

/// What the device may do with a buffer of a direction.
fn access_of(direction: Direction) -> Access {
    match direction {
        Direction::TO_DEVICE => Access::Read,
        Direction::FROM_DEVICE => Access::Write,
        _ => Access::ReadWrite,
    }
}
