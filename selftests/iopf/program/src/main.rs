// SPDX-License-Identifier: GPL-2.0

//! `iopf-test GROUP MODE...`: what comes of a device that works in the memory of processes.
//!
//! Each case of the group runs in each of the modes; the results are KTAP.

mod case;
mod changes;
mod company;
mod control;
mod cost;
mod errors;
mod figures;
mod memory;
mod other_process;
mod requests;
mod shown;
mod trace;
mod work;

use std::process::ExitCode;
use std::sync::mpsc::{channel, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use svadma::uapi::Mode;
use svadma::{area, Consumer, Error};

use case::{signs, Case, Outcome, Result};
use other_process::Role;

const USAGE: &str =
    "usage: iopf-test memory|requests|changes|company|cost|errors|figures|shown sva|mirror|pinned...";

/// The cases, by what they are about.
const GROUPS: [(&str, &[Case]); 8] = [
    ("memory", &memory::CASES),
    ("requests", &requests::CASES),
    ("changes", &changes::CASES),
    ("company", &company::CASES),
    ("cost", &cost::CASES),
    ("errors", &errors::CASES),
    ("figures", &figures::CASES),
    ("shown", &shown::CASES),
];

/// The modes, by their names in sysfs.
const MODES: [(&str, Mode); 3] = [
    ("sva", Mode::Sva),
    ("mirror", Mode::Mirror),
    ("pinned", Mode::Pinned),
];

/// How long nothing may be heard of a case: the device answers within [`Consumer::PATIENCE`], and nothing waits for
/// it twice in vain. Three times as long, for hosts that have other things to do: this is for what
/// hangs, and speed decides nothing.
const TIMEOUT: Duration = Duration::from_secs(180);

fn mode(name: &str) -> Option<(&'static str, Mode)> {
    MODES.into_iter().find(|(other, _)| *other == name)
}

/// Runs a case, and ends the program if nothing is heard of it for [`TIMEOUT`].
fn run_case(number: usize, title: &str, case: impl FnOnce() -> Result<Outcome>) -> Result<Outcome> {
    let (end, ended) = channel::<()>();
    let report = format!("# nothing came of it in {TIMEOUT:?}\nnot ok {number} {title}");
    let watchdog = thread::spawn(move || {
        let mut known = signs();
        while ended.recv_timeout(TIMEOUT) == Err(RecvTimeoutError::Timeout) {
            if signs() == known {
                println!("{report}");
                std::process::exit(1);
            }
            known = signs();
        }
    });
    let outcome = case();
    drop(end);
    // It has not panicked.
    let _ = watchdog.join();
    outcome
}

/// Runs cases. Returns whether all have passed.
fn run(cases: &[Case], modes: &[(&str, Mode)]) -> bool {
    println!("KTAP version 1\n1..{}", modes.len() * cases.len());
    let mut passed = true;
    let mut number = 0;
    for (mode_name, mode) in modes {
        let usable = match Consumer::open(*mode, 1) {
            Ok(_) => Ok(()),
            Err(Error::Request(_, error)) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                Err(error.to_string())
            }
            Err(error) => {
                println!("# {mode_name}: {error}");
                Ok(())
            }
        };
        for (name, case) in cases {
            number += 1;
            let title = format!("{mode_name}: {name}");
            let outcome = match &usable {
                Ok(()) => run_case(number, &title, || case(*mode)),
                Err(reason) => Ok(Outcome::Skipped(reason.clone())),
            };
            match outcome {
                Ok(Outcome::Passed) => println!("ok {number} {title}"),
                Ok(Outcome::Skipped(reason)) => println!("ok {number} {title} # SKIP {reason}"),
                Err(what) => {
                    println!("# {what}\nnot ok {number} {title}");
                    passed = false;
                }
            }
        }
    }
    passed
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    if let ["child", name, role, address] = words[..] {
        return match mode(name).zip(Role::from_args(role, address)) {
            Some(((_, mode), role)) => other_process::child(mode, role),
            None => ExitCode::from(2),
        };
    }
    let chosen = words.split_first().and_then(|(group, modes)| {
        let (_, cases) = GROUPS.into_iter().find(|(name, _)| name == group)?;
        let modes: Option<Vec<_>> = modes.iter().copied().map(mode).collect();
        Some((cases, modes.filter(|modes| !modes.is_empty())?))
    });
    match chosen {
        Some((cases, modes)) if run(cases, &modes) => ExitCode::SUCCESS,
        Some(_) => ExitCode::FAILURE,
        None => {
            eprintln!("{USAGE}");
            ExitCode::from(2)
        }
    }
}
