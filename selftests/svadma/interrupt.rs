// SPDX-License-Identifier: GPL-2.0

//! The interrupt of the device: counted, and waited for.

use kernel::{
    device::{
        Bound,
        Device, //
    },
    irq::{
        Flags,
        IrqReturn,
        ThreadedHandler,
        ThreadedRegistration, //
    },
    new_condvar,
    new_mutex,
    pci,
    prelude::*,
    sync::{
        Arc,
        CondVar,
        CondVarTimeoutResult,
        Mutex, //
    },
    time::msecs_to_jiffies, //
};

use crate::uapi::Wait;

/// How many there were; none when there will be no more.
#[pin_data]
struct Count {
    #[pin]
    count: Mutex<Option<u64>>,
    #[pin]
    changed: CondVar,
}

/// Counts in a thread, so that a mutex can be taken.
struct Counter(Arc<Count>);

impl ThreadedHandler for Counter {
    fn handle_threaded(&self, _device: &Device<Bound>) -> IrqReturn {
        if let Some(count) = &mut *self.0.count.lock() {
            *count += 1;
        }
        self.0.changed.notify_all();
        IrqReturn::Handled
    }
}

/// The interrupt. All queues share vector 0, because the `kernel` crate hands out the first and the
/// last of several vectors only.
pub(crate) struct Interrupt {
    count: Arc<Count>,
    // Ends with the binding of the driver, at the latest.
    _handler: Pin<KBox<ThreadedRegistration<Counter>>>,
}

impl Interrupt {
    /// Its number for the device.
    pub(crate) const VECTOR: u32 = 0;

    /// That of a device whose driver is being bound.
    ///
    /// # Errors
    ///
    /// `ENOSPC`, `ENOMEM`: it cannot be had.
    pub(crate) fn new(device: &pci::Device<Bound>) -> Result<Self> {
        let types = pci::IrqTypes::default().with(pci::IrqType::MsiX);
        let vectors = device.alloc_irq_vectors(1, 1, types)?;
        let count = Arc::pin_init(
            pin_init!(Count {
                count <- new_mutex!(Some(0)),
                changed <- new_condvar!(),
            }),
            GFP_KERNEL,
        )?;
        let handler = device.request_threaded_irq(
            *vectors.start(),
            Flags::ONESHOT,
            c"svadma",
            Ok(Counter(count.clone())),
        );

        Ok(Self {
            count,
            _handler: KBox::pin_init(handler, GFP_KERNEL)?,
        })
    }

    /// Waits until there were other than `wait.seen`. Returns how many. May sleep.
    ///
    /// # Errors
    ///
    /// `ETIMEDOUT`. `EINTR`: there is a signal. `ENODEV`: there will be no more.
    pub(crate) fn wait(&self, wait: Wait) -> Result<u64> {
        let mut left = msecs_to_jiffies(wait.timeout_ms);
        let mut count = self.count.count.lock();

        loop {
            let now = count.ok_or(ENODEV)?;

            if now != wait.seen {
                return Ok(now);
            }
            match self
                .count
                .changed
                .wait_interruptible_timeout(&mut count, left)
            {
                CondVarTimeoutResult::Woken { jiffies } => left = jiffies,
                CondVarTimeoutResult::Timeout => return Err(ETIMEDOUT),
                CondVarTimeoutResult::Signal { .. } => return Err(EINTR),
            }
        }
    }

    /// Lets nobody wait any more.
    pub(crate) fn end(&self) {
        *self.count.count.lock() = None;
        self.count.changed.notify_all();
    }
}
