// SPDX-License-Identifier: GPL-2.0

//! Ports of a KVM guest that a module serves, or lets the guest access directly.
//!
//! KVM offers that to modules if it has `vpio/kvm/kvm-pio.patch`; but it may be a stock one, or not be
//! loaded at all. So its functions are looked for when there is a VM, and not when the module that uses
//! this is loaded. KVM cannot be unloaded as long as one of them is held.
//!
//! C headers: [`arch/x86/include/asm/kvm_host.h`](srctree/arch/x86/include/asm/kvm_host.h) with that
//! patch, [`include/kvm/iodev.h`](srctree/include/kvm/iodev.h)

use core::{
    fmt,
    mem::transmute_copy,
    ptr::{
        self,
        NonNull, //
    }, //
};

use kernel::{
    error::to_result,
    ffi::{
        c_int,
        c_ulong,
        c_void, //
    },
    fs::LocalFile,
    prelude::*,
    sync::Arc,
    types::Opaque, //
};

use crate::{
    bindings,
    error::not_supported,
    io_region::HostPorts, //
};

/// What the KVM that is loaded can do for a module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    /// There is none.
    Absent,
    /// Nothing: it is a stock one.
    Stock,
    /// All of this file, as far as the CPU can.
    Patched,
}

impl Support {
    /// What it is now: KVM may be loaded, and unloaded, at any time. May sleep.
    pub fn probe() -> Self {
        // SAFETY: This is not called.
        let known = |name| unsafe { Function::<unsafe extern "C" fn()>::get(name) }.is_some();

        if !known(GET) {
            Self::Absent
        } else if !known(MACHINE_CHECK) {
            Self::Stock
        } else {
            Self::Patched
        }
    }

    /// What it is, in words.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Absent => "KVM is not loaded",
            Self::Stock => "KVM is without kvm-pio.patch",
            Self::Patched => "KVM has kvm-pio.patch",
        }
    }
}

impl fmt::Display for Support {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

const GET: &CStr = c"kvm_get_kvm_safe";
const PUT: &CStr = c"kvm_put_kvm";
const IS_VM: &CStr = c"file_is_kvm";
const REGISTER: &CStr = c"kvm_pio_register_dev";
const UNREGISTER: &CStr = c"kvm_pio_unregister_dev";
const PASSTHROUGH: &CStr = c"kvm_pio_passthrough";
const MACHINE_CHECK: &CStr = c"kvm_pio_machine_check";

type Get = unsafe extern "C" fn(*mut bindings::kvm) -> bool;
type Put = unsafe extern "C" fn(*mut bindings::kvm);
type IsVm = unsafe extern "C" fn(*mut bindings::file) -> bool;
type Register =
    unsafe extern "C" fn(*mut bindings::kvm, u16, u32, *mut bindings::kvm_io_device) -> c_int;
type Unregister = unsafe extern "C" fn(*mut bindings::kvm, *mut bindings::kvm_io_device);
type Passthrough = unsafe extern "C" fn(*mut bindings::kvm, u16, u32, *const c_ulong) -> c_int;
type MachineCheck = unsafe extern "C" fn(*mut bindings::kvm_vcpu, bindings::gpa_t);

/// A function of another module, which stays loaded until this is dropped.
///
/// # Invariants
///
/// `call` is the symbol `name`; a reference to the module that exports it is ours.
struct Function<F> {
    name: &'static CStr,
    call: F,
}

impl<F: Copy> Function<F> {
    /// The function that a module which is loaded exports, if there is one. May sleep.
    ///
    /// # Safety
    ///
    /// `F` is the type of a pointer to the function of this name.
    unsafe fn get(name: &'static CStr) -> Option<Self> {
        const { assert!(size_of::<F>() == size_of::<NonNull<c_void>>()) };

        // SAFETY: The name is a string.
        let address = NonNull::new(unsafe { bindings::__symbol_get(name.as_char_ptr()) })?;

        // INVARIANT: The symbol was found, and the reference is ours now.
        Some(Self {
            name,
            // SAFETY: By the safety requirement; both have the size of a pointer.
            call: unsafe { transmute_copy(&address) },
        })
    }
}

impl<F> Drop for Function<F> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant.
        unsafe { bindings::__symbol_put(self.name.as_char_ptr()) };
    }
}

