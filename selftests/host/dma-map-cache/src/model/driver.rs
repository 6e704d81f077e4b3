// SPDX-License-Identifier: GPL-2.0

//! A driver that remembers what it was promised, and a device that tries everything.
//!
//! After each step of the [`Driver`], [`Driver::check`] compares all that the device can reach
//! with all that it may reach:
//!
//! - every buffer in use, at the right address, with the rights that it was mapped with;
//! - after unmap, what is in the same batch (`contiguous`), nothing (`strict`, `batched`), what is
//!   queued (`deferred`), what is idle (`cached`, `persistent`), RAM (`premapped`), each within its
//!   limits, or memory that never was a driver's (`pool`), where it finds what the buffer has, and
//!   writes what the buffer gets.
//!
//! It also knows what each step may cost and how the statistics must change. One thread only; what
//! threads do to each other is another test.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::iommu::{pages, Calls, Entry, Iommu, PageMap};
use super::sg::SgList;
use super::{fault, thread};
use crate::strategy::address::{
    Buffer, Iova, Layout, PageRange, Phys, Window, PAGE_SHIFT, PAGE_SIZE,
};
use crate::strategy::backend::{Access, Arena, Backend, OutOfMemory, Target};
use crate::strategy::blocks::{BLOCK_BYTES, BLOCK_PAGES};
use crate::strategy::contiguous::MAX_PAGES;
use crate::strategy::counter::{Counter, Flow};
use crate::strategy::engine::Reach;
use crate::strategy::exposure;
use crate::strategy::list::{List, SegmentLimits};
use crate::strategy::pool::CHUNK_BYTES;
use crate::strategy::{Engine, Kind};

/// The most bytes of a segment for drivers that say so: the default of the DMA API.
const MAX_SEGMENT: u64 = 65_536;

/// How a mapping was asked for, and so has to be given back.
#[derive(Clone, Debug)]
enum Call {
    Single,
    List(SgList),
    Fixed(PageRange),
}

/// A mapping in use.
#[derive(Clone, Debug)]
pub struct Live {
    call: Call,
    access: Access,
    target: Target,
    /// The last address that the device could send then.
    limit: u64,
    /// What no segment of a list may cross, less one.
    boundary_mask: u64,
    /// Where the device finds what.
    segments: Vec<(Iova, Buffer)>,
}

impl Live {
    fn ranges(&self) -> impl Iterator<Item = (PageRange, Buffer)> + '_ {
        self.segments
            .iter()
            .map(|&(iova, buffer)| (PageRange::of(iova, buffer.len), buffer))
    }

    fn pages(&self) -> u64 {
        self.segments.iter().map(|(_, buffer)| buffer.pages()).sum()
    }

    /// The range that an exact mapping allocated.
    fn whole(&self) -> PageRange {
        let start = self.segments[0].0.page_start();
        let end = self
            .ranges()
            .last()
            .expect("a mapping has segments")
            .0
            .end();

        PageRange {
            start,
            pages: (end.0 - start.0) >> PAGE_SHIFT,
        }
    }
}

/// Pages of `contiguous` that are unmapped, and whose batch has not ended.
#[derive(Clone, Copy, Debug)]
struct Batched {
    first: u64,
    pages: u64,
    cpu: usize,
}

/// An exact mapping whose unmap was `deferred`.
#[derive(Clone, Copy, Debug)]
struct Queued {
    arena: Arena,
    first: u64,
    pages: u64,
    id: u64,
    cpu: usize,
    since_us: u64,
}

/// The statistics that a user sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// See [`Counter::Maps`], and so on.
    pub maps: u64,
    #[expect(missing_docs)]
    pub unmaps: u64,
    #[expect(missing_docs)]
    pub hits: u64,
    #[expect(missing_docs)]
    pub misses: u64,
    #[expect(missing_docs)]
    pub evictions: u64,
    #[expect(missing_docs)]
    pub fallbacks: u64,
}

/// How a map ended that went well.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// What it did to the machine.
    pub calls: Calls,
    /// Memory allocations.
    pub allocations: u64,
    /// What it added to the statistics.
    pub statistics: Statistics,
}

/// A driver, its device and everything below it.
pub struct Driver {
    /// The machine.
    pub iommu: Arc<Iommu>,
    /// What is tested.
    pub engine: Arc<Engine<Iommu>>,
    layout: Layout,
    reach: Reach,
    live: Vec<Live>,
    queued: Vec<Queued>,
    batched: Vec<Batched>,
    /// When pages of the cached windows became idle.
    idle_since: PageMap<u64>,
    /// When idle pages are looked at for their age the next time.
    expire_at: u64,
    /// What may be mapped in the premapped window: everything or, once that was withdrawn, nothing.
    populated: bool,
    maps: u64,
    unmaps: u64,
}

impl Driver {
    /// A driver that has mapped nothing yet.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`], if it was asked for.
    pub fn new(iommu: Iommu, layout: Layout, reach: Reach) -> Result<Self, OutOfMemory> {
        let engine = Engine::new(layout, iommu.ram_end())?;
        let mut driver = Self {
            expire_at: iommu.now_us(),
            iommu: Arc::new(iommu),
            engine: Arc::new(engine),
            layout,
            reach,
            live: Vec::new(),
            queued: Vec::new(),
            batched: Vec::new(),
            idle_since: PageMap::default(),
            populated: false,
            maps: 0,
            unmaps: 0,
        };

        driver.check();
        Ok(driver)
    }

    /// Number of mappings in use.
    pub fn live(&self) -> usize {
        self.live.len()
    }

    /// The statistics now.
    pub fn statistics(&self) -> Statistics {
        Statistics {
            maps: self.iommu.total(Counter::Maps),
            unmaps: self.iommu.total(Counter::Unmaps),
            hits: self.iommu.total(Counter::Hits),
            misses: self.iommu.total(Counter::Misses),
            evictions: self.iommu.total(Counter::Evictions),
            fallbacks: self.iommu.total(Counter::Fallbacks),
        }
    }

