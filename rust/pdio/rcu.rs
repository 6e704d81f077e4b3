// SPDX-License-Identifier: GPL-2.0

//! Grace periods.
//!
//! The `kernel` crate has the read side.
//!
//! C header: [`include/linux/rcupdate.h`](srctree/include/linux/rcupdate.h)

use crate::bindings;

/// Waits until every read-side critical section that had begun is over; every CPU has executed a
/// full memory barrier since. May sleep.
pub fn synchronize() {
    // SAFETY: An FFI call without requirements but that it may sleep.
    unsafe { bindings::synchronize_rcu() };
}
