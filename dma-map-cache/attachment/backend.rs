// SPDX-License-Identifier: GPL-2.0

//! What strategies ask of a kernel: locks, memory, page tables, time and counters.

use kernel::{
    alloc::KVVec,
    prelude::*, //
};
use pdio::{
    iommu::{
        self,
        prot,
        Context,
        Domain, //
    },
    lock::IrqSpinLock,
    memory::{
        self,
        Pages, //
    },
    percpu,
    rcu,
    sparse::SparseTable,
    timer,
    trace::dma_map_cache as trace, //
};

use super::Attachment;
use crate::strategy::{
    address::{
        Iova,
        PageRange,
        Phys,
        Window,
        PAGE_SHIFT, //
    },
    backend::{
        self,
        Access,
        Arena,
        Backend,
        Incomplete,
        Lock,
        Memory,
        OutOfMemory,
        Sparse,
        Target, //
    },
    counter::{
        Counter,
        Flow, //
    },
    exposure::Age, //
};

impl<T: Send> Lock<T> for IrqSpinLock<T> {
    #[inline]
    fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
        IrqSpinLock::with(self, f)
    }
}

impl<T: Default + Send + Sync> Sparse<T> for SparseTable<T> {
    #[inline(always)]
    fn get(&self, index: u64) -> Option<&T> {
        SparseTable::get(self, index)
    }

    #[inline(always)]
    fn run(&self, first: u64, len: u64) -> Option<&[T]> {
        SparseTable::run(self, first, len)
    }

    #[inline]
    fn get_or_alloc(&self, index: u64) -> Result<&T, OutOfMemory> {
        SparseTable::get_or_alloc(self, index).map_err(|_| OutOfMemory)
    }

    fn leaves(&self) -> usize {
        SparseTable::leaves(self)
    }

    fn leaf(&self, leaf: usize) -> Option<(u64, &[T])> {
        SparseTable::leaf(self, leaf)
    }
}

impl Memory for Pages {
    fn phys(&self) -> Phys {
        Phys(Pages::phys(self))
    }
}

impl Backend for Attachment {
    type Lock<T: Send> = IrqSpinLock<T>;
    type List<T: Send + Sync> = KVVec<T>;
    type Sparse<T: Default + Send + Sync> = SparseTable<T>;
    type Memory = Pages;

    fn lock<T: Send>(value: T) -> IrqSpinLock<T> {
        IrqSpinLock::new(value)
    }

    fn list<T: Send + Sync>(
        len: usize,
        mut item: impl FnMut() -> Result<T, OutOfMemory>,
    ) -> Result<KVVec<T>, OutOfMemory> {
        let mut list = KVVec::with_capacity(len, GFP_KERNEL).map_err(|_| OutOfMemory)?;

        for _ in 0..len {
            list.push(item()?, GFP_KERNEL).map_err(|_| OutOfMemory)?;
        }
        Ok(list)
    }

    fn sparse<T: Default + Send + Sync>(len: u64) -> Result<SparseTable<T>, OutOfMemory> {
        SparseTable::new(len).map_err(|_| OutOfMemory)
    }

    fn cpus() -> usize {
        kernel::cpu::nr_cpu_ids() as usize
    }

    #[inline(always)]
    fn cpu(&self) -> usize {
        percpu::cpu()
    }

    #[inline(always)]
    fn now_ms(&self) -> u32 {
        timer::now_ms()
    }

    #[inline]
    fn map(
        &self,
        range: PageRange,
        phys: Phys,
        access: Access,
        target: Target,
    ) -> Result<(), OutOfMemory> {
        let prot = prot_of(access, target);

        self.map_by(Domain::map, range, phys, prot, Context::Atomic)
    }

