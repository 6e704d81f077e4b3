// SPDX-License-Identifier: GPL-2.0

//! No memory: every allocation of every operation fails once.
//!
//! That a map that failed has left nothing behind is checked by the driver.

use dma_map_cache_host::model::{fault, Driver};
use dma_map_cache_host::strategy::address::Buffer;
use dma_map_cache_host::strategy::backend::{Access, Arena, OutOfMemory, Target};
use dma_map_cache_host::strategy::engine::Reach;
use dma_map_cache_host::strategy::list::SegmentLimits;
use dma_map_cache_host::strategy::Kind;

use crate::machine::{driver, iommu, pages, LAST};

/// Runs `operation` on a new driver with the first allocation failing, then the second, until it
/// needs no more. Returns how often it failed, and how often it got by although an allocation did.
fn fail_nth(kind: Kind, operation: impl Fn(&mut Driver) -> Result<(), OutOfMemory>) -> (u64, u64) {
    let (mut failed, mut survived) = (0, 0);

    for nth in 0.. {
        let mut driver = driver(kind);
        let refusals = fault::refusals();

        fault::fail_nth(Some(nth));
        let result = operation(&mut driver);

        fault::fail_nth(None);
        driver.check();
        match (result, fault::refusals() != refusals) {
            (Ok(()), false) => break,
            (Ok(()), true) => survived += 1,
            (Err(OutOfMemory), true) => failed += 1,
            (Err(OutOfMemory), false) => panic!("fails with all the memory that it wants"),
        }
        driver.unmap_all();
        driver.retire();
    }
    (failed, survived)
}

/// Four runs; the first crosses a leaf of the tables of `cached`.
fn list() -> Vec<Buffer> {
    vec![
        pages(0x1fe, 4),
        pages(0x110, 1),
        pages(0x120, 2),
        pages(0x7fff, 2),
    ]
}

#[test]
fn single() {
    let map = |driver: &mut Driver| driver.map(pages(0x1fe, 4), Access::Write).map(drop);

    // IOVA space and the page table.
    assert_eq!(fail_nth(Kind::Strict, map), (2, 0));
    assert_eq!(fail_nth(Kind::Deferred, map), (2, 0));
    assert_eq!(fail_nth(Kind::Premapped, map), (0, 0));
    // Two leaves, which can be done without, and the page table, once or twice.
    let (failed, survived) = fail_nth(Kind::Cached, map);

    assert!((1..=2).contains(&failed) && survived >= 1);
}

#[test]
fn lists() {
    let map = |driver: &mut Driver| driver.map_list(list(), Access::Read, u64::MAX).map(drop);

    assert_eq!(fail_nth(Kind::Strict, map), (5, 0));
    assert_eq!(fail_nth(Kind::Deferred, map), (5, 0));
    assert_eq!(fail_nth(Kind::Premapped, map), (0, 0));

    let (failed, survived) = fail_nth(Kind::Cached, map);

    assert!(failed >= 4 && survived >= 3, "{failed}, {survived}");
}

#[test]
fn fixed() {
    for kind in Kind::ALL {
        let map = |driver: &mut Driver| {
            driver
                .map_fixed(list(), Access::ReadWrite, Target::Memory)
                .map(drop)
        };

        assert_eq!(fail_nth(kind, map), (5, 0));
    }
}

/// A leaf that cannot be allocated in the middle of a buffer whose first pages are in use already.
#[test]
fn a_buffer_across_leaves_is_given_back() {
    let (failed, survived) = fail_nth(Kind::Cached, |driver| {
        driver.set_budget_pages(0);
        driver.map(pages(0x1fe, 2), Access::Read)?;
        driver.map(pages(0x1fe, 4), Access::Read)?;
        driver.unmap(0);
        driver.unmap(0);
        // Nothing is in use and nothing may be idle.
        let windows = driver.iommu.table().len();

        assert_eq!(windows, 0);
        Ok(())
    });

    assert!(failed >= 2 && survived >= 1, "{failed}, {survived}");
}

#[test]
fn construction() {
    let mut failures = 0;

    loop {
        let (iommu, layout) = iommu(LAST);
        let reach = Reach {
            limit: u64::MAX,
            segment: SegmentLimits::NONE,
            align_mask: 0,
        };

        fault::fail_nth(Some(failures));
        match Driver::new(iommu, layout, reach) {
            Ok(driver) => {
                fault::fail_nth(None);
                assert_eq!(driver.iommu.allocations(Arena::Low).len(), 0);
                break;
            }
            Err(OutOfMemory) => failures += 1,
        }
    }
    // The queues and their list, two tables of pages and the bitmap.
    assert!(failures >= 5);
}
