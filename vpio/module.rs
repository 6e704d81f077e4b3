// SPDX-License-Identifier: GPL-2.0

//! vpio: network cards that guests drive directly, watched by a model: an NE2000, one guest after the
//! other, or an RTL8139.
//!
//! The driver of a card offers it as mediated devices; each is a PCI function that an unmodified QEMU
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
mod dma_card;
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
mod physical;
#[expect(
    dead_code,
    unreachable_pub,
    reason = "the host tests compile the same files, and use all of them"
)]
mod pins;
mod reach;
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
mod way;

use attributes::CardAttributes;
use card::Card;
use dma_card::DmaCard;
use guest::Guests;
use physical::Physical;

/// What a card has while it has its driver: dropped in this order.
struct Bound<C: Physical> {
    _attributes: CardAttributes<C>,
    // Waits for those that are open.
    _guests: Pin<KBox<mdev::Parent<Guests<C>>>>,
    _line: Line<C::Handler>,
    _end: End<C>,
}

impl<C: Physical> Bound<C> {
    /// Offers a card to guests. May sleep.
    ///
    /// # Errors
    ///
    /// `EBUSY`: somebody has the line of its interrupt who does not share. `ENOMEM`.
    fn new(function: &pci::Device<Core<'_>>, card: Arc<C>) -> Result<Self> {
        // Dropped after what follows, should that fail.
        let end = End(card.clone());
        let line = Line::request(function, c"vpio", C::handler(&card)?)?;
        let device = DmaDevice::new(function.as_ref());
        let attributes = CardAttributes::new(&card)?;
        let guests = KBox::pin_init(
            mdev::Parent::new(
                C::driver_of_guests(),
                &device,
                C::KIND,
                C::PRETTY_NAME,
                card,
            ),
            GFP_KERNEL,
        )?;

        Ok(Self {
            _attributes: attributes,
            _guests: guests,
            _line: line,
            _end: end,
        })
    }
}

/// The cards that there are.
#[derive(Clone, Copy)]
enum Kind {
    Ne2000,
    Rtl8139,
}

/// What there is of one of them.
enum Binding {
    Ne2000(#[expect(dead_code, reason = "it is there to be dropped")] Bound<Card>),
    Rtl8139(#[expect(dead_code, reason = "it is there to be dropped")] Bound<DmaCard>),
}

/// Leaves the card as it was found.
struct End<C: Physical>(Arc<C>);

impl<C: Physical> Drop for End<C> {
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
        (pci::DeviceId::from_id(vendor(0x10ec), 0x8029), Kind::Ne2000),
        (
            pci::DeviceId::from_id(vendor(0x10ec), 0x8139),
            Kind::Rtl8139
        ),
    ]
);

impl pci::Driver for VpioDriver {
    type IdInfo = Kind;
    type Data<'bound> = Self;
    const ID_TABLE: pci::IdTable<Self::IdInfo> = &PCI_TABLE;

    fn probe<'bound>(
        function: &'bound pci::Device<Core<'_>>,
        info: &'bound Self::IdInfo,
    ) -> impl PinInit<Self::Data<'bound>, Error> + 'bound {
        pin_init::pin_init_scope(move || {
            let binding = match info {
                Kind::Ne2000 => Binding::Ne2000(Bound::new(function, Card::new(function)?)?),
                Kind::Rtl8139 => Binding::Rtl8139(Bound::new(function, DmaCard::new(function)?)?),
            };

            match Support::probe() {
                Support::Patched => (),
                missing => dev_info!(function, "no modes hook and direct: {}\n", missing.text()),
            }

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
    _ne2000: mdev::Registration<Guests<Card>>,
    _rtl8139: mdev::Registration<Guests<DmaCard>>,
}

impl InPlaceModule for Vpio {
    fn init(module: &'static ThisModule) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            _ne2000: mdev::Registration::new(Card::driver_of_guests())?,
            _rtl8139: mdev::Registration::new(DmaCard::driver_of_guests())?,
            _cards <- driver::Registration::new(c"vpio", module),
        })
    }
}

module! {
    type: Vpio,
    name: "vpio",
    authors: ["PDIO developers"],
    description: "Network cards that guests drive directly, watched by a model",
    license: "GPL",
}
