// SPDX-License-Identifier: GPL-2.0

//! `deferred`: one invalidation for many unmaps.
//!
//! Unmap clears the page table and queues the IOVA range; it is flushed, and only then used again,
//! after [`Deferred::max_unmaps`] unmaps on this CPU or [`Deferred::max_us`] microseconds. What
//! the device can still reach after unmap: what is queued, for at most that time.
//!
//! "Deferred TCE cache flush" in *Utilizing IOMMUs for Virtualization in Linux and Xen*, OLS 2006;
//! the kernel's own form of it is the lazy mode of `drivers/iommu/dma-iommu.c`.
//!
//! Lock order: `expiry`, then a queue.

use core::sync::atomic::{
    AtomicU64,
    Ordering::Relaxed, //
};

use super::{
    address::PageRange,
    auto::Bound,
    backend::{
        Arena,
        Backend,
        Lock,
        OutOfMemory, //
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

/// Entries in a queue.
///
/// The kernel's lazy mode holds 256 per CPU (`IOVA_DEFAULT_FQ_SIZE`); with more than 1024 less
/// than a thousandth of the invalidations of `strict` is left to save.
const CAPACITY: usize = 1024;

/// A range that is unmapped but not flushed.
#[derive(Clone, Copy)]
struct Entry {
    arena: Arena,
    range: PageRange,
    /// When it was unmapped, in milliseconds.
    since_ms: u32,
}

impl Entry {
    /// What an unused slot holds.
    const UNUSED: Self = Self {
        arena: Arena::Low,
        range: PageRange {
            start: super::address::Iova(0),
            pages: 0,
        },
        since_ms: 0,
    };
}

/// The unmaps of one CPU that wait for a flush.
struct Queue<B: Backend> {
    /// The first `len` are in use.
    entries: B::List<Entry>,
    /// Number of entries.
    len: usize,
    /// How many entries, from the first, the flush under way covers.
    covered: usize,
    /// Pages of all entries.
    pages: u64,
    /// Closed queues take nothing; they are empty.
    open: bool,
}

impl<B: Backend> Queue<B> {
    /// Gives the first `n` ranges back, which must have been flushed.
    fn release(&mut self, backend: &B, n: usize) {
        let n = n.min(self.len);
        let now_ms = backend.now_ms();

        for entry in self.entries.iter().take(n) {
            let age = Age::of_ms(now_ms.wrapping_sub(entry.since_ms));

            self.pages -= entry.range.pages;
            backend.count(Counter::Queued(age), entry.range.pages);
            backend.free_iova(entry.arena, entry.range);
        }
        self.entries.copy_within(n..self.len, 0);
        self.len -= n;
        self.covered = 0;
    }

    /// Adds an entry; the caller has seen to it that there is room.
    fn push(&mut self, entry: Entry) {
        if let Some(slot) = self.entries.get_mut(self.len) {
            *slot = entry;
            self.len += 1;
            self.pages += entry.range.pages;
        }
    }
}

/// The strategy.
pub struct Deferred<B: Backend> {
    /// Unmaps of one CPU that share a flush. The default is the length of the kernel's queue.
    pub max_unmaps: Tunable,
    /// Microseconds until an unmap is flushed. The default is the kernel's time-out of 10 ms
    /// (`IOVA_DEFAULT_FQ_TIMEOUT`); the largest is one second, the least what a timer can keep.
    pub max_us: Tunable,
    /// A bound on microseconds beside [`Deferred::max_us`].
    bound_us: AtomicU64,
    /// A bound on the pages of one CPU that wait.
    bound_pages: AtomicU64,
    /// One for each CPU.
    queues: B::List<B::Lock<Queue<B>>>,
    /// Held while all queues are flushed at once.
    expiry: B::Lock<()>,
}

impl<B: Backend> Deferred<B> {
    /// With closed queues. May sleep.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`].
    pub fn new() -> Result<Self, OutOfMemory> {
        Ok(Self {
            max_unmaps: Tunable::new(Range {
                min: 1,
                max: CAPACITY as u64,
                step: 1,
                default: 256,
            }),
            max_us: Tunable::new(Range {
                min: 100,
                max: 1_000_000,
                step: 1,
                default: 10_000,
            }),
            bound_us: AtomicU64::new(u64::MAX),
            bound_pages: AtomicU64::new(u64::MAX),
            queues: B::list(B::cpus(), || {
                Ok(B::lock(Queue {
                    entries: B::list(CAPACITY, || Ok(Entry::UNUSED))?,
                    len: 0,
                    covered: 0,
                    pages: 0,
                    open: false,
                }))
            })?,
            expiry: B::lock(()),
        })
    }

    /// Lets no more wait than `bound` says, and flushes what waits already. All CPUs have the same
    /// share of the pages.
    pub fn set_bound(&self, backend: &B, bound: Bound) {
        self.bound_us.store(bound.us, Relaxed);
        self.bound_pages.store(bound.per_cpu::<B>(), Relaxed);
        self.expire(backend);
    }

    /// Lets unmaps be queued from now on.
    pub fn start(&self) {
        for queue in self.queues.iter() {
            queue.with(|queue| queue.open = true);
        }
    }

    /// Takes down `runs`, which lie in `whole`, and gives `whole` back after the next flush.
    #[inline]
    pub fn unmap(
        &self,
        backend: &B,
        arena: Arena,
        whole: PageRange,
        runs: impl Iterator<Item = PageRange>,
    ) {
        backend.unmap(runs);

        let Some(queue) = self.queues.get(backend.cpu()) else {
            return Self::unmap_now(backend, arena, whole);
        };
        let max_unmaps = self.max_unmaps.get() as usize;
        let max_pages = self.bound_pages.load(Relaxed);
        let first = queue.with(|queue| {
            if !queue.open {
                return None;
            }

            // The first that no flush is under way for: those before it are as good as gone.
            let first = queue.len == queue.covered;

            backend.count(Counter::In(Flow::Queue), whole.pages);
            queue.push(Entry {
                arena,
                range: whole,
                since_ms: backend.now_ms(),
            });
            if queue.len >= max_unmaps || queue.pages >= max_pages {
                backend.flush();
                queue.release(backend, queue.len);
                return Some(false);
            }
            Some(first)
        });

        match first {
            Some(true) => {
                let us = self.max_us.get().min(self.bound_us.load(Relaxed));

                backend.arm_flush_timer(us as u32);
            }
            Some(false) => {}
            None => Self::unmap_now(backend, arena, whole),
        }
    }

    /// Ends an unmap that cannot be queued.
    #[cold]
    fn unmap_now(backend: &B, arena: Arena, whole: PageRange) {
        backend.flush();
        backend.free_iova(arena, whole);
    }

    /// Flushes everything that is queued, by one invalidation.
    pub fn expire(&self, backend: &B) {
        self.expiry.with(|()| {
            let mut any = false;

            for queue in self.queues.iter() {
                queue.with(|queue| {
                    queue.covered = queue.len;
                    any |= queue.len != 0;
                });
            }

            if !any {
                return;
            }

            backend.flush();

            for queue in self.queues.iter() {
                queue.with(|queue| queue.release(backend, queue.covered));
            }
        });
    }

    /// Flushes everything that is queued and queues nothing any more.
    pub fn retire(&self, backend: &B) {
        for queue in self.queues.iter() {
            queue.with(|queue| queue.open = false);
        }
        self.expire(backend);
    }
}
