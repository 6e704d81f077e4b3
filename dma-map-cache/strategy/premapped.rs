// SPDX-License-Identifier: GPL-2.0

//! `premapped`: all of RAM is mapped in advance, at a constant offset.
//!
//! Map adds the offset, unmap does nothing. What the device can still reach after unmap: all of
//! RAM, and nothing beyond it: no registers of other devices and no firmware.
//!
//! "Pre-allocating the IO address space" in *Utilizing IOMMUs for Virtualization in Linux and
//! Xen*, OLS 2006.

use core::sync::atomic::{
    AtomicBool,
    AtomicU64,
    Ordering::{
        Relaxed,
        SeqCst, //
    }, //
};

use super::{
    address::{
        Buffer,
        Iova,
        Layout,
        PageRange,
        Phys,
        Window,
        PAGE_SHIFT, //
    },
    backend::{
        Backend,
        OutOfMemory,
        Sparse, //
    },
    counter::{
        Counter,
        Flow, //
    },
};

/// Pages in a word of the bitmap.
const PAGES_PER_WORD: u64 = u64::BITS as u64;

/// Where the first page of the largest range of RAM is in [`Premapped::main`].
const MAIN_SHIFT: u32 = 32;
/// Its number of pages there.
const MAIN_PAGES: u64 = (1 << MAIN_SHIFT) - 1;

/// RAM that there is room for in any case: 1 TiB, for a directory of 64 KiB.
const MIN_ROOM: u64 = 1 << 40;

/// The strategy.
pub struct Premapped<B: Backend> {
    layout: Layout,
    /// The first address of the window.
    base: u64,
    /// Its last address.
    last: u64,
    /// The largest range of RAM that is mapped: its first page << [`MAIN_SHIFT`] | its number of
    /// pages, 0 while there is none. Nearly all of RAM is in it, and finding that out takes no look
    /// at the bitmap.
    main: AtomicU64,
    /// One bit for each page of the window: mapped.
    present: B::Sparse<AtomicU64>,
    /// Whether maps are served. While it is false and nothing is in use the window can be emptied.
    serving: AtomicBool,
    /// Whether there may be mappings in the window.
    populated: AtomicBool,
    /// Number of pages that are mapped.
    pages: AtomicU64,
}

impl<B: Backend> Premapped<B> {
    /// With nothing mapped, and room for four times as much RAM as there is. May sleep.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`].
    pub fn new(layout: Layout, ram_end: Phys) -> Result<Self, OutOfMemory> {
        let room = ram_end.0.saturating_mul(4).max(MIN_ROOM);
        let words = (room.min(layout.window_size()) >> PAGE_SHIFT) / PAGES_PER_WORD;

        Ok(Self {
            layout,
            base: layout.base(Window::Premapped),
            last: layout.last(Window::Premapped),
            main: AtomicU64::new(0),
            present: B::sparse(words)?,
            serving: AtomicBool::new(false),
            populated: AtomicBool::new(false),
            pages: AtomicU64::new(0),
        })
    }

    /// Maps all of RAM, unless it still is from the last time, and serves maps from now on.
    ///
    /// The caller keeps others from starting and retiring meanwhile. May sleep.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`]: nothing is mapped.
    pub fn start(&self, backend: &B) -> Result<(), OutOfMemory> {
        if !self.populated.load(Relaxed) {
            self.populated.store(true, Relaxed);
            if let Err(error) =
                backend.for_each_ram(&mut |phys, pages| self.insert(backend, phys, pages))
            {
                self.withdraw(backend);
                return Err(error);
            }
        }

        self.serving.store(true, SeqCst);
        Ok(())
    }

