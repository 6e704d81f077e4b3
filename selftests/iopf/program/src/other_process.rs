// SPDX-License-Identifier: GPL-2.0

//! Other processes that use the device, which are this program again.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::{fs, io};

use svadma::abi::{Counter, Descriptor, Operation};
pub use svadma::sysfs::{device, DRIVER};
use svadma::uapi::Mode;
use svadma::{Consumer, Error};

use crate::area::{Area, PAGE};
use crate::case::{errno, same, Result};
use crate::work::{area, consumer, fill};

/// What another process does.
#[derive(Clone, Copy)]
pub enum Role {
    /// Asks the device for what is at an address in the first process.
    Reach(u64),
    /// Ends while the device works.
    Leave,
    /// Becomes another program while the device works.
    Exec,
    /// Has the device work until it is killed.
    Work,
    /// Has the device copy memory that looks like no other process's, by this number, which is what it
    /// may keep, too; begins when it is told to.
    Share(u64),
    /// Unbinds the driver from the device that it uses, and goes on.
    Unbind,
}

impl Role {
    fn to_args(self) -> [String; 2] {
        let (name, address) = match self {
            Self::Reach(address) => ("reach", address),
            Self::Leave => ("leave", 0),
            Self::Exec => ("exec", 0),
            Self::Work => ("work", 0),
            Self::Share(number) => ("share", number),
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
            "exec" => Some(Self::Exec),
            "work" => Some(Self::Work),
            "share" => Some(Self::Share(address)),
            "unbind" => Some(Self::Unbind),
            _ => None,
        }
    }
}

/// This program again, as a process with an address space of its own.
fn command(mode: Mode, role: Role) -> Result<Command> {
    let mode = crate::MODES.iter().find(|(_, other)| *other == mode);
    let (name, _) = mode.ok_or("a mode without a name")?;
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["child", name]).args(role.to_args());
    Ok(command)
}

/// Runs it to its end.
pub fn spawn(mode: Mode, role: Role) -> Result<ExitStatus> {
    Ok(command(mode, role)?.status()?)
}

/// Starts many, which wait until their standard input ends.
pub fn spawn_many(mode: Mode, roles: impl Iterator<Item = Role>) -> Result<Vec<Child>> {
    roles
        .map(|role| Ok(command(mode, role)?.stdin(Stdio::piped()).spawn()?))
        .collect()
}

/// Starts it, and returns when it has said something.
pub fn start(mode: Mode, role: Role) -> Result<Child> {
    let mut child = command(mode, role)?.stdout(Stdio::piped()).spawn()?;
    let mut out = child.stdout.take().ok_or("no output")?;
    match out.read(&mut [0]) {
        Ok(1) => Ok(child),
        _ => Err(format!("the other process has ended: {}", child.wait()?).into()),
    }
}

/// A copy of this process.
pub struct Copy {
    pid: libc::pid_t,
}

/// Copies this process. The copy does `act`, which must not take locks or memory, and has ended well
/// if that says so.
pub fn fork(act: impl FnOnce() -> bool) -> Result<Copy> {
    // SAFETY: By the above.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error().into()),
        0 => {
            let status = i32::from(!act());
            // SAFETY: Nothing of this program is done on the way.
            unsafe { libc::_exit(status) }
        }
        pid => Ok(Copy { pid }),
    }
}

impl Copy {
    /// Waits for its end. Whether that was well.
    pub fn succeeds(self) -> Result<bool> {
        let mut status = 0;
        // SAFETY: It is a child that nobody has waited for.
        match unsafe { libc::waitpid(self.pid, &mut status, 0) } {
            -1 => Err(io::Error::last_os_error().into()),
            _ => Ok(status == 0),
        }
    }
}

/// What the other process does.
pub fn child(mode: Mode, role: Role) -> ExitCode {
    let result = match role {
        Role::Reach(address) => reach(mode, address),
        Role::Leave => leave_in_the_middle(mode),
        Role::Exec => exec_in_the_middle(mode),
        Role::Work => work(mode),
        Role::Share(number) => share(mode, number),
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

/// Has the device begin to fill memory, and returns in the middle of that.
fn begin(mode: Mode) -> Result<(Consumer, Area)> {
    const PAGES: usize = 4096;
    let mut consumer = consumer(mode)?;
    let area = area(&consumer, mode, PAGES)?;
    let descriptor = Descriptor {
        operation: Operation::Fill.number(),
        destination: area.address(0),
        length: (PAGES * PAGE) as u64,
        pattern: 1,
        ..Descriptor::default()
    };
    // SAFETY: It is an area.
    let _ticket = unsafe { consumer.submit(descriptor) }?;
    while mode != Mode::Pinned && consumer.count(Counter::PageGroups) < 8 {
        std::thread::yield_now();
    }
    Ok((consumer, area))
}

fn leave_in_the_middle(mode: Mode) -> Result {
    let _begun = begin(mode)?;
    // Neither closed nor unmapped by the program.
    std::process::exit(0);
}

fn exec_in_the_middle(mode: Mode) -> Result {
    let _begun = begin(mode)?;
    Err(Command::new("/bin/true").exec().into())
}

fn work(mode: Mode) -> Result {
    const PAGES: usize = 512;
    let mut consumer = consumer(mode)?;
    let area = area(&consumer, mode, PAGES)?;
    for byte in (1..=250).cycle() {
        fill(&mut consumer, area.address(0), PAGES * PAGE, byte)?;
        if byte == 1 {
            println!("working");
        }
        if mode != Mode::Pinned {
            area.advise(0, PAGES, libc::MADV_DONTNEED)?;
        }
    }
    Ok(())
}

/// What one of many may keep, in pages: less than it uses, or more, and enough for a copy.
pub fn budget_pages(number: u64) -> u64 {
    5 + number
}

fn share(mode: Mode, number: u64) -> Result {
    const PAGES: usize = 12;
    const BYTES: usize = PAGES * PAGE;
    let mut consumer = consumer(mode)?;
    if mode == Mode::Mirror {
        consumer.set_budget(budget_pages(number) * PAGE as u64)?;
    }
    io::stdin().read_to_end(&mut Vec::new())?;
    let (from, to) = (area(&consumer, mode, PAGES)?, area(&consumer, mode, PAGES)?);
    let content = |round: u64, offset: usize| number << 48 | round << 32 | offset as u64;
    for round in 0..2 {
        for offset in (0..BYTES).step_by(8) {
            from.store(offset, content(round, offset));
        }
        let copy = Descriptor {
            operation: Operation::Copy.number(),
            source: from.address(0),
            destination: to.address(0),
            length: BYTES as u64,
            ..Descriptor::default()
        };
        // SAFETY: Both are areas.
        unsafe { consumer.carry_out(copy) }?;
        for offset in (0..BYTES).step_by(8) {
            same("a number", to.number(offset), content(round, offset))?;
        }
    }
    Ok(())
}

fn outlive_the_driver(mode: Mode) -> Result {
    let consumer = consumer(mode)?;
    fs::write(format!("{DRIVER}/unbind"), device()?)?;
    errno(consumer.wait_for_interrupt(0, 0), libc::ENXIO)?;
    errno(Consumer::open(mode, 1), libc::ENOENT)?;
    let count = consumer.count(Counter::Descriptors);
    Err(format!("the doorbell page is there and reads {count}").into())
}
