// SPDX-License-Identifier: GPL-2.0

//! Where the set-up put the kernel, and where this program may keep things.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The cache directory that the set-up scripts share with this program.
pub fn directory() -> Result<PathBuf> {
    if let Some(dir) = env::var_os("PDIO_CACHE") {
        return Ok(dir.into());
    }
    if let Some(dir) = env::var_os("XDG_CACHE_HOME") {
        return Ok(Path::new(&dir).join("pdio"));
    }
    match env::var_os("HOME") {
        Some(home) => Ok(Path::new(&home).join(".cache/pdio")),
        None => bail!("neither PDIO_CACHE, XDG_CACHE_HOME nor HOME is set; set PDIO_CACHE"),
    }
}

/// A kernel as the set-up lays it out: image and installed modules.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// What `uname -r` says in the guest.
    pub release: String,
    /// The bootable image.
    pub image: PathBuf,
    /// `…/lib/modules/<release>`.
    pub modules: PathBuf,
}

impl Kernel {
    /// Opens the kernel named by `PDIO_KERNEL`, or the cache's current one.
    pub fn find() -> Result<Self> {
        let dir = match env::var_os("PDIO_KERNEL") {
            Some(dir) => PathBuf::from(dir),
            None => directory()?.join("kernel"),
        };
        Self::open(&dir)
    }

    /// Opens the kernel in `dir`.
    pub fn open(dir: &Path) -> Result<Self> {
        let release = fs::read_to_string(dir.join("release"))
            .with_context(|| {
                format!(
                    "no kernel in {}; run `make doctor`, or set PDIO_KERNEL",
                    dir.display()
                )
            })?
            .trim()
            .to_owned();
        let kernel = Self {
            image: dir.join("vmlinuz"),
            modules: dir.join("modules/lib/modules").join(&release),
            release,
        };
        for path in [&kernel.image, &kernel.modules] {
            if !path.exists() {
                bail!("{} is missing; run `make doctor`", path.display());
            }
        }
        Ok(kernel)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_needs_release_image_and_modules() {
        let dir = tempfile::tempdir().unwrap();
        let error = Kernel::open(dir.path()).unwrap_err();
        assert!(format!("{error:#}").contains("make doctor"));

        fs::write(dir.path().join("release"), "7.2.0-test\n").unwrap();
        assert!(Kernel::open(dir.path()).is_err());

        fs::write(dir.path().join("vmlinuz"), "").unwrap();
        fs::create_dir_all(dir.path().join("modules/lib/modules/7.2.0-test")).unwrap();
        assert_eq!(Kernel::open(dir.path()).unwrap().release, "7.2.0-test");
    }
}
