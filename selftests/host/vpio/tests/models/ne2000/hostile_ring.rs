// SPDX-License-Identifier: GPL-2.0

//! A guest that shares its card can write anything to its ring and its page registers.

use std::collections::BTreeSet;

use proptest::prelude::*;

use crate::dp8390::Dp8390;
use crate::model::access::Access;
use crate::model::card::Card;
use crate::model::device::{Attention, Busy, DeviceModel};
use crate::model::frame::{Address, Frame, MAX_LEN};
use crate::model::ne2000::arrivals::{Arrivals, Buffer, Others};
use crate::model::ne2000::context::Context;
use crate::model::ne2000::memory::{PacketMemory, Page};
use crate::model::ne2000::register::{cr, isr, rcr, *};
use crate::model::ne2000::ring::Stretch;
use crate::model::ne2000::{Ne2000, Quirks};

/// Others that want everything, and believe nothing.
#[derive(Default)]
struct Curious(Vec<Vec<u8>>);

impl Others for Curious {
    fn want(&self, _: Address) -> bool {
        true
    }

    fn receive(&mut self, frame: &Frame<'_>) {
        self.0.push(frame.bytes().collect());
    }
}

/// Others that want nothing.
struct Bored;

impl Others for Bored {
    fn want(&self, _: Address) -> bool {
        false
    }

    fn receive(&mut self, _: &Frame<'_>) {
        panic!("nobody wanted it");
    }
}

/// A card that counts.
struct Counted {
    card: Dp8390,
    accesses: usize,
}

impl Card for Counted {
    fn read(&mut self, access: Access) -> u32 {
        self.accesses += 1;
        self.card.read(access)
    }

    fn write(&mut self, access: Access, value: u32) {
        self.accesses += 1;
        self.card.write(access, value);
    }
}

/// A guest with this ring that shares its card, of which everything was looked at.
fn guest(pstart: u8, pstop: u8, curr: u8) -> (Ne2000, Context, Counted) {
    let mut card = Dp8390::new(&[0x11; 32]);
    let quirks = Quirks::probe(&mut card).unwrap();
    let mut model = Ne2000::new(quirks);
    let mut context = Context::new(Ne2000::read_prom(&mut card));

    context.registers.pending = 0;
    context.registers.command = cr::ABORT | cr::STA;
    context.registers.page_start = pstart;
    context.registers.page_stop = pstop;
    context.registers.current = curr;
    context.registers.boundary = pstart;
    context.registers.address = [2, 0, 0, 0, 0, 1];
    model.share(&mut card);
    model.restore(&context, &mut card);
    (model, context, Counted { card, accesses: 0 })
}

/// The guest has CURR as if frames had come.
fn set_current(card: &mut impl Card, curr: u8) {
    card.write8(CR, cr::PAGE1 | cr::ABORT | cr::STA);
    card.write8(CURR, curr);
    card.write8(CR, cr::ABORT | cr::STA);
}

/// Writes to the ring as the guest could.
fn write(card: &mut impl Card, address: u16, bytes: &[u8]) {
    for (port, byte) in (RSAR0..).zip(address.to_le_bytes().into_iter().chain([0, 0x40])) {
        card.write8(port, byte);
    }
    card.write8(CR, cr::WRITE | cr::STA);
    for word in bytes.chunks(2) {
        card.write16(DATA, u16::from_le_bytes([word[0], word[1]]));
    }
    card.write8(CR, cr::ABORT | cr::STA);
    card.write8(ISR, isr::RDC);
}

/// The guest writes.
fn out(model: &mut Ne2000, card: &mut Counted, port: u8, value: u8) {
    let access = Access::byte(port);
    let verdict = model.check(access, value.into(), &());

    card.write8(port, value);
    model.wrote(access, value.into(), verdict, card);
}

/// What the card has in a register, and what the guest reads.
fn shown(model: &mut Ne2000, card: &mut Counted, page: u8, port: u8) -> (u8, u8) {
    let access = Access::byte(port);

    out(model, card, CR, page | cr::ABORT | cr::STA);

    let value = card.read8(port);
    let read = model.read(access, value.into(), card);

    (value, u8::try_from(read).unwrap())
}

