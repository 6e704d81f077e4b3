// SPDX-License-Identifier: GPL-2.0

//! The RTL8139.

mod decisions;
mod lockstep;
