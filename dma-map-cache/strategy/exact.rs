// SPDX-License-Identifier: GPL-2.0

//! Exact mappings: IOVA space is allocated and just the pages of a buffer are mapped in it.
//!
//! Every strategy that maps exactly, and every fallback, makes its mappings here; how they are
//! given back is what tells the strategies apart.

use super::{
    address::{
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    /// Number of segments.
    pub segments: u64,
    /// Number of pages that are mapped for them.
    pub pages: u64,
}

/// Maps all segments into one range of IOVA space, by one page-table pass, and tells each segment
/// its address.
///
/// # Errors
///
/// [`OutOfMemory`]: nothing is mapped.
pub fn map_list<B: Backend, L: List>(
    backend: &B,
    place: Place,
    list: &mut L,
    access: Access,
    target: Target,
) -> Result<Extent, OutOfMemory> {
    let mut placer = Placer::new(place.boundary_mask);
    let mut extent = Extent::default();

    for segment in list.segments() {
        let pages = segment.buffer().pages();

        placer.place(pages);
        extent.segments += 1;
        extent.pages += pages;
    }

    let pages = placer.next;
    let start = backend
        .alloc_iova(place.arena, pages, place.limit)
        .ok_or(OutOfMemory)?;
    let failed = Runs::new(list.segments(), start, place.boundary_mask)
        .position(|run| backend.map(run.range, run.phys, access, target).is_err());

    let Some(mapped) = failed else {
        return Ok(extent);
    };

    if mapped != 0 {
        let runs = Runs::new(list.segments(), start, place.boundary_mask).take(mapped);

        backend.unmap_flush(runs.map(|run| run.range));
    }
    backend.free_iova(place.arena, PageRange { start, pages });
    Err(OutOfMemory)
}

/// The IOVA range that [`map_list`] took for `list`, and how much of it is mapped: boundaries leave
/// holes.
pub fn whole<L: List>(list: &mut L) -> Option<(PageRange, Extent)> {
    let mut segments = list.segments().map(|segment| segment.mapped());
    let first = segments.next()?;
    let mut extent = Extent {
        segments: 1,
        pages: first.pages,
    };
    let mut end = first.end();

    for range in segments {
        extent.segments += 1;
        extent.pages += range.pages;
        end = range.end();
    }

    let whole = PageRange {
        start: first.start,
        pages: end.0.wrapping_sub(first.start.0) >> PAGE_SHIFT,
    };

    Some((whole, extent))
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
            };

            segment.assign(buffer.at(start));

            match &mut self.pending {
                Some(pending) if pending.continues_with(&run) => pending.range.pages += pages,
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
