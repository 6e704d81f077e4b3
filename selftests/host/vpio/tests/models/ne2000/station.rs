// SPDX-License-Identifier: GPL-2.0

//! Each guest has a station address of its own, on a card whose reset brings back the card's.

use crate::model::access::Access;
use crate::model::card::Card;
use crate::model::device::{Attention, DeviceModel, Verdict};
use crate::model::ne2000::context::Context;
use crate::model::ne2000::register::{cr, isr, *};
use crate::model::ne2000::{Ne2000, Quirks};
use crate::qtest::{self, QemuCard};
use crate::shared::Shared;

const OWN: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
const OTHER: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x99];

fn out(guest: &mut Shared<QemuCard, Ne2000>, port: u8, value: u8) {
    let verdict = guest.output(Access::byte(port), value.into(), &());

    assert_eq!(verdict, Verdict::Allow);
}

fn in8(guest: &mut Shared<QemuCard, Ne2000>, port: u8) -> u8 {
    u8::try_from(guest.input(Access::byte(port))).unwrap()
}

/// The station address as drivers read it when they have reset the card.
fn read_address(guest: &mut Shared<QemuCard, Ne2000>) -> [u8; 6] {
    out(guest, CR, cr::ABORT | cr::STP);
    out(guest, DCR, DCR_WORDS);
    for (port, byte) in (RSAR0..).zip([0, 0, 32, 0]) {
        out(guest, port, byte);
    }
    out(guest, CR, cr::READ | cr::STA);
    std::array::from_fn(|_| {
        let [first, second, ..] = guest.input(Access::word(DATA)).to_le_bytes();

        assert_eq!(first, second);
        first
    })
}

#[test]
fn a_guest_keeps_its_address_when_it_resets_its_card() {
    let Some([mut card]) = qtest::cards::<1>("ne2k_pci") else {
        return;
    };
    let quirks = Quirks::probe(&mut card).unwrap();
    let mut context = Context::new(Ne2000::read_prom(&mut card));

    assert!(quirks.prom_is_writable);
    assert_eq!(context.prom[..6], OWN.map(|byte| [byte; 2]));

    for (word, byte) in context.prom.iter_mut().zip(OTHER) {
        *word = [byte; 2];
    }

    let mut guest = Shared::new(card, Ne2000::new(quirks));

    guest.model.restore(&context, &mut guest.card);
    assert_eq!(read_address(&mut guest), OTHER);
    // From any page, followed closely or not, with another width, and running or not.
    for (attention, command) in [
        (Attention::Close, cr::ABORT | cr::STP),
        (Attention::Relaxed, cr::ABORT | cr::STA),
        (Attention::Close, cr::PAGE1 | cr::ABORT | cr::STA),
        (Attention::Relaxed, cr::PAGE1 | cr::ABORT | cr::STP),
    ] {
        out(&mut guest, CR, cr::ABORT | cr::STA);
        out(&mut guest, DCR, 0x48);
        out(&mut guest, RBCR0, 3);
        out(&mut guest, CR, command);
        guest.model.attend(attention, &mut guest.card);

        let value = in8(&mut guest, RESET);

        out(&mut guest, RESET, value);
        // As QEMU has it: nothing but RST.
        assert_eq!(in8(&mut guest, CR), command);
        if command & cr::PS == 0 {
            assert_eq!(in8(&mut guest, ISR), isr::RST);
        }
        out(&mut guest, CR, cr::ABORT | cr::STP);
        assert_eq!(in8(&mut guest, ISR), isr::RST);
        assert_eq!(read_address(&mut guest), OTHER);
        assert_eq!(in8(&mut guest, ISR) & isr::RST, 0);
        guest.model.attend(Attention::Close, &mut guest.card);
    }

    // Without the model, it is the card's.
    guest.card.read8(RESET);
    assert_eq!(
        Ne2000::read_prom(&mut guest.card)[..6],
        OWN.map(|byte| [byte; 2])
    );
}
