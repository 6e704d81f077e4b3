// SPDX-License-Identifier: GPL-2.0

//! Pages that are not there.

use svadma_model::abi::{
    queue, register, status, Completion, Counter, Descriptor, Operation, Status, ATTEMPTS,
    PAGE_BYTES, PAGE_GROUPS,
};
use svadma_model::host::{Access, PageResponse};

use crate::machine::{asked, Machine, COMPLETIONS, DATA, RING, RO, RW};

fn fill(address: u64, length: u64) -> Descriptor {
    Descriptor {
        operation: Operation::Fill.number(),
        destination: address,
        length,
        pattern: 0x0101_0101_0101_0101,
        ..Descriptor::default()
    }
}

fn checksum(address: u64, length: u64) -> Descriptor {
    Descriptor {
        operation: Operation::Checksum.number(),
        source: address,
        length,
        ..Descriptor::default()
    }
}

fn outcome(completion: Completion) -> (Option<Status>, u64, u64) {
    (
        Status::from_number(completion.status),
        completion.fault_address,
        completion.bytes_done,
    )
}

#[test]
fn every_untouched_page_is_requested_once_and_then_never() {
    let mut machine = Machine::new(1, 4);
    machine.back(1, DATA, 8 * PAGE_BYTES, RW);
    machine.carry_out(0, Descriptor::default());
    // The ring and the completions.
    assert_eq!(machine.count(Counter::PageGroups), 2);

    let first = machine.carry_out(0, fill(DATA, 8 * PAGE_BYTES));
    assert_eq!(outcome(first), (Some(Status::Done), 0, 8 * PAGE_BYTES));
    assert_eq!(machine.count(Counter::PageGroups), 2 + 8);

    machine.carry_out(0, fill(DATA, 8 * PAGE_BYTES));
    assert_eq!(machine.count(Counter::PageGroups), 2 + 8);
    assert_eq!(machine.count(Counter::GroupsResolved), 2 + 8);
}

#[test]
fn a_group_asks_for_what_follows_and_not_for_more() {
    let mut machine = Machine::new(1, 4);
    machine.back(1, DATA, 16 * PAGE_BYTES, RW);
    machine.carry_out(0, Descriptor::default());
    machine.write(register::PAGE_REQUEST_WINDOW, 4);
    machine.write(register::TRANSLATION_WINDOW, 4);

    let page = |number: u64| (DATA + number * PAGE_BYTES, Access::Write);
    let number = machine.submit(0, fill(DATA + 100, 5 * PAGE_BYTES));
    machine.run();
    let group = machine.take_group().unwrap();
    assert_eq!(asked(&group), [page(0), page(1), page(2), page(3)]);
    assert_eq!(group.iter().filter(|request| request.last).count(), 1);
    machine.serve(&group);
    machine.run();
    let group = machine.take_group().unwrap();
    // The last byte is in the sixth page.
    assert_eq!(asked(&group), [page(4), page(5)]);
    machine.serve(&group);
    machine.settle();
    let completion = machine.completion(0, number);
    assert_eq!(outcome(completion), (Some(Status::Done), 0, 5 * PAGE_BYTES));
}

#[test]
fn what_cannot_be_there_is_reported_with_its_address() {
    let mut machine = Machine::new(1, 4);
    machine.back(1, DATA, 2 * PAGE_BYTES, RW);
    machine.back(1, DATA + 4 * PAGE_BYTES, PAGE_BYTES, RO);
    let end = DATA + 2 * PAGE_BYTES;
    let completion = machine.carry_out(0, fill(DATA + 1, 3 * PAGE_BYTES));
    let expected = (Some(Status::FaultInvalid), end, 2 * PAGE_BYTES - 1);
    assert_eq!(outcome(completion), expected);

    let read_only = DATA + 4 * PAGE_BYTES;
    let completion = machine.carry_out(0, checksum(read_only, 100));
    assert_eq!(outcome(completion), (Some(Status::Done), 0, 100));
    let completion = machine.carry_out(0, fill(read_only + 8, 100));
    let expected = (Some(Status::FaultInvalid), read_only + 8, 0);
    assert_eq!(outcome(completion), expected);
    assert_eq!(machine.count(Counter::Failed), 2);
    assert_eq!(machine.get(0, queue::STATUS), status::RUNNING);
}

#[test]
fn a_host_that_fails_is_reported() {
    let mut machine = Machine::new(1, 4);
    machine.carry_out(0, Descriptor::default());
    let number = machine.submit(0, fill(DATA, 8));
    machine.run();
    let group = machine.take_group().unwrap();
    machine.respond(&group[0], PageResponse::Failure);
    machine.settle();
    let completion = machine.completion(0, number);
    assert_eq!(outcome(completion), (Some(Status::FaultFailed), DATA, 0));
}

