// SPDX-License-Identifier: GPL-2.0

//! Runs kselftests in the guest.
//!
//! A suite is a directory with a `Makefile` that sets `TEST_PROGS` or
//! `TEST_GEN_PROGS`, or a directory named in an installed `kselftest-list.txt`.
//! Each suite gets a machine of its own, or several of different kinds if its
//! file `machines` says so; a test that takes the machine down fails, and the
//! next test gets a new one.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use clap::ValueEnum;

use crate::console;
use crate::guest::{Guest, Lost};
use crate::initramfs::GUEST_SELFTESTS;
use crate::interrupt;
use crate::ktap::{self, Outcome, Report};
use crate::qemu::{self, Console, Iommu, Machine};

/// What kselftest allows a test whose `settings` do not say otherwise.
const DEFAULT_TIMEOUT: u64 = 45;

/// How much longer the host waits than the guest, before the machine is given up.
const GRACE: Duration = Duration::from_secs(20);

/// How long a machine may take to boot.
const BOOT_TIMEOUT: Duration = Duration::from_secs(90);

/// Exit statuses that `timeout` may leave when it had to act.
const TIMED_OUT: [i32; 3] = [124, 137, 143];

/// One test program of a suite.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Test {
    /// Directory below the kselftest root.
    pub suite: String,
    /// File in that directory.
    pub program: String,
}

impl Test {
    /// `suite/program`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.suite, self.program)
    }
}

/// The suites below `root`, sorted.
pub fn suites(root: &Path) -> Result<Vec<String>> {
    let mut suites: Vec<_> = tests(root)?.into_iter().map(|test| test.suite).collect();
    suites.sort();
    suites.dedup();
    Ok(suites)
}

/// All tests below `root`, in the order in which they are to run.
pub fn tests(root: &Path) -> Result<Vec<Test>> {
    let list = root.join("kselftest-list.txt");
    if let Ok(text) = fs::read_to_string(&list) {
        return Ok(parse_list(&text));
    }
    let Ok(entries) = fs::read_dir(root) else {
        return Ok(Vec::new());
    };
    let mut dirs = Vec::new();
    for entry in entries {
        dirs.push(entry?.path());
    }
    dirs.sort();
    let mut tests = Vec::new();
    for dir in dirs {
        let Ok(text) = fs::read_to_string(dir.join("Makefile")) else {
            continue;
        };
        let suite = dir.file_name().unwrap_or_default().to_string_lossy();
        for program in parse_makefile(&text) {
            tests.push(Test {
                suite: suite.clone().into_owned(),
                program,
            });
        }
    }
    Ok(tests)
}

fn parse_list(text: &str) -> Vec<Test> {
    text.lines()
        .filter_map(|line| line.trim().split_once(':'))
        .map(|(suite, program)| Test {
            suite: suite.to_owned(),
            program: program.to_owned(),
        })
        .collect()
}

/// The words that a kselftest `Makefile` gives to `TEST_PROGS` and `TEST_GEN_PROGS`.
fn parse_makefile(text: &str) -> Vec<String> {
    let joined = text.replace("\\\n", " ");
    let mut programs = Vec::new();
    for line in joined.lines() {
        let Some((name, value)) = line.split_once('=') else {
            continue;
        };
        let name = name.trim_end_matches([':', '+', '?', ' ', '\t']).trim();
        if matches!(name, "TEST_PROGS" | "TEST_GEN_PROGS") {
            let words = value.split('#').next().unwrap_or_default();
            programs.extend(
                words
                    .split_whitespace()
                    .filter(|word| !word.contains('$'))
                    .map(str::to_owned),
            );
        }
    }
    programs
}

/// Seconds that a suite's `settings` file grants each test; 0 is no limit.
fn parse_settings(text: &str) -> Option<u64> {
    text.lines()
        .filter_map(|line| line.trim().strip_prefix("timeout="))
        .next_back()
        .and_then(|value| value.trim().parse().ok())
}

/// What differs from one machine of a run to another, and which tests it gets.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Share {
    iommu: Iommu,
    external_port: bool,
    svadma: bool,
    /// More kernel parameters.
    append: Vec<String>,
    guests: bool,
    /// Words `NAME=VALUE` for the tests' environment.
    environment: Vec<String>,
    tests: Vec<Test>,
}

