// SPDX-License-Identifier: GPL-2.0

//! What the model of the NE2000 hooks, when the card can change hands, and what a guest receives
//! that does not have it.

use crate::model::access::Access;
use crate::model::card::Card;
use crate::model::device::{Attention, Busy, DeviceModel, Reuse, Verdict};
use crate::model::dma::{Channels, Denial};
use crate::model::frame::{Address, Frame};
use crate::model::ne2000::context::{Context, Received};
use crate::model::ne2000::register::{cr, isr, rcr, *};
use crate::model::ne2000::{Ne2000, Quirks};
use crate::model::ports::PortSet;
use crate::model::rtl8139::Rtl8139;

use crate::dp8390::Dp8390;
use crate::shared::Shared;

/// As QEMU's.
const BARE: Quirks = Quirks {
    page_2_is_readable: false,
    stop_raises_rst: false,
    prom_is_writable: true,
};
/// As the data sheet has it.
const FULL: Quirks = Quirks {
    page_2_is_readable: true,
    stop_raises_rst: true,
    prom_is_writable: false,
};

fn guest(quirks: Quirks) -> Shared<Dp8390, Ne2000> {
    let mut guest = Shared::new(Dp8390::new(&[0x11; 32]), Ne2000::new(quirks));
    let mut context = Context::new(Ne2000::read_prom(&mut guest.card));

    context.registers.pending = 0;
    context.registers.command = cr::ABORT | cr::STA;
    context.registers.page_start = 0x4c;
    context.registers.page_stop = 0x80;
    context.registers.current = 0x4d;
    context.registers.boundary = 0x4c;
    guest.model.restore(&context, &mut guest.card);
    guest
}

impl Shared<Dp8390, Ne2000> {
    fn out(&mut self, port: u8, value: u8) {
        assert_eq!(
            self.output(Access::byte(port), value.into(), &()),
            Verdict::Allow
        );
    }

    fn in8(&mut self, port: u8) -> u8 {
        u8::try_from(self.input(Access::byte(port))).unwrap()
    }

    fn attend(&mut self, attention: Attention) {
        self.model.attend(attention, &mut self.card);
    }

    fn reuse(&mut self) -> Reuse {
        self.model.reuse(&mut self.card)
    }

    /// What ne2k-pci does to read `bytes` from the ring.
    fn block_input(&mut self, bytes: u16) {
        let [low, high] = bytes.to_le_bytes();

        self.out(CR, 0x22);
        self.out(RBCR0, low);
        self.out(RBCR1, high);
        self.out(RSAR0, 0);
        self.out(RSAR1, 0x4d);
        self.out(CR, 0x0a);
        for _ in 0..bytes / 4 {
            self.input(Access::dword(DATA));
        }
        self.out(ISR, isr::RDC);
    }

    /// What 8390.c does for an interrupt for a frame of `bytes`.
    fn receive(&mut self, bytes: u16) {
        self.out(CR, 0x20 | cr::STA);
        self.in8(ISR);
        for _ in 0..2 {
            self.out(CR, 0x60 | cr::STA);
            self.in8(CURR);
            self.out(CR, 0x20 | cr::STA);
            self.in8(BNRY);
        }
        self.block_input(4);
        self.block_input(bytes);
        self.out(BNRY, 0x4c);
        self.out(ISR, isr::PRX);
        self.out(CR, 0x22);
        self.in8(ISR);
    }

    /// What 8390.c does to send a frame of `bytes`, with the interrupt after it.
    fn send(&mut self, bytes: u16) {
        self.out(IMR, 0);
        self.out(CR, 0x22);
        self.out(ISR, isr::RDC);
        for (port, byte) in (RSAR0..).zip([0, 0x40].into_iter().chain(bytes.to_le_bytes())) {
            self.out(port, byte);
        }
        self.out(CR, 0x12);
        for _ in 0..bytes / 4 {
            self.output(Access::dword(DATA), 0, &());
        }
        self.in8(ISR);
        self.out(ISR, isr::RDC);
        self.out(CR, 0x20 | cr::STA);
        self.in8(CR);
        for (port, byte) in (TBCR0..).zip(bytes.to_le_bytes()) {
            self.out(port, byte);
        }
        self.out(TPSR, 0x40);
        self.out(CR, 0x26);
        self.out(IMR, 0x3f);
        self.out(CR, 0x20 | cr::STA);
        self.in8(ISR);
        self.in8(TSR);
        self.out(ISR, isr::PTX);
        self.out(CR, 0x22);
        self.in8(ISR);
    }
}

