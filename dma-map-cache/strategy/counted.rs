// SPDX-License-Identifier: GPL-2.0

//! Pages mapped while somebody uses them, and as long after as a strategy wants.
//!
//! What `batched`, `cached` and `persistent` share; they differ in their [`Retention`].
//!
//! The IOVA of a page is its physical address plus a constant, in one window for pages that the
//! device may write and in another for those that it may only read. So there is no tree to search
//! and no IOVA to allocate, contiguous memory is contiguous for the device, and a stale IOTLB
//! entry never leads to a page that it should not. What is left to keep is one word of state for
//! each page and window, in a sparse table:
//!
//! ```text
//! 63            32   31      30       29       28..24     23..0
//! idle since [ms]  present  busy  referenced  retentions  users
//! ```
//!
//! A page is present or busy or neither, never both.
//!
//! A hit is a load and a compare-and-exchange of that word. What the device can still reach after
//! unmap: idle pages, at most [`Retention::pages`] of them, each for at most
//! [`Retention::max_age_ms`].
//!
//! No CPU ever waits for another: who finds a page busy (being mapped or evicted) has the buffer
//! mapped exactly instead.

use core::sync::atomic::{
    AtomicBool,
    AtomicI64,
    AtomicU64,
    AtomicUsize,
    Ordering::{
        AcqRel,
        Acquire,
        Relaxed,
        Release,
        SeqCst, //
    }, //
};

use super::{
    address::{
        Buffer,
        Iova,
        Layout,
        PageRange,
        Phys,
        Window,
        PAGE_SHIFT,
        PAGE_SIZE, //
    },
    backend::{
        Access,
        Backend,
        OutOfMemory,
        Sparse, //
    },
    counter::{
        Counter,
        Flow, //
    },
    exposure::Age, //
};

/// The page table maps the page.
const PRESENT: u64 = 1 << 31;
/// The page is being mapped or unmapped by somebody.
const BUSY: u64 = 1 << 30;
/// The page was used since the last sweep passed it.
const REFERENCED: u64 = 1 << 29;
/// Number of uses: buffers mapped that touch the page and, above [`RETENTION_SHIFT`], owners that
/// have it retained. A page without any is idle.
const USERS: u64 = REFERENCED - 1;
/// Position of the number of owners that have the page retained, at most 31. Below it there is room
/// for 16 million buffers that touch the page.
const RETENTION_SHIFT: u32 = 24;
/// One owner.
const RETENTION: u64 = 1 << RETENTION_SHIFT;
/// All owners.
const RETENTIONS: u64 = USERS & !(RETENTION - 1);
/// Position of the time at which the page became idle.
const IDLE_SINCE_SHIFT: u32 = 32;

/// Pages that are evicted for one invalidation, if so many are due.
///
/// The invalidation costs about as much as ten page-table updates, so that with 64 it is lost in
/// them; and a driver's map never pays for more than these.
const EVICTION_BATCH: u64 = 64;

/// The state of one page in one window; all zero: not mapped.
#[derive(Default)]
pub struct Page(AtomicU64);

/// What can be done with a page that a buffer needs.
enum Hold {
    /// It is mapped and now has one user more.
    Hit(Held),
    /// It was not mapped and now belongs to the caller, who maps it.
    Vacant,
    /// Somebody else is at it.
    Busy,
}

/// A page that was taken into use, and its state before.
struct Held(u64);

impl Held {
    /// Ends the time in which the device could reach the page though nobody used it, if it was so.
    #[inline(always)]
    fn end_idleness<B: Backend>(&self, backend: &B, now_ms: u32) {
        if self.0 & USERS == 0 {
            let age_ms = now_ms.wrapping_sub(idle_since(self.0));

            backend.count(Counter::Idled(Age::of_ms(age_ms)), 1);
        }
    }
}

/// Since when a page is idle.
#[inline(always)]
const fn idle_since(state: u64) -> u32 {
    (state >> IDLE_SINCE_SHIFT) as u32
}

impl Page {
    /// Takes a mapped page into use.
    ///
    /// Returns what could be done.
    fn hold(&self) -> Hold {
        loop {
            if let Some(held) = self.hold_once() {
                return Hold::Hit(held);
            }

            let state = self.0.load(Relaxed);

            if state & PRESENT == 0 {
                return self.claim(state);
            }
        }
    }

    /// Tries to take a mapped page into use.
    #[inline(always)]
    fn hold_once(&self) -> Option<Held> {
        let state = self.0.load(Relaxed);

        if state & PRESENT == 0 {
            return None;
        }

        self.0
            .compare_exchange(
                state,
                (state | REFERENCED).wrapping_add(1),
                Acquire,
                Relaxed,
            )
            .is_ok()
            .then_some(Held(state))
    }

