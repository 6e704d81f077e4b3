// SPDX-License-Identifier: GPL-2.0

//! The machines that the tests run on.

use std::ops::Range;

use dma_map_cache_host::model::{Driver, Iommu};
use dma_map_cache_host::strategy::address::{Buffer, Layout, Phys, PAGE_SHIFT};
use dma_map_cache_host::strategy::engine::Reach;
use dma_map_cache_host::strategy::list::SegmentLimits;
use dma_map_cache_host::strategy::Kind;

/// What 4-level second-stage tables give.
pub const LAST: u64 = (1 << 48) - 1;

/// Pages of RAM: small enough to be walked after each step, and with all that makes RAM difficult:
/// holes, a large page, a leaf of each table crossed (pages 512 and 32,768), and memory that a
/// window of 4 GiB does not hold.
pub const RAM: [Range<u64>; 4] = [
    0x1..0x9f,
    0x100..0x440,
    0x7fa0..0x8060,
    0x10_0000..0x10_0100,
];

/// The machine for a layout.
pub fn iommu(last: u64) -> (Iommu, Layout) {
    let layout = Layout::new(last).expect("enough address bits for windows");

    (Iommu::new(layout, RAM.to_vec()), layout)
}

/// A driver of a device that reaches addresses up to `limit`.
pub fn driver_with(last: u64, limit: u64) -> Driver {
    let (iommu, layout) = iommu(last);
    let reach = Reach {
        limit,
        segment: SegmentLimits::NONE,
        align_mask: 0,
    };

    Driver::new(iommu, layout, reach).expect("memory for the strategies")
}

/// A driver of a device without limits, under a strategy.
pub fn driver(kind: Kind) -> Driver {
    let mut driver = driver_with(LAST, u64::MAX);

    driver.switch(kind).expect("memory for a strategy");
    driver
}

/// `pages` whole pages from page `page` on.
pub fn pages(page: u64, pages: u64) -> Buffer {
    Buffer {
        phys: Phys(page << PAGE_SHIFT),
        len: pages << PAGE_SHIFT,
    }
}
