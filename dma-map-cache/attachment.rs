// SPDX-License-Identifier: GPL-2.0

//! A device whose DMA mappings are ours: its domain, its IOVA space, its numbers.

use core::{
    ops::RangeInclusive,
    sync::atomic::{
        AtomicU32,
        Ordering::Relaxed, //
    }, //
};

use kernel::{
    alloc::KVVec,
    new_mutex,
    prelude::*,
    sync::{
        Arc,
        Mutex, //
    }, //
};
use pdio::{
    coherent::Piece,
    device::{
        DmaDevice,
        LockedDevice, //
    },
    dma_map_multi::{
        self,
        export_dma_map_multi, //
    },
    dma_map_ops::{
        self,
        Direction,
        DmaAddress,
        DmaMapOps,
        DmaOps,
        Masks, //
    },
    embed::embeds,
    error::not_supported,
    iommu::{
        self,
        prot,
        Context,
        Domain, //
    },
    iova::IovaAllocator,
    lock::IrqSpinLock,
    memory::{
        self,
        Pages, //
    },
    pci::PciDevice,
    percpu::{
        self,
        Counters, //
    },
    rcu,
    scatterlist::{
        self,
        EntryList, //
    },
    shrinker::{
        Shrink,
        Shrinker, //
    },
    sparse::SparseTable,
    tasklet::{
        Finish,
        Tasklets, //
    },
    timer::{
        self,
        Expire,
        Timer, //
    },
    trace::dma_map_cache as trace,
    work::{
        Run,
        Work, //
    }, //
};

use crate::strategy::{
    address::{
        Buffer,
        Iova,
        Layout,
        PageRange,
        Phys,
        Window, //
    },
    auto::INTERVAL_MS,
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
    blocks::Blocks,
    counted::NotRetained,
    counter::{
        Counter,
        Flow, //
    },
    engine::Reach,
    exposure::Age,
    list::{
        Joiner,
        List,
        Segment,
        SegmentLimits, //
    },
    tunable::{
        OutOfRange,
        Tunable, //
    },
    Engine,
    Kind, //
};

/// A device whose DMA mappings are ours.
///
/// Lock order: the lock of the device, then `switching`.
#[pin_data]
#[repr(C)]
pub(crate) struct Attachment {
    #[pin]
    flush_timer: Timer<Attachment>,
    #[pin]
    housekeeping: Work<Attachment>,
    #[pin]
    batch_ends: Tasklets<Attachment>,
    #[pin]
    shrinker: Shrinker<Attachment>,
    engine: Engine<Attachment>,
    layout: Layout,
    #[pin]
    low: IovaAllocator,
    exact: Blocks<Attachment>,
    #[pin]
    contiguous: IovaAllocator,
    counters: Counters<{ Counter::COUNT }>,
    domain: Domain,
    device: DmaDevice,
    /// When `auto` looked at what the driver does, in milliseconds.
    decided_ms: AtomicU32,
    /// Held while the strategy changes, and while leftovers of former ones are withdrawn.
    #[pin]
    switching: Mutex<()>,
}

embeds!(Attachment, flush_timer: Timer<Attachment>);
embeds!(Attachment, housekeeping: Work<Attachment>);
embeds!(Attachment, batch_ends: Tasklets<Attachment>);
embeds!(Attachment, shrinker: Shrinker<Attachment>);

/// The path for the strategies that keep pages; there is none for those that map exactly.
const PATH_CACHED: usize = 1;
/// The path for `premapped`.
const PATH_PREMAPPED: usize = 2;
/// The path for `pool`, and for all as long as something is left of it.
const PATH_POOL: usize = 3;

const _: () = assert!(PATH_POOL == dma_map_ops::FIRST_SYNC_PATH);

/// An attachment and the operations by which the DMA API reaches it.
pub(crate) type AttachedOps = DmaOps<Attachment>;

