// SPDX-License-Identifier: GPL-2.0

//! The PCI configuration space that a guest sees.
//!
//! Registers and bits are those of the *PCI Local Bus Specification* 3.0, chapter 6, for a header of
//! type 0. It is memory of the host: nothing that a guest writes here reaches the physical device.

#![deny(
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unreachable,
    clippy::unwrap_used
)]

/// Number of bytes.
pub const SIZE: usize = 256;

/// The first port at which a BAR is decoded: below are the ports that the chipset decodes itself, such
/// as 0xcf8 to 0xcff, by which this space is reached, and those of the ISA. Nothing on PCI is put
/// there (`PCIBIOS_MIN_IO` of Linux on x86).
const FIRST_PORT: u16 = 0x1000;

const VENDOR: usize = 0x00;
const DEVICE: usize = 0x02;
const COMMAND: usize = 0x04;
const COMMAND_HIGH: usize = 0x05;
const STATUS: usize = 0x06;
const STATUS_HIGH: usize = 0x07;
const REVISION: usize = 0x08;
const CLASS: usize = 0x09;
const CACHE_LINE: usize = 0x0c;
const LATENCY: usize = 0x0d;
const BAR0: usize = 0x10;
const BAR0_LAST: usize = 0x13;
const SUBSYSTEM_VENDOR: usize = 0x2c;
const SUBSYSTEM: usize = 0x2e;
const INTERRUPT_LINE: usize = 0x3c;
const INTERRUPT_PIN: usize = 0x3d;

/// Command: the I/O BAR is decoded.
const COMMAND_IO: u8 = 0x01;
/// Command: bus master.
const COMMAND_MASTER: u8 = 0x04;
/// Command, high byte: INTx is not asserted.
const COMMAND_INTX_DISABLE: u8 = 0x04;
/// Status: the device would assert INTx, disabled or not.
const STATUS_INTERRUPT: u8 = 0x08;
/// Status, high byte: DEVSEL timing medium, as the RTL8029.
const STATUS_DEVSEL_MEDIUM: u8 = 0x02;
/// BAR: ports, not memory.
const BAR_IO: u8 = 0x01;
/// INTA.
const PIN_A: u8 = 1;

/// The bits of an I/O BAR that are not part of the address.
const BAR_FLAGS: u32 = 0x03;

/// What a device says it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Vendor ID.
    pub vendor: u16,
    /// Device ID.
    pub device: u16,
    /// Subsystem vendor ID.
    pub subsystem_vendor: u16,
    /// Subsystem ID.
    pub subsystem: u16,
    /// Programming interface, sub-class, base class: as they lie in configuration space.
    pub class: [u8; 3],
    /// Revision ID.
    pub revision: u8,
    /// Number of ports that BAR 0 decodes, a power of two from 4 to 256: as many as the physical device
    /// decodes, so that this can be put where the guest has it.
    pub bar0_ports: u16,
}

/// The bytes do not all lie within the configuration space; nothing was read or written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfRange;

/// What a write has changed of how the device is reached and how it interrupts.
#[must_use = "whoever hooks the ports or signals the interrupt has to follow"]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// [`ConfigSpace::ports`].
    pub ports: bool,
    /// [`ConfigSpace::interrupt_is_disabled`].
    pub interrupt: bool,
}

/// A configuration space with one I/O BAR, interrupt pin A and no capabilities.
///
/// A device behind it detects no errors and has no memory, so the bits of those are read-only zeros;
/// to clear an error (RW1C) changes nothing.
#[derive(Clone, Debug)]
pub struct ConfigSpace {
    bytes: [u8; SIZE],
    /// The bits of the first byte of BAR 0 that a guest can change.
    bar0_low: u8,
}

