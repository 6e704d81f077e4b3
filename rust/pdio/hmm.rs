// SPDX-License-Identifier: GPL-2.0

//! What a process has mapped, for a device that is to have the same.
//!
//! C header: [`include/linux/hmm.h`](srctree/include/linux/hmm.h)

use core::{
    ops::Range,
    ptr, //
};

use kernel::{
    error::to_result,
    mm::MmapReadGuard,
    page::{
        PAGE_SHIFT,
        PAGE_SIZE, //
    },
    prelude::*, //
};

use crate::{
    bindings,
    mmu_notifier::{
        Sequence,
        Watch, //
    }, //
};

const VALID: usize = bindings::hmm_pfn_flags_HMM_PFN_VALID;
const WRITE: usize = bindings::hmm_pfn_flags_HMM_PFN_WRITE;
const ERROR: usize = bindings::hmm_pfn_flags_HMM_PFN_ERROR;
const FLAGS: usize = bindings::hmm_pfn_flags_HMM_PFN_FLAGS;

/// A page: what is asked for, and then what is there.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub struct Entry(usize);

impl Entry {
    /// Whatever is there.
    pub const ANY: Self = Self(0);
    /// To be brought in for reading.
    pub const READ: Self = Self(VALID);
    /// To be brought in for writing.
    pub const WRITE: Self = Self(VALID | WRITE);

    /// The physical address, if the page is there.
    pub fn phys(self) -> Option<u64> {
        (self.0 & VALID != 0 && self.0 & ERROR == 0)
            .then_some(((self.0 & !FLAGS) as u64) << PAGE_SHIFT)
    }

    /// Whether the page can be written to.
    pub fn is_writable(self) -> bool {
        self.0 & WRITE != 0
    }
}

/// Brings the pages of a range in, as `entries` ask for, and writes to `entries` what is there.
///
/// The range is in whole pages, within that of `watch`, and has an entry for each page. If one page
/// that is asked for is not there, all after it are brought in, asked for or not. May sleep. What it
/// says holds as long as `watch` has not changed since `since`.
///
/// # Errors
///
/// `EINVAL`: the range does not fit. `EBUSY`: it has changed meanwhile; begin anew. `EFAULT`: a page
/// that is asked for cannot be had. `ENOMEM`.
pub fn range_fault<S: Send>(
    watch: &Watch<'_, S>,
    since: Sequence,
    _mm: &MmapReadGuard<'_>,
    range: Range<usize>,
    entries: &mut [Entry],
) -> Result {
    let watched = watch.range();

    if range.start < watched.start
        || range.end > watched.end
        || range.len() != entries.len() * PAGE_SIZE
        || range.start % PAGE_SIZE != 0
    {
        return Err(EINVAL);
    }

    let mut raw = bindings::hmm_range {
        notifier: watch.as_raw(),
        notifier_seq: since.0,
        start: range.start,
        end: range.end,
        hmm_pfns: entries.as_mut_ptr().cast(),
        default_flags: 0,
        pfn_flags_mask: VALID | WRITE,
        dev_private_owner: ptr::null_mut(),
    };

    // SAFETY: The notifier is registered, with the address space of which the lock is held: callers
    // have no other. The entries are as many as the range has pages.
    to_result(unsafe { bindings::hmm_range_fault(&mut raw) })
}
