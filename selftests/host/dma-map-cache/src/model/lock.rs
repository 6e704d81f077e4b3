// SPDX-License-Identifier: GPL-2.0

//! A spin lock that knows its holder.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, TryLockError};

use super::thread;
use crate::strategy::backend;

/// A lock; who takes it twice gets a panic instead of a deadlock.
pub struct SpinLock<T> {
    value: Mutex<T>,
    /// The thread that holds it, or 0.
    holder: AtomicU64,
}

impl<T> SpinLock<T> {
    /// A lock around `value`.
    pub fn new(value: T) -> Self {
        Self {
            value: Mutex::new(value),
            holder: AtomicU64::new(0),
        }
    }
}

impl<T: Send> backend::Lock<T> for SpinLock<T> {
    fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
        let me = thread::id();

        thread::jitter();
        assert_ne!(self.holder.load(Relaxed), me, "takes a lock that it holds");

        let mut value = loop {
            match self.value.try_lock() {
                Ok(value) => break value,
                // It belongs to a test that has failed; let it unwind.
                Err(TryLockError::Poisoned(error)) => break error.into_inner(),
                Err(TryLockError::WouldBlock) => {
                    interleave::wait();
                    std::thread::yield_now();
                }
            }
        };

        self.holder.store(me, Relaxed);
        let result = thread::atomically(|| f(&mut value));
        self.holder.store(0, Relaxed);
        result
    }
}
