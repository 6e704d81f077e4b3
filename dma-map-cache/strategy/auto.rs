// SPDX-License-Identifier: GPL-2.0

//! `auto`: picks the cheapest strategy for what the driver does, under a bound on exposure that the
//! user sets.
//!
//! What the driver does is watched in intervals: how many buffers, how large, one by one or in
//! lists, and how many of them are in pages that were used before. From that the cost of each
//! strategy that the bound allows is estimated, and the cheapest is taken.
//!
//! It does not flap: another strategy is only taken if it was the cheapest, by a margin, for several
//! intervals in a row, so a load that alternates from one interval to the next changes nothing.

use core::sync::atomic::{
    AtomicU64,
    Ordering::Relaxed, //
};

use super::{
    address::{
        Buffer,
        PAGE_SIZE, //
    },
    backend::{
        Backend,
        OutOfMemory, //
    },
    counted::Retention,
    counter::Counter,
    kind::Kind,
    tunable::{
        Range,
        Tunable, //
    },
};

/// Milliseconds between two looks at what the driver does.
pub const INTERVAL_MS: u32 = 500;

/// Intervals for which another strategy must be the cheapest: two seconds, longer than a burst and
/// shorter than anybody waits for.
const PATIENCE: u32 = 4;

/// What the other strategy must cost less, in hundredths of the current one's cost: what it costs to
/// move, and how far off an estimate may be.
const MARGIN_PERCENT: u64 = 20;

/// Buffers in an interval below which there is nothing to judge by, nor to gain.
const MIN_BUFFERS: u64 = 64;

/// The shortest age limit of `cached` that its housekeeping can keep: five ticks at 250 Hz.
const MIN_CACHED_US: u64 = 20_000;

/// The shortest time after which `deferred` can flush.
const MIN_DEFERRED_US: u64 = 100;

/// The longest that the batch of an interrupt may last for `contiguous` to be within a bound: soft
/// interrupts are cut off after 2 ms (`MAX_SOFTIRQ_TIME` in kernel/softirq.c), and what is left over
/// then is done by a thread.
const MIN_CONTIGUOUS_US: u64 = 10_000;

/// Pages that are remembered, to see whether they are used again: those of 16 MiB, the buffers of
/// a few fast network queues, in 32 KiB. With more in use, less reuse is seen than there is.
const REMEMBERED: usize = 4096;

/// Estimates of what a strategy costs, in instructions of x86-64, as measured by dma_map_bench on
/// VT-d (Documentation/dma-map-cache/index.rst). Only their proportions matter.
mod cost {
    /// A pair of map and unmap of a page, by strategy.
    pub(super) const BATCHED: u64 = 2_870;
    pub(super) const DEFERRED: u64 = 2_240;
    pub(super) const CONTIGUOUS: u64 = 1_440;
    pub(super) const HIT: u64 = 280;

    /// A buffer that is copied in and out, but for the copies; and a copy of eight bytes.
    pub(super) const SLOT: u64 = 460;
    pub(super) const COPY: u64 = 1;

    /// What a list costs beside its pages, and each page of it, by those that map it exactly.
    pub(super) const LIST: u64 = 1_700;
    pub(super) const LIST_DEFERRED: u64 = 1_200;
    pub(super) const LIST_PAGE: u64 = 1_160;
}

/// A bound on what stays reachable after an unmap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// Microseconds.
    pub us: u64,
    /// Pages.
    pub pages: u64,
}

impl Bound {
    /// No bound but those of the strategies themselves.
    pub const NONE: Self = Self {
        us: u64::MAX,
        pages: u64::MAX,
    };

    /// Whether nothing may stay reachable.
    pub const fn allows_nothing(self) -> bool {
        self.us == 0 || self.pages == 0
    }

    /// The share of one CPU in the pages, at least 1.
    pub fn per_cpu<B: Backend>(self) -> u64 {
        (self.pages / (B::cpus() as u64).max(1)).max(1)
    }

    /// What may be kept of idle mappings.
    ///
    /// An idle page is looked at four times within its age limit, so it may get a quarter older.
    pub fn limit(self, retention: Retention) -> Retention {
        if self == Self::NONE {
            return retention;
        }

        Retention {
            pages: retention.pages.min(self.pages),
            max_age_ms: retention.max_age_ms.min((self.us / 1_000 * 4 / 5).max(1)),
        }
    }
}

/// What the driver did in an interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Buffers mapped, those of lists included.
    pub buffers: u64,
    /// Buffers that were mapped by lists.
    pub listed: u64,
    /// Lists.
    pub lists: u64,
    /// Bytes in all.
    pub bytes: u64,
    /// Of 100 buffers, those in pages that were used before.
    pub reused_percent: u64,
    /// Bytes of the largest buffer that `pool` copies.
    pub copied_bytes: u64,
}

impl Load {
    /// Bytes of a buffer, on average.
    pub const fn mean_bytes(self) -> u64 {
        match self.bytes.checked_div(self.buffers) {
            Some(mean) => mean,
            None => 0,
        }
    }