    /// Takes hold of a page that is not mapped, to map it.
    #[cold]
    fn claim(&self, state: u64) -> Hold {
        if state == 0 && self.claim_vacant() {
            Hold::Vacant
        } else {
            Hold::Busy
        }
    }

    /// Takes hold of a page if it is not mapped, to map it.
    #[inline(always)]
    fn claim_vacant(&self) -> bool {
        self.0.compare_exchange(0, BUSY, Acquire, Relaxed).is_ok()
    }

    /// Takes a mapped and idle page out of the hands of drivers, to unmap it, if `evictable` says
    /// so of its state. Returns since when it was idle.
    fn claim_idle(&self, evictable: impl Fn(u64) -> bool) -> Option<u32> {
        // Ordered against the flag that a retirement clears before: see `release`.
        let state = self.0.load(SeqCst);

        (state & (PRESENT | USERS) == PRESENT
            && evictable(state)
            && self
                .0
                .compare_exchange(state, BUSY, Acquire, Relaxed)
                .is_ok())
        .then_some(idle_since(state))
    }

    /// Takes a page into use that an owner has retained. Returns whether it is one.
    fn hold_retained(&self) -> bool {
        loop {
            let state = self.0.load(Relaxed);

            if state & PRESENT == 0 || state & RETENTIONS == 0 {
                return false;
            }
            if self
                .0
                .compare_exchange(state, state.wrapping_add(1), Acquire, Relaxed)
                .is_ok()
            {
                return true;
            }
        }
    }

    /// Makes one use of a page that of an owner. Returns false if it has as many as can be counted.
    fn retain(&self) -> bool {
        loop {
            let state = self.0.load(Relaxed);

            if state & RETENTIONS == RETENTIONS {
                return false;
            }
            if self
                .0
                .compare_exchange(
                    state,
                    state.wrapping_add(RETENTION).wrapping_sub(1),
                    Relaxed,
                    Relaxed,
                )
                .is_ok()
            {
                return true;
            }
        }
    }

    /// Gives one use of a kind back, `use_` being what it counts, and takes the page out of the hands
    /// of drivers, to unmap it, if it was the last of any kind. Returns whether it was.
    fn release_or_claim(&self, use_: u64) -> bool {
        let kind = if use_ == RETENTION {
            RETENTIONS
        } else {
            USERS & !RETENTIONS
        };

        loop {
            let state = self.0.load(Relaxed);

            // Nobody uses it so: a driver has unmapped twice, or an owner has released twice.
            if state & kind == 0 {
                return false;
            }

            let last = state & USERS == use_;
            let next = if last { BUSY } else { state.wrapping_sub(use_) };

            if self
                .0
                .compare_exchange(state, next, AcqRel, Relaxed)
                .is_ok()
            {
                return last;
            }
        }
    }

    /// Lets the next sweep take the page, unless it is used before.
    fn forget_reference(&self, state: u64) {
        // If the state has changed meanwhile, the page is or was in use again, and so referenced.
        let _ = self
            .0
            .compare_exchange(state, state & !REFERENCED, Relaxed, Relaxed);
    }

    /// Ends what [`Page::hold`] or [`Page::claim_idle`] began: the page is mapped and in use by
    /// the caller. It counts as referenced when it is used again: what is used once goes first.
    fn publish(&self) {
        self.0.store(PRESENT | 1, Release);
    }

    /// Ends what [`Page::hold`] or [`Page::claim_idle`] began: the page is not mapped.
    fn vacate(&self) {
        self.0.store(0, Release);
    }

    /// Gives one use back and returns whether the page is idle now.
    #[inline(always)]
    fn release(&self, now_ms: u32) -> bool {
        loop {
            if let Some(idle) = self.release_once(now_ms) {
                return idle;
            }
        }
    }

    /// Tries to give one use back. Returns whether the page is idle now.
    #[inline(always)]
    fn release_once(&self, now_ms: u32) -> Option<bool> {
        let state = self.0.load(Relaxed);
        let idle = state & USERS == 1;
        let next = if idle {
            state & REFERENCED | PRESENT | (u64::from(now_ms) << IDLE_SINCE_SHIFT)
        } else {
            state.wrapping_sub(1)
        };

        // The sweep that follows a retirement looks at the state after it has set the budget to 0,
        // and the caller looks at the budget after this: one of the two must see the other.
        self.0
            .compare_exchange(state, next, SeqCst, Relaxed)
            .is_ok()
            .then_some(idle)
    }
}

/// How [`Counted::map`] ended.
pub enum Mapped {
    /// The buffer is mapped; whether every page of it already was.
    At(Iova, Served),
    /// The buffer must be mapped exactly: out of the reach of the device, the window or the table
    /// of pages, or a page of it is busy or has no place in the table for want of memory.
    Fallback,
}

/// What a map cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Served {
    /// No page-table entry was written.
    Hit,
    /// At least one was.
    Miss,
}

