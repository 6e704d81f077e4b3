// SPDX-License-Identifier: GPL-2.0

//! NE2000: a DP8390 with 16 KiB of RAM on the card, behind a data port (PCI 10ec:8029).
//!
//! Its DMA never leaves the card, so the guest's memory is safe whatever the guest does, and all that
//! the model is for is to move the card between guests. Most of what belongs to a guest can be read
//! back from the card at that moment; the model follows the rest, and no more:
//!
//! - Configuration that cannot be read back (IMR, RCR, TCR, DCR, where there is no page 2 to read
//!   them from) and the bounds of the ring are hooked always, but are written rarely.
//! - Registers of a transaction (RSAR, RBCR, TPSR, TBCR) are loaded before each one and dead after
//!   it. They are followed only when somebody else wants the card.
//! - The data port is never hooked while the guest owns the card: how far a remote DMA has come is
//!   RBCR - (CRDA - RSAR), and CRDA can be read.

pub mod arrivals;
pub mod context;
pub mod filter;
pub mod held_frames;
pub mod memory;
mod quirks;
pub mod register;
pub mod ring;

use super::{
    access::{
        Access,
        Width, //
    },
    card::Card,
    device::{
        Attention,
        Busy,
        DeviceModel,
        Reuse,
        Verdict, //
    },
    dma::{
        Channels,
        Denial,
        GuestMemory, //
    },
    frame::{
        ADDRESS_LEN,
        MIN_LEN, //
    },
    ports::PortSet,
};
use arrivals::Sharing;
use context::{
    Context,
    Registers,
    PROM_WORDS, //
};
use filter::Filter;
use memory::{
    PacketMemory,
    Page, //
};
pub use quirks::Quirks;
use register::{
    cr,
    isr,
    rcr,
    *, //
};
use ring::Ring;

/// How often CR is read, at most, until the card has sent a frame, or admits that it has stopped: 1.6 ms, the time of the
/// longest frame (DP8390D, "Modes of operation"), with an access of 0.1 us or more to a port.
const STOP_READS: u32 = 16_384;

/// A set of registers of page 0, by offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Known(u16);

impl Known {
    const ALL: Self = Self(u16::MAX);
    /// PSTART, PSTOP.
    const RING: Self = Self(0b0110);
    /// RCR, TCR, DCR, IMR.
    const CONFIGURATION: Self = Self(0xf000);
    /// TPSR, TBCR, RSAR, RBCR.
    const TRANSACTION: Self = Self(0x0f70);

    const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    const fn register(port: u8) -> Self {
        Self(1u16.wrapping_shl(port as u32))
    }
}

/// The model of the NE2000 of one guest.
#[derive(Clone, Debug)]
pub struct Ne2000 {
    quirks: Quirks,
    attention: Attention,
    /// CR as the guest wrote it last, if the guest is followed closely.
    command: u8,
    /// Whether the card has another one, that does not start again what is complete already.
    is_substituted: bool,
    /// What the guest wrote to the registers of page 0, by offset.
    written: [u8; 16],
    /// For which of them that is so; a write to the others may have been missed.
    known: Known,
    /// Whether remote DMA was started since RSAR and RBCR were written.
    started: bool,
    /// Bits of ISR from before the guest got the card. The card's own can only be cleared.
    pending: u8,
    /// TSR that belongs to [`Self::pending`].
    transmit_status: Option<u8>,
    /// Whether the card receives for others as well.
    sharing: Sharing,
    /// The guest's station address, as its PROM has it.
    station: [u8; ADDRESS_LEN],
}

impl Ne2000 {
    /// The model for a guest that does not have the card yet.
    pub const fn new(quirks: Quirks) -> Self {
        Self {
            quirks,
            attention: Attention::Close,
            command: cr::ABORT | cr::STP,
            is_substituted: false,
            written: [0; 16],
            known: Known::ALL,
            started: false,
            pending: 0,
            transmit_status: None,
            sharing: Sharing::Alone,
            station: [0; ADDRESS_LEN],
        }
    }

