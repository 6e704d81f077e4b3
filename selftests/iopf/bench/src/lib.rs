// SPDX-License-Identifier: GPL-2.0

//! What each mode of iopf costs, and how the memory is used that a device works on.
//!
//! Each module answers a question by [`figure`]s: [`modes`], [`locality`], [`latency`], [`cache`] and
//! [`loss`]. They drive the test device as any program would, through the library `svadma`, by
//! [`session`]s; [`loads`] has the work, [`reuse`] the analysis of what it accesses. `tools/pdio` runs
//! all that in a VM, where a nanosecond is an instruction if it counts these, and the device takes no
//! time at all.

pub mod cache;
pub mod figure;
pub mod latency;
pub mod loads;
pub mod locality;
pub mod loss;
pub mod modes;
pub mod random;
pub mod reuse;
pub mod session;

/// Success, or why there is no figure.
pub type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Where figures go, as they come.
pub type Emit<'a> = &'a mut dyn FnMut(figure::Figure);

/// How much is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Enough for the counts to mean something: seconds.
    Short,
    /// Enough for curves.
    Full,
}
