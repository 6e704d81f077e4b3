// SPDX-License-Identifier: GPL-2.0

//! What a run leaves behind: `results.json`, `iopf.json`, `vpio.json`, `vpio-turns.json` and `run.json`.
//!
//! The schema is described in `Documentation/dma-map-cache/results-schema.rst`, that of `iopf.json` by
//! [`Figure`](iopf_bench::figure::Figure), those of the last two by
//! [`Load`](crate::vpio::Load) and [`Turns`](crate::vpio::turns::Turns).

use std::fs;
use std::io;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::iopf::Measured;
use crate::vpio;

/// One workload under one strategy in one round.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Such as `tcp-rr`.
    pub workload: String,
    /// PCI addresses of the devices that the workload crosses, separated by a space.
    pub device: String,
    /// Their driver.
    pub driver: String,
    /// `kernel-identity`, `kernel-lazy`, `kernel-strict`, or one of ours.
    pub strategy: String,
    /// Size of a message, a block or a mapping.
    pub message_bytes: u64,
    /// From 1.
    pub round: u32,
    /// In `unit`.
    pub throughput: f64,
    /// Of `throughput`.
    pub unit: String,
    /// `instructions` or `wall`: what a nanosecond of the guest is.
    pub clock: String,
    /// Guest instructions per operation; only with the clock `instructions`.
    pub instructions_per_op: Option<f64>,
    /// Guest time from the first operation to the last.
    pub elapsed_ns: u64,
    /// The part of it in which the CPU had something to do.
    pub busy_ns: u64,
    /// `busy_ns` in percent of `elapsed_ns`.
    pub cpu_percent: f64,
    /// Operations in the timed pass, and in the counted one.
    pub ops: u64,
    /// IOTLB invalidation descriptors given to the IOMMU; none where its driver has no event for
    /// them.
    pub invalidations: Option<u64>,
    /// Buffers mapped.
    pub maps: u64,
    /// Buffers unmapped.
    pub unmaps: u64,
    /// Leaf page-table entries written or cleared, in units of 4 KiB.
    pub pte_updates: u64,
    /// Maps that needed no page-table write; none in the kernel's modes.
    pub hits: Option<u64>,
    /// The others.
    pub misses: Option<u64>,
    /// The IOMMU, as `pdio --iommu` calls it.
    pub iommu: String,
    /// Kernel release of the guest.
    pub kernel: String,
    /// Version of QEMU.
    pub qemu: String,
    /// What executed the guest.
    pub accelerator: String,
}

/// A check of content, from a machine that is not measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContentCheck {
    /// The strategy.
    pub strategy: String,
    /// What was transferred, and where.
    pub what: String,
    /// Nothing was damaged, lost or out of order.
    pub passed: bool,
    /// What went wrong.
    pub detail: String,
}

/// About a run as a whole.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// `demo` or `bench`.
    pub kind: String,
    /// Rounds of the workload that had most of them.
    pub rounds: u32,
    /// Kernel release of the guest.
    pub kernel: String,
    /// Version of QEMU.
    pub qemu: String,
    /// The measuring machines.
    pub machines: Vec<String>,
    /// Why KVM or TCG.
    pub accelerator: String,
    /// Wall time of the run.
    pub seconds: u64,
    /// What the full set has and this run has not.
    pub left_out: Vec<String>,
    /// The checks of content.
    pub content: Vec<ContentCheck>,
    /// Why machines failed, of which nothing is in the results.
    #[serde(default)]
    pub failed: Vec<String>,
}

impl Run {
    /// Whether no machine failed, and no content was damaged.
    pub fn is_good(&self) -> bool {
        self.failed.is_empty() && self.content.iter().all(|check| check.passed)
    }
}

/// Name of the records' file.
pub const RESULTS: &str = "results.json";
/// Name of the file of figures about devices that fault.
pub const IOPF: &str = "iopf.json";
/// Name of the file of what guests with a card have done.
pub const VPIO: &str = "vpio.json";
/// Name of the file of how guests have shared a card.
pub const TURNS: &str = "vpio-turns.json";
const RUN: &str = "run.json";

/// All that a run leaves behind.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Results {
    /// About the run.
    pub run: Run,
    /// What DMA mapping costs.
    pub records: Vec<Record>,
    /// What devices that fault cost.
    pub figures: Vec<Measured>,
    /// What guests with a card have done.
    pub loads: Vec<vpio::Measured<vpio::Load>>,
    /// How guests have shared a card.
    pub turns: Vec<vpio::Measured<vpio::turns::Turns>>,
}

/// Writes it to `dir`.
pub fn save(dir: &Path, results: &Results) -> Result<()> {
    write(&dir.join(RUN), &serde_json::to_string_pretty(&results.run)?)?;
    write(&dir.join(RESULTS), &lines(&results.records)?)?;
    save_any(&dir.join(IOPF), &results.figures)?;
    save_any(&dir.join(VPIO), &results.loads)?;
    save_any(&dir.join(TURNS), &results.turns)
}

