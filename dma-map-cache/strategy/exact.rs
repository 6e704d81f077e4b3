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
        Incomplete,
        OutOfMemory,
        Run,
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
    /// Whether the pages of memory that `segments` segments lie in are unmapped apart.
    #[inline]
    fn divides(self, segments: u64) -> bool {
        self.unmapped == Unmapped::Apart && segments != 1
    }

    /// Maps memory that `segments` segments lie in.
    #[inline]
    fn map<B: Backend>(
        self,
        backend: &B,
        range: PageRange,
        phys: Phys,
        segments: u64,
    ) -> Result<(), OutOfMemory> {
        if self.divides(segments) {
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
        let mut placer = Placer::new(Some(place.boundary_mask));

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
        _ => {
            // Where nothing was moved, nothing has to be looked at again.
            let boundary_mask = (pages != extent.pages).then_some(place.boundary_mask);

            map_runs(backend, start, boundary_mask, list, purpose)
        }
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

/// Maps a list from `start` on, run by run. Not a part of its callers, whose other ways are short.
#[inline(never)]
fn map_runs<B: Backend, L: List>(
    backend: &B,
    start: Iova,
    boundary_mask: Option<u64>,
    list: &mut L,
    purpose: Use,
) -> Result<(), OutOfMemory> {
    let runs = Runs::new(list.segments(), start, boundary_mask, purpose);
    let Err(Incomplete(mapped)) = backend.map_runs(runs, purpose.access, purpose.target) else {
        return Ok(());
    };

    if mapped != 0 {
        let runs = Runs::new(list.segments(), start, boundary_mask, purpose).take(mapped);

        backend.unmap_flush(runs.map(|run| run.range));
    }
    Err(OutOfMemory)
}

/// The IOVA range that [`map_list`] took for `list`, and how many pages of it are mapped: boundaries
/// leave holes.
pub fn whole<L: List>(list: &mut L) -> Option<(PageRange, u64)> {
    let mut ranges = list.assigned().map(|segment| segment.mapped());
    let first = ranges.next()?;
    let (mut pages, mut last) = (first.pages, first);

    for range in ranges {
        pages = pages.wrapping_add(range.pages);
        last = range;
    }

    let whole = PageRange {
        start: first.start,
        pages: last.end().0.wrapping_sub(first.start.0) >> PAGE_SHIFT,
    };

    Some((whole, pages))
}

/// The parts of [`whole`] that are mapped.
pub fn mapped_runs<L: List>(list: &mut L) -> impl Iterator<Item = PageRange> + '_ {
    let mut ranges = list.assigned().map(|segment| segment.mapped()).peekable();

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
    /// Pages between two boundaries, a power of two, minus one.
    boundary_mask: Option<u64>,
}

impl Placer {
    /// A placer for an empty range; without a mask everything may cross everything.
    #[inline]
    fn new(boundary_mask: Option<u64>) -> Self {
        Self {
            next: 0,
            boundary_mask: boundary_mask.map(|mask| mask >> PAGE_SHIFT),
        }
    }

    /// The place of a segment of `pages` pages.
    ///
    /// What is longer than a boundary crosses one wherever it lies, so it is not moved.
    #[inline]
    fn place(&mut self, pages: u64) -> u64 {
        if let Some(mask) = self.boundary_mask {
            // Pages after this one up to the boundary.
            let room = !self.next & mask;

            if pages > room.wrapping_add(1) && pages <= mask.wrapping_add(1) {
                self.next = self.next.wrapping_add(room.wrapping_add(1));
            }
        }

        let at = self.next;

        self.next = self.next.wrapping_add(pages);
        at
    }
}

/// The runs of a list that is placed at `start`; tells each segment its address on the way.
struct Runs<I> {
    segments: I,
    start: Iova,
    placer: Placer,
    purpose: Use,
    /// The next segment, placed.
    ahead: Option<Run>,
}

impl<'a, I: Iterator<Item = &'a mut S>, S: Segment + 'a> Runs<I> {
    #[inline]
    fn new(segments: I, start: Iova, boundary_mask: Option<u64>, purpose: Use) -> Self {
        let mut runs = Self {
            segments,
            start,
            placer: Placer::new(boundary_mask),
            purpose,
            ahead: None,
        };

        runs.ahead = runs.place();
        runs
    }

    /// Places the next segment.
    #[inline(always)]
    fn place(&mut self) -> Option<Run> {
        let segment = self.segments.next()?;
        let buffer = segment.buffer();
        let pages = buffer.pages();
        let offset = self.placer.place(pages) << PAGE_SHIFT;
        let start = Iova(self.start.0.wrapping_add(offset));

        segment.assign(buffer.at(start));
        Some(Run {
            range: PageRange { start, pages },
            phys: buffer.phys.page_start(),
            divisible: false,
        })
    }
}

impl<'a, I: Iterator<Item = &'a mut S>, S: Segment + 'a> Iterator for Runs<I> {
    type Item = Run;

    #[inline(always)]
    fn next(&mut self) -> Option<Run> {
        let mut run = self.ahead?;
        let mut segments = 1u64;

        loop {
            self.ahead = self.place();

            match &self.ahead {
                Some(next) if continues(&run, next) => {
                    segments = segments.wrapping_add(1);
                    run.range.pages = run.range.pages.wrapping_add(next.range.pages);
                }
                _ => break,
            }
        }

        run.divisible = self.purpose.divides(segments);
        Some(run)
    }
}

/// Whether `next` can be mapped by the same call as `run`.
#[inline(always)]
fn continues(run: &Run, next: &Run) -> bool {
    run.range.end() == next.range.start && run.phys.0.wrapping_add(run.range.bytes()) == next.phys.0
}
