// SPDX-License-Identifier: GPL-2.0

//! Mode `mirror`: a page table of our own that holds what the device has used, and is kept exact.
//!
//! A page gets in when the device asks for it, with neighbours that it is expected to want, and out
//! when the process changes it or the budget is needed for another. It holds no reference to the page:
//! the kernel may swap it, move it, merge it and split it as it likes, and says so before it does.
//!
//! # How it stays exact
//!
//! Two notifiers are told of a change of the process, this one after the other. A [`Watch`] over the
//! pages that are being looked up makes the look-up begin anew. The [`Notifier`] takes away what was
//! mapped before, with the translations in the IOMMU and in the device, and only then may the change
//! happen. Both take `state`, under which pages are mapped, so a page is either not mapped because its
//! watch has changed, or seen by the notifier.
//!
//! Lock order: the lock of the address space, then `state`. Memory is reclaimed by who waits for
//! `state`, so nothing is allocated under it that may wait for memory.
//!
//! [`Notifier`]: pdio::mmu_notifier::Notifier

use core::ops::Range;

use kernel::{
    alloc::KVVec,
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
    },
    time::{
        Delta,
        Instant,
        Monotonic, //
    }, //
};
use pdio::{
    hmm::{
        self,
        Entry, //
    },
    iommu::{
        prot,
        Context, //
    },
    iopf_service::Callbacks,
    mmu_notifier::{
        Blocking,
        Wanted,
        Watch, //
    },
    page_fault::FaultGroup,
    trace::iopf as trace, //
};

use crate::{
    device::Device,
    policy::{
        batch::{
            Batch,
            Request, //
        },
        fault_around::{
            Bounds,
            FaultAround,
            Plan, //
        },
        page::{
            Access,
            Page,
            PageRange,
            Runs,
            SHIFT, //
        },
        resident::{
            Protection,
            Reason,
            Resident, //
        },
    },
    slots::Slots,
    space::{
        Content,
        Space, //
    }, //
};

/// How long a look-up is begun anew while the process keeps changing what is looked up. The kernel
/// gives up waiting for a page after a time of this order (`HMM_RANGE_DEFAULT_TIMEOUT` is 1 s).
const PATIENCE: Delta = Delta::from_secs(10);

/// How often that is done for pages that nobody has asked for: the larger the window, the likelier it
/// is that something in it changes all the time.
const WINDOW_TRIES: u32 = 3;

/// Most pages that are taken at once to make room. Each time costs an invalidation of the IOTLB and
/// of the device's translations.
const EVICTION_BATCH: usize = 64;

/// What the device can reach.
struct State {
    resident: Resident<Slots>,
    around: FaultAround,
    /// Whether the address space is there, and will say when it changes.
    alive: bool,
}

/// A copy of what a device has used of the page table of a process.
#[pin_data]
pub(crate) struct Copied {
    #[pin]
    state: Mutex<State>,
}

/// A process of which a device has a copy of the page table.
pub(crate) type Mirror = Space<Copied>;

