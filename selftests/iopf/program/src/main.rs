// SPDX-License-Identifier: GPL-2.0

//! `iopf-test MODE...`: what a device finds in the memory of a process.
//!
//! Each case runs in each of the modes; the results are KTAP.

mod area;
mod cases;

use std::process::ExitCode;

use svadma::uapi::Mode;
use svadma::{Consumer, Error};

use cases::{Outcome, Role, CASES};

const USAGE: &str = "usage: iopf-test sva|mirror|pinned...";

/// The modes, by their names in sysfs.
const MODES: [(&str, Mode); 3] = [
    ("sva", Mode::Sva),
    ("mirror", Mode::Mirror),
    ("pinned", Mode::Pinned),
];

fn mode(name: &str) -> Option<(&'static str, Mode)> {
    MODES.into_iter().find(|(other, _)| *other == name)
}

/// Runs all cases. Returns whether all have passed.
fn run(modes: &[(&str, Mode)]) -> bool {
    println!("KTAP version 1\n1..{}", modes.len() * CASES.len());
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
        for (name, case) in CASES {
            number += 1;
            let outcome = match &usable {
                Ok(()) => case(*mode),
                Err(reason) => Ok(Outcome::Skipped(reason.clone())),
            };
            match outcome {
                Ok(Outcome::Passed) => println!("ok {number} {mode_name}: {name}"),
                Ok(Outcome::Skipped(reason)) => {
                    println!("ok {number} {mode_name}: {name} # SKIP {reason}");
                }
                Err(what) => {
                    println!("# {what}\nnot ok {number} {mode_name}: {name}");
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
            Some(((_, mode), role)) => cases::child(mode, role),
            None => ExitCode::from(2),
        };
    }
    let modes: Option<Vec<_>> = words.into_iter().map(mode).collect();
    match modes {
        Some(modes) if !modes.is_empty() && run(&modes) => ExitCode::SUCCESS,
        Some(modes) if !modes.is_empty() => ExitCode::FAILURE,
        _ => {
            eprintln!("{USAGE}");
            ExitCode::from(2)
        }
    }
}
