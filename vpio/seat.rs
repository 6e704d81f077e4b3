// SPDX-License-Identifier: GPL-2.0

//! What a card has of one guest, under its lock.

use kernel::{
    prelude::*,
    sync::Arc, //
};
use pdio::{
    boxed,
    device::DmaDevice,
    io_bar::BarPorts,
    kvm::DirectPorts,
    trace::vpio as trace, //
};

use crate::{
    mode::Mode,
    model::{
        device::{
            Attention,
            DeviceModel, //
        },
        ne2000::{
            context::{
                Context,
                PROM_WORDS, //
            },
            Ne2000,
            Quirks, //
        },
        ports::PortSet, //
    },
    number::Number,
    registers::Registers,
    statistics::Statistics,
    turns::Slot, //
};

/// A station address PROM, as remote DMA shows it.
pub(crate) type Prom = [[u8; 2]; PROM_WORDS];

/// A card that was just reset. In memory of its own: a context is as large as the stack of a thread.
static RESET: Context = Context::new([[0; 2]; PROM_WORDS]);

/// Where the guest has the card's ports, if it can reach them there.
pub(crate) struct Place {
    /// The host's ports of the same numbers.
    pub(crate) ports: Arc<BarPorts>,
    /// The guest's way to them.
    pub(crate) direct: DirectPorts<BarPorts>,
}

/// What a card has of one guest.
pub(crate) struct Seat {
    number: Number,
    prom: Prom,
    quirks: Quirks,
    /// Its turns. None: nobody has opened it.
    pub(crate) slot: Option<Slot>,
    pub(crate) model: Ne2000,
    /// What belongs to the guest while it does not have the card.
    pub(crate) context: KBox<Context>,
    pub(crate) attention: Attention,
    /// None: its accesses are hooked or trapped, whatever the mode is.
    pub(crate) place: Option<Place>,
    /// The ports that it accesses directly.
    allowed: PortSet,
    /// How many of its accesses have come here.
    pub(crate) accesses: u64,
    /// Whether its model has a reason for an interrupt.
    pub(crate) owed: bool,
    pub(crate) statistics: Arc<Statistics>,
}

impl Seat {
    /// For a guest that finds this PROM on a card with these quirks. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(
        number: Number,
        prom: Prom,
        quirks: Quirks,
        statistics: Arc<Statistics>,
    ) -> Result<Self> {
        let mut seat = Self {
            number,
            prom,
            quirks,
            slot: None,
            model: Ne2000::new(quirks),
            context: boxed::copy_of(&RESET)?,
            attention: Attention::Close,
            place: None,
            allowed: PortSet::EMPTY,
            accesses: 0,
            owed: false,
            statistics,
        };

        seat.reset();
        Ok(seat)
    }

    /// The guest's number.
    pub(crate) fn number(&self) -> Number {
        self.number
    }

    /// What belongs to the guest is that of a card that was just reset. It does not have the card.
    pub(crate) fn reset(&mut self) {
        self.model = Ne2000::new(self.quirks);
        self.attention = Attention::Close;
        *self.context = RESET;
        self.context.prom = self.prom;
    }

    /// The ports of the card that exit when the guest accesses them.
    pub(crate) fn exiting(&self) -> PortSet {
        Ne2000::PORTS.difference(self.allowed)
    }

    /// Takes the guest's direct way to the card. May sleep.
    pub(crate) fn close(&mut self, device: &DmaDevice, statistics: &Statistics) {
        if !self.allowed.is_empty() {
            self.allow(PortSet::EMPTY, device, statistics);
        }
    }

    /// Lets the guest access these ports directly, and no others. May sleep.
    fn allow(&mut self, ports: PortSet, device: &DmaDevice, statistics: &Statistics) {
        let Some(place) = &self.place else {
            return;
        };

        if ports.is_empty() {
            place.direct.clear();
        } else if place.direct.set(|port| ports.contains(port)).is_err() {
            // Of a VM that was never allowed a port; all of them exit, as before.
            return;
        }
        self.allowed = ports;
        statistics.port_map_changes.add(1);
        self.statistics.port_map_changes.add(1);
        trace::ports(
            device,
            self.number.get(),
            place.direct.window().first(),
            ports
                .iter()
                .filter(|&port| port < 64)
                .fold(0, |bits, port| bits | 1 << port),
        );
    }

    /// The guest has the card: pays the attention that is wanted, and opens the ports that nobody has to
    /// hear of. May sleep.
    pub(crate) fn follow(
        &mut self,
        wanted: Attention,
        mode: Mode,
        ports: &Arc<BarPorts>,
        device: &DmaDevice,
        statistics: &Statistics,
    ) {
        let is_here = self
            .place
            .as_ref()
            .is_some_and(|place| Arc::ptr_eq(&place.ports, ports));
        let is_direct = mode == Mode::Direct && is_here;
        // Where all exit anyhow, it costs nothing to know.
        let attention = if is_direct { wanted } else { Attention::Close };

        if attention != self.attention {
            self.close(device, statistics);
            self.model.attend(attention, &mut Registers(ports));
            self.attention = attention;
        }

        let allowed = if is_direct {
            Ne2000::PORTS.difference(self.model.hooked())
        } else {
            PortSet::EMPTY
        };

        if allowed != self.allowed {
            self.allow(allowed, device, statistics);
        }
    }
}
