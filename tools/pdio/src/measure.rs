// SPDX-License-Identifier: GPL-2.0

//! Runs the scenario.
//!
//! The strategies take turns within a round, all in one boot, and the order
//! moves on by one from round to round, so that no strategy always follows the
//! same other one. Every workload runs twice in a row: timed, then counted by
//! tracepoints, which cost instructions.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::console;
use crate::guest::Guest;
use crate::interrupt;
use crate::progress::Progress;
use crate::qemu::{self, AHCI, Accel, Console, Disks, Iommu, Machine, NVME};
use crate::results::{ContentCheck, Record};
use crate::scenario::{Group, Program, Strategy, Workload};

/// What the clock of the guest counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Clock {
    /// Executed instructions, at one per nanosecond (TCG with -icount).
    Instructions,
    /// Nanoseconds.
    Wall,
}

impl Clock {
    fn name(self) -> &'static str {
        match self {
            Self::Instructions => "instructions",
            Self::Wall => "wall",
        }
    }
}

/// Longest boot.
const BOOT: Duration = Duration::from_secs(120);
/// Longest single step: a change of strategy, or one pass of a workload.
const STEP: Duration = Duration::from_secs(180);

const SERVER: &str = "10.9.0.2:5001";
/// Runs a command where the first network device is. `ip netns exec` would hide tracefs.
const IN_FIRST: &str = "nsenter --net=/run/netns/a";

/// What is to be measured.
#[derive(Clone, Debug)]
pub struct Plan {
    /// In this order.
    pub strategies: Vec<Strategy>,
    /// In this order.
    pub workloads: Vec<Workload>,
    /// How often.
    pub rounds: u32,
    /// Measured by which clocks.
    pub clocks: Vec<Clock>,
    /// Whether a machine that is not measured checks content.
    pub content: bool,
}

/// One machine's share of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Job {
    Measure(Group, Clock),
    Content,
}

impl Plan {
    fn jobs(&self) -> Vec<Job> {
        let mut jobs = Vec::new();
        for clock in &self.clocks {
            for group in Group::ALL {
                if self.workloads.iter().any(|it| it.group == group) {
                    jobs.push(Job::Measure(group, *clock));
                }
            }
        }
        if self.content {
            jobs.push(Job::Content);
        }
        jobs
    }

    fn of(&self, group: Group) -> impl Iterator<Item = &Workload> {
        self.workloads.iter().filter(move |it| it.group == group)
    }

    /// Strategies whose content is checked: after identity, isolation cannot
    /// be had back in this emulator's scalable mode.
    fn checked(&self) -> impl Iterator<Item = Strategy> {
        let all = self.strategies.iter().copied();
        all.filter(|it| *it != Strategy::KernelIdentity)
    }

    fn steps(&self, job: Job) -> usize {
        match job {
            Job::Measure(group, _) => {
                (self.of(group).count() + 1) * self.strategies.len() * self.rounds as usize + 1
            }
            Job::Content => self.checked().count() * 3 + 1,
        }
    }

    /// Number of steps of the whole plan, for a progress bar.
    pub fn total_steps(&self) -> usize {
        self.jobs().into_iter().map(|job| self.steps(job)).sum()
    }
}

/// Everything that came out.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// In the order of the plan's workloads, strategies and rounds.
    pub records: Vec<Record>,
    /// Checks of content.
    pub content: Vec<ContentCheck>,
    /// The machines that measured.
    pub machines: Vec<String>,
}

/// Runs `plan` on machines like `machine`, whose accelerator is for those that
/// do not count instructions. Consoles are kept in `out`.
pub fn run(machine: &Machine, plan: &Plan, out: &Path, progress: &Progress) -> Result<Outcome> {
    fs::create_dir_all(out).with_context(|| format!("cannot create {}", out.display()))?;
    let jobs = plan.jobs();
    let next = AtomicUsize::new(0);
    let failed = AtomicBool::new(false);
    let outcome = Mutex::new(Outcome::default());
    let workers = std::thread::available_parallelism()
        .map_or(1, usize::from)
        .min(jobs.len());

    // Each worker takes jobs until there are none, or one has failed.
    let work = || -> Result<()> {
        while !failed.load(Ordering::Relaxed) {
            let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) else {
                break;
            };
            let session = Session {
                machine,
                plan,
                out,
                progress,
                failed: &failed,
            };
            let result = session.run(*job);
            if result.is_err() {
                failed.store(true, Ordering::Relaxed);
            }
            let result = result?;
            let mut outcome = outcome.lock().map_err(|_| Stopped)?;
            outcome.records.extend(result.records);
            outcome.content.extend(result.content);
            outcome.machines.extend(result.machines);
        }
        Ok(())
    };
    let results: Vec<Result<()>> = std::thread::scope(|scope| {
        let handles: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        handles
            .into_iter()
            .map(|handle| handle.join().unwrap_or_else(|_| Err(Stopped.into())))
            .collect()
    });
    // The first failure stopped the others: it is the one to tell about.
    let mut errors: Vec<_> = results.into_iter().filter_map(Result::err).collect();
    errors.sort_by_key(|error| error.is::<Stopped>());
    if let Some(error) = errors.into_iter().next() {
        return Err(error);
    }

    let mut outcome = outcome.into_inner().map_err(|_| Stopped)?;
    let place = |record: &Record| {
        let workload = plan
            .workloads
            .iter()
            .position(|it| it.name == record.workload && it.bytes == record.message_bytes);
        let strategy = plan
            .strategies
            .iter()
            .position(|it| it.name() == record.strategy);
        (record.clock.clone(), workload, strategy, record.round)
    };
    outcome.records.sort_by_key(place);
    outcome.machines.sort();
    Ok(outcome)
}

