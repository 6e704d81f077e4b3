// SPDX-License-Identifier: GPL-2.0

//! Lets somebody count during exactly the window.

use std::env;
use std::io;
use std::process::Command;

/// Runs the command in `PDIO_HOOK`, if there is one, with `moment` as its argument.
pub fn run(moment: &str) -> io::Result<()> {
    let Some(hook) = env::var_os("PDIO_HOOK") else {
        return Ok(());
    };
    let status = Command::new(&hook).arg(moment).status()?;
    if status.success() {
        Ok(())
    } else {
        Err(io::Error::other(format!(
            "{} {moment} failed",
            hook.to_string_lossy()
        )))
    }
}
