// SPDX-License-Identifier: GPL-2.0

//! The names of the strategies.

/// A strategy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// All of RAM, mapped in advance.
    Premapped = 0,
    /// Exact, flushed at once.
    Strict = 1,
    /// Exact, flushed in batches.
    Deferred = 2,
    /// Exact, with page-table passes and invalidations shared where they can be.
    Batched = 3,
    /// Kept after unmap, within a budget.
    Cached = 4,
    /// Kept after unmap for good, up to a cap.
    Persistent = 5,
    /// Copied into memory that stays mapped.
    Pool = 6,
    /// Exact and adjacent, cleared and invalidated in batches.
    Contiguous = 7,
    /// One of the others, picked by what the driver does.
    Auto = 8,
}

/// There is no strategy of that name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unknown;

impl Kind {
    /// All of them, in the order in which they are shown.
    pub const ALL: [Self; 9] = [
        Self::Premapped,
        Self::Strict,
        Self::Deferred,
        Self::Batched,
        Self::Cached,
        Self::Persistent,
        Self::Pool,
        Self::Contiguous,
        Self::Auto,
    ];

    /// What a device gets that nobody chose a strategy for: what the kernel's strict mode promises.
    pub const DEFAULT: Self = Self::Strict;

    /// The name in sysfs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Premapped => "premapped",
            Self::Strict => "strict",
            Self::Deferred => "deferred",
            Self::Batched => "batched",
            Self::Cached => "cached",
            Self::Persistent => "persistent",
            Self::Pool => "pool",
            Self::Contiguous => "contiguous",
            Self::Auto => "auto",
        }
    }

    /// Whether the device can reach nothing that its driver has unmapped: all that an untrusted
    /// device may be given, but for [`Kind::Auto`], which picks among these for it.
    pub const fn exposes_nothing(self) -> bool {
        matches!(self, Self::Strict | Self::Batched | Self::Pool)
    }

    /// Whether a mapping outlives its use.
    #[inline(always)]
    pub const fn keeps(self) -> bool {
        matches!(self, Self::Cached | Self::Persistent)
    }

    /// Whether the pages of single buffers are counted, in the windows at a constant offset.
    #[inline(always)]
    pub const fn counts(self) -> bool {
        self.keeps() || matches!(self, Self::Batched)
    }

    /// Whether a list, and what `dma_map_multi()` is given, is mapped exactly, as one.
    #[inline(always)]
    pub const fn maps_lists_exactly(self) -> bool {
        matches!(
            self,
            Self::Strict | Self::Deferred | Self::Batched | Self::Contiguous
        )
    }

    /// The strategy whose number is `number`.
    #[inline]
    pub(super) const fn from_number(number: u8) -> Self {
        match number {
            0 => Self::Premapped,
            2 => Self::Deferred,
            3 => Self::Batched,
            4 => Self::Cached,
            5 => Self::Persistent,
            6 => Self::Pool,
            7 => Self::Contiguous,
            _ => Self::Strict,
        }
    }
}

impl TryFrom<&str> for Kind {
    type Error = Unknown;

    fn try_from(name: &str) -> Result<Self, Unknown> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.name() == name)
            .ok_or(Unknown)
    }
}

impl core::fmt::Display for Kind {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.name())
    }
}
