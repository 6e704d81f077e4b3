// SPDX-License-Identifier: GPL-2.0

//! What is known of QEMU's structures, and how far the QEMU at hand can be asked whether it is so.
//!
//! Nobody promises these layouts, so a version that was not looked at is not accepted. Beyond that,
//! they are compared with objects that QEMU itself has made: classes of devices whose ids are known,
//! and tables of functions whose content can be told.

use std::ffi::{c_char, c_void, CStr};
use std::ptr::null_mut;

use crate::symbols::{Pointer, Qemu};

/// Versions whose layouts are those below, as major and minor.
const KNOWN_VERSIONS: [(i64, i64); 1] = [(11, 1)];

/// `VersionInfo` (qapi/control.json).
#[repr(C)]
pub struct VersionInfo {
    qemu: *const [i64; 3],
    package: *const c_char,
}

/// `TypeInfo` (include/qom/object.h).
#[repr(C)]
pub struct TypeInfo {
    pub name: *const c_char,
    pub parent: *const c_char,
    /// 0: that of the parent.
    pub instance_size: usize,
    pub instance_align: usize,
    pub instance_init: Pointer,
    pub instance_post_init: Pointer,
    pub instance_finalize: Pointer,
    pub is_abstract: bool,
    /// 0: that of the parent.
    pub class_size: usize,
    pub class_init: extern "C" fn(Pointer, Pointer),
    pub class_base_init: Pointer,
    pub class_data: Pointer,
    /// Names, up to a null pointer.
    pub interfaces: *const *const c_char,
}

const _: () = assert!(size_of::<TypeInfo>() == 0x68);

/// `IOMMUTLBEntry` (include/system/memory.h).
#[repr(C)]
#[derive(Clone, Copy)]
pub struct IotlbEntry {
    pub target: Pointer,
    pub address: u64,
    pub translated: u64,
    /// One less than the size, which is a power of two.
    pub mask: u64,
    /// [`IotlbEntry::READ`] and [`IotlbEntry::WRITE`].
    pub permissions: u32,
    pub pasid: u32,
}

const _: () = assert!(size_of::<IotlbEntry>() == 40);

impl IotlbEntry {
    pub const READ: u32 = 1;
    pub const WRITE: u32 = 2;

    pub const EMPTY: Self = Self {
        target: null_mut(),
        address: 0,
        translated: 0,
        mask: 0,
        permissions: 0,
        pasid: 0,
    };

    /// Whether this is what QEMU can have answered for `pasid`.
    pub fn is_plausible(&self, qemu: &Qemu, pasid: u32) -> bool {
        self.target == qemu.address_space_memory
            && self.mask & 0xfff == 0xfff
            && self.mask < 1 << 52
            && self.mask & (self.mask + 1) == 0
            && self.permissions & !(Self::READ | Self::WRITE) == 0
            && self.pasid == pasid
    }
}

/// `IOMMUPRIResponse` (include/hw/pci/pci.h).
#[repr(C)]
pub struct PriResponse {
    /// 0: success. 1: invalid request. 2: failure.
    pub code: u32,
    pub group: u16,
}

/// Bytes that are more than a `MemoryRegion` has; QEMU does not tell its size.
const MEMORY_REGION_BYTES: usize = 16384;

/// Bytes that are more than a `QEMUTimer` has.
pub const TIMER_BYTES: usize = 512;

/// Words of a `MemoryRegionOps` (include/system/memory.h).
const OPS_WORDS: usize = 0x50 / size_of::<usize>();

/// Which of them say how to read, to write, and in which order bytes come.
const OPS_READ: usize = 0;
const OPS_WRITE: usize = 1;
const OPS_ENDIANNESS: usize = 4;

/// `MEMTXATTRS_UNSPECIFIED` (include/exec/memattrs.h): its only set bit, as it is passed.
pub const ATTRIBUTES: u64 = 1 << 32;

/// `QEMU_CLOCK_VIRTUAL` (include/qemu/timer.h).
pub const CLOCK_VIRTUAL: i32 = 1;

/// Offset of `vendor_id` in `PCIDeviceClass` (include/hw/pci/pci_device.h); what is around it, from
/// there.
const CLASS_IDS: usize = 0xd8;
const CLASS_REALIZE: usize = CLASS_IDS - 32;
const CLASS_EXIT: usize = CLASS_IDS - 24;
const CLASS_CONFIG_READ: usize = CLASS_IDS - 16;
const CLASS_CONFIG_WRITE: usize = CLASS_IDS - 8;

