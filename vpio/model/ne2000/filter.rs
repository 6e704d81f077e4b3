// SPDX-License-Identifier: GPL-2.0

//! The receive filter.

use super::{
    super::frame::{
        Address,
        ADDRESS_LEN, //
    },
    register::rcr,
};

/// The registers that say which frames are received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filter {
    /// RCR.
    pub config: u8,
    /// PAR.
    pub address: [u8; ADDRESS_LEN],
    /// MAR.
    pub multicast: [u8; 8],
}

impl Filter {
    /// RCR to receive, beside what `config` does, what anybody might want; with MAR all ones.
    pub const fn widened(config: u8) -> u8 {
        config | rcr::AB | rcr::AM | rcr::PRO
    }

    /// Whether it lets a frame in that is for `destination`.
    pub fn accepts(&self, destination: Address) -> bool {
        if self.config & rcr::PRO != 0 {
            return true;
        }
        if destination == Address::BROADCAST {
            return self.config & rcr::AB != 0;
        }
        if destination.is_multicast() {
            let bit = u64::from_le_bytes(self.multicast) >> (destination.multicast_hash() & 63) & 1;

            return self.config & rcr::AM != 0 && bit != 0;
        }

        destination.0 == self.address
    }
}
