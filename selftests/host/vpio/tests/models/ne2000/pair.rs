// SPDX-License-Identifier: GPL-2.0

//! Two cards in lockstep: one that its guest has for itself, and one that changes hands under its
//! guest's feet. The guest must not be able to tell them apart.

use crate::model::access::{Access, Width};
use crate::model::card::Card;
use crate::model::device::{Attention, DeviceModel, Reuse, Verdict};
use crate::model::frame::{Address, Frame};
use crate::model::ne2000::arrivals::{Arrivals, Buffer, Others};
use crate::model::ne2000::context::{Context, Received};
use crate::model::ne2000::memory::PacketMemory;
use crate::model::ne2000::register::{cr, isr, *};
use crate::model::ne2000::{Ne2000, Quirks};

use super::guest::{Op, Pages, Transfer};
use crate::shared::Shared;

/// An NE2000 to test with.
pub(crate) trait Nic: Card {
    /// Whether a frame on its wire has arrived at once.
    const IS_IMMEDIATE: bool;

    /// Its interrupt line.
    fn asserts_interrupt(&mut self) -> bool;

    /// Puts a frame on its wire.
    fn deliver(&mut self, frame: &[u8]);

    /// Waits until what it is to send is on its wire, and takes that.
    fn finish(&mut self) -> Vec<u8>;

    /// Tells others what time it is, while `done` is not what has happened.
    fn wait(&mut self, done: impl FnMut(&mut Self) -> bool);
}

/// Other guests that want everything.
#[derive(Default)]
struct Collector(Vec<Vec<u8>>);

impl Others for Collector {
    fn want(&self, _: Address) -> bool {
        true
    }

    fn receive(&mut self, frame: &Frame<'_>) {
        self.0.push(frame.bytes().collect());
    }
}

/// Two of them.
pub(crate) struct Pair<C> {
    /// The one that is the guest's own.
    own: C,
    /// The other.
    shared: Shared<C, Ne2000>,
    context: Context,
    pages: Pages,
    is_started: bool,
    /// Whether broadcasts are received.
    has_ring: bool,
    /// Bytes that the present remote DMA has left, while one is under way.
    left: Option<u16>,
    has_sent: bool,
    /// Whether somebody wants the card, and would take it in mid-transfer.
    wanted: Option<bool>,
    /// After so many accesses.
    delay: u8,
    /// Frames that arrive meanwhile.
    frames: u8,
    serial: u16,
    /// Whether others share the card.
    is_shared: bool,
    /// Whether the card receives for them already.
    receives: bool,
    /// After how many accesses somebody looks at what has come.
    look: Option<u8>,
    /// What others got.
    others: Collector,
    /// What they should have got.
    expected: Vec<Vec<u8>>,
    buffer: Buffer,
    /// How often the card has changed hands.
    pub(crate) hand_overs: u32,
    /// How many frames others have got.
    pub(crate) shared_frames: usize,
}

impl<C: Nic> Pair<C> {
    /// Both cards as after a reset.
    pub(crate) fn new(mut own: C, mut card: C) -> Self {
        let quirks = Quirks::probe(&mut card).unwrap();
        let context = Context::new(Ne2000::read_prom(&mut card));
        let mut model = Ne2000::new(quirks);

        Ne2000::new(quirks).restore(&context, &mut own);
        own.read8(RESET);
        model.restore(&context, &mut card);

        Self {
            own,
            shared: Shared::new(card, model),
            context,
            pages: Pages {
                start: 0,
                stop: 0,
                current: 0,
                boundary: 0,
            },
            is_started: false,
            has_ring: false,
            left: None,
            has_sent: false,
            wanted: None,
            delay: 0,
            frames: 0,
            serial: 0,
            is_shared: false,
            receives: false,
            look: None,
            others: Collector::default(),
            expected: vec![],
            buffer: Buffer::new(),
            hand_overs: 0,
            shared_frames: 0,
        }
    }

    /// The two cards, and how many of the guest's accesses there were, and how many were hooked.
    pub(crate) fn into_parts(self) -> (C, C, u64, u64) {
        (
            self.own,
            self.shared.card,
            self.shared.accesses,
            self.shared.hooked,
        )
    }

