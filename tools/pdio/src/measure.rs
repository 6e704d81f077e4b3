// SPDX-License-Identifier: GPL-2.0

//! Runs the scenario.
//!
//! The strategies take turns within a round, all in one boot, and the order
//! moves on by one from round to round, so that no strategy always follows the
//! same other one. Every workload runs twice in a row: timed, then counted by
//! tracepoints, which cost instructions.

mod pass;
mod plan;

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::console;
use crate::guest::Guest;
use crate::initramfs::GUEST_SELFTESTS;
use crate::interrupt;
use crate::iopf::{self, Measured};
use crate::progress::Progress;
use crate::qemu::{self, AHCI, Accel, Console, Disks, Iommu, Machine, NVME};
use crate::results::{ContentCheck, Record};
use crate::scenario::{Group, Part, Program, Strategy, Workload};
use crate::vpio;
use pass::{Counts, Times, command, is_of, record};
use plan::Job;
pub use plan::{Clock, Plan};

/// Longest boot.
const BOOT: Duration = Duration::from_secs(300);
/// Guest time for which `auto` sees the load before it is measured. It changes its mind after two
/// seconds.
const SETTLING: Duration = Duration::from_secs(5);
/// Longest single step: a change of strategy, or one pass of a workload.
const STEP: Duration = Duration::from_secs(180);
/// Longest time for all that is asked about devices that fault, and for one round of guests with a card.
const ANSWERS: Duration = Duration::from_secs(1200);

const SERVER: &str = "10.9.0.2:5001";
/// Runs a command where the first network device is. `ip netns exec` would hide tracefs.
const IN_FIRST: &str = "nsenter --net=/run/netns/a";

/// Everything that came out.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// In the order of the plan's workloads, strategies and rounds.
    pub records: Vec<Record>,
    /// Checks of content.
    pub content: Vec<ContentCheck>,
    /// What devices that fault cost.
    pub figures: Vec<Measured>,
    /// What guests with a card have done.
    pub loads: Vec<vpio::Measured<vpio::Load>>,
    /// How they have shared it.
    pub turns: Vec<vpio::Measured<vpio::turns::Turns>>,
    /// The machines that measured.
    pub machines: Vec<String>,
    /// What the budget did not allow.
    pub left_out: Vec<String>,
    /// Why machines failed; what they had measured is not here.
    pub failed: Vec<String>,
}

impl Outcome {
    fn extend(&mut self, other: Self) {
        self.records.extend(other.records);
        self.content.extend(other.content);
        self.figures.extend(other.figures);
        self.loads.extend(other.loads);
        self.turns.extend(other.turns);
        self.machines.extend(other.machines);
        self.left_out.extend(other.left_out);
        self.failed.extend(other.failed);
    }
}

/// Runs `plan` on machines like `machine`, whose accelerator is for those that
/// do not count instructions. Consoles are kept in `out`.
///
/// # Errors
///
/// If it was interrupted, or if all machines failed. Where some have, the outcome says so.
pub fn run(machine: &Machine, plan: &Plan, out: &Path, progress: &Progress) -> Result<Outcome> {
    fs::create_dir_all(out).with_context(|| format!("cannot create {}", out.display()))?;
    let jobs = plan.jobs();
    let workers = plan.workers(&jobs);
    let session = Session {
        machine,
        plan,
        out,
        progress,
        shares: jobs.into_iter().map(Share::new).collect(),
        workers,
        started: Instant::now(),
        next: AtomicUsize::new(0),
        outcome: Mutex::default(),
    };
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| session.work());
        }
    });
    interrupt::check()?;

    let outcome = session.outcome.into_inner();
    let mut outcome = outcome.unwrap_or_else(PoisonError::into_inner);
    if outcome.machines.is_empty() {
        bail!("nothing was measured:\n{}", outcome.failed.join("\n"));
    }
    let place = |record: &Record| {
        let workload = plan.workloads.iter().position(|it| is_of(record, it));
        let strategy = plan
            .strategies
            .iter()
            .position(|it| it.name() == record.strategy);
        (record.clock.clone(), workload, strategy, record.round)
    };
    outcome.records.sort_by_key(place);
    outcome.machines.sort();
    // Machines may have left out the same.
    outcome.left_out.sort();
    outcome.left_out.dedup();
    Ok(outcome)
}