    /// The station address PROM as remote DMA shows it. The card is left stopped.
    pub fn read_prom(card: &mut impl Card) -> [[u8; 2]; PROM_WORDS] {
        let mut prom = [[0; 2]; PROM_WORDS];

        quiesce(card);
        remote_read(card, 0, &mut prom);
        prom
    }

    /// Whether every register is followed.
    #[inline]
    fn is_close(&self) -> bool {
        matches!(self.attention, Attention::Close)
            || self.pending != 0
            || self.is_substituted
            || self.sharing != Sharing::Alone
    }

    /// Drops what the guest may change from now on without being noticed.
    fn forget(&mut self) {
        if self.is_close() {
            return;
        }

        self.known = if self.quirks.page_2_is_readable {
            Known::RING
        } else {
            Known::RING.union(Known::CONFIGURATION)
        };
        self.transmit_status = None;
    }

    /// The page of registers that is selected, as bits of CR.
    #[inline]
    fn page(&self, card: &mut impl Card) -> u8 {
        let command = if self.is_close() {
            self.command
        } else {
            card.read8(CR)
        };

        command & cr::PS
    }

    /// What the guest wrote to a register of page 0.
    #[inline]
    fn register(&self, port: u8) -> u8 {
        self.written
            .get(usize::from(port & 0x0f))
            .copied()
            .unwrap_or(0)
    }

    /// The guest wrote to a register of page 0.
    #[inline]
    fn set_register(&mut self, port: u8, value: u8) {
        if let Some(register) = self.written.get_mut(usize::from(port & 0x0f)) {
            *register = value;
        }
        self.known = self.known.union(Known::register(port & 0x0f));
    }

    /// Two registers as one number.
    fn wide(&self, low: u8, high: u8) -> u16 {
        u16::from_le_bytes([self.register(low), self.register(high)])
    }

    /// Two registers at once.
    fn set_wide(&mut self, low: u8, high: u8, value: u16) {
        let [first, second] = value.to_le_bytes();

        self.set_register(low, first);
        self.set_register(high, second);
    }

    /// Where remote DMA goes on, and how many bytes are left. On page 0, and with all of RSAR, RBCR
    /// and the ring known.
    pub fn remote(&self, card: &mut impl Card) -> (u16, u16) {
        let start = self.wide(RSAR0, RSAR1);
        let count = self.wide(RBCR0, RBCR1);

        if !self.started {
            return (start, count);
        }

        let current = u16::from_le_bytes([card.read8(CRDA0), card.read8(CRDA1)]);
        let done = Ring::distance(self.register(PSTART), self.register(PSTOP), start, current);

        (current, count.saturating_sub(done))
    }

    /// Whether TBCR is known to be 0.
    #[inline]
    fn sends_nothing(&self) -> bool {
        const COUNT: Known = Known::register(TBCR0).union(Known::register(TBCR1));

        self.known.contains(COUNT) && self.wide(TBCR0, TBCR1) == 0
    }

    /// What was loaded unseen belongs to the past: RBCR has to be loaded again after an abort, and
    /// TPSR and TBCR before TXP is set (DP8390D, "Command Register"). A driver that sends its last frame
    /// again without that shall send one.
    fn bury(&mut self) {
        let [shortest, _] = MIN_LEN.to_le_bytes();

        for port in TPSR..=RBCR1 {
            if !self.known.contains(Known::register(port)) {
                self.set_register(port, if port == TBCR0 { shortest } else { 0 });
            }
        }
    }

    /// The guest gave a command.
    fn commanded(&mut self, value: u8) {
        self.command = value;
        self.is_substituted = false;
        if value & cr::STP == 0 {
            self.pending &= !isr::RST;
        }
        if value & cr::TXP != 0 {
            self.transmit_status = None;
        }
        if value & cr::ABORT != 0 {
            self.bury();
        } else if value & (cr::READ | cr::WRITE) != 0 {
            self.started = true;
        }
    }

