// SPDX-License-Identifier: GPL-2.0

//! Directories of attributes in sysfs.
//!
//! C headers: [`include/linux/kobject.h`](srctree/include/linux/kobject.h),
//! [`include/linux/sysfs.h`](srctree/include/linux/sysfs.h)

use core::{
    fmt::{
        Display,
        Write, //
    },
    ptr,
    ptr::NonNull,
    slice, //
};

use kernel::{
    error::{
        from_result,
        to_result, //
    },
    page::PAGE_SIZE,
    prelude::*,
    str::Formatter,
    sync::Arc, //
};

use crate::{
    bindings,
    device::DmaDevice, //
};

/// A file in a [`Directory`].
pub struct File<T> {
    /// Its name.
    pub name: &'static CStr,
    /// Writes what the file reads as, without a newline at the end. May sleep.
    pub show: Option<fn(&T, &mut Formatter<'_>) -> Result>,
    /// Takes what was written, without a newline at the end. May sleep.
    pub store: Option<fn(&T, &str) -> Result>,
}

impl<T> File<T> {
    /// Permissions.
    const fn mode(&self) -> u16 {
        (if self.show.is_some() { 0o444 } else { 0 }) | if self.store.is_some() { 0o200 } else { 0 }
    }
}

/// Where a directory is made.
pub enum Parent<'a> {
    /// In the directory of a device.
    Device(&'a DmaDevice),
    /// In `/sys/module/NAME` of a module.
    Module(&'static ThisModule),
    /// In another directory, which must outlive the new one.
    Directory(&'a dyn AsKobject),
}

/// Something that is a directory in sysfs.
pub trait AsKobject {
    /// The raw object.
    #[doc(hidden)]
    fn as_kobject(&self) -> *mut bindings::kobject;
}

/// Shows a number.
///
/// # Errors
///
/// `EFBIG`: it does not fit.
pub fn show_number(out: &mut Formatter<'_>, number: u64) -> Result {
    write!(out, "{number}").map_err(|_| EFBIG)
}

/// Shows all that can be chosen, what is chosen in brackets.
///
/// # Errors
///
/// `EFBIG`: it does not fit.
pub fn show_choice<T: Display + PartialEq>(
    out: &mut Formatter<'_>,
    all: impl IntoIterator<Item = T>,
    chosen: T,
) -> Result {
    for (index, choice) in all.into_iter().enumerate() {
        let separator = if index == 0 { "" } else { " " };

        if choice == chosen {
            write!(out, "{separator}[{choice}]")
        } else {
            write!(out, "{separator}{choice}")
        }
        .map_err(|_| EFBIG)?;
    }
    Ok(())
}

/// Reads decimal digits.
///
/// # Errors
///
/// `EINVAL`: there are none, or more than a number of 64 bits has, or anything else.
pub fn parse_number(text: &str) -> Result<u64> {
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(EINVAL);
    }

    text.parse().map_err(|_| EINVAL)
}

/// What the kernel knows of a file: first what it asks for, then what we need.
#[repr(C)]
struct Attribute<T: 'static> {
    attribute: bindings::kobj_attribute,
    file: &'static File<T>,
    data: *const T,
}

/// A directory that is there as long as this object.
///
/// # Invariants
///
/// `kobject` is registered and ours. `attributes` does not move, and each points to what `data`
/// owns.
pub struct Directory<T: Send + Sync + 'static> {
    kobject: NonNull<bindings::kobject>,
    attributes: KVec<Attribute<T>>,
    _data: Arc<T>,
}

// SAFETY: A directory belongs to no thread, and `T` may be shared.
unsafe impl<T: Send + Sync> Send for Directory<T> {}

// SAFETY: A directory offers nothing but its kobject.
unsafe impl<T: Send + Sync> Sync for Directory<T> {}

