// SPDX-License-Identifier: GPL-2.0

//! Finds races on purpose instead of by luck.
//!
//! [`run`] lets threads run one at a time and decides at each [`point`] by a random number whether
//! another one goes on. The same seed gives the same order of events, so a failure can be looked
//! into. Orders that only weak memory would show are not among them: all see the same memory.
//!
//! Code under test is given its points by taking this crate for `core`:
//!
//! ```
//! extern crate interleave as core;
//!
//! use core::sync::atomic::{AtomicU64, Ordering::SeqCst};
//!
//! # fn main() {
//! let number = AtomicU64::new(0);
//! let add = || {
//!     number.fetch_add(1, SeqCst);
//! };
//!
//! interleave::run(1, vec![Box::new(add), Box::new(add)]);
//! assert_eq!(number.load(SeqCst), 2);
//! # }
//! ```

#![no_std]

extern crate std;

pub use ::core::*;

mod scheduler;

pub use scheduler::{point, run, wait, Body};

/// As in `core`, with a [`point`] before each operation on an atomic.
pub mod sync {
    pub use ::core::sync::*;

    pub mod atomic;
}
