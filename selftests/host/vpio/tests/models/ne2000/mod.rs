// SPDX-License-Identifier: GPL-2.0

//! The NE2000.

mod arrivals;
mod decisions;
mod faults;
mod guest;
mod held_frames;
mod hostile_ring;
mod lockstep;
mod pair;
mod station;
