// SPDX-License-Identifier: GPL-2.0

//! `strict`, and how exact mappings are placed.

use dma_map_cache_host::model::sg::SgList;
use dma_map_cache_host::strategy::address::{
    Buffer, Iova, Layout, PageRange, Phys, Window, PAGE_SHIFT, PAGE_SIZE,
};
use dma_map_cache_host::strategy::backend::{Access, Arena, Target};
use dma_map_cache_host::strategy::exact::{
    map_list, mapped_runs, whole, Extent, Place, Unmapped, Use,
};
use dma_map_cache_host::strategy::list::{Joiner, List, SegmentLimits};
use dma_map_cache_host::strategy::Kind;
use proptest::prelude::*;

use crate::machine::{driver, driver_with, iommu, pages, LAST};

/// Places a list in the low window and returns its ranges, as offsets from the first page.
fn place(list: &mut SgList, boundary_mask: u64) -> Vec<(u64, u64)> {
    let (iommu, layout) = iommu(LAST);
    let place = Place {
        arena: Arena::Low,
        limit: layout.last(Window::Low),
        boundary_mask,
    };
    let extent = Extent::of(list.segments());

    let purpose = Use {
        access: Access::Read,
        target: Target::Memory,
        unmapped: Unmapped::Together,
    };

    map_list(&iommu, place, list, extent, purpose).unwrap();

    let (all, pages) = whole(list).unwrap();

    assert_eq!(pages, iommu.calls().pte_updates);
    assert_eq!(
        (extent.segments, extent.pages),
        (list.0.len() as u64, pages)
    );
    assert_eq!(
        iommu.allocations(Arena::Low)[&(all.start.0 >> PAGE_SHIFT)].pages,
        all.pages,
        "what unmap takes for the whole is not what map allocated"
    );
    assert_eq!(
        mapped_runs(list).map(|run| run.pages).sum::<u64>(),
        iommu.calls().pte_updates,
        "the runs to unmap are not what was mapped"
    );
    list.0
        .iter()
        .map(|entry| {
            let range = PageRange::of(entry.segment.unwrap().0, entry.buffer.len);

            ((range.start.0 - all.start.0) >> PAGE_SHIFT, range.pages)
        })
        .collect()
}

#[test]
fn segments_lie_side_by_side() {
    let mut list = SgList::new([pages(0x100, 3), pages(0x200, 1), pages(0x180, 4)]);

    assert_eq!(place(&mut list, u64::MAX), [(0, 3), (3, 1), (4, 4)]);
    assert_eq!(mapped_runs(&mut list).count(), 1);
}

#[test]
fn segments_do_not_cross_a_boundary() {
    // Boundary of 4 pages.
    let mask = 4 * PAGE_SIZE - 1;
    let mut list = SgList::new([
        pages(0x100, 3),
        pages(0x200, 2),
        pages(0x210, 2),
        pages(0x220, 1),
    ]);

    assert_eq!(place(&mut list, mask), [(0, 3), (4, 2), (6, 2), (8, 1)]);
    assert_eq!(mapped_runs(&mut list).count(), 2, "the hole is not mapped");
}

#[test]
fn what_is_longer_than_a_boundary_stays_where_it_is() {
    let mut list = SgList::new([pages(0x100, 1), pages(0x200, 5), pages(0x210, 2)]);

    assert_eq!(
        place(&mut list, 4 * PAGE_SIZE - 1),
        [(0, 1), (1, 5), (6, 2)]
    );
}

#[test]
fn contiguous_segments_are_mapped_by_one_pass() {
    let mut driver = driver(Kind::Strict);
    let segments = vec![pages(0x100, 2), pages(0x102, 3), pages(0x110, 1)];
    let cost = driver.map_list(segments, Access::Read, u64::MAX).unwrap();

    assert_eq!((cost.calls.map, cost.calls.alloc_iova), (2, 1));
}

/// The segments that are left of some, with at most two pages each, that may not cross 4 pages.
fn joined(segments: &[(u64, u64)]) -> Vec<(u64, u64)> {
    let mut joiner = Joiner::new(SegmentLimits {
        max_bytes: 2 * PAGE_SIZE,
        boundary_mask: 4 * PAGE_SIZE - 1,
    });
    let mut joined: Vec<_> = segments
        .iter()
        .filter_map(|&(iova, len)| joiner.push(Iova(iova), len))
        .collect();

    joined.extend(joiner.finish());
    joined
        .into_iter()
        .map(|(Iova(at), len)| (at, len))
        .collect()
}