    /// Runs a step and measures what it costs.
    fn measure<R>(&mut self, step: impl FnOnce(&mut Self) -> R) -> (R, Cost) {
        let (calls, statistics) = (self.iommu.calls(), self.statistics());
        let allocations = fault::allocations();
        let result = step(self);
        let (c, s) = (self.iommu.calls(), self.statistics());

        (
            result,
            Cost {
                calls: Calls {
                    map: c.map - calls.map,
                    unmap: c.unmap - calls.unmap,
                    pte_updates: c.pte_updates - calls.pte_updates,
                    flush: c.flush - calls.flush,
                    alloc_iova: c.alloc_iova - calls.alloc_iova,
                    free_iova: c.free_iova - calls.free_iova,
                    arm: c.arm - calls.arm,
                    end_batch: c.end_batch - calls.end_batch,
                },
                allocations: fault::allocations() - allocations,
                statistics: Statistics {
                    maps: s.maps - statistics.maps,
                    unmaps: s.unmaps - statistics.unmaps,
                    hits: s.hits - statistics.hits,
                    misses: s.misses - statistics.misses,
                    evictions: s.evictions - statistics.evictions,
                    fallbacks: s.fallbacks - statistics.fallbacks,
                },
            },
        )
    }

    /// Runs a map and checks what it costs and, if it fails, that it leaves nothing behind.
    fn try_map(
        &mut self,
        map: impl FnOnce(&mut Self) -> Result<Live, OutOfMemory>,
    ) -> Result<Cost, OutOfMemory> {
        let refusals = fault::refusals();
        let before = self.footprint();
        let (result, cost) = self.measure(map);
        let refused = fault::refusals() != refusals;

        if !refused && (cost.statistics.fallbacks == 0 || !self.engine.current().counts()) {
            assert_eq!((cost.calls.unmap, cost.calls.flush), (0, 0), "{cost:?}");
        }
        match result {
            Ok(live) => {
                if !matches!(live.call, Call::Fixed(_)) {
                    self.maps += live.segments.len() as u64;
                }
                self.live.push(live);
                self.check();
                Ok(cost)
            }
            Err(error) => {
                assert!(refused, "a map fails though there is room for everything");
                assert_eq!(before, self.footprint(), "a map that failed left something");
                assert_eq!(
                    Statistics {
                        evictions: cost.statistics.evictions,
                        ..Statistics::default()
                    },
                    cost.statistics,
                    "a map that failed was counted"
                );
                self.check();
                Err(error)
            }
        }
    }

    /// All that a failed map must not change: the cached windows may have more or less idle pages
    /// than before, and no other ones, and the pool may have grown.
    fn footprint(&self) -> impl PartialEq + std::fmt::Debug {
        let mut table: Vec<_> = self
            .iommu
            .table()
            .into_iter()
            .filter(|(page, _)| !self.is_cached(*page) && !self.is_pool(*page))
            .map(|(page, entry)| (page, entry.page))
            .collect();

        table.sort();
        (
            table,
            self.iommu.allocations(Arena::Low),
            self.iommu.allocations(Arena::Exact),
            self.engine.live_pages(&*self.iommu),
        )
    }

    fn is_cached(&self, iova_page: u64) -> bool {
        matches!(
            self.layout.window(Iova(iova_page << PAGE_SHIFT)),
            Window::CachedWrite | Window::CachedRead
        )
    }

    /// Whether a strategy serves such buffers from a window of its own if it can, and the rest exactly.
    fn at_offset(kind: Kind, buffer: Buffer, is_list: bool) -> bool {
        match kind {
            Kind::Premapped | Kind::Cached | Kind::Persistent | Kind::Pool => true,
            // What has no page to itself.
            Kind::Batched => {
                let end = buffer.phys.0 + buffer.len;
                let mut starts = (buffer.phys.0..end).filter(|byte| byte % PAGE_SIZE == 0);

                !is_list && starts.next().is_none_or(|start| end - start < PAGE_SIZE)
            }
            Kind::Strict | Kind::Deferred | Kind::Contiguous | Kind::Auto => false,
        }
    }

    /// Whether the last mapping was made exactly only because it could not be made otherwise.
    fn at_best_at_offset(&self, kind: Kind) -> bool {
        let live = self.live.last().expect("something was mapped");
        let is_list = matches!(live.call, Call::List(_));

        live.segments
            .first()
            .is_some_and(|&(_, buffer)| Self::at_offset(kind, buffer, is_list))
    }

    fn is_pool(&self, iova_page: u64) -> bool {
        self.layout.window(Iova(iova_page << PAGE_SHIFT)) == Window::Pool
    }

    /// Whether the pool must serve a buffer.
    fn expects_pool(&self, buffer: Buffer) -> bool {
        let mask = self.reach.align_mask | 63;
        let bytes = ((buffer.phys.0 & mask) + buffer.len).max(mask + 1);
        let slot = bytes.next_power_of_two().max(256);

        buffer.len <= self.engine.pool.limits.max_buffer_bytes.get()
            && slot <= CHUNK_BYTES
            && slot - 1 <= self.reach.segment.boundary_mask
            && self.reach.limit >= self.layout.base(Window::Pool) + (256 << 20) - 1
            && buffer.phys.0 + buffer.len <= self.iommu.ram_end().0
    }

    /// The window that a strategy at a constant offset must serve a buffer from.
    fn expected_window(&self, buffer: Buffer, access: Access, is_list: bool) -> Option<Window> {
        let kind = self.engine.current();

        if !Self::at_offset(kind, buffer, is_list) {
            return None;
        }

        let window = match (kind, access) {
            (Kind::Premapped, _) => Window::Premapped,
            (Kind::Pool, _) => return self.expects_pool(buffer).then_some(Window::Pool),
            (_, Access::Read) => Window::CachedRead,
            _ => Window::CachedWrite,
        };
        let last = buffer.phys.0 + buffer.len - 1;
        let known = match window {
            Window::Premapped => {
                (buffer.phys.page()..=last >> PAGE_SHIFT).all(|page| self.iommu.is_ram(page))
            }
            _ => last < self.iommu.ram_end().0,
        };
        let fits =
            last < self.layout.window_size() && self.layout.base(window) + last <= self.reach.limit;

        (known && fits).then_some(window)
    }

