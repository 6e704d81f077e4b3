// SPDX-License-Identifier: GPL-2.0

//! What a user sees and sets of an attached device, in
//! `/sys/bus/pci/devices/ADDRESS/dma_map_cache`.
//!
//! `Documentation/ABI/testing/sysfs-bus-pci-dma-map-cache` describes each file.

use core::fmt::Write;

use kernel::{
    prelude::*,
    str::Formatter,
    sync::Arc, //
};
use pdio::sysfs::{
    parse_number,
    show_choice,
    show_number,
    DeviceFiles,
    File, //
};

use crate::{
    attachment::AttachedOps,
    strategy::{
        backend::Backend,
        counter::Counter,
        exposure::{
            Age,
            Exposure, //
        },
        tunable::Tunable,
        Kind, //
    }, //
};

/// The directories of one device.
pub(crate) struct Attributes {
    _files: DeviceFiles<AttachedOps>,
}

impl Attributes {
    /// Makes them. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`, `EEXIST`.
    pub(crate) fn new(ops: &Arc<AttachedOps>) -> Result<Self> {
        Ok(Self {
            _files: DeviceFiles::new(ops.device(), c"dma_map_cache", SETTINGS, STATISTICS, ops)?,
        })
    }
}

/// Sets a tunable.
fn store_tunable(tunable: &Tunable, text: &str) -> Result {
    tunable.set(parse_number(text)?).map_err(|_| EINVAL)
}

/// Sets a tunable of `deferred`, and flushes what waits under the old one.
fn store_deferred(ops: &AttachedOps, tunable: &Tunable, text: &str) -> Result {
    store_tunable(tunable, text)?;
    ops.restart_deferred();
    Ok(())
}

/// Lists all strategies, the current one in brackets.
fn show_strategy(ops: &AttachedOps, out: &mut Formatter<'_>) -> Result {
    show_choice(out, Kind::ALL, ops.engine().chosen())
}

/// Changes the strategy.
fn store_strategy(ops: &AttachedOps, text: &str) -> Result {
    ops.switch(Kind::try_from(text).map_err(|_| EINVAL)?)
}

/// Sets how much memory `pool` has, and brings it within at once.
fn store_pool(ops: &AttachedOps, tunable: &Tunable, text: &str) -> Result {
    ops.set_pool_limit(tunable, parse_number(text)?)
        .map_err(|_| EINVAL)
}

/// Sets how much is kept, and withdraws what is too much at once.
fn store_retention(ops: &AttachedOps, tunable: &Tunable, text: &str) -> Result {
    ops.set_retention(tunable, parse_number(text)?)
        .map_err(|_| EINVAL)
}

/// Sets what may be exposed under `auto`.
fn store_bound(ops: &AttachedOps, tunable: &Tunable, text: &str) -> Result {
    ops.set_bound(tunable, parse_number(text)?)
}

/// Shows what `auto` has picked and why, or that it is not in use.
fn show_reason(ops: &AttachedOps, out: &mut Formatter<'_>) -> Result {
    match ops.engine().reason() {
        Some(reason) => write!(out, "{reason}"),
        None => write!(out, "not in use"),
    }
    .map_err(|_| EFBIG)
}

/// Shows how many pages were exposed for how long: the longest duration of a range, in
/// milliseconds, and the number of pages, up to the last range that has any.
fn show_histogram(ops: &AttachedOps, out: &mut Formatter<'_>) -> Result {
    let exposure = Exposure::of(&**ops);
    let ranges = exposure
        .pages
        .iter()
        .rposition(|&pages| pages != 0)
        .map_or(0, |last| last + 1);

    for (index, (age, pages)) in Age::all().zip(exposure.pages).take(ranges).enumerate() {
        let separator = if index == 0 { "" } else { " " };

        write!(out, "{separator}{}:{pages}", age.last_ms()).map_err(|_| EFBIG)?;
    }
    Ok(())
}

