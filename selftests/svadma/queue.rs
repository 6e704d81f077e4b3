// SPDX-License-Identifier: GPL-2.0

//! A queue of the device, in the hands of one consumer.

use kernel::{
    prelude::*,
    sync::Arc,
    time::{
        delay::fsleep,
        Delta,
        Instant,
        Monotonic, //
    }, //
};
use pdio::iopf::Stop;

use crate::{
    abi::{
        queue,
        status, //
    },
    uapi::{
        Bind,
        Stream, //
    },
    Svadma, //
};

/// A queue that is in use until this is dropped.
pub(crate) struct Queue {
    device: Arc<Svadma>,
    index: u32,
}

impl Queue {
    /// How long a stopped queue is waited for: longer than the device waits for the answer to a page
    /// request, unless a test has set that.
    const PATIENCE: Delta = Delta::from_secs(15);

    /// Takes one that nobody uses.
    ///
    /// # Errors
    ///
    /// `EBUSY`: there is none. `ENOMEM`.
    pub(crate) fn take(device: Arc<Svadma>) -> Result<Arc<Self>> {
        let index = device.take_queue()?;

        Ok(Arc::new(Self { device, index }, GFP_KERNEL)?)
    }

    /// Its number.
    pub(crate) fn index(&self) -> u32 {
        self.index
    }

    /// Starts it for the address space that `pasid` stands for.
    ///
    /// # Errors
    ///
    /// `EINVAL`: its ring cannot be like that. `ENXIO`: the device is gone.
    pub(crate) fn start(&self, bind: &Bind, pasid: u32) -> Result {
        let registers = &self.device.registers;

        registers.write_queue(self.index, queue::CONTROL, 0)?;
        registers.write_queue(self.index, queue::PASID, pasid)?;
        registers.write_queue(
            self.index,
            queue::VECTOR,
            self.device.interrupts.vector(self.index),
        )?;
        registers.write_queue(self.index, queue::RING_LOG2, bind.ring_log2)?;
        // It keeps what it had when it cannot take the new value.
        if registers.read_queue(self.index, queue::RING_LOG2)? != bind.ring_log2 {
            return Err(EINVAL);
        }
        registers.write_queue_wide(self.index, queue::RING_ADDRESS, bind.ring)?;
        registers.write_queue_wide(self.index, queue::COMPLETIONS_ADDRESS, bind.completions)?;
        registers.write_queue(self.index, queue::CONTROL, 1)?;
        if registers.read_queue(self.index, queue::STATUS)? & status::RUNNING == 0 {
            return Err(EINVAL);
        }
        Ok(())
    }

    /// Starts or ends its stream.
    ///
    /// # Errors
    ///
    /// `EINVAL`: there can be none like that. `ENXIO`: the device is gone.
    pub(crate) fn set_stream(&self, stream: &Stream) -> Result {
        let registers = &self.device.registers;

        for (offset, value) in [
            (queue::STREAM_FRAME_BYTES, stream.frame_bytes),
            (queue::STREAM_BYTES_PER_MS, stream.bytes_per_ms),
            (queue::STREAM_BUFFER_BYTES, stream.buffer_bytes),
            (queue::STREAM_FRAMES, stream.frames),
            (queue::STREAM_MODE, stream.mode),
        ] {
            registers.write_queue(self.index, offset, value)?;
        }
        if registers.read_queue(self.index, queue::STREAM_MODE)? != stream.mode {
            return Err(EINVAL);
        }
        Ok(())
    }

    /// Waits until a stopped queue has got answers to all that it had asked for. May sleep.
    pub(crate) fn drain(&self) {
        let started = Instant::<Monotonic>::now();
        let draining = || {
            let status = self.device.registers.read_queue(self.index, queue::STATUS);

            status.is_ok_and(|status| status != u32::MAX && status & status::DRAINING != 0)
        };

        while draining() {
            if started.elapsed() > Self::PATIENCE {
                pr_warn!("queue {}: a page request was never answered\n", self.index);
                return;
            }
            fsleep(Delta::from_micros(500));
        }
    }
}

impl Stop for Queue {
    fn stop(&self) {
        // A device that is gone has stopped.
        let _ = self
            .device
            .registers
            .write_queue(self.index, queue::CONTROL, 0);
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.device.give_queue(self.index);
    }
}
