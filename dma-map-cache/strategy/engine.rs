// SPDX-License-Identifier: GPL-2.0

//! The strategies of one device, and the one in use.
//!
//! New mappings follow the current strategy. A mapping is taken down the way it was made, which
//! the window of its address tells; so a switch waits for nothing and drains nothing. What lies in
//! a window of another strategy than the current one is *unsettled*: it keeps its old protection
//! until its driver unmaps it.

use core::sync::atomic::{
    AtomicBool,
    AtomicU8,
    Ordering::{
        Relaxed,
        SeqCst, //
    }, //
};

use super::{
    address::{
        is_within_page,
        pages_of,
        Buffer,
        Iova,
        Layout,
        PageRange,
        Phys,
        Window, //
    },
    auto::{
        Auto,
        Bound,
        Choice,
        Reason, //
    },
    backend::{
        Access,
        Arena,
        Backend,
        Lock,
        OutOfMemory,
        Target, //
    },
    batched,
    blocks::{
        BLOCK_BYTES,
        BLOCK_PAGES, //
    },
    cached::Cached,
    contiguous::Contiguous,
    counted::{
        Counted,
        Mapped,
        Retention,
        Served, //
    },
    counter::{
        Counter,
        Flow, //
    },
    deferred::Deferred,
    exact::{
        self,
        Extent,
        Unmapped,
        Use, //
    },
    exposure,
    kind::Kind,
    list::{
        Joiner,
        List,
        Segment,
        SegmentLimits, //
    },
    persistent::Persistent,
    pool::Pool,
    premapped::Premapped,
    retained::Retained,
    strict, //
};

/// What a driver may be given at this moment.
#[derive(Clone, Copy, Debug)]
pub struct Reach {
    /// The last address that the device can send: its DMA mask.
    pub limit: u64,
    /// What a segment of a list may be like.
    pub segment: SegmentLimits,
    /// `dma_get_min_align_mask()`: bits of an address that must stay the same.
    pub align_mask: u64,
}

/// All strategies of one device.
pub struct Engine<B: Backend> {
    /// What a user can set of `deferred`, and its queues.
    pub deferred: Deferred<B>,
    /// What a user can set of `cached`.
    pub cached: Cached,
    /// What a user can set of `persistent`.
    pub persistent: Persistent,
    /// What a user can set of `pool`, and its memory.
    pub pool: Pool<B>,
    /// What a user can set of `contiguous`, and its rings.
    pub contiguous: Contiguous<B>,
    /// The pages of the strategies that count them.
    pub counted: Counted<B>,
    /// What a user can set of `auto`.
    pub auto: Auto<B>,
    /// What a user can set of retention.
    pub retained: Retained,
    premapped: Premapped<B>,
    pub(super) layout: Layout,
    /// The number of the [`Kind`] that new mappings follow; never that of `auto`.
    current: AtomicU8,
    /// Whether `auto` has picked it.
    automatic: AtomicBool,
    /// What `auto` has picked, and why.
    choice: B::Lock<Choice>,
    /// Whether the device may reach what its driver has unmapped.
    pub(super) trusted: bool,
}

impl<B: Backend> Engine<B> {
    /// With [`Kind::DEFAULT`] in use and nothing mapped. May sleep.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`].
    pub fn new(layout: Layout, ram_end: Phys) -> Result<Self, OutOfMemory> {
        let auto = Auto::new()?;

        Ok(Self {
            deferred: Deferred::new()?,
            cached: Cached::new(),
            persistent: Persistent::new(),
            pool: Pool::new(layout, ram_end)?,
            contiguous: Contiguous::new(layout)?,
            counted: Counted::new(layout, ram_end)?,
            retained: Retained::new(),
            premapped: Premapped::new(layout, ram_end)?,
            layout,
            current: AtomicU8::new(Kind::DEFAULT as u8),
            automatic: AtomicBool::new(false),
            choice: B::lock(Choice::new(auto.bound(), true)),
            trusted: true,
            auto,
        })
    }

