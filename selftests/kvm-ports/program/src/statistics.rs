// SPDX-License-Identifier: GPL-2.0

//! What KVM counts for a virtual CPU: `KVM_GET_STATS_FD`, Documentation/virt/kvm/api.rst.

use std::fs::File;
use std::io::{Error, Result};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::FileExt;

/// `_IO(KVMIO, 0xce)`
const KVM_GET_STATS_FD: libc::c_ulong = 0xaece;

/// A counter.
pub struct Counter {
    file: File,
    offset: u64,
}

impl Counter {
    /// The counter of this name.
    pub fn find(vcpu: &impl AsRawFd, name: &str) -> Result<Self> {
        // SAFETY: The request has no argument.
        let descriptor = unsafe { libc::ioctl(vcpu.as_raw_fd(), KVM_GET_STATS_FD as _) };
        if descriptor < 0 {
            return Err(Error::last_os_error());
        }
        // SAFETY: It was just made, and belongs to nobody else.
        let file = unsafe { File::from_raw_fd(descriptor) };
        let word = |offset| -> Result<u64> {
            let mut bytes = [0; 4];
            file.read_exact_at(&mut bytes, offset)?;
            Ok(u32::from_le_bytes(bytes).into())
        };
        // struct kvm_stats_header: flags, size of a name, number of descriptors, and where the
        // identifier, the descriptors and the data are.
        let (name_size, count, descriptors, data) = (word(4)?, word(8)?, word(16)?, word(20)?);
        for index in 0..count {
            // struct kvm_stats_desc: 16 bytes, and the name. The offset in the data is at 8.
            let at = descriptors + index * (16 + name_size);
            let mut bytes = vec![0; name_size as usize];
            file.read_exact_at(&mut bytes, at + 16)?;
            if bytes.split(|byte| *byte == 0).next() == Some(name.as_bytes()) {
                let offset = data + word(at + 8)?;
                return Ok(Self { file, offset });
            }
        }
        Err(Error::other(format!("KVM does not count {name}")))
    }

    /// What it is now.
    pub fn read(&self) -> Result<u64> {
        let mut bytes = [0; 8];
        self.file.read_exact_at(&mut bytes, self.offset)?;
        Ok(u64::from_le_bytes(bytes))
    }
}
