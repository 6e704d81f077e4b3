// SPDX-License-Identifier: GPL-2.0

//! Work for a device as programs have it: what is accessed, in which order, and how often again.

use svadma::abi::{Descriptor, Operation, StreamMode};
use svadma::area::{Area, PAGE};
use svadma::uapi::Stream;

use crate::random::Random;
use crate::session::{copy, Session};
use crate::Result;

/// Work that can be done again and again, the same each time.
pub trait Load {
    /// Does it, to its end.
    ///
    /// # Errors
    ///
    /// The device has failed, or what it has done is wrong.
    fn run(&mut self, session: &mut Session) -> Result;
}

/// Prepares the memory for a load.
pub type Prepare = fn(&Session) -> Result<Box<dyn Load>>;

/// All of them, by name.
pub const LOADS: [(&str, Prepare); 4] = [
    ("key-value", |session| Ok(Box::new(KeyValue::new(session)?))),
    ("stream", |session| Ok(Box::new(Scan::new(session)?))),
    ("ring", |session| Ok(Box::new(Ring::new(session)?))),
    ("merge", |session| Ok(Box::new(Merge::new(session)?))),
];

/// Random reads from a store: an entry of its index, then a value; to a page of replies.
///
/// Keys are as popular as Zipf's law with an exponent of 0.99 says, as in YCSB (Cooper and others,
/// Benchmarking cloud serving systems with YCSB, SoCC 2010), and lie anywhere.
struct KeyValue {
    index: Area,
    values: Area,
    replies: Area,
    /// Up to which fraction of all reads each key, the most popular first, is read.
    popularity: Vec<f64>,
    /// Where the value of each is.
    places: Vec<usize>,
}

impl KeyValue {
    const KEYS: usize = 4096;
    const VALUE_BYTES: usize = 1024;
    const ENTRY_BYTES: usize = 64;
    const READS: usize = 4096;
    const EXPONENT: f64 = 0.99;

    fn new(session: &Session) -> Result<Self> {
        let weights = (1..=Self::KEYS).map(|rank| (rank as f64).powf(-Self::EXPONENT));
        let sum: f64 = weights.clone().sum();
        let popularity = weights.scan(0.0, |before, weight| {
            *before += weight / sum;
            Some(*before)
        });
        Ok(Self {
            index: session.area(Self::KEYS * Self::ENTRY_BYTES / PAGE)?,
            values: session.area(Self::KEYS * Self::VALUE_BYTES / PAGE)?,
            replies: session.area(1)?,
            popularity: popularity.collect(),
            places: Random::new(3).permutation(Self::KEYS),
        })
    }
}

impl Load for KeyValue {
    fn run(&mut self, session: &mut Session) -> Result {
        let mut random = Random::new(4);
        for read in 0..Self::READS {
            let chosen = random.fraction();
            let rank = self.popularity.partition_point(|upto| *upto < chosen);
            let place = self.places[rank.min(Self::KEYS - 1)];
            let reply = self.replies.address(0);
            let entry = self.index.address(0) + (place * Self::ENTRY_BYTES) as u64;
            session.submit(copy(entry, reply, Self::ENTRY_BYTES))?;
            let value = self.values.address(0) + (place * Self::VALUE_BYTES) as u64;
            let slot = (read % (PAGE / Self::VALUE_BYTES) * Self::VALUE_BYTES) as u64;
            session.submit(copy(value, reply + slot, Self::VALUE_BYTES))?;
        }
        session.finish()
    }
}

/// A checksum over a range, piece by piece, twice.
struct Scan {
    area: Area,
}

impl Scan {
    const PAGES: usize = 1024;
    const REQUEST: usize = 16;

    fn new(session: &Session) -> Result<Self> {
        Ok(Self {
            area: session.area(Self::PAGES)?,
        })
    }
}

impl Load for Scan {
    fn run(&mut self, session: &mut Session) -> Result {
        for page in (0..2 * Self::PAGES).step_by(Self::REQUEST) {
            session.submit(Descriptor {
                operation: Operation::Checksum.number(),
                source: self.area.address(page % Self::PAGES),
                length: (Self::REQUEST * PAGE) as u64,
                ..Descriptor::default()
            })?;
        }
        session.finish()
    }
}

