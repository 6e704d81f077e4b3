// SPDX-License-Identifier: GPL-2.0

//! Pages that their owner keeps for long: `dma_retain()`.

use dma_map_cache_host::model::sg::{Entry, SgList};
use dma_map_cache_host::model::{fault, Iommu};
use dma_map_cache_host::strategy::address::{Buffer, Layout, Window, PAGE_SHIFT, PAGE_SIZE};
use dma_map_cache_host::strategy::backend::{Access, Backend};
use dma_map_cache_host::strategy::counted::NotRetained;
use dma_map_cache_host::strategy::counter::Counter;
use dma_map_cache_host::strategy::engine::Reach;
use dma_map_cache_host::strategy::list::SegmentLimits;
use dma_map_cache_host::strategy::{Engine, Kind};

use crate::machine::{iommu, pages, LAST};

const REACH: Reach = Reach {
    limit: u64::MAX,
    segment: SegmentLimits::NONE,
    align_mask: 0,
};

/// A device.
struct Machine {
    iommu: Iommu,
    engine: Engine<Iommu>,
    layout: Layout,
}

impl Machine {
    fn new(kind: Kind) -> Self {
        let (iommu, layout) = iommu(LAST);
        let engine = Engine::new(layout, iommu.ram_end()).unwrap();

        engine.switch(&iommu, kind).unwrap();
        Self {
            iommu,
            engine,
            layout,
        }
    }

    fn retain(&self, buffers: &[Buffer], access: Access) -> Result<(), NotRetained> {
        let list = SgList::new(buffers.iter().copied());

        self.engine.retain(&self.iommu, &list.0, access, REACH)
    }

    fn release(&self, buffers: &[Buffer], access: Access) {
        let list = SgList::new(buffers.iter().copied());

        self.engine.release_retained(&self.iommu, &list.0, access);
    }

    /// Pages of the windows at a constant offset that the device can reach.
    fn reachable(&self) -> usize {
        self.iommu
            .table()
            .keys()
            .chain(self.iommu.stale().keys())
            .filter(|&&page| {
                let iova = dma_map_cache_host::strategy::address::Iova(page << PAGE_SHIFT);

                matches!(
                    self.layout.window(iova),
                    Window::CachedWrite | Window::CachedRead
                )
            })
            .count()
    }

    /// Maps and unmaps by all calls there are, and returns the number of misses.
    fn misses(&self, buffers: &[Buffer], access: Access) -> u64 {
        let before = self.iommu.sum(Counter::Misses);
        let updates = self.iommu.calls().pte_updates;

        for &buffer in buffers {
            let iova = self.engine.map(&self.iommu, buffer, access, REACH).unwrap();

            self.engine.unmap(&self.iommu, iova, buffer.len);
        }

        let mut list = SgList::new(buffers.iter().copied());

        self.engine
            .map_list(&self.iommu, &mut list, access, REACH)
            .unwrap();
        self.engine.unmap_list(&self.iommu, &mut list);

        let mut multi = SgList::new(buffers.iter().copied()).0;

        self.engine
            .map_multi(&self.iommu, &mut multi, access, REACH)
            .unwrap();
        self.engine.unmap_multi(&self.iommu, &multi);

        let misses = self.iommu.sum(Counter::Misses) - before;

        assert_eq!(misses == 0, self.iommu.calls().pte_updates == updates);
        misses
    }
}

/// The strategies; what a pool copies is none of retention's business.
fn kinds() -> impl Iterator<Item = Kind> {
    Kind::ALL
        .into_iter()
        .filter(|kind| !matches!(kind, Kind::Pool | Kind::Auto))
}

fn buffers() -> [Buffer; 3] {
    [pages(0x100, 1), pages(0x1fe, 4), pages(0x7fff, 2)]
}

#[test]
fn a_map_of_what_is_retained_is_a_hit() {
    for kind in kinds() {
        let machine = Machine::new(kind);

        machine.retain(&buffers(), Access::ReadWrite).unwrap();
        assert_eq!(machine.engine.counted.retained_pages(), 7);
        assert_eq!(machine.engine.live_pages(&machine.iommu), 0, "{kind}");
        for access in [Access::ReadWrite, Access::Write, Access::Read] {
            assert_eq!(machine.misses(&buffers(), access), 0, "{kind} {access:?}");
        }

        // Nobody else profits.
        if matches!(kind, Kind::Strict | Kind::Deferred) {
            assert_eq!(machine.misses(&[pages(0x110, 1)], Access::Read), 3);
        }

        machine.release(&buffers(), Access::ReadWrite);
        assert_eq!(machine.engine.counted.retained_pages(), 0);
        if kind != Kind::Premapped {
            machine.engine.retire(&machine.iommu);
        }
        assert_eq!(machine.reachable(), 0, "{kind}");
    }
}

/// Nothing can be reached when the call returns.
#[test]
fn released_pages_are_withdrawn_with_a_flush() {
    for kind in kinds() {
        let machine = Machine::new(kind);

        machine.retain(&buffers(), Access::Read).unwrap();
        assert_eq!(machine.reachable(), 7);
        machine.release(&buffers()[..1], Access::Read);
        assert_eq!(machine.reachable(), 6, "{kind}");
        machine.release(&buffers()[1..], Access::Read);
        assert_eq!(machine.reachable(), 0, "{kind}");
    }
}

