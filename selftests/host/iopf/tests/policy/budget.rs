// SPDX-License-Identifier: GPL-2.0

//! What bindings may keep.

use iopf_host::policy::{
    budget::{
        donor,
        Budget,
        Exhausted, //
    },
    tunable::OutOfRange, //
};
use proptest::prelude::*;

#[test]
fn a_limit_is_in_whole_pages_and_not_zero() {
    let budget = Budget::new(8192);

    for bad in [0, 1, 4095, 4097, u64::MAX] {
        assert_eq!(budget.set_limit_bytes(bad), Err(OutOfRange));
        assert_eq!(budget.limit_bytes(), 8192);
    }
    assert_eq!(budget.set_limit_bytes(4096), Ok(()));
    assert_eq!(budget.limit(), 1);
}

#[test]
fn lowering_a_limit_shows_what_is_too_much() {
    let budget = Budget::new(10 * 4096);

    budget.charge(10).unwrap();
    assert_eq!(budget.excess(), 0);
    budget.set_limit_bytes(4 * 4096).unwrap();
    assert_eq!(budget.excess(), 6);
    assert_eq!(budget.charge(1), Err(Exhausted { room: 0 }));
    budget.uncharge(7);
    assert_eq!(budget.charge(1), Ok(()));
}

#[test]
fn charging_from_several_threads_never_exceeds_the_limit() {
    let budget = Budget::new(100 * 4096);

    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..10_000 {
                    if budget.charge(7).is_ok() {
                        assert!(budget.charged() <= 100);
                        budget.uncharge(7);
                    }
                }
            });
        }
    });
    assert_eq!(budget.charged(), 0);
}

proptest! {
    #[test]
    fn a_charge_is_all_or_nothing(limit in 1u64..100, charges in prop::collection::vec(0u64..40, 0..30)) {
        let budget = Budget::new(limit * 4096);
        let mut sum = 0;

        for pages in charges {
            match budget.charge(pages) {
                Ok(()) => sum += pages,
                Err(Exhausted { room }) => {
                    prop_assert_eq!(room, limit - sum);
                    prop_assert!(pages > room);
                }
            }
            prop_assert_eq!(budget.charged(), sum);
            prop_assert!(sum <= limit);
        }
    }

    #[test]
    fn nobody_gives_up_more_than_is_beyond_an_equal_share(
        own in 0u64..100,
        others in prop::collection::vec(0u64..100, 0..8),
        limit in 1u64..400,
    ) {
        let share = limit / (others.len() as u64 + 1);
        let found = donor(own, limit, others.iter().copied().enumerate());

        match found {
            Some(at) => {
                prop_assert!(others[at] > share);
                prop_assert!(others[at] > own);
                prop_assert_eq!(others[at], *others.iter().max().unwrap());
                prop_assert!(own <= share.max(1));
            }
            None => prop_assert!(
                own > share.max(1) || others.iter().all(|&pages| pages <= share || pages <= own)
            ),
        }
    }
}
