// SPDX-License-Identifier: GPL-2.0

//! A guest cannot tell a card that changes hands from one of its own: beside QEMU's `ne2k_pci`, and
//! beside a card that does what the data sheets say.

use std::cell::RefCell;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::guest::{op, Op, Transfer};
use super::pair::{Nic, Pair};
use crate::dp8390::Dp8390;
use crate::model::access::Width;
use crate::qtest::{self, QemuCard};

impl Nic for QemuCard {
    const IS_IMMEDIATE: bool = false;

    fn asserts_interrupt(&mut self) -> bool {
        QemuCard::asserts_interrupt(self)
    }

    fn deliver(&mut self, frame: &[u8]) {
        self.send(frame);
    }

    fn finish(&mut self) -> Vec<u8> {
        self.receive()
    }

    fn wait(&mut self, done: impl FnMut(&mut Self) -> bool) {
        QemuCard::wait(self, done);
    }
}

impl Nic for Dp8390 {
    const IS_IMMEDIATE: bool = true;

    fn asserts_interrupt(&mut self) -> bool {
        Dp8390::asserts_interrupt(self)
    }

    fn deliver(&mut self, frame: &[u8]) {
        assert!(self.arrive(frame), "there was room");
    }

    fn finish(&mut self) -> Vec<u8> {
        Dp8390::finish(self);
        self.sent.pop().unwrap()
    }

    fn wait(&mut self, mut done: impl FnMut(&mut Self) -> bool) {
        assert!(done(self));
    }
}

/// The same steps on both cards of a pair.
fn run<C: Nic>(pair: &mut Pair<C>, ops: &[super::guest::Op]) {
    for op in ops {
        pair.step(op);
    }
    pair.compare();
}

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        failure_persistence: None,
        max_shrink_iters: 60,
        ..ProptestConfig::default()
    }
}

#[test]
fn a_guest_of_qemu_cannot_tell() {
    let Some(cards) = qtest::cards::<2>("ne2k_pci") else {
        return;
    };
    let cards = RefCell::new(Some(cards));
    let hand_overs = RefCell::new(0);

    TestRunner::new(config(10))
        .run(&prop::collection::vec(op(), 1..60), |ops| {
            // QEMU may be in any state after a failure: begin anew.
            let [own, card] = cards
                .take()
                .or_else(|| qtest::cards("ne2k_pci"))
                .expect("QEMU was there before");
            let mut pair = Pair::new(own, card);

            run(&mut pair, &ops);
            *hand_overs.borrow_mut() += pair.hand_overs;

            let (own, card, ..) = pair.into_parts();

            cards.replace(Some([own, card]));
            Ok(())
        })
        .unwrap();
    assert!(*hand_overs.borrow() > 5, "{hand_overs:?}");
}

/// QEMU's card keeps its command over a reset, and so has one whose remote DMA was complete when others
/// looked at what had come.
#[test]
fn a_reset_of_qemu_ends_no_command() {
    // Accesses around the end of the transfer.
    for delay in 19..27 {
        let Some([own, card]) = qtest::cards("ne2k_pci") else {
            return;
        };
        let ops = [
            Op::HandOver {
                in_mid_transfer: false,
                is_quiet: false,
                delay,
                frames: 2,
            },
            Op::Read(Transfer {
                address: 0x7fe8,
                count: 24,
                width: Width::Word,
                pause: 19,
                stop: 166,
            }),
            Op::Share,
            Op::Reset,
        ];

        run(&mut Pair::new(own, card), &ops);
    }
}

/// A guest that resets its card in mid-transfer does not go on with that: the card may change hands between
/// the accesses of the reset.
#[test]
fn a_reset_of_qemu_ends_a_transfer() {
    for delay in 0..3 {
        let Some([own, card]) = qtest::cards("ne2k_pci") else {
            return;
        };
        let ops = [
            Op::Read(Transfer {
                address: 0x4018,
                count: 248,
                width: Width::Word,
                pause: 34,
                stop: 43,
            }),
            Op::HandOver {
                in_mid_transfer: false,
                is_quiet: false,
                delay,
                frames: 0,
            },
            Op::Reset,
        ];

        run(&mut Pair::new(own, card), &ops);
    }
}

proptest! {
    #![proptest_config(config(400))]

    #[test]
    fn a_guest_of_a_dp8390_cannot_tell(
        ops in prop::collection::vec(op(), 1..80),
        is_fast in any::<bool>(),
    ) {
        let card = || {
            let mut card = Dp8390::new(b"RRTT\0\0\x12\x124455\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0WWWW");

            card.is_fast = is_fast;
            card
        };

        run(&mut Pair::new(card(), card()), &ops);
    }
}
