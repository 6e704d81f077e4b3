// SPDX-License-Identifier: GPL-2.0

//! Addresses, pages and the windows of the IOVA space.
//!
//! The IOVA says which strategy made a mapping: the space is cut into windows of equal size, and
//! the window that an address lies in tells how to take the mapping down again. So an unmap needs
//! no look-up, and a strategy can be exchanged while mappings of the old one are in use.

/// log2 of the page size.
pub const PAGE_SHIFT: u32 = 12;
/// Bytes in a page.
pub const PAGE_SIZE: u64 = 1 << PAGE_SHIFT;

/// A physical address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Phys(pub u64);

impl Phys {
    /// The number of the page that holds the address.
    #[inline]
    pub const fn page(self) -> u64 {
        self.0 >> PAGE_SHIFT
    }

    /// The start of the page that holds the address.
    #[inline]
    pub const fn page_start(self) -> Self {
        Self(self.0 & !(PAGE_SIZE - 1))
    }
}

/// An address as the device sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Iova(pub u64);

impl Iova {
    /// The start of the page that holds the address.
    #[inline]
    pub const fn page_start(self) -> Self {
        Self(self.0 & !(PAGE_SIZE - 1))
    }
}

/// Offset of an address within its page.
#[inline]
const fn offset_in_page(address: u64) -> u64 {
    address & (PAGE_SIZE - 1)
}

/// Number of pages that `len` bytes at `address` touch.
#[inline]
pub const fn pages_of(address: u64, len: u64) -> u64 {
    offset_in_page(address)
        .wrapping_add(len)
        .wrapping_add(PAGE_SIZE - 1)
        >> PAGE_SHIFT
}

/// Whether `len` bytes at `address` touch one page only; no bytes may or may not.
#[inline(always)]
pub const fn is_within_page(address: u64, len: u64) -> bool {
    address ^ address.wrapping_add(len).wrapping_sub(1) < PAGE_SIZE
}

/// Whole pages of IOVA space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageRange {
    /// Address of the first page.
    pub start: Iova,
    /// Number of pages, at least 1.
    pub pages: u64,
}

impl PageRange {
    /// The pages that `len` bytes at `iova` touch.
    #[inline]
    pub const fn of(iova: Iova, len: u64) -> Self {
        Self {
            start: iova.page_start(),
            pages: pages_of(iova.0, len),
        }
    }

    /// Number of bytes.
    #[inline]
    pub const fn bytes(self) -> u64 {
        self.pages << PAGE_SHIFT
    }

    /// The first address after the range.
    #[inline]
    pub const fn end(self) -> Iova {
        Iova(self.start.0.wrapping_add(self.bytes()))
    }
}

/// A buffer that a driver maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// Physical address of the first byte.
    pub phys: Phys,
    /// Length in bytes.
    pub len: u64,
}

impl Buffer {
    /// Number of pages that the buffer touches.
    #[inline]
    pub const fn pages(self) -> u64 {
        pages_of(self.phys.0, self.len)
    }

    /// Number of pages that are in the buffer from their first byte to their last.
    #[inline]
    pub const fn whole_pages(self) -> u64 {
        let first = self.phys.0.wrapping_add(PAGE_SIZE - 1) >> PAGE_SHIFT;
        let end = self.phys.0.wrapping_add(self.len) >> PAGE_SHIFT;

        end.saturating_sub(first)
    }

    /// Whether the buffer touches one page only.
    #[inline(always)]
    pub const fn is_within_page(self) -> bool {
        is_within_page(self.phys.0, self.len)
    }

    /// Where the buffer starts for the device if its first page is mapped at `page`.
    #[inline]
    pub const fn at(self, page: Iova) -> Iova {
        Iova(page.0 | offset_in_page(self.phys.0))
    }
}

