// SPDX-License-Identifier: GPL-2.0

//! Events that user space is told of by a descriptor.
//!
//! C header: [`include/linux/eventfd.h`](srctree/include/linux/eventfd.h)

use core::ptr::NonNull;

use kernel::{
    error::from_err_ptr,
    prelude::*, //
};

use crate::bindings;

/// An eventfd that somebody has passed to us.
///
/// # Invariants
///
/// The context is valid, and a reference to it is ours.
pub struct EventFd(NonNull<bindings::eventfd_ctx>);

// SAFETY: An eventfd belongs to no thread.
unsafe impl Send for EventFd {}

// SAFETY: It does its own locking.
unsafe impl Sync for EventFd {}

impl EventFd {
    /// The eventfd that the current process has at a descriptor. May sleep.
    ///
    /// # Errors
    ///
    /// `EBADF`: there is no such descriptor. `EINVAL`: it is something else.
    pub fn from_descriptor(descriptor: i32) -> Result<Self> {
        // SAFETY: There are no requirements.
        let context = from_err_ptr(unsafe { bindings::eventfd_ctx_fdget(descriptor) })?;

        // INVARIANT: The reference was just taken.
        NonNull::new(context).map(Self).ok_or(EBADF)
    }

    /// One event more. In any context, but not while an eventfd is being signalled by this very
    /// thread: the kernel ignores that.
    pub fn signal(&self) {
        // SAFETY: By the type invariant.
        unsafe { bindings::eventfd_signal_mask(self.0.as_ptr(), 0) };
    }
}

impl Drop for EventFd {
    fn drop(&mut self) {
        // SAFETY: By the type invariant.
        unsafe { bindings::eventfd_ctx_put(self.0.as_ptr()) };
    }
}
