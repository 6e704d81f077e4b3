// SPDX-License-Identifier: GPL-2.0

//! How a program speaks to `svadma.ko`: the requests of `/dev/svadma`.
//!
//! An open file is a consumer. [`BIND`] gives it a queue of the device that works on the address space
//! of the calling process; then its doorbell page can be mapped, at offset 0 of the file, and no more
//! requests are needed until something is to be waited for. Closing the file ends it, and so does
//! unbinding the driver: an access to the doorbell page then raises `SIGBUS`, and requests fail with
//! `ENXIO` or `ENODEV`.
//!
//! The argument of a request points to an array of 64-bit words, which is read, and written back if
//! the request succeeds and has changed them. `EFAULT`: it cannot be read, or written. Words that a
//! request does not name must be 0. `ENOTTY`: there is no such request. The driver and the library for
//! programs compile this file.

/// Where the device is for programs.
pub const PATH: &str = "/dev/svadma";

/// The number of a request: `_IOWR('S', number, words)` of `include/uapi/asm-generic/ioctl.h`.
const fn request<const WORDS: usize>(number: u32) -> u32 {
    3 << 30 | (WORDS as u32 * 8) << 16 | (b'S' as u32) << 8 | number
}

/// Binds the calling process: the words of a [`Bind`].
///
/// `EBUSY`: the file has a queue, or all are in use. `EINVAL`: a word is not as it must be, or the
/// ring cannot be there. `ENODEV`: the device is gone. And what `iopf_bind()` returns.
pub const BIND: u32 = request::<{ Bind::WORDS }>(1);
/// Ends that; no words. `ENXIO`: the file has no queue.
pub const UNBIND: u32 = request::<0>(2);
/// Waits for an interrupt: the words of a [`Wait`].
///
/// `ENXIO`: the file has no queue. `ETIMEDOUT`. `EINTR`: there was a signal. `ENODEV`: the device went
/// meanwhile.
pub const WAIT: u32 = request::<{ Wait::WORDS }>(3);
/// Starts a receive stream, or ends it: the words of a [`Stream`].
///
/// `ENXIO`: the file has no queue. `EINVAL`: there can be no such stream.
pub const STREAM: u32 = request::<{ Stream::WORDS }>(4);
/// Pins a range in mode `pinned`: address and length in bytes. As `iopf_pin()`.
pub const PIN: u32 = request::<2>(5);
/// Ends that. As `iopf_unpin()`.
pub const UNPIN: u32 = request::<2>(6);
/// Reads a register that belongs to no queue: its offset, and 0; the second word becomes its value.
/// `EINVAL`: there is no such register.
pub const READ_REGISTER: u32 = request::<2>(7);
/// Writes one: its offset, and the value. For the tests, which make the device err: it concerns all
/// consumers.
pub const WRITE_REGISTER: u32 = request::<2>(8);

/// Sets what the device may keep of this process, in bytes. As `iopf_set_budget()`.
pub const BUDGET: u32 = request::<1>(9);

/// How the device is to translate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// As the device's file `iopf/mode` says.
    Device,
    /// By the page tables of the CPU.
    Sva,
    /// By an exact copy of them.
    Mirror,
    /// By a table of what was pinned.
    Pinned,
}

impl Mode {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 4] = [Self::Device, Self::Sva, Self::Mirror, Self::Pinned];
}

/// Words of [`BIND`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bind {
    /// How to translate.
    pub mode: Mode,
    /// Binary logarithm of the number of descriptors in the ring.
    pub ring_log2: u32,
    /// Virtual address of the ring.
    pub ring: u64,
    /// Virtual address of the completions.
    pub completions: u64,
}

impl Bind {
    /// How many words.
    pub const WORDS: usize = 4;

    /// As they are passed.
    pub const fn to_words(self) -> [u64; Self::WORDS] {
        [
            self.mode as u64,
            self.ring_log2 as u64,
            self.ring,
            self.completions,
        ]
    }

    /// From what was passed, if it is as it must be.
    pub fn from_words(words: [u64; Self::WORDS]) -> Option<Self> {
        let [mode, ring_log2, ring, completions] = words;

        Some(Self {
            mode: *Mode::ALL.get(usize::try_from(mode).ok()?)?,
            ring_log2: u32::try_from(ring_log2).ok()?,
            ring,
            completions,
        })
    }
}

/// Words of [`WAIT`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    /// How many interrupts the caller knows of; afterwards, how many there were. They are those of the
    /// vector of the queue, of which who had the queue before has had some, and which other queues
    /// share if there are more of them than vectors. 0 to begin with.
    pub seen: u64,
    /// Milliseconds after which to give up, up to [`Wait::TIMEOUT_MS_MAX`].
    pub timeout_ms: u32,
}

impl Wait {
    /// How many words.
    pub const WORDS: usize = 2;
    /// Largest time: an hour, so that nobody waits by mistake.
    pub const TIMEOUT_MS_MAX: u32 = 3_600_000;

    /// As they are passed.
    pub const fn to_words(self) -> [u64; Self::WORDS] {
        [self.seen, self.timeout_ms as u64]
    }

    /// From what was passed, if it is as it must be.
    pub fn from_words(words: [u64; Self::WORDS]) -> Option<Self> {
        let [seen, timeout_ms] = words;
        let timeout_ms = u32::try_from(timeout_ms).ok()?;

        (timeout_ms <= Self::TIMEOUT_MS_MAX).then_some(Self { seen, timeout_ms })
    }
}

/// Words of [`STREAM`]: the registers `STREAM_*` of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stream {
    /// A number of `StreamMode`.
    pub mode: u32,
    /// Bytes of a frame.
    pub frame_bytes: u32,
    /// Bytes that arrive in a millisecond.
    pub bytes_per_ms: u32,
    /// Bytes that the device can keep.
    pub buffer_bytes: u32,
    /// Frames after which nothing arrives any more; 0: no end.
    pub frames: u32,
}

impl Stream {
    /// How many words.
    pub const WORDS: usize = 5;

    /// As they are passed.
    pub const fn to_words(self) -> [u64; Self::WORDS] {
        [
            self.mode as u64,
            self.frame_bytes as u64,
            self.bytes_per_ms as u64,
            self.buffer_bytes as u64,
            self.frames as u64,
        ]
    }

    /// From what was passed, if it is as it must be.
    pub fn from_words(words: [u64; Self::WORDS]) -> Option<Self> {
        let [mode, frame_bytes, bytes_per_ms, buffer_bytes, frames] = words;

        Some(Self {
            mode: u32::try_from(mode).ok()?,
            frame_bytes: u32::try_from(frame_bytes).ok()?,
            bytes_per_ms: u32::try_from(bytes_per_ms).ok()?,
            buffer_bytes: u32::try_from(buffer_bytes).ok()?,
            frames: u32::try_from(frames).ok()?,
        })
    }
}
