// SPDX-License-Identifier: GPL-2.0

//! `kvm-ports-test absent|stock|patched FIRST`: what a guest's port accesses come to, without KVM, with
//! the kernel's own, and with one that has `kvm-pio.patch`.
//!
//! The results are KTAP without its head, numbered from FIRST on; `kvm-ports-test count absent|...` says
//! how many there are.

mod case;
mod direct;
mod guest;
mod nested;
mod ports;
mod refused;
mod served;
mod statistics;

#[path = "../../uapi.rs"]
pub mod uapi;

use std::process::ExitCode;
use std::sync::mpsc::{channel, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use case::Case;

/// How long a case may take. This is for what hangs: speed decides nothing.
const TIMEOUT: Duration = Duration::from_secs(120);

/// The cases, by what KVM there is.
const GROUPS: [(&str, &[&[Case]]); 3] = [
    ("absent", &[&refused::ABSENT]),
    ("stock", &[&refused::STOCK]),
    (
        "patched",
        &[
            &refused::CASES,
            &served::CASES,
            &direct::CASES,
            &nested::CASES,
        ],
    ),
];

fn cases(groups: &[&[Case]]) -> usize {
    groups.iter().map(|cases| cases.len()).sum()
}

/// Whether the CPU is one of AMD's: the nested guest is.
fn is_amd() -> bool {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    info.split_whitespace().any(|word| word == "svm")
}

/// Runs a case, and ends the program if that takes longer than [`TIMEOUT`].
fn run_case(number: usize, name: &'static str, case: fn() -> case::Result) -> bool {
    let (end, ended) = channel::<()>();
    let watchdog = thread::spawn(move || {
        if ended.recv_timeout(TIMEOUT) == Err(RecvTimeoutError::Timeout) {
            println!("# nothing came of it in {TIMEOUT:?}\nnot ok {number} {name}");
            std::process::exit(1);
        }
    });
    let outcome = case();
    drop(end);
    // It has not panicked.
    let _ = watchdog.join();
    match outcome {
        Ok(()) => {
            println!("ok {number} {name}");
            true
        }
        Err(what) => {
            println!("# {what}\nnot ok {number} {name}");
            false
        }
    }
}

fn run(groups: &[&[Case]], first: usize) -> bool {
    let mut passed = true;
    let all = groups.iter().flat_map(|cases| cases.iter());
    for (number, (name, case)) in (first..).zip(all) {
        if nested::CASES.iter().any(|(nested, _)| nested == name) && !is_amd() {
            println!("ok {number} {name} # SKIP the nested guest is for AMD's CPUs");
        } else {
            passed &= run_case(number, name, *case);
        }
    }
    passed
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let find = |name| GROUPS.into_iter().find(|(group, _)| *group == name);
    let passed = match words[..] {
        ["child"] => Some(direct::child().is_ok()),
        ["count", group] => find(group).map(|(_, group)| {
            println!("{}", cases(group));
            true
        }),
        [group, first] => find(group)
            .zip(first.parse().ok())
            .map(|((_, group), first)| run(group, first)),
        _ => None,
    };
    match passed {
        Some(true) => ExitCode::SUCCESS,
        Some(false) => ExitCode::FAILURE,
        None => {
            eprintln!("usage: kvm-ports-test absent|stock|patched FIRST");
            ExitCode::from(2)
        }
    }
}
