// SPDX-License-Identifier: GPL-2.0

//! Pages of this process, to do with as a program may.

use std::io;

use svadma::Mapping;

/// Bytes of a page.
pub const PAGE: usize = 4096;

/// Memory that is not one object of the language: parts of it may be missing or protected.
pub struct Area {
    mapping: Mapping,
}

impl Area {
    /// Pages that nobody has touched, each of its own.
    pub fn new(pages: usize) -> io::Result<Self> {
        let area = Self {
            mapping: Mapping::anonymous(pages * PAGE)?,
        };
        area.advise(0, pages, libc::MADV_NOHUGEPAGE)?;
        Ok(area)
    }

    /// Where page `page` is.
    pub fn address(&self, page: usize) -> u64 {
        self.mapping.address() + (page * PAGE) as u64
    }

    fn pointer(&self, page: usize) -> *mut libc::c_void {
        self.address(page) as *mut libc::c_void
    }

    /// The byte at `offset`, which must be in memory that can be read.
    pub fn byte(&self, offset: usize) -> u8 {
        let word = self.mapping.load((offset / 4 * 4) as u64);
        word.to_le_bytes()[offset % 4]
    }

    /// Whether all bytes of some pages, which must be in memory that can be read, are `value`.
    pub fn is_all(&self, pages: std::ops::Range<usize>, value: u8) -> bool {
        let mut offsets = (pages.start * PAGE..pages.end * PAGE).step_by(4);
        offsets.all(|offset| self.mapping.load(offset as u64) == u32::from_le_bytes([value; 4]))
    }

    /// Writes `value` to all bytes of some pages.
    pub fn set(&self, pages: std::ops::Range<usize>, value: u8) {
        for offset in (pages.start * PAGE..pages.end * PAGE).step_by(4) {
            self.mapping
                .store(offset as u64, u32::from_le_bytes([value; 4]));
        }
    }

    fn check(result: libc::c_int) -> io::Result<()> {
        match result {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// `madvise()`.
    pub fn advise(&self, page: usize, pages: usize, advice: libc::c_int) -> io::Result<()> {
        // SAFETY: Nothing of the language is there.
        Self::check(unsafe { libc::madvise(self.pointer(page), pages * PAGE, advice) })
    }

    /// `mprotect()`.
    pub fn protect(&self, page: usize, pages: usize, protection: libc::c_int) -> io::Result<()> {
        // SAFETY: Nothing of the language is there.
        Self::check(unsafe { libc::mprotect(self.pointer(page), pages * PAGE, protection) })
    }

    /// `munmap()`. Nothing else of this process may be mapped there afterwards.
    pub fn unmap(&self, page: usize, pages: usize) -> io::Result<()> {
        // SAFETY: Nothing of the language is there.
        Self::check(unsafe { libc::munmap(self.pointer(page), pages * PAGE) })
    }
}
