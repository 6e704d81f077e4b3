// SPDX-License-Identifier: GPL-2.0

//! Carrying out a descriptor, piece by piece.
//!
//! An operation moves bytes from a source to a sink. A piece ends where a page of either does, so
//! that each needs one translation on each side; a piece that misses one is tried again from its
//! start, and nothing of it is counted before.

use crate::abi::{Counter, Descriptor, Element, Field, Operation, PAGE_BYTES};
use crate::checksum::crc32c;
use crate::counters::Counters;
use crate::descriptor::{fits, Checked};
use crate::host::Host;
use crate::memory::{Memory, Miss, Place};
use crate::stream::{frame_content, Stream};

/// Where bytes come from.
#[derive(Debug)]
enum Source {
    Nothing,
    Memory(Cursor),
    Pattern(u64),
    Frame,
}

/// Where they go.
#[derive(Debug)]
enum Sink {
    Nothing,
    Memory(Cursor),
    Checksum(u32),
}

/// A place in memory that moves on, over a range or over the ranges of a list.
#[derive(Debug)]
struct Cursor {
    address: u64,
    /// Bytes from there to the end of the range.
    left: u64,
    /// Where the element of the next range is.
    list: u64,
    /// Elements from there on.
    elements: u32,
}

impl Cursor {
    fn range(address: u64, length: u64) -> Self {
        Self {
            address,
            left: length,
            list: 0,
            elements: 0,
        }
    }

    fn list(address: u64, elements: u32) -> Self {
        Self {
            address: 0,
            left: 0,
            list: address,
            elements,
        }
    }

    /// Goes on to the next range if this one is used up.
    fn prepare<H: Host>(
        &mut self,
        around: &mut Surroundings<'_, H>,
        pasid: u32,
    ) -> Result<(), Obstacle> {
        if self.left != 0 {
            return Ok(());
        }
        if self.elements == 0 {
            return Err(Obstacle::Malformed(Field::ListEntries, 0));
        }
        let place = Place {
            pasid,
            address: self.list,
            ahead: u64::from(self.elements) * Element::BYTES,
        };
        let mut data = [0; Element::BYTES as usize];
        around.read(place, &mut data)?;
        let element = Element::from_words(words(&data));
        if element.length == 0 || !fits(element.address, element.length) {
            return Err(Obstacle::Malformed(Field::ListElement, self.list));
        }
        self.address = element.address;
        self.left = element.length;
        self.list = self.list.wrapping_add(Element::BYTES);
        self.elements -= 1;
        Ok(())
    }

    /// Bytes to the end of the page or of the range.
    fn piece(&self) -> u64 {
        self.left.min(PAGE_BYTES - self.address % PAGE_BYTES)
    }

    fn place(&self, pasid: u32, left: u64) -> Place {
        Place {
            pasid,
            address: self.address,
            ahead: self.left.min(left),
        }
    }

    fn advance(&mut self, bytes: u64) {
        self.address = self.address.wrapping_add(bytes);
        self.left -= bytes;
    }
}

/// The words that lie in memory as `data`.
pub(crate) fn words<const N: usize>(data: &[u8]) -> [u32; N] {
    let mut words = [0; N];
    for (word, bytes) in words.iter_mut().zip(data.chunks_exact(4)) {
        *word = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    }
    words
}

/// What an operation works with.
pub(crate) struct Surroundings<'a, H> {
    pub(crate) host: &'a mut H,
    pub(crate) memory: &'a mut Memory,
    pub(crate) counters: &'a mut Counters,
    pub(crate) stream: &'a mut Stream,
}

impl<H: Host> Surroundings<'_, H> {
    pub(crate) fn read(&mut self, place: Place, data: &mut [u8]) -> Result<(), Miss> {
        self.memory.read(self.host, self.counters, place, data)
    }

    pub(crate) fn write(&mut self, place: Place, data: &[u8]) -> Result<(), Miss> {
        self.memory.write(self.host, self.counters, place, data)
    }
}

/// Why an operation did not go on.
#[derive(Debug)]
pub(crate) enum Obstacle {
    /// Memory was not there.
    Miss(Miss),
    /// A field is not as it must be; where, if it is not in the descriptor.
    Malformed(Field, u64),
    /// It is to receive, and there is no stream.
    NoStream,
}

impl From<Miss> for Obstacle {
    fn from(miss: Miss) -> Self {
        Self::Miss(miss)
    }
}

/// How far an operation has come.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// So many bytes further.
    Moved(u64),
    /// Nothing is left to do.
    Done,
    /// The stream has nothing for it yet.
    Starved,
}

