// SPDX-License-Identifier: GPL-2.0

//! How a program speaks to `kvm_ports.ko`: the requests of `/dev/kvm_ports`.
//!
//! An open file is attached to one VM by [`ATTACH`]. Then it can serve some of its ports ([`SERVE`]), as
//! a device in the kernel does, and let it access some of the host's directly ([`RESERVE`], [`ALLOW`]).
//! Closing the file ends both.
//!
//! The argument of a request points to an array of 64-bit words, which is read, and written back if the
//! request succeeds. `EFAULT`: it cannot be. `EINVAL`: a word is not as it must be. `ENXIO`: the file is
//! attached to no VM, or what is to be ended or changed has not begun. `EBUSY`: it has already begun.
//! `ENOTTY`: there is no such request. The module and the test program compile this file.

/// Where the module is for programs.
pub const PATH: &str = "/dev/kvm_ports";

/// The number of a request: `_IOWR('V', number, words)` of `include/uapi/asm-generic/ioctl.h`.
const fn request<const WORDS: usize>(number: u32) -> u32 {
    3 << 30 | (WORDS as u32 * 8) << 16 | (b'V' as u32) << 8 | number
}

/// What the KVM that is loaded can do for a module: becomes one of [`support`].
pub const SUPPORT: u32 = request::<1>(1);
/// Attaches the file to a VM: its descriptor. `EBADF`, `ENODEV`, `EOPNOTSUPP`: KVM is a stock one.
pub const ATTACH: u32 = request::<1>(2);
/// Serves ports: the first, how many, and which offsets are left to user space, by their bits; those
/// from 64 on are served. `EEXIST`: the kernel serves one of them already.
pub const SERVE: u32 = request::<3>(3);
/// Ends that; no words.
pub const END: u32 = request::<0>(4);
/// What was served: becomes the number of reads, that of writes, and the last value written.
pub const COUNTS: u32 = request::<3>(5);
/// Reserves ports of the host: the first, and how many.
pub const RESERVE: u32 = request::<2>(6);
/// Lets the VM access those of them directly whose bits are set: 4 words for 256 offsets.
pub const ALLOW: u32 = request::<4>(7);
/// Ends that and gives the ports back; no words.
pub const RELEASE: u32 = request::<0>(8);

/// What [`SUPPORT`] says.
pub mod support {
    /// KVM is not loaded.
    pub const ABSENT: u64 = 0;
    /// It offers its ports to nobody.
    pub const STOCK: u64 = 1;
    /// It does.
    pub const PATCHED: u64 = 2;
}

/// What is read at `offset` of what is served.
pub const fn answer(offset: u8) -> u8 {
    offset ^ 0xa5
}

/// A write of 4 bytes there does not end there: the handler itself allows the ports of the host whose
/// bits are set in the value, offsets 0 to 31, and no others.
pub const ALLOW_OFFSET: u8 = 8;
