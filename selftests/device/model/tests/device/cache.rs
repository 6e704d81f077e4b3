// SPDX-License-Identifier: GPL-2.0

//! The translation cache: what it keeps, and what it gives up.

use std::collections::BTreeMap;

use proptest::prelude::*;
use svadma_model::abi::Replacement;
use svadma_model::cache::{Entry, Geometry, GeometryError, TranslationCache};
use svadma_model::host::{Access, Permissions};

use crate::machine::{RO, RW};

fn entry(page: u64) -> Entry {
    Entry {
        pasid: 1,
        page,
        target: page << 20,
        permissions: RW,
    }
}

fn cache(entries: u32, ways: u32, replacement: Replacement) -> TranslationCache {
    TranslationCache::new(Geometry::new(entries, ways, replacement).unwrap())
}

fn has(cache: &mut TranslationCache, page: u64) -> bool {
    cache.find(1, page, Access::Read).is_some()
}

/// Which of the pages 0 to 3 gives way to a fifth one, when they were used in this order after they
/// were brought in in the order of their numbers.
fn victim(replacement: Replacement, used: &[u64]) -> u64 {
    let mut cache = cache(4, 4, replacement);
    for page in 0..4 {
        assert!(!cache.insert(entry(page)));
    }
    for page in used {
        assert!(has(&mut cache, *page));
    }
    assert!(cache.insert(entry(4)));
    let gone: Vec<u64> = (0..4).filter(|page| !has(&mut cache, *page)).collect();
    assert_eq!(gone.len(), 1);
    gone[0]
}

#[test]
fn who_gives_way() {
    assert_eq!(victim(Replacement::LeastRecentlyUsed, &[0, 2, 1, 0]), 3);
    assert_eq!(victim(Replacement::LeastRecentlyUsed, &[3, 2, 1, 0]), 3);
    assert_eq!(victim(Replacement::FirstInFirstOut, &[0, 0, 0]), 0);
    // All were used since they came in, so the hand goes round once.
    assert_eq!(victim(Replacement::Clock, &[1, 2]), 0);
}

#[test]
fn the_hand_passes_what_was_used() {
    let mut cache = cache(4, 4, Replacement::Clock);
    for page in 0..5 {
        cache.insert(entry(page));
    }
    // Page 4 has taken the place of 0; of the others, none was used since the hand has passed.
    assert!(has(&mut cache, 1));
    cache.insert(entry(5));
    assert!(has(&mut cache, 1));
    assert!(!has(&mut cache, 2));
}

#[test]
fn random_spares_nobody() {
    let mut cache = cache(4, 4, Replacement::Random);
    let mut evictions = BTreeMap::new();
    for page in 0..1000 {
        let before: Vec<u64> = (0..page).filter(|it| has(&mut cache, *it)).collect();
        cache.insert(entry(page));
        for (way, old) in before.iter().enumerate() {
            if !has(&mut cache, *old) {
                *evictions.entry(way).or_insert(0) += 1;
            }
        }
    }
    assert!(evictions.len() == 4 && evictions.values().all(|count| *count > 50));
}

#[test]
fn shapes_that_cannot_be() {
    let shape = |entries, ways| Geometry::new(entries, ways, Replacement::Clock).map(|_| ());
    assert_eq!(shape(65_537, 1), Err(GeometryError::Entries));
    assert_eq!(shape(16, 0), Err(GeometryError::Ways));
    assert_eq!(shape(16, 5), Err(GeometryError::Ways));
    assert_eq!(shape(16, 32), Err(GeometryError::Ways));
    assert_eq!(shape(0, 0), Ok(()));
    assert_eq!(shape(65_536, 65_536), Ok(()));
}

#[test]
fn without_entries_nothing_is_kept() {
    let mut cache = cache(0, 4, Replacement::LeastRecentlyUsed);
    assert!(!cache.insert(entry(1)));
    assert!(!has(&mut cache, 1));
    assert!(cache.is_empty());
}

#[derive(Clone, Debug)]
enum Event {
    Insert(u32, u64, Permissions),
    Find(u32, u64, bool),
    Invalidate(u32, u64, u64),
}

fn event() -> impl Strategy<Value = Event> {
    let permissions = prop_oneof![Just(RW), Just(RO)];
    prop_oneof![
        4 => (1_u32..3, 0_u64..40, permissions).prop_map(|(pasid, page, permissions)| {
            Event::Insert(pasid, page, permissions)
        }),
        4 => (1_u32..3, 0_u64..40, any::<bool>())
            .prop_map(|(pasid, page, write)| Event::Find(pasid, page, write)),
        1 => (1_u32..3, 0_u64..40, 0_u64..10)
            .prop_map(|(pasid, first, more)| Event::Invalidate(pasid, first, first + more)),
    ]
}

proptest! {
    /// Whatever the cache finds was brought in last and not taken back, with the permission that it
    /// is wanted for; and of sets that were never full, it finds all of that.
    #[test]
    fn what_is_found_is_true(
        ways in 1_u32..6,
        sets in 1_u32..6,
        replacement in prop::sample::select(Replacement::ALL),
        events in prop::collection::vec(event(), 1..300),
    ) {
        let mut cache = cache(ways * sets, ways, replacement);
        let mut truth = BTreeMap::new();
        let mut evicted = false;
        for (target, event) in (1..).zip(events) {
            match event {
                Event::Insert(pasid, page, permissions) => {
                    evicted |= cache.insert(Entry { pasid, page, target, permissions });
                    truth.insert((pasid, page), (target, permissions));
                }
                Event::Find(pasid, page, write) => {
                    let access = if write { Access::Write } else { Access::Read };
                    let found = cache.find(pasid, page, access);
                    let known = truth.get(&(pasid, page));
                    let known = known.filter(|known| known.1.allow(access)).map(|known| known.0);
                    prop_assert!(found == known || found.is_none() && evicted);
                }
                Event::Invalidate(pasid, first, last) => {
                    let before = truth.len();
                    truth.retain(|(it, page), _| *it != pasid || !(first..=last).contains(page));
                    let found = cache.invalidate(pasid, first, last);
                    prop_assert!(found <= (before - truth.len()) as u64);
                }
            }
            prop_assert!(cache.len() <= (ways * sets) as usize);
        }
    }
}
