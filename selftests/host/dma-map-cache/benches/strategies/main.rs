// SPDX-License-Identifier: GPL-2.0

//! What the strategies themselves cost, over a machine that costs nothing: no page table is
//! written, nothing is invalidated, and IOVA space is a stack.
//!
//! Compare the lines with each other, not with a kernel: there the instructions are counted.

mod machine;
// Not that of the library, whose atomics are those of the tests.
#[expect(dead_code, reason = "a bench uses only the fast paths")]
#[path = "../../../../../dma-map-cache/strategy/mod.rs"]
mod strategy;

use std::hint::black_box;
use std::time::Instant;

use machine::{Machine, RAM_PAGES};
use strategy::address::{Buffer, Iova, Layout, PageRange, Phys, PAGE_SIZE};
use strategy::backend::{Access, Backend};
use strategy::counter::Counter;
use strategy::engine::Reach;
use strategy::list::{List, Segment, SegmentLimits};
use strategy::{Engine, Kind};

/// Pairs of map and unmap that are timed at once.
const PAIRS: usize = 1 << 17;
/// Of so many times the median is shown.
const ROUNDS: usize = 5;
/// Mappings that a driver makes before it takes the first down.
const RUN: usize = 64;
/// Segments in a list.
const SEGMENTS: usize = 16;

const REACH: Reach = Reach {
    limit: u64::MAX,
    segment: SegmentLimits::NONE,
    align_mask: 0,
};

/// An entry of a list.
struct Entry {
    buffer: Buffer,
    iova: Iova,
}

impl Segment for Entry {
    fn buffer(&self) -> Buffer {
        self.buffer
    }

    fn assign(&mut self, iova: Iova) {
        self.iova = iova;
    }

    fn mapped(&self) -> PageRange {
        PageRange::of(self.iova, self.buffer.len)
    }

    fn assigned(&self) -> (Iova, u64) {
        (self.iova, self.buffer.len)
    }
}

/// A list.
struct SgList([Entry; SEGMENTS]);

impl List for SgList {
    type Segment = Entry;

    fn segments(&mut self) -> impl Iterator<Item = &mut Entry> {
        self.0.iter_mut()
    }

    fn entries(&self) -> usize {
        SEGMENTS
    }
}

/// An engine on a machine, under a strategy and with room for everything.
struct Bench {
    machine: Machine,
    engine: Engine<Machine>,
}

impl Bench {
    fn new(kind: Kind) -> Self {
        let machine = Machine::new();
        let layout = Layout::new((1 << 48) - 1).expect("enough address bits");
        let engine = Engine::new(layout, machine.ram_end()).expect("memory");

        engine.switch(&machine, kind).expect("memory");
        engine
            .cached
            .budget_bytes
            .set(1 << 40)
            .expect("a budget in range");
        engine.retune(&machine);
        Self { machine, engine }
    }

    /// A page's buffer, as network drivers have them: not aligned, shorter than a page.
    fn buffer(page: u64) -> Buffer {
        Buffer {
            phys: Phys(page * PAGE_SIZE + 64),
            len: 1536,
        }
    }

    fn map(&self, page: u64) -> u64 {
        self.engine
            .map(
                &self.machine,
                black_box(Self::buffer(page)),
                Access::Read,
                REACH,
            )
            .expect("memory")
            .0
    }

    fn unmap(&self, iova: u64) {
        self.engine
            .unmap(&self.machine, black_box(Iova(iova)), Self::buffer(0).len);
    }

    /// Maps and unmaps pages one by one.
    fn single(&self, pages: &[u64]) {
        for &page in pages {
            self.unmap(self.map(page));
        }
    }

    /// Maps and unmaps pages in runs.
    fn runs(&self, pages: &[u64]) {
        let mut iovas = [0; RUN];

        for run in pages.chunks_exact(RUN) {
            for (iova, &page) in iovas.iter_mut().zip(run) {
                *iova = self.map(page);
            }
            for iova in iovas {
                self.unmap(iova);
            }
        }
    }

    /// Maps and unmaps pages as lists.
    fn lists(&self, pages: &[u64]) {
        for list in pages.chunks_exact(SEGMENTS) {
            let mut list = SgList(std::array::from_fn(|n| Entry {
                buffer: Self::buffer(list[n]),
                iova: Iova(0),
            }));

            self.engine
                .map_list(&self.machine, &mut list, Access::Read, REACH)
                .expect("memory");
            self.engine.unmap_list(&self.machine, black_box(&mut list));
        }
    }
}

/// Sizes of the tables' columns.
fn powers_of_ten() -> impl Iterator<Item = u64> {
    (2..=6).map(|exponent| 10u64.pow(exponent))
}

/// Pages in an order that no prefetcher guesses, all of them below `limit`.
fn scattered(limit: u64) -> Vec<u64> {
    (0..PAIRS as u64)
        .map(|n| 1 + n.wrapping_mul(0x9e37_79b9_7f4a_7c15) % limit)
        .collect()
}

/// Nanoseconds for each of `pages`.
fn time(pages: &[u64], f: impl Fn(&[u64])) -> f64 {
    f(pages);

    let mut rounds: Vec<_> = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();

            f(pages);
            start.elapsed().as_nanos() as f64 / pages.len() as f64
        })
        .collect();

    rounds.sort_by(f64::total_cmp);
    rounds[ROUNDS / 2]
}

fn main() {
    println!("ns per map and unmap of a page, pages among 4096 that were mapped before\n");
    println!(
        "{:10} {:>10} {:>10} {:>10}",
        "strategy", "singly", "runs of 64", "lists of 16"
    );
    for kind in Kind::ALL {
        let bench = Bench::new(kind);
        let pages = scattered(4096);

        println!(
            "{:10} {:10.1} {:10.1} {:10.1}",
            kind.name(),
            time(&pages, |pages| bench.single(pages)),
            time(&pages, |pages| bench.runs(pages)),
            time(&pages, |pages| bench.lists(pages)),
        );
    }

    println!("\nns per map and unmap, singly, of a page that is mapped, beside so many that are\n");
    print!("{:10}", "strategy");
    powers_of_ten().for_each(|n| print!(" {n:>10}"));
    println!();
    for kind in Kind::ALL {
        print!("{:10}", kind.name());
        for live in powers_of_ten() {
            let bench = Bench::new(kind);

            assert!(live < RAM_PAGES);
            for page in 1..=live {
                bench.map(page);
            }
            print!(
                " {:10.1}",
                time(&scattered(live), |pages| bench.single(pages))
            );
        }
        println!();
    }

    println!(
        "\nns per map and unmap, singly, of any of so many pages, and what part of them hits\n"
    );
    print!("{:10}", "budget");
    powers_of_ten().for_each(|n| print!(" {n:>10}     "));
    println!();
    for budget in [1 << 20, 64 << 20, 1 << 30] {
        print!("{:6} MiB", budget >> 20);
        for pages in powers_of_ten() {
            let bench = Bench::new(Kind::Cached);

            bench
                .engine
                .cached
                .budget_bytes
                .set(budget)
                .expect("a budget in range");
            bench.engine.retune(&bench.machine);

            let ns = time(&scattered(pages), |pages| bench.single(pages));
            let part = |counter| bench.machine.total(counter) * 100;

            print!(
                " {ns:10.1} {:3}%",
                part(Counter::Hits) / bench.machine.total(Counter::Maps)
            );
        }
        println!();
    }
}