    /// What a strategy would cost for this, in all.
    pub fn cost(self, kind: Kind) -> u64 {
        let pages = self.mean_bytes().div_ceil(PAGE_SIZE).max(1);
        let singles = self.buffers - self.listed;
        // A page after the first costs little in a run.
        let run = |first: u64| first + (pages - 1) * cost::HIT / 4;
        let lists = |list: u64| self.lists * list + self.listed * pages * cost::LIST_PAGE;

        match kind {
            Kind::Deferred => singles * run(cost::DEFERRED) + lists(cost::LIST_DEFERRED),
            Kind::Contiguous => singles * run(cost::CONTIGUOUS) + lists(cost::LIST),
            Kind::Cached => {
                let misses = self.buffers * (100 - self.reused_percent) / 100;

                self.buffers * pages * cost::HIT + misses * run(cost::BATCHED)
            }
            Kind::Batched => singles * run(cost::BATCHED) + lists(cost::LIST),
            // Most buffers are copied one way, those that the device writes to both ways.
            Kind::Pool if self.mean_bytes() <= self.copied_bytes => {
                self.buffers * (cost::SLOT + self.mean_bytes() * 3 / 2 / 8 * cost::COPY)
            }
            _ => u64::MAX,
        }
    }
}

/// Why a strategy was picked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reason {
    /// The strategy.
    pub kind: Kind,
    /// The bound at the time.
    pub bound: Bound,
    /// What the driver did; [`None`] before there was anything to judge by.
    pub load: Option<Load>,
    /// Whether the device is trusted.
    pub trusted: bool,
}

/// A strategy that has been better for some intervals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Candidate {
    kind: Kind,
    intervals: u32,
}

/// What it has seen and decided. One caller at a time.
#[derive(Debug)]
pub struct Choice {
    /// Why the current strategy was picked.
    pub reason: Reason,
    candidate: Option<Candidate>,
    seen: Seen,
}

/// Sums at the end of the last interval.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    buffers: u64,
    listed: u64,
    lists: u64,
    bytes: u64,
    reused: u64,
    hits: u64,
    maps: u64,
}

impl Seen {
    /// The sums now.
    fn now<B: Backend>(backend: &B) -> Self {
        Self {
            buffers: backend.sum(Counter::WatchedBuffers),
            listed: backend.sum(Counter::WatchedListed),
            lists: backend.sum(Counter::WatchedLists),
            bytes: backend.sum(Counter::WatchedBytes),
            reused: backend.sum(Counter::WatchedReuses),
            hits: backend.total(Counter::Hits),
            maps: backend.total(Counter::Maps),
        }
    }
}

/// The strategy.
pub struct Auto<B: Backend> {
    /// Microseconds for which a page may stay reachable after its unmap. 0, the default, allows
    /// nothing; a user who allows more says how much.
    pub limit_us: Tunable,
    /// Pages that may be reachable after their unmap at the same time; 0 allows nothing. The default
    /// is that of `cached`, so that one number is enough to allow something.
    pub limit_pages: Tunable,
    /// Pages that were used last, in places by their hash.
    remembered: B::List<AtomicU64>,
}

impl<B: Backend> Auto<B> {
    /// With the defaults, and nothing seen. May sleep.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`].
    pub fn new() -> Result<Self, OutOfMemory> {
        Ok(Self {
            limit_us: Tunable::new(Range {
                min: 0,
                max: 3_600_000_000,
                step: 1,
                default: 0,
            }),
            limit_pages: Tunable::new(Range {
                min: 0,
                max: 1 << 28,
                step: 1,
                default: 16_384,
            }),
            remembered: B::list(REMEMBERED, || Ok(AtomicU64::new(u64::MAX)))?,
        })
    }

    /// What the user allows.
    pub fn bound(&self) -> Bound {
        Bound {
            us: self.limit_us.get(),
            pages: self.limit_pages.get(),
        }
    }

