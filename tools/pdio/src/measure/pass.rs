// SPDX-License-Identifier: GPL-2.0

//! One pass of a workload: the guest's command, what it prints, and the record that this makes.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};

use super::plan::Clock;
use super::{IN_FIRST, SERVER};
use crate::results::Record;
use crate::scenario::{Pairs, Program, Workload};

/// What the timed pass of a workload said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// Operations, if the program chooses their number.
    pub ops: Option<u64>,
    pub elapsed_ns: u64,
    pub busy_ns: u64,
}

impl Times {
    pub fn parse(workload: &Workload, text: &str) -> Result<Self> {
        if let Program::Fio(_) = workload.program {
            let windows: Vec<_> = text.lines().filter_map(Self::window).collect();
            let [_, run, hooks] = windows.as_slice() else {
                bail!("fio made {} windows, not three", windows.len());
            };
            return Ok(Self {
                ops: None,
                elapsed_ns: run.elapsed_ns.saturating_sub(hooks.elapsed_ns),
                busy_ns: run.busy_ns.saturating_sub(hooks.busy_ns),
            });
        }
        let values = values(text);
        if let Program::Pairs(_) = workload.program {
            let cycles = number(&values, "map_cycles")? + number(&values, "unmap_cycles")?;
            if number(&values, "pairs")? != workload.ops {
                bail!("the micro-benchmark did another number of pairs");
            }
            return Ok(Self {
                ops: None,
                elapsed_ns: cycles,
                busy_ns: cycles,
            });
        }
        let window = text
            .lines()
            .find_map(Self::window)
            .context("the guest did not say how long it took")?;
        Ok(Self {
            ops: ops_done(workload, &values)?,
            ..window
        })
    }

    /// A line of `pdio-load`.
    fn window(line: &str) -> Option<Self> {
        let values = values(line);
        let elapsed_ns = number(&values, "elapsed_ns").ok()?;
        let idle_ns = number(&values, "idle_ns").ok()?;
        Some(Self {
            ops: None,
            elapsed_ns,
            busy_ns: elapsed_ns.saturating_sub(idle_ns),
        })
    }
}

/// How many operations a pass had, if its program chose their number.
fn ops_done(workload: &Workload, values: &BTreeMap<&str, u64>) -> Result<Option<u64>> {
    let Program::Iperf(_) = workload.program else {
        return Ok(None);
    };
    match number(values, "received")? / workload.bytes {
        0 => bail!("iperf3 has transferred nothing"),
        ops => Ok(Some(ops)),
    }
}

/// What the counted pass of a workload said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub invalidations: u64,
    pub maps: u64,
    pub unmaps: u64,
    pub pte_updates: u64,
    pub hits: u64,
    pub misses: u64,
    /// Operations, if the program chooses their number.
    pub ops: Option<u64>,
}

impl Counts {
    /// The difference between two lines that `counters` printed.
    pub fn parse(workload: &Workload, text: &str) -> Result<Self> {
        let lines: Vec<_> = text
            .lines()
            .filter_map(|line| line.split_once("counters:"))
            .map(|(_, counts)| values(counts))
            .collect();
        // fio's hooks surround its first and its last job, too.
        let (before, after) = match (workload.program, lines.as_slice()) {
            (Program::Fio(_), [_, _, before, after, _, _]) => (before, after),
            (Program::Fio(_), _) => bail!("fio made {} counts, not six", lines.len()),
            (_, [before, after]) => (before, after),
            _ => bail!("the guest made {} counts, not two", lines.len()),
        };
        let count =
            |key| Ok::<_, anyhow::Error>(number(after, key)?.saturating_sub(number(before, key)?));
        Ok(Self {
            invalidations: count("invalidations")?,
            // A driver that links ranges into an IOVA of its own (dma_iova_*)
            // does not pass by dma_map_*: what it maps shows at the IOMMU only.
            maps: count("api_maps")?.max(count("iommu_maps")?),
            unmaps: count("api_unmaps")?.max(count("iommu_unmaps")?),
            pte_updates: count("pte_bytes")? / 4096,
            hits: count("hits")?,
            misses: count("misses")?,
            ops: ops_done(workload, &values(text))?,
        })
    }

    /// As many as there were in a pass of `ops` operations.
    pub fn in_pass_of(self, ops: u64) -> Self {
        let Some(own) = self.ops else {
            return self;
        };
        let scale = |count: u64| (count as f64 * ops as f64 / own as f64).round() as u64;
        Self {
            invalidations: scale(self.invalidations),
            maps: scale(self.maps),
            unmaps: scale(self.unmaps),
            pte_updates: scale(self.pte_updates),
            hits: scale(self.hits),
            misses: scale(self.misses),
            ops: Some(ops),
        }
    }
}

