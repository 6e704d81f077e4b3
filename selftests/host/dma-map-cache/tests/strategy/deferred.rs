// SPDX-License-Identifier: GPL-2.0

//! `deferred`: when it flushes, and what it gives back.

use std::sync::Arc;

use dma_map_cache_host::model::{thread, Driver};
use dma_map_cache_host::strategy::address::{Iova, PageRange, Window};
use dma_map_cache_host::strategy::backend::{Access, Arena, Backend, Target};
use dma_map_cache_host::strategy::engine::Reach;
use dma_map_cache_host::strategy::list::SegmentLimits;
use dma_map_cache_host::strategy::Kind;

use crate::machine::{driver, pages};

const REACH: Reach = Reach {
    limit: u64::MAX,
    segment: SegmentLimits::NONE,
    align_mask: 0,
};

fn deferred(max_unmaps: u64, max_us: u64) -> Driver {
    let mut driver = driver(Kind::Deferred);

    thread::set_cpu(0);
    driver.set_deferred(max_unmaps, max_us);
    driver
}

fn map_unmap(driver: &mut Driver, n: usize) -> u64 {
    (0..n)
        .map(|_| {
            driver.map(pages(0x100, 2), Access::Read).unwrap();
            driver.unmap(driver.live() - 1).calls.flush
        })
        .sum()
}

#[test]
fn one_flush_per_so_many_unmaps() {
    for max_unmaps in [1, 2, 7, 256, 1024] {
        let mut driver = deferred(max_unmaps, 10_000);

        assert_eq!(map_unmap(&mut driver, 2 * max_unmaps as usize - 1), 1);
        assert_eq!(map_unmap(&mut driver, 1), 1);
        assert_eq!(driver.iommu.allocations(Arena::Exact).len(), 0);
    }
}

#[test]
fn a_list_is_one_unmap() {
    let mut driver = deferred(4, 10_000);
    let mut flushes = 0;

    for _ in 0..8 {
        let list = (0..20).map(|n| pages(0x100 + 2 * n, 1)).collect();

        driver.map_list(list, Access::Write, u64::MAX).unwrap();
        flushes += driver.unmap(0).calls.flush;
    }
    assert_eq!(flushes, 2);
}

#[test]
fn what_a_device_cannot_share_is_not_deferred() {
    let mut driver = deferred(100, 10_000);

    driver
        .map_fixed(vec![pages(0x100, 1)], Access::ReadWrite, Target::Memory)
        .unwrap();
    assert_eq!(driver.unmap(0).calls.flush, 1);
}

#[test]
fn the_timer_ends_the_waiting() {
    let mut driver = deferred(100, 5_000);

    assert_eq!(map_unmap(&mut driver, 10), 0);
    driver.advance(4_999);
    assert_eq!(driver.iommu.allocations(Arena::Exact).len(), 10);

    let flushes = driver.iommu.calls().flush;

    driver.advance(1);
    assert_eq!(driver.iommu.allocations(Arena::Exact).len(), 0);
    assert_eq!(driver.iommu.calls().flush, flushes + 1);
    assert_eq!(driver.iommu.calls().arm, 1);
    driver.advance(1_000_000);
    assert_eq!(driver.iommu.calls().flush, flushes + 1, "nothing to flush");
}

#[test]
fn each_cpu_has_its_queue_and_all_share_the_flush_of_the_timer() {
    let mut driver = deferred(4, 5_000);

    for cpu in 0..thread::CPUS {
        thread::set_cpu(cpu);
        assert_eq!(map_unmap(&mut driver, 3), 0);
    }
    assert_eq!(driver.iommu.allocations(Arena::Exact).len(), 12);
    thread::set_cpu(0);
    assert_eq!(map_unmap(&mut driver, 1), 1);
    assert_eq!(driver.iommu.allocations(Arena::Exact).len(), 9);

    let flushes = driver.iommu.calls().flush;

    driver.advance(5_000);
    assert_eq!(driver.iommu.allocations(Arena::Exact).len(), 0);
    assert_eq!(driver.iommu.calls().flush, flushes + 1);
}

#[test]
fn a_switch_leaves_nothing_queued() {
    for to in [Kind::Strict, Kind::Cached, Kind::Premapped] {
        let mut driver = deferred(100, 1_000_000);

        map_unmap(&mut driver, 10);
        driver.switch(to).unwrap();
        assert_eq!(driver.iommu.allocations(Arena::Exact).len(), 0);
    }
}

/// A CPU that saw `deferred` as the current strategy just before the switch.
#[test]
fn a_late_unmap_is_flushed_at_once() {
    let mut driver = deferred(100, 1_000_000);

    driver.switch(Kind::Strict).unwrap();
    let iova = driver
        .engine
        .map(&*driver.iommu, pages(0x100, 1), Access::Read, REACH)
        .unwrap();
    let range = PageRange::of(iova, 4096);

    driver
        .engine
        .deferred
        .unmap(&*driver.iommu, Arena::Exact, range, std::iter::once(range));
    assert_eq!(driver.iommu.allocations(Arena::Exact).len(), 0);
    assert_eq!(driver.iommu.stale().len(), 0);
}

/// Maps `n` buffers and has all but the first `before` unmapped while the flush of the timer is
/// under way.
fn unmap_during_expiry(max_unmaps: u64, before: usize, n: usize) -> Driver {
    let driver = deferred(max_unmaps, 5_000);
    let iovas: Vec<Iova> = (0..n)
        .map(|_| {
            driver
                .engine
                .map(&*driver.iommu, pages(0x100, 1), Access::Read, REACH)
                .unwrap()
        })
        .collect();
    let engine = Arc::clone(&driver.engine);

    for &iova in &iovas[..before] {
        engine.unmap(&*driver.iommu, iova, 4096);
    }
    driver.iommu.during_flush(move |iommu| {
        for &iova in &iovas[before..] {
            assert_eq!(Window::Exact as u64, iova.0 >> 44);
            engine.unmap(iommu, iova, 4096);
        }
    });
    driver.iommu.set_now_us(driver.iommu.now_us() + 5_000);
    driver.iommu.take_timer().expect("an unmap waits");
    driver.engine.expire_deferred(&driver.iommu);
    driver
}

#[test]
fn an_unmap_during_a_flush_waits_for_the_next() {
    let driver = unmap_during_expiry(100, 3, 5);
    let iommu = &driver.iommu;

    // Two are left, were not given back too early (the model sees to that), and have a timer.
    assert_eq!(iommu.allocations(Arena::Exact).len(), 2);
    assert_eq!(iommu.timer(), Some(iommu.now_us() + 5_000));
    driver.engine.expire_deferred(iommu);
    assert_eq!(iommu.allocations(Arena::Exact).len(), 0);
    assert_eq!(iommu.stale().len(), 0);
}

#[test]
fn a_queue_that_fills_during_a_flush_is_flushed_in_between() {
    // 3 wait, 5 more fill the queue of 8, another 2 are queued after that.
    let driver = unmap_during_expiry(8, 3, 10);
    let iommu = &driver.iommu;

    assert_eq!(iommu.allocations(Arena::Exact).len(), 2);
    assert_eq!(iommu.timer(), Some(iommu.now_us() + 5_000));
    driver.engine.expire_deferred(iommu);
    assert_eq!(iommu.allocations(Arena::Exact).len(), 0);
    assert_eq!(
        iommu.total(dma_map_cache_host::strategy::counter::Counter::Unmaps),
        10
    );
}
