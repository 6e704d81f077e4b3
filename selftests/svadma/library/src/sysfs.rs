// SPDX-License-Identifier: GPL-2.0

//! What the device and `iopf` show and take in sysfs.

use std::{fs, io};

/// Where the driver is bound to devices and unbound.
pub const DRIVER: &str = "/sys/bus/pci/drivers/svadma";

/// The PCI address of the device that the driver is bound to.
///
/// # Errors
///
/// It is bound to none, or not loaded.
pub fn device() -> io::Result<String> {
    for entry in fs::read_dir(DRIVER)? {
        let name = entry?.file_name().into_string();
        if let Some(address) = name.ok().filter(|name| name.contains(':')) {
            return Ok(address);
        }
    }
    Err(io::Error::other("the driver is bound to no device"))
}

/// Its directory.
///
/// # Errors
///
/// Those of [`device`].
pub fn directory() -> io::Result<String> {
    Ok(format!("/sys/bus/pci/devices/{}", device()?))
}

/// The path of a file of the device, below `iopf`.
///
/// # Errors
///
/// Those of [`device`].
pub fn attribute_path(name: &str) -> io::Result<String> {
    Ok(format!("{}/iopf/{name}", directory()?))
}

/// What is in it.
///
/// # Errors
///
/// It cannot be read.
pub fn attribute(name: &str) -> io::Result<String> {
    fs::read_to_string(attribute_path(name)?)
}