    /// What a save has to know of RCR, TCR, DCR, IMR and TPSR: from page 2 where it can be read. `run`
    /// is STA or STP.
    fn read_back(&mut self, run: u8, card: &mut impl Card) {
        if !self.quirks.page_2_is_readable {
            return;
        }

        card.write8(CR, cr::PAGE2 | cr::ABORT | run);
        for port in [TPSR, RCR, TCR, DCR, IMR] {
            let value = card.read8(port);

            // The card of a guest that shares it has another.
            if port != RCR || !self.is_shared() {
                self.set_register(port, value);
            }
        }
        card.write8(CR, cr::ABORT | run);
    }

    /// Whether RCR and MAR of the card are not those of the guest.
    #[inline]
    const fn is_shared(&self) -> bool {
        matches!(self.sharing, Sharing::Shared { .. })
    }

    /// What the card has in a register of page 0 if the guest wrote `value`.
    const fn loaded(&self, port: u8, value: u8) -> u8 {
        if port == RCR && self.is_shared() {
            Filter::widened(value)
        } else {
            value
        }
    }

    /// What a guest that shares its card reads from a register of the receive filter.
    fn own_filter(&self, port: u8) -> Option<u8> {
        let Sharing::Shared { multicast, .. } = &self.sharing else {
            return None;
        };

        match self.command & cr::PS {
            cr::PAGE1 => multicast.get(usize::from(port.wrapping_sub(MAR0))).copied(),
            cr::PAGE2 if port == RCR && self.quirks.page_2_is_readable => Some(self.register(RCR)),
            _ => None,
        }
    }

    /// The guest wrote to a register of page 1.
    fn wrote_page1(&mut self, port: u8, value: u8, card: &mut impl Card) {
        let Sharing::Shared { seen, multicast } = &mut self.sharing else {
            return;
        };

        if port == CURR {
            *seen = value;
        } else if let Some(byte) = multicast.get_mut(usize::from(port.wrapping_sub(MAR0))) {
            *byte = value;
            card.write8(port, u8::MAX);
        }
    }

    /// Puts the guest's station address back where a reset has put the card's own.
    fn restore_station(&mut self, card: &mut impl Card) {
        if !self.quirks.prom_is_writable {
            return;
        }
        // Such a card runs on after a reset, with the same page selected.
        if self.command & cr::PS != 0 {
            card.write8(CR, cr::ABORT | cr::STP);
        }
        if !self.known.contains(Known::CONFIGURATION) {
            self.read_back(cr::STP, card);
        }

        // To such a card, the data port leads at any time. A count that is not reached raises no RDC.
        card.write8(DCR, DCR_WORDS);
        for (port, byte) in (RSAR0..).zip([0, 0, u8::MAX, 0]) {
            card.write8(port, byte);
        }
        card.write_words(DATA, &self.station.map(|byte| [byte, byte]));
        card.write8(DCR, self.register(DCR));

        // Remote DMA from before is dead.
        self.set_wide(RSAR0, RSAR1, 0);
        self.set_wide(RBCR0, RBCR1, 0);
        self.started = false;
        for port in RSAR0..=RBCR1 {
            card.write8(port, 0);
        }
        if self.command & cr::PS != 0 {
            if self.command & cr::STP == 0 {
                self.pending |= isr::RST;
            }
            card.write8(CR, self.carried_out(self.command));
        }
    }

    /// What the card gets for a command of the guest.
    const fn carried_out(&self, command: u8) -> u8 {
        if self.is_substituted {
            substitute(command)
        } else {
            command
        }
    }

    /// Gives the guest's last command to the card, of whose remote DMA `left` bytes are left, loaded
    /// to RSAR and RBCR.
    fn resume(&mut self, left: u16, card: &mut impl Card) {
        // Without bytes left, a command to go on would complete at once and raise RDC.
        let is_transfer = self.command & (cr::READ | cr::WRITE) != 0;
        let command = self.command & !cr::TXP;

        self.started = is_transfer && left != 0;
        self.is_substituted = is_transfer && !self.started;
        card.write8(CR, self.carried_out(command));
    }

    /// Stops the card, with page 0 selected, and waits for the end of the frame that it is receiving.
    fn stop(&self, card: &mut impl Card) {
        card.write8(CR, cr::ABORT | cr::STP);
        if self.quirks.stop_raises_rst {
            for _ in 0..STOP_READS {
                if card.read8(ISR) & isr::RST != 0 {
                    break;
                }
            }
        }
    }

