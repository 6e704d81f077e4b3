// SPDX-License-Identifier: GPL-2.0

//! Frames that arrive at a set rate.

use proptest::prelude::*;
use svadma_model::abi::{
    frame_word, queue, Counter, Descriptor, Field, Operation, Status, StreamMode, PAGE_BYTES,
};
use svadma_model::counters::Counters;
use svadma_model::stream::{Settings, Stream};

use crate::machine::{Machine, DATA, RW};

const FRAME: u32 = 1000;
const MS: u64 = 1_000_000;

/// One frame in each millisecond, and room for four.
fn machine(mode: StreamMode) -> Machine {
    let mut machine = Machine::new(1, 4);
    machine.back(1, DATA, 16 * PAGE_BYTES, RW);
    machine.carry_out(0, Descriptor::default());
    machine.set(0, queue::STREAM_FRAME_BYTES, FRAME);
    machine.set(0, queue::STREAM_BYTES_PER_MS, FRAME);
    machine.set(0, queue::STREAM_BUFFER_BYTES, 4 * FRAME);
    machine.set(0, queue::STREAM_MODE, mode.number());
    assert_eq!(machine.get(0, queue::STREAM_MODE), mode.number());
    machine
}

fn receive(address: u64) -> Descriptor {
    Descriptor {
        operation: Operation::Receive.number(),
        destination: address,
        length: 2048,
        ..Descriptor::default()
    }
}

fn content(frame: u64) -> Vec<u8> {
    let words = (0..u64::from(FRAME) / 8).map(|word| frame_word(frame, word));
    words.flat_map(u64::to_le_bytes).collect()
}

#[test]
fn a_buffer_is_filled_when_the_frame_is_there() {
    let mut machine = machine(StreamMode::Cooperate);
    let number = machine.submit(0, receive(DATA + 4000));
    machine.settle();
    assert_eq!(machine.completion(0, number).status, 0);
    assert_eq!(machine.world.call_at, Some(machine.world.now + MS));
    machine.pass(MS);
    machine.settle();
    let completion = machine.completion(0, number);
    assert_eq!(completion.status, Status::Done.number());
    assert_eq!((completion.bytes_done, completion.result), (1000, 0));
    assert_eq!(machine.peek(1, DATA + 4000, 1000), content(0));
    assert_eq!(machine.peek(1, DATA + 5000, 1), [0]);
}

#[test]
fn frames_that_find_no_room_are_lost_or_wait() {
    for (mode, dropped, next) in [(StreamMode::Cooperate, 0, 4), (StreamMode::Drop, 6, 10)] {
        let mut machine = machine(mode);
        machine.pass(10 * MS);
        let mut received = vec![];
        for _ in 0..4 {
            let completion = machine.carry_out(0, receive(DATA));
            assert_eq!(completion.status, Status::Done.number());
            received.push(completion.result);
        }
        assert_eq!(received, [0, 1, 2, 3]);
        assert_eq!(machine.count(Counter::StreamDropped), dropped);
        let number = machine.submit(0, receive(DATA));
        machine.pass(MS);
        machine.settle();
        assert_eq!(machine.completion(0, number).result, next);
        assert_eq!(machine.peek(1, DATA, 1000), content(next));
        assert_eq!(machine.count(Counter::StreamBufferedMax), 4000);
    }
}

#[test]
fn a_frame_that_could_not_be_delivered_is_not_lost() {
    let mut machine = machine(StreamMode::Cooperate);
    machine.pass(MS);
    let completion = machine.carry_out(0, receive(DATA + 16 * PAGE_BYTES));
    assert_eq!(completion.status, Status::FaultInvalid.number());
    let completion = machine.carry_out(
        0,
        Descriptor {
            length: 999,
            ..receive(DATA)
        },
    );
    assert_eq!(completion.status, Status::Malformed.number());
    assert_eq!(completion.field, Field::Length.number());
    let completion = machine.carry_out(0, receive(DATA));
    assert_eq!(completion.result, 0);
    assert_eq!(machine.peek(1, DATA, 1000), content(0));
    assert_eq!(machine.count(Counter::StreamDelivered), 1);
}

