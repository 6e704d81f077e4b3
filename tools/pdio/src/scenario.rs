// SPDX-License-Identifier: GPL-2.0

//! What is measured, as data: strategies, workloads, sizes, numbers of operations.

use clap::ValueEnum;

use crate::qemu::{AHCI, E1000E, NVME};

/// A way of mapping memory for a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Strategy {
    /// The kernel's identity mode: "IOMMU off", the baseline.
    KernelIdentity,
    /// The kernel's default: flush in batches.
    KernelLazy,
    /// The kernel's strict mode: flush at every unmap.
    KernelStrict,
    /// All memory mapped once.
    Premapped,
    /// As the kernel's strict.
    Strict,
    /// As the kernel's lazy, with bounds of its own.
    Deferred,
    /// Page-table passes and invalidations shared where they can be.
    Batched,
    /// Mappings kept for the next use.
    Cached,
    /// Mappings kept for good.
    Persistent,
    /// Buffers copied into memory that stays mapped.
    Pool,
    /// Adjacent addresses, cleared in batches.
    Contiguous,
    /// One of the others, by what is measured and a bound that the user sets.
    Auto,
}

impl Strategy {
    /// All of them, the baseline first.
    pub const ALL: [Self; 12] = [
        Self::KernelIdentity,
        Self::KernelLazy,
        Self::KernelStrict,
        Self::Premapped,
        Self::Strict,
        Self::Deferred,
        Self::Batched,
        Self::Cached,
        Self::Persistent,
        Self::Pool,
        Self::Contiguous,
        Self::Auto,
    ];

    /// What the guest's scripts, the records and the reports call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::KernelIdentity => "kernel-identity",
            Self::KernelLazy => "kernel-lazy",
            Self::KernelStrict => "kernel-strict",
            Self::Premapped => "premapped",
            Self::Strict => "strict",
            Self::Deferred => "deferred",
            Self::Batched => "batched",
            Self::Cached => "cached",
            Self::Persistent => "persistent",
            Self::Pool => "pool",
            Self::Contiguous => "contiguous",
            Self::Auto => "auto",
        }
    }

    /// The one with that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.name() == name)
    }

    /// Whether it takes `dma_map_cache.ko`.
    pub fn is_ours(self) -> bool {
        !matches!(
            self,
            Self::KernelIdentity | Self::KernelLazy | Self::KernelStrict
        )
    }

    /// What the device can still reach after the driver has unmapped it.
    pub fn exposure(self) -> &'static str {
        match self {
            Self::KernelIdentity => "all memory, always",
            Self::KernelLazy => "what is queued: up to 10 ms, or 256 unmaps per CPU",
            Self::KernelStrict | Self::Strict | Self::Batched => "nothing",
            Self::Premapped => "all RAM, always; nothing beyond it",
            Self::Deferred => {
                "what is queued: up to deferred_max_us, or deferred_max_unmaps per CPU"
            }
            Self::Cached => "idle mappings: up to cached_budget_bytes, for cached_max_age_ms",
            Self::Persistent => "all that was ever mapped, up to a cap",
            Self::Pool => "nothing but the pool's own memory, even within a page",
            Self::Contiguous => "what is unmapped, until the batch ends",
            Self::Auto => "what the strategy that it picked leaves, within the user's bound",
        }
    }
}

/// Which machine a workload runs on. Machines run side by side; what is compared
/// is compared within one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// Streams between the two e1000e.
    Stream,
    /// Single messages between the two e1000e, and single mappings.
    Message,
    /// NVMe and SATA.
    Disk,
}

impl Group {
    /// All groups.
    pub const ALL: [Self; 3] = [Self::Stream, Self::Message, Self::Disk];

    /// A word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stream => "stream",
            Self::Message => "message",
            Self::Disk => "disk",
        }
    }

    /// The devices that change their strategy together.
    pub fn devices(self) -> [&'static str; 2] {
        match self {
            Self::Stream | Self::Message => E1000E,
            Self::Disk => [NVME, AHCI],
        }
    }
}

/// How an amount of work is expressed as a rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Millions of payload bits.
    Megabits,
    /// Millions of bytes.
    Megabytes,
    /// Thousands of operations.
    KiloOps(&'static str),
}

impl Unit {
    /// Its name, as a rate.
    pub fn name(self) -> &'static str {
        match self {
            Self::Megabits => "Mbit/s",
            Self::Megabytes => "MB/s",
            Self::KiloOps(name) => name,
        }
    }

    /// `ops` operations on `bytes` bytes each, in `nanoseconds`.
    pub fn rate(self, ops: u64, bytes: u64, nanoseconds: u64) -> f64 {
        let seconds = nanoseconds as f64 / 1e9;
        let ops = ops as f64;
        let bytes = bytes as f64;
        match self {
            Self::Megabits => ops * bytes * 8.0 / 1e6 / seconds,
            Self::Megabytes => ops * bytes / 1e6 / seconds,
            Self::KiloOps(_) => ops / 1e3 / seconds,
        }
    }
}

