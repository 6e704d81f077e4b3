// SPDX-License-Identifier: GPL-2.0

//! IOVA space that is handed out in order and given back in any pieces.
//!
//! `struct iova_domain` wants back exactly what it handed out, so what was mapped by one call would
//! have to be unmapped by one call, and it searches a tree for more than 32 pages. A driver that
//! maps a batch of ring entries and later takes back those that its device has completed does not
//! do that. Here the space is cut into blocks of 2 MiB, which is what one page of page table maps:
//!
//! - each CPU takes pages from one block, one after the other, so that what is mapped together lies
//!   together and is cleared and invalidated together;
//! - a block counts the pages in it that are not free, and is used again, from its start, when all
//!   of them were given back, whatever the pieces.
//!
//! The page of page table under a block is used again with it. Neither the one nor the other takes
//! a lock or a look at a tree, but for the one call in a block's worth that needs another block.
//!
//! A mapping that lives long keeps its block from being used again. So in the worst case a block
//! holds one page: 2 MiB of IOVA space and a page of page table for 4 KiB, of which there are
//! [`MAX_BLOCKS`].

use core::sync::atomic::{
    fence,
    AtomicU64,
    Ordering::{
        Acquire,
        Relaxed,
        Release, //
    }, //
};

use super::{
    address::{
        Iova,
        PageRange,
        PAGE_SHIFT, //
    },
    backend::{
        Backend,
        Lock,
        OutOfMemory,
        Sparse, //
    },
};

/// log2 of the number of pages in a block: the entries of one page of page table, for every IOMMU
/// that this is compiled for.
const BLOCK_SHIFT: u32 = 9;
/// Pages in a block; nothing larger is handed out, and nothing crosses a multiple of it.
pub const BLOCK_PAGES: u64 = 1 << BLOCK_SHIFT;
/// Bytes in a block.
pub const BLOCK_BYTES: u64 = BLOCK_PAGES << PAGE_SHIFT;

/// Blocks at most: room for 2 TiB of buffers side by side, and for a million that lie as badly as
/// they can, with 32 KiB for the directory of their counts.
pub const MAX_BLOCKS: u64 = 1 << 20;

/// The CPU has no block.
const NONE: u64 = u64::MAX;

/// Where a CPU takes the next pages from: block << 16 | page in it, or [`NONE`]. A cache line, so
/// that CPUs do not meet.
#[repr(align(64))]
struct Cursor(AtomicU64);

impl Cursor {
    const BLOCK_SHIFT: u32 = 16;
    const PAGE: u64 = (1 << Self::BLOCK_SHIFT) - 1;
}

/// One block.
#[derive(Default)]
struct Block {
    /// Pages that are not free: those handed out and, while a CPU takes pages from the block, those
    /// that it has not taken yet.
    live: AtomicU64,
    /// While the block is free: the number of the free block below it, plus one; 0 if it is the
    /// last.
    below: AtomicU64,
}

/// The free blocks.
struct Free {
    /// The number of the free block that was given back last, plus one; 0 if there is none.
    top: u64,
    /// Blocks from this one on were never used.
    fresh: u64,
}

/// IOVA space.
pub struct Blocks<B: Backend> {
    /// The first address.
    base: u64,
    /// Number of blocks.
    len: u64,
    /// One for each CPU.
    cursors: B::List<Cursor>,
    blocks: B::Sparse<Block>,
    free: B::Lock<Free>,
}

impl<B: Backend> Blocks<B> {
    /// The space from `base`, a multiple of [`BLOCK_BYTES`], to `last`. May sleep.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`].
    pub fn new(base: u64, last: u64) -> Result<Self, OutOfMemory> {
        let len = (last.saturating_sub(base).saturating_add(1) / BLOCK_BYTES).min(MAX_BLOCKS);

        Ok(Self {
            base,
            len,
            cursors: B::list(B::cpus(), || Ok(Cursor(AtomicU64::new(NONE))))?,
            blocks: B::sparse(len)?,
            free: B::lock(Free { top: 0, fresh: 0 }),
        })
    }