/// What a class of PCI devices says of itself.
pub struct PciClass {
    pub realize: extern "C" fn(Pointer, *mut Pointer),
    pub exit: extern "C" fn(Pointer),
    pub config_write: extern "C" fn(Pointer, u32, u32, i32),
    pub vendor: u16,
    pub device: u16,
    pub revision: u8,
    pub class: u16,
}

impl PciClass {
    /// Writes it where QEMU looks.
    ///
    /// # Safety
    ///
    /// `class` is a `PCIDeviceClass` that is being initialized, and [`check`] has passed.
    pub unsafe fn store(&self, class: Pointer) {
        let put = |offset: usize, value: usize| {
            // SAFETY: These are fields of pointer size, by the caller's promise.
            unsafe { class.byte_add(offset).cast::<usize>().write(value) };
        };
        put(CLASS_REALIZE, self.realize as usize);
        put(CLASS_EXIT, self.exit as usize);
        put(CLASS_CONFIG_WRITE, self.config_write as usize);
        let ids = [
            self.vendor,
            self.device,
            u16::from(self.revision),
            self.class,
        ];
        // SAFETY: These are four fields of two bytes, the third with a hole for its second.
        unsafe { class.byte_add(CLASS_IDS).cast::<[u16; 4]>().write(ids) };
    }

    /// The ids that `class` has.
    ///
    /// # Safety
    ///
    /// `class` is a `PCIDeviceClass`.
    pub unsafe fn ids(class: Pointer) -> [u16; 2] {
        // SAFETY: By the caller's promise, all of it is there.
        unsafe { class.byte_add(CLASS_IDS).cast::<[u16; 2]>().read() }
    }
}

/// Memory of zeroes that is never freed, because QEMU keeps pointers to it.
fn leaked(bytes: usize) -> Pointer {
    // Aligned for anything.
    let words = vec![0_u128; bytes.div_ceil(size_of::<u128>())];
    Box::leak(words.into_boxed_slice()).as_mut_ptr().cast()
}

/// Reads a register, of so many bytes.
pub type Read = extern "C" fn(Pointer, u64, u32) -> u64;
/// Writes one.
pub type Write = extern "C" fn(Pointer, u64, u64, u32);

/// A region of registers.
///
/// # Errors
///
/// QEMU has not made what it was asked for.
///
/// # Safety
///
/// `opaque` is what `read` and `write` take, for as long as the program runs.
pub unsafe fn region(
    qemu: &Qemu,
    owner: Pointer,
    (read, write): (Read, Write),
    opaque: Pointer,
    name: &'static CStr,
    bytes: u64,
) -> Result<Pointer, &'static CStr> {
    // What it says about the order of bytes and the sizes of accesses is what is wanted: little
    // endian, any.
    // SAFETY: `check` has found a table of this size there.
    let mut ops = unsafe {
        qemu.pci_host_data_le_ops
            .cast::<[usize; OPS_WORDS]>()
            .read()
    };
    ops[OPS_READ] = read as usize;
    ops[OPS_WRITE] = write as usize;
    let ops: *const [usize; OPS_WORDS] = Box::leak(Box::new(ops));
    let region = leaked(MEMORY_REGION_BYTES);
    // SAFETY: The region is large enough and zeroed, the rest is there for ever.
    let found = unsafe {
        (qemu.memory_region_init_io)(region, owner, ops.cast(), opaque, name.as_ptr(), bytes);
        (qemu.memory_region_size)(region)
    };
    match found == bytes {
        true => Ok(region),
        false => Err(c"this QEMU makes regions of another size than was asked for"),
    }
}

/// A timer.
///
/// # Safety
///
/// `opaque` is what `callback` takes, until the timer is deleted.
pub unsafe fn timer(qemu: &Qemu, callback: extern "C" fn(Pointer), opaque: Pointer) -> Pointer {
    let timer = leaked(TIMER_BYTES);
    // SAFETY: It is large enough. In nanoseconds, with no attributes, on the main loop.
    unsafe {
        (qemu.timer_init_full)(timer, null_mut(), CLOCK_VIRTUAL, 1, 0, callback, opaque);
    }
    timer
}

/// Devices that every QEMU for PCs has, with their ids.
const KNOWN_DEVICES: [(&CStr, [u16; 2]); 3] = [
    (c"edu", [0x1234, 0x11e8]),
    (c"pci-testdev", [0x1b36, 0x0005]),
    (c"e1000e", [0x8086, 0x10d3]),
];

/// A device that has its own way to write to configuration space.
const WRITES_CONFIG: &CStr = c"pcie-root-port";

/// Whether this is a QEMU whose layouts are those of this file.
///
/// # Errors
///
/// A sentence that says what is not.
pub fn check(qemu: &Qemu) -> Result<(), String> {
    check_version(qemu)?;
    check_classes(qemu)?;
    check_ops(qemu)
}