    /// Lets the device have nothing but strategies that expose nothing.
    pub fn distrust(&mut self) {
        self.trusted = false;
    }

    /// Whether the device may have a strategy.
    pub fn may_have(&self, kind: Kind) -> bool {
        self.trusted || kind.exposes_nothing() || kind == Kind::Auto
    }

    /// The strategy that the user has chosen.
    pub fn chosen(&self) -> Kind {
        if self.is_automatic() {
            Kind::Auto
        } else {
            self.current()
        }
    }

    /// Whether `auto` picks the strategy.
    #[inline]
    pub fn is_automatic(&self) -> bool {
        self.automatic.load(Relaxed)
    }

    /// Why `auto` has picked the current strategy; [`None`] if it has not.
    pub fn reason(&self) -> Option<Reason> {
        self.is_automatic()
            .then(|| self.choice.with(|choice| choice.reason))
    }

    /// The strategy that new mappings follow.
    #[inline]
    pub fn current(&self) -> Kind {
        Kind::from_number(self.current.load(Relaxed))
    }

    /// Makes new mappings follow `to`, and withdraws what the old strategy left behind as far as
    /// nothing in use depends on it. The caller keeps others from switching. May sleep.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`]: nothing changed.
    pub fn switch(&self, backend: &B, to: Kind) -> Result<(), OutOfMemory> {
        if to != Kind::Auto {
            self.follow(backend, to)?;
            self.automatic.store(false, Relaxed);
            self.set_bound(backend, Bound::NONE);
        } else if !self.is_automatic() {
            let bound = self.auto.bound();
            let mut first = Choice::new(bound, self.trusted);

            first.begin(backend);
            self.follow(backend, first.reason.kind)?;
            self.choice.with(|choice| *choice = first);
            self.automatic.store(true, Relaxed);
            self.set_bound(backend, bound);
        }
        Ok(())
    }

    /// Lets `auto` look at what the driver did since the last look,
    /// [`INTERVAL_MS`](super::auto::INTERVAL_MS) ago, and switch. Returns whether it did;
    /// `announce` is told before. The caller keeps others from switching. May sleep.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`]: nothing changed.
    pub fn decide(&self, backend: &B, announce: impl FnOnce(Kind)) -> Result<bool, OutOfMemory> {
        if !self.is_automatic() {
            return Ok(false);
        }

        let Some(kind) = self.choice.with(|choice| {
            self.auto
                .decide(backend, choice, self.pool.limits.max_buffer_bytes.get())
        }) else {
            return Ok(false);
        };

        let from = self.current();

        announce(kind);
        self.follow(backend, kind)
            .inspect_err(|_| self.choice.with(|choice| choice.reason.kind = from))?;
        Ok(true)
    }

    /// Makes what a user has set of how much may be exposed count, and decides as
    /// [`Engine::decide`] does. May take long.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`]: as long as there is no memory for another strategy, the current one stays.
    pub fn rebound(&self, backend: &B, announce: impl FnOnce(Kind)) -> Result<bool, OutOfMemory> {
        if !self.is_automatic() {
            return Ok(false);
        }
        self.set_bound(backend, self.auto.bound());
        self.decide(backend, announce)
    }

    /// Bounds what the strategies leave reachable.
    fn set_bound(&self, backend: &B, bound: Bound) {
        self.deferred.set_bound(backend, bound);
        self.contiguous.set_bound(backend, bound);
        if self.current().keeps() {
            self.retune(backend);
        }
    }

    /// The bound that `auto` sets.
    fn bound(&self) -> Bound {
        if self.is_automatic() {
            self.auto.bound()
        } else {
            Bound::NONE
        }
    }

