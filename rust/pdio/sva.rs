// SPDX-License-Identifier: GPL-2.0

//! Devices that translate by the page tables of a process.
//!
//! Compiled into the modules that use it: not every kernel that the others load into has it.
//!
//! C header: [`include/linux/iommu.h`](srctree/include/linux/iommu.h)

use core::ptr::NonNull;

use kernel::{
    error::from_err_ptr,
    mm::MmWithUser,
    prelude::*, //
};

use crate::{
    bindings,
    device::DmaDevice, //
};

/// A device and the process by whose page tables it translates, under the PASID of the process.
///
/// # Invariants
///
/// `bond` is valid and ours to end.
pub struct SvaBond {
    bond: NonNull<bindings::iommu_sva>,
    /// Keeps the device.
    _device: DmaDevice,
}

// SAFETY: A bond belongs to no thread.
unsafe impl Send for SvaBond {}

// SAFETY: All that can be done with a shared one is to ask for its PASID, which does not change.
unsafe impl Sync for SvaBond {}

impl SvaBond {
    /// Makes one. May sleep.
    ///
    /// # Errors
    ///
    /// `ENODEV` or `EOPNOTSUPP` if the IOMMU cannot walk the page tables of the CPU, `ENOSPC` if no
    /// PASID is left, `ENOMEM`.
    #[inline]
    pub fn new(device: &DmaDevice, mm: &MmWithUser) -> Result<Self> {
        // SAFETY: The device is valid, and the address space has users.
        let bond = unsafe { bindings::iommu_sva_bind_device(device.as_raw(), mm.as_raw()) };

        // INVARIANT: This was just made for us.
        Ok(Self {
            bond: NonNull::new(from_err_ptr(bond)?).ok_or(ENOMEM)?,
            _device: device.clone(),
        })
    }

    /// The PASID of the process.
    #[inline]
    pub fn pasid(&self) -> u32 {
        // SAFETY: By the type invariant.
        unsafe { bindings::iommu_sva_get_pasid(self.bond.as_ptr()) }
    }
}

impl Drop for SvaBond {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: By the type invariant. This waits for what the device has asked for.
        unsafe { bindings::iommu_sva_unbind_device(self.bond.as_ptr()) };
    }
}
