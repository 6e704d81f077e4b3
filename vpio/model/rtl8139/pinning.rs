// SPDX-License-Identifier: GPL-2.0

//! For how long the memory of a transmit descriptor is pinned.

use super::super::dma::Unknown;

/// For how long the memory of a transmit descriptor is pinned.
///
/// The trade is between pages and exits: a driver with buffers of its own loads each address once and
/// then sends thousands of frames from it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pinning {
    /// From the write that starts a frame until it is sent. Every frame is seen.
    #[default]
    Transfer,
    /// From the write that loads the address, with the longest frame there is, until another one is
    /// loaded. No frame is seen.
    Address,
}

impl Pinning {
    /// All of them, in the order in which they are shown.
    pub const ALL: [Self; 2] = [Self::Transfer, Self::Address];

    /// The name in sysfs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Transfer => "transfer",
            Self::Address => "address",
        }
    }
}

impl TryFrom<&str> for Pinning {
    type Error = Unknown;

    fn try_from(name: &str) -> Result<Self, Unknown> {
        Self::ALL
            .into_iter()
            .find(|setting| setting.name() == name)
            .ok_or(Unknown)
    }
}
