// SPDX-License-Identifier: GPL-2.0

//! Runs the scenario.
//!
//! The strategies take turns within a round, all in one boot, and the order
//! moves on by one from round to round, so that no strategy always follows the
//! same other one. Every workload runs twice in a row: timed, then counted by
//! tracepoints, which cost instructions.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::console;
use crate::guest::Guest;
use crate::initramfs::GUEST_SELFTESTS;
use crate::interrupt;
use crate::iopf::{self, Measured, Questions};
use crate::progress::Progress;
use crate::qemu::{self, AHCI, Accel, Console, Disks, Iommu, Machine, NVME};
use crate::results::{ContentCheck, Record};
use crate::scenario::{Group, Pairs, Part, Program, Strategy, Workload};
use crate::vpio;

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

/// What is to be measured.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What translates in the machines that measure.
    pub iommu: Iommu,
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
    /// What is asked about devices that fault.
    pub iopf: Questions,
    /// The library that adds such a device to QEMU, if anything is asked.
    pub svadma: Option<PathBuf>,
    /// What guests with a card do, if they are to.
    pub vpio: Option<vpio::Loads>,
    /// No round begins that would make all of it take longer.
    pub budget: Option<Duration>,
}

/// One machine's share of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Job {
    Measure(Group, Clock),
    Content,
    Iopf(Clock),
    Vpio,
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
        for clock in IOPF_CLOCKS {
            if self.questions(clock).is_some() {
                jobs.push(Job::Iopf(clock));
            }
        }
        if self.vpio.is_some() {
            jobs.push(Job::Vpio);
        }
        // The longest first, so that none is left to one worker alone at the end.
        jobs.sort_by(|a, b| self.weight(*b).total_cmp(&self.weight(*a)));
        jobs
    }

    /// How many machines measure at once. A fault of a device wakes threads on several virtual CPUs: beside
    /// another machine, it takes up to five times as long by the clock.
    fn workers(&self, jobs: &[Job]) -> usize {
        let is_iopf = |job: &Job| matches!(job, Job::Iopf(_));
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let needed = if jobs.iter().all(is_iopf) {
            1
        } else {
            jobs.len()
        };
        cpus.min(needed)
    }

    /// The command that answers what is asked about devices that fault, if a clock is to.
    fn questions(&self, clock: Clock) -> Option<String> {
        self.iopf.command(clock, IOPF_CLOCKS[0])
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
            Job::Measure(group, _) => self.steps_of_round(group) * self.rounds as usize + 1,
            Job::Content => self.checked().count() * 3 + 1,
            Job::Iopf(_) => 2,
            Job::Vpio => self.vpio.as_ref().map_or(0, |loads| loads.steps()),
        }
    }

    fn steps_of_round(&self, group: Group) -> usize {
        (self.of(group).count() * 2 + 1) * self.strategies.len()
    }

    /// How long a round of a job takes, or all of one that has none, in units of a workload of single
    /// messages under all strategies: as demos came out, with TCG.
    fn weight(&self, job: Job) -> f64 {
        match job {
            Job::Measure(group, _) => {
                let each = match group {
                    Group::Message => 1.0,
                    Group::Stream => 2.0,
                    // It takes fio some time to start.
                    Group::Disk => 3.0,
                };
                self.of(group).count() as f64 * each
            }
            Job::Content => 4.0,
            Job::Iopf(_) => 1.0,
            Job::Vpio => self
                .vpio
                .as_ref()
                .map_or(0.0, |loads| 2.0 * loads.cards.len() as f64),
        }
    }

    /// How much of its weight is left of a job when the `begun`th of its steps begins.
    fn left(&self, job: Job, begun: usize) -> f64 {
        let steps = match job {
            Job::Measure(group, _) => self.steps_of_round(group) + 1,
            _ => self.steps(job),
        };
        let done = begun.saturating_sub(1) as f64 / steps.max(1) as f64;
        self.weight(job) * (1.0 - done).max(0.0)
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
}

/// Runs `plan` on machines like `machine`, whose accelerator is for those that
/// do not count instructions. Consoles are kept in `out`.
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
        failed: AtomicBool::new(false),
        outcome: Mutex::default(),
    };
    let work = || session.work();
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

    let mut outcome = session.outcome.into_inner().map_err(|_| Stopped)?;
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

/// Another worker failed.
#[derive(Debug, thiserror::Error)]
#[error("stopped because another machine failed")]
struct Stopped;

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
    failed: AtomicBool,
    outcome: Mutex<Outcome>,
}

/// How much longer than the first strategy one takes on average. The first is the kernel's identity mode,
/// which costs least.
const OTHERS: f64 = 1.2;

