// SPDX-License-Identifier: GPL-2.0

//! Two guests on one card: each gets the frames that are for it, all of them and in order, and sees
//! no others.

use std::cell::RefCell;

use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::TestRunner;

use crate::dp8390::Dp8390;
use crate::model::access::Access;
use crate::model::device::{DeviceModel, Reuse};
use crate::model::frame::{Address, Frame};
use crate::model::ne2000::arrivals::{Arrivals, Buffer, Others};
use crate::model::ne2000::context::Context;
use crate::model::ne2000::filter::Filter;
use crate::model::ne2000::held_frames::{Handed, HeldFrames};
use crate::model::ne2000::register::{cr, isr, rcr, *};
use crate::model::ne2000::{Ne2000, Quirks};
use crate::qtest;

use super::pair::{arrived, Nic};

/// The receive ring of 8390.c.
const RING: (u8, u8) = (0x4c, 0x80);
/// Pages that the longest frame needs, with one between the pointers.
const ROOM: u8 = 7;

/// A guest, as its host has it.
struct Guest {
    model: Ne2000,
    context: Context,
    held: HeldFrames<Vec<u8>>,
    filter: Filter,
    /// What its driver has received.
    got: Vec<Vec<u8>>,
    /// What came for it.
    expected: Vec<Vec<u8>>,
}

/// The guest that does not have the card, and what is held for the one that does.
struct Rest<'a> {
    other: &'a mut Guest,
    held: &'a mut HeldFrames<Vec<u8>>,
}

impl Others for Rest<'_> {
    fn want(&self, destination: Address) -> bool {
        self.other.context.wants(destination)
    }

    fn receive(&mut self, frame: &Frame<'_>) {
        let Guest { context, held, .. } = &mut *self.other;

        assert!(context.wants(frame.destination()));
        assert_ne!(
            held.hand(frame, |frame| context.receive(frame)),
            Handed::Lost
        );
    }

    fn hold_own(&self) -> bool {
        !self.held.is_empty()
    }

    fn receive_own(&mut self, frame: &Frame<'_>) {
        assert_eq!(self.held.hold(frame), Handed::Held);
    }
}

/// What happens.
#[derive(Clone, Debug)]
enum Op {
    /// A frame of so many bytes comes for this destination.
    Frame(Address, u16),
    /// The owner reads up to so many frames.
    Drain(u8),
    /// The owner sends a frame of so many bytes.
    Send(u16),
    /// The owner sets its filter.
    Filter(u8, [u8; 8]),
    /// After so many accesses of the owner, the other gets the card and reads all that it has; these
    /// frames come meanwhile. Then the owner goes on.
    Borrow {
        accesses: u8,
        frames: Vec<(Address, u16)>,
    },
    /// The other has the card from now on.
    HandOver,
    /// So often, the host looks at what has come.
    Interrupts(u8),
}

const STATIONS: [Address; 3] = [
    Address([2, 0, 0, 0, 0, 0xa]),
    Address([2, 0, 0, 0, 0, 0xb]),
    // Nobody's.
    Address([2, 0, 0, 0, 0, 0xc]),
];