/// A VM, on a KVM that offers its ports to modules. It is not destroyed as long as this is there.
///
/// # Invariants
///
/// `raw` is valid and a reference to it is ours; the functions are those of its KVM.
pub struct Vm {
    raw: NonNull<bindings::kvm>,
    put: Function<Put>,
    register: Function<Register>,
    unregister: Function<Unregister>,
    passthrough: Function<Passthrough>,
    machine_check: Function<MachineCheck>,
}

// SAFETY: A VM belongs to no thread.
unsafe impl Send for Vm {}

// SAFETY: KVM does its own locking.
unsafe impl Sync for Vm {}

impl Vm {
    /// The VM that KVM knows by `raw`: what a `vfio_device` has in its field `kvm` while it is open.
    /// May sleep.
    ///
    /// # Errors
    ///
    /// `ENODEV`: it is null, KVM is not loaded, or the VM is being destroyed. `EOPNOTSUPP`: KVM is a
    /// stock one; see [`Support`].
    ///
    /// # Safety
    ///
    /// `raw` is null or points to a VM that is not freed during the call.
    pub(crate) unsafe fn from_raw(raw: *mut bindings::kvm) -> Result<Self> {
        let raw = NonNull::new(raw).ok_or(ENODEV)?;

        // SAFETY: These are the types of the functions.
        let (get, put, register, unregister, passthrough, machine_check) = unsafe {
            (
                Function::<Get>::get(GET).ok_or(ENODEV)?,
                Function::<Put>::get(PUT).ok_or(ENODEV)?,
                Function::<Register>::get(REGISTER).ok_or_else(not_supported)?,
                Function::<Unregister>::get(UNREGISTER).ok_or_else(not_supported)?,
                Function::<Passthrough>::get(PASSTHROUGH).ok_or_else(not_supported)?,
                Function::<MachineCheck>::get(MACHINE_CHECK).ok_or_else(not_supported)?,
            )
        };

        // SAFETY: By the safety requirement.
        match unsafe { (get.call)(raw.as_ptr()) } {
            // INVARIANT: The reference was just taken.
            true => Ok(Self {
                raw,
                put,
                register,
                unregister,
                passthrough,
                machine_check,
            }),
            false => Err(ENODEV),
        }
    }

    /// The VM that the current process has at a descriptor. May sleep.
    ///
    /// # Errors
    ///
    /// `EBADF`: there is no such descriptor. `EINVAL`: it is something else. As for a VM that VFIO
    /// knows: `ENODEV`, `EOPNOTSUPP`.
    pub fn from_descriptor(descriptor: u32) -> Result<Self> {
        // SAFETY: This is the type of the function.
        let is_vm = unsafe { Function::<IsVm>::get(IS_VM) }.ok_or(ENODEV)?;
        let file = LocalFile::fget(descriptor)?;
        let raw = file.as_ptr();

        // SAFETY: The file is open.
        if !unsafe { (is_vm.call)(raw) } {
            return Err(EINVAL);
        }
        // SAFETY: That is where the file of a VM has it, for as long as it is open.
        unsafe { Self::from_raw((*raw).private_data.cast()) }
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        // SAFETY: By the type invariant.
        unsafe { (self.put.call)(self.raw.as_ptr()) };
    }
}

/// Ports of a guest: as many as a function's I/O BAR has, at most 256 (PCI Local Bus Specification
/// 3.0, section 6.2.5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    first: u16,
    count: u16,
}

impl Window {
    /// The largest number of ports.
    pub const COUNT_MAX: u16 = 256;

    /// `count` ports from `first` on. None if there are not so many, or the number is 0 or larger than
    /// [`Window::COUNT_MAX`].
    pub const fn new(first: u16, count: u16) -> Option<Self> {
        match count != 0 && count <= Self::COUNT_MAX && count - 1 <= u16::MAX - first {
            true => Some(Self { first, count }),
            false => None,
        }
    }

    /// The first port.
    pub const fn first(self) -> u16 {
        self.first
    }

    /// The number of ports, 1 to [`Window::COUNT_MAX`].
    pub const fn count(self) -> u16 {
        self.count
    }
}

/// Whether an access was handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "an access that is not handled goes to user space"]
pub enum Handled {
    /// It was.
    Yes,
    /// It was not, and goes to user space.
    No,
    /// It was refused, for it would have had the device access this guest-physical address. The virtual
    /// CPU gets a machine check, if it has any: an error of an I/O request that cannot be corrected.
    Refused(u64),
}

