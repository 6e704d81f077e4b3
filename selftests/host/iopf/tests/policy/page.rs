// SPDX-License-Identifier: GPL-2.0

//! Pages and ranges of them.

use iopf_host::policy::page::{
    Page,
    PageRange,
    Runs, //
};
use proptest::prelude::*;

use super::pages;

#[test]
fn an_address_is_in_its_page() {
    assert_eq!(Page::of(0x1fff), Page(1));
    assert_eq!(Page(1).address(), 0x1000);
    assert_eq!(Page::of(u64::MAX), Page::LAST);
    assert_eq!(Page::LAST.offset(1), None);
    assert_eq!(Page(0).offset(-1), None);
    assert_eq!(Page(5).distance(Page(3)), -2);
}

proptest! {
    #[test]
    fn an_intersection_has_what_both_have(a in 0u64..40, n in 0u64..20, b in 0u64..40, m in 0u64..20) {
        let (one, other) = (pages(a, n), pages(b, m));
        let both = one.intersection(other);

        for page in (0..80).map(Page) {
            prop_assert_eq!(both.contains(page), one.contains(page) && other.contains(page));
        }
    }

    #[test]
    fn runs_are_as_long_as_they_can_be(set in prop::collection::btree_set(0u64..60, 0..40)) {
        let runs: Vec<PageRange> = Runs::new(set.iter().copied().map(Page)).collect();
        let again: Vec<u64> = runs.iter().flat_map(|run| run.pages()).map(|page| page.0).collect();

        prop_assert_eq!(again, set.into_iter().collect::<Vec<_>>());
        for pair in runs.windows(2) {
            prop_assert!(pair[0].end() < pair[1].first);
        }
    }
}