fn destination() -> impl Strategy<Value = Address> {
    prop_oneof![
        3 => Just(STATIONS[0]),
        3 => Just(STATIONS[1]),
        1 => Just(STATIONS[2]),
        1 => Just(Address::BROADCAST),
        1 => (0u8..4).prop_map(|group| Address([1, 0, 0x5e, 0, 0, group])),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let size = || prop_oneof![Just(60u16), Just(1514), 60u16..=1514];
    let filter = select(vec![
        (rcr::AB, [0; 8]),
        (0, [0xff; 8]),
        (rcr::AB | rcr::AM, [0x0f, 0, 0x5a, 0, 0xff, 0x80, 1, 0xe7]),
        (rcr::AB | rcr::AM | rcr::PRO, [0xff; 8]),
    ]);

    prop_oneof![
        10 => (destination(), size()).prop_map(|(to, size)| Op::Frame(to, size)),
        4 => (0u8..4).prop_map(Op::Drain),
        2 => size().prop_map(Op::Send),
        1 => filter.prop_map(|(config, table)| Op::Filter(config, table)),
        2 => (0u8..100, prop::collection::vec((destination(), size()), 0..3))
            .prop_map(|(accesses, frames)| Op::Borrow { accesses, frames }),
        3 => Just(Op::HandOver),
        1 => (1u8..50).prop_map(Op::Interrupts),
    ]
}

/// The guest that has the card, and the other.
fn split(guests: &mut [Guest; 2], owner: usize) -> (&mut Guest, &mut Guest) {
    let [first, second] = guests;

    if owner == 0 {
        (first, second)
    } else {
        (second, first)
    }
}

/// The card, its host and both drivers.
struct Desk<C> {
    card: C,
    guests: [Guest; 2],
    owner: usize,
    buffer: Buffer,
    serial: u32,
    /// After so many accesses somebody borrows the card.
    borrow: Option<(u8, Vec<(Address, u16)>)>,
    /// The host looks after so many accesses, and again.
    period: u8,
    accesses: u8,
    /// Frames that the driver of the owner was not to see.
    hidden: u32,
    moves: u32,
}

impl<C: Nic> Desk<C> {
    fn new(mut card: C) -> Self {
        let quirks = Quirks::probe(&mut card).unwrap();
        let prom = Ne2000::read_prom(&mut card);
        let guests = std::array::from_fn(|index| Guest {
            model: Ne2000::new(quirks),
            context: Context::new(prom),
            held: HeldFrames::new(vec![0; 0x2_0000]),
            filter: Filter {
                config: rcr::AB,
                address: STATIONS[index].0,
                multicast: [0; 8],
            },
            got: vec![],
            expected: vec![],
        });
        let mut desk = Self {
            card,
            guests,
            owner: 0,
            buffer: Buffer::new(),
            serial: 0,
            borrow: None,
            period: 0,
            accesses: 0,
            hidden: 0,
            moves: 0,
        };

        for owner in [1, 0] {
            desk.owner = owner;
            desk.restore();
            desk.initialize();
            desk.guests[owner].model.share(&mut desk.card);
            if owner == 1 {
                desk.save();
            }
        }
        desk.look();
        desk
    }

    fn count(&mut self, arrivals: Arrivals) {
        assert!(!arrivals.is_broken);
        self.hidden += arrivals.hidden;
    }

    /// The host looks at what has come.
    fn look(&mut self) {
        let (Guest { model, held, .. }, other) = split(&mut self.guests, self.owner);
        let mut rest = Rest { other, held };
        let arrivals = model.share_out(&mut rest, &mut self.buffer, &mut self.card);

        self.count(arrivals.expect("the driver is in the middle of nothing unseen"));
        self.remind();
    }

    /// Whether the owner is interrupted for frames that it has left.
    fn remind(&mut self) -> bool {
        self.guests[self.owner]
            .model
            .remind(&mut self.card)
            .unwrap()
    }

    fn save(&mut self) {
        let (owner, other) = split(&mut self.guests, self.owner);
        let Guest {
            model,
            context,
            held,
            ..
        } = owner;

        model.save(context, &mut self.card).unwrap();

        let arrivals = context.share_out(&mut Rest { other, held }, &mut self.buffer);

        self.count(arrivals);
    }

    fn restore(&mut self) {
        let Guest {
            model,
            context,
            held,
            ..
        } = &mut self.guests[self.owner];

        held.deliver(|frame| context.receive(frame));
        model.restore(context, &mut self.card);
        self.moves += 1;
    }

    /// The other guest has the card from now on, once that is possible.
    fn hand_over(&mut self) {
        self.save();
        self.owner ^= 1;
        self.restore();
    }

    /// The owner reads all that there is, and gets what is held for it.
    fn drain_all(&mut self) {
        loop {
            self.drain(u8::MAX);
            if self.guests[self.owner].held.is_empty() {
                break;
            }
            self.save();
            self.restore();
        }
    }

    /// The other guest has the card until it has read all that is there.
    fn lend(&mut self, frames: Vec<(Address, u16)>) {
        self.hand_over();
        for (to, size) in frames {
            self.out(CR, cr::ABORT | cr::STA);
            self.arrive(to, size);
        }
        self.drain_all();
        self.hand_over();
    }

    /// What the host does before an access of the owner.
    fn before(&mut self, exposes: bool) {
        match &mut self.borrow {
            Some((accesses, _)) if *accesses > 0 => *accesses -= 1,
            Some((_, frames)) => {
                let model = &mut self.guests[self.owner].model;

                if !matches!(model.reuse(&mut self.card), Reuse::Busy(_)) {
                    let frames = std::mem::take(frames);

                    self.borrow = None;
                    self.lend(frames);
                }
            }
            None => (),
        }
        self.accesses = self.accesses.wrapping_add(1);
        if exposes || self.period != 0 && self.accesses % self.period == 0 {
            self.look();
        }
    }

    fn out(&mut self, port: u8, value: u8) {
        let access = Access::byte(port);
        let exposes = self.guests[self.owner]
            .model
            .write_exposes(access, value.into());

        self.before(exposes);

        let model = &mut self.guests[self.owner].model;
        let verdict = model.check(access, value.into(), &());

        assert!(model.hooked().contains(port) && verdict.allows());
        self.card.write8(port, value);
        model.wrote(access, value.into(), verdict, &mut self.card);
    }

    fn input(&mut self, port: u8) -> u8 {
        let access = Access::byte(port);
        let exposes = self.guests[self.owner].model.read_exposes(access);

        self.before(exposes);

        let value = self.card.read(access);
        let model = &mut self.guests[self.owner].model;

        u8::try_from(model.read(access, value, &mut self.card)).unwrap()
    }

    fn transfer(&mut self, command: u8, address: u16, count: u16) {
        self.out(CR, cr::ABORT | cr::STA);
        for (port, byte) in
            (RSAR0..).zip(address.to_le_bytes().into_iter().chain(count.to_le_bytes()))
        {
            self.out(port, byte);
        }
        self.out(CR, command | cr::STA);
    }

    fn end_transfer(&mut self) {
        assert_eq!(self.input(ISR) & isr::RDC, isr::RDC);
        self.out(ISR, isr::RDC);
    }

    fn read(&mut self, address: u16, len: u16) -> Vec<u8> {
        self.transfer(cr::READ, address, len.next_multiple_of(2));

        let mut bytes = vec![];

        for _ in 0..len.div_ceil(2) {
            self.before(false);
            bytes.extend(self.card.read16(DATA).to_le_bytes());
        }
        self.end_transfer();
        bytes.truncate(len.into());
        bytes
    }

    /// What 8390.c does when its interface comes up.
    fn initialize(&mut self) {
        let filter = self.guests[self.owner].filter;

        self.out(CR, cr::ABORT | cr::STP);
        self.out(DCR, DCR_WORDS);
        for port in [RBCR0, RBCR1] {
            self.out(port, 0);
        }
        self.out(RCR, rcr::MON);
        self.out(TCR, TCR_LOOPBACK);
        self.out(PSTART, RING.0);
        self.out(BNRY, RING.0);
        self.out(PSTOP, RING.1);
        self.out(ISR, 0xff);
        self.out(IMR, 0);
        self.out(CR, cr::PAGE1 | cr::ABORT | cr::STP);
        for (port, byte) in (PAR0..).zip(filter.address) {
            self.out(port, byte);
        }
        for (port, byte) in (MAR0..).zip(filter.multicast) {
            self.out(port, byte);
        }
        self.out(CURR, RING.0 + 1);
        self.out(CR, cr::ABORT | cr::STP);
        self.out(ISR, 0xff);
        self.out(IMR, 0x3f);
        self.out(CR, cr::ABORT | cr::STA);
        self.out(TCR, 0);
        self.out(RCR, filter.config);
    }

    fn set_filter(&mut self, config: u8, multicast: [u8; 8]) {
        self.out(CR, cr::PAGE1 | cr::ABORT | cr::STA);
        for (port, byte) in (MAR0..).zip(multicast) {
            self.out(port, byte);
        }
        for (port, byte) in (MAR0..).zip(multicast) {
            assert_eq!(self.input(port), byte, "MAR as the guest has it");
        }
        self.out(CR, cr::ABORT | cr::STA);
        self.out(RCR, config);
        // Not before: the card may have changed hands meanwhile.
        let filter = &mut self.guests[self.owner].filter;

        filter.config = config;
        filter.multicast = multicast;
    }

    fn current(&mut self) -> u8 {
        self.out(CR, cr::PAGE1 | cr::ABORT | cr::STA);

        let current = self.input(CURR);

        self.out(CR, cr::ABORT | cr::STA);
        current
    }

    /// What 8390.c does for an interrupt: reads up to so many frames.
    fn drain(&mut self, frames: u8) {
        self.input(ISR);
        for _ in 0..frames {
            let current = self.current();
            let page = match self.input(BNRY) + 1 {
                page if page == RING.1 => RING.0,
                page => page,
            };

            if page == current {
                break;
            }

            let header = self.read(u16::from(page) << 8, 4);
            let len = u16::from_le_bytes([header[2], header[3]]) - 4;
            let frame = self.read((u16::from(page) << 8) + 4, len);
            let next = header[1];
            let pages = u8::try_from((len + 8).div_ceil(256)).unwrap();

            assert_eq!(header[0] & 1, 1);
            assert_eq!(
                next,
                if page + pages >= RING.1 {
                    page + pages - (RING.1 - RING.0)
                } else {
                    page + pages
                }
            );
            if frame[..6] == [0; 6] {
                assert!(frame.iter().all(|&byte| byte == 0), "hidden altogether");
            } else {
                self.guests[self.owner].got.push(frame);
            }
            // Below the ring if the next frame is at its start.
            self.out(BNRY, next - 1);
        }
        self.out(ISR, isr::PRX);
    }

    /// What 8390.c does to send a frame.
    fn send(&mut self, len: u16) {
        let frame = self.frame(Address::BROADCAST, len);

        self.out(IMR, 0);
        self.transfer(cr::WRITE, 0x4000, len.next_multiple_of(2));
        for word in frame.chunks(2) {
            self.before(false);
            self.card.write16(
                DATA,
                u16::from_le_bytes([word[0], word.get(1).copied().unwrap_or(0)]),
            );
        }
        self.end_transfer();
        for (port, byte) in (TBCR0..).zip(len.to_le_bytes()) {
            self.out(port, byte);
        }
        self.out(TPSR, 0x40);
        self.out(CR, cr::ABORT | cr::STA | cr::TXP);
        self.out(IMR, 0x3f);
        // The frame may still be on its way while the host looks.
        self.input(ISR);
        assert_eq!(self.card.finish(), frame);
        assert_eq!(self.input(ISR) & isr::PTX, isr::PTX);
        assert_eq!(self.input(TSR) & 1, 1);
        self.out(ISR, isr::PTX);
    }

    fn frame(&mut self, to: Address, len: u16) -> Vec<u8> {
        self.serial += 1;
        to.0.into_iter()
            .chain(self.serial.to_le_bytes())
            .chain((1..=u8::MAX).cycle())
            .take(len.into())
            .collect()
    }

    /// A frame comes, if the ring of the owner has room for it. Answers whether it has. The driver is not in
    /// the middle of anything.
    fn arrive(&mut self, to: Address, len: u16) -> bool {
        self.card.write8(CR, cr::PAGE1 | cr::ABORT | cr::STA);

        let before = self.card.read8(CURR);

        self.card.write8(CR, cr::ABORT | cr::STA);

        let boundary = self.card.read8(BNRY);
        let free = if before < boundary {
            boundary - before
        } else {
            RING.1 - RING.0 - (before - boundary)
        };

        if free <= ROOM {
            return false;
        }

        let frame = self.frame(to, len);

        self.card.deliver(&frame);
        arrived(&mut self.card, before);
        for guest in &mut self.guests {
            if guest.filter.accepts(to) {
                guest.expected.push(frame.clone());
            }
        }
        true
    }

    fn step(&mut self, op: Op) {
        match op {
            Op::Frame(to, len) => {
                // As between two things that the driver does.
                self.out(CR, cr::ABORT | cr::STA);
                let _ = self.arrive(to, len);
            }
            Op::Drain(frames) => self.drain(frames),
            Op::Send(len) => self.send(len),
            Op::Filter(config, table) => {
                // What came is received with the old filter.
                self.borrow = None;
                self.drain_all();
                self.set_filter(config, table);
            }
            Op::Borrow { accesses, frames } => self.borrow = Some((accesses, frames)),
            Op::HandOver => {
                self.out(CR, cr::ABORT | cr::STA);
                self.hand_over();
            }
            Op::Interrupts(period) => self.period = period,
        }
    }

    /// Both read what there is, and have got what came for them.
    fn finish(&mut self) {
        self.borrow = None;
        for _ in 0..2 {
            self.drain_all();
            self.hand_over();
        }
        for guest in &mut self.guests {
            let serials = |frames: &[Vec<u8>]| {
                frames
                    .iter()
                    .map(|frame| u32::from_le_bytes(*frame[6..].first_chunk().unwrap()))
                    .collect::<Vec<_>>()
            };

            assert_eq!(serials(&guest.got), serials(&guest.expected));
            assert_eq!(guest.got, guest.expected);
            assert_eq!(guest.held.lost(), 0);
            guest.got.clear();
            guest.expected.clear();
        }
    }
}

/// A guest that acknowledges PRX without having read all that came would not hear of the rest, once its
/// ring is full: neither would the guest that this is for.
fn is_reminded<C: Nic>(card: C) {
    let mut desk = Desk::new(card);

    let frames = (0..).take_while(|_| desk.arrive(STATIONS[0], 1514)).count();
    assert!(!desk.remind(), "PRX is there still");
    for left in (0..frames).rev() {
        // It does not read all.
        desk.drain(1);
        assert_eq!(desk.remind(), left != 0);
        assert_eq!(desk.guests[0].model.owes_interrupt(), left != 0);
        assert!(!desk.remind(), "once");
        assert_eq!(desk.input(ISR) & isr::PRX != 0, left != 0);
    }
    desk.arrive(STATIONS[1], 60);
    desk.drain(0);
    desk.out(CR, cr::ABORT | cr::STP);
    assert!(!desk.remind(), "it is stopped");
}

#[test]
fn a_guest_of_qemu_is_reminded() {
    if let Some([card]) = qtest::cards("ne2k_pci") {
        is_reminded(card);
    }
}

#[test]
fn a_guest_of_a_dp8390_is_reminded() {
    is_reminded(dp8390());
}

/// What a guest that only listens depends on: whether the one with the card has it receive.
fn listens<C: Nic>(card: C) {
    let mut desk = Desk::new(card);

    for (port, off, on) in [
        (CR, cr::ABORT | cr::STP, cr::ABORT | cr::STA),
        (RCR, rcr::MON, rcr::AB),
        (PSTART, RING.1, RING.0),
        (PSTOP, 0xff, RING.1),
    ] {
        for (value, expected) in [(on, true), (off, false)] {
            desk.out(port, value);
            assert_eq!(
                desk.guests[0].model.listens(),
                expected,
                "{port:#x}: {value:#x}"
            );
            desk.hand_over();
            assert_eq!(desk.guests[0].context.listens(), expected);
            desk.hand_over();
        }
        desk.out(port, on);
    }
}

#[test]
fn a_guest_of_qemu_listens_or_not() {
    if let Some([card]) = qtest::cards("ne2k_pci") {
        listens(card);
    }
}

#[test]
fn a_guest_of_a_dp8390_listens_or_not() {
    listens(dp8390());
}

/// A driver that has read up to the end of the ring leaves BNRY below its start. What comes then while
/// another guest has the card is not lost, nor is the driver left alone with it.
fn has_a_ring_from_its_start<C: Nic>(card: C) {
    let mut desk = Desk::new(card);

    while desk.current() != RING.0 {
        desk.arrive(STATIONS[0], 60);
        desk.drain(1);
    }
    assert_eq!(desk.input(BNRY), RING.0 - 1);

    desk.hand_over();
    desk.out(CR, cr::ABORT | cr::STA);
    assert!(desk.arrive(STATIONS[0], 60));
    desk.look();
    desk.hand_over();
    desk.drain(0);
    assert!(desk.remind(), "it has acknowledged what it has not read");
    desk.finish();
}

#[test]
fn a_guest_of_qemu_has_a_ring_from_its_start() {
    if let Some([card]) = qtest::cards("ne2k_pci") {
        has_a_ring_from_its_start(card);
    }
}

#[test]
fn a_guest_of_a_dp8390_has_a_ring_from_its_start() {
    has_a_ring_from_its_start(dp8390());
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
fn guests_of_qemu_get_their_frames() {
    let Some([card]) = qtest::cards::<1>("ne2k_pci") else {
        return;
    };
    let desk = RefCell::new(Some(Desk::new(card)));
    let (hidden, moves) = (RefCell::new(0), RefCell::new(0));

    TestRunner::new(config(8))
        .run(&prop::collection::vec(op(), 1..40), |ops| {
            // QEMU may be in any state after a failure: begin anew.
            let mut guests = desk.take().unwrap_or_else(|| {
                let [card] = qtest::cards("ne2k_pci").expect("QEMU was there before");

                Desk::new(card)
            });

            for op in ops {
                guests.step(op);
            }
            guests.finish();
            *hidden.borrow_mut() = guests.hidden;
            *moves.borrow_mut() = guests.moves;
            desk.replace(Some(guests));
            Ok(())
        })
        .unwrap();
    assert!(
        *hidden.borrow() > 5 && *moves.borrow() > 5,
        "{hidden:?} {moves:?}"
    );
}

fn dp8390() -> Dp8390 {
    Dp8390::new(&[0x11; 32])
}

proptest! {
    #![proptest_config(config(400))]

    #[test]
    fn guests_of_a_dp8390_get_their_frames(
        ops in prop::collection::vec(op(), 1..80),
        is_fast in any::<bool>(),
    ) {
        let mut card = dp8390();

        card.is_fast = is_fast;

        let mut desk = Desk::new(card);

        for op in ops {
            desk.step(op);
        }
        desk.finish();
    }
}
