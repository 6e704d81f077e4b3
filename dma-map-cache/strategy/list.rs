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

/// A list that can be walked from its start as often as needed.
pub trait List {
    /// Its entries.
    type Segment: Segment;

    /// Walks the entries in order. There is at least one.
    fn segments(&mut self) -> impl Iterator<Item = &mut Self::Segment>;
}

impl<S: Segment> List for &mut [S] {
    type Segment = S;

    #[inline]
    fn segments(&mut self) -> impl Iterator<Item = &mut S> {
        self.iter_mut()
    }
}