/// The program that does the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// `pdio-load KIND`, from the first namespace to the second.
    Load(&'static str),
    /// `iperf3` for so many seconds, as a witness that does not share our code. It notices once
    /// a second that it has sent what it was told to, and spins until then; so it is told the time,
    /// and says how much it has sent.
    Iperf(u32),
    /// `fio --rw=KIND`.
    Fio(&'static str),
    /// `dma_map_bench.ko`: pages mapped, then unmapped.
    Pairs(Pairs),
}

/// What `dma_map_bench.ko` is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pairs {
    /// `page`, `sg` or `multi`.
    pub api: &'static str,
    /// Pages that are mapped before the first is unmapped.
    pub batch: u32,
    /// `contiguous` or `scattered`.
    pub layout: &'static str,
    /// `NAME=NUMBER`, with a blank before each.
    pub options: &'static str,
}

/// One line of the comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Workload {
    /// What the records call it.
    pub name: &'static str,
    /// What a reader calls it.
    pub title: &'static str,
    /// Where it runs.
    pub group: Group,
    /// The devices it crosses.
    pub devices: &'static [&'static str],
    /// Their driver.
    pub driver: &'static str,
    /// Who does the work.
    pub program: Program,
    /// Size of a message or a block.
    pub bytes: u64,
    /// Number of operations that are timed.
    pub ops: u64,
    /// What throughput is counted in.
    pub unit: Unit,
    /// In which runs it is.
    pub part: Part,
}

/// In which runs a workload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// In all.
    All,
    /// In the quick one, on a machine that is fast enough.
    IfTime,
    /// In none but that of everything.
    Bench,
}

impl Workload {
    /// Operations before those that are timed. As many for single messages: each program that sends or
    /// receives some has buffers that no device has seen yet, which it then goes through again and again.
    pub fn warmup(&self) -> u64 {
        match self.group {
            Group::Message => self.ops,
            Group::Stream | Group::Disk => self.warmup_of_counts(),
        }
    }

    /// Operations before those that are counted, which follow upon those that were timed.
    pub fn warmup_of_counts(&self) -> u64 {
        (self.ops / 8).max(1)
    }

    /// The same with less to do, for the quick run: half of mappings, a third of messages, a quarter on disks,
    /// where fio takes as long to start as it works. Not less of streams: how many writes TCP joins
    /// changes their cost by a tenth, if there are few.
    pub fn shortened(self) -> Self {
        let divisor = match (self.program, self.group) {
            (Program::Pairs(_), _) => 2,
            (_, Group::Disk) => 4,
            (_, Group::Message) => 3,
            (_, Group::Stream) => 1,
        };
        Self {
            ops: (self.ops / divisor).max(1),
            ..self
        }
    }

    /// What tells it from all others: `tcp-rr-64`.
    pub fn key(&self) -> String {
        format!("{}-{}", self.name, self.bytes)
    }
}

const NETWORK: Workload = Workload {
    name: "",
    title: "",
    group: Group::Message,
    devices: &E1000E,
    driver: "e1000e",
    program: Program::Iperf(1),
    bytes: 0,
    ops: 0,
    unit: Unit::Megabits,
    part: Part::All,
};

/// A demo leaves out what is smaller than a packet: how many writes TCP joins in one depends on
/// timing, and changes the cost of a write by more than an IOMMU does.
const fn stream(bytes: u64, ops: u64, part: Part) -> Workload {
    Workload {
        name: "tcp-stream",
        title: "TCP stream, first to second device",
        group: Group::Stream,
        program: Program::Load("stream"),
        bytes,
        ops,
        part,
        ..NETWORK
    }
}

const fn receive(bytes: u64, ops: u64, part: Part) -> Workload {
    Workload {
        name: "tcp-stream-back",
        title: "TCP stream, second to first device",
        group: Group::Stream,
        program: Program::Load("receive"),
        bytes,
        ops,
        part,
        ..NETWORK
    }
}

const fn rr(bytes: u64, ops: u64, part: Part) -> Workload {
    Workload {
        name: "tcp-rr",
        title: "TCP request/response",
        program: Program::Load("rr"),
        bytes,
        ops,
        unit: Unit::KiloOps("k trans/s"),
        part,
        ..NETWORK
    }
}