/// Another worker failed.
#[derive(Debug, thiserror::Error)]
#[error("stopped because another machine failed")]
struct Stopped;

struct Session<'a> {
    machine: &'a Machine,
    plan: &'a Plan,
    out: &'a Path,
    progress: &'a Progress,
    failed: &'a AtomicBool,
}

impl Session<'_> {
    fn run(&self, job: Job) -> Result<Outcome> {
        match job {
            Job::Measure(group, clock) => self
                .measure(group, clock)
                .with_context(|| format!("measuring ({})", group.name())),
            Job::Content => self.content().context("checking content"),
        }
    }

    fn step(&self, label: &str) -> Result<()> {
        interrupt::check()?;
        if self.failed.load(Ordering::Relaxed) {
            bail!(Stopped);
        }
        self.progress.step(label);
        Ok(())
    }

    fn measure(&self, group: Group, clock: Clock) -> Result<Outcome> {
        let icount = clock == Clock::Instructions;
        let log = format!("console-{}-{}.log", group.name(), clock.name());
        let machine = Machine {
            accel: if icount {
                Accel::Tcg
            } else {
                self.machine.accel
            },
            iommu: Iommu::IntelLegacy,
            cpus: 1,
            memory_mib: 1024,
            icount,
            disks: Disks::Null,
            console: Console::File(self.out.join(log)),
            ..self.machine.clone()
        };
        self.step(&format!("{}: boot", group.name()))?;
        let mut guest = Guest::boot(&machine, BOOT)?;
        guest.ok("mkfifo /run/mark", STEP)?;
        let kernel = guest.ok("uname -r", STEP)?.trim().to_owned();
        let version = qemu::version()?;

        let mut records = Vec::new();
        let order = &self.plan.strategies;
        for round in 1..=self.plan.rounds {
            for turn in 0..order.len() {
                let Some(strategy) = order.get((turn + round as usize - 1) % order.len()) else {
                    continue;
                };
                let label = format!("{}: round {round}, {}", group.name(), strategy.name());
                self.step(&label)?;
                enter(&mut guest, *strategy, group)
                    .with_context(|| format!("changing to {}", strategy.name()))?;
                for workload in self.plan.of(group) {
                    self.step(&format!("{label}, {}", workload.key()))?;
                    let sample = sample(&mut guest, workload)
                        .with_context(|| format!("{} under {}", workload.key(), strategy.name()))?;
                    records.push(Record {
                        strategy: strategy.name().into(),
                        round,
                        hits: strategy.is_ours().then_some(sample.hits),
                        misses: strategy.is_ours().then_some(sample.misses),
                        kernel: kernel.clone(),
                        qemu: version.clone(),
                        accelerator: machine.accel.to_string(),
                        ..record(workload, clock, &sample)
                    });
                }
            }
        }
        self.judge(&guest)?;
        let machines = vec![format!("{}: {}", group.name(), machine.describe())];
        Ok(Outcome {
            records,
            machines,
            ..Outcome::default()
        })
    }

    /// A fault or a bug while measuring makes the numbers worthless.
    fn judge(&self, guest: &Guest) -> Result<()> {
        let text = fs::read(guest.console()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let problems = console::problems(&text);
        if !problems.is_empty() {
            bail!(
                "the kernel complained (see {}):\n{}",
                guest.console().display(),
                problems.join("\n")
            );
        }
        Ok(())
    }

    fn content(&self) -> Result<Outcome> {
        let dir = tempfile::Builder::new().prefix("pdio-").tempdir()?;
        let machine = Machine {
            iommu: Iommu::IntelScalable,
            icount: false,
            disks: qemu::create_disks(dir.path())?,
            console: Console::File(self.out.join("console-content.log")),
            ..self.machine.clone()
        };
        self.step("content: boot")?;
        let mut guest = Guest::boot(&machine, BOOT)?;
        let mut content = Vec::new();
        for strategy in self.plan.checked() {
            let name = strategy.name();
            self.step(&format!("content: {name}, network"))?;
            enter(&mut guest, strategy, Group::Network)?;
            let command = CHECK_NETWORK
                .iter()
                .map(|words| {
                    format!(
                        "{IN_FIRST} pdio-load {} verify >/dev/null",
                        words.replace("SERVER", SERVER)
                    )
                })
                .collect::<Vec<_>>()
                .join(" && ");
            content.push(verdict(
                &mut guest,
                name,
                "e1000e: TCP and UDP, every byte compared",
                &command,
            )?);

            enter(&mut guest, strategy, Group::Disk)?;
            for (address, driver) in [(NVME, "nvme"), (AHCI, "ahci")] {
                self.step(&format!("content: {name}, {driver}"))?;
                let what = format!("{driver}: fio write and read, crc32c");
                content.push(verdict(&mut guest, name, &what, &check_disk(address))?);
            }
        }
        self.judge(&guest)?;
        let machines = vec![format!("content: {}", machine.describe())];
        Ok(Outcome {
            content,
            machines,
            ..Outcome::default()
        })
    }
}

