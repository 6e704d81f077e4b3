// SPDX-License-Identifier: GPL-2.0

//! The logic of `svadma`, a device that works on virtual addresses and faults.
//!
//! [`Device`] is the whole of it: registers, queues, page requests. It knows no emulator and no bus;
//! what is outside of it is a [`Host`], which a test can be as well as a virtual machine. How
//! software speaks to it is in [`abi`].
//!
//! [`memory`] is how it reaches the memory of an address space: through a [`cache`] of translations,
//! and by asking for what is not there. It knows no queues.

#[path = "../../abi.rs"]
pub mod abi;

pub mod cache;
pub mod checksum;
pub mod counters;
mod descriptor;
mod device;
pub mod host;
mod injection;
pub mod memory;
mod operation;
mod page_requests;
mod queue;
mod registers;
pub mod stream;

pub use device::Device;
pub use host::Host;
