// SPDX-License-Identifier: GPL-2.0

//! The world around the strategies.

pub mod driver;
pub mod fault;
pub mod iommu;
pub mod lock;
pub mod sg;
pub mod sparse;
pub mod thread;

pub use driver::Driver;
pub use iommu::Iommu;