    /// Makes new mappings follow `to`, as [`Engine::switch`] says.
    fn follow(&self, backend: &B, to: Kind) -> Result<(), OutOfMemory> {
        let from = self.current();

        if from == to {
            return Ok(());
        }

        match to {
            Kind::Premapped => self.premapped.start(backend)?,
            Kind::Deferred => self.deferred.start(),
            Kind::Pool => self.pool.start(backend)?,
            Kind::Contiguous => self.contiguous.start(),
            Kind::Strict | Kind::Batched | Kind::Cached | Kind::Persistent | Kind::Auto => {}
        }

        self.current.store(to as u8, SeqCst);

        match from {
            Kind::Premapped => self.premapped.retire(backend),
            Kind::Deferred => self.deferred.retire(backend),
            Kind::Pool => self.pool.retire(backend),
            Kind::Contiguous => self.contiguous.retire(backend),
            Kind::Strict | Kind::Batched | Kind::Cached | Kind::Persistent | Kind::Auto => {}
        }
        if from.keeps() || to.keeps() {
            self.retune(backend);
        }
        self.settle(backend);
        Ok(())
    }

    /// Makes what a user has set of how much is kept count, and withdraws at once what is more.
    /// The caller keeps others from switching. May take long.
    pub fn retune(&self, backend: &B) {
        let retention = match self.current() {
            Kind::Batched => batched::RETENTION,
            Kind::Cached => self.cached.retention(),
            Kind::Persistent => self.persistent.retention(),
            _ => Retention::NONE,
        };

        self.counted.keep(backend, self.bound().limit(retention));
    }

    /// Withdraws what former strategies left behind and nothing in use depends on any more.
    /// Returns whether there is nothing left to withdraw. May sleep.
    ///
    /// The caller keeps others from switching.
    pub fn settle(&self, backend: &B) -> bool {
        let premapped = self.current() == Kind::Premapped || self.premapped.settle(backend);
        let pool = self.current() == Kind::Pool || self.pool.settle(backend);

        premapped && pool
    }

    /// Leaves nothing mapped but what drivers still use. The caller keeps others from switching,
    /// and nothing can be mapped any more. May sleep.
    pub fn retire(&self, backend: &B) {
        self.deferred.retire(backend);
        self.contiguous.retire(backend);
        self.counted.keep(backend, Retention::NONE);
        self.premapped.retire(backend);
        self.premapped.settle(backend);
        self.pool.retire(backend);
        self.pool.settle(backend);
    }

    /// Gives up to `pages` idle mappings back, those first that were not used for a while. Returns how
    /// many. May be called in any context.
    pub fn shrink(&self, backend: &B, pages: u64) -> u64 {
        self.counted.shrink(backend, pages)
    }

    /// Pages in use whose mapping another strategy made.
    ///
    /// The low window serves all strategies, with the protection of `strict` or, while it is
    /// current, of `deferred`; it is never unsettled.
    pub fn unsettled_pages(&self, backend: &B) -> u64 {
        let current = self.current();

        Flow::PAGES
            .into_iter()
            .filter(|flow| match flow {
                Flow::Pages(Window::Exact) => !matches!(
                    current,
                    Kind::Strict | Kind::Deferred | Kind::Batched | Kind::Contiguous
                ),
                Flow::Pages(Window::Contiguous) => current != Kind::Contiguous,
                Flow::Pages(Window::Premapped) => current != Kind::Premapped,
                Flow::Pages(Window::CachedWrite | Window::CachedRead) => !current.counts(),
                Flow::Pages(Window::Pool) => current != Kind::Pool,
                Flow::Pages(Window::Low) | Flow::Idle | Flow::Queue => false,
            })
            .map(|flow| backend.outstanding(flow))
            .sum()
    }

    /// Pages that the driver has mapped now.
    pub fn live_pages(&self, backend: &B) -> u64 {
        Flow::PAGES
            .into_iter()
            .map(|flow| backend.outstanding(flow))
            .sum()
    }

    /// Pages that the device can reach now though no driver has them mapped: kept, not flushed yet,
    /// or RAM that `premapped` maps.
    pub fn exposed_pages(&self, backend: &B) -> u64 {
        exposure::kept_pages(backend) + self.premapped.exposed_pages(backend)
    }

