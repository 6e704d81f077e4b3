// SPDX-License-Identifier: GPL-2.0

//! `cached`: what a hit costs, what is kept, and what goes first.

use std::mem::size_of;
use std::sync::Arc;

use dma_map_cache_host::model::iommu::Calls;
use dma_map_cache_host::model::Driver;
use dma_map_cache_host::strategy::address::{Buffer, Phys, Window, PAGE_SHIFT};
use dma_map_cache_host::strategy::backend::{Access, Backend};
use dma_map_cache_host::strategy::counted::Page;
use dma_map_cache_host::strategy::counter::{Counter, Flow};
use dma_map_cache_host::strategy::engine::Reach;
use dma_map_cache_host::strategy::list::SegmentLimits;
use dma_map_cache_host::strategy::Kind;

use crate::machine::{driver, driver_with, pages, LAST, RAM};

fn cached(budget_pages: u64) -> Driver {
    let mut driver = driver(Kind::Cached);

    driver.set_budget_pages(budget_pages);
    driver
}

fn map_unmap(driver: &mut Driver, buffer: Buffer, access: Access) -> (bool, Calls) {
    let before = driver.iommu.calls();
    let hit = driver.map(buffer, access).unwrap().statistics.hits == 1;

    driver.unmap(driver.live() - 1);

    let after = driver.iommu.calls();

    (
        hit,
        Calls {
            map: after.map - before.map,
            unmap: after.unmap - before.unmap,
            flush: after.flush - before.flush,
            pte_updates: after.pte_updates - before.pte_updates,
            ..Calls::default()
        },
    )
}

fn idle(driver: &Driver) -> u64 {
    driver.iommu.outstanding(Flow::Idle)
}

#[test]
fn a_hit_costs_nothing() {
    let mut driver = cached(1 << 20);

    // The states of the pages of the second are in two leaves.
    for first in [0x100, 0x1fe] {
        for access in [Access::Read, Access::Write] {
            let buffer = pages(first, 4);
            let (hit, calls) = map_unmap(&mut driver, buffer, access);

            assert!(!hit);
            assert_eq!((calls.map, calls.pte_updates, calls.flush), (1, 4, 0));
            for _ in 0..1000 {
                assert_eq!(
                    map_unmap(&mut driver, buffer, access),
                    (true, Calls::default())
                );
            }
        }
    }
    // What the device may write, it may read as well.
    assert!(map_unmap(&mut driver, pages(0x1fe, 4), Access::ReadWrite).0);
    assert_eq!(driver.statistics().evictions, 0);
}

#[test]
fn a_hit_costs_nothing_when_the_budget_is_full() {
    let mut driver = cached(64);
    let buffers: Vec<_> = (0..64).map(|n| pages(0x100 + n, 1)).collect();

    for _ in 0..3 {
        for &buffer in &buffers {
            map_unmap(&mut driver, buffer, Access::Read);
        }
    }
    for &buffer in &buffers {
        assert_eq!(
            map_unmap(&mut driver, buffer, Access::Read),
            (true, Calls::default())
        );
    }
}

#[test]
fn what_is_partly_mapped_is_completed() {
    let mut driver = cached(100);

    map_unmap(&mut driver, pages(0x102, 2), Access::Read);
    let cost = driver.map(pages(0x100, 8), Access::Read).unwrap();

    // The two pages before and the four after, by one pass each.
    assert_eq!((cost.calls.map, cost.calls.pte_updates), (2, 6));
    assert_eq!(cost.statistics.misses, 1);
}

#[test]
fn directions_do_not_mix() {
    let mut driver = cached(100);

    map_unmap(&mut driver, pages(0x100, 1), Access::Read);
    assert!(!map_unmap(&mut driver, pages(0x100, 1), Access::Write).0);

    let rights: Vec<_> = [Window::CachedRead, Window::CachedWrite]
        .into_iter()
        .map(|window| driver.iommu.table()[&(((window as u64) << 44 >> PAGE_SHIFT) + 0x100)].access)
        .collect();

    assert_eq!(rights, [Access::Read, Access::ReadWrite]);
}

#[test]
fn a_page_is_kept_until_its_last_user_has_gone() {
    let mut driver = cached(0);
    let half = |n: u64| Buffer {
        phys: Phys((0x100 << PAGE_SHIFT) + 2048 * n),
        len: 2048,
    };

    driver.map(half(0), Access::Write).unwrap();
    driver.map(half(1), Access::Write).unwrap();
    assert_eq!(driver.unmap(0).calls, Calls::default());
    assert_eq!(driver.unmap(0).calls.flush, 1);
    assert!(driver.iommu.table().is_empty());
}

