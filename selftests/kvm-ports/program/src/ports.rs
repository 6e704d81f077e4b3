// SPDX-License-Identifier: GPL-2.0

//! An open file of the module `kvm_ports`.

use std::fs::File;
use std::io::{Error, Result};
use std::os::fd::AsRawFd;

use crate::uapi;

/// What a file is asked for; see `uapi.rs`.
pub struct Ports(File);

/// What the module has served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    pub reads: u64,
    pub writes: u64,
    /// What was written last.
    pub last: u64,
}

impl Ports {
    pub fn open() -> Result<Self> {
        let file = File::options().read(true).write(true).open(uapi::PATH)?;
        Ok(Self(file))
    }

    /// A file that is attached to a VM.
    pub fn of(vm: &impl AsRawFd) -> Result<Self> {
        let ports = Self::open()?;
        ports.attach(vm.as_raw_fd())?;
        Ok(ports)
    }

    fn request<const N: usize>(&self, number: u32, mut words: [u64; N]) -> Result<[u64; N]> {
        // SAFETY: The memory is what the number says.
        let status = unsafe {
            libc::ioctl(
                self.0.as_raw_fd(),
                libc::c_ulong::from(number) as _,
                words.as_mut_ptr(),
            )
        };
        match status {
            0 => Ok(words),
            _ => Err(Error::last_os_error()),
        }
    }

    pub fn support(&self) -> Result<u64> {
        self.request(uapi::SUPPORT, [0]).map(|[support]| support)
    }

    pub fn attach(&self, descriptor: i32) -> Result<()> {
        self.request(uapi::ATTACH, [descriptor as u64]).map(drop)
    }

    pub fn serve(&self, first: u64, count: u64, declined: u64) -> Result<()> {
        self.request(uapi::SERVE, [first, count, declined])
            .map(drop)
    }

    pub fn end(&self) -> Result<()> {
        self.request(uapi::END, []).map(drop)
    }

    pub fn counts(&self) -> Result<Counts> {
        let [reads, writes, last] = self.request(uapi::COUNTS, [0; 3])?;
        Ok(Counts {
            reads,
            writes,
            last,
        })
    }

    pub fn reserve(&self, first: u64, count: u64) -> Result<()> {
        self.request(uapi::RESERVE, [first, count]).map(drop)
    }

    /// Lets the VM access the reserved ports whose bits are set: offsets 0 to 63.
    pub fn allow(&self, bits: u64) -> Result<()> {
        self.request(uapi::ALLOW, [bits, 0, 0, 0]).map(drop)
    }

    pub fn release(&self) -> Result<()> {
        self.request(uapi::RELEASE, []).map(drop)
    }
}
