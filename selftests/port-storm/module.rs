// SPDX-License-Identifier: GPL-2.0

//! port-storm: a driver for an NE2000, or an RTL8139, that does to the card what no driver should.
//!
//! For a guest that has a card by `vpio.ko`. In `/sys/bus/pci/devices/ADDRESS/port_storm`:
//!
//! - `run` takes one of these, and returns when that is done:
//!
//!   - `random SEED COUNT`: so many random accesses, at all ports and of all widths.
//!   - `unchecked_write_offset_into_card_ram`: remote DMA to each page that can be named.
//!   - `receive_trusts_guest_written_current_page_and_stop`: frames come while the receive ring is
//!     somewhere else than in card RAM, and its end before its start.
//!   - `write OFFSET BYTES VALUE`: this access. All of them are decimal.
//!
//!   All but the last one are for an NE2000.
//!
//! - `accesses`: how many accesses there were; rises while `run` is under way.
//!
//! Wrong text is `EINVAL`.

mod sequence;

use core::sync::atomic::{
    AtomicU64,
    Ordering::Relaxed, //
};

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
    io_bar::IoBar,
    pci::vendor,
    sysfs::{
        show_number,
        Directory,
        File,
        Parent, //
    },
    thread::cond_resched, //
};

use sequence::{
    Step,
    Storm,
    Width, //
};

/// The data port.
const DATA: u8 = 0x10;

/// The longest burst.
const WORDS_MAX: usize = 0x100;

/// A card that is ill-treated.
#[pin_data]
struct Victim {
    #[pin]
    bar: Mutex<IoBar>,
    accesses: AtomicU64,
}

impl Victim {
    /// Does one step, and says how many accesses that were.
    fn step(&self, bar: &IoBar, step: Step) -> u64 {
        let ports = bar.ports();
        let mut words = [[0xa5; 2]; WORDS_MAX];
        let count = match step {
            Step::Read(offset, width) => {
                match width {
                    Width::Byte => drop(ports.read8(offset)),
                    Width::Word => drop(ports.read16(offset)),
                    Width::Long => drop(ports.read32(offset)),
                }
                1
            }
            Step::Write(offset, width, value) => {
                let [a, b, ..] = value.to_le_bytes();

                match width {
                    Width::Byte => ports.write8(offset, a),
                    Width::Word => ports.write16(offset, u16::from_le_bytes([a, b])),
                    Width::Long => ports.write32(offset, value),
                }
                1
            }
            Step::ReadWords(count) => {
                let words = words.get_mut(..count).unwrap_or_default();

                ports.read_words(DATA, words);
                words.len()
            }
            Step::WriteWords(count) => {
                let words = words.get(..count).unwrap_or_default();

                ports.write_words(DATA, words);
                words.len()
            }
        };
        let count = u64::try_from(count).unwrap_or(0);

        self.accesses.fetch_add(count, Relaxed);
        count
    }

    /// Does steps one after the other.
    fn steps(&self, bar: &IoBar, steps: &[Step]) {
        for step in steps {
            self.step(bar, *step);
        }
        cond_resched();
    }

    /// Does what `text` says.
    fn run(&self, text: &str) -> Result {
        let mut words = text.split(' ');
        let name = words.next();
        let mut number = || words.next()?.parse::<u64>().ok();
        let numbers = (number(), number(), number());
        let bar = self.bar.lock();

        match (name, numbers) {
            (Some("random"), (Some(seed), Some(count), None)) => {
                let mut storm = Storm::new(seed);
                let mut left = count;

                while left > 0 {
                    let done = self.step(&bar, storm.next(left));

                    left = left.saturating_sub(done);
                    cond_resched();
                }
            }
            (Some("unchecked_write_offset_into_card_ram"), (None, ..)) => {
                for page in 0..=u8::MAX {
                    self.steps(&bar, &sequence::write_to_page(page));
                }
            }
            (Some("receive_trusts_guest_written_current_page_and_stop"), (None, ..)) => {
                for start in [0x00, 0x3f, 0x40, 0x46, 0x7f, 0x80, 0xff] {
                    for stop in [0x00, 0x40, 0x47, 0x80, 0x81, 0xff] {
                        for current in [0x00, 0x3f, 0x46, 0x7f, 0x80, 0xc0, 0xff] {
                            self.steps(&bar, &sequence::receive_to(start, stop, current));
                        }
                    }
                }
            }
            (Some("write"), (Some(offset), Some(bytes), Some(value))) => {
                let width = match bytes {
                    1 => Width::Byte,
                    2 => Width::Word,
                    4 => Width::Long,
                    _ => return Err(EINVAL),
                };
                let offset = u8::try_from(offset).map_err(|_| EINVAL)?;
                let value = u32::try_from(value).map_err(|_| EINVAL)?;

                self.step(&bar, Step::Write(offset, width, value));
            }
            _ => return Err(EINVAL),
        }
        Ok(())
    }
}

const FILES: &[File<Victim>] = &[
    File {
        name: c"run",
        show: None,
        store: Some(Victim::run),
    },
    File {
        name: c"accesses",
        show: Some(|victim: &Victim, out: &mut Formatter<'_>| {
            show_number(out, victim.accesses.load(Relaxed))
        }),
        store: None,
    },
];

/// The driver, and what it has for each card.
struct PortStorm {
    // No file is in use any more when the driver is unbound.
    _files: Directory<Victim>,
}

kernel::pci_device_table!(
    PCI_TABLE,
    MODULE_PCI_TABLE,
    <PortStorm as pci::Driver>::IdInfo,
    [
        (pci::DeviceId::from_id(vendor(0x10ec), 0x8029), ()),
        (pci::DeviceId::from_id(vendor(0x10ec), 0x8139), ()),
    ]
);

impl pci::Driver for PortStorm {
    type IdInfo = ();
    type Data<'bound> = Self;
    const ID_TABLE: pci::IdTable<Self::IdInfo> = &PCI_TABLE;

    fn probe<'bound>(
        device: &'bound pci::Device<Core<'_>>,
        _info: &'bound Self::IdInfo,
    ) -> impl PinInit<Self::Data<'bound>, Error> + 'bound {
        let bar = IoBar::new(device, 0, c"port-storm")?;
        let victim = Arc::pin_init(
            pin_init!(Victim {
                bar <- new_mutex!(bar),
                accesses: AtomicU64::new(0),
            }),
            GFP_KERNEL,
        )?;

        Ok(Self {
            _files: Directory::new(
                Parent::Device(&DmaDevice::new(device.as_ref())),
                c"port_storm",
                FILES,
                victim,
            )?,
        })
    }
}

kernel::module_pci_driver! {
    type: PortStorm,
    name: "port_storm",
    authors: ["PDIO developers"],
    description: "A driver that does to a card what no driver should",
    license: "GPL",
}