    /// Maps RAM. What does not fit in the window is left to the fallback.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`]: nothing of it is mapped.
    fn insert(&self, backend: &B, phys: Phys, pages: u64) -> Result<(), OutOfMemory> {
        let end = (phys.page() + pages).min(self.layout.window_size() >> PAGE_SHIFT);
        let Some(pages) = end.checked_sub(phys.page()).filter(|&pages| pages != 0) else {
            return Ok(());
        };

        for word in phys.page() / PAGES_PER_WORD..=(end - 1) / PAGES_PER_WORD {
            self.present.get_or_alloc(word)?;
        }

        backend.map_ram(self.range(phys.page(), pages), phys)?;
        self.for_each_word(phys.page(), end, |word, mask| {
            word.fetch_or(mask, SeqCst);
        });
        self.pages.fetch_add(pages, Relaxed);

        // A window has 2^32 pages at the most.
        if pages > self.main.load(Relaxed) & MAIN_PAGES && pages <= MAIN_PAGES {
            self.main
                .store((phys.page() << MAIN_SHIFT) | pages, Relaxed);
        }
        Ok(())
    }

    /// The IOVA range of pages.
    fn range(&self, page: u64, pages: u64) -> PageRange {
        PageRange {
            start: Iova(self.base | (page << PAGE_SHIFT)),
            pages,
        }
    }

    /// Calls `f` with each word that has bits for pages in `page..end`, and these bits.
    fn for_each_word(&self, mut page: u64, end: u64, mut f: impl FnMut(&AtomicU64, u64)) {
        while page < end {
            let first = page % PAGES_PER_WORD;
            let n = (PAGES_PER_WORD - first).min(end - page);

            if let Some(word) = self.present.get(page / PAGES_PER_WORD) {
                f(word, (u64::MAX >> (PAGES_PER_WORD - n)) << first);
            }
            page += n;
        }
    }

    /// Whether all pages of a buffer are mapped.
    #[inline]
    fn covers(&self, buffer: Buffer) -> bool {
        let first = buffer.phys.page();
        let pages = buffer.pages();
        let shift = first % PAGES_PER_WORD;

        if pages <= PAGES_PER_WORD - shift {
            let mask = (u64::MAX >> (PAGES_PER_WORD - pages)) << shift;

            return match self.present.get(first / PAGES_PER_WORD) {
                Some(word) => word.load(Relaxed) & mask == mask,
                None => false,
            };
        }

        let mut seen = 0;

        self.for_each_word(first, first + pages, |word, mask| {
            seen += u64::from((word.load(Relaxed) & mask).count_ones());
        });
        seen == pages
    }

    /// The address of a buffer that lies within one page of the largest range of RAM: the case to
    /// be fast in. Counts the map and the hit, too.
    ///
    /// [`None`] says nothing about the buffer; [`Premapped::map`] serves all of them.
    #[inline(always)]
    pub fn map_hit(&self, backend: &B, buffer: Buffer, limit: u64) -> Option<Iova> {
        let main = self.main.load(Relaxed);
        let index = buffer.phys.page().wrapping_sub(main >> MAIN_SHIFT);

        if !buffer.is_within_page() || self.last > limit || index >= main & MAIN_PAGES {
            return None;
        }

        // As in `map`.
        backend.count(Counter::PremappedHits, 1);
        if !self.serving.load(Relaxed) {
            return self.decline(backend, 1);
        }
        Some(Iova(self.base | buffer.phys.0))
    }

    /// As [`Premapped::map_hit`], for a buffer of any number of pages.
    #[inline(always)]
    pub fn map_hits(&self, backend: &B, buffer: Buffer, limit: u64) -> Option<Iova> {
        let main = self.main.load(Relaxed);
        let index = buffer.phys.page().wrapping_sub(main >> MAIN_SHIFT);
        let pages = buffer.pages();

        if self.last > limit || index.saturating_add(pages) > main & MAIN_PAGES {
            return None;
        }

        // As in `map`.
        backend.count(Counter::PremappedHits, 1);
        backend.count(
            Counter::In(Flow::Pages(Window::Premapped)),
            pages.wrapping_sub(1),
        );
        if !self.serving.load(Relaxed) {
            return self.decline(backend, pages);
        }
        Some(Iova(self.base | buffer.phys.0))
    }

    /// Takes back what was counted for a buffer of `pages` pages that is not served after all.
    #[cold]
    fn decline(&self, backend: &B, pages: u64) -> Option<Iova> {
        // The arrivals stay counted, with departures to them; the map and the hit do not.
        self.unmap(backend, pages);
        backend.count(Counter::Maps, u64::MAX);
        backend.count(Counter::Hits, u64::MAX);
        None
    }

