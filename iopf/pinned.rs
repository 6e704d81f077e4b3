// SPDX-License-Identifier: GPL-2.0

//! Mode `pinned`: a page table of our own, of what the driver has asked to have pinned. Nothing is
//! brought in when the device asks for it: it gets an error.
//!
//! Lock order: `ranges`, then the lock of the address space.

use core::{
    ptr,
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
    new_mutex,
    prelude::*,
    sync::{
        aref::ARef,
        Arc,
        Mutex, //
    },
    time::{
        Instant,
        Monotonic, //
    }, //
};
use pdio::{
    embed::embeds,
    iommu::{
        prot,
        Context, //
    },
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
    trace::iopf as trace,
    user_pages::{
        account_locked,
        unaccount_locked,
        PinnedPages, //
    }, //
};

use crate::{
    device::Device,
    policy::page::{
        Page,
        PageRange,
        SHIFT, //
    }, //
};

/// What was pinned by one call.
struct PinnedRange {
    range: PageRange,
    /// In as many pieces as the process has mapped it in.
    pieces: KVec<PinnedPages>,
}

/// What is pinned.
struct Ranges {
    pinned: KVec<PinnedRange>,
    /// Whether the address space is there.
    alive: bool,
}

/// A process parts of which are pinned for a device.
#[pin_data]
pub(crate) struct Pinned {
    // Dropped first: it has the device stopped.
    #[pin]
    notifier: Notifier<Pinned>,
    // Dropped next: it waits for requests that are being answered.
    #[pin]
    attached: AttachedDomain<Pinned>,
    callbacks: Callbacks,
    mm: ARef<Mm>,
    device: Arc<Device>,
    /// Pages in `ranges`, for who does not want to wait.
    pages: AtomicU64,
    #[pin]
    ranges: Mutex<Ranges>,
}

embeds!(Pinned, notifier: Notifier<Pinned>);
embeds!(Pinned, attached: AttachedDomain<Pinned>);