impl Mirror {
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
            pin_init!(Copied {
                state <- new_mutex!(State {
                    resident: Resident::new(Slots::none()),
                    around: FaultAround::new(),
                    alive: true,
                }),
            }),
        )
    }

    /// Most pages that it can have, whatever others give up.
    fn most(&self) -> u64 {
        self.limit().min(self.device().budget().limit())
    }

    /// What the device can reach.
    fn state(&self) -> Guard<'_, State, MutexBackend> {
        self.content().state.lock()
    }

    /// Takes up to `count` pages to keep within a budget, and returns how many.
    pub(crate) fn evict(&self, count: u64) -> u64 {
        let eviction = self.device().eviction();
        let mut left = count;

        while left > 0 {
            let mut victims = [Page(0); EVICTION_BATCH];
            let mut state = self.state();
            let victims = state
                .resident
                .evict_several(eviction, left as usize, &mut victims);

            if victims.is_empty() {
                break;
            }

            let taken = victims.len() as u64;

            self.unmap(Runs::new(victims.iter().copied()), trace::evicted);
            self.changed(&state);
            drop(state);
            self.device().budget().uncharge(taken);
            self.device().statistics().evicted_pages.add(taken);
            left -= taken;
        }
        count - left
    }

    /// Takes pages from the device, which cannot reach them any more when this returns. The caller
    /// holds `state` and has taken them from there.
    fn unmap(
        &self,
        runs: impl Iterator<Item = PageRange>,
        trace: fn(&pdio::device::DmaDevice, u32, u64, u64),
    ) {
        self.domain().unmap_sync(runs.map(|run| {
            trace(
                self.device().dma_device(),
                self.pasid(),
                run.first.address(),
                run.count,
            );
            (run.first.address(), bytes(run.count))
        }));
    }

    /// Takes all pages of a range that are there, for the process changes them.
    fn take(&self, state: &mut State, range: PageRange) {
        let before = state.resident.len();
        let mut runs = Runs::new(state.resident.drain(range)).peekable();

        if runs.peek().is_none() {
            return;
        }
        self.unmap(runs, trace::invalidated);
        self.changed(state);

        let taken = (before - state.resident.len()) as u64;
        let statistics = self.device().statistics();

        self.device().budget().uncharge(taken);
        statistics.invalidations.add(1);
        statistics.invalidated_pages.add(taken);
    }

    /// The number of pages is another.
    fn changed(&self, state: &State) {
        self.set_pages(state.resident.len() as u64);
    }

    /// Brings in all that a group asks for, in as many batches as it takes, and adds to `mapped` the
    /// pages that were mapped.
    fn bring_all(&self, group: &FaultGroup, mapped: &mut u64) -> Result {
        // The last reference may be ours, and giving it up here would make this thread wait for what
        // it does itself.
        let mm = MmWithUser::into_mmput_async(self.mm().mmget_not_zero().ok_or(ESRCH)?);
        let mut batch = Batch::new();

        // More would drive out what was brought in just before, and the device, which begins with that,
        // would ask again and again. It asks for the rest when it gets there.
        for request in group.requests().take(self.most() as usize) {
            if request.beyond || request.address > self.domain().last() {
                return Err(EFAULT);
            }

            let request = Request {
                page: Page::of(request.address),
                access: if request.write {
                    Access::Write
                } else {
                    Access::Read
                },
            };

            if batch.add(request).is_err() {
                self.serve_batch(&mm, &batch, mapped)?;
                batch = Batch::new();
                let _ = batch.add(request);
            }
        }
        self.serve_batch(&mm, &batch, mapped)
    }

    /// Serves requests in order.
    fn serve_batch(&self, mm: &MmWithUser, batch: &Batch, mapped: &mut u64) -> Result {
        for (run, access) in batch.runs() {
            let mut left = run;

            while let Some(demand) = self.missing(left, access)? {
                let done = self.bring(mm, demand, access, mapped)?;

                left = PageRange::between(done, left.end());
            }
        }
        Ok(())
    }

    /// The pages of a range from the first to the last that the device cannot reach so.
    fn missing(&self, range: PageRange, access: Access) -> Result<Option<PageRange>> {
        let mut state = self.state();
        let mut missing: Option<PageRange> = None;

        if !state.alive {
            return Err(ESRCH);
        }
        for page in range.pages() {
            if suffices(state.resident.protection(page), access) {
                state.resident.touch(page, self.device().eviction());
            } else {
                let first = missing.map_or(page, |missing| missing.first);

                missing = Some(PageRange::between(first, Page(page.0 + 1)));
            }
        }
        Ok(missing)
    }

    /// Brings pages in, and what is expected to be wanted next, and returns the page up to which it
    /// did: the end of the mapping that has the first page, or of `demand`.
    fn bring(
        &self,
        mm: &MmWithUser,
        demand: PageRange,
        access: Access,
        mapped: &mut u64,
    ) -> Result<Page> {
        let area = {
            let guard = mm.mmap_read_lock();
            let area = guard
                .vma_lookup(demand.first.address() as usize)
                .ok_or(EFAULT)?;

            PageRange::between(Page::of(area.start() as u64), Page::of(area.end() as u64))
        };
        let most = self.most();
        let demand = demand.intersection(area).truncate(most);
        let bounds = Bounds {
            area,
            // What is brought along does not drive out most of what is there.
            max_pages: most / 4,
        };
        let setting = self.device().fault_around();
        let Plan { window, strided } = self.state().around.plan(demand, bounds, setting);

        match self.map_window(mm, window, demand, access) {
            Ok(pages) => *mapped += pages,
            // A neighbour cannot be had, or not so, or changes all the time: it was not asked for.
            Err(error) if window != demand && error != ESRCH => {
                *mapped += self.map_window(mm, demand, demand, access)?;
            }
            Err(error) => return Err(error),
        }
        for page in strided.into_iter().flat_map(|strided| strided.pages()) {
            let nothing = demand.truncate(0);

            match self.map_window(mm, PageRange::one(page), nothing, access) {
                Ok(pages) => *mapped += pages,
                Err(_) => break,
            }
        }
        Ok(demand.end())
    }

    /// Maps the pages of a window, those in `demand` because the device has asked for them, and
    /// returns how many were not there.
    fn map_window(
        &self,
        mm: &MmWithUser,
        window: PageRange,
        demand: PageRange,
        access: Access,
    ) -> Result<u64> {
        let started = Instant::<Monotonic>::now();
        let mut entries = KVVec::with_capacity(window.count as usize, GFP_KERNEL)?;

        self.make_room(window.count)?;

        let mut tries = 0;
        let result = loop {
            let result = self.try_map_window(mm, window, demand, access, &mut entries);

            tries += 1;
            if result != Err(EBUSY)
                || started.elapsed() > PATIENCE
                || window != demand && tries == WINDOW_TRIES
            {
                break result;
            }
            self.device().statistics().retries.add(1);
        };
        let mapped = result.unwrap_or(0);

        self.device().budget().uncharge(window.count - mapped);
        result
    }

    /// Makes room for pages, in the table and in the budgets, to which they are charged.
    fn make_room(&self, count: u64) -> Result {
        let wanted = self.state().resident.wanted_slots(count as usize);

        if let Some(slots) = wanted {
            let new = Slots::new(slots)?;
            let old = self.state().resident.grow(new);

            drop(old);
        }

        let limit = self.limit();
        let batch = (limit / 16).clamp(1, EVICTION_BATCH as u64);
        let excess = (self.pages() + count).saturating_sub(limit);

        if excess > 0 {
            self.evict(excess.max(batch));
        }
        while let Err(error) = self.device().charge(self.pasid(), self.pages(), count) {
            if self.evict(count.max(batch)) == 0 {
                return Err(error);
            }
        }
        Ok(())
    }

    /// As [`Mirror::map_window`], once.
    ///
    /// # Errors
    ///
    /// `EBUSY`: the process has changed meanwhile.
    fn try_map_window(
        &self,
        mm: &MmWithUser,
        window: PageRange,
        demand: PageRange,
        access: Access,
        entries: &mut KVVec<Entry>,
    ) -> Result<u64> {
        let range = addresses(window);

        pin_init::stack_try_pin_init!(
            let watch =? Watch::new(mm, range.clone(), &self.content().state)
        );

        let since = watch.begin();

        entries.clear();
        entries.resize(
            window.count as usize,
            match access {
                Access::Read => Entry::READ,
                Access::Write => Entry::WRITE,
            },
            GFP_KERNEL,
        )?;
        hmm::range_fault(&watch, since, &mm.mmap_read_lock(), range, entries)?;

        let mut state = self.state();

        if !state.alive {
            return Err(ESRCH);
        }
        if watch.has_changed(since, &state) {
            return Err(EBUSY);
        }
        self.map(&mut state, window, demand, entries)
    }

    /// Maps what was found, in as few pieces as it is in.
    fn map(
        &self,
        state: &mut State,
        window: PageRange,
        demand: PageRange,
        entries: &[Entry],
    ) -> Result<u64> {
        let eviction = self.device().eviction();
        let mut piece = Piece::default();
        let mut mapped = 0;
        let mut ahead = 0;
        let mut result = Ok(());

        for (page, entry) in window.pages().zip(entries) {
            let Some(phys) = entry.phys() else {
                continue;
            };
            let protection = if entry.is_writable() {
                Protection::Writable
            } else {
                Protection::ReadOnly
            };
            let reason = if demand.contains(page) {
                Reason::Demand
            } else {
                Reason::Ahead
            };

            match state.resident.protection(page) {
                Some(known) if known == protection || known == Protection::Writable => continue,
                // It has become writable.
                Some(_) => {
                    state.resident.remove(page);
                    self.unmap(core::iter::once(PageRange::one(page)), |_, _, _, _| {});
                    self.device().budget().uncharge(1);
                }
                None => {}
            }
            if !piece.is_followed_by(page, phys, protection) {
                result = self.map_piece(state, &mut piece, &mut mapped);
            }
            if result.is_err()
                || state
                    .resident
                    .insert(page, protection, reason, eviction)
                    .is_err()
            {
                break;
            }
            ahead += u64::from(reason == Reason::Ahead);
            piece.add(page, phys, protection);
        }
        result = result.and(self.map_piece(state, &mut piece, &mut mapped));
        self.changed(state);

        let statistics = self.device().statistics();

        statistics.mapped_pages.add(mapped);
        statistics.prefetched_pages.add(ahead.min(mapped));
        // What is there is charged, so it is no error if it is what was asked for.
        if mapped == 0 {
            result?;
        }
        Ok(mapped)
    }

    /// Maps a piece, or takes its pages from the table.
    fn map_piece(&self, state: &mut State, piece: &mut Piece, mapped: &mut u64) -> Result {
        let Piece {
            pages,
            phys,
            writable,
        } = core::mem::take(piece);

        if pages.is_empty() {
            return Ok(());
        }

        let write = if writable { prot::WRITE } else { 0 };

        self.domain()
            .map_pages(
                pages.first.address(),
                phys,
                bytes(pages.count),
                prot::READ | prot::CACHE | write,
                Context::Atomic,
            )
            .inspect(|()| *mapped += pages.count)
            .inspect_err(|_| {
                for page in pages.pages() {
                    state.resident.remove(page);
                }
            })
    }
}

