// SPDX-License-Identifier: GPL-2.0

//! What the device finds in the memory of a process.

use std::fs;
use std::os::unix::process::ExitStatusExt;

use svadma::abi::{Counter, Descriptor, Field, Operation};
use svadma::uapi::Mode;
use svadma::{Error, Failed, Reason};

use crate::area::{Area, PAGE};
use crate::case::{expect, on_demand, passed, same, Case, Outcome, Result};
use crate::other_process::{device, spawn, Role, DRIVER};
use crate::work::{area, consumer, fill, interrupt, interrupts, refused};

/// All of them.
pub const CASES: [Case; 14] = [
    ("nothing is done", |mode| passed(nothing(mode))),
    ("first touch", |mode| passed(first_touch(mode))),
    ("steady state", |mode| passed(steady_state(mode))),
    ("content", |mode| passed(content(mode))),
    ("unmapped", |mode| on_demand(mode, unmapped)),
    ("read-only", |mode| on_demand(mode, read_only)),
    ("no access", |mode| on_demand(mode, no_access)),
    ("taken away", |mode| on_demand(mode, taken_away)),
    ("not pinned", not_pinned),
    ("malformed", |mode| passed(malformed(mode))),
    ("interrupt of its own", |mode| passed(own_interrupt(mode))),
    ("another process", |mode| passed(another_process(mode))),
    ("exit in the middle", |mode| {
        on_demand(mode, exit_in_the_middle)
    }),
    ("driver unbound", |mode| passed(driver_unbound(mode))),
];

fn nothing(mode: Mode) -> Result {
    let consumer = consumer(mode)?;
    same("descriptors", consumer.count(Counter::Descriptors), 1)
}

fn first_touch(mode: Mode) -> Result {
    const PAGES: usize = 8;
    let mut consumer = consumer(mode)?;
    let area = area(&consumer, mode, PAGES)?;
    let before = consumer.count(Counter::PageGroups);
    let done = fill(&mut consumer, area.address(0), PAGES * PAGE, 0x5a)?;
    same("bytes", done.bytes, (PAGES * PAGE) as u64)?;
    expect(area.is_all(0..PAGES, 0x5a), "the memory is not filled")?;
    let groups = consumer.count(Counter::PageGroups) - before;
    println!("# {groups} page request groups for {PAGES} pages");
    match mode {
        Mode::Sva => same("groups", groups, PAGES as u64),
        Mode::Pinned => same("groups", groups, 0),
        // As many as it thinks fit at once.
        _ => expect(
            (1..=PAGES as u64).contains(&groups),
            format_args!("{groups} groups"),
        ),
    }
}

pub fn steady_state(mode: Mode) -> Result {
    const PAGES: usize = 64;
    let mut consumer = consumer(mode)?;
    let area = area(&consumer, mode, PAGES)?;
    fill(&mut consumer, area.address(0), PAGES * PAGE, 1)?;
    let before = consumer.count(Counter::PageGroups);
    fill(&mut consumer, area.address(0), PAGES * PAGE, 2)?;
    same("faults", consumer.count(Counter::PageGroups) - before, 0)?;
    expect(area.is_all(0..PAGES, 2), "the memory is not filled")
}

fn content(mode: Mode) -> Result {
    const PAGES: usize = 16;
    let mut consumer = consumer(mode)?;
    let (from, to) = (area(&consumer, mode, PAGES)?, area(&consumer, mode, PAGES)?);
    for page in 0..PAGES {
        from.set(page..page + 1, page as u8 + 1);
    }
    let length = PAGES * PAGE - 150;
    let copy = Descriptor {
        operation: Operation::Copy.number(),
        source: from.address(0) + 50,
        destination: to.address(0) + 100,
        length: length as u64,
        ..Descriptor::default()
    };
    // SAFETY: Both are areas.
    unsafe { consumer.carry_out(copy) }?;
    for at in 0..length {
        same("a byte", to.byte(at + 100), from.byte(at + 50))?;
    }
    same("the byte before", to.byte(99), 0)?;
    let checksum = |address: u64| Descriptor {
        operation: Operation::Checksum.number(),
        source: address,
        length: length as u64,
        ..Descriptor::default()
    };
    // SAFETY: Both are areas.
    let sums = unsafe {
        let one = consumer.carry_out(checksum(from.address(0) + 50))?;
        let other = consumer.carry_out(checksum(to.address(0) + 100))?;
        [one.result, other.result]
    };
    same("the sum of the copy", sums[0], sums[1])
}

fn unmapped(mode: Mode) -> Result {
    let mut consumer = consumer(mode)?;
    let area = Area::new(4)?;
    area.unmap(2, 1)?;
    let found = fill(&mut consumer, area.address(0) + 8, 4 * PAGE - 8, 1);
    refused(found, area.address(2), 2 * PAGE - 8)?;
    expect(area.is_all(3..4, 0), "what is behind the hole was written")
}

