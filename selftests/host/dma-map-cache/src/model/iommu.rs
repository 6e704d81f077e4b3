// SPDX-License-Identifier: GPL-2.0

//! An IOMMU, the IOVA space of one device and the memory behind it.
//!
//! The device is as hostile as it can be: it touches each mapping as soon as it is there, so that
//! the IOTLB holds every translation from then on. Clearing a page-table entry leaves it in the
//! IOTLB; only an invalidation that begins afterwards takes it out. So what the device can reach
//! is at each moment the page table and all that was not invalidated, and a strategy cannot be
//! right by luck.
//!
//! Anything that would be wrong on real hardware, or that `struct iommu_domain` or `struct
//! iova_domain` would not stand, is a panic that says what was done.

use std::collections::btree_map::BTreeMap;
use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasherDefault, Hasher};
use std::ops::Range;
use std::sync::atomic::{fence, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::fault;
use super::lock::SpinLock;
use super::sparse::SparseTable;
use super::thread::{self, ensure};
use crate::strategy::address::{Iova, Layout, PageRange, Phys, Window, PAGE_SHIFT, PAGE_SIZE};
use crate::strategy::backend::{
    self, Access, Arena, Backend, Incomplete, OutOfMemory, Run, Target,
};
use crate::strategy::blocks::BLOCK_PAGES;
use crate::strategy::counter::Counter;

/// Pages in a large page.
pub const LARGE: u64 = 512;

/// The first page of what [`Backend::alloc`] has to give.
pub const POOL: u64 = 1 << 30;

/// The clock begins 3 seconds before its milliseconds wrap in 32 bits.
const BOOT_US: u64 = (u32::MAX as u64 - 3_000) * 1_000;

/// Spreads page numbers.
#[derive(Default)]
pub struct PageHasher(u64);

impl Hasher for PageHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("pages are hashed as u64");
    }

    fn write_u64(&mut self, page: u64) {
        let product = page.wrapping_mul(0x9e37_79b9_7f4a_7c15);

        self.0 = product ^ (product >> 32);
    }
}

/// A map from page numbers.
pub type PageMap<T> = HashMap<u64, T, BuildHasherDefault<PageHasher>>;

/// A translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Number of the physical page.
    pub page: u64,
    /// What the device may do with it.
    pub access: Access,
    /// What is there.
    pub target: Target,
    /// First page and number of pages of what can be unmapped as a whole only, if this is a part
    /// of such a thing.
    whole: Option<(u64, u64)>,
}

impl Entry {
    /// Whether a device can use this for all that `access` allows.
    pub fn allows(&self, access: Access) -> bool {
        self.access == access || self.access == Access::ReadWrite
    }
}

/// Calls that changed something, and other things that cost time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Calls {
    /// Page-table passes that mapped.
    pub map: u64,
    /// Runs that were unmapped.
    pub unmap: u64,
    /// Page-table entries written or cleared, in pages.
    pub pte_updates: u64,
    /// Invalidations.
    pub flush: u64,
    /// IOVA ranges taken.
    pub alloc_iova: u64,
    /// IOVA ranges given back.
    pub free_iova: u64,
    /// Requests for the flush timer.
    pub arm: u64,
    /// Requests for the end of a batch.
    pub end_batch: u64,
}

/// IOVA space that was handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allocation {
    /// Tells two allocations of the same range apart.
    pub id: u64,
    /// Number of pages.
    pub pages: u64,
}

#[derive(Default)]
struct State {
    table: PageMap<Entry>,
    /// Translations that are in the IOTLB only, and the number of the unmap that left them there.
    stale: PageMap<(Entry, u64)>,
    /// Number of unmaps.
    unmaps: u64,
    /// By first page.
    low: BTreeMap<u64, Allocation>,
    exact: BTreeMap<u64, Allocation>,
    contiguous: BTreeMap<u64, Allocation>,
    allocations: u64,
    calls: Calls,
    now_us: u64,
    timer: Option<u64>,
    /// CPUs that want their batch ended.
    batches: BTreeSet<usize>,
    /// What is in pages that were written; there are zeroes in all others.
    contents: PageMap<Box<[u8; PAGE_SIZE as usize]>>,
    /// Number of pages of what [`Backend::alloc`] has given, by first page.
    owned: BTreeMap<u64, u64>,
}

