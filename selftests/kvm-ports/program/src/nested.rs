// SPDX-License-Identifier: GPL-2.0

//! A guest's own guest: what the outer one may access, the inner one may not.
//!
//! Offsets and values are those of "AMD64 Architecture Programmer's Manual", volume 2, appendix B.

use kvm_bindings::{kvm_msr_entry, kvm_regs, Msrs};

use crate::case::{same, Case, Result};
use crate::guest::{Came, Cpu, Guest, HOST_ANSWER, USER_ANSWER};
use crate::ports::Ports;
use crate::served::PORT;

pub const CASES: [Case; 3] = [
    ("accesses of a nested guest exit", exits),
    ("they exit when ports are allowed meanwhile, too", meanwhile),
    ("they go to the outer guest if it wants so", intercepted),
];

const HOST_SAVE: u64 = 0x3000;
const VMCB: u64 = 0x4000;
/// The outer guest's own I/O permission map, of 3 pages.
const IO_MAP: u64 = 0x5000;
const INNER_CODE: u64 = 0x8000;
/// The outer guest's page directory: the first 4 MiB, where they are.
const PAGES: u64 = 0x9000;
const PAGE_4_MIB: u64 = 0x83;

const VM_HSAVE_PA: u32 = 0xc001_0117;
const EFER_SVME: u64 = 1 << 12;
const CR0_PE: u64 = 1;
const CR0_PG: u64 = 1 << 31;
const CR4_PSE: u64 = 1 << 4;

/// Offsets in the VMCB.
mod vmcb {
    pub const INTERCEPTS: u64 = 0xc;
    pub const IOPM_BASE: u64 = 0x40;
    pub const ASID: u64 = 0x58;
    pub const EXITCODE: u64 = 0x70;
    pub const SEGMENTS: u64 = 0x400;
    pub const EFER: u64 = 0x4d0;
    pub const CR0: u64 = 0x558;
    pub const DR7: u64 = 0x560;
    pub const DR6: u64 = 0x568;
    pub const RFLAGS: u64 = 0x570;
    pub const RIP: u64 = 0x578;
    pub const RAX: u64 = 0x5f8;
}

const INTERCEPT_HLT: u64 = 1 << 24;
const INTERCEPT_IO: u64 = 1 << 27;
const INTERCEPT_VMRUN: u64 = 1 << 32;

const VMEXIT_HLT: u32 = 0x78;
const VMEXIT_IOIO: u32 = 0x7b;

/// Runs the guest; reads the port; halts. 32-bit code, with the VMCB in EAX.
const OUTER: [u8; 5] = [0x0f, 0x01, 0xd8, 0xec, 0xf4];
/// Reads the port twice; halts. 16-bit code.
const INNER: [u8; 3] = [0xec, 0xec, 0xf4];

/// A guest that runs a guest; both have the port in DX.
struct Pair {
    outer: Guest,
    cpu: Cpu,
    ports: Ports,
}

impl Pair {
    /// The outer guest intercepts HLT, VMRUN, and `intercepts`.
    fn new(intercepts: u64) -> Result<Self> {
        let outer = Guest::new()?;
        let cpu = outer.cpu(0)?;
        let ports = Ports::of(&outer.vm)?;
        ports.reserve(PORT.into(), 8)?;

        let mut sregs = cpu.fd.get_sregs()?;
        // 32-bit protected mode with paging, without which KVM lets nobody run guests.
        sregs.cr0 |= CR0_PG | CR0_PE;
        sregs.cr3 = PAGES;
        sregs.cr4 |= CR4_PSE;
        outer.memory.write(PAGES, &PAGE_4_MIB.to_le_bytes());
        sregs.efer |= EFER_SVME;
        for segment in [&mut sregs.cs, &mut sregs.ds, &mut sregs.es, &mut sregs.ss] {
            segment.limit = u32::MAX;
            segment.g = 1;
            segment.db = 1;
            segment.type_ = 3;
        }
        sregs.cs.type_ = 0xb;
        sregs.cs.selector = 8;
        cpu.fd.set_sregs(&sregs)?;
        let save = kvm_msr_entry {
            index: VM_HSAVE_PA,
            data: HOST_SAVE,
            ..kvm_msr_entry::default()
        };
        let msrs = Msrs::from_entries(&[save]).map_err(|error| format!("{error:?}"))?;
        same("MSRs that are set", cpu.fd.set_msrs(&msrs)?, 1)?;

        let write = |at: u64, value: u64| outer.memory.write(VMCB + at, &value.to_le_bytes());
        write(
            vmcb::INTERCEPTS,
            INTERCEPT_HLT | INTERCEPT_VMRUN | intercepts,
        );
        write(vmcb::IOPM_BASE, IO_MAP);
        write(vmcb::ASID, 1);
        // ES, CS, SS, DS, FS, GS, GDTR, LDTR, IDTR, TR, as after reset, but CS at 0.
        for (index, attributes) in
            (0..).zip([0x93, 0x9b, 0x93, 0x93, 0x93, 0x93, 0, 0x82, 0, 0x8b_u64])
        {
            write(vmcb::SEGMENTS + 16 * index, 0xffff << 32 | attributes << 16);
        }
        write(vmcb::EFER, EFER_SVME);
        write(vmcb::CR0, 0x10);
        write(vmcb::DR7, 0x400);
        write(vmcb::DR6, 0xffff_0ff0);
        write(vmcb::RFLAGS, 2);
        write(vmcb::RIP, INNER_CODE);
        outer.memory.write(INNER_CODE, &INNER);
        Ok(Self { outer, cpu, ports })
    }

    fn run(&mut self, mut at_exit: impl FnMut(&Ports) -> Result) -> Result<Came> {
        let regs = kvm_regs {
            rax: VMCB,
            rdx: PORT.into(),
            ..kvm_regs::default()
        };
        let ports = &self.ports;
        self.cpu.run(&OUTER, regs, || at_exit(ports))
    }

    /// What the VMCB has at `at`.
    fn vmcb(&self, at: u64) -> u32 {
        let word = self.outer.memory.word(VMCB + at);
        word.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// The inner guest has got to its end by exits alone, the outer one to the port itself.
    fn both_served(&self, came: &Came) -> Result {
        same(
            "the end of the inner guest",
            self.vmcb(vmcb::EXITCODE),
            VMEXIT_HLT,
        )?;
        same("what it has read", self.vmcb(vmcb::RAX) as u8, USER_ANSWER)?;
        same("what the outer one has read", came.rax as u8, HOST_ANSWER)?;
        same("exits", (came.exits, came.user), (2, 2))
    }
}

fn exits() -> Result {
    let mut pair = Pair::new(0)?;
    pair.ports.allow(0xff)?;
    let came = pair.run(|_| Ok(()))?;
    pair.both_served(&came)
}

fn meanwhile() -> Result {
    let mut pair = Pair::new(0)?;
    // At the first access of the inner guest.
    let came = pair.run(|ports| Ok(ports.allow(0xff)?))?;
    pair.both_served(&came)
}

fn intercepted() -> Result {
    let mut pair = Pair::new(INTERCEPT_IO)?;
    pair.outer.memory.write(IO_MAP, &[0xff; 0x3000]);
    pair.ports.allow(0xff)?;
    let came = pair.run(|_| Ok(()))?;
    same(
        "the end of the inner guest",
        pair.vmcb(vmcb::EXITCODE),
        VMEXIT_IOIO,
    )?;
    same("what the outer one has read", came.rax as u8, HOST_ANSWER)?;
    same("exits to user space", came.user, 0)
}
