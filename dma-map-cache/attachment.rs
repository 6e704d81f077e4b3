// SPDX-License-Identifier: GPL-2.0

//! A device whose DMA mappings are ours: its domain, its IOVA space, its numbers.

mod backend;
mod operations;
mod segments;

use core::{
    ops::RangeInclusive,
    sync::atomic::{
        AtomicU32,
        Ordering::Relaxed, //
    }, //
};

use kernel::{
    new_mutex,
    prelude::*,
    sync::{
        Arc,
        Mutex, //
    }, //
};
use pdio::{
    device::{
        DmaDevice,
        LockedDevice, //
    },
    dma_map_ops::DmaOps,
    embed::embeds,
    error::not_supported,
    iommu::{
        self,
        Context,
        Domain, //
    },
    iova::IovaAllocator,
    memory,
    pci::PciDevice,
    percpu::Counters,
    shrinker::{
        Shrink,
        Shrinker, //
    },
    tasklet::{
        Finish,
        Tasklets, //
    },
    timer::{
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
        Layout,
        Phys,
        Window, //
    },
    auto::INTERVAL_MS,
    backend::{
        Backend,
        OutOfMemory, //
    },
    blocks::Blocks,
    counter::{
        Counter,
        Flow, //
    },
    tunable::{
        OutOfRange,
        Tunable, //
    },
    Engine,
    Kind, //
};
use operations::{
    PATH_CACHED,
    PATH_POOL,
    PATH_PREMAPPED, //
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
