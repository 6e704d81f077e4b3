// SPDX-License-Identifier: GPL-2.0

//! The interrupt pin of a PCI function, which it may share with others.
//!
//! It can be masked at the function (PCI 2.3), so whoever handles it need not quieten the device.
//!
//! C headers: [`include/linux/interrupt.h`](srctree/include/linux/interrupt.h),
//! [`include/linux/pci.h`](srctree/include/linux/pci.h)

use core::ffi::c_void;

use kernel::{
    device::Bound,
    error::to_result,
    ffi::c_int,
    pci,
    prelude::*,
    sync::Arc, //
};

use crate::{
    bindings,
    pci::PciDevice, //
};

/// The pin. All of it in any context.
pub struct InterruptPin(PciDevice);

impl InterruptPin {
    /// That of a function with a driver.
    ///
    /// # Errors
    ///
    /// `ENODEV`: it has none that can be masked.
    pub fn new(device: &pci::Device<Bound>) -> Result<Self> {
        let function = PciDevice::from_device(device.as_ref()).ok_or(ENODEV)?;

        // SAFETY: The function is valid; its bits were found out when it was found.
        match unsafe {
            (*function.as_raw()).irq != 0 && (*function.as_raw()).broken_intx_masking() == 0
        } {
            true => Ok(Self(function)),
            false => Err(ENODEV),
        }
    }

    /// Lets it interrupt.
    pub fn unmask(&self) {
        // SAFETY: The function is valid.
        unsafe { bindings::pci_intx(self.0.as_raw(), 1) };
    }

    /// Lets it not interrupt.
    pub fn mask(&self) {
        // SAFETY: The function is valid.
        unsafe { bindings::pci_intx(self.0.as_raw(), 0) };
    }

    /// Whether the function wants to interrupt; then it is masked.
    pub fn mask_if_asserted(&self) -> bool {
        // SAFETY: The function is valid.
        unsafe { bindings::pci_check_and_mask_intx(self.0.as_raw()) }
    }

    /// Whether the function wants no interrupt; then it is unmasked.
    pub fn unmask_unless_asserted(&self) -> bool {
        // SAFETY: The function is valid.
        unsafe { bindings::pci_check_and_unmask_intx(self.0.as_raw()) }
    }
}

/// What is done about an interrupt.
pub trait Handler: Send + Sync + 'static {
    /// There was one on this line. In interrupt context. Answers whether it was this function's.
    fn handle(&self) -> bool;
}

/// A line that has its handler, until this is dropped. That may sleep.
///
/// # Invariants
///
/// `irq` was requested with `handler`.
pub struct Line<T: Handler> {
    irq: u32,
    handler: Arc<T>,
}

impl<T: Handler> Line<T> {
    /// Has the line of a function with a driver served, beside those who share it. May sleep.
    ///
    /// # Errors
    ///
    /// `EBUSY`: somebody has it who does not share. `ENOMEM`.
    pub fn request(
        device: &pci::Device<Bound>,
        name: &'static CStr,
        handler: Arc<T>,
    ) -> Result<Self> {
        let function = PciDevice::from_device(device.as_ref()).ok_or(ENODEV)?;
        // SAFETY: The function is valid.
        let irq = unsafe { (*function.as_raw()).irq };

        // SAFETY: What the handler is called with stays until the interrupt is freed.
        to_result(unsafe {
            bindings::request_threaded_irq(
                irq,
                Some(Self::call),
                None,
                bindings::IRQF_SHARED as usize,
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
    unsafe extern "C" fn call(_irq: c_int, handler: *mut c_void) -> bindings::irqreturn_t {
        // SAFETY: By the safety requirement.
        match unsafe { &*handler.cast::<T>() }.handle() {
            true => bindings::irqreturn_IRQ_HANDLED,
            false => bindings::irqreturn_IRQ_NONE,
        }
    }
}

impl<T: Handler> Drop for Line<T> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant. No call is under way after this.
        unsafe { bindings::free_irq(self.irq, Arc::as_ptr(&self.handler).cast_mut().cast()) };
    }
}
