// SPDX-License-Identifier: GPL-2.0

//! What has happened to a device.

use kernel::prelude::*;
use pdio::count::Count;

use crate::policy::latency::Latency;

/// Numbers of one device since it was registered. Those of requests are about bindings that are
/// served here: the kernel itself serves those in mode `sva`.
pub(crate) struct Statistics {
    /// Groups of requests that were answered.
    pub(crate) groups: Count,
    /// Those that were answered with an error.
    pub(crate) failed_groups: Count,
    /// Requests in all of them.
    pub(crate) requests: Count,
    /// Pages that were mapped.
    pub(crate) mapped_pages: Count,
    /// Those of them that nobody had asked for.
    pub(crate) prefetched_pages: Count,
    /// Pages that were taken to keep within a budget.
    pub(crate) evicted_pages: Count,
    /// Pages that were taken because the process has them no more, or not so.
    pub(crate) invalidated_pages: Count,
    /// Changes of processes that took pages.
    pub(crate) invalidations: Count,
    /// Requests that were begun anew because the process changed meanwhile.
    pub(crate) retries: Count,
    /// How long groups took.
    pub(crate) latency: Latency,
}

impl Statistics {
    /// Nothing has happened.
    pub(crate) const fn new() -> Self {
        Self {
            groups: Count::new(),
            failed_groups: Count::new(),
            requests: Count::new(),
            mapped_pages: Count::new(),
            prefetched_pages: Count::new(),
            evicted_pages: Count::new(),
            invalidated_pages: Count::new(),
            invalidations: Count::new(),
            retries: Count::new(),
            latency: Latency::new(),
        }
    }

    /// A group of requests is answered after so many nanoseconds.
    pub(crate) fn answered(&self, requests: u64, ns: u64, result: &Result) {
        self.groups.add(1);
        self.requests.add(requests);
        self.failed_groups.add(result.is_err().into());
        self.latency.count(ns);
    }
}
