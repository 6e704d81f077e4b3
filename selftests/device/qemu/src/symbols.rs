// SPDX-License-Identifier: GPL-2.0

//! The functions and objects of QEMU that its executable exports, by name.

use std::ffi::{c_char, c_int, c_uint, c_void, CStr};
use std::ptr::null_mut;

use crate::layout::{IotlbEntry, TypeInfo, VersionInfo};

/// A pointer to something of QEMU's whose type does not matter here.
pub type Pointer = *mut c_void;

/// Who a symbol belongs to, as the dynamic linker tells.
#[repr(C)]
struct DlInfo {
    file: *const c_char,
    base: Pointer,
    symbol: *const c_char,
    address: Pointer,
}

extern "C" {
    fn dlsym(handle: Pointer, name: *const c_char) -> Pointer;
    fn dladdr(address: *const c_void, info: *mut DlInfo) -> c_int;
}

/// Looks everywhere, in the order in which libraries were loaded: `RTLD_DEFAULT`.
const ANYWHERE: Pointer = null_mut();

fn look_up(name: &CStr) -> Option<Pointer> {
    // SAFETY: `name` ends with a NUL, and is only read.
    let symbol = unsafe { dlsym(ANYWHERE, name.as_ptr()) };
    (!symbol.is_null()).then_some(symbol)
}

/// Where the file that `address` is part of was loaded, if it is part of one.
fn base_of(address: *const c_void) -> Option<Pointer> {
    let mut info = DlInfo {
        file: std::ptr::null(),
        base: null_mut(),
        symbol: std::ptr::null(),
        address: null_mut(),
    };
    // SAFETY: `info` is what it writes to, and any address may be asked about.
    let found = unsafe { dladdr(address, &mut info) };
    (found != 0).then_some(info.base)
}

/// `register_module_init`, which is needed before anything else.
pub fn register_module_init() -> Option<unsafe extern "C" fn(extern "C" fn(), c_int)> {
    let symbol = look_up(c"register_module_init")?;
    // SAFETY: QEMU has declared it as this since 2010 (include/qemu/module.h).
    Some(unsafe {
        std::mem::transmute::<Pointer, unsafe extern "C" fn(extern "C" fn(), c_int)>(symbol)
    })
}

/// Defines the table of what is used.
macro_rules! exported {
    (
        functions { $($name:ident: fn($($argument:ty),* $(; $dots:tt)?) $(-> $result:ty)?,)+ }
        objects { $($object:ident,)+ }
    ) => {
        /// What the executable exports.
        pub struct Qemu {
            $(pub $name: exported!(@pointer ($($argument),*) ($($dots)?) ($($result)?)),)+
            $(pub $object: Pointer,)+
        }

        // SAFETY: These are addresses in a program that stays where it is, and QEMU is called under
        // its own lock alone.
        unsafe impl Send for Qemu {}
        // SAFETY: As above.
        unsafe impl Sync for Qemu {}

        impl Qemu {
            /// Finds all of them.
            ///
            /// # Errors
            ///
            /// A sentence that names those that are missing.
            pub fn find() -> Result<Self, String> {
                let mut missing = Vec::new();
                $(let $name = find(stringify!($name), &mut missing);)+
                $(let $object = find(stringify!($object), &mut missing);)+
                if !missing.is_empty() {
                    return Err(format!(
                        "this program does not export {}: it is no QEMU that svadma knows",
                        missing.join(", ")
                    ));
                }
                Ok(Self {
                    $(
                        // SAFETY: It is exported under this name, and declared as this in the
                        // versions of QEMU that `layout` accepts.
                        $name: unsafe { std::mem::transmute::<Pointer, exported!(
                            @pointer ($($argument),*) ($($dots)?) ($($result)?)
                        )>($name) },
                    )+
                    $($object,)+
                })
            }

            /// One whose functions and objects are all at `place`, which is in this program. Those
            /// that are used have to be put there before.
            #[cfg(test)]
            pub fn at(place: Pointer) -> Self {
                Self {
                    $(
                        // SAFETY: Nobody calls it.
                        $name: unsafe { std::mem::transmute::<Pointer, exported!(
                            @pointer ($($argument),*) ($($dots)?) ($($result)?)
                        )>(place) },
                    )+
                    $($object: place,)+
                }
            }
        }
    };
    (@pointer ($($argument:ty),*) () ()) => { unsafe extern "C" fn($($argument),*) };
    (@pointer ($($argument:ty),*) () ($result:ty)) => {
        unsafe extern "C" fn($($argument),*) -> $result
    };
    (@pointer ($($argument:ty),*) ($dots:tt) ()) => { unsafe extern "C" fn($($argument),*, $dots) };
}

