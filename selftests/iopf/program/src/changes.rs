// SPDX-License-Identifier: GPL-2.0

//! What a process, or the kernel, does with memory that the device works on at that time.
//!
//! Memory that can be mapped twice is seen through another mapping, the witness: it shows what the
//! device has written where the process itself cannot look any more.

use std::fs;
use std::io::Write;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread::{self, ScopedJoinHandle};

use svadma::abi::{Counter, Descriptor, Operation, Status};
use svadma::uapi::Mode;
use svadma::{Consumer, Error, Failed, Reason};

use crate::area::{memory_file, Area, PAGE};
use crate::case::{expect, passed, same, until, Case, Outcome, Result};
use crate::control::{iommu_capabilities, own_pasid};
use crate::memory::steady_state;
use crate::other_process::{fork, spawn, start, Role};
use crate::trace::Recording;
use crate::work::{area, consumer, fill, pin, refused};

/// All of them.
pub const CASES: [Case; 16] = [
    ("munmap()", |mode| passed(munmap(mode))),
    ("mremap()", |mode| passed(mremap(mode))),
    ("MADV_DONTNEED", |mode| passed(dont_need(mode))),
    ("pages far apart", far_apart),
    ("hole punched in a file", |mode| passed(punch(mode))),
    ("file cut off", |mode| passed(cut_off(mode))),
    ("fork()", |mode| passed(copy_on_write(mode))),
    ("exec()", |mode| passed(exec(mode))),
    ("SIGKILL", |mode| passed(kill(mode))),
    ("huge page split", split),
    ("hugetlb", |mode| huge(2, || hugetlb(mode))),
    ("hole punched in hugetlb", |mode| {
        huge(4, || hugetlb_punched(mode))
    }),
    ("pages merged", merged),
    ("pages migrated", |mode| passed(migrated(mode))),
    ("swapped out", swapped),
    ("swapped out and read", |mode| passed(swapped_content(mode))),
];

/// What the device writes in the end.
const LAST: u8 = 0xa5;

/// A device at work.
struct Work<'a> {
    rounds: &'a AtomicU64,
    thread: &'a ScopedJoinHandle<'a, std::result::Result<(), Error>>,
}

impl Work<'_> {
    /// Waits until so many operations were carried out that one of them has begun since, or until
    /// one has failed.
    fn go_on(&self) -> Result {
        let enough = self.rounds.load(SeqCst) + 2;
        until("the device goes on", || {
            Ok(self.rounds.load(SeqCst) >= enough || self.thread.is_finished())
        })
    }

    /// Waits until an operation has failed.
    fn end(&self) -> Result {
        until("the device is refused", || Ok(self.thread.is_finished()))
    }
}

/// Has the device fill pages again and again, with another byte each time, while `change` is done.
/// Returns how the device has failed, if it has.
fn in_flight(
    consumer: &mut Consumer,
    address: u64,
    pages: usize,
    change: impl FnOnce(&Work<'_>) -> Result,
) -> Result<std::result::Result<(), Error>> {
    let (enough, rounds) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            for byte in (1..=0x80).cycle() {
                if enough.load(SeqCst) {
                    break;
                }
                fill(consumer, address, pages * PAGE, byte)?;
                rounds.fetch_add(1, SeqCst);
            }
            Ok(())
        });
        let work = Work {
            rounds: &rounds,
            thread: &thread,
        };
        let changed = work.go_on().and_then(|()| change(&work));
        enough.store(true, SeqCst);
        let ended = thread.join().map_err(|_| "the thread has panicked")?;
        changed.map(|()| ended)
    })
}

/// # Errors
///
/// The device was not refused at one of some pages.
fn refused_within(
    found: std::result::Result<(), Error>,
    area: &Area,
    pages: Range<usize>,
) -> Result {
    let addresses = area.address(pages.start)..area.address(pages.end);
    match found {
        Err(Error::Failed(Failed {
            reason:
                Reason::Fault {
                    status: Status::FaultInvalid,
                    address,
                },
            ..
        })) if addresses.contains(&address) => Ok(()),
        other => Err(format!("it should have failed within {addresses:x?}: {other:?}").into()),
    }
}

