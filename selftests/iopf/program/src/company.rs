// SPDX-License-Identifier: GPL-2.0

//! Many processes at once: what each may have, and that none reaches another's memory.

use std::collections::BTreeSet;
use std::process::Child;

use svadma::abi::{register, Counter, Probe, ProbeResult, VECTORS};
use svadma::uapi::Mode;
use svadma::Consumer;

use crate::area::{Area, PAGE};
use crate::case::{errno, expect, passed, same, until, Case, Outcome, Result};
use crate::control::{bindings, own_pasid, set, statistic, Control, Settings};
use crate::other_process::{budget_pages, spawn_many, start, Role};
use crate::work::{area, consumer, fill, interrupt, interrupts};

/// All of them.
pub const CASES: [Case; 7] = [
    ("64 processes", |mode| passed(many(mode))),
    ("budget of its own", |mode| passed(own_budget(mode))),
    ("budget that is shared", shared_budget),
    ("more queues than interrupt vectors", |mode| {
        passed(shared_vector(mode))
    }),
    ("budget smaller than a request", small_budget),
    ("smallest budget", smallest_budget),
    ("PASIDs guessed", |mode| passed(guessed(mode))),
];

/// What the device may keep of all processes, and of each.
const BUDGETS: [&str; 2] = ["pin_budget_bytes", "binding_budget_bytes"];