/// A job, and how far it has come.
struct Share {
    job: Job,
    /// Steps begun; `usize::MAX` when all are done.
    begun: AtomicUsize,
}

impl Share {
    fn new(job: Job) -> Self {
        Self {
            job,
            begun: AtomicUsize::new(0),
        }
    }
}

/// What the workers share.
struct Session<'a> {
    machine: &'a Machine,
    plan: &'a Plan,
    out: &'a Path,
    progress: &'a Progress,
    shares: Vec<Share>,
    workers: usize,
    started: Instant,
    /// The first share that nobody has begun.
    next: AtomicUsize,
    outcome: Mutex<Outcome>,
}

/// How much longer than the first strategy one takes on average. The first is the kernel's identity mode,
/// which costs least, in instructions and in what the emulator has to do for each invalidation: 1.6 times
/// with single messages, 2.3 times on disks.
const OTHERS: f64 = 1.8;

impl Session<'_> {
    /// Takes jobs until there are none. One that fails leaves alone what the others measure, which may have
    /// taken hours.
    fn work(&self) {
        while let Some(share) = self.shares.get(self.next.fetch_add(1, Ordering::Relaxed)) {
            let result = self.run(share.job);
            share.begun.store(usize::MAX, Ordering::Relaxed);
            if interrupt::check().is_err() {
                break;
            }
            let result = result.unwrap_or_else(|error| {
                let why = format!("{error:#}");
                self.progress.note(&why);
                Outcome {
                    failed: vec![why],
                    ..Outcome::default()
                }
            });
            let outcome = self.outcome.lock();
            outcome
                .unwrap_or_else(PoisonError::into_inner)
                .extend(result);
        }
    }

    /// Whether the budget allows `rest` of `job`, in which a unit of weight takes so long, and the least that
    /// is left of the other jobs.
    fn affords(&self, job: Job, rest: Duration, unit: Duration) -> bool {
        let Some(budget) = self.plan.budget else {
            return true;
        };
        let others = self.shares.iter().filter(|share| share.job != job);
        let left = |share: &Share| {
            self.plan
                .left(share.job, share.begun.load(Ordering::Relaxed))
        };
        let others = unit.mul_f64(others.map(left).sum());
        // No job is divided among workers.
        let all = rest.max((rest + others).div_f64(self.workers as f64));
        self.started.elapsed() + all <= budget
    }

    fn run(&self, job: Job) -> Result<Outcome> {
        match job {
            Job::Measure(group, clock) => self
                .measure(group, clock)
                .with_context(|| format!("measuring ({})", group.name())),
            Job::Content => self.content().context("checking content"),
            Job::Iopf(clock) => self.iopf(clock).context("measuring (iopf)"),
            Job::Vpio => self.vpio().context("measuring (vpio)"),
        }
    }

    fn step(&self, job: Job, label: &str) -> Result<()> {
        if let Some(share) = self.shares.iter().find(|share| share.job == job) {
            share.begun.fetch_add(1, Ordering::Relaxed);
        }
        interrupt::check()?;
        self.progress.step(label);
        Ok(())
    }

    fn measure(&self, group: Group, clock: Clock) -> Result<Outcome> {
        let job = Job::Measure(group, clock);
        let icount = clock == Clock::Instructions;
        let log = format!("console-{}-{}.log", group.name(), clock.name());
        let machine = Machine {
            accel: if icount {
                Accel::Tcg
            } else {
                self.machine.accel
            },
            iommu: self.plan.iommu,
            cpus: Some(1),
            memory_mib: 1024,
            icount,
            disks: Disks::Null,
            console: Console::File(self.out.join(log)),
            ..self.machine.clone()
        };
        self.step(job, &format!("{}: boot", group.name()))?;
        let mut guest = Guest::boot(&machine, BOOT)?;
        guest.ok("mkfifo /run/mark", STEP)?;
        let kernel = guest.ok("uname -r", STEP)?.trim().to_owned();
        let version = qemu::version()?;

        let mut workloads: Vec<_> = self.plan.of(group).collect();
        let mut records = Vec::new();
        let (order, mut left_out) = offered(&mut guest, self.plan.strategies.iter().copied())?;
        for round in 1..=self.plan.rounds {
            let started = Instant::now();
            for turn in 0..order.len() {
                let Some(strategy) = order.get((turn + round as usize - 1) % order.len()) else {
                    continue;
                };
                let label = format!("{}: round {round}, {}", group.name(), strategy.name());
                self.step(job, &label)?;
                enter(&mut guest, *strategy, group)
                    .with_context(|| format!("changing to {}", strategy.name()))?;
                if *strategy == Strategy::Auto {
                    self.settle(&mut guest, group)?;
                }

                let mut timed = Vec::new();
                for &workload in &workloads {
                    self.step(job, &format!("{label}, {}", workload.key()))?;
                    let text = self.pass(&mut guest, *strategy, workload, false)?;
                    timed.push((workload, Times::parse(workload, &text)?));
                }
                guest.ok("counters attach", STEP)?;
                for (workload, times) in timed {
                    self.step(job, &format!("{label}, {}, counted", workload.key()))?;
                    let text = self.pass(&mut guest, *strategy, workload, true)?;
                    let ops = times.ops.unwrap_or(workload.ops);
                    let counts = Counts::parse(workload, &text)?.in_pass_of(ops);
                    records.push(Record {
                        strategy: strategy.name().into(),
                        round,
                        hits: strategy.is_ours().then_some(counts.hits),
                        misses: strategy.is_ours().then_some(counts.misses),
                        // Only VT-d's driver has an event for them.
                        invalidations: self.plan.iommu.is_intel().then_some(counts.invalidations),
                        iommu: self.plan.iommu.name(),
                        kernel: kernel.clone(),
                        qemu: version.clone(),
                        accelerator: machine.accel.to_string(),
                        ..record(workload, clock, times, counts)
                    });
                }
                guest.ok("counters detach", STEP)?;

                // The first strategy tells how fast this machine is: what there is no time for is left
                // out of all of them.
                if (round, turn) == (1, 0) {
                    let took = started.elapsed();
                    let weight = Plan::weight_of(group, workloads.len());
                    let unit = took.mul_f64(OTHERS * order.len() as f64 / weight);

                    while let Some(first) = workloads.iter().position(|it| it.part == Part::IfTime)
                    {
                        let whole = unit.mul_f64(Plan::weight_of(group, workloads.len()));
                        // One is measured whatever it takes.
                        if workloads.len() == 1
                            || self.affords(job, whole.saturating_sub(took), unit)
                        {
                            break;
                        }
                        let dropped = workloads.remove(first);
                        left_out.push(format!("{}, for lack of time", dropped.key()));
                    }
                    records.retain(|record| workloads.iter().any(|it| is_of(record, it)));
                }
            }
            let took = started.elapsed();
            let unit = took.div_f64(Plan::weight_of(group, workloads.len()));
            if round < self.plan.rounds && !self.affords(job, took, unit) {
                left_out.push(format!(
                    "{}: rounds beyond {round}, for lack of time",
                    group.name()
                ));
                break;
            }
        }
        self.judge(&guest)?;
        let machines = vec![format!("{}: {}", group.name(), machine.describe())];
        Ok(Outcome {
            records,
            machines,
            left_out,
            ..Outcome::default()
        })
    }

    /// Shows `auto` the load that it is going to be measured with.
    fn settle(&self, guest: &mut Guest, group: Group) -> Result<()> {
        // Single mappings are over too soon to choose by.
        let loads = |it: &&Workload| !matches!(it.program, Program::Pairs(_));
        if !self.plan.of(group).any(|it| loads(&it)) {
            return Ok(());
        }
        let end = uptime(guest)? + SETTLING;
        while uptime(guest)? < end {
            for workload in self.plan.of(group).filter(loads) {
                self.pass(guest, Strategy::Auto, workload, false)?;
            }
        }
        Ok(())
    }

    fn pass(
        &self,
        guest: &mut Guest,
        strategy: Strategy,
        workload: &Workload,
        counted: bool,
    ) -> Result<String> {
        guest
            .ok(&command(workload, counted), STEP)
            .with_context(|| format!("{} under {}", workload.key(), strategy.name()))
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

    /// Has the guest answer what is asked about devices that fault.
    fn iopf(&self, clock: Clock) -> Result<Outcome> {
        let Some(command) = self.plan.questions(clock) else {
            return Ok(Outcome::default());
        };
        let icount = clock == Clock::Instructions;
        let machine = Machine {
            accel: if icount {
                Accel::Tcg
            } else {
                self.machine.accel
            },
            iommu: Iommu::IntelScalable,
            cpus: None,
            memory_mib: 1024,
            icount,
            disks: Disks::Null,
            svadma: self.plan.svadma.clone(),
            console: Console::File(self.out.join(format!("console-iopf-{}.log", clock.name()))),
            ..self.machine.clone()
        };
        self.step(Job::Iopf(clock), "iopf: boot")?;
        let mut guest = Guest::boot(&machine, BOOT)?;
        self.step(Job::Iopf(clock), &format!("iopf: {}", clock.name()))?;
        let text = guest.ok(&command, ANSWERS)?;
        self.judge(&guest)?;
        let figures = iopf::parse(&text)?.into_iter().map(|figure| Measured {
            clock: clock.name().into(),
            accelerator: machine.accel.to_string(),
            figure,
        });
        Ok(Outcome {
            figures: figures.collect(),
            machines: vec![format!("iopf: {}", machine.describe())],
            ..Outcome::default()
        })
    }

    /// Has guests of the guest do what is to be counted.
    fn vpio(&self) -> Result<Outcome> {
        let Some(loads) = &self.plan.vpio else {
            return Ok(Outcome::default());
        };
        let machine = Machine {
            iommu: Iommu::IntelLegacy,
            icount: false,
            disks: Disks::Null,
            guests: true,
            initrd: loads.initrd.clone(),
            console: Console::File(self.out.join("console-vpio.log")),
            ..self.machine.clone()
        };
        self.step(Job::Vpio, "vpio: boot")?;
        let mut guest = Guest::boot(&machine, BOOT)?;
        let mut outcome = Outcome::default();
        let mut run = |name: &str, round: u32, command: &str| -> Result<String> {
            self.step(Job::Vpio, &format!("vpio: {name}, round {round}"))?;
            let output = guest.run(command, ANSWERS)?;
            let log = self.out.join(format!("vpio-{name}-{round}.log"));
            fs::write(&log, &output.text)
                .with_context(|| format!("cannot write {}", log.display()))?;
            Ok(output.text)
        };
        let accelerator = machine.accel.to_string();
        for round in 1..=loads.rounds {
            let text = run("accesses", round, &loads.command(GUEST_SELFTESTS))?;
            if let Some(reason) = vpio::skipped(&text) {
                outcome.left_out.push(format!("vpio: {reason}"));
                break;
            }
            let done = vpio::parse(&text)?;
            outcome
                .loads
                .extend(vpio::Measured::all(round, &accelerator, done));
            if !loads.turns {
                continue;
            }
            let text = run("turns", round, &vpio::turns::command(GUEST_SELFTESTS))?;
            let turns = vpio::turns::parse(&text)?;
            outcome
                .turns
                .extend(vpio::Measured::all(round, &accelerator, turns));
        }
        self.judge(&guest)?;
        Ok(Outcome {
            machines: vec![format!("vpio: {}", machine.describe())],
            ..outcome
        })
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
        self.step(Job::Content, "content: boot")?;
        let mut guest = Guest::boot(&machine, BOOT)?;
        let mut content = Vec::new();
        let (checked, left_out) = offered(&mut guest, self.plan.checked())?;
        for strategy in checked {
            let name = strategy.name();
            self.step(Job::Content, &format!("content: {name}, network"))?;
            enter(&mut guest, strategy, Group::Message)?;
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
                self.step(Job::Content, &format!("content: {name}, {driver}"))?;
                let what = format!("{driver}: fio write and read, crc32c");
                content.push(verdict(&mut guest, name, &what, &check_disk(address))?);
            }
        }
        self.judge(&guest)?;
        let machines = vec![format!("content: {}", machine.describe())];
        Ok(Outcome {
            content,
            machines,
            left_out,
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

/// Those of `strategies` that the module has, and a word about each of the others.
fn offered(
    guest: &mut Guest,
    strategies: impl Iterator<Item = Strategy>,
) -> Result<(Vec<Strategy>, Vec<String>)> {
    let strategies: Vec<_> = strategies.collect();
    if !strategies.iter().any(|strategy| strategy.is_ours()) {
        return Ok((strategies, Vec::new()));
    }
    let list = guest.ok(
        &format!(
            "dma-mode strict {NVME} && \
             tr -d '[]' </sys/bus/pci/devices/{NVME}/dma_map_cache/strategy && \
             echo {NVME} >/sys/module/dma_map_cache/pci/detach"
        ),
        STEP,
    )?;
    let there = |strategy: &Strategy| {
        !strategy.is_ours() || list.split_whitespace().any(|name| name == strategy.name())
    };
    let (here, missing): (Vec<_>, Vec<_>) = strategies.into_iter().partition(there);
    let missing = missing
        .iter()
        .map(|it| format!("strategy {}: the module does not have it", it.name()));
    Ok((here, missing.collect()))
}

/// What goes each way before a network is measured: 1.5 MiB, for which each card needs a thousand
/// receive buffers, four times as many as its ring has. A card that was just bound fills its ring with
/// memory that no strategy has seen, and again as long as the driver passes the buffers on: what a
/// mapping costs for the first time is a question of how long one measures, not of the strategy.
const RINGS: [&str; 2] = ["stream", "receive"];

/// Puts a group's devices under a strategy, and makes them ready for work.
fn enter(guest: &mut Guest, strategy: Strategy, group: Group) -> Result<()> {
    let devices = group.devices().join(" ");
    guest.ok(&format!("dma-mode {} {devices}", strategy.name()), STEP)?;
    match group {
        Group::Stream | Group::Message => {
            guest.ok(&format!("net {devices}"), STEP)?;
            for kind in RINGS {
                let fill = format!("{IN_FIRST} pdio-load {kind} {SERVER} 65536 24 1 >/dev/null");
                guest.ok(&fill, STEP)?;
            }
        }
        Group::Disk => {
            guest.ok(&format!("disk {NVME} && disk {AHCI}"), STEP)?;
        }
    }
    Ok(())
}

/// How long the guest is up.
fn uptime(guest: &mut Guest) -> Result<Duration> {
    let text = guest.ok("cat /proc/uptime", STEP)?;
    let seconds = text.split_whitespace().next().context("no uptime")?;
    let seconds = seconds.parse().context("an uptime that is no number")?;
    Duration::try_from_secs_f64(seconds).context("an uptime that is no time")
}