/// Notes a name that is not there.
fn find(name: &str, missing: &mut Vec<String>) -> Pointer {
    let terminated = std::ffi::CString::new(name).unwrap_or_default();
    look_up(&terminated).unwrap_or_else(|| {
        missing.push(name.to_owned());
        null_mut()
    })
}

exported! {
    functions {
        qmp_query_version: fn(*mut Pointer) -> *mut VersionInfo,
        error_setg_internal: fn(
            *mut Pointer, *const c_char, c_int, *const c_char, *const c_char; ...
        ),
        type_register_static: fn(*const TypeInfo) -> Pointer,
        object_class_by_name: fn(*const c_char) -> Pointer,
        object_class_get_parent: fn(Pointer) -> Pointer,
        object_class_get_name: fn(Pointer) -> *const c_char,
        object_class_dynamic_cast: fn(Pointer, *const c_char) -> Pointer,
        memory_region_init_io: fn(Pointer, Pointer, *const c_void, Pointer, *const c_char, u64),
        memory_region_size: fn(Pointer) -> u64,
        memory_region_add_subregion_overlap: fn(Pointer, u64, Pointer, c_int),
        get_system_memory: fn() -> Pointer,
        address_space_rw: fn(Pointer, u64, u64, *mut c_void, u64, bool) -> u32,
        pci_register_bar: fn(Pointer, c_int, u8, Pointer),
        pci_default_write_config: fn(Pointer, u32, u32, c_int),
        pcie_endpoint_cap_init: fn(Pointer, u8) -> c_int,
        pcie_ats_init: fn(Pointer, u16, bool),
        pcie_pasid_init: fn(Pointer, u16, u8, bool, bool),
        pcie_pri_init: fn(Pointer, u16, u32, bool),
        msix_init_exclusive_bar: fn(Pointer, u16, u8, *mut Pointer) -> c_int,
        msix_vector_use: fn(Pointer, c_uint),
        msix_notify: fn(Pointer, c_uint),
        msix_uninit_exclusive_bar: fn(Pointer),
        pci_iommu_init_iotlb_notifier: fn(
            Pointer, Pointer, extern "C" fn(Pointer, *const IotlbEntry), Pointer
        ) -> c_int,
        pci_iommu_register_iotlb_notifier: fn(Pointer, u32, Pointer) -> c_int,
        pci_iommu_unregister_iotlb_notifier: fn(Pointer, u32, Pointer) -> c_int,
        pci_pri_register_notifier: fn(Pointer, u32, Pointer) -> c_int,
        pci_pri_unregister_notifier: fn(Pointer, u32),
        pci_pri_request_page: fn(
            Pointer, u32, bool, bool, u64, bool, u16, bool, bool
        ) -> c_int,
        pci_ats_request_translation: fn(
            Pointer, u32, bool, bool, u64, usize, bool, *mut IotlbEntry, usize, *mut u32
        ) -> isize,
        qemu_bh_new_full: fn(extern "C" fn(Pointer), Pointer, *const c_char, Pointer) -> Pointer,
        qemu_bh_schedule: fn(Pointer),
        qemu_bh_delete: fn(Pointer),
        timer_init_full: fn(
            Pointer, Pointer, c_int, c_int, c_int, extern "C" fn(Pointer), Pointer
        ),
        timer_mod_ns: fn(Pointer, i64),
        timer_del: fn(Pointer),
        qemu_clock_get_ns: fn(c_int) -> i64,
    }
    objects {
        address_space_memory,
        pci_host_data_le_ops,
        pci_host_conf_le_ops,
    }
}

impl Qemu {
    /// Whether `address` is a place in QEMU's own executable.
    pub fn owns(&self, address: *const c_void) -> bool {
        let own = base_of(self.address_space_rw as *const c_void);
        own.is_some() && base_of(address) == own
    }

    /// Says why a device cannot be had, the way QEMU wants it to be said.
    pub fn fail(&self, error: *mut Pointer, sentence: &CStr) {
        // SAFETY: The format takes one string, and all of them end with a NUL.
        unsafe {
            (self.error_setg_internal)(
                error,
                c"svadma".as_ptr(),
                0,
                c"realize".as_ptr(),
                c"%s".as_ptr(),
                sentence.as_ptr(),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_is_no_qemu_is_told_what_it_lacks() {
        let sentence = Qemu::find().err().unwrap();
        for name in [
            "qmp_query_version",
            "pci_pri_request_page",
            "pci_host_conf_le_ops",
        ] {
            assert!(sentence.contains(name), "{sentence}");
        }
        assert!(
            sentence.ends_with("it is no QEMU that svadma knows"),
            "{sentence}"
        );
        assert!(register_module_init().is_none());
    }
}
