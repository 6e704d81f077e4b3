// SPDX-License-Identifier: GPL-2.0

//! Ethernet frames, as far as a receive filter looks at them.

/// Bytes in an Ethernet address.
pub const ADDRESS_LEN: usize = 6;
/// The shortest frame, without its checksum.
pub const MIN_LEN: u16 = 60;
/// The longest frame, without its checksum.
pub const MAX_LEN: u16 = 1514;

/// An Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address(pub [u8; ADDRESS_LEN]);

impl Address {
    /// Everybody.
    pub const BROADCAST: Self = Self([0xff; ADDRESS_LEN]);

    /// Whether it is that of a group, or of everybody.
    pub const fn is_multicast(self) -> bool {
        let [first, ..] = self.0;

        first & 1 != 0
    }

    /// Where it is in a hash table of 64 bits: the upper six bits of the CRC-32 of the address, most
    /// significant bit first (DP8390D, "Multicast Address Registers").
    pub fn multicast_hash(self) -> u8 {
        let mut crc = u32::MAX;

        for byte in self.0 {
            let mut bits = byte;

            for _ in 0..u8::BITS {
                let carry = crc >> 31 ^ u32::from(bits & 1);

                crc <<= 1;
                bits >>= 1;
                if carry != 0 {
                    crc ^= 0x04c1_1db7;
                }
            }
        }

        let [top, ..] = crc.to_be_bytes();

        top >> 2
    }
}

/// A frame that an Ethernet can carry, without its checksum.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    destination: Address,
    bytes: &'a [u8],
    len: u16,
}

impl<'a> Frame<'a> {
    /// The frame with these bytes; one that is too short is padded with zeros when it is received.
    ///
    /// [`None`]: no destination, or too long.
    pub fn new(bytes: &'a [u8]) -> Option<Self> {
        let len = u16::try_from(bytes.len()).ok()?;

        if len > MAX_LEN {
            return None;
        }

        Some(Self {
            destination: Address(*bytes.first_chunk()?),
            bytes,
            len: len.max(MIN_LEN),
        })
    }

    /// Its length, [`MIN_LEN`] to [`MAX_LEN`].
    #[inline]
    pub const fn size(&self) -> u16 {
        self.len
    }

    /// Whom it is for.
    pub const fn destination(&self) -> Address {
        self.destination
    }

    /// Its bytes, of which there are [`Self::size`].
    pub fn bytes(&self) -> impl Iterator<Item = u8> + 'a {
        self.bytes
            .iter()
            .copied()
            .chain(core::iter::repeat(0))
            .take(self.len.into())
    }
}