/// Each copies memory of its own, all at once, each with a budget of its own where there are budgets,
/// and with another for all of them every moment.
fn many(mode: Mode) -> Result {
    const PROCESSES: u64 = 64;
    let _settings = Settings::keep(&BUDGETS)?;
    if mode == Mode::Mirror {
        set("pin_budget_bytes", 16 * PROCESSES as usize * PAGE)?;
    }
    let mut running: Vec<Child> = spawn_many(mode, (1..=PROCESSES).map(Role::Share))?;
    let ready = until("all are bound", || {
        let bound = bindings()?;
        let own = bound.iter().filter_map(|it| it.limit);
        let budgets: BTreeSet<u64> = own.collect();
        let expected: BTreeSet<u64> = match mode {
            Mode::Mirror => (1..=PROCESSES).map(budget_pages).collect(),
            _ => budgets.clone(),
        };
        Ok(bound.len() == PROCESSES as usize && budgets == expected)
    });
    for child in &mut running {
        drop(child.stdin.take());
    }
    let mut failed = 0;
    let mut most = 0;
    let mut budgets = [6, 64, 9, 1024, 15].into_iter().cycle();
    while !running.is_empty() {
        if let (Mode::Mirror, Some(pages)) = (mode, budgets.next()) {
            set("binding_budget_bytes", pages * PAGE)?;
        }
        let mut left = Vec::new();
        for mut child in running {
            match child.try_wait()? {
                Some(status) => failed += u32::from(!status.success()),
                None => left.push(child),
            }
        }
        running = left;
        most = most.max(statistic("pinned_pages")?);
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    ready?;
    same("processes that have failed", failed, 0)?;
    same("processes that are left", bindings()?.len(), 0)?;
    expect(
        mode != Mode::Mirror || most <= 16 * PROCESSES,
        format_args!("{most} pages are more than the budget of all"),
    )
}

/// What is set for a process holds for it alone, and takes what is too much.
fn own_budget(mode: Mode) -> Result {
    const PAGES: usize = 64;
    const FEW: u64 = 8;
    let (mut one, mut other) = (consumer(mode)?, consumer(mode)?);
    for bytes in [
        0,
        1,
        PAGE as u64 - 1,
        PAGE as u64 + 1,
        (1 << 52) + PAGE as u64,
        u64::MAX,
    ] {
        errno(one.set_budget(bytes), libc::EINVAL)?;
    }
    if mode == Mode::Sva {
        return errno(one.set_budget(FEW * PAGE as u64), libc::EINVAL);
    }
    let held = || -> Result<Vec<u64>> { Ok(bindings()?.iter().map(|it| it.pages).collect()) };
    let (first, second) = (area(&one, mode, PAGES)?, area(&other, mode, PAGES)?);
    for (consumer, area) in [(&mut one, &first), (&mut other, &second)] {
        fill(consumer, area.address(0), PAGES * PAGE, 1)?;
    }
    let before = held()?;
    one.set_budget(FEW * PAGE as u64)?;
    let after = held()?;
    same("what the other one has", after[1], before[1])?;
    match mode {
        Mode::Mirror => {
            expect(after[0] <= FEW, "it has kept more")?;
            fill(&mut one, first.address(0), PAGES * PAGE, 2)?;
            expect(first.is_all(0..PAGES, 2), "it was not written")?;
            expect(held()?[0] <= FEW, "it has got more")
        }
        // What is pinned stays, and nothing comes to it.
        _ => {
            same("what is pinned", after[0], before[0])?;
            let more = Area::new(1)?;
            errno(one.pin(more.address(0), PAGE as u64), libc::ENOMEM)?;
            crate::work::pin(&other, &more, 1)
        }
    }
}

/// Who comes late gets a share of what all may have together, and who was first keeps one.
fn shared_budget(mode: Mode) -> Result<Outcome> {
    only_mirror(mode, || {
        const PAGES: usize = 256;
        let _settings = Settings::keep(&BUDGETS)?;
        let (mut one, mut other) = (consumer(mode)?, consumer(mode)?);
        let (first, second) = (Area::new(PAGES)?, Area::new(PAGES)?);
        set("pin_budget_bytes", PAGES * PAGE)?;
        fill(&mut one, first.address(0), PAGES * PAGE, 1)?;
        for byte in 2..4 {
            fill(&mut other, second.address(0), PAGES / 2 * PAGE, byte)?;
        }
        let bound = bindings()?;
        for binding in &bound {
            println!("# {} pages of {PAGES}", binding.pages);
            let fair = binding.pages >= PAGES as u64 * 3 / 8;
            expect(fair, "that is less than a share")?;
        }
        let all: u64 = bound.iter().map(|it| it.pages).sum();
        expect(all <= PAGES as u64, "they have more than they may")?;
        expect(first.is_all(0..PAGES, 1), "the first was not written")?;
        expect(second.is_all(0..PAGES / 2, 3), "the second was not written")
    })
}

/// A queue that has no vector of its own shares one, and its interrupts arrive.
fn shared_vector(mode: Mode) -> Result {
    let consumers: std::result::Result<Vec<_>, _> =
        (0..=VECTORS).map(|_| Consumer::open(mode, 1)).collect();
    let mut consumers = consumers?;
    let before: Vec<u64> = consumers.iter().map(interrupts).collect::<Result<_>>()?;
    let last = consumers.last_mut().ok_or("no consumers")?;
    interrupt(last)?;
    let mut grown = 0;
    for (consumer, before) in consumers.iter().zip(before) {
        grown += interrupts(consumer)? - before;
    }
    same("queues with an interrupt", grown, 2)
}

fn only_mirror(mode: Mode, case: impl FnOnce() -> Result) -> Result<Outcome> {
    match mode {
        Mode::Mirror => passed(case()),
        _ => Ok(Outcome::Skipped("nothing is brought in and out".into())),
    }
}

/// The device asks for more pages at once than it can have.
fn small_budget(mode: Mode) -> Result<Outcome> {
    only_mirror(mode, || {
        const PAGES: usize = 64;
        let mut consumer = consumer(Mode::Mirror)?;
        let area = Area::new(PAGES)?;
        let _settings = Settings::keep(&BUDGETS)?;
        let control = Control::new()?;
        for (budget, window) in [(4, 16), (4, 64), (2, 4)] {
            set("binding_budget_bytes", budget * PAGE)?;
            control.set(register::PAGE_REQUEST_WINDOW, window)?;
            let byte = window as u8;
            let filled = fill(&mut consumer, area.address(0), PAGES * PAGE, byte);
            filled.map_err(|error| format!("{window} pages at once of {budget}: {error}"))?;
            expect(area.is_all(0..PAGES, byte), "it was not written")?;
        }
        Ok(())
    })
}

/// A page at a time is enough for what needs a page at a time.
fn smallest_budget(mode: Mode) -> Result<Outcome> {
    only_mirror(mode, || {
        const PAGES: usize = 16;
        let mut consumer = consumer(Mode::Mirror)?;
        let area = Area::new(PAGES)?;
        let _settings = Settings::keep(&BUDGETS)?;
        set("binding_budget_bytes", PAGE)?;
        fill(&mut consumer, area.address(0), PAGES * PAGE, 0x42)?;
        expect(area.is_all(0..PAGES, 0x42), "it was not written")?;
        let groups = consumer.count(Counter::PageGroups);
        expect(groups >= PAGES as u64, format_args!("{groups} groups"))
    })
}

/// Who knows an address and tries all PASIDs gets nowhere but with the right one.
fn guessed(mode: Mode) -> Result {
    let mut consumer = consumer(mode)?;
    let area = area(&consumer, mode, 1)?;
    let address = area.address(0);
    fill(&mut consumer, address, PAGE, 0x17)?;
    let own = own_pasid()?;
    let mut other = start(mode, Role::Work)?;
    let result = expect(bindings()?.len() == 2, "two processes are not bound").and_then(|()| {
        let control = Control::expecting_faults()?;
        let found = control.probe(Probe::ReadUncached, own, address)?;
        same("a probe with the PASID", found, ProbeResult::Reached)?;
        for pasid in (1..=80)
            .chain([(1 << 20) - 1])
            .filter(|pasid| *pasid != own)
        {
            for probe in Probe::ALL {
                let found = control.probe(*probe, pasid, address)?;
                same("a probe", found, ProbeResult::Untranslated)?;
            }
        }
        Ok(())
    });
    other.kill()?;
    other.wait()?;
    result?;
    expect(area.is_all(0..1, 0x17), "it was written all the same")
}
