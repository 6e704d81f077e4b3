// SPDX-License-Identifier: GPL-2.0

//! How a guest's accesses get to the card.

use core::fmt;

use kernel::prelude::*;
use pdio::{
    device::DmaDevice,
    error::not_supported,
    kvm::Support, //
};

/// The way of most accesses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Mode {
    /// Through user space, all of them.
    Trap = 0,
    /// Through the kernel, on the exit, all of them.
    Hook = 1,
    /// Without an exit, but for those that the model has to hear of: they are as in [`Mode::Hook`].
    Direct = 2,
    /// Without an exit, all of them, so that the model hears of nothing: what passing the card through to
    /// one guest costs, to compare the others with.
    Open = 3,
}

impl Mode {
    /// All of them, in the order in which they are shown.
    const ALL: [Self; 4] = [Self::Trap, Self::Hook, Self::Direct, Self::Open];

    /// The name in sysfs.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Trap => "trap",
            Self::Hook => "hook",
            Self::Direct => "direct",
            Self::Open => "open",
        }
    }

    /// Those that KVM can do as it is.
    pub(crate) fn offered(support: Support) -> impl Iterator<Item = Self> + Clone {
        Self::ALL
            .into_iter()
            .filter(move |mode| *mode == Self::Trap || support == Support::Patched)
    }

    /// Whether KVM can do it as it is. If not, the log of the card has why.
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP`: it cannot.
    pub(crate) fn check(self, card: &DmaDevice) -> Result {
        let support = Support::probe();

        if Self::offered(support).any(|offered| offered == self) {
            return Ok(());
        }
        dev_err!(
            card.device(),
            "no mode {}: {}\n",
            self.name(),
            support.text()
        );
        Err(not_supported())
    }

    /// Those that are offered, and the one that is chosen, in order.
    pub(crate) fn shown(
        offered: impl Iterator<Item = Self> + Clone,
        chosen: Self,
    ) -> impl Iterator<Item = Self> {
        Self::ALL
            .into_iter()
            .filter(move |mode| *mode == chosen || offered.clone().any(|offered| offered == *mode))
    }

    /// Whether accesses are handled in the kernel.
    pub(crate) fn is_hooked(self) -> bool {
        self != Self::Trap
    }

    /// Whether accesses need not exit.
    pub(crate) fn is_direct(self) -> bool {
        matches!(self, Self::Direct | Self::Open)
    }

    /// As a number.
    pub(crate) fn number(self) -> u8 {
        self as u8
    }

    /// The mode of that number.
    pub(crate) fn from_number(number: u8) -> Self {
        Self::ALL
            .into_iter()
            .find(|mode| mode.number() == number)
            .unwrap_or(Self::Trap)
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl TryFrom<&str> for Mode {
    type Error = Error;

    fn try_from(name: &str) -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|mode| mode.name() == name)
            .ok_or(EINVAL)
    }
}

/// The way that one access took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Route {
    /// Through user space.
    Trapped = 0,
    /// Through the kernel.
    Hooked = 1,
}
