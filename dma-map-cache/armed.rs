// SPDX-License-Identifier: GPL-2.0

//! Which PCI addresses are ours, and the moments at which a device there is taken and given back.
//!
//! An address is armed once; whenever a driver is bound to the device there, we are in between.
//! The device is taken after the kernel has configured its DMA and before probe, and given back
//! after the driver and all that it held are gone: at any other time the domain or the operations
//! could be replaced under a running driver, or ours could stay behind under the kernel's domain.

use core::fmt::Write;

use kernel::{
    new_mutex,
    prelude::*,
    str::Formatter,
    sync::{
        Arc,
        Mutex, //
    }, //
};
use pdio::{
    bus::DriverEvents,
    device::LockedDevice,
    dma_map_ops::{
        DmaOps,
        Installed, //
    },
    error::not_supported,
    iommu,
    pci::{
        Address,
        PciDevice, //
    }, //
};

use crate::{
    attachment::Attachment,
    attributes::Attributes,
    strategy::Kind, //
};

/// A device that is ours while a driver is bound.
struct Attached {
    // Dropped first: nobody reads or writes a file when the rest goes.
    attributes: Attributes,
    installed: Installed<Attachment>,
}

/// A PCI address that is ours.
struct Armed {
    address: Address,
    /// The strategy, kept while no driver is bound.
    kind: Kind,
    /// It is about to be forgotten: drivers are bound without us.
    is_leaving: bool,
    /// Why the last driver was bound without us.
    failure: Option<Error>,
    attached: Option<Attached>,
}

/// The addresses that are ours.
///
/// Lock order: `control`, then the lock of a device, then `armed`. The notifier holds the second
/// when it asks for the third, so nobody binds or unbinds a driver with the third held.
#[pin_data]
pub(crate) struct Registry {
    /// Held while a user attaches or detaches.
    #[pin]
    control: Mutex<()>,
    #[pin]
    armed: Mutex<KVec<Armed>>,
}

impl Registry {
    /// With no address.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            control <- new_mutex!(()),
            armed <- new_mutex!(KVec::new()),
        })
    }

    /// Arms an address and binds the driver of the device there anew. May sleep.
    ///
    /// # Errors
    ///
    /// `ENODEV`: nothing is there. `EBUSY`: it is armed already, its IOMMU group has other devices,
    /// or its driver does DMA without the kernel. `EOPNOTSUPP`: no IOMMU. Otherwise what went
    /// wrong on the way; the device is as it was then, and the kernel log says at which step.
    pub(crate) fn attach(&self, address: Address) -> Result {
        let _control = self.control.lock();
        let pci = PciDevice::find(address).ok_or(ENODEV)?;

        self.check(&pci)?;
        self.armed.lock().push(
            Armed {
                address,
                kind: Kind::DEFAULT,
                is_leaving: false,
                failure: None,
                attached: None,
            },
            GFP_KERNEL,
        )?;

        let device = pci.dma_device();
        let Some(driver) = device.release_driver() else {
            return Ok(());
        };
        let bound = device.bind_driver(&driver);
        let failure = self
            .armed
            .lock()
            .iter()
            .find(|armed| armed.address == address)
            .and_then(|armed| armed.failure);

        match (bound, failure) {
            (Ok(()), None) => Ok(()),
            (Ok(()), Some(error)) => {
                // The driver runs, on the kernel's mappings, unless somebody has bound it anew.
                let _ = self.give_back(address);
                Err(error)
            }
            (Err(error), _) => {
                kernel::dev_err!(
                    pci.dma_device().device(),
                    "dma-map-cache: the driver's probe failed under us; binding it without us\n"
                );
                let _ = self.give_back(address);
                // Why it could not be attached says more than why the driver still cannot be bound.
                let _ = device.bind_driver(&driver);
                Err(error)
            }
        }
    }

    /// Whether a device can be ours.
    fn check(&self, pci: &PciDevice) -> Result {
        let address = pci.address();
        let device = pci.dma_device();

        if self.is_armed(address) {
            kernel::dev_err!(device.device(), "dma-map-cache: is attached already\n");
            return Err(EBUSY);
        }
        if pci.driver_manages_dma() {
            kernel::dev_err!(
                device.device(),
                "dma-map-cache: its driver does DMA by itself (VFIO?); unbind it first\n"
            );
            return Err(EBUSY);
        }
        match iommu::group_size(&device) {
            0 => {
                kernel::dev_err!(
                    device.device(),
                    "dma-map-cache: is behind no IOMMU; turn it on in the firmware and with intel_iommu=on\n"
                );
                Err(not_supported())
            }
            1 => Ok(()),
            n => {
                kernel::dev_err!(
                    device.device(),
                    "dma-map-cache: shares its IOMMU group with {} others; they would have to come along\n",
                    n - 1
                );
                Err(EBUSY)
            }
        }
    }

    /// Gives a device back and forgets its address. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOENT`: the address is not armed. Otherwise what the driver says that is bound without
    /// us.
    pub(crate) fn detach(&self, address: Address) -> Result {
        let _control = self.control.lock();

        if !self.is_armed(address) {
            return Err(ENOENT);
        }
        self.give_back(address)
    }

    /// Gives all devices back, in the order in which they were attached. May sleep.
    pub(crate) fn detach_all(&self) {
        let _control = self.control.lock();

        loop {
            let first = self.armed.lock().first().map(|armed| armed.address);
            let Some(address) = first else {
                return;
            };

            // A driver that cannot be bound has said why; the others must go back all the same.
            let _ = self.give_back(address);
        }
    }

    /// Gives a device back. The caller holds `control`.
    fn give_back(&self, address: Address) -> Result {
        // From here on it does not become ours again, whoever binds its driver meanwhile.
        self.leave(address);

        let Some(pci) = PciDevice::find(address) else {
            self.disarm(address);
            return Ok(());
        };
        let device = pci.dma_device();

        if !self.is_attached(address) {
            self.disarm(address);
            return Ok(());
        }

        let driver = device.release_driver();

        // Nothing is left to do if a driver was bound: the notifier has done it.
        self.release(&pci);
        self.disarm(address);

        let bound = driver.map_or(Ok(()), |driver| device.bind_driver(&driver));

        match bound {
            // Somebody else was faster.
            Err(_) if device.is_bound() => Ok(()),
            bound => bound.inspect_err(|error| {
                kernel::dev_warn!(
                    device.device(),
                    "dma-map-cache: its driver could not be bound again: {error:?}\n"
                );
            }),
        }
    }

    /// Lets drivers be bound without us at an address.
    fn leave(&self, address: Address) {
        let mut all = self.armed.lock();

        if let Some(armed) = all.iter_mut().find(|armed| armed.address == address) {
            armed.is_leaving = true;
        }
    }

    /// Whether an address is ours.
    fn is_armed(&self, address: Address) -> bool {
        self.armed
            .lock()
            .iter()
            .any(|armed| armed.address == address)
    }

    /// Whether the device at an address is ours now.
    fn is_attached(&self, address: Address) -> bool {
        self.armed
            .lock()
            .iter()
            .any(|armed| armed.address == address && armed.attached.is_some())
    }

    /// Forgets an address that is [left](Self::leave), and the device of which is not ours any more.
    fn disarm(&self, address: Address) {
        self.armed.lock().retain(|armed| armed.address != address);
    }

    /// Takes back a device that has no driver. May sleep.
    fn release(&self, pci: &PciDevice) {
        let device = pci.dma_device();
        let guard = device.lock();

        if !device.is_bound() {
            self.let_go(pci.address(), &guard.device());
        }
    }

    /// Gives the device its old operations and domain, if it is ours.
    fn let_go(&self, address: Address, device: &LockedDevice<'_>) {
        let attached = self
            .armed
            .lock()
            .iter_mut()
            .find(|armed| armed.address == address)
            .and_then(|armed| {
                let attached = armed.attached.take()?;

                armed.kind = attached.installed.ops().engine().chosen();
                Some(attached)
            });

        if let Some(attached) = attached {
            attached.let_go(device);
        }
    }

    /// Writes a line for each address: whether its device is ours now, and its strategy.
    pub(crate) fn show(&self, out: &mut Formatter<'_>) -> Result {
        for (index, armed) in self.armed.lock().iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            let address = armed.address;

            match &armed.attached {
                Some(attached) => write!(
                    out,
                    "{separator}{address} attached {}",
                    attached.installed.ops().engine().chosen()
                ),
                None => write!(out, "{separator}{address} armed {}", armed.kind),
            }
            .map_err(|_| EFBIG)?;
        }
        Ok(())
    }
}

