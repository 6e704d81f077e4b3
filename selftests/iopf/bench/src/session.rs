// SPDX-License-Identifier: GPL-2.0

//! A program at work with the device: it submits, sleeps until an interrupt comes, and knows what has
//! happened meanwhile.

use std::collections::VecDeque;
use std::fs;
use std::time::{self, Instant};

use svadma::abi::{register, Counter, Descriptor, Operation, PAGE_BYTES, PAGE_RESPONSE_TIMEOUT_MS};
use svadma::area::{memory_file, Area, PAGE};
use svadma::uapi::Mode;
use svadma::{sysfs, Consumer, Error, Ticket};

use crate::Result;

/// The modes, by their names in sysfs.
pub const MODES: [(&str, Mode); 3] = [
    ("sva", Mode::Sva),
    ("mirror", Mode::Mirror),
    ("pinned", Mode::Pinned),
];

/// Binary logarithm of the descriptors of a ring: those and their completions are in two pages.
const RING_LOG2: u32 = 6;

/// Requests that are submitted before the first of them is waited for.
const BATCH: usize = 32;

/// A consumer.
pub struct Session {
    consumer: Consumer,
    mode: Mode,
    /// Interrupts that were noticed.
    seen: u64,
    /// Requests submitted.
    submitted: u64,
    waiting: VecDeque<Ticket>,
    /// Pages accessed by what was submitted, while they are written down.
    trace: Option<Vec<u64>>,
}

impl Session {
    /// Binds this process, and has its ring used, so that only other memory is left to fault.
    ///
    /// # Errors
    ///
    /// Those of [`Consumer::open`].
    pub fn open(mode: Mode) -> Result<Self> {
        let consumer = Consumer::open(mode, RING_LOG2)?;
        let seen = match consumer.wait_for_interrupt(0, 0) {
            Err(Error::Request(_, error)) if error.raw_os_error() == Some(libc::ETIMEDOUT) => 0,
            seen => seen?,
        };
        let mut session = Self {
            consumer,
            mode,
            seen,
            submitted: 0,
            waiting: VecDeque::new(),
            trace: None,
        };
        session.carry_out(Descriptor::default())?;
        Ok(session)
    }

    /// The consumer.
    pub fn consumer(&self) -> &Consumer {
        &self.consumer
    }

    /// Memory that nobody has touched, registered if the mode wants that.
    ///
    /// # Errors
    ///
    /// It cannot be had, or not be pinned.
    pub fn area(&self, pages: usize) -> Result<Area> {
        let area = Area::new(pages)?;
        self.register(&area, pages)?;
        Ok(area)
    }

    /// A file in memory, mapped, registered if the mode wants that.
    ///
    /// # Errors
    ///
    /// Those of [`Session::area`].
    pub fn file(&self, pages: usize) -> Result<Area> {
        let area = Area::of_file(&memory_file(pages * PAGE, 0)?, pages)?;
        self.register(&area, pages)?;
        Ok(area)
    }

    /// Has the device use the first pages of memory, if they have to be pinned for that.
    ///
    /// # Errors
    ///
    /// They cannot be pinned.
    pub fn register(&self, area: &Area, pages: usize) -> Result {
        if self.mode == Mode::Pinned {
            self.consumer.pin(area.address(0), (pages * PAGE) as u64)?;
        }
        Ok(())
    }

    /// Submits a request, which is about areas and about no object of the language. Every so often
    /// that waits for those before.
    ///
    /// # Errors
    ///
    /// A request has failed.
    pub fn submit(&mut self, descriptor: Descriptor) -> Result {
        let last = self.waiting.len() + 1 == BATCH;
        self.push(descriptor, last)?;
        if last {
            self.drain()?;
        }
        Ok(())
    }

    /// Waits for all that was submitted.
    ///
    /// # Errors
    ///
    /// A request has failed.
    pub fn finish(&mut self) -> Result {
        if self.waiting.is_empty() {
            return Ok(());
        }
        self.push(Descriptor::default(), true)?;
        self.drain()
    }