/// A part of the IOVA space, named after how mappings in it are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Window {
    /// Allocated addresses: coherent buffers, MMIO, devices that cannot reach the other windows,
    /// and what a strategy could not serve.
    Low = 0,
    /// Allocated addresses: the strategies that map each buffer exactly.
    Exact = 1,
    /// `base + phys`, all of RAM.
    Premapped = 2,
    /// `base + phys`, page by page, writable by the device.
    CachedWrite = 3,
    /// `base + phys`, page by page, read-only for the device.
    CachedRead = 4,
    /// Allocated addresses, in order: `contiguous`.
    Contiguous = 5,
    /// Copies of buffers, in memory that is mapped in advance.
    Pool = 6,
}

impl Window {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 7] = [
        Self::Low,
        Self::Exact,
        Self::Premapped,
        Self::CachedWrite,
        Self::CachedRead,
        Self::Contiguous,
        Self::Pool,
    ];
}

/// How one device's IOVA space is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// log2 of the size of a window.
    shift: u32,
}

impl Layout {
    /// log2 of the largest window: 16 TiB of RAM at a constant offset, eight of them in the 47 bits
    /// that first-stage tables of VT-d give.
    const MAX_SHIFT: u32 = 44;

    /// log2 of the smallest window: 4 GiB, so that the low window is all that a 32-bit device has.
    const MIN_SHIFT: u32 = 32;

    /// log2 of the number of windows that an aperture is cut into.
    const WINDOWS_SHIFT: u32 = 3;

    /// The layout for a device that can be given addresses up to `last`, which is the end of the
    /// domain's aperture or the limit of the bus.
    ///
    /// [`None`]: too few address bits for windows (VT-d goes down to 39, of which 36 remain).
    pub const fn new(last: u64) -> Option<Self> {
        let bits = match last.checked_add(1) {
            Some(size) => size.ilog2(),
            None => u64::BITS,
        };

        if bits < Self::MIN_SHIFT + Self::WINDOWS_SHIFT {
            return None;
        }

        let shift = bits - Self::WINDOWS_SHIFT;

        Some(Self {
            shift: if shift > Self::MAX_SHIFT {
                Self::MAX_SHIFT
            } else {
                shift
            },
        })
    }

    /// Bytes in a window; physical addresses from here on fit in none.
    #[inline]
    pub const fn window_size(self) -> u64 {
        1u64.wrapping_shl(self.shift)
    }

    /// The first address of a window.
    #[inline(always)]
    pub const fn base(self, window: Window) -> u64 {
        (window as u64).wrapping_shl(self.shift)
    }

    /// The last address of a window.
    #[inline]
    pub const fn last(self, window: Window) -> u64 {
        self.base(window) | (self.window_size() - 1)
    }

    /// The window of an address that was handed out.
    #[inline(always)]
    pub const fn window(self, iova: Iova) -> Window {
        match iova.0.wrapping_shr(self.shift) {
            0 => Window::Low,
            1 => Window::Exact,
            2 => Window::Premapped,
            3 => Window::CachedWrite,
            4 => Window::CachedRead,
            5 => Window::Contiguous,
            _ => Window::Pool,
        }
    }

    /// The offset of an address within its window: for the windows at a constant offset this is
    /// the physical address.
    #[inline(always)]
    pub const fn offset(self, iova: Iova) -> u64 {
        iova.0 & self.window_size().wrapping_sub(1)
    }

    /// Where `buffer` is in a window at a constant offset.
    ///
    /// [`None`]: it lies beyond the window, or above the last address `limit` of the device.
    #[inline]
    pub const fn at_offset(self, window: Window, buffer: Buffer, limit: u64) -> Option<Iova> {
        let last = match buffer.phys.0.checked_add(buffer.len.wrapping_sub(1)) {
            Some(last) => last,
            None => return None,
        };
        let base = self.base(window);

        if last >> self.shift != 0 || last | base > limit {
            return None;
        }

        Some(Iova(base | buffer.phys.0))
    }
}