    /// Ends the waiting of unmaps for a flush: what [`Backend::arm_flush_timer`] asks for.
    pub fn expire_deferred(&self, backend: &B) {
        self.deferred.expire(backend);
    }

    /// Ends the batch of a CPU: what [`Backend::end_batch_soon`] asks for.
    pub fn end_batch(&self, backend: &B, cpu: usize) {
        self.contiguous.end_batch(backend, cpu);
    }

    /// Maps a buffer of memory if it is the simplest hit of a strategy that keeps pages: it lies
    /// within one page that is mapped already. Everything else, and what [`None`] was returned for,
    /// is for [`Engine::map`].
    ///
    /// Does not ask whether such a strategy is current: a call that is late finds no page but those
    /// in use, which the device can reach anyway, and its unmap withdraws the page if it is the last.
    /// Apart from it because this is all that most maps come to: it calls nothing, so that it needs
    /// no stack frame.
    #[inline(always)]
    pub fn map_cached_hit(
        &self,
        backend: &B,
        buffer: Buffer,
        may_write: bool,
        limit: u64,
    ) -> Option<Iova> {
        self.counted
            .map_hit(backend, buffer, Counted::<B>::window_for(may_write), limit)
    }

    /// As [`Engine::map_cached_hit`], for a buffer of several pages.
    #[inline(always)]
    pub fn map_cached_hits(
        &self,
        backend: &B,
        buffer: Buffer,
        may_write: bool,
        limit: u64,
    ) -> Option<Iova> {
        self.counted
            .map_hits(backend, buffer, Counted::<B>::window_for(may_write), limit)
    }

    /// As [`Engine::map_cached_hit`], for `premapped`.
    #[inline(always)]
    pub fn map_premapped_hit(&self, backend: &B, buffer: Buffer, limit: u64) -> Option<Iova> {
        if self.current.load(Relaxed) != Kind::Premapped as u8 {
            return None;
        }

        self.premapped.map_hit(backend, buffer, limit)
    }

    /// As [`Engine::map_premapped_hit`], for a buffer of several pages.
    #[inline(always)]
    pub fn map_premapped_hits(&self, backend: &B, buffer: Buffer, limit: u64) -> Option<Iova> {
        if self.current.load(Relaxed) != Kind::Premapped as u8 {
            return None;
        }

        self.premapped.map_hits(backend, buffer, limit)
    }

    /// Maps a buffer of memory.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`]: nothing is mapped.
    pub fn map(
        &self,
        backend: &B,
        buffer: Buffer,
        access: Access,
        reach: Reach,
    ) -> Result<Iova, OutOfMemory> {
        if let Some(iova) = self.map_premapped_hits(backend, buffer, reach.limit) {
            return Ok(iova);
        }
        if self.counted.retains() {
            if let Some(iova) = self.map_retained(backend, buffer, access, reach) {
                return Ok(iova);
            }
        }

        if self.current().keeps() {
            let may_write = access.may_write();

            if let Some(iova) = self.map_cached_hits(backend, buffer, may_write, reach.limit) {
                return Ok(iova);
            }
        }
        if self.is_automatic() {
            self.auto.watch(backend, buffer);
        }

        match self.current() {
            kind @ (Kind::Batched | Kind::Cached | Kind::Persistent)
                if kind != Kind::Batched || batched::may_share(buffer) =>
            {
                if let Mapped::At(iova, served) =
                    self.counted.map(backend, buffer, access, reach.limit)?
                {
                    count_map(backend, served);
                    return Ok(iova);
                }
            }
            Kind::Premapped => {
                if let Some(iova) = self.premapped.map(backend, buffer, reach.limit) {
                    count_map(backend, Served::Hit);
                    return Ok(iova);
                }
            }
            Kind::Pool => {
                if let Some((iova, served)) =
                    self.pool
                        .map(backend, buffer, access, reach.limit, reach.align_mask)
                {
                    count_map(backend, served);
                    return Ok(iova);
                }
            }
            kind => {
                let adjacent = match kind {
                    Kind::Contiguous => {
                        self.contiguous.map(backend, buffer, access, reach.limit)?
                    }
                    _ => None,
                };
                let iova = match adjacent {
                    Some(iova) => iova,
                    None => self.map_in(backend, Arena::Exact, buffer, access, reach)?,
                };

                count_map(backend, Served::Miss);
                return Ok(iova);
            }
        }

        self.fall_back(backend, buffer, access, reach)
    }