/// Why a buffer is not retained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotRetained {
    /// The device may reach nothing that its driver has not mapped.
    Distrusted,
    /// The device cannot reach its place in the window, or it is no RAM that there was at first.
    OutOfReach,
    /// A page is being mapped or withdrawn at this moment, or has 31 owners.
    Busy,
    /// It would be more than the budget.
    OverBudget,
    /// No memory.
    OutOfMemory,
}

/// What is kept of idle mappings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Number of pages at most; 0 keeps nothing, and costs nothing to look after.
    pub pages: u64,
    /// Milliseconds after which a page is withdrawn, or [`Retention::FOR_GOOD`].
    pub max_age_ms: u64,
}

impl Retention {
    /// Nothing grows too old.
    pub const FOR_GOOD: u64 = u64::MAX;

    /// Nothing is kept.
    pub const NONE: Self = Self {
        pages: 0,
        max_age_ms: 0,
    };
}

/// One of the two windows; a cache line, so that the way to either is a shift.
#[repr(align(64))]
struct Side<B: Backend> {
    /// States of its pages.
    pages: B::Sparse<Page>,
    /// Its first address.
    base: u64,
    /// Its last address.
    last: u64,
}

/// The pages of both windows.
pub struct Counted<B: Backend> {
    layout: Layout,
    /// The two windows: [`Window::CachedWrite`] and [`Window::CachedRead`].
    sides: [Side<B>; 2],
    /// Idle pages that may be kept now.
    budget: AtomicU64,
    /// How long, in milliseconds.
    max_age_ms: AtomicU64,
    /// Pages that owners have retained, each as often as it is.
    retained: AtomicU64,
    /// Pages that are mapped, in use or idle. Written on misses and evictions only.
    present: AtomicU64,
    /// While more than the budget is present: how many pages may become idle before the idle ones
    /// have to be counted again.
    slack: AtomicI64,
    /// Held by the CPU that sweeps.
    sweeping: AtomicBool,
    /// The leaf at which the next sweep begins.
    hand: AtomicUsize,
}

impl<B: Backend> Counted<B> {
    /// With nothing mapped. RAM that is added above `ram_end` is left to the fallback. May sleep.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`].
    pub fn new(layout: Layout, ram_end: Phys) -> Result<Self, OutOfMemory> {
        let pages = ram_end.0.min(layout.window_size()).div_ceil(PAGE_SIZE);

        Ok(Self {
            layout,
            sides: [
                Side {
                    pages: B::sparse(pages)?,
                    base: layout.base(Window::CachedWrite),
                    last: layout.last(Window::CachedWrite),
                },
                Side {
                    pages: B::sparse(pages)?,
                    base: layout.base(Window::CachedRead),
                    last: layout.last(Window::CachedRead),
                },
            ],
            budget: AtomicU64::new(0),
            max_age_ms: AtomicU64::new(0),
            retained: AtomicU64::new(0),
            present: AtomicU64::new(0),
            slack: AtomicI64::new(0),
            sweeping: AtomicBool::new(false),
            hand: AtomicUsize::new(0),
        })
    }

    /// Keeps idle mappings so from now on, and withdraws at once what is more or too old. May take
    /// long.
    pub fn keep(&self, backend: &B, retention: Retention) {
        self.slack.store(0, Relaxed);
        self.max_age_ms.store(retention.max_age_ms, Relaxed);
        self.budget.store(retention.pages, SeqCst);

        if retention.pages == 0 {
            self.sweep_all(backend, |_| true);
        } else {
            self.expire(backend);
        }
    }

    /// Whether there can be idle mappings.
    #[inline]
    pub fn keeps(&self) -> bool {
        self.budget() != 0
    }

    /// Milliseconds after which an idle page is withdrawn, or [`Retention::FOR_GOOD`].
    pub fn max_age_ms(&self) -> u64 {
        self.max_age_ms.load(Relaxed)
    }

    /// One of the two windows.
    #[inline(always)]
    fn side(&self, window: Window) -> &Side<B> {
        let [writable, read_only] = &self.sides;

        match window {
            Window::CachedRead => read_only,
            _ => writable,
        }
    }

    /// The pages of one of the two windows.
    #[inline(always)]
    fn pages(&self, window: Window) -> &B::Sparse<Page> {
        &self.side(window).pages
    }

    /// Idle pages that may be kept.
    #[inline(always)]
    fn budget(&self) -> u64 {
        self.budget.load(SeqCst)
    }

