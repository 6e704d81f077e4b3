// SPDX-License-Identifier: GPL-2.0

//! What the driver refuses: by which error, and that nothing comes of it.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;

use svadma::abi::{
    queue, register, FRAME_BYTES_MAX, FRAME_BYTES_MIN, RING_LOG2_MAX, STREAM_BUFFER_BYTES_MAX,
};
use svadma::uapi::{self, Bind, Mode, Stream, Wait};

use crate::area::{Area, PAGE};
use crate::case::{expect, passed, same, Case, Outcome, Result};
use crate::control::attribute;
use crate::other_process::fork;
use crate::work::{consumer, fill};

/// All of them.
pub const CASES: [Case; 9] = [
    ("unknown requests", |mode| passed(unknown(mode))),
    ("arguments that are not there", |mode| {
        passed(not_there(mode))
    }),
    ("without a queue", |mode| passed(without_a_queue(mode))),
    ("bind", |mode| passed(bind(mode))),
    ("wait", |mode| passed(wait(mode))),
    ("stream", |mode| passed(stream(mode))),
    ("pin", pin),
    ("registers", |mode| passed(registers(mode))),
    ("doorbell page", |mode| passed(doorbell_page(mode))),
];

/// A binary logarithm of the entries of a ring that is in one page, as its completions are.
const RING_LOG2: u32 = 6;

/// The file, and memory for a ring: nothing of the library, which would not make mistakes.
pub struct Device {
    file: File,
    ring: Area,
    completions: Area,
}

impl Device {
    pub fn open() -> Result<Self> {
        let file = File::options().read(true).write(true).open(uapi::PATH)?;
        Ok(Self {
            file,
            ring: Area::new(1)?,
            completions: Area::new(1)?,
        })
    }

    fn open_bound(mode: Mode) -> Result<Self> {
        let device = Self::open()?;
        device.request(uapi::BIND, &device.bind(mode).to_words())?;
        Ok(device)
    }

    fn bind(&self, mode: Mode) -> Bind {
        Bind {
            mode,
            ring_log2: RING_LOG2,
            ring: self.ring.address(0),
            completions: self.completions.address(0),
        }
    }

