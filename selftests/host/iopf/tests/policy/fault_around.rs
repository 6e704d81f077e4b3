// SPDX-License-Identifier: GPL-2.0

//! What is brought along, for devices that go through memory in many ways.

use std::collections::BTreeSet;

use iopf_host::policy::{
    fault_around::{
        Bounds,
        FaultAround,
        Malformed,
        Plan,
        Setting,
        INITIAL_CREDIT,
        MAX_CREDIT,
        MAX_PAGES, //
    },
    page::{
        Page,
        PageRange, //
    },
};
use proptest::prelude::*;

use super::{
    pages,
    Numbers, //
};

/// A device that asks for each page that is not mapped when it comes to it.
struct Device {
    policy: FaultAround,
    setting: Setting,
    mapped: BTreeSet<u64>,
    used: BTreeSet<u64>,
    groups: u64,
}

impl Device {
    fn new(setting: Setting) -> Self {
        Self {
            policy: FaultAround::new(),
            setting,
            mapped: BTreeSet::new(),
            used: BTreeSet::new(),
            groups: 0,
        }
    }

    fn auto() -> Self {
        Self::new(Setting::Auto)
    }

    fn access(&mut self, page: u64) {
        self.used.insert(page);
        if self.mapped.contains(&page) {
            return;
        }

        let Plan { window, strided } = self.policy.plan(pages(page, 1), ANYWHERE, self.setting);

        assert!(
            window.contains(Page(page)),
            "{window:?} is not about {page}"
        );
        assert!(window.count <= MAX_PAGES);
        self.groups += 1;
        self.mapped.extend(window.pages().map(|page| page.0));
        if let Some(strided) = strided {
            self.mapped.extend(strided.pages().map(|page| page.0));
        }
    }

    /// Mapped for each that was used, beyond what is granted at first.
    fn assert_earned(&self) {
        assert!(
            self.mapped.len() as u64 <= 2 * self.used.len() as u64 + INITIAL_CREDIT,
            "{} pages mapped for {} used",
            self.mapped.len(),
            self.used.len()
        );
    }
}

const MIB: u64 = 256;

const ANYWHERE: Bounds = Bounds {
    area: PageRange {
        first: Page(0),
        count: Page::LAST.0 + 1,
    },
    max_pages: MAX_PAGES,
};

#[test]
fn a_stream_takes_four_groups_per_mebibyte_from_the_first_one_on() {
    for mib in [1, 2, 4, 64] {
        let mut device = Device::auto();

        for page in 0..mib * MIB {
            device.access(7 + page);
        }
        assert!(
            device.groups <= 4 * mib,
            "{} groups for {mib} MiB",
            device.groups
        );
        device.assert_earned();
    }
}

#[test]
fn a_stream_downwards_is_one() {
    let mut device = Device::auto();

    for page in (0..4 * MIB).rev() {
        device.access(1000 + page);
    }
    assert!(device.groups <= 16, "{} groups", device.groups);
    device.assert_earned();
}

#[test]
fn a_copy_has_two_streams() {
    let mut device = Device::auto();

    for page in 0..4 * MIB {
        device.access(page);
        device.access(1 << 30 | page);
    }
    assert!(device.groups <= 2 * 16, "{} groups", device.groups);
    device.assert_earned();
}

#[test]
fn single_pages_anywhere_bring_nothing_along() {
    let mut device = Device::auto();
    let mut numbers = Numbers(1);

    for _ in 0..2000 {
        device.access(numbers.below(1 << 24));
    }
    assert!(
        device.mapped.len() <= device.used.len() + 64,
        "{} pages mapped for {} used",
        device.mapped.len(),
        device.used.len()
    );
}

#[test]
fn a_dense_region_in_any_order_costs_two_pages_for_each_used() {
    for region in [64, 1 << 10, 1 << 14] {
        let mut device = Device::auto();
        let mut numbers = Numbers(3);

        for _ in 0..region / 4 {
            device.access(numbers.below(region));
        }
        device.assert_earned();
    }
}

