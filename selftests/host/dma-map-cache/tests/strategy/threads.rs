// SPDX-License-Identifier: GPL-2.0

//! Several CPUs, the same pages, and a user who cannot decide.
//!
//! What must hold at any moment is checked by whoever can see it: the model panics when something
//! is mapped or given back that the device still reaches otherwise, and each thread looks up its
//! own buffers. What must hold in the end is checked in the end.
//!
//! Each storm blows twice: with as many threads at once as there are CPUs, many times; and, shorter,
//! one thread at a time in thousands of orders, with a switch possible at every atomic.

use std::panic::{catch_unwind, resume_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread::scope;

use dma_map_cache_host::model::sg::SgList;
use dma_map_cache_host::model::{thread, Iommu};
use dma_map_cache_host::strategy::address::{
    Buffer, Iova, Layout, PageRange, Phys, Window, PAGE_SHIFT, PAGE_SIZE,
};
use dma_map_cache_host::strategy::backend::{Access, Arena, Backend};
use dma_map_cache_host::strategy::counter::{Counter, Flow};
use dma_map_cache_host::strategy::engine::Reach;
use dma_map_cache_host::strategy::list::SegmentLimits;
use dma_map_cache_host::strategy::{Engine, Kind};

use interleave::Body;

use crate::machine::{iommu, LAST};

const REACH: Reach = Reach {
    limit: u64::MAX,
    segment: SegmentLimits::NONE,
    align_mask: 0,
};

/// Orders in which a pool is used: cutting memory has many points.
const CUTTING: u64 = 500;

/// Numbers without a pattern.
struct Random(u64);

impl Random {
    fn new(seed: u64, cpu: usize) -> Self {
        Self((seed * 8 + cpu as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % n
    }
}

/// What the user at the controls does meanwhile.
struct Storm {
    /// Strategies to switch between.
    kinds: &'static [Kind],
    /// Budgets to switch between, in pages.
    budgets: &'static [u64],
    /// Unmaps per flush.
    max_unmaps: u64,
    /// Pages that the threads fight for.
    hot: u64,
}

impl Storm {
    /// An engine on a machine, as the storm finds it.
    fn machine(&self, iommu: Iommu, layout: Layout) -> (Iommu, Engine<Iommu>) {
        let engine = Engine::new(layout, iommu.ram_end()).unwrap();

        engine.deferred.max_unmaps.set(self.max_unmaps).unwrap();
        engine.cached.max_age_ms.set(20).unwrap();
        // Not so much that there would be always enough.
        engine.pool.limits.min_bytes.set(0).unwrap();
        engine.pool.limits.max_bytes.set(4 << 16).unwrap();
        engine
            .cached
            .budget_bytes
            .set(self.budgets[0] << PAGE_SHIFT)
            .unwrap();
        engine.retune(&iommu);
        engine.switch(&iommu, self.kinds[0]).unwrap();
        (iommu, engine)
    }
}

/// A mapping of a thread.
enum Mapped {
    Single(Iova, Buffer),
    List(SgList),
}

impl Mapped {
    /// Leaves a mark in what is a copy, that nobody else may touch.
    fn mark(&self, iommu: &Iommu, mark: u8) {
        self.for_each(|iova, buffer| {
            if is_copy(iova) {
                iommu.device_write(iova, &[mark]);
                iommu.device_write(Iova(iova.0 + buffer.len - 1), &[mark]);
            }
        });
    }

    /// Whether the mark is still there.
    fn check_mark(&self, iommu: &Iommu, mark: u8) {
        self.for_each(|iova, buffer| {
            if is_copy(iova) {
                let last = Iova(iova.0 + buffer.len - 1);

                assert_eq!(
                    (iommu.device_read(iova, 1), iommu.device_read(last, 1)),
                    (vec![mark], vec![mark]),
                    "two buffers share a slot"
                );
            }
        });
    }

    fn for_each(&self, mut f: impl FnMut(Iova, Buffer)) {
        match self {
            Self::Single(iova, buffer) => f(*iova, *buffer),
            Self::List(list) => {
                for (iova, buffer) in list.found() {
                    f(iova, buffer);
                }
            }
        }
    }

    /// Whether the device finds all of it.
    fn check(&self, iommu: &Iommu, access: Access) {
        self.for_each(|iova, buffer| {
            for n in 0..if is_copy(iova) { 0 } else { buffer.pages() } {
                let at = Iova(iova.0 + (n << PAGE_SHIFT));
                let entry = iommu.translate(at);

                assert!(
                    entry.is_some_and(
                        |entry| entry.page == buffer.phys.page() + n && entry.allows(access)
                    ),
                    "the device finds {entry:x?} at {at:x?} for {buffer:x?}, {access:?}"
                );
            }
        });
    }
}

/// Whether the device works on a copy at an address.
fn is_copy(iova: Iova) -> bool {
    iova.0 >> 44 == Window::Pool as u64
}

/// One CPU with a driver on it.
///
/// Maps `maps` buffers in the hot pages, which begin at page `first`.
fn drive(
    storm: &Storm,
    (iommu, engine): (&Iommu, &Engine<Iommu>),
    random: &mut Random,
    first: u64,
    maps: usize,
) {
    let mut live: Vec<(Mapped, Access, u8)> = Vec::new();
    // Some races need a moment without any mapping in use.
    let held = 1 + random.below(6);

    for n in 0..maps {
        let access = [Access::Read, Access::Write, Access::ReadWrite][random.below(3) as usize];
        let mut buffer = || Buffer {
            phys: Phys((first + random.below(storm.hot)) * PAGE_SIZE + random.below(PAGE_SIZE)),
            len: 1 + random.below(3 * PAGE_SIZE),
        };
        let mapped = if n % 4 == 0 {
            let mut list = SgList::new([buffer(), buffer(), buffer()]);

            engine.map_list(iommu, &mut list, access, REACH).unwrap();
            Mapped::List(list)
        } else {
            let buffer = buffer();

            Mapped::Single(engine.map(iommu, buffer, access, REACH).unwrap(), buffer)
        };

        let mark = random.below(256) as u8;

        mapped.check(iommu, access);
        mapped.mark(iommu, mark);
        live.push((mapped, access, mark));
        while live.len() as u64 > random.below(held) || n == maps - 1 && !live.is_empty() {
            let (mapped, access, mark) = live.swap_remove(random.below(live.len() as u64) as usize);

            mapped.check(iommu, access);
            mapped.check_mark(iommu, mark);
            match mapped {
                Mapped::Single(iova, buffer) => engine.unmap(iommu, iova, buffer.len),
                Mapped::List(mut list) => engine.unmap_list(iommu, &mut list),
            }
        }
    }
}

/// The user, the timers and the housekeeping.
fn control(storm: &Storm, (iommu, engine): (&Iommu, &Engine<Iommu>), random: &mut Random) {
    match random.below(9) {
        0 | 1 => {
            let kind = storm.kinds[random.below(storm.kinds.len() as u64) as usize];

            engine.switch(iommu, kind).unwrap();
        }
        2 => {
            let budget = storm.budgets[random.below(storm.budgets.len() as u64) as usize];

            engine
                .cached
                .budget_bytes
                .set(budget << PAGE_SHIFT)
                .unwrap();
            engine.retune(iommu);
        }
        3 if engine.current() == Kind::Pool => engine.pool.trim(iommu),
        3 => engine.counted.expire(iommu),
        4 => drop(engine.settle(iommu)),
        6 => {
            for cpu in iommu.take_batches() {
                engine.end_batch(iommu, cpu);
            }
        }
        5 => iommu.set_now_us(iommu.now_us() + random.below(10_000)),
        _ => {
            if iommu.take_timer().is_some() {
                engine.expire_deferred(iommu);
            }
        }
    }
    // What is shown to a user at any time must make sense at any time.
    let plausible = 1 << 20;

    assert!(iommu.outstanding(Flow::Idle) < plausible);
    assert!(engine.live_pages(iommu) < plausible);
    assert!(engine.unsettled_pages(iommu) < plausible);
    std::thread::yield_now();
}

/// Threads that run at the same time.
fn blow(storm: &Storm, seed: u64) {
    let (iommu, layout) = iommu(LAST);
    let (iommu, engine) = &storm.machine(iommu, layout);
    let drivers = thread::CPUS - 1;
    let running = &AtomicUsize::new(drivers);

    scope(|scope| {
        /// Also a thread that panics is not running any more.
        struct Done<'a>(&'a AtomicUsize);

        impl Drop for Done<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, SeqCst);
            }
        }

        for cpu in 0..drivers {
            scope.spawn(move || {
                let _done = Done(running);
                let mut random = Random::new(seed, cpu);

                thread::set_cpu(cpu);
                thread::set_jitter(random.0);
                // On both sides of the end of a leaf.
                drive(storm, (iommu, engine), &mut random, 0x1f8, 10_000);
            });
        }
        scope.spawn(move || {
            let mut random = Random::new(seed, drivers);

            thread::set_cpu(drivers);
            thread::set_jitter(random.0);
            while running.load(SeqCst) != 0 {
                control(storm, (iommu, engine), &mut random);
            }
        });
    });
    check_end(engine, iommu);
}

