// SPDX-License-Identifier: GPL-2.0

//! dma-map-bench: what a pair of DMA map and unmap costs, for any PCI device and whoever serves its
//! DMA API: the kernel's own modes or dma-map-cache.
//!
//! The shape of the kernel's `kernel/dma/map_benchmark.c`, but it needs no device of its own: it
//! maps pages on behalf of a device that a driver is bound to. Nothing is transferred.
//!
//! In `/sys/module/dma_map_bench/bench`:
//!
//! - `run` takes `ADDRESS API BATCH ITERATIONS LAYOUT [NAME=NUMBER]...` and returns when it is done:
//!
//!   - a PCI address;
//!   - `page` (one call per buffer), `sg` (`dma_map_sg()`) or `multi` (`dma_map_multi()`);
//!   - buffers that are mapped before the first is unmapped, 1 to 512;
//!   - how often, 1 to 10^8;
//!   - `contiguous` or `scattered` buffers in a batch;
//!   - `len=BYTES`: of a buffer, 1 to 2 MiB; a page by default;
//!   - `threads=N`: each does all of it with buffers of its own, on a CPU of its own; 1 by default;
//!   - `set=N`: batches of each thread, 1 to 2^20; 1 by default. The next one is mapped each time,
//!     in turn, so that a page is mapped again after all others of the set;
//!   - `random=1`: any of them is;
//!   - `live=N`: mappings that each thread makes before it begins and takes down in the end, 0 to
//!     10^7, of the pages of its set again and again;
//!   - `regroup=N`: of a `multi` batch each Nth buffer is unmapped by itself, by
//!     `dma_unmap_page()`, before all others are together;
//!   - `retain=1`: all buffers are retained before and released in the end;
//!   - `spoil=N`: buffer number N of a `multi` batch is one that cannot be mapped. Each map must
//!     fail then.
//!
//!   The first time, and with a set all of it the first time, is not measured.
//! - `result` reads `pairs=N map_cycles=N unmap_cycles=N ns=N`: buffers that were mapped and
//!   unmapped by all threads, cycles of the time-stamp counter that all maps and all unmaps took
//!   (instructions, in a virtual machine that is run by counting them), and the time that the slowest
//!   thread took for all, in nanoseconds.

use core::fmt::Write;

