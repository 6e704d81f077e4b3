// SPDX-License-Identifier: GPL-2.0

//! `premapped`: what is mapped, and how it goes away.

use dma_map_cache_host::model::fault;
use dma_map_cache_host::strategy::address::{Window, PAGE_SHIFT};
use dma_map_cache_host::strategy::backend::Access;
use dma_map_cache_host::strategy::Kind;

use crate::machine::{driver, driver_with, pages, LAST, RAM};

#[test]
fn a_map_costs_nothing() {
    let mut driver = driver(Kind::Premapped);
    let calls = driver.iommu.calls();

    for access in [Access::Read, Access::Write, Access::ReadWrite] {
        driver.map(pages(0x100, 0x340), access).unwrap();
    }
    driver.unmap_all();
    assert_eq!(driver.iommu.calls(), calls);
    assert_eq!(driver.statistics().hits, 3);
}

/// Around every place where a word of the bitmap or a range of RAM begins or ends. That only RAM is
/// served from the window is checked with each map.
#[test]
fn all_of_ram_and_nothing_else_is_served() {
    let mut driver = driver(Kind::Premapped);
    let (mut served, mut fallen_back) = (0, 0);

    for first in (0x90..0x108).chain(0x430..0x448).chain(0x8050..0x8068) {
        for n in (1..20).chain([63, 64, 65, 66, 127, 128, 129, 192]) {
            let cost = driver.map(pages(first, n), Access::Read).unwrap();
            let all = (first..first + n).all(|page| RAM.iter().any(|ram| ram.contains(&page)));

            assert_eq!(cost.statistics.hits == 1, all, "{n} pages from {first:#x}");
            served += cost.statistics.hits;
            fallen_back += cost.statistics.fallbacks;
            driver.unmap(0);
        }
    }
    assert!(served > 100 && fallen_back > 100);
}

#[test]
fn ram_beyond_the_window_is_left_to_the_fallback() {
    let mut driver = driver_with((1 << 35) - 1, u64::MAX);

    driver.switch(Kind::Premapped).unwrap();
    let cost = driver.map(pages(RAM[3].start, 1), Access::Read).unwrap();

    assert_eq!(cost.statistics.fallbacks, 1);
}

#[test]
fn the_limit_of_the_device_holds() {
    let mut driver = driver(Kind::Premapped);
    let last = ((Window::Premapped as u64) << 44) + (0x103 << PAGE_SHIFT) - 1;

    for n in [1, 3] {
        for (limit, fallbacks) in [(last, 0), (last - 1, 1), (last - 4096, 1)] {
            driver.set_limit(limit);
            let cost = driver.map(pages(0x103 - n, n), Access::Read).unwrap();

            assert_eq!(cost.statistics.fallbacks, fallbacks, "limit {limit:#x}");
            driver.unmap(0);
        }
    }
}

/// Ranges of RAM are unmapped as they were mapped, whatever the bitmap looks like in between; a
/// part of a large page would panic in the model.
#[test]
fn withdrawn_in_long_runs_by_one_flush() {
    let mut driver = driver(Kind::Premapped);
    let before = driver.iommu.calls();

    driver.switch(Kind::Strict).unwrap();

    let after = driver.iommu.calls();

    assert_eq!(after.unmap - before.unmap, RAM.len() as u64);
    assert_eq!(after.flush - before.flush, 1);
}

#[test]
fn stays_while_it_is_used() {
    let mut driver = driver(Kind::Premapped);

    driver.map(pages(0x100, 1), Access::Read).unwrap();
    driver.switch(Kind::Strict).unwrap();
    driver.settle();
    assert!(!driver.iommu.table().is_empty());

    // Back again: nothing has to be mapped a second time.
    let calls = driver.iommu.calls();

    driver.switch(Kind::Premapped).unwrap();
    assert_eq!(driver.iommu.calls(), calls);

    driver.switch(Kind::Cached).unwrap();
    driver.unmap(0);
    driver.settle();
    assert!(driver.iommu.table().is_empty());
}

/// Fails to start at each allocation in turn; then it starts. That nothing is left behind is
/// checked with each switch.
#[test]
fn a_failed_start_leaves_the_old_strategy() {
    let mut driver = driver_with(LAST, u64::MAX);
    let mut failures = 0;

    while {
        fault::fail_nth(Some(failures));
        driver.switch(Kind::Premapped).is_err()
    } {
        assert_eq!(driver.engine.current(), Kind::Strict);
        assert!(driver.iommu.table().is_empty());
        assert!(driver.iommu.stale().is_empty());
        failures += 1;
    }
    fault::fail_nth(None);
    // Each range of RAM, and each leaf of the bitmap.
    assert!(failures >= RAM.len() as u64);
    assert_eq!(driver.engine.current(), Kind::Premapped);
}
