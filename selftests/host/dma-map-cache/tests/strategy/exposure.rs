// SPDX-License-Identifier: GPL-2.0

//! How long pages are exposed, and that none is forgotten.

use dma_map_cache_host::strategy::backend::{Access, Backend};
use dma_map_cache_host::strategy::counter::Flow;
use dma_map_cache_host::strategy::exposure::{kept_pages, Age, Exposure};
use dma_map_cache_host::strategy::Kind;

use crate::machine::{driver, pages, RAM};

#[test]
fn ages_cover_all_durations() {
    let ages: Vec<_> = Age::all().collect();

    assert_eq!(ages.len(), Age::COUNT);
    for (index, age) in ages.iter().enumerate() {
        assert_eq!(age.index(), index);
    }
    for ms in [0, 1, 2, 3, 4, 1000, 4095, 4096, u32::MAX] {
        let age = Age::of_ms(ms);

        assert!(u64::from(ms) <= age.last_ms());
        assert!(age.index() == 0 || u64::from(ms) > ages[age.index() - 1].last_ms());
    }
}

#[test]
fn percentiles_are_those_of_pages() {
    let mut exposure = Exposure {
        pages: [0; Age::COUNT],
    };

    assert_eq!(exposure.percentile_ms(50), 0);
    exposure.pages[0] = 98;
    exposure.pages[5] = 1;
    exposure.pages[9] = 1;
    assert_eq!(exposure.percentile_ms(50), 1);
    assert_eq!(exposure.percentile_ms(98), 1);
    assert_eq!(exposure.percentile_ms(99), 63);
    assert_eq!(exposure.percentile_ms(100), 1023);
}

/// Maps and unmaps pages, and lets time pass.
fn expose(kind: Kind, us: u64) -> (u64, Exposure) {
    let mut driver = driver(kind);

    driver.map(pages(0x102, 3), Access::Write).unwrap();
    driver.map(pages(0x109, 1), Access::Read).unwrap();
    driver.unmap_all();

    let exposed = driver.engine.exposed_pages(&*driver.iommu);

    driver.advance(us);
    driver.switch(Kind::Strict).unwrap();
    driver.settle();
    assert_eq!(driver.engine.exposed_pages(&*driver.iommu), 0);
    (exposed, Exposure::of(&*driver.iommu))
}

#[test]
fn nothing_is_exposed_by_those_that_promise_it() {
    for kind in Kind::ALL.into_iter().filter(|kind| kind.exposes_nothing()) {
        let (exposed, exposure) = expose(kind, 50_000);

        assert_eq!((exposed, exposure.pages), (0, [0; Age::COUNT]), "{kind}");
    }
}

#[test]
fn exposure_lasts_until_it_is_withdrawn() {
    // `deferred` flushes after 10 ms, long before the switch.
    for (kind, age) in [
        (Kind::Contiguous, Age::of_ms(0)),
        (Kind::Deferred, Age::of_ms(10)),
        (Kind::Cached, Age::of_ms(50)),
        (Kind::Persistent, Age::of_ms(50)),
    ] {
        let (exposed, exposure) = expose(kind, 50_000);

        assert_eq!(exposed, 4, "{kind}");
        assert_eq!(exposure.pages[age.index()], 4, "{kind}");
        assert_eq!(exposure.pages.iter().sum::<u64>(), 4, "{kind}");
    }
}

#[test]
fn exposure_ends_with_the_next_use() {
    let mut driver = driver(Kind::Cached);

    for _ in 0..10 {
        driver.map(pages(0x102, 1), Access::Write).unwrap();
        driver.unmap_all();
        driver.advance(100_000);
    }

    let exposure = Exposure::of(&*driver.iommu);

    assert_eq!(exposure.pages[Age::of_ms(100).index()], 9);
    assert_eq!(kept_pages(&*driver.iommu), 1);
    assert_eq!(driver.iommu.outstanding(Flow::Idle), 1);
}

#[test]
fn premapped_exposes_all_of_ram() {
    let mut driver = driver(Kind::Premapped);
    let ram: u64 = RAM.iter().map(|range| range.end - range.start).sum();

    assert_eq!(driver.engine.exposed_pages(&*driver.iommu), ram);
    driver.map(pages(0x102, 3), Access::Write).unwrap();
    assert_eq!(driver.engine.exposed_pages(&*driver.iommu), ram - 3);
    driver.unmap_all();
}
