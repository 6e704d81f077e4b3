// SPDX-License-Identifier: GPL-2.0

//! The command line.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::{Args, Parser, Subcommand};

use crate::accel::{self, Verdict};
use crate::cache::Kernel;
use crate::check;
use crate::guest::{self, Guest};
use crate::initramfs::{self, Payload};
use crate::interrupt::{self, Interrupted};
use crate::qemu::{self, Accel, Console, Iommu, Machine};

const EXAMPLES: &str = "\
Examples:
  pdio vm                              a shell in the test VM
  pdio vm -- lspci                     one command in it, with its exit status
  pdio vm --iommu intel-legacy --icount -- cat /proc/cmdline
  pdio check --out out/check           all kselftests
  pdio check --out out/check --filter attach

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
    /// Say whether KVM or TCG is used, and why
    Accel,
}

#[derive(Debug, Args)]
struct MachineArgs {
    /// Which IOMMU the machine has
    #[arg(long, value_enum, default_value = "intel-scalable")]
    iommu: Iommu,
    /// Number of processors
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    cpus: u32,
    /// RAM in MiB
    #[arg(long, default_value_t = 2048, value_parser = clap::value_parser!(u32).range(512..=1048576))]
    memory: u32,
    /// Accelerator, instead of the one that `pdio accel` names
    #[arg(long, value_enum)]
    accel: Option<Accel>,
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

/// Runs the program. The exit status is 0 for success, 1 for a failed check,
/// 2 for an error, 130 when interrupted, or that of the guest's command.
pub fn run(cli: Cli) -> Result<ExitCode> {
    interrupt::install()?;
    let result = match cli.command {
        Command::Vm(args) => vm(&args),
        Command::Check(args) => check(&args),
        Command::Accel => accel(),
    };
    match result {
        Err(error) if error.is::<Interrupted>() => Ok(ExitCode::from(130)),
        result => result,
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

    fn machine(&self, args: &MachineArgs, icount: bool) -> Result<Machine> {
        let initrd = self.dir.path().join("initrd");
        initramfs::write(&initramfs::build(&self.kernel, &self.payload)?, &initrd)?;
        let accel = match args.accel {
            Some(accel) => accel,
            None if icount => Accel::Tcg,
            None => self.verdict()?.accel(),
        };
        Ok(Machine {
            accel,
            iommu: args.iommu,
            cpus: if icount { 1 } else { args.cpus },
            memory_mib: args.memory,
            icount,
            disks: if icount {
                qemu::Disks::Null
            } else {
                qemu::create_disks(self.dir.path())?
            },
            devices: true,
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
