// SPDX-License-Identifier: GPL-2.0

//! iopf: devices that work in the address space of a process and serve themselves from its memory.
//!
//! A driver registers its device and binds the process that has opened it; from then on the device
//! may be given any address of the process. What it translates by, what it keeps and what it brings
//! along when it asks for a page is chosen in sysfs. See `Documentation/iopf/`.

use kernel::{
    prelude::*,
    sync::Arc, //
};
use pdio::{
    device::DmaDevice,
    iopf::Mode,
    iopf_service::{
        export_iopf,
        Callbacks,
        Service, //
    }, //
};

mod attributes;
mod binding;
mod departure;
mod device;
mod mirror;
mod pinned;
#[expect(
    dead_code,
    unreachable_pub,
    reason = "the host tests compile the same files, and use all of them"
)]
mod policy;
mod slots;
mod space;
mod statistics;
mod sva;

use binding::Binding;
use device::Device;
use policy::page::{
    Page,
    PageRange,
    SHIFT, //
};

module! {
    type: Iopf,
    name: "iopf",
    authors: ["PDIO developers"],
    description: "I/O page faults: devices in the address space of a process",
    license: "GPL",
}

/// The module. All that it has belongs to the devices that drivers register, which keep it loaded.
struct Iopf;

impl kernel::Module for Iopf {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        Ok(Self)
    }
}

export_iopf!(Iopf);

impl Service for Iopf {
    type Device = Device;
    type Binding = Binding;

    fn register(device: DmaDevice) -> Result<Arc<Device>> {
        Device::register(device)
    }

    fn unregister(device: Arc<Device>) {
        device.unregister();
    }

    fn bind(
        device: &Arc<Device>,
        mode: Option<Mode>,
        callbacks: Callbacks,
    ) -> Result<Arc<Binding>> {
        Binding::new(device, mode, callbacks)
    }

    fn unbind(binding: Arc<Binding>) {
        binding.end();
    }

    fn pasid(binding: &Binding) -> u32 {
        binding.pasid()
    }

    fn mode(binding: &Binding) -> Mode {
        binding.mode()
    }

    fn set_budget(binding: &Binding, bytes: u64) -> Result {
        binding.set_budget_bytes(bytes)
    }

    fn pin(binding: &Binding, start: usize, len: usize) -> Result {
        binding.pin(pages(start, len))
    }

    fn unpin(binding: &Binding, start: usize, len: usize) -> Result {
        binding.unpin(pages(start, len))
    }
}

/// The pages of a range of bytes.
fn pages(start: usize, len: usize) -> PageRange {
    PageRange {
        first: Page::of(start as u64),
        count: len as u64 >> SHIFT,
    }
}
