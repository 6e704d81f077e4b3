// SPDX-License-Identifier: GPL-2.0

//! Pages of a process that are kept in memory for a device.
//!
//! Compiled into the modules that use it: not every kernel that the others load into has it.
//!
//! C header: [`include/linux/mm.h`](srctree/include/linux/mm.h)

use core::ptr;

use kernel::{
    alloc::KVVec,
    error::to_result,
    mm::{
        virt::flags,
        Mm,
        MmWithUser, //
    },
    page::PAGE_SIZE,
    prelude::*, //
};

use crate::{
    bindings,
    scatterlist::page_to_phys, //
};

/// Adjacent pages of a process, pinned for as long as this lives.
///
/// # Invariants
///
/// `pages` are pinned, by us.
pub struct PinnedPages {
    pages: KVVec<*mut bindings::page>,
    writable: bool,
}

// SAFETY: Pages belong to no thread.
unsafe impl Send for PinnedPages {}

// SAFETY: All that can be done with shared ones is to ask where they are, which does not change.
unsafe impl Sync for PinnedPages {}

impl PinnedPages {
    /// Pins `count` pages from an address on, or fewer if the mapping ends before or changes its
    /// protection: at least one. They can be written to if the process can. May sleep.
    ///
    /// # Errors
    ///
    /// `EFAULT`: nothing is mapped at the address, or what is cannot be pinned. `ENOMEM`.
    #[inline]
    pub fn new(mm: &MmWithUser, address: usize, count: usize) -> Result<Self> {
        let guard = mm.mmap_read_lock();
        let area = guard.vma_lookup(address).ok_or(EFAULT)?;
        let writable = area.flags() & flags::WRITE != 0;
        let count = count.min((area.end() - address) / PAGE_SIZE);
        // A page that can be written to is not pinned for reading only: the first write would put
        // another page in its place.
        let gup_flags = bindings::FOLL_LONGTERM | if writable { bindings::FOLL_WRITE } else { 0 };
        let mut pages = KVVec::from_elem(ptr::null_mut(), count, GFP_KERNEL)?;

        // SAFETY: The lock of the address space is held and not given up, for there is no place to
        // say so, and the array has room for so many pages.
        let pinned = unsafe {
            bindings::pin_user_pages_remote(
                mm.as_raw(),
                address,
                count,
                gup_flags,
                pages.as_mut_ptr(),
                ptr::null_mut(),
            )
        };

        match usize::try_from(pinned) {
            Ok(0) => Err(EFAULT),
            Ok(pinned) => {
                pages.truncate(pinned);
                // INVARIANT: So many were just pinned.
                Ok(Self { pages, writable })
            }
            Err(_) => Err(Error::from_errno(pinned as i32)),
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.pages.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }

    /// Whether they can be written to.
    pub fn is_writable(&self) -> bool {
        self.writable
    }

    /// The physical addresses.
    pub fn phys(&self) -> impl Iterator<Item = u64> + '_ {
        self.pages.iter().map(|&page| page_to_phys(page))
    }
}

impl Drop for PinnedPages {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: By the type invariant. What could be written to may have been.
        unsafe {
            bindings::unpin_user_pages_dirty_lock(
                self.pages.as_mut_ptr(),
                self.pages.len(),
                self.writable,
            );
        }
    }
}

/// Counts pages against the limit of what a process may lock (`RLIMIT_MEMLOCK`). May sleep.
///
/// # Errors
///
/// `ENOMEM`: they would be too many.
#[inline]
pub fn account_locked(mm: &Mm, pages: usize) -> Result {
    // SAFETY: The address space is valid.
    to_result(unsafe { bindings::account_locked_vm(mm.as_raw(), pages, true) })
}

/// Ends what [`account_locked`] began. May sleep.
#[inline]
pub fn unaccount_locked(mm: &Mm, pages: usize) {
    // SAFETY: The address space is valid.
    unsafe { bindings::account_locked_vm(mm.as_raw(), pages, false) };
}
