// SPDX-License-Identifier: GPL-2.0

//! Sections in which this CPU runs no soft interrupt.
//!
//! C header: [`include/linux/bottom_half.h`](srctree/include/linux/bottom_half.h)

use kernel::types::NotThreadSafe;

use crate::bindings;

/// A section in which code runs as in a soft interrupt: none begins on this CPU, and the thread
/// stays on it.
///
/// # Invariants
///
/// Soft interrupts are disabled once more by this thread until this is dropped.
pub struct BottomHalvesDisabled(NotThreadSafe);

impl BottomHalvesDisabled {
    /// Begins a section, in which nothing may sleep. Those that fall due run when it ends.
    pub fn begin() -> Self {
        // SAFETY: There are no requirements but to enable them again.
        unsafe { bindings::pdio_local_bh_disable() };

        // INVARIANT: They were just disabled.
        Self(NotThreadSafe)
    }
}

impl Drop for BottomHalvesDisabled {
    fn drop(&mut self) {
        // SAFETY: By the type invariant.
        unsafe { bindings::pdio_local_bh_enable() };
    }
}