/// Pages far apart: each in a leaf of its own, or alone in its leaf.
#[test]
fn eviction_shares_an_invalidation() {
    let scattered: Vec<_> = RAM[1]
        .clone()
        .chain(RAM[2].clone())
        .chain(RAM[3].clone())
        .step_by(3)
        .collect();

    for budget in [16, 64, 100, 200] {
        let mut driver = cached(budget);
        let mut flushes = 0;

        for round in 0..4 {
            for &page in &scattered {
                let access = [Access::Read, Access::Write][round % 2];

                flushes += map_unmap(&mut driver, pages(page, 1), access).1.flush;
            }
        }

        let evictions = driver.statistics().evictions;

        assert!(evictions > 500, "{evictions}");
        // Each eviction makes room for this many besides the one that was too much.
        assert!(
            flushes * (budget.min(64) + 1) <= evictions,
            "{flushes} flushes, {evictions} evictions"
        );
        assert!(idle(&driver) <= budget);
    }
}

#[test]
fn what_is_used_stays() {
    let mut driver = cached(128);
    let hot: Vec<_> = (0..32).map(|n| pages(0x100 + n, 1)).collect();
    let mut misses = 0;

    for cold in RAM[1].clone().skip(64).chain(RAM[2].clone()) {
        for &buffer in &hot {
            misses += u32::from(!map_unmap(&mut driver, buffer, Access::Read).0);
        }
        map_unmap(&mut driver, pages(cold, 1), Access::Read);
    }
    // Each of them once, and a few that were looked at just before they were used again.
    assert!(
        misses <= 2 * 32,
        "{misses} misses of what is used all the time"
    );
}

#[test]
fn a_smaller_budget_holds_at_once() {
    let mut driver = cached(500);

    for n in 0..400 {
        map_unmap(&mut driver, pages(0x100 + n, 1), Access::Write);
    }
    for budget in [400, 399, 123, 1, 0] {
        driver.set_budget_pages(budget);
        assert!(idle(&driver) <= budget);
    }
    assert!(driver.iommu.table().is_empty());
    driver.set_budget_pages(10);
    map_unmap(&mut driver, pages(0x100, 10), Access::Write);
    assert_eq!(idle(&driver), 10);
}

#[test]
fn what_is_in_use_needs_no_budget() {
    let mut driver = cached(4);

    driver.map(pages(0x100, 300), Access::Read).unwrap();
    assert_eq!(driver.statistics().evictions, 0);
    driver.unmap(0);
    assert!(driver.statistics().evictions >= 296);
}

/// The clock of the model wraps three seconds after it starts.
#[test]
fn age_is_measured_across_the_wrap_of_the_clock() {
    let mut driver = cached(100);

    driver.set_max_age_ms(8_000);
    map_unmap(&mut driver, pages(0x100, 3), Access::Write);
    driver.advance(7_900_000);
    assert_eq!(idle(&driver), 3);
    // Used again: young again.
    assert!(map_unmap(&mut driver, pages(0x101, 1), Access::Write).0);
    driver.advance(2_200_000);
    assert_eq!(idle(&driver), 1);
    driver.advance(8_000_000);
    assert_eq!(idle(&driver), 0);
    assert_eq!(driver.statistics().evictions, 3);
}

#[test]
fn old_pages_share_an_invalidation() {
    let mut driver = cached(1000);

    driver.set_max_age_ms(1_000);
    for page in [0x1, 0x100, 0x300, 0x7fff, 0x8000, 0x10_0000] {
        map_unmap(&mut driver, pages(page, 1), Access::Read);
        map_unmap(&mut driver, pages(page, 1), Access::Write);
    }

    let flushes = driver.iommu.calls().flush;

    driver.advance(1_250_000);
    assert_eq!(idle(&driver), 0);
    assert_eq!(driver.iommu.calls().flush, flushes + 1);
}

#[test]
fn a_switch_withdraws_what_is_idle_at_once_and_what_is_used_at_its_unmap() {
    for to in [Kind::Strict, Kind::Deferred, Kind::Premapped] {
        let mut driver = cached(1000);

        map_unmap(&mut driver, pages(0x100, 100), Access::Read);
        driver.map(pages(0x180, 10), Access::Read).unwrap();
        driver.switch(to).unwrap();
        assert_eq!(idle(&driver), 0);
        assert_eq!(driver.engine.unsettled_pages(&*driver.iommu), 10);

        let cost = driver.unmap(0);

        assert_eq!((cost.calls.flush, cost.calls.pte_updates), (1, 10));
        assert_eq!(driver.engine.unsettled_pages(&*driver.iommu), 0);

        // And it works again after that.
        driver.switch(Kind::Cached).unwrap();
        map_unmap(&mut driver, pages(0x100, 10), Access::Read);
        assert!(map_unmap(&mut driver, pages(0x100, 10), Access::Read).0);
    }
}

