// SPDX-License-Identifier: GPL-2.0

//! A guest of a few instructions, in real mode.

use std::ptr::{null_mut, NonNull};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::Arc;

use kvm_bindings::{kvm_regs, kvm_userspace_memory_region, KVM_MAX_CPUID_ENTRIES};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};

use crate::case::{same, Result};
use crate::statistics::Counter;

/// Size of the guest's memory, which begins at 0.
const MEMORY_BYTES: usize = 0x1_0000;
/// Where its instructions are.
const CODE: u64 = 0x1000;
/// Each byte that is read in user space.
pub const USER_ANSWER: u8 = 0x3c;
/// Each byte that is read from a port of the host that nobody has.
pub const HOST_ANSWER: u8 = 0xff;

/// How many bytes an access covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    Byte = 1,
    Word = 2,
    Dword = 4,
}

impl Width {
    pub const ALL: [Self; 3] = [Self::Byte, Self::Word, Self::Dword];

    /// A value that has `byte` everywhere.
    pub fn of(self, byte: u8) -> u64 {
        u64::from_le_bytes([byte; 8]) & self.mask()
    }

    pub fn mask(self) -> u64 {
        (1 << (8 * self as u32)) - 1
    }
}

/// An instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    In(Width),
    Out(Width),
}

impl Access {
    /// As 16-bit code, with the port in DX.
    pub fn code(self) -> &'static [u8] {
        match self {
            Self::In(Width::Byte) => &[0xec],
            Self::In(Width::Word) => &[0xed],
            Self::In(Width::Dword) => &[0x66, 0xed],
            Self::Out(Width::Byte) => &[0xee],
            Self::Out(Width::Word) => &[0xef],
            Self::Out(Width::Dword) => &[0x66, 0xef],
        }
    }
}

/// Memory of a guest.
pub struct Memory(NonNull<libc::c_void>);

// SAFETY: Memory belongs to no thread.
unsafe impl Send for Memory {}

// SAFETY: It is accessed by atomics, or while the guest does not run.
unsafe impl Sync for Memory {}

impl Memory {
    fn new() -> Result<Self> {
        // SAFETY: It is put where nothing is.
        let start = unsafe {
            libc::mmap(
                null_mut(),
                MEMORY_BYTES,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        match NonNull::new(start).filter(|_| start != libc::MAP_FAILED) {
            Some(start) => Ok(Self(start)),
            None => Err(std::io::Error::last_os_error().into()),
        }
    }

    /// A word that the guest may write to meanwhile.
    pub fn word(&self, address: u64) -> &AtomicU32 {
        assert!(address % 4 == 0 && (address as usize) < MEMORY_BYTES);
        // SAFETY: It is in this memory, and aligned.
        unsafe { self.0.byte_add(address as usize).cast().as_ref() }
    }

    /// Writes what the guest does not use now.
    pub fn write(&self, address: u64, bytes: &[u8]) {
        for (at, byte) in (address..).zip(bytes) {
            let word = self.word(at & !3);
            let shift = 8 * (at % 4);
            let rest = word.load(Ordering::Relaxed) & !(0xff << shift);
            word.store(rest | u32::from(*byte) << shift, Ordering::Relaxed);
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: It is this one's own.
        unsafe { libc::munmap(self.0.as_ptr(), MEMORY_BYTES) };
    }
}

/// What has come of accesses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Came {
    /// Exits from the guest because of a port.
    pub exits: u64,
    /// Those of them that came to user space.
    pub user: u64,
    /// RAX afterwards.
    pub rax: u64,
}

/// A virtual CPU.
pub struct Cpu {
    // Before the memory that it uses.
    pub fd: VcpuFd,
    exits: Counter,
    memory: Arc<Memory>,
}

/// A VM.
pub struct Guest {
    pub vm: VmFd,
    pub memory: Arc<Memory>,
    kvm: Kvm,
}

impl Guest {
    pub fn new() -> Result<Self> {
        let kvm = Kvm::new()?;
        let vm = kvm.create_vm()?;
        let memory = Arc::new(Memory::new()?);
        // SAFETY: The memory stays for as long as the VM has a CPU.
        unsafe {
            vm.set_user_memory_region(kvm_userspace_memory_region {
                slot: 0,
                flags: 0,
                guest_phys_addr: 0,
                memory_size: MEMORY_BYTES as u64,
                userspace_addr: memory.0.as_ptr() as u64,
            })
        }?;
        Ok(Self { vm, memory, kvm })
    }

    /// Adds a CPU, in real mode with flat segments from 0 on.
    pub fn cpu(&self, number: u64) -> Result<Cpu> {
        let fd = self.vm.create_vcpu(number)?;
        fd.set_cpuid2(&self.kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)?)?;
        let mut sregs = fd.get_sregs()?;
        sregs.cs.base = 0;
        sregs.cs.selector = 0;
        fd.set_sregs(&sregs)?;
        Ok(Cpu {
            exits: Counter::find(&fd, "io_exits")?,
            fd,
            memory: self.memory.clone(),
        })
    }
}

impl Cpu {
    /// Runs instructions, with the port in DX, until they halt. What comes to user space is counted,
    /// and reads are answered there; `at_exit` is called each time.
    pub fn run(
        &mut self,
        code: &[u8],
        regs: kvm_regs,
        mut at_exit: impl FnMut() -> Result,
    ) -> Result<Came> {
        self.memory.write(CODE, code);
        self.fd.set_regs(&kvm_regs {
            rip: CODE,
            rflags: 2,
            ..regs
        })?;
        let before = self.exits.read()?;
        let mut user = 0;
        loop {
            match self.fd.run()? {
                VcpuExit::IoIn(_, data) => {
                    data.fill(USER_ANSWER);
                    user += 1;
                    at_exit()?;
                }
                VcpuExit::IoOut(..) => {
                    user += 1;
                    at_exit()?;
                }
                VcpuExit::Hlt => break,
                other => return Err(format!("the guest stops with {other:?}").into()),
            }
        }
        Ok(Came {
            exits: self.exits.read()? - before,
            user,
            rax: self.fd.get_regs()?.rax,
        })
    }

    /// Accesses a port `count` times.
    pub fn access(&mut self, access: Access, port: u16, value: u64, count: u16) -> Result<Came> {
        let mut code = access.code().to_vec();
        // Back to the access, CX times in all; halt.
        code.extend([0xe2, 0_u8.wrapping_sub(code.len() as u8 + 2), 0xf4]);
        let regs = kvm_regs {
            rax: value,
            rcx: count.into(),
            rdx: port.into(),
            ..kvm_regs::default()
        };
        self.run(&code, regs, || Ok(()))
    }

    /// Reads a port once. Returns the number of exits and what was read.
    pub fn read(&mut self, width: Width, port: u16) -> Result<(u64, u64)> {
        let came = self.access(Access::In(width), port, 0, 1)?;
        Ok((came.exits, came.rax))
    }

    /// Whether each access to a port exits: reads and writes of this width.
    pub fn expect_exits(&mut self, width: Width, port: u16, exits: bool) -> Result {
        let what = |access| format!("exits of {access:?} at {port:#x}");
        for access in [Access::In(width), Access::Out(width)] {
            let came = self.access(access, port, 0, 1)?;
            same(&what(access), came.exits, exits.into())?;
        }
        Ok(())
    }
}
