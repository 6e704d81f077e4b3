// SPDX-License-Identifier: GPL-2.0

//! `dma_map_multi()`: one call for many buffers, which are unmapped in any grouping.

use dma_map_cache_host::model::sg::{Entry, SgList};
use dma_map_cache_host::model::{fault, Iommu};
use dma_map_cache_host::strategy::address::{Buffer, Layout, PageRange, Phys, Window, PAGE_SIZE};
use dma_map_cache_host::strategy::backend::{Access, Arena, Backend, OutOfMemory};
use dma_map_cache_host::strategy::blocks::BLOCK_PAGES;
use dma_map_cache_host::strategy::counter::{Counter, Flow};
use dma_map_cache_host::strategy::engine::Reach;
use dma_map_cache_host::strategy::list::SegmentLimits;
use dma_map_cache_host::strategy::{Engine, Kind};
use proptest::prelude::*;

use crate::machine::{iommu, pages, LAST, RAM};

/// A device.
struct Machine {
    iommu: Iommu,
    engine: Engine<Iommu>,
    layout: Layout,
    reach: Reach,
}

impl Machine {
    fn new(kind: Kind, limit: u64) -> Self {
        let (iommu, layout) = iommu(LAST);
        let engine = Engine::new(layout, iommu.ram_end()).unwrap();
        let reach = Reach {
            limit,
            segment: SegmentLimits::NONE,
            align_mask: 0,
        };

        engine.switch(&iommu, kind).unwrap();
        Self {
            iommu,
            engine,
            layout,
            reach,
        }
    }

    fn map(&self, buffers: Vec<Buffer>) -> Result<Vec<Entry>, OutOfMemory> {
        let mut list = SgList::new(buffers);

        self.engine
            .map_multi(&self.iommu, &mut list.0, Access::ReadWrite, self.reach)?;
        self.check(&list.0);
        Ok(list.0)
    }

    /// Unmaps and returns the number of invalidations.
    fn unmap(&self, buffers: &[Entry]) -> u64 {
        let flushes = self.iommu.calls().flush;

        self.engine.unmap_multi(&self.iommu, buffers);
        self.iommu.calls().flush - flushes
    }

    /// The device finds each buffer.
    fn check(&self, buffers: &[Entry]) {
        let table = self.iommu.table();

        for entry in buffers {
            let iova = entry.segment.expect("mapped").0;

            assert_eq!(iova.0 % PAGE_SIZE, entry.buffer.phys.0 % PAGE_SIZE);
            assert!(iova.0 + entry.buffer.len - 1 <= self.reach.limit);
            for (n, page) in
                dma_map_cache_host::model::iommu::pages(PageRange::of(iova, entry.buffer.len))
                    .enumerate()
            {
                assert_eq!(table[&page].page, entry.buffer.phys.page() + n as u64);
            }
        }
    }

    fn live_pages(&self) -> u64 {
        self.engine.live_pages(&self.iommu)
    }

    /// Pages taken from both arenas.
    fn taken(&self) -> u64 {
        [Arena::Low, Arena::Exact]
            .iter()
            .flat_map(|&arena| self.iommu.allocations(arena).into_values())
            .map(|allocation| allocation.pages)
            .sum()
    }

    fn calls(&self) -> (u64, u64, u64) {
        let calls = self.iommu.calls();

        (calls.map, calls.alloc_iova, calls.flush)
    }
}

/// The strategies; what a pool copies has no place of its own.
fn kinds() -> impl Iterator<Item = Kind> {
    Kind::ALL
        .into_iter()
        .filter(|kind| !matches!(kind, Kind::Pool | Kind::Auto))
}

/// What a driver with a ring maps: not whole pages, not side by side.
fn scattered(n: u64) -> Vec<Buffer> {
    (0..n)
        .map(|i| Buffer {
            phys: Phys((0x100 + 2 * i) * PAGE_SIZE + 0x40),
            len: 0x600,
        })
        .collect()
}

#[test]
fn one_range_one_pass_one_invalidation() {
    let machine = Machine::new(Kind::Strict, u64::MAX);
    let mapped = machine
        .map((0..64).map(|n| pages(0x100 + n, 1)).collect())
        .unwrap();

    assert_eq!(machine.calls(), (1, 1, 0));
    assert_eq!(machine.unmap(&mapped), 1);
    assert_eq!(machine.iommu.calls().unmap, 1);
    assert_eq!((machine.live_pages(), machine.taken()), (0, 0));
}

#[test]
fn scattered_buffers_share_a_range() {
    let machine = Machine::new(Kind::Strict, u64::MAX);
    let mapped = machine.map(scattered(64)).unwrap();

    assert_eq!(machine.calls(), (64, 1, 0));
    assert_eq!(machine.unmap(&mapped), 1);
    assert_eq!(machine.iommu.calls().unmap, 1, "they lie side by side");
    assert_eq!(machine.taken(), 0);
}

#[test]
fn part_of_one_call_and_part_of_another_are_unmapped_by_one_invalidation() {
    let machine = Machine::new(Kind::Strict, u64::MAX);
    let mut mapped = machine.map(scattered(8)).unwrap();

    mapped.extend(machine.map(scattered(8)).unwrap());

    let rest: Vec<_> = mapped.drain(3..11).collect();

    assert_eq!(machine.unmap(&rest), 1);
    machine.check(&mapped);
    assert_eq!(machine.taken(), 8);
    // One by one, as if they had been mapped so.
    for entry in &mapped {
        machine
            .engine
            .unmap(&machine.iommu, entry.segment.unwrap().0, entry.buffer.len);
    }
    assert_eq!((machine.live_pages(), machine.taken()), (0, 0));
}

