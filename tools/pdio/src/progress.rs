// SPDX-License-Identifier: GPL-2.0

//! How far a long run is: a bar on a terminal, lines elsewhere.

use std::io::{self, IsTerminal};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Lines come no quicker than that.
const LINE_INTERVAL: Duration = Duration::from_secs(15);

/// Counts steps; shared by all workers.
pub struct Progress {
    bar: Option<ProgressBar>,
    total: usize,
    done: AtomicUsize,
    started: Instant,
    last_line: Mutex<Option<Instant>>,
}

impl Progress {
    /// A run of `total` steps begins.
    pub fn new(total: usize) -> Self {
        let bar = io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(total as u64);
            let style = "{elapsed_precise} [{bar:30}] {pos}/{len} (about {eta} left) {wide_msg}";
            if let Ok(style) = ProgressStyle::with_template(style) {
                bar.set_style(style.progress_chars("=> "));
            }
            bar.enable_steady_tick(Duration::from_millis(500));
            bar
        });
        Self {
            bar,
            total,
            done: AtomicUsize::new(0),
            started: Instant::now(),
            last_line: Mutex::new(None),
        }
    }

    /// The step `label` begins.
    pub fn step(&self, label: &str) {
        let done = self.done.fetch_add(1, Ordering::Relaxed);
        if let Some(bar) = &self.bar {
            bar.set_position(done as u64);
            bar.set_message(label.to_owned());
            return;
        }
        let Ok(mut last) = self.last_line.lock() else {
            return;
        };
        if last.is_none_or(|last| last.elapsed() >= LINE_INTERVAL) {
            *last = Some(Instant::now());
            let seconds = self.started.elapsed().as_secs();
            eprintln!("{seconds:>4} s  {done:>4}/{}  {label}", self.total);
        }
    }

    /// Says what cannot wait until the run is over.
    pub fn note(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(text),
            None => eprintln!("{text}"),
        }
    }

    /// The run is over.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