/// A file in memory, mapped for the device, and the witness. What a case unmaps for the device, this process
/// may not have filled with something else before the case ends. The flags are those of `memfd_create()`.
fn shared(
    consumer: &Consumer,
    mode: Mode,
    pages: usize,
    flags: libc::c_uint,
) -> Result<(fs::File, Area, Area)> {
    let file = memory_file(pages * PAGE, flags)?;
    let area = Area::of_file_apart(&file, pages)?;
    let witness = Area::of_file(&file, pages)?;
    if mode == Mode::Pinned {
        pin(consumer, &area, pages)?;
    }
    Ok((file, area, witness))
}

/// What the device finds where `gone` is not any more: nothing, unless it is pinned.
fn gone(
    mode: Mode,
    consumer: &mut Consumer,
    area: &Area,
    gone: Range<usize>,
    witness: &Area,
    remove: impl FnOnce() -> Result,
) -> Result {
    const PAGES: usize = 64;
    let all = PAGES * PAGE;
    let ended = in_flight(consumer, area.address(0), PAGES, |work| {
        remove()?;
        if mode == Mode::Pinned {
            return work.go_on();
        }
        witness.set(gone.clone(), 0xee);
        work.end()
    })?;
    if mode == Mode::Pinned {
        ended?;
        fill(consumer, area.address(0), all, LAST)?;
        expect(
            witness.is_all(0..PAGES, LAST),
            "what is pinned is not written",
        )?;
        consumer.unpin(area.address(0), all as u64)?;
        witness.set(0..PAGES, 0xee);
        let found = fill(consumer, area.address(0), all, 1);
        refused(found, area.address(0), 0)?;
        return expect(
            witness.is_all(0..PAGES, 0xee),
            "what is unpinned is written",
        );
    }
    refused_within(ended, area, gone.clone())?;
    let found = fill(consumer, area.address(0), all, LAST);
    refused(found, area.address(gone.start), gone.start * PAGE)?;
    let left = witness.is_all(0..gone.start, LAST);
    expect(left, "what is left is not written")?;
    expect(witness.is_all(gone, 0xee), "what is gone was written")
}

fn munmap(mode: Mode) -> Result {
    let mut consumer = consumer(mode)?;
    let (_file, area, witness) = shared(&consumer, mode, 64, 0)?;
    gone(mode, &mut consumer, &area, 16..48, &witness, || {
        Ok(area.unmap(16, 32)?)
    })?;
    Ok(area.reserve(16, 32)?)
}

fn mremap(mode: Mode) -> Result {
    let mut consumer = consumer(mode)?;
    let (_file, area, witness) = shared(&consumer, mode, 64, 0)?;
    let to = Area::new(64)?;
    gone(mode, &mut consumer, &area, 0..64, &witness, || {
        Ok(area.move_to(&to, 64)?)
    })?;
    area.reserve(0, 64)?;
    if mode == Mode::Pinned {
        pin(&consumer, &to, 64)?;
    }
    fill(&mut consumer, to.address(0), 64 * PAGE, 7)?;
    expect(to.is_all(0..64, 7), "it is not written where it is now")?;
    expect(witness.is_all(0..64, 7), "other memory is written")
}

fn dont_need(mode: Mode) -> Result {
    const PAGES: usize = 64;
    let mut consumer = consumer(mode)?;
    let area = area(&consumer, mode, PAGES)?;
    let address = area.address(0);
    in_flight(&mut consumer, address, PAGES, |work| {
        for _ in 0..32 {
            area.advise(0, PAGES, libc::MADV_DONTNEED)?;
            area.advise(8, 1, libc::MADV_DONTNEED)?;
        }
        work.go_on()
    })??;
    fill(&mut consumer, address, PAGES * PAGE, LAST)?;
    // What is pinned are the pages that the process had.
    let found = if mode == Mode::Pinned { 0 } else { LAST };
    expect(area.is_all(0..PAGES, found), "it finds other memory")
}

