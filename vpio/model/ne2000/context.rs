// SPDX-License-Identifier: GPL-2.0

//! What belongs to a guest while another has the card.

use super::{
    super::frame::{
        Address,
        Frame,
        ADDRESS_LEN, //
    },
    filter::Filter,
    memory::PacketMemory,
    register::{
        cr,
        isr,
        rcr,
        DCR_WORDS,
        RSR_PHY,
        RSR_PRX,
        TCR_LOOPBACK, //
    },
    ring::{
        Ring,
        HEADER_LEN, //
    },
};

/// Number of words in the PROM as remote DMA shows it.
pub const PROM_WORDS: usize = 16;

/// The registers of one guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registers {
    /// CR, without TXP.
    pub command: u8,
    /// ISR: what is not acknowledged yet.
    pub pending: u8,
    /// TSR.
    pub transmit_status: u8,
    /// PSTART.
    pub page_start: u8,
    /// PSTOP.
    pub page_stop: u8,
    /// BNRY.
    pub boundary: u8,
    /// CURR.
    pub current: u8,
    /// TPSR.
    pub transmit_page: u8,
    /// TBCR.
    pub transmit_count: u16,
    /// Where remote DMA goes on: CRDA.
    pub remote_address: u16,
    /// What is left of RBCR.
    pub remote_count: u16,
    /// RCR.
    pub receive_config: u8,
    /// TCR.
    pub transmit_config: u8,
    /// DCR.
    pub data_config: u8,
    /// IMR.
    pub interrupt_mask: u8,
    /// PAR.
    pub address: [u8; ADDRESS_LEN],
    /// MAR.
    pub multicast: [u8; 8],
}

impl Registers {
    /// A card that was just reset.
    pub const RESET: Self = Self {
        command: cr::ABORT | cr::STP,
        pending: isr::RST,
        transmit_status: 0,
        page_start: 0,
        page_stop: 0,
        boundary: 0,
        current: 0,
        transmit_page: 0,
        transmit_count: 0,
        remote_address: 0,
        remote_count: 0,
        receive_config: 0,
        transmit_config: TCR_LOOPBACK,
        data_config: DCR_WORDS,
        interrupt_mask: 0,
        address: [0; ADDRESS_LEN],
        multicast: [0; 8],
    };

    /// The receive filter.
    pub const fn filter(&self) -> Filter {
        Filter {
            config: self.receive_config,
            address: self.address,
            multicast: self.multicast,
        }
    }
}

/// Whether a card with these in CR and RCR receives.
const fn is_on(command: u8, receive_config: u8) -> bool {
    command & cr::STP == 0 && receive_config & rcr::MON == 0
}

/// Whether a card receives anything that has these in CR, RCR, PSTART and PSTOP.
pub(super) const fn listens(command: u8, receive_config: u8, start: u8, stop: u8) -> bool {
    is_on(command, receive_config) && Ring::exists(start, stop)
}

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// It is in the ring, and the guest will be told.
    Stored,
    /// The guest does not want it: stopped, monitoring, or the filter.
    Unwanted,
    /// The ring has no room; the frame can be tried again when the guest has read from it, and it will be
    /// told that there is something to read.
    Full,
    /// The guest's page registers describe no ring.
    NoRing,
}

/// What belongs to one guest: registers and card RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    /// The registers.
    pub registers: Registers,
    /// The station address PROM, as remote DMA shows it. QEMU's can be written to.
    pub prom: [[u8; 2]; PROM_WORDS],
    /// Card RAM.
    pub memory: PacketMemory,
    /// First page of the frames that came while the card was shared, and that nobody has looked at.
    pub(super) unseen: Option<u8>,
}

impl Context {
    /// A card that was just reset, with this PROM and empty RAM.
    pub const fn new(prom: [[u8; 2]; PROM_WORDS]) -> Self {
        Self {
            registers: Registers::RESET,
            prom,
            memory: PacketMemory::new(),
            unseen: None,
        }
    }

    /// Whether the guest would receive a frame for `destination`, if there is room.
    pub fn wants(&self, destination: Address) -> bool {
        let Registers {
            command,
            receive_config,
            ..
        } = self.registers;

        is_on(command, receive_config) && self.registers.filter().accepts(destination)
    }

    /// Whether the guest would receive anything: see [`Ne2000::listens`](super::Ne2000::listens).
    pub const fn listens(&self) -> bool {
        let Registers {
            command,
            receive_config,
            page_start,
            page_stop,
            ..
        } = self.registers;

        listens(command, receive_config, page_start, page_stop)
    }

    /// Receives a frame as the card would, for a guest that does not have it now.
    ///
    /// The header is status, next page and count, in this order (DP8390D, "Storage Format for
    /// Received Packets").
    pub fn receive(&mut self, frame: &Frame<'_>) -> Received {
        if !self.wants(frame.destination()) {
            return Received::Unwanted;
        }

        let registers = &mut self.registers;
        let (start, stop) = (registers.page_start, registers.page_stop);
        let boundary = Ring::boundary(start, stop, registers.boundary);
        let Some(ring) = Ring::new(start, stop, registers.current, boundary) else {
            return Received::NoRing;
        };

        // A ring without room has frames that the guest has not read, and may never hear of again: it
        // acknowledges PRX after it has looked, and more may come between. A card would say OVW, which
        // has a driver stop it.
        registers.pending |= isr::PRX;

        let Some(next) = ring.next(frame.size()) else {
            return Received::Full;
        };

        let status = if frame.destination().is_multicast() {
            RSR_PRX | RSR_PHY
        } else {
            RSR_PRX
        };
        let [low, high] = frame.size().saturating_add(HEADER_LEN).to_le_bytes();
        let mut bytes = [status, next.number(), low, high]
            .into_iter()
            .chain(frame.bytes());

        for page in ring.iter().take_while(|&page| page != next) {
            let bytes = bytes.by_ref();

            for (to, from) in self.memory.page_mut(page).into_iter().flatten().zip(bytes) {
                *to = from;
            }
        }

        registers.current = next.number();
        Received::Stored
    }
}
