// SPDX-License-Identifier: GPL-2.0

//! Allocations, and how to make one of them fail.

use std::cell::Cell;

use crate::strategy::backend::OutOfMemory;

thread_local! {
    static COUNTDOWN: Cell<Option<u64>> = const { Cell::new(None) };
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
    static REFUSALS: Cell<u64> = const { Cell::new(0) };
}

/// Lets the `n`-th allocation of this thread from now on fail, counted from 0; or none.
pub fn fail_nth(n: Option<u64>) {
    COUNTDOWN.set(n);
}

/// Allocations of this thread until now.
pub fn allocations() -> u64 {
    ALLOCATIONS.get()
}

/// Allocations of this thread that failed until now.
pub fn refusals() -> u64 {
    REFUSALS.get()
}

/// Says that an allocation failed because there is no room.
pub(super) fn refuse() -> OutOfMemory {
    REFUSALS.set(REFUSALS.get() + 1);
    OutOfMemory
}

/// To be called for each allocation.
pub(super) fn allocate() -> Result<(), OutOfMemory> {
    ALLOCATIONS.set(ALLOCATIONS.get() + 1);
    match COUNTDOWN.get() {
        Some(0) => {
            COUNTDOWN.set(None);
            Err(refuse())
        }
        Some(n) => {
            COUNTDOWN.set(Some(n - 1));
            Ok(())
        }
        None => Ok(()),
    }
}
