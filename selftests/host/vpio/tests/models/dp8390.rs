// SPDX-License-Identifier: GPL-2.0

//! An NE2000 as its data sheets have it, where QEMU's is simpler: page 2 shows what was written, a
//! stop raises RST, CRDA is loaded when a remote DMA starts, sending takes time, and to be promiscuous
//! concerns stations only.

use crate::model::access::Access;
use crate::model::card::Card;
use crate::model::frame::Address;
use crate::model::ne2000::register::{cr, isr, rcr, *};

/// The card.
pub(crate) struct Dp8390 {
    pub(crate) command: u8,
    page0: [u8; 16],
    page1: [u8; 16],
    status: u8,
    transmit_status: u8,
    current: u16,
    count: u16,
    memory: Vec<u8>,
    /// Whether a frame is sent at once, or when [`Self::finish`] is called.
    pub(crate) is_fast: bool,
    pub(crate) sent: Vec<Vec<u8>>,
}

impl Dp8390 {
    pub(crate) fn new(prom: &[u8; 32]) -> Self {
        let mut memory = vec![0; 0x8000];

        memory[..32].copy_from_slice(prom);
        Self {
            command: cr::ABORT | cr::STP,
            page0: [0; 16],
            page1: [0; 16],
            status: isr::RST,
            transmit_status: 0,
            current: 0,
            count: 0,
            memory,
            is_fast: true,
            sent: Vec::new(),
        }
    }

    fn wide(&self, low: u8) -> u16 {
        u16::from_le_bytes([
            self.page0[usize::from(low)],
            self.page0[usize::from(low) + 1],
        ])
    }

    /// The frame is on the wire.
    pub(crate) fn finish(&mut self) {
        if self.command & cr::TXP == 0 {
            return;
        }

        let start = usize::from(self.page0[usize::from(TPSR)]) << 8;
        let end = start + usize::from(self.wide(TBCR0));

        self.sent
            .push(self.memory.get(start..end).unwrap_or_default().to_vec());
        self.command &= !cr::TXP;
        self.transmit_status = 1;
        self.status |= isr::PTX;
    }

    pub(crate) fn asserts_interrupt(&self) -> bool {
        self.status & self.page0[usize::from(IMR)] & !isr::RST != 0
    }

    /// The ring has no room for a frame.
    pub(crate) fn overflow(&mut self) {
        self.status |= isr::OVW;
    }

    fn page(&self, port: u8) -> usize {
        usize::from(self.page0[usize::from(port)])
    }

    /// Whether the receive filter lets the frame in.
    fn accepts(&self, destination: [u8; 6]) -> bool {
        let config = self.page0[usize::from(RCR)];

        if destination == [0xff; 6] {
            return config & rcr::AB != 0;
        }
        if destination[0] & 1 != 0 {
            let hash = usize::from(Address(destination).multicast_hash());
            let table = &self.page1[usize::from(MAR0)..];

            return config & rcr::AM != 0 && table[hash / 8] >> (hash % 8) & 1 != 0;
        }
        config & rcr::PRO != 0 || destination == self.page1[1..7]
    }

    /// A frame arrives. Answers whether it is in the ring.
    pub(crate) fn arrive(&mut self, frame: &[u8]) -> bool {
        let (start, stop) = (self.page(PSTART), self.page(PSTOP));
        let current = usize::from(self.page1[usize::from(CURR)]);
        let boundary = self.page(BNRY);
        let pages = (frame.len() + 8).div_ceil(256);
        let free = if current < boundary {
            boundary - current
        } else {
            (stop - start) - (current - boundary)
        };

        if self.command & cr::STP != 0
            || self.page0[usize::from(RCR)] & rcr::MON != 0
            || !self.accepts(frame[..6].try_into().unwrap())
            || pages >= free
        {
            return false;
        }

        let next = current + pages;
        let next = if next >= stop {
            next - (stop - start)
        } else {
            next
        };
        let [low, high, ..] = (frame.len() + 4).to_le_bytes();
        let status = if frame[0] & 1 != 0 { 0x21 } else { 0x01 };
        let header = [status, u8::try_from(next).unwrap(), low, high];
        let mut at = current << 8;

        for byte in header.iter().chain(frame) {
            self.memory[at] = *byte;
            at += 1;
            if at == stop << 8 {
                at = start << 8;
            }
        }
        self.page1[usize::from(CURR)] = header[1];
        self.status |= isr::PRX;
        true
    }

