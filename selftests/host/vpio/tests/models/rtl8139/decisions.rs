// SPDX-License-Identifier: GPL-2.0

//! What the model of the RTL8139 allows, denies and hooks.

use crate::model::access::Access;
use crate::model::card::Card;
use crate::model::device::{Busy, DeviceModel, Reuse, Verdict};
use crate::model::dma::{Channel, Channels, Denial, Direction, Dma, OnDenied, Span};
use crate::model::ports::PortSet;
use crate::model::rtl8139::context::Context;
use crate::model::rtl8139::register::{cr, *};
use crate::model::rtl8139::{Pinning, Rtl8139};

use crate::memory::Ram;
use crate::shared::Shared;

const RAM: Ram = Ram(0x1000..0x10_0000);

/// Registers that hold what was written to them.
struct Registers([u8; 256]);

impl Card for Registers {
    fn read(&mut self, access: Access) -> u32 {
        let first = usize::from(access.port());

        (0..usize::from(access.width().bytes()))
            .map(|byte| u32::from(self.0[first + byte]) << (8 * byte))
            .sum()
    }

    fn write(&mut self, access: Access, value: u32) {
        let first = usize::from(access.port());

        for (byte, value) in (0..usize::from(access.width().bytes())).zip(value.to_le_bytes()) {
            self.0[first + byte] = value;
        }
        // A reset is over at once.
        self.0[usize::from(CR)] &= !cr::RST;
    }
}

fn guest(pinning: Pinning, on_denied: OnDenied) -> Shared<Registers, Rtl8139> {
    Shared::new(Registers([0; 256]), Rtl8139::new(pinning, on_denied))
}

fn frame(address: u64, len: u32) -> Dma {
    Dma {
        channel: Channel::Transmit1,
        span: Span {
            start: address,
            len,
        },
        direction: Direction::FromMemory,
    }
}

const TSAD1: Access = Access::dword(TSAD0 + 4);
const TSD1: Access = Access::dword(TSD0 + 4);

#[test]
fn a_frame_is_pinned_until_it_is_sent() {
    let mut guest = guest(Pinning::Transfer, OnDenied::Ignore);

    assert_eq!(guest.output(TSAD1, 0x2340, &RAM), Verdict::Allow);
    assert_eq!(
        guest.output(TSD1, 1000, &RAM),
        Verdict::Start(frame(0x2340, 1000))
    );
    assert_eq!(
        guest.model.reuse(&mut guest.card),
        Reuse::Busy(Busy::Transmitting)
    );
    // The device is still at it.
    assert!(guest.model.interrupt(&mut guest.card).is_empty());
    guest.card.write16(TSAD, 0x0002);
    assert_eq!(
        guest.model.interrupt(&mut guest.card),
        Channels::NONE.with(Channel::Transmit1)
    );
    assert!(guest.model.interrupt(&mut guest.card).is_empty());
    assert_eq!(guest.model.reuse(&mut guest.card), Reuse::Now);
    assert_eq!(guest.accesses, guest.hooked);
}

#[test]
fn an_address_is_pinned_until_there_is_another() {
    let mut guest = guest(Pinning::Address, OnDenied::Ignore);

    assert_eq!(
        guest.output(TSAD1, 0x2340, &RAM),
        Verdict::Start(frame(0x2340, 0x1fff))
    );
    for _ in 0..100 {
        assert_eq!(guest.output(TSD1, 1000, &RAM), Verdict::Allow);
    }
    assert_eq!(guest.hooked, 1, "frames are not seen");
    // The longest frame would go beyond memory, so each is looked at.
    assert_eq!(guest.output(TSAD1, 0xf_f000, &RAM), Verdict::Allow);
    assert_eq!(
        guest.output(TSD1, 0x1000, &RAM),
        Verdict::Start(frame(0xf_f000, 0x1000))
    );
    assert_eq!(
        guest.output(TSD1, 0x1001, &RAM),
        Verdict::Ignore(Denial::OutsideMemory(frame(0xf_f000, 0x1001)))
    );
}

#[test]
fn what_was_pinned_for_an_address_is_over_with_it() {
    let mut guest = guest(Pinning::Address, OnDenied::Ignore);

    guest.output(TSAD1, 0x2340, &RAM);

    let verdict = guest.model.check(TSAD1, 0, &RAM);

    assert_eq!(verdict, Verdict::Allow);
    assert_eq!(
        guest.model.wrote(TSAD1, 0, verdict, &mut guest.card),
        Channels::NONE.with(Channel::Transmit1)
    );
}

