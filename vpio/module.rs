// SPDX-License-Identifier: GPL-2.0

//! vpio: an NE2000 that guests drive directly, one after the other, watched by a model.
//!
//! The driver of the card offers it as mediated devices; each is a PCI function that an unmodified QEMU
//! gives to its guest (`-device vfio-pci,sysfsdev=…`). See `Documentation/vpio/`.

use kernel::{
    device::Core,
    driver,
    new_mutex,
    pci,
    prelude::*,
    sync::{
        Arc,
        Mutex, //
    },
    InPlaceModule, //
};
use pdio::{
    device::DmaDevice,
    intx::Line,
    kvm::Support,
    mdev,
    pci::vendor, //
};

mod attributes;
mod card;
#[expect(
    unreachable_pub,
    reason = "the host tests compile the same files, and use all of them"
)]
mod config_space;
mod guest;
mod interrupt;
mod mode;
#[expect(
    dead_code,
    unreachable_pub,
    reason = "the host tests compile the same files, and use all of them"
)]
mod model;
mod number;
mod registers;
mod seat;
mod statistics;
#[path = "../dma-map-cache/strategy/tunable.rs"]
#[expect(
    unreachable_pub,
    reason = "the host tests compile the same files, and use all of them"
)]
mod tunable;
#[expect(
    dead_code,
    unreachable_pub,
    reason = "the host tests compile the same files, and use all of them"
)]
mod turns;

use attributes::CardAttributes;
use card::Card;
use guest::Share;
use interrupt::Interrupts;

/// Who makes guests of a card.
struct Guests;

impl mdev::Mediator for Guests {
    type Parent = Card;
    type Share = Share;

    fn available(card: &Card) -> u32 {
        card.available()
    }

    fn probe(card: &Arc<Card>, device: &mdev::MediatedDevice) -> Result<Share> {
        Share::new(card, device)
    }
}

static GUESTS: mdev::Driver<Guests> = mdev::Driver::new(c"vpio", &THIS_MODULE);

/// What a card has while it has its driver: dropped in this order.
struct Binding {
    _attributes: CardAttributes,
    // Waits for those that are open.
    _guests: Pin<KBox<mdev::Parent<Guests>>>,
    _line: Line<Interrupts>,
    _end: End,
}

/// Leaves the card as it was found.
struct End(Arc<Card>);

impl Drop for End {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// The driver, and what it has for each card.
#[pin_data]
struct VpioDriver {
    #[pin]
    binding: Mutex<Option<Binding>>,
}

kernel::pci_device_table!(
    PCI_TABLE,
    MODULE_PCI_TABLE,
    <VpioDriver as pci::Driver>::IdInfo,
    [
        // RTL8029 and compatible.
        (pci::DeviceId::from_id(vendor(0x10ec), 0x8029), ())
    ]
);

impl pci::Driver for VpioDriver {
    type IdInfo = ();
    type Data<'bound> = Self;
    const ID_TABLE: pci::IdTable<Self::IdInfo> = &PCI_TABLE;

    fn probe<'bound>(
        function: &'bound pci::Device<Core<'_>>,
        _info: &'bound Self::IdInfo,
    ) -> impl PinInit<Self::Data<'bound>, Error> + 'bound {
        pin_init::pin_init_scope(move || {
            let card = Card::new(function)?;
            // Dropped after what follows, should that fail.
            let end = End(card.clone());
            let line = Line::request(function, c"vpio", card.interrupts().clone())?;
            let device = DmaDevice::new(function.as_ref());
            let attributes = CardAttributes::new(&card)?;
            let guests = KBox::pin_init(
                mdev::Parent::new(&GUESTS, &device, c"ne2000", c"NE2000 by turns", card),
                GFP_KERNEL,
            )?;

            match Support::probe() {
                Support::Patched => (),
                missing => dev_info!(function, "no modes hook and direct: {}\n", missing.text()),
            }

            let binding = Binding {
                _attributes: attributes,
                _guests: guests,
                _line: line,
                _end: end,
            };

            Ok(try_pin_init!(Self {
                binding <- new_mutex!(Some(binding)),
            }))
        })
    }

    // While the function is still ours.
    fn unbind<'bound>(_function: &'bound pci::Device<Core<'_>>, this: Pin<&Self::Data<'bound>>) {
        let binding = this.binding.lock().take();

        drop(binding);
    }
}

/// The module.
#[pin_data]
struct Vpio {
    // Dropped in this order: cards first.
    #[pin]
    _cards: driver::Registration<pci::Adapter<VpioDriver>>,
    _guests: mdev::Registration<Guests>,
}

impl InPlaceModule for Vpio {
    fn init(module: &'static ThisModule) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            _guests: mdev::Registration::new(&GUESTS)?,
            _cards <- driver::Registration::new(c"vpio", module),
        })
    }
}

module! {
    type: Vpio,
    name: "vpio",
    authors: ["PDIO developers"],
    description: "An NE2000 that guests drive directly, one after the other, watched by a model",
    license: "GPL",
}
