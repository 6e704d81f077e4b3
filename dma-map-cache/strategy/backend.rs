// SPDX-License-Identifier: GPL-2.0

//! What a strategy needs from the machine below it.
//!
//! The kernel module implements [`Backend`] with an IOMMU domain; the host tests implement it with
//! a reference model of an IOMMU and its IOTLB. A strategy sees nothing else, so the code that
//! runs under a driver is the code that the model checks.

use super::{
    address::{
        Iova,
        PageRange,
        Phys,
        Window, //
    },
    counter::{
        Counter,
        Flow, //
    },
    exposure::Age, //
};

/// No memory for a page table, an IOVA or a table of page states.
///
/// The mapping that was asked for does not exist, and nothing was left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfMemory;

/// No memory for all of several mappings.
///
/// So many were made, the first ones, and are left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Incomplete(pub usize);

/// What a device may do with a mapping.
///
/// From the DMA direction, as `dma_info_to_prot()` in `drivers/iommu/dma-iommu.c` derives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// `DMA_TO_DEVICE`.
    Read,
    /// `DMA_FROM_DEVICE`.
    Write,
    /// `DMA_BIDIRECTIONAL`.
    ReadWrite,
}

impl Access {
    /// Whether the device may write.
    #[inline(always)]
    pub const fn may_write(self) -> bool {
        !matches!(self, Self::Read)
    }
}

/// What a page-table entry points to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Memory, cache-coherent.
    Memory,
    /// Registers of another device (`DMA_ATTR_MMIO`).
    Mmio,
}

/// Pages that are contiguous on both sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Where the device sees them.
    pub range: PageRange,
    /// Where they are.
    pub phys: Phys,
    /// Whether any page of them can be unmapped on its own, as by [`Backend::map_pages`].
    pub divisible: bool,
}

/// Which part of the IOVA space an exact mapping is allocated from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arena {
    /// The low window: everything that must be reachable by a narrow device, and what another
    /// strategy could not serve.
    Low,
    /// The window of the strategies that map exactly.
    Exact,
    /// The window of `contiguous`.
    Contiguous,
}

/// A lock that may be taken where a driver may map: with interrupts off.
pub trait Lock<T>: Sync {
    /// Runs `f` with the lock held. `f` must neither sleep nor take the same lock.
    fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R;
}

/// A table indexed by page number that takes memory only where it was touched.
///
/// Entries start as `T::default()`, live as long as the table and never move.
pub trait Sparse<T>: Sync {
    /// The entry of `index`, if memory for it was ever allocated. Never sleeps.
    fn get(&self, index: u64) -> Option<&T>;

    /// The entries from `first` on, `len` of them, if they are in one leaf that memory was ever
    /// allocated for. Never sleeps.
    fn run(&self, first: u64, len: u64) -> Option<&[T]>;

    /// The entry of `index`. Allocates without sleeping.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`], also for an index beyond the end of the table.
    fn get_or_alloc(&self, index: u64) -> Result<&T, OutOfMemory>;

    /// Number of leaves, allocated or not.
    fn leaves(&self) -> usize;

    /// The index of the first entry of leaf number `leaf`, and its entries if it is allocated.
    fn leaf(&self, leaf: usize) -> Option<(u64, &[T])>;
}

/// Memory that a strategy owns, until it is dropped.
pub trait Memory: Send + Sync {
    /// Where it is.
    fn phys(&self) -> Phys;
}

/// The machine below a strategy: page tables, IOTLB, IOVA space, memory, counters and a clock.
///
/// Unless stated otherwise a method may be called in any context, also with interrupts off, and by
/// several CPUs at once for different ranges.
pub trait Backend: Sync + Sized {
    /// Mutual exclusion.
    type Lock<T: Send>: Lock<T> + Send;
    /// A list whose length is fixed when it is made.
    type List<T: Send + Sync>: core::ops::DerefMut<Target = [T]> + Send + Sync;
    /// A sparse table of `T`.
    type Sparse<T: Default + Send + Sync>: Sparse<T>;
    /// Memory, in one piece.
    type Memory: Memory;