impl State {
    /// The byte at an address.
    fn byte(&self, phys: u64) -> u8 {
        self.contents
            .get(&(phys >> PAGE_SHIFT))
            .map_or(0, |page| page[(phys % PAGE_SIZE) as usize])
    }

    /// Writes the byte at an address.
    fn set_byte(&mut self, phys: u64, byte: u8) {
        self.contents
            .entry(phys >> PAGE_SHIFT)
            .or_insert_with(|| Box::new([0; PAGE_SIZE as usize]))[(phys % PAGE_SIZE) as usize] =
            byte;
    }

    /// Whether all of `len` bytes at an address are in one piece of memory that was allocated.
    fn owns(&self, phys: Phys, len: u64) -> bool {
        self.owned
            .range(..=phys.page())
            .next_back()
            .is_some_and(|(first, pages)| {
                len <= (pages << PAGE_SHIFT).saturating_sub(phys.0 - (first << PAGE_SHIFT))
            })
    }

    /// Where the device finds the byte at an IOVA.
    fn reach(&self, iova: u64) -> u64 {
        let entry = self.table.get(&(iova >> PAGE_SHIFT));
        let Some(entry) = entry else {
            panic!("the device faults at {iova:#x}");
        };

        (entry.page << PAGE_SHIFT) | iova % PAGE_SIZE
    }

    fn arena(&self, arena: Arena) -> &BTreeMap<u64, Allocation> {
        match arena {
            Arena::Low => &self.low,
            Arena::Exact => &self.exact,
            Arena::Contiguous => &self.contiguous,
        }
    }

    fn arena_mut(&mut self, arena: Arena) -> &mut BTreeMap<u64, Allocation> {
        match arena {
            Arena::Low => &mut self.low,
            Arena::Exact => &mut self.exact,
            Arena::Contiguous => &mut self.contiguous,
        }
    }

    /// Gives back any part of what was taken, which may be from several calls.
    fn free_exact(&mut self, range: PageRange) {
        let mut at = pages(range);

        while !at.is_empty() {
            let found = self
                .exact
                .range(..=at.start)
                .next_back()
                .map(|(&start, &old)| (start, old))
                .filter(|(start, old)| at.start < start + old.pages);

            ensure(found.is_some(), || {
                format!("gives back IOVA page {:#x}, which was not taken", at.start)
            });

            let Some((start, old)) = found else {
                return;
            };
            let old_end = start + old.pages;
            let end = at.end.min(old_end);

            self.exact.remove(&start);
            for part in [start..at.start, end..old_end] {
                if !part.is_empty() {
                    let pages = part.end - part.start;

                    self.exact
                        .insert(part.start, Allocation { id: old.id, pages });
                }
            }
            at.start = end;
        }
    }

    fn map(&mut self, range: PageRange, entry: impl Fn(u64) -> Entry) {
        for (n, iova) in pages(range).enumerate() {
            let entry = entry(n as u64);
            let old = self.table.insert(iova, entry);

            ensure(old.is_none(), || {
                format!("maps {entry:x?} over {old:x?} at IOVA page {iova:#x}")
            });

            let stale = self.stale.get(&iova);

            ensure(stale.is_none_or(|(stale, _)| *stale == entry), || {
                format!(
                    "maps {entry:x?} at IOVA page {iova:#x}, for which the IOTLB has {stale:x?}"
                )
            });
        }
        self.calls.map += 1;
        self.calls.pte_updates += range.pages;
    }

    fn unmap(&mut self, range: PageRange) {
        ensure(range.pages != 0, || "unmaps an empty range".into());
        self.unmaps += 1;
        for iova in pages(range) {
            let Some(entry) = self.table.remove(&iova) else {
                ensure(false, || {
                    format!("unmaps IOVA page {iova:#x}, which is not mapped")
                });
                continue;
            };

            ensure(
                entry.whole.is_none_or(|(first, pages)| {
                    range.start.0 >> PAGE_SHIFT <= first
                        && first + pages <= range.end().0 >> PAGE_SHIFT
                }),
                || format!("unmaps a part of {:x?} by {range:x?}", entry.whole),
            );
            self.stale.insert(iova, (entry, self.unmaps));
        }
        self.calls.unmap += 1;
        self.calls.pte_updates += range.pages;
    }
}

/// Memory from [`Backend::alloc`].
pub struct Owned {
    phys: Phys,
    pages: u64,
    state: Weak<Mutex<State>>,
}

