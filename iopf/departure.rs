// SPDX-License-Identifier: GPL-2.0

//! The driver of a device goes: who is bound then is unbound before, whatever the driver does or forgets.
//!
//! Nothing else is early enough. What a driver has devices release for it (devres) comes after the
//! device was given back to the DMA API, and the IOMMU core wants no PASID to be attached by then: the
//! next driver would have the device reach memory of processes that it knows nothing of.

use kernel::{
    prelude::*,
    sync::Arc, //
};
use pdio::{
    bus::{
        DriverEvents,
        Registration, //
    },
    device::LockedDevice,
    pci::PciDevice, //
};

use crate::device::Device;

/// Waits for the driver of one device to go.
struct Events(Arc<Device>);

impl Events {
    /// A driver goes, of some device.
    fn gone(&self, pci: &PciDevice) {
        if pci.is(self.0.dma_device()) {
            self.0.close();
        }
    }
}

impl DriverEvents for Events {
    fn unbind(&self, pci: &PciDevice, _device: &LockedDevice<'_>) {
        self.gone(pci);
    }

    fn not_bound(&self, pci: &PciDevice) {
        self.gone(pci);
    }
}

/// Has a device closed when its driver goes, until this is dropped.
pub(crate) struct Departure {
    _events: Pin<KBox<Registration<Events>>>,
}

impl Departure {
    /// For a device with a driver, or one that is being probed. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(device: Arc<Device>) -> Result<Self> {
        Ok(Self {
            _events: KBox::pin_init(Registration::new(Events(device)), GFP_KERNEL)?,
        })
    }
}
