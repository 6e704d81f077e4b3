// SPDX-License-Identifier: GPL-2.0

//! A PCI function that user space is given by VFIO, made by a driver: it has a configuration space, ports
//! behind BAR 0, and INTx, and may reach the memory of user space.
//!
//! C header: [`include/linux/vfio.h`](srctree/include/linux/vfio.h)

use core::{
    mem::{
        size_of,
        ManuallyDrop, //
    },
    ops::RangeInclusive,
    ptr::{
        self,
        NonNull, //
    }, //
};

use kernel::{
    error::{
        from_err_ptr,
        from_result,
        to_result, //
    },
    ffi::{
        c_char,
        c_int,
        c_long,
        c_uint,
        c_ulong, //
    },
    fs::file::Offset,
    ioctl::_IO,
    new_mutex,
    prelude::*,
    sync::{
        Arc,
        Mutex, //
    },
    types::Opaque,
    uaccess::{
        UserPtr,
        UserSlice, //
    }, //
};

use crate::{
    bindings,
    device::raw,
    eventfd::EventFd,
    kvm::Vm,
    mdev::MediatedDevice,
    scatterlist::page_to_phys, //
};

/// What user space wants of INTx.
pub enum Interrupt {
    /// That it is signalled by this eventfd, or not at all; unmasked.
    Trigger(Option<EventFd>),
    /// That it is raised, whatever the device does.
    Raise,
    /// That it is masked.
    Mask,
    /// That it is unmasked: it is raised again if the device still wants it.
    Unmask,
    /// That it is unmasked whenever the eventfd at this descriptor is signalled, or not any more.
    UnmaskBy(Option<i32>),
}

/// A function that a driver makes.
///
/// An offset and the bytes from there on are what user space says; an access to ports has 1, 2 or 4 bytes
/// and is aligned to that. All of it may sleep. Errors are what the system call is to return.
pub trait Function: Send + Sync + 'static {
    /// Whether it pins [`Memory`]. Then it hears of memory that goes.
    const PINS: bool;

    /// Number of ports behind BAR 0.
    fn bar0_len(&self) -> u16;

    /// User space opens it, with the VM that it is for: there may be none (`ENODEV`), or one whose KVM
    /// can do nothing for modules (`EOPNOTSUPP`). The memory is that of user space until the function is
    /// closed.
    ///
    /// # Errors
    ///
    /// It cannot.
    fn open(&self, vm: Result<Vm>, memory: &Memory) -> Result;

    /// User space is about to take memory away: nothing of these addresses may be pinned when this
    /// returns. Only if it [`PINS`](Self::PINS); and while the function is open, but for that at any time.
    fn unmapped(&self, addresses: RangeInclusive<u64>);

    /// Nobody has it open any more. Nobody calls the rest until it is opened again.
    fn close(&self);

    /// Reads the configuration space.
    ///
    /// # Errors
    ///
    /// `EINVAL`: there is no such register.
    fn read_config(&self, offset: usize, data: &mut [u8]) -> Result;

    /// Writes to the configuration space.
    ///
    /// # Errors
    ///
    /// `EINVAL`: there is no such register.
    fn write_config(&self, offset: usize, data: &[u8]) -> Result;

    /// Reads ports.
    fn read_ports(&self, offset: u8, data: &mut [u8]);

    /// Writes to ports.
    fn write_ports(&self, offset: u8, data: &[u8]);

    /// Does something about INTx.
    ///
    /// # Errors
    ///
    /// `EBADF`, `EINVAL`: that is no eventfd. `EBUSY`: there is one already. `ENOMEM`.
    fn interrupt(&self, request: Interrupt) -> Result;

    /// Resets the function.
    fn reset(&self);
}

/// A device whose memory can be pinned.
///
/// # Invariants
///
/// The device is open.
struct Opened(NonNull<bindings::vfio_device>);

// SAFETY: A device belongs to no thread.
unsafe impl Send for Opened {}

/// The memory that user space lets the function reach, by the addresses that it has chosen: those of a
/// guest's physical memory, as a rule.
#[derive(Clone)]
pub struct Memory(Arc<Mutex<Option<Opened>>>);

// It is only a reference, whatever that is to.
impl Unpin for Memory {}