impl backend::Memory for Owned {
    fn phys(&self) -> Phys {
        self.phys
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        // There is nobody left that could reach it without a machine.
        let Some(state) = self.state.upgrade() else {
            return;
        };
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        let pages = self.phys.page()..self.phys.page() + self.pages;
        let reachable = state
            .table
            .values()
            .chain(state.stale.values().map(|(entry, _)| entry))
            .any(|entry| pages.contains(&entry.page));

        ensure(!reachable, || {
            format!("frees memory that the device reaches, at {:x?}", self.phys)
        });
        state.owned.remove(&pages.start);
        state.contents.retain(|page, _| !pages.contains(page));
    }
}

/// The machine.
pub struct Iommu {
    layout: Layout,
    ram: Vec<Range<u64>>,
    state: Arc<Mutex<State>>,
    counters: [[AtomicU64; Counter::COUNT]; thread::CPUS],
    during_flush: Mutex<Option<Hook>>,
}

/// What happens elsewhere while the CPU that asked for it waits.
type Hook = Box<dyn FnOnce(&Iommu) + Send>;

/// The page numbers of a range.
pub fn pages(range: PageRange) -> Range<u64> {
    let first = range.start.0 >> PAGE_SHIFT;

    first..first + range.pages
}

impl Iommu {
    /// A machine with nothing mapped and RAM at these pages, in ascending order.
    pub fn new(layout: Layout, ram: Vec<Range<u64>>) -> Self {
        Self {
            layout,
            ram,
            state: Arc::new(Mutex::new(State {
                now_us: BOOT_US,
                ..State::default()
            })),
            counters: std::array::from_fn(|_| std::array::from_fn(|_| AtomicU64::new(0))),
            during_flush: Mutex::new(None),
        }
    }

    /// The state. Nothing that [`thread::jitter`]s may be called with it.
    fn state(&self) -> MutexGuard<'_, State> {
        thread::jitter();
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The end of RAM.
    pub fn ram_end(&self) -> Phys {
        Phys(self.ram.last().map_or(0, |range| range.end) << PAGE_SHIFT)
    }

    /// Whether a page is RAM.
    pub fn is_ram(&self, page: u64) -> bool {
        self.ram.iter().any(|range| range.contains(&page))
    }