/// Reads a suite's file `machines`. A line is
///
/// ```text
/// IOMMU [external-port] [svadma] [guests] [append=PARAMETER...] [NAME=VALUE...]: TEST...
/// ```
///
/// and `#` begins a comment. A parameter is one of the kernel's. A test runs on each machine whose line names it; one
/// that no line names runs on the first, so that none is forgotten.
fn parse_machines(text: &str, suite: &[Test]) -> Result<Vec<Share>> {
    let mut shares = Vec::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        let (machine, programs) = line
            .split_once(':')
            .with_context(|| format!("`{line}` has no colon"))?;
        let mut words = machine.split_whitespace();
        let name = words.next().unwrap_or_default();
        let Ok(iommu) = Iommu::from_str(name, false) else {
            bail!("`{name}` is no IOMMU; see `pdio check --help`");
        };
        let mut share = Share {
            iommu,
            external_port: false,
            svadma: false,
            append: Vec::new(),
            guests: false,
            environment: Vec::new(),
            tests: Vec::new(),
        };
        for word in words {
            match word {
                "external-port" => share.external_port = true,
                "svadma" => share.svadma = true,
                word if word.starts_with("append=") => {
                    share
                        .append
                        .extend(word.strip_prefix("append=").map(str::to_owned));
                }
                "guests" => share.guests = true,
                word if word.contains('=') => share.environment.push(word.to_owned()),
                _ => bail!("`{word}` is nothing that a machine can have"),
            }
        }
        for program in programs.split_whitespace() {
            let Some(test) = suite.iter().find(|test| test.program == program) else {
                bail!("`{program}` is none of the suite's tests");
            };
            share.tests.push(test.clone());
        }
        shares.push(share);
    }

    let named = |test: &Test| shares.iter().any(|share| share.tests.contains(test));
    let unnamed: Vec<_> = suite.iter().filter(|test| !named(test)).cloned().collect();
    let Some(first) = shares.first_mut() else {
        bail!("it names no machine");
    };
    first.tests.extend(unnamed);
    for share in &mut shares {
        share
            .tests
            .sort_by_key(|test| suite.iter().position(|it| it == test));
    }
    Ok(shares)
}

/// Who gets which of the tests in `all`.
fn shares(root: &Path, machine: &Machine, everywhere: bool, all: &[Test]) -> Result<Vec<Share>> {
    let mut shares = Vec::new();
    for suite in all.chunk_by(|a, b| a.suite == b.suite) {
        let Some(first) = suite.first() else {
            continue;
        };
        let path = root.join(&first.suite).join("machines");
        match fs::read_to_string(&path) {
            Ok(text) if everywhere => shares.extend(
                parse_machines(&text, suite).with_context(|| format!("in {}", path.display()))?,
            ),
            _ => shares.push(Share {
                iommu: machine.iommu,
                external_port: machine.external_port.is_some(),
                svadma: machine.svadma.is_some(),
                append: Vec::new(),
                guests: machine.guests,
                environment: Vec::new(),
                tests: suite.to_owned(),
            }),
        }
    }
    Ok(shares)
}

/// What a run was asked for.
pub struct Options<'a> {
    /// The kselftest root on the host.
    pub root: PathBuf,
    /// On all the machines that the suites ask for, not on the given one only.
    pub everywhere: bool,
    /// The table for [`Machine::external_port`].
    pub external_port: PathBuf,
    /// The library for [`Machine::svadma`].
    pub svadma: Option<PathBuf>,
    /// Makes the file system of machines that run guests of their own.
    pub initrd_for_guests: &'a (dyn Fn() -> Result<PathBuf> + Sync),
    /// Only tests whose `suite/program` contains this.
    pub filter: Option<String>,
    /// Where logs go.
    pub out: PathBuf,
    /// Show what tests print while they run.
    pub verbose: bool,
}

/// How a whole run ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Results that passed.
    pub passed: usize,
    /// Results that failed.
    pub failed: usize,
    /// Results that were skipped.
    pub skipped: usize,
}

