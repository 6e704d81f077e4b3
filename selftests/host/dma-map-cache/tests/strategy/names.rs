// SPDX-License-Identifier: GPL-2.0

//! What a user reads and writes: names, numbers and counters.

use dma_map_cache_host::model::Driver;
use dma_map_cache_host::strategy::address::PAGE_SIZE;
use dma_map_cache_host::strategy::counter::{Counter, Flow};
use dma_map_cache_host::strategy::exposure::Age;
use dma_map_cache_host::strategy::kind::Unknown;
use dma_map_cache_host::strategy::tunable::{OutOfRange, Range, Tunable};
use dma_map_cache_host::strategy::Kind;

use crate::machine::driver;

#[test]
fn strategies_have_names() {
    for kind in Kind::ALL {
        assert_eq!(Kind::try_from(kind.name()), Ok(kind));
        assert_eq!(kind.to_string(), kind.name());
    }
    for name in [
        "", "Strict", "strict ", "strict\n", " strict", "stric", "strictly", "3",
    ] {
        assert_eq!(Kind::try_from(name), Err(Unknown), "{name:?}");
    }
}

#[test]
fn a_switch_is_remembered() {
    let mut driver = driver(Kind::DEFAULT);

    assert_eq!(driver.engine.current(), Kind::Strict);
    for from in Kind::ALL {
        for to in Kind::ALL {
            driver.switch(from).unwrap();
            driver.switch(to).unwrap();
            assert_eq!(driver.engine.chosen(), to);
        }
    }
}

#[test]
fn some_expose_nothing() {
    let nothing: Vec<_> = Kind::ALL
        .into_iter()
        .filter(|kind| kind.exposes_nothing())
        .collect();

    assert_eq!(nothing, [Kind::Strict, Kind::Batched, Kind::Pool]);
}

#[test]
fn numbers_out_of_range_change_nothing() {
    let tunable = Tunable::new(Range {
        min: 8,
        max: 64,
        step: 4,
        default: 32,
    });

    assert_eq!(tunable.get(), 32);
    for bad in [0, 4, 7, 9, 63, 65, 68, u64::MAX] {
        assert_eq!(tunable.set(bad), Err(OutOfRange), "{bad}");
        assert_eq!(tunable.get(), 32);
    }
    for good in [8, 12, 64] {
        assert_eq!(tunable.set(good), Ok(()));
        assert_eq!(tunable.get(), good);
    }
}

/// The limits and defaults are part of the ABI.
#[test]
fn limits_are_those_of_the_abi() {
    let Driver { engine, .. } = driver(Kind::DEFAULT);
    let check = |tunable: &Tunable, default, min: u64, max, step| {
        assert_eq!(tunable.get(), default);
        for bad in [min.wrapping_sub(1), max + 1, max + step] {
            assert_eq!(tunable.set(bad), Err(OutOfRange));
        }
        assert_eq!((tunable.set(max), tunable.get()), (Ok(()), max));
        assert_eq!((tunable.set(min), tunable.get()), (Ok(()), min));
        assert_eq!(tunable.set(min + step), Ok(()));
        assert_eq!(tunable.set(min + step / 2).is_ok(), step == 1);
    };

    check(&engine.deferred.max_unmaps, 256, 1, 1024, 1);
    check(&engine.deferred.max_us, 10_000, 100, 1_000_000, 1);
    check(&engine.cached.budget_bytes, 64 << 20, 0, 1 << 40, PAGE_SIZE);
    check(&engine.cached.max_age_ms, 10_000, 1, 3_600_000, 1);
    check(&engine.contiguous.max_unmaps, 64, 1, 512, 1);
    check(&engine.auto.limit_us, 0, 0, 3_600_000_000, 1);
    check(&engine.auto.limit_pages, 16_384, 0, 1 << 28, 1);
    check(&engine.persistent.cap_bytes, 1 << 30, 0, 1 << 40, PAGE_SIZE);

    let pool = &engine.pool.limits;

    check(&pool.min_bytes, 1 << 20, 0, 256 << 20, 65_536);
    check(&pool.max_bytes, 64 << 20, 0, 256 << 20, 65_536);
    check(&pool.max_buffer_bytes, 16_384, 256, 65_536, 256);
}

#[test]
fn counters_do_not_share_places() {
    let flows = Flow::PAGES.into_iter().chain([Flow::Idle, Flow::Queue]);
    let ages = Age::all().flat_map(|age| [Counter::Idled(age), Counter::Queued(age)]);
    let mut places: Vec<_> = [
        Counter::Maps,
        Counter::Unmaps,
        Counter::Hits,
        Counter::Misses,
        Counter::Evictions,
        Counter::Flushes,
        Counter::PteUpdates,
        Counter::Fallbacks,
        Counter::CachedHits,
        Counter::CachedUnmaps,
        Counter::PremappedHits,
        Counter::PremappedUnmaps,
        Counter::WatchedBuffers,
        Counter::WatchedListed,
        Counter::WatchedLists,
        Counter::WatchedBytes,
        Counter::WatchedReuses,
        Counter::CopiedBytes,
        Counter::PoolHits,
        Counter::PoolUnmaps,
        Counter::CachedIdles,
    ]
    .into_iter()
    .chain(flows.flat_map(|flow| [Counter::In(flow), Counter::Out(flow)]))
    .chain(ages)
    .map(Counter::index)
    .collect();

    places.sort();
    assert_eq!(places, (0..Counter::COUNT).collect::<Vec<_>>());
}