#[test]
fn a_download_and_a_session_need_few_hooks() {
    // Hooked accesses per thousand: 1 sent frame for 2 received ones of full size; as many small
    // ones in both directions.
    for (quirks, download, session) in [(BARE, 2, 23), (FULL, 0, 0)] {
        for (received, size, limit) in [(2, 1460, download), (1, 64, session)] {
            let mut guest = guest(quirks);

            guest.attend(Attention::Relaxed);
            guest.accesses = 0;
            guest.hooked = 0;
            for _ in 0..100 {
                for _ in 0..received {
                    guest.receive(size);
                }
                guest.send(64);
            }

            let share = 1000 * guest.hooked / guest.accesses;

            assert_eq!(share, limit, "{} of {}", guest.hooked, guest.accesses);
        }
    }
}

#[test]
fn the_data_port_is_never_hooked() {
    for quirks in [BARE, FULL] {
        for attention in [Attention::Relaxed, Attention::Close] {
            let mut guest = guest(quirks);

            guest.attend(attention);
            assert!(!guest
                .model
                .hooked()
                .intersects(PortSet::span(DATA, DATA + 7)));
            assert!(guest.model.hooked().intersects(RESETS));
        }
    }
}

#[test]
fn pending_events_are_followed_until_they_are_acknowledged() {
    for quirks in [BARE, FULL] {
        let mut guest = guest(quirks);
        let mut context = Context::new([[0; 2]; 16]);

        context.registers.command = 0x22;
        context.registers.pending = isr::PTX | isr::PRX;
        context.registers.transmit_status = 0x5a;
        context.registers.interrupt_mask = isr::PTX;
        guest.model.restore(&context, &mut guest.card);
        guest.attend(Attention::Relaxed);
        assert!(guest.model.owes_interrupt());
        assert_eq!(guest.in8(ISR), isr::PTX | isr::PRX);
        assert_eq!(guest.in8(TSR), 0x5a);
        guest.out(ISR, isr::PTX);
        assert!(!guest.model.owes_interrupt());
        assert_eq!(guest.in8(ISR), isr::PRX);
        assert!(guest.model.hooked().contains(ISR));
        guest.out(ISR, isr::PRX);
        assert!(!guest.model.hooked().contains(ISR));
        assert_eq!(guest.in8(ISR), 0);
    }
}

#[test]
fn a_frame_that_is_sent_replaces_the_old_status() {
    let mut guest = guest(FULL);
    let mut context = Context::new([[0; 2]; 16]);

    context.registers.command = 0x22;
    context.registers.transmit_status = 0x5a;
    context.registers.transmit_count = 60;
    guest.model.restore(&context, &mut guest.card);
    assert_eq!(guest.in8(TSR), 0x5a);
    guest.out(CR, 0x26);
    assert_eq!(guest.in8(TSR), 1);
}

#[test]
fn a_reset_leaves_nothing_pending() {
    let mut guest = guest(FULL);
    let mut context = Context::new([[0; 2]; 16]);

    context.registers.command = 0x22;
    context.registers.pending = isr::PTX;
    guest.model.restore(&context, &mut guest.card);
    guest.attend(Attention::Relaxed);
    guest.in8(RESET);
    assert_eq!(guest.in8(ISR), isr::RST);
    assert!(!guest.model.hooked().contains(ISR));
}

