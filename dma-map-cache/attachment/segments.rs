// SPDX-License-Identifier: GPL-2.0

//! The kernel's lists of buffers, as strategies see them.

use pdio::{
    coherent::Piece,
    dma_map_multi,
    dma_map_ops::DmaAddress,
    scatterlist::{
        self,
        EntryList, //
    }, //
};

use crate::strategy::{
    address::{
        Buffer,
        Iova,
        Phys, //
    },
    list::{
        Joiner,
        List,
        Segment, //
    }, //
};

impl Segment for scatterlist::Entry {
    #[inline]
    fn buffer(&self) -> Buffer {
        Buffer {
            phys: Phys(self.phys()),
            len: self.len().max(1),
        }
    }

    #[inline]
    fn assign(&mut self, iova: Iova) {
        self.set_dma_address(iova.0);
    }

    #[inline]
    fn assigned(&self) -> (Iova, u64) {
        (Iova(self.dma_address()), self.dma_len())
    }
}

impl List for EntryList<'_> {
    type Segment = scatterlist::Entry;

    #[inline]
    fn segments(&mut self) -> impl Iterator<Item = &mut scatterlist::Entry> {
        self.iter_mut()
    }

    #[inline]
    fn entries(&self) -> usize {
        self.len()
    }

    #[inline]
    fn assigned(&mut self) -> impl Iterator<Item = &mut scatterlist::Entry> {
        self.iter_mapped()
    }

    #[inline]
    fn join(&mut self, mut joiner: Joiner) {
        self.rewrite(|segment| {
            let joined = match segment {
                Some((dma_address, len)) => joiner.push(Iova(dma_address), len.into()),
                None => joiner.finish(),
            };

            // What is joined is no longer than the limit, which is of 32 bits.
            joined.map(|(iova, len)| (iova.0, len as u32))
        });
    }
}

impl Segment for dma_map_multi::Buffer {
    #[inline]
    fn buffer(&self) -> Buffer {
        Buffer {
            phys: Phys(self.phys()),
            len: self.len().max(1),
        }
    }

    #[inline]
    fn assign(&mut self, iova: Iova) {
        self.set_dma_address(DmaAddress(iova.0));
    }

    #[inline]
    fn assigned(&self) -> (Iova, u64) {
        (Iova(self.dma_address().0), self.len().max(1))
    }
}

impl Segment for Piece {
    fn buffer(&self) -> Buffer {
        Buffer {
            phys: Phys(self.phys),
            len: self.len.max(1),
        }
    }

    fn assign(&mut self, iova: Iova) {
        self.dma_address = iova.0;
    }

    fn assigned(&self) -> (Iova, u64) {
        (Iova(self.dma_address), self.len)
    }
}
