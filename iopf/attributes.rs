// SPDX-License-Identifier: GPL-2.0

//! What a user sees and sets of a device, in `/sys/bus/pci/devices/ADDRESS/iopf`.
//!
//! `Documentation/ABI/testing/sysfs-bus-pci-iopf` describes each file.

use core::fmt::Write;

use kernel::{
    prelude::*,
    str::Formatter,
    sync::Arc, //
};
use pdio::{
    iopf::Mode,
    sysfs::{
        parse_number,
        show_choice,
        show_number,
        DeviceFiles,
        File, //
    }, //
};

use crate::{
    device::Device,
    policy::{
        eviction::{
            Eviction,
            Unknown, //
        },
        fault_around::{
            Malformed,
            Setting, //
        },
    }, //
};

/// The directories of one device.
pub(crate) struct Attributes {
    _files: DeviceFiles<Device>,
}

impl Attributes {
    /// Makes them. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`, also if there is such a directory already.
    pub(crate) fn new(device: &Arc<Device>) -> Result<Self> {
        Ok(Self {
            _files: DeviceFiles::new(device.dma_device(), c"iopf", SETTINGS, STATISTICS, device)?,
        })
    }
}

/// Shows how many groups took how long: the longest time of a range, in microseconds, and the number
/// of groups, up to the last range that has any.
fn show_latency(device: &Device, out: &mut Formatter<'_>) -> Result {
    let latency = &device.statistics().latency;
    let ranges = latency
        .ranges()
        .enumerate()
        .filter(|(_, (_, groups))| *groups != 0)
        .last()
        .map_or(0, |(last, _)| last + 1);

    for (index, (us, groups)) in latency.ranges().take(ranges).enumerate() {
        let separator = if index == 0 { "" } else { " " };

        write!(out, "{separator}{us}:{groups}").map_err(|_| EFBIG)?;
    }
    Ok(())
}

const SETTINGS: &[File<Device>] = &[
    File {
        name: c"mode",
        show: Some(|device, out| show_choice(out, Mode::ALL, device.mode())),
        store: Some(|device, text| {
            device.set_mode(Mode::try_from(text)?);
            Ok(())
        }),
    },
    File {
        name: c"bindings",
        show: Some(|device, out| device.show_bindings(out)),
        store: None,
    },
    File {
        name: c"pin_budget_bytes",
        show: Some(|device, out| show_number(out, device.budget().limit_bytes())),
        store: Some(|device, text| device.set_budget_bytes(parse_number(text)?)),
    },
    File {
        name: c"binding_budget_bytes",
        show: Some(|device, out| show_number(out, device.binding_limit_bytes())),
        store: Some(|device, text| device.set_binding_limit_bytes(parse_number(text)?)),
    },
    File {
        name: c"fault_around_pages",
        show: Some(|device, out| write!(out, "{}", device.fault_around()).map_err(|_| EFBIG)),
        store: Some(|device, text| {
            device.set_fault_around(Setting::try_from(text).map_err(|Malformed| EINVAL)?);
            Ok(())
        }),
    },
    File {
        name: c"eviction",
        show: Some(|device, out| show_choice(out, Eviction::ALL, device.eviction())),
        store: Some(|device, text| {
            device.set_eviction(Eviction::try_from(text).map_err(|Unknown| EINVAL)?);
            Ok(())
        }),
    },
];

/// A file that shows a number of the statistics.
macro_rules! statistic {
    ($name:literal, $field:ident) => {
        File {
            name: $name,
            show: Some(|device, out| show_number(out, device.statistics().$field.get())),
            store: None,
        }
    };
}

/// A file that shows a percentile of the latency.
macro_rules! percentile {
    ($name:literal, $percent:literal) => {
        File {
            name: $name,
            show: Some(|device, out| {
                show_number(out, device.statistics().latency.percentile_us($percent))
            }),
            store: None,
        }
    };
}

const STATISTICS: &[File<Device>] = &[
    statistic!(c"groups", groups),
    statistic!(c"failed_groups", failed_groups),
    statistic!(c"requests", requests),
    statistic!(c"mapped_pages", mapped_pages),
    statistic!(c"prefetched_pages", prefetched_pages),
    statistic!(c"evicted_pages", evicted_pages),
    statistic!(c"invalidated_pages", invalidated_pages),
    statistic!(c"invalidations", invalidations),
    statistic!(c"retries", retries),
    File {
        name: c"pinned_pages",
        show: Some(|device, out| show_number(out, device.budget().charged())),
        store: None,
    },
    percentile!(c"latency_p50_us", 50),
    percentile!(c"latency_p99_us", 99),
    percentile!(c"latency_max_us", 100),
    File {
        name: c"latency_histogram",
        show: Some(show_latency),
        store: None,
    },
];