    /// Notes that pages are about to be used, even if the map fails in the end.
    fn touch(&mut self, buffers: &[Buffer]) {
        if !self.engine.current().keeps() {
            return;
        }
        for window in [Window::CachedWrite, Window::CachedRead] {
            let base = self.layout.base(window) >> PAGE_SHIFT;

            for buffer in buffers {
                let first = buffer.phys.page();

                for page in first..first + buffer.pages() {
                    self.idle_since.remove(&(base + page));
                }
            }
        }
    }

    /// Sets what the device wants to stay the same of addresses, as `dma_set_min_align_mask()` does.
    pub fn set_align_mask(&mut self, align_mask: u64) {
        self.reach.align_mask = align_mask;
    }

    /// Sets the last address that the device can send, as `dma_set_mask()` does.
    pub fn set_limit(&mut self, limit: u64) {
        self.reach.limit = limit;
    }

    /// Maps a buffer.
    pub fn map(&mut self, buffer: Buffer, access: Access) -> Result<Cost, OutOfMemory> {
        let kind = self.engine.current();

        self.reach.segment = SegmentLimits::NONE;
        let expected = self.expected_window(buffer, access, false);
        let refusals = fault::refusals();

        self.touch(&[buffer]);
        let cost = self.try_map(|this| {
            let iova = this.engine.map(&*this.iommu, buffer, access, this.reach)?;

            Ok(Live {
                call: Call::Single,
                access,
                target: Target::Memory,
                limit: this.reach.limit,
                boundary_mask: u64::MAX,
                segments: vec![(iova, buffer)],
            })
        })?;

        self.check_cost(kind, &cost, 1);
        if refusals == fault::refusals() {
            self.check_window(expected);
        }
        Ok(cost)
    }

    /// Number of segments that the device has for a mapping.
    pub fn segments(&mut self, index: usize) -> usize {
        match &mut self.live[index].call {
            Call::List(list) => list.assigned().count(),
            _ => 1,
        }
    }

    /// Maps a list of buffers, none of whose segments crosses a multiple of `boundary_mask + 1`.
    pub fn map_list(
        &mut self,
        buffers: Vec<Buffer>,
        access: Access,
        boundary_mask: u64,
    ) -> Result<Cost, OutOfMemory> {
        let kind = self.engine.current();
        let n = buffers.len() as u64;

        self.reach.segment = SegmentLimits {
            // Some drivers have a limit, and some do not.
            max_bytes: boundary_mask.clamp(MAX_SEGMENT, u32::MAX.into()),
            boundary_mask,
        };
        let limits = self.reach.segment;
        let windows: Vec<_> = buffers
            .iter()
            .map(|&buffer| self.expected_window(buffer, access, true))
            .collect();
        let expected = windows[0].filter(|_| windows.iter().all(Option::is_some));
        let refusals = fault::refusals();

        self.touch(&buffers);
        let cost = self.try_map(|this| {
            let mut list = SgList::new(buffers);

            this.engine
                .map_list(&*this.iommu, &mut list, access, this.reach)?;

            for (iova, len) in list.0.iter().filter_map(|entry| entry.segment) {
                let crosses = (iova.0 ^ (iova.0 + len - 1)) & !limits.boundary_mask != 0;

                // What the driver asked for is its own matter.
                assert!(
                    list.0.iter().any(|entry| entry.buffer.len == len)
                        || len <= limits.max_bytes && !crosses,
                    "{iova:x?} + {len:#x} was joined against {limits:x?}"
                );
            }

            Ok(Live {
                access,
                target: Target::Memory,
                limit: this.reach.limit,
                boundary_mask,
                segments: list.found(),
                call: Call::List(list),
            })
        })?;

        self.check_cost(kind, &cost, n);
        if refusals == fault::refusals() {
            self.check_window(expected);
        }
        self.check_boundary(boundary_mask);
        Ok(cost)
    }

    /// Maps a buffer that is shared with the device, or registers of another device.
    pub fn map_fixed(
        &mut self,
        buffers: Vec<Buffer>,
        access: Access,
        target: Target,
    ) -> Result<Cost, OutOfMemory> {
        let cost = self.try_map(|this| {
            let mut list = SgList::new(buffers);

            this.engine
                .map_fixed(&*this.iommu, &mut list, access, target, this.reach.limit)?;

            let segments = list.found();
            let mut live = Live {
                call: Call::Single,
                access,
                target,
                limit: this.reach.limit,
                boundary_mask: u64::MAX,
                segments,
            };

            live.call = Call::Fixed(live.whole());
            Ok(live)
        })?;

        assert_eq!(cost.statistics, Statistics::default());
        self.check_window(None);
        Ok(cost)
    }

    /// The window of the last mapping.
    fn check_window(&self, expected: Option<Window>) {
        let live = self.live.last().expect("something was mapped");
        let full =
            self.engine.pool.mapped_bytes() + CHUNK_BYTES > self.engine.pool.limits.max_bytes.get();
        let exact = match live.call {
            Call::Fixed(_) => Window::Low,
            Call::Single
                if self.engine.current() == Kind::Contiguous
                    && live.pages() <= MAX_PAGES
                    && self.reach.limit >= self.layout.last(Window::Contiguous) =>
            {
                Window::Contiguous
            }
            _ if self.reach.limit < self.layout.last(Window::Exact) => Window::Low,
            _ if live.pages() > BLOCK_PAGES || live.boundary_mask < BLOCK_BYTES - 1 => Window::Low,
            _ if self.at_best_at_offset(self.engine.current()) => Window::Low,
            _ => Window::Exact,
        };

        for &(iova, buffer) in &live.segments {
            let window = self.layout.window(iova);

            if expected == Some(Window::Pool) && full {
                assert!(matches!(window, Window::Pool | Window::Low));
            } else {
                assert_eq!(window, expected.unwrap_or(exact));
            }
            if window == Window::Pool {
                let kept = self.reach.align_mask | 63;

                assert_eq!(
                    iova.0 & kept,
                    buffer.phys.0 & kept,
                    "{iova:x?} for {buffer:x?}"
                );
                assert!(
                    self.iommu.device_read(iova, buffer.len)
                        == self.iommu.memory(buffer.phys, buffer.len),
                    "the device does not find what {buffer:x?} has"
                );
            }
        }
    }