    /// Makes a lock around `value`.
    fn lock<T: Send>(value: T) -> Self::Lock<T>;

    /// Makes a list of `len` items. May sleep.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`].
    fn list<T: Send + Sync>(
        len: usize,
        item: impl FnMut() -> Result<T, OutOfMemory>,
    ) -> Result<Self::List<T>, OutOfMemory>;

    /// Makes a sparse table of `len` entries. May sleep.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`].
    fn sparse<T: Default + Send + Sync>(len: u64) -> Result<Self::Sparse<T>, OutOfMemory>;

    /// Number of CPUs; [`Backend::cpu`] is below it.
    fn cpus() -> usize;

    /// The CPU that runs this. A hint: it may have changed when the caller looks at it.
    fn cpu(&self) -> usize;

    /// Milliseconds since some moment; wraps. The resolution may be that of the timer tick.
    fn now_ms(&self) -> u32;

    /// Lets the device reach `range`, which must not be mapped yet, at `phys`. It can be unmapped
    /// as a whole only.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`]: nothing is mapped.
    fn map(
        &self,
        range: PageRange,
        phys: Phys,
        access: Access,
        target: Target,
    ) -> Result<(), OutOfMemory>;

    /// As [`Backend::map`], for RAM; any page of it can be unmapped on its own.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`]: nothing is mapped.
    fn map_pages(&self, range: PageRange, phys: Phys, access: Access) -> Result<(), OutOfMemory>;

    /// As [`Backend::map`] for each of the runs, of which each lies behind the one before it. What
    /// lies side by side is mapped together, for less than each of them would cost.
    ///
    /// # Errors
    ///
    /// [`Incomplete`]: those that were mapped stay.
    fn map_runs(
        &self,
        runs: impl Iterator<Item = Run>,
        access: Access,
        target: Target,
    ) -> Result<(), Incomplete>;

    /// As [`Backend::map`], for ranges of any size, with large pages where they fit. May sleep.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`]: nothing is mapped.
    fn map_ram(&self, range: PageRange, phys: Phys) -> Result<(), OutOfMemory>;

    /// Removes the mapping of each of `ranges` from the page table, each before it asks for the
    /// next. The device may still reach the pages until the next [`Backend::flush`] returns.
    fn unmap(&self, ranges: impl Iterator<Item = PageRange>);

    /// As [`Backend::unmap`], but the device can reach none of the pages when it returns, at the
    /// cost of one invalidation that covers the ranges. There is at least one.
    fn unmap_flush(&self, ranges: impl Iterator<Item = PageRange>);

    /// Makes everything unreachable that was unmapped before the call, by one invalidation.
    fn flush(&self);

    /// Takes `pages` pages of IOVA space from `arena`, the last byte of which is not above `limit`.
    ///
    /// In the low arena they are aligned to their number rounded up to a power of two. In the exact
    /// one there are at most [`BLOCK_PAGES`](super::blocks::BLOCK_PAGES), which do not cross a
    /// multiple of [`BLOCK_BYTES`](super::blocks::BLOCK_BYTES), and `limit` is the last address of
    /// the window.
    fn alloc_iova(&self, arena: Arena, pages: u64, limit: u64) -> Option<Iova>;

    /// Gives back what [`Backend::alloc_iova`] returned for the same arena and number of pages; in
    /// the exact arena any part of it, or parts of several that lie side by side.
    fn free_iova(&self, arena: Arena, range: PageRange);

    /// Calls `f` with each range of RAM that the kernel manages. May sleep.
    ///
    /// # Errors
    ///
    /// The first error of `f` ends the walk and is returned.
    fn for_each_ram(
        &self,
        f: &mut dyn FnMut(Phys, u64) -> Result<(), OutOfMemory>,
    ) -> Result<(), OutOfMemory>;

