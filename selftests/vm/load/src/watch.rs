// SPDX-License-Identifier: GPL-2.0

//! A stopwatch around another program.

use std::error::Error;
use std::fs::File;
use std::io::Read;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::hook;
use crate::soak::{Mark, Soak};

/// Runs `command`; whoever writes to `fifo` sets a mark. Each two marks make a
/// window, as does the command's whole life when there are none.
pub fn run(fifo: &str, command: &[&str]) -> Result<(), Box<dyn Error>> {
    let (program, args) = command.split_first().ok_or("no command")?;
    let soak = Arc::new(Soak::start()?);
    let marks: Arc<Mutex<Vec<Mark>>> = Arc::default();

    // A reader of a FIFO waits in open(), so it needs a thread to itself; it
    // ends with the process.
    let reader = (Arc::clone(&soak), Arc::clone(&marks), fifo.to_owned());
    thread::spawn(move || {
        let (soak, marks, fifo) = reader;
        while let Ok(mut pipe) = File::open(&fifo) {
            let mark = soak.mark();
            if let Ok(mut marks) = marks.lock() {
                marks.push(mark);
            }
            let mut rest = Vec::new();
            if pipe.read_to_end(&mut rest).is_err() {
                break;
            }
        }
    });

    hook::run("start")?;
    let started = soak.mark();
    let status = Command::new(program)
        .args(args)
        .stdout(Stdio::null())
        .status()?;
    let ended = soak.mark();
    hook::run("stop")?;
    let mut marks = marks.lock().map_err(|_| "the reader of the FIFO died")?;
    if marks.is_empty() {
        marks.extend([started, ended]);
    }
    for pair in marks.chunks(2) {
        let [from, to] = pair else {
            return Err("an odd number of marks".into());
        };
        let window = soak.window(*from, *to);
        println!(
            "elapsed_ns={} idle_ns={}",
            window.elapsed.as_nanos(),
            window.idle.as_nanos()
        );
    }
    if status.success() {
        Ok(())
    } else {
        Err(format!("{program} failed: {status}").into())
    }
}