    /// Watches a buffer that is mapped, one by one or in a list. Not called for the fastest path of
    /// a strategy that keeps pages: there hits and misses tell the same.
    #[inline(never)]
    pub fn watch(&self, backend: &B, buffer: Buffer) {
        backend.count(Counter::WatchedBuffers, 1);
        backend.count(Counter::WatchedBytes, buffer.len);

        let page = buffer.phys.page();
        // Fibonacci hashing: the upper bits are well mixed.
        let place = (page.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize % REMEMBERED;

        if let Some(last) = self.remembered.get(place) {
            if last.load(Relaxed) == page {
                backend.count(Counter::WatchedReuses, 1);
            } else {
                last.store(page, Relaxed);
            }
        }
    }

    /// Ends an interval; returns the strategy to take if it is another one. `copied_bytes` is the size
    /// of the largest buffer that `pool` copies.
    pub fn decide(&self, backend: &B, choice: &mut Choice, copied_bytes: u64) -> Option<Kind> {
        let bound = self.bound();
        let (now, then) = (Seen::now(backend), choice.seen);

        choice.seen = now;

        let grown = |sum: fn(&Seen) -> u64| sum(&now).wrapping_sub(sum(&then));
        // The fastest path of a strategy that keeps pages is not watched; it is that of single buffers
        // within a page, of a size as before, and hits tell what was used before.
        let (buffers, bytes, reused) = if choice.reason.kind.keeps() {
            let maps = grown(|seen| seen.maps);
            let mean = choice.reason.load.map_or(0, Load::mean_bytes);

            (maps, mean.saturating_mul(maps), grown(|seen| seen.hits))
        } else {
            (
                grown(|seen| seen.buffers),
                grown(|seen| seen.bytes),
                grown(|seen| seen.reused),
            )
        };
        let load = Load {
            buffers,
            listed: grown(|seen| seen.listed).min(buffers),
            lists: grown(|seen| seen.lists),
            bytes,
            reused_percent: (reused * 100).checked_div(buffers).unwrap_or(0),
            copied_bytes,
        };

        choice.consider(bound, load)
    }
}

impl Choice {
    /// What to begin with: nothing is known of the driver yet, so what exposes nothing.
    pub fn new(bound: Bound, trusted: bool) -> Self {
        Self {
            reason: Reason {
                kind: Kind::Batched,
                bound,
                load: None,
                trusted,
            },
            candidate: None,
            seen: Seen::default(),
        }
    }

    /// Looks away from what the driver did until now.
    pub fn begin<B: Backend>(&mut self, backend: &B) {
        self.seen = Seen::now(backend);
    }

    /// Judges a load; returns the strategy to take if it is another one.
    pub fn consider(&mut self, bound: Bound, load: Load) -> Option<Kind> {
        let trusted = self.reason.trusted;
        let current = self.reason.kind;
        let allowed = |kind: Kind| is_allowed(kind, bound, trusted);

        if load.buffers < MIN_BUFFERS {
            // An idle device has no reason to change, but a bound must hold.
            self.candidate = None;
            return if allowed(current) {
                None
            } else {
                self.take(Kind::Batched, bound, self.reason.load)
            };
        }

        let best = CANDIDATES
            .into_iter()
            .filter(|&kind| allowed(kind))
            .min_by_key(|&kind| load.cost(kind))
            .unwrap_or(Kind::Batched);

        if !allowed(current) {
            return self.take(best, bound, Some(load));
        }

        let worth_it = load.cost(best) < load.cost(current) / 100 * (100 - MARGIN_PERCENT);

        if best == current || !worth_it {
            self.candidate = None;
            self.reason.bound = bound;
            self.reason.load = Some(load);
            return None;
        }

        let intervals = match self.candidate {
            Some(candidate) if candidate.kind == best => candidate.intervals + 1,
            _ => 1,
        };

        if intervals < PATIENCE {
            self.candidate = Some(Candidate {
                kind: best,
                intervals,
            });
            return None;
        }
        self.take(best, bound, Some(load))
    }

    /// Takes another strategy.
    fn take(&mut self, kind: Kind, bound: Bound, load: Option<Load>) -> Option<Kind> {
        self.candidate = None;
        self.reason = Reason {
            kind,
            bound,
            load,
            ..self.reason
        };
        Some(kind)
    }
}

/// The strategies to pick from, those that expose least first: where two cost the same, the first
/// is taken.
const CANDIDATES: [Kind; 5] = [
    Kind::Pool,
    Kind::Batched,
    Kind::Contiguous,
    Kind::Deferred,
    Kind::Cached,
];

/// Whether a strategy keeps within a bound.
fn is_allowed(kind: Kind, bound: Bound, trusted: bool) -> bool {
    if kind.exposes_nothing() {
        return true;
    }
    if !trusted || bound.allows_nothing() {
        return false;
    }
    match kind {
        Kind::Cached => bound.us >= MIN_CACHED_US,
        Kind::Deferred => bound.us >= MIN_DEFERRED_US,
        Kind::Contiguous => bound.us >= MIN_CONTIGUOUS_US,
        _ => false,
    }
}

impl core::fmt::Display for Reason {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}: ", self.kind)?;
        if !self.trusted {
            write!(f, "the device is not trusted; ")?;
        } else if self.bound.allows_nothing() {
            write!(f, "nothing may stay reachable; ")?;
        } else {
            write!(
                f,
                "{} pages may stay reachable for {} us; ",
                self.bound.pages, self.bound.us
            )?;
        }

        let Some(load) = self.load else {
            return write!(f, "nothing is known of the driver yet");
        };

        write!(
            f,
            "of {} buffers of {} bytes {}% were in pages used before, {}% in lists; estimated cost",
            load.buffers,
            load.mean_bytes(),
            load.reused_percent,
            (load.listed * 100).checked_div(load.buffers).unwrap_or(0),
        )?;
        for kind in CANDIDATES {
            let cost = load.cost(kind) / load.buffers.max(1);

            if is_allowed(kind, self.bound, self.trusted) {
                write!(f, " {kind} {cost}")?;
            } else {
                write!(f, " ({kind} {cost}, not allowed)")?;
            }
        }
        Ok(())
    }
}