impl Pinned {
    /// Binds the device and the process. May sleep.
    ///
    /// # Errors
    ///
    /// Those of [`AttachedDomain::new`], [`AttachedDomain::attach`] and [`Notifier::register`].
    pub(crate) fn new(
        device: &Arc<Device>,
        mm: &MmWithUser,
        callbacks: Callbacks,
    ) -> Result<Arc<Self>> {
        let attached = AttachedDomain::new(device.dma_device())?;
        let pinned = Arc::pin_init(
            pin_init!(Self {
                notifier <- Notifier::new(),
                attached <- attached,
                callbacks,
                mm: ARef::from(&**mm),
                device: device.clone(),
                pages: AtomicU64::new(0),
                ranges <- new_mutex!(Ranges {
                    pinned: KVec::new(),
                    alive: true,
                }),
            }),
            GFP_KERNEL,
        )?;

        pinned.notifier.register(mm, Wanted::Release)?;
        pinned.attached.attach()?;
        Ok(pinned)
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

    /// Pages that the device can reach.
    pub(crate) fn pages(&self) -> u64 {
        self.pages.load(Relaxed)
    }

    /// Pins a range of the current process. May sleep.
    ///
    /// # Errors
    ///
    /// As `iopf_pin()`.
    pub(crate) fn pin(&self, range: PageRange) -> Result {
        let task = kernel::current!();
        let mm = task.mm().ok_or(EPERM)?;

        if !ptr::eq(mm.as_raw(), self.mm.as_raw()) {
            return Err(EPERM);
        }
        if range.end().address() > self.attached.domain().last() {
            return Err(EFAULT);
        }

        let mut ranges = self.ranges.lock();

        if !ranges.alive {
            return Err(EFAULT);
        }
        if ranges
            .pinned
            .iter()
            .any(|known| !known.range.intersection(range).is_empty())
        {
            return Err(EEXIST);
        }
        if self.pages() + range.count > self.device.binding_limit() {
            return Err(ENOMEM);
        }
        ranges.pinned.reserve(1, GFP_KERNEL)?;
        self.charge(range)?;

        let pieces = self
            .bring(mm, range)
            .inspect_err(|_| self.uncharge(range.count))?;

        ranges
            .pinned
            .push(PinnedRange { range, pieces }, GFP_KERNEL)?;
        self.pages.fetch_add(range.count, Relaxed);
        self.device.statistics().mapped_pages.add(range.count);
        Ok(())
    }

    /// Unpins a range. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOENT`: it was not pinned by one call.
    pub(crate) fn unpin(&self, range: PageRange) -> Result {
        let mut ranges = self.ranges.lock();
        let at = ranges
            .pinned
            .iter()
            .position(|known| known.range == range)
            .ok_or(ENOENT)?;
        let gone = ranges.pinned.remove(at).map_err(|_| ENOENT)?;

        self.release(gone);
        Ok(())
    }

    /// Charges pages to the device and to the process.
    fn charge(&self, range: PageRange) -> Result {
        self.device.charge(self.pasid(), 0, range.count)?;
        account_locked(&self.mm, range.count as usize)
            .inspect_err(|_| self.device.budget().uncharge(range.count))
    }

    /// Gives back what [`Pinned::charge`] has charged.
    fn uncharge(&self, pages: u64) {
        unaccount_locked(&self.mm, pages as usize);
        self.device.budget().uncharge(pages);
    }

    /// Pins and maps a range, or nothing.
    fn bring(&self, mm: &MmWithUser, range: PageRange) -> Result<KVec<PinnedPages>> {
        let mut pieces = KVec::new();
        let mut next = range.first;
        let result = loop {
            let left = PageRange::between(next, range.end());

            if left.is_empty() {
                break Ok(());
            }

            let piece = pieces
                .reserve(1, GFP_KERNEL)
                .map_err(Error::from)
                .and_then(|()| {
                    let piece = PinnedPages::new(mm, next.address() as usize, left.count as usize)?;

                    self.map(next, &piece)?;
                    Ok(piece)
                });

            match piece {
                Ok(piece) => {
                    next = Page(next.0 + piece.len() as u64);
                    pieces.push(piece, GFP_KERNEL)?;
                }
                Err(error) => break Err(error),
            }
        };

        if let Err(error) = result {
            self.unmap(PageRange::between(range.first, next));
            return Err(error);
        }
        Ok(pieces)
    }

    /// Maps pages, or none.
    fn map(&self, first: Page, piece: &PinnedPages) -> Result {
        let write = if piece.is_writable() { prot::WRITE } else { 0 };
        let protection = prot::READ | prot::CACHE | write;
        let mut next = first;

        for phys in piece.phys() {
            let mapped = self.attached.domain().map(
                next.address(),
                phys,
                1 << SHIFT,
                protection,
                Context::MaySleep,
            );

            if let Err(error) = mapped {
                self.unmap(PageRange::between(first, next));
                return Err(error);
            }
            next = Page(next.0 + 1);
        }
        Ok(())
    }

    /// Takes pages from the device, which cannot reach them any more when this returns.
    fn unmap(&self, range: PageRange) {
        if !range.is_empty() {
            self.attached.domain().unmap_sync(core::iter::once((
                range.first.address(),
                (range.count << SHIFT) as usize,
            )));
        }
    }

    /// Unpins what is in no list any more.
    fn release(&self, gone: PinnedRange) {
        let PinnedRange { range, pieces } = gone;

        self.unmap(range);
        drop(pieces);
        self.pages.fetch_sub(range.count, Relaxed);
        self.uncharge(range.count);
    }
}

impl Resolve for Pinned {
    fn resolve(&self, group: FaultGroup) {
        let started = Instant::<Monotonic>::now();
        let device = self.device.dma_device();
        let mut requests = 0;

        for request in group.requests() {
            requests += 1;
            trace::fault(device, self.pasid(), request.address, request.write);
        }

        let ns = started.elapsed().as_nanos().unsigned_abs();

        self.device
            .statistics()
            .answered(requests, ns, &Err(EFAULT));
        trace::resolved(device, self.pasid(), requests, 0, ns, Err(EFAULT));
        group.respond(Response::Invalid);
    }
}

impl Changes for Pinned {
    fn released(&self) {
        self.callbacks.stop();

        let mut ranges = self.ranges.lock();

        ranges.alive = false;
        while let Some(gone) = ranges.pinned.pop() {
            self.release(gone);
        }
    }

    fn invalidate(&self, _range: core::ops::Range<usize>, _blocking: Blocking) -> Result {
        Ok(())
    }
}
