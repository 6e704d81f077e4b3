// SPDX-License-Identifier: GPL-2.0

//! `cached`: a mapping outlives its use and serves the next map of the same page.
//!
//! "Cache map / unmap calls in the DMA-API itself" in *Utilizing IOMMUs for Virtualization in
//! Linux and Xen*, OLS 2006.
//!
//! The IOVA of a page is its physical address plus a constant, in one window for pages that the
//! device may write and in another for those that it may only read. So there is no tree to search
//! and no IOVA to allocate, contiguous memory is contiguous for the device, and a stale IOTLB
//! entry never leads to a page that it should not. What is left to keep is one word of state for
//! each page and window, in a sparse table:
//!
//! ```text
//! 63            32   31      30       29     28..0
//! idle since [ms]  present  busy  referenced  users
//! ```
//!
//! A page is present or busy or neither, never both.
//!
//! A hit is a load and a compare-and-exchange of that word. What the device can still reach after
//! unmap: idle pages, at most [`Limits::budget_bytes`] of them, each for at most
//! [`Limits::max_age_ms`].
//!
//! No CPU ever waits for another: who finds a page busy (being mapped or evicted) has the buffer
//! mapped exactly instead.

use core::sync::atomic::{
    AtomicBool,
    AtomicI64,
    AtomicU64,
    AtomicUsize,
    Ordering::{
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
        Sparse,
        Target, //
    },
    counter::{
        Counter,
        Flow, //
    },
    tunable::{
        OutOfRange,
        Range,
        Tunable, //
    },
};

/// The page table maps the page.
const PRESENT: u64 = 1 << 31;
/// The page is being mapped or unmapped by somebody.
const BUSY: u64 = 1 << 30;
/// The page was used since the last sweep passed it.
const REFERENCED: u64 = 1 << 29;
/// Number of buffers mapped that touch the page.
const USERS: u64 = REFERENCED - 1;
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
    Hit,
    /// It was not mapped and now belongs to the caller, who maps it.
    Vacant,
    /// Somebody else is at it.
    Busy,
}

impl Page {
    /// Takes a mapped page into use.
    ///
    /// Returns what could be done and, for a hit, whether the page was idle before.
    fn hold(&self) -> (Hold, bool) {
        loop {
            if let Some(idle) = self.hold_once() {
                return (Hold::Hit, idle);
            }

            let state = self.0.load(Relaxed);

            if state & PRESENT == 0 {
                return (self.claim(state), false);
            }
        }
    }

    /// Tries to take a mapped page into use. Returns whether it was idle before.
    #[inline(always)]
    fn hold_once(&self) -> Option<bool> {
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
            .then_some(state & USERS == 0)
    }

    /// Takes hold of a page that is not mapped, to map it.
    #[cold]
    fn claim(&self, state: u64) -> Hold {
        if state == 0 && self.0.compare_exchange(0, BUSY, Acquire, Relaxed).is_ok() {
            Hold::Vacant
        } else {
            Hold::Busy
        }
    }

