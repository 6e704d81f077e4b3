// SPDX-License-Identifier: GPL-2.0

//! Which accesses a storm consists of: random ones, by a seed, and two that an earlier model of this card
//! got wrong.
//!
//! Registers and bits are those of `vpio/model/ne2000/register.rs`.

/// Number of ports of the card.
const PORTS: u8 = 0x20;

const CR: u8 = 0x00;
const PSTART: u8 = 0x01;
const PSTOP: u8 = 0x02;
const BNRY: u8 = 0x03;
const TPSR: u8 = 0x04;
const TBCR0: u8 = 0x05;
const TBCR1: u8 = 0x06;
const RSAR0: u8 = 0x08;
const RSAR1: u8 = 0x09;
const RBCR0: u8 = 0x0a;
const RBCR1: u8 = 0x0b;
const RCR: u8 = 0x0c;
const TCR: u8 = 0x0d;
const DCR: u8 = 0x0e;
/// On page 1.
const CURR: u8 = 0x07;
const DATA: u8 = 0x10;
const RESET: u8 = 0x1f;

const STOP: u8 = 0x21;
const START: u8 = 0x22;
const START_READ: u8 = 0x0a;
const START_WRITE: u8 = 0x12;
const START_SEND: u8 = 0x26;
const START_PAGE1: u8 = 0x62;

/// DCR: words, FIFO threshold 8.
const WORDS: u8 = 0x49;
/// RCR: everything.
const PROMISCUOUS: u8 = 0x1f;
/// TCR: what is sent comes back, and does not leave.
const LOOPBACK: u8 = 0x02;

/// How wide an access is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Width {
    /// 8 bits.
    Byte,
    /// 16 bits.
    Word,
    /// 32 bits.
    Long,
}

/// What is done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// One read.
    Read(u8, Width),
    /// One write of the lowest bits of the value.
    Write(u8, Width, u32),
    /// Reads of so many words of the data port.
    ReadWords(usize),
    /// Writes of so many words to it.
    WriteWords(usize),
}

/// One byte to a register.
const fn byte(register: u8, value: u8) -> Step {
    Step::Write(register, Width::Byte, value as u32)
}

/// Random steps: the same for the same seed.
#[derive(Clone, Debug)]
pub(crate) struct Storm {
    state: u64,
}

impl Storm {
    /// By a seed.
    pub(crate) const fn new(seed: u64) -> Self {
        // The state must not be 0: the finalizer of SplitMix64 keeps seeds apart that are near.
        let state = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);

        Self { state: state | 1 }
    }

    /// 32 random bits: xorshift64*.
    fn bits(&mut self) -> u32 {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;

        let [_, _, _, _, a, b, c, d] = self.state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes();

        u32::from_le_bytes([a, b, c, d])
    }

    fn random_byte(&mut self) -> u8 {
        let [byte, ..] = self.bits().to_le_bytes();

        byte
    }

    /// One of these.
    fn one_of(&mut self, values: &[u8]) -> u8 {
        let number = usize::from(self.random_byte());

        number
            .checked_rem(values.len())
            .and_then(|index| values.get(index).copied())
            .unwrap_or(0)
    }

    /// A page number or part of an address: mostly at the limits of card RAM.
    fn page(&mut self) -> u8 {
        match self.bits() & 3 {
            0 => self.random_byte(),
            1 => self.one_of(&[0x00, 0x01, 0x3f, 0x7f, 0x80, 0x81, 0xc0, 0xff]),
            _ => self.one_of(&[0x40, 0x41, 0x46, 0x4c, 0x50, 0x60, 0x7e, 0x7f, 0x80]),
        }
    }

    /// A command: DMA, pages, sending and stopping, together or not.
    fn command(&mut self) -> u8 {
        match self.bits() & 3 {
            0 => self.random_byte(),
            _ => self.one_of(&[
                STOP,
                START,
                START_READ,
                START_WRITE,
                START_SEND,
                START_PAGE1,
                0xa2,
                0xe2,
                0x00,
                0x1a,
                0x16,
                0x0e,
            ]),
        }
    }

    /// The next step, of at most `left` accesses.
    pub(crate) fn next(&mut self, left: u64) -> Step {
        let width = match self.bits() & 7 {
            0 => Width::Long,
            1 | 2 => Width::Word,
            _ => Width::Byte,
        };
        let any = self.random_byte() & (PORTS - 1);

        match self.bits() & 31 {
            // What the rest means depends on it.
            0..=6 => byte(CR, self.command()),
            7..=9 => {
                let register = self.one_of(&[PSTART, PSTOP, BNRY, CURR, TPSR]);
                byte(register, self.page())
            }
            10..=12 => {
                let register = self.one_of(&[RSAR0, RSAR1, RBCR0, RBCR1, TBCR0, TBCR1]);
                byte(register, self.page())
            }
            13 => byte(DCR, self.random_byte()),
            14 => byte(RCR, self.random_byte()),
            // Mostly in loopback: the cable is for others, too.
            15 => match self.bits() & 7 {
                0 => byte(TCR, self.random_byte()),
                _ => byte(TCR, LOOPBACK),
            },
            16 if self.bits() & 15 == 0 => Step::Read(RESET, Width::Byte),
            17..=22 => {
                let most = usize::try_from(left).unwrap_or(usize::MAX).min(64);
                let count = usize::from(self.random_byte()).min(most).max(1);

                match self.bits() & 1 {
                    0 => Step::ReadWords(count),
                    _ => Step::WriteWords(count),
                }
            }
            23 => Step::Write(DATA, width, self.bits()),
            24 => Step::Read(DATA, width),
            25..=28 => Step::Read(any, width),
            _ => Step::Write(any, width, self.bits()),
        }
    }
}

/// `unchecked_write_offset_into_card_ram`: remote DMA to `page`, which need not be in card RAM.
pub(crate) const fn write_to_page(page: u8) -> [Step; 9] {
    [
        byte(CR, START),
        byte(DCR, WORDS),
        byte(RBCR0, 0x00),
        byte(RBCR1, 0x02),
        byte(RSAR0, 0xfe),
        byte(RSAR1, page),
        byte(CR, START_WRITE),
        Step::WriteWords(0x100),
        byte(CR, START),
    ]
}

/// `receive_trusts_guest_written_current_page_and_stop`: a frame comes while the ring is said to be
/// there. It is sent by the card itself, in loopback, and whatever else is on the cable comes as well.
pub(crate) const fn receive_to(start: u8, stop: u8, current: u8) -> [Step; 16] {
    [
        byte(CR, STOP),
        byte(DCR, WORDS),
        byte(RCR, PROMISCUOUS),
        byte(TCR, LOOPBACK),
        byte(PSTART, start),
        byte(PSTOP, stop),
        byte(BNRY, start),
        byte(CR, START_PAGE1),
        byte(CURR, current),
        byte(CR, START),
        byte(TPSR, 0x40),
        byte(TBCR0, 0xea),
        byte(TBCR1, 0x05),
        byte(CR, START_SEND),
        byte(TCR, 0),
        byte(CR, START_SEND),
    ]
}
