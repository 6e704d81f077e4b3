// SPDX-License-Identifier: GPL-2.0

//! Starting, stopping, ringing, sharing.

use svadma_model::abi::{
    doorbell, queue, status, Counter, Descriptor, Field, Operation, Status, PAGE_BYTES, QUEUES,
};
use svadma_model::host::PageResponse;

use crate::machine::{Machine, COMPLETIONS, DATA, RING, RW};

fn fill(length: u64) -> Descriptor {
    Descriptor {
        operation: Operation::Fill.number(),
        destination: DATA,
        length,
        pattern: 0x1111_1111_1111_1111,
        ..Descriptor::default()
    }
}

fn halted(cause: Status, field: Field) -> u32 {
    status::HALTED | cause.number() << status::CAUSE_SHIFT | field.number() << status::FIELD_SHIFT
}

#[test]
fn a_queue_starts_with_a_ring_that_can_be_or_says_what_is_wrong() {
    for (register, value, field) in [
        (queue::RING_ADDRESS, RING as u32 + 32, Field::RingAddress),
        (
            queue::COMPLETIONS_ADDRESS,
            COMPLETIONS as u32 + 16,
            Field::CompletionsAddress,
        ),
        (queue::PASID, 5, Field::Pasid),
    ] {
        let mut machine = Machine::new(1, 4);
        machine.set(0, queue::CONTROL, 0);
        machine.set(0, register, value);
        machine.set(0, queue::CONTROL, 1);
        let expected = halted(Status::Malformed, field);
        assert_eq!(machine.get(0, queue::STATUS), expected);
        assert!(machine.world.attached.is_empty());
    }
    let mut machine = Machine::default();
    machine.set(3, queue::CONTROL, 1);
    let expected = halted(Status::Malformed, Field::RingLog2);
    assert_eq!(machine.get(3, queue::STATUS), expected);
}

#[test]
fn the_registers_of_a_ring_keep_while_it_runs() {
    let mut machine = Machine::new(1, 4);
    for (register, value) in [
        (queue::PASID, 9),
        (queue::RING_LOG2, 9),
        (queue::RING_ADDRESS, 0),
        (queue::COMPLETIONS_ADDRESS, 0),
        (queue::VECTOR, 9),
    ] {
        let before = machine.get(0, register);
        machine.set(0, register, value);
        assert_eq!(machine.get(0, register), before);
    }
}

#[test]
fn more_descriptors_than_the_ring_has_halt_the_queue() {
    let mut machine = Machine::new(1, 2);
    machine.write(doorbell::page(0) + doorbell::TAIL, 5);
    let expected = halted(Status::Malformed, Field::Tail);
    assert_eq!(machine.read(doorbell::page(0) + doorbell::STATUS), expected);
    machine.settle();
    assert_eq!(machine.count(Counter::Descriptors), 0);
    // A queue that is started again is as good as new.
    machine.start(0, 1, 2);
    let completion = machine.carry_out(0, Descriptor::default());
    assert_eq!(completion.status, Status::Done.number());
}

#[test]
fn a_ring_goes_round_and_its_counts_do_too() {
    let mut machine = Machine::new(1, 1);
    for number in 0..100 {
        let completion = machine.carry_out(0, Descriptor::default());
        assert_eq!(completion.status, Status::Done.number());
        let head = machine.read(doorbell::page(0) + doorbell::HEAD);
        assert_eq!(head, number + 1);
    }
}

#[test]
fn the_end_is_told_by_the_vector_of_the_queue() {
    let mut machine = Machine::new(3, 4);
    let descriptor = Descriptor {
        flags: Descriptor::INTERRUPT,
        ..Descriptor::default()
    };
    machine.carry_out(2, descriptor);
    machine.carry_out(1, descriptor);
    assert_eq!(machine.world.interrupts, [2, 1]);
}

#[test]
fn consumers_have_their_own_memory() {
    let mut machine = Machine::new(2, 4);
    for pasid in [1, 2] {
        machine.back(pasid, DATA, PAGE_BYTES, RW);
    }
    machine.carry_out(0, fill(PAGE_BYTES));
    assert_eq!(machine.peek(1, DATA, 1), [0x11]);
    assert_eq!(machine.peek(2, DATA, 1), [0]);
}

#[test]
fn a_long_operation_does_not_keep_others_waiting() {
    let mut machine = Machine::new(2, 4);
    for pasid in [1, 2] {
        machine.back(pasid, DATA, 16 << 20, RW);
    }
    machine.carry_out(0, fill(16 << 20));
    machine.carry_out(1, fill(8));
    let long = machine.submit(0, fill(16 << 20));
    let short = machine.submit(1, fill(8));
    machine.run_once();
    assert_eq!(machine.completion(0, long).status, 0);
    let completion = machine.completion(1, short);
    assert_eq!(completion.status, Status::Done.number());
    machine.settle();
    let completion = machine.completion(0, long);
    assert_eq!(completion.bytes_done, 16 << 20);
}

#[test]
fn a_queue_that_stops_lets_go_when_the_host_has_answered() {
    let mut machine = Machine::new(1, 4);
    machine.back(1, DATA, PAGE_BYTES, RW);
    machine.carry_out(0, Descriptor::default());
    let number = machine.submit(0, fill(8));
    machine.run();
    let group = machine.take_group().unwrap();
    machine.set(0, queue::CONTROL, 0);
    assert_eq!(machine.get(0, queue::STATUS), status::DRAINING);
    assert!(machine.world.attached.contains(&1));

    // Even if somebody else is served meanwhile.
    machine.start(0, 2, 4);
    machine.carry_out(0, Descriptor::default());
    machine.respond(&group[0], PageResponse::Success);
    machine.settle();
    assert!(!machine.world.attached.contains(&1));
    assert_eq!(machine.peek(1, DATA, 1), [0]);
    let status = machine.peek(1, COMPLETIONS + u64::from(number) * 32, 4);
    assert_eq!(status, [0; 4]);
}

#[test]
fn two_queues_may_share_an_address_space() {
    let mut machine = Machine::new(1, 4);
    machine.back(1, DATA, PAGE_BYTES, RW);
    machine.start(1, 1, 4);
    machine.set(0, queue::CONTROL, 0);
    assert!(machine.world.attached.contains(&1));
    let completion = machine.carry_out(1, fill(8));
    assert_eq!(completion.status, Status::Done.number());
    machine.set(1, queue::CONTROL, 0);
    assert!(machine.world.attached.is_empty());
}

#[test]
fn a_reset_lets_go_of_everything() {
    let mut machine = Machine::new(5, 4);
    machine.submit(0, fill(8));
    machine.run();
    machine.device.reset(&mut machine.world);
    assert!(machine.world.attached.is_empty());
    machine.settle();
    assert_eq!(machine.get(0, queue::STATUS), 0);
    // The answer to the request comes all the same.
    assert_eq!(machine.count(Counter::ResponsesUnexpected), 1);
}

#[test]
fn all_queues_can_be_used() {
    let mut machine = Machine::new(QUEUES, 1);
    for index in [0, 1, QUEUES / 2, QUEUES - 1] {
        let completion = machine.carry_out(index, Descriptor::default());
        assert_eq!(completion.status, Status::Done.number());
    }
    assert_eq!(machine.world.attached.len(), QUEUES as usize);
}
