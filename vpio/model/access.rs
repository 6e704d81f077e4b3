// SPDX-License-Identifier: GPL-2.0

//! One access to a port.

use super::ports::PortSet;

/// How many ports an access covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Width {
    /// 8 bits.
    Byte = 1,
    /// 16 bits.
    Word = 2,
    /// 32 bits.
    Dword = 4,
}

impl Width {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Byte, Self::Word, Self::Dword];

    /// Number of bytes.
    #[inline]
    pub const fn bytes(self) -> u8 {
        self as u8
    }

    /// The bits of a value that such an access carries.
    #[inline]
    pub const fn mask(self) -> u32 {
        match self {
            Self::Byte => 0xff,
            Self::Word => 0xffff,
            Self::Dword => u32::MAX,
        }
    }
}

/// Where a read or write goes: an access that lies within the 256 ports of a BAR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    port: u8,
    width: Width,
}

impl Access {
    /// An access of `bytes` bytes at offset `port` of the BAR.
    ///
    /// [`None`]: not 1, 2 or 4 bytes, or not within the BAR.
    pub const fn new(port: u8, bytes: usize) -> Option<Self> {
        let width = match bytes {
            1 => Width::Byte,
            2 => Width::Word,
            4 => Width::Dword,
            _ => return None,
        };

        match port.checked_add(width.bytes().wrapping_sub(1)) {
            Some(_) => Some(Self { port, width }),
            None => None,
        }
    }

    /// An access of 8 bits.
    #[inline]
    pub const fn byte(port: u8) -> Self {
        Self {
            port,
            width: Width::Byte,
        }
    }

    /// An access of 16 bits; that of the last two ports, if `port` is the last.
    #[inline]
    pub const fn word(port: u8) -> Self {
        Self {
            port: if port > 0xfe { 0xfe } else { port },
            width: Width::Word,
        }
    }

    /// An access of 32 bits; that of the last four ports, if there are no four from `port` on.
    #[inline]
    pub const fn dword(port: u8) -> Self {
        Self {
            port: if port > 0xfc { 0xfc } else { port },
            width: Width::Dword,
        }
    }

    /// The first port, as an offset from the start of the BAR.
    #[inline]
    pub const fn port(self) -> u8 {
        self.port
    }

    /// How many ports it covers.
    #[inline]
    pub const fn width(self) -> Width {
        self.width
    }

    /// Whether it covers any port of a set.
    #[inline]
    pub const fn meets(self, set: PortSet) -> bool {
        self.covers(set, true)
    }

    /// Whether all ports that it covers are of a set.
    #[inline]
    pub const fn is_within(self, set: PortSet) -> bool {
        !self.covers(set, false)
    }

    /// Whether it covers any port that is in a set, or any that is not.
    #[inline]
    const fn covers(self, set: PortSet, is_in: bool) -> bool {
        let mut port = self.port;
        let mut left = self.width.bytes();

        // They are within the BAR, and 4 at most.
        while left > 0 {
            if set.contains(port) == is_in {
                return true;
            }
            port = port.wrapping_add(1);
            left = left.wrapping_sub(1);
        }
        false
    }

    /// All ports that it covers.
    #[inline]
    pub const fn ports(self) -> PortSet {
        PortSet::span(
            self.port,
            self.port.saturating_add(self.width.bytes().wrapping_sub(1)),
        )
    }
}
