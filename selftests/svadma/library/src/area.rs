// SPDX-License-Identifier: GPL-2.0

//! Pages of a process, to do with as a program may: what tests and measurements have the device work on.

use std::fs::File;
use std::io;
use std::os::fd::FromRawFd;

use crate::Mapping;

/// Bytes of a page.
pub const PAGE: usize = 4096;

/// A file without a name, in memory.
pub fn memory_file(bytes: usize, flags: libc::c_uint) -> io::Result<File> {
    // SAFETY: The name ends with 0, and the descriptor is nobody else's.
    let file = unsafe {
        match libc::memfd_create(c"svadma".as_ptr(), libc::MFD_CLOEXEC | flags) {
            -1 => return Err(io::Error::last_os_error()),
            file => File::from_raw_fd(file),
        }
    };
    file.set_len(bytes as u64)?;
    Ok(file)
}

/// Memory that is not one object of the language: parts of it may be missing or protected.
pub struct Area {
    mapping: Mapping,
    /// Where in the mapping it begins, in pages.
    first: usize,
}

impl Area {
    /// Pages that nobody has touched, each of its own.
    pub fn new(pages: usize) -> io::Result<Self> {
        let area = Self {
            mapping: Mapping::anonymous(pages * PAGE)?,
            first: 0,
        };
        area.advise(0, pages, libc::MADV_NOHUGEPAGE)?;
        Ok(area)
    }

    /// Pages that nobody has touched, at an address that is a multiple of their size.
    pub fn aligned(pages: usize) -> io::Result<Self> {
        let bytes = pages * PAGE;
        let mapping = Mapping::anonymous(2 * bytes)?;
        let start = mapping.address() as usize;
        Ok(Self {
            mapping,
            first: (start.next_multiple_of(bytes) - start) / PAGE,
        })
    }

    /// The first pages of a file, shared with all who map it.
    pub fn of_file(file: &File, pages: usize) -> io::Result<Self> {
        Ok(Self {
            mapping: Mapping::of_file(file, pages * PAGE)?,
            first: 0,
        })
    }

    /// The same, where nobody puts anything by himself: see [`Mapping::of_file_apart`].
    pub fn of_file_apart(file: &File, pages: usize) -> io::Result<Self> {
        Ok(Self {
            mapping: Mapping::of_file_apart(file, pages * PAGE)?,
            first: 0,
        })
    }

    /// Where page `page` is.
    pub fn address(&self, page: usize) -> u64 {
        self.mapping.address() + ((self.first + page) * PAGE) as u64
    }

    fn pointer(&self, page: usize) -> *mut libc::c_void {
        self.address(page) as *mut libc::c_void
    }

    fn load(&self, offset: usize) -> u32 {
        self.mapping.load((self.first * PAGE + offset) as u64)
    }

    /// The byte at `offset`, which must be in memory that can be read.
    pub fn byte(&self, offset: usize) -> u8 {
        self.load(offset / 4 * 4).to_le_bytes()[offset % 4]
    }

    /// Whether all bytes of some pages, which must be in memory that can be read, are `value`.
    pub fn is_all(&self, pages: std::ops::Range<usize>, value: u8) -> bool {
        let mut offsets = (pages.start * PAGE..pages.end * PAGE).step_by(4);
        offsets.all(|offset| self.load(offset) == u32::from_le_bytes([value; 4]))
    }

    /// A sum over some pages, in which the place of each word counts.
    pub fn sum(&self, pages: std::ops::Range<usize>) -> u64 {
        let offsets = (pages.start * PAGE..pages.end * PAGE).step_by(4);
        offsets.fold(0, |sum: u64, offset| {
            sum.rotate_left(1) ^ u64::from(self.load(offset))
        })
    }

    /// The number at `offset`, a multiple of 8.
    pub fn number(&self, offset: usize) -> u64 {
        u64::from(self.load(offset + 4)) << 32 | u64::from(self.load(offset))
    }

    /// Writes a word at `offset`, a multiple of 4.
    fn store_word(&self, offset: usize, value: u32) {
        self.mapping
            .store((self.first * PAGE + offset) as u64, value);
    }

    /// Writes a number at `offset`, a multiple of 8.
    pub fn store(&self, offset: usize, value: u64) {
        self.store_word(offset, value as u32);
        self.store_word(offset + 4, (value >> 32) as u32);
    }

    /// Writes `value` to all bytes of some pages.
    pub fn set(&self, pages: std::ops::Range<usize>, value: u8) {
        for offset in (pages.start * PAGE..pages.end * PAGE).step_by(4) {
            self.store_word(offset, u32::from_le_bytes([value; 4]));
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

    /// Lets nothing else be put where nothing is now, and nobody reach it.
    pub fn reserve(&self, page: usize, pages: usize) -> io::Result<()> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
        let (at, bytes) = (self.pointer(page), pages * PAGE);
        // SAFETY: Nothing is there.
        match unsafe { libc::mmap(at, bytes, libc::PROT_NONE, flags, -1, 0) } {
            libc::MAP_FAILED => Err(io::Error::last_os_error()),
            _ => Ok(()),
        }
    }

    /// `mremap()`: the first pages of this become those of `to`. Nothing is left here.
    pub fn move_to(&self, to: &Self, pages: usize) -> io::Result<()> {
        let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
        let bytes = pages * PAGE;
        // SAFETY: Nothing of the language is in either.
        match unsafe { libc::mremap(self.pointer(0), bytes, bytes, flags, to.pointer(0)) } {
            libc::MAP_FAILED => Err(io::Error::last_os_error()),
            _ => Ok(()),
        }
    }
}
