// SPDX-License-Identifier: GPL-2.0

//! `contiguous`: adjacent maps, one clear and one invalidation for a batch, and chunks that come
//! back.

use dma_map_cache_host::model::Driver;
use dma_map_cache_host::strategy::address::{Iova, PAGE_SIZE};
use dma_map_cache_host::strategy::backend::{Access, Arena};
use dma_map_cache_host::strategy::contiguous::MAX_PAGES;
use dma_map_cache_host::strategy::engine::Reach;
use dma_map_cache_host::strategy::list::SegmentLimits;
use dma_map_cache_host::strategy::Kind;

use crate::machine::{driver, pages};

const REACH: Reach = Reach {
    limit: u64::MAX,
    segment: SegmentLimits::NONE,
    align_mask: 0,
};

/// The addresses of buffers of one page each, scattered in memory.
fn ring(driver: &Driver, n: u64) -> Vec<Iova> {
    (0..n)
        .map(|n| {
            driver
                .engine
                .map(
                    &*driver.iommu,
                    pages(0x100 + 2 * n, 1),
                    Access::Write,
                    REACH,
                )
                .unwrap()
        })
        .collect()
}

/// Lets the interrupts be over in which the driver has unmapped.
fn end_interrupts(driver: &Driver) {
    for cpu in driver.iommu.take_batches() {
        driver.engine.end_batch(&*driver.iommu, cpu);
    }
}

#[test]
fn consecutive_maps_are_adjacent() {
    let driver = driver(Kind::Contiguous);
    let ring = ring(&driver, 64);

    for two in ring.windows(2) {
        assert_eq!(two[1].0, two[0].0 + PAGE_SIZE);
    }
}

/// In the order of the ring, in the reverse order, and in two interleaved halves.
#[test]
fn a_batch_is_cleared_in_runs() {
    for (order, runs) in [
        ((0..64).collect::<Vec<_>>(), 1),
        ((0..64).rev().collect(), 1),
        ((0..32).flat_map(|n| [n, n + 32]).collect(), 64),
    ] {
        let mut driver = driver(Kind::Contiguous);

        driver.set_contiguous(512);

        let ring = ring(&driver, 64);
        let before = driver.iommu.calls();

        for n in order {
            driver.engine.unmap(&*driver.iommu, ring[n], PAGE_SIZE);
        }
        assert_eq!(driver.iommu.calls().flush, before.flush);
        end_interrupts(&driver);

        let after = driver.iommu.calls();

        assert_eq!(after.flush - before.flush, 1);
        assert_eq!(after.unmap - before.unmap, runs);
        assert_eq!(after.pte_updates - before.pte_updates, 64);
        assert_eq!(after.end_batch - before.end_batch, 1);
    }
}

#[test]
fn a_batch_ends_when_it_is_full() {
    let driver = driver(Kind::Contiguous);
    let ring = ring(&driver, 200);
    let flushes = driver.iommu.calls().flush;

    for iova in ring {
        driver.engine.unmap(&*driver.iommu, iova, PAGE_SIZE);
    }
    assert_eq!(driver.iommu.calls().flush, flushes + 200 / 64);
}

#[test]
fn chunks_come_back() {
    let driver = driver(Kind::Contiguous);

    for _ in 0..20 {
        for iova in ring(&driver, 256) {
            driver.engine.unmap(&*driver.iommu, iova, PAGE_SIZE);
        }
        end_interrupts(&driver);
        // The one that is taken from, and the one before it.
        assert!(driver.iommu.allocations(Arena::Contiguous).len() <= 2);
    }
    driver.engine.switch(&driver.iommu, Kind::Strict).unwrap();
    assert!(driver.iommu.allocations(Arena::Contiguous).is_empty());
}

#[test]
fn large_buffers_are_mapped_exactly() {
    let mut driver = driver(Kind::Contiguous);

    driver
        .map(pages(0x100, MAX_PAGES), Access::Read)
        .expect("memory");
    driver
        .map(pages(0x100, MAX_PAGES + 1), Access::Read)
        .expect("memory");
    assert_eq!(driver.iommu.allocations(Arena::Exact).len(), 1);
    driver.unmap_all();
    assert!(driver.iommu.allocations(Arena::Exact).is_empty());
}
