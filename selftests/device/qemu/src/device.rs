// SPDX-License-Identifier: GPL-2.0

//! The device as QEMU sees it.
//!
//! QEMU calls everything here under its big lock, so that one thing happens at a time. It may happen
//! in the middle of another, though: a device that writes to the registers of the IOMMU, because it
//! was told to, causes an invalidation while it does so. What the host tells the device then waits
//! until it is done; what the processor would tell it at that moment, it does not hear.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::ffi::{c_int, c_uint};
use std::mem::offset_of;
use std::ptr::null_mut;

use svadma_model::abi::{
    BAR_BYTES, DEVICE, PAGE_BYTES, PAGE_GROUPS, PASID_BITS, VECTORS, VENDOR, VERSION, WINDOW_MAX,
};
use svadma_model::host::{
    Access, NoMemory, PageRequest, PageResponse, Permissions, Refused, Translation,
    TranslationRequest,
};
use svadma_model::{Device, Host};

use crate::layout::{self, IotlbEntry, PciClass, PriResponse, TypeInfo, ATTRIBUTES, CLOCK_VIRTUAL};
use crate::symbols::{Pointer, Qemu};
use crate::{ecap, qemu, say};

/// Base system peripheral, other (PCI Code and ID Assignment Specification, 1.9).
const CLASS: u16 = 0x0880;

/// Where the capabilities are in configuration space.
const CAP_EXPRESS: u8 = 0x80;
const CAP_ATS: u16 = 0x100;
const CAP_PASID: u16 = 0x110;
const CAP_PRI: u16 = 0x120;

/// The command register, and its bit for DMA.
const COMMAND: u32 = 0x04;
const COMMAND_MASTER: u32 = 1 << 2;
/// The control register of the PASID capability, and its bit for PASIDs.
const PASID_CONTROL: u32 = CAP_PASID as u32 + 6;
const PASID_ENABLE: u32 = 1 << 0;

const BAR_REGISTERS: c_int = 0;
const BAR_MSIX: u8 = 1;

/// What QEMU calls back for one PASID. Never moves while QEMU knows of it.
#[repr(C)]
struct Notifier {
    /// `IOMMUPRINotifier`: this one function.
    respond: extern "C" fn(*mut Notifier, *const PriResponse),
    /// `IOMMUNotifier`, and more.
    iotlb: [u64; 32],
    instance: *const Instance,
    pasid: u32,
}

/// What the host tells the device.
enum Event {
    Response(u32, u16, PageResponse),
    Invalidation(u32, u64, u64),
}

/// QEMU, for one device.
struct Outside {
    qemu: &'static Qemu,
    /// The `PCIDevice`.
    device: Pointer,
    instance: *const Instance,
    bottom_half: Pointer,
    timer: Pointer,
    notifiers: BTreeMap<u32, Box<Notifier>>,
    /// Whether QEMU was found to answer what it cannot.
    distrusted: bool,
}

/// A device. Lives as long as QEMU does, because regions of memory may be used after the end of
/// their owner.
struct Instance {
    /// The `PCIDevice`; null when it is unplugged.
    device: Cell<Pointer>,
    inside: RefCell<(Device, Outside)>,
    /// What happened while the device was busy.
    events: RefCell<VecDeque<Event>>,
}

/// All devices, under QEMU's big lock.
struct Instances(RefCell<Vec<&'static Instance>>);

// SAFETY: All of this crate's code runs under QEMU's big lock.
unsafe impl Sync for Instances {}

static INSTANCES: Instances = Instances(RefCell::new(Vec::new()));

fn instance_of(device: Pointer) -> Option<&'static Instance> {
    let instances = INSTANCES.0.borrow();
    let mut instances = instances.iter().copied();
    instances.find(|instance| instance.device.get() == device)
}

impl Instance {
    /// Does something with the device, and then what has happened meanwhile. Returns nothing if this
    /// is in the middle of something else.
    fn enter<T>(&self, act: impl FnOnce(&mut Device, &mut Outside) -> T) -> Option<T> {
        let mut inside = self.inside.try_borrow_mut().ok()?;
        let (device, outside) = &mut *inside;
        let result = act(device, outside);
        loop {
            let event = self.events.borrow_mut().pop_front();
            match event {
                Some(Event::Response(pasid, group, response)) => {
                    device.page_response(outside, pasid, group, response);
                }
                Some(Event::Invalidation(pasid, first, last)) => {
                    device.invalidate(pasid, first, last);
                }
                None => return Some(result),
            }
        }
    }

    /// The host tells the device something.
    fn tell(&self, event: Event) {
        self.events.borrow_mut().push_back(event);
        self.enter(|_, _| ());
    }
}