    fn output(&mut self, access: Access, value: u32) {
        self.try_hand_over();
        self.try_look(self.shared.model.write_exposes(access, value));
        self.own.write(access, value);
        assert_eq!(self.shared.output(access, value, &()), Verdict::Allow);
    }

    fn input(&mut self, access: Access) -> u32 {
        self.try_hand_over();
        self.try_look(self.shared.model.read_exposes(access));

        let own = self.own.read(access);

        assert_eq!(self.shared.input(access), own, "{access:x?}");
        own
    }

    fn out8(&mut self, port: u8, value: u8) {
        self.output(Access::byte(port), value.into());
    }

    fn in8(&mut self, port: u8) -> u8 {
        u8::try_from(self.input(Access::byte(port))).unwrap()
    }

    fn out16(&mut self, low: u8, value: u16) {
        for (port, byte) in (low..).zip(value.to_le_bytes()) {
            self.out8(port, byte);
        }
    }

    /// A command that ends remote DMA.
    fn command(&mut self, value: u8) {
        self.left = None;
        self.out8(CR, value | cr::ABORT);
    }

    fn sta(&self) -> u8 {
        if self.is_started {
            cr::STA
        } else {
            cr::STP
        }
    }

    /// Hands the card over and takes it back, if that is wanted and possible at this point.
    fn try_hand_over(&mut self) {
        let Some(in_mid_transfer) = self.wanted else {
            return;
        };

        if self.delay > 0 {
            self.delay -= 1;
            return;
        }

        let Shared { card, model, .. } = &mut self.shared;

        match model.reuse(card) {
            Reuse::Now => (),
            Reuse::MidTransfer if in_mid_transfer => (),
            Reuse::MidTransfer | Reuse::Busy(_) => return,
        }
        assert_eq!(card.read8(CR) & cr::TXP, 0, "in the middle of a frame");
        model.save(&mut self.context, card).unwrap();
        if self.receives {
            let arrivals = self.context.share_out(&mut self.others, &mut self.buffer);

            self.check(arrivals);
        }
        self.receives = self.is_shared;

        let Shared { card, .. } = &mut self.shared;

        // What the model thinks of its card is what the guest would see on its own.
        let registers = self.context.registers;

        assert_eq!(registers.command, self.own.read8(CR));
        assert_eq!(registers.command & cr::PS, 0);
        assert_eq!(registers.pending, self.own.read8(ISR));
        if self.has_sent {
            assert_eq!(registers.transmit_status, self.own.read8(TSR));
        }
        assert_eq!(registers.boundary, self.own.read8(BNRY));
        if let Some(left) = self.left {
            let own = u16::from_le_bytes([self.own.read8(CRDA0), self.own.read8(CRDA1)]);

            assert_eq!(
                (registers.remote_address, registers.remote_count),
                (own, left)
            );
        }

        scramble(card);
        for _ in 0..std::mem::take(&mut self.frames) {
            self.receive_away();
        }
        let Shared { card, model, .. } = &mut self.shared;

        model.restore(&self.context, card);
        assert!(model.hooked().contains(CR), "followed closely");
        self.wanted = None;
        self.hand_overs += 1;
    }

    /// Looks at what has come, if it is time or has to be.
    fn try_look(&mut self, has_to_be: bool) {
        match &mut self.look {
            Some(0) => self.look = None,
            Some(accesses) => {
                *accesses -= 1;
                if !has_to_be {
                    return;
                }
            }
            None if has_to_be => (),
            None => return,
        }
        self.look();
    }

    /// Looks at what has come. Nothing is hidden from a guest that would have received it.
    fn look(&mut self) {
        let is_started = self.own.read8(CR) & cr::STP == 0;
        let Shared { card, model, .. } = &mut self.shared;
        let result = model.share_out(&mut self.others, &mut self.buffer, card);

        match result {
            Ok(arrivals) => {
                self.receives |= self.is_shared && is_started;
                assert!(self.receives || arrivals == Arrivals::default());
                self.check(arrivals);
            }
            Err(busy) => assert!(!self.receives, "{busy:?}"),
        }
    }

    /// What others got is what has come.
    fn check(&mut self, arrivals: Arrivals) {
        let frames = u32::try_from(self.others.0.len()).unwrap();

        assert_eq!(
            arrivals,
            Arrivals {
                frames,
                for_others: frames,
                ..Arrivals::default()
            }
        );
        assert_eq!(self.others.0, self.expected);
        self.shared_frames += self.others.0.len();
        self.others.0.clear();
        self.expected.clear();
    }