/// Threads that take turns.
fn take_turns(storm: &Storm, seed: u64) {
    let layout = Layout::new(LAST).unwrap();
    // No more RAM than is fought for: a sweep has a point at each page.
    let iommu = Iommu::new(layout, vec![1..3, 3..storm.hot + 4]);
    let (iommu, engine) = &storm.machine(iommu, layout);
    let driver = |cpu: usize| -> Body<'_> {
        Box::new(move || {
            thread::set_cpu(cpu);
            drive(storm, (iommu, engine), &mut Random::new(seed, cpu), 1, 6);
        })
    };
    let user: Body<'_> = Box::new(move || {
        let mut random = Random::new(seed, 2);

        thread::set_cpu(2);
        for _ in 0..8 {
            control(storm, (iommu, engine), &mut random);
        }
    });

    interleave::run(seed, vec![driver(0), driver(1), user]);
    check_end(engine, iommu);
}

fn run(storm: Storm) {
    run_orders(storm, 2_000);
}

/// As [`run`], with another number of orders in which the threads take turns.
fn run_orders(storm: Storm, orders: u64) {
    for seed in 0..orders {
        let result = catch_unwind(AssertUnwindSafe(|| take_turns(&storm, seed)));

        if let Err(panic) = result {
            eprintln!("taking turns, seed {seed}");
            resume_unwind(panic);
        }
    }
    for seed in 0..2 {
        blow(&storm, seed);
    }
}