impl Outside {
    /// Moves `data` between the bus and the device.
    fn access(
        &self,
        address: u64,
        data: Pointer,
        bytes: usize,
        write: bool,
    ) -> Result<(), NoMemory> {
        // SAFETY: The callers have `bytes` bytes at `data`, which may be written unless `write`.
        let result = unsafe {
            (self.qemu.address_space_rw)(
                self.qemu.address_space_memory,
                address,
                ATTRIBUTES,
                data,
                bytes as u64,
                write,
            )
        };
        match result {
            0 => Ok(()),
            _ => Err(NoMemory),
        }
    }

    /// Lets go of what QEMU calls back for `pasid`. If it does not, that stays.
    fn unregister(&mut self, pasid: u32) {
        let Some(notifier) = self.notifiers.get_mut(&pasid) else {
            return;
        };
        let iotlb = notifier.iotlb.as_mut_ptr().cast();
        // SAFETY: Both are registered with this PASID.
        let refused = unsafe {
            (self.qemu.pci_pri_unregister_notifier)(self.device, pasid);
            (self.qemu.pci_iommu_unregister_iotlb_notifier)(self.device, pasid, iotlb)
        };
        if refused == 0 {
            self.notifiers.remove(&pasid);
        }
    }
}

impl Host for Outside {
    fn translate(&mut self, request: TranslationRequest, found: &mut Vec<Translation>) {
        let mut entries = [IotlbEntry::EMPTY; WINDOW_MAX as usize];
        let pages = request.pages.min(WINDOW_MAX) as usize;
        let mut errors = 0;
        // SAFETY: As many entries as are said are there.
        let count = unsafe {
            (self.qemu.pci_ats_request_translation)(
                self.device,
                request.pasid,
                false,
                false,
                request.address,
                pages * PAGE_BYTES as usize,
                request.access == Access::Read,
                entries.as_mut_ptr(),
                pages,
                &mut errors,
            )
        };
        let count = usize::try_from(count).unwrap_or(0);
        for entry in entries.iter().take(count) {
            if entry.permissions == 0 {
                continue;
            }
            if !entry.is_plausible(self.qemu, request.pasid) {
                if !self.distrusted {
                    say(
                        "this QEMU has answered a translation request with what cannot be: ignored",
                    );
                }
                self.distrusted = true;
                continue;
            }
            found.push(Translation {
                address: entry.address & !entry.mask,
                bytes: entry.mask + 1,
                target: entry.translated & !entry.mask,
                permissions: Permissions {
                    read: entry.permissions & IotlbEntry::READ != 0,
                    write: entry.permissions & IotlbEntry::WRITE != 0,
                },
            });
        }
    }

    fn request_page(&mut self, request: PageRequest) -> Result<(), Refused> {
        let write = request.access == Access::Write;
        // SAFETY: A notifier for the answer is registered, or QEMU refuses.
        let result = unsafe {
            (self.qemu.pci_pri_request_page)(
                self.device,
                request.pasid,
                false,
                false,
                request.address,
                request.last,
                request.group,
                !write,
                write,
            )
        };
        match result {
            0 => Ok(()),
            _ => Err(Refused),
        }
    }

    fn read(&mut self, address: u64, data: &mut [u8]) -> Result<(), NoMemory> {
        self.access(address, data.as_mut_ptr().cast(), data.len(), false)
    }

    fn write(&mut self, address: u64, data: &[u8]) -> Result<(), NoMemory> {
        // It is only read.
        self.access(address, data.as_ptr().cast_mut().cast(), data.len(), true)
    }

    fn interrupt(&mut self, vector: u32) {
        // SAFETY: The device has that many vectors, and all are in use.
        unsafe { (self.qemu.msix_notify)(self.device, vector) };
    }

    fn attach(&mut self, pasid: u32) -> Result<(), Refused> {
        // One that QEMU has not let go of was for an end of DMA that took it along.
        self.unregister(pasid);
        if self.notifiers.contains_key(&pasid) {
            return Err(Refused);
        }
        let mut notifier = Box::new(Notifier {
            respond,
            iotlb: [0; 32],
            instance: self.instance,
            pasid,
        });
        let whole: *mut Notifier = &mut *notifier;
        let iotlb = notifier.iotlb.as_mut_ptr().cast();
        // SAFETY: The notifier is kept for as long as it is registered.
        let refused = unsafe {
            (self.qemu.pci_pri_register_notifier)(self.device, pasid, whole.cast()) != 0 || {
                let refused = (self.qemu.pci_iommu_init_iotlb_notifier)(
                    self.device,
                    iotlb,
                    invalidated,
                    whole.cast(),
                ) != 0
                    || (self.qemu.pci_iommu_register_iotlb_notifier)(self.device, pasid, iotlb)
                        != 0;
                if refused {
                    (self.qemu.pci_pri_unregister_notifier)(self.device, pasid);
                }
                refused
            }
        };
        if refused {
            return Err(Refused);
        }
        self.notifiers.insert(pasid, notifier);
        Ok(())
    }

