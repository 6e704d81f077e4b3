// SPDX-License-Identifier: GPL-2.0

//! What is shown of devices and processes, and that what is set is done: lists, counts, times, events.

use std::ops::Range;

use svadma::abi::{register, Counter, Probe, ProbeResult};
use svadma::uapi::Mode;
use svadma::Consumer;

use crate::area::{memory_file, Area, PAGE};
use crate::case::{expect, passed, same, Case, Outcome, Result};
use crate::control::{attribute, bindings, own_binding, set, statistic, Control, Settings};
use crate::trace::Recording;
use crate::work::{area, consumer, fill, refused};

/// All of them.
pub const CASES: [Case; 7] = [
    ("list of processes", |mode| passed(listed(mode))),
    ("mode of the device", |mode| {
        passed(mode_of_the_device(mode))
    }),
    ("counts and times", |mode| passed(counts(mode))),
    ("events", |mode| passed(events(mode))),
    ("pages brought along", |mode| in_mirror(mode, fault_around)),
    ("policies", |mode| in_mirror(mode, policies)),
    ("taken for a budget", |mode| in_mirror(mode, taken)),
];

/// A case about pages that are brought in and taken, by a table of our own.
fn in_mirror(mode: Mode, case: fn() -> Result) -> Result<Outcome> {
    match mode {
        Mode::Mirror => passed(case()),
        _ => Ok(Outcome::Skipped("nothing is brought in and taken".into())),
    }
}

/// The name in sysfs.
fn name(mode: Mode) -> Result<&'static str> {
    let named = crate::MODES.iter().find(|(_, other)| *other == mode);
    Ok(named.ok_or("a mode without a name")?.0)
}

fn listed(mode: Mode) -> Result {
    const PAGES: usize = 8;
    same("processes", bindings()?.len(), 0)?;
    let mut consumer = consumer(mode)?;
    let before = own_binding()?;
    same("its mode", before.mode.as_str(), name(mode)?)?;
    let area = area(&consumer, mode, PAGES)?;
    fill(&mut consumer, area.address(0), PAGES * PAGE, 1)?;
    let after = own_binding()?;
    let expected = if mode == Mode::Sva { 0 } else { PAGES as u64 };
    same("pages of the area", after.pages - before.pages, expected)?;
    same("pages of all", statistic("pinned_pages")?, after.pages)?;
    drop(consumer);
    same("processes", bindings()?.len(), 0)?;
    same("pages", statistic("pinned_pages")?, 0)
}

/// Who leaves the choice to the user gets what was chosen, and keeps it.
fn mode_of_the_device(mode: Mode) -> Result {
    let _settings = Settings::keep(&["mode"])?;
    set("mode", name(mode)?)?;
    let consumer = Consumer::open(Mode::Device, 1)?;
    same("its mode", own_binding()?.mode.as_str(), name(mode)?)?;
    set("mode", "sva")?;
    same("its mode", own_binding()?.mode.as_str(), name(mode)?)?;
    drop(consumer);
    Ok(())
}

/// Groups of the histogram: microseconds, the longest of a range, and how many.
fn histogram() -> Result<Vec<(u64, u64)>> {
    let text = attribute("statistics/latency_histogram")?;
    let pair = |word: &str| -> Result<(u64, u64)> {
        let (us, groups) = word.split_once(':').ok_or("no colon")?;
        Ok((us.parse()?, groups.parse()?))
    };
    text.split_whitespace().map(pair).collect()
}