    /// The pages that are RAM.
    pub fn ram(&self) -> impl Iterator<Item = u64> + '_ {
        self.ram.iter().cloned().flatten()
    }

    /// What has been called until now.
    pub fn calls(&self) -> Calls {
        self.state().calls
    }

    /// The page-table entry of an IOVA.
    pub fn translate(&self, iova: Iova) -> Option<Entry> {
        self.state().table.get(&(iova.0 >> PAGE_SHIFT)).copied()
    }

    /// A copy of the page table.
    pub fn table(&self) -> PageMap<Entry> {
        self.state().table.clone()
    }

    /// What is in the IOTLB but not in the page table any more.
    pub fn stale(&self) -> PageMap<Entry> {
        let state = self.state();

        state
            .stale
            .iter()
            .map(|(&page, &(entry, _))| (page, entry))
            .collect()
    }

    /// What was taken from an arena and not given back, by first page.
    pub fn allocations(&self, arena: Arena) -> BTreeMap<u64, Allocation> {
        self.state().arena(arena).clone()
    }

    /// The clock, in microseconds.
    pub fn now_us(&self) -> u64 {
        self.state().now_us
    }

    /// Sets the clock.
    pub fn set_now_us(&self, now_us: u64) {
        let mut state = self.state();

        ensure(now_us >= state.now_us, || "time goes backwards".into());
        state.now_us = now_us;
    }

    /// When the flush timer is due.
    pub fn timer(&self) -> Option<u64> {
        self.state().timer
    }

    /// Stops the flush timer; who does it calls `expire_deferred()`.
    pub fn take_timer(&self) -> Option<u64> {
        self.state().timer.take()
    }

    /// The CPUs whose interrupt is over now and that want their batch ended; who takes them calls
    /// `end_batch()` for each.
    pub fn take_batches(&self) -> BTreeSet<usize> {
        std::mem::take(&mut self.state().batches)
    }

    /// Lets `hook` run once, while an invalidation is under way.
    pub fn during_flush(&self, hook: impl FnOnce(&Self) + Send + 'static) {
        *self.during_flush.lock().unwrap() = Some(Box::new(hook));
    }

    /// Bytes that were taken by [`Backend::alloc`] and not given back.
    pub fn owned_bytes(&self) -> u64 {
        self.state().owned.values().sum::<u64>() << PAGE_SHIFT
    }

    /// What is in memory.
    pub fn memory(&self, phys: Phys, len: u64) -> Vec<u8> {
        let state = self.state();

        (phys.0..phys.0 + len).map(|at| state.byte(at)).collect()
    }

    /// Writes to memory as a CPU does.
    pub fn write_memory(&self, phys: Phys, bytes: &[u8]) {
        let mut state = self.state();

        for (at, byte) in (phys.0..).zip(bytes) {
            state.set_byte(at, *byte);
        }
    }

    /// What the device finds.
    pub fn device_read(&self, iova: Iova, len: u64) -> Vec<u8> {
        let state = self.state();

        (iova.0..iova.0 + len)
            .map(|at| state.byte(state.reach(at)))
            .collect()
    }

    /// Writes as the device does.
    pub fn device_write(&self, iova: Iova, bytes: &[u8]) {
        let mut state = self.state();

        for (at, byte) in (iova.0..).zip(bytes) {
            let phys = state.reach(at);

            state.set_byte(phys, *byte);
        }
    }

    /// A statistic of one CPU.
    pub fn counter(&self, cpu: usize, counter: Counter) -> u64 {
        self.counters[cpu][counter.index()].load(Ordering::Relaxed)
    }

    /// Maps a range, which can be unmapped in parts unless it is `whole`.
    fn map_parts(
        &self,
        range: PageRange,
        phys: Phys,
        access: Access,
        target: Target,
        whole: Option<PageRange>,
    ) -> Result<(), OutOfMemory> {
        let whole = whole.map(|whole| (whole.start.0 >> PAGE_SHIFT, whole.pages));
        let entry = |n| Entry {
            page: phys.page() + n,
            access,
            target,
            whole,
        };

        fault::allocate()?;
        let mut state = self.state();

        self.check_map(&state, range, phys, entry(0));
        state.map(range, entry);
        drop(state);
        self.count(Counter::PteUpdates, range.pages);
        Ok(())
    }

    /// What a mapping must look like wherever the window of its address promises something.
    fn check_map(&self, state: &State, range: PageRange, phys: Phys, entry: Entry) {
        let window = self.layout.window(range.start);
        let fits = |arena| {
            let first = range.start.0 >> PAGE_SHIFT;

            state
                .arena(arena)
                .range(..=first)
                .next_back()
                .is_some_and(|(start, a)| first + range.pages <= start + a.pages)
        };
        let right = match window {
            Window::Low => fits(Arena::Low),
            Window::Exact => fits(Arena::Exact),
            Window::Contiguous => fits(Arena::Contiguous),
            Window::Premapped => false,
            Window::CachedWrite => entry.access == Access::ReadWrite,
            Window::CachedRead => entry.access == Access::Read,
            Window::Pool => {
                entry.access == Access::ReadWrite
                    && entry.target == Target::Memory
                    && state.owns(phys, range.bytes())
                    && range.end().0 - 1 <= self.layout.last(window)
            }
        } && (matches!(
            window,
            Window::Low | Window::Exact | Window::Contiguous | Window::Pool
        ) || self.layout.offset(range.start) == phys.0
            && entry.target == Target::Memory
            && range.end().0 - 1 <= self.layout.last(window));

        ensure(
            range.pages != 0 && phys == phys.page_start() && right,
            || format!("must not map {range:x?} to {phys:x?} as {entry:x?}"),
        );
    }
}

impl Backend for Iommu {
    type Lock<T: Send> = SpinLock<T>;
    type List<T: Send + Sync> = Box<[T]>;
    type Sparse<T: Default + Send + Sync> = SparseTable<T>;
    type Memory = Owned;

    fn lock<T: Send>(value: T) -> SpinLock<T> {
        SpinLock::new(value)
    }

    fn list<T: Send + Sync>(
        len: usize,
        mut item: impl FnMut() -> Result<T, OutOfMemory>,
    ) -> Result<Box<[T]>, OutOfMemory> {
        thread::might_sleep();
        fault::allocate()?;
        (0..len).map(|_| item()).collect()
    }

