// SPDX-License-Identifier: GPL-2.0

//! QEMU's `rtl8139` does DMA where the model says it would, and nowhere else.

use std::cell::RefCell;

use crate::model::access::Access;
use crate::model::card::Card;
use crate::model::device::{DeviceModel, Reuse, Verdict};
use crate::model::dma::{Channel, Denial, Direction, OnDenied};
use crate::model::frame::MAX_LEN;
use crate::model::rtl8139::context::Context;
use crate::model::rtl8139::register::{cr, Descriptor, *};
use crate::model::rtl8139::{Pinning, Rtl8139};
use proptest::prelude::*;
use proptest::sample::{select, Index};
use proptest::test_runner::TestRunner;

use crate::memory::Ram;
use crate::qtest::{self, QemuCard};
use crate::shared::Shared;

/// What the guest has of the machine's memory; QEMU has more on either side.
const RAM: Ram = Ram(0x20_0000..0x30_0000);
/// What memory holds before anything is written to it.
const FILL: u32 = 0x5a5a_5a5a;
/// On both sides of a ring, this much is looked at.
const MARGIN: u64 = 64;

/// What a guest does.
#[derive(Clone, Debug)]
enum Op {
    /// The next frame in turn is sent.
    Send {
        address: u32,
        len: u32,
    },
    /// The receiver is enabled, with a ring.
    Enable {
        start: u32,
        length: u32,
        wrap: bool,
    },
    /// Frames arrive.
    Frames(Vec<u16>),
    Disable,
    Status,
    /// Somebody else has the card, if that is possible now.
    HandOver,
}

fn address() -> impl Strategy<Value = u32> {
    prop_oneof![
        6 => 0x20_0000u32..0x2f_0000,
        1 => 0x2f_f000u32..0x30_1000,
        1 => 0x1f_e000u32..0x20_0100,
        1 => Just(0x20_0000u32),
        1 => Just(0x2f_dff0u32),
        1 => any::<Index>().prop_map(|at| 0xffff_f000 + u32::try_from(at.index(0x1000)).unwrap()),
    ]
    .prop_map(|address| address & !3)
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (address(), 60u32..1600).prop_map(|(address, len)| Op::Send { address, len }),
        3 => (address(), 0u32..4, any::<bool>())
            .prop_map(|(start, length, wrap)| Op::Enable { start, length, wrap }),
        3 => prop::collection::vec(60u16..1514, 1..4).prop_map(Op::Frames),
        1 => Just(Op::Disable),
        2 => Just(Op::Status),
        2 => Just(Op::HandOver),
    ]
}

struct Guest {
    shared: Shared<QemuCard, Rtl8139>,
    /// The descriptor that is next.
    next: u8,
    /// Bytes in the ring since it was enabled.
    received: u64,
    hand_overs: u32,
}

impl Guest {
    fn new(mut card: QemuCard, pinning: Pinning) -> Self {
        let mut model = Rtl8139::new(pinning, OnDenied::Ignore);
        let address = [card.read32(IDR0), card.read32(IDR0 | 4)];

        model.restore(&Context::new(address), &mut card);
        Self {
            shared: Shared::new(card, model),
            next: 0,
            received: 0,
            hand_overs: 0,
        }
    }

    fn out(&mut self, access: Access, value: u32) -> Verdict {
        self.shared.output(access, value, &RAM)
    }

    fn word(&self, address: u64) -> u32 {
        self.shared.card.read_memory(address)
    }

    fn enable(&mut self, start: u32, length: u32, wrap: bool) {
        self.disable();
        self.out(Access::dword(RBSTART), start);
        self.out(
            Access::dword(RCR),
            length << 11 | u32::from(wrap) << 7 | 0x0f,
        );

        let config = self.shared.card.read32(RCR);
        let bytes = 0x2000 << length;
        let fits = Ram::holds(start, bytes + 16 + if wrap { 2048 } else { 0 });
        let verdict = self.out(Access::byte(CR), u32::from(cr::RE | cr::TE));

        assert_eq!(verdict.allows(), fits, "{start:#x} {config:#x} {verdict:?}");
        assert_eq!(self.shared.model.receiving().is_some(), fits);
        assert_eq!(self.shared.card.read8(CR) & cr::RE != 0, fits);
        self.received = 0;
    }