    /// No segment of the last mapping crosses a boundary unless it must.
    fn check_boundary(&self, boundary_mask: u64) {
        let live = self.live.last().expect("something was mapped");
        let crosses = |first: u64, len: u64| {
            boundary_mask != u64::MAX && (first ^ (first + len - 1)) & !boundary_mask != 0
        };

        for (range, buffer) in live.ranges() {
            let avoidable = match self.layout.window(range.start) {
                Window::Low | Window::Exact | Window::Contiguous => {
                    range.bytes() - 1 <= boundary_mask
                }
                // Its own addresses are checked below.
                Window::Pool => false,
                // The address is that of the buffer: it is for the driver to choose it well.
                _ => !crosses(buffer.phys.0, buffer.len),
            };
            let first = range.start.0 | buffer.phys.0 & ((1 << PAGE_SHIFT) - 1);

            assert!(
                !avoidable || !crosses(first, buffer.len),
                "{first:#x} + {:#x} crosses a boundary of {boundary_mask:#x}",
                buffer.len
            );
        }
        for &(iova, buffer) in &live.segments {
            assert!(
                self.layout.window(iova) != Window::Pool || !crosses(iova.0, buffer.len),
                "{iova:x?} + {:#x} crosses a boundary of {boundary_mask:#x}",
                buffer.len
            );
        }
    }

    /// What mapping `n` buffers may cost.
    fn check_cost(&self, kind: Kind, cost: &Cost, n: u64) {
        let Cost {
            calls, statistics, ..
        } = cost;
        let live = self.live.last().expect("something was mapped");

        assert_eq!(statistics.maps, n);
        assert_eq!(statistics.hits + statistics.misses, n);
        assert!(statistics.fallbacks == 0 || statistics.fallbacks == n);
        assert_eq!(statistics.unmaps, 0, "{cost:?}");
        match self.layout.window(live.segments[0].0) {
            Window::Low | Window::Exact => {
                assert_eq!(statistics.misses, n);
                // One more that was no use if there was no memory for its chunk.
                assert_eq!(calls.alloc_iova - calls.free_iova, 1);
                assert_eq!(calls.pte_updates, live.pages() + self.wasted(kind, cost));
                assert_eq!(statistics.fallbacks == n, self.at_best_at_offset(kind));
            }
            Window::Contiguous => {
                assert_eq!(statistics.misses, n);
                // A chunk lasts for many.
                assert!(calls.alloc_iova <= 1 && calls.free_iova <= 1);
                assert_eq!((calls.map, calls.pte_updates), (1, live.pages()));
            }
            Window::Premapped => {
                assert_eq!(statistics.hits, n);
                assert_eq!((*calls, cost.allocations), Default::default());
            }
            Window::CachedWrite | Window::CachedRead | Window::Pool => {
                assert_eq!(calls.alloc_iova, 0);
                assert!(statistics.misses <= calls.map, "{cost:?}");
                if statistics.hits == n {
                    assert_eq!((*calls, cost.allocations), Default::default());
                }
            }
        }
    }

    /// Updates of a cached window, or of that of the pool, from before it turned out that not all
    /// of the buffers can be served from it.
    fn wasted(&self, kind: Kind, cost: &Cost) -> u64 {
        let live = self.live.last().expect("something was mapped");

        if kind.counts() || kind == Kind::Pool {
            cost.calls.pte_updates - live.pages()
        } else {
            0
        }
    }

    /// What a buffer must have after unmap, once the device has written to some of its copy.
    fn use_copies(&self, live: &Live, seed: u64) -> Vec<(Buffer, Vec<u8>)> {
        let mut contents = Vec::new();

        for &(iova, buffer) in &live.segments {
            if self.layout.window(iova) != Window::Pool {
                continue;
            }

            let from = seed % buffer.len;
            let len = (seed >> 20) % (buffer.len - from) + 1;
            let noise: Vec<_> = (0..len)
                .map(|n| (seed >> 7).wrapping_add(n) as u8)
                .collect();
            let before = self.iommu.memory(buffer.phys, buffer.len);

            self.iommu.device_write(Iova(iova.0 + from), &noise);
            contents.push((
                buffer,
                match live.access {
                    Access::Read => before,
                    _ => self.iommu.device_read(iova, buffer.len),
                },
            ));
        }

        // Of buffers that lie one over the other nobody can tell.
        let overlaps =
            |a: &Buffer, b: &Buffer| a.phys.0 < b.phys.0 + b.len && b.phys.0 < a.phys.0 + a.len;
        let buffers: Vec<_> = contents.iter().map(|(buffer, _)| *buffer).collect();

        contents.retain(|(buffer, _)| {
            buffers
                .iter()
                .filter(|other| overlaps(buffer, other))
                .count()
                == 1
        });
        contents
    }

