// SPDX-License-Identifier: GPL-2.0

//! The pure code of `vpio`, compiled for the host: the very files of the kernel module.

#![no_std]

#[path = "../../../../vpio/config_space.rs"]
pub mod config_space;

#[path = "../../../../vpio/model/mod.rs"]
pub mod model;
#[path = "../../../../vpio/pins.rs"]
pub mod pins;
#[path = "../../../../dma-map-cache/strategy/tunable.rs"]
pub mod tunable;
#[path = "../../../../vpio/turns.rs"]
pub mod turns;

pub mod fuzz;
