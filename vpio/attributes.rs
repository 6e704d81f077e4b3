// SPDX-License-Identifier: GPL-2.0

//! What a user sees and sets of a card, in `/sys/bus/pci/devices/ADDRESS/vpio`, and sees of each of its
//! guests, in `/sys/bus/mdev/devices/UUID/vpio`.
//!
//! `Documentation/ABI/testing/sysfs-bus-pci-vpio` and `sysfs-bus-mdev-vpio` describe each file.

use core::fmt::Write;

use kernel::{
    prelude::*,
    str::Formatter,
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
    dma_card::DmaCard,
    guest::Guest,
    mode::Mode,
    model::{
        dma::{
            OnDenied,
            Unknown, //
        },
        ports::PortSet,
        rtl8139::Pinning, //
    },
    physical::Physical,
    statistics::Statistics,
    tunable::OutOfRange, //
};

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
            statistic!($statistics, c"reminders", reminders),
            statistic!($statistics, c"pages_pinned", pages_pinned),
            statistic!($statistics, c"pins", pins),
            statistic!($statistics, c"pins_failed", pins_failed),
        ]
    };
}

/// The directories of a card.
pub(crate) struct CardAttributes<C: Physical> {
    _files: DeviceFiles<C>,
}

impl<C: Physical> CardAttributes<C> {
    const STATISTICS: &'static [File<C>] = statistics!(C::statistics);

    /// Makes them. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`, also if there is such a directory already.
    pub(crate) fn new(card: &Arc<C>) -> Result<Self> {
        Ok(Self {
            _files: DeviceFiles::new(card.device(), c"vpio", C::SETTINGS, Self::STATISTICS, card)?,
        })
    }
}

/// Shows ports as ranges.
///
/// # Errors
///
/// `EFBIG`: it does not fit.
fn show_ports(out: &mut Formatter<'_>, ports: PortSet) -> Result {
    let mut separator = "";
    let mut port = 0;

    while port < u16::from(u8::MAX) {
        let span = (port..=u16::from(u8::MAX))
            .take_while(|&port| u8::try_from(port).is_ok_and(|port| ports.contains(port)))
            .count() as u16;

        if span != 0 {
            let last = port + span - 1;

            write!(out, "{separator}0x{port:02x}-0x{last:02x}").map_err(|_| EFBIG)?;
            separator = " ";
        }
        port += span + 1;
    }
    Ok(())
}

/// The directories of a guest.
pub(crate) struct GuestAttributes<C: Physical> {
    _files: DeviceFiles<Guest<C>>,
}

impl<C: Physical> GuestAttributes<C> {
    const FILES: &'static [File<Guest<C>>] = &[
        File {
            name: c"number",
            show: Some(|guest, out| show_number(out, guest.number().get().into())),
            store: None,
        },
        File {
            name: c"hooked",
            show: Some(|guest, out| show_ports(out, guest.card().exiting(guest.number()))),
            store: None,
        },
        File {
            name: c"line",
            show: Some(|guest, out| {
                let line = guest.card().interrupts().line(guest.number());

                out.write_str(line.name()).map_err(|_| EFBIG)
            }),
            store: None,
        },
        File {
            name: c"has_card",
            show: Some(|guest, out| {
                let has_card = guest.card().is_owner(guest.number());

                show_number(out, has_card.into())
            }),
            store: None,
        },
    ];
    const STATISTICS: &'static [File<Guest<C>>] = statistics!(of_guest::<C>);

    /// Makes them. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(device: &MediatedDevice, guest: &Arc<Guest<C>>) -> Result<Self> {
        let device = DmaDevice::new(device.device());

        Ok(Self {
            _files: DeviceFiles::new(&device, c"vpio", Self::FILES, Self::STATISTICS, guest)?,
        })
    }
}

/// How accesses get to a card.
const fn mode<C: Physical>() -> File<C> {
    File {
        name: c"mode",
        show: Some(|card, out| {
            let mode = card.mode();
            // What is chosen is shown even if the KVM that could do it is gone.
            let offered = C::modes(Support::probe());

            show_choice(out, Mode::shown(offered, mode), mode)
        }),
        store: Some(|card, text| card.set_mode(Mode::try_from(text)?)),
    }
}

/// What a user can set of an RTL8139.
pub(crate) const RTL8139: &[File<DmaCard>] = &[
    mode(),
    File {
        name: c"on_denied",
        show: Some(|card, out| {
            let current = card.on_denied();
            let is_patched = Support::probe() == Support::Patched;
            // What is chosen is shown even if the KVM that could do it is gone.
            let shown = OnDenied::ALL
                .into_iter()
                .filter(|setting| is_patched || [OnDenied::Ignore, current].contains(setting));

            show_choice(out, shown.map(OnDenied::name), current.name())
        }),
        store: Some(|card, text| {
            card.set_on_denied(OnDenied::try_from(text).map_err(|Unknown| EINVAL)?)
        }),
    },
    File {
        name: c"pinning",
        show: Some(|card, out| {
            let all = Pinning::ALL.map(Pinning::name);

            show_choice(out, all, card.pinning().name())
        }),
        store: Some(|card, text| {
            card.set_pinning(Pinning::try_from(text).map_err(|Unknown| EINVAL)?);
            Ok(())
        }),
    },
];

/// What a user can set of an NE2000.
pub(crate) const NE2000: &[File<Card>] = &[
    mode(),
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

/// The numbers of a guest.
fn of_guest<C: Physical>(guest: &Guest<C>) -> &Statistics {
    guest.card().statistics_of(guest.number())
}