    /// Takes what belongs to the guest from the card, of which page 0 is selected, and stops that.
    fn take(&mut self, context: &mut Context, card: &mut impl Card) {
        let (remote_address, remote_count) = self.remote(card);
        // Before the card is stopped on our behalf.
        let was_reset = card.read8(ISR) & isr::RST;

        self.stop(card);

        let seen = card.read8(ISR) & !isr::RST;
        let boundary = card.read8(BNRY);
        let transmit_status = self.transmit_status.unwrap_or_else(|| card.read8(TSR));
        let mut address = [0; 6];
        let mut multicast = [0; 8];

        card.write8(CR, cr::PAGE1 | cr::ABORT | cr::STP);
        for (port, byte) in (PAR0..).zip(&mut address) {
            *byte = card.read8(port);
        }
        for (port, byte) in (MAR0..).zip(&mut multicast) {
            *byte = card.read8(port);
        }
        let current = card.read8(CURR);

        self.read_back(cr::STP, card);
        context.unseen = None;
        if let Sharing::Shared {
            seen,
            multicast: own,
        } = self.sharing
        {
            multicast = own;
            context.unseen = Some(seen).filter(|&seen| seen != current);
            self.sharing = Sharing::Announced;
        }
        context.registers = Registers {
            command: self.command & !cr::TXP,
            pending: seen | was_reset | self.pending,
            transmit_status,
            page_start: self.register(PSTART),
            page_stop: self.register(PSTOP),
            boundary,
            current,
            transmit_page: self.register(TPSR),
            transmit_count: self.wide(TBCR0, TBCR1),
            remote_address,
            remote_count,
            receive_config: self.register(RCR),
            transmit_config: self.register(TCR),
            data_config: self.register(DCR),
            interrupt_mask: self.register(IMR),
            address,
            multicast,
        };

        quiesce(card);
        remote_read(card, 0, &mut context.prom);
        remote_read(card, Page::FIRST.address(), context.memory.words_mut());
    }
}

impl DeviceModel for Ne2000 {
    type Context = Context;

    const PORTS: PortSet = register::PORTS;

    fn hooked(&self) -> PortSet {
        const CLOSE: PortSet = REGISTERS.union(RESETS);
        const RELAXED: PortSet = RESETS.union(PortSet::span(PSTART, PSTOP));

        if self.is_close() {
            CLOSE
        } else if self.quirks.page_2_is_readable {
            RELAXED
        } else {
            RELAXED.union(CONFIGURATION)
        }
    }

    #[inline]
    fn check(&self, access: Access, value: u32, _: &impl GuestMemory) -> Verdict {
        const NARROW: PortSet = REGISTERS.union(RESETS);

        if access.width() != Width::Byte && access.meets(NARROW) {
            return Verdict::Ignore(Denial::Width);
        }
        // There is no such frame; and QEMU's network takes it for one that cannot be delivered yet, so
        // that nothing after it is, from any guest.
        if access.port() == CR && value & u32::from(cr::TXP) != 0 && self.sends_nothing() {
            return Verdict::Ignore(Denial::NoFrame);
        }

        Verdict::Allow
    }

    fn wrote(&mut self, access: Access, value: u32, _: Verdict, card: &mut impl Card) -> Channels {
        let [value, ..] = value.to_le_bytes();
        let port = access.port();

        if access.width() != Width::Byte || !REGISTERS.contains(port) {
            return Channels::NONE;
        }
        if port == CR {
            self.commanded(value);
        } else {
            let page = self.page(card);

            match (page, port) {
                (0, ISR) => self.pending &= !value | isr::RST,
                (0, RSAR0..=RBCR1) => self.started = false,
                (0, RCR) if self.is_shared() => card.write8(RCR, Filter::widened(value)),
                (cr::PAGE1, _) => self.wrote_page1(port, value, card),
                _ => (),
            }
            if page == 0 {
                self.set_register(port, value);
            }
        }
        // Once nothing is pending any more, there is less to follow.
        self.forget();
        Channels::NONE
    }

