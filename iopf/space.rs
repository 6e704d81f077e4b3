// SPDX-License-Identifier: GPL-2.0

//! The memory of a process as a device sees it through a page table of our own: what modes `mirror`
//! and `pinned` have in common. What is in the table, and how it gets there, is their [`Content`].

use core::{
    ops::Range,
    sync::atomic::{
        AtomicU64,
        Ordering::Relaxed, //
    },
};

use kernel::{
    mm::{
        Mm,
        MmWithUser, //
    },
    prelude::*,
    sync::{
        aref::ARef,
        Arc, //
    },
    time::{
        Instant,
        Monotonic, //
    }, //
};
use pdio::{
    embed::embeds,
    iommu::Domain,
    iopf_service::Callbacks,
    mmu_notifier::{
        Blocking,
        Changes,
        Notifier,
        Wanted, //
    },
    page_fault::{
        FaultGroup,
        Response, //
    },
    pasid::{
        AttachedDomain,
        Resolve, //
    },
    trace::iopf as trace, //
};

use crate::{
    device::Device,
    policy::{
        budget::Budget,
        page::SHIFT,
        tunable::{
            OutOfRange,
            Range as Limits,
            Tunable, //
        },
    }, //
};

/// What is in a page table of our own.
pub(crate) trait Content: Send + Sync + Sized {
    /// What it has to be told of the process.
    const WANTED: Wanted;

    /// Brings in what the device asks for, and adds to `mapped` the pages that were mapped. May sleep.
    ///
    /// # Errors
    ///
    /// Something cannot be brought in.
    fn serve(space: &Space<Self>, group: &FaultGroup, mapped: &mut u64) -> Result;

    /// The process ends: takes everything from the device, which has stopped. May sleep.
    fn released(space: &Space<Self>);

    /// The process changes addresses: the device cannot reach anything there when this returns.
    ///
    /// # Errors
    ///
    /// `EAGAIN`: that would have to sleep, and must not.
    fn changed(space: &Space<Self>, addresses: Range<usize>, blocking: Blocking) -> Result;
}

/// A process of which a device has a page table of our own.
#[pin_data]
pub(crate) struct Space<T: Content> {
    // Dropped first: it has the device stopped.
    #[pin]
    notifier: Notifier<Space<T>>,
    // Dropped next: it waits for requests that are being served.
    #[pin]
    attached: AttachedDomain<Space<T>>,
    callbacks: Callbacks,
    mm: ARef<Mm>,
    device: Arc<Device>,
    /// Pages in `content`, for who does not want to wait.
    pages: AtomicU64,
    /// What it may keep, if the device's limit for each binding is not lower.
    limit_bytes: Tunable,
    #[pin]
    content: T,
}

embeds!(<T: Content> Space<T>, notifier: Notifier<Space<T>>);
embeds!(<T: Content> Space<T>, attached: AttachedDomain<Space<T>>);

impl<T: Content> Space<T> {
    /// Binds the device and the process. May sleep.
    ///
    /// # Errors
    ///
    /// Those of [`AttachedDomain::new`], [`AttachedDomain::attach`] and [`Notifier::register`].
    pub(crate) fn new(
        device: &Arc<Device>,
        mm: &MmWithUser,
        callbacks: Callbacks,
        content: impl PinInit<T>,
    ) -> Result<Arc<Self>> {
        let attached = AttachedDomain::new(device.dma_device())?;
        let space = Arc::pin_init(
            pin_init!(Self {
                notifier <- Notifier::new(),
                attached <- attached,
                callbacks,
                mm: ARef::from(&**mm),
                device: device.clone(),
                pages: AtomicU64::new(0),
                limit_bytes: Tunable::new(Limits {
                    default: Budget::RANGE.max,
                    ..Budget::RANGE
                }),
                content <- content,
            }),
            GFP_KERNEL,
        )?;

        // Nothing may be mapped that nobody would take away.
        space.notifier.register(mm, T::WANTED)?;
        space.attached.attach()?;
        Ok(space)
    }

    /// Unbinds the process, which cannot be bound again. May sleep.
    pub(crate) fn end(&self) {
        self.notifier.unregister();
        self.attached.detach();
    }

    /// The PASID.
    pub(crate) fn pasid(&self) -> u32 {
        self.attached.pasid()
    }

    /// The page table.
    pub(crate) fn domain(&self) -> &Domain {
        self.attached.domain()
    }

    /// The process.
    pub(crate) fn mm(&self) -> &Mm {
        &self.mm
    }

    /// The device.
    pub(crate) fn device(&self) -> &Device {
        &self.device
    }

    /// What is in the page table.
    pub(crate) fn content(&self) -> &T {
        &self.content
    }

    /// Pages that the device can reach.
    pub(crate) fn pages(&self) -> u64 {
        self.pages.load(Relaxed)
    }

    /// Says how many there are now. The caller holds what they are kept under.
    pub(crate) fn set_pages(&self, pages: u64) {
        self.pages.store(pages, Relaxed);
    }

    /// Most pages that it may keep.
    pub(crate) fn limit(&self) -> u64 {
        (self.limit_bytes.get() >> SHIFT).min(self.device.binding_limit())
    }

    /// Sets what it may keep itself, in bytes. What it keeps already stays.
    ///
    /// # Errors
    ///
    /// [`OutOfRange`]: it is 0, not in whole pages or above 2^52.
    pub(crate) fn set_limit_bytes(&self, bytes: u64) -> Result<(), OutOfRange> {
        self.limit_bytes.set(bytes)
    }
}

impl<T: Content> Resolve for Space<T> {
    fn resolve(&self, group: FaultGroup) {
        let started = Instant::<Monotonic>::now();
        let device = self.device.dma_device();
        let mut requests = 0;
        let mut mapped = 0;

        for request in group.requests() {
            requests += 1;
            trace::fault(device, self.pasid(), request.address, request.write);
        }

        let result = T::serve(self, &group, &mut mapped);
        let ns = started.elapsed().as_nanos().unsigned_abs();
        let response = if result.is_ok() {
            Response::Success
        } else {
            Response::Invalid
        };

        // Before the answer: whoever waits for the device finds them there.
        self.device.statistics().answered(requests, ns, &result);
        trace::resolved(device, self.pasid(), requests, mapped, ns, result);
        group.respond(response);
    }
}

impl<T: Content> Changes for Space<T> {
    fn released(&self) {
        self.callbacks.stop();
        T::released(self);
    }

    fn invalidate(&self, range: Range<usize>, blocking: Blocking) -> Result {
        T::changed(self, range, blocking)
    }
}
