// SPDX-License-Identifier: GPL-2.0

//! Mode `pinned`: a page table of our own, of what the driver has asked to have pinned. Nothing is
//! brought in when the device asks for it: it gets an error.
//!
//! Lock order: `ranges`, then the lock of the address space.

use core::{
    ops::Range,
    ptr, //
};

use kernel::{
    mm::MmWithUser,
    new_mutex,
    prelude::*,
    sync::{
        lock::{
            mutex::MutexBackend,
            Guard, //
        },
        Arc,
        Mutex, //
    }, //
};
use pdio::{
    iommu::{
        prot,
        Context, //
    },
    iopf_service::Callbacks,
    mmu_notifier::{
        Blocking,
        Wanted, //
    },
    page_fault::FaultGroup,
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
    },
    space::{
        Content,
        Space, //
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

/// What was asked to be pinned of a process.
#[pin_data]
pub(crate) struct Named {
    #[pin]
    ranges: Mutex<Ranges>,
}

/// A process parts of which are pinned for a device.
pub(crate) type Pinned = Space<Named>;

impl Pinned {
    /// Binds the device and the process. May sleep.
    ///
    /// # Errors
    ///
    /// Those of [`Space::new`].
    pub(crate) fn bind(
        device: &Arc<Device>,
        mm: &MmWithUser,
        callbacks: Callbacks,
    ) -> Result<Arc<Self>> {
        Self::new(
            device,
            mm,
            callbacks,
            pin_init!(Named {
                ranges <- new_mutex!(Ranges {
                    pinned: KVec::new(),
                    alive: true,
                }),
            }),
        )
    }

    /// What is pinned.
    fn ranges(&self) -> Guard<'_, Ranges, MutexBackend> {
        self.content().ranges.lock()
    }

    /// Pins a range of the current process. May sleep.
    ///
    /// # Errors
    ///
    /// As `iopf_pin()`.
    pub(crate) fn pin(&self, range: PageRange) -> Result {
        let task = kernel::current!();
        let mm = task.mm().ok_or(EPERM)?;

        if !ptr::eq(mm.as_raw(), self.mm().as_raw()) {
            return Err(EPERM);
        }
        if range.end().address() > self.domain().last() {
            return Err(EFAULT);
        }

        let mut ranges = self.ranges();

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
        if self.pages() + range.count > self.limit() {
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
        self.set_pages(self.pages() + range.count);
        self.device().statistics().mapped_pages.add(range.count);
        Ok(())
    }

    /// Unpins a range. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOENT`: it was not pinned by one call.
    pub(crate) fn unpin(&self, range: PageRange) -> Result {
        let mut ranges = self.ranges();
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
        self.device().charge(self.pasid(), 0, range.count)?;
        account_locked(self.mm(), range.count as usize)
            .inspect_err(|_| self.device().budget().uncharge(range.count))
    }

    /// Gives back what [`Pinned::charge`] has charged.
    fn uncharge(&self, pages: u64) {
        unaccount_locked(self.mm(), pages as usize);
        self.device().budget().uncharge(pages);
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
            let mapped = self.domain().map(
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
            self.domain().unmap_sync(core::iter::once((
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
        self.set_pages(self.pages() - range.count);
        self.uncharge(range.count);
    }
}

impl Content for Named {
    const WANTED: Wanted = Wanted::Release;

    fn serve(_pinned: &Pinned, _group: &FaultGroup, _mapped: &mut u64) -> Result {
        Err(EFAULT)
    }

    fn released(pinned: &Pinned) {
        let mut ranges = pinned.ranges();

        ranges.alive = false;
        while let Some(gone) = ranges.pinned.pop() {
            pinned.release(gone);
        }
    }

    fn changed(_pinned: &Pinned, _addresses: Range<usize>, _blocking: Blocking) -> Result {
        Ok(())
    }
}