/// Pages that can be mapped by one call: adjacent in the process and in memory, and protected alike.
struct Piece {
    pages: PageRange,
    phys: u64,
    writable: bool,
}

impl Default for Piece {
    fn default() -> Self {
        Self {
            pages: PageRange::one(Page(0)).truncate(0),
            phys: 0,
            writable: false,
        }
    }
}

impl Piece {
    /// Whether a page can be added.
    fn is_followed_by(&self, page: Page, phys: u64, protection: Protection) -> bool {
        self.pages.is_empty()
            || self.pages.end() == page
                && self.phys + bytes(self.pages.count) as u64 == phys
                && self.writable == (protection == Protection::Writable)
    }

    /// Adds a page.
    fn add(&mut self, page: Page, phys: u64, protection: Protection) {
        if self.pages.is_empty() {
            *self = Self {
                pages: PageRange::one(page),
                phys,
                writable: protection == Protection::Writable,
            };
        } else {
            self.pages.count += 1;
        }
    }
}

/// Whether a page that is there, or not, is enough for an access.
fn suffices(protection: Option<Protection>, access: Access) -> bool {
    match access {
        Access::Read => protection.is_some(),
        Access::Write => protection == Some(Protection::Writable),
    }
}

/// The bytes in so many pages.
fn bytes(pages: u64) -> usize {
    (pages << SHIFT) as usize
}

/// The addresses of pages.
fn addresses(pages: PageRange) -> Range<usize> {
    pages.first.address() as usize..pages.end().address() as usize
}

/// The pages of addresses.
fn pages(addresses: Range<usize>) -> PageRange {
    PageRange::between(
        Page::of(addresses.start as u64),
        Page::of((addresses.end as u64).saturating_sub(1))
            .offset(1)
            .unwrap_or(Page::LAST),
    )
}

impl Content for Copied {
    const WANTED: Wanted = Wanted::All;

    fn serve(mirror: &Mirror, group: &FaultGroup, mapped: &mut u64) -> Result {
        mirror.bring_all(group, mapped)
    }

    fn released(mirror: &Mirror) {
        let mut state = mirror.state();

        state.alive = false;
        mirror.take(&mut state, PageRange::between(Page(0), Page::LAST));
    }

    fn changed(mirror: &Mirror, addresses: Range<usize>, blocking: Blocking) -> Result {
        let mut state = match blocking {
            Blocking::Allowed => mirror.state(),
            Blocking::Forbidden => mirror.content().state.try_lock().ok_or(EAGAIN)?,
        };

        mirror.take(&mut state, pages(addresses));
        Ok(())
    }
}
