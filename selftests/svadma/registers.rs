// SPDX-License-Identifier: GPL-2.0

//! The registers of the device. None needs a lock: what belongs together belongs to one queue, and to
//! whoever has that.

use kernel::{
    devres::Devres,
    io::Io,
    pci,
    prelude::*, //
};

use crate::abi::{
    queue,
    register,
    BAR_BYTES,
    IDENTITY,
    VERSION, //
};

const BYTES: usize = BAR_BYTES as usize;

/// The registers, until the driver is unbound.
pub(crate) struct Registers {
    bar: Devres<pci::Bar<'static, BYTES>>,
    /// Where they are for the CPU.
    address: u64,
}

impl Registers {
    /// Those of a device whose driver is being bound.
    ///
    /// # Errors
    ///
    /// `EBUSY`, `ENOMEM`: they cannot be had. `ENODEV`: they are not those that this driver knows.
    pub(crate) fn new(device: &pci::Device<kernel::device::Bound>) -> Result<Self> {
        let registers = Self {
            bar: device
                .iomap_region_sized::<BYTES>(0, c"svadma")?
                .into_devres()?,
            address: device.resource_start(0)?,
        };
        let known = (IDENTITY, VERSION.into());

        if (
            registers.read(register::IDENTITY)?,
            registers.read(register::VERSION)?,
        ) != known
        {
            kernel::dev_err!(device.as_ref(), "not a device that this driver knows\n");
            return Err(ENODEV);
        }
        Ok(registers)
    }

    /// Where the register at `offset` is for the CPU.
    pub(crate) fn address(&self, offset: u64) -> u64 {
        self.address + offset
    }

    /// Reads one.
    ///
    /// # Errors
    ///
    /// `ENXIO`: the driver is unbound. `EINVAL`: there is none at this offset.
    pub(crate) fn read(&self, offset: u64) -> Result<u32> {
        let bar = self.bar.try_access().ok_or(ENXIO)?;

        bar.try_read32(usize::try_from(offset)?)
    }

    /// Writes one.
    ///
    /// # Errors
    ///
    /// As [`Registers::read`].
    pub(crate) fn write(&self, offset: u64, value: u32) -> Result {
        let bar = self.bar.try_access().ok_or(ENXIO)?;

        bar.try_write32(value, usize::try_from(offset)?)
    }

    /// Reads one of a queue.
    ///
    /// # Errors
    ///
    /// As [`Registers::read`].
    pub(crate) fn read_queue(&self, index: u32, offset: u64) -> Result<u32> {
        self.read(queue::block(index) + offset)
    }

    /// Writes one of a queue.
    ///
    /// # Errors
    ///
    /// As [`Registers::read`].
    pub(crate) fn write_queue(&self, index: u32, offset: u64, value: u32) -> Result {
        self.write(queue::block(index) + offset, value)
    }

    /// Writes one of a queue that has 64 bits.
    ///
    /// # Errors
    ///
    /// As [`Registers::read`].
    pub(crate) fn write_queue_wide(&self, index: u32, offset: u64, value: u64) -> Result {
        self.write_queue(index, offset, value as u32)?;
        self.write_queue(index, offset + 4, (value >> 32) as u32)
    }
}
