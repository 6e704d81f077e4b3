// SPDX-License-Identifier: GPL-2.0

//! Exact mappings: IOVA space is allocated and just the pages of a buffer are mapped in it.
//!
//! Every strategy that maps exactly, and every fallback, makes its mappings here; how they are
//! given back is what tells the strategies apart.

use super::{
    address::{
        pages_of,
        Buffer,
        Iova,
        PageRange,
        Phys,
        PAGE_SHIFT, //
    },
    backend::{
        Access,
        Arena,
        Backend,
        OutOfMemory,
        Target, //
    },
    list::{
        List,
        Segment, //
    },
};

/// Where an exact mapping is made.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// The part of the IOVA space.
    pub arena: Arena,
    /// The last address that the device can send.
    pub limit: u64,
    /// No segment may cross a multiple of this plus one: `dma_get_seg_boundary()`.
    pub boundary_mask: u64,
}

/// Maps one buffer.
///
/// # Errors
///
/// [`OutOfMemory`]: nothing is mapped.
#[inline]
pub fn map<B: Backend>(
    backend: &B,
    place: Place,
    buffer: Buffer,
    access: Access,
    target: Target,
) -> Result<Iova, OutOfMemory> {
    let pages = buffer.pages();
    let start = backend
        .alloc_iova(place.arena, pages, place.limit)
        .ok_or(OutOfMemory)?;
    let range = PageRange { start, pages };

    if let Err(error) = backend.map(range, buffer.phys.page_start(), access, target) {
        backend.free_iova(place.arena, range);
        return Err(error);
    }

    Ok(buffer.at(start))
}

/// How much a list comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Number of segments.
    pub segments: u64,
    /// Number of pages that are mapped for them.
    pub pages: u64,
    /// Where the list starts in memory, if it is one piece there: each segment but the first begins
    /// where the last one ended, at the start of a page.
    pub piece: Option<Phys>,
}

impl Extent {
    /// That of nothing.
    const EMPTY: Self = Self {
        segments: 0,
        pages: 0,
        piece: None,
    };

    /// The extent of segments.
    #[inline]
    pub fn of<'a, S: Segment + 'a>(segments: impl Iterator<Item = &'a mut S>) -> Self {
        Self::up_to(segments, u64::MAX >> PAGE_SHIFT)
    }

    /// The extent of the first segments, as many as have no more than `max` pages.
    #[inline]
    pub fn up_to<'a, S: Segment + 'a>(
        mut segments: impl Iterator<Item = &'a mut S>,
        max: u64,
    ) -> Self {
        let Some(first) = segments.next().map(|first| first.buffer()) else {
            return Self::EMPTY;
        };

        if first.pages() > max {
            return Self::EMPTY;
        }

        // One piece of memory takes a sum and a comparison for each segment.
        let start = first.phys;
        let last = start.page_start().0.saturating_add(max << PAGE_SHIFT);
        let mut end = start.0.wrapping_add(first.len);
        let mut n = 1;

        for segment in segments.by_ref() {
            let buffer = segment.buffer();
            let piece = Self {
                segments: n,
                pages: pages_of(start.0, end.wrapping_sub(start.0)),
                piece: Some(start),
            };

            if buffer.phys.0 != end || buffer.phys != buffer.phys.page_start() {
                return piece.and_more(buffer, segments, max);
            }
            end = end.wrapping_add(buffer.len);
            if end > last {
                return piece;
            }
            n = n.wrapping_add(1);
        }

        Self {
            segments: n,
            pages: pages_of(start.0, end.wrapping_sub(start.0)),
            piece: Some(start),
        }
    }

    /// The extent of this and more segments, of which `buffer` is the first, that are not one piece
    /// with it.
    #[inline]
    fn and_more<'a, S: Segment + 'a>(
        mut self,
        mut buffer: Buffer,
        mut segments: impl Iterator<Item = &'a mut S>,
        max: u64,
    ) -> Self {
        loop {
            let pages = self.pages.wrapping_add(buffer.pages());

            if pages > max {
                return self;
            }
            self.piece = None;
            self.pages = pages;
            self.segments = self.segments.wrapping_add(1);

            match segments.next() {
                Some(next) => buffer = next.buffer(),
                None => return self,
            }
        }
    }
}

/// How segments are unmapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmapped {
    /// All of them together.
    Together,
    /// Each on its own, maybe.
    Apart,
}

/// What all segments have in common.
#[derive(Clone, Copy, Debug)]
pub struct Use {
    /// What the device may do.
    pub access: Access,
    /// What they are.
    pub target: Target,
    /// How they are given back.
    pub unmapped: Unmapped,
}

impl Use {
    /// Maps memory that `segments` segments lie in.
    #[inline]
    fn map<B: Backend>(
        self,
        backend: &B,
        range: PageRange,
        phys: Phys,
        segments: u64,
    ) -> Result<(), OutOfMemory> {
        if self.unmapped == Unmapped::Apart && segments != 1 {
            backend.map_pages(range, phys, self.access)
        } else {
            backend.map(range, phys, self.access, self.target)
        }
    }
}

