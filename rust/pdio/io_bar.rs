// SPDX-License-Identifier: GPL-2.0

//! The ports that a PCI function decodes, and where: a BAR can be moved while the function is in use.
//!
//! C headers: [`include/linux/ioport.h`](srctree/include/linux/ioport.h),
//! [`include/linux/pci.h`](srctree/include/linux/pci.h)

use core::arch::asm;

use kernel::{
    device::Core,
    error::to_result,
    ffi::{
        c_int,
        c_ulong, //
    },
    pci,
    prelude::*,
    sync::Arc,
    types::Opaque, //
};

use crate::{
    bindings,
    io_region::HostPorts,
    kvm::Window,
    pci::PciDevice, //
};

/// What keeps others from ports.
enum Reservation {
    /// They are those of the function's BAR, as the kernel has placed it.
    Home(PciDevice, c_int),
    /// They are in the way of no function of the bus.
    Away(KBox<Opaque<bindings::resource>>),
}

/// Ports at which a function can be, reserved until this is dropped.
///
/// They can be read and written whether it is there or not: a read is all ones then, and a write is
/// lost.
///
/// # Invariants
///
/// The ports of `window` are reserved.
pub struct BarPorts {
    window: Window,
    reservation: Reservation,
}

// SAFETY: A reservation belongs to no thread.
unsafe impl Send for BarPorts {}

// SAFETY: Any CPU may access ports at any time.
unsafe impl Sync for BarPorts {}

// SAFETY: By the type invariant.
unsafe impl HostPorts for BarPorts {
    fn window(&self) -> Window {
        self.window
    }
}

impl BarPorts {
    /// The port at `offset`, if `bytes` from there on are within the window.
    #[inline]
    fn port(&self, offset: u8, bytes: u16) -> Option<u16> {
        let offset = u16::from(offset);

        // A window does not wrap around.
        (offset + bytes <= self.window.count()).then(|| self.window.first() + offset)
    }

    /// Reads 8 bits. All ones if there is no such port, as for the other widths.
    #[inline]
    pub fn read8(&self, offset: u8) -> u8 {
        let mut value = u8::MAX;

        if let Some(port) = self.port(offset, 1) {
            // SAFETY: By the type invariant the port is ours.
            unsafe {
                asm!("in al, dx", out("al") value, in("dx") port, options(nostack, preserves_flags))
            };
        }
        value
    }

    /// Reads 16 bits.
    #[inline]
    pub fn read16(&self, offset: u8) -> u16 {
        let mut value = u16::MAX;

        if let Some(port) = self.port(offset, 2) {
            // SAFETY: By the type invariant the ports are ours.
            unsafe {
                asm!("in ax, dx", out("ax") value, in("dx") port, options(nostack, preserves_flags))
            };
        }
        value
    }

    /// Reads 32 bits.
    #[inline]
    pub fn read32(&self, offset: u8) -> u32 {
        let mut value = u32::MAX;

        if let Some(port) = self.port(offset, 4) {
            // SAFETY: By the type invariant the ports are ours.
            unsafe {
                asm!("in eax, dx", out("eax") value, in("dx") port, options(nostack, preserves_flags))
            };
        }
        value
    }

    /// Writes 8 bits. Nothing happens if there is no such port, as for the other widths.
    #[inline]
    pub fn write8(&self, offset: u8, value: u8) {
        if let Some(port) = self.port(offset, 1) {
            // SAFETY: By the type invariant the port is ours.
            unsafe {
                asm!("out dx, al", in("al") value, in("dx") port, options(nostack, preserves_flags))
            };
        }
    }

    /// Writes 16 bits.
    #[inline]
    pub fn write16(&self, offset: u8, value: u16) {
        if let Some(port) = self.port(offset, 2) {
            // SAFETY: By the type invariant the ports are ours.
            unsafe {
                asm!("out dx, ax", in("ax") value, in("dx") port, options(nostack, preserves_flags))
            };
        }
    }

    /// Writes 32 bits.
    #[inline]
    pub fn write32(&self, offset: u8, value: u32) {
        if let Some(port) = self.port(offset, 4) {
            // SAFETY: By the type invariant the ports are ours.
            unsafe {
                asm!("out dx, eax", in("eax") value, in("dx") port, options(nostack, preserves_flags))
            };
        }
    }

    /// Reads words from one port, one after the other.
    pub fn read_words(&self, offset: u8, words: &mut [[u8; 2]]) {
        let Some(port) = self.port(offset, 2) else {
            return words.fill([u8::MAX; 2]);
        };

        // SAFETY: By the type invariant the ports are ours; as many words are written as there are.
        unsafe {
            asm!(
                "rep insw",
                inout("rcx") words.len() => _,
                inout("rdi") words.as_mut_ptr() => _,
                in("dx") port,
                options(nostack, preserves_flags)
            );
        }
    }

    /// Writes words to one port, one after the other.
    pub fn write_words(&self, offset: u8, words: &[[u8; 2]]) {
        let Some(port) = self.port(offset, 2) else {
            return;
        };

        // SAFETY: By the type invariant the ports are ours; as many words are read as there are.
        unsafe {
            asm!(
                "rep outsw",
                inout("rcx") words.len() => _,
                inout("rsi") words.as_ptr() => _,
                in("dx") port,
                options(nostack, preserves_flags, readonly)
            );
        }
    }
}

impl Drop for BarPorts {
    fn drop(&mut self) {
        // SAFETY: By the type invariant.
        unsafe {
            match &self.reservation {
                Reservation::Home(function, bar) => {
                    bindings::pci_release_region(function.as_raw(), *bar)
                }
                Reservation::Away(region) => {
                    bindings::release_resource(region.get());
                }
            }
        }
    }
}

