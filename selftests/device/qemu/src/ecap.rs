// SPDX-License-Identifier: GPL-2.0

//! A bit that QEMU's VT-d does not set.
//!
//! Linux refuses shared virtual addressing unless the unit says that its accesses to page tables
//! are coherent with the processor's, for the pages as well as for the tables ("scalable-mode page
//! walk coherency" and "snoop control", VT-d 5.0, 11.4.3). Those of an emulator are, and QEMU says
//! the one but not the other. So the register is read through a copy that has the bit.

use std::ffi::c_uint;
use std::ptr::null_mut;
use std::sync::OnceLock;

use crate::layout::{self, ATTRIBUTES};
use crate::symbols::{Pointer, Qemu};

/// Where the unit of a q35 machine has its registers.
const UNIT: u64 = 0xfed9_0000;
/// Its version: 1.0 in all QEMUs.
const VERSION: u64 = UNIT;
const VERSION_1_0: u64 = 0x10;
/// Its extended capabilities.
const ECAP: u64 = UNIT + 0x10;
/// Scalable mode is supported (SMTS).
const SCALABLE: u64 = 1 << 43;
/// Scalable-mode page walks are coherent (SMPWC).
const COHERENT: u64 = 1 << 48;

/// Above the unit's own registers.
const PRIORITY: i32 = 1000;

/// What the register reads as.
static VALUE: OnceLock<u64> = OnceLock::new();

extern "C" fn read(_opaque: Pointer, offset: u64, bytes: c_uint) -> u64 {
    let value = VALUE.get().copied().unwrap_or(0) >> (offset.min(7) * 8);
    match bytes {
        8.. => value,
        _ => value & ((1 << (bytes * 8)) - 1),
    }
}

extern "C" fn write(_opaque: Pointer, _offset: u64, _value: u64, _bytes: c_uint) {}

fn register(qemu: &Qemu, address: u64) -> Option<u64> {
    let mut data = [0; 8];
    // SAFETY: As many bytes as are said are there.
    let result = unsafe {
        (qemu.address_space_rw)(
            qemu.address_space_memory,
            address,
            ATTRIBUTES,
            data.as_mut_ptr().cast(),
            data.len() as u64,
            false,
        )
    };
    (result == 0).then(|| u64::from_le_bytes(data))
}

/// Lays the copy over the register, if there is a unit that needs it and was made before `device`.
///
/// # Errors
///
/// A sentence for whoever wants to bind processes to the device.
pub fn overlay(qemu: &Qemu, device: Pointer) -> Result<(), &'static str> {
    if VALUE.get().is_some() {
        return Ok(());
    }
    let unit = register(qemu, VERSION).map(|version| version & 0xffff_ffff);
    let ecap = register(qemu, ECAP).unwrap_or(0);
    if unit != Some(VERSION_1_0) || ecap & SCALABLE == 0 {
        return Err(
            "there is no VT-d in scalable mode in front of it: no process can be bound to it \
             (-device intel-iommu,scalable-mode=on,... comes first)",
        );
    }
    if ecap & COHERENT != 0 {
        return Ok(());
    }
    VALUE.get_or_init(|| ecap | COHERENT);
    // SAFETY: Nothing is behind the null pointer that the two functions get.
    let region =
        unsafe { layout::region(qemu, device, (read, write), null_mut(), c"svadma-ecap", 8) };
    let Ok(region) = region else {
        return Err("a copy of VT-d's register could not be made");
    };
    // SAFETY: The region is initialized, and there for ever.
    unsafe {
        (qemu.memory_region_add_subregion_overlap)(
            (qemu.get_system_memory)(),
            ECAP,
            region,
            PRIORITY,
        );
    }
    match register(qemu, ECAP) {
        Some(value) if value == ecap | COHERENT => Ok(()),
        _ => Err("VT-d's register does not read as it should: no process can be bound to it"),
    }
}
