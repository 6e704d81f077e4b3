// SPDX-License-Identifier: GPL-2.0

//! Device models: cheap state machines beside real devices, fed by what their guests do.
//!
//! A model is no emulator: the device itself does the work. The model answers what somebody who
//! shares the device between guests has to know: which ports have to be hooked for it to stay
//! informed ([`hooked`]), whether a write may reach the device and which DMA it would start
//! ([`check`]), which DMA is over ([`interrupt`]), whether the device may change hands now
//! ([`reuse`]), and what moves with it ([`save`], [`restore`]).
//!
//! [`hooked`]: device::DeviceModel::hooked
//! [`check`]: device::DeviceModel::check
//! [`interrupt`]: device::DeviceModel::interrupt
//! [`reuse`]: device::DeviceModel::reuse
//! [`save`]: device::DeviceModel::save
//! [`restore`]: device::DeviceModel::restore
//!
//! The idea is that of *Towards Virtual Passthrough I/O on Commodity Devices* (WIOV 2008) by
//! L. Xia, J. Lange and P. Dinda. What each model decides and why is in
//! `Documentation/vpio/model.rst`.
//!
//! Nothing here allocates, is `unsafe`, or can panic. The same files are compiled into the kernel
//! module and into the host tests, which drive the models in lockstep with QEMU's devices.

#![deny(
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unreachable,
    clippy::unwrap_used
)]

pub mod access;
pub mod card;
pub mod device;
pub mod dma;
pub mod frame;
pub mod ne2000;
pub mod ports;
pub mod rtl8139;