/// Runs the tests on machines like `machine`, and prints one line for each.
pub fn run(machine: &Machine, options: &Options<'_>) -> Result<Summary> {
    let all = tests(&options.root)?;
    let mut shares = shares(&options.root, machine, options.everywhere, &all)?;
    if let Some(filter) = &options.filter {
        for share in &mut shares {
            share
                .tests
                .retain(|test| test.name().contains(filter.as_str()));
        }
    }
    shares.retain(|share| !share.tests.is_empty());
    if shares.is_empty() {
        bail!(
            "no tests below {}{}; set PDIO_SELFTESTS to an installed kselftest directory",
            options.root.display(),
            match &options.filter {
                Some(filter) => format!(" match `{filter}`"),
                None => String::new(),
            }
        );
    }
    fs::create_dir_all(&options.out)
        .with_context(|| format!("cannot create {}", options.out.display()))?;

    // One for each processor: a test waits as much as it works.
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let initrd_for_guests = match shares.iter().any(|share| share.guests) {
        true => Some((options.initrd_for_guests)()?),
        false => None,
    };
    let run = Run {
        machine,
        options,
        initrd_for_guests,
        shares,
        next: AtomicUsize::new(0),
        failed: AtomicBool::new(false),
        summary: Mutex::default(),
    };
    let results: Vec<Result<()>> = std::thread::scope(|scope| {
        let handles: Vec<_> = (0..workers.min(run.shares.len()))
            .map(|_| scope.spawn(|| run.work()))
            .collect();
        let results = handles.into_iter().map(|handle| handle.join());
        results
            .map(|result| result.unwrap_or_else(|_| bail!("a worker has panicked")))
            .collect()
    });
    results.into_iter().collect::<Result<()>>()?;
    run.summary
        .into_inner()
        .map_err(|_| anyhow!("a worker has panicked"))
}

/// What the workers share.
struct Run<'a> {
    machine: &'a Machine,
    options: &'a Options<'a>,
    /// The file system of machines that run guests of their own, if there are any.
    initrd_for_guests: Option<PathBuf>,
    shares: Vec<Share>,
    /// The first share that nobody has begun.
    next: AtomicUsize,
    failed: AtomicBool,
    summary: Mutex<Summary>,
}

/// What the report calls the machine of a share, and its files. No two have the same name.
fn name(shares: &[Share], index: usize) -> String {
    let like = |share: &Share| match share.guests {
        true => format!("{}-guests", share.iommu.name()),
        false => share.iommu.name(),
    };
    let names: Vec<_> = shares.iter().take(index + 1).map(like).collect();
    let Some((name, earlier)) = names.split_last() else {
        return String::new();
    };
    match earlier.iter().filter(|it| *it == name).count() {
        0 => name.clone(),
        n => format!("{name}-{}", n + 1),
    }
}

impl Run<'_> {
    /// Takes shares until there are none.
    fn work(&self) -> Result<()> {
        loop {
            let index = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(share) = self.shares.get(index) else {
                return Ok(());
            };
            let result = self.run(share, name(&self.shares, index));
            if result.is_err() {
                self.failed.store(true, Ordering::Relaxed);
            }
            result?;
        }
    }

    fn run(&self, share: &Share, name: String) -> Result<()> {
        let started = Instant::now();
        let options = self.options;
        let mut lab = Lab {
            machine: Machine {
                iommu: share.iommu,
                external_port: share.external_port.then(|| options.external_port.clone()),
                svadma: match share.svadma {
                    true => Some(
                        options
                            .svadma
                            .clone()
                            .context("the device svadma is not built; run `make device`")?,
                    ),
                    false => None,
                },
                append: [&self.machine.append[..], &share.append].concat(),
                guests: share.guests,
                initrd: match (share.guests, &self.initrd_for_guests) {
                    (true, Some(initrd)) => initrd.clone(),
                    _ => self.machine.initrd.clone(),
                },
                ..self.machine.clone()
            },
            name,
            environment: share.environment.join(" "),
            out: &options.out,
            boots: 0,
            disks: None,
            guest: None,
        };
        for test in &share.tests {
            interrupt::check()?;
            // The run ends with an error that another worker tells about.
            if self.failed.load(Ordering::Relaxed) {
                return Ok(());
            }
            let report = run_one(&mut lab, test, options)?;
            let mut summary = self
                .summary
                .lock()
                .map_err(|_| anyhow!("a worker has panicked"))?;
            summary.passed += report.passed();
            summary.failed += report.failed();
            summary.skipped += report.skipped();
        }
        println!("# {}: {:.0} s", lab.name, started.elapsed().as_secs_f64());
        Ok(())
    }
}

/// Makes machines as tests need them.
struct Lab<'a> {
    machine: Machine,
    /// What the report calls it.
    name: String,
    /// In front of each test's command.
    environment: String,
    out: &'a Path,
    boots: u32,
    disks: Option<tempfile::TempDir>,
    guest: Option<Guest>,
}

