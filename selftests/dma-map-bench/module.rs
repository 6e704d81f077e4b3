// SPDX-License-Identifier: GPL-2.0

//! dma-map-bench: what a pair of DMA map and unmap costs, for any PCI device and whoever serves its
//! DMA API: the kernel's own modes or dma-map-cache.
//!
//! The shape of the kernel's `kernel/dma/map_benchmark.c`, but it needs no device of its own: it
//! maps pages on behalf of a device that a driver is bound to. Nothing is transferred.
//!
//! In `/sys/module/dma_map_bench/bench`:
//!
//! - `run` takes `ADDRESS API BATCH ITERATIONS LAYOUT`: a PCI address; `page` (one call per page) or
//!   `sg` (one call for all); pages that are mapped before the first is unmapped, 1 to 512; how
//!   often, 1 to 10^8; `contiguous` or `scattered` pages. Returns when it is done.
//! - `result` reads `pairs=N map_cycles=N unmap_cycles=N`: pages that were mapped and unmapped, and
//!   cycles of the time-stamp counter that all maps and all unmaps took.

use core::fmt::Write;

use kernel::{
    new_mutex,
    prelude::*,
    str::Formatter,
    sync::{
        Arc,
        Mutex, //
    }, //
};
use pdio::{
    device::LockedDevice,
    dma_mapping::{
        Layout,
        Pages, //
    },
    pci::{
        Address,
        PciDevice, //
    },
    sysfs::{
        Directory,
        File,
        Parent, //
    },
    timer::cycles, //
};

module! {
    type: DmaMapBench,
    name: "dma_map_bench",
    authors: ["PDIO developers"],
    description: "What a pair of DMA map and unmap costs",
    license: "GPL",
}

/// How pages are mapped.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Api {
    /// `dma_map_page()`.
    Page,
    /// `dma_map_sg()`.
    Sg,
}

/// What is measured.
struct Plan {
    address: Address,
    api: Api,
    /// Pages that are mapped at a time. 512 scattered pages are the largest block of memory that
    /// can be had (`MAX_PAGE_ORDER`).
    batch: usize,
    iterations: u64,
    layout: Layout,
}

impl TryFrom<&str> for Plan {
    type Error = Error;

    fn try_from(text: &str) -> Result<Self> {
        let mut words = text.split_ascii_whitespace();
        let mut word = || words.next().ok_or(EINVAL);
        let address = Address::try_from(word()?)?;
        let api = match word()? {
            "page" => Api::Page,
            "sg" => Api::Sg,
            _ => return Err(EINVAL),
        };
        let batch = word()?.parse().map_err(|_| EINVAL)?;
        let iterations = word()?.parse().map_err(|_| EINVAL)?;
        let layout = match word()? {
            "contiguous" => Layout::Contiguous,
            "scattered" => Layout::Scattered,
            _ => return Err(EINVAL),
        };

        if words.next().is_some()
            || !(1..=512).contains(&batch)
            || !(1..=100_000_000).contains(&iterations)
        {
            return Err(EINVAL);
        }

        Ok(Self {
            address,
            api,
            batch,
            iterations,
            layout,
        })
    }
}

/// What was measured.
#[derive(Clone, Copy, Default)]
struct Outcome {
    pairs: u64,
    map_cycles: u64,
    unmap_cycles: u64,
}

impl Plan {
    /// Measures. May take long.
    ///
    /// # Errors
    ///
    /// `ENODEV`: there is no such device, or no driver is bound to it. `ENOMEM`, and `EIO` if a map
    /// fails.
    fn run(&self) -> Result<Outcome> {
        let device = PciDevice::find(self.address).ok_or(ENODEV)?.dma_device();
        let mut pages = Pages::new(self.batch, self.layout)?;
        let guard = device.lock();

        if !device.is_bound() {
            return Err(ENODEV);
        }

        let device = guard.device();
        let mut outcome = Outcome::default();

        // The first time is for what is only done once: caches, tables, memory of allocators.
        self.measure(&mut pages, &device)?;
        for _ in 0..self.iterations {
            let (map_cycles, unmap_cycles) = self.measure(&mut pages, &device)?;

            outcome.map_cycles += map_cycles;
            outcome.unmap_cycles += unmap_cycles;
            outcome.pairs += self.batch as u64;
        }
        Ok(outcome)
    }

    /// Maps and unmaps all pages once, and returns the cycles that each took.
    #[inline]
    fn measure(&self, pages: &mut Pages, device: &LockedDevice<'_>) -> Result<(u64, u64)> {
        let start = cycles();

        match self.api {
            Api::Page => pages.map_each(device)?,
            Api::Sg => pages.map_list(device)?,
        }

        let mapped = cycles();

        match self.api {
            Api::Page => pages.unmap_each(device),
            Api::Sg => pages.unmap_list(device),
        }

        let end = cycles();

        Ok((mapped.wrapping_sub(start), end.wrapping_sub(mapped)))
    }
}

/// The last outcome.
#[pin_data]
struct Bench {
    #[pin]
    outcome: Mutex<Option<Outcome>>,
}

impl Bench {
    /// Runs what `text` describes; one at a time.
    fn run(&self, text: &str) -> Result {
        let plan = Plan::try_from(text)?;
        let mut outcome = self.outcome.lock();

        *outcome = None;
        *outcome = Some(plan.run()?);
        Ok(())
    }

    /// Shows the last outcome.
    fn show(&self, out: &mut Formatter<'_>) -> Result {
        let Outcome {
            pairs,
            map_cycles,
            unmap_cycles,
        } = self.outcome.lock().ok_or(ENOENT)?;

        write!(
            out,
            "pairs={pairs} map_cycles={map_cycles} unmap_cycles={unmap_cycles}"
        )
        .map_err(|_| EFBIG)
    }
}

const FILES: &[File<Bench>] = &[
    File {
        name: c"run",
        show: None,
        store: Some(Bench::run),
    },
    File {
        name: c"result",
        show: Some(Bench::show),
        store: None,
    },
];

/// The module.
struct DmaMapBench {
    _files: Directory<Bench>,
}

impl kernel::Module for DmaMapBench {
    fn init(module: &'static ThisModule) -> Result<Self> {
        let bench = Arc::pin_init(
            pin_init!(Bench {
                outcome <- new_mutex!(None),
            }),
            GFP_KERNEL,
        )?;

        Ok(Self {
            _files: Directory::new(Parent::Module(module), c"bench", FILES, bench)?,
        })
    }
}
