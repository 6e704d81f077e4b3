// SPDX-License-Identifier: GPL-2.0

//! `-device svadma` for a stock QEMU, loaded at run time.
//!
//! Under TCG as a plugin, `-plugin libsvadma.so`; with any accelerator by `LD_PRELOAD`. Nothing of
//! QEMU is built against, or built: its executable exports the functions that are needed, and what
//! has to be known beyond them is in `layout`, which checks all of it that can be checked against
//! the QEMU that it is in. What it does not know, it refuses, with a sentence and before there is
//! a machine.
//!
//! The device itself is `svadma-model`. It wants an Intel IOMMU in front of it on the command line:
//! `-device intel-iommu,scalable-mode=on,fsts=on,svm=on,pasid-bits=20,device-iotlb=on`, and to be
//! behind a `pcie-root-port`.

mod device;
mod ecap;
mod layout;
mod symbols;

use std::ffi::c_int;
use std::sync::OnceLock;

use symbols::{Pointer, Qemu};

/// The QEMU that this is loaded into.
static QEMU: OnceLock<Qemu> = OnceLock::new();

/// The functions of QEMU.
fn qemu() -> &'static Qemu {
    match QEMU.get() {
        Some(qemu) => qemu,
        // Whatever calls here was registered when they had been found.
        None => std::process::abort(),
    }
}

/// Tells a person.
fn say(sentence: &str) {
    eprintln!("svadma: {sentence}");
}

/// Makes `-device svadma` known. Does nothing if it is.
fn register() -> Result<(), String> {
    if QEMU.get().is_some() {
        return Ok(());
    }
    let found = Qemu::find()?;
    let qemu = QEMU.get_or_init(|| found);
    layout::check(qemu)?;
    device::register(qemu)
}

/// What the plugin loader wants to know: the interface that this is written for.
#[no_mangle]
pub static qemu_plugin_version: c_int = 7;

/// Called by the plugin loader.
#[no_mangle]
pub extern "C" fn qemu_plugin_install(
    _id: u64,
    _info: Pointer,
    _argc: c_int,
    _argv: Pointer,
) -> c_int {
    match register() {
        Ok(()) => 0,
        Err(sentence) => {
            say(&sentence);
            -1
        }
    }
}

/// Called by QEMU when its types can be registered, if this was preloaded.
extern "C" fn preloaded() {
    if let Err(sentence) = register() {
        say(&sentence);
        std::process::exit(1);
    }
}

/// When QEMU calls back what is registered with it: `MODULE_INIT_MIGRATION`, the first moment after
/// its types are known.
const AFTER_TYPES: c_int = 0;

/// Runs before `main`, in any program that this is preloaded into; most of them are not QEMU.
extern "C" fn constructor() {
    let executable = std::fs::read_link("/proc/self/exe").unwrap_or_default();
    let name = executable.file_name().unwrap_or_default();
    if !name.to_string_lossy().starts_with("qemu-system-") {
        return;
    }
    match symbols::register_module_init() {
        // SAFETY: This is what QEMU's own constructors call it with.
        Some(register_module_init) => unsafe { register_module_init(preloaded, AFTER_TYPES) },
        None => {
            say("this QEMU does not export register_module_init");
            std::process::exit(1);
        }
    }
}

#[used]
#[link_section = ".init_array"]
static CONSTRUCTOR: extern "C" fn() = constructor;