#[test]
fn the_card_changes_hands_between_transactions() {
    let mut guest = guest(BARE);

    guest.attend(Attention::Relaxed);
    assert_eq!(guest.reuse(), Reuse::Busy(Busy::Unfollowed));

    // Followed from the middle of loading RBCR on: the first byte was not seen.
    guest.out(CR, 0x22);
    guest.out(RBCR0, 8);
    guest.attend(Attention::Close);
    assert_eq!(guest.reuse(), Reuse::Busy(Busy::Transaction));
    for (port, byte) in [(RBCR1, 0), (RSAR0, 0), (RSAR1, 0x40), (CR, 0x0a)] {
        guest.out(port, byte);
        assert_eq!(guest.reuse(), Reuse::Busy(Busy::Transaction));
    }
    // With the next command that ends remote DMA, all that is over.
    guest.out(CR, 0x22);
    assert_eq!(guest.reuse(), Reuse::Now);

    // In the middle of one that was seen from the start.
    for (port, byte) in [
        (RBCR0, 8),
        (RBCR1, 0),
        (RSAR0, 0),
        (RSAR1, 0x40),
        (CR, 0x0a),
    ] {
        guest.out(port, byte);
    }
    assert_eq!(guest.reuse(), Reuse::MidTransfer);
    guest.input(Access::word(DATA));
    assert_eq!(guest.model.remote(&mut guest.card), (0x4002, 6));
    for _ in 0..3 {
        guest.input(Access::word(DATA));
    }
    assert_eq!(guest.reuse(), Reuse::Now);

    // Ended early.
    for (port, byte) in [
        (RBCR0, 8),
        (RBCR1, 0),
        (RSAR0, 0),
        (RSAR1, 0x40),
        (CR, 0x0a),
    ] {
        guest.out(port, byte);
    }
    guest.input(Access::word(DATA));
    guest.out(CR, 0x22);
    assert_eq!(guest.reuse(), Reuse::Now);

    // Not on another page, from which ISR cannot be seen.
    guest.out(CR, 0x62);
    assert_eq!(guest.reuse(), Reuse::Busy(Busy::Transaction));
    guest.out(CR, 0x22);

    guest.card.is_fast = false;
    guest.out(CR, 0x26);
    assert_eq!(guest.reuse(), Reuse::Busy(Busy::Transmitting));

    let mut context = Context::new([[0; 2]; 16]);
    let before = context;

    assert_eq!(
        guest.model.save(&mut context, &mut guest.card),
        Err(Busy::Transmitting)
    );
    assert_eq!(context, before);
    guest.card.finish();
    assert_eq!(guest.reuse(), Reuse::Now);

    guest.card.overflow();
    assert_eq!(guest.reuse(), Reuse::Busy(Busy::Overrun));
    guest.out(ISR, isr::OVW);
    assert_eq!(guest.reuse(), Reuse::Now);
    assert_eq!(guest.model.interrupt(&mut guest.card), Channels::NONE);
}

#[test]
fn what_is_seized_loses_its_transaction_alone() {
    type Prepare = fn(&mut Shared<Dp8390, Ne2000>);

    let on_another_page: Prepare = |guest| {
        guest.attend(Attention::Close);
        guest.out(CR, 0x22);
        guest.out(CR, 0x62);
    };
    let in_an_unseen_transfer: Prepare = |guest| {
        guest.out(CR, 0x22);
        guest.out(RBCR0, 8);
        guest.attend(Attention::Close);
        for (port, byte) in [(RBCR1, 0), (RSAR0, 0), (RSAR1, 0x40), (CR, 0x0a)] {
            guest.out(port, byte);
        }
    };
    let unfollowed: Prepare = |guest| guest.out(CR, 0x22);
    let sending: Prepare = |guest| {
        guest.card.is_fast = false;
        guest.attend(Attention::Close);
        guest.out(CR, 0x22);
        guest.out(CR, 0x26);
    };
    let overrun: Prepare = |guest| {
        guest.attend(Attention::Close);
        guest.out(CR, 0x22);
        guest.card.overflow();
    };

    for (prepare, command, pending) in [
        (on_another_page, 0x62, 0),
        (in_an_unseen_transfer, 0x0a, 0),
        (unfollowed, 0x22, 0),
        (sending, 0x22, 0),
        (overrun, 0x22, isr::OVW),
    ] {
        for quirks in [BARE, FULL] {
            let mut guest = guest(quirks);
            let mut context = Context::new([[0; 2]; 16]);

            for (port, byte) in [(RCR, rcr::AB), (IMR, 0x3f), (CR, 0x62)] {
                guest.out(port, byte);
            }
            for (port, byte) in (PAR0..).zip([2, 0, 0, 0, 0, 7]) {
                guest.out(port, byte);
            }
            guest.out(CR, 0x22);
            guest.attend(Attention::Relaxed);
            prepare(&mut guest);
            assert!(matches!(guest.reuse(), Reuse::Busy(_)));
            assert_eq!(
                guest.model.seize(&mut context, &mut guest.card),
                Channels::NONE
            );

            let registers = context.registers;

            assert_eq!(registers.command, command);
            assert_eq!(registers.pending, pending);
            assert_eq!(registers.remote_count, 0);
            assert_eq!((registers.page_start, registers.page_stop), (0x4c, 0x80));
            assert_eq!((registers.current, registers.boundary), (0x4d, 0x4c));
            assert_eq!(registers.receive_config, rcr::AB);
            assert_eq!(registers.interrupt_mask, 0x3f);
            assert_eq!(registers.address, [2, 0, 0, 0, 0, 7]);
            assert_eq!(guest.card.command & cr::STP, cr::STP);
            guest.card.finish();

            // The guest finds it as it was, and can go on.
            guest.model.restore(&context, &mut guest.card);
            assert_eq!(
                guest.in8(CR) & !cr::TXP & !cr::RD,
                command & !cr::RD,
                "{quirks:?}"
            );
            guest.out(CR, 0x22);
            assert_eq!(guest.in8(ISR) & !isr::RDC, pending);
            assert_eq!(guest.model.owes_interrupt(), pending != 0);
            guest.out(ISR, 0xff);
            assert_eq!(guest.reuse(), Reuse::Now);
        }
    }
}

