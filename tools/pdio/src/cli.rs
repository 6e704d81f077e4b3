// SPDX-License-Identifier: GPL-2.0

//! The command line.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::accel::{self, Verdict};
use crate::acpi;
use crate::cache::Kernel;
use crate::check;
use crate::guest::{self, Guest};
use crate::initramfs::{self, Payload};
use crate::interrupt::{self, Interrupted};
use crate::iopf::{self, Question, Questions};
use crate::measure::{self, Clock, Plan};
use crate::plot;
use crate::progress::Progress;
use crate::qemu::{self, Accel, Console, Iommu, Machine};
use crate::results::{self, Results, Run};
use crate::scenario::{Part, Program, Strategy, WORKLOADS, Workload};
use crate::table;
use crate::vpio;

const EXAMPLES: &str = "\
Examples:
  pdio vm                              a shell in the test VM
  pdio vm -- lspci                     one command in it, with its exit status
  pdio vm --svadma -- lspci -k          with the device that tests of iopf use
  pdio vm --guests                      with what it takes to run guests in the VM
  pdio vm --iommu intel-legacy --icount -- cat /proc/cmdline
  pdio check --out out/check           all kselftests
  pdio check --out out/check --filter attach
  pdio check --out out/check --iommu amd
  pdio demo --out out/demo             the comparison, in minutes
  pdio bench --out out/bench --rounds 5
  pdio bench --out /tmp/x --iommu amd --filter map-unmap
  pdio demo --out /tmp/x --modes kernel-identity,kernel-strict --filter udp
  pdio iopf modes --out /tmp/x         what sva, mirror and pinned cost
  pdio iopf --out out/iopf             all about devices that fault
  pdio vpio --out out/vpio             what it takes a guest to drive a network card
  pdio report out/demo                 tables and plots of an earlier run

Environment:
  PDIO_CACHE      what the set-up made (default ~/.cache/pdio)
  PDIO_KERNEL     kernel to boot: a directory with vmlinuz, release, modules/
  PDIO_MODULES    our modules: .ko files, or directories of them, separated by ':'
  PDIO_SELFTESTS  kselftests: an installed directory, or the checkout's selftests/
  PDIO_VM_DIR     the guest's scripts (default: the checkout's selftests/vm)";

/// Protected direct I/O: boot the test VM, check, measure, report.
#[derive(Debug, Parser)]
#[command(version, after_help = EXAMPLES)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Boot the VM to a shell, or run one command in it
    Vm(VmArgs),
    /// Run kselftests in the VM
    Check(CheckArgs),
    /// Measure a subset that takes minutes
    Demo(MeasureArgs),
    /// Measure everything
    Bench(MeasureArgs),
    /// Measure what devices that fault cost, and how they use memory
    Iopf(IopfArgs),
    /// Measure what it takes a guest to drive a network card
    Vpio(VpioArgs),
    /// Print the tables and draw the plots again, from an earlier run's results
    Report {
        /// Where `results.json` is
        dir: PathBuf,
    },
    /// Say whether KVM or TCG is used, and why
    Accel,
}

#[derive(Debug, Args)]
struct MachineArgs {
    /// Which IOMMU the machine has [default: intel-scalable; for `check` what the tests ask for]
    #[arg(long, value_enum)]
    iommu: Option<Iommu>,
    /// Number of processors [default: 2; 1 with --icount, and with --guests where KVM does not work]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=64))]
    cpus: Option<u32>,
    /// RAM in MiB
    #[arg(long, default_value_t = 2048, value_parser = clap::value_parser!(u32).range(512..=1048576))]
    memory: u32,
    /// Accelerator, instead of the one that `pdio accel` names
    #[arg(long, value_enum)]
    accel: Option<Accel>,
    /// With a PCIe port that leads out of the machine, and a device behind it that is not trusted
    #[arg(long)]
    external_port: bool,
    /// With a device that works on the virtual addresses of processes, for the tests of iopf
    #[arg(long)]
    svadma: bool,
    /// With what it takes to run guests in it, and network cards for them, for the tests of vpio
    #[arg(long)]
    guests: bool,
    /// More kernel parameters
    #[arg(long, value_name = "PARAMETERS")]
    append: Option<String>,
}