impl Memory {
    /// That of a device which is not open.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    fn new() -> Result<Self> {
        Ok(Self(Arc::pin_init(new_mutex!(None), GFP_KERNEL)?))
    }

    /// Pins the page at an address, a multiple of the page size, for reading and writing. May sleep.
    ///
    /// # Errors
    ///
    /// `EINVAL`, `ENOENT`: nothing is there that could be pinned. `EPERM`: it cannot be written to. Others:
    /// it cannot be pinned now; of these, `ENODEV`: the function is not open, and `ENOMEM`: user space has
    /// as much locked as it may (`RLIMIT_MEMLOCK`), or there is no memory.
    #[inline]
    pub fn pin(&self, address: u64) -> Result<PinnedPage> {
        let opened = self.0.lock();
        let device = opened.as_ref().ok_or(ENODEV)?.0.as_ptr();
        let mut page = ptr::null_mut();

        // SAFETY: By the type invariant the device is open, and as long as the lock is held it stays so.
        // There is room for one page.
        let pinned = unsafe {
            bindings::vfio_pin_pages(
                device,
                address,
                1,
                (bindings::IOMMU_READ | bindings::IOMMU_WRITE) as c_int,
                &mut page,
            )
        };

        match pinned {
            // INVARIANT: It was just pinned.
            1 => Ok(PinnedPage {
                memory: self.clone(),
                address,
                phys: page_to_phys(page),
            }),
            error => Err(to_result(error).err().unwrap_or(EFAULT)),
        }
    }
}

/// A page of user space that is pinned until this is dropped, which may sleep. That has to be before the
/// function is closed.
///
/// # Invariants
///
/// The page at `address` is pinned, by us, as long as the device is open.
pub struct PinnedPage {
    memory: Memory,
    address: u64,
    phys: u64,
}

impl PinnedPage {
    /// Its physical address.
    pub fn phys(&self) -> u64 {
        self.phys
    }
}

impl Drop for PinnedPage {
    #[inline]
    fn drop(&mut self) {
        let opened = self.memory.0.lock();

        match opened.as_ref() {
            // SAFETY: By the type invariants; the device stays open as long as the lock is held.
            Some(opened) => unsafe {
                bindings::vfio_unpin_pages(opened.0.as_ptr(), self.address, 1)
            },
            None => kernel::pr_warn_once!(
                "a page at 0x{:x} outlives whoever had it pinned\n",
                self.address
            ),
        }
    }
}

/// What VFIO knows of a function.
///
/// # Invariants
///
/// `device` is at offset 0.
#[repr(C)]
struct Instance<T> {
    device: Opaque<bindings::vfio_device>,
    /// Dropped by the last reference to the device; so is the memory.
    function: ManuallyDrop<Arc<T>>,
    memory: ManuallyDrop<Memory>,
}

/// A function that user space can open, until this is dropped: which waits for it to be closed.
///
/// # Invariants
///
/// The device is registered, and a reference to it is ours.
pub struct Registration<T: Function> {
    instance: NonNull<Instance<T>>,
}

// SAFETY: A registration belongs to no thread.
unsafe impl<T: Function> Send for Registration<T> {}

// SAFETY: It offers nothing.
unsafe impl<T: Function> Sync for Registration<T> {}

/// Where a region is in the file: its number is above these bits, as with the kernel's own vfio-pci.
const OFFSET_SHIFT: u32 = 40;

const TYPE: u32 = b';' as u32;
const BASE: u32 = 100;
const GET_INFO: u32 = _IO(TYPE, BASE + 7);
const GET_IRQ_INFO: u32 = _IO(TYPE, BASE + 9);
const SET_IRQS: u32 = _IO(TYPE, BASE + 10);
const RESET: u32 = _IO(TYPE, BASE + 11);

/// What is to be read or written.
enum Region {
    Config,
    Ports,
}

/// How many bytes of `left` from `offset` on are accessed at once.
fn piece(offset: u64, left: usize) -> usize {
    match left {
        4.. if offset % 4 == 0 => 4,
        2.. if offset % 2 == 0 => 2,
        _ => 1,
    }
}

impl<T: Function> Registration<T> {
    const OPERATIONS: bindings::vfio_device_ops = bindings::vfio_device_ops {
        name: c"pdio".to_bytes_with_nul().as_ptr().cast_mut(),
        release: Some(Self::release),
        open_device: Some(Self::open),
        close_device: Some(Self::close),
        read: Some(Self::read),
        write: Some(Self::write),
        ioctl: Some(Self::ioctl),
        get_region_info_caps: Some(Self::region_info),
        dma_unmap: if T::PINS { Some(Self::unmapped) } else { None },
        #[cfg(CONFIG_IOMMUFD)]
        bind_iommufd: Some(bindings::vfio_iommufd_emulated_bind),
        #[cfg(CONFIG_IOMMUFD)]
        unbind_iommufd: Some(bindings::vfio_iommufd_emulated_unbind),
        #[cfg(CONFIG_IOMMUFD)]
        attach_ioas: Some(bindings::vfio_iommufd_emulated_attach_ioas),
        #[cfg(CONFIG_IOMMUFD)]
        detach_ioas: Some(bindings::vfio_iommufd_emulated_detach_ioas),
        // SAFETY: All of it may be null.
        ..unsafe { core::mem::zeroed() }
    };