    /// Unmaps a mapping.
    pub fn unmap(&mut self, index: usize) -> Cost {
        let live = self.live.swap_remove(index);
        let contents = self.use_copies(&live, self.unmaps.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let around = |buffer: &Buffer| {
            let before = buffer.phys.0.saturating_sub(64);

            (
                self.iommu.memory(Phys(before), buffer.phys.0 - before),
                self.iommu.memory(Phys(buffer.phys.0 + buffer.len), 64),
            )
        };
        let neighbours: Vec<_> = contents.iter().map(|(buffer, _)| around(buffer)).collect();
        let n = live.segments.len() as u64;
        let pages = live.pages();
        let window = self.layout.window(live.segments[0].0);
        let exact = match window {
            Window::Low => Some(Arena::Low),
            Window::Exact => Some(Arena::Exact),
            _ => None,
        };
        let kind = self.engine.current();
        let fixed = matches!(live.call, Call::Fixed(_));
        let defers = exact.filter(|_| kind == Kind::Deferred && !fixed);

        if let Some(arena) = defers {
            let whole = live.whole();
            let first = whole.start.0 >> PAGE_SHIFT;
            let allocation = self.iommu.allocations(arena)[&first];

            assert_eq!(allocation.pages, whole.pages);
            self.queued.push(Queued {
                arena,
                first,
                pages: whole.pages,
                id: allocation.id,
                cpu: thread::cpu(),
                since_us: self.iommu.now_us(),
            });
        }

        if window == Window::Contiguous && kind == Kind::Contiguous {
            let whole = live.whole();

            self.batched.push(Batched {
                first: whole.start.0 >> PAGE_SHIFT,
                pages: whole.pages,
                cpu: thread::cpu(),
            });
        }

        let ((), cost) = self.measure(|this| match live.call {
            Call::Single => {
                let (iova, buffer) = live.segments[0];

                this.engine.unmap(&*this.iommu, iova, buffer.len);
            }
            Call::List(mut list) => this.engine.unmap_list(&*this.iommu, &mut list),
            Call::Fixed(range) => this.engine.unmap_fixed(&*this.iommu, range),
        });

        if !fixed {
            assert_eq!(
                cost.statistics,
                Statistics {
                    unmaps: n,
                    evictions: cost.statistics.evictions,
                    ..Statistics::default()
                }
            );
            self.unmaps += n;
        }
        assert_eq!((cost.calls.map, cost.calls.alloc_iova), (0, 0));
        assert_eq!(cost.allocations, 0, "an unmap allocates memory");
        for ((buffer, content), neighbours) in contents.iter().zip(neighbours) {
            assert!(
                *content == self.iommu.memory(buffer.phys, buffer.len),
                "{buffer:x?} has not got what it should"
            );
            if n == 1 {
                let before = buffer.phys.0.saturating_sub(64);

                assert!(
                    neighbours
                        == (
                            self.iommu.memory(Phys(before), buffer.phys.0 - before),
                            self.iommu.memory(Phys(buffer.phys.0 + buffer.len), 64),
                        ),
                    "what lies around {buffer:x?} has changed"
                );
            }
        }
        match (window, defers) {
            (Window::Low | Window::Exact, None) => {
                assert_eq!((cost.calls.pte_updates, cost.calls.flush), (pages, 1));
            }
            (Window::Low | Window::Exact, Some(_)) => {
                assert_eq!(cost.calls.pte_updates, pages);
                assert!(cost.calls.flush <= 1);
            }
            (Window::Premapped | Window::Pool, _) => assert_eq!(cost.calls, Calls::default()),
            (Window::Contiguous, _) if kind != Kind::Contiguous => {
                assert_eq!((cost.calls.pte_updates, cost.calls.flush), (pages, 1));
            }
            (Window::Contiguous, _) => self.note_batch(&cost),
            (Window::CachedWrite | Window::CachedRead, _) => {
                // What is not kept is not evicted either.
                let kept = self.budget() != 0;

                assert_eq!(
                    cost.statistics.evictions,
                    if kept { cost.calls.pte_updates } else { 0 }
                );
                assert!(cost.calls.flush <= cost.calls.pte_updates.min(n));
            }
        }
        self.check();
        cost
    }

    /// What an unmap of `contiguous` did: nothing, or it ended the batch.
    fn note_batch(&mut self, cost: &Cost) {
        let cpu = thread::cpu();
        let (mine, others): (Vec<Batched>, Vec<Batched>) =
            self.batched.iter().partition(|batched| batched.cpu == cpu);

        if mine.len() as u64 >= self.engine.contiguous.max_unmaps.get() {
            assert_eq!(cost.calls.flush, 1);
            assert_eq!(
                cost.calls.pte_updates,
                mine.iter().map(|batched| batched.pages).sum::<u64>()
            );
            self.batched = others;
        } else {
            assert_eq!((cost.calls.flush, cost.calls.pte_updates), (0, 0));
            assert_eq!(cost.calls.end_batch, u64::from(mine.len() == 1));
        }
    }

    /// Lets the interrupts be over that the CPUs are in.
    pub fn end_interrupts(&mut self) {
        for cpu in self.iommu.take_batches() {
            let ((), cost) = self.measure(|this| this.engine.end_batch(&*this.iommu, cpu));

            assert!(cost.calls.flush <= 1);
        }
        self.batched.clear();
        self.check();
    }

    /// Sets the limit of a batch as a user does.
    pub fn set_contiguous(&mut self, max_unmaps: u64) {
        // It counts from the next unmap on, so none may be over it already.
        self.end_interrupts();
        self.engine
            .contiguous
            .max_unmaps
            .set(max_unmaps)
            .expect("a number in range");
    }

    /// Unmaps everything.
    pub fn unmap_all(&mut self) {
        while !self.live.is_empty() {
            self.unmap(self.live.len() - 1);
        }
    }

    /// Switches to another strategy.
    pub fn switch(&mut self, to: Kind) -> Result<(), OutOfMemory> {
        let (from, chosen) = (self.engine.current(), self.engine.chosen());
        let refusals = fault::refusals();
        let (result, cost) = self.measure(|this| this.engine.switch(&this.iommu, to));
        // `auto` has another one picked for it.
        let followed = self.engine.current();

        assert_eq!(cost.statistics.maps + cost.statistics.unmaps, 0);
        match result {
            Ok(()) => {
                assert_eq!(self.engine.chosen(), to);
                self.populated |= to == Kind::Premapped;
                self.note_switch(from, followed);
            }
            Err(_) => {
                assert_ne!(refusals, fault::refusals(), "a switch fails for no reason");
                assert_eq!(
                    (followed, self.engine.chosen()),
                    (from, chosen),
                    "a switch that failed took effect"
                );
            }
        }
        self.check();
        result
    }

    /// Notes what a switch did beside the switch.
    fn note_switch(&mut self, from: Kind, to: Kind) {
        if from != to {
            self.note_settled();
        }
        // Housekeeping begins anew.
        self.expire_idle();
        // A bound that changes ends the batches, too.
        self.batched.clear();
        self.iommu.take_batches();
    }

    /// Lets `auto` decide.
    pub fn decide(&mut self) {
        let from = self.engine.current();
        let switched = self.engine.decide(&self.iommu, |_| {}).expect("memory");
        let to = self.engine.current();

        assert_eq!(switched, from != to);
        if switched {
            assert!(self.engine.is_automatic());
            self.note_switch(from, to);
        }
        self.check();
    }

    /// Sets the bound of `auto` as a user does.
    pub fn set_bound(&mut self, us: u64, pages: u64) {
        let from = self.engine.current();

        self.engine.auto.limit_us.set(us).expect("a time in range");
        self.engine
            .auto
            .limit_pages
            .set(pages)
            .expect("a number in range");
        self.engine.rebound(&self.iommu, |_| {}).expect("memory");
        if self.engine.is_automatic() {
            self.note_switch(from, self.engine.current());
            self.expire_idle();
        }
        self.check();
    }

    /// Withdraws what former strategies left.
    pub fn settle(&mut self) {
        let settled = self.engine.settle(&self.iommu);

        self.note_settled();
        assert_eq!(
            settled,
            (self.engine.current() == Kind::Premapped || !self.populated)
                && (self.engine.current() == Kind::Pool || self.iommu.owned_bytes() == 0)
        );
        assert!(
            self.engine.current() == Kind::Pool
                || self.in_window(Window::Pool) != 0
                || self.iommu.owned_bytes() == 0,
            "nothing of the pool is in use, but it is still there"
        );
        self.check();
    }

    /// When settling must have emptied the premapped window.
    fn note_settled(&mut self) {
        if self.engine.current() != Kind::Premapped && self.in_window(Window::Premapped) == 0 {
            self.populated = false;
        }
    }

    /// Sets the budget for idle pages as a user does.
    pub fn set_budget_pages(&mut self, pages: u64) {
        self.engine
            .cached
            .budget_bytes
            .set(pages << PAGE_SHIFT)
            .expect("a budget in range");
        self.engine.retune(&self.iommu);
        self.check();
    }

    /// Sets the cap of `persistent` as a user does.
    pub fn set_cap_pages(&mut self, pages: u64) {
        self.engine
            .persistent
            .cap_bytes
            .set(pages << PAGE_SHIFT)
            .expect("a cap in range");
        self.engine.retune(&self.iommu);
        self.check();
    }

    /// Idle pages that may be kept.
    fn budget(&self) -> u64 {
        match self.engine.current() {
            Kind::Cached => self.engine.cached.budget_bytes.get() >> PAGE_SHIFT,
            Kind::Persistent => self.engine.persistent.cap_bytes.get() >> PAGE_SHIFT,
            _ => 0,
        }
    }

    /// Sets the age limit of idle pages as a user does.
    pub fn set_max_age_ms(&mut self, ms: u64) {
        self.engine
            .cached
            .max_age_ms
            .set(ms)
            .expect("an age in range");
        self.engine.retune(&self.iommu);
        self.expire_idle();
        self.check();
    }

    /// Sets the limits of `pool` as a user does.
    pub fn set_pool(&mut self, min_bytes: u64, max_bytes: u64, max_buffer_bytes: u64) {
        let pool = &self.engine.pool;

        pool.limits.min_bytes.set(min_bytes).expect("bytes");
        pool.limits.max_bytes.set(max_bytes).expect("bytes");
        pool.limits
            .max_buffer_bytes
            .set(max_buffer_bytes)
            .expect("bytes");
        self.trim();
        self.check();
    }

    /// Looks after the pool.
    fn trim(&self) {
        if self.engine.current() == Kind::Pool {
            self.engine.pool.trim(&*self.iommu);
        }
    }

    /// Sets the limits of `deferred` as a user does.
    pub fn set_deferred(&mut self, max_unmaps: u64, max_us: u64) {
        self.engine
            .deferred
            .max_unmaps
            .set(max_unmaps)
            .expect("a number in range");
        self.engine
            .deferred
            .max_us
            .set(max_us)
            .expect("a time in range");
        self.engine.expire_deferred(&self.iommu);
        self.check();
    }

    /// Time between two looks at the age of idle pages.
    fn expire_period_us(&self) -> u64 {
        match self.engine.counted.max_age_ms() {
            // Nothing is kept.
            0 => 1_000_000,
            max_age_ms => max_age_ms.min(self.engine.cached.max_age_ms.get()) * 1_000 / 4,
        }
    }

    fn expire_idle(&mut self) {
        self.engine.counted.expire(&*self.iommu);
        self.trim();
        self.expire_at = self.iommu.now_us() + self.expire_period_us();
    }

    /// Lets time pass, and all happen that is due meanwhile.
    pub fn advance(&mut self, us: u64) {
        let end = self.iommu.now_us() + us;

        // An interrupt takes no time.
        self.end_interrupts();
        loop {
            let timer = self.iommu.timer().unwrap_or(u64::MAX);
            let next = timer.min(self.expire_at);

            if next > end {
                break;
            }
            self.iommu.set_now_us(next.max(self.iommu.now_us()));
            if next == timer {
                self.iommu.take_timer();
                self.engine.expire_deferred(&self.iommu);
            } else {
                self.expire_idle();
            }
            self.check();
            if self.iommu.table().keys().all(|page| !self.is_cached(*page)) {
                // Nothing can age; skip the rest of a long wait.
                self.expire_at = self.expire_at.max(end);
                if self.iommu.timer().is_none() {
                    break;
                }
            }
        }
        self.iommu.set_now_us(end);
        self.trim();
        self.check();
    }

    /// Ends the use of the device; nothing may be left of it if all was unmapped.
    pub fn retire(&mut self) {
        self.engine.retire(&self.iommu);
        self.batched.clear();
        if self.live.is_empty() {
            self.populated = false;
            assert!(self.iommu.table().is_empty(), "still mapped after the end");
            assert!(self.iommu.stale().is_empty(), "not flushed after the end");
            for arena in [Arena::Low, Arena::Exact, Arena::Contiguous] {
                assert_eq!(self.iommu.allocations(arena).len(), 0, "IOVA space leaks");
            }
            assert_eq!(self.engine.live_pages(&*self.iommu), 0);
            assert_eq!(self.engine.exposed_pages(&*self.iommu), 0);
            assert_eq!(self.iommu.owned_bytes(), 0, "memory leaks");
        }
    }

    /// Pages in use in a window.
    fn in_window(&self, window: Window) -> u64 {
        self.live
            .iter()
            .filter(|live| self.layout.window(live.segments[0].0) == window)
            .map(Live::pages)
            .sum()
    }

    /// Checks everything that must be true between two steps.
    pub fn check(&mut self) {
        let table = self.iommu.table();
        let in_use = self.check_live(&table);

        self.check_exact(&table);
        self.check_contiguous(&table);
        self.check_cached(&table, &in_use);
        self.check_premapped(&table);
        self.check_bound();
        self.check_pool(&table);
        self.check_statistics();
    }

    /// The device finds every buffer in use. Returns the pages that it finds them at.
    fn check_live(&self, table: &PageMap<Entry>) -> BTreeSet<u64> {
        let mut in_use = BTreeSet::new();

        for live in &self.live {
            for (range, buffer) in live.ranges() {
                if self.layout.window(range.start) == Window::Pool {
                    continue;
                }
                assert_eq!(range.pages, buffer.pages());
                assert!(
                    range.start.0 + (buffer.phys.0 & ((1 << PAGE_SHIFT) - 1)) + buffer.len - 1
                        <= live.limit,
                    "{range:x?} is out of the reach of the device"
                );
                for (n, page) in pages(range).enumerate() {
                    let Some(entry) = table.get(&page) else {
                        panic!("the device faults at IOVA page {page:#x} of {live:x?}");
                    };

                    assert_eq!(
                        (entry.page, entry.target),
                        (buffer.phys.page() + n as u64, live.target),
                        "IOVA page {page:#x} of {live:x?}"
                    );
                    assert!(entry.allows(live.access), "{entry:x?} for {live:x?}");
                    in_use.insert(page);
                }
            }
        }
        in_use
    }

    /// Exact mappings reach what is in use; what is unmapped is in a queue, within its limits.
    fn check_exact(&mut self, table: &PageMap<Entry>) {
        let is_exact = |page: &u64| {
            matches!(
                self.layout.window(Iova(page << PAGE_SHIFT)),
                Window::Low | Window::Exact
            )
        };
        let exact: Vec<_> = self
            .live
            .iter()
            .filter(|live| is_exact(&(live.segments[0].0 .0 >> PAGE_SHIFT)))
            .collect();
        let mapped = exact.iter().map(|live| live.pages()).sum::<u64>();

        // All buffers in use were found at different addresses, so equal numbers mean that there
        // are no others; and each entry allows what its buffer needs and not more.
        assert_eq!(
            table.keys().filter(|page| is_exact(page)).count() as u64,
            mapped,
            "exact mappings in the page table"
        );
        for live in &exact {
            for (range, _) in live.ranges() {
                assert!(pages(range).all(|page| table[&page].access == live.access));
            }
        }

        let arenas = [
            self.iommu.allocations(Arena::Low),
            self.iommu.allocations(Arena::Exact),
        ];
        let now = self.iommu.now_us();

        self.queued.retain(|q| {
            arenas[q.arena as usize]
                .get(&q.first)
                .is_some_and(|a| a.id == q.id)
        });
        assert_eq!(
            arenas.iter().map(|arena| arena.len()).sum::<usize>(),
            exact.len() + self.queued.len(),
            "IOVA ranges that belong to nobody"
        );
        for page in self.iommu.stale().keys().filter(|page| is_exact(page)) {
            assert!(
                self.queued
                    .iter()
                    .any(|q| (q.first..q.first + q.pages).contains(page)),
                "the device still reaches IOVA page {page:#x}"
            );
        }

        let max_unmaps = self.engine.deferred.max_unmaps.get();
        let max_us = self.engine.deferred.max_us.get();

        assert!(self.queued.is_empty() || self.engine.current() == Kind::Deferred);
        for cpu in 0..thread::CPUS {
            let queued = self.queued.iter().filter(|q| q.cpu == cpu).count() as u64;

            assert!(queued < max_unmaps, "{queued} unmaps wait on CPU {cpu}");
        }
        for q in &self.queued {
            assert!(now - q.since_us <= max_us, "{q:x?} waits for too long");
        }
    }

    /// The device reaches what is in use, and what waits for the end of a batch, and no more.
    fn check_contiguous(&self, table: &PageMap<Entry>) {
        let is_contiguous =
            |page: &u64| self.layout.window(Iova(page << PAGE_SHIFT)) == Window::Contiguous;
        let waiting: u64 = self.batched.iter().map(|batched| batched.pages).sum();

        assert!(self.batched.is_empty() || self.engine.current() == Kind::Contiguous);
        // Those in use were found, so equal numbers mean that there are no others.
        assert_eq!(
            table.keys().filter(|page| is_contiguous(page)).count() as u64,
            self.in_window(Window::Contiguous) + waiting
        );
        for batched in &self.batched {
            for page in batched.first..batched.first + batched.pages {
                assert!(table.contains_key(&page), "cleared before its batch ended");
            }
        }
        assert!(!self.iommu.stale().keys().any(is_contiguous));
    }

    /// Idle pages are within budget and age, and counted.
    fn check_cached(&mut self, table: &PageMap<Entry>, in_use: &BTreeSet<u64>) {
        let now = self.iommu.now_us();
        let idle: Vec<_> = table
            .keys()
            .copied()
            .filter(|page| self.is_cached(*page) && !in_use.contains(page))
            .collect();
        let budget = self.budget();
        let max_age = match self.engine.current() {
            Kind::Cached => self.engine.cached.max_age_ms.get() * 1_000,
            _ => u64::MAX >> 1,
        };

        assert!(idle.len() as u64 <= budget, "{} pages are idle", idle.len());
        assert_eq!(self.iommu.outstanding(Flow::Idle), idle.len() as u64);
        assert_eq!(
            self.iommu.outstanding(Flow::Queue),
            self.queued.iter().map(|queued| queued.pages).sum::<u64>()
                + self
                    .batched
                    .iter()
                    .map(|batched| batched.pages)
                    .sum::<u64>()
        );
        let before = std::mem::take(&mut self.idle_since);

        for page in idle {
            let since = before.get(&page).copied().unwrap_or(now);

            // A millisecond for the resolution of the clock.
            assert!(
                now - since <= max_age + self.expire_period_us() + 1_000,
                "IOVA page {page:#x} is idle for {} us",
                now - since
            );
            self.idle_since.insert(page, since);
        }
    }

    /// `auto` keeps within its bound.
    fn check_bound(&self) {
        let Some(reason) = self.engine.reason() else {
            return;
        };
        let bound = self.engine.auto.bound();
        let exposed = exposure::kept_pages(&*self.iommu);

        assert_eq!(reason.kind, self.engine.current());
        assert!(
            exposed <= bound.pages.max(thread::CPUS as u64),
            "{exposed} pages are exposed under {bound:?}"
        );
        if bound.allows_nothing() {
            assert!(reason.kind.exposes_nothing());
            assert_eq!(exposed, 0);
        }
        let now = self.iommu.now_us();

        for queued in &self.queued {
            assert!(now - queued.since_us <= bound.us);
        }
        for since in self.idle_since.values() {
            // Pages age in milliseconds.
            assert!(now - since <= bound.us + 1_000);
        }
    }

    /// The premapped window is RAM, all of it or nothing.
    fn check_premapped(&self, table: &PageMap<Entry>) {
        let base = self.layout.base(Window::Premapped) >> PAGE_SHIFT;
        let end = self.layout.window_size() >> PAGE_SHIFT;
        let mapped = table
            .keys()
            .filter(|page| self.layout.window(Iova(**page << PAGE_SHIFT)) == Window::Premapped)
            .count();

        if self.populated {
            let ram: Vec<_> = self.iommu.ram().filter(|page| *page < end).collect();

            assert_eq!(mapped, ram.len());
            assert!(ram.iter().all(|page| table[&(base + page)].page == *page));
        } else {
            assert_eq!(mapped, 0, "the premapped window was not withdrawn");
        }
    }

    /// The pool is what it says, and no two buffers share a byte of it.
    fn check_pool(&self, table: &PageMap<Entry>) {
        let mapped = table.keys().filter(|page| self.is_pool(**page)).count() as u64;
        let mut copies: Vec<_> = self
            .live
            .iter()
            .flat_map(|live| live.segments.iter().map(move |segment| (live, segment)))
            .filter(|(_, (iova, _))| self.layout.window(*iova) == Window::Pool)
            .map(|(live, (iova, buffer))| {
                assert!(iova.0 + buffer.len - 1 <= live.limit);
                (iova.0, iova.0 + buffer.len)
            })
            .collect();

        assert_eq!(mapped << PAGE_SHIFT, self.engine.pool.mapped_bytes());
        assert_eq!(mapped << PAGE_SHIFT, self.iommu.owned_bytes());
        copies.sort();
        for pair in copies.windows(2) {
            assert!(
                pair[0].1 <= pair[1].0,
                "two buffers share a slot: {pair:x?}"
            );
        }
        for &(start, end) in &copies {
            for page in start >> PAGE_SHIFT..=(end - 1) >> PAGE_SHIFT {
                assert!(table.contains_key(&page), "the device faults at {page:#x}");
            }
        }
    }

    /// The statistics add up.
    fn check_statistics(&self) {
        let statistics = self.statistics();
        let calls = self.iommu.calls();
        let pages = |window| self.iommu.outstanding(Flow::Pages(window));
        let current = self.engine.current();

        assert_eq!(
            (statistics.maps, statistics.unmaps),
            (self.maps, self.unmaps)
        );
        assert_eq!(statistics.maps, statistics.hits + statistics.misses);
        assert_eq!(self.iommu.total(Counter::Flushes), calls.flush);
        assert_eq!(self.iommu.total(Counter::PteUpdates), calls.pte_updates);
        assert_eq!(
            self.engine.live_pages(&*self.iommu),
            self.live.iter().map(Live::pages).sum::<u64>()
        );
        for window in [
            Window::Low,
            Window::Exact,
            Window::Premapped,
            Window::Contiguous,
            Window::Pool,
        ] {
            assert_eq!(pages(window), self.in_window(window), "{window:?}");
        }
        // These two are one flow.
        assert_eq!(
            pages(Window::CachedWrite),
            self.in_window(Window::CachedWrite) + self.in_window(Window::CachedRead)
        );

        let unsettled: u64 = Window::ALL
            .into_iter()
            .filter(|window| match window {
                Window::Low => false,
                Window::Exact => !matches!(
                    current,
                    Kind::Strict | Kind::Deferred | Kind::Batched | Kind::Contiguous
                ),
                Window::Premapped => current != Kind::Premapped,
                Window::Contiguous => current != Kind::Contiguous,
                Window::CachedWrite | Window::CachedRead => !current.counts(),
                Window::Pool => current != Kind::Pool,
            })
            .map(|window| self.in_window(window))
            .sum();

        assert_eq!(self.engine.unsettled_pages(&*self.iommu), unsettled);
    }
}