    /// A frame that is accepted by both.
    fn frame(&mut self, size: u16) -> Vec<u8> {
        self.serial = self.serial.wrapping_add(1);

        let counting = (0u32..).map(|byte| byte.to_le_bytes()[0]);

        [0xff; 12]
            .into_iter()
            .chain(self.serial.to_le_bytes())
            .chain(counting)
            .take(size.into())
            .collect()
    }

    /// Whether a frame would be received.
    fn has_room(&self) -> bool {
        let Pages {
            start,
            stop,
            current,
            boundary,
        } = self.pages;
        let free = if current < boundary {
            boundary - current
        } else {
            stop - start - (current - boundary)
        };

        // The longest frame needs six pages, and never may the pointers meet.
        self.is_started && self.has_ring && free > 6
    }

    /// A frame arrives for a guest that does not have its card.
    fn receive_away(&mut self) {
        // Whether it has arrived is only to be seen on another page, and giving a command again that
        // starts remote DMA would start it again. One to a card that runs on after a reset, as QEMU's
        // does, would end that it shows the reset.
        if !self.has_room()
            || self.own.read8(CR) & (cr::ABORT | cr::STP) != cr::ABORT
            || self.own.read8(ISR) & isr::RST != 0
        {
            return;
        }

        let frame = self.frame(333);
        let frame = Frame::new(&frame).unwrap();
        let before = self.context.registers.current;

        assert_eq!(self.context.receive(&frame), Received::Stored);
        let after = self.context.registers.current;

        assert_ne!(before, after);
        self.own.deliver(&frame.bytes().collect::<Vec<_>>());
        arrived(&mut self.own, before);
        self.pages.current = after;
    }

    /// Moves data, and looks at other registers in between.
    fn transfer(&mut self, transfer: &Transfer, mut step: impl FnMut(&mut Self, Access)) {
        let access = Access::new(DATA, transfer.width.bytes().into()).unwrap();

        self.left = Some(transfer.count);
        for number in 0..transfer.count / u16::from(transfer.width.bytes()) {
            if number == transfer.stop {
                return;
            }
            if number == transfer.pause {
                self.in8(ISR);
                self.in8(CRDA0);
                self.in8(CRDA1);
                self.out8(BNRY, self.pages.boundary);
            }
            // Before the access, for it may be delayed by a hand-over.
            step(self, access);
            self.left = self
                .left
                .map(|left| left - u16::from(transfer.width.bytes()));
        }
        assert_eq!(self.in8(ISR) & isr::RDC, isr::RDC);
        self.left = None;
        self.out8(ISR, isr::RDC);
    }

    fn start_transfer(&mut self, transfer: &Transfer, command: u8) {
        self.is_started = true;
        self.command(cr::STA);
        self.out16(RBCR0, transfer.count);
        self.out16(RSAR0, transfer.address);
        self.out8(CR, command | cr::STA);
    }

    fn initialize(&mut self, pages: Pages, mask: u8, is_started: bool) {
        self.pages = pages;
        self.is_started = false;
        self.has_ring = false;
        self.has_sent = false;
        self.command(cr::STP);
        self.out8(DCR, DCR_WORDS);
        self.out16(RBCR0, 0);
        self.out8(RCR, rcr::MON);
        self.out8(TCR, TCR_LOOPBACK);
        self.out8(PSTART, pages.start);
        self.out8(BNRY, pages.boundary);
        self.out8(PSTOP, pages.stop);
        self.out8(ISR, 0xff);
        self.out8(IMR, 0);
        self.command(cr::PAGE1 | cr::STP);
        for (port, byte) in (PAR0..).zip([0x52, 0x54, 0, 0x12, 0x34, 0x56]) {
            self.out8(port, byte);
        }
        self.out8(CURR, pages.current);
        self.command(cr::STP);
        self.out8(IMR, mask);
        if is_started {
            self.is_started = true;
            self.command(cr::STA);
            self.out8(TCR, 0);
            self.out8(RCR, rcr::AB);
            self.has_ring = true;
        }
    }