#[derive(Debug, Args)]
struct VmArgs {
    #[command(flatten)]
    machine: MachineArgs,
    /// Let guest time be the number of executed instructions (one CPU, TCG)
    #[arg(long)]
    icount: bool,
    /// Seconds after which CMD is given up
    #[arg(long, default_value_t = 600)]
    timeout: u64,
    /// Keep the console in this file
    #[arg(long, value_name = "FILE")]
    console: Option<PathBuf>,
    /// Command to run in the guest
    #[arg(last = true, value_name = "CMD")]
    command: Vec<String>,
}

#[derive(Debug, Args)]
struct CheckArgs {
    /// Where logs go
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Run only tests whose suite/program contains this
    #[arg(long)]
    filter: Option<String>,
    /// Print what tests print
    #[arg(short, long)]
    verbose: bool,
    #[command(flatten)]
    machine: MachineArgs,
}

/// Leaves the last minutes of ten to estimates that are too low, and to machines that slow down.
const DEMO_BUDGET: Duration = Duration::from_secs(440);

#[derive(Debug, Args)]
struct MeasureArgs {
    /// Where results go
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// How often each workload runs under each strategy [default: 2 in a demo, 3 in a bench]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: Option<u32>,
    /// Only these strategies, separated by commas
    #[arg(long, value_enum, value_delimiter = ',', value_name = "STRATEGY")]
    modes: Vec<Strategy>,
    /// Only workloads whose name-and-size contains this
    #[arg(long)]
    filter: Option<String>,
    /// Which IOMMUs to measure with, separated by commas; of those behind the first, whose results
    /// go to directories of their own, the workloads of a demo in one round [default: intel-legacy
    /// in a demo; intel-legacy,intel-caching,amd,virtio in a bench]
    #[arg(long, value_enum, value_delimiter = ',', value_name = "IOMMU")]
    iommu: Vec<Iommu>,
    /// Begin no round that would make the run take longer than so many seconds, and do without
    /// some message sizes if the first would
    /// [default: 440 in a demo, none in a bench]
    #[arg(long, value_name = "SECONDS")]
    budget: Option<u64>,
    /// Do not check content
    #[arg(long)]
    no_content: bool,
    /// Measure by this clock only [default: instructions, and wall where KVM works]
    #[arg(long, value_enum)]
    clock: Option<Clock>,
}

#[derive(Debug, Args)]
struct IopfArgs {
    /// What to measure [default: all]
    #[arg(value_enum)]
    questions: Vec<Question>,
    /// Where results go
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// How often each mode has its turn
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// As little as in a demo
    #[arg(long)]
    short: bool,
}

/// Seconds, and thousands of frames, for the large download.
const VPIO_SCALE: u32 = 4;

#[derive(Debug, Args)]
struct VpioArgs {
    /// Where results go
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// How often everything is done
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// How many times 64 KiB and 1 MiB the downloads are
    #[arg(long, default_value_t = VPIO_SCALE, value_parser = clap::value_parser!(u32).range(1..=1024))]
    scale: u32,
}

/// Runs the program. The exit status is 0 for success, 1 for a failed check,
/// 2 for an error, 130 when interrupted, or that of the guest's command.
pub fn run(cli: Cli) -> Result<ExitCode> {
    interrupt::install()?;
    let result = match cli.command {
        Command::Vm(args) => vm(&args),
        Command::Check(args) => check(&args),
        Command::Demo(args) => measure("demo", &args),
        Command::Bench(args) => measure("bench", &args),
        Command::Iopf(args) => measure_iopf(&args),
        Command::Vpio(args) => measure_vpio(&args),
        Command::Report { dir } => report(&dir).map(|good| ExitCode::from(u8::from(!good))),
        Command::Accel => accel(),
    };
    match result {
        Err(error) if error.is::<Interrupted>() => Ok(ExitCode::from(130)),
        result => result,
    }
}

impl Default for MachineArgs {
    fn default() -> Self {
        Self {
            iommu: None,
            cpus: None,
            memory: 2048,
            accel: None,
            external_port: false,
            svadma: false,
            guests: false,
            append: Some("loglevel=5".into()),
        }
    }
}

