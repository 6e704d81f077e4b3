// SPDX-License-Identifier: GPL-2.0

//! Finds out how much of a span of time the CPU had nothing to do.
//!
//! The kernel's own idle time is too coarse, and under `-icount` a CPU that
//! halts makes time jump. So a thread of the idle scheduling class counts as
//! long as nobody else wants to run; what it counted is the idle time. A turn
//! of its loop always takes the same number of instructions, and interrupts are
//! not in it, so under `-icount` the difference between the time that passed and
//! the time that it counted is the number of instructions of everybody else.

use std::fs;
use std::hint;
use std::io;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

/// Rounds of the calibration; the quickest had no interrupt in it.
const CALIBRATIONS: u32 = 20;
/// Turns of the counting loop in a round of the calibration; less than a tick.
const CALIBRATION_TURNS: u64 = 25;
/// Steps in a turn: enough to make what is around it negligible, few enough to
/// lose little when a mark falls into it.
const TURN: u32 = 500;

/// The counting thread.
pub struct Soak {
    state: Arc<State>,
    thread: Thread,
    turn_ns: f64,
}

/// What is shared with it.
#[derive(Default)]
struct State {
    turns: AtomicU64,
    paused: AtomicBool,
}

/// A point in time, and what the soak had counted.
#[derive(Clone, Copy)]
pub struct Mark {
    time: Instant,
    turns: u64,
}

/// What passed between two marks.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// All of it.
    pub elapsed: Duration,
    /// The part in which nobody had anything to do.
    pub idle: Duration,
}

impl Soak {
    /// Starts to count.
    pub fn start() -> Result<Self, io::Error> {
        let state: Arc<State> = Arc::default();
        let shared = Arc::clone(&state);
        let (calibrated, calibration) = mpsc::channel();
        let handle = thread::spawn(move || {
            let started = become_idle().map(|()| calibrate(&shared));
            let good = started.is_ok();
            if calibrated.send(started).is_ok() && good {
                loop {
                    while turn(&shared) {}
                    thread::park();
                }
            }
        });
        let turn_ns = calibration
            .recv()
            .map_err(|_| io::Error::other("the soak thread died"))??;
        Ok(Self {
            state,
            thread: handle.thread().clone(),
            turn_ns,
        })
    }

    /// Counts no more, so that a CPU with nothing to do halts.
    pub fn pause(&self) {
        self.state.paused.store(true, Ordering::Relaxed);
    }

    /// Counts again.
    pub fn resume(&self) {
        self.state.paused.store(false, Ordering::Relaxed);
        self.thread.unpark();
    }

    /// Now.
    pub fn mark(&self) -> Mark {
        Mark {
            turns: self.state.turns.load(Ordering::Relaxed),
            time: Instant::now(),
        }
    }

    /// What passed from `from` to `to`.
    pub fn window(&self, from: Mark, to: Mark) -> Window {
        let elapsed = to.time - from.time;
        let turns = (to.turns - from.turns) as f64;
        let idle = Duration::from_nanos((turns * self.turn_ns) as u64);
        Window {
            elapsed,
            idle: idle.min(elapsed),
        }
    }
}

/// Moves the calling thread to the idle scheduling class.
fn become_idle() -> Result<(), io::Error> {
    let link = fs::read_link("/proc/thread-self")?;
    let thread = link.file_name().unwrap_or_default();
    let status = Command::new("chrt")
        .args(["--idle", "--pid", "0"])
        .arg(thread)
        .status()?;
    if status.success() {
        Ok(())
    } else {
        Err(io::Error::other("chrt failed"))
    }
}

/// Whether there is to be another.
#[inline(never)]
fn turn(state: &State) -> bool {
    for step in 0..TURN {
        hint::black_box(step);
    }
    state.turns.fetch_add(1, Ordering::Relaxed);
    !state.paused.load(Ordering::Relaxed)
}

/// Nanoseconds of one turn.
fn calibrate(state: &State) -> f64 {
    let mut best = f64::INFINITY;
    for _ in 0..CALIBRATIONS {
        let started = Instant::now();
        for _ in 0..CALIBRATION_TURNS {
            turn(state);
        }
        let elapsed = started.elapsed().as_nanos() as f64;
        best = best.min(elapsed / CALIBRATION_TURNS as f64);
    }
    best
}