/// What VT-d's driver asks its IOMMU for at once: a PASID-based IOTLB invalidation (6.5.2.4).
struct Invalidation {
    pasid: u32,
    /// Binary logarithm of the pages, unless it is all of them.
    pages_log2: Option<u64>,
}

impl Invalidation {
    /// From a line of the event `qi_submit`, if it is one.
    fn parse(line: &str) -> Option<Self> {
        const SELECTIVE: u64 = 3;
        let (_, words) = line.split_once(" p_iotlb_inv ")?;
        let (_, words) = words.split_once(": ")?;
        let mut words = words.split_whitespace().map(|word| {
            let digits = word.strip_prefix("0x")?;
            u64::from_str_radix(digits, 16).ok()
        });
        let (low, high) = (words.next()??, words.next()??);
        Some(Self {
            pasid: (low >> 32) as u32 & 0xf_ffff,
            pages_log2: (low >> 4 & 3 == SELECTIVE).then_some(high & 0x3f),
        })
    }
}

/// Pages on both sides of a multiple of a gigabyte are taken at once: as one block, they would be more
/// than an IOMMU has to take, and what it does not take, does not happen.
fn far_apart(mode: Mode) -> Result<Outcome> {
    const GIGABYTE: usize = 1 << 30;
    if mode == Mode::Sva {
        return Ok(Outcome::Skipped("the kernel itself invalidates".into()));
    }
    let most = iommu_capabilities()? >> 48 & 0x3f;
    let mut consumer = consumer(mode)?;
    let file = memory_file(2 * GIGABYTE, 0)?;
    let area = Area::of_file(&file, 2 * GIGABYTE / PAGE)?;
    let start = area.address(0) as usize;
    let before = ((start + PAGE).next_multiple_of(GIGABYTE) - start) / PAGE - 1;
    let (address, bytes) = (area.address(before), 2 * PAGE as u64);
    if mode == Mode::Pinned {
        consumer.pin(address, bytes)?;
    }
    fill(&mut consumer, address, 2 * PAGE, 1)?;

    let recording = Recording::start("intel_iommu/qi_submit")?;
    match mode {
        Mode::Pinned => consumer.unpin(address, bytes)?,
        _ => area.advise(before, 2, libc::MADV_DONTNEED)?,
    }
    let lines = recording.end()?;

    let own = own_pasid()?;
    let invalidations = lines.iter().filter_map(|line| Invalidation::parse(line));
    let own: Vec<_> = invalidations.filter(|it| it.pasid == own).collect();
    expect(!own.is_empty(), "there is no invalidation")?;
    for pages_log2 in own.iter().filter_map(|it| it.pages_log2) {
        expect(
            pages_log2 <= most,
            format_args!("2^{pages_log2} pages are more than 2^{most}"),
        )?;
    }
    let groups = consumer.count(Counter::PageGroups);
    let found = fill(&mut consumer, address, 2 * PAGE, 2);
    match mode {
        Mode::Pinned => refused(found, address, 0)?,
        _ => {
            found?;
            let asked = consumer.count(Counter::PageGroups) > groups;
            expect(asked, "the device has kept a translation")?;
        }
    }
    Ok(Outcome::Passed)
}

/// Takes pages out of a file of areas.
fn punch_hole(file: &fs::File, pages: Range<usize>) -> Result {
    let how = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    let (start, bytes) = (pages.start * PAGE, pages.len() * PAGE);
    // SAFETY: Nothing of the language is in such a file.
    let result = unsafe { libc::fallocate(file.as_raw_fd(), how, start as i64, bytes as i64) };
    same("the result of fallocate()", result, 0)
}