/// What every command that boots a machine needs first.
struct Bench {
    kernel: Kernel,
    payload: Payload,
    dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Result<Self> {
        Ok(Self {
            kernel: Kernel::find()?,
            payload: initramfs::payload()?,
            dir: tempfile::Builder::new().prefix("pdio-").tempdir()?,
        })
    }

    fn verdict(&self) -> Result<Verdict> {
        accel::decide(&self.kernel, &self.payload)
    }

    /// The firmware's part of a port that leads out of the machine.
    fn external_port(&self) -> Result<PathBuf> {
        let table = self.dir.path().join("ssdt");
        fs::write(&table, acpi::external_facing_port(qemu::EXTERNAL_PORT << 3))?;
        Ok(table)
    }

    /// The library that adds the device `svadma` to QEMU.
    fn svadma(&self) -> Result<PathBuf> {
        let library = self.payload.svadma.clone();
        library.context("the device svadma is not built; run `make device`")
    }

    /// The file system of a machine; larger if it runs guests of its own.
    fn initrd(&self, guests: bool) -> Result<PathBuf> {
        let name = match guests {
            true => "initrd-guests",
            false => "initrd",
        };
        let path = self.dir.path().join(name);
        let payload = Payload {
            guests,
            ..self.payload.clone()
        };
        initramfs::write(&initramfs::build(&self.kernel, &payload)?, &path)?;
        Ok(path)
    }

    fn machine(&self, args: &MachineArgs, icount: bool) -> Result<Machine> {
        let initrd = self.initrd(args.guests)?;
        let accel = match args.accel {
            Some(accel) => accel,
            None if icount => Accel::Tcg,
            None => self.verdict()?.accel(),
        };
        Ok(Machine {
            accel,
            iommu: args.iommu.unwrap_or(Iommu::IntelScalable),
            cpus: if icount { None } else { args.cpus },
            memory_mib: args.memory,
            icount,
            disks: if icount {
                qemu::Disks::Null
            } else {
                qemu::create_disks(self.dir.path())?
            },
            devices: true,
            external_port: match args.external_port {
                true => Some(self.external_port()?),
                false => None,
            },
            svadma: match args.svadma {
                true => Some(self.svadma()?),
                false => None,
            },
            guests: args.guests,
            console: Console::Terminal,
            control: None,
            kernel: self.kernel.image.clone(),
            initrd,
            append: args.append.iter().cloned().collect(),
        })
    }
}

fn vm(args: &VmArgs) -> Result<ExitCode> {
    let bench = Bench::new()?;
    let mut machine = bench.machine(&args.machine, args.icount)?;
    if args.command.is_empty() {
        machine.append.push("loglevel=4".into());
        guest::interactive(&machine)?;
        return Ok(ExitCode::SUCCESS);
    }
    let console = match &args.console {
        Some(path) => path.clone(),
        None => bench.dir.path().join("console"),
    };
    machine.console = Console::File(console);
    machine.append.push("loglevel=5".into());
    let mut guest = Guest::boot(&machine, Duration::from_secs(120))?;
    let command = match args.command.as_slice() {
        // One argument is a shell command, as with ssh.
        [command] => command.clone(),
        words => words
            .iter()
            .map(|word| quote(word))
            .collect::<Vec<_>>()
            .join(" "),
    };
    let status = guest.stream(&command, Duration::from_secs(args.timeout), &mut |line| {
        println!("{line}");
    })?;
    Ok(ExitCode::from(u8::try_from(status).unwrap_or(1)))
}

/// Makes one word for the shell.
fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

fn check(args: &CheckArgs) -> Result<ExitCode> {
    let bench = Bench::new()?;
    let Some(root) = bench.payload.selftests.clone() else {
        bail!("no kselftests found; run from a checkout, or set PDIO_SELFTESTS");
    };
    let mut machine = bench.machine(&args.machine, false)?;
    machine.append.push("loglevel=5".into());
    let summary = check::run(
        &machine,
        &check::Options {
            root,
            everywhere: args.machine.iommu.is_none()
                && !args.machine.external_port
                && !args.machine.svadma
                && !args.machine.guests,
            external_port: bench.external_port()?,
            svadma: bench.payload.svadma.clone(),
            initrd_for_guests: &|| bench.initrd(true),
            filter: args.filter.clone(),
            out: args.out.clone(),
            verbose: args.verbose,
        },
    )?;
    if summary.skipped > 0 {
        println!("VM: {} skipped", summary.skipped);
    }
    println!("VM: {} passed, {} failed", summary.passed, summary.failed);
    Ok(if summary.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(1)
    })
}

