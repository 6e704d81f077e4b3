// SPDX-License-Identifier: GPL-2.0

//! svadma: the driver of the test device, which works on the virtual addresses of processes.
//!
//! Whoever opens `/dev/svadma` is a consumer and gets a queue by its first request, with a doorbell
//! page to map; what it then asks the device for, the kernel does not see. What is missing of its
//! memory is served by `iopf`. See `uapi.rs` for requests, and `selftests/device/abi.rs` for what the
//! device understands.

mod consumer;
mod interrupt;
mod queue;
mod registers;

#[path = "../device/abi.rs"]
pub mod abi;
pub mod uapi;

use kernel::{
    device::Core,
    new_mutex,
    pci,
    prelude::*,
    sync::{
        Arc,
        Mutex, //
    }, //
};
use pdio::{
    char_device::CharDevice,
    device::BoundDevice,
    iopf,
    pci::vendor, //
};

use consumer::Consumer;
use interrupt::Interrupts;
use registers::Registers;

/// The device, as far as it is there.
///
/// Lock order: a consumer's queue, then these.
#[pin_data]
struct Svadma {
    registers: Registers,
    /// None when the driver is being unbound: no process can be bound any more.
    #[pin]
    iopf: Mutex<Option<Arc<iopf::Device>>>,
    interrupts: Interrupts,
    /// Which queues are in use.
    #[pin]
    queues: Mutex<KVec<bool>>,
    /// Those who have the file open.
    #[pin]
    consumers: Mutex<KVec<Arc<Consumer>>>,
}

impl Svadma {
    /// Takes a queue that nobody uses.
    ///
    /// # Errors
    ///
    /// `EBUSY`: there is none.
    fn take_queue(&self) -> Result<u32> {
        let mut queues = self.queues.lock();

        for (index, used) in (0..).zip(queues.iter_mut()) {
            if !*used {
                *used = true;
                return Ok(index);
            }
        }
        Err(EBUSY)
    }

    /// Gives it back.
    fn give_queue(&self, index: u32) {
        if let Some(used) = self.queues.lock().get_mut(index as usize) {
            *used = false;
        }
    }

    /// Takes the queues of all consumers away, and lets nobody have one any more.
    fn end(&self) {
        let iopf = self.iopf.lock().take();

        self.interrupts.end();
        loop {
            let consumer = self.consumers.lock().pop();

            match consumer {
                Some(consumer) => {
                    let _ = consumer.unbind();
                }
                None => break,
            }
        }
        drop(iopf);
    }
}

/// The driver, and what it has for each device.
#[pin_data]
struct SvadmaDriver {
    #[pin]
    file: CharDevice<Consumer>,
    device: Arc<Svadma>,
}

kernel::pci_device_table!(
    PCI_TABLE,
    MODULE_PCI_TABLE,
    <SvadmaDriver as pci::Driver>::IdInfo,
    [(
        pci::DeviceId::from_id(vendor(abi::VENDOR), abi::DEVICE as u32),
        ()
    )]
);

impl pci::Driver for SvadmaDriver {
    type IdInfo = ();
    type Data<'bound> = Self;
    const ID_TABLE: pci::IdTable<Self::IdInfo> = &PCI_TABLE;

    fn probe<'bound>(
        device: &'bound pci::Device<Core<'_>>,
        _info: &'bound Self::IdInfo,
    ) -> impl PinInit<Self::Data<'bound>, Error> + 'bound {
        pin_init::pin_init_scope(move || {
            device.enable_device_mem()?;

            let registers = Registers::new(device)?;

            device.set_master();

            let interrupts = Interrupts::new(device)?;
            let iopf = iopf::Device::register(&BoundDevice::new(device.as_ref()))?;
            let mut queues = KVec::new();

            queues.resize(abi::QUEUES as usize, false, GFP_KERNEL)?;

            let svadma = Arc::pin_init(
                pin_init!(Svadma {
                    registers,
                    iopf <- new_mutex!(Some(iopf)),
                    interrupts,
                    queues <- new_mutex!(queues),
                    consumers <- new_mutex!(KVec::new()),
                }),
                GFP_KERNEL,
            )?;

            Ok(try_pin_init!(Self {
                file <- CharDevice::register(c"svadma", svadma.clone()),
                device: svadma,
            }))
        })
    }

    // When this is dropped, the registers are gone already.
    fn unbind<'bound>(_device: &'bound pci::Device<Core<'_>>, this: Pin<&Self::Data<'bound>>) {
        this.device.end();
    }
}

kernel::module_pci_driver! {
    type: SvadmaDriver,
    name: "svadma",
    authors: ["PDIO developers"],
    description: "The test device that works on virtual addresses of processes",
    license: "GPL",
}
