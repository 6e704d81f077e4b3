// SPDX-License-Identifier: GPL-2.0

//! News about drivers and devices on the PCI bus.
//!
//! C header: [`include/linux/device/bus.h`](srctree/include/linux/device/bus.h)

use core::{
    ffi::c_void,
    marker::PhantomPinned,
    ptr, //
};

use kernel::{
    device::Device,
    error::to_result,
    prelude::*,
    types::Opaque, //
};

use crate::{
    bindings,
    device::LockedDevice,
    pci::PciDevice, //
};

/// What is told about drivers; all of it with the lock of the device held. What is not implemented is
/// passed over.
pub trait DriverEvents: Send + Sync {
    /// A driver is about to be bound: DMA is configured, probe comes next.
    fn bind(&self, _pci: &PciDevice, _device: &LockedDevice<'_>) {}

    /// A driver could not be bound. Its managed resources are still there.
    fn not_bound(&self, _pci: &PciDevice) {}

    /// A driver is about to be unbound: it does not know yet.
    fn unbind(&self, _pci: &PciDevice, _device: &LockedDevice<'_>) {}

    /// A driver was unbound, and everything that it held is released.
    fn unbound(&self, _pci: &PciDevice, _device: &LockedDevice<'_>) {}
}

/// A subscription to [`DriverEvents`].
///
/// # Invariants
///
/// `block` is registered with the PCI bus as long as `self`.
#[pin_data(PinnedDrop)]
pub struct Registration<T: DriverEvents> {
    #[pin]
    block: Opaque<bindings::notifier_block>,
    events: T,
    #[pin]
    _pin: PhantomPinned,
}

// SAFETY: A registration belongs to no thread, and `T` is `Send`.
unsafe impl<T: DriverEvents> Send for Registration<T> {}

// SAFETY: It only gives access to `T`, which is `Sync`.
unsafe impl<T: DriverEvents> Sync for Registration<T> {}

impl<T: DriverEvents> Registration<T> {
    /// Tells `events` from now on. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub fn new(events: T) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            events,
            // INVARIANT: The last initializer, so the rest is there when the first call comes.
            block <- Opaque::try_ffi_init(|block: *mut bindings::notifier_block| {
                // SAFETY: `block` is pinned memory for a notifier block.
                unsafe {
                    block.write(bindings::notifier_block {
                        notifier_call: Some(Self::call),
                        next: ptr::null_mut(),
                        priority: 0,
                    });
                    to_result(bindings::bus_register_notifier(
                        &raw const bindings::pci_bus_type,
                        block,
                    ))
                }
            }),
            _pin: PhantomPinned,
        })
    }

    /// What the events are told to.
    pub fn events(&self) -> &T {
        &self.events
    }

    /// Called by the bus.
    ///
    /// # Safety
    ///
    /// `block` is that of a registration, and `device` a device whose lock is held if `event` says
    /// so.
    unsafe extern "C" fn call(
        block: *mut bindings::notifier_block,
        event: usize,
        device: *mut c_void,
    ) -> i32 {
        // SAFETY: By the safety requirements; `Opaque` is transparent.
        let (this, device) = unsafe {
            let this: *const Self = kernel::container_of!(Opaque::cast_from(block), Self, block);

            (&*this, Device::from_raw(device.cast()))
        };
        let Some(pci) = PciDevice::from_device(device) else {
            return bindings::NOTIFY_DONE as i32;
        };

        match event as u32 {
            bindings::bus_notifier_event_BUS_NOTIFY_BIND_DRIVER => {
                // SAFETY: drivers/base/dd.c sends this event with the lock of the device held.
                let locked = unsafe { LockedDevice::assume(device) };

                this.events.bind(&pci, &locked);
            }
            bindings::bus_notifier_event_BUS_NOTIFY_UNBIND_DRIVER => {
                // SAFETY: As above.
                let locked = unsafe { LockedDevice::assume(device) };

                this.events.unbind(&pci, &locked);
            }
            bindings::bus_notifier_event_BUS_NOTIFY_UNBOUND_DRIVER => {
                // SAFETY: As above.
                let locked = unsafe { LockedDevice::assume(device) };

                this.events.unbound(&pci, &locked);
            }
            bindings::bus_notifier_event_BUS_NOTIFY_DRIVER_NOT_BOUND => this.events.not_bound(&pci),
            _ => {}
        }

        bindings::NOTIFY_DONE as i32
    }
}

#[pinned_drop]
impl<T: DriverEvents> PinnedDrop for Registration<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariant the block is registered; no call is under way after this.
        unsafe {
            bindings::bus_unregister_notifier(&raw const bindings::pci_bus_type, self.block.get())
        };
    }
}
