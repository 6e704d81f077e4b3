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

/// Stands for no FIFO.
const NONE: &str = "-";

/// Runs `command`; whoever writes to `fifo` sets a mark. Each two marks make a
/// window, as does the command's whole life when there is no FIFO.
///
/// What happens between two windows is not counted. fio sleeps there for tenths
/// of seconds again and again, and where time is counted in instructions, to
/// count them takes longer than what it is run for.
pub fn run(fifo: &str, command: &[&str]) -> Result<(), Box<dyn Error>> {
    let (program, args) = command.split_first().ok_or("no command")?;
    let soak = Arc::new(Soak::start()?);
    let marks: Arc<Mutex<Vec<Mark>>> = Arc::default();

    if fifo != NONE {
        soak.pause();
        read_marks(fifo, &soak, &marks);
    }

    hook::run("start")?;
    let started = soak.mark();
    let status = Command::new(program)
        .args(args)
        .stdout(Stdio::null())
        .status()?;
    let ended = soak.mark();
    hook::run("stop")?;
    let mut marks = marks.lock().map_err(|_| "the reader of the FIFO died")?;
    if fifo == NONE {
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

/// Takes a mark whenever somebody opens `fifo`. To open it takes a thread to
/// itself, which ends with the process.
fn read_marks(fifo: &str, soak: &Arc<Soak>, marks: &Arc<Mutex<Vec<Mark>>>) {
    let (fifo, soak, marks) = (fifo.to_owned(), Arc::clone(soak), Arc::clone(marks));
    thread::spawn(move || {
        while let Ok(mut pipe) = File::open(&fifo) {
            let mark = soak.mark();
            let Ok(mut marks) = marks.lock() else {
                break;
            };
            marks.push(mark);
            if marks.len() % 2 == 1 {
                soak.resume();
            } else {
                soak.pause();
            }
            drop(marks);
            let mut rest = Vec::new();
            if pipe.read_to_end(&mut rest).is_err() {
                break;
            }
        }
    });
}
