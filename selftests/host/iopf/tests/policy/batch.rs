// SPDX-License-Identifier: GPL-2.0

//! Groups of requests, against a map.

use std::collections::BTreeMap;

use iopf_host::policy::{
    batch::{
        Batch,
        Full,
        Request, //
    },
    page::{
        Access,
        Page, //
    },
};
use proptest::prelude::*;

fn request() -> impl Strategy<Value = Request> {
    (0u64..50, any::<bool>()).prop_map(|(page, write)| Request {
        page: Page(page),
        access: if write { Access::Write } else { Access::Read },
    })
}

proptest! {
    #[test]
    fn a_batch_has_each_page_once_with_all_that_is_wanted(requests in prop::collection::vec(request(), 0..80)) {
        let mut batch = Batch::new();
        let mut model = BTreeMap::new();

        for request in requests {
            let room = model.len() < Batch::CAPACITY || model.contains_key(&request.page);

            prop_assert_eq!(batch.add(request), if room { Ok(()) } else { Err(Full) });
            if room {
                let access = model.entry(request.page).or_insert(request.access);

                *access = request.access.max(*access);
            }
        }

        let mut seen = Vec::new();

        for (run, access) in batch.runs() {
            prop_assert!(!run.is_empty());
            for page in run.pages() {
                seen.push((page, access));
            }
        }
        prop_assert_eq!(seen, model.into_iter().collect::<Vec<_>>());
    }

    #[test]
    fn neighbours_for_the_same_are_one_run(first in 0u64..1000, count in 1u64..33, rotate in 0usize..33) {
        let mut order: Vec<u64> = (first..first + count).collect();
        let mut batch = Batch::new();

        order.rotate_left(rotate % count as usize);
        for page in order {
            batch.add(Request { page: Page(page), access: Access::Read }).unwrap();
        }
        prop_assert_eq!(batch.runs().count(), 1);
    }
}