/// A page that was evicted is mapped again before the invalidation.
#[test]
fn a_page_can_come_back_during_its_eviction() {
    let mut driver = cached(8);
    let engine = Arc::clone(&driver.engine);
    let reach = Reach {
        limit: u64::MAX,
        segment: SegmentLimits::NONE,
        align_mask: 0,
    };

    map_unmap(&mut driver, pages(0x100, 8), Access::Read);
    driver.iommu.during_flush(move |iommu| {
        let iova = engine
            .map(iommu, pages(0x100, 8), Access::Read, reach)
            .unwrap();

        assert_eq!(iova.0 >> 44, Window::CachedRead as u64);
        assert!((0..8).all(|n| iommu
            .translate(dma_map_cache_host::strategy::address::Iova(
                iova.0 + (n << PAGE_SHIFT)
            ))
            .is_some()));
        engine.unmap(iommu, iova, 8 << PAGE_SHIFT);
    });
    driver.engine.cached.budget_bytes.set(0).unwrap();
    driver.engine.retune(&*driver.iommu);
    assert_eq!(driver.iommu.table().len(), 0);
    assert_eq!(idle(&driver), 0);
    // What is used while nothing is kept is no eviction when it is unmapped.
    assert_eq!(driver.iommu.total(Counter::Evictions), 8);
}

/// A page beyond the table, as RAM that was added later.
#[test]
fn unknown_memory_is_left_to_the_fallback() {
    let mut driver = cached(100);
    let end = RAM[3].end;

    for (buffer, fallbacks) in [
        (pages(end - 1, 1), 0),
        (pages(end - 1, 2), 1),
        (pages(end, 1), 1),
        (pages(1 << 32, 1), 1),
        (pages(1 << 36, 1), 1),
    ] {
        let cost = driver.map(buffer, Access::Read).unwrap();

        assert_eq!(cost.statistics.fallbacks, fallbacks, "{buffer:x?}");
    }
    driver.unmap_all();
}

/// A list is in one kind of window, so that its unmap can tell from the first segment.
#[test]
fn a_list_falls_back_as_a_whole() {
    let mut driver = cached(100);
    let list = vec![pages(0x100, 2), pages(0x200, 2), pages(RAM[3].end, 1)];
    let cost = driver.map_list(list, Access::Read, u64::MAX).unwrap();

    assert_eq!(cost.statistics.fallbacks, 3);
    assert_eq!(idle(&driver), 4);
    driver.unmap(0);
}

/// Segments in any order, also down.
#[test]
fn a_list_may_go_down() {
    let mut driver = cached(100);
    let list: Vec<_> = (0..8).rev().map(|n| pages(0x100 + 2 * n, 1)).collect();

    for hits in [0, 8] {
        let cost = driver.map_list(list.clone(), Access::Write, u64::MAX);

        assert_eq!(cost.unwrap().statistics.hits, hits);
        driver.unmap(0);
    }
}

#[test]
fn narrow_devices_are_left_to_the_fallback() {
    let mut driver = driver_with(LAST, u64::from(u32::MAX));

    driver.switch(Kind::Cached).unwrap();
    let cost = driver.map(pages(0x100, 1), Access::Read).unwrap();

    assert_eq!(cost.statistics.fallbacks, 1);
}

/// A page that is mapped is no use to a device that cannot send its address.
#[test]
fn the_limit_holds_for_hits() {
    let mut driver = cached(100);
    let last = ((Window::CachedRead as u64) << 44) + (0x103 << PAGE_SHIFT) - 1;

    for len in [1, 4096] {
        let buffer = Buffer {
            phys: Phys((0x103 << PAGE_SHIFT) - len),
            len,
        };

        for (limit, fallbacks) in [(u64::MAX, 0), (last, 0), (last - 1, 1), (last - 4096, 1)] {
            driver.set_limit(limit);
            let cost = driver.map(buffer, Access::Read).unwrap();

            assert_eq!(cost.statistics.fallbacks, fallbacks, "limit {limit:#x}");
            driver.unmap(0);
        }
    }
}

#[test]
fn a_page_costs_sixteen_bytes() {
    assert_eq!(2 * size_of::<Page>(), 16);
}