/// What handles a guest's accesses to the ports of a [`Window`].
///
/// It is called by the thread of the virtual CPU, by several at once if there are several. It may sleep,
/// and may change [`DirectPorts`]; but a lock that it takes must not be held where [`ServedPorts`] are
/// dropped, for that waits until it has returned.
pub trait PortHandler: Send + Sync + 'static {
    /// The guest reads 1, 2 or 4 bytes at `offset` in the window, none of them beyond it.
    fn read(&self, offset: u8, data: &mut [u8]) -> Handled;

    /// The guest writes 1, 2 or 4 bytes at `offset` in the window, none of them beyond it.
    fn write(&self, offset: u8, data: &[u8]) -> Handled;
}

/// What KVM knows a handler by.
///
/// # Invariants
///
/// `device` is at offset 0.
#[repr(C)]
struct Device<T> {
    device: Opaque<bindings::kvm_io_device>,
    vm: Arc<Vm>,
    window: Window,
    handler: Arc<T>,
}

impl<T> Device<T> {
    /// Tells KVM of an access.
    ///
    /// # Safety
    ///
    /// `vcpu` is a virtual CPU of the VM, and this is its thread.
    unsafe fn answer(&self, vcpu: *mut bindings::kvm_vcpu, handled: Handled) -> c_int {
        match handled {
            Handled::Yes => 0,
            Handled::No => not_supported().to_errno(),
            Handled::Refused(address) => {
                // SAFETY: By the safety requirement.
                unsafe { (self.vm.machine_check.call)(vcpu, address) };
                0
            }
        }
    }
}

/// Ports of a guest that are handled in the kernel, until this is dropped. That may sleep, and the
/// handler is not being called any more afterwards.
///
/// An access that begins or ends outside of the window goes to user space, as does what the handler does
/// not handle. Ports that the guest accesses directly never come here.
///
/// # Invariants
///
/// The device is registered, and stays where it is.
pub struct ServedPorts<T: PortHandler>(KBox<Device<T>>);

// SAFETY: A registration belongs to no thread.
unsafe impl<T: PortHandler> Send for ServedPorts<T> {}

// SAFETY: It offers nothing.
unsafe impl<T: PortHandler> Sync for ServedPorts<T> {}

impl<T: PortHandler> ServedPorts<T> {
    const OPERATIONS: bindings::kvm_io_device_ops = bindings::kvm_io_device_ops {
        read: Some(Self::read),
        write: Some(Self::write),
        destructor: None,
    };

    /// Lets `handler` handle the ports of `window`. May sleep, but not be called by a handler.
    ///
    /// # Errors
    ///
    /// `EEXIST`: the kernel already handles one of them for this VM. `ENOMEM`, `ENOSPC`.
    pub fn new(vm: Arc<Vm>, window: Window, handler: Arc<T>) -> Result<Self> {
        let device = KBox::new(
            Device {
                device: Opaque::new(bindings::kvm_io_device {
                    ops: &Self::OPERATIONS,
                }),
                vm,
                window,
                handler,
            },
            GFP_KERNEL,
        )?;

        // SAFETY: The VM is valid by its type invariant. The device stays where it is, in the box, until
        // it is unregistered by `drop`.
        to_result(unsafe {
            (device.vm.register.call)(
                device.vm.raw.as_ptr(),
                window.first,
                window.count.into(),
                device.device.get(),
            )
        })?;
        // INVARIANT: Just done.
        Ok(Self(device))
    }

