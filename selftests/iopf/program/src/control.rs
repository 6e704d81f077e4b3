// SPDX-License-Identifier: GPL-2.0

//! The device as a whole, which the tests make err.

use std::fs;

use svadma::abi::{register, Probe, ProbeResult, PAGE_RESPONSE_TIMEOUT_MS};
use svadma::sysfs::directory;
pub use svadma::sysfs::{attribute, attribute_path};
use svadma::uapi;

use crate::case::Result;
use crate::requests::Device;

/// What the IOMMU in front of the device can do: the Capability Register of VT-d (11.4.2).
pub fn iommu_capabilities() -> Result<u64> {
    let text = fs::read_to_string(format!("{}/iommu/intel-iommu/cap", directory()?))?;
    Ok(u64::from_str_radix(text.trim(), 16)?)
}

/// A line of the list of who is bound.
pub struct Binding {
    pub pasid: u32,
    pub pid: u32,
    pub mode: String,
    pub pages: u64,
    /// None in mode `sva`.
    pub limit: Option<u64>,
}

/// All who are bound, as far as the list goes.
pub fn bindings() -> Result<Vec<Binding>> {
    let text = attribute("bindings")?;
    let lines = text.lines().filter(|line| !line.is_empty());
    let all = lines.map(|line| {
        let word = |name: &str| {
            let mut words = line.split_whitespace();
            words.find_map(|word| word.strip_prefix(name))
        };
        Some(Binding {
            pasid: word("pasid=")?.parse().ok()?,
            pid: word("pid=")?.parse().ok()?,
            mode: word("mode=")?.into(),
            pages: word("pages=")?.parse().ok()?,
            limit: match word("limit=") {
                Some(limit) => Some(limit.parse().ok()?),
                None => None,
            },
        })
    });
    let all: Option<Vec<_>> = all.collect();
    all.ok_or_else(|| format!("{text} is not understood").into())
}

/// What is listed of this process, which is bound once.
pub fn own_binding() -> Result<Binding> {
    let mut all = bindings()?.into_iter();
    let own = all.find(|it| it.pid == std::process::id());
    Ok(own.ok_or("this process is not bound")?)
}

/// A number of the statistics.
pub fn statistic(name: &str) -> Result<u64> {
    Ok(attribute(&format!("statistics/{name}"))?.trim().parse()?)
}

/// Files of the device, until this is dropped: then they read as they did.
pub struct Settings {
    before: Vec<(String, String)>,
}

impl Settings {
    pub fn keep(names: &[&str]) -> Result<Self> {
        let mut before = Vec::new();
        for name in names {
            let path = attribute_path(name)?;
            let value = fs::read_to_string(&path)?;
            // Of a choice it is the one in brackets.
            let chosen = value
                .split_once('[')
                .and_then(|(_, rest)| rest.split_once(']'));
            let value = chosen.map_or(value.trim(), |(chosen, _)| chosen).to_owned();
            before.push((path, value));
        }
        Ok(Self { before })
    }
}

impl Drop for Settings {
    fn drop(&mut self) {
        for (path, value) in &self.before {
            // A device that is gone has none.
            let _ = fs::write(path, value);
        }
    }
}

/// Sets a file of the device.
pub fn set(name: &str, value: impl std::fmt::Display) -> Result {
    Ok(fs::write(attribute_path(name)?, value.to_string())?)
}

/// The PASID of this process, which is bound once.
pub fn own_pasid() -> Result<u32> {
    Ok(own_binding()?.pasid)
}

/// Registers that concern all consumers, until this is dropped: then the device does as it should.
pub struct Control {
    device: Device,
}

impl Control {
    pub fn new() -> Result<Self> {
        Ok(Self {
            device: Device::open()?,
        })
    }

    /// The IOMMU will say something about accesses, until the program ends: what it has to say comes
    /// by an interrupt, which may be later than all else that the access leads to.
    pub fn expecting_faults() -> Result<Self> {
        fs::write("/dev/kmsg", "pdio: expect fault\n")?;
        Self::new()
    }

    pub fn set(&self, register: u64, value: u32) -> Result {
        let words = [register, value.into()];
        Ok(self.device.request(uapi::WRITE_REGISTER, &words)?)
    }

    pub fn get(&self, register: u64) -> Result<u32> {
        let mut words = [register, 0];
        self.device
            .request_at(uapi::READ_REGISTER, words.as_mut_ptr() as u64)?;
        Ok(words[1] as u32)
    }

    /// Has the device try an access, which writes zeros if it is one that writes.
    pub fn probe(&self, probe: Probe, pasid: u32, address: u64) -> Result<ProbeResult> {
        self.set(register::PROBE_ADDRESS, address as u32)?;
        self.set(register::PROBE_ADDRESS + 4, (address >> 32) as u32)?;
        self.set(register::PROBE_DATA, 0)?;
        self.set(register::PROBE_PASID, pasid)?;
        self.set(register::PROBE_COMMAND, probe.number())?;
        let result = ProbeResult::from_number(self.get(register::PROBE_RESULT)?);
        Ok(result.ok_or("an unknown result")?)
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        for (register, value) in [
            (register::INJECT_DROPPED_RESPONSES, 0),
            (register::INJECT_LATE_RESPONSES, 0),
            (register::INJECT_DAMAGED_DESCRIPTORS, 0),
            (register::INJECT_FOREIGN_PASIDS, 0),
            (register::PAGE_REQUEST_WINDOW, 1),
            (register::PAGE_RESPONSE_TIMEOUT_MS, PAGE_RESPONSE_TIMEOUT_MS),
        ] {
            // A device that is gone does nothing any more.
            let _ = self.set(register, value);
        }
    }
}
