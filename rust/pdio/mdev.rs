// SPDX-License-Identifier: GPL-2.0

//! Mediated devices: shares of a physical device, which a user makes in sysfs.
//!
//! C header: [`include/linux/mdev.h`](srctree/include/linux/mdev.h)

use core::{
    cell::UnsafeCell,
    marker::{
        PhantomData,
        PhantomPinned, //
    },
    ptr,
    sync::atomic::{
        AtomicUsize,
        Ordering::{
            AcqRel,
            Acquire,
            Release, //
        }, //
    }, //
};

use kernel::{
    device::Device,
    error::{
        from_result,
        to_result, //
    },
    ffi::{
        c_int,
        c_uint, //
    },
    prelude::*,
    sync::Arc,
    types::Opaque, //
};

use crate::{
    bindings,
    device::{
        raw,
        DmaDevice, //
    }, //
};

/// Who makes mediated devices.
pub trait Mediator: Sized + 'static {
    /// What is shared.
    type Parent: Send + Sync + 'static;

    /// A share of it, from when the user makes it until he removes it.
    type Share: Send + 'static;

    /// How many more can be made.
    fn available(parent: &Self::Parent) -> u32;

    /// The user makes one. May sleep.
    ///
    /// # Errors
    ///
    /// What his write to `create` is to return.
    fn probe(parent: &Arc<Self::Parent>, device: &MediatedDevice) -> Result<Self::Share>;
}

/// A device that a user has made.
///
/// # Invariants
///
/// The device is a `struct mdev_device`'s.
#[repr(transparent)]
pub struct MediatedDevice(Opaque<bindings::mdev_device>);

impl MediatedDevice {
    /// The device.
    pub fn device(&self) -> &Device {
        // SAFETY: By the type invariant.
        unsafe { Device::from_raw(&raw mut (*self.0.get()).dev) }
    }
}

/// The driver of mediated devices: one for a module, and as long as that.
pub struct Driver<T: Mediator> {
    raw: Opaque<bindings::mdev_driver>,
    /// How many parents there are, if it is registered, and [`Self::REGISTERED`].
    state: AtomicUsize,
    _mediator: PhantomData<T>,
}

// SAFETY: The C side does its own locking.
unsafe impl<T: Mediator> Sync for Driver<T> {}

impl<T: Mediator> Driver<T> {
    /// It is registered.
    const REGISTERED: usize = 1 << 31;

    /// A driver that is not registered.
    pub const fn new(name: &'static CStr, module: &'static ThisModule) -> Self {
        // SAFETY: All of it may be zero.
        let mut raw: bindings::mdev_driver = unsafe { core::mem::zeroed() };

        raw.device_api = bindings::VFIO_DEVICE_API_PCI_STRING.as_ptr().cast();
        raw.probe = Some(Self::probe);
        raw.remove = Some(Self::remove);
        raw.get_available = Some(Self::available);
        raw.driver.name = name.to_bytes_with_nul().as_ptr();
        raw.driver.mod_name = name.to_bytes_with_nul().as_ptr();
        raw.driver.owner = module.as_ptr();

        Self {
            raw: Opaque::new(raw),
            state: AtomicUsize::new(0),
            _mediator: PhantomData,
        }
    }

    /// Called by the bus.
    ///
    /// # Safety
    ///
    /// `device` is being made, with a type of a [`Parent`] of this driver.
    unsafe extern "C" fn probe(device: *mut bindings::mdev_device) -> c_int {
        from_result(|| {
            // SAFETY: By the safety requirement. `Opaque` is transparent.
            let (parent, mediated) = unsafe {
                (
                    Parent::<T>::from_kind((*device).type_),
                    &*device.cast::<MediatedDevice>(),
                )
            };
            let share = KBox::new(T::probe(&parent.shared, mediated)?, GFP_KERNEL)?;

            // SAFETY: The device is valid, and this is its driver.
            unsafe {
                bindings::dev_set_drvdata(&raw mut (*device).dev, KBox::into_raw(share).cast())
            };
            Ok(0)
        })
    }

    /// Called by the bus.
    ///
    /// # Safety
    ///
    /// `device` was made by [`Self::probe`].
    unsafe extern "C" fn remove(device: *mut bindings::mdev_device) {
        // SAFETY: This is what `probe` has left there.
        drop(unsafe {
            KBox::from_raw(bindings::dev_get_drvdata(&raw const (*device).dev).cast::<T::Share>())
        });
    }

    /// Called by sysfs.
    ///
    /// # Safety
    ///
    /// `kind` is that of a [`Parent`] of this driver.
    unsafe extern "C" fn available(kind: *mut bindings::mdev_type) -> c_uint {
        // SAFETY: By the safety requirement.
        T::available(&unsafe { Parent::<T>::from_kind(kind) }.shared)
    }

    /// One parent more.
    ///
    /// # Errors
    ///
    /// `ENODEV`: the driver is not registered.
    fn enter(&self) -> Result {
        self.state
            .fetch_update(AcqRel, Acquire, |state| {
                (state & Self::REGISTERED != 0).then(|| state + 1)
            })
            .map(drop)
            .map_err(|_| ENODEV)
    }

    /// One less.
    fn leave(&self) {
        self.state.fetch_sub(1, Release);
    }
}

