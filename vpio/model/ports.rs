// SPDX-License-Identifier: GPL-2.0

//! Sets of ports.

/// A set of the ports of one BAR: offsets from its start, 0 to 255.
///
/// This is what an I/O permission bitmap is made of; see [`PortSet::bytes`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortSet {
    /// Offset `n` is bit `n % 64` of word `n / 64`.
    words: [u64; 4],
}

impl PortSet {
    /// No port.
    pub const EMPTY: Self = Self { words: [0; 4] };

    /// The ports from `first` to `last`, both included; none if `last` comes before `first`.
    pub const fn span(first: u8, last: u8) -> Self {
        Self {
            words: [
                Self::word(first, last, 0),
                Self::word(first, last, 64),
                Self::word(first, last, 128),
                Self::word(first, last, 192),
            ],
        }
    }

    /// The bits of `first` to `last` in the word whose lowest bit is offset `base`.
    const fn word(first: u8, last: u8, base: u8) -> u64 {
        let top = base | 63;
        let first = if first < base { base } else { first };
        let last = if last > top { top } else { last };

        if first > last {
            return 0;
        }

        let width = last.wrapping_sub(first) as u32;
        let shift = first.wrapping_sub(base) as u32;

        u64::MAX
            .wrapping_shr(63u32.wrapping_sub(width))
            .wrapping_shl(shift)
    }

    /// The ports of either set.
    pub const fn union(self, other: Self) -> Self {
        let [a, b, c, d] = self.words;
        let [e, f, g, h] = other.words;

        Self {
            words: [a | e, b | f, c | g, d | h],
        }
    }

    /// The ports that are not in `other`.
    pub const fn difference(self, other: Self) -> Self {
        let [a, b, c, d] = self.words;
        let [e, f, g, h] = other.words;

        Self {
            words: [a & !e, b & !f, c & !g, d & !h],
        }
    }

    /// Whether the sets have a port in common.
    #[inline]
    pub const fn intersects(self, other: Self) -> bool {
        let [a, b, c, d] = self.words;
        let [e, f, g, h] = other.words;

        a & e | b & f | c & g | d & h != 0
    }

    /// Whether `port` is in the set.
    #[inline]
    pub const fn contains(self, port: u8) -> bool {
        let [a, b, c, d] = self.words;
        let word = match port >> 6 {
            0 => a,
            1 => b,
            2 => c,
            _ => d,
        };

        word.wrapping_shr(port as u32) & 1 != 0
    }

    /// Number of ports, 0 to 256.
    pub const fn len(self) -> u32 {
        let [a, b, c, d] = self.words;

        // At most 64 each.
        a.count_ones()
            .wrapping_add(b.count_ones())
            .wrapping_add(c.count_ones())
            .wrapping_add(d.count_ones())
    }

    /// Whether there is no port.
    pub const fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// The ports, in order.
    pub fn iter(self) -> impl Iterator<Item = u8> {
        (0..=u8::MAX).filter(move |&port| self.contains(port))
    }

    /// The set as 32 bytes, port `n` being bit `n % 8` of byte `n / 8`.
    ///
    /// That is the layout of the I/O permission map of AMD SVM and of the I/O bitmaps of Intel VMX
    /// (a set bit intercepts; reads and writes alike). Both look at the bit of every byte that an
    /// access covers: a data port of 16 bits is only free if its second byte is, too.
    pub fn bytes(self) -> impl Iterator<Item = u8> {
        self.words.into_iter().flat_map(u64::to_le_bytes)
    }
}
