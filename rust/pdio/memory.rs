// SPDX-License-Identifier: GPL-2.0

//! The RAM that the kernel manages.
//!
//! C headers: [`include/linux/ioport.h`](srctree/include/linux/ioport.h),
//! [`include/linux/gfp.h`](srctree/include/linux/gfp.h)

use core::{
    arch::asm,
    ffi::c_void,
    ops::Range, //
};

use kernel::{
    error::{
        from_result,
        to_result, //
    },
    page::PAGE_SIZE,
    prelude::*, //
};

use crate::{
    bindings,
    coherent,
    scatterlist::page_to_phys, //
};

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
        from_result(|| f(range).map(|()| 0))
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

/// Zeroed pages in one piece, freed when this is dropped.
pub struct Pages(coherent::Memory);

// SAFETY: The memory belongs to no thread, and nothing is done with it but to free it.
unsafe impl Send for Pages {}

// SAFETY: As for `Send`.
unsafe impl Sync for Pages {}

impl Pages {
    /// Allocates `count` pages, a power of two, aligned to their number. Never sleeps.
    pub fn new(count: usize) -> Option<Self> {
        let len = count.checked_mul(PAGE_SIZE)?;

        coherent::Memory::alloc_contiguous(len, bindings::GFP_ATOMIC | bindings::__GFP_NOWARN)
            .map(Self)
    }

    /// The physical address.
    pub fn phys(&self) -> u64 {
        page_to_phys(self.0.page(0))
    }
}

/// Copies `len` bytes from one physical address to another. May be called in any context.
///
/// Both must be RAM that nobody but a device changes meanwhile, and not overlap: memory that the
/// caller has allocated, or a buffer that a driver has handed over to the DMA API.
///
/// By words and not by bytes: processors with fast strings do both at the same speed, and where a
/// processor is emulated or slow at strings, words take an eighth of the steps.
#[inline(always)]
pub fn copy(to: u64, from: u64, len: u64) {
    // SAFETY: The base is set once, early in boot. All RAM is mapped there, so the addresses are
    // valid for `len` bytes, of which the caller vouches for. The direction flag is clear in the
    // kernel. The end of what is at least a word long is copied by a word that ends there.
    unsafe {
        let base = bindings::page_offset_base as u64;

        asm!(
            "cmp {len}, 8",
            "jb 3f",
            "mov {tail}, [rsi + {len} - 8]",
            "lea {last}, [rdi + {len} - 8]",
            "shr rcx, 3",
            "rep movsq",
            "mov [{last}], {tail}",
            "jmp 4f",
            "3:",
            "rep movsb",
            "4:",
            len = in(reg) len,
            tail = out(reg) _,
            last = out(reg) _,
            inout("rcx") len => _,
            inout("rsi") base.wrapping_add(from) => _,
            inout("rdi") base.wrapping_add(to) => _,
            options(nostack),
        );
    }
}
