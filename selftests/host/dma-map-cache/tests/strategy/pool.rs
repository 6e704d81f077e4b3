// SPDX-License-Identifier: GPL-2.0

//! `pool`: what the device finds, what the buffer gets, and how much memory that takes.
//!
//! That slots are not shared and that nothing but the pool is mapped is checked with each step of a
//! [`Driver`].

use dma_map_cache_host::model::{fault, thread, Driver, Iommu};
use dma_map_cache_host::strategy::address::{Buffer, Iova, Phys, Window, PAGE_SIZE};
use dma_map_cache_host::strategy::backend::{Access, Backend, OutOfMemory};
use dma_map_cache_host::strategy::counter::Counter;
use dma_map_cache_host::strategy::engine::Reach;
use dma_map_cache_host::strategy::list::SegmentLimits;
use dma_map_cache_host::strategy::pool::CHUNK_BYTES;
use dma_map_cache_host::strategy::{Engine, Kind};

use crate::machine::{driver, iommu, pages, LAST};

const REACH: Reach = Reach {
    limit: u64::MAX,
    segment: SegmentLimits::NONE,
    align_mask: 0,
};

/// A buffer in the middle of a page, whose neighbours are known.
const BUFFER: Buffer = Buffer {
    phys: Phys(0x10_0123),
    len: 100,
};

/// An engine under `pool`, and memory that says where it is. The machine goes first in the end, so
/// what is still mapped then is not missed.
fn machine() -> (Engine<Iommu>, Iommu) {
    let (iommu, layout) = iommu(LAST);
    let engine = Engine::new(layout, iommu.ram_end()).unwrap();
    let known: Vec<_> = (0..2 * PAGE_SIZE).map(|n| (n / 7) as u8).collect();

    engine.switch(&iommu, Kind::Pool).unwrap();
    iommu.write_memory(Phys(0x10_0000), &known);
    (engine, iommu)
}

fn map(engine: &Engine<Iommu>, iommu: &Iommu, buffer: Buffer, access: Access) -> Iova {
    engine.map(iommu, buffer, access, REACH).unwrap()
}

fn content(iommu: &Iommu) -> Vec<u8> {
    iommu.memory(Phys(0x10_0000), 2 * PAGE_SIZE)
}

/// The memory of [`machine`] with `bytes` at an offset into [`BUFFER`].
fn with(mut content: Vec<u8>, at: u64, bytes: &[u8]) -> Vec<u8> {
    let at = (0x123 + at) as usize;

    content[at..at + bytes.len()].copy_from_slice(bytes);
    content
}

/// A device that writes less than the whole buffer leaves the rest as it was, and one that must not
/// write at all leaves all of it.
#[test]
fn unmap_copies_what_the_direction_says() {
    for access in [Access::Read, Access::Write, Access::ReadWrite] {
        let (engine, iommu) = machine();
        let before = content(&iommu);
        let iova = map(&engine, &iommu, BUFFER, access);

        assert_eq!(
            iommu.device_read(iova, 100),
            iommu.memory(BUFFER.phys, BUFFER.len)
        );
        iommu.device_write(Iova(iova.0 + 10), &[0xaa; 20]);
        assert_eq!(content(&iommu), before, "copied back too early");
        engine.unmap(&iommu, iova, BUFFER.len);

        let copied = match access {
            Access::Read => 100,
            _ => 200,
        };

        assert_eq!(
            content(&iommu),
            match access {
                Access::Read => before,
                _ => with(before, 10, &[0xaa; 20]),
            }
        );
        assert_eq!(iommu.total(Counter::CopiedBytes), copied);
    }
}

/// What is around a buffer is not in the pool, whatever was there before.
#[test]
fn neighbours_are_out_of_reach() {
    let (engine, iommu) = machine();
    let old = map(&engine, &iommu, pages(0x100, 1), Access::Read);

    engine.unmap(&iommu, old, PAGE_SIZE);

    let secret = Buffer {
        phys: Phys(0x10_0123 + 100),
        len: 50,
    };
    let iova = map(&engine, &iommu, BUFFER, Access::ReadWrite);
    let slot = Iova(iova.0 & !255);

    // In the rest of its slot, the device finds what was never written, and no neighbour.
    assert_eq!(iommu.device_read(slot, iova.0 - slot.0), vec![0; 0x23]);
    assert_eq!(
        iommu.device_read(Iova(iova.0 + 100), 50),
        vec![0; 50],
        "the device finds {secret:x?}"
    );

    // What it writes there goes nowhere.
    let before = content(&iommu);

    iommu.device_write(slot, &vec![0x55; (iova.0 - slot.0) as usize]);
    iommu.device_write(Iova(iova.0 + 100), &[0x55; 50]);
    engine.unmap(&iommu, iova, BUFFER.len);
    assert_eq!(content(&iommu), before);
}

