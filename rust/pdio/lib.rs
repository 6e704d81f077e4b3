// SPDX-License-Identifier: GPL-2.0

//! Abstractions for protected direct I/O that the `kernel` crate does not have.
//!
//! All `unsafe` code of the project is in this crate; the modules that use it have none. Each file
//! wraps one C header and says so in its first lines.

pub mod bottom_half;
pub mod boxed;
pub mod bus;
pub mod char_device;
pub mod coherent;
pub mod count;
pub mod device;
pub mod dma_map_multi;
pub mod dma_map_ops;
pub mod dma_mapping;
pub mod dma_master;
pub mod embed;
pub mod error;
pub mod event_count;
pub mod eventfd;
pub mod hmm;
pub mod interrupt;
pub mod intx;
pub mod io_bar;
pub mod io_region;
pub mod iommu;
pub mod iopf;
pub mod iopf_service;
pub mod iova;
pub mod kvm;
pub mod lock;
pub mod mdev;
pub mod memory;
pub mod mmu_notifier;
pub mod page_fault;
pub mod pasid;
pub mod pci;
pub mod percpu;
pub mod rcu;
pub mod register_page;
pub mod scatterlist;
pub mod shrinker;
pub mod sparse;
pub mod sva;
pub mod sysfs;
pub mod task;
pub mod tasklet;
pub mod thread;
pub mod timer;
pub mod trace;
pub mod user_pages;
pub mod vfio;
pub mod virqfd;
pub mod work;

mod bindings;

/// What the lines that this crate writes to the kernel log begin with; `pr_*!` look for it.
const __LOG_PREFIX: &[u8] = b"pdio\0";
