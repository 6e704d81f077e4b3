// SPDX-License-Identifier: GPL-2.0

//! The memory on the card.

/// Bytes in a page.
pub const PAGE_SIZE: u16 = 256;
/// Words in a page.
const PAGE_WORDS: usize = 128;
/// Number of pages: 16 KiB.
const PAGES: usize = 64;

/// A page of card RAM, or the end of it: 0x40 to 0x80.
///
/// What a guest writes to a page register is only used to address anything once it is one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Page(u8);

impl Page {
    /// The first page.
    pub const FIRST: Self = Self(0x40);
    /// The end: the first page that is not there.
    pub const END: Self = Self(0x80);

    /// The page of that number.
    ///
    /// [`None`]: there is no card RAM.
    pub const fn new(number: u8) -> Option<Self> {
        if number < Self::FIRST.0 || number > Self::END.0 {
            return None;
        }

        Some(Self(number))
    }

    /// Its number.
    #[inline]
    pub const fn number(self) -> u8 {
        self.0
    }

    /// The address of its first byte, as remote DMA has it.
    #[inline]
    pub const fn address(self) -> u16 {
        (self.0 as u16) << 8
    }
}

/// The contents of card RAM.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PacketMemory {
    pages: [[[u8; 2]; PAGE_WORDS]; PAGES],
}

impl PacketMemory {
    /// Number of bytes.
    pub const SIZE: u16 = 0x4000;

    /// All zeros.
    pub const fn new() -> Self {
        Self {
            pages: [[[0; 2]; PAGE_WORDS]; PAGES],
        }
    }

    /// All of it, in order.
    pub fn words(&self) -> &[[u8; 2]] {
        self.pages.as_flattened()
    }

    /// All of it, in order, to change.
    pub fn words_mut(&mut self) -> &mut [[u8; 2]] {
        self.pages.as_flattened_mut()
    }

    /// A page; [`None`] for [`Page::END`].
    pub fn page(&self, page: Page) -> Option<&[u8]> {
        self.pages
            .get(usize::from(page.0.wrapping_sub(Page::FIRST.0)))
            .map(|words| words.as_flattened())
    }

    /// A page to change; [`None`] for [`Page::END`].
    pub fn page_mut(&mut self, page: Page) -> Option<&mut [u8]> {
        self.pages
            .get_mut(usize::from(page.0.wrapping_sub(Page::FIRST.0)))
            .map(|words| words.as_flattened_mut())
    }
}

impl Default for PacketMemory {
    fn default() -> Self {
        Self::new()
    }
}

impl core::fmt::Debug for PacketMemory {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("PacketMemory")
    }
}
