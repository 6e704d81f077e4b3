// SPDX-License-Identifier: GPL-2.0

//! What the strategies promise.

mod address;
mod auto;
mod cached;
mod contiguous;
mod deferred;
mod exact;
mod exposure;
mod faults;
mod machine;
mod names;
mod pool;
mod premapped;
mod properties;
mod threads;
