// SPDX-License-Identifier: GPL-2.0

//! The way of the model to the physical card.

use pdio::io_bar::BarPorts;

use crate::model::{
    access::{
        Access,
        Width, //
    },
    card,
    ne2000::register::{
        cr,
        CR,
        IMR, //
    },
};

/// The ports of the card, where it is now. Whoever has one holds the lock of the card.
pub(crate) struct Registers<'a>(pub(crate) &'a BarPorts);

impl Registers<'_> {
    /// Lets the card neither receive, send nor interrupt.
    pub(crate) fn stop(&mut self) {
        use card::Card;

        self.write8(CR, cr::ABORT | cr::STP);
        self.write8(IMR, 0);
    }
}

impl card::Card for Registers<'_> {
    #[inline]
    fn read(&mut self, access: Access) -> u32 {
        let port = access.port();

        match access.width() {
            Width::Byte => self.0.read8(port).into(),
            Width::Word => self.0.read16(port).into(),
            Width::Dword => self.0.read32(port),
        }
    }

    #[inline]
    fn write(&mut self, access: Access, value: u32) {
        let [low, high, ..] = value.to_le_bytes();
        let port = access.port();

        match access.width() {
            Width::Byte => self.0.write8(port, low),
            Width::Word => self.0.write16(port, u16::from_le_bytes([low, high])),
            Width::Dword => self.0.write32(port, value),
        }
    }

    fn read_words(&mut self, port: u8, data: &mut [[u8; 2]]) {
        self.0.read_words(port, data);
    }

    fn write_words(&mut self, port: u8, data: &[[u8; 2]]) {
        self.0.write_words(port, data);
    }
}
