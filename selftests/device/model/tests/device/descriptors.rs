// SPDX-License-Identifier: GPL-2.0

//! What a descriptor must not say, and how that is told.

use proptest::prelude::*;
use svadma_model::abi::{queue, status, Counter, Descriptor, Field, Operation, Status, PAGE_BYTES};

use crate::machine::{Machine, DATA, RW};

fn field_of(descriptor: Descriptor) -> (Option<Status>, Option<Field>) {
    let mut machine = Machine::new(1, 4);
    machine.back(1, DATA, 0x1_0000, RW);
    let completion = machine.carry_out(0, descriptor);
    assert_eq!(machine.get(0, queue::STATUS), status::RUNNING);
    (
        Status::from_number(completion.status),
        Field::from_number(completion.field),
    )
}

fn good(operation: Operation) -> Descriptor {
    let empty = Descriptor {
        operation: operation.number(),
        ..Descriptor::default()
    };
    match operation {
        Operation::Nop => empty,
        Operation::Copy => Descriptor {
            source: DATA,
            destination: DATA + 0x8000,
            length: 100,
            ..empty
        },
        Operation::Fill | Operation::Receive => Descriptor {
            destination: DATA,
            length: 100,
            ..empty
        },
        Operation::Checksum => Descriptor {
            source: DATA,
            length: 100,
            ..empty
        },
        Operation::Gather | Operation::Scatter => Descriptor {
            source: DATA,
            destination: DATA + 0x8000,
            length: 100,
            list_entries: 1,
            ..empty
        },
    }
}

#[test]
fn each_field_is_named() {
    let mut wrong = vec![];
    for operation in Operation::ALL {
        let good = good(*operation);
        let mut add = |field: Field, change: &dyn Fn(&mut Descriptor)| {
            let mut descriptor = good;
            change(&mut descriptor);
            wrong.push((field, descriptor));
        };
        add(Field::Flags, &|it| it.flags = 2);
        add(Field::Flags, &|it| it.flags = 1 << 31 | 1);
        for word in 0..5 {
            add(Field::Reserved, &move |it| it.reserved[word] = 1);
        }
        match operation {
            Operation::Nop => {
                add(Field::Source, &|it| it.source = 1);
                add(Field::Destination, &|it| it.destination = 1);
                add(Field::Length, &|it| it.length = 1);
            }
            Operation::Fill | Operation::Receive => {
                add(Field::Source, &|it| it.source = 1);
                add(Field::Destination, &|it| it.destination = u64::MAX - 98);
                add(Field::Length, &|it| it.length = 0);
                add(Field::Length, &|it| it.length = Descriptor::LENGTH_MAX + 1);
                add(Field::ListEntries, &|it| it.list_entries = 1);
            }
            Operation::Copy => {
                add(Field::Source, &|it| it.source = u64::MAX);
                add(Field::Pattern, &|it| it.pattern = 1);
            }
            Operation::Checksum => {
                add(Field::Destination, &|it| it.destination = 1);
                add(Field::Pattern, &|it| it.pattern = 1 << 32);
            }
            Operation::Gather => {
                add(Field::Source, &|it| it.source += 8);
                add(Field::ListEntries, &|it| it.list_entries = 0);
                add(Field::Source, &|it| it.source = u64::MAX - 15 - 16);
            }
            Operation::Scatter => {
                add(Field::Destination, &|it| it.destination += 1);
                add(Field::ListEntries, &|it| {
                    it.list_entries = Descriptor::LIST_ENTRIES_MAX + 1;
                });
            }
        }
    }
    wrong.push((
        Field::Operation,
        Descriptor {
            operation: 7,
            ..Descriptor::default()
        },
    ));
    for (field, mut descriptor) in wrong {
        if field == Field::Source && descriptor.source > u64::MAX - 64 {
            descriptor.list_entries *= 3;
        }
        let found = field_of(descriptor);
        let expected = (Some(Status::Malformed), Some(field));
        assert_eq!(found, expected, "{descriptor:?}");
    }
}

#[test]
fn elements_of_lists_are_checked_when_they_are_reached() {
    for (element, field) in [
        ((DATA, 0), Field::ListElement),
        ((u64::MAX, 2), Field::ListElement),
        ((DATA + 4096, 10), Field::ListEntries),
    ] {
        let mut machine = Machine::new(1, 4);
        machine.back(1, DATA, 0x1_0000, RW);
        machine.poke_list(1, DATA, &[(DATA + 0x4000, 50), element]);
        let completion = machine.carry_out(0, good(Operation::Gather));
        assert_eq!(completion.bytes_done, 50);
        let completion = machine.carry_out(
            0,
            Descriptor {
                list_entries: 2,
                ..good(Operation::Gather)
            },
        );
        assert_eq!(completion.status, Status::Malformed.number());
        assert_eq!(completion.field, field.number());
        if field == Field::ListElement {
            assert_eq!(completion.bytes_done, 50);
            assert_eq!(completion.fault_address, DATA + 16);
        } else {
            assert_eq!(completion.bytes_done, 60);
        }
        assert_eq!(machine.count(Counter::Malformed), 2);
    }
}

#[test]
fn a_malformed_descriptor_may_ask_for_an_interrupt() {
    let mut machine = Machine::new(1, 4);
    machine.carry_out(
        0,
        Descriptor {
            operation: 99,
            flags: Descriptor::INTERRUPT,
            ..Descriptor::default()
        },
    );
    assert_eq!(machine.world.interrupts, [0]);
}

proptest! {
    /// Whatever lies in a ring, the queue goes on after it, and touches nothing that it may not.
    #[test]
    fn anything_may_lie_in_a_ring(
        words in prop::array::uniform16(prop_oneof![
            Just(0), 0_u32..8, Just(DATA as u32), any::<u32>(),
        ]),
    ) {
        let descriptor = Descriptor::from_words(words);
        prop_assert_eq!(descriptor.to_words(), words);
        let mut machine = Machine::new(1, 2);
        machine.back(1, DATA, 2 * PAGE_BYTES, RW);
        let completion = machine.carry_out(0, descriptor);
        let status = Status::from_number(completion.status);
        prop_assert!(status.is_some_and(|status| status != Status::Pending));
        let after = machine.carry_out(0, Descriptor::default());
        prop_assert_eq!(after.status, Status::Done.number());
    }
}
