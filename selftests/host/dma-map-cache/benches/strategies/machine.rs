// SPDX-License-Identifier: GPL-2.0

//! A machine that does nothing, fast.

use std::mem::size_of;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, OnceLock, PoisonError};

use crate::strategy::address::{Iova, PageRange, Phys, PAGE_SHIFT, PAGE_SIZE};
use crate::strategy::backend::{
    Access, Arena, Backend, Incomplete, Lock, Memory, OutOfMemory, Run, Sparse, Target,
};
use crate::strategy::counter::Counter;

/// Pages of RAM, from page 0 on.
pub const RAM_PAGES: u64 = 1 << 20;

/// A lock that nobody fights for.
pub struct FreeLock<T>(Mutex<T>);

impl<T: Send> Lock<T> for FreeLock<T> {
    fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A sparse table as the kernel module has it.
pub struct Table<T>(Box<[OnceLock<Box<[T]>>]>);

impl<T> Table<T> {
    const PER_LEAF: usize = PAGE_SIZE as usize / size_of::<T>();
}

impl<T: Default + Send + Sync> Sparse<T> for Table<T> {
    #[inline(always)]
    fn get(&self, index: u64) -> Option<&T> {
        self.0
            .get(index as usize / Self::PER_LEAF)?
            .get()?
            .get(index as usize % Self::PER_LEAF)
    }

    #[inline(always)]
    fn run(&self, first: u64, len: u64) -> Option<&[T]> {
        let leaf = self.0.get(first as usize / Self::PER_LEAF)?.get()?;
        let start = first as usize % Self::PER_LEAF;

        leaf.get(start..start + len as usize)
    }

    fn get_or_alloc(&self, index: u64) -> Result<&T, OutOfMemory> {
        self.0
            .get(index as usize / Self::PER_LEAF)
            .ok_or(OutOfMemory)?
            .get_or_init(|| (0..Self::PER_LEAF).map(|_| T::default()).collect())
            .get(index as usize % Self::PER_LEAF)
            .ok_or(OutOfMemory)
    }

    fn leaves(&self) -> usize {
        self.0.len()
    }

    fn leaf(&self, leaf: usize) -> Option<(u64, &[T])> {
        Some(((leaf * Self::PER_LEAF) as u64, self.0.get(leaf)?.get()?))
    }
}

/// Memory that nobody looks at.
pub struct Nothing;

impl Memory for Nothing {
    fn phys(&self) -> Phys {
        Phys(0)
    }
}

/// IOVA space: what was given back, by log2 of its size, and what was never taken.
#[derive(Default)]
struct Space {
    free: [Vec<Iova>; 16],
    next: u64,
}

/// One CPU, RAM, and nothing between the device and it.
pub struct Machine {
    counters: [AtomicU64; Counter::COUNT],
    spaces: [Mutex<Space>; 2],
}

impl Machine {
    pub fn new() -> Self {
        Self {
            counters: [const { AtomicU64::new(0) }; Counter::COUNT],
            spaces: Default::default(),
        }
    }

    pub fn ram_end(&self) -> Phys {
        Phys(RAM_PAGES << PAGE_SHIFT)
    }

    fn space<R>(&self, arena: Arena, f: impl FnOnce(&mut Space) -> R) -> R {
        f(&mut self.spaces[arena as usize]
            .lock()
            .unwrap_or_else(PoisonError::into_inner))
    }
}

impl Backend for Machine {
    type Lock<T: Send> = FreeLock<T>;
    type List<T: Send + Sync> = Box<[T]>;
    type Sparse<T: Default + Send + Sync> = Table<T>;
    type Memory = Nothing;

    fn lock<T: Send>(value: T) -> FreeLock<T> {
        FreeLock(Mutex::new(value))
    }

    fn list<T: Send + Sync>(
        len: usize,
        mut item: impl FnMut() -> Result<T, OutOfMemory>,
    ) -> Result<Box<[T]>, OutOfMemory> {
        (0..len).map(|_| item()).collect()
    }

    fn sparse<T: Default + Send + Sync>(len: u64) -> Result<Table<T>, OutOfMemory> {
        let leaves = (len as usize).div_ceil(Table::<T>::PER_LEAF);

        Ok(Table((0..leaves).map(|_| OnceLock::new()).collect()))
    }

    fn cpus() -> usize {
        1
    }

    #[inline(always)]
    fn cpu(&self) -> usize {
        0
    }

    #[inline(always)]
    fn now_ms(&self) -> u32 {
        0
    }

    fn map(&self, _: PageRange, _: Phys, _: Access, _: Target) -> Result<(), OutOfMemory> {
        Ok(())
    }

    fn map_pages(&self, _: PageRange, _: Phys, _: Access) -> Result<(), OutOfMemory> {
        Ok(())
    }

    fn map_runs(
        &self,
        runs: impl Iterator<Item = Run>,
        _: Access,
        _: Target,
    ) -> Result<(), Incomplete> {
        runs.for_each(drop);
        Ok(())
    }

    fn map_ram(&self, _: PageRange, _: Phys) -> Result<(), OutOfMemory> {
        Ok(())
    }

    fn unmap(&self, ranges: impl Iterator<Item = PageRange>) {
        ranges.for_each(drop);
    }

    fn unmap_flush(&self, ranges: impl Iterator<Item = PageRange>) {
        ranges.for_each(drop);
    }

    fn flush(&self) {}

    fn alloc_iova(&self, arena: Arena, pages: u64, _: u64) -> Option<Iova> {
        let order = pages.next_power_of_two().ilog2() as usize;
        let base = 1 << 44;

        self.space(arena, |space| {
            space.free[order].pop().or_else(|| {
                let start = space.next.next_multiple_of(1 << order);

                space.next = start + (1 << order);
                Some(Iova(base * arena as u64 + (start << PAGE_SHIFT)))
            })
        })
    }

    fn free_iova(&self, arena: Arena, range: PageRange) {
        let order = range.pages.next_power_of_two().ilog2() as usize;

        self.space(arena, |space| space.free[order].push(range.start));
    }

    fn for_each_ram(
        &self,
        f: &mut dyn FnMut(Phys, u64) -> Result<(), OutOfMemory>,
    ) -> Result<(), OutOfMemory> {
        f(Phys(0), RAM_PAGES)
    }

    fn alloc(&self, _: u64) -> Option<Nothing> {
        Some(Nothing)
    }

    #[inline(always)]
    fn copy(&self, _: Phys, _: Phys, _: u64) {}

    fn synchronize(&self) {}

    fn arm_flush_timer(&self, _: u32) {}

    fn end_batch_soon(&self) {}

    /// As on a CPU of one's own: no locked instruction.
    #[inline(always)]
    fn count(&self, counter: Counter, n: u64) {
        let counter = &self.counters[counter.index()];

        counter.store(counter.load(Relaxed).wrapping_add(n), Relaxed);
    }

    fn sum(&self, counter: Counter) -> u64 {
        self.counters[counter.index()].load(Relaxed)
    }
}
