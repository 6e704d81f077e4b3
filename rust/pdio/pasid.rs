// SPDX-License-Identifier: GPL-2.0

//! Address spaces that a device tells apart by PASID, each with a domain of one's own.
//!
//! Compiled into the modules that use it: not every kernel that the others load into has it.
//!
//! C header: [`include/linux/iommu.h`](srctree/include/linux/iommu.h)

use core::{
    cell::UnsafeCell,
    marker::{
        PhantomData,
        PhantomPinned, //
    },
    ptr::{
        self,
        NonNull, //
    },
    sync::atomic::{
        AtomicBool,
        Ordering::Relaxed, //
    },
};

use kernel::{
    error::to_result,
    prelude::*,
    types::Opaque, //
};

use crate::{
    bindings,
    device::DmaDevice,
    embed::Embeds,
    iommu::Domain,
    page_fault::FaultGroup, //
};

/// A PASID that no other address space of the machine has, free again when this is dropped.
pub struct Pasid(u32);

impl Pasid {
    /// Allocates one that a device can send. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOSPC` if there is none left, or the device has no PASID at all.
    #[inline]
    pub fn new(device: &DmaDevice) -> Result<Self> {
        // SAFETY: The device is valid, and behind an IOMMU: otherwise it could have no domain.
        match unsafe { bindings::iommu_alloc_global_pasid(device.as_raw()) } {
            pasid if pasid == bindings::IOMMU_PASID_INVALID as u32 => Err(ENOSPC),
            pasid => Ok(Self(pasid)),
        }
    }

    /// The number.
    pub fn get(&self) -> u32 {
        self.0
    }
}

impl Drop for Pasid {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: It is ours, and not in use any more.
        unsafe { bindings::iommu_free_global_pasid(self.0) };
    }
}

/// What an [`AttachedDomain`] calls.
pub trait Resolve {
    /// The device asks for pages. Called by a work queue, several at a time; may sleep.
    fn resolve(&self, group: FaultGroup);
}

/// A domain that a device uses for one PASID, in an object that serves its page faults. It must be
/// dropped before what the object needs for that.
///
/// # Invariants
///
/// If `attached`, the domain is attached with `handle`.
#[pin_data(PinnedDrop)]
pub struct AttachedDomain<T: Embeds<AttachedDomain<T>> + Resolve> {
    #[pin]
    handle: Opaque<bindings::iommu_attach_handle>,
    attached: AtomicBool,
    domain: Domain,
    pasid: Pasid,
    device: DmaDevice,
    _object: PhantomData<fn(&T)>,
    _calls: UnsafeCell<()>,
    #[pin]
    _pin: PhantomPinned,
}

// SAFETY: It belongs to no thread.
unsafe impl<T: Embeds<Self> + Resolve> Send for AttachedDomain<T> {}

// SAFETY: Domains do their own locking.
unsafe impl<T: Embeds<Self> + Resolve> Sync for AttachedDomain<T> {}

impl<T: Embeds<Self> + Resolve> AttachedDomain<T> {
    /// A domain and a PASID that are not attached yet. May sleep.
    ///
    /// # Errors
    ///
    /// Those of [`Pasid::new`] and [`Domain::new`].
    pub fn new(device: &DmaDevice) -> Result<impl PinInit<Self>> {
        let pasid = Pasid::new(device)?;
        let domain = Domain::for_pasid(device, Self::queue)?;
        let device = device.clone();

        Ok(pin_init!(Self {
            handle: Opaque::zeroed(),
            attached: AtomicBool::new(false),
            domain,
            pasid,
            device,
            _object: PhantomData,
            _calls: UnsafeCell::new(()),
            _pin: PhantomPinned,
        }))
    }

    /// The domain.
    pub fn domain(&self) -> &Domain {
        &self.domain
    }

    /// The PASID.
    pub fn pasid(&self) -> u32 {
        self.pasid.get()
    }

    /// Makes the device use the domain for the PASID. Once. May sleep.
    ///
    /// # Errors
    ///
    /// What the IOMMU driver says; `EBUSY` if it was called before.
    pub fn attach(&self) -> Result {
        if self.attached.swap(true, Relaxed) {
            return Err(EBUSY);
        }

        // SAFETY: All are valid, and the handle is new and stays where it is until it is detached.
        let result = to_result(unsafe {
            bindings::iommu_attach_device_pasid(
                self.domain.as_raw(),
                self.device.as_raw(),
                self.pasid.get(),
                self.handle.get(),
            )
        });

        if result.is_err() {
            self.attached.store(false, Relaxed);
        }
        result
    }

    /// Makes the device use nothing for the PASID, and answers all that it has asked for. May sleep,
    /// but not be called from [`Resolve::resolve`].
    pub fn detach(&self) {
        if self.attached.swap(false, Relaxed) {
            // SAFETY: By the type invariant it is attached. This waits for the work that `queue`
            // has queued.
            unsafe {
                bindings::iommu_detach_device_pasid(
                    self.domain.as_raw(),
                    self.device.as_raw(),
                    self.pasid.get(),
                );
            }
        }
    }

    /// Called by the kernel where it may not wait: has the group resolved by the queue of the
    /// device, which the kernel waits for when it detaches a domain.
    ///
    /// # Safety
    ///
    /// `group` is valid and given to us, unless this fails.
    unsafe extern "C" fn queue(group: *mut bindings::iopf_group) -> i32 {
        // SAFETY: By the safety requirement; nobody else uses the work of a group.
        let queued = unsafe {
            bindings::init_work_with_key(
                &raw mut (*group).work,
                Some(Self::work),
                false,
                c"pdio:iopf_group".as_char_ptr(),
                ptr::null_mut(),
            );
            bindings::queue_work_on(
                bindings::wq_misc_consts_WORK_CPU_UNBOUND as i32,
                (*(*(*group).fault_param).queue).wq,
                &raw mut (*group).work,
            )
        };

        if queued {
            0
        } else {
            EBUSY.to_errno()
        }
    }

    /// Called by the queue.
    ///
    /// # Safety
    ///
    /// `work` is that of a group that `queue` was given.
    unsafe extern "C" fn work(work: *mut bindings::work_struct) {
        // SAFETY: By the safety requirement the work is in a group, and its handle is that of a
        // `Self` in a `T`, which is detached, and waits for this, before it goes. `Opaque` is
        // transparent.
        let (object, group) = unsafe {
            let group = kernel::container_of!(work, bindings::iopf_group, work);
            let handle = Opaque::cast_from((*group).attach_handle);

            (
                T::containing(kernel::container_of!(handle, Self, handle)),
                FaultGroup::from_raw(NonNull::new_unchecked(group)),
            )
        };

        object.resolve(group);
    }
}

#[pinned_drop]
impl<T: Embeds<AttachedDomain<T>> + Resolve> PinnedDrop for AttachedDomain<T> {
    fn drop(self: Pin<&mut Self>) {
        self.detach();
    }
}
