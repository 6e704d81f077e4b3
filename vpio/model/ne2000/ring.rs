// SPDX-License-Identifier: GPL-2.0

//! The receive ring.

use super::memory::{
    Page,
    PAGE_SIZE, //
};

/// Bytes in front of each frame: status, next page, count.
pub const HEADER_LEN: u16 = 4;
/// Bytes of the checksum, for which the device makes room.
const CHECKSUM_LEN: u16 = 4;

/// A receive ring that lies within card RAM, with both pointers within it.
///
/// Page registers are written by the guest and can hold anything. A frame is placed through this
/// type alone, so it cannot end up anywhere else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ring {
    start: Page,
    stop: Page,
    current: Page,
    boundary: Page,
}

impl Ring {
    /// The ring that PSTART, PSTOP, CURR and BNRY describe.
    ///
    /// [`None`]: they describe none, so the device could receive nothing to it.
    pub const fn new(pstart: u8, pstop: u8, curr: u8, bnry: u8) -> Option<Self> {
        let (Some(start), Some(stop)) = (Page::new(pstart), Page::new(pstop)) else {
            return None;
        };

        if pstart >= pstop || curr < pstart || curr >= pstop || bnry < pstart || bnry >= pstop {
            return None;
        }

        match (Page::new(curr), Page::new(bnry)) {
            (Some(current), Some(boundary)) => Some(Self {
                start,
                stop,
                current,
                boundary,
            }),
            _ => None,
        }
    }

    /// Whether PSTART and PSTOP describe one.
    pub const fn exists(pstart: u8, pstop: u8) -> bool {
        Self::new(pstart, pstop, pstart, pstart).is_some()
    }

    /// The page that BNRY stands for.
    ///
    /// Linux's driver sets it to the page before the next frame, which is the one below the ring when
    /// that frame is at its start (`ei_receive()` of lib8390.c). A card never comes to that page;
    /// QEMU's has as much room as if it were the last one of the ring (`ne2000_buffer_full()`), which
    /// is what the driver means.
    pub const fn boundary(pstart: u8, pstop: u8, bnry: u8) -> u8 {
        if bnry == pstart.wrapping_sub(1) {
            pstop.wrapping_sub(1)
        } else {
            bnry
        }
    }

    /// Number of pages.
    const fn pages(self) -> u8 {
        self.stop.number().wrapping_sub(self.start.number())
    }

    /// Number of pages from CURR up to BNRY; all of them if they are the same.
    const fn free(self) -> u8 {
        let distance = self.boundary.number().wrapping_sub(self.current.number());

        if self.current.number() < self.boundary.number() {
            distance
        } else {
            distance.wrapping_add(self.pages())
        }
    }

    /// The page where the next frame begins.
    pub const fn current(self) -> Page {
        self.current
    }

    /// The page that is `count` pages after CURR.
    ///
    /// [`None`]: the ring is not so long.
    const fn after(self, count: u8) -> Option<Page> {
        if count >= self.pages() {
            return None;
        }

        // Both are at most 0x80.
        let number = self.current.number().wrapping_add(count);

        Page::new(if number >= self.stop.number() {
            number.wrapping_sub(self.pages())
        } else {
            number
        })
    }

    /// Where the frame after one of `len` bytes begins.
    ///
    /// [`None`]: this one does not fit without reaching BNRY.
    pub fn next(self, len: u16) -> Option<Page> {
        let bytes = HEADER_LEN.saturating_add(len).saturating_add(CHECKSUM_LEN);
        let pages = u8::try_from(bytes.div_ceil(PAGE_SIZE)).ok()?;

        if pages >= self.free() {
            return None;
        }

        self.after(pages)
    }

    /// The pages from CURR on, once around.
    pub fn iter(self) -> impl Iterator<Item = Page> {
        (0..self.pages()).filter_map(move |count| self.after(count))
    }

    /// How far a remote DMA that began at `from` has come when it is at `to`: it runs from PSTOP to
    /// PSTART, as the device does.
    pub const fn distance(pstart: u8, pstop: u8, from: u16, to: u16) -> u16 {
        if to >= from {
            return to.wrapping_sub(from);
        }

        let ring = (pstop as u16)
            .wrapping_sub(pstart as u16)
            .wrapping_mul(PAGE_SIZE);

        to.wrapping_sub(from).wrapping_add(ring)
    }
}

/// The pages of a ring that hold frames, from one page up to another.
///
/// The links between frames are in card RAM, where a guest can write: they can lead out of it, or
/// in a circle. Here they lead from one page to a later one, until there are no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// CURR is where it begins, BNRY where it ends.
    ring: Ring,
}

impl Stretch {
    /// The pages from `from` to `to`, without `to`, of the ring that PSTART and PSTOP describe.
    ///
    /// [`None`]: they describe none, or it does not have both pages.
    pub const fn new(pstart: u8, pstop: u8, from: u8, to: u8) -> Option<Self> {
        match Ring::new(pstart, pstop, from, to) {
            Some(ring) => Some(Self { ring }),
            None => None,
        }
    }

    /// Where the next frame begins, if there is one.
    pub fn first(self) -> Option<Page> {
        Some(self.ring.current).filter(|&page| page != self.ring.boundary)
    }

    /// Goes on to the page to which the header of the next frame leads. Answers the pages of that
    /// frame.
    ///
    /// [`None`]: there is no later page of that number.
    pub fn advance(&mut self, to: u8) -> Option<Self> {
        let ring = self.ring;
        let frame = Ring::new(
            ring.start.number(),
            ring.stop.number(),
            ring.current.number(),
            to,
        )?;

        if self.first().is_none() || frame.current == frame.boundary || frame.free() > ring.free() {
            return None;
        }

        self.ring.current = frame.boundary;
        Some(Self { ring: frame })
    }

    /// Number of bytes; those of the whole ring if there are none.
    pub fn bytes(self) -> u16 {
        u16::from(self.ring.free()).saturating_mul(PAGE_SIZE)
    }

    /// The pages, in order.
    pub fn pages(self) -> impl Iterator<Item = Page> {
        self.ring
            .iter()
            .take_while(move |&page| page != self.ring.boundary)
    }
}
