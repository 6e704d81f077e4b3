// SPDX-License-Identifier: GPL-2.0

//! Which descriptors there may be.

use crate::abi::{Descriptor, Element, Field, Operation};

/// A descriptor that says what it must and nothing else.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Checked {
    pub(crate) operation: Operation,
    pub(crate) descriptor: Descriptor,
}

/// What an address in a descriptor is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    /// Nothing: it has to be 0.
    Nothing,
    /// As many bytes as the descriptor says.
    Bytes,
    /// A list.
    List,
}

impl Use {
    fn allows(self, address: u64, descriptor: &Descriptor) -> bool {
        match self {
            Self::Nothing => address == 0,
            Self::Bytes => fits(address, descriptor.length),
            Self::List => {
                address % Element::BYTES == 0
                    && fits(address, u64::from(descriptor.list_entries) * Element::BYTES)
            }
        }
    }
}

/// Whether there are `length` bytes from `address` on.
pub(crate) fn fits(address: u64, length: u64) -> bool {
    length == 0 || address.checked_add(length - 1).is_some()
}

/// # Errors
///
/// The first field, as they lie in memory, that is not as it must be.
pub(crate) fn check(descriptor: Descriptor) -> Result<Checked, Field> {
    let Some(operation) = Operation::from_number(descriptor.operation) else {
        return Err(Field::Operation);
    };
    let (source, destination) = match operation {
        Operation::Nop => (Use::Nothing, Use::Nothing),
        Operation::Copy => (Use::Bytes, Use::Bytes),
        Operation::Fill | Operation::Receive => (Use::Nothing, Use::Bytes),
        Operation::Checksum => (Use::Bytes, Use::Nothing),
        Operation::Gather => (Use::List, Use::Bytes),
        Operation::Scatter => (Use::Bytes, Use::List),
    };
    let length = match operation {
        Operation::Nop => 0..=0,
        _ => 1..=Descriptor::LENGTH_MAX,
    };
    let pattern = match operation {
        Operation::Fill => u64::MAX,
        Operation::Checksum => u32::MAX.into(),
        _ => 0,
    };
    let list_entries = match operation {
        Operation::Gather | Operation::Scatter => 1..=Descriptor::LIST_ENTRIES_MAX,
        _ => 0..=0,
    };

    for (field, good) in [
        (Field::Flags, descriptor.flags & !Descriptor::INTERRUPT == 0),
        (Field::Source, source.allows(descriptor.source, &descriptor)),
        (
            Field::Destination,
            destination.allows(descriptor.destination, &descriptor),
        ),
        (Field::Length, length.contains(&descriptor.length)),
        (Field::Pattern, descriptor.pattern <= pattern),
        (
            Field::ListEntries,
            list_entries.contains(&descriptor.list_entries),
        ),
        (Field::Reserved, descriptor.reserved == [0; 5]),
    ] {
        if !good {
            return Err(field);
        }
    }
    Ok(Checked {
        operation,
        descriptor,
    })
}
