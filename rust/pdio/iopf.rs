// SPDX-License-Identifier: GPL-2.0

//! Devices that work in the address space of a process: what `iopf.ko` offers to drivers.
//!
//! A driver registers its device, binds the process that has opened it, and gives the device the
//! PASID of the binding:
//!
//! ```ignore
//! let device = iopf::Device::register(&bound)?;
//! let binding = device.bind(None, queue.clone())?;
//!
//! queue.start(binding.pasid());
//! ```
//!
//! C header: `iopf/include/linux/iopf.h`

use core::{
    ffi::c_void,
    fmt,
    ptr::NonNull, //
};

use kernel::{
    error::{
        from_err_ptr,
        to_result, //
    },
    prelude::*,
    sync::Arc, //
};

use crate::{
    bindings,
    device::BoundDevice, //
};

/// How a device translates the addresses of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// By the page tables of the CPU.
    Sva,
    /// By a copy of them that holds what the device has used, within a budget, and is kept exact.
    Mirror,
    /// By a table of what was pinned.
    Pinned,
}

impl Mode {
    /// All of them, in the order in which they are shown.
    pub const ALL: [Self; 3] = [Self::Sva, Self::Mirror, Self::Pinned];

    /// The name in sysfs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sva => "sva",
            Self::Mirror => "mirror",
            Self::Pinned => "pinned",
        }
    }

    /// The number in `iopf.h`.
    pub(crate) const fn as_raw(self) -> bindings::iopf_mode {
        match self {
            Self::Sva => bindings::iopf_mode_IOPF_MODE_SVA,
            Self::Mirror => bindings::iopf_mode_IOPF_MODE_MIRROR,
            Self::Pinned => bindings::iopf_mode_IOPF_MODE_PINNED,
        }
    }

    /// The mode of a number in `iopf.h`; `None` is that of the device.
    ///
    /// # Errors
    ///
    /// `EINVAL`: there is no such number.
    pub(crate) fn from_raw(mode: bindings::iopf_mode) -> Result<Option<Self>> {
        match mode {
            bindings::iopf_mode_IOPF_MODE_DEVICE => Ok(None),
            bindings::iopf_mode_IOPF_MODE_SVA => Ok(Some(Self::Sva)),
            bindings::iopf_mode_IOPF_MODE_MIRROR => Ok(Some(Self::Mirror)),
            bindings::iopf_mode_IOPF_MODE_PINNED => Ok(Some(Self::Pinned)),
            _ => Err(EINVAL),
        }
    }
}

impl TryFrom<&str> for Mode {
    type Error = Error;

    fn try_from(name: &str) -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|mode| mode.name() == name)
            .ok_or(EINVAL)
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a driver does when an address space that its device uses goes.
pub trait Stop: Send + Sync {
    /// Keeps the device from beginning any access to the address space, and returns when it has been
    /// told so. Called once: when the address space goes, or, if that is earlier, when the binding
    /// is dropped, or before the driver is unbound. May sleep. Must not wait for answers to page
    /// requests, and not take a lock that is held while a process is bound or unbound.
    fn stop(&self);
}

/// A device to which processes can be bound, until it and all its bindings are dropped. What is bound
/// when its driver is about to be unbound, reaches nothing any more from then on.
///
/// # Invariants
///
/// `device` is registered and ours.
pub struct Device {
    device: NonNull<bindings::iopf_device>,
}

// SAFETY: A registered device belongs to no thread.
unsafe impl Send for Device {}

// SAFETY: `iopf` does its own locking.
unsafe impl Sync for Device {}