/// The guest's command for one pass.
pub fn command(workload: &Workload, counted: bool) -> String {
    let hook = if counted { "PDIO_HOOK=counters " } else { "" };
    let Workload { bytes, ops, .. } = workload;
    let warmup = if counted {
        workload.warmup_of_counts()
    } else {
        workload.warmup()
    };
    match workload.program {
        Program::Load(kind) => {
            format!("{hook}{IN_FIRST} pdio-load {kind} {SERVER} {bytes} {ops} {warmup}")
        }
        // The last sum is that of the receiver.
        Program::Iperf(seconds) => format!(
            "rm -f /run/iperf && {hook}{IN_FIRST} pdio-load watch - iperf3 --client {} \
             --time {seconds} --length {bytes} --json --logfile /run/iperf && \
             sed -n 's/.*\"bytes\":[^0-9]*\\([0-9]*\\).*/received=\\1/p' /run/iperf | tail -n 1",
            SERVER.split(':').next().unwrap_or_default(),
        ),
        Program::Fio(rw) => {
            let address = workload.devices.first().copied().unwrap_or_default();
            let job = |name: &str, ops: u64| {
                format!(
                    "--name={name} --filename=$disk --rw={rw} --bs={bytes} --number_ios={ops} --size=1g \
                     --direct=1 --ioengine=psync --norandommap --thread"
                )
            };
            // fio sends the output of its hooks elsewhere: hence the brackets. The
            // third job does nothing, so that its hooks can be subtracted.
            let hook = if counted {
                "(counters start >>/run/counted; echo >/run/mark)"
            } else {
                "(echo >/run/mark)"
            };
            let show = if counted { "; cat /run/counted" } else { "" };
            format!(
                "disk=$(disk {address}); : >/run/counted; \
                 pdio-load watch /run/mark fio --output=/run/fio.log --stonewall \
                 --exec_prerun='{hook}' --exec_postrun='{hook}' {} {} {} \
                 || {{ cat /run/fio.log; exit 1; }}{show}",
                job("warmup", warmup),
                job("run", *ops),
                job("nothing", 1),
            )
        }
        Program::Pairs(Pairs {
            api,
            batch,
            layout,
            options,
        }) => {
            let address = workload.devices.first().copied().unwrap_or_default();
            let bench = "/sys/module/dma_map_bench/bench";
            let go = |iterations: u64| {
                format!(
                    "echo '{address} {api} {batch} {iterations} {layout}{options}' >{bench}/run"
                )
            };
            let iterations = ops / u64::from(batch);
            let (before, after) = if counted {
                ("counters start && ", " && counters stop")
            } else {
                ("", "")
            };
            format!(
                "modprobe dma_map_bench && {} && {before}{}{after} && cat {bench}/result",
                go((iterations / 8).max(1)),
                go(iterations),
            )
        }
    }
}

/// All `key=number` words of a text.
fn values(text: &str) -> BTreeMap<&str, u64> {
    text.split_whitespace()
        .filter_map(|word| word.split_once('='))
        .filter_map(|(key, value)| Some((key, value.parse().ok()?)))
        .collect()
}

fn number(values: &BTreeMap<&str, u64>, key: &str) -> Result<u64> {
    values
        .get(key)
        .copied()
        .with_context(|| format!("the guest did not say `{key}`"))
}

/// Whether a workload has left this record.
pub fn is_of(record: &Record, workload: &Workload) -> bool {
    workload.name == record.workload && workload.bytes == record.message_bytes
}