    /// Does a request whose argument is at an address, if there is anything.
    pub fn request_at(&self, number: u32, address: u64) -> io::Result<()> {
        // SAFETY: The driver writes what it has read, or to one of the cases' own words.
        match unsafe { libc::ioctl(self.file.as_raw_fd(), number.into(), address) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    pub fn request(&self, number: u32, words: &[u64]) -> io::Result<()> {
        let mut words = words.to_vec();
        self.request_at(number, words.as_mut_ptr() as u64)
    }

    /// # Errors
    ///
    /// The request is not refused with this error.
    fn refuses(&self, number: u32, words: &[u64], error: i32) -> Result {
        let what = format!("request {:#x} of {words:x?}", number & 0xffff);
        fails(&what, self.request(number, words), error)
    }

    /// Maps a part of the file, and takes that away again.
    fn map(&self, offset: usize, bytes: usize, flags: libc::c_int) -> io::Result<()> {
        let both = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: It is put where nothing is, and nobody is told where.
        unsafe {
            let file = self.file.as_raw_fd();
            let at = libc::mmap(
                std::ptr::null_mut(),
                bytes,
                both,
                flags,
                file,
                offset as libc::off_t,
            );
            if at == libc::MAP_FAILED {
                return Err(io::Error::last_os_error());
            }
            libc::munmap(at, bytes);
        }
        Ok(())
    }
}

/// # Errors
///
/// It has not failed, or not with this error.
fn fails<T: std::fmt::Debug>(what: &str, found: io::Result<T>, error: i32) -> Result {
    let found = found.map_err(|error| error.raw_os_error());
    match found {
        Err(Some(found)) if found == error => Ok(()),
        found => Err(format!("{what}: {found:?}, not error {error}").into()),
    }
}

fn unknown(mode: Mode) -> Result {
    let device = Device::open_bound(mode)?;
    // Another number, type, direction and size.
    for number in [
        uapi::BIND & !0xff,
        uapi::WRITE_REGISTER + 1,
        uapi::WAIT ^ 0x100,
        uapi::WAIT ^ 1 << 31,
        uapi::WAIT + (8 << 16),
        uapi::BIND - (8 << 16),
        uapi::UNBIND + (8 << 16),
        0,
        u32::MAX,
    ] {
        device.refuses(number, &[0; 6], libc::ENOTTY)?;
    }
    let mut file = &device.file;
    fails("read()", file.read(&mut [0; 8]), libc::EINVAL)?;
    fails("write()", file.write(&[0; 8]), libc::EINVAL)?;
    device.request(uapi::UNBIND, &[])?;
    Ok(())
}

fn not_there(mode: Mode) -> Result {
    let device = Device::open_bound(mode)?;
    let memory = Area::new(2)?;
    memory.protect(1, 1, libc::PROT_NONE)?;
    // Nowhere, of the kernel, no address, and cut off after a word.
    let nowhere = [
        0,
        0xffff_8880_0000_0000,
        1 << 60,
        u64::MAX - 7,
        memory.address(1),
        memory.address(1) - 8,
    ];
    let unbound = Device::open()?;
    let before = attribute("bindings")?;
    for address in nowhere {
        let what = format!("an argument at {address:#x}");
        for number in [
            uapi::WAIT,
            uapi::STREAM,
            uapi::PIN,
            uapi::UNPIN,
            uapi::READ_REGISTER,
            uapi::WRITE_REGISTER,
        ] {
            fails(&what, device.request_at(number, address), libc::EFAULT)?;
        }
        fails(&what, unbound.request_at(uapi::BIND, address), libc::EFAULT)?;
        // Of one word, so that nothing can be cut off.
        if address != memory.address(1) - 8 {
            fails(
                &what,
                device.request_at(uapi::BUDGET, address),
                libc::EFAULT,
            )?;
        }
    }
    same("what is bound", attribute("bindings")?, before)?;

    // What can be read but not written: an error only if there is something to write.
    let words = unbound.bind(mode).to_words();
    for (offset, word) in (0..).step_by(8).zip(words) {
        memory.store(offset, word);
    }
    memory.protect(0, 1, libc::PROT_READ)?;
    unbound.request_at(uapi::BIND, memory.address(0))?;
    unbound.request(uapi::UNBIND, &[])?;
    memory.protect(0, 1, libc::PROT_READ | libc::PROT_WRITE)?;
    memory.store(0, register::IDENTITY);
    memory.store(8, 0);
    memory.protect(0, 1, libc::PROT_READ)?;
    fails(
        "a register to what cannot be written",
        device.request_at(uapi::READ_REGISTER, memory.address(0)),
        libc::EFAULT,
    )
}

fn without_a_queue(mode: Mode) -> Result {
    let device = Device::open()?;
    let without = |device: &Device| -> Result {
        device.refuses(uapi::UNBIND, &[], libc::ENXIO)?;
        device.refuses(uapi::WAIT, &[0, 0], libc::ENXIO)?;
        device.refuses(uapi::STREAM, &[0; Stream::WORDS], libc::ENXIO)?;
        let page = [device.ring.address(0), PAGE as u64];
        device.refuses(uapi::PIN, &page, libc::ENXIO)?;
        device.refuses(uapi::UNPIN, &page, libc::ENXIO)?;
        device.refuses(uapi::BUDGET, &page[1..], libc::ENXIO)?;
        let mapped = device.map(0, PAGE, libc::MAP_SHARED);
        fails("mmap()", mapped, libc::ENXIO)
    };
    without(&device)?;
    device.request(uapi::BIND, &device.bind(mode).to_words())?;
    device.map(0, PAGE, libc::MAP_SHARED)?;
    device.request(uapi::UNBIND, &[])?;
    without(&device)
}

fn bind(mode: Mode) -> Result {
    let device = Device::open()?;
    let good = device.bind(mode);
    let before = attribute("bindings")?;
    let [number, ring_log2, ring, completions] = good.to_words();
    let last = u64::MAX - (PAGE as u64 - 1);
    for words in [
        [Mode::ALL.len() as u64, ring_log2, ring, completions],
        [u64::MAX, ring_log2, ring, completions],
        [number | 1 << 32, ring_log2, ring, completions],
        [number, 0, ring, completions],
        [number, u64::from(RING_LOG2_MAX) + 1, ring, completions],
        [number, 32, ring, completions],
        [number, ring_log2 | 1 << 32, ring, completions],
        [number, u64::MAX, ring, completions],
        [number, ring_log2, ring + 1, completions],
        [number, ring_log2, ring + 32, completions],
        [number, ring_log2, u64::MAX, completions],
        [number, ring_log2 + 1, last, completions],
        [number, ring_log2, ring, completions + 1],
        [number, ring_log2, ring, completions + 16],
        [number, ring_log2 + 2, ring, last],
    ] {
        device.refuses(uapi::BIND, &words, libc::EINVAL)?;
    }
    same("what is bound", attribute("bindings")?, before.clone())?;

    device.request(uapi::BIND, &good.to_words())?;
    device.refuses(uapi::BIND, &good.to_words(), libc::EBUSY)?;
    device.request(uapi::UNBIND, &[])?;
    device.refuses(uapi::UNBIND, &[], libc::ENXIO)?;
    same("what is bound", attribute("bindings")?, before)?;
    device.request(uapi::BIND, &good.to_words())?;
    Ok(())
}

extern "C" fn ignore(_signal: libc::c_int) {}

fn wait(mode: Mode) -> Result {
    let device = Device::open_bound(mode)?;
    let longest = u64::from(Wait::TIMEOUT_MS_MAX);
    for timeout in [longest + 1, 1 << 32, u64::MAX] {
        device.refuses(uapi::WAIT, &[0, timeout], libc::EINVAL)?;
    }
    // As many interrupts as there were, and no more of them.
    let mut words = [0; Wait::WORDS];
    match device.request_at(uapi::WAIT, words.as_mut_ptr() as u64) {
        Err(error) if error.raw_os_error() == Some(libc::ETIMEDOUT) => {}
        other => other?,
    }
    let seen = words[0];
    device.refuses(uapi::WAIT, &[seen, 0], libc::ETIMEDOUT)?;
    device.refuses(uapi::WAIT, &[seen, 20], libc::ETIMEDOUT)?;

    // SAFETY: The handler does nothing; the timer goes on until it is noticed.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = ignore as extern "C" fn(libc::c_int) as usize;
        libc::sigaction(libc::SIGALRM, &action, std::ptr::null_mut());
        let every = libc::timeval {
            tv_sec: 0,
            tv_usec: 50_000,
        };
        let timer = libc::itimerval {
            it_interval: every,
            it_value: every,
        };
        libc::setitimer(libc::ITIMER_REAL, &timer, std::ptr::null_mut());
    }
    let interrupted = device.refuses(uapi::WAIT, &[seen, longest], libc::EINTR);
    // SAFETY: It ends the timer.
    unsafe { libc::setitimer(libc::ITIMER_REAL, &std::mem::zeroed(), std::ptr::null_mut()) };
    interrupted
}

fn stream(mode: Mode) -> Result {
    let device = Device::open_bound(mode)?;
    let good = [1, 64, 1000, 4096, 0];
    let with = |index: usize, word: u64| {
        let mut words: [u64; Stream::WORDS] = good;
        words[index] = word;
        words
    };
    for words in [
        with(0, 3),
        with(0, 1 << 32),
        with(1, 0),
        with(1, u64::from(FRAME_BYTES_MIN) - 8),
        with(1, u64::from(FRAME_BYTES_MIN) + 4),
        with(1, u64::from(FRAME_BYTES_MAX) + 8),
        with(1, 64 | 1 << 32),
        with(2, 0),
        with(2, 1000 | 1 << 32),
        with(3, 63),
        with(3, u64::from(STREAM_BUFFER_BYTES_MAX) + 1),
        with(3, 4096 | 1 << 32),
        with(4, 1 << 32),
    ] {
        device.refuses(uapi::STREAM, &words, libc::EINVAL)?;
    }
    device.request(uapi::STREAM, &good)?;
    device.request(uapi::STREAM, &with(0, 0))?;
    Ok(())
}

fn pin(mode: Mode) -> Result<Outcome> {
    const PAGES: usize = 4;
    let device = Device::open_bound(mode)?;
    let area = Area::new(PAGES)?;
    let page = PAGE as u64;
    let all = [area.address(0), PAGES as u64 * page];
    if mode != Mode::Pinned {
        device.refuses(uapi::PIN, &all, libc::EINVAL)?;
        device.refuses(uapi::UNPIN, &all, libc::ENOENT)?;
        return Ok(Outcome::Passed);
    }

    let before = attribute("statistics/pinned_pages")?;
    for words in [
        [all[0], 0],
        [all[0] + 1, page],
        [all[0], page - 1],
        [all[0], page + 8],
        [all[0], u64::MAX],
        [u64::MAX - (page - 1), 2 * page],
        [page, u64::MAX - (page - 1)],
        [u64::MAX, u64::MAX],
    ] {
        device.refuses(uapi::PIN, &words, libc::EINVAL)?;
        device.refuses(uapi::UNPIN, &words, libc::ENOENT)?;
    }
    // Above all processes.
    device.refuses(uapi::PIN, &[1 << 62, page], libc::EFAULT)?;
    // Half of it is not there, or not to be had.
    area.unmap(2, 1)?;
    device.refuses(uapi::PIN, &all, libc::EFAULT)?;
    area.reserve(2, 1)?;
    device.refuses(uapi::PIN, &all, libc::EFAULT)?;
    same(
        "pages",
        attribute("statistics/pinned_pages")?,
        before.clone(),
    )?;

    let two = [all[0], 2 * page];
    device.request(uapi::PIN, &two)?;
    device.refuses(uapi::PIN, &two, libc::EEXIST)?;
    device.refuses(uapi::PIN, &[all[0] + page, page], libc::EEXIST)?;
    device.refuses(uapi::UNPIN, &[all[0], page], libc::ENOENT)?;
    device.refuses(uapi::UNPIN, &[all[0] + page, page], libc::ENOENT)?;
    let other = fork(|| {
        let refused = device.refuses(uapi::PIN, &[all[0] + 3 * page, page], libc::EPERM);
        refused.is_ok()
    })?;
    expect(other.succeeds()?, "another process can pin for this one")?;
    device.request(uapi::UNPIN, &two)?;
    device.refuses(uapi::UNPIN, &two, libc::ENOENT)?;
    same("pages", attribute("statistics/pinned_pages")?, before)?;
    Ok(Outcome::Passed)
}

fn registers(mode: Mode) -> Result {
    let device = Device::open_bound(mode)?;
    // Not a word of them, behind them, and those of a queue.
    for offset in [1, 2, register::END, queue::block(0), 1 << 32, u64::MAX - 3] {
        device.refuses(uapi::READ_REGISTER, &[offset, 0], libc::EINVAL)?;
        device.refuses(uapi::WRITE_REGISTER, &[offset, 0], libc::EINVAL)?;
    }
    device.refuses(uapi::READ_REGISTER, &[register::IDENTITY, 1], libc::EINVAL)?;
    for value in [1 << 32, u64::MAX] {
        let words = [register::PROBE_DATA, value];
        device.refuses(uapi::WRITE_REGISTER, &words, libc::EINVAL)?;
    }
    Ok(())
}

fn doorbell_page(mode: Mode) -> Result {
    let device = Device::open_bound(mode)?;
    for (what, offset, bytes, flags) in [
        ("a copy", 0, PAGE, libc::MAP_PRIVATE),
        ("two pages", 0, 2 * PAGE, libc::MAP_SHARED),
        ("the page behind it", PAGE, PAGE, libc::MAP_SHARED),
        ("far behind it", 1 << 40, PAGE, libc::MAP_SHARED),
    ] {
        fails(what, device.map(offset, bytes, flags), libc::EINVAL)?;
    }
    device.map(0, PAGE, libc::MAP_SHARED)?;

    // Nobody else is any the worse for it.
    let mut consumer = consumer(mode)?;
    let area = crate::work::area(&consumer, mode, 1)?;
    fill(&mut consumer, area.address(0), PAGE, 1)?;
    expect(area.is_all(0..1, 1), "the memory is not filled")
}
