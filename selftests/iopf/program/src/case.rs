// SPDX-License-Identifier: GPL-2.0

//! What a case is, and how it says that something is not so.

use std::error::Error as StdError;
use std::io;

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

/// A case that is about pages which come when they are asked for.
pub fn on_demand(mode: Mode, case: fn(Mode) -> Result) -> Result<Outcome> {
    match mode {
        Mode::Pinned => Ok(Outcome::Skipped("what is pinned does not fault".into())),
        _ => passed(case(mode)),
    }
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
