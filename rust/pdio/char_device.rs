// SPDX-License-Identifier: GPL-2.0

//! A character device for something that a driver serves; each open file is an object of its own.
//!
//! Unlike the `kernel` crate's `miscdevice` it says which module its code is in, so that that stays
//! while a file is open, and a file that is opened is told what it is a file of.
//!
//! C header: [`include/linux/miscdevice.h`](srctree/include/linux/miscdevice.h)

use core::marker::PhantomData;

use kernel::{
    error::{
        from_result,
        to_result, //
    },
    prelude::*,
    sync::{
        Arc,
        ArcBorrow,
        UniqueArc, //
    },
    types::{
        ForeignOwnable,
        Opaque, //
    },
    uaccess::{
        UserPtr,
        UserSlice, //
    }, //
};

use crate::{
    bindings,
    register_page::RegisterPage, //
};

/// An open file.
pub trait OpenFile: Send + Sync + Sized + 'static {
    /// What it is a file of.
    type Device: Send + Sync + 'static;

    /// The module that this is in.
    const MODULE: &'static ThisModule;

    /// Opens a file. Who maps it, gets `page`, which is not kept if this fails. May sleep.
    ///
    /// # Errors
    ///
    /// What `open()` is to return.
    fn open(device: Arc<Self::Device>, page: Arc<RegisterPage>) -> Result<Arc<Self>>;

    /// The last descriptor of the file is closed, maybe long after the character device has gone. May
    /// sleep.
    fn release(&self);

    /// A request. The memory is what its number says, at the address that was passed. May sleep.
    ///
    /// # Errors
    ///
    /// What `ioctl()` is to return.
    fn request(&self, number: u32, memory: UserSlice) -> Result;
}

/// What an open file has.
struct Opened<T> {
    file: Arc<T>,
    page: Arc<RegisterPage>,
}

/// A character device, until this is dropped. Files that are open then stay so.
///
/// # Invariants
///
/// `device` is registered, and embedded in this at offset 0; `context` is what it is a device for.
#[repr(C)]
#[pin_data(PinnedDrop)]
pub struct CharDevice<T: OpenFile> {
    #[pin]
    device: Opaque<bindings::miscdevice>,
    context: Arc<T::Device>,
    _file: PhantomData<T>,
}

// SAFETY: A registration belongs to no thread, and the context may be shared.
unsafe impl<T: OpenFile> Send for CharDevice<T> {}

// SAFETY: It offers nothing.
unsafe impl<T: OpenFile> Sync for CharDevice<T> {}

impl<T: OpenFile> CharDevice<T> {
    const OPERATIONS: bindings::file_operations = bindings::file_operations {
        owner: T::MODULE.as_ptr(),
        open: Some(Self::open),
        release: Some(Self::release),
        unlocked_ioctl: Some(Self::ioctl),
        mmap: Some(Self::mmap),
        // SAFETY: All of it may be null.
        ..unsafe { core::mem::zeroed() }
    };

    /// Makes `/dev/NAME` for `context`, with permissions for its owner, root. May sleep.
    ///
    /// # Errors
    ///
    /// `EEXIST`, `ENOMEM`.
    pub fn register(name: &'static CStr, context: Arc<T::Device>) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            context,
            _file: PhantomData,
            device <- Opaque::try_ffi_init(|slot: *mut bindings::miscdevice| {
                // SAFETY: All of it may be zero.
                let mut device: bindings::miscdevice = unsafe { core::mem::zeroed() };

                device.minor = bindings::MISC_DYNAMIC_MINOR as i32;
                device.name = name.as_char_ptr();
                device.fops = &Self::OPERATIONS;
                device.mode = 0o600;
                // SAFETY: The slot is to be written to, and pinned. The context was initialized
                // before, so that files may be opened at once.
                unsafe {
                    slot.write(device);
                    to_result(bindings::misc_register(slot))
                }
            }),
        })
    }

    /// Opens a file.
    ///
    /// # Safety
    ///
    /// `file` is being opened and belongs to a registered `Self`.
    unsafe extern "C" fn open(
        _inode: *mut bindings::inode,
        file: *mut bindings::file,
    ) -> kernel::ffi::c_int {
        from_result(|| {
            // SAFETY: `misc_open()` leaves the device there, which is the first field, and keeps it
            // registered during this call.
            let device = unsafe { &*(*file).private_data.cast::<Self>() };
            // Nothing fails any more when `T` has the page, so that `release` comes to close that.
            let slot = UniqueArc::new_uninit(GFP_KERNEL)?;
            // SAFETY: The file is being opened; if that fails, nobody keeps the page.
            let page = unsafe { RegisterPage::new((*file).f_mapping) };
            let page = Arc::pin_init(page, GFP_KERNEL)?;
            let opened: Arc<_> = slot
                .write(Opened {
                    file: T::open(device.context.clone(), page.clone())?,
                    page,
                })
                .into();

            // SAFETY: The file is being opened.
            unsafe { (*file).private_data = opened.into_foreign().cast() };
            Ok(0)
        })
    }

    /// Closes a file.
    ///
    /// # Safety
    ///
    /// `file` was opened by [`Self::open`], and this is the end of it.
    unsafe extern "C" fn release(
        _inode: *mut bindings::inode,
        file: *mut bindings::file,
    ) -> kernel::ffi::c_int {
        // SAFETY: This is what `open` has left there.
        let opened = unsafe { Arc::<Opened<T>>::from_foreign((*file).private_data.cast()) };

        opened.page.close();
        opened.file.release();
        0
    }

    /// What a file has.
    ///
    /// # Safety
    ///
    /// `file` was opened by [`Self::open`], and is not closed during `'a`.
    unsafe fn opened<'a>(file: *mut bindings::file) -> ArcBorrow<'a, Opened<T>> {
        // SAFETY: This is what `open` has left there.
        unsafe { Arc::<Opened<T>>::borrow((*file).private_data.cast()) }
    }

    /// A request.
    ///
    /// # Safety
    ///
    /// `file` was opened by [`Self::open`].
    unsafe extern "C" fn ioctl(
        file: *mut bindings::file,
        number: kernel::ffi::c_uint,
        argument: kernel::ffi::c_ulong,
    ) -> kernel::ffi::c_long {
        let memory = UserSlice::new(
            UserPtr::from_addr(argument),
            kernel::ioctl::_IOC_SIZE(number),
        );

        // SAFETY: By the safety requirement; the file stays open during the call.
        let opened = unsafe { Self::opened(file) };

        from_result(|| opened.file.request(number, memory).map(|()| 0))
    }

    /// Maps a file.
    ///
    /// # Safety
    ///
    /// `file` was opened by [`Self::open`], and `area` is being set up for it.
    unsafe extern "C" fn mmap(
        file: *mut bindings::file,
        area: *mut bindings::vm_area_struct,
    ) -> kernel::ffi::c_int {
        from_result(|| {
            // SAFETY: By the safety requirements; the page stays until the file is closed.
            unsafe { Self::opened(file).page.map(area) }?;
            Ok(0)
        })
    }
}

#[pinned_drop]
impl<T: OpenFile> PinnedDrop for CharDevice<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariant.
        unsafe { bindings::misc_deregister(self.device.get()) };
    }
}