    fn sparse<T: Default + Send + Sync>(len: u64) -> Result<SparseTable<T>, OutOfMemory> {
        thread::might_sleep();
        fault::allocate()?;
        Ok(SparseTable::new(len))
    }

    fn cpus() -> usize {
        thread::CPUS
    }

    fn cpu(&self) -> usize {
        thread::cpu()
    }

    fn now_ms(&self) -> u32 {
        (self.state().now_us / 1_000) as u32
    }

    fn map(
        &self,
        range: PageRange,
        phys: Phys,
        access: Access,
        target: Target,
    ) -> Result<(), OutOfMemory> {
        self.map_parts(range, phys, access, target, Some(range))
    }

    fn map_pages(&self, range: PageRange, phys: Phys, access: Access) -> Result<(), OutOfMemory> {
        self.map_parts(range, phys, access, Target::Memory, None)
    }

    fn map_runs(
        &self,
        runs: impl Iterator<Item = Run>,
        access: Access,
        target: Target,
    ) -> Result<(), Incomplete> {
        let mut end = 0;

        for (mapped, run) in runs.enumerate() {
            let whole = (!run.divisible).then_some(run.range);

            ensure(end <= run.range.start.0, || {
                format!("{run:x?} is not behind {end:x}")
            });
            end = run.range.end().0;
            self.map_parts(run.range, run.phys, access, target, whole)
                .map_err(|OutOfMemory| Incomplete(mapped))?;
        }
        Ok(())
    }

    fn map_ram(&self, range: PageRange, phys: Phys) -> Result<(), OutOfMemory> {
        let iova = range.start.0 >> PAGE_SHIFT;
        let entry = |n| {
            let large = (iova + n) & !(LARGE - 1);

            Entry {
                page: phys.page() + n,
                access: Access::ReadWrite,
                target: Target::Memory,
                whole: (iova <= large && large + LARGE <= iova + range.pages)
                    .then_some((large, LARGE)),
            }
        };

        thread::might_sleep();
        ensure(
            self.layout.window(range.start) == Window::Premapped
                && self.layout.offset(range.start) == phys.0
                && range.end().0 - 1 <= self.layout.last(Window::Premapped)
                && (0..range.pages).all(|n| self.is_ram(phys.page() + n)),
            || format!("must not map {range:x?} to {phys:x?} as RAM"),
        );
        fault::allocate()?;
        self.state().map(range, entry);
        self.count(Counter::PteUpdates, range.pages);
        Ok(())
    }

    fn unmap(&self, ranges: impl Iterator<Item = PageRange>) {
        for range in ranges {
            self.state().unmap(range);
            self.count(Counter::PteUpdates, range.pages);
        }
    }

    fn unmap_flush(&self, ranges: impl Iterator<Item = PageRange>) {
        let mut cleared = Vec::new();

        self.unmap(ranges.inspect(|range| cleared.push(*range)));
        ensure(!cleared.is_empty(), || {
            "invalidates what was not even mapped".into()
        });

        let mut state = self.state();

        for page in cleared.into_iter().flat_map(pages) {
            state.stale.remove(&page);
        }
        state.calls.flush += 1;
        drop(state);
        self.count(Counter::Flushes, 1);
    }

    fn flush(&self) {
        let begin = self.state().unmaps;
        let hook = self.during_flush.lock().unwrap().take();

        if let Some(hook) = hook {
            hook(self);
        }

        let mut state = self.state();

        state.stale.retain(|_, (_, unmap)| *unmap > begin);
        state.calls.flush += 1;
        drop(state);
        self.count(Counter::Flushes, 1);
    }