impl ConfigSpace {
    /// As after a reset: nothing is decoded.
    pub fn new(identity: &Identity) -> Self {
        // The size of the BAR is the lowest bit that can be set.
        let [bar0_low, _] = (!identity.bar0_ports.wrapping_sub(1)).to_le_bytes();
        let mut space = Self {
            bytes: [0; SIZE],
            bar0_low,
        };

        for (register, value) in [
            (VENDOR, identity.vendor),
            (DEVICE, identity.device),
            (SUBSYSTEM_VENDOR, identity.subsystem_vendor),
            (SUBSYSTEM, identity.subsystem),
        ] {
            space.set(register, &value.to_le_bytes());
        }
        space.set(STATUS_HIGH, &[STATUS_DEVSEL_MEDIUM]);
        space.set(REVISION, &[identity.revision]);
        space.set(CLASS, &identity.class);
        space.set(BAR0, &[BAR_IO]);
        space.set(INTERRUPT_PIN, &[PIN_A]);
        space
    }

    /// Sets registers, writable or not.
    fn set(&mut self, register: usize, values: &[u8]) {
        for (byte, value) in self.bytes.iter_mut().skip(register).zip(values) {
            *byte = *value;
        }
    }

    /// A register.
    fn get(&self, register: usize) -> u8 {
        self.bytes.get(register).copied().unwrap_or(0)
    }

    /// The bits of a register that a guest can change.
    const fn writable(register: usize, bar0_low: u8) -> u8 {
        match register {
            COMMAND => COMMAND_IO | COMMAND_MASTER,
            COMMAND_HIGH => COMMAND_INTX_DISABLE,
            BAR0 => bar0_low,
            BAR0..=BAR0_LAST | CACHE_LINE | LATENCY | INTERRUPT_LINE => u8::MAX,
            _ => 0,
        }
    }

    /// Reads the bytes from `offset` on.
    ///
    /// # Errors
    ///
    /// [`OutOfRange`]
    pub fn read(&self, offset: usize, data: &mut [u8]) -> Result<(), OutOfRange> {
        let end = offset.checked_add(data.len()).ok_or(OutOfRange)?;
        let bytes = self.bytes.get(offset..end).ok_or(OutOfRange)?;

        for (to, from) in data.iter_mut().zip(bytes) {
            *to = *from;
        }
        Ok(())
    }

    /// The guest writes the bytes from `offset` on, as one access: nobody sees half of it.
    ///
    /// # Errors
    ///
    /// [`OutOfRange`]
    pub fn write(&mut self, offset: usize, data: &[u8]) -> Result<Changed, OutOfRange> {
        let ports = self.ports();
        let interrupt_is_disabled = self.interrupt_is_disabled();
        let bar0_low = self.bar0_low;
        let end = offset.checked_add(data.len()).ok_or(OutOfRange)?;
        let bytes = self.bytes.get_mut(offset..end).ok_or(OutOfRange)?;

        for ((byte, value), register) in bytes.iter_mut().zip(data).zip(offset..end) {
            let writable = Self::writable(register, bar0_low);

            *byte = *byte & !writable | value & writable;
        }

        Ok(Changed {
            ports: self.ports() != ports,
            interrupt: self.interrupt_is_disabled() != interrupt_is_disabled,
        })
    }

    /// The first of the [`Identity::bar0_ports`] ports at which the guest reaches the device: a multiple of
    /// their number, and all of them are ports.
    ///
    /// [`None`]: nowhere. Decoding is off, or BAR 0 has no address that a port can have, such as the
    /// pattern by which its size is found, or one of the chipset's.
    pub fn ports(&self) -> Option<u16> {
        if self.get(COMMAND) & COMMAND_IO == 0 {
            return None;
        }

        let bar = u32::from_le_bytes([
            self.get(BAR0),
            self.get(0x11),
            self.get(0x12),
            self.get(BAR0_LAST),
        ]);

        u16::try_from(bar & !BAR_FLAGS)
            .ok()
            .filter(|&first| first >= FIRST_PORT)
    }

    /// Whether the guest has disabled INTx.
    pub fn interrupt_is_disabled(&self) -> bool {
        self.get(COMMAND_HIGH) & COMMAND_INTX_DISABLE != 0
    }

    /// Whether the device would interrupt the guest, if that has not disabled it: shown in the status
    /// register.
    pub fn set_interrupt_status(&mut self, is_asserted: bool) {
        self.set(STATUS, &[if is_asserted { STATUS_INTERRUPT } else { 0 }]);
    }
}