/// What must be true when nobody has anything mapped any more.
fn check_end(engine: &Engine<Iommu>, iommu: &Iommu) {
    let total = |counter| iommu.total(counter);
    let layout = |window: Window| (window as u64) << (44 - PAGE_SHIFT);
    let cached = || {
        let table = iommu.table();
        let counted = layout(Window::CachedWrite)..layout(Window::Contiguous);

        table.keys().filter(|page| counted.contains(page)).count() as u64
    };

    assert_eq!(engine.live_pages(iommu), 0);
    assert_eq!(engine.unsettled_pages(iommu), 0);
    assert_eq!(engine.pool.mapped_bytes(), iommu.owned_bytes());
    assert_eq!(total(Counter::Maps), total(Counter::Unmaps));
    assert_eq!(
        total(Counter::Maps),
        total(Counter::Hits) + total(Counter::Misses)
    );
    assert_eq!(total(Counter::Flushes), iommu.calls().flush);
    assert_eq!(total(Counter::PteUpdates), iommu.calls().pte_updates);

    // Whoever waits for a flush has a timer.
    let queued = iommu.allocations(Arena::Low).len() + iommu.allocations(Arena::Exact).len();

    assert!(
        queued == 0 || iommu.timer().is_some(),
        "{queued} unmaps wait"
    );
    assert!(queued == 0 || engine.current() == Kind::Deferred);
    engine.expire_deferred(iommu);
    for cpu in iommu.take_batches() {
        engine.end_batch(iommu, cpu);
    }
    assert_eq!(iommu.outstanding(Flow::Queue), 0, "a batch has no end");
    assert!(iommu.stale().is_empty(), "not flushed in the end");

    // Idle pages are known and, after a look at them, within the budget.
    assert_eq!(iommu.outstanding(Flow::Idle), cached());
    engine.counted.expire(iommu);
    assert_eq!(iommu.outstanding(Flow::Idle), cached());

    let budget_bytes = match engine.current() {
        Kind::Cached => engine.cached.budget_bytes.get(),
        Kind::Persistent => engine.persistent.cap_bytes.get(),
        _ => 0,
    };

    assert!(cached() <= budget_bytes >> PAGE_SHIFT);

    engine.retire(iommu);
    assert_eq!(iommu.owned_bytes(), 0, "memory leaks");
    assert!(iommu.table().is_empty(), "still mapped in the end");
    assert!(iommu.stale().is_empty());
    for arena in [Arena::Low, Arena::Exact, Arena::Contiguous] {
        assert!(iommu.allocations(arena).is_empty(), "IOVA space leaks");
    }

    // The last free page of a range that was taken and given back so often is there again.
    let range = PageRange {
        start: iommu.alloc_iova(Arena::Exact, 1, u64::MAX).unwrap(),
        pages: 1,
    };

    iommu.free_iova(Arena::Exact, range);
}