/// Writes a file of a part of the run, which is not there if that was not run.
fn save_any<T: Serialize>(path: &Path, all: &[T]) -> Result<()> {
    if !all.is_empty() {
        return write(path, &lines(all)?);
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove the old {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// An array, one element to a line: easy on diff, grep and the eye.
fn lines<T: Serialize>(all: &[T]) -> Result<String> {
    let lines: Vec<String> = all
        .iter()
        .map(serde_json::to_string)
        .collect::<Result<_, _>>()?;
    Ok(format!("[\n{}\n]", lines.join(",\n")))
}

/// Reads it from `dir`.
pub fn load(dir: &Path) -> Result<Results> {
    Ok(Results {
        run: read(&dir.join(RUN))?,
        records: read(&dir.join(RESULTS))?,
        figures: read_any(&dir.join(IOPF))?,
        loads: read_any(&dir.join(VPIO))?,
        turns: read_any(&dir.join(TURNS))?,
    })
}

/// What a file has; nothing, if there is none.
fn read_any<T: for<'a> Deserialize<'a>>(path: &Path) -> Result<Vec<T>> {
    match path.exists() {
        true => read(path),
        false => Ok(Vec::new()),
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, format!("{text}\n")).with_context(|| format!("cannot write {}", path.display()))
}

fn read<T: for<'a> Deserialize<'a>>(path: &Path) -> Result<T> {
    let text = fs::read_to_string(path).with_context(|| {
        format!(
            "cannot read {}; `make demo` or `make bench` writes it",
            path.display()
        )
    })?;
    serde_json::from_str(&text)
        .with_context(|| format!("{} is not what `pdio` wrote", path.display()))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A plausible record, for tests.
    pub(crate) fn record(workload: &str, strategy: &str, bytes: u64, round: u32) -> Record {
        Record {
            workload: workload.into(),
            device: "0000:00:02.0 0000:00:03.0".into(),
            driver: "e1000e".into(),
            strategy: strategy.into(),
            message_bytes: bytes,
            round,
            throughput: 100.0,
            unit: "Mbit/s".into(),
            clock: "instructions".into(),
            instructions_per_op: Some(1000.0),
            elapsed_ns: 110,
            busy_ns: 100,
            cpu_percent: 90.9,
            ops: 10,
            invalidations: Some(20),
            maps: 20,
            unmaps: 20,
            pte_updates: 40,
            hits: None,
            misses: None,
            iommu: "intel-legacy".into(),
            kernel: "7.2.0".into(),
            qemu: "11.1.3".into(),
            accelerator: "tcg".into(),
        }
    }

    #[test]
    fn what_was_saved_is_loaded() {
        let dir = tempfile::tempdir().unwrap();
        let records = vec![
            record("udp", "kernel-strict", 64, 1),
            record("udp", "cached", 64, 2),
        ];
        let run = Run {
            kind: "demo".into(),
            rounds: 2,
            ..Run::default()
        };
        let figure = iopf_bench::figure::Figure::Pass(crate::iopf::tests::pass(
            "sva",
            iopf_bench::figure::Load::StreamFirst,
            1,
        ));
        let results = Results {
            run,
            records,
            figures: vec![crate::iopf::tests::measured("wall", figure)],
            loads: vec![vpio::tests::measured("hook", "ssh", 12)],
            turns: vec![vpio::turns::tests::measured(5_000, "a", 12)],
        };
        save(dir.path(), &results).unwrap();
        assert_eq!(load(dir.path()).unwrap(), results);
    }

    #[test]
    fn what_was_not_run_leaves_no_file_nor_an_old_one() {
        let dir = tempfile::tempdir().unwrap();
        let mut results = Results {
            records: vec![record("udp", "cached", 64, 1)],
            loads: vec![vpio::tests::measured("hook", "ssh", 12)],
            ..Results::default()
        };
        save(dir.path(), &results).unwrap();
        assert!(dir.path().join(VPIO).exists());
        results.loads.clear();
        save(dir.path(), &results).unwrap();
        for file in [IOPF, VPIO, TURNS] {
            assert!(!dir.path().join(file).exists(), "{file}");
        }
        assert_eq!(load(dir.path()).unwrap(), results);
    }

    #[test]
    fn the_file_is_an_array_of_objects_with_the_promised_fields() {
        let dir = tempfile::tempdir().unwrap();
        let results = Results {
            records: vec![record("udp", "cached", 64, 1)],
            ..Results::default()
        };
        save(dir.path(), &results).unwrap();
        let text = fs::read_to_string(dir.path().join(RESULTS)).unwrap();
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        let object = value[0].as_object().unwrap();
        for field in [
            "workload",
            "device",
            "driver",
            "strategy",
            "message_bytes",
            "round",
            "throughput",
            "unit",
            "instructions_per_op",
            "invalidations",
            "maps",
            "unmaps",
            "pte_updates",
            "hits",
            "misses",
            "ops",
            "iommu",
            "kernel",
            "qemu",
            "accelerator",
        ] {
            assert!(object.contains_key(field), "{field}");
        }
    }

    #[test]
    fn a_damaged_file_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        assert!(load(dir.path()).is_err());
        fs::write(dir.path().join(RUN), "{}").unwrap();
        assert!(load(dir.path()).is_err());
    }

    #[test]
    fn a_run_is_good_if_nothing_failed_and_nothing_was_damaged() {
        let check = |passed| ContentCheck {
            strategy: "cached".into(),
            what: "nvme".into(),
            passed,
            detail: String::new(),
        };
        let run = |content: &[ContentCheck], failed: &[&str]| Run {
            content: content.to_vec(),
            failed: failed.iter().map(|&why| why.to_owned()).collect(),
            ..Run::default()
        };
        assert!(run(&[], &[]).is_good());
        assert!(run(&[check(true)], &[]).is_good());
        assert!(!run(&[check(true), check(false)], &[]).is_good());
        assert!(!run(&[check(true)], &["no answer"]).is_good());
    }
}
