// SPDX-License-Identifier: GPL-2.0

//! Lists of buffers that a driver maps by one call.

use super::address::{
    Buffer,
    Iova,
    PageRange, //
};

/// One entry of a list.
pub trait Segment {
    /// What the driver wants mapped.
    fn buffer(&self) -> Buffer;

    /// Tells the driver where the device finds the whole of [`Segment::buffer`].
    fn assign(&mut self, iova: Iova);

    /// The address that [`Segment::assign`] was given, and the number of bytes there.
    fn assigned(&self) -> (Iova, u64);

    /// The pages that [`Segment::assign`] made the device see; a segment without bytes has one.
    #[inline]
    fn mapped(&self) -> PageRange {
        let (iova, len) = self.assigned();

        PageRange::of(iova, len.max(1))
    }
}

/// What a device can do with a segment of a list.
#[derive(Clone, Copy, Debug)]
pub struct SegmentLimits {
    /// Most bytes: `dma_get_max_seg_size()`.
    pub max_bytes: u64,
    /// One less than the boundary that it may not cross: `dma_get_seg_boundary()`.
    pub boundary_mask: u64,
}

impl SegmentLimits {
    /// Anything.
    pub const NONE: Self = Self {
        max_bytes: u64::MAX,
        boundary_mask: u64::MAX,
    };
}

/// Joins segments that lie side by side for the device, so that it is told of fewer: as
/// `__finalise_sg()` in `drivers/iommu/dma-iommu.c` does.
#[derive(Debug)]
pub struct Joiner {
    limits: SegmentLimits,
    /// What may still grow: address and length.
    last: Option<(Iova, u64)>,
}

impl Joiner {
    /// A joiner that has seen nothing.
    #[inline]
    pub const fn new(limits: SegmentLimits) -> Self {
        Self { limits, last: None }
    }

    /// Takes the next segment, and gives one back that it cannot be joined with.
    #[inline]
    pub fn push(&mut self, iova: Iova, len: u64) -> Option<(Iova, u64)> {
        if let Some((start, bytes)) = &mut self.last {
            let joined = bytes.wrapping_add(len);
            let end = start.0.wrapping_add(joined).wrapping_sub(1);

            if start.0.wrapping_add(*bytes) == iova.0
                && joined <= self.limits.max_bytes
                && (start.0 ^ end) & !self.limits.boundary_mask == 0
            {
                *bytes = joined;
                return None;
            }
        }

        self.last.replace((iova, len))
    }

    /// What is left at the end.
    #[inline]
    pub fn finish(&mut self) -> Option<(Iova, u64)> {
        self.last.take()
    }
}

/// A list that can be walked from its start as often as needed.
pub trait List {
    /// Its entries.
    type Segment: Segment;

    /// Walks the entries in order. There is at least one.
    fn segments(&mut self) -> impl Iterator<Item = &mut Self::Segment>;

    /// Number of entries, joined or not.
    fn entries(&self) -> usize;

    /// The entries that have an address of those that [`Segment::assign`] gave to all of them: all,
    /// or the first ones, which stand for more, once they were joined.
    #[inline]
    fn assigned(&mut self) -> impl Iterator<Item = &mut Self::Segment> {
        self.segments()
    }

    /// Joins what lies side by side, if the driver expects that.
    #[inline]
    fn join(&mut self, _joiner: Joiner) {}
}

impl<S: Segment> List for &mut [S] {
    type Segment = S;

    #[inline]
    fn segments(&mut self) -> impl Iterator<Item = &mut S> {
        self.iter_mut()
    }

    #[inline]
    fn entries(&self) -> usize {
        self.len()
    }
}