/// Transfers whose content is compared.
const CHECK_NETWORK: [&str; 5] = [
    "stream SERVER 65536 64 1",
    "stream SERVER 333 2000 1",
    "receive SERVER 65536 64 1",
    "rr SERVER 1024 100 1",
    "udp SERVER 64 960 32",
];

fn check_disk(address: &str) -> String {
    format!(
        "fio --name=verify --filename=$(disk {address}) --rw=randwrite --bsrange=4k-128k --size=16m \
         --direct=1 --ioengine=libaio --iodepth=8 --verify=crc32c --verify_fatal=1 --thread"
    )
}

fn verdict(guest: &mut Guest, strategy: &str, what: &str, command: &str) -> Result<ContentCheck> {
    let output = guest.run(command, STEP)?;
    let passed = output.status == 0;
    let last: Vec<_> = output.text.lines().rev().take(3).collect();
    Ok(ContentCheck {
        strategy: strategy.to_owned(),
        what: what.to_owned(),
        passed,
        detail: if passed {
            String::new()
        } else {
            last.into_iter().rev().collect::<Vec<_>>().join("; ")
        },
    })
}

/// Puts a group's devices under a strategy, and makes them ready for work.
fn enter(guest: &mut Guest, strategy: Strategy, group: Group) -> Result<()> {
    let devices = group.devices().join(" ");
    guest.ok(&format!("dma-mode {} {devices}", strategy.name()), STEP)?;
    match group {
        Group::Network => guest.ok(&format!("net {devices}"), STEP)?,
        Group::Disk => guest.ok(&format!("disk {NVME} && disk {AHCI}"), STEP)?,
    };
    Ok(())
}

/// What both passes of a workload said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sample {
    elapsed_ns: u64,
    busy_ns: u64,
    invalidations: u64,
    maps: u64,
    unmaps: u64,
    pte_updates: u64,
    hits: u64,
    misses: u64,
}

fn sample(guest: &mut Guest, workload: &Workload) -> Result<Sample> {
    let timed = guest.ok(&command(workload, false), STEP)?;
    let timed = values(&timed);
    let counted = guest.ok(&command(workload, true), STEP)?;
    let counted = values(&counted);
    let (elapsed_ns, busy_ns) = if let Program::Pairs(_) = workload.program {
        let cycles = number(&timed, "map_cycles")? + number(&timed, "unmap_cycles")?;
        if number(&timed, "pairs")? != workload.ops {
            bail!("the micro-benchmark did another number of pairs");
        }
        (cycles, cycles)
    } else {
        let elapsed = number(&timed, "elapsed_ns")?;
        (elapsed, elapsed.saturating_sub(number(&timed, "idle_ns")?))
    };
    // A driver that links ranges into an IOVA of its own (dma_iova_*) does not
    // pass by dma_map_*: what it maps shows at the IOMMU only.
    let api = (
        number(&counted, "api_maps")?,
        number(&counted, "api_unmaps")?,
    );
    let iommu = (
        number(&counted, "iommu_maps")?,
        number(&counted, "iommu_unmaps")?,
    );
    Ok(Sample {
        elapsed_ns,
        busy_ns,
        invalidations: number(&counted, "invalidations")?,
        maps: api.0.max(iommu.0),
        unmaps: api.1.max(iommu.1),
        pte_updates: number(&counted, "pte_updates")?,
        hits: number(&counted, "hits")?,
        misses: number(&counted, "misses")?,
    })
}