    /// Maps a buffer that lies within one page which is mapped already: the case to be fast in.
    /// Counts the map and the hit, too.
    ///
    /// [`None`] says nothing about the buffer; [`Counted::map`] serves all of them.
    #[inline(always)]
    pub fn map_hit(&self, backend: &B, buffer: Buffer, window: Window, limit: u64) -> Option<Iova> {
        let side = self.side(window);

        // The table ends where the window does, so what is found in it is in the window.
        if !buffer.is_within_page() || side.last > limit {
            return None;
        }

        let page = side.pages.get(buffer.phys.page())?;

        page.hold_once()?.end_idleness(backend, backend.now_ms());
        backend.count(Counter::CachedHits, 1);
        Some(Iova(side.base | buffer.phys.0))
    }

    /// As [`Counted::map_hit`], for a buffer of any number of pages, the states of which are in one
    /// leaf of the table.
    #[inline(always)]
    pub fn map_hits(
        &self,
        backend: &B,
        buffer: Buffer,
        window: Window,
        limit: u64,
    ) -> Option<Iova> {
        let side = self.side(window);

        if side.last > limit {
            return None;
        }

        let first = buffer.phys.page();
        let pages = buffer.pages();
        let run = side.pages.run(first, pages)?;
        let now = backend.now_ms();

        for (done, page) in (0..).zip(run) {
            let Some(held) = page.hold_once() else {
                self.release_cold(backend, window, first, done);
                return None;
            };

            held.end_idleness(backend, now);
        }

        backend.count(Counter::CachedHits, 1);
        backend.count(Counter::In(Flow::Pages(window)), pages.wrapping_sub(1));
        Some(Iova(side.base | buffer.phys.0))
    }

    /// The window for what a device may do with a buffer.
    #[inline(always)]
    pub const fn window_for(may_write: bool) -> Window {
        if may_write {
            Window::CachedWrite
        } else {
            Window::CachedRead
        }
    }

    /// Maps a buffer.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`]: nothing is mapped.
    #[inline]
    pub fn map(
        &self,
        backend: &B,
        buffer: Buffer,
        access: Access,
        limit: u64,
    ) -> Result<Mapped, OutOfMemory> {
        let window = Self::window_for(access.may_write());
        let Some(iova) = self.layout.at_offset(window, buffer, limit) else {
            return Ok(Mapped::Fallback);
        };
        let pages = buffer.pages();
        let first = buffer.phys.page();
        let mut served = Served::Hit;
        let mut done = 0;

        if pages == 1 {
            if let Some(mapped) = self.map_vacant(backend, window, first) {
                mapped?;
                served = Served::Miss;
                done = 1;
            }
        }

        while done < pages {
            let Some(page) = self.pages(window).get(first + done) else {
                if self.pages(window).get_or_alloc(first + done).is_err() {
                    self.release(backend, window, first, done);
                    return Ok(Mapped::Fallback);
                }
                continue;
            };

            match page.hold() {
                Hold::Hit(held) => {
                    held.end_idleness(backend, backend.now_ms());
                    done += 1;
                }
                Hold::Vacant => {
                    served = Served::Miss;
                    match self.map_run(backend, window, first + done, pages - done) {
                        Ok(n) => done += n,
                        Err(error) => {
                            self.release(backend, window, first, done);
                            return Err(error);
                        }
                    }
                }
                Hold::Busy => {
                    self.release(backend, window, first, done);
                    return Ok(Mapped::Fallback);
                }
            }
        }

        backend.count(Counter::In(Flow::Pages(window)), pages);
        Ok(Mapped::At(iova, served))
    }

    /// Maps a page for one user, as [`Counted::map_run`] does, in fewer steps.
    ///
    /// [`None`]: it is mapped, or another CPU is at it, or it is not in the table.
    #[inline(always)]
    fn map_vacant(
        &self,
        backend: &B,
        window: Window,
        number: u64,
    ) -> Option<Result<(), OutOfMemory>> {
        let page = self.pages(window).get(number)?;

        if !page.claim_vacant() {
            return None;
        }

        let mapped = backend.map_pages(
            self.range(window, number, 1),
            Phys(number << PAGE_SHIFT),
            Self::access_in(window),
        );

        match mapped {
            Ok(()) => {
                page.publish();
                self.appeared(1);
            }
            Err(_) => page.vacate(),
        }
        Some(mapped)
    }

    /// Maps page `first`, which the caller has claimed, and those of the next `max - 1` that are
    /// not mapped either, by one page-table pass. Returns how many.
    #[cold]
    fn map_run(
        &self,
        backend: &B,
        window: Window,
        first: u64,
        max: u64,
    ) -> Result<u64, OutOfMemory> {
        let table = self.pages(window);
        let vacant = |page: &u64| table.get_or_alloc(*page).is_ok_and(Page::claim_vacant);
        let pages = 1 + (first + 1..first + max).take_while(vacant).count() as u64;
        let run = || (first..first + pages).filter_map(|page| table.get(page));

        if let Err(error) = backend.map_pages(
            self.range(window, first, pages),
            Phys(first << PAGE_SHIFT),
            Self::access_in(window),
        ) {
            run().for_each(Page::vacate);
            return Err(error);
        }

        run().for_each(Page::publish);
        self.appeared(pages);
        Ok(pages)
    }

