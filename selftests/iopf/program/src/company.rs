// SPDX-License-Identifier: GPL-2.0

//! Many processes at once: what each may have, and that none reaches another's memory.

use std::fs;
use std::process::Child;

use svadma::abi::{register, Counter, Probe, ProbeResult, VECTORS};
use svadma::uapi::Mode;
use svadma::Consumer;

use crate::area::{Area, PAGE};
use crate::case::{expect, passed, same, Case, Outcome, Result};
use crate::control::{attribute_path, own_pasid, pasids, Control};
use crate::other_process::{spawn_many, start, Role};
use crate::work::{area, consumer, fill, interrupt, interrupts};

/// All of them.
pub const CASES: [Case; 5] = [
    ("64 processes", |mode| passed(many(mode))),
    ("more queues than interrupt vectors", |mode| {
        passed(shared_vector(mode))
    }),
    ("budget smaller than a request", small_budget),
    ("smallest budget", smallest_budget),
    ("PASIDs guessed", |mode| passed(guessed(mode))),
];

/// Budgets of the device, until this is dropped.
struct Budgets {
    before: Vec<(String, String)>,
}

impl Budgets {
    fn keep() -> Result<Self> {
        let mut before = Vec::new();
        for name in ["pin_budget_bytes", "binding_budget_bytes"] {
            let path = attribute_path(name)?;
            let value = fs::read_to_string(&path)?;
            before.push((path, value));
        }
        Ok(Self { before })
    }

    /// Sets what each process may have, in pages.
    fn set_each(pages: usize) -> Result {
        let path = attribute_path("binding_budget_bytes")?;
        Ok(fs::write(path, (pages * PAGE).to_string())?)
    }

    /// Sets what all may have together, in pages.
    fn set_all(pages: usize) -> Result {
        let path = attribute_path("pin_budget_bytes")?;
        Ok(fs::write(path, (pages * PAGE).to_string())?)
    }
}

impl Drop for Budgets {
    fn drop(&mut self) {
        for (path, value) in &self.before {
            // A device that is gone has none.
            let _ = fs::write(path, value.trim());
        }
    }
}

/// Each copies memory of its own, with another budget every moment where there are budgets.
fn many(mode: Mode) -> Result {
    const PROCESSES: u64 = 64;
    let _budgets = Budgets::keep()?;
    if mode == Mode::Mirror {
        Budgets::set_all(16 * PROCESSES as usize)?;
    }
    let mut running: Vec<Child> = spawn_many(mode, (1..=PROCESSES).map(Role::Share))?;
    let mut failed = 0;
    let mut budgets = [6, 64, 9, 1024, 15].into_iter().cycle();
    while !running.is_empty() {
        if let (Mode::Mirror, Some(pages)) = (mode, budgets.next()) {
            Budgets::set_each(pages)?;
        }
        let mut left = Vec::new();
        for mut child in running {
            match child.try_wait()? {
                Some(status) => failed += u32::from(!status.success()),
                None => left.push(child),
            }
        }
        running = left;
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    same("processes that have failed", failed, 0)?;
    same("processes that are left", pasids()?.len(), 0)
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

fn only_mirror(mode: Mode, case: fn() -> Result) -> Result<Outcome> {
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
        let _budgets = Budgets::keep()?;
        let control = Control::new()?;
        for (budget, window) in [(4, 16), (4, 64), (2, 4)] {
            Budgets::set_each(budget)?;
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
        let _budgets = Budgets::keep()?;
        Budgets::set_each(1)?;
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
    let bound: Vec<u32> = pasids()?.iter().map(|(pasid, _)| *pasid).collect();
    let result = expect(bound.len() == 2, "two processes are not bound").and_then(|()| {
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
