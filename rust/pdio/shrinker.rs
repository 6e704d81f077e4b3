// SPDX-License-Identifier: GPL-2.0

//! Giving things back when memory gets short.
//!
//! C header: [`include/linux/shrinker.h`](srctree/include/linux/shrinker.h)

use core::{
    marker::{
        PhantomData,
        PhantomPinned, //
    },
    ptr,
    ptr::NonNull, //
};

use kernel::{
    prelude::*,
    str::CStr, //
};

use crate::{
    bindings,
    embed::Embeds, //
};

/// What a [`Shrinker`] asks.
pub trait Shrink {
    /// How many things could be given back.
    fn surplus(&self) -> usize;

    /// Gives up to `n` things back, and says how many. Whoever wants memory calls it, with any locks
    /// held: must not sleep for long, nor allocate memory.
    fn shrink(&self, n: usize) -> usize;
}

/// A shrinker that asks the object it is in.
///
/// # Invariants
///
/// `shrinker` is one that `self` owns, and while it is registered the object is valid.
#[pin_data(PinnedDrop)]
pub struct Shrinker<T: Embeds<Shrinker<T>> + Shrink> {
    shrinker: NonNull<bindings::shrinker>,
    _object: PhantomData<fn(&T)>,
    #[pin]
    _pin: PhantomPinned,
}

// SAFETY: A shrinker belongs to no thread.
unsafe impl<T: Embeds<Self> + Shrink> Send for Shrinker<T> {}

// SAFETY: The kernel does the locking.
unsafe impl<T: Embeds<Self> + Shrink> Sync for Shrinker<T> {}

impl<T: Embeds<Self> + Shrink> Shrinker<T> {
    /// A shrinker that is not registered. `name` is what debugfs shows. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub fn new(name: &CStr) -> Result<impl PinInit<Self, Error>> {
        // SAFETY: The format takes one string, which is there.
        let shrinker =
            unsafe { bindings::shrinker_alloc(0, c"%s".as_char_ptr(), name.as_char_ptr()) };
        let shrinker = NonNull::new(shrinker).ok_or(ENOMEM)?;

        // INVARIANT: The shrinker was just allocated for us.
        Ok(try_pin_init!(Self {
            shrinker,
            _object: PhantomData,
            _pin: PhantomPinned,
        }))
    }

    /// Registers the shrinker; to be called once, when the object is complete. May sleep.
    pub fn register(&self) {
        let shrinker = self.shrinker.as_ptr();

        // SAFETY: By the type invariant the shrinker is ours, and nobody else knows it yet. It is
        // given back before `self`, which is pinned from its initialization on, is gone.
        unsafe {
            (*shrinker).count_objects = Some(Self::count);
            (*shrinker).scan_objects = Some(Self::scan);
            (*shrinker).private_data = ptr::from_ref(self).cast_mut().cast();
            bindings::shrinker_register(shrinker);
        }
    }

    /// The object that a shrinker asks.
    ///
    /// # Safety
    ///
    /// `shrinker` is that of a `Self` in a `T`, and registered.
    unsafe fn object<'a>(shrinker: *mut bindings::shrinker) -> &'a T {
        // SAFETY: By the safety requirement.
        unsafe { T::containing((*shrinker).private_data.cast::<Self>()) }
    }

    /// Called by the kernel.
    ///
    /// # Safety
    ///
    /// `shrinker` is that of a `Self` in a `T`.
    unsafe extern "C" fn count(
        shrinker: *mut bindings::shrinker,
        _control: *mut bindings::shrink_control,
    ) -> usize {
        // SAFETY: By the safety requirement; the kernel calls registered ones only.
        unsafe { Self::object(shrinker) }.surplus()
    }

    /// Called by the kernel.
    ///
    /// # Safety
    ///
    /// `shrinker` is that of a `Self` in a `T`, and `control` is valid.
    unsafe extern "C" fn scan(
        shrinker: *mut bindings::shrinker,
        control: *mut bindings::shrink_control,
    ) -> usize {
        // SAFETY: By the safety requirements; the kernel calls registered ones only.
        unsafe { Self::object(shrinker).shrink((*control).nr_to_scan) }
    }
}

#[pinned_drop]
impl<T: Embeds<Shrinker<T>> + Shrink> PinnedDrop for Shrinker<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariant the shrinker is ours. This waits until it is not in use.
        unsafe { bindings::shrinker_free(self.shrinker.as_ptr()) };
    }
}
