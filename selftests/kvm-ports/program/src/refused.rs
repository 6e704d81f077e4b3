// SPDX-License-Identifier: GPL-2.0

//! What is refused, by the module and by whoever unloads it.

use std::fs::File;
use std::io::{Error, Result as IoResult};
use std::os::fd::AsRawFd;

use crate::case::{errno, same, Case, Result};
use crate::guest::Guest;
use crate::ports::Ports;
use crate::served::PORT;
use crate::uapi::support;

pub const CASES: [Case; 4] = [
    ("what is no VM is refused", no_vm),
    ("what is out of turn is refused", out_of_turn),
    ("ports that cannot be are refused", no_ports),
    ("modules that are in use stay", in_use),
];

/// With a KVM that has no patch.
pub const STOCK: [Case; 1] = [("a stock KVM is refused", stock)];
/// Without KVM.
pub const ABSENT: [Case; 1] = [("there is no KVM", absent)];

fn absent() -> Result {
    same("support", Ports::open()?.support()?, support::ABSENT)
}

fn stock() -> Result {
    let ports = Ports::open()?;
    same("support", ports.support()?, support::STOCK)?;
    let guest = Guest::new()?;
    errno("a VM", ports.attach(guest.vm.as_raw_fd()), libc::EOPNOTSUPP)
}

fn no_vm() -> Result {
    let ports = Ports::open()?;
    same("support", ports.support()?, support::PATCHED)?;
    errno("no descriptor", ports.attach(-1), libc::EBADF)?;
    errno("an unused one", ports.attach(999), libc::EBADF)?;
    let other = File::open("/dev/null")?;
    errno("a device", ports.attach(other.as_raw_fd()), libc::EINVAL)?;
    let kvm = File::open("/dev/kvm")?;
    errno("KVM itself", ports.attach(kvm.as_raw_fd()), libc::EINVAL)
}

fn out_of_turn() -> Result {
    let ports = Ports::open()?;
    errno("serve", ports.serve(PORT.into(), 1, 0), libc::ENXIO)?;
    errno("reserve", ports.reserve(PORT.into(), 1), libc::ENXIO)?;
    let guest = Guest::new()?;
    ports.attach(guest.vm.as_raw_fd())?;
    errno("attach", ports.attach(guest.vm.as_raw_fd()), libc::EBUSY)?;
    errno("end", ports.end(), libc::ENXIO)?;
    errno("allow", ports.allow(1), libc::ENXIO)?;
    errno("release", ports.release(), libc::ENXIO)?;
    ports.serve(PORT.into(), 1, 0)?;
    errno("serve", ports.serve(0x100, 1, 0), libc::EBUSY)?;
    ports.reserve(PORT.into(), 1)?;
    errno("reserve", ports.reserve(0x100, 1), libc::EBUSY)
}

fn no_ports() -> Result {
    let guest = Guest::new()?;
    let ports = Ports::of(&guest.vm)?;
    for (first, count) in [
        (PORT.into(), 0),
        (PORT.into(), 257),
        (0xffff, 2),
        (0x1_0000, 1),
    ] {
        errno("serve", ports.serve(first, count, 0), libc::EINVAL)?;
        errno("reserve", ports.reserve(first, count), libc::EINVAL)?;
    }
    // The console's.
    errno("reserve", ports.reserve(0x3f8, 1), libc::EBUSY)?;
    ports.reserve(PORT.into(), 1)?;
    let other = Ports::of(&guest.vm)?;
    errno("reserve", other.reserve(PORT.into(), 1), libc::EBUSY)?;
    ports.serve(0xff00, 256, 0)?;
    Ok(())
}

fn delete_module(name: &std::ffi::CStr) -> IoResult<()> {
    // SAFETY: The name is a string.
    match unsafe { libc::syscall(libc::SYS_delete_module, name.as_ptr(), libc::O_NONBLOCK) } {
        0 => Ok(()),
        _ => Err(Error::last_os_error()),
    }
}

fn in_use() -> Result {
    let guest = Guest::new()?;
    let ports = Ports::of(&guest.vm)?;
    ports.serve(PORT.into(), 1, 0)?;
    for module in [c"kvm_ports", c"kvm"] {
        let what = format!("to unload {module:?}");
        errno(&what, delete_module(module), libc::EWOULDBLOCK)?;
    }
    Ok(())
}
