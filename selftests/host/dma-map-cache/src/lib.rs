// SPDX-License-Identifier: GPL-2.0

//! The strategies of `dma-map-cache`, compiled for the host.
//!
//! [`strategy`] is the very code of the kernel module. [`model`] is what it runs over here: an
//! IOMMU that remembers everything and forgives nothing, and a driver that knows what it was
//! promised. It also knows where one CPU may be overtaken by another, for the strategies get their
//! atomics from [`interleave`].

extern crate interleave as core;

#[path = "../../../../dma-map-cache/strategy/mod.rs"]
pub mod strategy;

pub mod model;
