// SPDX-License-Identifier: GPL-2.0

//! What a machine needs that runs guests of its own: QEMU with its libraries and firmware, modules, and
//! the guests' kernel and file system.

use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::cache::Kernel;
use crate::initramfs::{self, Archive, Modules, Payload};
use crate::qemu::QEMU;

/// Where a machine finds kernel (`vmlinuz`) and file system (`initrd`) for its guests.
pub const GUESTS_DIR: &str = "/pdio/guest";

/// Programs of the machine, besides those that each machine has. The last ones are an ssh server,
/// a client, and what makes keys for both.
pub const PROGRAMS: [&str; 4] = [QEMU, "dropbear", "dbclient", "dropbearkey"];

/// Modules of the machine: what hands devices to guests, the network around them, and the host's own
/// drivers of the cards.
pub const MODULES: [&str; 8] = [
    "vfio_iommu_type1",
    "vfio_pci",
    "mdev",
    "tun",
    "bridge",
    "e1000",
    "ne2k_pci",
    "8139cp",
];

/// Programs of a guest, besides busybox and ours.
const GUEST_PROGRAMS: [&str; 2] = ["chrt", "dbclient"];

/// Drivers that a guest has for its card; its kernel parameters say which it loads.
const GUEST_MODULES: [&str; 3] = ["ne2k_pci", "8139too", "8139cp"];

/// Of our modules, those that a guest has: a driver that ill-treats its card.
const GUEST_TESTS: [&str; 1] = ["port_storm"];

/// Of QEMU's firmware, what a PC without screen and option ROMs loads.
const FIRMWARE: [&str; 3] = [
    "/usr/share/seabios/bios-256k.bin",
    "/usr/share/qemu/kvmvapic.bin",
    "/usr/share/qemu/linuxboot_dma.bin",
];

/// Adds firmware, and the guests' kernel and file system.
pub fn add(archive: &mut Archive, kernel: &Kernel, payload: &Payload) -> Result<()> {
    for path in FIRMWARE {
        archive.file(path, Path::new(path))?;
    }
    let dir = Path::new(GUESTS_DIR);
    archive.file(dir.join("vmlinuz"), &kernel.image)?;

    let mut initrd = Vec::new();
    file_system(kernel, payload)?.write(&mut initrd)?;
    archive.bytes(dir.join("initrd"), 0o644, initrd);
    Ok(())
}

/// A guest's file system. As little as possible: it is unpacked by a CPU that is emulated twice.
fn file_system(kernel: &Kernel, payload: &Payload) -> Result<Archive> {
    let mut archive = Archive::default();
    initramfs::skeleton(&mut archive);
    initramfs::busybox(&mut archive)?;

    let mut programs = Vec::new();
    for name in GUEST_PROGRAMS {
        let path = initramfs::find_program(name).with_context(|| {
            format!("{name} is not installed; run inside the sysroot (see `make doctor`)")
        })?;
        programs.push(path);
    }
    let load = payload.programs.iter();
    programs.extend(load.filter(|path| path.ends_with("pdio-load")).cloned());
    for path in &programs {
        let name = path.file_name().unwrap_or_default();
        archive.file(Path::new("/usr/bin").join(name), path)?;
    }
    initramfs::libraries(&mut archive, &programs)?;
    let mut tests = Vec::new();
    for path in &payload.modules {
        if path
            .file_stem()
            .is_some_and(|name| GUEST_TESTS.iter().any(|test| name == *test))
        {
            tests.push(path.clone());
        }
    }
    initramfs::modules(
        &mut archive,
        kernel,
        &Modules {
            load: &[],
            more: &GUEST_MODULES,
            ours: &tests,
        },
    )?;

    let Some(scripts) = &payload.scripts else {
        bail!("the guest's scripts (selftests/vm) were not found");
    };
    archive.file("/pdio/vm/agent", &scripts.join("agent"))?;
    archive.file("/init", &scripts.join("guest-init"))?;
    Ok(archive)
}