    fn send(&mut self, page: u8, count: u16, looks: u8) {
        self.is_started = true;
        self.command(cr::STA);
        assert_eq!(self.in8(CR) & cr::TXP, 0);
        self.out16(TBCR0, count);
        self.out8(TPSR, page);
        self.command(cr::STA | cr::TXP);
        self.sent(looks);
    }

    fn sent(&mut self, looks: u8) {
        self.has_sent = true;
        for _ in 0..looks {
            self.in8(ISR);
        }

        let own = self.own.finish();

        assert_eq!(self.shared.card.finish(), own);
        assert_eq!(self.in8(ISR) & isr::PTX, isr::PTX);
        self.in8(TSR);
    }

    /// All that a guest can read.
    fn read_state(&mut self) {
        let sta = self.sta();

        self.command(sta);
        for port in [CR, ISR, BNRY] {
            self.in8(port);
        }
        if self.has_sent {
            self.in8(TSR);
        }
        self.command(cr::PAGE1 | sta);
        for port in PAR0..=15 {
            self.in8(port);
        }
        self.command(cr::PAGE2 | sta);
        for port in [PSTART, PSTOP, TPSR, RCR, TCR, DCR, IMR] {
            // TPSR is dead between frames, and may be forgotten.
            if port != TPSR {
                self.in8(port);
            }
        }
        self.command(sta);
    }

    /// The guest does something.
    pub(crate) fn step(&mut self, op: &Op) {
        match op {
            Op::Initialize {
                pages,
                mask,
                is_started,
            } => self.initialize(*pages, *mask, *is_started),
            Op::Read(transfer) => {
                self.start_transfer(transfer, cr::READ);
                self.transfer(transfer, |pair, access| {
                    pair.input(access);
                });
            }
            Op::Write(transfer, seed) => {
                let mut value = u32::from(*seed);

                self.start_transfer(transfer, cr::WRITE);
                self.transfer(transfer, |pair, access| {
                    value = value.wrapping_mul(0x9e37_79b1).wrapping_add(1);
                    pair.output(access, value & access.width().mask());
                });
            }
            Op::Send {
                page,
                count,
                again,
                looks,
            } => {
                self.send(*page, *count, *looks);
                if *again && self.wanted.is_none() && self.shared.model.hooked() == CLOSE {
                    self.out8(CR, cr::ABORT | cr::STA | cr::TXP);
                    self.sent(*looks);
                }
            }
            Op::ReadState => self.read_state(),
            Op::Acknowledge(bits) => {
                let sta = self.sta();

                self.command(sta);
                self.out8(ISR, *bits);
            }
            Op::Mask(bits) => {
                let sta = self.sta();

                self.command(sta);
                self.out8(IMR, *bits);
            }
            Op::Filter(bits) => {
                let sta = self.sta();

                self.command(sta);
                self.out8(RCR, *bits);
            }
            Op::Multicast(table) => {
                let sta = self.sta();

                self.command(cr::PAGE1 | sta);
                for (port, byte) in (MAR0..).zip(*table) {
                    self.out8(port, byte);
                }
                self.command(sta);
            }
            Op::Boundary(at) => {
                let sta = self.sta();
                let len = self.pages.stop - self.pages.start;

                let boundary = if len == 0 {
                    0
                } else {
                    self.pages.start + u8::try_from(at.index(len.into())).unwrap()
                };

                self.command(sta);
                self.out8(BNRY, boundary);
                // Only now: until then, the card may change hands with the old one.
                self.pages.boundary = boundary;
            }
            Op::Reset => {
                let value = self.in8(RESET);

                // Nobody counts on more of a transfer after a reset, though QEMU's card would go on with it.
                self.left = None;
                self.out8(RESET, value);
                assert_eq!(self.in8(ISR) & isr::RST, isr::RST);
                self.initialize(self.pages, 0, false);
            }
            Op::Frame(size) => self.receive(*size),
            Op::Relax => {
                if self.wanted.is_none() {
                    let Shared { card, model, .. } = &mut self.shared;

                    model.attend(Attention::Relaxed, card);
                }
            }
            Op::Share => {
                let Shared { card, model, .. } = &mut self.shared;

                model.share(card);
                self.is_shared = true;
            }
            Op::Unshare => {
                if self.is_shared {
                    self.look();
                }

                let Shared { card, model, .. } = &mut self.shared;

                if model.unshare(card).is_ok() {
                    self.is_shared = false;
                    self.receives = false;
                }
            }
            Op::Look(accesses) => self.look = Some(*accesses),
            Op::HandOver {
                in_mid_transfer,
                is_quiet,
                delay,
                frames,
            } => {
                let Shared { card, model, .. } = &mut self.shared;

                model.attend(Attention::Close, card);
                if *is_quiet {
                    model.quiet(card);
                }
                self.wanted = Some(*in_mid_transfer);
                self.delay = *delay;
                self.frames = *frames;
            }
        }
        self.compare_interrupts();
    }

