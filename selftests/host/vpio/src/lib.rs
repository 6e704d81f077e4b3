// SPDX-License-Identifier: GPL-2.0

//! The device models of `vpio`, compiled for the host: the very code of the kernel module.

#![no_std]

#[path = "../../../../vpio/model/mod.rs"]
pub mod model;

pub mod fuzz;