impl Session<'_> {
    /// Takes jobs until there are none, or one has failed.
    fn work(&self) -> Result<()> {
        while !self.failed.load(Ordering::Relaxed) {
            let next = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(share) = self.shares.get(next) else {
                break;
            };
            let result = self.run(share.job);
            share.begun.store(usize::MAX, Ordering::Relaxed);
            if result.is_err() {
                self.failed.store(true, Ordering::Relaxed);
            }
            let result = result?;
            let mut outcome = self.outcome.lock().map_err(|_| Stopped)?;
            outcome.records.extend(result.records);
            outcome.content.extend(result.content);
            outcome.figures.extend(result.figures);
            outcome.loads.extend(result.loads);
            outcome.turns.extend(result.turns);
            outcome.machines.extend(result.machines);
            outcome.left_out.extend(result.left_out);
        }
        Ok(())
    }

    /// Whether the budget allows `rest` of `job`, a round of which takes so long, and all that is left of
    /// the other jobs.
    fn affords(&self, job: Job, rest: Duration, round: Duration) -> bool {
        let Some(budget) = self.plan.budget else {
            return true;
        };
        let others = self.shares.iter().filter(|share| share.job != job);
        let left = |share: &Share| {
            self.plan
                .left(share.job, share.begun.load(Ordering::Relaxed))
        };
        let others: f64 = others.map(left).sum();
        let others = round.mul_f64(others / self.plan.weight(job));
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
        if self.failed.load(Ordering::Relaxed) {
            bail!(Stopped);
        }
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
                let whole = started.elapsed().mul_f64(OTHERS * order.len() as f64);
                if (round, turn) == (1, 0) && !self.affords(job, whole - started.elapsed(), whole) {
                    let (kept, dropped): (Vec<_>, _) = workloads
                        .into_iter()
                        .partition(|it| it.part != Part::IfTime);
                    let lacks = |it: &&Workload| format!("{}, for lack of time", it.key());
                    left_out.extend(dropped.iter().map(lacks));
                    records.retain(|record| kept.iter().any(|it| is_of(record, it)));
                    workloads = kept;
                }
            }
            let took = started.elapsed();
            if round < self.plan.rounds && !self.affords(job, took, took) {
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

/// By what it is measured what devices that fault cost. Instructions come out the same anywhere, and
/// say nothing of what it takes to interrupt a CPU and to wake it up.
const IOPF_CLOCKS: [Clock; 2] = [Clock::Instructions, Clock::Wall];

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

/// What the timed pass of a workload said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Times {
    /// Operations, if the program chooses their number.
    ops: Option<u64>,
    elapsed_ns: u64,
    busy_ns: u64,
}

impl Times {
    fn parse(workload: &Workload, text: &str) -> Result<Self> {
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
struct Counts {
    invalidations: u64,
    maps: u64,
    unmaps: u64,
    pte_updates: u64,
    hits: u64,
    misses: u64,
    /// Operations, if the program chooses their number.
    ops: Option<u64>,
}

impl Counts {
    /// The difference between two lines that `counters` printed.
    fn parse(workload: &Workload, text: &str) -> Result<Self> {
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
    fn in_pass_of(self, ops: u64) -> Self {
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
fn command(workload: &Workload, counted: bool) -> String {
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
fn is_of(record: &Record, workload: &Workload) -> bool {
    workload.name == record.workload && workload.bytes == record.message_bytes
}

fn record(workload: &Workload, clock: Clock, times: Times, counts: Counts) -> Record {
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

    fn plan() -> Plan {
        Plan {
            iommu: Iommu::IntelLegacy,
            strategies: Strategy::ALL.to_vec(),
            workloads: WORKLOADS.to_vec(),
            rounds: 3,
            clocks: vec![Clock::Instructions],
            content: true,
            iopf: Questions::default(),
            svadma: None,
            vpio: None,
            budget: None,
        }
    }

    fn named(name: &str) -> Workload {
        let mut all = WORKLOADS.into_iter();
        all.find(|workload| workload.name == name).unwrap()
    }

    #[test]
    fn a_plan_has_a_job_for_each_group_and_clock() {
        let both = Plan {
            clocks: vec![Clock::Instructions, Clock::Wall],
            ..plan()
        };
        assert_eq!(both.jobs().len(), 7);
        let network = Plan {
            workloads: plan().of(Group::Stream).copied().collect(),
            content: false,
            ..plan()
        };
        assert_eq!(
            network.jobs(),
            [Job::Measure(Group::Stream, Clock::Instructions)]
        );
        let workloads = network.workloads.len();
        let passes = (workloads * 2 + 1) * Strategy::ALL.len();
        assert_eq!(network.total_steps(), passes * 3 + 1);
    }

    #[test]
    fn what_is_left_of_a_job_shrinks_to_nothing() {
        let plan = plan();
        for job in plan.jobs() {
            let whole = plan.weight(job);
            assert!(whole > 0.0, "{job:?}");
            assert_eq!(plan.left(job, 0), whole, "{job:?}");
            assert_eq!(plan.left(job, 1), whole, "{job:?}");
            assert!(plan.left(job, 2) < whole, "{job:?}");
            assert_eq!(plan.left(job, usize::MAX), 0.0, "{job:?}");
        }
    }

    #[test]
    fn what_depends_on_the_clock_is_asked_of_two_machines() {
        let asks = |question| Plan {
            workloads: Vec::new(),
            content: false,
            iopf: Questions {
                asked: vec![question],
                rounds: 1,
                short: true,
            },
            ..plan()
        };
        let both = IOPF_CLOCKS.map(Job::Iopf);
        assert_eq!(asks(iopf::Question::Modes).jobs(), both);
        assert_eq!(asks(iopf::Question::Loss).jobs(), both[..1]);
        assert_eq!(asks(iopf::Question::Loss).total_steps(), 2);
    }

    #[test]
    fn identity_is_not_checked_for_content() {
        assert!(plan().checked().all(|it| it != Strategy::KernelIdentity));
        assert_eq!(plan().checked().count(), Strategy::ALL.len() - 1);
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
