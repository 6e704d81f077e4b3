// SPDX-License-Identifier: GPL-2.0

//! The NE2000.

mod decisions;
mod faults;
mod guest;
mod lockstep;
mod pair;
