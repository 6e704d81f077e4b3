// SPDX-License-Identifier: GPL-2.0

//! What each operation does, when all goes well.

use svadma_model::abi::{Completion, Counter, Descriptor, Operation, Status, PAGE_BYTES};
use svadma_model::checksum::crc32c;

use crate::machine::{noise, Machine, DATA, RW};

const LENGTH: usize = 3 * 4096 + 100;
const LIST: u64 = DATA + 0x10_0000;

fn machine() -> Machine {
    let mut machine = Machine::new(1, 4);
    machine.back(1, DATA, 0x20_0000, RW);
    machine
}

fn done(completion: Completion, bytes: u64) -> Completion {
    assert_eq!(completion.status, Status::Done.number(), "{completion:?}");
    assert_eq!((completion.field, completion.fault_address), (0, 0));
    assert_eq!(completion.bytes_done, bytes);
    completion
}

#[test]
fn nothing_is_done_and_completed() {
    let mut machine = machine();
    done(machine.carry_out(0, Descriptor::default()), 0);
    assert_eq!(machine.count(Counter::Descriptors), 1);
    assert!(machine.world.interrupts.is_empty());
}

#[test]
fn copies_need_no_alignment() {
    let mut machine = machine();
    let data = noise(LENGTH);
    machine.poke(1, DATA + 50, &data);
    let to = DATA + 0x8_0000 + 3000;
    let descriptor = Descriptor {
        operation: Operation::Copy.number(),
        source: DATA + 50,
        destination: to,
        length: LENGTH as u64,
        ..Descriptor::default()
    };
    done(machine.carry_out(0, descriptor), LENGTH as u64);
    assert_eq!(machine.peek(1, to, LENGTH), data);
    assert_eq!(machine.peek(1, to - 1, 1), [0]);
    assert_eq!(machine.peek(1, to + LENGTH as u64, 1), [0]);
}

#[test]
fn a_pattern_goes_on_over_pages() {
    let mut machine = machine();
    let descriptor = Descriptor {
        operation: Operation::Fill.number(),
        destination: DATA + 5,
        length: LENGTH as u64,
        pattern: 0x0807_0605_0403_0201,
        ..Descriptor::default()
    };
    done(machine.carry_out(0, descriptor), LENGTH as u64);
    let expected: Vec<u8> = (0..LENGTH).map(|at| (at % 8) as u8 + 1).collect();
    assert_eq!(machine.peek(1, DATA + 5, LENGTH), expected);
    assert_eq!(machine.peek(1, DATA + 5 + LENGTH as u64, 1), [0]);
}

#[test]
fn a_checksum_goes_on_from_another() {
    let mut machine = machine();
    let data = noise(LENGTH);
    machine.poke(1, DATA + 7, &data);
    let mut descriptor = Descriptor {
        operation: Operation::Checksum.number(),
        source: DATA + 7,
        length: 5000,
        ..Descriptor::default()
    };
    let first = done(machine.carry_out(0, descriptor), 5000);
    assert_eq!(first.result, u64::from(crc32c(0, &data[..5000])));

    descriptor.source += 5000;
    descriptor.length = LENGTH as u64 - 5000;
    descriptor.pattern = first.result;
    let all = done(machine.carry_out(0, descriptor), descriptor.length);
    assert_eq!(all.result, u64::from(crc32c(0, &data)));
}

#[test]
fn lists_are_gathered_and_scattered() {
    // The list itself crosses the end of a page.
    let list = LIST + PAGE_BYTES - 16;
    let places = [
        (DATA + 10, 5000),
        (DATA + 0x2_0000, 1),
        (DATA + 0x3_0fff, 2),
    ];
    let data = noise(5003);
    let mut machine = machine();
    machine.poke_list(1, list, &places);
    machine.poke(1, DATA + 10, &data[..5000]);
    machine.poke(1, DATA + 0x2_0000, &data[5000..5001]);
    machine.poke(1, DATA + 0x3_0fff, &data[5001..]);
    let gather = Descriptor {
        operation: Operation::Gather.number(),
        source: list,
        destination: DATA + 0x8_0001,
        length: 5003,
        list_entries: 3,
        ..Descriptor::default()
    };
    done(machine.carry_out(0, gather), 5003);
    assert_eq!(machine.peek(1, DATA + 0x8_0001, 5003), data);

    let mirrored: Vec<u8> = data.iter().rev().copied().collect();
    machine.poke(1, DATA + 0x8_0001, &mirrored);
    let scatter = Descriptor {
        operation: Operation::Scatter.number(),
        source: DATA + 0x8_0001,
        destination: list,
        length: 5003,
        list_entries: 3,
        ..Descriptor::default()
    };
    done(machine.carry_out(0, scatter), 5003);
    assert_eq!(machine.peek(1, DATA + 10, 5000), mirrored[..5000]);
    assert_eq!(machine.peek(1, DATA + 0x3_0fff, 2), mirrored[5001..]);
}

#[test]
fn what_a_list_has_beyond_the_length_is_left_alone() {
    let mut machine = machine();
    machine.poke_list(1, LIST, &[(DATA, 10), (DATA + 100, 10)]);
    machine.poke(1, DATA + 0x8_0000, &noise(20));
    let scatter = Descriptor {
        operation: Operation::Scatter.number(),
        source: DATA + 0x8_0000,
        destination: LIST,
        length: 13,
        list_entries: 2,
        ..Descriptor::default()
    };
    done(machine.carry_out(0, scatter), 13);
    assert_eq!(machine.peek(1, DATA + 100, 3), noise(20)[10..13]);
    assert_eq!(machine.peek(1, DATA + 103, 7), [0; 7]);
}