/// An operation under way.
#[derive(Debug)]
pub(crate) struct Work {
    pasid: u32,
    source: Source,
    sink: Sink,
    length: u64,
    done: u64,
    interrupt: bool,
}

impl Work {
    /// Begins what a descriptor says, on the memory of `pasid`.
    pub(crate) fn new(checked: Checked, pasid: u32) -> Self {
        let Descriptor {
            flags,
            source,
            destination,
            length,
            pattern,
            list_entries,
            ..
        } = checked.descriptor;
        let from = || Source::Memory(Cursor::range(source, length));
        let to = || Sink::Memory(Cursor::range(destination, length));
        let (source, sink) = match checked.operation {
            Operation::Nop => (Source::Nothing, Sink::Nothing),
            Operation::Copy => (from(), to()),
            Operation::Fill => (Source::Pattern(pattern), to()),
            // The check has seen to it that nothing is cut off.
            Operation::Checksum => (from(), Sink::Checksum(pattern as u32)),
            Operation::Gather => (Source::Memory(Cursor::list(source, list_entries)), to()),
            Operation::Scatter => (
                from(),
                Sink::Memory(Cursor::list(destination, list_entries)),
            ),
            Operation::Receive => (Source::Frame, to()),
        };
        Self {
            pasid,
            source,
            sink,
            length,
            done: 0,
            interrupt: flags & Descriptor::INTERRUPT != 0,
        }
    }

    /// On whose memory it works.
    pub(crate) fn pasid(&self) -> u32 {
        self.pasid
    }

    /// Bytes moved so far.
    pub(crate) fn done(&self) -> u64 {
        self.done
    }

    /// Whether its end is to be told by an interrupt.
    pub(crate) fn interrupt(&self) -> bool {
        self.interrupt
    }

    /// What it has found out: of a sum, what it comes to so far.
    pub(crate) fn result(&self, stream: &Stream) -> u64 {
        match (&self.source, &self.sink) {
            (_, Sink::Checksum(crc)) => u64::from(*crc),
            (Source::Frame, _) => stream.front().unwrap_or(0),
            _ => 0,
        }
    }

    /// A frame that was delivered is no longer kept. To be called once, at the end.
    pub(crate) fn retire(&self, stream: &mut Stream, counters: &mut Counters) {
        if matches!(self.source, Source::Frame) {
            stream.pop(counters);
        }
    }

    /// Does the next piece.
    ///
    /// # Errors
    ///
    /// It was not done. After a miss it can be tried again.
    pub(crate) fn step<H: Host>(
        &mut self,
        around: &mut Surroundings<'_, H>,
    ) -> Result<Progress, Obstacle> {
        let mut length = self.length;
        if matches!(self.source, Source::Frame) {
            if !around.stream.is_on() {
                return Err(Obstacle::NoStream);
            }
            if around.stream.front().is_none() {
                return Ok(Progress::Starved);
            }
            let frame = u64::from(around.stream.settings().frame_bytes);
            if frame > length {
                return Err(Obstacle::Malformed(Field::Length, 0));
            }
            length = frame;
        }
        let left = length - self.done;
        if left == 0 {
            return Ok(Progress::Done);
        }

        let mut piece = left.min(PAGE_BYTES);
        if let Source::Memory(cursor) = &mut self.source {
            cursor.prepare(around, self.pasid)?;
            piece = piece.min(cursor.piece());
        }
        if let Sink::Memory(cursor) = &mut self.sink {
            cursor.prepare(around, self.pasid)?;
            piece = piece.min(cursor.piece());
        }

        let mut buffer = [0; PAGE_BYTES as usize];
        // Not more than a page.
        let data = &mut buffer[..piece as usize];
        match &self.source {
            Source::Nothing => {}
            Source::Memory(cursor) => around.read(cursor.place(self.pasid, left), data)?,
            Source::Pattern(pattern) => {
                for (at, byte) in (self.done..).zip(data.iter_mut()) {
                    *byte = pattern.to_le_bytes()[(at % 8) as usize];
                }
            }
            Source::Frame => {
                frame_content(around.stream.front().unwrap_or(0), self.done, data);
            }
        }
        match &mut self.sink {
            Sink::Nothing => {}
            Sink::Memory(cursor) => around.write(cursor.place(self.pasid, left), data)?,
            Sink::Checksum(crc) => *crc = crc32c(*crc, data),
        }

        if let Source::Memory(cursor) = &mut self.source {
            cursor.advance(piece);
        }
        if let Sink::Memory(cursor) = &mut self.sink {
            cursor.advance(piece);
        }
        self.done += piece;
        around.counters.add(Counter::Bytes, piece);
        Ok(Progress::Moved(piece))
    }
}
