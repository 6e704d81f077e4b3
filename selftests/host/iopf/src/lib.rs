// SPDX-License-Identifier: GPL-2.0

//! The policies of `iopf`, compiled for the host.
//!
//! [`policy`] is the very code of the kernel module.

#[path = "../../../../iopf/policy/mod.rs"]
pub mod policy;
