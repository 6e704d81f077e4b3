// SPDX-License-Identifier: GPL-2.0

//! What registers take, and what they say.

use proptest::prelude::*;
use svadma_model::abi::{
    doorbell, queue, register, Counter, Descriptor, BAR_BYTES, IDENTITY, QUEUES, VECTORS,
};

use crate::machine::Machine;

#[test]
fn the_device_says_what_it_is() {
    let mut machine = Machine::default();
    assert_eq!(machine.read(register::IDENTITY), IDENTITY);
    assert_eq!(machine.read(register::VERSION), 1);
    assert_eq!(machine.read(register::QUEUES), QUEUES);
    assert_eq!(machine.read(register::VECTORS), VECTORS);
    assert_eq!(machine.read(register::END), u32::MAX);
    assert_eq!(machine.read(register::IDENTITY + 2), u32::MAX);
}

#[test]
fn values_out_of_range_change_nothing() {
    let mut machine = Machine::default();
    for (offset, good, bad) in [
        (register::PAGE_REQUEST_WINDOW, 64, &[0, 65, u32::MAX][..]),
        (register::TRANSLATION_WINDOW, 2, &[0, 65]),
        (register::PAGE_RESPONSE_TIMEOUT_MS, 1, &[0, 600_001]),
        (register::CACHE_ENTRIES, 0, &[65_537]),
        (register::CACHE_WAYS, 3, &[0]),
        (register::CACHE_REPLACEMENT, 3, &[4]),
        (register::INJECT_DAMAGED_WORD, 15, &[16]),
        (register::INJECT_PASID, 0xf_ffff, &[0x10_0000]),
        (register::PROBE_PASID, 0xf_ffff, &[0x10_0000]),
        (queue::block(7) + queue::PASID, 0xf_ffff, &[0x10_0000]),
        (queue::block(7) + queue::RING_LOG2, 12, &[0, 13]),
        (queue::block(7) + queue::VECTOR, 63, &[64]),
        (queue::block(7) + queue::RING_ADDRESS, 0x1234_5678, &[]),
        (queue::block(7) + queue::RING_ADDRESS + 4, 0x9abc, &[]),
        (queue::block(7) + queue::HALT_ADDRESS, 0, &[1]),
        (queue::block(7) + queue::CONTROL, 0, &[2, 3]),
    ] {
        machine.write(offset, good);
        assert_eq!(machine.read(offset), good, "{offset:#x}");
        for value in bad {
            machine.write(offset, *value);
            assert_eq!(machine.read(offset), good, "{offset:#x}");
        }
    }
    let low = machine.read(queue::block(7) + queue::RING_ADDRESS);
    assert_eq!(low, 0x1234_5678);
}

#[test]
fn the_cache_takes_a_shape_that_can_be() {
    let mut machine = Machine::default();
    let mut shape = |entries, ways| {
        machine.write(register::CACHE_ENTRIES, entries);
        machine.write(register::CACHE_WAYS, ways);
        machine.write(register::CACHE_APPLY, 1);
        u64::from(machine.read(register::CACHE_APPLY))
    };
    assert_eq!(shape(48, 3), 0);
    assert_eq!(shape(48, 48), 0);
    assert_eq!(shape(48, 5), register::CACHE_WAYS);
    assert_eq!(shape(4, 8), register::CACHE_WAYS);
    assert_eq!(shape(0, 8), 0);
}

#[test]
fn counters_begin_at_zero_again() {
    let mut machine = Machine::new(2, 4);
    machine.carry_out(0, Descriptor::default());
    machine.carry_out(1, Descriptor::default());
    let offset = 8 * u64::from(Counter::Descriptors.number());
    assert_eq!(machine.read(register::COUNTERS + offset), 2);
    assert_eq!(
        machine.read(doorbell::page(0) + doorbell::COUNTERS + offset),
        1
    );
    assert_eq!(machine.read(queue::block(1) + queue::COUNTERS + offset), 1);
    // A queue that starts again has not done anything, and the device has.
    machine.set(0, queue::CONTROL, 1);
    assert_eq!(
        machine.read(doorbell::page(0) + doorbell::COUNTERS + offset),
        0
    );
    assert_eq!(machine.read(register::COUNTERS + offset), 2);
    machine.write(register::COUNTERS_RESET, 0);
    assert_eq!(machine.read(register::COUNTERS + offset), 0);
}

#[test]
fn consumers_cannot_do_more_than_ring() {
    let mut machine = Machine::new(1, 4);
    let before = machine.get(0, queue::STATUS);
    for offset in (4..0x1000).step_by(4) {
        machine.write(doorbell::page(0) + offset, 0);
    }
    assert_eq!(machine.get(0, queue::STATUS), before);
}

proptest! {
    /// Whatever is written wherever, the device goes on.
    #[test]
    fn anything_may_be_written(
        writes in prop::collection::vec(
            (
                prop_oneof![0..register::END, queue::block(0)..queue::block(2), 0..BAR_BYTES],
                prop_oneof![0_u32..20, any::<u32>()],
            ),
            0..200,
        ),
    ) {
        let mut machine = Machine::default();
        machine.world.known.extend([0, 1]);
        for (offset, value) in writes {
            machine.write(offset, value);
            machine.read(offset);
            machine.run_once();
        }
        prop_assert_eq!(machine.read(register::IDENTITY), IDENTITY);
    }
}