    fn disable(&mut self) {
        self.out(Access::byte(CR), 0);

        let Shared { card, model, .. } = &mut self.shared;

        model.interrupt(card);
        assert_eq!(model.receiving(), None);
    }

    /// Frames go into the ring, and not a byte goes anywhere else.
    fn frames(&mut self, sizes: &[u16]) {
        for &size in sizes {
            let Some(dma) = self.shared.model.receiving() else {
                return;
            };
            let length = 0x2000u64 << (self.shared.card.read32(RCR) >> 11 & 3);
            let bytes = (u64::from(size) + 4 + 4 + 3) & !3;

            // The guest reads nothing, so a ring is filled once; QEMU lets nothing more in when the
            // longest frame would not fit any more.
            if self.received + u64::from(MAX_LEN) + 16 >= length {
                return;
            }

            let first = dma.span.start - MARGIN;
            let last = dma.span.start + u64::from(dma.span.len);

            for address in (first..first + MARGIN)
                .chain(last..last + MARGIN)
                .step_by(4)
            {
                self.shared.card.write_memory(address, FILL);
            }

            let frame: Vec<u8> = [0xff; 14]
                .into_iter()
                .chain((0u8..=255).cycle())
                .take(size.into())
                .collect();

            self.shared.card.send(&frame);
            self.received += bytes;

            let end = u16::try_from(self.received).unwrap();

            // CBR, behind CAPR.
            self.shared.card.wait(|card| card.read16(CAPR + 2) == end);
            for address in (first..first + MARGIN)
                .chain(last..last + MARGIN)
                .step_by(4)
            {
                assert_eq!(self.word(address), FILL, "{address:#x} {dma:x?}");
            }
            // Status and length, in front of the frame.
            let at = dma.span.start + self.received - bytes;

            assert_eq!(self.word(at) >> 16, u32::from(size) + 4);
            assert_eq!(direction(dma.channel), dma.direction);
        }
    }

    fn send(&mut self, address: u32, len: u32) {
        let descriptor = Descriptor::of(self.next << 2);
        let enabled = self.shared.card.read8(CR) & cr::TE != 0;

        if !enabled {
            return;
        }
        // What is to be sent.
        for offset in (0..len).step_by(4) {
            self.shared
                .card
                .write_memory(u64::from(address.wrapping_add(offset)), address ^ offset);
        }

        let tsad = Access::dword(TSAD0 | descriptor.offset());
        let tsd = Access::dword(TSD0 | descriptor.offset());

        self.out(tsad, address);
        assert_eq!(self.shared.card.read(tsad), address);

        let verdict = self.out(tsd, len);

        assert_eq!(verdict.allows(), Ram::holds(address, len), "{verdict:?}");
        if let Verdict::Ignore(denial) = verdict {
            assert!(matches!(denial, Denial::OutsideMemory(dma) if dma.span.len == len));
            // The device has not heard of it.
            assert_eq!(self.shared.card.read(tsd) & 0x2000, 0x2000);
            return;
        }

        let frame = self.shared.card.receive();

        assert_eq!(frame.len(), usize::try_from(len).unwrap());
        for (offset, bytes) in (0u32..).step_by(4).zip(frame.chunks_exact(4)) {
            assert_eq!(bytes, (address ^ offset).to_le_bytes());
        }
        self.next = (self.next + 1) & 3;
        if let Some(dma) = self.shared.model.sending(descriptor) {
            assert_eq!((dma.span.start, dma.span.len), (address.into(), len));
        }

        let Shared { card, model, .. } = &mut self.shared;
        let was_sending = model.sending(descriptor);
        let over = model.interrupt(card);

        assert_eq!(
            was_sending.is_some_and(|dma| over.contains(dma.channel)),
            was_sending.is_some()
        );
        assert_eq!(model.sending(descriptor), None);
    }

