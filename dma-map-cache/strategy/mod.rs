// SPDX-License-Identifier: GPL-2.0

//! DMA-mapping strategies: policy without a kernel.
//!
//! [`Engine`] holds the strategies of one device and sends each map and unmap the right way. The
//! strategies see the machine through [`backend::Backend`] alone, contain no `unsafe` and allocate
//! nothing but what it gives them. The same files are compiled into the kernel module and into
//! the host tests, where a model of an IOMMU checks what each of them promises.

pub mod address;
pub mod auto;
pub mod backend;
pub mod batched;
pub mod blocks;
pub mod cached;
pub mod contiguous;
pub mod counted;
pub mod counter;
pub mod deferred;
pub mod engine;
pub mod exact;
pub mod exposure;
pub mod kind;
pub mod list;
pub mod multi;
pub mod persistent;
pub mod pool;
pub mod premapped;
pub mod retained;
pub mod strict;
pub mod tunable;

pub use engine::Engine;
pub use kind::Kind;
