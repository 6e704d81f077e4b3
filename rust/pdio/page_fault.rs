// SPDX-License-Identifier: GPL-2.0

//! Groups of pages that a device asks for and that are answered together.
//!
//! Compiled into the modules that use it: not every kernel that the others load into has it.
//!
//! C header: [`include/linux/iommu.h`](srctree/include/linux/iommu.h)

use core::{
    marker::PhantomData,
    mem,
    ptr::{
        self,
        NonNull, //
    },
};

use crate::bindings;

/// What is said about a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Response {
    /// The pages are there: try again.
    Success,
    /// One of them cannot be had.
    Invalid,
    /// The device is not to ask for any more.
    Failure,
}

impl Response {
    /// The number that the kernel has for it.
    const fn code(self) -> bindings::iommu_page_response_code {
        match self {
            Self::Success => bindings::iommu_page_response_code_IOMMU_PAGE_RESP_SUCCESS,
            Self::Invalid => bindings::iommu_page_response_code_IOMMU_PAGE_RESP_INVALID,
            Self::Failure => bindings::iommu_page_response_code_IOMMU_PAGE_RESP_FAILURE,
        }
    }
}

/// A page that a device asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageRequest {
    /// An address in the page.
    pub address: u64,
    /// Whether the device wants to write.
    pub write: bool,
    /// Whether the device wants to execute, or what privileged software may do.
    pub beyond: bool,
}

impl PageRequest {
    /// What the kernel was told.
    fn of(request: &bindings::iommu_fault_page_request) -> Self {
        Self {
            address: request.addr,
            write: request.perm & bindings::IOMMU_FAULT_PERM_WRITE != 0,
            beyond: request.perm
                & (bindings::IOMMU_FAULT_PERM_EXEC | bindings::IOMMU_FAULT_PERM_PRIV)
                != 0,
        }
    }
}

/// A group, which is answered once: with [`Response::Failure`], if it is just dropped.
///
/// # Invariants
///
/// `group` is valid and ours, and not answered.
pub struct FaultGroup {
    group: NonNull<bindings::iopf_group>,
}

// SAFETY: A group belongs to no thread.
unsafe impl Send for FaultGroup {}

impl FaultGroup {
    /// Takes over a group.
    ///
    /// # Safety
    ///
    /// `group` is valid, the caller's, and not answered.
    pub(crate) unsafe fn from_raw(group: NonNull<bindings::iopf_group>) -> Self {
        // INVARIANT: By the safety requirement.
        Self { group }
    }

    /// The pages, in the order in which the device has asked for them.
    #[inline]
    pub fn requests(&self) -> Requests<'_> {
        // SAFETY: By the type invariant the group is valid, and its list is complete.
        let head = unsafe { &raw const (*self.group.as_ptr()).faults };

        Requests {
            head,
            // SAFETY: As above.
            next: unsafe { (*head).next },
            _group: PhantomData,
        }
    }

    /// Answers. Does not sleep.
    #[inline]
    pub fn respond(self, response: Response) {
        self.answer(response);
        mem::forget(self);
    }

    /// Answers a group that is not used any more.
    #[inline]
    fn answer(&self, response: Response) {
        // SAFETY: By the type invariant the group is valid, ours and not answered; the callers give
        // it up.
        unsafe {
            bindings::iopf_group_response(self.group.as_ptr(), response.code());
            bindings::iopf_free_group(self.group.as_ptr());
        }
    }
}

impl Drop for FaultGroup {
    #[inline]
    fn drop(&mut self) {
        self.answer(Response::Failure);
    }
}

/// The pages of a group.
///
/// # Invariants
///
/// `next` is in the list of which `head` is the head, and which stays as it is for `'a`.
pub struct Requests<'a> {
    head: *const bindings::list_head,
    next: *const bindings::list_head,
    _group: PhantomData<&'a FaultGroup>,
}

impl Iterator for Requests<'_> {
    type Item = PageRequest;

    fn next(&mut self) -> Option<PageRequest> {
        if ptr::eq(self.next, self.head) {
            return None;
        }

        // SAFETY: By the type invariant `next` is the list entry of a fault.
        unsafe {
            let fault = kernel::container_of!(self.next, bindings::iopf_fault, list);

            self.next = (*self.next).next;
            Some(PageRequest::of(&(*fault).fault.prm))
        }
    }
}