/// Maps all segments into one range of IOVA space, by one page-table pass for each piece of memory,
/// and tells each segment its address. `extent` is that of the list. What is unmapped apart must be
/// memory.
///
/// # Errors
///
/// [`OutOfMemory`]: nothing is mapped.
pub fn map_list<B: Backend, L: List>(
    backend: &B,
    place: Place,
    list: &mut L,
    extent: Extent,
    purpose: Use,
) -> Result<(), OutOfMemory> {
    let pages = if place.boundary_mask >> PAGE_SHIFT >= extent.pages {
        // The range is aligned to its size or to more than it, so nothing in it crosses a boundary.
        extent.pages
    } else {
        let mut placer = Placer::new(place.boundary_mask);

        for segment in list.segments() {
            placer.place(segment.buffer().pages());
        }
        placer.next
    };
    let start = backend
        .alloc_iova(place.arena, pages, place.limit)
        .ok_or(OutOfMemory)?;
    let range = PageRange { start, pages };

    let result = match extent.piece {
        Some(phys) if pages == extent.pages => purpose
            .map(backend, range, phys.page_start(), extent.segments)
            .map(|()| assign_piece(range, phys, list)),
        _ => map_runs(backend, start, place.boundary_mask, list, purpose),
    };

    if result.is_err() {
        backend.free_iova(place.arena, range);
    }
    result
}

/// Tells the segments of a list that is one piece of memory, which starts at `phys` and is mapped to
/// `range`, their addresses.
#[inline]
fn assign_piece<L: List>(range: PageRange, phys: Phys, list: &mut L) {
    let distance = range.start.0.wrapping_sub(phys.page_start().0);

    for segment in list.segments() {
        segment.assign(Iova(segment.buffer().phys.0.wrapping_add(distance)));
    }
}

/// Maps a list from `start` on, run by run.
fn map_runs<B: Backend, L: List>(
    backend: &B,
    start: Iova,
    boundary_mask: u64,
    list: &mut L,
    purpose: Use,
) -> Result<(), OutOfMemory> {
    let failed = Runs::new(list.segments(), start, boundary_mask).position(|run| {
        purpose
            .map(backend, run.range, run.phys, run.segments)
            .is_err()
    });

    let Some(mapped) = failed else {
        return Ok(());
    };

    if mapped != 0 {
        let runs = Runs::new(list.segments(), start, boundary_mask).take(mapped);

        backend.unmap_flush(runs.map(|run| run.range));
    }
    Err(OutOfMemory)
}

/// The IOVA range that [`map_list`] took for `list`, how many segments it has, and how many pages of
/// the range are mapped: boundaries leave holes.
pub fn whole<L: List>(list: &mut L) -> Option<(PageRange, u64, u64)> {
    let mut ranges = list.segments().map(|segment| segment.mapped());
    let first = ranges.next()?;
    let (mut segments, mut pages, mut end) = (1, first.pages, first.end());

    for range in ranges {
        segments += 1;
        pages += range.pages;
        end = range.end();
    }

    let whole = PageRange {
        start: first.start,
        pages: end.0.wrapping_sub(first.start.0) >> PAGE_SHIFT,
    };

    Some((whole, segments, pages))
}

/// The parts of [`whole`] that are mapped.
pub fn mapped_runs<L: List>(list: &mut L) -> impl Iterator<Item = PageRange> + '_ {
    let mut ranges = list.segments().map(|segment| segment.mapped()).peekable();

    core::iter::from_fn(move || {
        let mut run = ranges.next()?;

        while let Some(next) = ranges.next_if(|next| next.start == run.end()) {
            run.pages += next.pages;
        }
        Some(run)
    })
}

/// Places segments one after the other so that none crosses a boundary.
///
/// Works on offsets from the start of the range. The range is aligned to its size, so what does
/// not cross a boundary as an offset does not cross one as an address.
struct Placer {
    /// The first free page.
    next: u64,
    /// Pages between two boundaries.
    boundary: u64,
}

impl Placer {
    /// A placer for an empty range.
    fn new(boundary_mask: u64) -> Self {
        Self {
            next: 0,
            boundary: (boundary_mask >> PAGE_SHIFT) + 1,
        }
    }

    /// The place of a segment of `pages` pages.
    ///
    /// What is longer than a boundary crosses one wherever it lies, so it is not moved.
    fn place(&mut self, pages: u64) -> u64 {
        // The boundary is a power of two.
        let room = self.boundary - (self.next & (self.boundary - 1));

        if room < pages && pages <= self.boundary {
            self.next += room;
        }

        let at = self.next;

        self.next += pages;
        at
    }
}

/// Pages that are contiguous on both sides.
#[derive(Clone, Copy)]
struct Run {
    range: PageRange,
    phys: Phys,
    /// Number of segments.
    segments: u64,
}

impl Run {
    /// Whether `next` can be mapped by the same call.
    fn continues_with(&self, next: &Self) -> bool {
        self.range.end() == next.range.start && self.phys.0 + self.range.bytes() == next.phys.0
    }
}

/// The runs of a list that is placed at `start`; tells each segment its address on the way.
struct Runs<I> {
    segments: I,
    start: Iova,
    placer: Placer,
    pending: Option<Run>,
}

impl<I> Runs<I> {
    fn new(segments: I, start: Iova, boundary_mask: u64) -> Self {
        Self {
            segments,
            start,
            placer: Placer::new(boundary_mask),
            pending: None,
        }
    }
}

impl<'a, I: Iterator<Item = &'a mut S>, S: Segment + 'a> Iterator for Runs<I> {
    type Item = Run;

    fn next(&mut self) -> Option<Run> {
        for segment in self.segments.by_ref() {
            let buffer = segment.buffer();
            let pages = buffer.pages();
            let start = Iova(self.start.0 + (self.placer.place(pages) << PAGE_SHIFT));
            let run = Run {
                range: PageRange { start, pages },
                phys: buffer.phys.page_start(),
                segments: 1,
            };

            segment.assign(buffer.at(start));

            match &mut self.pending {
                Some(pending) if pending.continues_with(&run) => {
                    pending.range.pages += pages;
                    pending.segments += 1;
                }
                pending => {
                    if let Some(done) = pending.replace(run) {
                        return Some(done);
                    }
                }
            }
        }

        self.pending.take()
    }
}
