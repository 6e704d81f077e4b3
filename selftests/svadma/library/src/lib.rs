// SPDX-License-Identifier: GPL-2.0

//! For programs that let the device `svadma` work on their memory.
//!
//! A [`Consumer`] has a queue of the device. Memory needs no preparation: what is in the program's
//! address space, the device can use, and what is not there yet, it faults in.
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use svadma::{uapi::Mode, Consumer};
//!
//! let mut consumer = Consumer::open(Mode::Device, 6)?;
//! let mut memory = vec![0; 1 << 20];
//! consumer.fill(&mut memory, 0x0101_0101_0101_0101)?;
//! assert!(memory.iter().all(|byte| *byte == 1));
//! # Ok(())
//! # }
//! ```
//!
//! Submitting and waiting take no system call.

#[path = "../../../device/abi.rs"]
pub mod abi;
#[path = "../../uapi.rs"]
pub mod uapi;

pub mod area;
mod mapping;
pub mod sysfs;

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use abi::{doorbell, status, Completion, Counter, Descriptor, Field, Operation, Status};
pub use mapping::Mapping;
use uapi::{Bind, Mode, Stream, Wait};

/// Why something cannot be done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The device cannot be opened.
    #[error("{path}: {0}", path = uapi::PATH)]
    Open(#[source] io::Error),
    /// The driver has refused a request.
    #[error("{0}: {1}")]
    Request(&'static str, #[source] io::Error),
    /// All descriptors of the ring are in use: wait for the first of them.
    #[error("the ring is full")]
    Full,
    /// The queue cannot go on: the consumer has to be opened again.
    #[error("the queue has halted at {address:#x}: {cause:?}, {field:?}")]
    Halted {
        /// Why.
        cause: Option<Status>,
        /// What is malformed, if that is the cause.
        field: Option<Field>,
        /// Where.
        address: u64,
    },
    /// Nothing came within [`Consumer::PATIENCE`].
    #[error("the device does not answer")]
    TimedOut,
    /// An operation has failed.
    #[error(transparent)]
    Failed(#[from] Failed),
}

/// How an operation has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason} after {bytes_done} bytes")]
pub struct Failed {
    /// Why.
    pub reason: Reason,
    /// Bytes moved before that.
    pub bytes_done: u64,
}

/// Why an operation has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// The descriptor, or the element of a list at `address`, is not as it must be.
    #[error("{field:?} is malformed")]
    Malformed {
        /// Which part of it.
        field: Field,
        /// Where, if it is an element of a list.
        address: u64,
    },
    /// Memory could not be had.
    #[error("fault at {address:#x}: {status:?}")]
    Fault {
        /// What the host has said.
        status: Status,
        /// Where.
        address: u64,
    },
    /// There is no stream to receive from.
    #[error("there is no stream")]
    NoStream,
    /// The device says what this library does not know.
    #[error("status {0}, which is unknown")]
    Unknown(u32),
}

/// What an operation has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Done {
    /// Bytes moved.
    pub bytes: u64,
    /// What the operation says.
    pub result: u64,
}

/// What was submitted, to be waited for.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "an operation that nobody waits for may use memory at any time"]
pub struct Ticket(u32);

/// A queue of the device. The operations of a consumer are carried out one after the other.
#[derive(Debug)]
pub struct Consumer {
    // In this order they go: the device is done before its memory is given back.
    doorbell: Mapping,
    file: File,
    ring: Mapping,
    completions: Mapping,
    entries: u32,
    submitted: u32,
    /// How many were waited for.
    retired: u32,
}

impl Consumer {
    /// For how long the device may be silent: longer than it waits for a page itself.
    pub const PATIENCE: Duration = Duration::from_secs(30);

    /// Opens the device and binds this process, with a ring of `1 << ring_log2` descriptors.
    ///
    /// # Errors
    ///
    /// [`Error::Open`], [`Error::Request`].
    pub fn open(mode: Mode, ring_log2: u32) -> Result<Self, Error> {
        let file = File::options().read(true).write(true).open(uapi::PATH);
        let file = file.map_err(Error::Open)?;
        let entries = 1_u32.checked_shl(ring_log2).unwrap_or(0);
        let memory = |bytes: u64| {
            let bytes = usize::try_from(bytes * u64::from(entries)).unwrap_or(0);
            Mapping::anonymous(bytes).map_err(|error| Error::Request("memory for a ring", error))
        };
        let ring = memory(Descriptor::BYTES)?;
        let completions = memory(Completion::BYTES)?;
        let bind = Bind {
            mode,
            ring_log2,
            ring: ring.address(),
            completions: completions.address(),
        };
        request(&file, "bind", uapi::BIND, &mut bind.to_words())?;
        let doorbell = Mapping::of_file(&file, abi::PAGE_BYTES as usize)
            .map_err(|error| Error::Request("map the doorbell", error))?;
        let consumer = Self {
            doorbell,
            file,
            ring,
            completions,
            entries,
            submitted: 0,
            retired: 0,
        };
        if mode == Mode::Pinned {
            for memory in [&consumer.ring, &consumer.completions] {
                consumer.pin(memory.address(), memory.bytes() as u64)?;
            }
        }
        Ok(consumer)
    }