    /// Maps a buffer that its owner has retained, under any strategy.
    pub(super) fn map_retained(
        &self,
        backend: &B,
        buffer: Buffer,
        access: Access,
        reach: Reach,
    ) -> Option<Iova> {
        let iova = self
            .counted
            .map_retained(backend, buffer, access, reach.limit)?;

        count_map(backend, Served::Hit);
        Some(iova)
    }

    /// Maps a buffer exactly because the current strategy could not serve it.
    #[cold]
    fn fall_back(
        &self,
        backend: &B,
        buffer: Buffer,
        access: Access,
        reach: Reach,
    ) -> Result<Iova, OutOfMemory> {
        let iova = self.map_in(backend, Arena::Low, buffer, access, reach)?;

        backend.count(Counter::Fallbacks, 1);
        count_map(backend, Served::Miss);
        Ok(iova)
    }

    /// Maps a buffer exactly.
    fn map_in(
        &self,
        backend: &B,
        arena: Arena,
        buffer: Buffer,
        access: Access,
        reach: Reach,
    ) -> Result<Iova, OutOfMemory> {
        let place = self.place(arena, reach, buffer.pages());
        let iova = exact::map(backend, place, buffer, access, Target::Memory)?;

        backend.count(
            Counter::In(Flow::Pages(window_of(place.arena))),
            buffer.pages(),
        );
        Ok(iova)
    }

    /// Where to map `pages` pages exactly: the low window is for devices that cannot reach that of
    /// the exact strategies, and for what is too large or has too narrow boundaries for it.
    pub(super) fn place(&self, arena: Arena, reach: Reach, pages: u64) -> exact::Place {
        let last = self.layout.last(Window::Exact);
        let fits = reach.limit >= last
            && pages <= BLOCK_PAGES
            && reach.segment.boundary_mask >= BLOCK_BYTES - 1;

        match arena {
            Arena::Exact if fits => exact::Place {
                arena,
                limit: last,
                // Nothing in this window crosses one.
                boundary_mask: u64::MAX,
            },
            _ => exact::Place {
                arena: Arena::Low,
                limit: reach.limit.min(self.layout.last(Window::Low)),
                boundary_mask: reach.segment.boundary_mask,
            },
        }
    }