const fn disk(
    name: &'static str,
    title: &'static str,
    program: Program,
    bytes: u64,
    ops: u64,
    unit: Unit,
) -> Workload {
    let nvme = matches!(name.as_bytes(), [b'n', ..]);
    Workload {
        name,
        title,
        group: Group::Disk,
        devices: if nvme { &[NVME] } else { &[AHCI] },
        driver: if nvme { "nvme" } else { "ahci" },
        program,
        bytes,
        ops,
        unit,
        part: Part::All,
    }
}

const fn pairs(name: &'static str, title: &'static str, pairs: Pairs) -> Workload {
    Workload {
        name,
        title,
        devices: &[E1000E[0]],
        program: Program::Pairs(pairs),
        bytes: 4096,
        ops: 6400,
        unit: Unit::KiloOps("k pairs/s"),
        part: Part::Bench,
        ..NETWORK
    }
}

const PAGE: Pairs = Pairs {
    api: "page",
    batch: 1,
    layout: "contiguous",
    options: "",
};

const fn multi(
    name: &'static str,
    title: &'static str,
    batch: u32,
    layout: &'static str,
) -> Workload {
    pairs(
        name,
        title,
        Pairs {
            api: "multi",
            batch,
            layout,
            options: "",
        },
    )
}

/// Pages out of a working set of so many bytes, any at any time.
const fn working_set(bytes: u64, options: &'static str) -> Workload {
    Workload {
        bytes,
        ops: 32_768,
        ..pairs(
            WORKING_SET,
            "dma_map_multi of 64 pages, anywhere in a working set",
            Pairs {
                api: "multi",
                batch: 64,
                options,
                ..PAGE
            },
        )
    }
}

/// Pages while so many bytes are mapped already.
const fn live(bytes: u64, options: &'static str) -> Workload {
    Workload {
        bytes,
        ..pairs(
            LIVE,
            "dma_map_page + dma_unmap_page, while others are mapped",
            Pairs { options, ..PAGE },
        )
    }
}

/// Buffers of so many bytes, which are several pages.
const fn several(bytes: u64, options: &'static str) -> Workload {
    Workload {
        bytes,
        ..pairs(
            "map-unmap-pages",
            "dma_map_page + dma_unmap_page of several pages, singly",
            Pairs { options, ..PAGE },
        )
    }
}

/// Name of the micro-benchmark whose cost every table shows.
pub const PAIR: &str = "map-unmap";

/// Name of the workload whose size is that of a working set.
pub const WORKING_SET: &str = "map-unmap-working-set";

/// Name of the workload whose size is what is mapped all the time.
pub const LIVE: &str = "map-unmap-live";

