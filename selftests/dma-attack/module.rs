// SPDX-License-Identifier: GPL-2.0

//! dma-attack: what a device can reach that its driver has unmapped, or never mapped.
//!
//! A driver for QEMU's `edu` device that uses the DMA API as any driver does, whoever serves it, and
//! then has the device do what a broken or hostile one would. All memory that the device is sent to
//! is the module's own.
//!
//! In `/sys/bus/pci/devices/ADDRESS/dma_attack`:
//!
//! - `run` takes `SCENARIO ACCESS`, where ACCESS is what the device tries: `read` or `write`. Returns
//!   when it is done. `-EAGAIN`: the machine was too busy for what the scenario needs.
//!
//!   - `immediate`: a page is mapped, used and unmapped, and gets new content from the CPU; the
//!     device comes again within milliseconds, before the soft interrupt ends in which the driver
//!     has unmapped.
//!   - `list`: as `immediate`, but the page is in the middle of a list that is mapped by one call.
//!   - `reallocated`: as `immediate`, but the page was freed and has another owner.
//!   - `neighbour`: a small part of a page is mapped, and the device tries the rest of the page.
//!   - `neighbour-unmapped`: the same as soon as the part is unmapped, as `immediate`.
//!   - `again`: the device tries once more what the last of these left unmapped.
//!   - `wrong-direction`: the device writes what is mapped for reading, or the other way.
//!   - `unrelated OFFSET...`: a page that was never mapped, at its physical address plus each of up
//!     to 16 offsets, which are decimal or hexadecimal (0x).
//!
//! - `result` reads `scenario=… access=… mapped=N/N reached=N/N elapsed_us=N address=0xN phys=0xN
//!   places=N`: bytes that the device could reach of those that were mapped, which proves that the
//!   rest means something; bytes that it could reach of those that it should be kept from;
//!   microseconds from unmap until the device had tried, at most; where the mapping was; where the
//!   page is; for `unrelated`, the number of offsets at which it could be reached.

mod edu;
mod pattern;
mod scenario;

use core::fmt::Write;

use kernel::{
    device::Core,
    new_mutex,
    pci,
    prelude::*,
    str::Formatter,
    sync::{
        Arc,
        Mutex, //
    }, //
};
use pdio::{
    device::DmaDevice,
    pci::vendor,
    sysfs::{
        Directory,
        File,
        Parent, //
    }, //
};

use scenario::{
    Lab,
    Outcome,
    Plan, //
};

/// Where the attacks are made, and what the last one found.
#[pin_data]
struct Attack {
    #[pin]
    lab: Mutex<Lab>,
    #[pin]
    last: Mutex<Option<(Plan, Outcome)>>,
}

impl Attack {
    /// Does what `text` describes; one at a time.
    fn run(&self, text: &str) -> Result {
        let plan = Plan::try_from(text)?;
        let mut lab = self.lab.lock();

        *self.last.lock() = None;

        let outcome = lab.run(&plan)?;

        *self.last.lock() = Some((plan, outcome));
        Ok(())
    }

    /// Shows what was found.
    fn show(&self, out: &mut Formatter<'_>) -> Result {
        match &*self.last.lock() {
            Some((plan, outcome)) => write!(out, "{plan} {outcome}").map_err(|_| EFBIG),
            None => Err(ENOENT),
        }
    }
}

const FILES: &[File<Attack>] = &[
    File {
        name: c"run",
        show: None,
        store: Some(Attack::run),
    },
    File {
        name: c"result",
        show: Some(Attack::show),
        store: None,
    },
];

/// The driver, and what it has for each device.
struct DmaAttack {
    // No file is in use any more when the driver is unbound.
    _files: Directory<Attack>,
}

kernel::pci_device_table!(
    PCI_TABLE,
    MODULE_PCI_TABLE,
    <DmaAttack as pci::Driver>::IdInfo,
    [(pci::DeviceId::from_id(vendor(0x1234), 0x11e8), ())]
);

impl pci::Driver for DmaAttack {
    type IdInfo = ();
    type Data<'bound> = Self;
    const ID_TABLE: pci::IdTable<Self::IdInfo> = &PCI_TABLE;

    fn probe<'bound>(
        device: &'bound pci::Device<Core<'_>>,
        _info: &'bound Self::IdInfo,
    ) -> impl PinInit<Self::Data<'bound>, Error> + 'bound {
        device.enable_device_mem()?;

        let lab = Lab::new(device)?;
        let attack = Arc::pin_init(
            pin_init!(Attack {
                lab <- new_mutex!(lab),
                last <- new_mutex!(None),
            }),
            GFP_KERNEL,
        )?;

        Ok(Self {
            _files: Directory::new(
                Parent::Device(&DmaDevice::new(device.as_ref())),
                c"dma_attack",
                FILES,
                attack,
            )?,
        })
    }
}

kernel::module_pci_driver! {
    type: DmaAttack,
    name: "dma_attack",
    authors: ["PDIO developers"],
    description: "What a device can reach that its driver has unmapped",
    license: "GPL",
}