    /// Submits a request, as [`Session::submit`] does, and waits for it.
    ///
    /// # Errors
    ///
    /// It has failed.
    pub fn carry_out(&mut self, descriptor: Descriptor) -> Result {
        self.push(descriptor, true)?;
        self.drain()
    }

    fn push(&mut self, descriptor: Descriptor, interrupt: bool) -> Result {
        if let Some(trace) = &mut self.trace {
            trace.extend(pages_of(&descriptor));
        }
        let flags = if interrupt { Descriptor::INTERRUPT } else { 0 };
        // SAFETY: By what `submit` says, no reference is to this memory.
        let ticket = unsafe {
            self.consumer.submit(Descriptor {
                flags,
                ..descriptor
            })
        }?;
        self.submitted += 1;
        self.waiting.push_back(ticket);
        Ok(())
    }

    /// Waits for all that was submitted, the last of which raises an interrupt.
    fn drain(&mut self) -> Result {
        while self.consumer.count(Counter::Descriptors) < self.submitted {
            self.sleep(Consumer::PATIENCE)?;
        }
        while let Some(ticket) = self.waiting.pop_front() {
            self.consumer.wait(ticket)?;
        }
        Ok(())
    }

    /// Sleeps until an interrupt has come that was not noticed yet. Returns whether one has.
    ///
    /// # Errors
    ///
    /// The device is gone.
    pub fn sleep(&mut self, patience: time::Duration) -> Result<bool> {
        let timeout_ms = u32::try_from(patience.as_millis())?;
        match self.consumer.wait_for_interrupt(self.seen, timeout_ms) {
            Ok(seen) => {
                self.seen = seen;
                Ok(true)
            }
            Err(Error::Request(_, error)) if error.raw_os_error() == Some(libc::ETIMEDOUT) => {
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The consumer, for requests that are not waited for in batches.
    pub fn consumer_mut(&mut self) -> &mut Consumer {
        &mut self.consumer
    }

    /// Writes down the pages that `act` has the device access, in order.
    ///
    /// # Errors
    ///
    /// Those of `act`.
    pub fn traced(&mut self, act: impl FnOnce(&mut Self) -> Result) -> Result<Vec<u64>> {
        self.trace = Some(Vec::new());
        let result = act(self);
        let trace = self.trace.take().unwrap_or_default();
        result.map(|()| trace)
    }

    /// What a counter of the device as a whole stands at.
    ///
    /// # Errors
    ///
    /// The device is gone.
    pub fn device_count(&self, counter: Counter) -> Result<u64> {
        let at = register::COUNTERS + 8 * u64::from(counter.number());
        let low = self.consumer.read_register(at)?;
        Ok(self.consumer.read_register(at + 4)? << 32 | low)
    }
}

/// The pages that the device accesses for a request, in order. Those of lists are not looked at.
pub fn pages_of(descriptor: &Descriptor) -> Vec<u64> {
    let (source, destination) = match Operation::from_number(descriptor.operation) {
        Some(Operation::Copy) => (true, true),
        Some(Operation::Checksum) => (true, false),
        Some(Operation::Fill | Operation::Receive) => (false, true),
        _ => (false, false),
    };
    let mut pages = Vec::new();
    let mut done = 0;
    while (source || destination) && done < descriptor.length {
        let mut piece = (descriptor.length - done).min(PAGE_BYTES);
        for (used, address) in [
            (source, descriptor.source),
            (destination, descriptor.destination),
        ] {
            if used {
                piece = piece.min(PAGE_BYTES - (address + done) % PAGE_BYTES);
                pages.push((address + done) / PAGE_BYTES);
            }
        }
        done += piece;
    }
    pages
}

/// A request to fill memory.
pub fn fill(address: u64, length: usize) -> Descriptor {
    Descriptor {
        operation: Operation::Fill.number(),
        destination: address,
        length: length as u64,
        pattern: 0x5a5a_5a5a_5a5a_5a5a,
        ..Descriptor::default()
    }
}

/// A request to copy memory.
pub fn copy(from: u64, to: u64, length: usize) -> Descriptor {
    Descriptor {
        operation: Operation::Copy.number(),
        source: from,
        destination: to,
        length: length as u64,
        ..Descriptor::default()
    }
}

/// How long something takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Duration {
    /// In all.
    pub elapsed_ns: u64,
    /// While a CPU had something to run.
    pub busy_ns: u64,
}

impl Duration {
    /// What parts of equal work take together, if the middle one stands for each. A host that has other
    /// things to do leaves the guest idle meanwhile, for which time jumps, so that its timers expire:
    /// that makes some parts longer, and says nothing about the work.
    pub fn of_equal(parts: &[Self]) -> Self {
        let (middle, count) = (Self::middle(parts), parts.len() as u64);
        Self {
            elapsed_ns: middle.elapsed_ns * count,
            busy_ns: middle.busy_ns * count,
        }
    }

    /// The middle one of parts of equal work: see [`Self::of_equal`].
    pub fn middle(parts: &[Self]) -> Self {
        let middle = |of: fn(&Self) -> u64| {
            let mut values: Vec<u64> = parts.iter().map(of).collect();
            values.sort_unstable();
            values.get(values.len() / 2).copied().unwrap_or(0)
        };
        Self {
            elapsed_ns: middle(|part| part.elapsed_ns),
            busy_ns: middle(|part| part.busy_ns),
        }
    }
}

/// Takes the time of `act`.
///
/// # Errors
///
/// Those of `act`.
pub fn timed(act: impl FnOnce() -> Result) -> Result<Duration> {
    let busy = busy_ns()?;
    let started = Instant::now();
    act()?;
    let elapsed_ns = u64::try_from(started.elapsed().as_nanos())?;
    Ok(Duration {
        elapsed_ns,
        busy_ns: busy_ns()?.saturating_sub(busy),
    })
}

/// For how long the CPUs have run anything. Where time is the number of instructions that is the number
/// of those of everybody, but for the first steps of interrupts of a CPU that had nothing to do: such a
/// CPU makes time jump, so that what has passed by the clock means little.
fn busy_ns() -> Result<u64> {
    // What is running is counted when it stops.
    std::thread::sleep(time::Duration::from_micros(1));
    busy_of(&fs::read_to_string("/proc/schedstat")?)
}

/// The same, from the text of `/proc/schedstat`: the seventh number of each CPU.
fn busy_of(schedstat: &str) -> Result<u64> {
    let mut cpus = schedstat
        .lines()
        .filter(|line| line.starts_with("cpu"))
        .peekable();
    cpus.peek().ok_or("no CPU in schedstat")?;
    cpus.map(|line| {
        let word = line.split_whitespace().nth(7);
        Ok(word
            .ok_or("a CPU without times in schedstat")?
            .parse::<u64>()?)
    })
    .sum()
}

/// A number of the device's statistics.
///
/// # Errors
///
/// There is none of that name.
pub fn statistic(name: &str) -> Result<u64> {
    Ok(sysfs::attribute(&format!("statistics/{name}"))?
        .trim()
        .parse()?)
}

/// What the memory of this process takes, in pages.
///
/// # Errors
///
/// The kernel does not say.
pub fn resident_pages() -> Result<u64> {
    let rollup = fs::read_to_string("/proc/self/smaps_rollup")?;
    let kib = rollup.lines().find_map(|line| {
        let number = line.strip_prefix("Rss:")?.strip_suffix("kB")?;
        number.trim().parse::<u64>().ok()
    });
    Ok(kib.ok_or("no Rss in smaps_rollup")? * 1024 / PAGE_BYTES)
}

/// A setting of the device, until this is dropped: then it is what it was.
pub struct Setting {
    path: String,
    before: String,
}

impl Setting {
    /// Sets the file `name`.
    ///
    /// # Errors
    ///
    /// It cannot be that.
    pub fn new(name: &str, value: u64) -> Result<Self> {
        let path = sysfs::attribute_path(name)?;
        let before = fs::read_to_string(&path)?;
        fs::write(&path, value.to_string())?;
        Ok(Self { path, before })
    }
}

impl Drop for Setting {
    fn drop(&mut self) {
        // A device that is gone has no settings.
        let _ = fs::write(&self.path, self.before.trim());
    }
}

/// Registers that concern all consumers, until this is dropped: then they are as after a reset.
pub struct Registers {
    consumer: Consumer,
    set: Vec<(u64, u64)>,
}

impl Registers {
    /// None is set yet.
    ///
    /// # Errors
    ///
    /// The device is gone.
    pub fn new() -> Result<Self> {
        Ok(Self {
            consumer: Consumer::open(Mode::Sva, 1)?,
            set: Vec::new(),
        })
    }

    /// Sets one. `normally` is what it is without that.
    ///
    /// # Errors
    ///
    /// There is none like that.
    pub fn set(&mut self, register: u64, value: u64, normally: u64) -> Result {
        if !self.set.iter().any(|(known, _)| *known == register) {
            self.set.push((register, normally));
        }
        Ok(self.consumer.write_register(register, value)?)
    }

    /// Reads one.
    ///
    /// # Errors
    ///
    /// There is none like that.
    pub fn get(&self, register: u64) -> Result<u64> {
        Ok(self.consumer.read_register(register)?)
    }

    /// Has all answers to page requests be late.
    ///
    /// # Errors
    ///
    /// The device is gone.
    pub fn delay_answers(&mut self, ms: u32) -> Result {
        let late = if ms == 0 { 0 } else { u32::MAX };
        // So that nobody gives up who has to wait only.
        let patience = PAGE_RESPONSE_TIMEOUT_MS.max(10 * ms);
        self.set(
            register::PAGE_RESPONSE_TIMEOUT_MS,
            patience.into(),
            PAGE_RESPONSE_TIMEOUT_MS.into(),
        )?;
        self.set(register::INJECT_LATE_MS, ms.into(), 0)?;
        self.set(register::INJECT_LATE_RESPONSES, late.into(), 0)
    }
}

impl Drop for Registers {
    fn drop(&mut self) {
        for (register, normally) in &self.set {
            // A device that is gone has no registers.
            let _ = self.consumer.write_register(*register, *normally);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_end_where_a_page_of_either_side_does() {
        assert_eq!(pages_of(&fill(0x1ff8, 16)), [1, 2]);
        assert_eq!(pages_of(&fill(0x1000, 2 * PAGE)), [1, 2]);
        // From the middle of page 1 to the start of page 8: two pieces.
        assert_eq!(pages_of(&copy(0x1800, 0x8000, PAGE)), [1, 8, 2, 8]);
        assert_eq!(pages_of(&copy(0x1000, 0x8000, 64)), [1, 8]);
    }

    #[test]
    fn one_part_stands_for_all() {
        let parts = [(3, 1), (90, 2), (1, 7)].map(|(elapsed_ns, busy_ns)| Duration {
            elapsed_ns,
            busy_ns,
        });
        let sum = |elapsed_ns, busy_ns| Duration {
            elapsed_ns,
            busy_ns,
        };
        assert_eq!(Duration::of_equal(&parts), sum(9, 6));
        assert_eq!(Duration::of_equal(&[]), Duration::default());
    }

    #[test]
    fn a_cpu_is_busy_while_tasks_run() {
        let text = "version 17\ntimestamp 4\ncpu0 0 0 0 0 0 0 150 5 9\ndomain0 MC 3 0\n\
                    cpu1 0 0 0 0 0 0 7 5 9\n";
        assert_eq!(busy_of(text).unwrap(), 157);
        assert!(busy_of("version 17\n").is_err());
        assert!(busy_of("cpu0 0 0\n").is_err());
    }

    #[test]
    fn what_has_no_memory_has_no_pages() {
        assert!(pages_of(&Descriptor::default()).is_empty());
        assert!(pages_of(&fill(0x1000, 0)).is_empty());
    }
}