    /// A frame arrives.
    fn receive(&mut self, size: u16) {
        if !self.has_room() {
            return;
        }
        self.command(cr::STA);
        // The card may have changed hands, and frames have arrived meanwhile.
        if !self.has_room() {
            return;
        }

        let frame = self.frame(size);
        let before = self.pages.current;

        // Nobody takes the card away while a frame is on its way: that is for the host to see to.
        for card in [&mut self.own, &mut self.shared.card] {
            card.deliver(&frame);
            // At once: with the next access, the card may change hands, and other frames arrive.
            self.pages.current = arrived(card, before);
        }
        if self.receives {
            self.expected.push(frame);
        }
        self.command(cr::PAGE1 | cr::STA);
        assert_eq!(self.in8(CURR), self.pages.current);
        self.command(cr::STA);
    }

    fn compare_interrupts(&mut self) {
        let own = self.own.asserts_interrupt();
        let shared = self.shared.card.asserts_interrupt() || self.shared.model.owes_interrupt();

        assert_eq!(shared, own, "interrupt");
    }

    /// Everything, to the last byte of RAM.
    pub(crate) fn compare(&mut self) {
        self.read_state();
        self.look();

        let mut own = PacketMemory::new();
        let mut shared = PacketMemory::new();

        read_memory(&mut self.own, &mut own);
        read_memory(&mut self.shared.card, &mut shared);
        assert!(own == shared, "card RAM");
    }
}

const CLOSE: crate::model::ports::PortSet = REGISTERS.union(RESETS);

/// Waits for a frame, behind the guest's back: all but the selected page stays the same. Answers CURR.
pub(super) fn arrived(card: &mut impl Nic, before: u8) -> u8 {
    let command = card.read8(CR);
    let mut current = before;

    assert_eq!(command & cr::ABORT, cr::ABORT);
    card.write8(CR, command & !cr::PS | cr::PAGE1);
    card.wait(|card| {
        current = card.read8(CURR);
        current != before
    });
    card.write8(CR, command);
    current
}

/// Reads card RAM as a driver would.
fn read_memory(card: &mut impl Card, memory: &mut PacketMemory) {
    card.write8(CR, cr::ABORT | cr::STP);
    card.write8(DCR, DCR_WORDS);
    for (port, byte) in (RSAR0..).zip([0, 0x40, 0, 0x40]) {
        card.write8(port, byte);
    }
    card.write8(CR, cr::READ | cr::STA);
    card.read_words(DATA, memory.words_mut());
}

/// What another guest leaves behind.
fn scramble(card: &mut impl Card) {
    card.write8(CR, cr::ABORT | cr::STP);
    for port in PSTART..=IMR {
        card.write8(port, 0x7e ^ port);
    }
    card.write8(CR, cr::PAGE1 | cr::ABORT | cr::STP);
    for port in PAR0..=15 {
        card.write8(port, 0xa5 ^ port);
    }
    card.write8(CR, cr::ABORT | cr::STP);
    card.write8(DCR, DCR_WORDS);
    for address in [0x0000u16, 0x4000, 0x5ff0, 0x7ff0] {
        for (port, byte) in (RSAR0..).zip(address.to_le_bytes().into_iter().chain([16, 0])) {
            card.write8(port, byte);
        }
        card.write8(CR, cr::WRITE | cr::STA);
        for _ in 0..8 {
            card.write(
                Access::new(DATA, Width::Word.bytes().into()).unwrap(),
                0xdead,
            );
        }
    }
    card.write8(CR, cr::ABORT | cr::STA | cr::PAGE2);
}
