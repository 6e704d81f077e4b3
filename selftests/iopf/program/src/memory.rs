// SPDX-License-Identifier: GPL-2.0

//! What the device finds in the memory of a process.

use std::fs;
use std::os::unix::process::ExitStatusExt;

use svadma::abi::{Counter, Descriptor, Element, Field, Operation};
use svadma::uapi::Mode;
use svadma::{Consumer, Error, Failed, Reason};

use crate::area::{Area, PAGE};
use crate::case::{errno, expect, passed, same, Case, Outcome, Result};
use crate::other_process::{device, spawn, Role, DRIVER};
use crate::work::{area, consumer, fill, interrupt, interrupts, pin, refused};

/// All of them.
pub const CASES: [Case; 15] = [
    ("nothing is done", |mode| passed(nothing(mode))),
    ("first touch", |mode| passed(first_touch(mode))),
    ("steady state", |mode| passed(steady_state(mode))),
    ("content", |mode| passed(content(mode))),
    ("lists", |mode| passed(lists(mode))),
    ("unmapped", |mode| passed(unmapped(mode))),
    ("read-only", |mode| passed(read_only(mode))),
    ("no access", |mode| passed(no_access(mode))),
    ("taken away", |mode| passed(taken_away(mode))),
    ("not pinned", not_pinned),
    ("malformed", |mode| passed(malformed(mode))),
    ("interrupt of its own", |mode| passed(own_interrupt(mode))),
    ("another process", |mode| passed(another_process(mode))),
    ("exit in the middle", |mode| {
        passed(exit_in_the_middle(mode))
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
    let bytes = (0..length).map(|at| from.byte(at + 50));
    same("the sum", sums[0], crc32c(bytes).into())?;
    same("the sum of the copy", sums[1], sums[0])
}

/// By its definition (RFC 3720, 12.1), bit by bit.
fn crc32c(bytes: impl Iterator<Item = u8>) -> u32 {
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    let step = |sum: u32, _| sum >> 1 ^ (sum & 1) * POLYNOMIAL;
    !bytes.fold(!0, |sum, byte| (0..8).fold(sum ^ u32::from(byte), step))
}

/// What is gathered and scattered again is where it was, and nothing else is.
fn lists(mode: Mode) -> Result {
    const PAGES: usize = 8;
    // Where pieces begin and how long they are: within a page, over its end, over several.
    const PIECES: [(usize, usize); 4] = [
        (16, 8),
        (2 * PAGE - 24, 100),
        (3 * PAGE, 2 * PAGE),
        (7 * PAGE + 5, 77),
    ];
    let mut consumer = consumer(mode)?;
    let memory = || area(&consumer, mode, PAGES);
    let (from, through, to) = (memory()?, memory()?, memory()?);
    let (source, target) = (memory()?, memory()?);
    for page in 0..PAGES {
        from.set(page..page + 1, page as u8 + 1);
    }
    let mut length = 0;
    for (index, (start, bytes)) in PIECES.into_iter().enumerate() {
        for (list, area) in [(&source, &from), (&target, &to)] {
            let element = index * Element::BYTES as usize;
            list.store(element, area.address(0) + start as u64);
            list.store(element + 8, bytes as u64);
        }
        length += bytes;
    }
    let descriptor = Descriptor {
        length: length as u64,
        list_entries: PIECES.len() as u32,
        ..Descriptor::default()
    };
    let gather = Descriptor {
        operation: Operation::Gather.number(),
        source: source.address(0),
        destination: through.address(0) + 3,
        ..descriptor
    };
    let scatter = Descriptor {
        operation: Operation::Scatter.number(),
        source: through.address(0) + 3,
        destination: target.address(0),
        ..descriptor
    };
    for operation in [gather, scatter] {
        // SAFETY: All are areas.
        let done = unsafe { consumer.carry_out(operation) }?;
        same("bytes", done.bytes, length as u64)?;
    }
    for at in 0..PAGES * PAGE {
        let listed = PIECES
            .iter()
            .any(|(start, bytes)| (*start..start + bytes).contains(&at));
        let expected = if listed { from.byte(at) } else { 0 };
        same("a byte", to.byte(at), expected)?;
    }
    Ok(())
}

fn unmapped(mode: Mode) -> Result {
    let mut consumer = consumer(mode)?;
    let area = Area::new(4)?;
    area.unmap(2, 1)?;
    if mode == Mode::Pinned {
        errno(consumer.pin(area.address(0), 4 * PAGE as u64), libc::EFAULT)?;
        pin(&consumer, &area, 2)?;
    }
    let found = fill(&mut consumer, area.address(0) + 8, 4 * PAGE - 8, 1);
    refused(found, area.address(2), 2 * PAGE - 8)?;
    expect(area.is_all(3..4, 0), "what is behind the hole was written")
}

/// Has the device write to memory, or the process, if it has to be pinned for the device: then that
/// comes after what is done to the memory.
fn prepare(consumer: &mut Consumer, mode: Mode, area: &Area, pages: usize, byte: u8) -> Result {
    match mode {
        Mode::Pinned => area.set(0..pages, byte),
        _ => {
            fill(consumer, area.address(0), pages * PAGE, byte)?;
        }
    }
    Ok(())
}

fn read_only(mode: Mode) -> Result {
    let mut consumer = consumer(mode)?;
    let area = Area::new(2)?;
    prepare(&mut consumer, mode, &area, 2, 7)?;
    area.protect(1, 1, libc::PROT_READ)?;
    if mode == Mode::Pinned {
        pin(&consumer, &area, 2)?;
    }
    let found = fill(&mut consumer, area.address(0), 2 * PAGE, 8);
    refused(found, area.address(1), PAGE)?;
    expect(area.is_all(1..2, 7), "it was written all the same")?;
    area.protect(1, 1, libc::PROT_READ | libc::PROT_WRITE)?;
    if mode == Mode::Pinned {
        consumer.unpin(area.address(0), 2 * PAGE as u64)?;
        pin(&consumer, &area, 2)?;
    }
    fill(&mut consumer, area.address(0), 2 * PAGE, 9)?;
    expect(area.is_all(0..2, 9), "it was not written")
}

fn no_access(mode: Mode) -> Result {
    let mut consumer = consumer(mode)?;
    let area = Area::new(1)?;
    prepare(&mut consumer, mode, &area, 1, 7)?;
    area.protect(0, 1, libc::PROT_NONE)?;
    if mode == Mode::Pinned {
        errno(consumer.pin(area.address(0), PAGE as u64), libc::EFAULT)?;
    }
    let found = fill(&mut consumer, area.address(0) + 4, 8, 8);
    refused(found, area.address(0) + 4, 0)?;
    area.protect(0, 1, libc::PROT_READ)?;
    expect(area.is_all(0..1, 7), "it was written all the same")
}

/// The device finds what the process has now, or, of what is pinned, what it had.
fn taken_away(mode: Mode) -> Result {
    const PAGES: usize = 8;
    let mut consumer = consumer(mode)?;
    let area = area(&consumer, mode, PAGES)?;
    fill(&mut consumer, area.address(0), PAGES * PAGE, 1)?;
    let before = consumer.count(Counter::PageGroups);
    area.advise(0, PAGES, libc::MADV_DONTNEED)?;
    fill(&mut consumer, area.address(1), PAGE, 2)?;
    let faults = consumer.count(Counter::PageGroups) - before;
    let (faulted, found) = match mode {
        Mode::Pinned => (false, 0),
        _ => (true, 2),
    };
    same("whether it has faulted", faults > 0, faulted)?;
    expect(area.is_all(1..2, found), "it finds other memory")?;
    expect(area.is_all(0..1, 0), "the page before it was written")
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

/// A completion names the field that is wrong. The other fields are as they may be.
fn malformed(mode: Mode) -> Result {
    let mut consumer = consumer(mode)?;
    let list = area(&consumer, mode, 1)?;
    let nothing = Descriptor::default();
    let fill = Descriptor {
        operation: Operation::Fill.number(),
        destination: list.address(0),
        length: 8,
        ..nothing
    };
    let gather = Descriptor {
        operation: Operation::Gather.number(),
        source: list.address(0),
        destination: list.address(0) + 1024,
        length: 8,
        list_entries: 1,
        ..nothing
    };
    #[rustfmt::skip]
    let cases = [
        (Field::Operation, Descriptor { operation: 99, ..nothing }),
        (Field::Flags, Descriptor { flags: 1 << 7, ..nothing }),
        (Field::Source, Descriptor { source: 8, ..fill }),
        (Field::Source, Descriptor { source: gather.source + 1, ..gather }),
        (Field::Destination, Descriptor { destination: 8, ..nothing }),
        (Field::Length, Descriptor { length: 0, ..fill }),
        (Field::Length, Descriptor { length: Descriptor::LENGTH_MAX + 1, ..fill }),
        (Field::Length, Descriptor { length: 1, ..nothing }),
        (Field::Pattern, Descriptor { pattern: 1, ..nothing }),
        (Field::ListEntries, Descriptor { list_entries: 1, ..fill }),
        (Field::ListEntries, Descriptor { list_entries: 0, ..gather }),
        (Field::Reserved, Descriptor { reserved: [0, 0, 0, 0, 1], ..nothing }),
        (Field::ListElement, gather),
    ];
    for (field, descriptor) in cases {
        // SAFETY: Nothing is done.
        match unsafe { consumer.carry_out(descriptor) } {
            Err(Error::Failed(Failed {
                reason: Reason::Malformed { field: found, .. },
                bytes_done: 0,
            })) => same("the field", found, field)?,
            other => return Err(format!("{field:?}: {other:?}").into()),
        }
    }
    expect(list.is_all(0..1, 0), "something was written")?;
    // SAFETY: No memory is used.
    unsafe { consumer.carry_out(nothing) }?;
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
