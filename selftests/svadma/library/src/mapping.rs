// SPDX-License-Identifier: GPL-2.0

//! Memory that is shared with the device.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr::{null_mut, NonNull};
use std::sync::atomic::{AtomicU32, Ordering};

use libc::{MAP_ANONYMOUS, MAP_PRIVATE, MAP_SHARED, PROT_READ, PROT_WRITE};

use crate::abi::PAGE_BYTES;

/// An address far below those that the kernel picks.
const APART: *mut libc::c_void = (1usize << 44) as *mut libc::c_void;

/// Pages of this process, until this is dropped.
#[derive(Debug)]
pub struct Mapping {
    start: NonNull<libc::c_void>,
    bytes: usize,
}

// SAFETY: Memory belongs to no thread.
unsafe impl Send for Mapping {}

impl Mapping {
    /// At `at` if nothing is there, or where the kernel likes.
    fn new(
        at: *mut libc::c_void,
        bytes: usize,
        flags: libc::c_int,
        file: libc::c_int,
    ) -> io::Result<Self> {
        let bytes = bytes.next_multiple_of(PAGE_BYTES as usize);
        // SAFETY: It is put where nothing is.
        let start = unsafe { libc::mmap(at, bytes, PROT_READ | PROT_WRITE, flags, file, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start).ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Self { start, bytes })
    }

    /// Memory that nobody has touched.
    ///
    /// # Errors
    ///
    /// What `mmap()` says.
    pub fn anonymous(bytes: usize) -> io::Result<Self> {
        Self::new(null_mut(), bytes, MAP_PRIVATE | MAP_ANONYMOUS, -1)
    }

    /// The beginning of a file, shared with all who map it.
    ///
    /// # Errors
    ///
    /// What `mmap()` says.
    pub fn of_file(file: &File, bytes: usize) -> io::Result<Self> {
        Self::new(null_mut(), bytes, MAP_SHARED, file.as_raw_fd())
    }

    /// As [`Mapping::of_file`], where nobody puts anything by himself: what is unmapped of it stays
    /// a hole.
    ///
    /// # Errors
    ///
    /// What `mmap()` says.
    pub fn of_file_apart(file: &File, bytes: usize) -> io::Result<Self> {
        Self::new(APART, bytes, MAP_SHARED, file.as_raw_fd())
    }

    /// Its address.
    pub fn address(&self) -> u64 {
        self.start.as_ptr() as u64
    }

    /// Its size.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The word at `offset`, a multiple of 4 within it.
    fn word(&self, offset: u64) -> &AtomicU32 {
        let offset = offset as usize;
        assert!(offset % 4 == 0 && offset < self.bytes);
        // SAFETY: It is in this memory, aligned, and accessed by atomics alone.
        unsafe { self.start.byte_add(offset).cast().as_ref() }
    }

    /// Reads a word, and sees what was written before it.
    pub fn load(&self, offset: u64) -> u32 {
        self.word(offset).load(Ordering::Acquire)
    }

    /// Writes a word, after all that was written before.
    pub fn store(&self, offset: u64, value: u32) {
        self.word(offset).store(value, Ordering::Release);
    }

    /// All of it, as bytes.
    ///
    /// # Safety
    ///
    /// It can be read and written, and neither the device nor anybody else uses it.
    pub unsafe fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: By the safety requirement.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr().cast(), self.bytes) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: It is this one's own.
        unsafe { libc::munmap(self.start.as_ptr(), self.bytes) };
    }
}