use kernel::{
    new_mutex,
    prelude::*,
    str::Formatter,
    sync::{
        Arc,
        Mutex, //
    },
    time::{
        Instant,
        Monotonic, //
    }, //
};
use pdio::{
    device::BoundDevice,
    dma_mapping::{
        Api,
        Batches,
        Held,
        Layout,
        Shape, //
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
    thread::{
        cond_resched,
        run_on_cpus, //
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

/// What is measured.
struct Plan {
    address: Address,
    api: Api,
    shape: Shape,
    iterations: u64,
    threads: usize,
    random: bool,
    live: usize,
    regroup: Option<usize>,
    retain: bool,
    spoil: Option<usize>,
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
            "multi" => Api::Multi,
            _ => return Err(EINVAL),
        };
        let batch = number(word()?, 1, 512)?;
        let iterations = number(word()?, 1, 100_000_000)? as u64;
        let layout = match word()? {
            "contiguous" => Layout::Contiguous,
            "scattered" => Layout::Scattered,
            _ => return Err(EINVAL),
        };
        let mut plan = Self {
            address,
            api,
            shape: Shape {
                batch,
                batches: 1,
                len: kernel::page::PAGE_SIZE,
                layout,
            },
            iterations,
            threads: 1,
            random: false,
            live: 0,
            regroup: None,
            retain: false,
            spoil: None,
        };

        for option in words {
            let (name, value) = option.split_once('=').ok_or(EINVAL)?;

            match name {
                "len" => plan.shape.len = number(value, 1, 2 << 20)?,
                "threads" => plan.threads = number(value, 1, 4096)?,
                "set" => plan.shape.batches = number(value, 1, 1 << 20)?,
                "random" => plan.random = number(value, 0, 1)? == 1,
                "live" => plan.live = number(value, 0, 10_000_000)?,
                "regroup" => plan.regroup = Some(number(value, 1, batch)?),
                "retain" => plan.retain = number(value, 0, 1)? == 1,
                "spoil" => plan.spoil = Some(number(value, 0, batch - 1)?),
                _ => return Err(EINVAL),
            }
        }
        if api != Api::Multi && (plan.regroup.is_some() || plan.spoil.is_some()) {
            return Err(EINVAL);
        }
        Ok(plan)
    }
}

/// Reads a number.
fn number(text: &str, min: usize, max: usize) -> Result<usize> {
    text.parse()
        .ok()
        .filter(|number| (min..=max).contains(number))
        .ok_or(EINVAL)
}

/// What was measured.
#[derive(Clone, Copy, Default)]
struct Outcome {
    pairs: u64,
    map_cycles: u64,
    unmap_cycles: u64,
    ns: i64,
}

impl Outcome {
    /// Adds what was measured at the same time.
    fn join(&mut self, other: Self) {
        self.pairs += other.pairs;
        self.map_cycles += other.map_cycles;
        self.unmap_cycles += other.unmap_cycles;
        self.ns = self.ns.max(other.ns);
    }
}

impl Plan {
    /// Measures. May take long.
    ///
    /// # Errors
    ///
    /// `ENODEV`: there is no such device, or no driver is bound to it. `EINVAL`: there are fewer
    /// CPUs, or what cannot be mapped was. `ENOMEM`, `EIO` if a map fails, and what `dma_retain()`
    /// says.
    fn run(&self, total: &Mutex<Outcome>) -> Result {
        let device = PciDevice::find(self.address).ok_or(ENODEV)?.dma_device();
        let guard = device.lock();
        let device = guard.device();
        let device = device.bound().ok_or(ENODEV)?;

        run_on_cpus(self.threads, |thread| {
            let outcome = self.run_thread(thread, &device)?;

            total.lock().join(outcome);
            Ok(())
        })
    }

    /// What each thread does.
    fn run_thread(&self, thread: usize, device: &BoundDevice<'_>) -> Result<Outcome> {
        let mut batches = Batches::new(self.shape)?;

        if let Some(index) = self.spoil {
            batches.spoil(index)?;
            return self.run_spoiled(&mut batches, device);
        }

        if self.retain {
            batches.retain(device)?;
        }

        let mut held = Held::new();
        let result = batches
            .hold(self.live, &mut held, device)
            .and_then(|()| self.measure_all(thread, &mut batches, device));

        held.release(device);
        if self.retain {
            batches.release(device);
        }
        result
    }

    /// Tries to map what cannot be mapped.
    fn run_spoiled(&self, batches: &mut Batches, device: &BoundDevice<'_>) -> Result<Outcome> {
        for _ in 0..self.iterations {
            match batches.map(self.api, device) {
                Err(error) if error == ENOMEM => {}
                Err(error) => return Err(error),
                Ok(()) => {
                    batches.unmap(self.api, device);
                    return Err(EINVAL);
                }
            }
        }
        Ok(Outcome::default())
    }

    /// Maps and unmaps as often as was asked for.
    fn measure_all(
        &self,
        thread: usize,
        batches: &mut Batches,
        device: &BoundDevice<'_>,
    ) -> Result<Outcome> {
        let mut outcome = Outcome::default();
        let mut random = Random::new(thread);
        let set = self.shape.batches;

        // The first time is for what is only done once: caches, tables, memory of allocators.
        for index in 0..set {
            batches.choose(index);
            self.measure(batches, device)?;
            cond_resched();
        }

        let start = Instant::<Monotonic>::now();

        for index in 0..self.iterations {
            if set != 1 {
                batches.choose(if self.random {
                    random.next()
                } else {
                    index as usize
                });
            }

            let (map_cycles, unmap_cycles) = self.measure(batches, device)?;

            outcome.map_cycles += map_cycles;
            outcome.unmap_cycles += unmap_cycles;
            outcome.pairs += self.shape.batch as u64;
            if index % 64 == 0 {
                cond_resched();
            }
        }
        outcome.ns = start.elapsed().as_nanos();
        Ok(outcome)
    }

    /// Maps and unmaps a batch once, and returns the cycles that each took.
    #[inline]
    fn measure(&self, batches: &mut Batches, device: &BoundDevice<'_>) -> Result<(u64, u64)> {
        let start = cycles();

        batches.map(self.api, device)?;

        let mapped = cycles();

        match self.regroup {
            None => batches.unmap(self.api, device),
            Some(step) => batches.unmap_regrouped(step, device),
        }

        let end = cycles();

        Ok((mapped.wrapping_sub(start), end.wrapping_sub(mapped)))
    }
}

/// Numbers without an order that could help a cache: xorshift64, Marsaglia 2003.
struct Random(u64);

impl Random {
    /// Another sequence for each thread, the same each time.
    fn new(thread: usize) -> Self {
        Self(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(thread as u64 * 2 + 1))
    }

    /// The next number.
    fn next(&mut self) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize
    }
}

/// The last outcome.
#[pin_data]
struct Bench {
    #[pin]
    outcome: Mutex<Option<Outcome>>,
    /// What the threads add up.
    #[pin]
    total: Mutex<Outcome>,
}

impl Bench {
    /// Runs what `text` describes; one at a time.
    fn run(&self, text: &str) -> Result {
        let plan = Plan::try_from(text)?;
        let mut outcome = self.outcome.lock();

        *outcome = None;
        *self.total.lock() = Outcome::default();
        plan.run(&self.total)?;
        *outcome = Some(*self.total.lock());
        Ok(())
    }

    /// Shows the last outcome.
    fn show(&self, out: &mut Formatter<'_>) -> Result {
        let Outcome {
            pairs,
            map_cycles,
            unmap_cycles,
            ns,
        } = self.outcome.lock().ok_or(ENOENT)?;

        write!(
            out,
            "pairs={pairs} map_cycles={map_cycles} unmap_cycles={unmap_cycles} ns={ns}"
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
                total <- new_mutex!(Outcome::default()),
            }),
            GFP_KERNEL,
        )?;

        Ok(Self {
            _files: Directory::new(Parent::Module(module), c"bench", FILES, bench)?,
        })
    }
}
