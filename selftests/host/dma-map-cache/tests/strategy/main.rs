// SPDX-License-Identifier: GPL-2.0

//! What the strategies promise.

mod address;
mod cached;
mod deferred;
mod exact;
mod faults;
mod machine;
mod names;
mod premapped;
mod properties;
mod threads;