#[test]
fn an_idle_guest_does_not_hold_the_card() {
    let mut guest = guest(BARE);

    guest.out(CR, 0x22);
    guest.attend(Attention::Relaxed);
    guest.model.quiet(&mut guest.card);
    assert_eq!(guest.reuse(), Reuse::Busy(Busy::Unfollowed));
    guest.attend(Attention::Close);
    assert_eq!(guest.reuse(), Reuse::Busy(Busy::Transaction));
    guest.model.quiet(&mut guest.card);
    assert_eq!(guest.reuse(), Reuse::Now);

    // One that may be moving data is not known to be quiet.
    guest.attend(Attention::Relaxed);
    guest.out(CR, 0x0a);
    guest.attend(Attention::Close);
    guest.model.quiet(&mut guest.card);
    assert_eq!(guest.reuse(), Reuse::Busy(Busy::Transaction));
}

#[test]
fn sizes_are_small() {
    assert!(size_of::<Ne2000>() <= 48, "{}", size_of::<Ne2000>());
    assert!(size_of::<Rtl8139>() <= 88, "{}", size_of::<Rtl8139>());
}

#[test]
fn remote_dma_wraps_at_the_end_of_the_ring() {
    let mut guest = guest(BARE);

    guest.out(CR, 0x22);
    for (port, byte) in [
        (RBCR0, 64),
        (RBCR1, 0),
        (RSAR0, 0xf0),
        (RSAR1, 0x7f),
        (CR, 0x0a),
    ] {
        guest.out(port, byte);
    }
    for _ in 0..12 {
        guest.input(Access::word(DATA));
    }
    assert_eq!(guest.model.remote(&mut guest.card), (0x4c08, 40));
}

#[test]
fn registers_are_written_in_bytes() {
    let mut guest = guest(BARE);

    for (port, bytes) in [(0x00, 2), (0x0e, 4), (0x0f, 2), (0x1e, 2), (0x14, 4)] {
        let access = Access::new(port, bytes).unwrap();
        let verdict = guest.output(access, 0xffff_ffff, &());

        if port == 0x14 {
            assert_eq!(verdict, Verdict::Allow);
        } else {
            assert_eq!(verdict, Verdict::Ignore(Denial::Width), "{access:x?}");
        }
    }
    assert_eq!(guest.card.command, 0x22);
    assert_eq!(
        guest.model.read(Access::word(ISR), 0x1234, &mut guest.card),
        0x1234
    );
}

#[test]
fn a_frame_has_bytes() {
    for quirks in [BARE, FULL] {
        let mut guest = guest(quirks);

        // A card that was just reset has none to send.
        assert_eq!(
            guest.output(Access::byte(CR), 0x26, &()),
            Verdict::Ignore(Denial::NoFrame)
        );
        assert_eq!(guest.in8(CR), 0x22);
        for (low, high) in [(0, 1), (1, 0), (0, 0)] {
            guest.out(CR, 0x22);
            guest.out(TBCR0, low);
            guest.out(TBCR1, high);
            assert_eq!(
                guest.output(Access::byte(CR), 0x26, &()).allows(),
                (low, high) != (0, 0)
            );
        }
        assert_eq!(guest.card.sent.len(), 2);

        // What was loaded unseen can be sent again.
        guest.attend(Attention::Relaxed);
        guest.out(TBCR0, 60);
        guest.attend(Attention::Close);
        guest.out(CR, 0x22);
        guest.out(CR, 0x26);
        assert_eq!(guest.card.sent.len(), 3);
    }
}

