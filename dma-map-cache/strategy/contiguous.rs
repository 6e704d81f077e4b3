// SPDX-License-Identifier: GPL-2.0

//! `contiguous`: for rings of descriptors, whose buffers are mapped one by one and given back in
//! the same order.
//!
//! Each CPU takes IOVA space from a chunk, from its first page to its last, so consecutive maps are
//! adjacent. What it unmaps is put down in runs, which are adjacent for the same reason. When the
//! batch ends, the runs are cleared by one page-table pass each (for a ring: one), invalidated
//! together, and only then count as given back. A chunk is what one page of a page table maps, and
//! no unmap ever covers a whole one, so the page tables stay.
//!
//! A batch ends
//!
//! - when the interrupt or soft interrupt in which the driver unmaps is over; for an unmap outside
//!   of both, with the next one on that CPU, for which a thread is woken (`ksoftirqd`);
//! - after [`Contiguous::max_unmaps`] unmaps;
//! - when the strategy changes.
//!
//! What the device can still reach after unmap: nothing once the batch has ended.
//!
//! A list is a batch of its own and mapped exactly: nothing of it can be reached when its unmap
//! returns.

use core::sync::atomic::{
    AtomicU64,
    Ordering::{
        AcqRel,
        Relaxed, //
    }, //
};

use super::{
    address::{
        Buffer,
        Iova,
        Layout,
        PageRange,
        Window,
        PAGE_SHIFT, //
    },
    auto::Bound,
    backend::{
        Access,
        Arena,
        Backend,
        Lock,
        OutOfMemory,
        Sparse,
        Target, //
    },
    counter::{
        Counter,
        Flow, //
    },
    exposure::Age,
    tunable::{
        Range,
        Tunable, //
    },
};

/// log2 of the pages in a chunk: what the last level of a page table maps.
const CHUNK_SHIFT: u32 = 9;

/// Pages in a chunk.
const CHUNK_PAGES: u64 = 1 << CHUNK_SHIFT;

/// Pages of the largest buffer that is taken from a chunk: with more than a quarter of it too much
/// would be left over at its end.
pub const MAX_PAGES: u64 = CHUNK_PAGES / 4;

/// Runs that wait for the end of a batch, and with it the most unmaps of one: more are not worth
/// their exposure.
const CAPACITY: usize = 512;

/// Pages of a chunk that are not given back: those in use, those that wait for the end of a batch,
/// and those that nobody has taken yet while a CPU takes from the chunk. The chunk is free at 0.
#[derive(Default)]
pub struct Chunk(AtomicU64);

/// What one CPU takes and gives back.
struct Lane<B: Backend> {
    /// What is left of the chunk that the CPU takes from; its last page is that of the chunk.
    left: Option<PageRange>,
    /// The first `len` are unmapped but neither cleared nor flushed.
    runs: B::List<PageRange>,
    /// Number of runs.
    len: usize,
    /// Unmaps in this batch.
    unmaps: u64,
    /// Pages of all runs.
    pages: u64,
    /// When the batch began, in milliseconds.
    since_ms: u32,
    /// Closed lanes let nothing wait; their runs are empty.
    open: bool,
}

impl<B: Backend> Lane<B> {
    /// Lets a range wait, as part of the run before it if it can. The caller has seen to it that
    /// there is room.
    fn push(&mut self, range: PageRange) {
        let last = self
            .len
            .checked_sub(1)
            .and_then(|last| self.runs.get_mut(last))
            .filter(|run| chunk_of(run.start) == chunk_of(range.start));

        match last {
            Some(run) if run.end() == range.start => run.pages += range.pages,
            Some(run) if range.end() == run.start => {
                run.start = range.start;
                run.pages += range.pages;
            }
            _ => {
                if let Some(slot) = self.runs.get_mut(self.len) {
                    *slot = range;
                    self.len += 1;
                }
            }
        }
    }
}