#[test]
fn neighbours_are_joined_up_to_a_limit() {
    assert_eq!(joined(&[]), []);
    assert_eq!(joined(&[(0x1800, 0x800), (0x2000, 1)]), [(0x1800, 0x801)]);
    // Not side by side.
    assert_eq!(joined(&[(0x1800, 0x700), (0x2000, 1)]).len(), 2);
    // Too long.
    assert_eq!(
        joined(&[(0, 0x1000), (0x1000, 0x1000), (0x2000, 1)]),
        [(0, 0x2000), (0x2000, 1)]
    );
    // Across the boundary.
    assert_eq!(joined(&[(0x3800, 0x800), (0x4000, 1)]).len(), 2);
    // What was too long before stays as it was.
    assert_eq!(
        joined(&[(0, 0x5000), (0x5000, 1)]),
        [(0, 0x5000), (0x5000, 1)]
    );
}

#[test]
fn a_list_of_pages_is_one_segment_for_the_device() {
    let mut driver = driver(Kind::Strict);

    driver
        .map_list(
            (0..16).map(|n| pages(0x100 + 2 * n, 1)).collect(),
            Access::Read,
            u64::MAX,
        )
        .unwrap();
    assert_eq!(driver.segments(0), 1);

    let cost = driver.unmap(0);

    assert_eq!((cost.statistics.unmaps, cost.calls.pte_updates), (16, 16));
}

#[test]
fn a_list_is_unmapped_by_one_invalidation() {
    let mut driver = driver(Kind::Strict);

    driver
        .map_list(
            (0..16).map(|n| pages(0x100 + 3 * n, 2)).collect(),
            Access::Write,
            4 * PAGE_SIZE - 1,
        )
        .unwrap();

    let cost = driver.unmap(0);

    assert_eq!((cost.calls.flush, cost.calls.free_iova), (1, 1));
    assert_eq!(cost.calls.pte_updates, 32);
}

#[test]
fn strict_costs_what_the_page_table_needs() {
    let mut driver = driver(Kind::Strict);
    let buffer = Buffer {
        phys: Phys(0x100_fff),
        len: PAGE_SIZE + 2,
    };
    let map = driver.map(buffer, Access::ReadWrite).unwrap();
    let unmap = driver.unmap(0);

    assert_eq!((map.calls.pte_updates, map.calls.flush), (3, 0));
    assert_eq!((unmap.calls.pte_updates, unmap.calls.flush), (3, 1));
}

/// The device may only do what the direction says: nothing more than is asked for is mapped.
#[test]
fn rights_are_those_of_the_direction() {
    let mut driver = driver(Kind::Strict);

    for access in [Access::Read, Access::Write, Access::ReadWrite] {
        driver.map(pages(0x100, 1), access).unwrap();
    }

    let mut rights: Vec<_> = driver
        .iommu
        .table()
        .into_values()
        .map(|entry| entry.access as u8)
        .collect();

    rights.sort();
    assert_eq!(rights, [0, 1, 2]);
}

/// A narrow device gets addresses that it can send, until there are none left.
#[test]
fn narrow_devices_get_low_addresses() {
    let mut driver = driver_with(LAST, (1 << 24) - 1);
    let mut mapped = 0;

    while driver.map(pages(0x100, 0x200), Access::Read).is_ok() {
        mapped += 1;
    }
    // 16 MiB in pieces of 2 MiB, the first of which has page 0 in it.
    assert_eq!(mapped, 7);
    driver.unmap_all();
    assert!(driver.map(pages(0x100, 0x200), Access::Read).is_ok());
}

/// A device that just cannot reach the last byte of the window of the exact strategies.
#[test]
fn the_exact_window_is_for_devices_that_reach_all_of_it() {
    let layout = Layout::new(LAST).unwrap();
    let last = layout.last(Window::Exact);

    for (limit, arena) in [(last, Arena::Exact), (last - 1, Arena::Low)] {
        let mut driver = driver_with(LAST, limit);

        driver.map(pages(0x100, 1), Access::Read).unwrap();
        assert_eq!(driver.iommu.allocations(arena).len(), 1);
    }
}

proptest! {
    #[test]
    fn no_segment_crosses(
        lens in prop::collection::vec((0..PAGE_SIZE, 1..9 * PAGE_SIZE), 1..20),
        shift in 12..18u32,
    ) {
        let boundary = 1u64 << shift;
        let mut page = 0x100;
        let mut list = SgList::new(lens.into_iter().map(|(offset, len)| {
            let buffer = Buffer { phys: Phys(page * PAGE_SIZE + offset), len };

            // Some contiguous, some not.
            page += buffer.pages() + len % 2;
            buffer
        }));
        let placed = place(&mut list, boundary - 1);
        let mut end = 0;

        for ((at, pages), entry) in placed.into_iter().zip(&list.0) {
            prop_assert!(at >= end, "segments overlap");
            prop_assert!(at - end < boundary >> PAGE_SHIFT, "space is wasted");
            end = at + pages;

            let Iova(first) = entry.segment.unwrap().0;
            let last = first + entry.buffer.len - 1;

            prop_assert_eq!(first % PAGE_SIZE, entry.buffer.phys.0 % PAGE_SIZE);
            if pages <= boundary >> PAGE_SHIFT {
                prop_assert_eq!(first / boundary, last / boundary);
            }
        }
    }
}
