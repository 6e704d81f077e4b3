// SPDX-License-Identifier: GPL-2.0

//! `pdio`: runs the PDIO test machine and measures what runs in it.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    match pdio::cli::run(pdio::cli::Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("pdio: {error:#}");
            ExitCode::from(2)
        }
    }
}