    fn step(&mut self) {
        self.current += 1;
        if self.current == u16::from(self.page0[usize::from(PSTOP)]) << 8 {
            self.current = u16::from(self.page0[usize::from(PSTART)]) << 8;
        }
        self.count = self.count.saturating_sub(1);
        if self.count == 0 {
            self.status |= isr::RDC;
        }
    }

    fn start(&mut self, value: u8) {
        // What is being sent goes on, whatever is written.
        self.command = value & !cr::TXP | self.command & cr::TXP;
        if value & cr::STP != 0 {
            self.status |= isr::RST;
        } else {
            self.status &= !isr::RST;
        }
        if value & cr::ABORT == 0 && value & (cr::READ | cr::WRITE) != 0 {
            self.current = self.wide(RSAR0);
            self.count = self.wide(RBCR0);
            if self.count == 0 {
                self.status |= isr::RDC;
            }
        }
        if value & cr::TXP != 0 {
            self.command |= cr::TXP;
            if self.is_fast {
                self.finish();
            }
        }
    }

    fn read_byte(&mut self, port: u8) -> u8 {
        if (DATA..DATA + 8).contains(&port) {
            let byte = self.memory[usize::from(self.current & 0x7fff)];

            if self.count != 0 {
                self.step();
            }
            return byte;
        }
        if RESETS.contains(port) {
            self.command = cr::ABORT | cr::STP;
            self.status = isr::RST;
            self.page0[usize::from(IMR)] = 0;
            return 0;
        }

        match (self.command & cr::PS, port) {
            (_, CR) => self.command,
            (0, BNRY) => self.page0[usize::from(BNRY)],
            (0, TSR) => self.transmit_status,
            (0, ISR) => self.status,
            (0, CRDA0) => self.current.to_le_bytes()[0],
            (0, CRDA1) => self.current.to_le_bytes()[1],
            (cr::PAGE1, 1..=15) => self.page1[usize::from(port)],
            (cr::PAGE2, PSTART | PSTOP | TPSR | RCR..=IMR) => self.page0[usize::from(port)],
            _ => 0,
        }
    }

    fn write_byte(&mut self, port: u8, value: u8) {
        if (DATA..DATA + 8).contains(&port) {
            if self.count != 0 {
                // The PROM cannot be written to.
                if self.current >= 0x4000 {
                    self.memory[usize::from(self.current & 0x7fff)] = value;
                }
                self.step();
            }
            return;
        }
        match (self.command & cr::PS, port) {
            (_, CR) => self.start(value),
            (0, ISR) => self.status &= !value | isr::RST,
            (0, 1..=15) => self.page0[usize::from(port)] = value,
            (cr::PAGE1, 1..=15) => self.page1[usize::from(port)] = value,
            _ => (),
        }
    }
}

impl Card for Dp8390 {
    fn read(&mut self, access: Access) -> u32 {
        (0..access.width().bytes())
            .map(|byte| {
                // All bytes of an access to the data port are at that port.
                let port = if access.port() == DATA {
                    DATA
                } else {
                    access.port() + byte
                };

                u32::from(self.read_byte(port)) << (8 * byte)
            })
            .sum()
    }

    fn write(&mut self, access: Access, value: u32) {
        for byte in 0..access.width().bytes() {
            let port = if access.port() == DATA {
                DATA
            } else {
                access.port() + byte
            };

            self.write_byte(port, value.to_le_bytes()[usize::from(byte)]);
        }
    }
}
