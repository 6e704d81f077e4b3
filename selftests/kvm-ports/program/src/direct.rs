// SPDX-License-Identifier: GPL-2.0

//! Ports of the host that a guest accesses without an exit.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;
use std::thread;

use kvm_bindings::kvm_regs;

use crate::case::{expect, same, Case, Result};
use crate::guest::{Access, Guest, Width, HOST_ANSWER, USER_ANSWER};
use crate::ports::Ports;
use crate::served::PORT;
use crate::uapi::{answer, ALLOW_OFFSET};

pub const CASES: [Case; 10] = [
    ("ports that are allowed do not exit", allowed),
    (
        "an access exits if one of its ports is not allowed",
        each_byte,
    ),
    ("an access beyond the last port exits", last_port),
    ("what is not allowed any more exits at once", revoked),
    ("ports of other VMs exit", another_vm),
    ("a CPU that comes later has the same ports", later_cpu),
    ("a handler may change what is allowed", from_handler),
    ("what is allowed is not served", before_served),
    ("closing the file ends it", closed),
    ("the death of the process ends it", killed),
];

/// How often something is done that may be done often.
const TIMES: u16 = 100;
/// How often a port is taken away while a CPU accesses it.
const ROUNDS: usize = 50;

/// A guest that may access 32 ports from `first` on, when they are allowed.
fn guest(first: u16) -> Result<(Guest, Ports)> {
    let guest = Guest::new()?;
    let ports = Ports::of(&guest.vm)?;
    ports.reserve(first.into(), 32)?;
    Ok((guest, ports))
}

fn allowed() -> Result {
    let (guest, ports) = guest(PORT)?;
    let mut cpu = guest.cpu(0)?;
    let exits = |cpu: &mut crate::guest::Cpu| -> Result<(u64, u64)> {
        let read = cpu.access(Access::In(Width::Byte), PORT, 0, TIMES)?;
        let write = cpu.access(Access::Out(Width::Byte), PORT, 0, TIMES)?;
        Ok((read.exits + write.exits, read.rax))
    };
    let trapped = (2 * u64::from(TIMES), USER_ANSWER.into());
    same("before", exits(&mut cpu)?, trapped)?;
    for _ in 0..2 {
        ports.allow(1)?;
        same("allowed", exits(&mut cpu)?, (0, HOST_ANSWER.into()))?;
        ports.allow(0)?;
        same("revoked", exits(&mut cpu)?, trapped)?;
    }
    ports.allow(1)?;
    ports.release()?;
    same("released", exits(&mut cpu)?, trapped)
}

/// Each access, to windows that lie over the borders of bytes, words and pages of the maps.
fn each_byte() -> Result {
    for first in [PORT, 0x7ff0] {
        let (guest, ports) = guest(first)?;
        let mut cpu = guest.cpu(0)?;
        for allowed in [0, 0x0001_8180, 0x5a3c_7e99, 0xfffe_7fff, u32::MAX] {
            ports.allow(allowed.into())?;
            for (offset, width) in (0..=28).flat_map(|at| Width::ALL.map(|width| (at, width))) {
                let covered = ((1_u32 << width as u32) - 1) << offset;
                let exits = allowed & covered != covered;
                cpu.expect_exits(width, first + offset, exits)?;
            }
        }
    }
    Ok(())
}

fn last_port() -> Result {
    let (guest, ports) = guest(0xffe0)?;
    let mut cpu = guest.cpu(0)?;
    ports.allow(u32::MAX.into())?;
    for (port, width, exits) in [
        (0xffff, Width::Byte, false),
        (0xfffe, Width::Word, false),
        (0xfffc, Width::Dword, false),
        (0xffff, Width::Word, true),
        (0xfffd, Width::Dword, true),
        (0xffff, Width::Dword, true),
    ] {
        cpu.expect_exits(width, port, exits)?;
    }
    Ok(())
}

/// Where the guest counts what it has read from the host.
const COUNTER: u64 = 0x2000;

/// Reads the port and counts, as long as it is the host's.
const COUNTING: [u8; 13] = [
    0xec, // again: in al, dx
    0x3c,
    HOST_ANSWER, // cmp al, HOST_ANSWER
    0x75,
    7, // jne end
    0x66,
    0xff,
    0x06,
    0x00,
    0x20, // inc dword [COUNTER]
    0xeb,
    0xf4, // jmp again
    0xf4, // end: hlt
];