#[test]
fn pairs_anywhere_do_not_pass_for_streams_for_long() {
    let mut device = Device::auto();
    let mut numbers = Numbers(5);

    for _ in 0..5000 {
        let page = numbers.below(1 << 30);

        device.access(page);
        device.access(page + 1);
    }
    device.assert_earned();
}

#[test]
fn a_stride_is_followed() {
    for stride in [2i64, 3, 17, 64, -5, -64] {
        let mut device = Device::auto();

        for step in 0..1000 {
            device.access(((1 << 20) + step * stride) as u64);
        }
        assert!(
            device.groups <= 120,
            "{} groups with stride {stride}",
            device.groups
        );
        device.assert_earned();
    }
}

#[test]
fn what_a_stream_has_earned_does_not_last() {
    let mut device = Device::auto();

    for page in 0..1024 * MIB {
        device.access(page);
    }
    assert!(device.policy.credit() <= MAX_CREDIT);
}

#[test]
fn a_number_maps_the_aligned_block() {
    let mut device = Device::new(Setting::Fixed(16));

    device.access(35);
    assert_eq!(device.mapped, (32..48).collect());
    device.access(47);
    device.access(48);
    assert_eq!(device.groups, 2);
}

#[test]
fn the_last_page_is_the_end() {
    for setting in [Setting::Auto, Setting::Fixed(512), Setting::Fixed(500)] {
        let mut device = Device::new(setting);

        for page in Page::LAST.0 - 2000..=Page::LAST.0 {
            device.access(page);
        }
        for page in (0..2000).rev() {
            device.access(page);
        }
        assert!(device.mapped.iter().all(|&page| page <= Page::LAST.0));
    }
}

#[test]
fn settings_are_auto_or_a_number() {
    assert_eq!(Setting::try_from("auto"), Ok(Setting::Auto));
    assert_eq!(Setting::try_from("1"), Ok(Setting::Fixed(1)));
    assert_eq!(Setting::try_from("512"), Ok(Setting::Fixed(512)));
    for bad in [
        "",
        "0",
        "513",
        "-1",
        "+1",
        "0x10",
        "1 ",
        "Auto",
        "99999999999999999999",
    ] {
        assert_eq!(Setting::try_from(bad), Err(Malformed), "{bad}");
    }
    for setting in [Setting::Auto, Setting::Fixed(77)] {
        assert_eq!(Setting::from_number(setting.number()), setting);
        assert_eq!(Setting::try_from(setting.to_string().as_str()), Ok(setting));
    }
}

/// Some way through memory.
#[derive(Clone, Debug)]
struct Walk {
    first: u64,
    stride: i64,
    count: u64,
}

fn walk() -> impl Strategy<Value = Walk> {
    (
        0u64..1 << 40,
        prop_oneof![Just(1i64), Just(-1), -70i64..70],
        1u64..300,
    )
        .prop_map(|(first, stride, count)| Walk {
            first: first + (1 << 40),
            stride,
            count,
        })
}

proptest! {
    #[test]
    fn no_walk_costs_more_than_it_has_earned(walks in prop::collection::vec(walk(), 1..60)) {
        let mut device = Device::auto();

        for walk in walks {
            for step in 0..walk.count as i64 {
                device.access((walk.first as i64 + step * walk.stride) as u64);
            }
            device.assert_earned();
        }
    }

    #[test]
    fn any_request_is_part_of_its_window(
        requests in prop::collection::vec((0u64..300, 1u64..40), 1..200),
        fixed in 0u64..=MAX_PAGES,
        (below, above) in (0u64..100, 0u64..100),
        max_pages in 1u64..600,
    ) {
        let mut policy = FaultAround::new();
        let setting = Setting::from_number(fixed);

        for (first, count) in requests {
            let demand = pages(first, count);
            let area = pages(first.saturating_sub(below), count + below + above);
            let bounds = Bounds { area, max_pages };
            let Plan { window, strided } = policy.plan(demand, bounds, setting);

            prop_assert_eq!(window.intersection(demand), demand);
            prop_assert_eq!(window.intersection(area), window);
            prop_assert!(window.count <= max_pages.max(count));
            for page in strided.into_iter().flat_map(|strided| strided.pages()) {
                prop_assert!(area.contains(page));
            }
        }
    }
}
