// SPDX-License-Identifier: GPL-2.0

//! Errors made on purpose.

use svadma_model::abi::{
    queue, register, status, Counter, Descriptor, Field, Operation, Probe, ProbeResult, Status,
    PAGE_BYTES,
};

use crate::machine::{Machine, DATA, RW};

fn fill(address: u64) -> Descriptor {
    Descriptor {
        operation: Operation::Fill.number(),
        destination: address,
        length: 8,
        pattern: u64::MAX,
        ..Descriptor::default()
    }
}

fn machine() -> Machine {
    let mut machine = Machine::new(2, 4);
    for pasid in [1, 2] {
        machine.back(pasid, DATA, 8 * PAGE_BYTES, RW);
    }
    machine.carry_out(0, Descriptor::default());
    machine.carry_out(1, Descriptor::default());
    machine
}

#[test]
fn a_dropped_response_is_as_good_as_none() {
    let mut machine = machine();
    machine.write(register::INJECT_DROPPED_RESPONSES, 1);
    machine.write(register::PAGE_RESPONSE_TIMEOUT_MS, 5);
    let number = machine.submit(0, fill(DATA));
    machine.settle();
    assert_eq!(machine.read(register::INJECT_DROPPED_RESPONSES), 0);
    assert_eq!(machine.completion(0, number).status, 0);
    machine.pass(5_000_000);
    let completion = machine.completion(0, number);
    assert_eq!(completion.status, Status::FaultUnanswered.number());
    assert_eq!(machine.count(Counter::ResponsesDropped), 1);
    // The host has done its part.
    let completion = machine.carry_out(0, fill(DATA));
    assert_eq!(completion.status, Status::Done.number());
}

#[test]
fn a_late_response_counts_until_the_time_is_over() {
    let mut machine = machine();
    machine.write(register::PAGE_RESPONSE_TIMEOUT_MS, 5);
    machine.write(register::INJECT_LATE_MS, 4);
    machine.write(register::INJECT_LATE_RESPONSES, 1);
    let number = machine.submit(0, fill(DATA));
    machine.settle();
    assert_eq!(machine.completion(0, number).status, 0);
    machine.pass(4_000_000);
    let completion = machine.completion(0, number);
    assert_eq!(completion.status, Status::Done.number());

    machine.write(register::INJECT_LATE_MS, 6);
    machine.write(register::INJECT_LATE_RESPONSES, 1);
    let number = machine.submit(0, fill(DATA + PAGE_BYTES));
    machine.settle();
    machine.pass(5_000_000);
    let completion = machine.completion(0, number);
    assert_eq!(completion.status, Status::FaultUnanswered.number());
}

#[test]
fn a_damaged_descriptor_is_malformed() {
    for (word, field) in [
        (0, Field::Operation),
        (1, Field::Flags),
        (3, Field::Source),
        (7, Field::Length),
        (10, Field::ListEntries),
        (15, Field::Reserved),
    ] {
        let mut machine = machine();
        machine.write(register::INJECT_DAMAGED_WORD, word);
        machine.write(register::INJECT_DAMAGED_DESCRIPTORS, 1);
        let completion = machine.carry_out(0, fill(DATA));
        assert_eq!(completion.status, Status::Malformed.number());
        assert_eq!(completion.field, field.number());
        let completion = machine.carry_out(0, fill(DATA));
        assert_eq!(completion.status, Status::Done.number());
    }
}

#[test]
fn an_unknown_pasid_is_reported_and_nothing_of_it_is_kept() {
    let mut machine = machine();
    machine.write(register::INJECT_PASID, 77);
    machine.write(register::INJECT_FOREIGN_PASIDS, 1);
    let completion = machine.carry_out(0, fill(DATA));
    assert_eq!(completion.status, Status::FaultRefused.number());
    assert_eq!(completion.fault_address, DATA);

    // Even if the IOMMU has a translation: nobody would tell the device of its end.
    machine.back(77, DATA, PAGE_BYTES, RW);
    machine.map(77, DATA);
    for _ in 0..2 {
        let before = machine.count(Counter::Translations);
        machine.write(register::INJECT_FOREIGN_PASIDS, 1);
        machine.carry_out(0, fill(DATA));
        assert_eq!(machine.count(Counter::Translations), before + 1);
    }
}

#[test]
fn after_the_end_of_a_binding_nothing_is_reached() {
    let mut machine = machine();
    machine.carry_out(0, fill(DATA));
    machine.write(register::PROBE_ADDRESS, DATA as u32);
    machine.write(register::PROBE_PASID, 1);
    machine.write(register::PROBE_COMMAND, Probe::Read.number());
    let reached = ProbeResult::Reached.number();
    assert_eq!(machine.read(register::PROBE_RESULT), reached);
    assert_eq!(machine.read(register::PROBE_DATA), u32::MAX);

    machine.set(0, queue::CONTROL, 0);
    assert_eq!(machine.get(0, queue::STATUS) & status::DRAINING, 0);
    assert!(!machine.world.attached.contains(&1));
    machine.unmap(1, DATA);
    for probe in Probe::ALL {
        machine.write(register::PROBE_COMMAND, probe.number());
        let untranslated = ProbeResult::Untranslated.number();
        assert_eq!(machine.read(register::PROBE_RESULT), untranslated);
    }
}
