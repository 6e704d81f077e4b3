// SPDX-License-Identifier: GPL-2.0

//! Being told when an address space changes or goes.
//!
//! C header: [`include/linux/mmu_notifier.h`](srctree/include/linux/mmu_notifier.h)

use core::{
    cell::UnsafeCell,
    marker::{
        PhantomData,
        PhantomPinned, //
    },
    mem,
    ops::Range,
    ptr,
    sync::atomic::{
        AtomicPtr,
        Ordering::Relaxed, //
    },
};

use kernel::{
    error::to_result,
    mm::MmWithUser,
    prelude::*,
    sync::{
        lock::{
            mutex::MutexBackend,
            Guard, //
        },
        Mutex, //
    },
    types::Opaque, //
};

use crate::{
    bindings,
    embed::Embeds, //
};

/// Whether a notifier may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blocking {
    /// It may sleep.
    Allowed,
    /// It must not: memory is being reclaimed to let somebody go on who is short of it.
    Forbidden,
}

impl Blocking {
    /// What a range says.
    fn of(range: &bindings::mmu_notifier_range) -> Self {
        if range.flags & bindings::MMU_NOTIFIER_RANGE_BLOCKABLE != 0 {
            Self::Allowed
        } else {
            Self::Forbidden
        }
    }
}

/// What [`Notifier`] calls.
pub trait Changes {
    /// The address space goes: nothing runs in it any more. Called once, at the latest when the
    /// notifier is unregistered. May sleep.
    fn released(&self);

    /// The range of addresses, in whole pages, is not to be used any more when this returns.
    ///
    /// # Errors
    ///
    /// `EAGAIN` if that cannot be done without blocking, which is forbidden; there will be another
    /// call.
    fn invalidate(&self, range: Range<usize>, blocking: Blocking) -> Result;
}

/// Which of [`Changes`] are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Only that the address space goes.
    Release,
    /// All.
    All,
}

/// Calls the object it is in when an address space changes. It must be the first field that is
/// dropped: until then it may call.
///
/// # Invariants
///
/// `mm` is null or the address space that the notifier is registered with.
#[pin_data(PinnedDrop)]
pub struct Notifier<T: Embeds<Notifier<T>> + Changes> {
    #[pin]
    notifier: Opaque<bindings::mmu_notifier>,
    mm: AtomicPtr<bindings::mm_struct>,
    _object: PhantomData<fn(&T)>,
    #[pin]
    _pin: PhantomPinned,
}

// SAFETY: A notifier belongs to no thread.
unsafe impl<T: Embeds<Self> + Changes> Send for Notifier<T> {}

// SAFETY: Address spaces do their own locking.
unsafe impl<T: Embeds<Self> + Changes> Sync for Notifier<T> {}

impl<T: Embeds<Self> + Changes> Notifier<T> {
    const RELEASE: bindings::mmu_notifier_ops = bindings::mmu_notifier_ops {
        release: Some(Self::release),
        ..pin_init::zeroed()
    };

    const ALL: bindings::mmu_notifier_ops = bindings::mmu_notifier_ops {
        release: Some(Self::release),
        invalidate_range_start: Some(Self::invalidate_range_start),
        ..pin_init::zeroed()
    };

    /// A notifier that is not registered.
    pub fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            notifier: Opaque::zeroed(),
            mm: AtomicPtr::new(ptr::null_mut()),
            _object: PhantomData,
            _pin: PhantomPinned,
        })
    }

    /// Has changes of an address space told from now on. Once. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`, `EINTR`, or `EBUSY` if it was called before.
    pub fn register(&self, mm: &MmWithUser, wanted: Wanted) -> Result {
        self.mm
            .compare_exchange(ptr::null_mut(), mm.as_raw(), Relaxed, Relaxed)
            .map_err(|_| EBUSY)?;

        // SAFETY: The notifier is zeroed memory at its final place, and not registered, or the
        // exchange had failed. The address space has users.
        let result = to_result(unsafe {
            (*self.notifier.get()).ops = match wanted {
                Wanted::Release => &Self::RELEASE,
                Wanted::All => &Self::ALL,
            };
            bindings::mmu_notifier_register(self.notifier.get(), mm.as_raw())
        });

        if result.is_err() {
            self.mm.store(ptr::null_mut(), Relaxed);
        }
        result
    }

    /// Ends it. [`Changes::released`] was called and nothing is when this returns. May sleep, but
    /// not be called from the object's own functions.
    pub fn unregister(&self) {
        let mm = self.mm.swap(ptr::null_mut(), Relaxed);

        if !mm.is_null() {
            // SAFETY: By the type invariant the notifier is registered with `mm`, which it keeps
            // from being freed.
            unsafe { bindings::mmu_notifier_unregister(self.notifier.get(), mm) };
        }
    }

    /// The object that a notifier is in.
    ///
    /// # Safety
    ///
    /// `notifier` is that of a `Self` in a `T`, which is valid for `'a`.
    unsafe fn object<'a>(notifier: *mut bindings::mmu_notifier) -> &'a T {
        // SAFETY: By the safety requirement; `Opaque` is transparent.
        unsafe {
            T::containing(kernel::container_of!(
                Opaque::cast_from(notifier),
                Self,
                notifier
            ))
        }
    }

    /// Called by the kernel.
    ///
    /// # Safety
    ///
    /// `notifier` is registered.
    unsafe extern "C" fn release(
        notifier: *mut bindings::mmu_notifier,
        _mm: *mut bindings::mm_struct,
    ) {
        // SAFETY: By the safety requirement; the object is dropped after it was unregistered.
        unsafe { Self::object(notifier) }.released();
    }

    /// Called by the kernel.
    ///
    /// # Safety
    ///
    /// `notifier` is registered, and `range` is valid.
    unsafe extern "C" fn invalidate_range_start(
        notifier: *mut bindings::mmu_notifier,
        range: *const bindings::mmu_notifier_range,
    ) -> i32 {
        // SAFETY: By the safety requirement; the object is dropped after it was unregistered.
        let (object, range) = unsafe { (Self::object(notifier), &*range) };

        match object.invalidate(range.start..range.end, Blocking::of(range)) {
            Ok(()) => 0,
            Err(error) => error.to_errno(),
        }
    }
}