/// Faults are counted, each once, with the time that they took. Those of `sva` are the kernel's own.
fn counts(mode: Mode) -> Result {
    const PAGES: u64 = 4;
    let _settings = Settings::keep(&["fault_around_pages"])?;
    set("fault_around_pages", 1)?;
    let mut consumer = consumer(mode)?;
    let area = Area::new(PAGES as usize)?;
    let groups = |of: &[(u64, u64)]| of.iter().map(|(_, groups)| groups).sum::<u64>();
    let names = ["groups", "requests", "failed_groups", "mapped_pages"];
    let now = || -> Result<Vec<u64>> { names.into_iter().map(statistic).collect() };
    let (before, times) = (now()?, histogram()?);
    for page in (0..PAGES as usize).rev().step_by(2) {
        let found = fill(&mut consumer, area.address(page), PAGE, 1);
        match mode {
            Mode::Pinned => refused(found, area.address(page), 0)?,
            _ => drop(found?),
        }
    }
    let faults = PAGES / 2;
    let expected = match mode {
        Mode::Sva => [0; 4],
        Mode::Pinned => [faults, faults, faults, 0],
        _ => [faults, faults, 0, faults],
    };
    for ((name, (before, now)), expected) in names
        .into_iter()
        .zip(before.into_iter().zip(now()?))
        .zip(expected)
    {
        same(name, now - before, expected)?;
    }
    let after = histogram()?;
    same(
        "groups in the histogram",
        groups(&after) - groups(&times),
        expected[0],
    )?;
    same("groups in all", groups(&after), statistic("groups")?)?;
    let ranges: Vec<u64> = after.iter().map(|(us, _)| *us).collect();
    expect(ranges.is_sorted(), "the ranges are in no order")?;
    let last = ranges.last().copied().unwrap_or(0);
    same("the longest", statistic("latency_max_us")?, last)?;
    for percentile in ["latency_p50_us", "latency_p99_us"] {
        let value = statistic(percentile)?;
        expect(
            value <= last && (last == 0 || ranges.contains(&value)),
            percentile,
        )?;
    }
    Ok(())
}

/// What follows `name=` in a line of an event, which may be in hexadecimal digits.
fn field(line: &str, name: &str) -> Result<i64> {
    let mut words = line.split_whitespace();
    let value = words.find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    let value = value.ok_or_else(|| format!("no {name} in {line}"))?;
    Ok(match value.strip_prefix("0x") {
        Some(digits) => i64::from_str_radix(digits, 16)?,
        None => value.parse()?,
    })
}

/// The lines of an event.
fn of<'a>(lines: &'a [String], event: &str) -> Vec<&'a str> {
    let named = format!(" {event}: ");
    let lines = lines.iter().filter(|line| line.contains(&named));
    lines.map(String::as_str).collect()
}

/// Each page that comes and goes is told of.
fn events(mode: Mode) -> Result {
    let mut consumer = consumer(mode)?;
    let binding = own_binding()?;
    // What lies beside a page may be mapped with it.
    let area = Area::new(3)?;
    area.protect(0, 1, libc::PROT_NONE)?;
    area.protect(2, 1, libc::PROT_NONE)?;
    let page = area.address(1);
    let address = page as i64;
    let recording = Recording::start("iopf")?;
    let found = fill(&mut consumer, page, PAGE, 1);
    match mode {
        Mode::Pinned => refused(found, page, 0)?,
        _ => drop(found?),
    }
    if mode == Mode::Mirror {
        area.advise(1, 1, libc::MADV_DONTNEED)?;
        fill(&mut consumer, page, PAGE, 2)?;
        // All that it has goes.
        consumer.set_budget(PAGE as u64)?;
    }
    let lines = recording.end()?;
    for line in &lines {
        same("the PASID", field(line, "pasid")?, binding.pasid.into())?;
    }
    let (faults, resolved) = (of(&lines, "iopf_fault"), of(&lines, "iopf_resolved"));
    let (taken, changed) = (of(&lines, "iopf_evicted"), of(&lines, "iopf_invalidated"));
    let (expected, error) = match mode {
        Mode::Sva => (0, 0),
        Mode::Pinned => (1, -i64::from(libc::EFAULT)),
        _ => (2, 0),
    };
    same("faults", faults.len(), expected)?;
    same("answers", resolved.len(), expected)?;
    for (fault, answer) in faults.iter().zip(&resolved) {
        same("the address", field(fault, "addr")?, address)?;
        same("whether it writes", field(fault, "write")?, 1)?;
        same("requests", field(answer, "requests")?, 1)?;
        same("the error", field(answer, "error")?, error)?;
        let mapped = i64::from(mode == Mode::Mirror);
        same("pages mapped", field(answer, "mapped")?, mapped)?;
        expect(field(answer, "ns")? > 0, "it has taken no time")?;
    }
    if mode != Mode::Mirror {
        same("pages taken", taken.len() + changed.len(), 0)?;
        return Ok(());
    }
    same("changes", changed.len(), 1)?;
    same("the address", field(changed[0], "addr")?, address)?;
    same("pages", field(changed[0], "pages")?, 1)?;
    let pages = taken.iter().map(|line| field(line, "pages"));
    let pages: i64 = pages.sum::<Result<i64>>()?;
    // The ring and the completions are there, too.
    same("pages taken", pages, binding.pages as i64)
}

