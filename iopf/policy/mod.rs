// SPDX-License-Identifier: GPL-2.0

//! What is brought in, kept and taken away for a device: policy without a kernel.
//!
//! The glue tells what a device has asked for, and is told what to map and what to give up. Nothing
//! here is `unsafe`, knows a kernel type or allocates memory after it was made. The same files are
//! compiled into the kernel module and into the host tests.

pub mod batch;
pub mod budget;
pub mod eviction;
pub mod fault_around;
pub mod latency;
pub mod page;
pub mod resident;
#[path = "../../dma-map-cache/strategy/tunable.rs"]
pub mod tunable;
