// SPDX-License-Identifier: GPL-2.0

//! IOVA space that is handed out in order and given back in any pieces.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use dma_map_cache_host::model::iommu::pages;
use dma_map_cache_host::model::Iommu;
use dma_map_cache_host::strategy::address::{Iova, PageRange, PAGE_SHIFT};
use dma_map_cache_host::strategy::blocks::{Blocks, BLOCK_BYTES, BLOCK_PAGES};
use proptest::prelude::*;

const BASE: u64 = 1 << 40;

fn blocks(n: u64) -> Blocks<Iommu> {
    Blocks::new(BASE, BASE + n * BLOCK_BYTES - 1).unwrap()
}

fn alloc(blocks: &Blocks<Iommu>, cpu: usize, pages: u64) -> PageRange {
    PageRange {
        start: blocks.alloc(cpu, pages).expect("room"),
        pages,
    }
}

#[test]
fn pages_come_one_after_the_other() {
    let blocks = blocks(2);
    let ranges = [1, 64, 3].map(|n| alloc(&blocks, 0, n));

    assert_eq!(ranges[0].start, Iova(BASE));
    assert_eq!(ranges[1].start, ranges[0].end());
    assert_eq!(ranges[2].start, ranges[1].end());
}

#[test]
fn nothing_crosses_a_block_and_nothing_is_larger() {
    let blocks = blocks(3);

    assert_eq!(blocks.alloc(0, BLOCK_PAGES + 1), None);
    alloc(&blocks, 0, BLOCK_PAGES - 1);
    assert_eq!(alloc(&blocks, 0, 2).start, Iova(BASE + BLOCK_BYTES));
    assert_eq!(
        alloc(&blocks, 0, BLOCK_PAGES).start,
        Iova(BASE + 2 * BLOCK_BYTES)
    );
    assert_eq!(blocks.alloc(0, 1), None);
}

#[test]
fn cpus_have_blocks_of_their_own() {
    let blocks = blocks(2);

    assert_eq!(alloc(&blocks, 0, 1).start, Iova(BASE));
    assert_eq!(alloc(&blocks, 1, 1).start, Iova(BASE + BLOCK_BYTES));
    assert_eq!(alloc(&blocks, 0, 1).start, Iova(BASE + (1 << PAGE_SHIFT)));
}

/// One block goes round for ever.
#[test]
fn what_was_given_back_is_taken_again() {
    let blocks = blocks(1);

    for _ in 0..10 * BLOCK_PAGES {
        blocks.free(alloc(&blocks, 0, 1));
    }
}

#[test]
fn a_block_is_free_when_all_of_it_is() {
    let blocks = blocks(1);
    let all = alloc(&blocks, 0, BLOCK_PAGES);
    let part = |first: u64, n| PageRange {
        start: Iova(all.start.0 + (first << PAGE_SHIFT)),
        pages: n,
    };

    assert_eq!(blocks.alloc(0, 1), None);
    blocks.free(part(100, 300));
    blocks.free(part(0, 100));
    assert_eq!(blocks.alloc(0, 1), None);
    blocks.free(part(400, BLOCK_PAGES - 400));
    assert!(blocks.alloc(0, 1).is_some());
}

/// One run through the end of a block into the next.
#[test]
fn parts_of_two_blocks_are_given_back_by_one_call() {
    let blocks = blocks(2);
    let first = alloc(&blocks, 0, BLOCK_PAGES);
    let second = alloc(&blocks, 0, BLOCK_PAGES);

    assert_eq!(first.end(), second.start);
    blocks.free(PageRange {
        start: first.start,
        pages: 2 * BLOCK_PAGES,
    });
    alloc(&blocks, 0, BLOCK_PAGES);
    alloc(&blocks, 0, BLOCK_PAGES);
}

proptest! {
    #[test]
    fn no_page_is_handed_out_twice(
        steps in prop::collection::vec(
            (0..2usize, 1..=BLOCK_PAGES, any::<prop::sample::Index>(), 1..=64u64),
            1..200,
        ),
    ) {
        let blocks = blocks(8);
        let mut taken = BTreeSet::new();

        for (cpu, n, at, m) in steps {
            if let Some(start) = blocks.alloc(cpu, n) {
                let range = PageRange { start, pages: n };

                prop_assert_eq!(start.0 / BLOCK_BYTES, (range.end().0 - 1) / BLOCK_BYTES);
                prop_assert!(range.end().0 <= BASE + 8 * BLOCK_BYTES);
                for page in pages(range) {
                    prop_assert!(taken.insert(page), "page {page:#x} is handed out twice");
                }
            }

            // Some pages in a row, wherever they came from.
            let Some(&first) = taken.iter().nth(at.index(taken.len().max(1))) else {
                continue;
            };
            let run = (first..).take_while(|page| taken.contains(page)).take(m as usize);
            let run: Vec<_> = run.collect();

            for page in &run {
                taken.remove(page);
            }
            blocks.free(PageRange {
                start: Iova(first << PAGE_SHIFT),
                pages: run.len() as u64,
            });
        }

        for page in std::mem::take(&mut taken) {
            blocks.free(PageRange { start: Iova(page << PAGE_SHIFT), pages: 1 });
        }
        // But for what the CPUs hold all is there again.
        for _ in 0..6 {
            prop_assert!(blocks.alloc(0, BLOCK_PAGES).is_some());
        }
    }
}

/// CPUs that share a cursor, as when a thread moves to another CPU between two instructions.
#[test]
fn threads() {
    for seed in 0..300 {
        let blocks = Arc::new(blocks(6));
        let taken = Arc::new(Mutex::new(BTreeSet::new()));
        let thread = |sizes: &'static [u64]| -> interleave::Body<'_> {
            let (blocks, taken) = (blocks.clone(), taken.clone());

            Box::new(move || {
                for &n in sizes.iter().cycle().take(12) {
                    let range = alloc(&blocks, 0, n);

                    for page in pages(range) {
                        assert!(taken.lock().unwrap().insert(page), "handed out twice");
                    }
                    for page in pages(range) {
                        taken.lock().unwrap().remove(&page);
                    }
                    blocks.free(range);
                }
            })
        };

        interleave::run(
            seed,
            vec![thread(&[200, 1]), thread(&[300]), thread(&[BLOCK_PAGES, 7])],
        );
    }
}
