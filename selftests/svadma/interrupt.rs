// SPDX-License-Identifier: GPL-2.0

//! The interrupts of the device: counted, and waited for.

use kernel::{
    device::Bound,
    pci,
    prelude::*,
    sync::Arc, //
};
use pdio::{
    event_count::EventCount,
    interrupt, //
};

use crate::abi::VECTORS;

/// The interrupts of all queues. A queue has a vector of its own as long as there are enough; those with
/// higher numbers share them.
pub(crate) struct Interrupts(interrupt::Interrupts<EventCount>);

impl Interrupts {
    /// Those of a device whose driver is being bound.
    ///
    /// # Errors
    ///
    /// `ENOSPC`, `ENOMEM`: there is none to be had.
    pub(crate) fn new(device: &pci::Device<Bound>) -> Result<Self> {
        let new = || Arc::pin_init(EventCount::new(), GFP_KERNEL);

        interrupt::Interrupts::new(device, c"svadma", VECTORS, new).map(Self)
    }

    /// The vector of a queue.
    pub(crate) fn vector(&self, queue: u32) -> u32 {
        queue % self.0.handlers().len() as u32
    }

    /// How many interrupts the vector of a queue has had.
    ///
    /// # Errors
    ///
    /// None: it has one.
    pub(crate) fn count(&self, queue: u32) -> Result<Arc<EventCount>> {
        let handler = self.0.handlers().get(self.vector(queue) as usize);

        handler.cloned().ok_or(ENXIO)
    }

    /// Lets nobody wait any more.
    pub(crate) fn end(&self) {
        for count in self.0.handlers() {
            count.end();
        }
    }
}