impl Lab<'_> {
    fn guest(&mut self) -> Result<&mut Guest> {
        if self.guest.is_none() {
            self.boots += 1;
            let disks = tempfile::Builder::new().prefix("pdio-").tempdir()?;
            let machine = Machine {
                disks: qemu::create_disks(disks.path())?,
                console: Console::File(
                    self.out
                        .join(format!("console-{}-{}.log", self.name, self.boots)),
                ),
                ..self.machine.clone()
            };
            self.disks = Some(disks);
            let mut guest =
                Guest::boot(&machine, BOOT_TIMEOUT).with_context(|| format!("on {}", self.name))?;
            guest.ok("dmesg -n 7", GRACE)?;
            eprintln!(
                "# booted in {:.1} s ({})",
                guest.boot_time.as_secs_f64(),
                machine.describe()
            );
            self.guest = Some(guest);
        }
        self.guest.as_mut().context("no guest")
    }
}

fn run_one(lab: &mut Lab<'_>, test: &Test, options: &Options<'_>) -> Result<Report> {
    let settings = options.root.join(&test.suite).join("settings");
    let limit = fs::read_to_string(settings)
        .ok()
        .and_then(|text| parse_settings(&text))
        .unwrap_or(DEFAULT_TIMEOUT);
    let (guest_limit, host_limit) = match limit {
        0 => (String::new(), Duration::from_secs(3600)),
        seconds => (
            format!("timeout -k 5 {seconds} "),
            Duration::from_secs(seconds) + GRACE,
        ),
    };

    let out = options.out.to_owned();
    let name = format!("{}: {}", lab.name, test.name());
    let environment = lab.environment.clone();
    let share_name = lab.name.clone();
    let guest = lab.guest()?;
    let console_from = console_length(guest.console());
    let started = Instant::now();
    let command = format!(
        "echo 'pdio: test {name}' >/dev/kmsg; cd {GUEST_SELFTESTS}/{suite} && {environment} {guest_limit}./{program}",
        name = test.name(),
        suite = test.suite,
        program = test.program,
    );
    let mut text = String::new();
    let outcome = guest.stream(&command, host_limit, &mut |line| {
        if options.verbose {
            println!("# {}: {line}", share_name);
        }
        text += line;
        text.push('\n');
    });

    let mut lost = false;
    let mut report = match outcome {
        Ok(status) if TIMED_OUT.contains(&status) && limit != 0 => {
            let mut report = ktap::parse(&text, 0);
            report
                .errors
                .insert(0, format!("timed out after {limit} s"));
            report
        }
        Ok(status) => ktap::parse(&text, status),
        Err(error) => match error.downcast_ref::<Lost>() {
            Some(reason) => {
                lost = true;
                let mut report = ktap::parse(&text, 0);
                let words = match reason {
                    Lost::Died(_) => "the guest died".to_owned(),
                    Lost::Hung(after, _) => format!("the guest hung ({} s)", after.as_secs()),
                };
                report.errors.insert(0, words);
                report
            }
            None => return Err(error),
        },
    };
    let elapsed = started.elapsed();

    if !lost {
        settle(guest)?;
    }
    let console = fs::read(guest.console()).unwrap_or_default();
    let console = String::from_utf8_lossy(console.get(console_from..).unwrap_or_default());
    for line in console::problems(&console) {
        report.errors.push(format!("console: {line}"));
    }
    if lost || report.failed() > 0 {
        // A test that failed may have left anything behind.
        lab.guest = None;
    }

    let log = out.join(format!(
        "{}-{}.log",
        lab.name,
        test.name().replace('/', "-")
    ));
    fs::write(&log, &text).with_context(|| format!("cannot write {}", log.display()))?;
    print(&name, &report, elapsed, &log);
    Ok(report)
}

fn console_length(path: &Path) -> usize {
    fs::metadata(path).map_or(0, |meta| usize::try_from(meta.len()).unwrap_or(0))
}