impl<T: Send + Sync + 'static> Directory<T> {
    /// Makes a directory with files about `data`. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`, `EEXIST`; nothing is left behind.
    pub fn new(
        parent: Parent<'_>,
        name: &CStr,
        files: &'static [File<T>],
        data: Arc<T>,
    ) -> Result<Self> {
        let parent = match parent {
            // SAFETY: The device is valid.
            Parent::Device(device) => unsafe { &raw mut (*device.as_raw()).kobj },
            // SAFETY: The module is this one, or one that it depends on.
            Parent::Module(module) => unsafe { &raw mut (*module.as_ptr()).mkobj.kobj },
            Parent::Directory(directory) => directory.as_kobject(),
        };
        let mut attributes = KVec::with_capacity(files.len(), GFP_KERNEL)?;

        for file in files {
            attributes.push(
                Attribute {
                    attribute: bindings::kobj_attribute {
                        attr: bindings::attribute {
                            name: file.name.as_char_ptr(),
                            mode: file.mode(),
                        },
                        show: file.show.and(Some(Self::show)),
                        store: file.store.and(Some(Self::store)),
                    },
                    file,
                    data: &raw const *data,
                },
                GFP_KERNEL,
            )?;
        }

        // SAFETY: The parent is a registered object.
        let kobject = unsafe { bindings::kobject_create_and_add(name.as_char_ptr(), parent) };

        // INVARIANT: The object was just made; the vector has its final size. Dropping it takes
        // away what was made so far.
        let directory = Self {
            kobject: NonNull::new(kobject).ok_or(ENOMEM)?,
            attributes,
            _data: data,
        };

        for attribute in &directory.attributes {
            // SAFETY: By the type invariant both are valid until the directory is gone.
            to_result(unsafe {
                bindings::sysfs_create_file_ns(
                    kobject,
                    &raw const attribute.attribute.attr,
                    ptr::null(),
                )
            })?;
        }
        Ok(directory)
    }

    /// Reads a file.
    ///
    /// # Safety
    ///
    /// `attribute` is that of an [`Attribute`], whose data is valid; `buffer` has a page.
    unsafe extern "C" fn show(
        _kobject: *mut bindings::kobject,
        attribute: *mut bindings::kobj_attribute,
        buffer: *mut kernel::ffi::c_char,
    ) -> isize {
        // SAFETY: By the safety requirements; the first field has the address of the whole.
        let (attribute, buffer) = unsafe {
            (
                &*attribute.cast::<Attribute<T>>(),
                slice::from_raw_parts_mut(buffer.cast::<u8>(), PAGE_SIZE),
            )
        };
        let mut out = Formatter::new(buffer);

        from_result(|| {
            let show = attribute.file.show.ok_or(EIO)?;

            // SAFETY: By the safety requirements.
            show(unsafe { &*attribute.data }, &mut out)?;
            out.write_char('\n').map_err(|_| EFBIG)?;
            Ok(out.bytes_written() as isize)
        })
    }

    /// Writes a file.
    ///
    /// # Safety
    ///
    /// `attribute` is that of an [`Attribute`], whose data is valid; `buffer` has `len` bytes.
    unsafe extern "C" fn store(
        _kobject: *mut bindings::kobject,
        attribute: *mut bindings::kobj_attribute,
        buffer: *const kernel::ffi::c_char,
        len: usize,
    ) -> isize {
        // SAFETY: By the safety requirements; the first field has the address of the whole.
        let (attribute, buffer) = unsafe {
            (
                &*attribute.cast::<Attribute<T>>(),
                slice::from_raw_parts(buffer.cast::<u8>(), len),
            )
        };

        from_result(|| {
            let store = attribute.file.store.ok_or(EIO)?;
            let text = core::str::from_utf8(buffer).map_err(|_| EINVAL)?;

            // SAFETY: By the safety requirements.
            let data = unsafe { &*attribute.data };

            store(data, text.strip_suffix('\n').unwrap_or(text))?;
            Ok(len as isize)
        })
    }
}

impl<T: Send + Sync + 'static> AsKobject for Directory<T> {
    fn as_kobject(&self) -> *mut bindings::kobject {
        self.kobject.as_ptr()
    }
}

impl<T: Send + Sync + 'static> Drop for Directory<T> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant the object is registered and ours. No file is being read or
        // written after the first call.
        unsafe {
            bindings::kobject_del(self.kobject.as_ptr());
            bindings::kobject_put(self.kobject.as_ptr());
        }
    }
}

/// What a user sees and sets of a device: a directory of settings, with a directory `statistics` in
/// it.
pub struct DeviceFiles<T: Send + Sync + 'static> {
    // Dropped in this order: the inner one first.
    _statistics: Directory<T>,
    _settings: Directory<T>,
}

impl<T: Send + Sync + 'static> DeviceFiles<T> {
    /// Makes them, the outer one by the name of `name`. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`, `EEXIST`; nothing is left behind.
    pub fn new(
        device: &DmaDevice,
        name: &CStr,
        settings: &'static [File<T>],
        statistics: &'static [File<T>],
        data: &Arc<T>,
    ) -> Result<Self> {
        let settings = Directory::new(Parent::Device(device), name, settings, data.clone())?;

        Ok(Self {
            _statistics: Directory::new(
                Parent::Directory(&settings),
                c"statistics",
                statistics,
                data.clone(),
            )?,
            _settings: settings,
        })
    }
}