    fn read(&mut self, access: Access, value: u32, card: &mut impl Card) -> u32 {
        let port = access.port();

        if access.width() != Width::Byte {
            return value;
        }
        if RESETS.contains(port) {
            self.pending = 0;
            self.transmit_status = None;

            let command = card.read8(CR);

            // QEMU's card keeps its command over a reset, and so that of the guest is kept, too.
            if !self.is_substituted || command != substitute(self.command) {
                self.command = command;
                self.is_substituted = false;
            }
            self.restore_station(card);
            self.forget();
            return value;
        }

        match port {
            CR if self.is_close() => {
                let own = u32::from(cr::RD | cr::PS);

                value & !own | u32::from(self.command) & own
            }
            ISR if self.pending != 0 && self.page(card) == 0 => value | u32::from(self.pending),
            TSR if self.page(card) == 0 => self.transmit_status.map_or(value, u32::from),
            _ => self.own_filter(port).map_or(value, u32::from),
        }
    }

    fn interrupt(&mut self, _: &mut impl Card) -> Channels {
        Channels::NONE
    }

    #[inline]
    fn owes_interrupt(&self) -> bool {
        self.pending & !isr::RST & self.register(IMR) != 0
    }

    fn attend(&mut self, attention: Attention, card: &mut impl Card) {
        if !self.is_close() {
            self.command = card.read8(CR);
        }
        self.attention = attention;
        self.forget();
    }

    fn quiet(&mut self, card: &mut impl Card) {
        // While a remote DMA is under way, a guest touches the data port alone, which nobody sees.
        if self.is_close() && card.read8(CR) & cr::ABORT != 0 {
            self.bury();
        }
    }

    fn reuse(&mut self, card: &mut impl Card) -> Reuse {
        if !self.is_close() {
            return Reuse::Busy(Busy::Unfollowed);
        }

        let command = card.read8(CR);

        if command & cr::TXP != 0 {
            return Reuse::Busy(Busy::Transmitting);
        }
        // Another page is selected for a moment only, and ISR cannot be seen from there.
        if command & cr::PS != 0 || !self.known.contains(Known::TRANSACTION) {
            return Reuse::Busy(Busy::Transaction);
        }
        // What was being sent at that time is sent again without loading TPSR and TBCR again
        // (DP8390D, "Receive Buffer Ring Overflow").
        if card.read8(ISR) & isr::OVW != 0 {
            return Reuse::Busy(Busy::Overrun);
        }

        match self.remote(card) {
            (_, 0) => Reuse::Now,
            _ if self.command & cr::ABORT != 0 && self.started => Reuse::Now,
            _ => Reuse::MidTransfer,
        }
    }

    fn save(&mut self, context: &mut Context, card: &mut impl Card) -> Result<Channels, Busy> {
        if let Reuse::Busy(busy) = self.reuse(card) {
            return Err(busy);
        }

        self.take(context, card);
        Ok(Channels::NONE)
    }

    fn seize(&mut self, context: &mut Context, card: &mut impl Card) -> Channels {
        self.attend(Attention::Close, card);
        for _ in 0..STOP_READS {
            if card.read8(CR) & cr::TXP == 0 {
                break;
            }
        }
        if self.command & cr::PS != 0 {
            card.write8(CR, cr::ABORT | self.command & (cr::STP | cr::STA));
        }
        // A transaction of which a part is not known cannot go on.
        self.bury();
        self.take(context, card);
        Channels::NONE
    }

