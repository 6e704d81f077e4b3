// SPDX-License-Identifier: GPL-2.0

//! How often a device has to ask when it may keep less than it uses.

use iopf_host::policy::{
    eviction::Eviction,
    page::Page,
    resident::{
        Protection,
        Reason,
        Resident, //
    },
};

use super::Numbers;

/// Requests of a device that uses pages as `next` says, of which it may keep `budget`.
fn requests(
    eviction: Eviction,
    budget: usize,
    accesses: usize,
    mut next: impl FnMut() -> u64,
) -> usize {
    let mut table = Resident::new(vec![0; budget * 2]);
    let mut requests = 0;

    for access in 0..accesses {
        let page = Page(next());

        // A device that has a page says nothing.
        if table.protection(page).is_some() {
            continue;
        }
        if access > accesses / 2 {
            requests += 1;
        }
        if table.len() == budget {
            table.evict(eviction).unwrap();
        }
        table
            .insert(page, Protection::Writable, Reason::Demand, eviction)
            .unwrap();
    }
    requests
}

const PAGES: u64 = 4096;
const BUDGET: usize = PAGES as usize / 4;
const ACCESSES: usize = 400_000;

/// Nine in ten accesses to one in ten pages, four times the budget in all.
fn skewed() -> impl FnMut() -> u64 {
    let mut numbers = Numbers(9);

    move || {
        if numbers.below(10) == 0 {
            numbers.below(PAGES)
        } else {
            numbers.below(PAGES / 10)
        }
    }
}

#[test]
fn clock_knows_hot_pages_again() {
    let clock = requests(Eviction::Clock, BUDGET, ACCESSES, skewed());
    let lru = requests(Eviction::Lru, BUDGET, ACCESSES, skewed());
    // With the hot pages always there, what is left of the budget serves the rest.
    let cold = (PAGES - PAGES / 10) as f64;
    let ideal =
        ACCESSES as f64 / 2.0 * 0.1 * 0.9 * (1.0 - (BUDGET as f64 - PAGES as f64 / 10.0) / cold);

    println!(
        "requests of {}: clock {clock}, lru {lru}, ideal {ideal:.0}",
        ACCESSES / 2
    );
    assert!(clock < lru, "clock {clock}, lru {lru}");
    assert!((clock as f64) < 1.5 * ideal, "clock {clock}, ideal {ideal}");
}

#[test]
fn what_fits_is_asked_for_once() {
    for eviction in Eviction::ALL {
        let mut page = 0;
        let asked = requests(eviction, BUDGET, ACCESSES, || {
            page = (page + 1) % BUDGET as u64;
            page
        });

        assert_eq!(asked, 0, "{eviction}");
    }
}

#[test]
fn a_loop_that_does_not_fit_still_finds_some() {
    for eviction in Eviction::ALL {
        let mut page = 0;
        let asked = requests(eviction, BUDGET, ACCESSES, || {
            page = (page + 1) % (BUDGET as u64 * 5 / 4);
            page
        });

        println!("{eviction}: {asked} requests of {}", ACCESSES / 2);
        assert!(asked < ACCESSES / 2, "{eviction}: every access asks");
    }
}