/// Reads all of card RAM.
fn memory(card: &mut impl Card) -> PacketMemory {
    let mut memory = PacketMemory::new();

    card.write8(CR, cr::PAGE2 | cr::ABORT | cr::STA);

    let ring = [PSTART, PSTOP].map(|port| card.read8(port));

    card.write8(CR, cr::ABORT | cr::STA);
    // Not around the ring.
    card.write8(PSTOP, 0);
    for (port, byte) in (RSAR0..).zip([0, 0x40, 0, 0x40]) {
        card.write8(port, byte);
    }
    card.write8(CR, cr::READ | cr::STA);
    card.read_words(DATA, memory.words_mut());
    card.write8(CR, cr::ABORT | cr::STA);
    card.write8(ISR, isr::RDC);
    for (port, page) in [PSTART, PSTOP].into_iter().zip(ring) {
        card.write8(port, page);
    }
    memory
}

#[test]
fn headers_that_lead_nowhere_end_the_look() {
    // Status, next page, count; the first frame is at 0x50, and CURR at 0x58.
    for header in [
        // Itself, before it, behind CURR, outside of the ring, outside of card RAM.
        [1, 0x50, 64, 0],
        [1, 0x4f, 64, 0],
        [1, 0x59, 64, 0],
        [1, 0x4b, 64, 0],
        [1, 0x80, 64, 0],
        [1, 0x00, 64, 0],
        [1, 0xff, 64, 0],
        // Without a destination, or longer than its pages.
        [1, 0x51, 9, 0],
        [1, 0x51, 0, 0],
        [1, 0x51, 1, 1],
        [1, 0x58, 1, 8],
        [1, 0x51, 0xff, 0xff],
    ] {
        let (mut model, _, mut card) = guest(0x4c, 0x80, 0x50);
        let mut others = Curious::default();

        write(&mut card, 0x5000, &header);
        set_current(&mut card, 0x58);

        let before = memory(&mut card);
        let arrivals = model.share_out(&mut others, &mut Buffer::new(), &mut card);

        assert_eq!(
            arrivals,
            Ok(Arrivals {
                is_broken: true,
                ..Arrivals::default()
            }),
            "{header:x?}"
        );
        assert!(others.0.is_empty() && memory(&mut card) == before);

        // What comes after that is found.
        write(&mut card, 0x5800, &[1, 0x59, 64, 0, 2, 0, 0, 0, 0, 2]);
        set_current(&mut card, 0x59);
        assert_eq!(
            model.share_out(&mut others, &mut Buffer::new(), &mut card),
            Ok(Arrivals {
                frames: 1,
                for_others: 1,
                hidden: 1,
                is_broken: false
            })
        );
        assert_eq!(others.0[0][..6], [2, 0, 0, 0, 0, 2]);
    }
}

#[test]
fn what_is_no_frame_is_nobodys() {
    // A bad one, and one that is too long for an Ethernet.
    for header in [[0x02, 0x51, 64, 0], [0x01, 0x57, 0, 0x06]] {
        let (mut model, _, mut card) = guest(0x4c, 0x80, 0x50);
        let mut others = Curious::default();

        write(&mut card, 0x5000, &header);
        write(&mut card, 0x5004, &[2, 0, 0, 0, 0, 2, 7, 7]);
        set_current(&mut card, header[1]);
        assert_eq!(
            model.share_out(&mut others, &mut Buffer::new(), &mut card),
            Ok(Arrivals {
                frames: 1,
                hidden: 1,
                ..Arrivals::default()
            })
        );
        assert!(others.0.is_empty());

        let memory = memory(&mut card);
        let page = memory.page(Page::new(0x50).unwrap()).unwrap();

        assert_eq!(page[..4], header);
        assert!(page[4..].iter().all(|&byte| byte == 0));
    }
}