    fn restore(&mut self, context: &Context, card: &mut impl Card) {
        let registers = &context.registers;

        self.stop(card);
        quiesce(card);
        remote_write(card, 0, &context.prom);
        remote_write(card, Page::FIRST.address(), context.memory.words());

        for (byte, word) in self.station.iter_mut().zip(&context.prom) {
            let [first, _] = word;

            *byte = *first;
        }
        self.attention = Attention::Close;
        self.known = Known::ALL;
        self.set_register(PSTART, registers.page_start);
        self.set_register(PSTOP, registers.page_stop);
        self.set_register(BNRY, registers.boundary);
        self.set_register(TPSR, registers.transmit_page);
        self.set_wide(TBCR0, TBCR1, registers.transmit_count);
        self.set_wide(RSAR0, RSAR1, registers.remote_address);
        self.set_wide(RBCR0, RBCR1, registers.remote_count);
        self.set_register(RCR, registers.receive_config);
        self.set_register(TCR, registers.transmit_config);
        self.set_register(DCR, registers.data_config);
        self.set_register(IMR, registers.interrupt_mask);

        card.write8(CR, cr::PAGE1 | cr::ABORT | cr::STP);
        for (port, &byte) in (PAR0..).zip(&registers.address) {
            card.write8(port, byte);
        }
        if self.sharing != Sharing::Alone {
            self.sharing = Sharing::Shared {
                seen: context.unseen.unwrap_or(registers.current),
                multicast: registers.multicast,
            };
        }
        for (port, &byte) in (MAR0..).zip(&registers.multicast) {
            card.write8(port, if self.is_shared() { u8::MAX } else { byte });
        }
        card.write8(CURR, registers.current);
        card.write8(CR, cr::ABORT | cr::STP);
        for port in (PSTART..=TBCR1).chain(RSAR0..=DCR) {
            card.write8(port, self.loaded(port, self.register(port)));
        }
        card.write8(ISR, !isr::RST);
        card.write8(IMR, registers.interrupt_mask);

        self.command = registers.command & !cr::TXP;
        self.resume(registers.remote_count, card);

        // What this card raises by itself needs no help.
        self.pending = registers.pending & !card_status(self.command, card);
        self.transmit_status = Some(registers.transmit_status);
    }
}

/// What a card gets instead of a command to transfer what is complete already.
const fn substitute(command: u8) -> u8 {
    command & !(cr::RD | cr::TXP) | cr::ABORT
}

/// ISR, if page 0 is selected.
fn card_status(command: u8, card: &mut impl Card) -> u8 {
    if command & cr::PS == 0 {
        card.read8(ISR)
    } else {
        0
    }
}

/// Makes the card deaf, dumb and silent, ready for remote DMA. It need not be stopped before, and
/// is afterwards.
fn quiesce(card: &mut impl Card) {
    let end = Page::END.number();

    card.write8(CR, cr::ABORT | cr::STP);
    card.write8(IMR, 0);
    // Not all cards know monitor mode: let the ring be full, too.
    card.write8(RCR, rcr::MON);
    card.write8(TCR, TCR_LOOPBACK);
    card.write8(DCR, DCR_WORDS);
    for port in [PSTART, PSTOP, BNRY] {
        card.write8(port, end);
    }
    card.write8(CR, cr::PAGE1 | cr::ABORT | cr::STP);
    card.write8(CURR, end);
    card.write8(CR, cr::ABORT | cr::STP);
}

/// Starts remote DMA of `words` from `address`. Not all cards do it while they are stopped.
fn remote_start(card: &mut impl Card, command: u8, address: u16, words: usize) {
    // Never more than the RAM of the card.
    let bytes = u16::try_from(words.wrapping_mul(2)).unwrap_or(PacketMemory::SIZE);

    for (ports, value) in [([RSAR0, RSAR1], address), ([RBCR0, RBCR1], bytes)] {
        for (port, byte) in ports.into_iter().zip(value.to_le_bytes()) {
            card.write8(port, byte);
        }
    }
    card.write8(CR, command | cr::STA);
}

/// Ends remote DMA and stops the card.
fn remote_end(card: &mut impl Card) {
    card.write8(CR, cr::ABORT | cr::STP);
    card.write8(ISR, isr::RDC);
}

/// Reads card RAM or the PROM.
fn remote_read(card: &mut impl Card, address: u16, words: &mut [[u8; 2]]) {
    remote_start(card, cr::READ, address, words.len());
    card.read_words(DATA, words);
    remote_end(card);
}

/// Writes card RAM or the PROM.
fn remote_write(card: &mut impl Card, address: u16, words: &[[u8; 2]]) {
    remote_start(card, cr::WRITE, address, words.len());
    card.write_words(DATA, words);
    remote_end(card);
}