    /// What a device may do with the pages of a window.
    #[inline(always)]
    const fn access_in(window: Window) -> Access {
        match window {
            Window::CachedRead => Access::Read,
            _ => Access::ReadWrite,
        }
    }

    /// Counts pages that are mapped now.
    #[inline(always)]
    fn appeared(&self, pages: u64) {
        let before = self.present.fetch_add(pages, SeqCst);

        if before <= self.budget() {
            self.slack.store(0, Relaxed);
        }
    }

    /// Whether any page is retained.
    #[inline(always)]
    pub fn retains(&self) -> bool {
        self.retained_pages() != 0
    }

    /// Pages that owners have retained, each as often as it is.
    #[inline(always)]
    pub fn retained_pages(&self) -> u64 {
        self.retained.load(Relaxed)
    }

    /// Whether the page of an address is retained in either window.
    pub fn is_retained(&self, phys: Phys) -> bool {
        self.sides.iter().any(|side| {
            side.pages
                .get(phys.page())
                .is_some_and(|page| page.0.load(Relaxed) & RETENTIONS != 0)
        })
    }

    /// Maps a buffer all pages of which are retained, and counts the arrival of its pages.
    ///
    /// [`None`]: they are not, or out of the reach of the device.
    pub fn map_retained(
        &self,
        backend: &B,
        buffer: Buffer,
        access: Access,
        limit: u64,
    ) -> Option<Iova> {
        let writable = || self.map_retained_in(backend, Window::CachedWrite, buffer, limit);

        // What the device may write it may read, and may so already.
        match access {
            Access::Read => self
                .map_retained_in(backend, Window::CachedRead, buffer, limit)
                .or_else(writable),
            _ => writable(),
        }
    }

    /// Maps a buffer in a window if all its pages are retained there.
    fn map_retained_in(
        &self,
        backend: &B,
        window: Window,
        buffer: Buffer,
        limit: u64,
    ) -> Option<Iova> {
        let iova = self.layout.at_offset(window, buffer, limit)?;
        let (first, pages) = (buffer.phys.page(), buffer.pages());
        let table = self.pages(window);
        let held = (first..first + pages)
            .take_while(|&page| table.get(page).is_some_and(Page::hold_retained))
            .count() as u64;

        if held != pages {
            self.release(backend, window, first, held);
            return None;
        }
        backend.count(Counter::In(Flow::Pages(window)), pages);
        Some(iova)
    }

    /// Maps a buffer for as long as its owner retains it. The caller sees to the budget.
    ///
    /// # Errors
    ///
    /// Nothing is retained then.
    pub fn retain(
        &self,
        backend: &B,
        buffer: Buffer,
        access: Access,
        limit: u64,
    ) -> Result<(), NotRetained> {
        let window = Self::window_for(access.may_write());

        if self.layout.at_offset(window, buffer, limit).is_none() {
            return Err(NotRetained::OutOfReach);
        }

        let (first, pages) = (buffer.phys.page(), buffer.pages());

        match self.map(backend, buffer, access, limit) {
            Ok(Mapped::At(..)) => {}
            Ok(Mapped::Fallback) => return Err(NotRetained::Busy),
            Err(OutOfMemory) => return Err(NotRetained::OutOfMemory),
        }

        let table = self.pages(window);
        let retained = (first..first + pages)
            .take_while(|&page| table.get(page).is_some_and(Page::retain))
            .count() as u64;

        backend.count(Counter::Out(Flow::Pages(window)), pages);
        self.retained.fetch_add(retained, SeqCst);
        if retained != pages {
            self.release(backend, window, first + retained, pages - retained);
            self.release_retained(backend, window, first, retained);
            return Err(NotRetained::Busy);
        }
        Ok(())
    }

    /// Ends what [`Counted::retain`] began, for a buffer that was retained. What the driver does not
    /// use is unreachable when this returns, the rest when it has unmapped it and the strategy is one
    /// that keeps nothing.
    pub fn end_retention(&self, backend: &B, buffer: Buffer, access: Access) {
        let window = Self::window_for(access.may_write());

        self.release_retained(backend, window, buffer.phys.page(), buffer.pages());
    }

    /// Gives one retention of each page back.
    fn release_retained(&self, backend: &B, window: Window, first: u64, pages: u64) {
        let retained = (first..first + pages)
            .filter_map(|page| self.pages(window).get(page))
            .filter(|page| page.0.load(Relaxed) & RETENTIONS != 0)
            .count() as u64;

        self.release_unkept(backend, window, first, pages, RETENTION);
        self.retained.fetch_sub(retained, SeqCst);
    }