/// The guest's command for one pass.
fn command(workload: &Workload, counted: bool) -> String {
    let hook = if counted { "PDIO_HOOK=counters " } else { "" };
    let Workload { bytes, ops, .. } = workload;
    let warmup = workload.warmup();
    match workload.program {
        Program::Load(kind) => {
            format!("{hook}{IN_FIRST} pdio-load {kind} {SERVER} {bytes} {ops} {warmup}")
        }
        Program::Iperf => format!(
            "{hook}{IN_FIRST} pdio-load watch /run/mark iperf3 --client {} --bytes {} --length {bytes}",
            SERVER.split(':').next().unwrap_or_default(),
            bytes * ops
        ),
        Program::Fio(rw) => {
            let address = workload.devices.first().copied().unwrap_or_default();
            let job = |name: &str, ops: u64| {
                format!(
                    "--name={name} --filename=$disk --rw={rw} --bs={bytes} --number_ios={ops} --size=1g \
                     --direct=1 --ioengine=psync --norandommap --thread"
                )
            };
            // fio sends the output of its hooks elsewhere: hence the brackets.
            let (watch, before, after, show) = if counted {
                let stop = "(counters stop >/run/counted)";
                ("", "counters start", stop, "; cat /run/counted")
            } else {
                let mark = "(echo >/run/mark)";
                ("pdio-load watch /run/mark ", mark, mark, "")
            };
            format!(
                "disk=$(disk {address}); {watch}fio --output=/run/fio.log {} {} --stonewall \
                 --exec_prerun='{before}' --exec_postrun='{after}' || {{ cat /run/fio.log; exit 1; }}{show}",
                job("warmup", warmup),
                job("run", *ops),
            )
        }
        Program::Pairs(batch) => {
            let address = workload.devices.first().copied().unwrap_or_default();
            let bench = "/sys/module/dma_map_bench/bench";
            let go = |iterations: u64| {
                format!("echo '{address} page {batch} {iterations} contiguous' >{bench}/run")
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

fn record(workload: &Workload, clock: Clock, sample: &Sample) -> Record {
    // Instructions are what one CPU can carry when nothing else limits it; an
    // emulated device's latency in units of instructions means nothing.
    let time = match clock {
        Clock::Instructions => sample.busy_ns,
        Clock::Wall => sample.elapsed_ns,
    };
    let Workload {
        ops, bytes, unit, ..
    } = *workload;
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
            .then(|| sample.busy_ns as f64 / ops as f64),
        elapsed_ns: sample.elapsed_ns,
        busy_ns: sample.busy_ns,
        cpu_percent: sample.busy_ns as f64 * 100.0 / sample.elapsed_ns.max(1) as f64,
        ops,
        invalidations: sample.invalidations,
        maps: sample.maps,
        unmaps: sample.unmaps,
        pte_updates: sample.pte_updates,
        hits: None,
        misses: None,
        kernel: String::new(),
        qemu: String::new(),
        accelerator: String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::WORKLOADS;

    fn plan() -> Plan {
        Plan {
            strategies: Strategy::ALL.to_vec(),
            workloads: WORKLOADS.to_vec(),
            rounds: 3,
            clocks: vec![Clock::Instructions],
            content: true,
        }
    }

    #[test]
    fn a_plan_has_a_job_for_each_group_and_clock() {
        let both = Plan {
            clocks: vec![Clock::Instructions, Clock::Wall],
            ..plan()
        };
        assert_eq!(both.jobs().len(), 5);
        let network = Plan {
            workloads: plan().of(Group::Network).copied().collect(),
            content: false,
            ..plan()
        };
        assert_eq!(
            network.jobs(),
            [Job::Measure(Group::Network, Clock::Instructions)]
        );
        let workloads = network.workloads.len();
        assert_eq!(network.total_steps(), (workloads + 1) * 7 * 3 + 1);
    }

    #[test]
    fn identity_is_not_checked_for_content() {
        assert!(plan().checked().all(|it| it != Strategy::KernelIdentity));
        assert_eq!(plan().checked().count(), 6);
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
    fn throughput_is_work_by_busy_instructions_or_by_wall_time() {
        let workload = WORKLOADS.iter().find(|it| it.name == "udp").unwrap();
        let sample = Sample {
            elapsed_ns: workload.ops * 2000,
            busy_ns: workload.ops * 1000,
            ..Sample::default()
        };
        let counted = record(workload, Clock::Instructions, &sample);
        assert!((counted.throughput - 1000.0).abs() < 1e-6);
        assert_eq!(counted.instructions_per_op, Some(1000.0));
        assert_eq!(counted.cpu_percent, 50.0);
        let wall = record(workload, Clock::Wall, &sample);
        assert!((wall.throughput - 500.0).abs() < 1e-6);
        assert_eq!(wall.instructions_per_op, None);
    }
}
