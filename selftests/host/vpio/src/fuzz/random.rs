// SPDX-License-Identifier: GPL-2.0

//! Numbers that look random, and are the same for the same seed.

use crate::model::access::Access;
use crate::model::card::Card;
use crate::model::dma::{GuestMemory, Span};

/// xorshift64* (S. Vigna, "An experimental exploration of Marsaglia's xorshift generators,
/// scrambled", 2016).
#[derive(Clone)]
pub struct Random(u64);

impl Random {
    /// A sequence of its own for each seed.
    pub const fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(2).wrapping_add(1))
    }

    /// The next number.
    #[inline]
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// The next number, of 8 bits.
    #[inline]
    pub fn byte(&mut self) -> u8 {
        self.next().to_be_bytes()[0]
    }

    /// The next number, of 32 bits.
    #[inline]
    pub fn dword(&mut self) -> u32 {
        (self.next() >> 32) as u32
    }
}

/// A card that holds what was written to it, but for a bit here and there.
pub struct Fickle {
    /// What was written.
    ports: [u8; 256],
    random: Random,
}

impl Fickle {
    /// A card that is as fickle each time.
    pub const fn new(seed: u64) -> Self {
        Self {
            ports: [0; 256],
            random: Random::new(seed),
        }
    }
}

impl Card for Fickle {
    fn read(&mut self, access: Access) -> u32 {
        let first = usize::from(access.port());
        let noise = self.random.next();
        let value = (0..usize::from(access.width().bytes()))
            .map(|byte| u32::from(self.ports[first + byte]) << (8 * byte))
            .sum::<u32>();

        // One read in four has one bit wrong.
        if noise & 3 == 0 {
            (value ^ 1 << (noise >> 32 & 31)) & access.width().mask()
        } else {
            value
        }
    }

    fn write(&mut self, access: Access, value: u32) {
        let first = usize::from(access.port());

        for (byte, value) in (0..usize::from(access.width().bytes())).zip(value.to_le_bytes()) {
            self.ports[first + byte] = value;
        }
    }

    // Of card RAM, the model decides by the header of a frame and by its destination alone. Frames have
    // few pages.
    fn read_words(&mut self, _: u8, data: &mut [[u8; 2]]) {
        for (number, word) in data.iter_mut().take(5).enumerate() {
            let [first, second, few, ..] = self.random.dword().to_le_bytes();

            *word = [first, if number == 1 { few & 3 } else { second }];
        }
    }

    fn write_words(&mut self, _: u8, _: &[[u8; 2]]) {}
}

/// Memory of the guest: the second and fourth GiB.
pub struct Holes;

impl GuestMemory for Holes {
    fn contains(&self, span: Span) -> bool {
        let last = span.start + u64::from(span.len.max(1)) - 1;

        span.start >> 30 == last >> 30 && matches!(span.start >> 30, 1 | 3)
    }
}
