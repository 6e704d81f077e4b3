// SPDX-License-Identifier: GPL-2.0

//! `pdio-load`: the network workloads of the test VM, and an exact stopwatch.
//!
//! ```text
//! pdio-load serve PORT
//! pdio-load stream|receive|rr|udp ADDRESS:PORT SIZE COUNT WARMUP [verify]
//! pdio-load watch FIFO COMMAND...
//! ```
//!
//! Every workload prints one line, `ops=… bytes=… elapsed_ns=… idle_ns=…`, for a
//! window that begins after the warm-up and ends when the last byte has arrived.
//! `watch` does the same for any command, without `ops` and `bytes`: a window goes
//! from a line that is written to FIFO to the next, or over the command's whole
//! life when FIFO is `-`.
//!
//! The command in `PDIO_HOOK`, if any, runs with `start` before the window and
//! with `stop` after it.

mod hook;
mod soak;
mod transfer;
mod watch;

use std::process::ExitCode;

const USAGE: &str = "usage: pdio-load serve PORT
       pdio-load stream|receive|rr|udp ADDRESS:PORT SIZE COUNT WARMUP [verify]
       pdio-load watch FIFO COMMAND...";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match args.as_slice() {
        ["serve", port] => transfer::serve(port),
        ["watch", fifo, command @ ..] if !command.is_empty() => watch::run(fifo, command),
        [kind, address, size, count, warmup, rest @ ..] if rest.len() < 2 => {
            transfer::Request::parse(kind, size, count, warmup, rest)
                .and_then(|request| transfer::run(address, &request))
        }
        _ => Err(USAGE.into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pdio-load: {error}");
            ExitCode::FAILURE
        }
    }
}
