// SPDX-License-Identifier: GPL-2.0

//! Gives the models random events, for as long as one likes: hostile guests, hooked or not, over
//! cards that answer at random as well. What must hold after each event is checked; a model that
//! panics, or overflows, ends the run.
//!
//! `cargo run --release -p vpio-host --bin fuzz -- [EVENTS [SEED]]` prints the time and the rate.
//! The same SEED gives the same events.

use std::process::ExitCode;
use std::time::Instant;

use vpio_host::fuzz::run;

/// A few seconds.
const DEFAULT_EVENTS: u64 = 100_000_000;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1).map(|text| text.parse::<u64>());
    let (Ok(events), Ok(seed), None) = (
        arguments.next().unwrap_or(Ok(DEFAULT_EVENTS)),
        arguments.next().unwrap_or(Ok(1)),
        arguments.next(),
    ) else {
        eprintln!("usage: fuzz [EVENTS [SEED]]");
        return ExitCode::from(2);
    };
    let start = Instant::now();

    for (name, model) in [
        ("ne2000", run::ne2000 as fn(u64, u64) -> u64),
        ("rtl8139", run::rtl8139),
    ] {
        let start = Instant::now();
        let digest = model(events / 2, seed);
        let seconds = start.elapsed().as_secs_f64();

        println!(
            "{name}: {} events in {seconds:.1} s, {:.1} million/s, digest {digest:016x}",
            events / 2,
            (events / 2) as f64 / seconds / 1e6,
        );
    }
    println!(
        "{events} events, seed {seed}: {:.1} s, no panic",
        start.elapsed().as_secs_f64()
    );
    ExitCode::SUCCESS
}
