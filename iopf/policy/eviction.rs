// SPDX-License-Identifier: GPL-2.0

//! Which pages a device gives up first.
//!
//! An IOMMU does not tell what a device has used, so all that is known of a page's use is when it was
//! asked for, whether it was asked for by itself or brought along, and whether it was asked for again
//! soon after it was taken. Both policies go by that.

/// A policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Eviction {
    /// A hand goes round; a page is taken when it has no chances left (generalized clock, Smith
    /// 1978). One that was only brought along has none, one that was asked for has one, and one that
    /// was asked for again after it was taken has three: a page that is used all the time is then
    /// taken a quarter as often as one that is used once.
    Clock = 0,
    /// Of some pages under the hand, that which was asked for the longest time ago (sampled LRU).
    Lru = 1,
}

/// There is no policy of that name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unknown;

impl Eviction {
    /// All of them, in the order in which they are shown.
    pub const ALL: [Self; 2] = [Self::Clock, Self::Lru];

    /// What a device has that nobody chose a policy for: the one that knows pages again.
    pub const DEFAULT: Self = Self::Clock;

    /// The name in sysfs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Clock => "clock",
            Self::Lru => "lru",
        }
    }

    /// The number of a policy.
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The policy of a number.
    pub const fn from_number(number: u8) -> Self {
        match number {
            1 => Self::Lru,
            _ => Self::Clock,
        }
    }
}

impl TryFrom<&str> for Eviction {
    type Error = Unknown;

    fn try_from(name: &str) -> Result<Self, Unknown> {
        Self::ALL
            .into_iter()
            .find(|eviction| eviction.name() == name)
            .ok_or(Unknown)
    }
}

impl core::fmt::Display for Eviction {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.name())
    }
}