    /// The IOVA range of pages.
    fn range(&self, window: Window, page: u64, pages: u64) -> PageRange {
        PageRange {
            start: Iova(self.layout.base(window) | (page << PAGE_SHIFT)),
            pages,
        }
    }

    /// Ends the use of a buffer that lies within one page: the case to be fast in. Counts the
    /// unmap, too. Returns false if the page changed hands meanwhile; then nothing was done.
    #[inline(always)]
    pub fn unmap_page(&self, backend: &B, window: Window, iova: Iova) -> bool {
        let side = self.side(window);
        let Some(page) = side.pages.get(self.page_of(window, iova)) else {
            return false;
        };
        let Some(idle) = page.release_once(backend.now_ms()) else {
            return false;
        };

        if idle {
            backend.count(Counter::CachedIdles, 1);
            if self.present.load(Relaxed) > self.budget() {
                self.over_budget_by_page(backend, iova);
            }
        } else {
            backend.count(Counter::CachedUnmaps, 1);
        }
        true
    }

    /// As [`Counted::unmap_page`], for a buffer of `pages` pages, the states of which are in one leaf
    /// of the table. Returns false if they are not; then nothing was done.
    #[inline(always)]
    pub fn unmap_pages(&self, backend: &B, window: Window, iova: Iova, pages: u64) -> bool {
        let first = self.page_of(window, iova);
        let Some(run) = self.pages(window).run(first, pages) else {
            return false;
        };
        let now = backend.now_ms();
        let idle = run.iter().filter(|page| page.release(now)).count() as u64;

        backend.count(Counter::CachedUnmaps, 1);
        backend.count(Counter::Out(Flow::Pages(window)), pages.wrapping_sub(1));
        self.idled(backend, window, first, pages, idle);
        true
    }

    /// Ends the use of a buffer. Counts the unmap, too.
    #[inline]
    pub fn unmap(&self, backend: &B, window: Window, iova: Iova, pages: u64) {
        backend.count(Counter::CachedUnmaps, 1);
        backend.count(Counter::Out(Flow::Pages(window)), pages.wrapping_sub(1));
        self.release(backend, window, self.page_of(window, iova), pages);
    }

    /// Ends the use of a buffer in a list, the unmaps of which are counted together.
    #[inline]
    pub fn unmap_segment(&self, backend: &B, window: Window, iova: Iova, pages: u64) {
        backend.count(Counter::Out(Flow::Pages(window)), pages);
        self.release(backend, window, self.page_of(window, iova), pages);
    }

    /// The number of the page at an address in one of the two windows.
    #[inline(always)]
    fn page_of(&self, window: Window, iova: Iova) -> u64 {
        iova.0.wrapping_sub(self.side(window).base) >> PAGE_SHIFT
    }

    /// Gives one use of each page back.
    #[inline]
    fn release(&self, backend: &B, window: Window, first: u64, pages: u64) {
        if !self.keeps() {
            return self.release_unkept(backend, window, first, pages, 1);
        }

        let now = backend.now_ms();
        let mut idle = 0;

        for page in first..first + pages {
            if self
                .pages(window)
                .get(page)
                .is_some_and(|page| page.release(now))
            {
                idle += 1;
            }
        }

        self.idled(backend, window, first, pages, idle);
    }

    /// Counts the `idle` pages of `pages` pages from `first` on that became idle, and sees to the budget.
    #[inline(always)]
    fn idled(&self, backend: &B, window: Window, first: u64, pages: u64, idle: u64) {
        if idle != 0 {
            backend.count(Counter::In(Flow::Idle), idle);
            if self.present.load(Relaxed) > self.budget() {
                self.over_budget(backend, window, first, pages, idle);
            }
        }
    }

    /// As [`Counted::release`], for pages of a buffer that cannot be mapped as it was hoped.
    #[cold]
    fn release_cold(&self, backend: &B, window: Window, first: u64, pages: u64) {
        self.release(backend, window, first, pages);
    }

    /// Gives one use of each page back, `use_` being what it counts, and unmaps those that have no
    /// user left, by one invalidation.
    fn release_unkept(&self, backend: &B, window: Window, first: u64, pages: u64, use_: u64) {
        if pages == 1 {
            return self.release_unkept_page(backend, window, first, use_);
        }

        let mut runs = Released {
            counted: self,
            window,
            use_,
            next: first,
            end: first + pages,
            run: first..first,
            pages: 0,
        };

        let Some(run) = runs.next() else {
            return;
        };
        let mut first = Some(run);

        backend.unmap_flush(core::iter::from_fn(|| first.take().or_else(|| runs.next())));
        self.present.fetch_sub(runs.pages, SeqCst);
    }