/// With which IOMMUs a bench measures unless it is told.
const BENCH_IOMMUS: [Iommu; 4] = [
    Iommu::IntelLegacy,
    Iommu::IntelCaching,
    Iommu::Amd,
    Iommu::Virtio,
];

fn measure(kind: &str, args: &MeasureArgs) -> Result<ExitCode> {
    let bench = Bench::new()?;
    let verdict = bench.verdict()?;
    let iommus = match (args.iommu.as_slice(), kind) {
        ([], "bench") => BENCH_IOMMUS.to_vec(),
        ([], _) => vec![Iommu::IntelLegacy],
        (chosen, _) => chosen.to_vec(),
    };
    if iommus.contains(&Iommu::None) {
        bail!("without an IOMMU there is nothing to compare");
    }

    let mut status = ExitCode::SUCCESS;
    for (turn, iommu) in iommus.into_iter().enumerate() {
        let aside = turn > 0;
        let out = match aside {
            true => args.out.join(iommu.name()),
            false => args.out.clone(),
        };
        let (plan, left_out) = plan(kind, args, iommu, aside, &bench, &verdict)?;
        if !measure_with(kind, &bench, &verdict, &plan, left_out, &out)? {
            status = ExitCode::from(1);
        }
    }
    Ok(status)
}

/// Why nothing can be asked about devices that fault, if so.
fn iopf_lacks(payload: &Payload) -> Option<&'static str> {
    if payload.svadma.is_none() {
        return Some("the device svadma is not built; run `make device`");
    }
    let modules = ["iopf", "svadma"].into_iter();
    let mut missing = modules.filter(|name| !payload.has_module(name));
    missing
        .next()
        .map(|_| "iopf.ko or svadma.ko is not among PDIO_MODULES; run `make modules`")
}

fn measure_iopf(args: &IopfArgs) -> Result<ExitCode> {
    let bench = Bench::new()?;
    if let Some(lack) = iopf_lacks(&bench.payload) {
        bail!("{lack}");
    }
    let plan = Plan {
        iommu: Iommu::IntelScalable,
        strategies: Vec::new(),
        workloads: Vec::new(),
        rounds: args.rounds,
        clocks: Vec::new(),
        content: false,
        iopf: Questions {
            asked: match args.questions.as_slice() {
                [] => Question::value_variants().to_vec(),
                asked => asked.to_vec(),
            },
            rounds: args.rounds,
            short: args.short,
        },
        svadma: bench.payload.svadma.clone(),
        vpio: None,
        budget: None,
    };
    measure_part("iopf", &bench, &plan, &args.out)
}

/// Why nothing can be measured of guests with a card, if so.
fn vpio_lacks(payload: &Payload) -> Option<&'static str> {
    (!payload.has_module("vpio")).then_some("vpio.ko is not among PDIO_MODULES; run `make modules`")
}

fn measure_vpio(args: &VpioArgs) -> Result<ExitCode> {
    let bench = Bench::new()?;
    if let Some(lack) = vpio_lacks(&bench.payload) {
        bail!("{lack}");
    }
    let plan = Plan {
        iommu: Iommu::IntelLegacy,
        strategies: Vec::new(),
        workloads: Vec::new(),
        rounds: args.rounds,
        clocks: Vec::new(),
        content: false,
        iopf: Questions::default(),
        svadma: None,
        vpio: Some(vpio::Loads {
            rounds: args.rounds,
            scale: args.scale,
            cards: vpio::Loads::all_cards(),
            turns: true,
            initrd: bench.initrd(true)?,
        }),
        budget: None,
    };
    measure_part("vpio", &bench, &plan, &args.out)
}

/// Carries out a plan of one part, and reports to `out`.
fn measure_part(kind: &str, bench: &Bench, plan: &Plan, out: &Path) -> Result<ExitCode> {
    let good = measure_with(kind, bench, &bench.verdict()?, plan, Vec::new(), out)?;
    Ok(ExitCode::from(u8::from(!good)))
}

