// SPDX-License-Identifier: GPL-2.0

//! The RAM that the kernel manages.
//!
//! C header: [`include/linux/ioport.h`](srctree/include/linux/ioport.h)

use core::{
    ffi::c_void,
    ops::Range, //
};

use kernel::{
    error::to_result,
    page::PAGE_SIZE,
    prelude::*, //
};

use crate::bindings;

/// Calls `f` with each range of physical addresses that is RAM, in whole pages and ascending order.
/// May sleep.
///
/// # Errors
///
/// The first error of `f` ends the walk and is returned.
pub fn for_each_ram_range(mut f: &mut dyn FnMut(Range<u64>) -> Result) -> Result {
    /// Calls back.
    ///
    /// # Safety
    ///
    /// `resource` is valid, and `f` points to a `&mut dyn FnMut(Range<u64>) -> Result`.
    unsafe extern "C" fn call(resource: *mut bindings::resource, f: *mut c_void) -> i32 {
        let page_mask = PAGE_SIZE as u64 - 1;

        // SAFETY: By the safety requirements of this function.
        let (start, last, f) = unsafe {
            (
                (*resource).start,
                (*resource).end,
                &mut *f.cast::<&mut dyn FnMut(Range<u64>) -> Result>(),
            )
        };
        let range = (start + page_mask) & !page_mask..(last + 1) & !page_mask;

        if range.is_empty() {
            return 0;
        }
        match f(range) {
            Ok(()) => 0,
            Err(error) => error.to_errno(),
        }
    }

    // A walk that finds nothing returns -EINVAL; there is always RAM.
    //
    // SAFETY: The callback gets the pointer that it expects, which is valid during the call.
    to_result(unsafe {
        bindings::walk_iomem_res_desc(
            bindings::IORES_DESC_NONE as usize,
            (bindings::IORESOURCE_SYSTEM_RAM | bindings::IORESOURCE_BUSY) as usize,
            0,
            u64::MAX,
            (&raw mut f).cast(),
            Some(call),
        )
    })
}
