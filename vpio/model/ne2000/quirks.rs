// SPDX-License-Identifier: GPL-2.0

//! In what one NE2000 differs from another.

use super::{
    super::card::Card,
    quiesce,
    register::{
        cr,
        isr,
        CR,
        IMR,
        ISR,
        PSTART, //
    },
    remote_read,
    remote_write,
    STOP_READS, //
};

/// What a card was found to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quirks {
    /// Page 2 shows RCR, TCR, DCR, IMR and TPSR, as the DP8390 does and QEMU does not.
    pub page_2_is_readable: bool,
    /// A stop is complete when ISR shows RST, as with the DP8390; in QEMU it is complete at once.
    pub stop_raises_rst: bool,
    /// The station address PROM can be written to, and is what it was after a reset: QEMU's.
    pub prom_is_writable: bool,
}

impl Quirks {
    /// Tries the card out, and leaves it stopped.
    ///
    /// [`None`]: this is no NE2000, for it does not even show on page 2 where its ring starts.
    pub fn probe(card: &mut impl Card) -> Option<Self> {
        card.write8(CR, cr::ABORT | cr::STP);
        card.write8(ISR, u8::MAX);
        for page in [0x55, 0x6a] {
            if !shows(card, PSTART, page) {
                return None;
            }
        }

        let page_2_is_readable = [0x15, 0x2a].into_iter().all(|mask| shows(card, IMR, mask));

        card.write8(IMR, 0);
        card.write8(CR, cr::ABORT | cr::STA);
        card.write8(CR, cr::ABORT | cr::STP);

        let stop_raises_rst = (0..STOP_READS).any(|_| card.read8(ISR) & isr::RST != 0);

        Some(Self {
            page_2_is_readable,
            stop_raises_rst,
            prom_is_writable: prom_is_writable(card),
        })
    }
}

/// Whether the first word of the PROM can be changed. It is changed back.
fn prom_is_writable(card: &mut impl Card) -> bool {
    let mut word = [[0; 2]];
    let mut seen = word;

    quiesce(card);
    remote_read(card, 0, &mut word);

    let other = word.map(|bytes| bytes.map(|byte| !byte));

    remote_write(card, 0, &other);
    remote_read(card, 0, &mut seen);
    remote_write(card, 0, &word);
    seen == other
}

/// Whether page 2 shows what is written to a register of page 0, and not what is written to another page at
/// the same port, as it would be on a card without pages. The card is stopped.
fn shows(card: &mut impl Card, port: u8, value: u8) -> bool {
    card.write8(port, value);
    // Part of an address, which drivers set.
    card.write8(CR, cr::PAGE1 | cr::ABORT | cr::STP);
    card.write8(port, !value);
    card.write8(CR, cr::PAGE2 | cr::ABORT | cr::STP);

    let seen = card.read8(port);

    card.write8(CR, cr::ABORT | cr::STP);
    seen == value
}