/// Frames that are received into the buffers of a ring, one after the other, as a network card does.
struct Ring {
    buffers: Area,
}

impl Ring {
    const BUFFERS: usize = 256;
    const BUFFER_BYTES: usize = 2048;
    const FRAME_BYTES: u32 = 1536;
    const FRAMES: usize = 16 * Self::BUFFERS;

    fn new(session: &Session) -> Result<Self> {
        Ok(Self {
            buffers: session.area(Self::BUFFERS * Self::BUFFER_BYTES / PAGE)?,
        })
    }
}

impl Load for Ring {
    fn run(&mut self, session: &mut Session) -> Result {
        let stream = Stream {
            mode: StreamMode::Cooperate.number(),
            frame_bytes: Self::FRAME_BYTES,
            // As fast as the frames are taken.
            bytes_per_ms: 1 << 30,
            buffer_bytes: 1 << 16,
            frames: 0,
        };
        session.consumer().set_stream(stream)?;
        for frame in 0..Self::FRAMES {
            let buffer = frame % Self::BUFFERS * Self::BUFFER_BYTES;
            session.submit(Descriptor {
                operation: Operation::Receive.number(),
                destination: self.buffers.address(0) + buffer as u64,
                length: Self::FRAME_BYTES.into(),
                ..Descriptor::default()
            })?;
        }
        session.finish()?;
        let off = Stream {
            mode: StreamMode::Off.number(),
            ..stream
        };
        Ok(session.consumer().set_stream(off)?)
    }
}

/// The merging of sorted runs in a mapped file, some at a time, until one is left: the program compares
/// keys, the device moves records.
struct Merge {
    /// The runs, and those that each pass leaves.
    passes: Vec<Area>,
}

impl Merge {
    const RECORD_BYTES: usize = 512;
    const RECORDS: usize = 2048;
    const PAGES: usize = Self::RECORDS * Self::RECORD_BYTES / PAGE;
    /// Runs at the beginning, and runs that are merged at a time.
    const RUNS: usize = 16;
    const WAYS: usize = 4;

    fn new(session: &Session) -> Result<Self> {
        let mut passes = Vec::new();
        let mut runs = Self::RUNS * Self::WAYS;
        while runs > 1 {
            passes.push(session.file(Self::PAGES)?);
            runs /= Self::WAYS;
        }
        let merge = Self { passes };
        let mut random = Random::new(5);
        for run in 0..Self::RUNS {
            let len = Self::RECORDS / Self::RUNS;
            let mut keys: Vec<u64> = (0..len).map(|_| random.number()).collect();
            keys.sort_unstable();
            for (record, key) in (run * len..).zip(keys) {
                merge.passes[0].store(record * Self::RECORD_BYTES, key);
            }
        }
        Ok(merge)
    }

    /// Merges each few adjacent runs of `len` records.
    fn pass(session: &mut Session, from: &Area, to: &Area, len: usize) -> Result {
        let address = |area: &Area, record| area.address(0) + (record * Self::RECORD_BYTES) as u64;
        let mut next = 0;
        for first in (0..Self::RECORDS).step_by(len * Self::WAYS) {
            let starts = (first..first + len * Self::WAYS).step_by(len);
            let mut heads: Vec<(usize, usize)> = starts.map(|start| (start, start + len)).collect();
            let key = |head: &(usize, usize)| from.number(head.0 * Self::RECORD_BYTES);
            while let Some(least) = heads.iter_mut().min_by_key(|head| key(head)) {
                session.submit(copy(
                    address(from, least.0),
                    address(to, next),
                    Self::RECORD_BYTES,
                ))?;
                next += 1;
                least.0 += 1;
                heads.retain(|head| head.0 < head.1);
            }
        }
        session.finish()
    }
}

impl Load for Merge {
    fn run(&mut self, session: &mut Session) -> Result {
        let mut len = Self::RECORDS / Self::RUNS;
        for pair in self.passes.windows(2) {
            Self::pass(session, &pair[0], &pair[1], len)?;
            len *= Self::WAYS;
        }
        let sorted = self.passes.last().ok_or("nothing was merged")?;
        let keys = (0..Self::RECORDS).map(|record| sorted.number(record * Self::RECORD_BYTES));
        match keys.is_sorted() {
            true => Ok(()),
            false => Err("what was merged is not sorted".into()),
        }
    }
}