impl Attached {
    /// Takes a device: its domain, then its operations, then a directory for its user.
    ///
    /// # Errors
    ///
    /// What went wrong; the device is as it was.
    fn take(pci: &PciDevice, device: &LockedDevice<'_>, kind: Kind) -> Result<Self> {
        let failed = |step: &'static str| {
            move |error: Error| {
                kernel::dev_err!(
                    pci.dma_device().device(),
                    "dma-map-cache: {step} failed: {error:?}\n"
                );
                error
            }
        };
        let ops = Attachment::new(pci).map_err(failed("setting up a domain"))?;

        ops.attach_domain(device)
            .map_err(failed("attaching the domain"))?;

        let installed = match DmaOps::install(ops.clone(), device) {
            Ok(installed) => installed,
            Err(error) => {
                ops.detach_domain(device);
                return Err(failed("installing DMA operations")(error));
            }
        };
        let ready = ops
            .switch(kind)
            .map_err(failed("starting the strategy"))
            .and_then(|()| Attributes::new(&ops).map_err(failed("making sysfs files")));

        match ready {
            Ok(attributes) => Ok(Self {
                attributes,
                installed,
            }),
            Err(error) => {
                installed.remove(device);
                ops.detach_domain(device);
                Err(error)
            }
        }
    }

    /// Gives the device back.
    fn let_go(self, device: &LockedDevice<'_>) {
        let ops = self.installed.ops().clone();

        drop(self.attributes);
        self.installed.remove(device);
        ops.detach_domain(device);
    }
}

/// The registry as the bus knows it.
pub(crate) struct Events(pub(crate) Arc<Registry>);

impl DriverEvents for Events {
    fn bind(&self, pci: &PciDevice, device: &LockedDevice<'_>) {
        let address = pci.address();

        if !self.0.is_armed(address) {
            return;
        }

        // A probe that failed may have left us in place, and while no driver is bound others may
        // have put another domain under us.
        self.0.let_go(address, device);
        if pci.driver_manages_dma() {
            return;
        }

        let mut armed = self.0.armed.lock();

        if let Some(armed) = armed
            .iter_mut()
            .find(|armed| armed.address == address && !armed.is_leaving)
        {
            match Attached::take(pci, device, armed.kind) {
                Ok(attached) => {
                    armed.attached = Some(attached);
                    armed.failure = None;
                }
                Err(error) => armed.failure = Some(error),
            }
        }
    }

    fn unbound(&self, pci: &PciDevice, device: &LockedDevice<'_>) {
        self.0.let_go(pci.address(), device);
    }

    fn not_bound(&self, _pci: &PciDevice) {
        // The resources of the failed probe are still there and may be ours: they are given back
        // by the kernel after this. What is left of us is let go at the next bind or detach.
    }
}