#[test]
fn a_part_can_be_synchronized() {
    let (engine, iommu) = machine();
    let before = content(&iommu);
    let iova = map(&engine, &iommu, BUFFER, Access::ReadWrite);

    iommu.device_write(iova, &[0x11; 100]);
    engine.sync_for_cpu(&iommu, Iova(iova.0 + 30), 40);
    assert_eq!(content(&iommu), with(before.clone(), 30, &[0x11; 40]));

    iommu.write_memory(Phys(BUFFER.phys.0 + 60), &[0x22; 20]);
    engine.sync_for_device(&iommu, Iova(iova.0 + 60), 10);

    let mut copy = vec![0x11; 100];

    copy[60..70].fill(0x22);
    assert_eq!(iommu.device_read(iova, 100), copy);
    assert_eq!(iommu.total(Counter::CopiedBytes), 100 + 40 + 10);

    engine.unmap(&iommu, iova, BUFFER.len);
    assert_eq!(content(&iommu), with(before, 0, &copy));
}

/// In a slot of several units, from any of them, at any offset in the page.
#[test]
fn large_buffers_can_be_synchronized_anywhere() {
    for align_mask in [0, 4095] {
        let (engine, iommu) = machine();
        let buffer = Buffer {
            phys: Phys(0x10_0345),
            len: 5000,
        };
        let reach = Reach {
            align_mask,
            ..REACH
        };
        let iova = engine.map(&iommu, buffer, Access::Write, reach).unwrap();

        assert_eq!(
            iova.0 & (align_mask | 63),
            buffer.phys.0 & (align_mask | 63)
        );
        for (n, at) in (0..4990).step_by(199).enumerate() {
            let mark = [n as u8, !(n as u8), n as u8];

            iommu.device_write(Iova(iova.0 + at), &mark);
            engine.sync_for_cpu(&iommu, Iova(iova.0 + at), 3);
            assert_eq!(iommu.memory(Phys(buffer.phys.0 + at), 3), mark);
        }
        engine.unmap(&iommu, iova, buffer.len);
    }
}

#[test]
fn what_is_discarded_is_not_copied_back() {
    let (engine, iommu) = machine();
    let before = content(&iommu);
    let iova = map(&engine, &iommu, BUFFER, Access::Write);

    iommu.device_write(iova, &[0x11; 100]);
    engine.sync_for_cpu(&iommu, iova, 8);
    iommu.device_write(iova, &[0x22; 100]);
    engine.discard(iova);
    engine.unmap(&iommu, iova, BUFFER.len);
    assert_eq!(content(&iommu), with(before, 0, &[0x11; 8]));
}

/// Nothing happens to anybody else when a driver unmaps twice, at a wrong place, or too much.
#[test]
fn a_wrong_unmap_harms_nobody_else() {
    let (engine, iommu) = machine();
    let iova = map(&engine, &iommu, BUFFER, Access::Write);
    let other = Buffer {
        phys: Phys(0x10_0800),
        len: 200,
    };

    engine.unmap(&iommu, iova, BUFFER.len);
    engine.unmap(&iommu, iova, BUFFER.len);
    engine.sync_for_cpu(&iommu, iova, BUFFER.len);
    engine.discard(iova);

    let first = map(&engine, &iommu, BUFFER, Access::Write);
    let second = map(&engine, &iommu, other, Access::Write);

    assert_ne!(first.0 & !255, second.0 & !255, "a slot was given twice");
    // Before the buffer, and beyond the table.
    engine.unmap(&iommu, Iova(first.0 & !255), 1);
    engine.unmap(&iommu, Iova(first.0 | (1 << 40)), 1);

    // No more than the slot is copied, so nothing of the next one.
    let before = content(&iommu);

    iommu.device_write(second, &[0x77; 200]);
    engine.unmap(&iommu, first, PAGE_SIZE);

    let after = content(&iommu);
    let room = 256 - 0x23;

    assert_eq!(after[0x123 + room..], before[0x123 + room..]);
    engine.unmap(&iommu, second, other.len);
}