    /// Pins memory of this process, in mode `pinned`; both in whole pages.
    ///
    /// # Errors
    ///
    /// [`Error::Request`].
    pub fn pin(&self, address: u64, bytes: u64) -> Result<(), Error> {
        request(&self.file, "pin", uapi::PIN, &mut [address, bytes])
    }

    /// Ends that.
    ///
    /// # Errors
    ///
    /// [`Error::Request`].
    pub fn unpin(&self, address: u64, bytes: u64) -> Result<(), Error> {
        request(&self.file, "unpin", uapi::UNPIN, &mut [address, bytes])
    }

    /// Sets what the device may keep of this process, in bytes, if that is less than what it may keep
    /// of any.
    ///
    /// # Errors
    ///
    /// [`Error::Request`].
    pub fn set_budget(&self, bytes: u64) -> Result<(), Error> {
        request(&self.file, "set the budget", uapi::BUDGET, &mut [bytes])
    }

    /// Starts a receive stream, or ends it.
    ///
    /// # Errors
    ///
    /// [`Error::Request`].
    pub fn set_stream(&self, stream: Stream) -> Result<(), Error> {
        request(&self.file, "stream", uapi::STREAM, &mut stream.to_words())
    }

    /// Reads a register that belongs to no queue.
    ///
    /// # Errors
    ///
    /// [`Error::Request`].
    pub fn read_register(&self, offset: u64) -> Result<u64, Error> {
        let mut words = [offset, 0];
        request(
            &self.file,
            "read a register",
            uapi::READ_REGISTER,
            &mut words,
        )?;
        Ok(words[1])
    }

    /// Writes one, which concerns all consumers.
    ///
    /// # Errors
    ///
    /// [`Error::Request`].
    pub fn write_register(&self, offset: u64, value: u64) -> Result<(), Error> {
        let mut words = [offset, value];
        request(
            &self.file,
            "write a register",
            uapi::WRITE_REGISTER,
            &mut words,
        )
    }

    /// Waits until there were other than `seen` interrupts. Returns how many.
    ///
    /// # Errors
    ///
    /// [`Error::Request`].
    pub fn wait_for_interrupt(&self, seen: u64, timeout_ms: u32) -> Result<u64, Error> {
        let mut words = Wait { seen, timeout_ms }.to_words();
        request(&self.file, "wait", uapi::WAIT, &mut words)?;
        Ok(words[0])
    }

    /// What a counter of this consumer's queue stands at.
    pub fn count(&self, counter: Counter) -> u64 {
        let offset = doorbell::COUNTERS + 8 * u64::from(counter.number());
        loop {
            let high = self.doorbell.load(offset + 4);
            let low = self.doorbell.load(offset);
            if self.doorbell.load(offset + 4) == high {
                return u64::from(high) << 32 | u64::from(low);
            }
        }
    }

    /// Submits a descriptor.
    ///
    /// # Errors
    ///
    /// [`Error::Full`].
    ///
    /// # Safety
    ///
    /// Until the operation was waited for, nothing else uses the memory that it writes, and nothing
    /// writes the memory that it reads.
    pub unsafe fn submit(&mut self, descriptor: Descriptor) -> Result<Ticket, Error> {
        let number = self.submitted;
        if number.wrapping_sub(self.retired) == self.entries {
            return Err(Error::Full);
        }
        let slot = u64::from(number % self.entries);
        self.completions.store(slot * Completion::BYTES, 0);
        let words = (0..).zip(descriptor.to_words());
        for (index, word) in words {
            self.ring.store(slot * Descriptor::BYTES + index * 4, word);
        }
        self.submitted = number.wrapping_add(1);
        self.doorbell.store(doorbell::TAIL, self.submitted);
        Ok(Ticket(number))
    }