fn read_only(mode: Mode) -> Result {
    let mut consumer = consumer(mode)?;
    let area = Area::new(2)?;
    fill(&mut consumer, area.address(0), 2 * PAGE, 7)?;
    area.protect(1, 1, libc::PROT_READ)?;
    let found = fill(&mut consumer, area.address(0), 2 * PAGE, 8);
    refused(found, area.address(1), PAGE)?;
    expect(area.is_all(1..2, 7), "it was written all the same")?;
    area.protect(1, 1, libc::PROT_READ | libc::PROT_WRITE)?;
    fill(&mut consumer, area.address(0), 2 * PAGE, 9)?;
    expect(area.is_all(0..2, 9), "it was not written")
}

fn no_access(mode: Mode) -> Result {
    let mut consumer = consumer(mode)?;
    let area = Area::new(1)?;
    fill(&mut consumer, area.address(0), PAGE, 7)?;
    area.protect(0, 1, libc::PROT_NONE)?;
    let found = fill(&mut consumer, area.address(0) + 4, 8, 8);
    refused(found, area.address(0) + 4, 0)?;
    area.protect(0, 1, libc::PROT_READ)?;
    expect(area.is_all(0..1, 7), "it was written all the same")
}

fn taken_away(mode: Mode) -> Result {
    const PAGES: usize = 8;
    let mut consumer = consumer(mode)?;
    let area = Area::new(PAGES)?;
    fill(&mut consumer, area.address(0), PAGES * PAGE, 1)?;
    let before = consumer.count(Counter::PageGroups);
    area.advise(0, PAGES, libc::MADV_DONTNEED)?;
    fill(&mut consumer, area.address(1), PAGE, 2)?;
    expect(
        consumer.count(Counter::PageGroups) > before,
        "it did not fault",
    )?;
    expect(area.is_all(1..2, 2), "the new page was not written")?;
    expect(area.is_all(0..1, 0), "the page before it was")
}

fn not_pinned(mode: Mode) -> Result<Outcome> {
    if mode != Mode::Pinned {
        return Ok(Outcome::Skipped("nothing has to be pinned".into()));
    }
    let mut consumer = consumer(mode)?;
    let area = Area::new(3)?;
    let pinned = (area.address(0), 2 * PAGE as u64);
    area.set(0..3, 1);
    consumer.pin(pinned.0, pinned.1)?;
    let found = fill(&mut consumer, area.address(0), 3 * PAGE, 2);
    refused(found, area.address(2), 2 * PAGE)?;
    consumer.unpin(pinned.0, pinned.1)?;
    refused(
        fill(&mut consumer, area.address(0), PAGE, 3),
        area.address(0),
        0,
    )?;
    expect(
        area.is_all(0..2, 2),
        "what is not pinned any more was written",
    )?;
    expect(area.is_all(2..3, 1), "what was never pinned was written")?;
    Ok(Outcome::Passed)
}

fn malformed(mode: Mode) -> Result {
    let mut consumer = consumer(mode)?;
    for (field, descriptor) in [
        (
            Field::Operation,
            Descriptor {
                operation: 99,
                ..Descriptor::default()
            },
        ),
        (
            Field::Flags,
            Descriptor {
                flags: 1 << 7,
                ..Descriptor::default()
            },
        ),
        (
            Field::Length,
            Descriptor {
                operation: Operation::Fill.number(),
                ..Descriptor::default()
            },
        ),
        (
            Field::Reserved,
            Descriptor {
                reserved: [0, 0, 0, 0, 1],
                ..Descriptor::default()
            },
        ),
    ] {
        // SAFETY: Nothing is done.
        match unsafe { consumer.carry_out(descriptor) } {
            Err(Error::Failed(Failed {
                reason: Reason::Malformed { field: found, .. },
                bytes_done: 0,
            })) => same("the field", found, field)?,
            other => return Err(format!("{field:?}: {other:?}").into()),
        }
    }
    // SAFETY: No memory is used.
    unsafe { consumer.carry_out(Descriptor::default()) }?;
    Ok(())
}

/// A queue interrupts who uses it, and nobody else.
fn own_interrupt(mode: Mode) -> Result {
    let (mut one, mut other) = (consumer(mode)?, consumer(mode)?);
    let before = [interrupts(&one)?, interrupts(&other)?];
    interrupt(&mut one)?;
    same("the other's interrupts", interrupts(&other)?, before[1])?;
    interrupt(&mut other)?;
    same("its interrupts", interrupts(&one)?, before[0] + 1)
}

fn another_process(mode: Mode) -> Result {
    let mut consumer = consumer(mode)?;
    let area = area(&consumer, mode, 1)?;
    fill(&mut consumer, area.address(0), PAGE, 3)?;
    expect(
        spawn(mode, Role::Reach(area.address(0)))?.success(),
        "the other process has failed",
    )?;
    expect(area.is_all(0..1, 3), "the other process has reached it")
}

fn exit_in_the_middle(mode: Mode) -> Result {
    for _ in 0..4 {
        expect(
            spawn(mode, Role::Leave)?.success(),
            "the other process has failed",
        )?;
        // Its PASID may be used again at once.
        steady_state(mode)?;
    }
    Ok(())
}

fn driver_unbound(mode: Mode) -> Result {
    let device = device()?;
    let status = spawn(mode, Role::Unbind)?;
    fs::write(format!("{DRIVER}/bind"), device)?;
    same("the signal", status.signal(), Some(libc::SIGBUS))?;
    steady_state(mode)
}
