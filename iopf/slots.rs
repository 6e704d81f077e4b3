// SPDX-License-Identifier: GPL-2.0

//! Memory for the table of what a device can reach.

use core::{
    mem::size_of,
    ops::{
        Deref,
        DerefMut, //
    }, //
};

use kernel::{
    page::PAGE_SIZE,
    prelude::*, //
};

/// Words of a table. What `kmalloc()` gives is as large as a power of two, up to twice of what was asked
/// for, which large tables do not take.
pub(crate) enum Slots {
    /// Less than a page.
    Few(KVec<u64>),
    /// Pages.
    Many(VVec<u64>),
}

impl Slots {
    /// No words.
    pub(crate) const fn none() -> Self {
        Self::Few(KVec::new())
    }

    /// So many words, all 0. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(count: usize) -> Result<Self> {
        Ok(if count * size_of::<u64>() < PAGE_SIZE {
            Self::Few(KVec::from_elem(0, count, GFP_KERNEL)?)
        } else {
            Self::Many(VVec::from_elem(0, count, GFP_KERNEL)?)
        })
    }
}

impl Deref for Slots {
    type Target = [u64];

    fn deref(&self) -> &[u64] {
        match self {
            Self::Few(words) => words,
            Self::Many(words) => words,
        }
    }
}

impl DerefMut for Slots {
    fn deref_mut(&mut self) -> &mut [u64] {
        match self {
            Self::Few(words) => words,
            Self::Many(words) => words,
        }
    }
}