/// Carries out a plan, and reports to `out`. Returns whether all went well.
fn measure_with(
    kind: &str,
    bench: &Bench,
    verdict: &Verdict,
    plan: &Plan,
    mut left_out: Vec<String>,
    out: &Path,
) -> Result<bool> {
    let machine = bench.machine(&MachineArgs::default(), false)?;
    let started = Instant::now();
    let progress = Progress::new(plan.total_steps());
    let outcome = measure::run(&machine, plan, out, &progress);
    progress.finish();
    let outcome = outcome?;
    left_out.extend(outcome.left_out);

    let run = Run {
        kind: kind.to_owned(),
        rounds: match outcome.records.iter().map(|it| it.round).max() {
            Some(rounds) => rounds,
            None => plan.rounds,
        },
        kernel: bench.kernel.release.clone(),
        qemu: qemu::version()?,
        machines: outcome.machines,
        accelerator: format!("{}: {}", verdict.accel(), verdict.reason),
        seconds: started.elapsed().as_secs(),
        left_out,
        content: outcome.content,
        failed: outcome.failed,
    };
    results::save(
        out,
        &Results {
            run,
            records: outcome.records,
            figures: outcome.figures,
            loads: outcome.loads,
            turns: outcome.turns,
        },
    )?;
    report(out)
}

/// What to measure, and what of all there is that leaves out. Aside, that is as much as in a demo.
fn plan(
    kind: &str,
    args: &MeasureArgs,
    iommu: Iommu,
    aside: bool,
    bench: &Bench,
    verdict: &Verdict,
) -> Result<(Plan, Vec<String>)> {
    let demo = kind == "demo" || aside;
    let payload = &bench.payload;
    let strategies: Vec<_> = Strategy::ALL
        .into_iter()
        .filter(|strategy| args.modes.is_empty() || args.modes.contains(strategy))
        // It takes seconds of load to choose, before each round.
        .filter(|strategy| kind != "demo" || !args.modes.is_empty() || *strategy != Strategy::Auto)
        // The kernel refuses its lazy mode there.
        .filter(|strategy| (iommu, *strategy) != (Iommu::IntelCaching, Strategy::KernelLazy))
        .collect();
    if strategies.iter().any(|strategy| strategy.is_ours()) && !payload.has_module("dma_map_cache")
    {
        bail!(
            "dma_map_cache.ko is not among PDIO_MODULES; run `make modules`, or measure the \
             kernel's modes alone with --modes kernel-identity,kernel-lazy,kernel-strict"
        );
    }
    let micro = payload.has_module("dma_map_bench");
    let wanted = |workload: &Workload| {
        let pairs = matches!(workload.program, Program::Pairs(_));
        (!demo || workload.part != Part::Bench)
            && (micro || !pairs)
            && args
                .filter
                .as_ref()
                .is_none_or(|filter| workload.key().contains(filter.as_str()))
    };
    let (mut workloads, others): (Vec<_>, Vec<_>) = WORKLOADS.into_iter().partition(wanted);
    let mut left_out: Vec<_> = others.iter().map(Workload::key).collect();
    let wanted = |question: &Question| {
        !aside
            && (!demo || *question == Question::Modes)
            && args
                .filter
                .as_ref()
                .is_none_or(|filter| format!("iopf-{}", question.name()).contains(filter.as_str()))
    };
    let (mut asked, others): (Vec<_>, Vec<_>) =
        Question::value_variants().iter().copied().partition(wanted);
    left_out.extend(
        others
            .iter()
            .map(|question| format!("iopf-{}", question.name())),
    );
    if let (false, Some(lack)) = (asked.is_empty(), iopf_lacks(payload)) {
        asked.clear();
        left_out.push(format!("iopf: {lack}"));
    }
    let asked_for = |filter: &String| "vpio".contains(filter.as_str());
    let wanted = !aside && args.filter.as_ref().is_none_or(asked_for);
    let vpio = match vpio_lacks(payload) {
        _ if !wanted => {
            left_out.push("vpio".into());
            None
        }
        Some(lack) => {
            left_out.push(format!("vpio: {lack}"));
            None
        }
        None if demo => {
            left_out.push("vpio: cards other than hook and direct, and turns".into());
            Some((vec!["hook", "direct"], 1))
        }
        None => Some((vpio::Loads::all_cards(), VPIO_SCALE)),
    };
    if workloads.is_empty() && asked.is_empty() && vpio.is_none() {
        bail!("no workload is left to measure; see --filter");
    }
    for strategy in Strategy::ALL {
        if !strategies.contains(&strategy) {
            left_out.push(format!("strategy {}", strategy.name()));
        }
    }
    if !micro {
        left_out.push(
            "instructions per map+unmap pair: dma_map_bench.ko is not among PDIO_MODULES".into(),
        );
    }
    let content = !args.no_content && !aside;
    if !content {
        left_out.push("the check of content".into());
    }
    let clocks = match args.clock {
        Some(clock) => vec![clock],
        None if verdict.kvm => vec![Clock::Instructions, Clock::Wall],
        None => vec![Clock::Instructions],
    };
    let rounds = match (aside, args.rounds) {
        (true, _) => 1,
        (false, Some(rounds)) => rounds,
        (false, None) if demo => 2,
        (false, None) => 3,
    };
    let budget = match args.budget {
        Some(seconds) => Some(Duration::from_secs(seconds)),
        None => (kind == "demo").then_some(DEMO_BUDGET),
    };
    if demo {
        workloads = workloads.into_iter().map(Workload::shortened).collect();
        left_out.push(
            "half of the operations of each workload on the network, three quarters on disks"
                .into(),
        );
        if rounds < 3 {
            left_out.push(format!("rounds beyond {rounds}"));
        }
    }
    let plan = Plan {
        iommu,
        strategies,
        workloads,
        rounds,
        clocks,
        content,
        iopf: Questions {
            asked,
            rounds,
            short: demo,
        },
        svadma: payload.svadma.clone(),
        vpio: match vpio {
            Some((cards, scale)) => Some(vpio::Loads {
                // Counts hardly differ from one round to the next.
                rounds: if demo { 1 } else { rounds },
                scale,
                cards,
                turns: !demo,
                initrd: bench.initrd(true)?,
            }),
            None => None,
        },
        budget,
    };
    Ok((plan, left_out))
}