    #[inline]
    fn map_runs(
        &self,
        runs: impl Iterator<Item = backend::Run>,
        access: Access,
        target: Target,
    ) -> Result<(), Incomplete> {
        let mut pages = 0u64;
        let runs = runs.map(|run| {
            pages = pages.wrapping_add(run.range.pages);
            iommu::Run {
                iova: run.range.start.0,
                phys: run.phys.0,
                len: run.range.bytes() as usize,
                divisible: run.divisible,
            }
        });
        let prot = prot_of(access, target);
        let result = self.domain.map_runs(runs, prot, Context::Atomic);

        // Where memory runs out, entries that were written in vain are among them.
        self.count(Counter::PteUpdates, pages);
        result.map_err(Incomplete)
    }

    #[inline]
    fn map_pages(&self, range: PageRange, phys: Phys, access: Access) -> Result<(), OutOfMemory> {
        let prot = prot_of(access, Target::Memory);

        self.map_by(Domain::map_pages, range, phys, prot, Context::Atomic)
    }

    fn map_ram(&self, range: PageRange, phys: Phys) -> Result<(), OutOfMemory> {
        let prot = prot_of(Access::ReadWrite, Target::Memory);

        self.map_by(Domain::map, range, phys, prot, Context::MaySleep)
    }

    #[inline]
    fn unmap(&self, ranges: impl Iterator<Item = PageRange>) {
        self.domain.unmap(ranges.map(|range| {
            self.count(Counter::PteUpdates, range.pages);
            (range.start.0, range.bytes() as usize)
        }));
    }

    #[inline]
    fn unmap_flush(&self, ranges: impl Iterator<Item = PageRange>) {
        self.domain.unmap_sync(ranges.map(|range| {
            self.count(Counter::PteUpdates, range.pages);
            (range.start.0, range.bytes() as usize)
        }));
        self.count(Counter::Flushes, 1);
        trace::flush(&self.device);
    }

    fn flush(&self) {
        self.domain.flush();
        self.count(Counter::Flushes, 1);
        trace::flush(&self.device);
    }

    #[inline]
    fn alloc_iova(&self, arena: Arena, pages: u64, limit: u64) -> Option<Iova> {
        match arena {
            Arena::Low => self.low.alloc(pages, limit).map(Iova),
            Arena::Exact => self.exact.alloc(self.cpu(), pages),
            Arena::Contiguous => self.contiguous.alloc(pages, limit).map(Iova),
        }
    }

    #[inline]
    fn free_iova(&self, arena: Arena, range: PageRange) {
        match arena {
            Arena::Low => self.low.free(range.start.0, range.pages),
            Arena::Exact => self.exact.free(range),
            Arena::Contiguous => self.contiguous.free(range.start.0, range.pages),
        }
    }

    fn for_each_ram(
        &self,
        f: &mut dyn FnMut(Phys, u64) -> Result<(), OutOfMemory>,
    ) -> Result<(), OutOfMemory> {
        memory::for_each_ram_range(&mut |range| {
            let whole = PageRange {
                start: Iova(range.start),
                pages: (range.end - range.start) >> PAGE_SHIFT,
            };

            f(Phys(range.start), whole.pages).map_err(|OutOfMemory| ENOMEM)
        })
        .map_err(|_| OutOfMemory)
    }

    fn alloc(&self, pages: u64) -> Option<Pages> {
        Pages::new(usize::try_from(pages).ok()?)
    }

    #[inline(always)]
    fn copy(&self, to: Phys, from: Phys, len: u64) {
        memory::copy(to.0, from.0, len);
    }

    fn synchronize(&self) {
        rcu::synchronize();
    }

    fn arm_flush_timer(&self, us: u32) {
        self.flush_timer.arm(us);
    }

    #[inline]
    fn end_batch_soon(&self) {
        self.batch_ends.schedule(self.cpu());
    }

