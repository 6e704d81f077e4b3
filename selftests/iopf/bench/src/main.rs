// SPDX-License-Identifier: GPL-2.0

//! `iopf-bench [--short] [--rounds N] QUESTION...`: figures about iopf, a line of JSON for each.

use std::process::ExitCode;

use iopf_bench::figure::Figure;
use iopf_bench::{cache, latency, locality, loss, modes, Emit, Extent, Result};

const USAGE: &str = "usage: iopf-bench [--short] [--rounds N] modes|locality|latency|cache|loss...";

/// A line of the command.
struct Args {
    extent: Extent,
    rounds: u32,
    questions: Vec<String>,
}

impl Args {
    fn parse(mut words: impl Iterator<Item = String>) -> Option<Self> {
        let mut args = Self {
            extent: Extent::Full,
            rounds: 1,
            questions: Vec::new(),
        };
        while let Some(word) = words.next() {
            match word.as_str() {
                "--short" => args.extent = Extent::Short,
                "--rounds" => args.rounds = words.next()?.parse().ok()?,
                _ => args.questions.push(word),
            }
        }
        (!args.questions.is_empty()).then_some(args)
    }
}

/// Answers one question, if there is such a one.
fn answer(question: &str, args: &Args, emit: Emit<'_>) -> Option<Result> {
    Some(match question {
        "modes" => modes::measure(args.extent, args.rounds, emit),
        "locality" => locality::measure(emit),
        "latency" => latency::measure(emit),
        "cache" => cache::measure(emit),
        "loss" => loss::measure(emit),
        _ => return None,
    })
}

fn print(figure: Figure) {
    match serde_json::to_string(&figure) {
        Ok(line) => println!("{line}"),
        Err(error) => eprintln!("iopf-bench: {error}"),
    }
}

fn main() -> ExitCode {
    let Some(args) = Args::parse(std::env::args().skip(1)) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    for question in &args.questions {
        match answer(question, &args, &mut print) {
            Some(Ok(())) => {}
            Some(Err(error)) => {
                eprintln!("iopf-bench: {question}: {error}");
                return ExitCode::FAILURE;
            }
            None => {
                eprintln!("iopf-bench: there is no question {question}\n{USAGE}");
                return ExitCode::from(2);
            }
        }
    }
    ExitCode::SUCCESS
}
