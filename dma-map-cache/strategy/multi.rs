// SPDX-License-Identifier: GPL-2.0

//! Many buffers by one call: `dma_map_multi()`.
//!
//! Unlike the segments of a list, buffers that were mapped together need not be unmapped together:
//! each of them can be unmapped on its own, and those of several calls can be unmapped by one. That
//! is what the ring of a network driver needs, whose device completes buffers in another grouping
//! than the driver has mapped them in.
//!
//! "`dma_map_multi()`" in *Utilizing IOMMUs for Virtualization in Linux and Xen*, OLS 2006.

use super::{
    address::{
        Iova,
        Layout,
        PageRange,
        Window,
        PAGE_SHIFT,
        PAGE_SIZE, //
    },
    backend::{
        Access,
        Arena,
        Backend,
        OutOfMemory,
        Target, //
    },
    blocks::BLOCK_PAGES,
    counter::{
        Counter,
        Flow, //
    },
    engine::{
        Engine,
        Reach, //
    },
    exact::{
        self,
        Extent,
        Unmapped,
        Use, //
    },
    kind::Kind,
    list::Segment, //
};

impl<B: Backend> Engine<B> {
    /// Maps all buffers, or none.
    ///
    /// Under the strategies that map exactly, buffers of up to [`BLOCK_PAGES`] pages together are one
    /// range of IOVA space, and one page-table pass for each piece of memory.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`]: nothing is mapped.
    pub fn map_multi<S: Segment>(
        &self,
        backend: &B,
        buffers: &mut [S],
        access: Access,
        reach: Reach,
    ) -> Result<(), OutOfMemory> {
        let mut done = 0;

        while let Some(rest) = buffers.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match self.map_some(backend, rest, access, reach) {
                Ok(n) => done += n,
                Err(error) => {
                    if let Some(mapped) = buffers.get(..done) {
                        self.unmap_multi(backend, mapped);
                    }
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Maps the first of the buffers, and as many of the others as can be mapped with it. Returns
    /// how many.
    #[inline]
    fn map_some<S: Segment>(
        &self,
        backend: &B,
        mut buffers: &mut [S],
        access: Access,
        reach: Reach,
    ) -> Result<usize, OutOfMemory> {
        if self.counted.retains() {
            if let Some(first) = buffers.first_mut() {
                if let Some(iova) = self.map_retained(backend, first.buffer(), access, reach) {
                    first.assign(iova);
                    return Ok(1);
                }
            }

            // Together with the first only those that are not retained either.
            let n = 1 + buffers
                .iter()
                .skip(1)
                .take_while(|buffer| !self.counted.is_retained(buffer.buffer().phys))
                .count();

            buffers = buffers.get_mut(..n).unwrap_or_default();
        }

        if self.current().maps_lists_exactly() {
            let extent = Extent::up_to(buffers.iter_mut(), BLOCK_PAGES);
            let place = self.place(Arena::Exact, reach, extent.pages);
            let n = extent.segments as usize;

            // What is too large for the window, and devices that cannot reach it, go the other way.
            if n != 0 && place.arena == Arena::Exact {
                buffers = buffers.get_mut(..n).unwrap_or_default();
                if self.is_automatic() {
                    self.watch_list(backend, &mut buffers);
                }

                let purpose = Use {
                    access,
                    target: Target::Memory,
                    unmapped: Unmapped::Apart,
                };

                exact::map_list(backend, place, &mut buffers, extent, purpose)?;
                self.count_exact(backend, place, extent);
                return Ok(n);
            }
        }

        let Some(first) = buffers.first_mut() else {
            return Ok(0);
        };

        first.assign(self.map(backend, first.buffer(), access, reach)?);
        Ok(1)
    }

    /// Takes down what [`Engine::map_multi`] or [`Engine::map`] mapped, in any grouping. All that
    /// the current strategy flushes for it, it flushes once.
    pub fn unmap_multi<S: Segment>(&self, backend: &B, buffers: &[S]) {
        let mut runs = Runs::new(self.layout, buffers, |buffer: &S| {
            let (iova, len) = buffer.assigned();

            self.unmap(backend, iova, len);
        });
        let Some(first) = runs.next() else {
            return;
        };

        if self.current() == Kind::Deferred {
            self.defer(backend, first);
            for run in runs.by_ref() {
                self.defer(backend, run);
            }
            return runs.count_unmapped(backend, buffers.len());
        }

        backend.unmap_flush(core::iter::once(first).chain(runs.by_ref()).map(Run::range));

        let one = runs.runs == 1;

        runs.count_unmapped(backend, buffers.len());
        if one {
            return first.free(backend);
        }
        for run in Runs::new(self.layout, buffers, |_| {}) {
            run.free(backend);
        }
    }

    /// Unmaps a run without a flush of its own.
    fn defer(&self, backend: &B, run: Run) {
        self.release(
            backend,
            run.window,
            run.range(),
            core::iter::once(run.range()),
        );
    }
}

/// Pages of the exact windows that are cleared, and given back, in one piece.
#[derive(Clone, Copy)]
struct Run {
    window: Window,
    /// The start of the first page.
    start: u64,
    /// The end of the last page.
    end: u64,
}

impl Run {
    /// The pages of a buffer.
    #[inline(always)]
    fn of<S: Segment>(buffer: &S, window: Window) -> Self {
        let (iova, len) = buffer.assigned();
        let start = iova.page_start();
        let last = Iova(iova.0.wrapping_add(len).wrapping_sub(1));

        Self {
            window,
            start: start.0,
            end: last.page_start().0.wrapping_add(PAGE_SIZE),
        }
    }

    /// The pages.
    fn range(self) -> PageRange {
        PageRange {
            start: Iova(self.start),
            pages: self.end.wrapping_sub(self.start) >> PAGE_SHIFT,
        }
    }

    /// Gives the IOVA space back.
    fn free<B: Backend>(self, backend: &B) {
        let arena = match self.window {
            Window::Exact => Arena::Exact,
            _ => Arena::Low,
        };

        backend.free_iova(arena, self.range());
    }
}

/// The runs that mapped buffers lie in.
struct Runs<'a, S, F> {
    layout: Layout,
    buffers: core::slice::Iter<'a, S>,
    /// What is done with buffers that lie in other windows.
    other: F,
    /// Number of runs until now.
    runs: u64,
    /// Number of buffers in other windows.
    others: u64,
    /// Number of pages in the low window, and in that of the exact strategies.
    pages: [u64; 2],
}

impl<'a, S: Segment, F: FnMut(&S)> Runs<'a, S, F> {
    fn new(layout: Layout, buffers: &'a [S], other: F) -> Self {
        Self {
            layout,
            buffers: buffers.iter(),
            other,
            runs: 0,
            others: 0,
            pages: [0; 2],
        }
    }

    /// The first buffer of the next run.
    #[inline]
    fn begin(&mut self) -> Option<Run> {
        for buffer in self.buffers.by_ref() {
            match self.layout.window(buffer.assigned().0) {
                window @ (Window::Low | Window::Exact) => return Some(Run::of(buffer, window)),
                _ => {
                    self.others = self.others.wrapping_add(1);
                    (self.other)(buffer);
                }
            }
        }
        None
    }

    /// Hands a run out.
    #[inline]
    fn done(&mut self, run: Run) -> Run {
        let [low, exact] = &mut self.pages;
        let pages = match run.window {
            Window::Exact => exact,
            _ => low,
        };

        *pages = pages.wrapping_add(run.range().pages);
        self.runs = self.runs.wrapping_add(1);
        run
    }

    /// Counts the buffers of all runs, of `n` in all, as unmapped.
    fn count_unmapped<B: Backend>(&self, backend: &B, n: usize) {
        let [low, exact] = self.pages;

        backend.count(Counter::Unmaps, (n as u64).wrapping_sub(self.others));
        for (window, pages) in [(Window::Low, low), (Window::Exact, exact)] {
            if pages != 0 {
                backend.count(Counter::Out(Flow::Pages(window)), pages);
            }
        }
    }
}

impl<S: Segment, F: FnMut(&S)> Iterator for Runs<'_, S, F> {
    type Item = Run;

    #[inline]
    fn next(&mut self) -> Option<Run> {
        let mut run = self.begin()?;

        // Space of the low window must be given back as it was taken.
        if run.window == Window::Exact {
            let rest = self.buffers.as_slice();
            let mut n: usize = 0;

            for buffer in rest {
                let next = Run::of(buffer, run.window);

                if next.start != run.end {
                    break;
                }
                run.end = next.end;
                n = n.wrapping_add(1);
            }
            self.buffers = rest.get(n..).unwrap_or_default().iter();
        }
        Some(self.done(run))
    }
}
