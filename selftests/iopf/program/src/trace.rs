// SPDX-License-Identifier: GPL-2.0

//! What the kernel tells by its tracepoints.

use std::fs;
use std::path::{Path, PathBuf};

use crate::case::{expect, Result};

/// Where tracefs is.
const TRACING: &str = "/sys/kernel/tracing";

/// A recording of one event, in a buffer that nobody else uses, until this is dropped.
pub struct Recording {
    instance: PathBuf,
}

impl Recording {
    /// Begins.
    ///
    /// # Errors
    ///
    /// There is no such event, or tracefs is not there.
    pub fn start(event: &str) -> Result<Self> {
        let recording = Self {
            instance: Path::new(TRACING).join("instances/iopf-test"),
        };
        fs::create_dir(&recording.instance)?;
        fs::write(recording.instance.join("buffer_size_kb"), "1024")?;
        let enable = recording.instance.join("events").join(event).join("enable");
        fs::write(enable, "1")?;
        Ok(recording)
    }

    /// Ends, and returns the lines.
    ///
    /// # Errors
    ///
    /// Some are lost.
    pub fn end(self) -> Result<Vec<String>> {
        fs::write(self.instance.join("tracing_on"), "0")?;
        let text = fs::read_to_string(self.instance.join("trace"))?;
        expect(!text.contains("LOST"), "the trace buffer is too small")?;
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        Ok(lines.map(str::to_owned).collect())
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        // One that could not be made.
        let _ = fs::remove_dir(&self.instance);
    }
}
