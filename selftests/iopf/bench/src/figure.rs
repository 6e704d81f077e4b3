// SPDX-License-Identifier: GPL-2.0

//! What was measured: one line of JSON for each, which `tools/pdio` reads.

use serde::{Deserialize, Serialize};

/// A measurement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "figure", rename_all = "kebab-case")]
pub enum Figure {
    /// Accesses in a mode.
    Pass(Pass),
    /// How far apart accesses to the same page are.
    Reuse(Reuse),
    /// What waiting for pages does to throughput.
    Wait(Wait),
    /// How often a translation is in the device's cache.
    Cache(Cache),
    /// What is lost of a receive stream.
    Loss(Loss),
}

/// What a [`Pass`] does to the memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Load {
    /// From the first page to the last, of which none was ever used.
    StreamFirst,
    /// The same again.
    StreamAgain,
    /// The same again, while consumers in all modes take turns, pass by pass: what else the machine has
    /// to do is then the same for all. Counts of the device as a whole are those of all consumers.
    StreamInTurns,
    /// A part of it, anywhere, of which nothing was ever used.
    RandomFirst,
    /// The same accesses again.
    RandomAgain,
    /// Nine in ten to a tenth of the pages. In mode `mirror` the budget is a quarter of them.
    HotCold,
    /// The process unmaps memory that the device has never used; without an access of the device.
    UnmapUnused,
    /// The process gives back memory that the device has used; without an access of the device.
    DiscardUsed,
}

/// Accesses in a mode of iopf.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pass {
    /// `sva`, `mirror` or `pinned`.
    pub mode: String,
    /// Which.
    pub load: Load,
    /// From 1. In a round each mode has its turn.
    pub round: u32,
    /// Requests to the device, or changes by the process.
    pub accesses: u64,
    /// Pages of the memory.
    pub area_pages: u64,
    /// Those of them that were accessed.
    pub used_pages: u64,
    /// What registering the memory took, in nanoseconds; 0 where it is not registered.
    pub setup_ns: u64,
    /// The part of that for which a CPU ran anything, in nanoseconds.
    pub setup_busy_ns: u64,
    /// From the first request to the end of the last, in nanoseconds.
    pub elapsed_ns: u64,
    /// The part of that for which a CPU ran anything: the program, the driver, the kernel's threads.
    pub busy_ns: u64,
    /// Groups of page requests.
    pub groups: u64,
    /// Page requests in them.
    pub requests: u64,
    /// Pages that were mapped for the device: in mode `sva` one for each request.
    pub mapped_pages: u64,
    /// Pages that were taken for others.
    pub evicted_pages: u64,
    /// Invalidations that the device was asked for.
    pub invalidations: u64,
    /// The most pages that were charged to the device.
    pub held_pages: u64,
    /// What the memory of the process has grown by, in pages.
    pub resident_pages: u64,
}

/// Accesses between two to the same page, over a whole load.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reuse {
    /// A name of [`loads`](crate::loads).
    pub load: String,
    /// Accesses of pages.
    pub accesses: u64,
    /// Different ones.
    pub pages: u64,
    /// How many other pages were accessed since the same one was: the largest number of a range, and
    /// the accesses in it. The first access to a page is in none.
    pub distances: Vec<(u64, u64)>,
    /// Entries of a fully associative cache with LRU, and the accesses that would hit it (Mattson and
    /// others, 1970).
    pub hits: Vec<(u32, u64)>,
}

/// Single pages, of which a share is missing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Wait {
    /// Requests that are under way at once, each of a consumer of its own.
    pub consumers: u32,
    /// Milliseconds that each answer to a page request is late.
    pub late_ms: u32,
    /// Requests.
    pub accesses: u64,
    /// Those of them that found their page missing.
    pub groups: u64,
    /// From the first request to the end of the last, in nanoseconds.
    pub elapsed_ns: u64,
}

/// A load, with the device's translation cache in some shape.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cache {
    /// A name of [`loads`](crate::loads).
    pub load: String,
    /// Entries of the cache.
    pub entries: u32,
    /// Entries of a set.
    pub ways: u32,
    /// `lru`, `fifo`, `random` or `clock`.
    pub replacement: String,
    /// Accesses of the load's own pages.
    pub accesses: u64,
    /// Accesses of all pages, those of the ring included, whose translation was not there.
    pub misses: u64,
}

/// What is lost of a receive stream, and what it is like.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Loss {
    /// `cooperate` or `drop`.
    pub mode: String,
    /// What arrives in a millisecond.
    pub bytes_per_ms: u32,
    /// Of a frame.
    pub frame_bytes: u32,
    /// What the device can keep.
    pub buffer_bytes: u32,
    /// Milliseconds that each answer to a page request is late.
    pub late_ms: u32,
    /// Frames after which the page of the next buffer is taken from the device and the process; 0: the
    /// device may keep a quarter of the buffers, so that nearly all are missing when their turn comes.
    pub taken_every: u32,
    /// Frames that were sent.
    pub sent: u64,
    /// Frames that the device has delivered, as it says.
    pub delivered: u64,
    /// Frames that the device has lost, as it says.
    pub dropped: u64,
    /// Frames that the program has found in its memory, each in its place.
    pub received: u64,
    /// Groups of page requests: buffers that were not there.
    pub groups: u64,
    /// For how long the sender was held back, in nanoseconds.
    pub held_ns: u64,
    /// From the start of the stream to its end, in nanoseconds.
    pub elapsed_ns: u64,
}
