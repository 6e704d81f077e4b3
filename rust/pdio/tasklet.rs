// SPDX-License-Identifier: GPL-2.0

//! Calls at the end of the interrupt, or of the turn of soft interrupts, that a CPU is in.
//!
//! C header: [`include/linux/interrupt.h`](srctree/include/linux/interrupt.h)

use core::{
    marker::PhantomPinned,
    ptr,
    sync::atomic::{
        AtomicPtr,
        Ordering::Relaxed, //
    }, //
};

use kernel::{
    alloc::KVVec,
    prelude::*,
    types::Opaque, //
};

use crate::{
    bindings,
    embed::Embeds, //
};

/// What [`Tasklets`] call.
pub trait Finish {
    /// The interrupt is over. `number` is the one that was scheduled. In a soft interrupt: must not
    /// sleep.
    fn finish(&self, number: usize);
}

/// One of [`Tasklets`].
#[repr(C)]
struct Tasklet<T: Embeds<Tasklets<T>> + Finish> {
    tasklet: Opaque<bindings::tasklet_struct>,
    number: usize,
    /// Whose tasklet it is; set before it is scheduled.
    owner: AtomicPtr<Tasklets<T>>,
}

/// Tasklets that call the object they are in, told apart by a number.
///
/// # Invariants
///
/// The tasklets are initialized and stay where they are, and while one is scheduled the object is
/// valid.
#[pin_data(PinnedDrop)]
pub struct Tasklets<T: Embeds<Tasklets<T>> + Finish> {
    tasklets: KVVec<Tasklet<T>>,
    #[pin]
    _pin: PhantomPinned,
}

// SAFETY: A tasklet belongs to no thread.
unsafe impl<T: Embeds<Self> + Finish> Send for Tasklets<T> {}

// SAFETY: Tasklets may be scheduled by several CPUs at once, and run on one.
unsafe impl<T: Embeds<Self> + Finish> Sync for Tasklets<T> {}

impl<T: Embeds<Self> + Finish> Tasklets<T> {
    /// `count` tasklets, numbered from 0, none of them scheduled. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub fn new(count: usize) -> Result<impl PinInit<Self, Error>> {
        let mut tasklets = KVVec::with_capacity(count, GFP_KERNEL)?;

        for number in 0..count {
            let tasklet = Opaque::<bindings::tasklet_struct>::uninit();

            // SAFETY: `tasklet` is memory for a tasklet. One that is not scheduled may be moved:
            // nothing points to it.
            unsafe { bindings::tasklet_setup(tasklet.get(), Some(Self::call)) };
            tasklets.push(
                Tasklet {
                    tasklet,
                    number,
                    owner: AtomicPtr::new(ptr::null_mut()),
                },
                GFP_KERNEL,
            )?;
        }

        // INVARIANT: The vector is never changed, so its items stay where they are.
        Ok(try_pin_init!(Self {
            tasklets,
            _pin: PhantomPinned,
        }))
    }

    /// Has a tasklet run on this CPU when the interrupts that it is in are over, and within soft
    /// interrupts after those of drivers; outside of both, when `ksoftirqd` gets to it. One that is
    /// scheduled already is not scheduled again. Nothing happens for a number out of range. May be
    /// called in any context.
    #[inline]
    pub fn schedule(&self, number: usize) {
        let Some(tasklet) = self.tasklets.get(number) else {
            return;
        };

        tasklet.owner.store(ptr::from_ref(self).cast_mut(), Relaxed);
        // SAFETY: By the type invariant the tasklet is initialized and stays where it is.
        unsafe { bindings::pdio_tasklet_schedule(tasklet.tasklet.get()) };
    }

    /// Called by the kernel.
    ///
    /// # Safety
    ///
    /// `tasklet` is that of a [`Tasklet`] that was scheduled.
    unsafe extern "C" fn call(tasklet: *mut bindings::tasklet_struct) {
        // SAFETY: By the safety requirement; `Opaque` is transparent. Whoever scheduled the tasklet
        // set the owner before, and the object is valid while the tasklet is scheduled.
        let (object, number) = unsafe {
            let tasklet = &*kernel::container_of!(Opaque::cast_from(tasklet), Tasklet<T>, tasklet);

            (T::containing(tasklet.owner.load(Relaxed)), tasklet.number)
        };

        object.finish(number);
    }
}

#[pinned_drop]
impl<T: Embeds<Tasklets<T>> + Finish> PinnedDrop for Tasklets<T> {
    fn drop(self: Pin<&mut Self>) {
        for tasklet in &self.tasklets {
            // SAFETY: By the type invariant the tasklet is initialized. Nobody schedules it any
            // more; this waits until it has run.
            unsafe { bindings::tasklet_kill(tasklet.tasklet.get()) };
        }
    }
}