fn revoked() -> Result {
    let (guest, ports) = guest(PORT)?;
    let mut cpu = guest.cpu(0)?;
    let memory = guest.memory.clone();
    let read = || memory.word(COUNTER).load(Ordering::SeqCst);
    for round in 0..ROUNDS {
        ports.allow(1)?;
        let before = read();
        let (later, came) = thread::scope(|scope| -> Result<_> {
            let thread = scope.spawn(|| {
                let regs = kvm_regs {
                    rdx: PORT.into(),
                    ..kvm_regs::default()
                };
                cpu.run(&COUNTING, regs, || Ok(()))
            });
            while read() == before && !thread.is_finished() {
                thread::yield_now();
            }
            ports.allow(0)?;
            let at_once = read();
            let came = thread.join().map_err(|_| "the thread has panicked")??;
            Ok((read().wrapping_sub(at_once), came))
        })?;
        same("what ended the loop", came.rax & 0xff, USER_ANSWER.into())?;
        same("exits", came.exits, 1)?;
        // One that was read before may not have been counted yet.
        expect(
            later <= 1,
            format_args!("{later} accesses after they were revoked, in round {round}"),
        )?;
    }
    Ok(())
}

fn another_vm() -> Result {
    let (first, ports) = guest(PORT)?;
    let (mut cpu, mut other) = (first.cpu(0)?, Guest::new()?.cpu(0)?);
    other.expect_exits(Width::Byte, PORT, true)?;
    ports.allow(1)?;
    cpu.expect_exits(Width::Byte, PORT, false)?;
    other.expect_exits(Width::Byte, PORT, true)?;
    cpu.expect_exits(Width::Byte, PORT, false)
}

fn later_cpu() -> Result {
    let (guest, ports) = guest(PORT)?;
    ports.allow(1)?;
    let mut cpus = [guest.cpu(0)?, guest.cpu(1)?];
    ports.allow(2)?;
    for cpu in &mut cpus {
        cpu.expect_exits(Width::Byte, PORT, true)?;
        cpu.expect_exits(Width::Byte, PORT + 1, false)?;
    }
    Ok(())
}

fn from_handler() -> Result {
    let (guest, ports) = guest(PORT)?;
    let mut cpu = guest.cpu(0)?;
    let served = PORT + 0x100;
    ports.serve(served.into(), 16, 0)?;
    for bit in 0..u32::from(TIMES) {
        let bit = bit % 32;
        let at = served + u16::from(ALLOW_OFFSET);
        let came = cpu.access(Access::Out(Width::Dword), at, 1 << bit, 1)?;
        same("exits to user space", came.user, 0)?;
        for port in [0, 31, bit] {
            cpu.expect_exits(Width::Byte, PORT + port as u16, port != bit)?;
        }
    }
    Ok(())
}

fn before_served() -> Result {
    let (guest, ports) = guest(PORT)?;
    let mut cpu = guest.cpu(0)?;
    ports.serve(PORT.into(), 16, 0)?;
    ports.allow(1)?;
    same(
        "allowed",
        cpu.read(Width::Byte, PORT)?,
        (0, HOST_ANSWER.into()),
    )?;
    same(
        "served",
        cpu.read(Width::Byte, PORT + 1)?,
        (1, answer(1).into()),
    )?;
    let value = u64::from(answer(1)) << 8 | u64::from(answer(0));
    same("both", cpu.read(Width::Word, PORT)?, (1, value))
}

fn closed() -> Result {
    let (guest, ports) = guest(PORT)?;
    let mut cpu = guest.cpu(0)?;
    ports.serve(PORT.into(), 16, 0)?;
    ports.allow(1)?;
    cpu.expect_exits(Width::Byte, PORT, false)?;
    drop(ports);
    let came = cpu.access(Access::In(Width::Word), PORT, 0, TIMES)?;
    same("exits to user space", came.user, TIMES.into())
}

/// What the process does that is to die.
pub fn child() -> Result {
    let (guest, ports) = guest(PORT)?;
    ports.serve(PORT.into(), 32, 0)?;
    ports.allow(1)?;
    let regs = kvm_regs {
        rdx: PORT.into(),
        ..kvm_regs::default()
    };
    println!("ready");
    guest.cpu(0)?.run(&COUNTING, regs, || Ok(()))?;
    Ok(())
}

fn killed() -> Result {
    for _ in 0..3 {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("child")
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        if let Some(output) = child.stdout.take() {
            BufReader::new(output).read_line(&mut line)?;
        }
        child.kill()?;
        child.wait()?;
        same("the other process", line.trim(), "ready")?;
        // It cannot be had twice.
        allowed()?;
    }
    Ok(())
}