/// Waits until everything that the kernel had to say is on the console.
fn settle(guest: &mut Guest) -> Result<()> {
    let from = console_length(guest.console());
    guest.run("echo 'pdio: end of test' >/dev/kmsg", GRACE)?;
    let deadline = Instant::now() + Duration::from_secs(3);
    while Instant::now() < deadline {
        let console = fs::read(guest.console()).unwrap_or_default();
        let tail = console.get(from..).unwrap_or_default();
        if String::from_utf8_lossy(tail).contains("pdio: end of test") {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Prints all of it at once, because other machines report, too.
fn print(name: &str, report: &Report, elapsed: Duration, log: &Path) {
    let verdict = match (report.failed(), report.passed()) {
        (0, 0) => "skip",
        (0, _) => "ok",
        _ => "FAIL",
    };
    let mut lines = vec![format!(
        "{verdict:<4}  {name:<45} {:>3} passed, {} failed, {} skipped  {:>6.1} s",
        report.passed(),
        report.failed(),
        report.skipped(),
        elapsed.as_secs_f64()
    )];
    for case in &report.cases {
        match &case.outcome {
            Outcome::Failed => {
                lines.push(format!("      not ok: {}", case.name));
                lines.extend(case.notes.iter().map(|note| format!("        # {note}")));
            }
            Outcome::Skipped(reason) => {
                lines.push(format!("      skipped: {} ({reason})", case.name));
            }
            Outcome::Passed => {}
        }
    }
    lines.extend(report.errors.iter().map(|error| format!("      {error}")));
    if report.failed() > 0 {
        lines.push(format!("      see {}", log.display()));
    }
    println!("{}", lines.join("\n"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn makefiles_name_their_tests() {
        let text = "# SPDX\nTEST_PROGS := a.sh \\\n\tb.sh\nTEST_GEN_PROGS += c # more\nTEST_FILES := lib.sh\ninclude ../lib.mk\n";
        assert_eq!(parse_makefile(text), ["a.sh", "b.sh", "c"]);
    }

    #[test]
    fn an_installed_list_is_taken_as_it_is() {
        let tests = parse_list("dma:attach.sh\ndma:stress\n\n");
        assert_eq!(tests.len(), 2);
        assert_eq!(tests[1].name(), "dma/stress");
    }

    fn suite(programs: &[&str]) -> Vec<Test> {
        let test = |program: &&str| Test {
            suite: "s".into(),
            program: (*program).to_owned(),
        };
        programs.iter().map(test).collect()
    }

    #[test]
    fn machines_get_the_tests_that_name_them_and_the_first_gets_the_rest() {
        let all = suite(&["a.sh", "b.sh", "c.sh", "d.sh"]);
        let text = "# x\nintel-scalable external-port: c.sh\namd svadma N=1 append=a=b M=2: c.sh a.sh # y\n";
        let shares = parse_machines(text, &all).unwrap();
        let programs = |share: &Share| -> Vec<_> {
            let tests = share.tests.iter();
            tests.map(|test| test.program.clone()).collect()
        };
        assert_eq!(programs(&shares[0]), ["b.sh", "c.sh", "d.sh"]);
        assert!(shares[0].external_port && shares[0].environment.is_empty());
        assert!(shares[1].svadma && !shares[0].svadma);
        assert_eq!(programs(&shares[1]), ["a.sh", "c.sh"]);
        assert_eq!(
            (shares[1].iommu, shares[1].external_port),
            (Iommu::Amd, false)
        );
        assert_eq!(shares[1].environment, ["N=1", "M=2"]);
        assert_eq!(shares[1].append, ["a=b"]);
    }

    #[test]
    fn machines_of_a_kind_have_names_of_their_own() {
        let text = "amd guests: a\namd: b\namd guests: c\n";
        let shares = parse_machines(text, &suite(&["a", "b", "c"])).unwrap();
        let names: Vec<_> = (0..3).map(|index| name(&shares, index)).collect();
        assert_eq!(names, ["amd-guests", "amd", "amd-guests-2"]);
    }

    #[test]
    fn what_no_machine_or_test_is_called_is_an_error() {
        for text in ["", "amd", "amd: e.sh", "vt-d: a.sh", "amd fast: a.sh"] {
            assert!(parse_machines(text, &suite(&["a.sh"])).is_err(), "{text}");
        }
    }

    #[test]
    fn settings_grant_time() {
        assert_eq!(parse_settings("# x\ntimeout=300\n"), Some(300));
        assert_eq!(parse_settings("timeout=0"), Some(0));
        assert_eq!(parse_settings("other=1"), None);
    }

    #[test]
    fn suites_are_found_by_their_makefiles() {
        let dir = tempfile::tempdir().unwrap();
        for (suite, makefile) in [
            ("b", "TEST_PROGS := t.sh\n"),
            ("a", "TEST_GEN_PROGS := u\n"),
            ("host", "all:\n"),
        ] {
            fs::create_dir(dir.path().join(suite)).unwrap();
            fs::write(dir.path().join(suite).join("Makefile"), makefile).unwrap();
        }
        assert_eq!(suites(dir.path()).unwrap(), ["a", "b"]);
    }
}