/// Prints and draws what an earlier run has left in `dir`. Returns whether all went well.
fn report(dir: &Path) -> Result<bool> {
    let results = results::load(dir)?;
    let text = table::report(&results);
    print!("{text}");
    let path = dir.join("report.txt");
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    for file in plot::all(dir, &results.records)?
        .into_iter()
        .chain(iopf::plot::all(dir, &results.figures)?)
        .chain(vpio::plot::all(dir, &results.loads, &results.turns)?)
    {
        println!("{}", file.display());
    }
    let jsons = [
        results::RESULTS,
        results::IOPF,
        results::VPIO,
        results::TURNS,
    ]
    .map(|name| dir.join(name));
    let written = jsons.iter().filter(|path| path.exists());
    for file in written.chain([&path]) {
        println!("{}", file.display());
    }
    Ok(results.run.is_good())
}

fn accel() -> Result<ExitCode> {
    let verdict = Bench::new()?.verdict()?;
    println!("{}: {}", verdict.accel(), verdict.reason);
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn a_command_for_the_guest_follows_two_dashes() {
        let cli = Cli::try_parse_from(["pdio", "vm", "--icount", "--", "ls", "-l"]).unwrap();
        let Command::Vm(args) = cli.command else {
            panic!()
        };
        assert!(args.icount);
        assert_eq!(args.command, ["ls", "-l"]);
    }

    #[test]
    fn wrong_input_is_refused() {
        for line in [
            &["pdio", "vm", "--cpus", "0"][..],
            &["pdio", "vm", "--iommu", "none-such"],
            &["pdio", "check"],
            &["pdio"],
        ] {
            assert!(Cli::try_parse_from(line).is_err(), "{line:?}");
        }
    }

    #[test]
    fn words_survive_the_shell() {
        assert_eq!(quote("a b"), "'a b'");
        assert_eq!(quote("it's"), "'it'\\''s'");
    }
}
