// SPDX-License-Identifier: GPL-2.0

//! The parts of `pdio`, from the machine up to the report.
//!
//! * [`cache`] finds the kernel and the tools that the set-up prepared.
//! * [`initramfs`] packs them, and [`qemu`] describes the machine that boots them, with
//!   tables by [`acpi`]; what a machine has for guests of its own is in [`nested`].
//! * [`guest`] owns a running machine and talks to the agent in it.
//! * [`accel`] decides between KVM and TCG.
//! * [`check`] runs kselftests, whose output [`ktap`] understands and whose console
//!   [`console`] judges.
//! * [`scenario`] says what is measured, with what [`iopf`] and [`vpio`] ask, [`measure`] does it, [`progress`]
//!   tells how far it is, [`results`] keeps it, [`stats`], [`table`], [`plot`] and [`chart`] present it.

pub mod accel;
pub mod acpi;
pub mod cache;
pub mod chart;
pub mod check;
pub mod cli;
pub mod console;
pub mod elf;
pub mod guest;
pub mod initramfs;
pub mod interrupt;
pub mod iopf;
pub mod ktap;
pub mod measure;
pub mod nested;
pub mod plot;
pub mod progress;
pub mod qemu;
pub mod results;
pub mod scenario;
pub mod stats;
pub mod table;
pub mod vpio;
