// SPDX-License-Identifier: GPL-2.0

//! `auto`: what it picks for which load, within which bound, and that it does not flap.

use dma_map_cache_host::model::Driver;
use dma_map_cache_host::strategy::auto::{Bound, Choice, Load};
use dma_map_cache_host::strategy::backend::Access;
use dma_map_cache_host::strategy::Kind;

use crate::machine::{driver, pages};

const ANY: Bound = Bound {
    us: 1_000_000,
    pages: 10_000,
};

/// Buffers of a page, one by one.
fn singles(reused_percent: u64) -> Load {
    Load {
        buffers: 10_000,
        bytes: 10_000 * 4096,
        reused_percent,
        ..Load::default()
    }
}

/// Lists of 32 pages each.
fn lists() -> Load {
    Load {
        listed: 10_000,
        lists: 10_000 / 32,
        ..singles(0)
    }
}

/// What is picked if a load goes on.
fn settled(bound: Bound, trusted: bool, load: Load) -> Kind {
    let mut choice = Choice::new(bound, trusted);

    for _ in 0..20 {
        choice.consider(bound, load);
    }
    choice.reason.kind
}

#[test]
fn picks_by_load() {
    assert_eq!(settled(ANY, true, singles(95)), Kind::Cached);
    assert_eq!(settled(ANY, true, singles(0)), Kind::Contiguous);
    // One flush for each list is little beside its pages.
    assert_eq!(settled(ANY, true, lists()), Kind::Batched);
}

/// Copying what is small costs less than a page table.
#[test]
fn picks_the_pool_for_what_it_copies() {
    let nothing = Bound { us: 0, ..ANY };
    let small = Load {
        bytes: 10_000 * 64,
        copied_bytes: 16_384,
        ..singles(0)
    };
    let large = Load {
        bytes: 10_000 * 65_536,
        ..small
    };

    assert_eq!(settled(nothing, true, small), Kind::Pool);
    assert_eq!(settled(nothing, false, small), Kind::Pool);
    assert_eq!(settled(nothing, true, large), Kind::Batched);
}

#[test]
fn picks_within_the_bound() {
    let bound = |us, pages| Bound { us, pages };

    for load in [singles(0), singles(95), lists()] {
        assert_eq!(settled(bound(0, 1000), true, load), Kind::Batched);
        assert_eq!(settled(bound(1_000_000, 0), true, load), Kind::Batched);
        assert_eq!(settled(bound(99, 1000), true, load), Kind::Batched);
        assert!(settled(ANY, false, load).exposes_nothing());
    }
    assert_eq!(
        settled(bound(5_000, 1000), true, singles(95)),
        Kind::Deferred
    );
    assert_eq!(
        settled(bound(15_000, 1000), true, singles(95)),
        Kind::Contiguous
    );
}

/// A load that alternates faster than its patience is no reason to change.
#[test]
fn does_not_flap() {
    for period in 1..=3 {
        let mut choice = Choice::new(ANY, true);

        for _ in 0..10 {
            choice.consider(ANY, singles(0));
        }
        assert_eq!(choice.reason.kind, Kind::Contiguous);
        for interval in 0..200 {
            let load = if interval / period % 2 == 0 {
                singles(95)
            } else {
                singles(0)
            };

            assert_eq!(choice.consider(ANY, load), None, "{period} {interval}");
        }
    }
}

/// Loads that two strategies cost nearly the same for.
#[test]
fn does_not_flap_between_equals() {
    let mut choice = Choice::new(ANY, true);
    let mut switches = 0;

    for interval in 0..1_000u64 {
        // Around where `cached` and `contiguous` cost the same.
        let load = singles(56 + interval % 7);

        switches += u32::from(choice.consider(ANY, load).is_some());
    }
    assert!(switches <= 1, "{switches}");
}

#[test]
fn changes_when_the_load_has() {
    let mut choice = Choice::new(ANY, true);
    let mut intervals = |load| {
        (1..20)
            .find(|_| choice.consider(ANY, load).is_some())
            .expect("a change")
    };

    assert_eq!(intervals(singles(95)), 4);
    assert_eq!(intervals(singles(0)), 4);
}

#[test]
fn a_bound_holds_at_once() {
    let mut choice = Choice::new(ANY, true);

    for _ in 0..10 {
        choice.consider(ANY, singles(95));
    }
    assert_eq!(choice.reason.kind, Kind::Cached);
    // Also when nothing is going on.
    let nothing = Bound { us: 0, ..ANY };

    assert_eq!(
        choice.consider(nothing, Load::default()),
        Some(Kind::Batched)
    );
}

#[test]
fn an_idle_device_stays_as_it_is() {
    let mut choice = Choice::new(ANY, true);

    for _ in 0..10 {
        choice.consider(ANY, singles(95));
    }
    for _ in 0..10 {
        assert_eq!(choice.consider(ANY, Load::default()), None);
    }
}

#[test]
fn says_why() {
    let mut choice = Choice::new(ANY, true);

    assert_eq!(
        choice.reason.to_string(),
        "batched: 10000 pages may stay reachable for 1000000 us; nothing is known of the driver yet"
    );
    for _ in 0..10 {
        choice.consider(Bound { us: 0, ..ANY }, singles(95));
    }

    let reason = choice.reason.to_string();

    assert!(
        reason.starts_with(
            "batched: nothing may stay reachable; of 10000 buffers of 4096 bytes 95% were in \
             pages used before, 0% in lists; estimated cost"
        ),
        "{reason}"
    );
    assert!(reason.contains(" batched 2870 "), "{reason}");
    assert!(
        reason.contains(" (contiguous 1440, not allowed)"),
        "{reason}"
    );
}

fn turn(driver: &mut Driver, first: u64, n: u64) {
    for page in first..first + n {
        driver.map(pages(page, 1), Access::Write).unwrap();
        driver.unmap_all();
    }
    driver.decide();
}

/// From watching to a decision, and back.
#[test]
fn watches_reuse() {
    let mut driver = driver(Kind::Auto);

    driver.set_bound(1_000_000, 10_000);
    for _ in 0..6 {
        turn(&mut driver, 0x100, 0x80);
    }
    assert_eq!(driver.engine.current(), Kind::Cached);
    assert_eq!(driver.engine.chosen(), Kind::Auto);
    driver.set_bound(0, 10_000);
    assert!(driver.engine.current().exposes_nothing());
    driver.switch(Kind::Strict).unwrap();
    assert!(driver.engine.reason().is_none());
}

#[test]
fn watches_that_nothing_is_used_again() {
    let mut driver = driver(Kind::Auto);

    driver.set_bound(1_000_000, 10_000);
    for n in 0..6 {
        turn(&mut driver, 0x200 + n * 0x100, 0x100);
    }
    assert_eq!(driver.engine.current(), Kind::Pool);
}