const SETTINGS: &[File<AttachedOps>] = &[
    File {
        name: c"strategy",
        show: Some(show_strategy),
        store: Some(store_strategy),
    },
    File {
        name: c"unsettled_pages",
        show: Some(|ops, out| show_number(out, ops.unsettled_pages())),
        store: None,
    },
    File {
        name: c"deferred_max_unmaps",
        show: Some(|ops, out| show_number(out, ops.engine().deferred.max_unmaps.get())),
        store: Some(|ops, text| store_deferred(ops, &ops.engine().deferred.max_unmaps, text)),
    },
    File {
        name: c"deferred_max_us",
        show: Some(|ops, out| show_number(out, ops.engine().deferred.max_us.get())),
        store: Some(|ops, text| store_deferred(ops, &ops.engine().deferred.max_us, text)),
    },
    File {
        name: c"exposure_limit_us",
        show: Some(|ops, out| show_number(out, ops.engine().auto.limit_us.get())),
        store: Some(|ops, text| store_bound(ops, &ops.engine().auto.limit_us, text)),
    },
    File {
        name: c"exposure_limit_pages",
        show: Some(|ops, out| show_number(out, ops.engine().auto.limit_pages.get())),
        store: Some(|ops, text| store_bound(ops, &ops.engine().auto.limit_pages, text)),
    },
    File {
        name: c"auto_reason",
        show: Some(show_reason),
        store: None,
    },
    File {
        name: c"contiguous_max_unmaps",
        show: Some(|ops, out| show_number(out, ops.engine().contiguous.max_unmaps.get())),
        store: Some(|ops, text| store_tunable(&ops.engine().contiguous.max_unmaps, text)),
    },
    File {
        name: c"cached_budget_bytes",
        show: Some(|ops, out| show_number(out, ops.engine().cached.budget_bytes.get())),
        store: Some(|ops, text| store_retention(ops, &ops.engine().cached.budget_bytes, text)),
    },
    File {
        name: c"cached_max_age_ms",
        show: Some(|ops, out| show_number(out, ops.engine().cached.max_age_ms.get())),
        store: Some(|ops, text| store_retention(ops, &ops.engine().cached.max_age_ms, text)),
    },
    File {
        name: c"persistent_cap_bytes",
        show: Some(|ops, out| show_number(out, ops.engine().persistent.cap_bytes.get())),
        store: Some(|ops, text| store_retention(ops, &ops.engine().persistent.cap_bytes, text)),
    },
    File {
        name: c"pool_min_bytes",
        show: Some(|ops, out| show_number(out, ops.engine().pool.limits.min_bytes.get())),
        store: Some(|ops, text| store_pool(ops, &ops.engine().pool.limits.min_bytes, text)),
    },
    File {
        name: c"pool_max_bytes",
        show: Some(|ops, out| show_number(out, ops.engine().pool.limits.max_bytes.get())),
        store: Some(|ops, text| store_pool(ops, &ops.engine().pool.limits.max_bytes, text)),
    },
    File {
        name: c"pool_max_buffer_bytes",
        show: Some(|ops, out| show_number(out, ops.engine().pool.limits.max_buffer_bytes.get())),
        store: Some(|ops, text| store_tunable(&ops.engine().pool.limits.max_buffer_bytes, text)),
    },
    File {
        name: c"retain_budget_bytes",
        show: Some(|ops, out| show_number(out, ops.engine().retained.budget_bytes.get())),
        store: Some(|ops, text| store_tunable(&ops.engine().retained.budget_bytes, text)),
    },
];

/// A file that shows a counter.
macro_rules! counter {
    ($name:literal, $counter:expr) => {
        File {
            name: $name,
            show: Some(|ops, out| show_number(out, ops.total($counter))),
            store: None,
        }
    };
}

const STATISTICS: &[File<AttachedOps>] = &[
    File {
        name: c"retained_pages",
        show: Some(|ops, out| show_number(out, ops.retained_pages())),
        store: None,
    },
    counter!(c"maps", Counter::Maps),
    counter!(c"unmaps", Counter::Unmaps),
    counter!(c"hits", Counter::Hits),
    counter!(c"misses", Counter::Misses),
    counter!(c"evictions", Counter::Evictions),
    counter!(c"flushes", Counter::Flushes),
    counter!(c"pte_updates", Counter::PteUpdates),
    counter!(c"fallbacks", Counter::Fallbacks),
    counter!(c"copied_bytes", Counter::CopiedBytes),
    File {
        name: c"pool_bytes",
        show: Some(|ops, out| show_number(out, ops.engine().pool.mapped_bytes())),
        store: None,
    },
    File {
        name: c"live_pages",
        show: Some(|ops, out| show_number(out, ops.live_pages())),
        store: None,
    },
    File {
        name: c"idle_pages",
        show: Some(|ops, out| show_number(out, ops.idle_pages())),
        store: None,
    },
    File {
        name: c"exposed_pages",
        show: Some(|ops, out| show_number(out, ops.exposed_pages())),
        store: None,
    },
    File {
        name: c"exposure_p50_ms",
        show: Some(|ops, out| show_number(out, Exposure::of(&**ops).percentile_ms(50))),
        store: None,
    },
    File {
        name: c"exposure_p99_ms",
        show: Some(|ops, out| show_number(out, Exposure::of(&**ops).percentile_ms(99))),
        store: None,
    },
    File {
        name: c"exposure_max_ms",
        show: Some(|ops, out| show_number(out, Exposure::of(&**ops).percentile_ms(100))),
        store: None,
    },
    File {
        name: c"exposure_histogram",
        show: Some(show_histogram),
        store: None,
    },
];
