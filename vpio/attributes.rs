// SPDX-License-Identifier: GPL-2.0

//! What a user sees and sets of a card, in `/sys/bus/pci/devices/ADDRESS/vpio`, and sees of each of its
//! guests, in `/sys/bus/mdev/devices/UUID/vpio`.
//!
//! `Documentation/ABI/testing/sysfs-bus-pci-vpio` and `sysfs-bus-mdev-vpio` describe each file.

use kernel::{
    prelude::*,
    sync::Arc, //
};
use pdio::{
    device::DmaDevice,
    error::not_supported,
    kvm::Support,
    mdev::MediatedDevice,
    sysfs::{
        parse_number,
        show_choice,
        show_number,
        DeviceFiles,
        File, //
    }, //
};

use crate::{
    card::Card,
    guest::Guest,
    mode::Mode,
    model::dma::{
        OnDenied,
        Unknown, //
    },
    statistics::Statistics,
    tunable::OutOfRange, //
};

/// The directories of a card.
pub(crate) struct CardAttributes {
    _files: DeviceFiles<Card>,
}

impl CardAttributes {
    /// Makes them. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`, also if there is such a directory already.
    pub(crate) fn new(card: &Arc<Card>) -> Result<Self> {
        Ok(Self {
            _files: DeviceFiles::new(card.device(), c"vpio", SETTINGS, STATISTICS, card)?,
        })
    }
}

/// The directories of a guest.
pub(crate) struct GuestAttributes {
    _files: DeviceFiles<Guest>,
}

impl GuestAttributes {
    /// Makes them. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(device: &MediatedDevice, guest: &Arc<Guest>) -> Result<Self> {
        let device = DmaDevice::new(device.device());

        Ok(Self {
            _files: DeviceFiles::new(&device, c"vpio", OF_GUEST, GUEST_STATISTICS, guest)?,
        })
    }
}

const SETTINGS: &[File<Card>] = &[
    File {
        name: c"mode",
        show: Some(|card, out| {
            let mode = card.mode();
            // What is chosen is shown even if the KVM that could do it is gone.
            let offered = Mode::offered(Support::probe());

            show_choice(out, Mode::shown(offered, mode), mode)
        }),
        store: Some(|card, text| card.set_mode(Mode::try_from(text)?)),
    },
    File {
        name: c"on_denied",
        show: Some(|_, out| {
            let setting = OnDenied::Ignore.name();

            show_choice(out, [setting], setting)
        }),
        store: Some(|card, text| match OnDenied::try_from(text) {
            Ok(OnDenied::Ignore) => Ok(()),
            Ok(OnDenied::MachineCheck) => {
                dev_err!(
                    card.device().device(),
                    "no machine checks: the card does no DMA that could be denied\n"
                );
                Err(not_supported())
            }
            Err(Unknown) => Err(EINVAL),
        }),
    },
    File {
        name: c"slice_us",
        show: Some(|card, out| show_number(out, card.pace().slice_us.get())),
        store: Some(|card, text| {
            let slice_us = &card.pace().slice_us;

            slice_us
                .set(parse_number(text)?)
                .map_err(|OutOfRange| EINVAL)
        }),
    },
    File {
        name: c"patience_us",
        show: Some(|card, out| show_number(out, card.pace().patience_us.get())),
        store: Some(|card, text| {
            let patience_us = &card.pace().patience_us;

            patience_us
                .set(parse_number(text)?)
                .map_err(|OutOfRange| EINVAL)
        }),
    },
];

const OF_GUEST: &[File<Guest>] = &[
    File {
        name: c"number",
        show: Some(|guest, out| show_number(out, guest.number().get().into())),
        store: None,
    },
    File {
        name: c"hooked",
        show: Some(|guest, out| guest.card().show_exiting(guest.number(), out)),
        store: None,
    },
    File {
        name: c"has_card",
        show: Some(|guest, out| show_number(out, guest.card().is_owner(guest.number()).into())),
        store: None,
    },
];

/// A file that shows a number of the statistics.
macro_rules! statistic {
    ($statistics:path, $name:literal, $field:ident) => {
        File {
            name: $name,
            show: Some(|of, out| show_number(out, $statistics(of).$field.get())),
            store: None,
        }
    };
}

/// Files that show all numbers of the statistics.
macro_rules! statistics {
    ($statistics:path) => {
        &[
            statistic!($statistics, c"trapped", trapped),
            statistic!($statistics, c"hooked", hooked),
            statistic!($statistics, c"model_updates", model_updates),
            statistic!($statistics, c"denied", denied),
            statistic!($statistics, c"interrupts", interrupts),
            statistic!($statistics, c"switches", switches),
            statistic!($statistics, c"switch_ns", switch_ns),
            statistic!($statistics, c"taken_away", taken_away),
            statistic!($statistics, c"port_map_changes", port_map_changes),
            statistic!($statistics, c"frames_held", frames_held),
            statistic!($statistics, c"frames_delivered", frames_delivered),
            statistic!($statistics, c"frames_overflowed", frames_overflowed),
        ]
    };
}

const STATISTICS: &[File<Card>] = statistics!(Card::statistics);

/// The numbers of a guest.
fn of_guest(guest: &Guest) -> &Statistics {
    guest.card().statistics_of(guest.number())
}

const GUEST_STATISTICS: &[File<Guest>] = statistics!(of_guest);
