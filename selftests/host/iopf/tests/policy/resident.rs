// SPDX-License-Identifier: GPL-2.0

//! The table of pages that a device can reach, against a map.

use std::collections::BTreeMap;

use iopf_host::policy::{
    eviction::Eviction,
    page::Page,
    resident::{
        Full,
        Protection,
        Reason,
        Resident, //
    },
};
use proptest::prelude::*;

use super::pages;

#[derive(Clone, Debug)]
enum Step {
    Insert(u64, Protection, Reason),
    Touch(u64),
    Remove(u64),
    Evict(usize),
    Drain(u64, u64),
    Grow,
    Policy(Eviction),
}

/// Few pages, so that they meet, and some that are far away.
fn page() -> impl Strategy<Value = u64> {
    prop_oneof![0u64..80, (0u64..8).prop_map(|page| Page::LAST.0 - page)]
}

fn step() -> impl Strategy<Value = Step> {
    let protection = prop_oneof![Just(Protection::ReadOnly), Just(Protection::Writable)];
    let reason = prop_oneof![Just(Reason::Demand), Just(Reason::Ahead)];

    prop_oneof![
        8 => (page(), protection, reason).prop_map(|(page, protection, reason)| Step::Insert(page, protection, reason)),
        2 => page().prop_map(Step::Touch),
        2 => page().prop_map(Step::Remove),
        3 => (0usize..6).prop_map(Step::Evict),
        1 => (page(), 0u64..30).prop_map(|(first, count)| Step::Drain(first, count)),
        1 => (0u64..40).prop_map(|first| Step::Drain(first, 1 << 40)),
        1 => Just(Step::Grow),
        1 => prop_oneof![Just(Eviction::Clock), Just(Eviction::Lru)].prop_map(Step::Policy),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn the_table_is_a_map(steps in prop::collection::vec(step(), 1..200)) {
        let mut table = Resident::new(Vec::new());
        let mut model = BTreeMap::new();
        let mut policy = Eviction::Clock;

        for step in steps {
            match step {
                Step::Insert(page, protection, reason) => {
                    if model.contains_key(&page) {
                        continue;
                    }
                    if let Err(Full) = table.insert(Page(page), protection, reason, policy) {
                        let slots = table.wanted_slots(1).expect("a full table wants more");

                        table.grow(vec![0; slots]);
                        prop_assert_eq!(table.insert(Page(page), protection, reason, policy), Ok(()));
                    }
                    model.insert(page, protection);
                }
                Step::Touch(page) => table.touch(Page(page), policy),
                Step::Remove(page) => {
                    prop_assert_eq!(table.remove(Page(page)), model.remove(&page).is_some());
                }
                Step::Evict(count) => {
                    let mut victims = [Page(0); 4];
                    let taken = table.evict_several(policy, count, &mut victims);

                    prop_assert_eq!(taken.len(), count.min(4).min(model.len()));
                    prop_assert!(taken.is_sorted());
                    for page in taken {
                        prop_assert!(model.remove(&page.0).is_some());
                    }
                }
                Step::Drain(first, count) => {
                    let range = pages(first, count.min(Page::LAST.0 + 1 - first));
                    let mut taken: Vec<u64> = table.drain(range).map(|page| page.0).collect();
                    let expected: Vec<u64> = model.keys().copied().filter(|&page| range.contains(Page(page))).collect();

                    if count < 8 {
                        prop_assert!(taken.is_sorted());
                    }
                    taken.sort_unstable();
                    prop_assert_eq!(&taken, &expected);
                    model.retain(|&page, _| !range.contains(Page(page)));
                }
                Step::Grow => if let Some(slots) = table.wanted_slots(20) {
                    table.grow(vec![0; slots]);
                    prop_assert_eq!(table.wanted_slots(20), None);
                },
                Step::Policy(eviction) => policy = eviction,
            }
            prop_assert_eq!(table.len(), model.len());
            for page in (0..80).chain(Page::LAST.0 - 8..=Page::LAST.0) {
                prop_assert_eq!(table.protection(Page(page)), model.get(&page).copied());
            }
        }
    }
}

#[test]
fn a_table_without_memory_has_room_for_nothing() {
    let mut table = Resident::new(Vec::new());

    assert_eq!(table.protection(Page(0)), None);
    assert_eq!(table.evict(Eviction::Clock), None);
    assert_eq!(table.drain(pages(0, 10)).count(), 0);
    assert_eq!(
        table.insert(Page(0), Protection::ReadOnly, Reason::Demand, Eviction::Lru),
        Err(Full)
    );
}

#[test]
fn memory_that_is_too_small_is_given_back() {
    let mut table = Resident::new(vec![0; 100]);

    for page in 0..50 {
        table
            .insert(
                Page(page),
                Protection::ReadOnly,
                Reason::Demand,
                Eviction::Clock,
            )
            .unwrap();
    }
    assert_eq!(table.grow(vec![0; 10]).len(), 10);
    assert_eq!(table.len(), 50);
    assert_eq!(table.grow(vec![0; 200]).len(), 100);
    assert_eq!(table.len(), 50);
}

#[test]
fn a_page_costs_less_than_sixteen_bytes() {
    for eviction in Eviction::ALL {
        let mut table = Resident::new(Vec::new());
        let mut slots = 0;

        for page in 0..100_000u64 {
            if let Some(wanted) = table.wanted_slots(1) {
                slots = wanted;
                table.grow(vec![0; wanted]);
            }
            table
                .insert(
                    Page(page * 977),
                    Protection::ReadOnly,
                    Reason::Demand,
                    eviction,
                )
                .unwrap();
            // As a binding does that has come to its budget, more and more often.
            if page % 5 == 0 {
                table.evict(eviction);
            }
            if page > 100 {
                assert!(
                    slots * 8 < table.len() * 16,
                    "{slots} slots for {} pages",
                    table.len()
                );
            }
        }
    }
}

#[test]
fn what_was_only_brought_along_goes_first() {
    let mut table = Resident::new(vec![0; 200]);

    for page in 0..100 {
        let reason = if page % 4 == 0 {
            Reason::Demand
        } else {
            Reason::Ahead
        };

        table
            .insert(Page(page), Protection::ReadOnly, reason, Eviction::Clock)
            .unwrap();
    }
    for _ in 0..75 {
        let page = table.evict(Eviction::Clock).unwrap();

        assert_ne!(page.0 % 4, 0, "{page:?} was asked for");
    }
}

#[test]
fn what_is_asked_for_again_stays_longer() {
    for eviction in Eviction::ALL {
        let mut table = Resident::new(vec![0; 500]);

        for page in 0..200 {
            table
                .insert(Page(page), Protection::ReadOnly, Reason::Demand, eviction)
                .unwrap();
        }
        for page in 0..20 {
            table.touch(Page(page), eviction);
        }

        let kept = (0..100)
            .map(|_| table.evict(eviction).unwrap())
            .filter(|page| page.0 >= 20)
            .count();

        assert!(
            kept >= 95,
            "{eviction}: only {kept} of 100 taken were not asked for again"
        );
    }
}

#[test]
fn names_are_known_again() {
    for eviction in Eviction::ALL {
        assert_eq!(Eviction::try_from(eviction.name()), Ok(eviction));
        assert_eq!(Eviction::from_number(eviction.number()), eviction);
    }
    assert!(Eviction::try_from("fifo").is_err());
}