/// So many pages as are set are mapped at once, those about the one that is asked for.
fn fault_around() -> Result {
    const PAGES: usize = 64;
    let _settings = Settings::keep(&["fault_around_pages"])?;
    for pages in [1, 16, 64] {
        set("fault_around_pages", pages)?;
        let mut consumer = consumer(Mode::Mirror)?;
        let area = Area::aligned(PAGES)?;
        area.advise(0, PAGES, libc::MADV_NOHUGEPAGE)?;
        let before = consumer.count(Counter::PageGroups);
        fill(&mut consumer, area.address(0), PAGES * PAGE, 1)?;
        let groups = consumer.count(Counter::PageGroups) - before;
        same("groups", groups, (PAGES / pages) as u64)?;
        expect(area.is_all(0..PAGES, 1), "it was not written")?;
    }
    Ok(())
}

/// Whichever page goes, what comes back is what it was.
fn policies() -> Result {
    const PAGES: usize = 64;
    let _settings = Settings::keep(&["eviction"])?;
    for policy in ["clock", "lru"] {
        set("eviction", policy)?;
        let mut consumer = consumer(Mode::Mirror)?;
        consumer.set_budget((PAGES / 4 * PAGE) as u64)?;
        let area = Area::new(PAGES)?;
        let before = statistic("evicted_pages")?;
        for byte in 1..4 {
            fill(&mut consumer, area.address(0), PAGES * PAGE, byte)?;
            expect(area.is_all(0..PAGES, byte), "it was not written")?;
        }
        let evicted = statistic("evicted_pages")? - before;
        expect(
            evicted >= 2 * PAGES as u64,
            format_args!("{evicted} pages were taken"),
        )?;
    }
    Ok(())
}

/// What was taken for a budget is not in the table any more, so nobody would take it once more when the
/// process changes it: the device must have forgotten it when that happened, while it was at work, too.
fn taken() -> Result {
    const PAGES: usize = 64;
    const FEW: usize = 8;
    let file = memory_file(PAGES * PAGE, 0)?;
    let (area, witness) = (Area::of_file(&file, PAGES)?, Area::of_file(&file, PAGES)?);
    let mut consumer = consumer(Mode::Mirror)?;
    let pasid = own_binding()?.pasid;
    let control = Control::expecting_faults()?;
    // All of it is in the cache of the device.
    control.set(register::CACHE_ENTRIES, 4 * PAGES as u32)?;
    control.set(register::CACHE_WAYS, 4)?;
    control.set(register::CACHE_APPLY, 1)?;
    for byte in 1..=4 {
        consumer.set_budget(1 << 30)?;
        fill(&mut consumer, area.address(0), PAGES * PAGE, byte)?;
        let reached = |pages: Range<usize>| -> Result<usize> {
            let mut reached = 0;
            for page in pages {
                for probe in [Probe::Read, Probe::Write] {
                    let found = control.probe(probe, pasid, area.address(page))?;
                    reached += usize::from(found == ProbeResult::Reached);
                }
            }
            Ok(reached)
        };
        same("pages reached", reached(0..PAGES)?, 2 * PAGES)?;
        consumer.set_budget((FEW * PAGE) as u64)?;
        let left = own_binding()?.pages as usize;
        expect(left <= FEW, format_args!("{left} pages are left"))?;
        let reached = reached(0..PAGES)?;
        expect(
            reached <= 2 * left,
            format_args!("{reached} accesses came through to {left} pages"),
        )?;
        // The probes have written zeros to the beginning of what they have reached.
        for page in 0..PAGES {
            witness.store(page * PAGE, u64::from_le_bytes([byte; 8]));
        }
        expect(witness.is_all(0..PAGES, byte), "it was not written")?;
    }
    Ok(())
}