    #[inline(always)]
    fn count(&self, counter: Counter, n: u64) {
        const CACHED_HITS: usize = Counter::CachedHits.index();
        const CACHED_UNMAPS: usize = Counter::CachedUnmaps.index();
        const PREMAPPED_HITS: usize = Counter::PremappedHits.index();
        const PREMAPPED_UNMAPS: usize = Counter::PremappedUnmaps.index();
        const POOL_HITS: usize = Counter::PoolHits.index();
        const POOL_UNMAPS: usize = Counter::PoolUnmaps.index();
        const COPIED_BYTES: usize = Counter::CopiedBytes.index();
        const CACHED_IDLES: usize = Counter::CachedIdles.index();
        const IN_COUNTED: usize = Counter::In(Flow::Pages(Window::CachedWrite)).index();
        const OUT_COUNTED: usize = Counter::Out(Flow::Pages(Window::CachedWrite)).index();
        const IN_PREMAPPED: usize = Counter::In(Flow::Pages(Window::Premapped)).index();
        const OUT_PREMAPPED: usize = Counter::Out(Flow::Pages(Window::Premapped)).index();
        const IN_IDLE: usize = Counter::In(Flow::Idle).index();
        const IDLED: usize = Counter::Idled(Age::of_ms(0)).index();

        // Those of the fastest path are told apart when this is compiled.
        match (counter, n) {
            (Counter::CachedHits, 1) => self.counters.increment::<CACHED_HITS>(),
            (Counter::CachedUnmaps, 1) => self.counters.increment::<CACHED_UNMAPS>(),
            (Counter::PremappedHits, 1) => self.counters.increment::<PREMAPPED_HITS>(),
            (Counter::PremappedUnmaps, 1) => self.counters.increment::<PREMAPPED_UNMAPS>(),
            (Counter::PoolHits, 1) => self.counters.increment::<POOL_HITS>(),
            (Counter::PoolUnmaps, 1) => self.counters.increment::<POOL_UNMAPS>(),
            (Counter::CopiedBytes, n) => self.counters.add::<COPIED_BYTES>(n),
            (Counter::CachedIdles, 1) => self.counters.increment::<CACHED_IDLES>(),
            (Counter::Idled(age), 1) => self
                .counters
                .increment_of::<IDLED, { Age::COUNT }>(age.index()),
            (Counter::In(Flow::Pages(Window::CachedWrite | Window::CachedRead)), n) => {
                self.counters.add::<IN_COUNTED>(n)
            }
            (Counter::Out(Flow::Pages(Window::CachedWrite | Window::CachedRead)), n) => {
                self.counters.add::<OUT_COUNTED>(n)
            }
            (Counter::In(Flow::Pages(Window::Premapped)), n) => {
                self.counters.add::<IN_PREMAPPED>(n)
            }
            (Counter::Out(Flow::Pages(Window::Premapped)), n) => {
                self.counters.add::<OUT_PREMAPPED>(n)
            }
            (Counter::In(Flow::Idle), n) => self.counters.add::<IN_IDLE>(n),
            _ => self.counters.add_at(counter.index(), n),
        }
        if matches!(counter, Counter::Evictions) {
            trace::evict(&self.device, n);
        }
    }

    fn sum(&self, counter: Counter) -> u64 {
        self.counters.total(counter.index())
    }
}

impl Attachment {
    /// Maps a range by one of the ways that a domain offers, and counts that.
    #[inline]
    fn map_by(
        &self,
        map: impl FnOnce(&Domain, u64, u64, usize, u32, Context) -> Result,
        range: PageRange,
        phys: Phys,
        prot: u32,
        context: Context,
    ) -> Result<(), OutOfMemory> {
        let bytes = range.bytes() as usize;

        map(&self.domain, range.start.0, phys.0, bytes, prot, context).map_err(|_| OutOfMemory)?;
        self.count(Counter::PteUpdates, range.pages);
        Ok(())
    }
}

/// Protection flags for what the device may do, and with what.
#[inline]
fn prot_of(access: Access, target: Target) -> u32 {
    let access = match access {
        Access::Read => prot::READ,
        Access::Write => prot::WRITE,
        Access::ReadWrite => prot::READ | prot::WRITE,
    };
    let target = match target {
        Target::Memory => prot::CACHE,
        Target::Mmio => prot::MMIO,
    };

    access | target
}
