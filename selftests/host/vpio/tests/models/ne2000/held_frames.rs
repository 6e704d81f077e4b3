// SPDX-License-Identifier: GPL-2.0

//! Frames that wait for room.

use std::collections::VecDeque;

use crate::model::frame::Frame;
use crate::model::ne2000::context::Received;
use crate::model::ne2000::held_frames::{Handed, HeldFrames};
use proptest::prelude::*;

fn bytes(serial: u8, size: usize) -> Vec<u8> {
    (0..size).map(|at| serial ^ at.to_le_bytes()[0]).collect()
}

#[test]
fn a_frame_that_is_received_is_not_held() {
    let mut held = HeldFrames::new(vec![0; 4096]);

    for received in [Received::Stored, Received::Unwanted, Received::NoRing] {
        let frame = bytes(1, 60);
        let handed = held.hand(&Frame::new(&frame).unwrap(), |_| received);

        assert_eq!(handed, Handed::Done(received));
        assert!(held.is_empty());
    }
    assert_eq!(held.lost(), 0);
}

#[test]
fn what_finds_no_room_is_counted() {
    for (size, handed) in [(61, Handed::Lost), (62, Handed::Held), (0, Handed::Lost)] {
        let mut held = HeldFrames::new(vec![0; size]);
        let frame = bytes(1, 60);
        let frame = Frame::new(&frame).unwrap();

        assert_eq!(held.hand(&frame, |_| Received::Full), handed);
        assert_eq!(held.hand(&frame, |_| Received::Full), Handed::Lost);
        assert_eq!(held.lost(), 1 + u64::from(handed == Handed::Lost));
    }
}

#[test]
fn nothing_is_held_after_a_reset() {
    let mut storage = [0; 200];
    let mut held = HeldFrames::new(&mut storage[..]);
    let frame = bytes(1, 60);
    let frame = Frame::new(&frame).unwrap();

    for _ in 0..4 {
        held.hand(&frame, |_| Received::Full);
    }
    assert_eq!((held.len(), held.lost()), (3, 1));
    held.clear();
    assert!(held.is_empty());
    assert_eq!(held.deliver(|_| panic!("there is none")), 0);
    assert_eq!(held.hand(&frame, |_| Received::Full), Handed::Held);
    assert_eq!(held.lost(), 1);
}

proptest! {
    /// It is a queue: whatever its size, frames come out whole, once and in order.
    #[test]
    fn frames_keep_their_order(
        capacity in 0usize..6000,
        ops in prop::collection::vec((1usize..1515, 0usize..4), 1..200),
    ) {
        let mut held = HeldFrames::new(vec![0; capacity]);
        let mut expected: VecDeque<Vec<u8>> = VecDeque::new();
        let mut lost = 0;

        for (serial, (size, mut room)) in ops.into_iter().enumerate() {
            let frame = bytes(serial.to_le_bytes()[0], size.max(60));
            let mut got = vec![];
            let handed = held.hand(&Frame::new(&frame).unwrap(), |frame| {
                if room == 0 {
                    return Received::Full;
                }
                room -= 1;
                got.push(frame.bytes().collect::<Vec<_>>());
                Received::Stored
            });

            if handed != Handed::Lost {
                expected.push_back(frame);
            }
            for got in got {
                prop_assert_eq!(Some(got), expected.pop_front());
            }
            prop_assert_eq!(held.len() as usize, expected.len());
            prop_assert_eq!(held.is_empty(), expected.is_empty());

            let used: usize = expected.iter().map(|frame| frame.len() + 2).sum();

            prop_assert!(used <= capacity);
            match handed {
                Handed::Done(received) => prop_assert_eq!(received, Received::Stored),
                Handed::Held => prop_assert!(room == 0),
                Handed::Lost => {
                    lost += 1;
                    // Frames lie in one piece: at most one of the longest does not fit at the end.
                    prop_assert!(used + 2 * 1516 > capacity);
                }
            }
            prop_assert_eq!(held.lost(), lost);
        }

        let count = held.len();
        let delivered = held.deliver(|frame| {
            assert_eq!(Some(frame.bytes().collect()), expected.pop_front());
            Received::Stored
        });

        prop_assert_eq!(delivered, count);
        prop_assert!(held.is_empty() && expected.is_empty());
    }
}
