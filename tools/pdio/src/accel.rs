// SPDX-License-Identifier: GPL-2.0

//! Whether KVM can be used.
//!
//! That `/dev/kvm` exists proves little: some hosts have one that cannot boot
//! a stock kernel. So this boots one, once, and remembers the outcome until
//! QEMU, the guest's kernel or the host's kernel change.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::cache::{self, Kernel};
use crate::guest::{Guest, Lost};
use crate::initramfs::{self, Payload};
use crate::interrupt;
use crate::qemu::{self, Accel, Console, Disks, Iommu, Machine};

/// A machine under KVM that has not booted by then never will.
const TIMEOUT: Duration = Duration::from_secs(15);

/// The decision, and what it rests on.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Verdict {
    /// Whether KVM boots the kernel.
    pub kvm: bool,
    /// Why, in words for the user.
    pub reason: String,
    key: String,
}

impl Verdict {
    /// The accelerator to use.
    pub fn accel(&self) -> Accel {
        if self.kvm { Accel::Kvm } else { Accel::Tcg }
    }
}

/// Decides, or recalls an earlier decision.
pub fn decide(kernel: &Kernel, payload: &Payload) -> Result<Verdict> {
    let host = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let device = match fs::File::options().read(true).write(true).open("/dev/kvm") {
        Ok(_) => "usable",
        Err(error) if error.kind() == io::ErrorKind::NotFound => "absent",
        Err(_) => "no access",
    };
    let key = format!(
        "qemu {} kernel {} host {} kvm {device}",
        qemu::version()?,
        kernel.release,
        host.trim()
    );
    let path = cache::directory()?.join("accel");
    if let Some(verdict) = recall(&path, &key) {
        return Ok(verdict);
    }

    let (kvm, reason) = match device {
        "absent" => (false, "there is no /dev/kvm".to_owned()),
        "no access" => (
            false,
            "/dev/kvm may not be opened; add yourself to its group to use it".to_owned(),
        ),
        _ => match try_kvm(kernel, payload) {
            Ok(()) => (true, "the kernel boots under KVM".to_owned()),
            Err(error) => {
                interrupt::check()?;
                (
                    false,
                    format!("KVM does not boot the kernel: {}", brief(&error)),
                )
            }
        },
    };
    let verdict = Verdict { kvm, reason, key };
    // Only a saving of time is lost when this fails.
    if let Some(dir) = path.parent() {
        let _ = fs::create_dir_all(dir);
    }
    if let Ok(text) = serde_json::to_string(&verdict) {
        let _ = fs::write(&path, text + "\n");
    }
    Ok(verdict)
}

/// The error without the guest's console.
fn brief(error: &anyhow::Error) -> String {
    match error.downcast_ref() {
        Some(Lost::Died(_)) => "the guest died".into(),
        Some(Lost::Hung(after, _)) => format!("no sign of life within {} s", after.as_secs()),
        None => format!("{error:#}").replace('\n', "; "),
    }
}

fn recall(path: &Path, key: &str) -> Option<Verdict> {
    let text = fs::read_to_string(path).ok()?;
    let verdict: Verdict = serde_json::from_str(&text).ok()?;
    (verdict.key == key).then_some(verdict)
}

fn try_kvm(kernel: &Kernel, payload: &Payload) -> Result<()> {
    let dir = tempfile::Builder::new().prefix("pdio-").tempdir()?;
    let initrd = dir.path().join("initrd");
    let payload = Payload {
        scripts: payload.scripts.clone(),
        ..Payload::default()
    };
    initramfs::write(&initramfs::build(kernel, &payload)?, &initrd)?;
    let machine = Machine {
        accel: Accel::Kvm,
        iommu: Iommu::IntelScalable,
        cpus: Some(1),
        memory_mib: 1024,
        icount: false,
        disks: Disks::Null,
        devices: false,
        external_port: None,
        svadma: None,
        guests: false,
        console: Console::File(dir.path().join("console")),
        control: None,
        kernel: kernel.image.clone(),
        initrd,
        append: vec!["quiet".into()],
    };
    Guest::boot(&machine, TIMEOUT)?.ok("true", TIMEOUT)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_is_recalled_for_the_same_key_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("accel");
        assert_eq!(recall(&path, "a"), None);

        let verdict = Verdict {
            kvm: true,
            reason: "x".into(),
            key: "a".into(),
        };
        fs::write(&path, serde_json::to_string(&verdict).unwrap()).unwrap();
        assert_eq!(recall(&path, "a"), Some(verdict));
        assert_eq!(recall(&path, "b"), None);

        fs::write(&path, "garbage").unwrap();
        assert_eq!(recall(&path, "a"), None);
    }
}