    /// As [`Counted::release_unkept`], for one page.
    #[inline(always)]
    fn release_unkept_page(&self, backend: &B, window: Window, number: u64, use_: u64) {
        let Some(page) = self.pages(window).get(number) else {
            return;
        };

        if !page.release_or_claim(use_) {
            return;
        }

        // Free to be mapped again when its entry is cleared: see `Released`.
        let cleared = core::iter::from_fn(|| {
            page.vacate();
            None
        });

        backend.unmap_flush(core::iter::once(self.range(window, number, 1)).chain(cleared));
        self.present.fetch_sub(1, SeqCst);
    }

    /// Evicts what the budget does not allow, after the page at `iova` became idle.
    #[cold]
    #[inline(never)]
    fn over_budget_by_page(&self, backend: &B, iova: Iova) {
        let window = self.layout.window(iova);

        self.over_budget(
            backend,
            window,
            self.layout.offset(iova) >> PAGE_SHIFT,
            1,
            1,
        );
    }

    /// Evicts what the budget does not allow, after `idle` pages of `pages` pages from `first` on
    /// became idle.
    #[cold]
    fn over_budget(&self, backend: &B, window: Window, first: u64, pages: u64, idle: u64) {
        let budget = self.budget();

        if budget == 0 {
            let mut eviction = Eviction::new(self, backend);

            for page in first..first + pages {
                eviction.take(window, page, |_| true);
            }
            return;
        }

        let idle = idle as i64;

        if self.slack.fetch_sub(idle, Release) <= idle {
            self.enforce_budget(backend);
        }
    }

    /// Evicts idle pages until no more are left than the budget allows.
    ///
    /// Some below it, so that the next invalidation is a batch away.
    fn enforce_budget(&self, backend: &B) {
        loop {
            let slack = self.slack.load(Acquire);
            let budget = self.budget();
            let idle = backend.outstanding(Flow::Idle);

            if idle <= budget {
                // Pages that became idle meanwhile took their share of the old slack, and may have
                // come too late to be counted here.
                match self
                    .slack
                    .compare_exchange(slack, (budget - idle) as i64, Relaxed, Relaxed)
                {
                    Ok(_) => return,
                    Err(_) => continue,
                }
            }
            if self.shrink(backend, idle - budget + EVICTION_BATCH.min(budget)) == 0 {
                return;
            }
        }
    }

    /// Number of leaves of both tables.
    fn leaves(&self) -> usize {
        self.sides.iter().map(|side| side.pages.leaves()).sum()
    }

    /// Evicts up to `due` idle pages, those first that were not used for a while. Returns how
    /// many: none also if another CPU is at it. May take long.
    pub fn shrink(&self, backend: &B, due: u64) -> u64 {
        if self.sweeping.swap(true, Acquire) {
            return 0;
        }

        let mut eviction = Eviction::new(self, backend);

        // The first turn passes over what was referenced since the last one, the second takes it;
        // the sweep begins in the middle of a turn, hence a third.
        for _ in 0..3 * self.leaves() {
            if eviction.pages >= due {
                break;
            }

            let leaf = self.hand.load(Relaxed);

            self.hand.store((leaf + 1) % self.leaves(), Relaxed);
            self.sweep(&mut eviction, leaf, due, |page, state| {
                if state & REFERENCED == 0 {
                    return true;
                }
                page.forget_reference(state);
                false
            });
        }

        let evicted = eviction.pages;

        drop(eviction);
        // Who found the flag set leaves it to the caller to look at the budget again; hence it
        // must not be cleared after that look.
        self.sweeping.swap(false, SeqCst);
        evicted
    }

    /// Evicts idle pages of a leaf that `evictable` picks, until the eviction has `max` pages.
    fn sweep(
        &self,
        eviction: &mut Eviction<'_, B>,
        leaf: usize,
        max: u64,
        evictable: impl Fn(&Page, u64) -> bool,
    ) {
        let [writable, read_only] = &self.sides;
        let (window, found) = match leaf.checked_sub(writable.pages.leaves()) {
            None => (Window::CachedWrite, writable.pages.leaf(leaf)),
            Some(leaf) => (Window::CachedRead, read_only.pages.leaf(leaf)),
        };
        let Some((first, pages)) = found else {
            return;
        };

        for (number, page) in (first..).zip(pages) {
            if eviction.pages == max {
                break;
            }
            eviction.take(window, number, |state| evictable(page, state));
        }
        // The next idle page may be far away: let go of those found.
        eviction.unmap_run();
    }

    /// Evicts all idle pages that `evictable` picks.
    fn sweep_all(&self, backend: &B, evictable: impl Fn(u64) -> bool) {
        let mut eviction = Eviction::new(self, backend);

        for leaf in 0..self.leaves() {
            self.sweep(&mut eviction, leaf, u64::MAX, |_, state| evictable(state));
        }
    }