#[test]
fn a_card_is_recognized() {
    let mut card = Dp8390::new(&[0; 32]);

    assert_eq!(Quirks::probe(&mut card), Some(FULL));

    struct Floating;

    impl Card for Floating {
        fn read(&mut self, access: Access) -> u32 {
            access.width().mask()
        }

        fn write(&mut self, _: Access, _: u32) {}
    }

    assert_eq!(Quirks::probe(&mut Floating), None);
}

/// A frame for `destination`.
fn frame(destination: [u8; 6]) -> Vec<u8> {
    destination.into_iter().chain([0; 54]).collect()
}

#[test]
fn the_receive_filter_is_that_of_the_card() {
    let own = [2, 0, 0, 0, 0, 1];
    let other = [2, 0, 0, 0, 0, 2];
    // The group of all nodes of IPv6.
    let group = [0x33, 0x33, 0, 0, 0, 1];
    let broadcast = [0xff; 6];
    let hash = Address(group).multicast_hash();

    // ether_crc() >> 26 of Linux's 8390.c, for the same group.
    assert_eq!(hash, 62);
    for (filter, expected) in [
        (0, [true, false, false, false]),
        (rcr::AB, [true, false, false, true]),
        (rcr::AM, [true, false, true, false]),
        (rcr::PRO, [true, true, true, true]),
        (rcr::PRO | rcr::MON, [false; 4]),
    ] {
        for (destination, expected) in [own, other, group, broadcast].into_iter().zip(expected) {
            let mut context = Context::new([[0; 2]; 16]);
            let registers = &mut context.registers;

            registers.command = 0x22;
            registers.receive_config = filter;
            registers.address = own;
            registers.multicast[usize::from(hash / 8)] = 1 << (hash % 8);
            registers.page_start = 0x40;
            registers.page_stop = 0x80;
            registers.current = 0x41;
            registers.boundary = 0x40;

            let bytes = frame(destination);
            let frame = Frame::new(&bytes).unwrap();
            let expected = if expected {
                Received::Stored
            } else {
                Received::Unwanted
            };

            assert_eq!(
                context.clone().receive(&frame),
                expected,
                "{filter:#x} {destination:x?}"
            );
            context.registers.multicast = [0; 8];
            if destination == group && filter & rcr::PRO == 0 {
                assert_eq!(context.receive(&frame), Received::Unwanted);
            }
            context.registers.command |= cr::STP;
            assert_eq!(context.receive(&frame), Received::Unwanted);
        }
    }
}

/// A ring of four pages, which is empty.
fn with_a_small_ring() -> Context {
    let mut context = Context::new([[0; 2]; 16]);
    let registers = &mut context.registers;

    registers.command = 0x22;
    registers.receive_config = rcr::AB;
    registers.page_start = 0x60;
    registers.page_stop = 0x64;
    registers.current = 0x63;
    registers.boundary = 0x62;
    context
}

#[test]
fn a_ring_holds_what_it_has_room_for() {
    let mut context = with_a_small_ring();
    let bytes = frame([0xff; 6]);
    let frame = Frame::new(&bytes).unwrap();

    for current in [0x60, 0x61] {
        assert_eq!(context.receive(&frame), Received::Stored);
        assert_eq!(context.registers.current, current);
    }
    // CURR must not reach BNRY: that is how an empty ring looks.
    assert_eq!(context.receive(&frame), Received::Full);
}

/// Linux's driver acknowledges PRX after it has looked whether there are frames. If it loses the card in
/// between, it acknowledges those that come meanwhile; and when there is no room for any more, nothing else
/// would ever have it look again.
#[test]
fn a_guest_with_a_full_ring_hears_of_each_frame() {
    let mut context = with_a_small_ring();
    let bytes = frame([0xff; 6]);
    let frame = Frame::new(&bytes).unwrap();

    while context.receive(&frame) == Received::Stored {}
    context.registers.pending &= !isr::PRX;
    assert_eq!(context.receive(&frame), Received::Full);
    assert_ne!(context.registers.pending & isr::PRX, 0);
}

#[test]
fn frames_have_a_size() {
    assert!(Frame::new(&[0; 5]).is_none());
    assert!(Frame::new(&[0; 1515]).is_none());
    assert!(Frame::new(&[0; 0x1_0000]).is_none());

    let frame = Frame::new(&[7; 20]).unwrap();

    assert_eq!(frame.size(), 60);
    assert_eq!(frame.bytes().filter(|&byte| byte == 7).count(), 20);
    assert_eq!(frame.bytes().count(), 60);
}
