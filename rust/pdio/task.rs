// SPDX-License-Identifier: GPL-2.0

//! How long a thread has run.
//!
//! C header: [`include/linux/sched.h`](srctree/include/linux/sched.h)

use core::ptr;

use kernel::{
    current,
    sync::aref::ARef,
    task::Task, //
};

use crate::bindings;

/// A thread, ended or not.
pub struct Thread(ARef<Task>);

impl Thread {
    /// The one that calls this.
    pub fn current() -> Self {
        Self(ARef::from(&**current!()))
    }

    /// Whether it is the one that calls this.
    #[inline]
    pub fn is_current(&self) -> bool {
        ptr::eq(self.0.as_ptr(), Task::current_raw())
    }

    /// Microseconds for which it has run. One that runs now may have run for longer, by up to a tick of
    /// the timer.
    pub fn ran_us(&self) -> u64 {
        // SAFETY: The task is valid; the number only grows, and is of one word.
        let ns = unsafe { ptr::read_volatile(&raw const (*self.0.as_ptr()).se.sum_exec_runtime) };

        ns / 1_000
    }

    /// Whether it waits for an event, and so does not run by its own will.
    pub fn is_waiting(&self) -> bool {
        // SAFETY: The task is valid; the state is of one word.
        let state = unsafe { ptr::read_volatile(&raw const (*self.0.as_ptr()).__state) };

        state & bindings::TASK_INTERRUPTIBLE != 0
    }
}