fn check_version(qemu: &Qemu) -> Result<(), String> {
    let mut error = null_mut();
    // What it allocates is not freed: a few bytes, once.
    // SAFETY: It takes a place for an error.
    let info = unsafe { (qemu.qmp_query_version)(&mut error) };
    // SAFETY: It is a valid `VersionInfo` or null.
    let version = unsafe { info.as_ref().and_then(|info| info.qemu.as_ref()) };
    let Some([major, minor, _]) = version.copied() else {
        return Err("this QEMU does not tell its version".into());
    };
    if KNOWN_VERSIONS.contains(&(major, minor)) {
        return Ok(());
    }
    let known = KNOWN_VERSIONS.map(|(major, minor)| format!("{major}.{minor}"));
    Err(format!(
        "this is QEMU {major}.{minor}, and svadma knows the structures of {} only",
        known.join(", ")
    ))
}

/// The class of a device, which is made if it is not there yet.
pub fn class(qemu: &Qemu, name: &CStr) -> Result<Pointer, String> {
    // SAFETY: The name ends with a NUL.
    let class = unsafe { (qemu.object_class_by_name)(name.as_ptr()) };
    if class.is_null() {
        return Err(format!(
            "this QEMU has no device {}",
            name.to_string_lossy()
        ));
    }
    Ok(class)
}

fn check_classes(qemu: &Qemu) -> Result<(), String> {
    let field = |class: Pointer, offset: usize| {
        // SAFETY: Classes of devices are larger than their part that is known to be at this offset.
        unsafe { class.byte_add(offset).cast::<*const c_void>().read() }
    };
    for (name, ids) in KNOWN_DEVICES {
        let class = class(qemu, name)?;
        // SAFETY: This is a class of a PCI device.
        let found = unsafe { PciClass::ids(class) };
        let own_config = [CLASS_CONFIG_READ, CLASS_CONFIG_WRITE]
            .into_iter()
            .filter(|offset| !field(class, *offset).is_null())
            .any(|offset| !qemu.owns(field(class, offset)));
        if found != ids || !qemu.owns(field(class, CLASS_REALIZE)) || own_config {
            return Err(format!(
                "the class of {} is not laid out as in the QEMUs that svadma knows",
                name.to_string_lossy()
            ));
        }
    }
    let (plain, own) = (class(qemu, c"edu")?, class(qemu, WRITES_CONFIG)?);
    if !field(plain, CLASS_CONFIG_WRITE).is_null() || !qemu.owns(field(own, CLASS_CONFIG_WRITE)) {
        return Err("PCI devices of this QEMU write to configuration space in another way".into());
    }
    Ok(())
}