#[test]
fn a_ring_that_is_none_has_no_frames() {
    for (pstart, pstop, seen, curr) in [
        (0x4c, 0x80, 0x50, 0x20),
        (0x4c, 0x80, 0x50, 0x80),
        (0x4c, 0x81, 0x50, 0x51),
        (0x00, 0x80, 0x50, 0x51),
        (0x80, 0x4c, 0x50, 0x51),
        (0x60, 0x80, 0x50, 0x61),
    ] {
        let (mut model, mut context, mut card) = guest(pstart, pstop, seen);
        let broken = Arrivals {
            is_broken: true,
            ..Arrivals::default()
        };

        set_current(&mut card, curr);
        assert_eq!(
            model
                .clone()
                .share_out(&mut Bored, &mut Buffer::new(), &mut card),
            Ok(broken)
        );
        model.save(&mut context, &mut card).unwrap();
        assert_eq!(context.share_out(&mut Bored, &mut Buffer::new()), broken);
        assert_eq!(
            context.share_out(&mut Bored, &mut Buffer::new()),
            Arrivals::default(),
            "once"
        );
    }
}

#[test]
fn a_look_waits_for_the_guest() {
    let (mut model, _, mut card) = guest(0x4c, 0x80, 0x50);
    let share_out = |model: &mut Ne2000, card: &mut Counted| {
        model.share_out(&mut Bored, &mut Buffer::new(), card)
    };

    // Where a transfer is cannot be seen from page 1.
    out(&mut model, &mut card, RBCR0, 8);
    out(&mut model, &mut card, CR, cr::PAGE1 | cr::READ | cr::STA);
    assert_eq!(share_out(&mut model, &mut card), Err(Busy::Transaction));
    assert_eq!(model.unshare(&mut card), Err(Busy::Transaction));
    out(&mut model, &mut card, CR, cr::PAGE1 | cr::ABORT | cr::STA);
    assert_eq!(share_out(&mut model, &mut card), Ok(Arrivals::default()));

    // A card that is stopped is left alone.
    out(&mut model, &mut card, CR, cr::ABORT | cr::STP);
    set_current(&mut card.card, 0x51);
    card.card.write8(CR, cr::ABORT | cr::STP);
    card.accesses = 0;
    assert_eq!(share_out(&mut model, &mut card), Ok(Arrivals::default()));
    assert_eq!(card.accesses, 0);
    assert_eq!(model.unshare(&mut card), Ok(()));
    assert_eq!(card.card.command, cr::ABORT | cr::STP);

    // Nobody shares it: nothing is done. What was loaded unseen is waited for.
    assert_eq!(share_out(&mut model, &mut card), Ok(Arrivals::default()));
    out(&mut model, &mut card, CR, cr::ABORT | cr::STA);
    model.attend(Attention::Relaxed, &mut card);
    assert!(!model.hooked().contains(CR));
    model.share(&mut card);
    assert!(model.hooked().contains(CR));
    assert_eq!(share_out(&mut model, &mut card), Err(Busy::Transaction));
    out(&mut model, &mut card, CR, cr::ABORT | cr::STA);
    assert_eq!(share_out(&mut model, &mut card), Ok(Arrivals::default()));
}

#[test]
fn the_card_receives_for_all_and_shows_the_guest_its_own() {
    let (mut model, mut context, mut card) = guest(0x4c, 0x80, 0x50);
    let all = rcr::AB | rcr::AM | rcr::PRO;

    assert_eq!(shown(&mut model, &mut card, cr::PAGE2, RCR), (all, 0));
    assert_eq!(shown(&mut model, &mut card, cr::PAGE1, MAR7), (0xff, 0));
    assert_eq!(shown(&mut model, &mut card, cr::PAGE1, PAR0), (2, 2));

    out(&mut model, &mut card, MAR0, 0x5a);
    out(&mut model, &mut card, CR, cr::ABORT | cr::STA);
    out(&mut model, &mut card, RCR, rcr::AM);
    assert_eq!(shown(&mut model, &mut card, cr::PAGE2, RCR), (all, rcr::AM));
    assert_eq!(shown(&mut model, &mut card, cr::PAGE1, MAR0), (0xff, 0x5a));
    out(&mut model, &mut card, CR, cr::ABORT | cr::STA);
    model.save(&mut context, &mut card).unwrap();
    assert_eq!(context.registers.receive_config, rcr::AM);
    assert_eq!(context.registers.multicast, [0x5a, 0, 0, 0, 0, 0, 0, 0]);

    model.restore(&context, &mut card);
    assert_eq!(shown(&mut model, &mut card, cr::PAGE2, RCR), (all, rcr::AM));
    assert_eq!(model.unshare(&mut card), Ok(()));
    assert_eq!(
        shown(&mut model, &mut card, cr::PAGE2, RCR),
        (rcr::AM, rcr::AM)
    );
    assert_eq!(shown(&mut model, &mut card, cr::PAGE1, MAR0), (0x5a, 0x5a));
}

