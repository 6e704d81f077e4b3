// SPDX-License-Identifier: GPL-2.0

//! kvm-ports: what `vpio.ko` has of KVM, for a test program to ask for one by one.
//!
//! Whoever opens `/dev/kvm_ports` may serve ports of a VM of his own and let it access ports of the host
//! that nobody has. See `uapi.rs` for the requests.

pub mod uapi;

use kernel::{
    new_mutex,
    prelude::*,
    sync::{
        Arc,
        Mutex, //
    },
    uaccess::UserSlice, //
};
use pdio::{
    char_device::{
        CharDevice,
        OpenFile, //
    },
    io_region::IoRegion,
    kvm::{
        DirectPorts,
        Handled,
        PortHandler,
        ServedPorts,
        Support,
        Vm,
        Window, //
    },
    register_page::RegisterPage, //
};

use uapi::support;

module! {
    type: KvmPorts,
    name: "kvm_ports",
    authors: ["PDIO developers"],
    description: "What a module has of the ports of a VM, for tests",
    license: "GPL",
}

/// What was served.
#[derive(Clone, Copy, Default)]
struct Counts {
    reads: u64,
    writes: u64,
    last: u64,
}

/// What a file and the handler of its ports share.
#[pin_data]
struct Shared {
    #[pin]
    counts: Mutex<Counts>,
    #[pin]
    direct: Mutex<Option<DirectPorts<IoRegion>>>,
}

/// Answers reads by their offset, and counts.
struct Handler {
    shared: Arc<Shared>,
    /// Offsets that are left to user space, by their bits.
    declined: u64,
}

impl Handler {
    fn declines(&self, offset: u8) -> bool {
        self.declined
            .checked_shr(offset.into())
            .is_some_and(|bits| bits & 1 != 0)
    }
}

impl PortHandler for Handler {
    fn read(&self, offset: u8, data: &mut [u8]) -> Handled {
        if self.declines(offset) {
            return Handled::No;
        }
        for (offset, byte) in (offset..).zip(data) {
            *byte = uapi::answer(offset);
        }
        self.shared.counts.lock().reads += 1;
        Handled::Yes
    }

    fn write(&self, offset: u8, data: &[u8]) -> Handled {
        if self.declines(offset) {
            return Handled::No;
        }

        let value = data
            .iter()
            .rev()
            .fold(0, |value, byte| value << 8 | u32::from(*byte));

        if offset == uapi::ALLOW_OFFSET && data.len() == 4 {
            let direct = self.shared.direct.lock();
            let allowed = |offset: u8| value.checked_shr(offset.into()).unwrap_or(0) & 1 != 0;

            match direct.as_ref().map(|direct| direct.set(allowed)) {
                Some(Ok(())) => (),
                _ => return Handled::No,
            }
        }

        let mut counts = self.shared.counts.lock();

        counts.writes += 1;
        counts.last = value.into();
        Handled::Yes
    }
}

/// An open file.
///
/// Lock order: `vm`, `served`; those of [`Shared`] are taken by the handler, so not while `served` is
/// dropped.
#[pin_data]
struct PortsFile {
    #[pin]
    vm: Mutex<Option<Arc<Vm>>>,
    #[pin]
    served: Mutex<Option<ServedPorts<Handler>>>,
    shared: Arc<Shared>,
}

impl PortsFile {
    fn vm(&self) -> Result<Arc<Vm>> {
        self.vm.lock().clone().ok_or(ENXIO)
    }

    fn attach(&self, descriptor: u64) -> Result {
        let mut vm = self.vm.lock();

        if vm.is_some() {
            return Err(EBUSY);
        }

        let descriptor = u32::try_from(descriptor).map_err(|_| EBADF)?;

        *vm = Some(Arc::new(Vm::from_descriptor(descriptor)?, GFP_KERNEL)?);
        Ok(())
    }

    fn serve(&self, window: Window, declined: u64) -> Result {
        let vm = self.vm()?;
        let mut served = self.served.lock();

        if served.is_some() {
            return Err(EBUSY);
        }

        let shared = self.shared.clone();
        let handler = Arc::new(Handler { shared, declined }, GFP_KERNEL)?;

        *served = Some(ServedPorts::new(vm, window, handler)?);
        Ok(())
    }

