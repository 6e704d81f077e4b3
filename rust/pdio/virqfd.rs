// SPDX-License-Identifier: GPL-2.0

//! Eventfds by which user space, or KVM, tells a driver of the end of an interrupt.
//!
//! C header: [`include/linux/vfio.h`](srctree/include/linux/vfio.h)

use core::{
    cell::UnsafeCell,
    ffi::c_void,
    ptr, //
};

use kernel::{
    error::to_result,
    ffi::c_int,
    prelude::*,
    sync::Arc, //
};

use crate::bindings;

/// What is still to be done for an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "what is left to be done is done by a thread"]
pub enum Rest {
    /// Nothing.
    Nothing,
    /// [`Listener::later`].
    Later,
}

/// What listens to an eventfd.
pub trait Listener: Send + Sync + 'static {
    /// It was signalled. With interrupts off and locks held, often by KVM; no eventfd can be signalled
    /// from here.
    fn signalled(&self) -> Rest;

    /// The rest of it, in a thread. May sleep.
    fn later(&self);
}

/// An eventfd that somebody listens to, until this is dropped. That may sleep.
///
/// # Invariants
///
/// `slot` is null or the kernel's, for `listener`; it stays where it is.
pub struct Virqfd<T: Listener> {
    slot: KBox<UnsafeCell<*mut bindings::virqfd>>,
    _listener: Arc<T>,
}

// SAFETY: It belongs to no thread, and neither does the listener.
unsafe impl<T: Listener> Send for Virqfd<T> {}

// SAFETY: It offers nothing.
unsafe impl<T: Listener> Sync for Virqfd<T> {}

impl<T: Listener> Virqfd<T> {
    /// Lets `listener` listen to the eventfd that the current process has at a descriptor. May sleep.
    /// What was signalled before counts.
    ///
    /// # Errors
    ///
    /// `EBADF`, `EINVAL`: that is none. `ENOMEM`.
    pub fn new(descriptor: i32, listener: Arc<T>) -> Result<Self> {
        let slot = KBox::new(UnsafeCell::new(ptr::null_mut()), GFP_KERNEL)?;

        // SAFETY: The slot stays where it is, in the box, and the listener is there until `drop`, which
        // waits for calls.
        to_result(unsafe {
            bindings::vfio_virqfd_enable(
                Arc::as_ptr(&listener).cast_mut().cast(),
                Some(Self::signalled),
                Some(Self::later),
                ptr::null_mut(),
                slot.get(),
                descriptor,
            )
        })?;
        // INVARIANT: Just done.
        Ok(Self {
            slot,
            _listener: listener,
        })
    }

    /// Called by the kernel.
    ///
    /// # Safety
    ///
    /// `listener` points to a valid `T`.
    unsafe extern "C" fn signalled(listener: *mut c_void, _data: *mut c_void) -> c_int {
        // SAFETY: By the safety requirement.
        match unsafe { &*listener.cast::<T>() }.signalled() {
            Rest::Nothing => 0,
            Rest::Later => 1,
        }
    }

    /// Called by the kernel.
    ///
    /// # Safety
    ///
    /// `listener` points to a valid `T`.
    unsafe extern "C" fn later(listener: *mut c_void, _data: *mut c_void) {
        // SAFETY: By the safety requirement.
        unsafe { &*listener.cast::<T>() }.later();
    }
}

impl<T: Listener> Drop for Virqfd<T> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant. Nothing is called any more when this returns.
        unsafe { bindings::vfio_virqfd_disable(self.slot.get()) };
    }
}
