// SPDX-License-Identifier: GPL-2.0

//! What the strategies promise.

mod address;
mod auto;
mod blocks;
mod cached;
mod contiguous;
mod deferred;
mod exact;
mod exposure;
mod faults;
mod machine;
mod multi;
mod names;
mod pool;
mod premapped;
mod properties;
mod retained;
mod threads;