#[test]
fn what_is_mapped_is_withdrawn_when_it_is_unmapped() {
    let machine = Machine::new(Kind::Strict);
    let [buffer, ..] = buffers();

    machine.retain(&[buffer], Access::ReadWrite).unwrap();

    let iova = machine
        .engine
        .map(&machine.iommu, buffer, Access::Write, REACH)
        .unwrap();

    machine.release(&[buffer], Access::ReadWrite);
    assert_eq!(machine.reachable(), 1);
    // It is nobody's any more, so nobody else may share it.
    assert_eq!(machine.misses(&[buffer], Access::ReadWrite), 3);
    machine.engine.unmap(&machine.iommu, iova, buffer.len);
    assert_eq!(machine.reachable(), 0);
    assert!(machine.iommu.stale().is_empty());
}

#[test]
fn a_page_may_have_several_owners_but_not_any_number() {
    let machine = Machine::new(Kind::Strict);
    let [buffer, ..] = buffers();

    for _ in 0..31 {
        machine.retain(&[buffer], Access::Write).unwrap();
    }
    assert_eq!(
        machine.retain(&[buffer], Access::Write),
        Err(NotRetained::Busy)
    );
    assert_eq!(machine.engine.counted.retained_pages(), 31);
    for _ in 0..30 {
        machine.release(&[buffer], Access::Write);
    }
    assert_eq!(machine.misses(&[buffer], Access::Write), 0);
    machine.release(&[buffer], Access::Write);
    assert_eq!(machine.reachable(), 0);
    // Once too often.
    machine.release(&[buffer], Access::Write);
    assert_eq!(machine.engine.counted.retained_pages(), 0);
    assert_eq!(machine.misses(&[buffer], Access::Write), 3);
}

/// The device may not do more than its owner has said.
#[test]
fn rights_are_those_of_the_owner() {
    let machine = Machine::new(Kind::Strict);

    machine.retain(&buffers(), Access::Read).unwrap();
    assert_eq!(machine.misses(&buffers(), Access::Read), 0);
    assert_eq!(machine.misses(&buffers(), Access::Write), 9);
}

#[test]
fn the_budget() {
    let machine = Machine::new(Kind::Cached);
    let budget = &machine.engine.retained.budget_bytes;

    budget.set(6 * PAGE_SIZE).unwrap();
    assert_eq!(
        machine.retain(&buffers(), Access::Write),
        Err(NotRetained::OverBudget)
    );
    assert_eq!(machine.reachable(), 0);
    budget.set(7 * PAGE_SIZE).unwrap();
    machine.retain(&buffers(), Access::Write).unwrap();
    assert_eq!(
        machine.retain(&buffers()[..1], Access::Write),
        Err(NotRetained::OverBudget)
    );
    budget.set(0).unwrap();
    assert_eq!(machine.misses(&buffers(), Access::Write), 0);
}

#[test]
fn others_retain_nothing() {
    let (iommu, layout) = iommu(LAST);
    let mut engine = Engine::new(layout, iommu.ram_end()).unwrap();
    let list = SgList::new(buffers()).0;
    let narrow = Reach {
        limit: u64::from(u32::MAX),
        ..REACH
    };

    assert_eq!(
        engine.retain(&iommu, &list, Access::Read, narrow),
        Err(NotRetained::OutOfReach)
    );
    engine.distrust();
    assert_eq!(
        engine.retain(&iommu, &list, Access::Read, REACH),
        Err(NotRetained::Distrusted)
    );
    assert!(iommu.table().is_empty());
}

/// All or nothing, whichever allocation fails.
#[test]
fn no_memory() {
    for kind in kinds() {
        for nth in 0.. {
            let machine = Machine::new(kind);
            let refusals = fault::refusals();

            fault::fail_nth(Some(nth));
            let result = machine.retain(&buffers(), Access::ReadWrite);

            fault::fail_nth(None);
            if fault::refusals() == refusals {
                result.unwrap();
                break;
            }
            // It can do without some, at the second try.
            if result.is_ok() {
                machine.release(&buffers(), Access::ReadWrite);
            }
            assert_eq!(machine.engine.counted.retained_pages(), 0);
            assert_eq!(machine.engine.live_pages(&machine.iommu), 0);
            machine.engine.retire(&machine.iommu);
            assert_eq!(machine.reachable(), 0, "{kind}");
        }
    }
}

/// Some of a batch are retained.
#[test]
fn mixed() {
    let machine = Machine::new(Kind::Strict);
    let retained = [pages(0x102, 1), pages(0x105, 1)];
    let mut batch: Vec<Entry> = SgList::new((0..8).map(|n| pages(0x100 + n, 1))).0;

    machine.retain(&retained, Access::ReadWrite).unwrap();

    let calls = machine.iommu.calls();

    machine
        .engine
        .map_multi(&machine.iommu, &mut batch, Access::Write, REACH)
        .unwrap();
    assert_eq!(machine.iommu.calls().map - calls.map, 3);
    assert_eq!(machine.iommu.calls().pte_updates - calls.pte_updates, 6);

    let flushes = machine.iommu.calls().flush;

    machine.engine.unmap_multi(&machine.iommu, &batch);
    assert_eq!(machine.iommu.calls().flush - flushes, 1);
    assert_eq!(machine.reachable(), 2);
}