#[test]
fn more_than_a_block_is_several_ranges() {
    let machine = Machine::new(Kind::Strict, u64::MAX);
    let large = pages(0x100, BLOCK_PAGES + 1);
    let buffers = vec![
        pages(0x7fa0, 0xa0),
        pages(0x100, 0x200),
        large,
        pages(0x100, 1),
        pages(0x180, BLOCK_PAGES - 1),
    ];
    let mapped = machine.map(buffers).unwrap();

    assert_eq!(
        machine.layout.window(mapped[2].segment.unwrap().0),
        Window::Low
    );
    assert_eq!(machine.iommu.calls().alloc_iova, 4);
    assert_eq!(machine.unmap(&mapped), 1);
    assert_eq!((machine.live_pages(), machine.taken()), (0, 0));
}

#[test]
fn narrow_devices_are_served_one_by_one() {
    let machine = Machine::new(Kind::Strict, u64::from(u32::MAX));
    let mapped = machine.map(scattered(8)).unwrap();

    assert_eq!(machine.iommu.calls().alloc_iova, 8);
    assert_eq!(machine.unmap(&mapped[2..6]), 1);
    assert_eq!(machine.unmap(&mapped[..2]), 1);
    assert_eq!(machine.unmap(&mapped[6..]), 1);
    assert_eq!((machine.live_pages(), machine.taken()), (0, 0));
}

#[test]
fn a_hit_costs_nothing() {
    for kind in [Kind::Premapped, Kind::Cached] {
        let machine = Machine::new(kind, u64::MAX);
        let mapped = machine.map(scattered(8)).unwrap();

        assert_eq!(machine.unmap(&mapped), 0);

        let calls = machine.iommu.calls();
        let mapped = machine.map(scattered(8)).unwrap();

        assert_eq!(machine.unmap(&mapped), 0);
        assert_eq!(machine.iommu.calls(), calls, "{kind}");
    }
}

#[test]
fn deferred_flushes_later() {
    let machine = Machine::new(Kind::Deferred, u64::MAX);
    let mapped = machine.map(scattered(8)).unwrap();

    assert_eq!(machine.unmap(&mapped), 0);
    assert_eq!((machine.live_pages(), machine.taken()), (0, 8));
    machine.engine.expire_deferred(&machine.iommu);
    assert_eq!(machine.taken(), 0);
    assert!(machine.iommu.stale().is_empty());
}

/// All are mapped or none, whichever allocation fails.
#[test]
fn no_memory() {
    for kind in kinds() {
        let mut failed = 0;

        for nth in 0.. {
            let machine = Machine::new(kind, u64::MAX);
            let mut buffers = scattered(4);

            buffers.push(pages(0x100, BLOCK_PAGES + 1));
            buffers.extend(scattered(4));
            fault::fail_nth(Some(nth));
            let refusals = fault::refusals();
            let result = machine.map(buffers);

            fault::fail_nth(None);
            if fault::refusals() == refusals {
                machine.unmap(&result.unwrap());
                break;
            }
            match result {
                Ok(mapped) => drop(machine.unmap(&mapped)),
                Err(OutOfMemory) => failed += 1,
            }
            assert_eq!(machine.live_pages(), 0, "{kind}");
            machine.engine.retire(&machine.iommu);
            assert_eq!(machine.taken(), 0, "{kind}");
            assert!(machine.iommu.stale().is_empty(), "{kind}");

            let total = |counter| machine.iommu.total(counter);

            assert_eq!(total(Counter::Maps), total(Counter::Unmaps));
            assert_eq!(
                total(Counter::Maps),
                total(Counter::Hits) + total(Counter::Misses)
            );
        }
        assert_eq!(failed == 0, kind == Kind::Premapped, "{kind}");
    }
}

proptest! {
    /// Any buffers, in any grouping, while the strategy changes.
    #[test]
    fn any_grouping(
        calls in prop::collection::vec(
            (
                prop::sample::select(kinds().collect::<Vec<_>>()),
                prop::collection::vec((0..0x300u64, 0..PAGE_SIZE, 1..4 * PAGE_SIZE), 1..12),
                prop::collection::vec(any::<prop::sample::Index>(), 0..16),
            ),
            1..20,
        ),
        narrow in any::<bool>(),
    ) {
        let limit = if narrow { u64::from(u32::MAX) } else { u64::MAX };
        let machine = Machine::new(Kind::Strict, limit);
        let mut live: Vec<Entry> = Vec::new();

        for (kind, buffers, gone) in calls {
            machine.engine.switch(&machine.iommu, kind).unwrap();

            let buffers = buffers.into_iter().map(|(page, offset, len)| Buffer {
                phys: Phys((RAM[1].start + page) * PAGE_SIZE + offset),
                len,
            });

            live.extend(machine.map(buffers.collect()).unwrap());

            let mut group = Vec::new();

            for index in gone {
                if !live.is_empty() {
                    group.push(live.swap_remove(index.index(live.len())));
                }
            }

            let flushes = machine.unmap(&group);

            // What is evicted from a window whose strategy is not in use comes on top.
            if matches!(kind, Kind::Premapped) && group.iter().all(|entry| {
                machine.layout.window(entry.segment.unwrap().0) == Window::Premapped
            }) {
                prop_assert_eq!(flushes, 0);
            }
            machine.check(&live);
            prop_assert_eq!(
                machine.live_pages(),
                live.iter().map(|entry| entry.buffer.pages()).sum::<u64>()
            );
        }
        machine.unmap(&live);
        machine.engine.retire(&machine.iommu);
        prop_assert_eq!((machine.live_pages(), machine.taken()), (0, 0));
        prop_assert!(machine.iommu.stale().is_empty());
        for flow in Flow::PAGES {
            prop_assert_eq!(machine.iommu.outstanding(flow), 0);
        }
    }
}
