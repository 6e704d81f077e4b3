// SPDX-License-Identifier: GPL-2.0

//! The registers of the RTL8139 that the model knows.
//!
//! Names and bits are those of Realtek's *RTL8139C(L)+* data sheet and *RTL8139 Programming Guide*;
//! offsets are those from BAR 0.

use super::super::ports::PortSet;

/// First byte of the station address; the multicast hash table is in the eight bytes from 0x08 on.
pub const IDR0: u8 = 0x00;
/// First byte of the multicast hash table.
pub const MAR0: u8 = 0x08;
/// Transmit status of descriptor 0; the others follow, 4 bytes each. In C+ mode: another DMA.
pub const TSD0: u8 = 0x10;
/// Transmit start address of descriptor 0; the others follow, 4 bytes each.
pub const TSAD0: u8 = 0x20;
/// Receive buffer start address.
pub const RBSTART: u8 = 0x30;
/// Command, 8 bits.
pub const CR: u8 = 0x37;
/// Current address of packet read, 16 bits.
pub const CAPR: u8 = 0x38;
/// Interrupt mask, 16 bits.
pub const IMR: u8 = 0x3c;
/// Interrupt status, 16 bits; a one acknowledges.
pub const ISR: u8 = 0x3e;
/// Transmit configuration.
pub const TCR: u8 = 0x40;
/// Receive configuration.
pub const RCR: u8 = 0x44;
/// Timer interrupt.
pub const TIMER_INT: u8 = 0x54;
/// Multiple interrupt select, 16 bits.
pub const MULINT: u8 = 0x5c;
/// Transmit status of all descriptors, 16 bits.
pub const TSAD: u8 = 0x60;
/// Access to EEPROM and configuration, 8 bits.
pub const CR9346: u8 = 0x50;
/// Configuration, 8 bits; [`CONFIG3`] and [`CONFIG4`] as well.
pub const CONFIG1: u8 = 0x52;
/// Configuration, 8 bits.
pub const CONFIG3: u8 = 0x59;
/// Configuration, 8 bits.
pub const CONFIG4: u8 = 0x5a;
/// Configuration, 8 bits.
pub const CONFIG5: u8 = 0xd8;

/// Number of transmit descriptors.
pub const DESCRIPTORS: usize = 4;

/// All ports.
pub const PORTS: PortSet = PortSet::span(0x00, 0xff);
/// All transmit start addresses.
pub const ADDRESSES: PortSet = PortSet::span(TSAD0, TSAD0 + 15);
/// All transmit statuses.
pub const STATUSES: PortSet = PortSet::span(TSD0, TSD0 + 15);
/// The receive buffer start address.
pub const RECEIVE_START: PortSet = PortSet::span(RBSTART, RBSTART + 3);
/// The receive configuration.
pub const RECEIVE_CONFIG: PortSet = PortSet::span(RCR, RCR + 3);
/// The command register.
pub const COMMAND: PortSet = PortSet::span(CR, CR);
/// The interrupt mask and status.
pub const INTERRUPT: PortSet = PortSet::span(IMR, ISR + 1);
/// What no guest may write to: the flash (0xd4), and the registers of C+ mode, whose DMA addresses
/// are in memory (0xd9 on), with those of CardBus behind them.
pub const FORBIDDEN: PortSet = PortSet::span(0xd4, 0xd7).union(PortSet::span(0xd9, 0xff));

/// The ports of one transmit status.
pub const fn status_of(descriptor: Descriptor) -> PortSet {
    let first = TSD0 | descriptor.offset();

    PortSet::span(first, first | 3)
}

/// One of the four transmit descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Descriptor {
    /// Descriptor 0.
    D0 = 0,
    /// Descriptor 1.
    D1 = 1,
    /// Descriptor 2.
    D2 = 2,
    /// Descriptor 3.
    D3 = 3,
}

impl Descriptor {
    /// All of them.
    pub const ALL: [Self; DESCRIPTORS] = [Self::D0, Self::D1, Self::D2, Self::D3];

    /// That of the register at `port`, which is one of a row of four with 4 bytes each.
    #[inline]
    pub const fn of(port: u8) -> Self {
        match port >> 2 & 3 {
            0 => Self::D0,
            1 => Self::D1,
            2 => Self::D2,
            _ => Self::D3,
        }
    }

    /// Offset of its register in a row of four.
    #[inline]
    pub const fn offset(self) -> u8 {
        (self as u8) << 2
    }
}

/// Bits of [`CR`].
pub mod cr {
    /// Reset.
    pub const RST: u8 = 0x10;
    /// Receiver enable.
    pub const RE: u8 = 0x08;
    /// Transmitter enable.
    pub const TE: u8 = 0x04;
}

/// Bits of a transmit status.
pub mod tsd {
    /// The length of the frame.
    pub const SIZE: u32 = 0x1fff;
    /// The device is done with the buffer; written as zero, it starts.
    pub const OWN: u32 = 0x2000;
}

/// Bits of [`RCR`].
pub mod rcr {
    /// A frame at the end of the ring is written beyond it.
    pub const WRAP: u32 = 0x80;
    /// log2 of the length of the ring in units of 8 KiB, as a number from bit 11 on.
    pub const RBLEN_SHIFT: u32 = 11;
}

/// Configuration registers can be written (of [`CR9346`]).
pub const UNLOCK: u8 = 0xc0;
/// Configuration registers cannot be written (of [`CR9346`]).
pub const LOCK: u8 = 0x00;