#[test]
fn cached_without_budget() {
    run(Storm {
        kinds: &[Kind::Cached],
        budgets: &[0],
        max_unmaps: 256,
        hot: 2,
    });
}

#[test]
fn cached_within_a_small_budget() {
    run(Storm {
        kinds: &[Kind::Cached],
        budgets: &[8, 1, 3, 0, 2],
        max_unmaps: 256,
        hot: 6,
    });
}

#[test]
fn batched() {
    run(Storm {
        kinds: &[Kind::Batched],
        budgets: &[0],
        max_unmaps: 256,
        hot: 2,
    });
}

#[test]
fn in_and_out_of_batched() {
    run(Storm {
        kinds: &[Kind::Batched, Kind::Persistent],
        budgets: &[0],
        max_unmaps: 256,
        hot: 3,
    });
}

#[test]
fn contiguous() {
    run(Storm {
        kinds: &[Kind::Contiguous],
        budgets: &[0],
        max_unmaps: 256,
        hot: 24,
    });
}

#[test]
fn in_and_out_of_contiguous() {
    run(Storm {
        kinds: &[Kind::Contiguous, Kind::Deferred, Kind::Strict],
        budgets: &[0],
        max_unmaps: 4,
        hot: 8,
    });
}

#[test]
fn deferred() {
    run(Storm {
        kinds: &[Kind::Deferred],
        budgets: &[0],
        max_unmaps: 4,
        hot: 24,
    });
}

#[test]
fn in_and_out_of_cached() {
    run(Storm {
        kinds: &[Kind::Cached, Kind::Strict],
        budgets: &[1000, 4],
        max_unmaps: 4,
        hot: 3,
    });
}

#[test]
fn in_and_out_of_premapped() {
    run(Storm {
        kinds: &[Kind::Premapped, Kind::Strict],
        budgets: &[1000],
        max_unmaps: 4,
        hot: 8,
    });
}

#[test]
fn pool() {
    run_orders(
        Storm {
            kinds: &[Kind::Pool],
            budgets: &[0],
            max_unmaps: 4,
            hot: 4,
        },
        CUTTING,
    );
}

#[test]
fn in_and_out_of_pool() {
    run_orders(
        Storm {
            kinds: &[Kind::Pool, Kind::Strict],
            budgets: &[0],
            max_unmaps: 4,
            hot: 4,
        },
        CUTTING,
    );
}

#[test]
fn everything() {
    run(Storm {
        kinds: &Kind::ALL,
        budgets: &[0, 1, 8, 1000],
        max_unmaps: 3,
        hot: 4,
    });
}