    fn detach(&mut self, pasid: u32) {
        self.unregister(pasid);
    }

    fn now(&self) -> u64 {
        // SAFETY: This is one of its clocks.
        let now = unsafe { (self.qemu.qemu_clock_get_ns)(CLOCK_VIRTUAL) };
        u64::try_from(now).unwrap_or(0)
    }

    fn call_at(&mut self, time: u64) {
        // SAFETY: Both live as long as this does.
        unsafe {
            if time <= self.now() {
                (self.qemu.qemu_bh_schedule)(self.bottom_half);
            } else {
                let time = i64::try_from(time).unwrap_or(i64::MAX);
                (self.qemu.timer_mod_ns)(self.timer, time);
            }
        }
    }
}

/// # Safety
///
/// `opaque` is an [`Instance`].
unsafe fn instance<'a>(opaque: Pointer) -> &'a Instance {
    // SAFETY: By the caller's promise; it is never changed but through cells, nor freed.
    unsafe { &*opaque.cast::<Instance>() }
}

extern "C" fn read(opaque: Pointer, offset: u64, bytes: c_uint) -> u64 {
    // SAFETY: The region was made with an instance.
    let instance = unsafe { instance(opaque) };
    if bytes != 4 {
        return u64::MAX;
    }
    let value = instance.enter(|device, outside| device.read(outside, offset));
    u64::from(value.unwrap_or(u32::MAX))
}

extern "C" fn write(opaque: Pointer, offset: u64, value: u64, bytes: c_uint) {
    // SAFETY: The region was made with an instance.
    let instance = unsafe { instance(opaque) };
    if let (Ok(value), 4) = (u32::try_from(value), bytes) {
        instance.enter(|device, outside| device.write(outside, offset, value));
    }
}

/// The bottom half and the timer.
extern "C" fn run(opaque: Pointer) {
    // SAFETY: Both were made with an instance.
    let instance = unsafe { instance(opaque) };
    instance.enter(|device, outside| device.run(outside));
}

/// A group of page requests is answered.
extern "C" fn respond(notifier: *mut Notifier, response: *const PriResponse) {
    // SAFETY: QEMU calls what was registered, with an answer.
    let (notifier, response) = unsafe { (&*notifier, &*response) };
    let (pasid, group) = (notifier.pasid, response.group);
    let response = match response.code {
        0 => PageResponse::Success,
        1 => PageResponse::Invalid,
        _ => PageResponse::Failure,
    };
    // SAFETY: It outlives its notifiers.
    unsafe { &*notifier.instance }.tell(Event::Response(pasid, group, response));
}

/// Translations are taken back.
extern "C" fn invalidated(iotlb: Pointer, entry: *const IotlbEntry) {
    // SAFETY: QEMU calls what was registered, which is this field of a notifier, with an entry.
    let (notifier, entry) = unsafe {
        let notifier = iotlb.byte_sub(offset_of!(Notifier, iotlb));
        (&*notifier.cast::<Notifier>(), &*entry)
    };
    let first = entry.address & !entry.mask;
    let last = entry.address | entry.mask;
    // SAFETY: It outlives its notifiers.
    unsafe { &*notifier.instance }.tell(Event::Invalidation(notifier.pasid, first, last));
}

extern "C" fn realize(device: Pointer, error: *mut Pointer) {
    let qemu = qemu();
    // SAFETY: The device is being realized, and is a PCI device.
    unsafe {
        if (qemu.pcie_endpoint_cap_init)(device, CAP_EXPRESS) < 0 {
            qemu.fail(
                error,
                c"svadma: there is no room for its PCI Express capability",
            );
            return;
        }
        (qemu.pcie_ats_init)(device, CAP_ATS, true);
        (qemu.pcie_pasid_init)(device, CAP_PASID, PASID_BITS as u8, false, false);
        (qemu.pcie_pri_init)(device, CAP_PRI, PAGE_GROUPS as u32, true);
    }

    let instance: &'static Instance = Box::leak(Box::new(Instance {
        device: Cell::new(device),
        inside: RefCell::new((
            Device::new(),
            Outside {
                qemu,
                device,
                instance: std::ptr::null(),
                bottom_half: null_mut(),
                timer: null_mut(),
                notifiers: BTreeMap::new(),
                distrusted: false,
            },
        )),
        events: RefCell::default(),
    }));
    let opaque: Pointer = std::ptr::from_ref(instance).cast_mut().cast();
    {
        let (_, outside) = &mut *instance.inside.borrow_mut();
        outside.instance = instance;
        // SAFETY: The instance is there for ever.
        unsafe {
            outside.bottom_half =
                (qemu.qemu_bh_new_full)(run, opaque, c"svadma".as_ptr(), null_mut());
            outside.timer = layout::timer(qemu, run, opaque);
        }
    }

    // SAFETY: The instance is there for ever.
    let region =
        unsafe { layout::region(qemu, device, (read, write), opaque, c"svadma", BAR_BYTES) };
    let region = match region {
        Ok(region) => region,
        Err(sentence) => {
            qemu.fail(error, sentence);
            return;
        }
    };
    // SAFETY: The region is initialized; the device has that many vectors after the call.
    unsafe {
        (qemu.pci_register_bar)(device, BAR_REGISTERS, 0, region);
        if (qemu.msix_init_exclusive_bar)(device, VECTORS as u16, BAR_MSIX, error) != 0 {
            return;
        }
        for vector in 0..VECTORS {
            (qemu.msix_vector_use)(device, vector);
        }
    }
    if let Err(sentence) = ecap::overlay(qemu, device) {
        say(sentence);
    }
    INSTANCES.0.borrow_mut().push(instance);
}