    /// Takes `pages` pages, at most [`BLOCK_PAGES`], that do not cross a multiple of
    /// [`BLOCK_BYTES`]. Allocates without sleeping.
    #[inline]
    pub fn alloc(&self, cpu: usize, pages: u64) -> Option<Iova> {
        let cursor = &self.cursors.get(cpu)?.0;

        loop {
            let at = cursor.load(Relaxed);

            if at == NONE || (at & Cursor::PAGE) + pages > BLOCK_PAGES {
                return self.alloc_in_next(cursor, pages);
            }
            // Whoever uses up the block and takes it anew meanwhile leaves the cursor at a value
            // that is as right as it was.
            if cursor
                .compare_exchange(at, at.wrapping_add(pages), Relaxed, Relaxed)
                .is_ok()
            {
                return Some(self.address(at >> Cursor::BLOCK_SHIFT, at & Cursor::PAGE));
            }
        }
    }

    /// Goes on with another block.
    #[cold]
    fn alloc_in_next(&self, cursor: &AtomicU64, pages: u64) -> Option<Iova> {
        if pages > BLOCK_PAGES {
            return None;
        }

        // Closed first: if all that was taken from the block was given back, it is the next.
        let at = cursor.swap(NONE, Relaxed);

        if at != NONE {
            self.put(
                at >> Cursor::BLOCK_SHIFT,
                BLOCK_PAGES - (at & Cursor::PAGE).min(BLOCK_PAGES),
            );
        }

        let block = self.take()?;

        self.blocks.get(block)?.live.store(BLOCK_PAGES, Relaxed);

        let next = block << Cursor::BLOCK_SHIFT | pages;

        // An interrupt, or a CPU that this has moved away from, may have been here, too.
        if cursor
            .compare_exchange(NONE, next, Relaxed, Relaxed)
            .is_err()
        {
            self.put(block, BLOCK_PAGES - pages);
        }
        Some(self.address(block, 0))
    }

    /// Gives back any part of what was taken. The pages must be unreachable.
    #[inline]
    pub fn free(&self, range: PageRange) {
        let mut page = range.start.0.wrapping_sub(self.base) >> PAGE_SHIFT;
        let end = page + range.pages;

        while page < end {
            let block = page >> BLOCK_SHIFT;
            let next = ((block + 1) << BLOCK_SHIFT).min(end);

            self.put(block, next - page);
            page = next;
        }
    }

    /// The address of a page of a block.
    #[inline]
    fn address(&self, block: u64, page: u64) -> Iova {
        Iova(self.base + (((block << BLOCK_SHIFT) + page) << PAGE_SHIFT))
    }

    /// Counts pages of a block as free.
    #[inline]
    fn put(&self, block: u64, pages: u64) {
        let Some(state) = self.blocks.get(block) else {
            return;
        };

        // What was done with the pages is done before they are used again.
        if pages != 0 && state.live.fetch_sub(pages, Release) == pages {
            fence(Acquire);
            self.give(block, state);
        }
    }

    /// Keeps a block for the next who needs one.
    #[cold]
    fn give(&self, block: u64, state: &Block) {
        self.free.with(|free| {
            state.below.store(free.top, Relaxed);
            free.top = block + 1;
        });
    }

    /// Takes a free block: that which was given back last, because its page of page table is in the
    /// caches.
    fn take(&self) -> Option<u64> {
        self.free.with(|free| {
            if let Some(block) = free.top.checked_sub(1) {
                free.top = self.blocks.get(block)?.below.load(Relaxed);
                return Some(block);
            }
            if free.fresh == self.len || self.blocks.get_or_alloc(free.fresh).is_err() {
                return None;
            }
            free.fresh += 1;
            Some(free.fresh - 1)
        })
    }
}