#[test]
fn a_frame_that_waits_is_checked_again_when_its_address_changes() {
    let mut guest = guest(Pinning::Transfer, OnDenied::MachineCheck);

    guest.output(TSAD1, 0x2000, &RAM);
    guest.output(TSD1, 0x100, &RAM);
    assert_eq!(
        guest.output(TSAD1, 0x3000, &RAM),
        Verdict::Start(frame(0x3000, 0x100))
    );
    assert_eq!(
        guest.output(TSAD1, 0xf00, &RAM),
        Verdict::MachineCheck(Denial::OutsideMemory(frame(0xf00, 0x100)))
    );
    assert_eq!(guest.card.read(TSAD1), 0x3000);
    // Taken back: it is over.
    let verdict = guest.model.check(TSD1, 0x2000, &RAM);

    assert_eq!(verdict, Verdict::Allow);
    assert!(guest
        .model
        .wrote(TSD1, 0x2000, verdict, &mut guest.card)
        .contains(Channel::Transmit1));
}

#[test]
fn a_denied_dma_is_ignored_or_raised() {
    for on_denied in OnDenied::ALL {
        let mut guest = guest(Pinning::Transfer, on_denied);
        let denial = Denial::OutsideMemory(frame(0xfff, 1));

        guest.output(TSAD1, 0xfff, &RAM);
        assert_eq!(
            guest.output(TSD1, 1, &RAM),
            match on_denied {
                OnDenied::Ignore => Verdict::Ignore(denial),
                OnDenied::MachineCheck => Verdict::MachineCheck(denial),
            }
        );
        assert_eq!(guest.card.read(TSD1), 0);
        guest.model.set_on_denied(OnDenied::Ignore);
        assert_eq!(guest.model.on_denied(), OnDenied::Ignore);
        assert_eq!(guest.output(TSD1, 1, &RAM), Verdict::Ignore(denial));
    }
}

#[test]
fn the_receive_ring_is_pinned_while_the_receiver_is_enabled() {
    let mut guest = guest(Pinning::Transfer, OnDenied::Ignore);
    let ring = |start, len| {
        Verdict::Start(Dma {
            channel: Channel::Receive,
            span: Span { start, len },
            direction: Direction::ToMemory,
        })
    };

    // Anywhere, as long as nothing is received.
    assert_eq!(
        guest.output(Access::dword(RBSTART), u32::MAX, &RAM),
        Verdict::Allow
    );
    assert!(!guest.output(Access::byte(CR), cr::RE.into(), &RAM).allows());
    guest.output(Access::dword(RBSTART), 0x4000, &RAM);
    assert_eq!(
        guest.output(Access::byte(CR), cr::RE.into(), &RAM),
        ring(0x4000, 0x2010)
    );
    assert!(
        !guest.model.hooked().intersects(COMMAND),
        "polled for each frame"
    );
    // 64 KiB and WRAP.
    assert_eq!(
        guest.output(Access::dword(RCR), 0x1880, &RAM),
        ring(0x4000, 0x1_0810)
    );
    assert!(!guest
        .output(Access::dword(RBSTART), 0xf_0000, &RAM)
        .allows());
    assert_eq!(
        guest.output(Access::dword(RBSTART), 0xe_0000, &RAM),
        ring(0xe_0000, 0x1_0810)
    );
    // The longest ring for which there is memory.
    assert!(!guest
        .output(Access::dword(RBSTART), 0xe_f800, &RAM)
        .allows());
    // Disabled unseen.
    guest.output(Access::byte(CR), 0, &RAM);
    assert_eq!(
        guest.model.interrupt(&mut guest.card),
        Channels::NONE.with(Channel::Receive)
    );
    assert!(guest.model.hooked().intersects(COMMAND));
    // Enabled and disabled while it is hooked.
    guest.output(Access::byte(CR), cr::RE.into(), &RAM);
    guest.card.write8(CR, 0);
    assert_eq!(
        guest.model.receiving().map(|dma| dma.span.start),
        Some(0xe_0000)
    );
    assert!(guest
        .model
        .wrote(Access::byte(CR), 0, Verdict::Allow, &mut guest.card)
        .contains(Channel::Receive));
    assert_eq!(guest.model.receiving(), None);
}

#[test]
fn a_reset_ends_all() {
    for pinning in Pinning::ALL {
        let mut guest = guest(pinning, OnDenied::Ignore);

        guest.output(Access::dword(RBSTART), 0x4000, &RAM);
        guest.output(TSAD1, 0x2000, &RAM);
        guest.output(TSD1, 0x100, &RAM);
        guest.output(Access::byte(CR), cr::RE.into(), &RAM);
        assert_eq!(
            guest.model.check(Access::byte(CR), 0x1c, &RAM),
            Verdict::Allow
        );
        assert_eq!(
            guest
                .model
                .wrote(Access::byte(CR), 0x10, Verdict::Allow, &mut guest.card),
            Channels::NONE
                .with(Channel::Receive)
                .with(Channel::Transmit1)
        );
        assert_eq!(guest.model.receiving(), None);
        assert_eq!(guest.model.reuse(&mut guest.card), Reuse::Busy(Busy::Rings));
    }
}

