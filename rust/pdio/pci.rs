// SPDX-License-Identifier: GPL-2.0

//! PCI devices by address.
//!
//! C header: [`include/linux/pci.h`](srctree/include/linux/pci.h)

use core::{
    ffi::c_void,
    fmt,
    mem,
    ops::RangeInclusive,
    ptr, //
};

use kernel::{
    device::Device,
    prelude::*,
    sync::aref::ARef, //
};

use crate::{
    bindings,
    device::{
        raw,
        DmaDevice, //
    }, //
};

/// A vendor that the `kernel` crate has no name for.
pub const fn vendor(id: u16) -> kernel::pci::Vendor {
    // SAFETY: The type is a transparent wrapper of the number, and any number is valid.
    unsafe { mem::transmute(id) }
}

/// Where a PCI function is: domain, bus, device and function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// PCI domain (segment).
    domain: u32,
    /// Bus number.
    bus: u8,
    /// Device number << 3 | function number.
    devfn: u8,
}

impl TryFrom<&str> for Address {
    type Error = Error;

    /// Reads what `lspci -D` prints: `0000:00:02.0`.
    fn try_from(text: &str) -> Result<Self> {
        let number = |digits: &str, len: RangeInclusive<usize>, max: u32| {
            let hex = digits.bytes().all(|byte| byte.is_ascii_hexdigit());

            u32::from_str_radix(digits, 16)
                .ok()
                .filter(|&number| hex && len.contains(&digits.len()) && number <= max)
                .ok_or(EINVAL)
        };
        let (domain, rest) = text.split_once(':').ok_or(EINVAL)?;
        let (bus, rest) = rest.split_once(':').ok_or(EINVAL)?;
        let (device, function) = rest.split_once('.').ok_or(EINVAL)?;
        let devfn = number(device, 2..=2, 0x1f)? << 3 | number(function, 1..=1, 7)?;

        Ok(Self {
            domain: number(domain, 4..=8, i32::MAX as u32)?,
            bus: u8::try_from(number(bus, 2..=2, 0xff)?).map_err(|_| EINVAL)?,
            devfn: u8::try_from(devfn).map_err(|_| EINVAL)?,
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { domain, bus, devfn } = self;

        write!(f, "{domain:04x}:{bus:02x}:{:02x}.{}", devfn >> 3, devfn & 7)
    }
}

/// A PCI function that is there.
///
/// # Invariants
///
/// The device is a `struct pci_dev`'s.
#[derive(Clone)]
pub struct PciDevice {
    device: ARef<Device>,
}

impl PciDevice {
    /// The function at an address. May sleep.
    pub fn find(address: Address) -> Option<Self> {
        // SAFETY: The function returns null or a device with a reference that is ours now.
        unsafe {
            let pci = bindings::pci_get_domain_bus_and_slot(
                address.domain as i32,
                address.bus.into(),
                address.devfn.into(),
            );
            let device = ptr::NonNull::new(pci)?.as_ptr();

            // INVARIANT: The device is that of a `struct pci_dev`.
            Some(Self {
                device: ARef::from_raw(ptr::NonNull::new_unchecked(
                    (&raw mut (*device).dev).cast(),
                )),
            })
        }
    }

    /// Takes a device for a PCI function, if it is one.
    pub fn from_device(device: &Device) -> Option<Self> {
        // SAFETY: The device is valid; its bus is set when it is made.
        let bus = unsafe { (*raw(device)).bus };

        // INVARIANT: A device on the PCI bus is that of a `struct pci_dev`.
        ptr::eq(bus, &raw const bindings::pci_bus_type).then(|| Self {
            device: device.into(),
        })
    }

    /// The raw function.
    pub(crate) fn as_raw(&self) -> *mut bindings::pci_dev {
        // SAFETY: By the type invariant the device is embedded in a `struct pci_dev`.
        unsafe { kernel::container_of!(raw(&self.device), bindings::pci_dev, dev) }
    }

    /// Where it is.
    pub fn address(&self) -> Address {
        // SAFETY: The function is valid; its bus and number are constant.
        unsafe {
            let pci = self.as_raw();
            let bus = (*pci).bus;

            Address {
                domain: bindings::pdio_pci_domain_nr(bus) as u32,
                bus: (*bus).number,
                devfn: (*pci).devfn as u8,
            }
        }
    }

    /// Whether it is this device.
    pub fn is(&self, device: &DmaDevice) -> bool {
        ptr::eq(&*self.device, device.device())
    }

    /// As a device that does DMA.
    pub fn dma_device(&self) -> DmaDevice {
        DmaDevice::new(&self.device)
    }

    /// Lets the function do DMA. May sleep.
    pub fn start_dma(&self) {
        // SAFETY: The function is valid.
        unsafe { bindings::pci_set_master(self.as_raw()) };
    }

    /// Keeps the function from doing DMA. May sleep.
    pub fn stop_dma(&self) {
        // SAFETY: The function is valid.
        unsafe { bindings::pci_clear_master(self.as_raw()) };
    }

    /// Whether the firmware or the user does not trust the device.
    pub fn is_untrusted(&self) -> bool {
        // SAFETY: The function is valid; the bit is set when it is found.
        unsafe { (*self.as_raw()).untrusted() != 0 }
    }

    /// Whether the driver that is bound, as those of VFIO do, sets up DMA by itself.
    pub fn driver_manages_dma(&self) -> bool {
        // SAFETY: The function is valid.
        unsafe { bindings::pdio_pci_driver_managed_dma(self.as_raw()) }
    }

    /// Whether the device may tell address spaces apart by PASID: it can, and its IOMMU lets it.
    pub fn pasid_is_enabled(&self) -> bool {
        // SAFETY: The function is valid.
        unsafe { bindings::pdio_pci_pasid_enabled(self.as_raw()) }
    }

    /// Whether the device may ask for pages (PRI): it can, and its IOMMU lets it.
    pub fn pri_is_enabled(&self) -> bool {
        // SAFETY: The function is valid.
        unsafe { bindings::pdio_pci_pri_enabled(self.as_raw()) }
    }

    /// Calls `f` with each range of bus addresses that the host bridge routes to devices: what is
    /// sent there may never reach the IOMMU.
    pub fn for_each_bridge_window(&self, mut f: &mut dyn FnMut(RangeInclusive<u64>)) {
        /// Calls back.
        ///
        /// # Safety
        ///
        /// `f` points to a `&mut dyn FnMut(RangeInclusive<u64>)`.
        unsafe extern "C" fn call(f: *mut c_void, start: u64, last: u64) {
            // SAFETY: By the safety requirement of this function.
            let f = unsafe { &mut *f.cast::<&mut dyn FnMut(RangeInclusive<u64>)>() };

            f(start..=last);
        }

        // SAFETY: The function is valid, and the callback gets the pointer that it expects, which
        // is valid during the call.
        unsafe {
            bindings::pdio_pci_walk_bridge_windows(self.as_raw(), Some(call), (&raw mut f).cast())
        };
    }
}

// SAFETY: A reference to a device belongs to no thread.
unsafe impl Send for PciDevice {}

// SAFETY: All methods may be called by several threads at once.
unsafe impl Sync for PciDevice {}
