// SPDX-License-Identifier: GPL-2.0

//! The way to the device itself.

use super::access::Access;

/// The ports of the physical device.
///
/// A model looks at its device where that is cheaper than to have followed the guest, and moves a
/// context with it. It never does so while a guest can reach the same ports, other than to read what
/// a read leaves unchanged.
pub trait Card {
    /// Reads; bits beyond the width of the access are 0.
    fn read(&mut self, access: Access) -> u32;

    /// Writes; bits beyond the width of the access are ignored.
    fn write(&mut self, access: Access, value: u32);

    /// Reads 8 bits.
    #[inline]
    fn read8(&mut self, port: u8) -> u8 {
        let [byte, ..] = self.read(Access::byte(port)).to_le_bytes();

        byte
    }

    /// Reads 16 bits.
    #[inline]
    fn read16(&mut self, port: u8) -> u16 {
        let [low, high, ..] = self.read(Access::word(port)).to_le_bytes();

        u16::from_le_bytes([low, high])
    }

    /// Reads 32 bits.
    #[inline]
    fn read32(&mut self, port: u8) -> u32 {
        self.read(Access::dword(port))
    }

    /// Writes 8 bits.
    #[inline]
    fn write8(&mut self, port: u8, value: u8) {
        self.write(Access::byte(port), value.into());
    }

    /// Writes 16 bits.
    #[inline]
    fn write16(&mut self, port: u8, value: u16) {
        self.write(Access::word(port), value.into());
    }

    /// Writes 32 bits.
    #[inline]
    fn write32(&mut self, port: u8, value: u32) {
        self.write(Access::dword(port), value);
    }

    /// Reads `data` from one port, 16 bits at a time (`insw`).
    fn read_words(&mut self, port: u8, data: &mut [[u8; 2]]) {
        for word in data {
            *word = self.read16(port).to_le_bytes();
        }
    }

    /// Writes `data` to one port, 16 bits at a time (`outsw`).
    fn write_words(&mut self, port: u8, data: &[[u8; 2]]) {
        for word in data {
            self.write16(port, u16::from_le_bytes(*word));
        }
    }
}