fn punch(mode: Mode) -> Result {
    const PAGES: usize = 64;
    let mut consumer = consumer(mode)?;
    let (file, area, witness) = shared(&consumer, mode, PAGES, 0)?;
    let address = area.address(0);
    in_flight(&mut consumer, address, PAGES, |work| {
        for _ in 0..32 {
            punch_hole(&file, 0..PAGES)?;
            punch_hole(&file, 8..9)?;
        }
        work.go_on()
    })??;
    punch_hole(&file, 0..PAGES)?;
    expect(witness.is_all(0..PAGES, 0), "the hole is not empty")?;
    fill(&mut consumer, area.address(8), PAGE, LAST)?;
    let found = if mode == Mode::Pinned { 0 } else { LAST };
    expect(witness.is_all(8..9, found), "it finds other memory")?;
    expect(area.is_all(8..9, found), "the process sees other memory")?;
    let others = witness.is_all(0..8, 0) && witness.is_all(9..PAGES, 0);
    expect(others, "the rest of the hole is not empty")
}

/// The device goes no further than a file, wherever that ends.
fn cut_off(mode: Mode) -> Result {
    const PAGES: usize = 64;
    const LEFT: usize = 24;
    let mut consumer = consumer(mode)?;
    let file = memory_file(PAGES * PAGE, 0)?;
    let beyond = Area::of_file(&file, PAGES + 8)?;
    let address = beyond.address(0);
    if mode == Mode::Pinned {
        let all = ((PAGES + 8) * PAGE) as u64;
        crate::case::errno(consumer.pin(address, all), libc::EFAULT)?;
        pin(&consumer, &beyond, PAGES)?;
    }
    let found = fill(&mut consumer, address, (PAGES + 1) * PAGE, 3);
    refused(found, beyond.address(PAGES), PAGES * PAGE)?;
    expect(beyond.is_all(0..PAGES, 3), "the file is not filled")?;

    let ended = in_flight(&mut consumer, address, PAGES, |work| {
        file.set_len((LEFT * PAGE) as u64)?;
        match mode {
            Mode::Pinned => work.go_on(),
            _ => work.end(),
        }
    })?;
    match mode {
        Mode::Pinned => ended?,
        _ => refused_within(ended, &beyond, LEFT..PAGES)?,
    }
    file.set_len((PAGES * PAGE) as u64)?;
    expect(beyond.is_all(LEFT..PAGES, 0), "what was cut off is there")?;
    fill(&mut consumer, address, PAGES * PAGE, LAST)?;
    let again = if mode == Mode::Pinned { 0 } else { LAST };
    expect(beyond.is_all(0..LEFT, LAST), "what is left is not written")?;
    expect(
        beyond.is_all(LEFT..PAGES, again),
        "what has come again is other memory",
    )
}

/// A copy of the process keeps what it got, whatever the device writes for the first one.
fn copy_on_write(mode: Mode) -> Result {
    const PAGES: usize = 64;
    let mut consumer = consumer(mode)?;
    let area = area(&consumer, mode, PAGES)?;
    let address = area.address(0);
    in_flight(&mut consumer, address, PAGES, |work| {
        for _ in 0..6 {
            let mut pipe = [0; 2];
            // SAFETY: There is room for two descriptors.
            let made = unsafe { libc::pipe(pipe.as_mut_ptr()) };
            same("the result of pipe()", made, 0)?;
            let [reader, writer] = pipe;
            let copy = fork(|| {
                let before = area.sum(0..PAGES);
                // SAFETY: Nothing is read but the end of the pipe, when the other side has closed it.
                unsafe {
                    libc::close(writer);
                    libc::read(reader, [0_u8; 1].as_mut_ptr().cast(), 1);
                }
                area.sum(0..PAGES) == before
            })?;
            let gone_on = work.go_on();
            // SAFETY: They are this function's own.
            unsafe {
                libc::close(writer);
                libc::close(reader);
            }
            expect(copy.succeeds()?, "the memory of the copy was written")?;
            gone_on?;
        }
        Ok(())
    })??;
    fill(&mut consumer, address, PAGES * PAGE, LAST)?;
    expect(area.is_all(0..PAGES, LAST), "it finds other memory")
}

fn exec(mode: Mode) -> Result {
    for _ in 0..3 {
        let status = spawn(mode, Role::Exec)?;
        expect(status.success(), "the other process has failed")?;
        // Its PASID may be used again at once.
        steady_state(mode)?;
    }
    Ok(())
}

