// SPDX-License-Identifier: GPL-2.0

//! Drivers that do anything that a driver may, in any order, with a user at the controls.
//!
//! What is true after each step is in `model/driver.rs`.

use dma_map_cache_host::model::{fault, thread, Driver};
use dma_map_cache_host::strategy::address::{Buffer, Phys, PAGE_SHIFT, PAGE_SIZE};
use dma_map_cache_host::strategy::backend::{Access, OutOfMemory, Target};
use dma_map_cache_host::strategy::Kind;
use proptest::prelude::*;

use crate::machine::{driver_with, RAM};

/// A step.
#[derive(Clone, Debug)]
enum Step {
    Map(Buffer, Access),
    MapList(Vec<Buffer>, Access, u64),
    MapFixed(Vec<Buffer>, Access, Target),
    Unmap(prop::sample::Index),
    UnmapAll,
    Advance(u64),
    Switch(Kind),
    SetDeferred(u64, u64),
    SetBudget(u64),
    SetMaxAge(u64),
    SetCap(u64),
    SetContiguous(u64),
    EndInterrupts,
    SetBound(u64, u64),
    Decide,
    SetPool(u64, u64, u64),
    SetAlignMask(u64),
    SetCpu(usize),
    SetLimit(u64),
    FailNth(u64),
    Settle,
}

fn kind() -> impl Strategy<Value = Kind> {
    prop::sample::select(Kind::ALL.to_vec())
}

fn access() -> impl Strategy<Value = Access> {
    prop::sample::select(vec![Access::Read, Access::Write, Access::ReadWrite])
}

/// Pages that a driver can have: RAM and, now and then, memory that is not: in a hole, added
/// later, or on a device far away.
fn memory() -> impl Strategy<Value = std::ops::Range<u64>> {
    prop_oneof![
        8 => Just(RAM[1].start..RAM[1].start + 8),
        8 => prop::sample::select(RAM.to_vec()),
        1 => Just(0x9a..0x104),
        1 => Just(0x10_00f8..0x10_0108),
        1 => Just(0x1_0000_0000..0x1_0000_0010),
        1 => Just(0x10_0000_0000..0x10_0000_0010),
    ]
}

fn buffer() -> impl Strategy<Value = Buffer> {
    let len = prop_oneof![
        4 => 1..=2 * PAGE_SIZE,
        2 => (1u64..=4).prop_map(|pages| pages * PAGE_SIZE),
        1 => 1..=400 * PAGE_SIZE,
    ];
    let offset = prop_oneof![Just(0), 0..PAGE_SIZE];

    (memory(), any::<prop::sample::Index>(), offset, len).prop_map(|(pages, at, offset, len)| {
        let page = pages.start + at.index((pages.end - pages.start) as usize) as u64;
        let phys = page * PAGE_SIZE + offset;

        Buffer {
            phys: Phys(phys),
            len: len.min(pages.end * PAGE_SIZE - phys),
        }
    })
}

fn whole_pages() -> impl Strategy<Value = Buffer> {
    buffer().prop_map(|buffer| Buffer {
        phys: buffer.phys.page_start(),
        len: buffer.pages() << PAGE_SHIFT,
    })
}

fn boundary_mask() -> impl Strategy<Value = u64> {
    prop_oneof![
        Just(u64::MAX),
        Just(u64::from(u32::MAX)),
        (12u32..20).prop_map(|shift| (1 << shift) - 1),
    ]
}

