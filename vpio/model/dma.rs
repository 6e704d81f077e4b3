// SPDX-License-Identifier: GPL-2.0

//! DMA that a device is about to do, and what becomes of it.

/// log2 of the size of a page.
const PAGE_SHIFT: u32 = 12;

/// Bytes of the guest's physical memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Guest-physical address of the first byte.
    pub start: u64,
    /// Number of bytes.
    pub len: u32,
}

impl Span {
    /// The number of the first page of 4 KiB, and how many there are; none if there are no bytes.
    pub const fn pages(self) -> (u64, u64) {
        let first = self.start >> PAGE_SHIFT;

        if self.len == 0 {
            return (first, 0);
        }

        let last = self.start.saturating_add((self.len as u64).wrapping_sub(1)) >> PAGE_SHIFT;

        (first, last.wrapping_sub(first).saturating_add(1))
    }
}

/// Where a guest has memory.
pub trait GuestMemory {
    /// Whether each byte is memory of the guest; true if there are no bytes.
    fn contains(&self, span: Span) -> bool;
}

/// Memory for a device that has no bus-master DMA.
impl GuestMemory for () {
    fn contains(&self, _: Span) -> bool {
        false
    }
}

/// Which way the data goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The device reads memory.
    FromMemory,
    /// The device writes memory.
    ToMemory,
}

/// A part of a device that does one DMA at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Channel {
    /// The receiver, into its ring.
    Receive = 0,
    /// The transmitter, from descriptor 0.
    Transmit0 = 1,
    /// The transmitter, from descriptor 1.
    Transmit1 = 2,
    /// The transmitter, from descriptor 2.
    Transmit2 = 3,
    /// The transmitter, from descriptor 3.
    Transmit3 = 4,
}

impl Channel {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Receive,
        Self::Transmit0,
        Self::Transmit1,
        Self::Transmit2,
        Self::Transmit3,
    ];

    /// Its bit in a set.
    const fn bit(self) -> u8 {
        1u8.wrapping_shl(self as u32)
    }
}

/// A set of channels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Channels(u8);

impl Channels {
    /// None.
    pub const NONE: Self = Self(0);

    /// The set with `channel`.
    #[inline]
    #[must_use]
    pub const fn with(self, channel: Channel) -> Self {
        Self(self.0 | channel.bit())
    }

    /// The set without `channel`.
    #[inline]
    #[must_use]
    pub const fn without(self, channel: Channel) -> Self {
        Self(self.0 & !channel.bit())
    }

    /// Whether `channel` is in the set.
    #[inline]
    pub const fn contains(self, channel: Channel) -> bool {
        self.0 & channel.bit() != 0
    }

    /// Whether there is none.
    #[inline]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// A DMA that a write would start, or make possible from now on.
///
/// It ends when the model says that its channel is over; a new one on the same channel takes the
/// place of the old one, which is over once the write has reached the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dma {
    /// Which part of the device does it.
    pub channel: Channel,
    /// The memory that the device can touch until it is over.
    pub span: Span,
    /// What the device does to it.
    pub direction: Direction,
}

/// Why a write does not reach the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denial {
    /// The DMA goes beyond the guest's memory.
    OutsideMemory(Dma),
    /// It would put the device into a mode whose DMA addresses are in memory, where the guest can
    /// change them after any check, or reaches what outlives the guest, such as its flash.
    Uncheckable,
    /// The registers have a width, and this was another: devices disagree about what that does.
    Width,
    /// It would send a frame of no bytes.
    NoFrame,
}

/// What a guest gets for a DMA that is denied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnDenied {
    /// Nothing: its write is dropped.
    #[default]
    Ignore,
    /// A machine-check exception; its write is dropped.
    MachineCheck,
}

/// There is no setting of that name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unknown;

impl OnDenied {
    /// All of them, in the order in which they are shown.
    pub const ALL: [Self; 2] = [Self::Ignore, Self::MachineCheck];

    /// The name in sysfs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ignore => "ignore",
            Self::MachineCheck => "machine-check",
        }
    }
}

impl TryFrom<&str> for OnDenied {
    type Error = Unknown;

    fn try_from(name: &str) -> Result<Self, Unknown> {
        Self::ALL
            .into_iter()
            .find(|setting| setting.name() == name)
            .ok_or(Unknown)
    }
}