fn kill(mode: Mode) -> Result {
    for _ in 0..3 {
        let mut child = start(mode, Role::Work)?;
        child.kill()?;
        same("the signal", child.wait()?.signal(), Some(libc::SIGKILL))?;
        steady_state(mode)?;
    }
    Ok(())
}

/// Bytes of a huge page.
const HUGE: usize = 2 << 20;

/// Kilobytes that `/proc/self/smaps` shows as `what` for the mapping that starts at an address.
fn smaps(address: u64, what: &str) -> Result<u64> {
    let text = fs::read_to_string("/proc/self/smaps")?;
    let start = format!("{address:x}-");
    let mut lines = text.lines().skip_while(|line| !line.starts_with(&start));
    let line = lines.find(|line| line.starts_with(what));
    let number = line.and_then(|line| line.split_whitespace().nth(1));
    Ok(number.ok_or("no such mapping")?.parse()?)
}

fn split(mode: Mode) -> Result<Outcome> {
    const PAGES: usize = HUGE / PAGE;
    let mut consumer = consumer(mode)?;
    let area = Area::aligned(PAGES)?;
    let address = area.address(0);
    area.advise(0, PAGES, libc::MADV_HUGEPAGE)?;
    area.set(0..1, 1);
    if smaps(address, "AnonHugePages:")? != HUGE as u64 / 1024 {
        return Ok(Outcome::Skipped("there is no huge page".into()));
    }
    if mode == Mode::Pinned {
        pin(&consumer, &area, PAGES)?;
    }
    fill(&mut consumer, address, HUGE, 9)?;
    expect(area.is_all(0..PAGES, 9), "the huge page is not filled")?;
    same(
        "huge kilobytes",
        smaps(address, "AnonHugePages:")?,
        HUGE as u64 / 1024,
    )?;
    in_flight(&mut consumer, address, PAGES, |work| {
        area.advise(100, 3, libc::MADV_DONTNEED)?;
        work.go_on()?;
        area.protect(200, 1, libc::PROT_READ)?;
        area.protect(200, 1, libc::PROT_READ | libc::PROT_WRITE)?;
        Ok(())
    })?
    .or_else(|error| match error {
        // It has come when the page could only be read.
        Error::Failed(failed) if mode != Mode::Pinned => {
            refused_within(Err(failed.into()), &area, 200..201)
        }
        error => Err(error.into()),
    })?;
    fill(&mut consumer, address, HUGE, LAST)?;
    let found = if mode == Mode::Pinned { 0 } else { LAST };
    expect(area.is_all(100..103, found), "it finds other memory")?;
    let others = area.is_all(0..100, LAST) && area.is_all(103..PAGES, LAST);
    expect(others, "the rest of the huge page is other memory")?;

    area.unmap(300, 100)?;
    let found = fill(&mut consumer, address, HUGE, 1);
    if mode == Mode::Pinned {
        found?;
    } else {
        refused(found, area.address(300), 300 * PAGE)?;
    }
    expect(area.is_all(0..100, 1), "what is left is other memory")?;
    Ok(Outcome::Passed)
}

/// Does a case with so many huge pages that are there for files alone.
fn huge(number: usize, case: impl FnOnce() -> Result) -> Result<Outcome> {
    const NUMBER: &str = "/proc/sys/vm/nr_hugepages";
    fs::write(NUMBER, number.to_string())?;
    if fs::read_to_string(NUMBER)?.trim() != number.to_string() {
        return Ok(Outcome::Skipped("there are no huge pages to be had".into()));
    }
    let result = case();
    fs::write(NUMBER, "0")?;
    passed(result)
}

fn hugetlb(mode: Mode) -> Result {
    const PAGES: usize = HUGE / PAGE;
    let mut consumer = consumer(mode)?;
    let (_file, area, _) = shared(&consumer, mode, PAGES, libc::MFD_HUGETLB)?;
    let address = area.address(0);
    in_flight(&mut consumer, address, PAGES, |work| {
        for _ in 0..8 {
            area.advise(0, PAGES, libc::MADV_DONTNEED)?;
        }
        work.go_on()
    })??;
    fill(&mut consumer, address, HUGE, LAST)?;
    expect(area.is_all(0..PAGES, LAST), "the page is not filled")
}

