// SPDX-License-Identifier: GPL-2.0

//! What a binding costs the kernel, and how many there can be.

use std::fs;

use svadma::uapi::Mode;
use svadma::Consumer;

use crate::area::{Area, PAGE};
use crate::case::{expect, goes_on, passed, same, Case, Outcome, Result};
use crate::control::{bindings, statistic};
use crate::work::{consumer, fill};

/// All of them.
pub const CASES: [Case; 2] = [
    ("1000 bindings", |mode| passed(thousand(mode))),
    ("16 bytes for each page", pages),
];

/// Most bytes of a binding, besides its pages and the tables of the IOMMU.
const BINDING_BYTES: u64 = 4096;

/// Most bytes of a page that a device may use, besides the tables of the IOMMU.
const PAGE_BYTES: u64 = 16;

/// What the kernel uses, in bytes.
#[derive(Clone, Copy)]
struct Memory {
    /// All that it allocates for itself: `Slab` and `VmallocUsed` of `/proc/meminfo`.
    own: u64,
    /// Tables of IOMMUs: `SecPageTables`.
    tables: u64,
}

impl Memory {
    fn now() -> Result<Self> {
        let text = fs::read_to_string("/proc/meminfo")?;
        let of = |name: &str| -> Result<u64> {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            let number = line.and_then(|line| line.split_whitespace().next());
            Ok(number.ok_or("not in meminfo")?.parse::<u64>()? * 1024)
        };
        Ok(Self {
            own: of("Slab:")? + of("VmallocUsed:")?,
            tables: of("SecPageTables:")?,
        })
    }

    fn since(self, before: Self) -> Self {
        Self {
            own: self.own.saturating_sub(before.own),
            tables: self.tables.saturating_sub(before.tables),
        }
    }
}

/// All at once, each with a queue that works. The file, the queue and what the driver has of them count
/// as well.
fn thousand(mode: Mode) -> Result {
    const BINDINGS: usize = 1000;
    let area = Area::new(1)?;
    area.set(0..1, 1);
    // What there is one of for all comes with the first.
    let first = consumer(mode)?;
    let before = Memory::now()?;
    let mut all = Vec::with_capacity(BINDINGS);
    for _ in 1..BINDINGS {
        all.push(Consumer::open(mode, 1)?);
        // An emulated IOMMU takes the longer for a PASID the more it knows.
        goes_on();
    }
    let cost = Memory::now()?.since(before);
    let each = BINDINGS as u64 - 1;
    println!(
        "# {} bytes for each, and {} of tables of the IOMMU",
        cost.own / each,
        cost.tables / each
    );
    all.push(first);
    if mode == Mode::Pinned {
        for consumer in &all {
            consumer.pin(area.address(0), PAGE as u64)?;
        }
    }
    for (number, consumer) in all.iter_mut().enumerate() {
        let byte = number as u8;
        fill(consumer, area.address(0), PAGE, byte)?;
        expect(area.is_all(0..1, byte), "it was not written")?;
        goes_on();
    }
    for consumer in all {
        drop(consumer);
        goes_on();
    }
    same("processes that are left", bindings()?.len(), 0)?;
    same("pages that are left", statistic("pinned_pages")?, 0)?;
    expect(
        cost.own <= each * BINDING_BYTES,
        format_args!("{} bytes for {each} bindings", cost.own),
    )
}

/// The table of what a device may use grows by no more than that.
fn pages(mode: Mode) -> Result<Outcome> {
    const PAGES: usize = 48 << 10;
    if mode != Mode::Mirror {
        return Ok(Outcome::Skipped("nothing is brought in and out".into()));
    }
    let mut consumer = consumer(mode)?;
    let area = Area::new(PAGES)?;
    // What the process itself costs comes before.
    area.set(0..PAGES, 1);
    let before = Memory::now()?;
    fill(&mut consumer, area.address(0), PAGES * PAGE, 2)?;
    let cost = Memory::now()?.since(before);
    let held = bindings()?.iter().map(|it| it.pages).sum::<u64>();
    expect(held >= PAGES as u64, "not all of it is there")?;
    println!(
        "# {:.1} bytes for each page, and {:.1} of tables of the IOMMU",
        cost.own as f64 / PAGES as f64,
        cost.tables as f64 / PAGES as f64
    );
    expect(
        cost.own <= BINDING_BYTES + PAGES as u64 * PAGE_BYTES,
        format_args!("{} bytes for {PAGES} pages", cost.own),
    )?;
    passed(expect(area.is_all(0..PAGES, 2), "it was not written"))
}