    fn end(&self) -> Result {
        self.served.lock().take().map(drop).ok_or(ENXIO)
    }

    fn reserve(&self, window: Window) -> Result {
        let vm = self.vm()?;
        let mut direct = self.shared.direct.lock();

        if direct.is_some() {
            return Err(EBUSY);
        }

        let region = IoRegion::reserve(window, c"kvm-ports")?;

        *direct = Some(DirectPorts::new(vm, Arc::new(region, GFP_KERNEL)?));
        Ok(())
    }

    fn allow(&self, words: &[u64; 4]) -> Result {
        let direct = self.shared.direct.lock();
        let allowed = |offset: u8| {
            words
                .get(usize::from(offset / 64))
                .is_some_and(|word| word >> (offset % 64) & 1 != 0)
        };

        direct.as_ref().ok_or(ENXIO)?.set(allowed)
    }

    fn release_ports(&self) -> Result {
        self.shared.direct.lock().take().map(drop).ok_or(ENXIO)
    }
}

/// Ports that a program names.
fn window(first: u64, count: u64) -> Result<Window> {
    let first = u16::try_from(first).map_err(|_| EINVAL)?;
    let count = u16::try_from(count).map_err(|_| EINVAL)?;

    Window::new(first, count).ok_or(EINVAL)
}

/// Does a request whose argument has `N` words.
fn exchange<const N: usize>(
    memory: UserSlice,
    act: impl FnOnce([u64; N]) -> Result<[u64; N]>,
) -> Result {
    let (mut reader, mut writer) = memory.reader_writer();
    let words = reader.read::<[u64; N]>()?;

    writer.write(&act(words)?)
}

impl OpenFile for PortsFile {
    type Device = ();

    const MODULE: &'static ThisModule = &crate::THIS_MODULE;

    fn open(_device: Arc<()>, _page: Arc<RegisterPage>) -> Result<Arc<Self>> {
        let shared = Arc::pin_init(
            pin_init!(Shared {
                counts <- new_mutex!(Counts::default()),
                direct <- new_mutex!(None),
            }),
            GFP_KERNEL,
        )?;

        Arc::pin_init(
            pin_init!(Self {
                vm <- new_mutex!(None),
                served <- new_mutex!(None),
                shared,
            }),
            GFP_KERNEL,
        )
    }

    fn release(&self) {
        let _ = self.end();
        let _ = self.release_ports();
        // KVM is not needed any more.
        drop(self.vm.lock().take());
    }

    fn request(&self, number: u32, memory: UserSlice) -> Result {
        match number {
            uapi::SUPPORT => exchange(memory, |_: [u64; 1]| {
                Ok([match Support::probe() {
                    Support::Absent => support::ABSENT,
                    Support::Stock => support::STOCK,
                    Support::Patched => support::PATCHED,
                }])
            }),
            uapi::ATTACH => exchange(memory, |words @ [descriptor]| {
                self.attach(descriptor)?;
                Ok(words)
            }),
            uapi::SERVE => exchange(memory, |words @ [first, count, declined]| {
                self.serve(window(first, count)?, declined)?;
                Ok(words)
            }),
            uapi::END => self.end(),
            uapi::COUNTS => exchange(memory, |_: [u64; 3]| {
                let Counts {
                    reads,
                    writes,
                    last,
                } = *self.shared.counts.lock();

                Ok([reads, writes, last])
            }),
            uapi::RESERVE => exchange(memory, |words @ [first, count]| {
                self.reserve(window(first, count)?)?;
                Ok(words)
            }),
            uapi::ALLOW => exchange(memory, |words| {
                self.allow(&words)?;
                Ok(words)
            }),
            uapi::RELEASE => self.release_ports(),
            _ => Err(ENOTTY),
        }
    }
}

/// The module.
struct KvmPorts {
    _file: Pin<KBox<CharDevice<PortsFile>>>,
}

impl kernel::Module for KvmPorts {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        let device = Arc::new((), GFP_KERNEL)?;

        Ok(Self {
            _file: KBox::pin_init(CharDevice::register(c"kvm_ports", device), GFP_KERNEL)?,
        })
    }
}