/// Mostly DMA masks; or what is left of one by the limit of a bus.
fn limit() -> impl Strategy<Value = u64> {
    prop_oneof![
        3 => Just(u64::MAX),
        3 => prop::sample::select(vec![24, 32, 36, 48]).prop_map(|bits| (1 << bits) - 1),
        1 => 1u64 << 24..1 << 37,
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let list = prop::collection::vec(buffer(), 1..12);
    let fixed = prop::collection::vec(whole_pages(), 1..4);
    let target = prop::sample::select(vec![Target::Memory, Target::Mmio]);

    prop_oneof![
        24 => (buffer(), access()).prop_map(|(buffer, access)| Step::Map(buffer, access)),
        8 => (list, access(), boundary_mask()).prop_map(|(l, a, b)| Step::MapList(l, a, b)),
        2 => (fixed, access(), target).prop_map(|(l, a, t)| Step::MapFixed(l, a, t)),
        32 => any::<prop::sample::Index>().prop_map(Step::Unmap),
        1 => Just(Step::UnmapAll),
        6 => prop_oneof![0..200u64, 0..20_000u64, 0..20_000_000u64].prop_map(Step::Advance),
        4 => kind().prop_map(Step::Switch),
        1 => (prop_oneof![1..=4u64, 1..=1024u64], 100..=1_000_000u64)
            .prop_map(|(n, us)| Step::SetDeferred(n, us)),
        2 => prop_oneof![Just(0), 1..16u64, 1..1000u64].prop_map(Step::SetBudget),
        1 => prop_oneof![1..100u64, 1..10_000u64].prop_map(Step::SetMaxAge),
        1 => prop_oneof![Just(0), 1..16u64, 1..1000u64].prop_map(Step::SetCap),
        1 => prop_oneof![1..=4u64, 1..=512u64].prop_map(Step::SetContiguous),
        6 => Just(Step::EndInterrupts),
        1 => (
            prop_oneof![Just(0), 1..30_000u64, 1..1_000_000u64],
            prop_oneof![Just(0), 1..16u64, 1..1000u64],
        )
            .prop_map(|(us, pages)| Step::SetBound(us, pages)),
        6 => Just(Step::Decide),
        1 => (0..4u64, 0..20u64, 1..=256u64).prop_map(|(min, max, buffer)| {
            Step::SetPool(min << 16, max << 16, buffer << 8)
        }),
        1 => prop::sample::select(vec![0, 7, 511, 4095, 8191]).prop_map(Step::SetAlignMask),
        4 => (0..thread::CPUS).prop_map(Step::SetCpu),
        1 => limit().prop_map(Step::SetLimit),
        4 => (0..6u64).prop_map(Step::FailNth),
        2 => Just(Step::Settle),
    ]
}

fn run(driver: &mut Driver, step: Step) -> Result<(), OutOfMemory> {
    match step {
        Step::Map(buffer, access) => drop(driver.map(buffer, access)?),
        Step::MapList(list, access, boundary) => drop(driver.map_list(list, access, boundary)?),
        Step::MapFixed(list, access, target) => drop(driver.map_fixed(list, access, target)?),
        Step::Unmap(index) if driver.live() != 0 => {
            driver.unmap(index.index(driver.live()));
        }
        Step::Unmap(_) => {}
        Step::UnmapAll => driver.unmap_all(),
        Step::Advance(us) => driver.advance(us),
        Step::Switch(kind) => driver.switch(kind)?,
        Step::SetDeferred(max_unmaps, max_us) => driver.set_deferred(max_unmaps, max_us),
        Step::SetBudget(pages) => driver.set_budget_pages(pages),
        Step::SetMaxAge(ms) => driver.set_max_age_ms(ms),
        Step::SetCap(pages) => driver.set_cap_pages(pages),
        Step::SetContiguous(max_unmaps) => driver.set_contiguous(max_unmaps),
        Step::EndInterrupts => driver.end_interrupts(),
        Step::SetBound(us, pages) => driver.set_bound(us, pages),
        Step::Decide => driver.decide(),
        Step::SetPool(min, max, buffer) => driver.set_pool(min, max, buffer),
        Step::SetAlignMask(mask) => driver.set_align_mask(mask),
        Step::SetCpu(cpu) => thread::set_cpu(cpu),
        Step::SetLimit(limit) => driver.set_limit(limit),
        Step::FailNth(n) => fault::fail_nth(Some(n)),
        Step::Settle => driver.settle(),
    }
    Ok(())
}

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        failure_persistence: None,
        max_shrink_iters: 20_000,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config(512))]

    /// A device keeps all promises of all strategies, whatever is done to it.
    #[test]
    fn promises_hold(
        last_bits in prop::sample::select(vec![35u32, 36, 39, 47, 48, 57]),
        limit in limit(),
        first in kind(),
        steps in prop::collection::vec(step(), 1..250),
    ) {
        fault::fail_nth(None);
        thread::set_cpu(0);

        let mut driver = driver_with((1 << last_bits) - 1, limit);

        driver.switch(first).expect("memory for a strategy");
        for step in steps {
            // Steps that fail for want of memory have been checked to change nothing.
            let _ = run(&mut driver, step);
        }

        fault::fail_nth(None);
        driver.unmap_all();
        driver.settle();
        driver.retire();
    }
}