extern "C" fn exit(device: Pointer) {
    let Some(instance) = instance_of(device) else {
        return;
    };
    instance.enter(|model, outside| {
        model.reset(outside);
        // SAFETY: Nothing uses them any more: the device has no work.
        unsafe {
            (outside.qemu.timer_del)(outside.timer);
            (outside.qemu.qemu_bh_delete)(outside.bottom_half);
            (outside.qemu.msix_uninit_exclusive_bar)(device);
        }
    });
    instance.device.set(null_mut());
    INSTANCES
        .0
        .borrow_mut()
        .retain(|it| !std::ptr::eq(*it, instance));
}

/// QEMU refuses to let go of notifiers once DMA or PASIDs are off, so that has to be done before.
extern "C" fn config_write(device: Pointer, offset: u32, value: u32, bytes: c_int) {
    let end = offset.saturating_add(u32::try_from(bytes).unwrap_or(0));
    let clears = |register: u32, bit: u32| {
        (offset..end).contains(&register) && (value >> ((register - offset) * 8)) & bit == 0
    };
    if clears(COMMAND, COMMAND_MASTER) || clears(PASID_CONTROL, PASID_ENABLE) {
        if let Some(instance) = instance_of(device) {
            instance.enter(|device, outside| device.reset(outside));
        }
    }
    // SAFETY: These are the arguments that QEMU has called this with.
    unsafe { (qemu().pci_default_write_config)(device, offset, value, bytes) };
}

extern "C" fn class_init(class: Pointer, _data: Pointer) {
    let own = PciClass {
        realize,
        exit,
        config_write,
        vendor: VENDOR,
        device: DEVICE,
        revision: VERSION,
        class: CLASS,
    };
    // SAFETY: The class is that of a PCI device, and the layout was checked before this type was
    // registered.
    unsafe { own.store(class) };
}

/// Makes the type known to QEMU.
///
/// # Errors
///
/// QEMU has made something else of it: a sentence.
pub fn register(qemu: &'static Qemu) -> Result<(), String> {
    const NAME: &std::ffi::CStr = c"svadma";
    const PARENT: &std::ffi::CStr = c"pci-device";
    const INTERFACE: &std::ffi::CStr = c"pci-express-device";

    let interfaces = Box::leak(Box::new([INTERFACE.as_ptr(), std::ptr::null()]));
    let info = Box::leak(Box::new(TypeInfo {
        name: NAME.as_ptr(),
        parent: PARENT.as_ptr(),
        instance_size: 0,
        instance_align: 0,
        instance_init: null_mut(),
        instance_post_init: null_mut(),
        instance_finalize: null_mut(),
        is_abstract: false,
        class_size: 0,
        class_init,
        class_base_init: null_mut(),
        class_data: null_mut(),
        interfaces: interfaces.as_ptr(),
    }));
    // SAFETY: All of it is there for ever.
    unsafe { (qemu.type_register_static)(info) };

    let class = layout::class(qemu, NAME)?;
    // SAFETY: This is a class, and so is its parent; names end with a NUL.
    let good = unsafe {
        let parent = (qemu.object_class_get_parent)(class);
        !parent.is_null()
            && std::ffi::CStr::from_ptr((qemu.object_class_get_name)(parent)) == PARENT
            && !(qemu.object_class_dynamic_cast)(class, INTERFACE.as_ptr()).is_null()
            && PciClass::ids(class) == [VENDOR, DEVICE]
    };
    match good {
        true => Ok(()),
        false => Err("this QEMU has made another type of it than was asked for".into()),
    }
}