    /// Ends the use of a buffer that lies within one page. Counts the unmap, too.
    #[inline(always)]
    pub fn unmap_page(&self, backend: &B) {
        backend.count(Counter::PremappedUnmaps, 1);
    }

    /// As [`Premapped::unmap_page`], for a buffer of `pages` pages.
    #[inline(always)]
    pub fn unmap_pages(&self, backend: &B, pages: u64) {
        self.unmap_page(backend);
        backend.count(
            Counter::Out(Flow::Pages(Window::Premapped)),
            pages.wrapping_sub(1),
        );
    }

    /// The address of a buffer.
    ///
    /// [`None`]: out of the reach of the device, not RAM, or the strategy is on its way out.
    #[inline]
    pub fn map(&self, backend: &B, buffer: Buffer, limit: u64) -> Option<Iova> {
        let iova = self
            .layout
            .at_offset(Window::Premapped, buffer, limit)
            .filter(|_| self.covers(buffer))?;

        // Counted first and checked then: `retire` clears the flag, lets every CPU see it, and
        // only then looks at the count, so one of the two sees the other.
        backend.count(Counter::In(Flow::Pages(Window::Premapped)), buffer.pages());
        if !self.serving.load(Relaxed) {
            self.unmap(backend, buffer.pages());
            return None;
        }
        Some(iova)
    }

    /// Ends the use of `pages` pages.
    #[inline]
    pub fn unmap(&self, backend: &B, pages: u64) {
        backend.count(Counter::Out(Flow::Pages(Window::Premapped)), pages);
    }

    /// Pages that are mapped though no driver uses them, those that several buffers share counted as
    /// used for each.
    pub fn exposed_pages(&self, backend: &B) -> u64 {
        self.pages
            .load(Relaxed)
            .saturating_sub(backend.outstanding(Flow::Pages(Window::Premapped)))
    }

    /// Serves no maps any more. May sleep.
    pub fn retire(&self, backend: &B) {
        self.serving.store(false, SeqCst);
        backend.synchronize();
    }

    /// Empties the window if nothing in it is in use and returns whether it is empty. May sleep.
    ///
    /// The caller keeps others from starting and retiring meanwhile.
    pub fn settle(&self, backend: &B) -> bool {
        if !self.populated.load(Relaxed) {
            return true;
        }
        if self.serving.load(Relaxed) || backend.outstanding(Flow::Pages(Window::Premapped)) != 0 {
            return false;
        }

        self.withdraw(backend);
        true
    }

    /// Unmaps what is mapped, with one invalidation at the end.
    ///
    /// Goes by the longest runs, because part of a large page cannot be unmapped.
    fn withdraw(&self, backend: &B) {
        let mut run = 0..0;

        self.main.store(0, SeqCst);

        for leaf in 0..self.present.leaves() {
            let Some((first, words)) = self.present.leaf(leaf) else {
                continue;
            };

            for (index, word) in (first..).zip(words) {
                let mut bits = word.swap(0, SeqCst);

                while bits != 0 {
                    let zeros = u64::from(bits.trailing_zeros());
                    let ones = u64::from((bits >> zeros).trailing_ones());
                    let start = index * PAGES_PER_WORD + zeros;

                    if start != run.end {
                        self.unmap_run(backend, &run);
                        run = start..start;
                    }
                    run.end += ones;
                    bits &= !((u64::MAX >> (PAGES_PER_WORD - ones)) << zeros);
                }
            }
        }

        self.unmap_run(backend, &run);
        backend.flush();
        self.pages.store(0, Relaxed);
        self.populated.store(false, Relaxed);
    }

    /// Unmaps the pages of a run, if there are any.
    fn unmap_run(&self, backend: &B, run: &core::ops::Range<u64>) {
        if !run.is_empty() {
            let range = self.range(run.start, run.end - run.start);

            backend.unmap(core::iter::once(range));
        }
    }
}