#[test]
fn without_a_stream_nothing_can_be_received() {
    let mut machine = machine(StreamMode::Drop);
    let number = machine.submit(0, receive(DATA));
    machine.settle();
    machine.set(0, queue::STREAM_MODE, StreamMode::Off.number());
    machine.settle();
    let completion = machine.completion(0, number);
    assert_eq!(completion.status, Status::NoStream.number());
}

#[test]
fn a_stream_that_cannot_be_does_not_start() {
    for (register, value) in [
        (queue::STREAM_FRAME_BYTES, 56),
        (queue::STREAM_FRAME_BYTES, 1001),
        (queue::STREAM_FRAME_BYTES, 65_544),
        (queue::STREAM_BYTES_PER_MS, 0),
        (queue::STREAM_BUFFER_BYTES, 999),
    ] {
        let mut machine = machine(StreamMode::Drop);
        machine.set(0, register, value);
        machine.set(0, queue::STREAM_MODE, StreamMode::Drop.number());
        assert_eq!(machine.get(0, queue::STREAM_MODE), 0);
    }
}

fn settings(mode: StreamMode) -> impl Strategy<Value = Settings> {
    (8_u32..200, 1_u32..100_000, 1_u32..20, 0_u32..50).prop_map(
        move |(words, bytes_per_ms, frames, end)| Settings {
            mode,
            frame_bytes: words * 8,
            bytes_per_ms,
            buffer_bytes: words * 8 * frames,
            frames: end,
        },
    )
}

proptest! {
    /// How often somebody looks does not change what arrives; nothing is lost in between, and
    /// whoever can be held back loses nothing at all.
    #[test]
    fn a_stream_does_not_depend_on_who_looks(
        settings in prop_oneof![settings(StreamMode::Drop), settings(StreamMode::Cooperate)],
        steps in prop::collection::vec((1_u64..3 * MS, any::<bool>()), 1..50),
    ) {
        let mut streams = [Stream::new(settings, 0), Stream::new(settings, 0)];
        let mut counters = [Counters::new(), Counters::new()];
        let mut now = 0;
        for (elapsed, pop) in steps {
            // The second one is looked at in the middle, too.
            streams[1].advance(now + elapsed / 2, &mut counters[1]);
            now += elapsed;
            for (stream, counters) in streams.iter_mut().zip(&mut counters) {
                stream.advance(now, counters);
            }
            prop_assert_eq!(streams[0].front(), streams[1].front());
            if pop {
                for (stream, counters) in streams.iter_mut().zip(&mut counters) {
                    stream.pop(counters);
                }
            }
        }
        let [once, twice] = counters;
        for counter in [
            Counter::StreamArrived,
            Counter::StreamDelivered,
            Counter::StreamDropped,
            Counter::StreamBufferedMax,
        ] {
            prop_assert_eq!(once.get(counter), twice.get(counter));
        }
        let arrived = once.get(Counter::StreamArrived);
        let lost = once.get(Counter::StreamDropped);
        prop_assert!(settings.frames == 0 || arrived <= settings.frames.into());
        if settings.mode == StreamMode::Cooperate {
            prop_assert_eq!(lost, 0);
        } else {
            let bytes = u128::from(now) * u128::from(settings.bytes_per_ms) / u128::from(MS);
            let frames = bytes / u128::from(settings.frame_bytes);
            let all = match settings.frames {
                0 => frames,
                end => frames.min(end.into()),
            };
            prop_assert_eq!(u128::from(arrived), all);
        }
        let held = once.get(Counter::StreamHeldNs);
        prop_assert!(held <= now);
    }

    /// A frame is there at the time that was said, and not before.
    #[test]
    fn the_next_frame_comes_when_it_was_said(settings in settings(StreamMode::Drop)) {
        let mut stream = Stream::new(settings, 5);
        let mut counters = Counters::new();
        let time = stream.next_arrival().unwrap();
        stream.advance(time - 1, &mut counters);
        prop_assert_eq!(stream.front(), None);
        stream.advance(time, &mut counters);
        prop_assert_eq!(stream.front(), Some(0));
    }
}