    /// Takes a mapped and idle page out of the hands of drivers, to unmap it, if `evictable` says
    /// so of its state.
    fn claim_idle(&self, evictable: impl Fn(u64) -> bool) -> bool {
        // Ordered against the flag that a retirement clears before: see `release`.
        let state = self.0.load(SeqCst);

        state & (PRESENT | USERS) == PRESENT
            && evictable(state)
            && self
                .0
                .compare_exchange(state, BUSY, Acquire, Relaxed)
                .is_ok()
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
    #[inline]
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

/// How [`Cached::map`] ended.
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

/// Idle mappings that are kept at most, and how long.
pub struct Limits {
    /// Bytes of idle mappings that are kept. The default of 64 MiB holds the buffers of a dozen
    /// fast network queues; 0 keeps nothing.
    pub budget_bytes: Tunable,
    /// Milliseconds after which an idle mapping is withdrawn. Ten seconds by default: what was not
    /// used for so long is not worth its exposure.
    pub max_age_ms: Tunable,
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

/// The strategy.
pub struct Cached<B: Backend> {
    /// What a user can set.
    pub limits: Limits,
    layout: Layout,
    /// The two windows: [`Window::CachedWrite`] and [`Window::CachedRead`].
    sides: [Side<B>; 2],
    /// Idle pages that may be kept now: the budget while the strategy is in use, otherwise 0.
    allowance: AtomicU64,
    /// Whether the strategy is in use.
    serving: AtomicBool,
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

impl<B: Backend> Cached<B> {
    /// With nothing mapped. RAM that is added above `ram_end` is left to the fallback. May sleep.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`].
    pub fn new(layout: Layout, ram_end: Phys) -> Result<Self, OutOfMemory> {
        let pages = ram_end.0.min(layout.window_size()).div_ceil(PAGE_SIZE);

        Ok(Self {
            limits: Limits {
                budget_bytes: Tunable::new(Range {
                    min: 0,
                    max: 1 << 40,
                    step: PAGE_SIZE,
                    default: 64 << 20,
                }),
                max_age_ms: Tunable::new(Range {
                    min: 1,
                    max: 3_600_000,
                    step: 1,
                    default: 10_000,
                }),
            },
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
            allowance: AtomicU64::new(0),
            serving: AtomicBool::new(false),
            present: AtomicU64::new(0),
            slack: AtomicI64::new(0),
            sweeping: AtomicBool::new(false),
            hand: AtomicUsize::new(0),
        })
    }

    /// Keeps idle mappings from now on.
    pub fn start(&self) {
        self.serving.store(true, SeqCst);
        self.apply_budget();
    }

    /// Makes the budget that was set count.
    fn apply_budget(&self) {
        let allowance = if self.serving.load(SeqCst) {
            self.limits.budget_bytes.get() >> PAGE_SHIFT
        } else {
            0
        };

        self.slack.store(0, Relaxed);
        self.allowance.store(allowance, SeqCst);
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
        self.allowance.load(SeqCst)
    }

    /// Maps a buffer that lies within one page which is mapped already: the case to be fast in.
    /// Counts the map and the hit, too.
    ///
    /// [`None`] says nothing about the buffer; [`Cached::map`] serves all of them.
    #[inline(always)]
    pub fn map_hit(&self, backend: &B, buffer: Buffer, window: Window, limit: u64) -> Option<Iova> {
        let side = self.side(window);

        // The table ends where the window does, so what is found in it is in the window.
        if !buffer.is_within_page() || side.last > limit {
            return None;
        }

        let page = side.pages.get(buffer.phys.page())?;

        if page.hold_once()? {
            backend.count(Counter::Out(Flow::Idle), 1);
        }
        backend.count(Counter::CachedHits, 1);
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

        while done < pages {
            let Some(page) = self.pages(window).get(first + done) else {
                if self.pages(window).get_or_alloc(first + done).is_err() {
                    self.release(backend, window, first, done);
                    return Ok(Mapped::Fallback);
                }
                continue;
            };

            match page.hold() {
                (Hold::Hit, idle) => {
                    if idle {
                        backend.count(Counter::Out(Flow::Idle), 1);
                    }
                    done += 1;
                }
                (Hold::Vacant, _) => {
                    served = Served::Miss;
                    match self.map_run(backend, window, first + done, pages - done) {
                        Ok(n) => done += n,
                        Err(error) => {
                            self.release(backend, window, first, done);
                            return Err(error);
                        }
                    }
                }
                (Hold::Busy, _) => {
                    self.release(backend, window, first, done);
                    return Ok(Mapped::Fallback);
                }
            }
        }

        backend.count(Counter::In(Flow::Pages(window)), pages);
        Ok(Mapped::At(iova, served))
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
        let vacant = |page: &u64| {
            table
                .get_or_alloc(*page)
                .is_ok_and(|page| matches!(page.claim(0), Hold::Vacant))
        };
        let pages = 1 + (first + 1..first + max).take_while(vacant).count() as u64;
        let run = || (first..first + pages).filter_map(|page| table.get(page));
        let access = match window {
            Window::CachedRead => Access::Read,
            _ => Access::ReadWrite,
        };

        if let Err(error) = backend.map(
            self.range(window, first, pages),
            Phys(first << PAGE_SHIFT),
            access,
            Target::Memory,
        ) {
            run().for_each(Page::vacate);
            return Err(error);
        }

        run().for_each(Page::publish);

        let before = self.present.fetch_add(pages, SeqCst);

        if before <= self.budget() {
            self.slack.store(0, Relaxed);
        }
        Ok(pages)
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
        let number = iova.0.wrapping_sub(side.base) >> PAGE_SHIFT;
        let Some(page) = side.pages.get(number) else {
            return false;
        };
        let Some(idle) = page.release_once(backend.now_ms()) else {
            return false;
        };

        backend.count(Counter::CachedUnmaps, 1);
        if idle {
            backend.count(Counter::In(Flow::Idle), 1);
            if self.present.load(Relaxed) > self.budget() {
                self.over_budget_by_page(backend, iova);
            }
        }
        true
    }

    /// Ends the use of a buffer.
    #[inline]
    pub fn unmap(&self, backend: &B, window: Window, iova: Iova, pages: u64) {
        let first = self.layout.offset(iova) >> PAGE_SHIFT;

        backend.count(Counter::Out(Flow::Pages(window)), pages);
        self.release(backend, window, first, pages);
    }

    /// Gives one use of each page back.
    #[inline]
    fn release(&self, backend: &B, window: Window, first: u64, pages: u64) {
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

        if idle != 0 {
            backend.count(Counter::In(Flow::Idle), idle);
            if self.present.load(Relaxed) > self.budget() {
                self.over_budget(backend, window, first, pages, idle);
            }
        }
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

    /// Sets the budget, and withdraws at once what is more. May take long.
    ///
    /// # Errors
    ///
    /// [`OutOfRange`]: nothing changed.
    pub fn set_budget_bytes(&self, backend: &B, bytes: u64) -> Result<(), OutOfRange> {
        self.limits.budget_bytes.set(bytes)?;
        self.apply_budget();
        self.enforce_budget(backend);
        Ok(())
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
    /// many: none also if another CPU is at it.
    fn shrink(&self, backend: &B, due: u64) -> u64 {
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
    /// be called a few times within [`Limits::max_age_ms`].
    pub fn expire(&self, backend: &B) {
        if self.present.load(Relaxed) == 0 {
            return;
        }

        let now = backend.now_ms();
        let max_age = self.limits.max_age_ms.get();

        self.sweep_all(backend, |state| {
            let since = (state >> IDLE_SINCE_SHIFT) as u32;

            u64::from(now.wrapping_sub(since)) >= max_age
        });
        // CPUs that sweep at the same time may leave the last look at the budget to each other.
        if self.present.load(Relaxed) > self.budget() {
            self.enforce_budget(backend);
        }
    }

    /// Withdraws all idle mappings and keeps none any more: what is in use now is withdrawn when
    /// its driver unmaps it. May take long.
    pub fn retire(&self, backend: &B) {
        self.serving.store(false, SeqCst);
        self.apply_budget();
        self.sweep_all(backend, |_| true);
    }
}

/// Pages on their way out; one invalidation for all of them when this is dropped.
struct Eviction<'a, B: Backend> {
    cached: &'a Cached<B>,
    backend: &'a B,
    /// The window that `run` lies in.
    window: Window,
    /// Pages in a row that were claimed and are still in the page table.
    run: core::ops::Range<u64>,
    /// Number of pages claimed.
    pages: u64,
}

impl<'a, B: Backend> Eviction<'a, B> {
    /// With no page.
    fn new(cached: &'a Cached<B>, backend: &'a B) -> Self {
        Self {
            cached,
            backend,
            window: Window::CachedWrite,
            run: 0..0,
            pages: 0,
        }
    }

    /// Evicts a page if it is idle and `evictable` says so of its state.
    fn take(&mut self, window: Window, number: u64, evictable: impl Fn(u64) -> bool) {
        let claimed = self
            .cached
            .pages(window)
            .get(number)
            .is_some_and(|page| page.claim_idle(evictable));

        if !claimed {
            return;
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
            .cached
            .range(self.window, run.start, run.end - run.start);

        self.backend.unmap(core::iter::once(range));
        for page in run.filter_map(|page| self.cached.pages(self.window).get(page)) {
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
        self.cached.present.fetch_sub(self.pages, SeqCst);
        self.backend.count(Counter::Evictions, self.pages);
        self.backend.count(Counter::Out(Flow::Idle), self.pages);
    }
}