proptest! {
    /// Whatever is in the ring and in the page registers: each page is looked at once, nothing but
    /// the ring is written to, and what others get is a frame.
    #[test]
    fn nothing_in_the_ring_is_trusted(
        (pstart, len) in (0x3eu8..0x80, 0u8..0x44),
        (seen, curr) in (any::<prop::sample::Index>(), any::<prop::sample::Index>()),
        headers in prop::collection::vec((any::<u8>(), 0u8..8, any::<u16>(), any::<bool>()), 64),
        is_saved in any::<bool>(),
    ) {
        let pstop = pstart.wrapping_add(len);
        let page = |index: prop::sample::Index| {
            pstart.wrapping_add(u8::try_from(index.index(usize::from(len) + 2)).unwrap())
        };
        let (seen, curr) = (page(seen), page(curr));
        let (mut model, mut context, mut card) = guest(pstart, pstop, seen);
        let mut others = Curious::default();

        for (number, (status, step, count, is_near)) in (0x40u8..0x80).zip(headers) {
            let next = number.wrapping_add(step);
            // Around the end of the ring, too.
            let next = if next >= pstop { next.wrapping_sub(len) } else { next };
            let count = if is_near { u16::from(step) * 256 - u16::from(step != 0) * (count & 0xff) } else { count };
            let [low, high] = count.to_le_bytes();

            write(&mut card, u16::from(number) << 8, &[status, next, low, high, 2, 5, 5, 5, 5, 5]);
        }
        set_current(&mut card, curr);

        let before = memory(&mut card);

        card.accesses = 0;

        let arrivals = if is_saved {
            model.save(&mut context, &mut card).unwrap();
            prop_assert!(context.memory == before);
            card.accesses = 0;
            context.share_out(&mut others, &mut Buffer::new())
        } else {
            model.share_out(&mut others, &mut Buffer::new(), &mut card).unwrap()
        };

        // A page has 128 words, and a transfer is set up with less than 20 accesses; 64 are for the
        // rest.
        prop_assert!(card.accesses <= 64 + 64 * (2 * (128 + 20) + 5 + 20));
        prop_assert!(arrivals.frames <= 64 && arrivals.hidden <= arrivals.frames);
        prop_assert_eq!(arrivals.for_others as usize, others.0.len());
        for frame in &others.0 {
            prop_assert!(frame.len() <= MAX_LEN.into() && frame[..6] == [2, 5, 5, 5, 5, 5]);
        }

        let after = if is_saved { context.memory } else { memory(&mut card) };
        let changed: BTreeSet<u8> = (0x40..0x80)
            .filter(|&number| {
                let page = Page::new(number).unwrap();

                before.page(page) != after.page(page)
            })
            .collect();
        let ring: BTreeSet<u8> = Stretch::new(pstart, pstop, seen, curr)
            .filter(|stretch| stretch.first().is_some())
            .into_iter()
            .flat_map(|stretch| stretch.pages().map(Page::number).collect::<Vec<_>>())
            .collect();

        prop_assert!(changed.is_subset(&ring), "{changed:x?} {ring:x?}");
        prop_assert_eq!(arrivals.is_broken || arrivals.frames > 0, seen != curr);
    }
}
