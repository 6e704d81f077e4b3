// SPDX-License-Identifier: GPL-2.0

//! What belongs to a guest while another has the card.

use super::register::DESCRIPTORS;

/// The registers of one guest, whose receiver and transmitter are disabled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    /// IDR, as two words of 32 bits.
    pub address: [u32; 2],
    /// MAR, in the same way.
    pub multicast: [u32; 2],
    /// TSAD0 to TSAD3.
    pub transmit_start: [u32; DESCRIPTORS],
    /// RBSTART.
    pub receive_start: u32,
    /// TCR.
    pub transmit_config: u32,
    /// RCR.
    pub receive_config: u32,
    /// TimerInt.
    pub timer: u32,
    /// IMR.
    pub interrupt_mask: u16,
    /// ISR: what is not acknowledged yet.
    pub pending: u16,
    /// MULINT.
    pub multiple_interrupt: u16,
    /// CONFIG1, CONFIG3, CONFIG4, CONFIG5.
    pub config: [u8; 4],
    /// 9346CR.
    pub eeprom: u8,
}

impl Context {
    /// A card that was just reset and has this station address.
    pub const fn new(address: [u32; 2]) -> Self {
        Self {
            address,
            multicast: [0; 2],
            transmit_start: [0; DESCRIPTORS],
            receive_start: 0,
            transmit_config: 0,
            receive_config: 0,
            timer: 0,
            interrupt_mask: 0,
            pending: 0,
            multiple_interrupt: 0,
            config: [0; 4],
            eeprom: 0,
        }
    }
}