/// Everything there is to measure, in the order of the report.
pub const WORKLOADS: [Workload; 41] = [
    Workload {
        part: Part::All,
        ..pairs(PAIR, "dma_map_page + dma_unmap_page, singly", PAGE)
    },
    Workload {
        part: Part::All,
        ..pairs(
            "map-unmap-64",
            "dma_map_page + dma_unmap_page, in runs of 64",
            Pairs { batch: 64, ..PAGE },
        )
    },
    several(8192, " len=8192"),
    several(65_536, " len=65536"),
    pairs(
        "map-unmap-sg-64",
        "dma_map_sg of 64 contiguous pages",
        Pairs {
            api: "sg",
            batch: 64,
            ..PAGE
        },
    ),
    pairs(
        "map-unmap-sg-64-scattered",
        "dma_map_sg of 64 scattered pages",
        Pairs {
            api: "sg",
            batch: 64,
            layout: "scattered",
            ..PAGE
        },
    ),
    multi(
        "map-unmap-multi-1",
        "dma_map_multi of a page",
        1,
        "contiguous",
    ),
    multi(
        "map-unmap-multi-8",
        "dma_map_multi of 8 contiguous pages",
        8,
        "contiguous",
    ),
    multi(
        "map-unmap-multi-64",
        "dma_map_multi of 64 contiguous pages",
        64,
        "contiguous",
    ),
    multi(
        "map-unmap-multi-256",
        "dma_map_multi of 256 contiguous pages",
        256,
        "contiguous",
    ),
    multi(
        "map-unmap-multi-64-scattered",
        "dma_map_multi of 64 scattered pages",
        64,
        "scattered",
    ),
    working_set(16 << 20, " set=64 random=1"),
    working_set(32 << 20, " set=128 random=1"),
    working_set(64 << 20, " set=256 random=1"),
    working_set(128 << 20, " set=512 random=1"),
    working_set(256 << 20, " set=1024 random=1"),
    live(100 << 12, " set=64 live=100"),
    live(1_000 << 12, " set=64 live=1000"),
    live(10_000 << 12, " set=64 live=10000"),
    live(100_000 << 12, " set=64 live=100000"),
    stream(64, 8000, Part::Bench),
    stream(256, 6000, Part::Bench),
    stream(1024, 4000, Part::IfTime),
    stream(4096, 1200, Part::IfTime),
    stream(65536, 96, Part::All),
    receive(64, 8000, Part::Bench),
    receive(256, 6000, Part::Bench),
    receive(1024, 4000, Part::Bench),
    receive(4096, 1200, Part::Bench),
    receive(65536, 96, Part::All),
    rr(64, 600, Part::All),
    rr(256, 600, Part::IfTime),
    rr(1024, 500, Part::IfTime),
    rr(4096, 300, Part::IfTime),
    rr(65536, 40, Part::All),
    Workload {
        name: "udp",
        title: "UDP datagrams",
        program: Program::Load("udp"),
        bytes: 64,
        ops: 2560,
        unit: Unit::KiloOps("k packets/s"),
        ..NETWORK
    },
    Workload {
        name: "tcp-iperf3",
        title: "TCP stream by iperf3, for comparison with ours",
        group: Group::Stream,
        program: Program::Iperf(1),
        bytes: 65536,
        ops: 1,
        part: Part::Bench,
        ..NETWORK
    },
    disk(
        "nvme-randread",
        "random read from NVMe",
        Program::Fio("randread"),
        4096,
        3000,
        Unit::KiloOps("k IO/s"),
    ),
    disk(
        "nvme-read",
        "sequential read from NVMe",
        Program::Fio("read"),
        131_072,
        800,
        Unit::Megabytes,
    ),
    Workload {
        part: Part::IfTime,
        ..disk(
            "ahci-randread",
            "random read from SATA",
            Program::Fio("randread"),
            4096,
            3000,
            Unit::KiloOps("k IO/s"),
        )
    },
    disk(
        "ahci-read",
        "sequential read from SATA",
        Program::Fio("read"),
        131_072,
        800,
        Unit::Megabytes,
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_size_is_covered_both_ways_and_as_requests() {
        for name in ["tcp-stream", "tcp-stream-back", "tcp-rr"] {
            let sizes: Vec<_> = WORKLOADS
                .iter()
                .filter(|workload| workload.name == name)
                .map(|workload| workload.bytes)
                .collect();
            assert_eq!(sizes, [64, 256, 1024, 4096, 65536], "{name}");
        }
        assert!(
            WORKLOADS
                .iter()
                .any(|it| it.name == "udp" && it.bytes == 64)
        );
    }

    #[test]
    fn both_controllers_read_small_and_large_blocks() {
        for device in [NVME, AHCI] {
            let sizes: Vec<_> = WORKLOADS
                .iter()
                .filter(|workload| workload.devices == [device])
                .filter(|workload| workload.group == Group::Disk)
                .map(|workload| workload.bytes)
                .collect();
            assert_eq!(sizes, [4096, 131_072]);
        }
    }

    #[test]
    fn keys_are_unique_and_something_is_always_done() {
        let mut keys: Vec<_> = WORKLOADS.iter().map(Workload::key).collect();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), WORKLOADS.len());
        assert!(WORKLOADS.iter().all(|it| it.ops > 0 && it.warmup() > 0));
        assert!(WORKLOADS.iter().all(|it| {
            it.devices
                .iter()
                .all(|device| it.group.devices().contains(device))
        }));
    }

    #[test]
    fn mappings_are_made_in_whole_runs() {
        for workload in WORKLOADS {
            let quick = workload.shortened();
            if let Program::Pairs(Pairs { batch, .. }) = workload.program {
                assert_eq!(workload.ops % u64::from(batch), 0, "{}", workload.key());
                if workload.part != Part::Bench {
                    assert_eq!(quick.ops % u64::from(batch), 0, "{}", workload.key());
                }
            }
        }
    }

    #[test]
    fn the_quick_run_has_every_kind_of_workload() {
        for group in Group::ALL {
            assert!(
                WORKLOADS
                    .iter()
                    .any(|it| it.group == group && it.part == Part::All)
            );
        }
        for name in ["tcp-stream", "tcp-stream-back", "tcp-rr", "udp", PAIR] {
            assert!(
                WORKLOADS
                    .iter()
                    .any(|it| it.name == name && it.part == Part::All),
                "{name}"
            );
        }
    }

    #[test]
    fn names_lead_back_to_strategies() {
        for strategy in Strategy::ALL {
            assert_eq!(Strategy::from_name(strategy.name()), Some(strategy));
        }
        assert_eq!(Strategy::from_name("none"), None);
    }

    #[test]
    fn rates() {
        assert_eq!(Unit::Megabits.rate(1000, 125, 1_000_000_000), 1.0);
        assert_eq!(Unit::Megabytes.rate(1000, 1000, 500_000_000), 2.0);
        assert_eq!(Unit::KiloOps("k").rate(1000, 1, 1_000_000_000), 1.0);
    }
}