    fn hand_over(&mut self) {
        let Shared { card, model, .. } = &mut self.shared;
        let mut context = Context::new([0; 2]);

        if model.reuse(card) != Reuse::Now {
            model.save(&mut context, card).unwrap_err();
            return;
        }

        let readable = |card: &mut QemuCard| -> Vec<u32> {
            [
                IDR0,
                MAR0,
                MAR0 | 4,
                RBSTART,
                TCR,
                RCR,
                TSAD0,
                TSAD0 | 4,
                TSAD0 | 8,
                TSAD0 | 12,
            ]
            .map(|port| card.read32(port))
            .into_iter()
            .chain([CONFIG1, CONFIG3, CONFIG4, CONFIG5, CR9346].map(|port| card.read8(port).into()))
            .chain([IMR, MULINT].map(|port| card.read16(port).into()))
            .collect()
        };
        let before = readable(card);
        let status = card.read16(ISR) | model_status(model);

        model.save(&mut context, card).unwrap();
        for port in [RBSTART, TSAD0, TSAD0 | 4, RCR, MAR0, IDR0] {
            card.write32(port, 0x0bad_0bad);
        }
        model.restore(&context, card);
        assert_eq!(readable(card), before);
        assert_eq!(card.read16(ISR) | model_status(model), status);
        self.next = 0;
        self.hand_overs += 1;
    }

    fn step(&mut self, op: &Op) {
        match op {
            Op::Send { address, len } => self.send(*address, *len),
            Op::Enable {
                start,
                length,
                wrap,
            } => {
                self.enable(*start, *length, *wrap);
            }
            Op::Frames(sizes) => self.frames(sizes),
            Op::Disable => self.disable(),
            Op::Status => {
                let status = self.shared.input(Access::word(ISR));

                self.out(Access::word(ISR), status);
                assert_eq!(self.shared.input(Access::word(ISR)) & status, 0);
                self.out(Access::word(IMR), status);
            }
            Op::HandOver => self.hand_over(),
        }
    }
}

/// What the model adds to ISR.
fn model_status(model: &mut Rtl8139) -> u16 {
    struct Nothing;

    impl Card for Nothing {
        fn read(&mut self, _: Access) -> u32 {
            0
        }

        fn write(&mut self, _: Access, _: u32) {}
    }

    u16::try_from(model.read(Access::word(ISR), 0, &mut Nothing)).unwrap()
}

fn direction(channel: Channel) -> Direction {
    match channel {
        Channel::Receive => Direction::ToMemory,
        _ => Direction::FromMemory,
    }
}

impl Ram {
    /// Whether the guest of these tests has this memory.
    fn holds(start: u32, len: u32) -> bool {
        let (start, len) = (u64::from(start), u64::from(len));

        start >= RAM.0.start && start + len <= RAM.0.end
    }
}

#[test]
fn qemu_does_dma_where_the_model_says() {
    let Some(cards) = qtest::cards::<1>("rtl8139") else {
        return;
    };
    let cards = RefCell::new(Some(cards));
    let hand_overs = RefCell::new(0);
    let config = ProptestConfig {
        cases: 24,
        failure_persistence: None,
        max_shrink_iters: 60,
        ..ProptestConfig::default()
    };
    let ops = (
        select(Pinning::ALL.to_vec()),
        prop::collection::vec(op(), 1..40),
    );

    TestRunner::new(config)
        .run(&ops, |(pinning, ops)| {
            let [card] = cards
                .take()
                .or_else(|| qtest::cards("rtl8139"))
                .expect("QEMU was there before");
            let mut guest = Guest::new(card, pinning);

            for op in &ops {
                guest.step(op);
            }
            guest.disable();
            guest.hand_over();
            *hand_overs.borrow_mut() += guest.hand_overs;
            cards.replace(Some([guest.shared.card]));
            Ok(())
        })
        .unwrap();
    assert!(*hand_overs.borrow() >= 24, "{hand_overs:?}");
}
