// SPDX-License-Identifier: GPL-2.0

//! The interrupts of a PCI function that has several of them (MSI-X), each with a handler.
//!
//! The `kernel` crate hands out the first and the last of several vectors only.
//!
//! C headers: [`include/linux/interrupt.h`](srctree/include/linux/interrupt.h),
//! [`include/linux/pci.h`](srctree/include/linux/pci.h)

use core::ffi::c_void;

use kernel::{
    device::Bound,
    devres::{
        self,
        Devres, //
    },
    error::to_result,
    pci,
    prelude::*,
    sync::Arc, //
};

use crate::{
    bindings,
    event_count::EventCount,
    pci::PciDevice, //
};

/// What is done about an interrupt.
pub trait Handler: Send + Sync + 'static {
    /// There was one. In interrupt context.
    fn handle(&self);
}

impl Handler for EventCount {
    fn handle(&self) {
        self.add();
    }
}

/// The vectors that a function has.
///
/// # Invariants
///
/// They are allocated, and nobody else frees them.
struct Allocation(PciDevice);

impl Drop for Allocation {
    fn drop(&mut self) {
        // SAFETY: By the type invariant. Handlers were requested later, so they are freed already.
        unsafe { bindings::pci_free_irq_vectors(self.0.as_raw()) };
    }
}

/// A vector that has its handler.
///
/// # Invariants
///
/// `irq` was requested with `handler`.
struct Line<T: Handler> {
    irq: u32,
    handler: Arc<T>,
}

impl<T: Handler> Line<T> {
    /// Requests a vector. May sleep.
    fn request(irq: u32, name: &'static CStr, handler: Arc<T>) -> Result<Self> {
        // SAFETY: The number is that of a vector of ours. What the handler is called with stays until
        // the interrupt is freed.
        to_result(unsafe {
            bindings::request_threaded_irq(
                irq,
                Some(Self::call),
                None,
                0,
                name.as_char_ptr(),
                Arc::as_ptr(&handler).cast_mut().cast(),
            )
        })?;

        // INVARIANT: It was just requested.
        Ok(Self { irq, handler })
    }

    /// Called by the kernel.
    ///
    /// # Safety
    ///
    /// `handler` points to a valid `T`.
    unsafe extern "C" fn call(
        _irq: kernel::ffi::c_int,
        handler: *mut c_void,
    ) -> bindings::irqreturn_t {
        // SAFETY: By the safety requirement.
        unsafe { &*handler.cast::<T>() }.handle();
        bindings::irqreturn_IRQ_HANDLED
    }
}

impl<T: Handler> Drop for Line<T> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant. No call is under way after this.
        unsafe { bindings::free_irq(self.irq, Arc::as_ptr(&self.handler).cast_mut().cast()) };
    }
}

/// The interrupts of a function; they end with the binding of the driver, at the latest.
pub struct Interrupts<T: Handler> {
    lines: KVec<Devres<Line<T>>>,
    handlers: KVec<Arc<T>>,
}

impl<T: Handler> Interrupts<T> {
    /// Has as many vectors of a function as there are, up to `max`, and at least one, served by
    /// handlers. May sleep. Once, while a driver is being bound.
    ///
    /// # Errors
    ///
    /// `ENOSPC`, `ENOMEM`: they cannot be had. What `handler` returns.
    pub fn new(
        device: &pci::Device<Bound>,
        name: &'static CStr,
        max: u32,
        mut handler: impl FnMut() -> Result<Arc<T>>,
    ) -> Result<Self> {
        let function = PciDevice::from_device(device.as_ref()).ok_or(ENODEV)?;
        // SAFETY: The function is valid, and a driver is bound to it.
        let count = unsafe {
            bindings::pci_alloc_irq_vectors(function.as_raw(), 1, max, bindings::PCI_IRQ_MSIX)
        };

        to_result(count)?;
        // INVARIANT: They were just allocated.
        devres::register(device.as_ref(), Allocation(function.clone()), GFP_KERNEL)?;

        let mut interrupts = Self {
            lines: KVec::new(),
            handlers: KVec::new(),
        };

        for index in 0..count.unsigned_abs() {
            // SAFETY: The function has that many vectors.
            let irq = unsafe { bindings::pci_irq_vector(function.as_raw(), index) };
            let handler = handler()?;

            to_result(irq)?;

            let line = Line::request(irq.unsigned_abs(), name, handler.clone())?;

            interrupts
                .lines
                .push(Devres::new(device.as_ref(), line)?, GFP_KERNEL)?;
            interrupts.handlers.push(handler, GFP_KERNEL)?;
        }
        Ok(interrupts)
    }

    /// The handlers, by the numbers of their vectors; at least one.
    pub fn handlers(&self) -> &[Arc<T>] {
        &self.handlers
    }
}
