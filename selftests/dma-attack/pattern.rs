// SPDX-License-Identifier: GPL-2.0

//! Content that tells where it came from.

/// A page of bytes. Two patterns differ in every byte if their numbers differ by less than 254, and
/// no byte is what a transfer that was refused leaves behind, which is all zeros or all ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pattern(usize);

impl Pattern {
    /// Bytes without the two values that are never used.
    const VALUES: usize = 254;

    /// Before the first.
    pub(crate) const NONE: Self = Self(0);

    /// The next one.
    pub(crate) fn next(self) -> Self {
        Self((self.0 + 1) % Self::VALUES)
    }

    /// The byte at an offset.
    pub(crate) fn byte(self, offset: usize) -> u8 {
        // Neighbouring bytes differ, and so do those a power of two apart.
        let value = (offset * 7 + offset / Self::VALUES + self.0) % Self::VALUES;

        // Below 254.
        value as u8 + 1
    }
}