    /// Maps a buffer that no strategy may keep or share: a coherent buffer, or registers of
    /// another device. Not counted among the maps; give it back with [`Engine::unmap_fixed`].
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`]: nothing is mapped.
    pub fn map_fixed<L: List>(
        &self,
        backend: &B,
        list: &mut L,
        access: Access,
        target: Target,
        limit: u64,
    ) -> Result<(), OutOfMemory> {
        let reach = Reach {
            limit,
            segment: SegmentLimits::NONE,
            align_mask: 0,
        };
        let extent = Extent::of(list.segments());
        let place = self.place(Arena::Low, reach, extent.pages);

        let purpose = Use {
            access,
            target,
            unmapped: Unmapped::Together,
        };

        exact::map_list(backend, place, list, extent, purpose)?;
        backend.count(Counter::In(Flow::Pages(Window::Low)), extent.pages);
        Ok(())
    }

    /// Takes down what [`Engine::map_fixed`] mapped at `range`; unreachable when it returns.
    pub fn unmap_fixed(&self, backend: &B, range: PageRange) {
        backend.count(Counter::Out(Flow::Pages(Window::Low)), range.pages);
        strict::unmap(backend, Arena::Low, range, core::iter::once(range));
    }

    /// Takes down what [`Engine::map`] returned for a buffer of `len` bytes if its page is counted
    /// and may be kept, and it lies within that page. Everything else, and what false was returned
    /// for, is for [`Engine::unmap`].
    #[inline(always)]
    pub fn unmap_cached_hit(&self, backend: &B, iova: Iova, len: u64) -> bool {
        match self.layout.window(iova) {
            window @ (Window::CachedWrite | Window::CachedRead) if is_within_page(iova.0, len) => {
                self.counted.unmap_page(backend, window, iova)
            }
            _ => false,
        }
    }

    /// As [`Engine::unmap_cached_hit`], for a buffer of several pages.
    #[inline(always)]
    pub fn unmap_cached_hits(&self, backend: &B, iova: Iova, len: u64) -> bool {
        match self.layout.window(iova) {
            window @ (Window::CachedWrite | Window::CachedRead) => {
                let pages = pages_of(iova.0, len);

                self.counted.unmap_pages(backend, window, iova, pages)
            }
            _ => false,
        }
    }

    /// As [`Engine::unmap_cached_hit`], for `premapped`.
    #[inline(always)]
    pub fn unmap_premapped_hit(&self, backend: &B, iova: Iova, len: u64) -> bool {
        let premapped =
            self.layout.window(iova) == Window::Premapped && is_within_page(iova.0, len);

        if premapped {
            self.premapped.unmap_page(backend);
        }
        premapped
    }

    /// As [`Engine::unmap_premapped_hit`], for a buffer of several pages.
    #[inline(always)]
    pub fn unmap_premapped_hits(&self, backend: &B, iova: Iova, len: u64) -> bool {
        let premapped = self.layout.window(iova) == Window::Premapped;

        if premapped {
            self.premapped.unmap_pages(backend, pages_of(iova.0, len));
        }
        premapped
    }

    /// As [`Engine::map_cached_hit`], for `pool`.
    #[inline(always)]
    pub fn map_pool_hit(
        &self,
        backend: &B,
        buffer: Buffer,
        access: Access,
        limit: u64,
        align_mask: u64,
    ) -> Option<Iova> {
        let iova = self
            .pool
            .map_hit(backend, buffer, access, limit, align_mask)?;

        if self.is_automatic() {
            self.auto.watch(backend, buffer);
        }
        Some(iova)
    }

    /// As [`Engine::unmap_cached_hit`], for all that `pool` has mapped.
    #[inline(always)]
    pub fn unmap_pool_hit(&self, backend: &B, iova: Iova, len: u64) -> bool {
        let pool = self.layout.window(iova) == Window::Pool;

        if pool {
            self.pool.unmap(backend, iova, len);
        }
        pool
    }

    /// Lets the device see what the CPU has written to `len` bytes of what is mapped, from `iova`
    /// on: `dma_sync_*_for_device()`.
    pub fn sync_for_device(&self, backend: &B, iova: Iova, len: u64) {
        if self.layout.window(iova) == Window::Pool {
            self.pool.sync_for_device(backend, iova, len);
        }
    }

    /// Lets the CPU see what the device has written to `len` bytes of what is mapped, from `iova`
    /// on: `dma_sync_*_for_cpu()`.
    pub fn sync_for_cpu(&self, backend: &B, iova: Iova, len: u64) {
        if self.layout.window(iova) == Window::Pool {
            self.pool.sync_for_cpu(backend, iova, len);
        }
    }

    /// Says that nobody wants to see what the device writes from now on to what is mapped at
    /// `iova`: `DMA_ATTR_SKIP_CPU_SYNC` on unmap.
    pub fn discard(&self, iova: Iova) {
        if self.layout.window(iova) == Window::Pool {
            self.pool.discard(iova);
        }
    }

    /// Whether there is, or can be, a mapping that `sync_*` matters to.
    pub fn needs_sync(&self) -> bool {
        self.current() == Kind::Pool || self.pool.mapped_bytes() != 0
    }

    /// Takes down what [`Engine::map`] returned for a buffer of `len` bytes.
    pub fn unmap(&self, backend: &B, iova: Iova, len: u64) {
        if self.counted.keeps() && self.unmap_cached_hits(backend, iova, len) {
            return;
        }

        let range = PageRange::of(iova, len);
        let window = self.layout.window(iova);

        match window {
            // These count the unmap, too.
            Window::CachedWrite | Window::CachedRead => {
                return self.counted.unmap(backend, window, iova, range.pages);
            }
            Window::Pool => return self.pool.unmap(backend, iova, len),
            Window::Premapped => return self.premapped.unmap_pages(backend, range.pages),
            Window::Contiguous => self.contiguous.unmap(backend, range),
            Window::Low | Window::Exact => {
                backend.count(Counter::Out(Flow::Pages(window)), range.pages);
                self.release(backend, window, range, core::iter::once(range));
            }
        }
        backend.count(Counter::Unmaps, 1);
    }

    /// Gives an exact mapping back with the protection that the current strategy promises.
    pub(super) fn release(
        &self,
        backend: &B,
        window: Window,
        whole: PageRange,
        runs: impl Iterator<Item = PageRange>,
    ) {
        let arena = match window {
            Window::Exact => Arena::Exact,
            _ => Arena::Low,
        };

        if self.current() == Kind::Deferred {
            self.deferred.unmap(backend, arena, whole, runs);
        } else {
            strict::unmap(backend, arena, whole, runs);
        }
    }

    /// Maps all segments of a list, or none.
    ///
    /// Either every segment lies in a window at a constant offset, or the whole list is one exact
    /// mapping, so that [`Engine::unmap_list`] can tell from the first.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`]: nothing is mapped.
    pub fn map_list<L: List>(
        &self,
        backend: &B,
        list: &mut L,
        access: Access,
        reach: Reach,
    ) -> Result<(), OutOfMemory> {
        let hit = |iova| Mapped::At(iova, Served::Hit);
        let kind = self.current();

        if self.counted.retains()
            && self.map_each(backend, list, |buffer| {
                Ok(self
                    .counted
                    .map_retained(backend, buffer, access, reach.limit)
                    .map_or(Mapped::Fallback, hit))
            })?
        {
            return Ok(());
        }

        if self.is_automatic() {
            self.watch_list(backend, list);
        }

        let arena = if kind.maps_lists_exactly() {
            Arena::Exact
        } else {
            let served = self.map_each(backend, list, |buffer| match kind {
                Kind::Premapped => Ok(self
                    .premapped
                    .map(backend, buffer, reach.limit)
                    .map_or(Mapped::Fallback, hit)),
                Kind::Pool => Ok(self.pool.map_segment(backend, buffer, access, reach)),
                _ => self.counted.map(backend, buffer, access, reach.limit),
            })?;

            if served {
                return Ok(());
            }
            Arena::Low
        };
        let extent = Extent::of(list.segments());
        let place = self.place(arena, reach, extent.pages);

        let purpose = Use {
            access,
            target: Target::Memory,
            unmapped: Unmapped::Together,
        };

        exact::map_list(backend, place, list, extent, purpose)?;
        if extent.segments > 1 {
            list.join(Joiner::new(reach.segment));
        }
        self.count_exact(backend, place, extent);
        if arena == Arena::Low {
            backend.count(Counter::Fallbacks, extent.segments);
        }
        Ok(())
    }

    /// Lets `auto` watch a list.
    #[cold]
    pub(super) fn watch_list<L: List>(&self, backend: &B, list: &mut L) {
        let mut segments = 0;

        for segment in list.segments() {
            self.auto.watch(backend, segment.buffer());
            segments += 1;
        }
        backend.count(Counter::WatchedLists, 1);
        backend.count(Counter::WatchedListed, segments);
    }

    /// Counts segments that were mapped exactly.
    pub(super) fn count_exact(&self, backend: &B, place: exact::Place, extent: Extent) {
        let window = window_of(place.arena);

        backend.count(Counter::Maps, extent.segments);
        backend.count(Counter::Misses, extent.segments);
        backend.count(Counter::In(Flow::Pages(window)), extent.pages);
    }

    /// Maps each segment at a constant offset, by `map`. Returns false, with nothing mapped, if that
    /// cannot be done for all of them.
    fn map_each<L: List>(
        &self,
        backend: &B,
        list: &mut L,
        map: impl Fn(Buffer) -> Result<Mapped, OutOfMemory>,
    ) -> Result<bool, OutOfMemory> {
        let (mut hits, mut misses) = (0, 0);
        let mut result = Ok(true);

        for segment in list.segments() {
            match map(segment.buffer()) {
                Ok(Mapped::At(iova, served)) => {
                    segment.assign(iova);
                    match served {
                        Served::Hit => hits += 1,
                        Served::Miss => misses += 1,
                    }
                }
                Ok(Mapped::Fallback) => {
                    result = Ok(false);
                    break;
                }
                Err(error) => {
                    result = Err(error);
                    break;
                }
            }
        }

        if result != Ok(true) {
            for segment in list.segments().take(hits + misses) {
                let (iova, len) = segment.assigned();

                match self.layout.window(iova) {
                    Window::Pool => self.pool.cancel(backend, iova, len),
                    _ => self.unmap_offset(backend, segment.mapped()),
                }
            }
            return result;
        }

        backend.count(Counter::Maps, (hits + misses) as u64);
        backend.count(Counter::Hits, hits as u64);
        backend.count(Counter::Misses, misses as u64);
        Ok(true)
    }

    /// Ends the use of pages in a window at a constant offset.
    fn unmap_offset(&self, backend: &B, range: PageRange) {
        match self.layout.window(range.start) {
            Window::Premapped => self.premapped.unmap(backend, range.pages),
            window => self
                .counted
                .unmap_segment(backend, window, range.start, range.pages),
        }
    }

    /// Takes down what [`Engine::map_list`] mapped.
    pub fn unmap_list<L: List>(&self, backend: &B, list: &mut L) {
        let Some(first) = list.segments().next().map(|first| first.mapped()) else {
            return;
        };
        let window = self.layout.window(first.start);

        if window == Window::Pool {
            for segment in list.segments() {
                let (iova, len) = segment.assigned();

                self.pool.unmap(backend, iova, len);
            }
            return;
        }
        if !matches!(window, Window::Low | Window::Exact) {
            let mut segments = 0;

            for segment in list.segments() {
                self.unmap_offset(backend, segment.mapped());
                segments += 1;
            }
            return backend.count(Counter::Unmaps, segments);
        }

        if let Some((whole, pages)) = exact::whole(list) {
            backend.count(Counter::Unmaps, list.entries() as u64);
            backend.count(Counter::Out(Flow::Pages(window)), pages);
            if pages == whole.pages {
                self.release(backend, window, whole, core::iter::once(whole));
            } else {
                self.release(backend, window, whole, exact::mapped_runs(list));
            }
        }
    }
}

/// Counts a buffer that was mapped.
#[inline]
fn count_map<B: Backend>(backend: &B, served: Served) {
    backend.count(Counter::Maps, 1);
    backend.count(
        match served {
            Served::Hit => Counter::Hits,
            Served::Miss => Counter::Misses,
        },
        1,
    );
}

/// The window that an arena allocates from.
const fn window_of(arena: Arena) -> Window {
    match arena {
        Arena::Low => Window::Low,
        Arena::Exact => Window::Exact,
        Arena::Contiguous => Window::Contiguous,
    }
}
