// SPDX-License-Identifier: GPL-2.0

//! A spin lock that is taken with interrupts off.
//!
//! The `kernel` crate's `SpinLock` leaves interrupts on, and drivers map and unmap in interrupt
//! handlers.
//!
//! C header: [`include/linux/spinlock.h`](srctree/include/linux/spinlock.h)

use core::cell::UnsafeCell;

use kernel::types::Opaque;

use crate::bindings;

/// A value that one CPU at a time may use, in any context but NMI.
pub struct IrqSpinLock<T> {
    lock: Opaque<bindings::spinlock_t>,
    value: UnsafeCell<T>,
}

// SAFETY: A spin lock does not belong to a thread, and the value may move to another one.
unsafe impl<T: Send> Send for IrqSpinLock<T> {}

// SAFETY: Only the holder of the lock gets at the value, one at a time.
unsafe impl<T: Send> Sync for IrqSpinLock<T> {}

impl<T> IrqSpinLock<T> {
    /// An unlocked lock.
    pub fn new(value: T) -> Self {
        let lock = Opaque::uninit();

        // SAFETY: `lock` is memory for a `spinlock_t` that nobody else knows. A spin lock that is
        // not held may be moved: nothing points to it.
        unsafe { bindings::pdio_spin_lock_init(lock.get()) };

        Self {
            lock,
            value: UnsafeCell::new(value),
        }
    }

    /// Runs `f` with the lock held and interrupts off. `f` must not sleep.
    #[inline]
    pub fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
        // SAFETY: `self.lock` was initialized by `new`.
        let flags = unsafe { bindings::pdio_spin_lock_irqsave(self.lock.get()) };

        // SAFETY: The lock is held, so this is the only reference to the value.
        let result = f(unsafe { &mut *self.value.get() });

        // SAFETY: The lock was taken above, and `flags` is what that returned.
        unsafe { bindings::pdio_spin_unlock_irqrestore(self.lock.get(), flags) };

        result
    }
}
