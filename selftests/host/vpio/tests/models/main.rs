// SPDX-License-Identifier: GPL-2.0

//! What the models answer, alone and beside the devices of QEMU.

mod dp8390;
#[path = "../../src/fuzz/mod.rs"]
mod fuzz;
mod hostile;
mod memory;
// Not that of the library: what is generic is counted by scripts/coverage only in the crate that has
// its source.
#[expect(dead_code, reason = "what no test uses is for the kernel module")]
#[path = "../../../../../vpio/model/mod.rs"]
mod model;
mod ne2000;
mod ports;
mod qtest;
mod rtl8139;
mod shared;