/// The number of the chunk of an address, in the whole IOVA space.
const fn chunk_of(iova: Iova) -> u64 {
    iova.0 >> (PAGE_SHIFT + CHUNK_SHIFT)
}

/// The strategy.
pub struct Contiguous<B: Backend> {
    /// Unmaps of one CPU after which a batch ends. The default is what a network driver handles in
    /// one turn (`NAPI_POLL_WEIGHT`).
    pub max_unmaps: Tunable,
    /// A bound on the pages of one CPU that wait.
    bound_pages: AtomicU64,
    /// One for each CPU.
    lanes: B::List<B::Lock<Lane<B>>>,
    /// By number, from the first of the window.
    chunks: B::Sparse<Chunk>,
    /// The number of the first chunk of the window.
    first_chunk: u64,
    /// The last address of the window.
    last: u64,
}

impl<B: Backend> Contiguous<B> {
    /// With closed lanes. May sleep.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`].
    pub fn new(layout: Layout) -> Result<Self, OutOfMemory> {
        Ok(Self {
            max_unmaps: Tunable::new(Range {
                min: 1,
                max: CAPACITY as u64,
                step: 1,
                default: 64,
            }),
            bound_pages: AtomicU64::new(u64::MAX),
            lanes: B::list(B::cpus(), || {
                Ok(B::lock(Lane {
                    left: None,
                    runs: B::list(CAPACITY, || {
                        Ok(PageRange {
                            start: Iova(0),
                            pages: 0,
                        })
                    })?,
                    len: 0,
                    unmaps: 0,
                    pages: 0,
                    since_ms: 0,
                    open: false,
                }))
            })?,
            chunks: B::sparse(layout.window_size() >> (PAGE_SHIFT + CHUNK_SHIFT))?,
            first_chunk: chunk_of(Iova(layout.base(Window::Contiguous))),
            last: layout.last(Window::Contiguous),
        })
    }

    /// Lets unmaps wait for the end of a batch from now on.
    pub fn start(&self) {
        for lane in self.lanes.iter() {
            lane.with(|lane| lane.open = true);
        }
    }

    /// Lets no more wait than `bound` says, and ends all batches. All CPUs have the same share of the
    /// pages.
    pub fn set_bound(&self, backend: &B, bound: Bound) {
        self.bound_pages.store(bound.per_cpu::<B>(), Relaxed);
        for lane in self.lanes.iter() {
            lane.with(|lane| self.end(backend, lane));
        }
    }

    /// Maps a buffer.
    ///
    /// [`None`]: it is too large, out of the reach of the device, or there is no IOVA space.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`]: nothing is mapped.
    pub fn map(
        &self,
        backend: &B,
        buffer: Buffer,
        access: Access,
        limit: u64,
    ) -> Result<Option<Iova>, OutOfMemory> {
        let pages = buffer.pages();

        if pages > MAX_PAGES || self.last > limit {
            return Ok(None);
        }

        let Some(start) = self.take(backend, pages) else {
            return Ok(None);
        };
        let range = PageRange { start, pages };

        if let Err(error) = backend.map(range, buffer.phys.page_start(), access, Target::Memory) {
            self.give_back(backend, range);
            return Err(error);
        }

        backend.count(Counter::In(Flow::Pages(Window::Contiguous)), pages);
        Ok(Some(buffer.at(start)))
    }

    /// Takes IOVA space from the chunk of this CPU.
    fn take(&self, backend: &B, pages: u64) -> Option<Iova> {
        self.lanes.get(backend.cpu())?.with(|lane| {
            let left = match lane.left {
                Some(left) if left.pages >= pages => left,
                _ => {
                    let chunk = self.open_chunk(backend)?;

                    if let Some(rest) = lane.left.replace(chunk) {
                        self.give_back(backend, rest);
                    }
                    chunk
                }
            };

            lane.left = (left.pages > pages).then_some(PageRange {
                start: Iova(left.start.0 + (pages << PAGE_SHIFT)),
                pages: left.pages - pages,
            });
            Some(left.start)
        })
    }