/// The first of two huge pages is taken out of their file. What is pinned was the one that is gone.
fn hugetlb_punched(mode: Mode) -> Result {
    const PAGES: usize = HUGE / PAGE;
    let mut consumer = consumer(mode)?;
    let (file, area, witness) = shared(&consumer, mode, 2 * PAGES, libc::MFD_HUGETLB)?;
    let address = area.address(0);
    in_flight(&mut consumer, address, 2 * PAGES, |work| {
        for _ in 0..8 {
            punch_hole(&file, 0..PAGES)?;
        }
        work.go_on()
    })??;
    fill(&mut consumer, address, 2 * HUGE, LAST)?;
    punch_hole(&file, 0..PAGES)?;
    expect(witness.is_all(0..PAGES, 0), "the hole is not empty")?;
    fill(&mut consumer, area.address(8), PAGE, 7)?;
    let found = if mode == Mode::Pinned { 0 } else { 7 };
    expect(witness.is_all(8..9, found), "it finds other memory")?;
    let others = witness.is_all(0..8, 0) && witness.is_all(9..PAGES, 0);
    expect(others, "the rest of the hole is not empty")?;
    let left = witness.is_all(PAGES..2 * PAGES, LAST);
    expect(left, "what is left is not written")
}

/// Pages that look alike become one, and two again when the device writes to one of them. What is pinned
/// stays what it is.
fn merged(mode: Mode) -> Result<Outcome> {
    const PAGES: usize = 32;
    const KSM: &str = "/sys/kernel/mm/ksm";
    if !fs::exists(KSM)? {
        return Ok(Outcome::Skipped("the kernel merges no pages".into()));
    }
    let mut consumer = consumer(mode)?;
    let (area, twin) = (area(&consumer, mode, PAGES)?, area(&consumer, mode, PAGES)?);
    for memory in [&area, &twin] {
        fill(&mut consumer, memory.address(0), PAGES * PAGE, 0x3c)?;
        memory.advise(0, PAGES, libc::MADV_MERGEABLE)?;
    }
    for (name, value) in [
        ("sleep_millisecs", "1"),
        ("pages_to_scan", "2000"),
        ("run", "1"),
    ] {
        fs::write(format!("{KSM}/{name}"), value)?;
    }
    let merging = || -> Result<u64> {
        let number = fs::read_to_string("/proc/self/ksm_merging_pages")?;
        Ok(number.trim().parse()?)
    };
    let scans = || -> Result<u64> {
        let number = fs::read_to_string(format!("{KSM}/full_scans"))?;
        Ok(number.trim().parse()?)
    };
    let before = scans()?;
    let merged = match mode {
        // It looks at each page twice before it does anything.
        Mode::Pinned => until("the pages are looked at", || Ok(scans()? > before + 3))
            .and_then(|()| same("pages merged though pinned", merging()?, 0)),
        _ => until("the pages are merged", || Ok(merging()? > PAGES as u64)),
    };
    let result = merged.and_then(|()| {
        println!("# {} pages are merged", merging()?);
        fill(&mut consumer, area.address(0), PAGES * PAGE, LAST)?;
        expect(area.is_all(0..PAGES, LAST), "it is not written")?;
        expect(twin.is_all(0..PAGES, 0x3c), "the twin is written")
    });
    fs::write(format!("{KSM}/run"), "2")?;
    passed(result)
}

/// What the kernel says of a page: the bits of `/proc/self/pagemap`.
fn page_map(address: u64) -> Result<u64> {
    let mut entry = [0; 8];
    let file = fs::File::open("/proc/self/pagemap")?;
    file.read_exact_at(&mut entry, address / PAGE as u64 * 8)?;
    Ok(u64::from_le_bytes(entry))
}

/// Bit of [`page_map`]: it is swapped out.
const SWAPPED: u64 = 1 << 62;

/// Where a page is in memory.
fn frame(address: u64) -> Result<u64> {
    Ok(page_map(address)? & ((1 << 55) - 1))
}

