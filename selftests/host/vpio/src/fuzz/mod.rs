// SPDX-License-Identifier: GPL-2.0

//! Random events for the models.

mod random;
pub mod run;
