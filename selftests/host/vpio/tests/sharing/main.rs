// SPDX-License-Identifier: GPL-2.0

//! What guests see of a card that they share, when it is theirs, and what it sees of them.

mod config_space;
mod pins;
mod turns;