/// That a driver is registered, until this is dropped: which waits for its parents to be gone.
///
/// # Invariants
///
/// It is registered.
pub struct Registration<T: Mediator>(&'static Driver<T>);

impl<T: Mediator> Registration<T> {
    /// Registers a driver. May sleep.
    ///
    /// # Errors
    ///
    /// `EBUSY`: there is a driver of that name. `ENOMEM`.
    pub fn new(driver: &'static Driver<T>) -> Result<Self> {
        if driver.state.load(Acquire) != 0 {
            return Err(EBUSY);
        }

        // SAFETY: The driver stays where it is. It is unregistered before its module goes.
        to_result(unsafe { bindings::mdev_register_driver(driver.raw.get()) })?;
        driver.state.store(Driver::<T>::REGISTERED, Release);
        // INVARIANT: Just done.
        Ok(Self(driver))
    }
}

impl<T: Mediator> Drop for Registration<T> {
    fn drop(&mut self) {
        while self
            .0
            .state
            .compare_exchange(Driver::<T>::REGISTERED, 0, AcqRel, Acquire)
            .is_err()
        {
            // SAFETY: This may sleep.
            unsafe { bindings::msleep(POLL_MS) };
        }
        // SAFETY: By the type invariant.
        unsafe { bindings::mdev_unregister_driver(self.0.raw.get()) };
    }
}

/// How often it is looked whether somebody has let go who was asked to.
const POLL_MS: u32 = 10;

/// A device that is shared, until this is dropped: which removes all shares, and waits for those that
/// are in use.
///
/// # Invariants
///
/// `parent` is registered, with `kind` as its only type; both stay where they are, and a reference to
/// `kind` is ours.
#[pin_data(PinnedDrop)]
pub struct Parent<T: Mediator> {
    shared: Arc<T::Parent>,
    driver: &'static Driver<T>,
    #[pin]
    kind: Opaque<bindings::mdev_type>,
    #[pin]
    kinds: UnsafeCell<[*mut bindings::mdev_type; 1]>,
    #[pin]
    parent: Opaque<bindings::mdev_parent>,
    #[pin]
    _pin: PhantomPinned,
}

// SAFETY: A parent belongs to no thread, and what is shared may be.
unsafe impl<T: Mediator> Send for Parent<T> {}

// SAFETY: It offers nothing.
unsafe impl<T: Mediator> Sync for Parent<T> {}

impl<T: Mediator> Parent<T> {
    /// Lets users make shares of a device, in `mdev_supported_types/DRIVER-KIND`. May sleep.
    ///
    /// # Errors
    ///
    /// `ENODEV`: the driver is not registered. `ENOMEM`, `EEXIST`.
    pub fn new(
        driver: &'static Driver<T>,
        device: &DmaDevice,
        kind_name: &'static CStr,
        pretty_name: &'static CStr,
        shared: Arc<T::Parent>,
    ) -> impl PinInit<Self, Error> {
        let device = device.clone();

        try_pin_init!(&this in Self {
            shared,
            driver: {
                driver.enter()?;
                driver
            },
            kind <- Opaque::ffi_init(|kind: *mut bindings::mdev_type| {
                // SAFETY: It is memory for a type, all of which may be zero.
                unsafe {
                    kind.write_bytes(0, 1);
                    (*kind).sysfs_name = kind_name.as_char_ptr();
                    (*kind).pretty_name = pretty_name.as_char_ptr();
                }
            }),
            // SAFETY: The memory of the whole object is there.
            kinds: UnsafeCell::new([unsafe { Opaque::cast_into(&raw const (*this.as_ptr()).kind) }]),
            // INVARIANT: The last initializer, so the rest is there when the first share is made.
            parent <- Opaque::try_ffi_init(move |parent: *mut bindings::mdev_parent| {
                // SAFETY: All of it is pinned memory that stays until the parent is unregistered, and
                // its driver is registered as long as it is entered.
                let result = to_result(unsafe {
                    let this = this.as_ptr();
                    let result = bindings::mdev_register_parent(
                        parent,
                        raw(device.device()),
                        driver.raw.get(),
                        (*this).kinds.get().cast(),
                        1,
                    );

                    if result == 0 {
                        bindings::kobject_get(&raw mut (*Opaque::cast_into(&raw const (*this).kind)).kobj);
                    }
                    result
                });

                if result.is_err() {
                    driver.leave();
                }
                result
            }),
            _pin: PhantomPinned,
        })
    }

    /// The parent that a type is of.
    ///
    /// # Safety
    ///
    /// `kind` is that of a registered `Self`, which stays so for `'a`.
    unsafe fn from_kind<'a>(kind: *mut bindings::mdev_type) -> &'a Self {
        // SAFETY: By the safety requirement; `Opaque` is transparent.
        unsafe { &*kernel::container_of!(Opaque::cast_from(kind), Self, kind) }
    }
}

#[pinned_drop]
impl<T: Mediator> PinnedDrop for Parent<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariant. A share that is still referred to by somebody refers to the
        // type, so that is waited for.
        unsafe {
            let kobject = &raw mut (*self.kind.get()).kobj;

            bindings::mdev_unregister_parent(self.parent.get());
            while ptr::read_volatile(&raw const (*kobject).kref.refcount.refs.counter) != 1 {
                bindings::msleep(POLL_MS);
            }
            bindings::kobject_put(kobject);
        }
        self.driver.leave();
    }
}
