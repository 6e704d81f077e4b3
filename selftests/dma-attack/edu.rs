// SPDX-License-Identifier: GPL-2.0

//! QEMU's `edu` device: copies between a buffer of its own and any DMA address that it is told.
//!
//! See `docs/specs/edu.rst` in QEMU. A transfer takes place [`Edu::LATENCY`] after it was started,
//! all of it at once.

use kernel::{
    devres::Devres,
    io::Io,
    pci,
    prelude::*,
    time::{
        delay::fsleep,
        Delta,
        Instant,
        Monotonic, //
    }, //
};

/// Registers, by offset; all have 64 bits.
mod register {
    /// Where a transfer reads: a DMA address or a place in the buffer.
    pub(super) const SOURCE: usize = 0x80;
    /// Where it writes.
    pub(super) const DESTINATION: usize = 0x88;
    /// How many bytes.
    pub(super) const COUNT: usize = 0x90;
    /// [`START`] and [`TO_RAM`].
    pub(super) const COMMAND: usize = 0x98;
    /// The first offset after them.
    pub(super) const END: usize = 0xa0;

    /// Starts a transfer; reads as set until it is over.
    pub(super) const START: u64 = 1 << 0;
    /// From the buffer to the DMA address, not the other way.
    pub(super) const TO_RAM: u64 = 1 << 1;
}

/// Where the buffer is, as the registers count.
const BUFFER: u64 = 0x40000;

/// What the device does with memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Copies it to its buffer.
    Read,
    /// Copies its buffer there.
    Write,
}

/// A transfer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Transfer {
    pub(crate) access: Access,
    /// DMA address.
    pub(crate) address: u64,
    /// Offset in the buffer.
    pub(crate) slot: usize,
    /// Bytes, which must fit in the buffer from there.
    pub(crate) len: usize,
}

/// The device.
pub(crate) struct Edu {
    registers: Devres<pci::Bar<'static, { register::END }>>,
}

impl Edu {
    /// Bytes in the buffer.
    pub(crate) const BUFFER_SIZE: usize = 4096;

    /// From the start of a transfer until it happens: "edu" takes a tenth of a second.
    pub(crate) const LATENCY: Delta = Delta::from_millis(100);

    /// How long to wait for the end of a transfer; an emulator on a busy machine may stand still, but
    /// a CPU that waits without sleeping is reported after 20 seconds.
    const PATIENCE: Delta = Delta::from_secs(10);

    /// A device whose driver is being bound.
    ///
    /// # Errors
    ///
    /// `EBUSY`, `ENOMEM`: its registers cannot be had.
    pub(crate) fn new(device: &pci::Device<kernel::device::Bound>) -> Result<Self> {
        Ok(Self {
            registers: device
                .iomap_region_sized::<{ register::END }>(0, c"dma_attack")?
                .into_devres()?,
        })
    }

    /// Starts a transfer. None may be under way.
    ///
    /// # Errors
    ///
    /// `EINVAL`: it does not fit in the buffer. `ENXIO`: the device is gone.
    pub(crate) fn start(&self, transfer: Transfer) -> Result {
        let Transfer {
            access,
            address,
            slot,
            len,
        } = transfer;

        if slot > Self::BUFFER_SIZE || len > Self::BUFFER_SIZE - slot {
            return Err(EINVAL);
        }

        let place = BUFFER + slot as u64;
        let (source, destination, command) = match access {
            Access::Read => (address, place, register::START),
            Access::Write => (place, address, register::START | register::TO_RAM),
        };
        let registers = self.registers.try_access().ok_or(ENXIO)?;

        registers.write64(source, register::SOURCE);
        registers.write64(destination, register::DESTINATION);
        registers.write64(len as u64, register::COUNT);
        registers.write64(command, register::COMMAND);
        Ok(())
    }

    /// Whether a transfer has not happened yet.
    ///
    /// # Errors
    ///
    /// `ENXIO`: the device is gone.
    pub(crate) fn is_running(&self) -> Result<bool> {
        let registers = self.registers.try_access().ok_or(ENXIO)?;

        Ok(registers.read64(register::COMMAND) & register::START != 0)
    }

    /// Waits until a transfer is over, calling `pause` again and again. Whether anything was
    /// transferred, the device does not tell.
    ///
    /// # Errors
    ///
    /// `ENXIO`: the device is gone. `ETIMEDOUT`.
    pub(crate) fn finish(&self, pause: impl Fn()) -> Result {
        let started = Instant::<Monotonic>::now();

        while self.is_running()? {
            if started.elapsed() > Self::PATIENCE {
                return Err(ETIMEDOUT);
            }
            pause();
        }
        Ok(())
    }

    /// Does a transfer from start to end. May sleep.
    ///
    /// # Errors
    ///
    /// Those of [`Edu::start`] and [`Edu::finish`].
    pub(crate) fn transfer(&self, transfer: Transfer) -> Result {
        self.start(transfer)?;
        self.finish(|| fsleep(Delta::from_micros(200)))
    }
}