    /// The offset of a port, and the bytes of the access to it.
    ///
    /// # Safety
    ///
    /// `this` is the device of a registered `Self`, and `value` points to `len` bytes that nobody else
    /// uses during `'a`.
    unsafe fn access<'a>(
        this: *mut bindings::kvm_io_device,
        port: bindings::gpa_t,
        len: c_int,
        value: *mut c_void,
    ) -> Option<(&'a Device<T>, u8, &'a mut [u8])> {
        // SAFETY: The device is embedded in one, which stays until it is unregistered; that waits.
        let device = unsafe { &*this.cast::<Device<T>>() };
        let offset = port.checked_sub(device.window.first.into())?;

        Some((
            device,
            u8::try_from(offset).ok()?,
            // SAFETY: By the safety requirement.
            unsafe { core::slice::from_raw_parts_mut(value.cast(), usize::try_from(len).ok()?) },
        ))
    }

    /// A read.
    ///
    /// # Safety
    ///
    /// As for [`Self::access`].
    unsafe extern "C" fn read(
        vcpu: *mut bindings::kvm_vcpu,
        this: *mut bindings::kvm_io_device,
        port: bindings::gpa_t,
        len: c_int,
        value: *mut c_void,
    ) -> c_int {
        // SAFETY: By the safety requirement.
        match unsafe { Self::access(this, port, len, value) } {
            Some((device, offset, data)) => {
                // Whatever was there is not for the guest.
                data.fill(0);

                let handled = device.handler.read(offset, data);

                // SAFETY: KVM calls this in the thread of the virtual CPU that reads.
                unsafe { device.answer(vcpu, handled) }
            }
            None => not_supported().to_errno(),
        }
    }

    /// A write.
    ///
    /// # Safety
    ///
    /// As for [`Self::access`], but that `value` is only read.
    unsafe extern "C" fn write(
        vcpu: *mut bindings::kvm_vcpu,
        this: *mut bindings::kvm_io_device,
        port: bindings::gpa_t,
        len: c_int,
        value: *const c_void,
    ) -> c_int {
        // SAFETY: By the safety requirement; the bytes are not written to.
        match unsafe { Self::access(this, port, len, value.cast_mut()) } {
            Some((device, offset, data)) => {
                let handled = device.handler.write(offset, data);

                // SAFETY: KVM calls this in the thread of the virtual CPU that writes.
                unsafe { device.answer(vcpu, handled) }
            }
            None => not_supported().to_errno(),
        }
    }
}

impl<T: PortHandler> Drop for ServedPorts<T> {
    fn drop(&mut self) {
        // SAFETY: By the type invariants.
        unsafe { (self.0.vm.unregister.call)(self.0.vm.raw.as_ptr(), self.0.device.get()) };
    }
}

/// Ports of the host, of which a guest may access some directly, without an exit; the guest's port is the
/// host's of the same number. At first it may access none, and when this is dropped, which may sleep, none
/// any more.
///
/// This is no more than leave to do so: an access to such a port can still come to where all others go.
/// KVM may have to emulate the instruction, and what a nested guest does always exits.
pub struct DirectPorts<P: HostPorts> {
    vm: Arc<Vm>,
    ports: Arc<P>,
}

impl<P: HostPorts> DirectPorts<P> {
    /// None of `ports`.
    pub fn new(vm: Arc<Vm>, ports: Arc<P>) -> Self {
        Self { vm, ports }
    }

    /// Which ports these are.
    pub fn window(&self) -> Window {
        self.ports.window()
    }

    /// Lets the guest access the ports for whose offset in the window `allowed` is true, and no others of
    /// them. An access goes through if all bytes that it covers are allowed: 16 bits take two ports.
    ///
    /// The guest has stopped to access the others when this returns. May sleep; a handler may call it.
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP`: the CPU cannot do it, or the guest is protected from its host. `ENOMEM`. Either
    /// happens only to the first call for a VM.
    pub fn set(&self, allowed: impl Fn(u8) -> bool) -> Result {
        let mut map = [0; Window::COUNT_MAX as usize / c_ulong::BITS as usize];

        for (offset, word) in (0..).step_by(c_ulong::BITS as usize).zip(&mut map) {
            for bit in 0..c_ulong::BITS {
                let allowed = u8::try_from(offset + bit).is_ok_and(&allowed);

                *word |= c_ulong::from(allowed) << bit;
            }
        }
        self.change(Some(&map))
    }

    /// Lets the guest access none of the ports. It has stopped to when this returns. May sleep; a handler
    /// may call it.
    pub fn clear(&self) {
        // That fails only where no port can have been allowed.
        let _ = self.change(None);
    }

    fn change(&self, map: Option<&[c_ulong; 4]>) -> Result {
        let window = self.ports.window();

        // SAFETY: The VM is valid by its type invariant. The map has a bit for each port that a window can
        // have. That the ports are ours to give is what `HostPorts` promises; `drop` takes them back.
        to_result(unsafe {
            (self.vm.passthrough.call)(
                self.vm.raw.as_ptr(),
                window.first,
                window.count.into(),
                map.map_or(ptr::null(), |map| map.as_ptr()),
            )
        })
    }
}

impl<P: HostPorts> Drop for DirectPorts<P> {
    fn drop(&mut self) {
        self.clear();
    }
}