    /// Lets user space open a function as this device. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub fn new(device: &MediatedDevice, function: Arc<T>) -> Result<Self> {
        let memory = Memory::new()?;

        // SAFETY: The device is valid; the size is that of an instance, which begins with what the
        // function expects.
        let instance = from_err_ptr(unsafe {
            bindings::_vfio_alloc_device(
                size_of::<Instance<T>>(),
                raw(device.device()),
                &Self::OPERATIONS,
            )
        })?
        .cast::<Instance<T>>();

        // SAFETY: The memory is that of an instance, and nobody else knows it so far. From here on it is
        // `release` that drops the function.
        unsafe {
            (&raw mut (*instance).function).write(ManuallyDrop::new(function));
            (&raw mut (*instance).memory).write(ManuallyDrop::new(memory));

            if let Err(error) =
                to_result(bindings::vfio_register_emulated_iommu_dev(instance.cast()))
            {
                bindings::put_device(&raw mut (*instance.cast::<bindings::vfio_device>()).device);
                return Err(error);
            }
        }

        // INVARIANT: It was just registered.
        NonNull::new(instance)
            .map(|instance| Self { instance })
            .ok_or(ENOMEM)
    }

    /// The function behind a device.
    ///
    /// # Safety
    ///
    /// `device` is that of an instance, which stays for `'a`.
    unsafe fn function<'a>(device: *mut bindings::vfio_device) -> &'a T {
        // SAFETY: By the safety requirement.
        unsafe { &(*device.cast::<Instance<T>>()).function }
    }

    /// The memory that a device can reach while it is open.
    ///
    /// # Safety
    ///
    /// `device` is that of an instance, which stays for `'a`.
    unsafe fn memory<'a>(device: *mut bindings::vfio_device) -> &'a Memory {
        // SAFETY: By the safety requirement.
        unsafe { &(*device.cast::<Instance<T>>()).memory }
    }

    /// The last reference is gone.
    ///
    /// # Safety
    ///
    /// `device` is that of an instance, which nobody uses.
    unsafe extern "C" fn release(device: *mut bindings::vfio_device) {
        let instance = device.cast::<Instance<T>>();

        // SAFETY: By the safety requirement; nobody will use them any more.
        unsafe {
            ManuallyDrop::drop(&mut (*instance).function);
            ManuallyDrop::drop(&mut (*instance).memory);
        }
    }

    /// Opens it.
    ///
    /// # Safety
    ///
    /// `device` is that of an instance.
    unsafe extern "C" fn open(device: *mut bindings::vfio_device) -> c_int {
        from_result(|| {
            // SAFETY: By the safety requirement. VFIO holds a reference to the VM meanwhile.
            let (function, memory, vm) = unsafe {
                (
                    Self::function(device),
                    Self::memory(device),
                    Vm::from_raw((*device).kvm),
                )
            };

            // INVARIANT: It is being opened, until `close` is called.
            *memory.0.lock() = NonNull::new(device).map(Opened);
            function
                .open(vm, memory)
                .inspect_err(|_| *memory.0.lock() = None)?;
            Ok(0)
        })
    }

    /// Closes it.
    ///
    /// # Safety
    ///
    /// `device` is that of an instance.
    unsafe extern "C" fn close(device: *mut bindings::vfio_device) {
        // SAFETY: By the safety requirement.
        let (function, memory) = unsafe { (Self::function(device), Self::memory(device)) };

        function.close();
        *memory.0.lock() = None;
    }

    /// User space takes memory away.
    ///
    /// # Safety
    ///
    /// `device` is that of an instance.
    unsafe extern "C" fn unmapped(device: *mut bindings::vfio_device, start: u64, len: u64) {
        if let Some(more) = len.checked_sub(1) {
            // SAFETY: By the safety requirement.
            unsafe { Self::function(device) }.unmapped(start..=start.saturating_add(more));
        }
    }

    /// What is at a place in the file, if all `bytes` are there.
    fn region(function: &T, position: u64, bytes: usize) -> Result<(Region, u64)> {
        let offset = position & ((1 << OFFSET_SHIFT) - 1);
        let (region, len) = match (position >> OFFSET_SHIFT) as u32 {
            bindings::VFIO_PCI_CONFIG_REGION_INDEX => (Region::Config, CONFIG_LEN),
            bindings::VFIO_PCI_BAR0_REGION_INDEX => (Region::Ports, function.bar0_len().into()),
            _ => return Err(EINVAL),
        };

        match len.checked_sub(offset) {
            Some(left) if bytes as u64 <= left => Ok((region, offset)),
            _ => Err(EINVAL),
        }
    }

    /// Reads.
    ///
    /// # Safety
    ///
    /// `device` is that of an instance, `position` is valid.
    unsafe extern "C" fn read(
        device: *mut bindings::vfio_device,
        buffer: *mut c_char,
        count: usize,
        position: *mut Offset,
    ) -> isize {
        from_result(|| {
            // SAFETY: By the safety requirements.
            let (function, start) = unsafe { (Self::function(device), *position as u64) };
            let (region, mut offset) = Self::region(function, start, count)?;
            let mut writer = UserSlice::new(UserPtr::from_ptr(buffer.cast()), count).writer();

            while !writer.is_empty() {
                let mut bytes = [0; 4];
                let data = &mut bytes[..piece(offset, writer.len())];

                match region {
                    Region::Config => function.read_config(offset as usize, data)?,
                    Region::Ports => function.read_ports(offset as u8, data),
                }
                writer.write_slice(data)?;
                offset += data.len() as u64;
            }
            // SAFETY: By the safety requirements.
            unsafe { *position += count as Offset };
            Ok(count as isize)
        })
    }

    /// Writes.
    ///
    /// # Safety
    ///
    /// `device` is that of an instance, `position` is valid.
    unsafe extern "C" fn write(
        device: *mut bindings::vfio_device,
        buffer: *const c_char,
        count: usize,
        position: *mut Offset,
    ) -> isize {
        from_result(|| {
            // SAFETY: By the safety requirements.
            let (function, start) = unsafe { (Self::function(device), *position as u64) };
            let (region, mut offset) = Self::region(function, start, count)?;
            let mut reader =
                UserSlice::new(UserPtr::from_ptr(buffer.cast_mut().cast()), count).reader();

            while !reader.is_empty() {
                let mut bytes = [0; 4];
                let data = &mut bytes[..piece(offset, reader.len())];

                reader.read_slice(data)?;
                match region {
                    Region::Config => function.write_config(offset as usize, data)?,
                    Region::Ports => function.write_ports(offset as u8, data),
                }
                offset += data.len() as u64;
            }
            // SAFETY: By the safety requirements.
            unsafe { *position += count as Offset };
            Ok(count as isize)
        })
    }

    /// Where a region is.
    ///
    /// # Safety
    ///
    /// `device` is that of an instance, `info` is valid.
    unsafe extern "C" fn region_info(
        device: *mut bindings::vfio_device,
        info: *mut bindings::vfio_region_info,
        _capabilities: *mut bindings::vfio_info_cap,
    ) -> c_int {
        // SAFETY: By the safety requirements.
        let (function, info) = unsafe { (Self::function(device), &mut *info) };

        info.size = match info.index {
            bindings::VFIO_PCI_CONFIG_REGION_INDEX => CONFIG_LEN,
            bindings::VFIO_PCI_BAR0_REGION_INDEX => function.bar0_len().into(),
            0..bindings::VFIO_PCI_NUM_REGIONS => 0,
            _ => return EINVAL.to_errno(),
        };
        info.offset = u64::from(info.index) << OFFSET_SHIFT;
        info.flags = match info.size {
            0 => 0,
            _ => bindings::VFIO_REGION_INFO_FLAG_READ | bindings::VFIO_REGION_INFO_FLAG_WRITE,
        };
        0
    }

    /// A request.
    ///
    /// # Safety
    ///
    /// `device` is that of an instance.
    unsafe extern "C" fn ioctl(
        device: *mut bindings::vfio_device,
        number: c_uint,
        argument: c_ulong,
    ) -> c_long {
        // SAFETY: By the safety requirement.
        let function = unsafe { Self::function(device) };
        let memory = UserPtr::from_addr(argument);

        from_result(|| {
            match number {
                GET_INFO => exchange(memory, |[len, ..]| {
                    Ok([
                        len,
                        bindings::VFIO_DEVICE_FLAGS_PCI | bindings::VFIO_DEVICE_FLAGS_RESET,
                        bindings::VFIO_PCI_NUM_REGIONS,
                        bindings::VFIO_PCI_NUM_IRQS,
                    ])
                }),
                GET_IRQ_INFO => exchange(memory, |[len, _, index, _]| {
                    const INTX: u32 = bindings::VFIO_IRQ_INFO_EVENTFD
                        | bindings::VFIO_IRQ_INFO_MASKABLE
                        | bindings::VFIO_IRQ_INFO_AUTOMASKED;

                    match index {
                        bindings::VFIO_PCI_INTX_IRQ_INDEX => Ok([len, INTX, index, 1]),
                        0..bindings::VFIO_PCI_NUM_IRQS => Ok([len, 0, index, 0]),
                        _ => Err(EINVAL),
                    }
                }),
                SET_IRQS => Self::set_interrupt(function, memory),
                RESET => {
                    function.reset();
                    Ok(())
                }
                _ => Err(ENOTTY),
            }
            .map(|()| 0)
        })
    }

    /// What user space wants of an interrupt.
    fn set_interrupt(function: &T, memory: UserPtr) -> Result {
        let mut reader = UserSlice::new(memory, HEADER_LEN).reader();
        let header @ [_, flags, index, _, count] = reader.read::<[u32; HEADER_LEN / 4]>()?;
        let lines = u32::from(index == bindings::VFIO_PCI_INTX_IRQ_INDEX);
        let mut len = 0;

        // SAFETY: Both are valid during the call, and the header has all its words.
        to_result(unsafe { bindings::pdio_vfio_check_irqs(header.as_ptr(), lines, &mut len) })?;

        let mut data = UserSlice::new(memory.wrapping_byte_add(HEADER_LEN), len).reader();
        let request = match (
            flags & bindings::VFIO_IRQ_SET_ACTION_TYPE_MASK,
            flags & bindings::VFIO_IRQ_SET_DATA_TYPE_MASK,
            count,
        ) {
            // No line at all: that is the end of it.
            (bindings::VFIO_IRQ_SET_ACTION_TRIGGER, bindings::VFIO_IRQ_SET_DATA_NONE, 0) => {
                Interrupt::Trigger(None)
            }
            (_, _, 0) => return Err(EINVAL),
            (action, bindings::VFIO_IRQ_SET_DATA_EVENTFD, _) => {
                let descriptor = data.read::<i32>()?;

                match action {
                    bindings::VFIO_IRQ_SET_ACTION_TRIGGER => Interrupt::Trigger(match descriptor {
                        0.. => Some(EventFd::from_descriptor(descriptor)?),
                        _ => None,
                    }),
                    bindings::VFIO_IRQ_SET_ACTION_UNMASK => {
                        Interrupt::UnmaskBy((descriptor >= 0).then_some(descriptor))
                    }
                    _ => return Err(ENOTTY),
                }
            }
            (action, kind, _) => {
                if kind == bindings::VFIO_IRQ_SET_DATA_BOOL && data.read::<u8>()? == 0 {
                    return Ok(());
                }
                match action {
                    bindings::VFIO_IRQ_SET_ACTION_TRIGGER => Interrupt::Raise,
                    bindings::VFIO_IRQ_SET_ACTION_MASK => Interrupt::Mask,
                    bindings::VFIO_IRQ_SET_ACTION_UNMASK => Interrupt::Unmask,
                    _ => return Err(EINVAL),
                }
            }
        };

        function.interrupt(request)
    }
}

/// Number of bytes in the configuration space of a PCI function.
const CONFIG_LEN: u64 = 256;

/// Number of bytes in `struct vfio_irq_set` before its data: size, flags, index, start, count.
const HEADER_LEN: usize = size_of::<[u32; 5]>();

/// Does a request whose argument begins with four words, the first of which is its size.
fn exchange(memory: UserPtr, act: impl FnOnce([u32; 4]) -> Result<[u32; 4]>) -> Result {
    const LEN: usize = size_of::<[u32; 4]>();

    let (mut reader, mut writer) = UserSlice::new(memory, LEN).reader_writer();
    let words @ [len, ..] = reader.read::<[u32; 4]>()?;

    if (len as usize) < LEN {
        return Err(EINVAL);
    }
    writer.write(&act(words)?)
}

impl<T: Function> Drop for Registration<T> {
    fn drop(&mut self) {
        let device = self.instance.as_ptr().cast::<bindings::vfio_device>();

        // SAFETY: By the type invariant.
        unsafe {
            bindings::vfio_unregister_group_dev(device);
            bindings::put_device(&raw mut (*device).device);
        }
    }
}