/// Each size, to the byte, is served from a slot of its class.
#[test]
fn sizes_have_classes() {
    let mut driver = driver(Kind::Pool);

    driver.set_pool(0, 64 << 20, 65_536);
    for shift in 8..=16u32 {
        for len in [(1 << shift) - 1, 1 << shift, (1 << shift) + 1] {
            let cost = driver
                .map(
                    Buffer {
                        phys: Phys(0x7fa0 << 12),
                        len,
                    },
                    Access::ReadWrite,
                )
                .unwrap();

            assert_eq!(cost.statistics.fallbacks, u64::from(len > 65_536), "{len}");
        }
    }
    driver.unmap_all();
}

/// A slot is taken and given back without a page-table update, a flush or an allocation, and the
/// same memory again and again.
#[test]
fn a_hit_costs_two_copies() {
    let mut driver = driver(Kind::Pool);
    let bytes = driver.engine.pool.mapped_bytes();

    assert_eq!(bytes, 1 << 20);
    for n in 0..1000 {
        let cost = driver.map(BUFFER, Access::ReadWrite).unwrap();

        assert_eq!(cost.statistics.hits, 1, "{n}");
        driver.unmap(0);
    }
    assert_eq!(driver.iommu.total(Counter::CopiedBytes), 200_000);
    assert_eq!(driver.engine.pool.mapped_bytes(), bytes);
}

/// What one CPU maps and another unmaps comes back to the first.
#[test]
fn slots_come_back_from_other_cpus() {
    let mut driver = driver(Kind::Pool);

    driver.set_pool(0, 2 * CHUNK_BYTES, 4096);
    driver.advance(10_000_000);
    assert_eq!(driver.engine.pool.mapped_bytes(), 0);
    for _ in 0..50 {
        thread::set_cpu(0);
        for _ in 0..16 {
            let cost = driver.map(pages(0x100, 1), Access::Write).unwrap();

            assert_eq!(cost.statistics.fallbacks, 0);
        }
        thread::set_cpu(1);
        driver.unmap_all();
        thread::set_cpu(2);
        for _ in 0..16 {
            driver.map(pages(0x100, 1), Access::Write).unwrap();
        }
        driver.unmap_all();
        // The stacks of CPUs that have nothing to do are emptied.
        driver.advance(3_000_000);
    }
    thread::set_cpu(0);
}

#[test]
fn grows_to_its_limit_and_shrinks_to_the_other() {
    let mut driver = driver(Kind::Pool);

    driver.set_pool(2 * CHUNK_BYTES, 4 * CHUNK_BYTES, 16_384);
    driver.advance(3_000_000);
    assert_eq!(driver.engine.pool.mapped_bytes(), 2 * CHUNK_BYTES);

    // Four slots of 16 KiB are a chunk.
    for n in 0..20 {
        let cost = driver.map(pages(0x100 + 4 * n, 4), Access::Write).unwrap();
        let grows = n == 8 || n == 12;

        assert_eq!(cost.statistics.fallbacks, u64::from(n >= 16), "{n}");
        assert_eq!(cost.statistics.misses, u64::from(grows || n >= 16), "{n}");
    }
    assert_eq!(driver.engine.pool.mapped_bytes(), 4 * CHUNK_BYTES);

    // What is in use stays, whatever the user says.
    driver.set_pool(0, 0, 16_384);
    assert_eq!(driver.engine.pool.mapped_bytes(), 4 * CHUNK_BYTES);
    driver.set_pool(2 * CHUNK_BYTES, 4 * CHUNK_BYTES, 16_384);

    let flushes = driver.iommu.calls().flush;

    for n in (0..16).rev() {
        driver.unmap(n);
    }
    driver.advance(500_000);
    assert_eq!(driver.engine.pool.mapped_bytes(), 4 * CHUNK_BYTES);
    driver.advance(2_500_000);
    driver.advance(2_500_000);
    assert_eq!(driver.engine.pool.mapped_bytes(), 2 * CHUNK_BYTES);
    assert!(driver.iommu.calls().flush - flushes <= 2);
}

/// A chunk that is free serves another size next.
#[test]
fn memory_changes_its_size() {
    let mut driver = driver(Kind::Pool);

    driver.set_pool(CHUNK_BYTES, CHUNK_BYTES, 65_536);
    driver.advance(3_000_000);
    for len in [100, 65_536, 1500, 4096, 256, 30_000] {
        let buffer = Buffer {
            phys: Phys(0x7fa0 << 12),
            len,
        };

        for _ in 0..2 {
            let cost = driver.map(buffer, Access::ReadWrite).unwrap();

            assert_eq!((cost.statistics.hits, cost.calls.pte_updates), (1, 0));
            driver.unmap(0);
        }
        // The slots are in a stack of this CPU for a while.
        driver.advance(3_000_000);
        driver.advance(3_000_000);
    }
}

