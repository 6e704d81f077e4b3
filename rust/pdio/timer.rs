// SPDX-License-Identifier: GPL-2.0

//! A high-resolution timer in an object, and the clock of timer ticks.
//!
//! Unlike those of the `kernel` crate it can be started from a shared reference and in any
//! context, which the unmap path of a driver needs.
//!
//! C headers: [`include/linux/hrtimer.h`](srctree/include/linux/hrtimer.h),
//! [`include/linux/jiffies.h`](srctree/include/linux/jiffies.h)

use core::{
    marker::{
        PhantomData,
        PhantomPinned, //
    },
    ptr, //
};

use kernel::{
    prelude::*,
    types::Opaque, //
};

use crate::{
    bindings,
    embed::Embeds, //
};

/// Milliseconds since some moment, by the tick of the timer; wraps. May be called in any context.
#[inline(always)]
pub fn now_ms() -> u32 {
    // SAFETY: The counter is always there.
    let jiffies = unsafe { ptr::read_volatile(&raw const bindings::jiffies) } as u64;

    if 1000 % bindings::CONFIG_HZ == 0 {
        (jiffies as u32).wrapping_mul(1000 / bindings::CONFIG_HZ)
    } else {
        (jiffies.wrapping_mul(1000) / u64::from(bindings::CONFIG_HZ)) as u32
    }
}

/// The time-stamp counter of this CPU. In a virtual machine that is run by counting instructions
/// (`-icount shift=0`) it is the number of instructions.
#[inline(always)]
pub fn cycles() -> u64 {
    // SAFETY: Every x86-64 CPU has the counter, and the kernel may read it.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// What a [`Timer`] calls.
pub trait Expire {
    /// The time is over. In a soft interrupt: must not sleep.
    fn expire(&self);
}

/// A timer that calls the object it is in.
///
/// # Invariants
///
/// `timer` is initialized, and while it is started the object is valid.
#[pin_data(PinnedDrop)]
pub struct Timer<T: Embeds<Timer<T>> + Expire> {
    #[pin]
    timer: Opaque<bindings::hrtimer>,
    _object: PhantomData<fn(&T)>,
    #[pin]
    _pin: PhantomPinned,
}

// SAFETY: A timer belongs to no thread.
unsafe impl<T: Embeds<Self> + Expire> Send for Timer<T> {}

// SAFETY: hrtimers do their own locking.
unsafe impl<T: Embeds<Self> + Expire> Sync for Timer<T> {}

impl<T: Embeds<Self> + Expire> Timer<T> {
    /// A timer that is not started. Being a pinned field it is dropped, and stopped by that,
    /// before its object is gone: it must be the first field.
    pub fn new() -> impl PinInit<Self> {
        const {
            assert!(
                T::OFFSET == 0,
                "fields are dropped in order, the timer must go first"
            )
        };

        pin_init!(Self {
            timer <- Opaque::ffi_init(|timer| {
                // SAFETY: `timer` is pinned memory for a timer.
                unsafe {
                    bindings::hrtimer_setup(
                        timer,
                        Some(Self::call),
                        bindings::CLOCK_MONOTONIC as i32,
                        bindings::hrtimer_mode_HRTIMER_MODE_REL_SOFT,
                    )
                }
            }),
            _object: PhantomData,
            _pin: PhantomPinned,
        })
    }

    /// Lets the timer expire `us` microseconds from now, unless it is started already. May be
    /// called in any context.
    pub fn arm(&self, us: u32) {
        // SAFETY: By the type invariant the timer is initialized. If it has left the queue at this
        // moment, the call that follows comes after what the caller did before.
        unsafe {
            let timer = self.timer.get();

            if !ptr::read_volatile(&raw const (*timer).is_queued) {
                bindings::hrtimer_start_range_ns(
                    timer,
                    i64::from(us) * 1000,
                    0,
                    bindings::hrtimer_mode_HRTIMER_MODE_REL_SOFT,
                );
            }
        }
    }

    /// Stops the timer, and waits until it is not expiring. May sleep.
    pub fn cancel(&self) {
        // SAFETY: By the type invariant the timer is initialized.
        unsafe { bindings::hrtimer_cancel(self.timer.get()) };
    }

    /// Called by the kernel.
    ///
    /// # Safety
    ///
    /// `timer` is that of a `Self` in a `T`.
    unsafe extern "C" fn call(timer: *mut bindings::hrtimer) -> bindings::hrtimer_restart {
        // SAFETY: By the safety requirement; `Opaque` is transparent, and the object is valid while
        // its timer is started.
        let object =
            unsafe { T::containing(kernel::container_of!(Opaque::cast_from(timer), Self, timer)) };

        object.expire();
        bindings::hrtimer_restart_HRTIMER_NORESTART
    }
}

#[pinned_drop]
impl<T: Embeds<Timer<T>> + Expire> PinnedDrop for Timer<T> {
    fn drop(self: Pin<&mut Self>) {
        self.cancel();
    }
}
