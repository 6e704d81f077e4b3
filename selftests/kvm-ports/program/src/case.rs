// SPDX-License-Identifier: GPL-2.0

//! What a case is, and how it says that something is not so.

use std::error::Error as StdError;
use std::fmt::Debug;
use std::io;

/// Success, or what is not so.
pub type Result<T = ()> = std::result::Result<T, Box<dyn StdError + Send + Sync>>;

/// A case: its name, and what it does.
pub type Case = (&'static str, fn() -> Result);

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
pub fn same<T: PartialEq + Debug>(what: &str, found: T, expected: T) -> Result {
    expect(
        found == expected,
        format_args!("{what}: {found:x?}, not {expected:x?}"),
    )
}

/// # Errors
///
/// The request was not refused with this error.
pub fn errno<T: Debug>(what: &str, found: io::Result<T>, errno: i32) -> Result {
    match found {
        Err(error) => {
            let expected = io::Error::from_raw_os_error(errno);
            same(what, error.to_string(), expected.to_string())
        }
        Ok(_) => Err(format!("{what} is not refused").into()),
    }
}
