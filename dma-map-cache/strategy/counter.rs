// SPDX-License-Identifier: GPL-2.0

//! What is counted for each device.

use super::address::Window;

/// Something that enters and leaves, counted on both sides.
///
/// Two counters that only grow are exact on every CPU without a shared cache line, and their
/// difference can be read without ever missing what is in between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Pages that the driver has mapped in a window.
    Pages(Window),
    /// Page-table entries that are present though the driver has unmapped the page.
    Idle,
}

impl Flow {
    /// Number of flows.
    const COUNT: usize = Window::ALL.len() + 1;

    /// Position among the flows.
    #[inline]
    const fn index(self) -> usize {
        match self {
            Self::Pages(window) => window as usize,
            Self::Idle => Window::ALL.len(),
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
}

impl Counter {
    /// Number of counters.
    pub const COUNT: usize = 8 + 2 * Flow::COUNT;

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
            Self::In(flow) => 8 + flow.index(),
            Self::Out(flow) => 8 + Flow::COUNT + flow.index(),
        }
    }
}
