// SPDX-License-Identifier: GPL-2.0

//! What a device tells about DMA, and its lock.
//!
//! C header: [`include/linux/device.h`](srctree/include/linux/device.h)

use core::{
    ffi::c_void,
    marker::PhantomData,
    ptr, //
};

use kernel::{
    device::Device,
    error::to_result,
    prelude::*,
    sync::aref::ARef,
    types::NotThreadSafe, //
};

use crate::bindings;

/// A device that does DMA.
///
/// # Invariants
///
/// The device is valid as long as `self`.
#[derive(Clone)]
pub struct DmaDevice(ARef<Device>);

impl DmaDevice {
    /// A reference to a device.
    pub fn new(device: &Device) -> Self {
        Self(device.into())
    }

    /// The raw device.
    #[inline]
    pub(crate) fn as_raw(&self) -> *mut bindings::device {
        raw(&self.0)
    }

    /// The device.
    pub fn device(&self) -> &Device {
        &self.0
    }

    /// The last address that the bus lets devices send; 0 in C is no limit.
    pub fn bus_limit(&self) -> u64 {
        // SAFETY: The device is valid; the bus sets the limit before a driver is bound.
        match unsafe { (*self.as_raw()).bus_dma_limit } {
            0 => u64::MAX,
            limit => limit,
        }
    }

    /// Waits for the lock of the device, which keeps drivers from being bound and unbound. May
    /// sleep.
    pub fn lock(&self) -> DeviceGuard<'_> {
        // SAFETY: The device is valid.
        unsafe { bindings::pdio_device_lock(self.as_raw()) };

        // INVARIANT: The lock was just taken.
        DeviceGuard {
            device: self,
            _not_send: NotThreadSafe,
        }
    }

    /// Unbinds the driver, if there is one, and returns it, so that it can be bound again. May
    /// sleep.
    pub fn release_driver(&self) -> Option<Driver> {
        // SAFETY: The device is valid. The driver is only used as a name until `bind_driver`.
        let driver = unsafe { (*self.as_raw()).driver };

        // SAFETY: The device is valid, and its lock is not held by the caller, who could otherwise
        // not have called this without a deadlock.
        unsafe { bindings::device_release_driver(self.as_raw()) };
        (!driver.is_null()).then_some(Driver(driver))
    }

    /// Binds the driver that [`DmaDevice::release_driver`] returned, or, if that has gone
    /// meanwhile, the one that fits best. May sleep.
    ///
    /// # Errors
    ///
    /// What the driver's probe returns, and `ENODEV` if it does not want the device.
    pub fn bind_driver(&self, driver: &Driver) -> Result {
        /// What the walk over the drivers looks for, and what came of it.
        struct Wanted {
            device: *mut bindings::device,
            driver: *const bindings::device_driver,
            result: Option<i32>,
        }

        /// Binds the wanted driver when the walk, which keeps it from going away, comes to it.
        ///
        /// # Safety
        ///
        /// `driver` is valid, and `wanted` points to a `Wanted` with a valid device.
        unsafe extern "C" fn bind(
            driver: *mut bindings::device_driver,
            wanted: *mut c_void,
        ) -> i32 {
            // SAFETY: By the safety requirements.
            unsafe {
                let wanted = &mut *wanted.cast::<Wanted>();

                if !ptr::eq(driver, wanted.driver) {
                    return 0;
                }
                wanted.result = Some(bindings::device_driver_attach(driver, wanted.device));
                1
            }
        }

        let mut wanted = Wanted {
            device: self.as_raw(),
            driver: driver.0,
            result: None,
        };

        // SAFETY: The device and its bus are valid, and the callback gets what it expects.
        unsafe {
            bindings::bus_for_each_drv(
                (*self.as_raw()).bus,
                ptr::null_mut(),
                (&raw mut wanted).cast(),
                Some(bind),
            );
        }

        match wanted.result {
            Some(result) => to_result(result),
            // SAFETY: The device is valid.
            None => match unsafe { bindings::device_attach(self.as_raw()) } {
                1 => Ok(()),
                0 => Err(ENODEV),
                error => to_result(error),
            },
        }
    }

    /// Whether a driver is bound.
    pub fn is_bound(&self) -> bool {
        // SAFETY: The device is valid; a stale answer is as good as one that gets stale.
        unsafe { !ptr::read_volatile(&raw const (*self.as_raw()).driver).is_null() }
    }
}