    /// Takes a chunk of IOVA space.
    #[cold]
    fn open_chunk(&self, backend: &B) -> Option<PageRange> {
        let start = backend.alloc_iova(Arena::Contiguous, CHUNK_PAGES, self.last)?;
        let range = PageRange {
            start,
            pages: CHUNK_PAGES,
        };
        let Ok(chunk) = self.chunks.get_or_alloc(chunk_of(start) - self.first_chunk) else {
            backend.free_iova(Arena::Contiguous, range);
            return None;
        };

        chunk.0.store(CHUNK_PAGES, Relaxed);
        Some(range)
    }

    /// Gives IOVA space back that nothing is mapped or cached at any more.
    fn give_back(&self, backend: &B, range: PageRange) {
        let number = chunk_of(range.start);
        let Some(chunk) = self.chunks.get(number - self.first_chunk) else {
            return;
        };

        if chunk.0.fetch_sub(range.pages, AcqRel) == range.pages {
            backend.free_iova(
                Arena::Contiguous,
                PageRange {
                    start: Iova(number << (PAGE_SHIFT + CHUNK_SHIFT)),
                    pages: CHUNK_PAGES,
                },
            );
        }
    }

    /// Takes down what [`Contiguous::map`] mapped, at the end of the batch.
    pub fn unmap(&self, backend: &B, range: PageRange) {
        backend.count(Counter::Out(Flow::Pages(Window::Contiguous)), range.pages);

        let Some(lane) = self.lanes.get(backend.cpu()) else {
            return self.unmap_now(backend, range);
        };
        let max_unmaps = self.max_unmaps.get();
        let max_pages = self.bound_pages.load(Relaxed);
        let first = lane.with(|lane| {
            if !lane.open {
                return None;
            }

            backend.count(Counter::In(Flow::Queue), range.pages);
            if lane.unmaps == 0 {
                lane.since_ms = backend.now_ms();
            }
            lane.push(range);
            lane.unmaps += 1;
            lane.pages += range.pages;
            if lane.unmaps >= max_unmaps || lane.pages >= max_pages {
                self.end(backend, lane);
                return Some(false);
            }
            Some(lane.unmaps == 1)
        });

        match first {
            Some(true) => backend.end_batch_soon(),
            Some(false) => {}
            None => self.unmap_now(backend, range),
        }
    }

    /// Takes down what may not wait.
    #[cold]
    fn unmap_now(&self, backend: &B, range: PageRange) {
        backend.unmap_flush(core::iter::once(range));
        self.give_back(backend, range);
    }

    /// Ends the batch of a lane.
    fn end(&self, backend: &B, lane: &mut Lane<B>) {
        let runs = lane.runs.get(..lane.len).unwrap_or_default();

        lane.unmaps = 0;
        lane.pages = 0;
        lane.len = 0;
        if runs.is_empty() {
            return;
        }

        backend.unmap_flush(runs.iter().copied());

        let age = Age::of_ms(backend.now_ms().wrapping_sub(lane.since_ms));

        for &run in runs {
            backend.count(Counter::Queued(age), run.pages);
            self.give_back(backend, run);
        }
    }

    /// Ends the batch of a CPU: what [`Backend::end_batch_soon`] asks for. May be called in any
    /// context.
    pub fn end_batch(&self, backend: &B, cpu: usize) {
        if let Some(lane) = self.lanes.get(cpu) {
            lane.with(|lane| self.end(backend, lane));
        }
    }

    /// Ends all batches, begins none any more, and gives back what is left of chunks. What is in
    /// use is given back when its driver unmaps it.
    pub fn retire(&self, backend: &B) {
        for lane in self.lanes.iter() {
            lane.with(|lane| {
                lane.open = false;
                self.end(backend, lane);
                if let Some(rest) = lane.left.take() {
                    self.give_back(backend, rest);
                }
            });
        }
    }
}
