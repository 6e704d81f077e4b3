// SPDX-License-Identifier: GPL-2.0

//! Objects that are too large for the stack of a kernel thread, which has 16 KiB.

use kernel::prelude::*;

/// A copy of a value in memory of its own, which is not on the stack on its way there. May sleep.
///
/// # Errors
///
/// `ENOMEM`.
pub fn copy_of<T: Copy>(value: &T) -> Result<KBox<T>> {
    let mut slot = KBox::<T>::new_uninit(GFP_KERNEL)?;

    // SAFETY: The slot has the size of the value, which may be copied, and is initialized then.
    unsafe {
        core::ptr::copy_nonoverlapping(value, slot.as_mut_ptr(), 1);
        Ok(slot.assume_init())
    }
}
