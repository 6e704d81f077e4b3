// SPDX-License-Identifier: GPL-2.0

//! A guest's direct way to the card: the ports that it accesses without an exit.

use kernel::{
    prelude::*,
    sync::Arc, //
};
use pdio::{
    device::DmaDevice,
    io_bar::BarPorts,
    io_region::HostPorts,
    kvm::{
        DirectPorts,
        Vm, //
    },
    trace::vpio as trace, //
};

use crate::{
    model::ports::PortSet,
    number::Number,
    statistics::Statistics, //
};

/// Where the guest has the card's ports.
struct Place {
    /// The host's ports of the same numbers.
    ports: Arc<BarPorts>,
    /// The guest's way to them.
    direct: DirectPorts<BarPorts>,
}

/// The direct way of one guest, under the lock of the card.
pub(crate) struct Way {
    number: Number,
    /// All ports of the card.
    all: PortSet,
    /// None: its accesses are hooked or trapped, whatever the mode is.
    place: Option<Place>,
    /// The ports that it accesses directly.
    allowed: PortSet,
    /// Whether the log has it, since the guest was opened, that the guest wants ports of others: it can
    /// want them as often as it likes.
    is_reported: bool,
    statistics: Arc<Statistics>,
}

impl Way {
    /// None so far, to a card with these ports.
    pub(crate) fn new(number: Number, all: PortSet, statistics: Arc<Statistics>) -> Self {
        Self {
            number,
            all,
            place: None,
            allowed: PortSet::EMPTY,
            is_reported: false,
            statistics,
        }
    }

    /// The guest is opened.
    pub(crate) fn opened(&mut self) {
        self.is_reported = false;
    }

    /// The host's ports at the guest's, if it can reach the card there.
    pub(crate) fn ports(&self) -> Option<&Arc<BarPorts>> {
        self.place.as_ref().map(|place| &place.ports)
    }

    /// The ports of the card that exit when the guest accesses them.
    pub(crate) fn exiting(&self) -> PortSet {
        self.all.difference(self.allowed)
    }

    /// The guest has the ports of the card from `first` on, in this VM, or can reach them nowhere. `reserve`
    /// gets the host's ports of the same numbers, if nobody else has them. May sleep.
    pub(crate) fn place(
        &mut self,
        wanted: Option<(&Arc<Vm>, u16)>,
        reserve: impl FnOnce(u16) -> Result<Arc<BarPorts>>,
        device: &DmaDevice,
        of_card: &Statistics,
    ) {
        let first = wanted.map(|(_, first)| first);

        if first == self.ports().map(|ports| ports.window().first()) {
            return;
        }
        self.close(device, of_card);
        self.place = None;
        if let Some((vm, first)) = wanted {
            match reserve(first) {
                Ok(ports) => {
                    self.place = Some(Place {
                        direct: DirectPorts::new(vm.clone(), ports.clone()),
                        ports,
                    });
                }
                Err(_) if !core::mem::replace(&mut self.is_reported, true) => {
                    dev_warn!(
                        device.device(),
                        "guest {}: the host has other things at 0x{first:x}: all accesses exit\n",
                        self.number.get()
                    );
                }
                Err(_) => (),
            }
        }
    }

    /// The guest is closed, or reaches the card nowhere any more. It accesses nothing directly already.
    pub(crate) fn leave(&mut self) {
        self.place = None;
    }

    /// Takes the guest's direct way to the card. May sleep.
    pub(crate) fn close(&mut self, device: &DmaDevice, of_card: &Statistics) {
        self.allow(PortSet::EMPTY, device, of_card);
    }

    /// Lets the guest access these ports directly, and no others. May sleep.
    pub(crate) fn allow(&mut self, ports: PortSet, device: &DmaDevice, of_card: &Statistics) {
        if ports == self.allowed {
            return;
        }

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
        of_card.port_map_changes.add(1);
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
}