/// A driver that was unbound from a device.
pub struct Driver(*const bindings::device_driver);

/// The lock of a device, held.
///
/// # Invariants
///
/// The lock is held by this thread until this is dropped.
pub struct DeviceGuard<'a> {
    device: &'a DmaDevice,
    _not_send: NotThreadSafe,
}

impl<'a> DeviceGuard<'a> {
    /// The device.
    pub fn device(&self) -> LockedDevice<'_> {
        // INVARIANT: By the type invariant the lock is held as long as `self`.
        LockedDevice {
            device: self.device.clone(),
            _locked: PhantomData,
        }
    }
}

impl Drop for DeviceGuard<'_> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant the lock is held by this thread.
        unsafe { bindings::pdio_device_unlock(self.device.as_raw()) };
    }
}

/// A device whose lock is held.
///
/// # Invariants
///
/// The lock of the device is held, by this thread or by its caller, for `'a`.
pub struct LockedDevice<'a> {
    device: DmaDevice,
    _locked: PhantomData<(&'a (), NotThreadSafe)>,
}

impl LockedDevice<'_> {
    /// Takes the word of a notifier that is called with the lock held.
    ///
    /// # Safety
    ///
    /// The lock of the device is held for the life of the value.
    pub(crate) unsafe fn assume(device: &Device) -> Self {
        // INVARIANT: By the safety requirement of this function.
        Self {
            device: DmaDevice::new(device),
            _locked: PhantomData,
        }
    }
}

impl<'a> LockedDevice<'a> {
    /// A device whose driver is being bound or unbound, which is done with the lock held.
    pub fn in_callback(device: &'a Device<kernel::device::Core<'_>>) -> Self {
        // INVARIANT: That is what the type of the device says.
        Self {
            device: DmaDevice::new(device),
            _locked: PhantomData,
        }
    }
}

impl LockedDevice<'_> {
    /// The device, if a driver is bound to it, which stays so.
    pub fn bound(&self) -> Option<BoundDevice<'_>> {
        // INVARIANT: No driver is unbound while the lock is held.
        self.is_bound().then(|| BoundDevice {
            device: self.device.clone(),
            _bound: PhantomData,
        })
    }
}

/// A device that a driver is bound to, so that it can do DMA. Unlike the lock it can be shared with
/// other threads.
///
/// # Invariants
///
/// A driver is bound to the device for `'a`.
pub struct BoundDevice<'a> {
    device: DmaDevice,
    _bound: PhantomData<&'a ()>,
}

impl<'a> BoundDevice<'a> {
    /// A device of which a driver knows that it is bound to it.
    pub fn new(device: &'a Device<kernel::device::Bound>) -> Self {
        // INVARIANT: That is what the type of the device says.
        Self {
            device: DmaDevice::new(device),
            _bound: PhantomData,
        }
    }
}

impl core::ops::Deref for BoundDevice<'_> {
    type Target = DmaDevice;

    fn deref(&self) -> &DmaDevice {
        &self.device
    }
}

impl core::ops::Deref for LockedDevice<'_> {
    type Target = DmaDevice;

    fn deref(&self) -> &DmaDevice {
        &self.device
    }
}

/// The raw device behind a reference.
#[inline]
pub(crate) fn raw(device: &Device) -> *mut bindings::device {
    // `Device` is a transparent wrapper of an `Opaque<bindings::device>`.
    ptr::from_ref(device).cast_mut().cast()
}
