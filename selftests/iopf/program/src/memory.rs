// SPDX-License-Identifier: GPL-2.0

//! What is tested.

use std::error::Error as StdError;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitCode, ExitStatus};
use std::{fs, io};

use svadma::abi::{Counter, Descriptor, Field, Operation, Status};
use svadma::uapi::Mode;
use svadma::{Consumer, Done, Error, Failed, Reason};

use crate::area::{Area, PAGE};

/// How a case has ended, unless it has failed.
pub enum Outcome {
    Passed,
    /// It means nothing in this mode.
    Skipped(String),
}

type Result<T = ()> = std::result::Result<T, Box<dyn StdError>>;

/// A case: its name, and what it does.
pub type Case = (&'static str, fn(Mode) -> Result<Outcome>);

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
    ("interrupt", |mode| passed(interrupt(mode))),
    ("another process", |mode| passed(another_process(mode))),
    ("exit in the middle", |mode| {
        on_demand(mode, exit_in_the_middle)
    }),
    ("driver unbound", |mode| passed(driver_unbound(mode))),
];

fn passed(result: Result) -> Result<Outcome> {
    result.map(|()| Outcome::Passed)
}

/// A case that is about pages which come when they are asked for.
fn on_demand(mode: Mode, case: fn(Mode) -> Result) -> Result<Outcome> {
    match mode {
        Mode::Pinned => Ok(Outcome::Skipped("what is pinned does not fault".into())),
        _ => passed(case(mode)),
    }
}

/// # Errors
///
/// It is not so.
fn expect(so: bool, what: impl std::fmt::Display) -> Result {
    match so {
        true => Ok(()),
        false => Err(what.to_string().into()),
    }
}

/// # Errors
///
/// The two differ.
fn same<T: PartialEq + std::fmt::Debug>(what: &str, found: T, expected: T) -> Result {
    expect(
        found == expected,
        format_args!("{what} is {found:x?}, not {expected:x?}"),
    )
}

/// A consumer that has used its ring and completions, so that only data is left to fault.
fn consumer(mode: Mode) -> Result<Consumer> {
    let mut consumer = Consumer::open(mode, 6)?;
    // SAFETY: No memory is used.
    unsafe { consumer.carry_out(Descriptor::default()) }?;
    Ok(consumer)
}

/// Memory, pinned if nothing else works.
fn area(consumer: &Consumer, mode: Mode, pages: usize) -> Result<Area> {
    let area = Area::new(pages)?;
    if mode == Mode::Pinned {
        consumer.pin(area.address(0), (pages * PAGE) as u64)?;
    }
    Ok(area)
}

fn fill(
    consumer: &mut Consumer,
    address: u64,
    length: usize,
    byte: u8,
) -> std::result::Result<Done, Error> {
    let descriptor = Descriptor {
        operation: Operation::Fill.number(),
        destination: address,
        length: length as u64,
        pattern: u64::from_le_bytes([byte; 8]),
        ..Descriptor::default()
    };
    // SAFETY: The callers fill areas, which are no objects of the language.
    unsafe { consumer.carry_out(descriptor) }
}

/// # Errors
///
/// It was not refused at `address` after `bytes_done`.
fn refused(found: std::result::Result<Done, Error>, address: u64, bytes_done: usize) -> Result {
    let expected = Failed {
        reason: Reason::Fault {
            status: Status::FaultInvalid,
            address,
        },
        bytes_done: bytes_done as u64,
    };
    match found {
        Err(Error::Failed(failed)) => same("the failure", failed, expected),
        other => Err(format!("it should have failed: {other:?}").into()),
    }
}

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