    /// Allocates `pages` pages, a power of two, of zeroed memory in one piece that is aligned to its
    /// size. Never sleeps. It may be freed again once no device reaches it.
    fn alloc(&self, pages: u64) -> Option<Self::Memory>;

    /// Copies `len` bytes of memory. The caller vouches for both: that they are its own or those of
    /// a buffer that is mapped, and do not overlap.
    fn copy(&self, to: Phys, from: Phys, len: u64);

    /// Waits until every CPU sees what the caller wrote before. May sleep.
    fn synchronize(&self);

    /// Asks that [`Engine::expire_deferred`](super::Engine::expire_deferred) be called within `us`
    /// microseconds from now. One call answers all that asked before it, so the earliest decides.
    fn arm_flush_timer(&self, us: u32);

    /// Asks that [`Engine::end_batch`](super::Engine::end_batch) be called for this CPU when the
    /// interrupt, or the turn of soft interrupts, that it is in is over.
    fn end_batch_soon(&self);

    /// Adds to a statistic of this CPU.
    fn count(&self, counter: Counter, n: u64);

    /// The sum of a number over all CPUs.
    fn sum(&self, counter: Counter) -> u64;

    /// A statistic: the sum of its number and of those that stand for it on the fastest path.
    fn total(&self, counter: Counter) -> u64 {
        let more = match counter {
            Counter::Maps | Counter::Hits => self
                .sum(Counter::CachedHits)
                .wrapping_add(self.sum(Counter::PremappedHits))
                .wrapping_add(self.sum(Counter::PoolHits)),
            Counter::Unmaps => self
                .sum(Counter::CachedUnmaps)
                .wrapping_add(self.sum(Counter::CachedIdles))
                .wrapping_add(self.sum(Counter::PremappedUnmaps))
                .wrapping_add(self.sum(Counter::PoolUnmaps)),
            Counter::In(Flow::Pages(Window::CachedWrite | Window::CachedRead)) => {
                self.sum(Counter::CachedHits)
            }
            Counter::Out(Flow::Pages(Window::CachedWrite | Window::CachedRead)) => self
                .sum(Counter::CachedUnmaps)
                .wrapping_add(self.sum(Counter::CachedIdles)),
            Counter::In(Flow::Pages(Window::Premapped)) => self.sum(Counter::PremappedHits),
            Counter::Out(Flow::Pages(Window::Premapped)) => self.sum(Counter::PremappedUnmaps),
            Counter::In(Flow::Idle) => self.sum(Counter::CachedIdles),
            Counter::Out(Flow::Idle) => self.sum_over_ages(Counter::Idled),
            Counter::Out(Flow::Queue) => self.sum_over_ages(Counter::Queued),
            Counter::In(Flow::Pages(Window::Pool)) => self.sum(Counter::PoolHits),
            Counter::Out(Flow::Pages(Window::Pool)) => self.sum(Counter::PoolUnmaps),
            _ => 0,
        };

        self.sum(counter).wrapping_add(more)
    }

    /// The sum of the numbers of all ages.
    fn sum_over_ages(&self, counter: impl Fn(Age) -> Counter) -> u64 {
        Age::all()
            .map(|age| self.sum(counter(age)))
            .fold(0, u64::wrapping_add)
    }

    /// What went in and has not come out, never below the truth of some moment during the call.
    ///
    /// Reads the "out" side first: an item that moves meanwhile is counted in, not missed. The truth
    /// is what was counted: where an item can go before its arrival is, nothing may be outstanding.
    #[inline]
    fn outstanding(&self, flow: Flow) -> u64 {
        let gone = self.total(Counter::Out(flow));

        self.synchronize_reads();
        self.total(Counter::In(flow)).saturating_sub(gone)
    }

    /// Orders the reads before it against those after it.
    #[inline]
    fn synchronize_reads(&self) {
        core::sync::atomic::fence(core::sync::atomic::Ordering::Acquire);
    }
}