    fn alloc_iova(&self, arena: Arena, pages: u64, limit: u64) -> Option<Iova> {
        ensure(pages != 0, || "wants no IOVA space".into());
        fault::allocate().ok()?;

        let mut state = self.state();
        let (window, first) = match arena {
            // As everywhere, page 0 is nobody's.
            Arena::Low => (Window::Low, 1),
            Arena::Exact => (Window::Exact, self.layout.base(Window::Exact) >> PAGE_SHIFT),
            Arena::Contiguous => (
                Window::Contiguous,
                self.layout.base(Window::Contiguous) >> PAGE_SHIFT,
            ),
        };
        let mut end = (limit.min(self.layout.last(window)) + 1) >> PAGE_SHIFT;
        let align = pages.next_power_of_two();
        let fit = |first: u64, end: u64| {
            end.checked_sub(pages)
                .map(|start| start & !(align - 1))
                .filter(|&start| start >= first)
        };
        // From the top: what was given back last is taken again first.
        let mut found = None;

        for (&start, allocation) in state.arena(arena).range(..end).rev() {
            found = fit(start + allocation.pages, end);
            if found.is_some() {
                break;
            }
            end = end.min(start);
        }

        if arena == Arena::Exact {
            ensure(
                pages <= BLOCK_PAGES && limit >= self.layout.last(window),
                || format!("wants {pages} pages up to {limit:#x} of the exact window"),
            );
        }

        let Some(start) = found.or_else(|| fit(first, end)) else {
            fault::refuse();
            return None;
        };
        let allocation = Allocation {
            id: state.allocations,
            pages,
        };

        state.allocations += 1;
        state.calls.alloc_iova += 1;
        state.arena_mut(arena).insert(start, allocation);
        Some(Iova(start << PAGE_SHIFT))
    }

    fn free_iova(&self, arena: Arena, range: PageRange) {
        let mut state = self.state();
        match arena {
            Arena::Low | Arena::Contiguous => {
                let old = state
                    .arena_mut(arena)
                    .remove(&(range.start.0 >> PAGE_SHIFT));

                ensure(old.is_some_and(|old| old.pages == range.pages), || {
                    format!("gives back {range:x?} of {arena:?}, which has {old:x?} there")
                });
            }
            Arena::Exact => state.free_exact(range),
        }
        for page in pages(range) {
            let reachable = (state.table.get(&page), state.stale.get(&page));

            ensure(reachable == (None, None), || {
                format!("gives back IOVA page {page:#x}, which leads to {reachable:x?}")
            });
        }
        state.calls.free_iova += 1;
    }

    fn for_each_ram(
        &self,
        f: &mut dyn FnMut(Phys, u64) -> Result<(), OutOfMemory>,
    ) -> Result<(), OutOfMemory> {
        thread::might_sleep();
        self.ram
            .iter()
            .try_for_each(|range| f(Phys(range.start << PAGE_SHIFT), range.end - range.start))
    }

    fn alloc(&self, pages: u64) -> Option<Owned> {
        ensure(pages.is_power_of_two(), || format!("wants {pages} pages"));
        fault::allocate().ok()?;

        let mut state = self.state();
        // What was freed first is used again first.
        let first = (POOL..)
            .step_by(pages as usize)
            .find(|first| {
                state
                    .owned
                    .range(..first + pages)
                    .next_back()
                    .is_none_or(|(start, pages)| start + pages <= *first)
            })
            .expect("numbers do not end");

        state.owned.insert(first, pages);
        Some(Owned {
            phys: Phys(first << PAGE_SHIFT),
            pages,
            state: Arc::downgrade(&self.state),
        })
    }

    fn copy(&self, to: Phys, from: Phys, len: u64) {
        let mut state = self.state();
        let right = match (to.page() >= POOL, from.page() >= POOL) {
            (true, false) => state.owns(to, len),
            (false, true) => state.owns(from, len),
            _ => false,
        };

        ensure(right, || {
            format!("copies {len} bytes from {from:x?} to {to:x?}")
        });
        for n in 0..len {
            let byte = state.byte(from.0 + n);

            state.set_byte(to.0 + n, byte);
        }
    }

    fn synchronize(&self) {
        thread::might_sleep();
        fence(Ordering::SeqCst);
    }

    fn arm_flush_timer(&self, us: u32) {
        let mut state = self.state();
        let due = state.now_us + u64::from(us);

        state.calls.arm += 1;
        state.timer = Some(state.timer.map_or(due, |timer| timer.min(due)));
    }

    fn end_batch_soon(&self) {
        let cpu = self.cpu();
        let mut state = self.state();

        state.calls.end_batch += 1;
        state.batches.insert(cpu);
    }

    fn count(&self, counter: Counter, n: u64) {
        thread::jitter();
        self.counters[self.cpu()][counter.index()].fetch_add(n, Ordering::Relaxed);
    }

    fn sum(&self, counter: Counter) -> u64 {
        thread::jitter();
        (0..thread::CPUS)
            .map(|cpu| self.counter(cpu, counter))
            .fold(0, u64::wrapping_add)
    }
}