impl Attachment {
    /// Makes everything that an attachment of `pci` needs, and takes nothing from the device yet.
    /// May sleep.
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP`: the IOMMU has too few address bits. `ENOMEM`, and what the IOMMU driver says.
    pub(crate) fn new(pci: &PciDevice) -> Result<Arc<AttachedOps>> {
        let device = pci.dma_device();
        let domain = Domain::new(&device)?;
        let layout =
            Layout::new(domain.last().min(device.bus_limit())).ok_or_else(not_supported)?;
        let mut ram_end = 0;

        memory::for_each_ram_range(&mut |range| {
            ram_end = range.end;
            Ok(())
        })?;

        let engine = Self::new_engine(layout, Phys(ram_end), pci.is_untrusted())?;
        let exact = Blocks::new(layout.base(Window::Exact), layout.last(Window::Exact))
            .map_err(|OutOfMemory| ENOMEM)?;
        let counters = Counters::new()?;
        let batch_ends = Tasklets::new(Self::cpus())?;

        let ops = Arc::pin_init(
            DmaOps::new(try_pin_init!(Self {
                flush_timer <- Timer::new(),
                housekeeping <- Work::new(),
                batch_ends <- batch_ends,
                shrinker <- Shrinker::new(c"dma-map-cache")?,
                engine: KBox::into_inner(engine),
                layout,
                low <- IovaAllocator::new(layout.base(Window::Low)),
                exact,
                contiguous <- IovaAllocator::new(layout.base(Window::Contiguous)),
                counters,
                domain,
                device,
                decided_ms: AtomicU32::new(0),
                switching <- new_mutex!(()),
            }? Error)),
            GFP_KERNEL,
        )?;

        ops.reserve(pci)?;
        ops.shrinker.register();
        Ok(ops)
    }

    /// Makes the strategies, on the heap: they are some kilobytes, and every function that they are
    /// moved through on the way to their place would have them on its stack.
    #[inline(never)]
    fn new_engine(layout: Layout, ram_end: Phys, untrusted: bool) -> Result<KBox<Engine<Self>>> {
        let mut engine = KBox::new(
            Engine::new(layout, ram_end).map_err(|OutOfMemory| ENOMEM)?,
            GFP_KERNEL,
        )?;

        if untrusted {
            engine.distrust();
        }
        Ok(engine)
    }

    /// Keeps IOVA space from being handed out that does not reach the IOMMU, or that firmware
    /// wants mapped.
    fn reserve(&self, pci: &PciDevice) -> Result {
        let last = self.layout.last(Window::Low);
        let reserve = |region: RangeInclusive<u64>| {
            if *region.start() > last {
                return Ok(());
            }
            self.low.reserve(*region.start(), last.min(*region.end()))
        };
        let mut result = Ok(());

        pci.for_each_bridge_window(&mut |window| {
            if result.is_ok() {
                result = reserve(window);
            }
        });
        result?;

        iommu::for_each_reserved_region(&self.device, |region| {
            if let Some(prot) = region.direct {
                let len = usize::try_from(region.len)?;

                self.domain
                    .map(region.start, region.start, len, prot, Context::MaySleep)?;
            }
            reserve(region.start..=region.start + (region.len - 1))
        })
    }

    /// Makes the device translate by our domain. May sleep.
    ///
    /// # Errors
    ///
    /// See [`Domain::attach`].
    pub(crate) fn attach_domain(&self, device: &LockedDevice<'_>) -> Result {
        self.domain.attach(device)
    }

    /// Gives the device back to the kernel's domain, after its operations. May sleep.
    pub(crate) fn detach_domain(&self, device: &LockedDevice<'_>) {
        let live = self.live_pages();

        if live != 0 {
            kernel::dev_warn!(
                self.device.device(),
                "dma-map-cache: the driver has left {live} pages mapped\n"
            );
        }
        self.domain.detach(device);

        let _switching = self.switching.lock();

        self.engine.retire(self);
    }

    /// The device.
    pub(crate) fn device(&self) -> &DmaDevice {
        &self.device
    }

    /// The strategies.
    pub(crate) fn engine(&self) -> &Engine<Self> {
        &self.engine
    }

    /// Pages in use whose mapping another strategy than the current one made.
    pub(crate) fn unsettled_pages(&self) -> u64 {
        self.engine.unsettled_pages(self)
    }

    /// Pages that their owners have retained.
    pub(crate) fn retained_pages(&self) -> u64 {
        self.engine.counted.retained_pages()
    }

    /// Pages that the driver has mapped.
    pub(crate) fn live_pages(&self) -> u64 {
        self.engine.live_pages(self)
    }

    /// Pages that the device can reach though the driver has unmapped them, because their mapping
    /// is kept.
    pub(crate) fn idle_pages(&self) -> u64 {
        self.outstanding(Flow::Idle)
    }

    /// Pages that the device can reach now though no driver has them mapped.
    pub(crate) fn exposed_pages(&self) -> u64 {
        self.engine.exposed_pages(self)
    }

    /// Flushes what `deferred` has queued, and lets the timer begin anew with the next unmap. May
    /// sleep.
    pub(crate) fn restart_deferred(&self) {
        self.flush_timer.cancel();
        self.engine.expire_deferred(self);
    }

    /// Sets how much is kept of idle mappings, and withdraws at once what is more. May take long.
    ///
    /// # Errors
    ///
    /// [`OutOfRange`]: nothing changed.
    pub(crate) fn set_retention(&self, tunable: &Tunable, value: u64) -> Result<(), OutOfRange> {
        let _switching = self.switching.lock();

        tunable.set(value)?;
        self.engine.retune(self);
        self.housekeeping.requeue(0);
        Ok(())
    }

    /// Changes the strategy under the traffic. May sleep.
    ///
    /// # Errors
    ///
    /// `EPERM` if the device is not trusted and the strategy leaves something reachable; `ENOMEM`.
    /// The old strategy goes on then.
    pub(crate) fn switch(&self, to: Kind) -> Result {
        if !self.engine.may_have(to) {
            return Err(EPERM);
        }

        let _switching = self.switching.lock();
        let from = self.engine.current();

        self.announce(to);

        let switched = self.engine.switch(self, to);

        self.follow(from);
        switched.map_err(|OutOfMemory| ENOMEM)?;
        self.housekeeping.requeue(0);
        Ok(())
    }

    /// Sets how much may be exposed under `auto`, which holds when this returns. May take long.
    ///
    /// # Errors
    ///
    /// `EINVAL`: nothing changed. `ENOMEM`: it is set, but there was no memory for a better strategy.
    pub(crate) fn set_bound(&self, tunable: &Tunable, value: u64) -> Result {
        let _switching = self.switching.lock();
        let from = self.engine.current();

        tunable.set(value).map_err(|OutOfRange| EINVAL)?;

        let rebound = self.engine.rebound(self, |to| self.announce(to));

        self.follow(from);
        rebound.map_err(|OutOfMemory| ENOMEM)?;
        self.housekeeping.requeue(0);
        Ok(())
    }

    /// Makes the operations of the device ready for a strategy, before a switch.
    fn announce(&self, to: Kind) {
        // Drivers must synchronize before the first buffer is copied, so the path comes first.
        if to == Kind::Pool {
            AttachedOps::select::<PATH_POOL>(self, &self.device);
        }
    }

    /// Makes the operations of the device those of the current strategy, after a switch.
    fn follow(&self, from: Kind) {
        let to = self.engine.current();

        self.select_path();
        if from != to {
            trace::switch(&self.device, from as u8, to as u8);
        }
    }

    /// Lets single buffers take the path for the current strategy. The caller keeps others from
    /// switching.
    fn select_path(&self) {
        if self.engine.needs_sync() {
            return AttachedOps::select::<PATH_POOL>(self, &self.device);
        }

        match self.engine.current() {
            Kind::Cached | Kind::Persistent => {
                AttachedOps::select::<PATH_CACHED>(self, &self.device)
            }
            Kind::Premapped => AttachedOps::select::<PATH_PREMAPPED>(self, &self.device),
            _ => AttachedOps::select::<0>(self, &self.device),
        }
    }

    /// Sets a limit of the memory of `pool`, and brings it within at once. May take long.
    ///
    /// # Errors
    ///
    /// [`OutOfRange`]: nothing changed.
    pub(crate) fn set_pool_limit(&self, limit: &Tunable, bytes: u64) -> Result<(), OutOfRange> {
        let _switching = self.switching.lock();

        limit.set(bytes)?;
        if self.engine.current() == Kind::Pool {
            self.engine.pool.trim(self);
        }
        Ok(())
    }

    /// Milliseconds between two looks at what has become too old.
    ///
    /// Four looks within the age limit, so that nothing gets older than five quarters of it; not
    /// below a timer tick, and not so seldom that leftovers of a strategy wait for long.
    fn housekeeping_interval_ms(&self) -> u32 {
        let quarter = self.engine.counted.max_age_ms() / 4;
        let most = if self.engine.is_automatic() {
            INTERVAL_MS
        } else {
            1000
        };

        quarter.clamp(4, most.into()) as u32
    }

    /// Lets `auto` decide, if it is time.
    fn decide(&self) {
        let now_ms = self.now_ms();
        let since_ms = now_ms.wrapping_sub(self.decided_ms.load(Relaxed));

        if since_ms < INTERVAL_MS {
            return;
        }

        let from = self.engine.current();

        self.decided_ms.store(now_ms, Relaxed);
        // Without memory the current strategy goes on until the next time.
        let _ = self.engine.decide(self, |to| self.announce(to));
        self.follow(from);
    }
}

impl Expire for Attachment {
    fn expire(&self) {
        self.engine.expire_deferred(self);
    }
}

impl Finish for Attachment {
    fn finish(&self, cpu: usize) {
        self.engine.end_batch(self, cpu);
    }
}

impl Shrink for Attachment {
    fn surplus(&self) -> usize {
        usize::try_from(self.idle_pages()).unwrap_or(usize::MAX)
    }

    fn shrink(&self, n: usize) -> usize {
        self.engine.shrink(self, n as u64) as usize
    }
}

impl Run for Attachment {
    fn run(&self) {
        let _switching = self.switching.lock();

        self.decide();
        self.engine.counted.expire(self);

        let current = self.engine.current();

        if current == Kind::Pool {
            self.engine.pool.trim(self);
        }

        let settled = self.engine.settle(self);

        self.select_path();
        if !settled || current.keeps() || current == Kind::Pool || self.engine.is_automatic() {
            self.housekeeping.queue(self.housekeeping_interval_ms());
        }
    }
}

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
                pages: (range.end - range.start) >> crate::strategy::address::PAGE_SHIFT,
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

    /// What the driver may be given now, in any buffer. Sees to it that the driver synchronizes what
    /// it is given, if it must.
    #[inline]
    fn reach(&self, masks: Masks) -> Reach {
        if self.engine.needs_sync() {
            masks.require_sync();
        }

        Reach {
            limit: masks.streaming(),
            segment: SegmentLimits::NONE,
            align_mask: masks.min_align(),
        }
    }

    /// Maps a buffer that does not lie within one page, or is no simple hit for another reason.
    ///
    /// Apart from the path of one page, which needs no stack frame, and from all that can happen:
    /// one in three receive buffers of a network card lies across the boundary of two pages.
    #[inline(never)]
    fn map_pages_of<const PATH: usize>(
        masks: Masks,
        phys: u64,
        len: u64,
        direction: Direction,
        this: &Self,
    ) -> DmaAddress {
        let buffer = Buffer {
            phys: Phys(phys),
            len,
        };
        let may_write = direction != Direction::TO_DEVICE;

        if len != 0 && !trace::map_is_on() {
            let limit = masks.streaming();
            let hit = match PATH {
                PATH_PREMAPPED => this.engine.map_premapped_hits(this, buffer, limit),
                _ => this.engine.map_cached_hits(this, buffer, may_write, limit),
            };

            if let Some(iova) = hit {
                return DmaAddress(iova.0);
            }
        }
        Self::map_slowly(masks, phys, len, direction, this)
    }

    /// Unmaps what [`Attachment::map_pages_of`] is there for.
    #[inline(never)]
    fn unmap_pages_of<const PATH: usize>(&self, dma_address: DmaAddress, len: u64) {
        let iova = Iova(dma_address.0);

        if len != 0 && !trace::unmap_is_on() {
            let done = match PATH {
                PATH_PREMAPPED => self.engine.unmap_premapped_hits(self, iova, len),
                _ => self.engine.unmap_cached_hits(self, iova, len),
            };

            if done {
                return;
            }
        }
        self.unmap_slowly(dma_address, len);
    }

    /// Maps a buffer that is no simple hit, or that somebody wants to hear of.
    ///
    /// The parameters are in the order in which the DMA core passes them, so that the path of a hit
    /// has no registers to shuffle.
    #[inline(never)]
    fn map_slowly(
        masks: Masks,
        phys: u64,
        len: u64,
        direction: Direction,
        this: &Self,
    ) -> DmaAddress {
        let buffer = Buffer {
            phys: Phys(phys),
            len: len.max(1),
        };
        let reach = this.reach(masks);
        match this.engine.map(this, buffer, access_of(direction), reach) {
            Ok(iova) => {
                if len == 0 {
                    // The byte that was mapped instead is somebody else's.
                    this.engine.discard(iova);
                }
                trace::map(&this.device, DmaAddress(iova.0), len);
                DmaAddress(iova.0)
            }
            Err(OutOfMemory) => DmaAddress::MAPPING_ERROR,
        }
    }

    /// Unmaps a buffer that was no simple hit, or that somebody wants to hear of.
    #[inline(never)]
    fn unmap_slowly(&self, dma_address: DmaAddress, len: u64) {
        trace::unmap(&self.device, dma_address, len);
        self.engine.unmap(self, Iova(dma_address.0), len.max(1));
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

/// What the device may do with a buffer of a direction.
fn access_of(direction: Direction) -> Access {
    match direction {
        Direction::TO_DEVICE => Access::Read,
        Direction::FROM_DEVICE => Access::Write,
        _ => Access::ReadWrite,
    }
}

impl DmaMapOps for Attachment {
    #[inline(always)]
    fn map<const PATH: usize>(
        &self,
        masks: Masks,
        phys: u64,
        len: u64,
        direction: Direction,
    ) -> DmaAddress {
        let buffer = Buffer {
            phys: Phys(phys),
            len,
        };
        let may_write = direction != Direction::TO_DEVICE;

        if !trace::map_is_on() {
            let hit = match PATH {
                PATH_CACHED => {
                    self.engine
                        .map_cached_hit(self, buffer, may_write, masks.streaming())
                }
                PATH_PREMAPPED => self
                    .engine
                    .map_premapped_hit(self, buffer, masks.streaming()),
                PATH_POOL if !masks.skips_sync() => self.engine.map_pool_hit(
                    self,
                    buffer,
                    access_of(direction),
                    masks.streaming(),
                    masks.min_align(),
                ),
                _ => None,
            };

            if let Some(iova) = hit {
                return DmaAddress(iova.0);
            }
        }

        match PATH {
            PATH_CACHED | PATH_PREMAPPED => {
                Self::map_pages_of::<PATH>(masks, phys, len, direction, self)
            }
            _ => Self::map_slowly(masks, phys, len, direction, self),
        }
    }

    #[inline(always)]
    fn unmap<const PATH: usize>(&self, dma_address: DmaAddress, len: u64) {
        let iova = Iova(dma_address.0);

        if !trace::unmap_is_on() {
            let done = match PATH {
                PATH_CACHED => self.engine.unmap_cached_hit(self, iova, len),
                PATH_PREMAPPED => self.engine.unmap_premapped_hit(self, iova, len),
                PATH_POOL => self.engine.unmap_pool_hit(self, iova, len),
                _ => false,
            };

            if done {
                return;
            }
        }

        match PATH {
            PATH_CACHED | PATH_PREMAPPED => self.unmap_pages_of::<PATH>(dma_address, len),
            _ => self.unmap_slowly(dma_address, len),
        }
    }

    fn map_list(&self, masks: Masks, list: &mut EntryList<'_>, direction: Direction) -> Result {
        let reach = Reach {
            segment: SegmentLimits {
                max_bytes: masks.max_segment().into(),
                boundary_mask: masks.segment_boundary(),
            },
            ..self.reach(masks)
        };
        self.engine
            .map_list(self, list, access_of(direction), reach)
            .map_err(|OutOfMemory| ENOMEM)?;
        if trace::map_is_on() {
            for entry in list.iter_mapped() {
                trace::map(
                    &self.device,
                    DmaAddress(entry.dma_address()),
                    entry.dma_len(),
                );
            }
        }
        Ok(())
    }

    fn unmap_list(&self, mut list: EntryList<'_>) {
        if trace::unmap_is_on() {
            for entry in list.iter_mapped() {
                trace::unmap(
                    &self.device,
                    DmaAddress(entry.dma_address()),
                    entry.dma_len(),
                );
            }
        }
        self.engine.unmap_list(self, &mut list);
    }

    fn discard(&self, dma_address: DmaAddress) {
        self.engine.discard(Iova(dma_address.0));
    }

    fn sync_for_device(&self, dma_address: DmaAddress, len: u64) {
        self.engine.sync_for_device(self, Iova(dma_address.0), len);
    }

    fn sync_for_cpu(&self, dma_address: DmaAddress, len: u64) {
        self.engine.sync_for_cpu(self, Iova(dma_address.0), len);
    }

    fn map_multi(
        &self,
        masks: Masks,
        buffers: &mut [dma_map_multi::Buffer],
        direction: Direction,
    ) -> Result {
        let reach = self.reach(masks);

        self.engine
            .map_multi(self, buffers, access_of(direction), reach)
            .map_err(|OutOfMemory| ENOMEM)?;
        if trace::map_is_on() {
            for buffer in buffers {
                trace::map(&self.device, buffer.dma_address(), buffer.len());
            }
        }
        Ok(())
    }

    fn retain(
        &self,
        masks: Masks,
        buffers: &[dma_map_multi::Buffer],
        direction: Direction,
    ) -> Result {
        let reach = self.reach(masks);

        self.engine
            .retain(self, buffers, access_of(direction), reach)
            .map_err(|reason| match reason {
                NotRetained::Distrusted => EPERM,
                NotRetained::OutOfReach => ERANGE,
                NotRetained::Busy => EAGAIN,
                NotRetained::OverBudget => ENOSPC,
                NotRetained::OutOfMemory => ENOMEM,
            })
    }

    fn release_retained(&self, buffers: &[dma_map_multi::Buffer], direction: Direction) {
        self.engine
            .release_retained(self, buffers, access_of(direction));
    }

    fn unmap_multi(&self, buffers: &mut [dma_map_multi::Buffer]) {
        if trace::unmap_is_on() {
            for buffer in buffers.iter() {
                trace::unmap(&self.device, buffer.dma_address(), buffer.len());
            }
        }
        self.engine.unmap_multi(self, buffers);
    }

    fn map_fixed(
        &self,
        limit: u64,
        mut pieces: &mut [Piece],
        direction: Direction,
        target: dma_map_ops::Target,
    ) -> DmaAddress {
        let target = match target {
            dma_map_ops::Target::Memory => Target::Memory,
            dma_map_ops::Target::Mmio => Target::Mmio,
        };
        let mapped = self
            .engine
            .map_fixed(self, &mut pieces, access_of(direction), target, limit);

        match (mapped, pieces.first()) {
            (Ok(()), Some(first)) => DmaAddress(first.dma_address),
            _ => DmaAddress::MAPPING_ERROR,
        }
    }

    fn unmap_fixed(&self, dma_address: DmaAddress, len: u64) {
        self.engine
            .unmap_fixed(self, PageRange::of(Iova(dma_address.0), len.max(1)));
    }
}

impl Segment for scatterlist::Entry {
    #[inline]
    fn buffer(&self) -> Buffer {
        Buffer {
            phys: Phys(self.phys()),
            len: self.len().max(1),
        }
    }

    #[inline]
    fn assign(&mut self, iova: Iova) {
        self.set_dma_address(iova.0);
    }

    #[inline]
    fn assigned(&self) -> (Iova, u64) {
        (Iova(self.dma_address()), self.dma_len())
    }
}

impl List for EntryList<'_> {
    type Segment = scatterlist::Entry;

    #[inline]
    fn segments(&mut self) -> impl Iterator<Item = &mut scatterlist::Entry> {
        self.iter_mut()
    }

    #[inline]
    fn entries(&self) -> usize {
        self.len()
    }

    #[inline]
    fn assigned(&mut self) -> impl Iterator<Item = &mut scatterlist::Entry> {
        self.iter_mapped()
    }

    #[inline]
    fn join(&mut self, mut joiner: Joiner) {
        self.rewrite(|segment| {
            let joined = match segment {
                Some((dma_address, len)) => joiner.push(Iova(dma_address), len.into()),
                None => joiner.finish(),
            };

            // What is joined is no longer than the limit, which is of 32 bits.
            joined.map(|(iova, len)| (iova.0, len as u32))
        });
    }
}

impl Segment for dma_map_multi::Buffer {
    #[inline]
    fn buffer(&self) -> Buffer {
        Buffer {
            phys: Phys(self.phys()),
            len: self.len().max(1),
        }
    }

    #[inline]
    fn assign(&mut self, iova: Iova) {
        self.set_dma_address(DmaAddress(iova.0));
    }

    #[inline]
    fn assigned(&self) -> (Iova, u64) {
        (Iova(self.dma_address().0), self.len().max(1))
    }
}

export_dma_map_multi!(Attachment);

impl Segment for Piece {
    fn buffer(&self) -> Buffer {
        Buffer {
            phys: Phys(self.phys),
            len: self.len.max(1),
        }
    }

    fn assign(&mut self, iova: Iova) {
        self.dma_address = iova.0;
    }

    fn assigned(&self) -> (Iova, u64) {
        (Iova(self.dma_address), self.len)
    }
}
