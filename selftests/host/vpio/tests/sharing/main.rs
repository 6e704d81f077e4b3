// SPDX-License-Identifier: GPL-2.0

//! What guests see of a card that they share, and when it is theirs.

mod config_space;
mod turns;