#[test]
fn a_page_that_never_stays_ends_the_operation() {
    let mut machine = Machine::new(1, 4);
    machine.back(1, DATA, PAGE_BYTES, RW);
    machine.carry_out(0, Descriptor::default());
    let number = machine.submit(0, fill(DATA, 8));
    let mut groups = 0;
    loop {
        machine.run();
        let Some(group) = machine.take_group() else {
            break;
        };
        groups += 1;
        // It says that it is there, and it is not.
        machine.respond(&group[0], PageResponse::Success);
    }
    assert_eq!(groups, ATTEMPTS);
    let completion = machine.completion(0, number);
    let expected = (Some(Status::FaultPersistent), DATA, 0);
    assert_eq!(outcome(completion), expected);
}

#[test]
fn silence_ends_the_operation_after_the_time_that_was_set() {
    let mut machine = Machine::new(1, 4);
    machine.back(1, DATA, PAGE_BYTES, RW);
    machine.carry_out(0, Descriptor::default());
    machine.write(register::PAGE_RESPONSE_TIMEOUT_MS, 7);
    let number = machine.submit(0, fill(DATA, 8));
    machine.run();
    let group = machine.take_group().unwrap();
    assert_eq!(
        machine.get(0, queue::STATUS),
        status::RUNNING | status::WAITING
    );
    assert_eq!(machine.world.call_at, Some(machine.world.now + 7_000_000));
    machine.pass(6_999_999);
    assert_eq!(machine.completion(0, number).status, 0);
    machine.pass(1);
    let completion = machine.completion(0, number);
    let expected = (Some(Status::FaultUnanswered), DATA, 0);
    assert_eq!(outcome(completion), expected);

    // An answer that comes after all is not taken for that to a later request.
    for _ in 0..PAGE_GROUPS + 1 {
        machine.unmap(1, DATA);
        machine.submit(0, fill(DATA, 8));
        machine.run();
        let later = machine.take_group().unwrap();
        assert_ne!(later[0].group, group[0].group);
        machine.serve(&later);
        machine.settle();
    }
    machine.respond(&group[0], PageResponse::Invalid);
    assert_eq!(machine.count(Counter::ResponsesUnexpected), 1);
    assert_eq!(machine.count(Counter::GroupsInvalid), 0);
}

#[test]
fn a_request_that_is_refused_ends_the_operation() {
    let mut machine = Machine::new(1, 4);
    machine.carry_out(0, Descriptor::default());
    machine.world.known.clear();
    let completion = machine.carry_out(0, fill(DATA, 8));
    assert_eq!(outcome(completion), (Some(Status::FaultRefused), DATA, 0));
    assert_eq!(machine.count(Counter::GroupsRefused), 1);
}

#[test]
fn what_is_taken_away_is_requested_again() {
    let mut machine = Machine::new(1, 4);
    machine.back(1, DATA, 4 * PAGE_BYTES, RW);
    machine.carry_out(0, fill(DATA, 4 * PAGE_BYTES));
    let before = machine.count(Counter::PageGroups);
    machine.unmap(1, DATA + PAGE_BYTES);
    assert_eq!(machine.count(Counter::Invalidated), 1);
    machine.carry_out(0, fill(DATA, 4 * PAGE_BYTES));
    assert_eq!(machine.count(Counter::PageGroups), before + 1);
}

#[test]
fn without_its_ring_or_completions_a_queue_halts() {
    for (lost, descriptors) in [(RING, 0), (COMPLETIONS, 0)] {
        let mut machine = Machine::new(1, 4);
        machine.submit(0, Descriptor::default());
        loop {
            machine.run();
            let Some(group) = machine.take_group() else {
                break;
            };
            if group[0].address == lost {
                machine.respond(&group[0], PageResponse::Invalid);
            } else {
                machine.serve(&group);
            }
        }
        let cause = Status::FaultInvalid.number() << status::CAUSE_SHIFT;
        assert_eq!(machine.get(0, queue::STATUS), status::HALTED | cause);
        let behind_status = if lost == COMPLETIONS { 4 } else { 0 };
        let address = machine.get(0, queue::HALT_ADDRESS);
        assert_eq!(u64::from(address), lost + behind_status);
        assert_eq!(machine.count(Counter::Descriptors), descriptors);
        assert_eq!(machine.count(Counter::Halts), 1);
        assert_eq!(machine.world.interrupts, [0]);
    }
}

#[test]
fn with_all_groups_out_a_queue_waits_for_one() {
    let mut machine = Machine::new(PAGE_GROUPS as u32 + 3, 2);
    for index in 0..PAGE_GROUPS as u32 + 3 {
        machine.submit(index, Descriptor::default());
    }
    machine.run_once();
    let mut groups: Vec<_> = std::iter::from_fn(|| machine.take_group()).collect();
    assert_eq!(groups.len(), PAGE_GROUPS);
    for group in groups.drain(..) {
        machine.serve(&group);
    }
    machine.settle();
    let all = PAGE_GROUPS as u64 + 3;
    assert_eq!(machine.count(Counter::Descriptors), all);
}