    /// Waits for the end of an operation, and of all that were submitted before.
    ///
    /// # Errors
    ///
    /// How it has failed.
    pub fn wait(&mut self, ticket: Ticket) -> Result<Done, Error> {
        let slot = u64::from(ticket.0 % self.entries) * Completion::BYTES;
        let started = Instant::now();
        let mut spins = 0_u32;
        while self.completions.load(slot) == Status::Pending.number() {
            spins += 1;
            if spins % 64 == 0 {
                self.check()?;
                if started.elapsed() > Self::PATIENCE {
                    return Err(Error::TimedOut);
                }
                std::thread::sleep(Duration::from_micros(100));
            }
            std::thread::yield_now();
        }
        self.retired = ticket.0.wrapping_add(1);
        let mut words = [0; 8];
        for (index, word) in (0..).zip(&mut words) {
            *word = self.completions.load(slot + index * 4);
        }
        outcome(Completion::from_words(words))
    }

    /// Whether the queue goes on.
    fn check(&self) -> Result<(), Error> {
        let now = self.doorbell.load(doorbell::STATUS);
        if now & status::HALTED == 0 {
            return Ok(());
        }
        let low = self.doorbell.load(doorbell::HALT_ADDRESS);
        let high = self.doorbell.load(doorbell::HALT_ADDRESS + 4);
        Err(Error::Halted {
            cause: Status::from_number((now & status::CAUSE) >> status::CAUSE_SHIFT),
            field: Field::from_number((now & status::FIELD) >> status::FIELD_SHIFT),
            address: u64::from(high) << 32 | u64::from(low),
        })
    }

    /// Carries out a descriptor.
    ///
    /// # Errors
    ///
    /// Those of [`Consumer::submit`] and [`Consumer::wait`].
    ///
    /// # Safety
    ///
    /// Nothing else uses the memory that it writes.
    pub unsafe fn carry_out(&mut self, descriptor: Descriptor) -> Result<Done, Error> {
        // SAFETY: By the safety requirement; the operation is over on return.
        let ticket = unsafe { self.submit(descriptor) }?;
        self.wait(ticket)
    }

    /// Fills memory with eight bytes, again and again.
    ///
    /// # Errors
    ///
    /// Those of [`Consumer::carry_out`].
    pub fn fill(&mut self, memory: &mut [u8], pattern: u64) -> Result<Done, Error> {
        let descriptor = Descriptor {
            operation: Operation::Fill.number(),
            destination: memory.as_mut_ptr() as u64,
            length: memory.len() as u64,
            pattern,
            ..Descriptor::default()
        };
        // SAFETY: The memory is borrowed.
        unsafe { self.carry_out(descriptor) }
    }

    /// Copies as much as there is of both.
    ///
    /// # Errors
    ///
    /// Those of [`Consumer::carry_out`].
    pub fn copy(&mut self, from: &[u8], to: &mut [u8]) -> Result<Done, Error> {
        let descriptor = Descriptor {
            operation: Operation::Copy.number(),
            source: from.as_ptr() as u64,
            destination: to.as_mut_ptr() as u64,
            length: from.len().min(to.len()) as u64,
            ..Descriptor::default()
        };
        // SAFETY: The memory is borrowed.
        unsafe { self.carry_out(descriptor) }
    }

    /// The CRC32C of memory.
    ///
    /// # Errors
    ///
    /// Those of [`Consumer::carry_out`].
    pub fn checksum(&mut self, memory: &[u8]) -> Result<u32, Error> {
        let descriptor = Descriptor {
            operation: Operation::Checksum.number(),
            source: memory.as_ptr() as u64,
            length: memory.len() as u64,
            ..Descriptor::default()
        };
        // SAFETY: The memory is borrowed, and only read.
        let done = unsafe { self.carry_out(descriptor) }?;
        Ok(done.result as u32)
    }
}

/// What a completion says.
fn outcome(completion: Completion) -> Result<Done, Error> {
    let address = completion.fault_address;
    let reason = match Status::from_number(completion.status) {
        Some(Status::Done) => {
            return Ok(Done {
                bytes: completion.bytes_done,
                result: completion.result,
            })
        }
        Some(Status::Malformed) => match Field::from_number(completion.field) {
            Some(field) => Reason::Malformed { field, address },
            None => Reason::Unknown(completion.status),
        },
        Some(Status::NoStream) => Reason::NoStream,
        Some(status) if status != Status::Pending => Reason::Fault { status, address },
        _ => Reason::Unknown(completion.status),
    };
    Err(Error::Failed(Failed {
        reason,
        bytes_done: completion.bytes_done,
    }))
}

/// Does a request.
fn request<const N: usize>(
    file: &File,
    what: &'static str,
    number: u32,
    words: &mut [u64; N],
) -> Result<(), Error> {
    // SAFETY: The number says how many words are read and written.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), number.into(), words.as_mut_ptr()) };
    match result {
        0 => Ok(()),
        _ => Err(Error::Request(what, io::Error::last_os_error())),
    }
}
