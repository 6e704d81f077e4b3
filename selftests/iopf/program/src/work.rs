// SPDX-License-Identifier: GPL-2.0

//! What the cases have the device do.

use svadma::abi::{Descriptor, Operation, Status};
use svadma::uapi::Mode;
use svadma::{Consumer, Done, Error, Failed, Reason};

use crate::area::{Area, PAGE};
use crate::case::{same, Result};

/// A consumer that has used its ring and completions, so that only data is left to fault.
pub fn consumer(mode: Mode) -> Result<Consumer> {
    let mut consumer = Consumer::open(mode, 6)?;
    // SAFETY: No memory is used.
    unsafe { consumer.carry_out(Descriptor::default()) }?;
    Ok(consumer)
}

/// Memory, pinned if nothing else works.
pub fn area(consumer: &Consumer, mode: Mode, pages: usize) -> Result<Area> {
    let area = Area::new(pages)?;
    if mode == Mode::Pinned {
        pin(consumer, &area, pages)?;
    }
    Ok(area)
}

/// Pins the first pages of memory.
pub fn pin(consumer: &Consumer, area: &Area, pages: usize) -> Result {
    Ok(consumer.pin(area.address(0), (pages * PAGE) as u64)?)
}

pub fn fill(
    consumer: &mut Consumer,
    address: u64,
    length: usize,
    byte: u8,
) -> std::result::Result<Done, Error> {
    let descriptor = Descriptor {
        operation: Operation::Fill.number(),
        destination: address,
        length: length as u64,
        pattern: u64::from_le_bytes([byte; 8]),
        ..Descriptor::default()
    };
    // SAFETY: The callers fill areas, which are no objects of the language.
    unsafe { consumer.carry_out(descriptor) }
}

/// How many interrupts the vector of a consumer's queue has had.
pub fn interrupts(consumer: &Consumer) -> Result<u64> {
    match consumer.wait_for_interrupt(0, 0) {
        Err(Error::Request(_, error)) if error.raw_os_error() == Some(libc::ETIMEDOUT) => Ok(0),
        other => Ok(other?),
    }
}

/// Has a consumer's queue interrupt once, and waits for that.
pub fn interrupt(consumer: &mut Consumer) -> Result {
    let seen = interrupts(consumer)?;
    let descriptor = Descriptor {
        flags: Descriptor::INTERRUPT,
        ..Descriptor::default()
    };
    // SAFETY: No memory is used.
    let ticket = unsafe { consumer.submit(descriptor) }?;
    let now = consumer.wait_for_interrupt(seen, 10_000)?;
    consumer.wait(ticket)?;
    same("interrupts", now - seen, 1)
}

/// # Errors
///
/// It was not refused at `address` after `bytes_done`.
pub fn refused(found: std::result::Result<Done, Error>, address: u64, bytes_done: usize) -> Result {
    refused_as(Status::FaultInvalid, found, address, bytes_done)
}

/// # Errors
///
/// It did not end with `status` at `address` after `bytes_done`.
pub fn refused_as(
    status: Status,
    found: std::result::Result<Done, Error>,
    address: u64,
    bytes_done: usize,
) -> Result {
    let expected = Failed {
        reason: Reason::Fault { status, address },
        bytes_done: bytes_done as u64,
    };
    match found {
        Err(Error::Failed(failed)) => same("the failure", failed, expected),
        other => Err(format!("it should have failed: {other:?}").into()),
    }
}
