// SPDX-License-Identifier: GPL-2.0

//! The device in a machine that serves its page requests, and forgives nothing.

mod cache;
mod descriptors;
mod faults;
mod injection;
mod machine;
mod operations;
mod properties;
mod queues;
mod registers;
mod stream;
