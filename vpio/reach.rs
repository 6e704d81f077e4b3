// SPDX-License-Identifier: GPL-2.0

//! The memory of its guest that a card can reach: in an IOMMU domain of its own, in which there is nothing
//! but what is pinned at the moment, at the guest's own addresses.

use core::{
    cell::{
        Cell,
        RefCell, //
    },
    ops::RangeInclusive, //
};

use kernel::{
    page::{
        PAGE_SHIFT,
        PAGE_SIZE, //
    },
    prelude::*,
    sync::Arc, //
};
use pdio::{
    device::LockedDevice,
    iommu::{
        for_each_reserved_region,
        prot,
        Context,
        OwnDomain, //
    },
    vfio::{
        Memory,
        PinnedPage, //
    }, //
};

use crate::{
    model::dma::{
        Channel,
        Channels,
        GuestMemory,
        Span, //
    },
    pins::{
        Pins,
        Reach,
        Refusal,
        Slot,
        PAGES_MAX, //
    },
    statistics::Statistics, //
};

/// Pages that somebody has at the addresses of the guest.
type Pages = RangeInclusive<u64>;

/// How pages are pinned and mapped.
struct Host {
    domain: KBox<OwnDomain>,
    /// What of the card's addresses never reaches its domain, such as those to which interrupts are sent.
    reserved: KVec<Pages>,
    /// None: no guest is open.
    memory: Option<Memory>,
    statistics: [Arc<Statistics>; 2],
}

/// Why a page cannot be granted.
enum Refused {
    /// The guest has no memory there.
    NotMemory,
    /// It cannot be pinned now.
    NotNow,
}

impl Reach for Host {
    type Pin = PinnedPage;
    type Error = Refused;

    fn grant(&mut self, page: u64) -> Result<PinnedPage, Refused> {
        let address = page << PAGE_SHIFT;
        let is_reserved = self.reserved.iter().any(|pages| pages.contains(&page));
        let memory = self.memory.as_ref().filter(|_| !is_reserved);

        if address > self.domain.last() {
            return Err(Refused::NotMemory);
        }

        let pinned =
            memory
                .ok_or(Refused::NotMemory)?
                .pin(address)
                .map_err(|error| match error {
                    EINVAL | ENOENT | EPERM => Refused::NotMemory,
                    _ => Refused::NotNow,
                })?;

        // The card may write to each: a page of a frame can be one of the ring's as well, and no mapping
        // can be widened while the card uses it.
        self.domain
            .map(
                address,
                pinned.phys(),
                PAGE_SIZE,
                prot::READ | prot::WRITE | prot::CACHE,
                Context::MaySleep,
            )
            .map_err(|_| Refused::NotNow)?;
        for statistics in &self.statistics {
            statistics.pins.add(1);
        }
        Ok(pinned)
    }

    fn revoke(&mut self, pages: impl Iterator<Item = u64>) {
        self.domain
            .unmap_sync(pages.map(|page| (page << PAGE_SHIFT, PAGE_SIZE)));
    }
}

/// What a card can reach, under its lock. All of it may sleep.
pub(crate) struct Reached {
    host: Host,
    pins: Pins<PinnedPage, KVec<Slot<PinnedPage>>>,
}

impl Reached {
    /// A card whose driver is being bound reaches nothing from now on. `statistics` are those of the card
    /// and of its guest.
    ///
    /// # Errors
    ///
    /// Those of [`OwnDomain::new`]; `EINVAL`: the firmware wants memory to be mapped for it. `ENOMEM`.
    pub(crate) fn new(device: &LockedDevice<'_>, statistics: [Arc<Statistics>; 2]) -> Result<Self> {
        let mut reserved = KVec::new();
        let mut slots = KVec::with_capacity(PAGES_MAX, GFP_KERNEL)?;

        for_each_reserved_region(device, |region| {
            if region.direct.is_some() {
                return Err(EINVAL);
            }

            let last = region.start.saturating_add(region.len.saturating_sub(1));

            reserved.push(region.start >> PAGE_SHIFT..=last >> PAGE_SHIFT, GFP_KERNEL)?;
            Ok(())
        })?;
        for _ in 0..PAGES_MAX {
            slots.push(Slot::EMPTY, GFP_KERNEL)?;
        }
        Ok(Self {
            host: Host {
                domain: KBox::new(OwnDomain::new(device)?, GFP_KERNEL)?,
                reserved,
                memory: None,
                statistics,
            },
            pins: Pins::new(slots),
        })
    }

    /// The memory of the guest that has the card, if one has.
    pub(crate) fn memory(&self) -> Option<Memory> {
        self.host.memory.clone()
    }

    /// A guest with this memory has the card.
    pub(crate) fn begin(&mut self, memory: &Memory) {
        self.host.memory = Some(memory.clone());
    }

    /// No guest has the card, which does no DMA any more.
    pub(crate) fn finish(&mut self) {
        self.pins.clear(&mut self.host);
        self.host.memory = None;
        self.count();
    }

    /// What was attempted has reached the card, for this channel.
    pub(crate) fn start(&mut self, channel: Channel) {
        self.pins.start(channel, &mut self.host);
        self.count();
    }

    /// What was attempted does not reach the card.
    pub(crate) fn give_up(&mut self) {
        self.pins.give_up(&mut self.host);
        self.count();
    }

    /// What these channels did is over.
    pub(crate) fn end(&mut self, over: Channels) {
        if !over.is_empty() {
            self.pins.end(over, &mut self.host);
            self.count();
        }
    }

    /// The guest loses what is at these addresses, whatever the card does there.
    pub(crate) fn withdraw(&mut self, addresses: RangeInclusive<u64>) {
        let pages = addresses.start() >> PAGE_SHIFT..=addresses.end() >> PAGE_SHIFT;

        self.pins.withdraw(pages, &mut self.host);
        self.count();
    }

    /// Says how many pages there are.
    fn count(&self) {
        for statistics in &self.host.statistics {
            statistics.pages_pinned.set(self.pins.len() as u64);
        }
    }
}

impl Drop for Reached {
    fn drop(&mut self) {
        // Before the domain goes, and before they are unpinned.
        self.finish();
    }
}

/// The memory of a guest as it is asked about for one write: what would be accessed is pinned by that.
pub(crate) struct Attempt<'a> {
    reached: RefCell<&'a mut Reached>,
    outcome: Cell<Outcome>,
}

/// What has come of an attempt.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Nothing was asked for.
    Untried,
    /// All of it is pinned.
    Pinned,
    /// It is not memory of the guest.
    NotMemory,
    /// It is, but cannot be pinned now.
    NotPinned,
}

impl<'a> Attempt<'a> {
    /// Nothing was asked for so far.
    pub(crate) fn new(reached: &'a mut Reached) -> Self {
        Self {
            reached: RefCell::new(reached),
            outcome: Cell::new(Outcome::Untried),
        }
    }

    /// What came of what was asked for last.
    pub(crate) fn outcome(&self) -> Outcome {
        self.outcome.get()
    }
}

impl GuestMemory for Attempt<'_> {
    fn contains(&self, span: Span) -> bool {
        let Ok(mut reached) = self.reached.try_borrow_mut() else {
            return false;
        };
        let Reached { host, pins } = &mut **reached;
        let outcome = match pins.attempt(span, host) {
            Ok(()) => Outcome::Pinned,
            Err(Refusal::Page(Refused::NotMemory)) => Outcome::NotMemory,
            Err(Refusal::Page(Refused::NotNow) | Refusal::Full) => Outcome::NotPinned,
        };

        self.outcome.set(outcome);
        outcome == Outcome::Pinned
    }
}