fn steady_state(mode: Mode) -> Result {
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

fn interrupt(mode: Mode) -> Result {
    let mut consumer = consumer(mode)?;
    // Others may have had some.
    let seen = match consumer.wait_for_interrupt(0, 0) {
        Ok(seen) => seen,
        Err(Error::Request(_, error)) if error.raw_os_error() == Some(libc::ETIMEDOUT) => 0,
        Err(error) => return Err(error.into()),
    };
    let descriptor = Descriptor {
        flags: Descriptor::INTERRUPT,
        ..Descriptor::default()
    };
    // SAFETY: No memory is used.
    let ticket = unsafe { consumer.submit(descriptor) }?;
    let now = consumer.wait_for_interrupt(seen, 10_000)?;
    expect(now > seen, "the count of interrupts has not grown")?;
    consumer.wait(ticket)?;
    Ok(())
}

/// What another process does.
#[derive(Clone, Copy)]
pub enum Role {
    /// Asks the device for what is at an address in the first process.
    Reach(u64),
    /// Ends while the device works.
    Leave,
    /// Unbinds the driver from the device that it uses, and goes on.
    Unbind,
}

impl Role {
    fn to_args(self) -> [String; 2] {
        let (name, address) = match self {
            Self::Reach(address) => ("reach", address),
            Self::Leave => ("leave", 0),
            Self::Unbind => ("unbind", 0),
        };
        [name.into(), address.to_string()]
    }

    /// From the arguments of a program.
    pub fn from_args(name: &str, address: &str) -> Option<Self> {
        let address = address.parse().ok()?;
        match name {
            "reach" => Some(Self::Reach(address)),
            "leave" => Some(Self::Leave),
            "unbind" => Some(Self::Unbind),
            _ => None,
        }
    }
}

/// Runs this program again, as a process with an address space of its own.
fn spawn(mode: Mode, role: Role) -> Result<ExitStatus> {
    let mode = crate::MODES.iter().find(|(_, other)| *other == mode);
    let (name, _) = mode.ok_or("a mode without a name")?;
    let mut command = Command::new(std::env::current_exe()?);
    Ok(command
        .args(["child", name])
        .args(role.to_args())
        .status()?)
}

/// What the other process does.
pub fn child(mode: Mode, role: Role) -> ExitCode {
    let result = match role {
        Role::Reach(address) => reach(mode, address),
        Role::Leave => leave_in_the_middle(mode),
        Role::Unbind => outlive_the_driver(mode),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("# in the other process: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Asks for memory of another process by its address.
fn reach(mode: Mode, address: u64) -> Result {
    let mut consumer = consumer(mode)?;
    match fill(&mut consumer, address, PAGE, 0xee) {
        Err(Error::Failed(_)) => Ok(()),
        other => Err(format!("it is not refused: {other:?}").into()),
    }
}

fn leave_in_the_middle(mode: Mode) -> Result {
    const PAGES: usize = 4096;
    let mut consumer = consumer(mode)?;
    let area = Area::new(PAGES)?;
    let descriptor = Descriptor {
        operation: Operation::Fill.number(),
        destination: area.address(0),
        length: (PAGES * PAGE) as u64,
        pattern: 1,
        ..Descriptor::default()
    };
    // SAFETY: It is an area.
    let _ticket = unsafe { consumer.submit(descriptor) }?;
    while consumer.count(Counter::PageGroups) < 8 {
        std::thread::yield_now();
    }
    // Neither closed nor unmapped by the program.
    std::process::exit(0);
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

/// Where the driver is bound to devices and unbound.
const DRIVER: &str = "/sys/bus/pci/drivers/svadma";

/// The PCI address of the device that the driver is bound to.
fn device() -> Result<String> {
    for entry in fs::read_dir(DRIVER)? {
        let name = entry?.file_name().into_string();
        if let Some(address) = name.ok().filter(|name| name.contains(':')) {
            return Ok(address);
        }
    }
    Err("the driver is bound to no device".into())
}

/// # Errors
///
/// The request was not refused with this error.
fn errno<T: std::fmt::Debug>(found: std::result::Result<T, Error>, errno: i32) -> Result {
    match found {
        Err(Error::Open(error) | Error::Request(_, error)) => {
            let expected = io::Error::from_raw_os_error(errno);
            same("the error", error.to_string(), expected.to_string())
        }
        other => Err(format!("it is not refused: {other:?}").into()),
    }
}

fn outlive_the_driver(mode: Mode) -> Result {
    let consumer = consumer(mode)?;
    fs::write(format!("{DRIVER}/unbind"), device()?)?;
    errno(consumer.wait_for_interrupt(0, 0), libc::ENXIO)?;
    errno(Consumer::open(mode, 1), libc::ENOENT)?;
    let count = consumer.count(Counter::Descriptors);
    Err(format!("the doorbell page is there and reads {count}").into())
}

fn driver_unbound(mode: Mode) -> Result {
    let device = device()?;
    let status = spawn(mode, Role::Unbind)?;
    fs::write(format!("{DRIVER}/bind"), device)?;
    same("the signal", status.signal(), Some(libc::SIGBUS))?;
    steady_state(mode)
}