/// An I/O BAR, of a function that is enabled until this is dropped.
///
/// # Invariants
///
/// The BAR is at `now`.
pub struct IoBar {
    function: PciDevice,
    bar: c_int,
    home: Arc<BarPorts>,
    now: Arc<BarPorts>,
}

impl IoBar {
    /// Enables a function and reserves the ports of a BAR for the driver. May sleep.
    ///
    /// # Errors
    ///
    /// `ENODEV`: the BAR has no ports, or more than a window. `EBUSY`: somebody has them. `ENOMEM`, and
    /// what enabling it comes to.
    pub fn new(device: &pci::Device<Core<'_>>, bar: u8, name: &'static CStr) -> Result<Self> {
        /// Disables the function again if the rest fails.
        struct Enabled(PciDevice);

        impl Drop for Enabled {
            fn drop(&mut self) {
                // SAFETY: The function is valid and enabled.
                unsafe { bindings::pci_disable_device(self.0.as_raw()) };
            }
        }

        let function = PciDevice::from_device(device.as_ref()).ok_or(ENODEV)?;
        let first = u16::try_from(device.resource_start(bar.into())?).map_err(|_| ENODEV)?;
        let count = u16::try_from(device.resource_len(bar.into())?).map_err(|_| ENODEV)?;
        let window = Window::new(first, count).ok_or(ENODEV)?;

        // SAFETY: The function is valid; the number of the BAR was looked at above.
        if unsafe { bindings::pdio_pci_bar_is_memory(function.as_raw(), bar.into()) } {
            return Err(ENODEV);
        }
        // SAFETY: The function is valid, and a driver is being bound to it.
        to_result(unsafe { bindings::pci_enable_device(function.as_raw()) })?;

        let enabled = Enabled(function.clone());

        // SAFETY: The function is valid; the name lives as long as the module.
        to_result(unsafe {
            bindings::pci_request_region(function.as_raw(), bar.into(), name.as_char_ptr())
        })?;

        // INVARIANT: They were just reserved.
        let ports = BarPorts {
            window,
            reservation: Reservation::Home(function.clone(), bar.into()),
        };
        let home = Arc::new(ports, GFP_KERNEL)?;

        core::mem::forget(enabled);
        // INVARIANT: Nobody has moved it so far.
        Ok(Self {
            function,
            bar: bar.into(),
            now: home.clone(),
            home,
        })
    }

    /// Where it is.
    #[inline]
    pub fn ports(&self) -> &Arc<BarPorts> {
        &self.now
    }

    /// Where the kernel has placed it.
    pub fn home(&self) -> &Arc<BarPorts> {
        &self.home
    }

    /// Reserves other ports to move to, if the function can be reached there and nothing else. May
    /// sleep.
    ///
    /// # Errors
    ///
    /// `EINVAL`: a BAR of this size cannot be there. `EBUSY`: something is there, or the bus does not
    /// lead there. `ENOMEM`.
    pub fn reserve(&self, first: u16, name: &'static CStr) -> Result<Arc<BarPorts>> {
        let count = self.home.window.count();
        let window = Window::new(first, count).ok_or(EINVAL)?;

        // The size of a BAR is a power of two.
        if first & (count - 1) != 0 {
            return Err(EINVAL);
        }
        if window == self.home.window {
            return Ok(self.home.clone());
        }

        // SAFETY: The function is valid.
        let bus = unsafe {
            bindings::pdio_pci_bus_ports(self.function.as_raw(), first.into(), count.into())
        };

        if bus.is_null() {
            return Err(EBUSY);
        }

        let region = KBox::new(
            Opaque::new(bindings::resource {
                start: first.into(),
                end: u64::from(first) + u64::from(count) - 1,
                name: name.as_char_ptr(),
                flags: (bindings::IORESOURCE_IO | bindings::IORESOURCE_BUSY) as c_ulong,
                ..Default::default()
            }),
            GFP_KERNEL,
        )?;

        // SAFETY: The ports of a bus stay as long as there is a function on it. The region stays where
        // it is, in the box, until it is released. The BARs of all functions are in those of the bus,
        // used or not, so this is none of theirs.
        to_result(unsafe { bindings::request_resource(bus, region.get()) })?;
        // INVARIANT: They were just reserved.
        Ok(Arc::new(
            BarPorts {
                window,
                reservation: Reservation::Away(region),
            },
            GFP_KERNEL,
        )?)
    }

    /// Moves it to ports that were reserved for a BAR of its size. What is under way at the old ones must
    /// have ended.
    pub fn move_to(&mut self, ports: &Arc<BarPorts>) {
        if Arc::ptr_eq(&self.now, ports) || ports.window.count() != self.home.window.count() {
            return;
        }

        let register = bindings::PCI_BASE_ADDRESS_0 as c_int + 4 * self.bar;
        let value = u32::from(ports.window.first()) | bindings::PCI_BASE_ADDRESS_SPACE_IO;

        // SAFETY: The function is valid. The ports are reserved for us, as many as the BAR has.
        unsafe { bindings::pci_write_config_dword(self.function.as_raw(), register, value) };
        // INVARIANT: Just done.
        self.now = ports.clone();
    }
}

impl Drop for IoBar {
    fn drop(&mut self) {
        let home = self.home.clone();

        self.move_to(&home);
        // SAFETY: By the type invariant.
        unsafe { bindings::pci_disable_device(self.function.as_raw()) };
    }
}
