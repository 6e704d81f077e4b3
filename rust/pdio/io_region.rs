// SPDX-License-Identifier: GPL-2.0

//! Ports of the host that a module has for itself.
//!
//! C header: [`include/linux/ioport.h`](srctree/include/linux/ioport.h)

use kernel::prelude::*;

use crate::{
    bindings,
    kvm::Window, //
};

/// Ports that are for the owner of a `Self` alone. What a device of which these are can do by DMA is for
/// others to limit.
///
/// # Safety
///
/// The ports of [`HostPorts::window`] are reserved as long as the object is there, and always the same.
pub unsafe trait HostPorts: Send + Sync {
    /// Which ports these are.
    fn window(&self) -> Window;
}

/// Ports of no device in particular, reserved until this is dropped.
///
/// # Invariants
///
/// The ports are reserved.
pub struct IoRegion(Window);

impl IoRegion {
    /// Reserves ports. May sleep.
    ///
    /// # Errors
    ///
    /// `EBUSY`: somebody has one of them.
    pub fn reserve(window: Window, name: &'static CStr) -> Result<Self> {
        // SAFETY: The name lives as long as the module does, which gives the ports back before.
        let region = unsafe {
            bindings::__request_region(
                &raw mut bindings::ioport_resource,
                window.first().into(),
                window.count().into(),
                name.as_char_ptr(),
                0,
            )
        };

        match region.is_null() {
            // INVARIANT: Just done.
            false => Ok(Self(window)),
            true => Err(EBUSY),
        }
    }
}

// SAFETY: By the type invariant.
unsafe impl HostPorts for IoRegion {
    fn window(&self) -> Window {
        self.0
    }
}

impl Drop for IoRegion {
    fn drop(&mut self) {
        // SAFETY: By the type invariant.
        unsafe {
            bindings::__release_region(
                &raw mut bindings::ioport_resource,
                self.0.first().into(),
                self.0.count().into(),
            );
        }
    }
}
