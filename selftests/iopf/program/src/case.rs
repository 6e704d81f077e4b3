// SPDX-License-Identifier: GPL-2.0

//! What a case is, and how it says that something is not so.

use std::error::Error as StdError;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use svadma::uapi::Mode;
use svadma::Error;

/// How a case has ended, unless it has failed.
pub enum Outcome {
    Passed,
    /// It means nothing in this mode.
    Skipped(String),
}

/// Success, or what is not so.
pub type Result<T = ()> = std::result::Result<T, Box<dyn StdError>>;

/// A case: its name, and what it does.
pub type Case = (&'static str, fn(Mode) -> Result<Outcome>);

pub fn passed(result: Result) -> Result<Outcome> {
    result.map(|()| Outcome::Passed)
}

/// # Errors
///
/// It is not so.
pub fn expect(so: bool, what: impl std::fmt::Display) -> Result {
    match so {
        true => Ok(()),
        false => Err(what.to_string().into()),
    }
}

/// Signs of life of cases.
static SIGNS: AtomicU64 = AtomicU64::new(0);

/// A case that takes long says that it has not come to a halt.
pub fn goes_on() {
    SIGNS.fetch_add(1, Relaxed);
}

/// How many signs of life there were.
pub fn signs() -> u64 {
    SIGNS.load(Relaxed)
}

/// How long something is waited for that happens by itself, in less than [`crate::TIMEOUT`].
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until something is so.
///
/// # Errors
///
/// It does not come to that.
pub fn until(what: &str, so: impl Fn() -> Result<bool>) -> Result {
    let started = Instant::now();
    while !so()? {
        expect(started.elapsed() < PATIENCE, format_args!("not so: {what}"))?;
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// # Errors
///
/// The two differ.
pub fn same<T: PartialEq + std::fmt::Debug>(what: &str, found: T, expected: T) -> Result {
    expect(
        found == expected,
        format_args!("{what} is {found:x?}, not {expected:x?}"),
    )
}

/// # Errors
///
/// The request was not refused with this error.
pub fn errno<T: std::fmt::Debug>(found: std::result::Result<T, Error>, errno: i32) -> Result {
    match found {
        Err(Error::Open(error) | Error::Request(_, error)) => {
            let expected = io::Error::from_raw_os_error(errno);
            same("the error", error.to_string(), expected.to_string())
        }
        other => Err(format!("it is not refused: {other:?}").into()),
    }
}
