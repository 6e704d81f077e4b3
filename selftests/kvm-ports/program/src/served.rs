// SPDX-License-Identifier: GPL-2.0

//! Ports that the kernel serves.

use crate::case::{errno, same, Case, Result};
use crate::guest::{Access, Guest, Width, USER_ANSWER};
use crate::ports::{Counts, Ports};
use crate::uapi::{answer, ALLOW_OFFSET};

pub const CASES: [Case; 6] = [
    ("accesses that nobody serves go to user space", nobody),
    ("what is served does not go to user space", served),
    ("what the handler declines goes to user space", declined),
    ("what reaches over the end goes to user space", over_the_end),
    ("what KVM serves itself is not served", taken),
    ("another VM is not served", another_vm),
];

/// Ports that no guest here has anything at.
pub const PORT: u16 = 0x5e0;
const COUNT: u64 = 16;
/// How often something is done that may be done often.
const TIMES: u16 = 100;

fn nobody() -> Result {
    let mut cpu = Guest::new()?.cpu(0)?;
    for access in [Access::In(Width::Byte), Access::Out(Width::Dword)] {
        let came = cpu.access(access, PORT, 0, TIMES)?;
        same("exits", came.exits, TIMES.into())?;
        same("exits to user space", came.user, TIMES.into())?;
    }
    let read = cpu.read(Width::Word, PORT)?;
    same("a read", read, (1, Width::Word.of(USER_ANSWER)))
}

fn served() -> Result {
    let guest = Guest::new()?;
    let mut cpu = guest.cpu(0)?;
    let ports = Ports::of(&guest.vm)?;
    ports.serve(PORT.into(), COUNT, 0)?;
    for width in Width::ALL {
        let before = ports.counts()?;
        let came = cpu.access(Access::In(width), PORT + 1, 0, TIMES)?;
        same("exits", came.exits, TIMES.into())?;
        same("exits to user space", came.user, 0)?;
        let bytes = std::array::from_fn(|index| answer(1 + index as u8));
        let value = u64::from_le_bytes(bytes) & width.mask();
        same("what is read", came.rax, value)?;
        let value = 0x1234_5678 & width.mask();
        let came = cpu.access(Access::Out(width), PORT, value, TIMES)?;
        same("exits to user space", came.user, 0)?;
        let expected = Counts {
            reads: before.reads + u64::from(TIMES),
            writes: before.writes + u64::from(TIMES),
            last: value,
        };
        same("what was served", ports.counts()?, expected)?;
    }
    ports.end()?;
    let came = cpu.access(Access::In(Width::Byte), PORT, 0, TIMES)?;
    same("exits to user space, afterwards", came.user, TIMES.into())
}

fn declined() -> Result {
    let guest = Guest::new()?;
    let mut cpu = guest.cpu(0)?;
    let ports = Ports::of(&guest.vm)?;
    ports.serve(PORT.into(), COUNT, 1 << 2 | 1 << ALLOW_OFFSET)?;
    let user = |port: u16, cpu: &mut crate::guest::Cpu| -> Result<[u64; 2]> {
        let read = cpu.access(Access::In(Width::Byte), port, 0, TIMES)?;
        let write = cpu.access(Access::Out(Width::Byte), port, 0, TIMES)?;
        Ok([read.user, write.user])
    };
    same("declined", user(PORT + 2, &mut cpu)?, [TIMES.into(); 2])?;
    same("served", user(PORT + 3, &mut cpu)?, [0; 2])?;
    same(
        "a read",
        cpu.read(Width::Byte, PORT + 2)?.1,
        USER_ANSWER.into(),
    )
}

fn over_the_end() -> Result {
    let guest = Guest::new()?;
    let mut cpu = guest.cpu(0)?;
    let ports = Ports::of(&guest.vm)?;
    ports.serve(PORT.into(), COUNT, 0)?;
    let last = PORT + COUNT as u16 - 1;
    for (port, width, user) in [
        (last, Width::Byte, 0),
        (last, Width::Word, 1),
        (last - 1, Width::Word, 0),
        (last - 1, Width::Dword, 1),
        (PORT - 1, Width::Word, 1),
        (last + 1, Width::Byte, 1),
    ] {
        for access in [Access::In(width), Access::Out(width)] {
            let came = cpu.access(access, port, 0, 1)?;
            same(&format!("{access:?} at {port:#x}"), came.user, user)?;
        }
    }
    Ok(())
}

fn taken() -> Result {
    let guest = Guest::new()?;
    guest.vm.create_irq_chip()?;
    let ports = Ports::of(&guest.vm)?;
    errno(
        "the interrupt controller",
        ports.serve(0x18, 16, 0),
        libc::EEXIST,
    )?;
    ports.serve(PORT.into(), COUNT, 0)?;
    let other = Ports::of(&guest.vm)?;
    let last = u64::from(PORT) + COUNT - 1;
    errno("one port of many", other.serve(last, 4, 0), libc::EEXIST)?;
    other.serve(last + 1, 4, 0)?;
    ports.end()?;
    other.end()?;
    other.serve(last, 4, 0)?;
    Ok(())
}

fn another_vm() -> Result {
    let (guest, other) = (Guest::new()?, Guest::new()?);
    let ports = Ports::of(&guest.vm)?;
    ports.serve(PORT.into(), COUNT, 0)?;
    let came = other
        .cpu(0)?
        .access(Access::In(Width::Byte), PORT, 0, TIMES)?;
    same("exits to user space", came.user, TIMES.into())?;
    same("what was served", ports.counts()?.reads, 0)
}