    /// Evicts what has been idle for too long, or is more than the budget allows. May take long; to
    /// be called a few times within [`Retention::max_age_ms`].
    pub fn expire(&self, backend: &B) {
        if self.present.load(Relaxed) == 0 {
            return;
        }

        let now = backend.now_ms();
        let max_age = self.max_age_ms.load(Relaxed);

        if max_age != Retention::FOR_GOOD {
            self.sweep_all(backend, |state| {
                u64::from(now.wrapping_sub(idle_since(state))) >= max_age
            });
        }
        // CPUs that sweep at the same time may leave the last look at the budget to each other.
        if self.present.load(Relaxed) > self.budget() {
            self.enforce_budget(backend);
        }
    }
}

/// The runs of pages that nobody uses any more, as one use of each page is given back.
///
/// Whoever asks for the next run has cleared the one before, so that its pages can be mapped again:
/// an IOTLB entry that is still there leads to the same page with the same rights.
struct Released<'a, B: Backend> {
    counted: &'a Counted<B>,
    window: Window,
    /// What is given back of each page.
    use_: u64,
    /// The first page that is still to be given back.
    next: u64,
    /// The end of the pages.
    end: u64,
    /// The run that was handed out last.
    run: core::ops::Range<u64>,
    /// Number of pages that were handed out.
    pages: u64,
}

impl<B: Backend> Iterator for Released<'_, B> {
    type Item = PageRange;

    #[inline]
    fn next(&mut self) -> Option<PageRange> {
        let pages = self.counted.pages(self.window);

        for page in core::mem::take(&mut self.run).filter_map(|page| pages.get(page)) {
            page.vacate();
        }

        let mut run = self.next..self.next;

        while run.end < self.end {
            let claimed = pages
                .get(run.end)
                .is_some_and(|page| page.release_or_claim(self.use_));

            if claimed {
                run.end += 1;
            } else if run.is_empty() {
                run = run.end + 1..run.end + 1;
            } else {
                break;
            }
        }

        // The page after the run was given back, too, unless the end was reached.
        self.next = self.end.min(run.end + 1);
        if run.is_empty() {
            return None;
        }
        self.pages += run.end - run.start;
        self.run = run.clone();
        Some(
            self.counted
                .range(self.window, run.start, run.end - run.start),
        )
    }
}

/// Pages on their way out; one invalidation for all of them when this is dropped.
struct Eviction<'a, B: Backend> {
    counted: &'a Counted<B>,
    backend: &'a B,
    /// The window that `run` lies in.
    window: Window,
    /// Pages in a row that were claimed and are still in the page table.
    run: core::ops::Range<u64>,
    /// Number of pages claimed.
    pages: u64,
    /// When it began, in milliseconds.
    now_ms: u32,
    /// The pages by the time for which they were idle.
    ages: [u32; Age::COUNT],
}

impl<'a, B: Backend> Eviction<'a, B> {
    /// With no page.
    fn new(counted: &'a Counted<B>, backend: &'a B) -> Self {
        Self {
            counted,
            backend,
            window: Window::CachedWrite,
            run: 0..0,
            pages: 0,
            now_ms: backend.now_ms(),
            ages: [0; Age::COUNT],
        }
    }

    /// Evicts a page if it is idle and `evictable` says so of its state.
    fn take(&mut self, window: Window, number: u64, evictable: impl Fn(u64) -> bool) {
        let claimed = self
            .counted
            .pages(window)
            .get(number)
            .and_then(|page| page.claim_idle(evictable));
        let Some(since) = claimed else {
            return;
        };
        let age = Age::of_ms(self.now_ms.wrapping_sub(since));

        if let Some(pages) = self.ages.get_mut(age.index()) {
            *pages += 1;
        }
        if self.run.end != number || self.window != window {
            self.unmap_run();
            self.window = window;
            self.run = number..number;
        }
        self.run.end = number + 1;
        self.pages += 1;
    }

    /// Clears the page-table entries of the run.
    ///
    /// The pages are free to be mapped again before the invalidation: an IOTLB entry that is still
    /// there leads to the same page with the same rights.
    fn unmap_run(&mut self) {
        let run = core::mem::take(&mut self.run);

        if run.is_empty() {
            return;
        }

        let range = self
            .counted
            .range(self.window, run.start, run.end - run.start);

        self.backend.unmap(core::iter::once(range));
        for page in run.filter_map(|page| self.counted.pages(self.window).get(page)) {
            page.vacate();
        }
    }
}

impl<B: Backend> Drop for Eviction<'_, B> {
    fn drop(&mut self) {
        if self.pages == 0 {
            return;
        }

        self.unmap_run();
        self.backend.flush();
        self.counted.present.fetch_sub(self.pages, SeqCst);
        self.backend.count(Counter::Evictions, self.pages);
        for (age, &pages) in Age::all().zip(&self.ages) {
            if pages != 0 {
                self.backend.count(Counter::Idled(age), pages.into());
            }
        }
    }
}
