// SPDX-License-Identifier: GPL-2.0

//! A table indexed by page number that takes memory only where it was touched.

use core::{
    mem,
    ptr,
    slice,
    sync::atomic::{
        AtomicPtr,
        Ordering::{
            AcqRel,
            Acquire, //
        }, //
    }, //
};

use kernel::{
    alloc::{
        flags::{
            GFP_ATOMIC,
            GFP_KERNEL,
            __GFP_NOWARN, //
        },
        AllocError, //
    },
    page::PAGE_SIZE,
    prelude::*, //
};

/// A table of `T`; a leaf of it is one page.
///
/// # Invariants
///
/// A pointer in `leaves` is null or owns `Self::PER_LEAF` initialized `T` that stay until the
/// table is dropped.
pub struct SparseTable<T> {
    leaves: KVVec<AtomicPtr<T>>,
}

// SAFETY: The table owns the `T`s, like a vector of them does.
unsafe impl<T: Send> Send for SparseTable<T> {}

// SAFETY: It hands out shared references to the `T`s only, and installs leaves atomically.
unsafe impl<T: Sync> Sync for SparseTable<T> {}

impl<T: Default> SparseTable<T> {
    /// Entries in a leaf.
    const PER_LEAF: usize = PAGE_SIZE / mem::size_of::<T>();

    /// A table of at least `len` entries, none of them allocated. May sleep.
    pub fn new(len: u64) -> Result<Self, AllocError> {
        let leaves =
            usize::try_from(len.div_ceil(Self::PER_LEAF as u64)).map_err(|_| AllocError)?;
        let mut table = KVVec::with_capacity(leaves, GFP_KERNEL)?;

        for _ in 0..leaves {
            table.push(AtomicPtr::new(ptr::null_mut()), GFP_KERNEL)?;
        }

        // INVARIANT: All pointers are null.
        Ok(Self { leaves: table })
    }

    /// The entry of `index`, if its leaf was ever allocated. May be called in any context.
    #[inline(always)]
    pub fn get(&self, index: u64) -> Option<&T> {
        let leaf = self
            .leaves
            .get((index / Self::PER_LEAF as u64) as usize)?
            .load(Acquire);

        if leaf.is_null() {
            return None;
        }

        // SAFETY: By the type invariant the leaf has `PER_LEAF` entries and stays as long as
        // `self`; the remainder is below that number.
        Some(unsafe { &*leaf.add(index as usize % Self::PER_LEAF) })
    }

    /// The entries from `first` on, `len` of them, if they are in one leaf that was ever allocated.
    /// May be called in any context.
    #[inline(always)]
    pub fn run(&self, first: u64, len: u64) -> Option<&[T]> {
        let (_, entries) = self.leaf((first / Self::PER_LEAF as u64) as usize)?;

        entries
            .get(first as usize % Self::PER_LEAF..)?
            .get(..len as usize)
    }

    /// The entry of `index`; allocates its leaf without sleeping.
    ///
    /// Fails without memory and beyond the end of the table.
    #[inline]
    pub fn get_or_alloc(&self, index: u64) -> Result<&T, AllocError> {
        match self.get(index) {
            Some(entry) => Ok(entry),
            None => {
                self.alloc_leaf((index / Self::PER_LEAF as u64) as usize)?;
                self.get(index).ok_or(AllocError)
            }
        }
    }

    /// Makes sure that a leaf is there.
    #[cold]
    fn alloc_leaf(&self, leaf: usize) -> Result<(), AllocError> {
        let slot = self.leaves.get(leaf).ok_or(AllocError)?;
        let mut entries = KVec::with_capacity(Self::PER_LEAF, GFP_ATOMIC | __GFP_NOWARN)?;

        for _ in 0..Self::PER_LEAF {
            entries.push(T::default(), GFP_ATOMIC)?;
        }

        let (entries, len, capacity) = entries.into_raw_parts();

        // INVARIANT: The pointer owns `PER_LEAF` entries, which the vector gave up.
        if slot
            .compare_exchange(ptr::null_mut(), entries, AcqRel, Acquire)
            .is_err()
        {
            // SAFETY: These are the parts of the vector above, and nobody else got the pointer.
            drop(unsafe { KVec::from_raw_parts(entries, len, capacity) });
        }
        Ok(())
    }

    /// Number of leaves, allocated or not.
    pub fn leaves(&self) -> usize {
        self.leaves.len()
    }

    /// The index of the first entry of leaf number `leaf`, and its entries if it is allocated.
    #[inline(always)]
    pub fn leaf(&self, leaf: usize) -> Option<(u64, &[T])> {
        let entries = self.leaves.get(leaf)?.load(Acquire);

        if entries.is_null() {
            return None;
        }

        // SAFETY: By the type invariant the leaf has `PER_LEAF` entries and stays as long as
        // `self`.
        let entries = unsafe { slice::from_raw_parts(entries, Self::PER_LEAF) };

        Some((leaf as u64 * Self::PER_LEAF as u64, entries))
    }
}

impl<T> Drop for SparseTable<T> {
    fn drop(&mut self) {
        for leaf in &mut self.leaves {
            let entries = *leaf.get_mut();

            if !entries.is_null() {
                let len = PAGE_SIZE / mem::size_of::<T>();

                // SAFETY: By the type invariant the pointer owns the entries, which came out of a
                // vector of this length and capacity.
                drop(unsafe { KVec::from_raw_parts(entries, len, len) });
            }
        }
    }
}