// All that follows is compiled into the crate of who calls it: the symbols are in iopf.ko, which not
// every module needs.
impl Device {
    /// Registers a PCI function: `iopf_register_device()`. May sleep.
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP` if it or its IOMMU lacks PASID or PRI, which the kernel log names;
    /// `ENOMEM`.
    #[inline]
    pub fn register(device: &BoundDevice<'_>) -> Result<Arc<Self>> {
        // SAFETY: The device is valid, and a driver is bound.
        let device = from_err_ptr(unsafe { bindings::iopf_register_device(device.as_raw()) })?;
        // INVARIANT: It was just registered.
        let device = Self {
            device: NonNull::new(device).ok_or(ENOMEM)?,
        };

        Ok(Arc::new(device, GFP_KERNEL)?)
    }

    /// Binds the current process: `iopf_bind()`. Without a mode it is that which the user has
    /// chosen for the device. May sleep.
    ///
    /// # Errors
    ///
    /// `EINVAL` from a thread without an address space, `ENODEV` if the driver is being unbound,
    /// `ENOSPC` if no PASID is left, `ENOMEM`, and what the IOMMU driver says.
    #[inline]
    pub fn bind<T: Stop>(
        self: &Arc<Self>,
        mode: Option<Mode>,
        context: Arc<T>,
    ) -> Result<Binding<T>> {
        let mode = mode.map_or(bindings::iopf_mode_IOPF_MODE_DEVICE, Mode::as_raw);
        // SAFETY: By the type invariant the device is registered; the operations are static, and
        // are called with what `context` points to, which the binding keeps.
        let binding = from_err_ptr(unsafe {
            bindings::iopf_bind(
                self.device.as_ptr(),
                mode,
                &Binding::<T>::OPS,
                Arc::as_ptr(&context).cast_mut().cast(),
            )
        })?;

        // INVARIANT: It was just made.
        Ok(Binding {
            binding: NonNull::new(binding).ok_or(ENOMEM)?,
            _context: context,
            _device: self.clone(),
        })
    }
}

impl Drop for Device {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: By the type invariant; each binding has a reference, so there is none.
        unsafe { bindings::iopf_unregister_device(self.device.as_ptr()) };
    }
}

/// A process that is bound to a device, until this is dropped, which may sleep. Before that the
/// driver must have made the device forget the PASID.
///
/// # Invariants
///
/// `binding` is one, and ours; its operations are called with what `_context` keeps.
pub struct Binding<T: Stop> {
    binding: NonNull<bindings::iopf_binding>,
    _context: Arc<T>,
    _device: Arc<Device>,
}

// SAFETY: A binding belongs to no thread.
unsafe impl<T: Stop> Send for Binding<T> {}

// SAFETY: `iopf` does its own locking.
unsafe impl<T: Stop> Sync for Binding<T> {}

impl<T: Stop> Binding<T> {
    const OPS: bindings::iopf_binding_ops = bindings::iopf_binding_ops {
        stop: Some(Self::stop),
    };

    /// Called by `iopf`.
    ///
    /// # Safety
    ///
    /// `context` points to a valid `T`.
    unsafe extern "C" fn stop(context: *mut c_void) {
        // SAFETY: By the safety requirement.
        unsafe { &*context.cast::<T>() }.stop();
    }

    /// The PASID, which does not change: `iopf_pasid()`.
    #[inline]
    pub fn pasid(&self) -> u32 {
        // SAFETY: By the type invariant.
        unsafe { bindings::iopf_pasid(self.binding.as_ptr()) }
    }

    /// The mode, which does not change: `iopf_mode()`.
    ///
    /// # Errors
    ///
    /// `EINVAL`: it is one that this crate does not know.
    #[inline]
    pub fn mode(&self) -> Result<Mode> {
        // SAFETY: By the type invariant.
        Mode::from_raw(unsafe { bindings::iopf_mode(self.binding.as_ptr()) })?.ok_or(EINVAL)
    }

    /// Sets what the device may keep of the process, in bytes, if that is less than what the user lets
    /// every binding keep: `iopf_set_budget()`. May sleep.
    ///
    /// # Errors
    ///
    /// `EINVAL` if it is 0, not in whole pages or above 2^52, or the mode is [`Mode::Sva`].
    #[inline]
    pub fn set_budget(&self, bytes: u64) -> Result {
        // SAFETY: By the type invariant.
        to_result(unsafe { bindings::iopf_set_budget(self.binding.as_ptr(), bytes) })
    }

    /// Pins a range of the current process, in whole pages: `iopf_pin()`. May sleep.
    ///
    /// # Errors
    ///
    /// `EINVAL` if the mode is not [`Mode::Pinned`] or the range is malformed, `EPERM` from another
    /// process, `EEXIST` if part of the range is pinned, `EFAULT` if part of it is not mapped,
    /// `ENOMEM`, also if a limit is exceeded.
    #[inline]
    pub fn pin(&self, start: usize, len: usize) -> Result {
        // SAFETY: By the type invariant.
        to_result(unsafe { bindings::iopf_pin(self.binding.as_ptr(), start, len) })
    }

    /// Unpins a range that was pinned so: `iopf_unpin()`. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOENT`: it was not.
    #[inline]
    pub fn unpin(&self, start: usize, len: usize) -> Result {
        // SAFETY: By the type invariant.
        to_result(unsafe { bindings::iopf_unpin(self.binding.as_ptr(), start, len) })
    }
}

impl<T: Stop> Drop for Binding<T> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: By the type invariant; this is the last use.
        unsafe { bindings::iopf_unbind(self.binding.as_ptr()) };
    }
}
