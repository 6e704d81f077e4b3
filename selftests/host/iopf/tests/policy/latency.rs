// SPDX-License-Identifier: GPL-2.0

//! The histogram of latencies.

use iopf_host::policy::latency::Latency;
use proptest::prelude::*;

#[test]
fn nothing_counted_took_no_time() {
    assert_eq!(Latency::new().percentile_us(50), 0);
}

#[test]
fn what_has_no_end_is_in_the_last_range() {
    let latency = Latency::new();

    latency.count(u64::MAX);
    assert_eq!(latency.ranges().last().unwrap().1, 1);
}

proptest! {
    #[test]
    fn a_time_is_in_the_first_range_that_has_it(ns in 0u64..10_000_000_000) {
        let latency = Latency::new();

        latency.count(ns);
        for (us, groups) in latency.ranges() {
            let within = ns <= us * 1000 && (us == 1 || ns > us / 2 * 1000);

            prop_assert_eq!(groups, u64::from(within));
        }
    }

    #[test]
    fn a_percentile_is_no_less_than_so_many(
        times in prop::collection::vec(1u64..30_000_000_000, 1..50),
        percent in 1u64..=100,
    ) {
        let latency = Latency::new();

        for &ns in &times {
            latency.count(ns);
        }

        let us = latency.percentile_us(percent);
        let within = times.iter().filter(|&&ns| ns <= us * 1000).count() as u64;

        prop_assert!(within * 100 >= percent * times.len() as u64);
    }
}