pub fn record(workload: &Workload, clock: Clock, times: Times, counts: Counts) -> Record {
    // Instructions are what one CPU can carry when nothing else limits it; an
    // emulated device's latency in units of instructions means nothing.
    let time = match clock {
        Clock::Instructions => times.busy_ns,
        Clock::Wall => times.elapsed_ns,
    };
    let Workload { bytes, unit, .. } = *workload;
    let ops = times.ops.unwrap_or(workload.ops);
    Record {
        workload: workload.name.into(),
        device: workload.devices.join(" "),
        driver: workload.driver.into(),
        strategy: String::new(),
        message_bytes: bytes,
        round: 0,
        throughput: unit.rate(ops, bytes, time.max(1)),
        unit: unit.name().into(),
        clock: clock.name().into(),
        instructions_per_op: (clock == Clock::Instructions)
            .then(|| times.busy_ns as f64 / ops as f64),
        elapsed_ns: times.elapsed_ns,
        busy_ns: times.busy_ns,
        cpu_percent: times.busy_ns as f64 * 100.0 / times.elapsed_ns.max(1) as f64,
        ops,
        invalidations: None,
        maps: counts.maps,
        unmaps: counts.unmaps,
        pte_updates: counts.pte_updates,
        hits: None,
        misses: None,
        iommu: String::new(),
        kernel: String::new(),
        qemu: String::new(),
        accelerator: String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::WORKLOADS;

    fn named(name: &str) -> Workload {
        let mut all = WORKLOADS.into_iter();
        all.find(|workload| workload.name == name).unwrap()
    }

    #[test]
    fn every_workload_has_its_commands() {
        for workload in &WORKLOADS {
            let timed = command(workload, false);
            let counted = command(workload, true);
            assert!(!timed.contains("counters"), "{timed}");
            assert!(counted.contains("counters"), "{counted}");
            assert!(!timed.contains('\n'));
        }
    }

    #[test]
    fn words_with_numbers_are_values() {
        let values = values("noise ops=3 idle_ns=12\nx=y api_maps=7\n");
        assert_eq!(number(&values, "ops").unwrap(), 3);
        assert_eq!(number(&values, "api_maps").unwrap(), 7);
        assert!(number(&values, "x").is_err());
    }

    #[test]
    fn counts_are_the_difference_of_two_lines() {
        let line = |n: u64| {
            format!(
                "counters: api_maps={n} api_unmaps={n} iommu_maps=0 iommu_unmaps={} \
                 pte_bytes={} invalidations={n} hits=3 misses={n}\n",
                n * 2,
                n * 4096
            )
        };
        let counts =
            Counts::parse(&named("udp"), &format!("{}ops=1\n{}", line(10), line(15))).unwrap();
        let expected = Counts {
            invalidations: 5,
            maps: 5,
            unmaps: 10,
            pte_updates: 5,
            hits: 0,
            misses: 5,
            ops: None,
        };
        assert_eq!(counts, expected);
        assert!(Counts::parse(&named("udp"), &line(1)).is_err());

        let fio: String = [1, 2, 10, 15, 20, 30].into_iter().map(line).collect();
        assert_eq!(Counts::parse(&named("nvme-read"), &fio).unwrap(), counts);
        assert!(Counts::parse(&named("nvme-read"), &line(1)).is_err());
    }

    #[test]
    fn iperf3_says_how_much_it_did_and_counts_are_brought_to_that() {
        let workload = &named("tcp-iperf3");
        let text = format!("elapsed_ns=9 idle_ns=1\nreceived={}\n", workload.bytes * 30);
        let times = Times::parse(workload, &text).unwrap();
        assert_eq!((times.ops, times.busy_ns), (Some(30), 8));
        assert!(Times::parse(workload, "elapsed_ns=9 idle_ns=1\n").is_err());

        let counts = Counts {
            maps: 50,
            ops: Some(10),
            ..Counts::default()
        };
        assert_eq!(counts.in_pass_of(30).maps, 150);
        assert_eq!(
            Counts {
                maps: 50,
                ..Counts::default()
            }
            .in_pass_of(30)
            .maps,
            50
        );
    }

    #[test]
    fn what_hooks_cost_is_subtracted() {
        let text = "elapsed_ns=9 idle_ns=9\nelapsed_ns=100 idle_ns=20\nelapsed_ns=10 idle_ns=2\n";
        let times = Times::parse(&named("nvme-read"), text).unwrap();
        let expected = Times {
            ops: None,
            elapsed_ns: 90,
            busy_ns: 72,
        };
        assert_eq!(times, expected);
        assert!(Times::parse(&named("nvme-read"), "elapsed_ns=9 idle_ns=9").is_err());
    }

    #[test]
    fn pairs_are_timed_by_their_own_clock() {
        let workload = &named("map-unmap");
        let text = format!("pairs={} map_cycles=100 unmap_cycles=50", workload.ops);
        assert_eq!(Times::parse(workload, &text).unwrap().busy_ns, 150);
        assert!(Times::parse(workload, "pairs=1 map_cycles=100 unmap_cycles=50").is_err());
    }

    #[test]
    fn throughput_is_work_by_busy_instructions_or_by_wall_time() {
        let workload = &named("udp");
        let times = Times {
            ops: None,
            elapsed_ns: workload.ops * 2000,
            busy_ns: workload.ops * 1000,
        };
        let counted = record(workload, Clock::Instructions, times, Counts::default());
        assert!((counted.throughput - 1000.0).abs() < 1e-6);
        assert_eq!(counted.instructions_per_op, Some(1000.0));
        assert_eq!(counted.cpu_percent, 50.0);
        let wall = record(workload, Clock::Wall, times, Counts::default());
        assert!((wall.throughput - 500.0).abs() < 1e-6);
        assert_eq!(wall.instructions_per_op, None);
    }
}