fn check_ops(qemu: &Qemu) -> Result<(), String> {
    let tables = [qemu.pci_host_data_le_ops, qemu.pci_host_conf_le_ops].map(|table| {
        // SAFETY: The table has at least this size in all versions that were looked at.
        unsafe { table.cast::<[usize; OPS_WORDS]>().read() }
    });
    let [data, config] = tables;
    let plain = |table: &[usize; OPS_WORDS]| {
        (0..OPS_WORDS).all(|word| match word {
            OPS_READ | OPS_WRITE => qemu.owns(table[word] as *const c_void),
            OPS_ENDIANNESS => true,
            _ => table[word] == 0,
        })
    };
    let different = data[OPS_READ] != config[OPS_READ] && data[OPS_WRITE] != config[OPS_WRITE];
    let alike = data[OPS_ENDIANNESS] == config[OPS_ENDIANNESS];
    match plain(&data) && plain(&config) && different && alike {
        true => Ok(()),
        false => Err("this QEMU describes regions of registers in another way".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::collections::BTreeMap;

    /// Words of a class, which are more than those that are looked at.
    const CLASS_WORDS: usize = 64;

    /// What the program that stands for QEMU has.
    struct Program {
        version: Option<[i64; 3]>,
        classes: BTreeMap<&'static CStr, [usize; CLASS_WORDS]>,
        /// Of data and of configuration space.
        tables: [[usize; OPS_WORDS]; 2],
    }

    thread_local! {
        static PROGRAM: RefCell<Option<&'static Program>> = const { RefCell::new(None) };
    }

    fn program() -> &'static Program {
        PROGRAM.with_borrow(|program| program.unwrap())
    }

    unsafe extern "C" fn query_version(_error: *mut Pointer) -> *mut VersionInfo {
        match &program().version {
            Some(version) => Box::leak(Box::new(VersionInfo {
                qemu: version,
                package: c"".as_ptr(),
            })),
            None => null_mut(),
        }
    }

    unsafe extern "C" fn class_by_name(name: *const c_char) -> Pointer {
        // SAFETY: It ends with a NUL.
        let name = unsafe { CStr::from_ptr(name) };
        match program().classes.get(name) {
            Some(class) => class.as_ptr().cast_mut().cast(),
            None => null_mut(),
        }
    }

    /// A place that is the program's own, and another one.
    fn own(number: usize) -> usize {
        query_version as usize + number
    }

    /// As all QEMUs are that svadma knows.
    fn known() -> Program {
        let mut classes = BTreeMap::new();
        for (name, [vendor, device]) in KNOWN_DEVICES {
            let mut class = [0; CLASS_WORDS];
            class[CLASS_REALIZE / 8] = own(0);
            class[CLASS_IDS / 8] = usize::from(vendor) | usize::from(device) << 16;
            classes.insert(name, class);
        }
        let mut port = [0; CLASS_WORDS];
        port[CLASS_CONFIG_WRITE / 8] = own(0);
        classes.insert(WRITES_CONFIG, port);
        let table = |first: usize| {
            let mut table = [0; OPS_WORDS];
            table[OPS_READ] = own(first);
            table[OPS_WRITE] = own(first + 1);
            table[OPS_ENDIANNESS] = 2;
            table
        };
        Program {
            version: Some([11, 1, 3]),
            classes,
            tables: [table(0), table(2)],
        }
    }

    /// What is said to a program.
    fn checked(program: Program) -> Result<(), String> {
        let program: &'static Program = Box::leak(Box::new(program));
        PROGRAM.set(Some(program));
        let table = |index: usize| program.tables[index].as_ptr().cast_mut().cast();
        check(&Qemu {
            qmp_query_version: query_version,
            object_class_by_name: class_by_name,
            pci_host_data_le_ops: table(0),
            pci_host_conf_le_ops: table(1),
            ..Qemu::at(query_version as Pointer)
        })
    }

    /// What is said to a program that differs from those that are known.
    fn refused(change: impl FnOnce(&mut Program)) -> String {
        let mut program = known();
        change(&mut program);
        checked(program).unwrap_err()
    }

    #[test]
    fn what_is_known_is_accepted() {
        assert_eq!(checked(known()), Ok(()));
    }

    #[test]
    fn another_version_is_refused() {
        for version in [[11, 0, 9], [11, 2, 0], [12, 1, 0], [1, 11, 1]] {
            let sentence = refused(|program| program.version = Some(version));
            let [major, minor, _] = version;
            assert_eq!(
                sentence,
                format!(
                    "this is QEMU {major}.{minor}, and svadma knows the structures of 11.1 only"
                )
            );
        }
        assert_eq!(
            refused(|program| program.version = None),
            "this QEMU does not tell its version"
        );
    }

    #[test]
    fn another_layout_of_classes_is_refused() {
        for (name, ids) in KNOWN_DEVICES {
            let name_of = name.to_string_lossy();
            let other =
                format!("the class of {name_of} is not laid out as in the QEMUs that svadma knows");
            let changed = |change: &dyn Fn(&mut [usize; CLASS_WORDS])| {
                refused(|program| change(program.classes.get_mut(name).unwrap()))
            };
            // The ids are elsewhere, what should be a function is none, or is not the program's.
            assert_eq!(changed(&|class| class.rotate_right(1)), other);
            assert_eq!(
                changed(&|class| class[CLASS_IDS / 8] = usize::from(ids[0])),
                other
            );
            assert_eq!(changed(&|class| class[CLASS_REALIZE / 8] = 0), other);
            assert_eq!(changed(&|class| class[CLASS_CONFIG_READ / 8] = 8), other);
            assert_eq!(
                refused(|program| program.classes.retain(|known, _| *known != name)),
                format!("this QEMU has no device {name_of}")
            );
        }
        let sentence = "PCI devices of this QEMU write to configuration space in another way";
        let port = |program: &mut Program| {
            program.classes.get_mut(WRITES_CONFIG).unwrap()[CLASS_CONFIG_WRITE / 8] = 0;
        };
        assert_eq!(refused(port), sentence);
    }

    #[test]
    fn other_tables_of_functions_are_refused() {
        let sentence = "this QEMU describes regions of registers in another way";
        for table in 0..2 {
            for word in (0..OPS_WORDS).filter(|word| *word != OPS_ENDIANNESS) {
                let changed = refused(|program| program.tables[table][word] = 8);
                assert_eq!(changed, sentence, "table {table}, word {word}");
            }
        }
        assert_eq!(
            refused(|program| program.tables[0][OPS_ENDIANNESS] = 1),
            sentence
        );
        assert_eq!(
            refused(|program| program.tables[1] = program.tables[0]),
            sentence
        );
    }
}
