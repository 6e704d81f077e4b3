// SPDX-License-Identifier: GPL-2.0

//! Work that is done later, where it may sleep.
//!
//! Unlike that of the `kernel` crate it can be cancelled, which unloading a module needs.
//!
//! C header: [`include/linux/workqueue.h`](srctree/include/linux/workqueue.h)

use core::marker::{
    PhantomData,
    PhantomPinned, //
};

use kernel::{
    prelude::*,
    types::Opaque, //
};

use crate::{
    bindings,
    embed::Embeds, //
};

/// What [`Work`] calls.
pub trait Run {
    /// It is time. May sleep.
    fn run(&self);
}

/// Work that calls the object it is in.
///
/// # Invariants
///
/// `work` is initialized, and while it is queued the object is valid.
#[pin_data(PinnedDrop)]
pub struct Work<T: Embeds<Work<T>> + Run> {
    #[pin]
    work: Opaque<bindings::delayed_work>,
    _object: PhantomData<fn(&T)>,
    #[pin]
    _pin: PhantomPinned,
}

// SAFETY: Work belongs to no thread.
unsafe impl<T: Embeds<Self> + Run> Send for Work<T> {}

// SAFETY: Work queues do their own locking.
unsafe impl<T: Embeds<Self> + Run> Sync for Work<T> {}

impl<T: Embeds<Self> + Run> Work<T> {
    /// Work that is not queued.
    pub fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            work <- Opaque::ffi_init(|work| {
                // SAFETY: `work` is pinned memory for delayed work.
                unsafe { bindings::pdio_init_delayed_work(work, Some(Self::call)) }
            }),
            _object: PhantomData,
            _pin: PhantomPinned,
        })
    }

    /// Has the work done `ms` milliseconds from now, unless it is queued already. May be called in
    /// any context.
    pub fn queue(&self, ms: u32) {
        // SAFETY: By the type invariant the work is initialized.
        unsafe { bindings::pdio_queue_delayed_work(self.work.get(), ms) };
    }

    /// As [`Work::queue`], but work that is queued already is done `ms` milliseconds from now, too.
    pub fn requeue(&self, ms: u32) {
        // SAFETY: By the type invariant the work is initialized.
        unsafe { bindings::pdio_mod_delayed_work(self.work.get(), ms) };
    }

    /// Keeps the work from being done, and waits until it is not being done. May sleep. Whoever
    /// could queue it must have stopped, but for the work itself.
    pub fn cancel(&self) {
        // SAFETY: By the type invariant the work is initialized.
        unsafe { bindings::cancel_delayed_work_sync(self.work.get()) };
    }

    /// Called by the kernel.
    ///
    /// # Safety
    ///
    /// `work` is that of a `Self` in a `T`.
    unsafe extern "C" fn call(work: *mut bindings::work_struct) {
        // SAFETY: By the safety requirement; `Opaque` is transparent, and the object is valid while
        // its work is queued or done.
        let object = unsafe {
            let work = kernel::container_of!(work, bindings::delayed_work, work);

            T::containing(kernel::container_of!(Opaque::cast_from(work), Self, work))
        };

        object.run();
    }
}

#[pinned_drop]
impl<T: Embeds<Work<T>> + Run> PinnedDrop for Work<T> {
    fn drop(self: Pin<&mut Self>) {
        self.cancel();
    }
}
