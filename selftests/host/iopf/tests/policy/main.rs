// SPDX-License-Identifier: GPL-2.0

//! What the policies of `iopf` promise.

mod batch;
mod budget;
mod fault_around;
mod latency;
mod page;
mod resident;
mod working_set;

use iopf_host::policy::page::{
    Page,
    PageRange, //
};

/// Pages from `first` on.
fn pages(first: u64, count: u64) -> PageRange {
    PageRange {
        first: Page(first),
        count,
    }
}

/// Numbers that look random and are always the same (xorshift, Marsaglia 2003).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}
