// SPDX-License-Identifier: GPL-2.0

//! What is counted for each device.

use super::{
    address::Window,
    exposure::Age, //
};

/// Something that enters and leaves, counted on both sides.
///
/// Two counters that only grow are exact on every CPU without a shared cache line, and their
/// difference can be read without ever missing what is in between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Pages that the driver has mapped in a window; the two cached ones are one in this. Pages
    /// of buffers, also where the device works on copies of them.
    Pages(Window),
    /// Page-table entries that are present though the driver has unmapped the page.
    ///
    /// A departure is counted by how long the page was there: [`Counter::Idled`].
    Idle,
    /// Pages that are unmapped but not flushed.
    ///
    /// A departure is counted by how long the page was there: [`Counter::Queued`].
    Queue,
}

impl Flow {
    /// The flows of pages, each once.
    pub const PAGES: [Self; 6] = [
        Self::Pages(Window::Low),
        Self::Pages(Window::Exact),
        Self::Pages(Window::Premapped),
        Self::Pages(Window::CachedWrite),
        Self::Pages(Window::Contiguous),
        Self::Pages(Window::Pool),
    ];

    /// Number of flows.
    const COUNT: usize = Self::PAGES.len() + 2;

    /// Position among the flows.
    #[inline]
    const fn index(self) -> usize {
        match self {
            Self::Pages(Window::Low) => 0,
            Self::Pages(Window::Exact) => 1,
            Self::Pages(Window::Premapped) => 2,
            Self::Pages(Window::CachedWrite | Window::CachedRead) => 3,
            Self::Pages(Window::Contiguous) => 4,
            Self::Pages(Window::Pool) => 5,
            Self::Idle => 6,
            Self::Queue => 7,
        }
    }
}

/// A statistic: a number that only grows, per device and CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// Buffers mapped; each segment of a list is one.
    Maps,
    /// Buffers unmapped.
    Unmaps,
    /// Buffers mapped without touching a page table.
    Hits,
    /// Buffers whose mapping wrote at least one page-table entry.
    Misses,
    /// Idle pages whose mapping was withdrawn.
    Evictions,
    /// IOTLB invalidations asked for.
    Flushes,
    /// Page-table entries written or cleared, in units of 4 KiB pages.
    PteUpdates,
    /// Buffers that were mapped exactly because the strategy could not serve them.
    Fallbacks,
    /// Arrivals of a flow.
    In(Flow),
    /// Departures of a flow.
    Out(Flow),
    /// Buffers mapped one by one in pages that were all counted already: a map, a hit and the arrival
    /// of the first page in one number, because every number costs the fastest path.
    CachedHits,
    /// Buffers unmapped one by one in counted pages: an unmap and the departure of the first page.
    CachedUnmaps,
    /// Those that were the last use of the only page they touched: the arrival of an idle page
    /// besides. Not among [`Counter::CachedUnmaps`].
    CachedIdles,
    /// As [`Counter::CachedHits`], for `premapped`.
    PremappedHits,
    /// As [`Counter::CachedUnmaps`], for `premapped`.
    PremappedUnmaps,
    /// Buffers that `auto` has watched.
    WatchedBuffers,
    /// Those of them that were in lists.
    WatchedListed,
    /// The lists.
    WatchedLists,
    /// Bytes of the buffers.
    WatchedBytes,
    /// Those of the buffers in pages that were used before.
    WatchedReuses,
    /// Pages that were idle for so long and are not any more.
    Idled(Age),
    /// Pages that waited so long for a flush.
    Queued(Age),
    /// Bytes that were copied into and out of the pool.
    CopiedBytes,
    /// As [`Counter::CachedHits`], for `pool`, where further pages of a buffer are counted apart.
    PoolHits,
    /// As [`Counter::CachedUnmaps`], for `pool`, in the same way.
    PoolUnmaps,
}

impl Counter {
    /// Number of counters.
    pub const COUNT: usize = 21 + 2 * (Flow::COUNT + Age::COUNT);

    /// Position in an array of [`Counter::COUNT`] numbers.
    #[inline]
    pub const fn index(self) -> usize {
        match self {
            Self::Maps => 0,
            Self::Unmaps => 1,
            Self::Hits => 2,
            Self::Misses => 3,
            Self::Evictions => 4,
            Self::Flushes => 5,
            Self::PteUpdates => 6,
            Self::Fallbacks => 7,
            Self::CachedHits => 8,
            Self::CachedUnmaps => 9,
            Self::PremappedHits => 10,
            Self::PremappedUnmaps => 11,
            Self::WatchedBuffers => 12,
            Self::WatchedListed => 13,
            Self::WatchedLists => 14,
            Self::WatchedBytes => 15,
            Self::WatchedReuses => 16,
            Self::CopiedBytes => 17,
            Self::PoolHits => 18,
            Self::PoolUnmaps => 19,
            Self::CachedIdles => 20,
            Self::In(flow) => 21 + flow.index(),
            Self::Out(flow) => 21 + Flow::COUNT + flow.index(),
            Self::Idled(age) => 21 + 2 * Flow::COUNT + age.index(),
            Self::Queued(age) => 21 + 2 * Flow::COUNT + Age::COUNT + age.index(),
        }
    }
}