#[test]
fn what_is_seized_loses_its_rings() {
    for pinning in Pinning::ALL {
        let mut guest = guest(pinning, OnDenied::Ignore);
        let mut context = Context::new([0; 2]);

        guest.output(Access::dword(RBSTART), 0x4000, &RAM);
        guest.output(TSAD1, 0x2000, &RAM);
        guest.output(TSD1, 0x100, &RAM);
        guest.output(Access::byte(CR), cr::RE.into(), &RAM);
        assert!(matches!(guest.model.reuse(&mut guest.card), Reuse::Busy(_)));
        assert_eq!(
            guest.model.seize(&mut context, &mut guest.card),
            Channels::NONE
                .with(Channel::Receive)
                .with(Channel::Transmit1)
        );
        assert_eq!(context.receive_start, 0x4000);
        assert_eq!(context.transmit_start[1], 0x2000);
        guest.model.restore(&context, &mut guest.card);
        assert_eq!(guest.model.receiving(), None);
        assert_eq!(guest.model.sending(Descriptor::D1), None);
    }
}

#[test]
fn what_cannot_be_checked_is_out_of_reach() {
    for pinning in Pinning::ALL {
        let mut guest = guest(pinning, OnDenied::MachineCheck);

        for (port, width) in [
            (0xe0, 2),
            (0xd9, 1),
            (0xe4, 4),
            (0xd8, 2),
            (0xd6, 4),
            (0xd4, 1),
        ] {
            let access = Access::new(port, width).unwrap();

            assert_eq!(
                guest.output(access, u32::MAX, &RAM),
                Verdict::Ignore(Denial::Uncheckable),
                "{access:x?}"
            );
            assert_eq!(guest.card.read(access), 0);
        }
        assert_eq!(guest.output(Access::byte(CONFIG5), 3, &RAM), Verdict::Allow);
    }
}

#[test]
fn addresses_are_loaded_as_a_whole() {
    let mut guest = guest(Pinning::Transfer, OnDenied::Ignore);

    for (port, width) in [
        (TSD0, 1),
        (TSD0 + 2, 4),
        (TSAD0 + 1, 4),
        (TSAD0, 2),
        (RBSTART, 2),
        (0x36, 2),
        (0x34, 4),
        (RCR, 1),
    ] {
        assert_eq!(
            guest.output(Access::new(port, width).unwrap(), 1, &RAM),
            Verdict::Ignore(Denial::Width),
            "{port:#x} {width}"
        );
    }
}

#[test]
fn frames_need_few_hooks() {
    // What 8139too does for a received frame of any size, and for a sent one.
    const RECEIVE: &[(bool, u8, usize)] = &[
        (false, ISR, 2),
        (true, IMR, 2),
        (false, IMR, 2),
        (false, ISR, 2),
        (false, CR, 1),
        (true, CAPR, 2),
        (false, ISR, 2),
        (true, ISR, 2),
        (false, ISR, 2),
        (false, CR, 1),
        (true, IMR, 2),
        (false, IMR, 2),
    ];
    const SEND: &[(bool, u8, usize)] = &[
        (true, TSD0, 4),
        (false, TSD0, 4),
        (false, ISR, 2),
        (true, ISR, 2),
        (false, TSD0, 4),
    ];

    for (pinning, hooked) in [(Pinning::Transfer, 300), (Pinning::Address, 0)] {
        let mut guest = guest(pinning, OnDenied::Ignore);

        guest.output(Access::dword(RBSTART), 0x4000, &RAM);
        guest.output(Access::byte(CR), (cr::RE | cr::TE).into(), &RAM);
        guest.output(Access::dword(TSAD0), 0x2000, &RAM);
        guest.accesses = 0;
        guest.hooked = 0;
        for _ in 0..100 {
            for &(is_write, port, width) in RECEIVE.iter().chain(SEND) {
                let access = Access::new(port, width).unwrap();

                if is_write {
                    guest.output(access, 60, &RAM);
                } else {
                    guest.input(access);
                }
            }
        }
        assert_eq!(
            (guest.accesses, guest.hooked),
            (1700, hooked),
            "{pinning:?}"
        );
    }
}

#[test]
fn settings_have_names() {
    for setting in OnDenied::ALL {
        assert_eq!(OnDenied::try_from(setting.name()), Ok(setting));
    }
    for setting in Pinning::ALL {
        assert_eq!(Pinning::try_from(setting.name()), Ok(setting));
    }
    assert!(OnDenied::try_from("").is_err());
    assert!(Pinning::try_from("transfer ").is_err());
}

#[test]
fn every_port_is_hooked_that_dma_depends_on() {
    let guest = guest(Pinning::Address, OnDenied::Ignore);
    let hooked = guest.model.hooked();

    for port in PortSet::EMPTY
        .union(ADDRESSES)
        .union(STATUSES)
        .union(RECEIVE_START)
        .union(RECEIVE_CONFIG)
        .union(COMMAND)
        .union(FORBIDDEN)
        .iter()
    {
        assert!(hooked.contains(port), "{port:#x}");
    }
    assert!(!hooked.contains(ISR));
}
