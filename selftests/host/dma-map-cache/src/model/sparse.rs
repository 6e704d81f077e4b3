// SPDX-License-Identifier: GPL-2.0

//! A sparse table.

use std::mem;
use std::sync::OnceLock;

use super::{fault, thread};
use crate::strategy::address::PAGE_SIZE;
use crate::strategy::backend::{OutOfMemory, Sparse};

/// A table whose leaves are one page each, and which ends exactly where it was told to.
pub struct SparseTable<T> {
    leaves: Box<[OnceLock<Box<[T]>>]>,
    len: u64,
}

impl<T> SparseTable<T> {
    const PER_LEAF: u64 = PAGE_SIZE / mem::size_of::<T>() as u64;

    /// A table of `len` entries.
    pub fn new(len: u64) -> Self {
        Self {
            leaves: (0..len.div_ceil(Self::PER_LEAF))
                .map(|_| OnceLock::new())
                .collect(),
            len,
        }
    }

    /// Number of leaves that take memory.
    pub fn allocated(&self) -> usize {
        self.leaves.iter().filter_map(OnceLock::get).count()
    }
}

impl<T: Default + Send + Sync> Sparse<T> for SparseTable<T> {
    fn get(&self, index: u64) -> Option<&T> {
        thread::jitter();
        let leaf = self.leaves.get((index / Self::PER_LEAF) as usize)?.get()?;

        leaf.get((index % Self::PER_LEAF) as usize)
    }

    fn run(&self, first: u64, len: u64) -> Option<&[T]> {
        let leaf = self.leaves.get((first / Self::PER_LEAF) as usize)?.get()?;
        let start = (first % Self::PER_LEAF) as usize;

        leaf.get(start..start + len as usize)
    }

    fn get_or_alloc(&self, index: u64) -> Result<&T, OutOfMemory> {
        // Beyond the end no memory helps, so that is no refusal: nobody may take it for one.
        let leaf = self
            .leaves
            .get((index / Self::PER_LEAF) as usize)
            .filter(|_| index < self.len)
            .ok_or(OutOfMemory)?;

        if leaf.get().is_none() {
            fault::allocate()?;
            leaf.get_or_init(|| {
                let first = index - index % Self::PER_LEAF;

                (first..self.len.min(first + Self::PER_LEAF))
                    .map(|_| T::default())
                    .collect()
            });
        }
        self.get(index).ok_or(OutOfMemory)
    }

    fn leaves(&self) -> usize {
        self.leaves.len()
    }

    fn leaf(&self, leaf: usize) -> Option<(u64, &[T])> {
        let entries = self.leaves.get(leaf)?.get()?;

        Some((leaf as u64 * Self::PER_LEAF, entries))
    }
}