/// The kernel puts pages elsewhere in memory, and their places out of use. What is pinned stays.
fn migrated(mode: Mode) -> Result {
    const PAGES: usize = 64;
    const MOVED: [usize; 4] = [0, 7, 31, 63];
    const MADV_SOFT_OFFLINE: libc::c_int = 101;
    let mut consumer = consumer(mode)?;
    let area = area(&consumer, mode, PAGES)?;
    let address = area.address(0);
    fill(&mut consumer, address, PAGES * PAGE, 1)?;
    in_flight(&mut consumer, address, PAGES, |work| {
        fs::OpenOptions::new()
            .write(true)
            .open("/proc/sys/vm/compact_memory")?
            .write_all(b"1")?;
        for page in MOVED {
            let before = frame(area.address(page))?;
            if mode == Mode::Pinned {
                let moved = area.advise(page, 1, MADV_SOFT_OFFLINE);
                expect(moved.is_err(), "a pinned page is given up")?;
                same("its place", frame(area.address(page))?, before)?;
                continue;
            }
            // It may be in use for a moment.
            until("the page is moved", || {
                let moved = area.advise(page, 1, MADV_SOFT_OFFLINE);
                Ok(moved.is_ok() && frame(area.address(page))? != before)
            })?;
        }
        work.go_on()
    })??;
    fill(&mut consumer, address, PAGES * PAGE, LAST)?;
    expect(area.is_all(0..PAGES, LAST), "it finds other memory")
}

/// Has pages swapped out, and returns how many are.
fn swap_out(area: &Area, pages: usize) -> Result<usize> {
    area.advise(0, pages, libc::MADV_PAGEOUT)?;
    let mut swapped = 0;
    for page in 0..pages {
        swapped += usize::from(page_map(area.address(page))? & SWAPPED != 0);
    }
    Ok(swapped)
}

/// Whether there is anywhere to swap to.
fn can_swap() -> Result<bool> {
    Ok(fs::read_to_string("/proc/swaps")?.lines().count() > 1)
}

fn swapped(mode: Mode) -> Result<Outcome> {
    const PAGES: usize = 64;
    if !can_swap()? {
        return Ok(Outcome::Skipped("there is nowhere to swap to".into()));
    }
    let mut consumer = consumer(mode)?;
    let area = area(&consumer, mode, PAGES)?;
    let address = area.address(0);
    let mut swapped = 0;
    in_flight(&mut consumer, address, PAGES, |work| {
        for _ in 0..8 {
            swapped += swap_out(&area, PAGES)?;
            work.go_on()?;
        }
        Ok(())
    })??;
    println!("# swapped out {swapped} pages under the device");
    fill(&mut consumer, address, PAGES * PAGE, LAST)?;
    expect(area.is_all(0..PAGES, LAST), "it finds other memory")?;
    if mode == Mode::Pinned {
        same("pinned pages that were swapped out", swapped, 0)?;
    }
    Ok(Outcome::Passed)
}

/// What comes back is what went.
fn swapped_content(mode: Mode) -> Result {
    const PAGES: usize = 32;
    let mut consumer = consumer(mode)?;
    let (area, to) = (Area::new(PAGES)?, Area::new(PAGES)?);
    for page in 0..PAGES {
        area.set(page..page + 1, page as u8 + 1);
    }
    if can_swap()? {
        until("most pages are swapped out", || {
            Ok(swap_out(&area, PAGES)? > PAGES / 2)
        })?;
    }
    if mode == Mode::Pinned {
        pin(&consumer, &area, PAGES)?;
        pin(&consumer, &to, PAGES)?;
    }
    let copy = Descriptor {
        operation: Operation::Copy.number(),
        source: area.address(0),
        destination: to.address(0),
        length: (PAGES * PAGE) as u64,
        ..Descriptor::default()
    };
    // SAFETY: Both are areas.
    unsafe { consumer.carry_out(copy) }?;
    for page in 0..PAGES {
        let content = page as u8 + 1;
        expect(
            to.is_all(page..page + 1, content),
            format_args!("page {page}"),
        )?;
    }
    Ok(())
}