/// A switch leaves what is in use; the rest is unmapped by one flush, and nothing is left when the
/// last buffer is unmapped.
#[test]
fn a_switch_drains_nothing() {
    let mut driver = driver(Kind::Pool);

    driver.map(BUFFER, Access::Write).unwrap();
    driver.map(pages(0x110, 3), Access::Read).unwrap();

    let flushes = driver.iommu.calls().flush;

    driver.switch(Kind::Strict).unwrap();
    assert_eq!(driver.iommu.calls().flush - flushes, 1);
    assert_eq!(driver.engine.unsettled_pages(&*driver.iommu), 4);
    assert_eq!(driver.engine.pool.mapped_bytes(), 2 * CHUNK_BYTES);
    assert!(driver.engine.needs_sync());

    driver.unmap(0);
    driver.settle();
    assert_eq!(driver.engine.pool.mapped_bytes(), CHUNK_BYTES);
    driver.unmap(0);
    driver.settle();
    assert_eq!(driver.engine.pool.mapped_bytes(), 0);
    assert!(!driver.engine.needs_sync());
    assert_eq!(driver.iommu.calls().flush - flushes, 3);
}

/// A list with a segment that does not fit is one exact mapping.
#[test]
fn lists_are_copied_as_a_whole_or_not_at_all() {
    let mut driver = driver(Kind::Pool);
    let small = || vec![BUFFER, pages(0x110, 4), pages(0x120, 1)];
    let mut large = small();

    large.push(pages(0x130, 5));

    let cost = driver.map_list(small(), Access::Write, u64::MAX).unwrap();
    assert_eq!((cost.statistics.hits, cost.calls.map), (3, 0));

    let cost = driver.map_list(large, Access::Write, u64::MAX).unwrap();
    assert_eq!((cost.statistics.fallbacks, cost.statistics.misses), (4, 4));

    // A slot must not lie across a boundary.
    let cost = driver.map_list(small(), Access::Write, 8191).unwrap();
    assert_eq!(cost.statistics.fallbacks, 3);
    driver.unmap_all();
    driver.retire();
}

/// A device that does not reach the window gets exact mappings, and so does memory that is newer
/// than the pool.
#[test]
fn what_is_out_of_reach_falls_back() {
    let mut driver = driver(Kind::Pool);
    let last = ((Window::Pool as u64) << 44) + (256 << 20) - 1;

    for (limit, fallbacks) in [(last, 0), (last - 1, 1), ((1 << 32) - 1, 1)] {
        driver.set_limit(limit);
        let cost = driver.map(BUFFER, Access::Read).unwrap();

        assert_eq!(cost.statistics.fallbacks, fallbacks, "{limit:#x}");
        driver.unmap(0);
    }
    driver.set_limit(u64::MAX);

    for (page, fallbacks) in [(0x10_00ff, 0), (0x10_0100, 1)] {
        let cost = driver.map(pages(page, 1), Access::Read).unwrap();

        assert_eq!(cost.statistics.fallbacks, fallbacks, "{page:#x}");
        driver.unmap(0);
    }
}

/// Whatever allocation fails, the buffer is mapped, unless it is the one for an exact mapping.
#[test]
fn no_memory_is_no_error() {
    let mut survived = 0;

    for nth in 0.. {
        let mut driver = driver(Kind::Pool);

        driver.set_pool(0, 64 << 20, 16_384);
        driver.advance(3_000_000);

        let refusals = fault::refusals();

        fault::fail_nth(Some(nth));
        driver.map(BUFFER, Access::Write).unwrap();
        fault::fail_nth(None);
        if fault::refusals() == refusals {
            break;
        }
        assert_eq!(driver.statistics().fallbacks, 1);
        survived += 1;
        driver.unmap_all();
        driver.retire();
    }
    // Memory and its page table; in the model a chunk has a leaf or two.
    assert!(survived >= 2, "{survived}");
}

/// The strategy can be chosen without memory for the pool, but not without a list of it.
#[test]
fn a_start_needs_no_pool() {
    let (iommu, layout) = iommu(LAST);
    let reach = REACH;
    let mut driver = Driver::new(iommu, layout, reach).unwrap();

    fault::fail_nth(Some(0));
    assert_eq!(driver.switch(Kind::Pool), Err(OutOfMemory));
    for nth in 1..40 {
        fault::fail_nth(Some(nth));
        driver.switch(Kind::Pool).unwrap();
        fault::fail_nth(None);
        driver.map(BUFFER, Access::Write).unwrap();
        driver.unmap(0);
        driver.switch(Kind::Strict).unwrap();
    }
    driver.retire();
}
