// SPDX-License-Identifier: GPL-2.0

//! The registers of the DP8390 and of the NE2000 around it.
//!
//! Names and bits are those of National Semiconductor's *DP8390D/NS32490D NIC Network Interface
//! Controller* and of Realtek's *RTL8029AS* data sheet; offsets are those from BAR 0.

use super::super::ports::PortSet;

/// Command, on all pages.
pub const CR: u8 = 0x00;

/// Page 0; page 2 to read: first page of the receive ring.
pub const PSTART: u8 = 0x01;
/// Page 0; page 2 to read: first page after the receive ring.
pub const PSTOP: u8 = 0x02;
/// Page 0: last page of the ring that the guest has read.
pub const BNRY: u8 = 0x03;
/// Page 0, to write; page 2 to read, but not in QEMU: page of the frame to send.
pub const TPSR: u8 = 0x04;
/// Page 0, to read: how sending went.
pub const TSR: u8 = 0x04;
/// Page 0, to write: length of the frame to send, low byte.
pub const TBCR0: u8 = 0x05;
/// Page 0, to write: length of the frame to send, high byte.
pub const TBCR1: u8 = 0x06;
/// Page 0: interrupt status; a one acknowledges.
pub const ISR: u8 = 0x07;
/// Page 0, to write: start address of a remote DMA, low byte.
pub const RSAR0: u8 = 0x08;
/// Page 0, to write: start address of a remote DMA, high byte.
pub const RSAR1: u8 = 0x09;
/// Page 0, to read: current address of a remote DMA, low byte.
pub const CRDA0: u8 = 0x08;
/// Page 0, to read: current address of a remote DMA, high byte.
pub const CRDA1: u8 = 0x09;
/// Page 0, to write: byte count of a remote DMA, low byte.
pub const RBCR0: u8 = 0x0a;
/// Page 0, to write: byte count of a remote DMA, high byte.
pub const RBCR1: u8 = 0x0b;
/// Page 0, to write; page 2 to read, but not in QEMU: what to receive.
pub const RCR: u8 = 0x0c;
/// Page 0, to write; page 2 to read, but not in QEMU: how to send.
pub const TCR: u8 = 0x0d;
/// Page 0, to write; page 2 to read, but not in QEMU: width and order of data.
pub const DCR: u8 = 0x0e;
/// Page 0, to write; page 2 to read, but not in QEMU: interrupt mask.
pub const IMR: u8 = 0x0f;

/// Page 1: first byte of the station address.
pub const PAR0: u8 = 0x01;
/// Page 1: page that the next frame is received to.
pub const CURR: u8 = 0x07;
/// Page 1: first byte of the multicast hash table.
pub const MAR0: u8 = 0x08;
/// Page 1: last byte of the multicast hash table.
pub const MAR7: u8 = 0x0f;

/// Card RAM passes through here, by remote DMA; the seven ports after it are the same.
pub const DATA: u8 = 0x10;
/// A read resets the card; the other seven from 0x18 on are the same.
pub const RESET: u8 = 0x1f;

/// All ports.
pub const PORTS: PortSet = PortSet::span(0x00, 0x1f);
/// The registers of the DP8390.
pub const REGISTERS: PortSet = PortSet::span(0x00, 0x0f);
/// The ways to reset the card.
pub const RESETS: PortSet = PortSet::span(0x18, RESET);
/// RCR, TCR, DCR, IMR.
pub const CONFIGURATION: PortSet = PortSet::span(RCR, IMR);

/// Bits of [`CR`].
pub mod cr {
    /// Software reset: nothing is received or sent.
    pub const STP: u8 = 0x01;
    /// Start.
    pub const STA: u8 = 0x02;
    /// Send; cleared by the device when that is over.
    pub const TXP: u8 = 0x04;
    /// What remote DMA to do.
    pub const RD: u8 = 0x38;
    /// Remote read.
    pub const READ: u8 = 0x08;
    /// Remote write.
    pub const WRITE: u8 = 0x10;
    /// Abort or complete remote DMA.
    pub const ABORT: u8 = 0x20;
    /// Page select.
    pub const PS: u8 = 0xc0;
    /// Page 1 of the registers.
    pub const PAGE1: u8 = 0x40;
    /// Page 2 of the registers.
    pub const PAGE2: u8 = 0x80;
}

/// Bits of [`ISR`].
pub mod isr {
    /// A frame was received.
    pub const PRX: u8 = 0x01;
    /// A frame was sent.
    pub const PTX: u8 = 0x02;
    /// Sending was given up.
    pub const TXE: u8 = 0x08;
    /// The ring had no room.
    pub const OVW: u8 = 0x10;
    /// Remote DMA is complete.
    pub const RDC: u8 = 0x40;
    /// The device is reset or stopped; no interrupt, and no acknowledge.
    pub const RST: u8 = 0x80;
}

/// Bits of [`RCR`].
pub mod rcr {
    /// Accept broadcasts.
    pub const AB: u8 = 0x04;
    /// Accept multicasts that the hash table has.
    pub const AM: u8 = 0x08;
    /// Accept every unicast.
    pub const PRO: u8 = 0x10;
    /// Monitor: accept, but store nothing.
    pub const MON: u8 = 0x20;
}

/// DCR as every driver has it: words, in the order of x86, no loopback (LS), FIFO threshold of 8 bytes.
pub const DCR_WORDS: u8 = 0x49;
/// TCR with internal loopback: nothing is sent.
pub const TCR_LOOPBACK: u8 = 0x02;
/// Status of a frame received without error, in RSR and in the header of each frame.
pub const RSR_PRX: u8 = 0x01;
/// Set beside [`RSR_PRX`] for broadcasts and multicasts.
pub const RSR_PHY: u8 = 0x20;
