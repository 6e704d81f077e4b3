// SPDX-License-Identifier: GPL-2.0

//! Events that are counted wherever they happen, and waited for.
//!
//! C header: [`include/linux/wait.h`](srctree/include/linux/wait.h)

use core::{
    marker::PhantomPinned,
    sync::atomic::{
        AtomicU64,
        Ordering::{
            AcqRel,
            Acquire, //
        }, //
    },
};

use kernel::{
    prelude::*,
    types::Opaque, //
};

use crate::bindings;

/// How many there were.
///
/// # Invariants
///
/// `waiters` is initialized, and stays where it is.
#[pin_data]
pub struct EventCount {
    #[pin]
    waiters: Opaque<bindings::wait_queue_head>,
    /// How many, and [`Self::ENDED`].
    count: AtomicU64,
    #[pin]
    _pin: PhantomPinned,
}

// SAFETY: It belongs to no thread.
unsafe impl Send for EventCount {}

// SAFETY: The queue does its own locking.
unsafe impl Sync for EventCount {}

impl EventCount {
    /// There will be no more.
    const ENDED: u64 = 1 << 63;

    /// None so far.
    pub fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            waiters <- Opaque::ffi_init(|waiters| {
                // SAFETY: It is memory for a queue, and pinned.
                unsafe { bindings::pdio_init_waitqueue_head(waiters) };
            }),
            count: AtomicU64::new(0),
            _pin: PhantomPinned,
        })
    }

    /// One more. Any context.
    pub fn add(&self) {
        self.count.fetch_add(1, AcqRel);
        self.wake();
    }

    /// There will be no more, so nobody waits any longer. Any context.
    pub fn end(&self) {
        self.count.fetch_or(Self::ENDED, AcqRel);
        self.wake();
    }

    fn wake(&self) {
        // SAFETY: By the type invariant.
        unsafe { bindings::pdio_wake_up_all(self.waiters.get()) };
    }

    /// How many, to be waited for more of by [`Self::wait_killable`].
    pub fn seen(&self) -> u64 {
        self.count.load(Acquire) & !Self::ENDED
    }

    /// Waits until there were other than `seen`, for up to `timeout_ms` milliseconds, which is no error.
    /// No signal disturbs that but one that kills. May sleep.
    ///
    /// # Errors
    ///
    /// `EINTR`: the process is being killed.
    pub fn wait_killable(&self, seen: u64, timeout_ms: u32) -> Result {
        // SAFETY: By the type invariant; the count is only used as an atomic one.
        let result = unsafe {
            bindings::pdio_wait_killable(self.waiters.get(), self.count.as_ptr(), seen, timeout_ms)
        };

        if result < 0 {
            return Err(EINTR);
        }
        Ok(())
    }

    /// Waits until there were other than `seen`, for up to `timeout_ms` milliseconds. Returns how many.
    /// May sleep.
    ///
    /// # Errors
    ///
    /// `ETIMEDOUT`. `EINTR`: there is a signal. `ENODEV`: there will be no more.
    pub fn wait(&self, seen: u64, timeout_ms: u32) -> Result<u64> {
        // What nobody has seen is not waited for, whatever the caller says.
        let result = match seen & Self::ENDED {
            // SAFETY: By the type invariant; the count is only used as an atomic one.
            0 => unsafe {
                bindings::pdio_wait_for_change(
                    self.waiters.get(),
                    self.count.as_ptr(),
                    seen,
                    timeout_ms,
                )
            },
            _ => 1,
        };
        let count = self.count.load(Acquire);

        match result {
            _ if count & Self::ENDED != 0 => Err(ENODEV),
            0 => Err(ETIMEDOUT),
            1.. => Ok(count),
            _ => Err(EINTR),
        }
    }
}