#[pinned_drop]
impl<T: Embeds<Notifier<T>> + Changes> PinnedDrop for Notifier<T> {
    fn drop(self: Pin<&mut Self>) {
        self.unregister();
    }
}

/// The state of an address range at a time, to find out later whether it is still the same.
#[derive(Clone, Copy, Debug)]
pub struct Sequence(pub(crate) usize);

/// A range of addresses that is watched while somebody looks at what is mapped there.
///
/// A change is noticed under a lock, so that who holds it can act on what was seen.
///
/// # Invariants
///
/// `notifier` is registered.
#[pin_data(PinnedDrop)]
pub struct Watch<'a, S> {
    #[pin]
    notifier: Opaque<bindings::mmu_interval_notifier>,
    lock: &'a Mutex<S>,
    range: Range<usize>,
    _registered: UnsafeCell<()>,
    #[pin]
    _pin: PhantomPinned,
}

impl<'a, S: Send + 'a> Watch<'a, S> {
    const OPS: bindings::mmu_interval_notifier_ops = bindings::mmu_interval_notifier_ops {
        invalidate: Some(Self::invalidate),
        ..pin_init::zeroed()
    };

    /// Watches a range, in whole pages, of an address space. May sleep.
    ///
    /// # Errors
    ///
    /// `EINVAL` for an empty range, `EOVERFLOW`, `ENOMEM`.
    pub fn new(
        mm: &'a MmWithUser,
        range: Range<usize>,
        lock: &'a Mutex<S>,
    ) -> impl PinInit<Self, Error> + 'a {
        let (start, len) = (range.start, range.len());

        try_pin_init!(Self {
            lock,
            range,
            _registered: UnsafeCell::new(()),
            _pin: PhantomPinned,
            // Last: it may call from now on.
            notifier <- Opaque::try_ffi_init(move |notifier| {
                // SAFETY: `notifier` is pinned memory for an interval notifier, and the address
                // space has users.
                to_result(unsafe {
                    bindings::mmu_interval_notifier_insert(
                        notifier,
                        mm.as_raw(),
                        start,
                        len,
                        &Self::OPS,
                    )
                })
            }),
        }? Error)
    }

    /// The range.
    pub fn range(&self) -> Range<usize> {
        self.range.clone()
    }

    /// Waits until no change is going on. May sleep.
    pub fn begin(&self) -> Sequence {
        // SAFETY: By the type invariant.
        Sequence(unsafe { bindings::mmu_interval_read_begin(self.notifier.get()) })
    }

    /// Whether the range has changed since. The lock is that of [`Watch::new`], held.
    pub fn has_changed(&self, since: Sequence, _held: &Guard<'_, S, MutexBackend>) -> bool {
        // SAFETY: By the type invariant the notifier is valid; the field is written under the lock.
        since.0 != unsafe { ptr::read_volatile(&raw const (*self.notifier.get()).invalidate_seq) }
    }

    /// The raw notifier.
    pub(crate) fn as_raw(&self) -> *mut bindings::mmu_interval_notifier {
        self.notifier.get()
    }

    /// Called by the kernel.
    ///
    /// # Safety
    ///
    /// `notifier` is registered, and `range` is valid.
    unsafe extern "C" fn invalidate(
        notifier: *mut bindings::mmu_interval_notifier,
        range: *const bindings::mmu_notifier_range,
        sequence: usize,
    ) -> bool {
        // SAFETY: By the safety requirement; `Opaque` is transparent, and a `Self` is dropped after
        // it was removed. `lock` was set before the notifier was inserted.
        let (watch, range) = unsafe {
            (
                &*kernel::container_of!(Opaque::cast_from(notifier), Self, notifier),
                &*range,
            )
        };
        let held = match Blocking::of(range) {
            Blocking::Allowed => Some(watch.lock.lock()),
            Blocking::Forbidden => watch.lock.try_lock(),
        };

        if held.is_none() {
            return false;
        }
        // SAFETY: As above; this is `mmu_interval_set_seq()`, under the lock of the user.
        unsafe { ptr::write_volatile(&raw mut (*notifier).invalidate_seq, sequence) };
        true
    }
}

#[pinned_drop]
impl<S> PinnedDrop for Watch<'_, S> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariant. This waits until nothing is called any more.
        unsafe { bindings::mmu_interval_notifier_remove(self.notifier.get()) };
    }
}

const _: () = assert!(mem::size_of::<usize>() == mem::size_of::<kernel::ffi::c_ulong>());
