// SPDX-License-Identifier: GPL-2.0

//! The comparison as text.

use std::fmt::Write;

use crate::iopf;
use crate::results::{Record, Results, Run};
use crate::scenario::{PAIR, Strategy, WORKLOADS, Workload};
use crate::stats::Summary;
use crate::vpio;

/// Stands for a value that does not exist.
pub(crate) const NONE: &str = "–";

/// A table of text cells whose columns line up.
pub(crate) struct Grid {
    rows: Vec<Vec<String>>,
}

impl Grid {
    pub(crate) fn new(head: &[&str]) -> Self {
        Self {
            rows: vec![head.iter().map(|cell| (*cell).to_owned()).collect()],
        }
    }

    pub(crate) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// The first column is left-aligned, the others are right-aligned.
    pub(crate) fn render(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut out = String::new();
        for (number, row) in self.rows.iter().enumerate() {
            let mut line = String::new();
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                let gap = " ".repeat(width - cell.chars().count());
                if column == 0 {
                    line += &format!("{cell}{gap}");
                } else {
                    line += &format!("  {gap}{cell}");
                }
            }
            out += line.trim_end();
            out.push('\n');
            if number == 0 {
                out += &"-".repeat(widths.iter().sum::<usize>() + 2 * (columns.max(1) - 1));
                out.push('\n');
            }
        }
        out
    }
}

/// Four significant digits, thousands separated.
///
/// # Examples
///
/// ```
/// use pdio::table::figure;
///
/// assert_eq!(figure(1234567.8), "1,234,568");
/// assert_eq!(figure(12.345), "12.35");
/// assert_eq!(figure(0.0), "0");
/// ```
pub fn figure(value: f64) -> String {
    if value == 0.0 {
        return "0".into();
    }
    let decimals = match value.abs() {
        size if size >= 1000.0 => 0,
        size if size >= 100.0 => 1,
        size if size >= 10.0 => 2,
        _ => 3,
    };
    let text = format!("{value:.decimals$}");
    let (whole, fraction) = match text.split_once('.') {
        Some((whole, fraction)) => (whole, format!(".{fraction}")),
        None => (text.as_str(), String::new()),
    };
    let (sign, digits) = match whole.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", whole),
    };
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    format!("{sign}{grouped}{fraction}")
}

/// `12.3 ±0.4%`.
fn spread(summary: Option<Summary>) -> String {
    match summary {
        Some(summary) => format!(
            "{} ±{:.1}%",
            figure(summary.median),
            summary.spread() * 100.0
        ),
        None => NONE.into(),
    }
}

/// `×0.87`, with the spread when it shows.
fn ratio(summary: Option<Summary>) -> String {
    match summary {
        Some(summary) => format!("×{:.3} ±{:.1}%", summary.median, summary.spread() * 100.0),
        None => NONE.into(),
    }
}

/// The records of one workload, one size, one clock.
pub struct Slice<'a> {
    records: Vec<&'a Record>,
}

impl<'a> Slice<'a> {
    /// Those of `records` that belong to it.
    pub fn new(records: &'a [Record], name: &str, bytes: u64, clock: &str) -> Self {
        let belongs = |record: &&Record| {
            record.workload == name && record.message_bytes == bytes && record.clock == clock
        };
        Self {
            records: records.iter().filter(belongs).collect(),
        }
    }

    /// Any of them.
    pub fn first(&self) -> Option<&'a Record> {
        self.records.first().copied()
    }

    fn of(&self, strategy: Strategy) -> impl Iterator<Item = &'a Record> {
        let records = self.records.iter().copied();
        records.filter(move |record| record.strategy == strategy.name())
    }

    /// The strategies that were measured, in the usual order.
    pub fn strategies(&self) -> Vec<Strategy> {
        let measured = |strategy: &Strategy| self.of(*strategy).next().is_some();
        Strategy::ALL.into_iter().filter(measured).collect()
    }

    /// Summary of a value over the rounds.
    pub fn summary(
        &self,
        strategy: Strategy,
        value: impl Fn(&Record) -> Option<f64>,
    ) -> Option<Summary> {
        Summary::of(self.of(strategy).filter_map(value))
    }

    /// Summary over the rounds of a value's ratio to the baseline in the same round.
    pub fn ratio(
        &self,
        strategy: Strategy,
        value: impl Fn(&Record) -> Option<f64>,
    ) -> Option<Summary> {
        Summary::of(self.of(strategy).filter_map(|record| {
            let mut base = self.of(Strategy::KernelIdentity);
            let base = value(base.find(|base| base.round == record.round)?)?;
            Some(value(record)? / base).filter(|ratio| ratio.is_finite())
        }))
    }
}

/// A count per thousand operations.
pub fn per_thousand(count: u64, record: &Record) -> Option<f64> {
    (record.ops > 0).then(|| count as f64 * 1000.0 / record.ops as f64)
}

/// Hits in percent of all maps.
pub(crate) fn hit_rate(record: &Record) -> Option<f64> {
    let (hits, misses) = (record.hits? as f64, record.misses? as f64);
    (hits + misses > 0.0).then(|| hits * 100.0 / (hits + misses))
}

/// The whole report.
pub fn report(results: &Results) -> String {
    let Results {
        run,
        records,
        figures,
        loads,
        turns,
    } = results;
    let mut out = String::new();
    head(&mut out, results);
    if !records.is_empty() {
        protection(&mut out, records);
    }
    for clock in ["instructions", "wall"] {
        for workload in &WORKLOADS {
            let slice = Slice::new(records, workload.name, workload.bytes, clock);
            if let Some(first) = slice.first() {
                out += &table(workload, &slice, first, &pairs(records, clock));
                out.push('\n');
            }
        }
        overview(&mut out, records, clock);
    }
    out += &iopf::table::report(figures);
    out += &vpio::table::report(loads);
    out += &vpio::turns::report(turns);
    tail(&mut out, run);
    out
}

fn pairs<'a>(records: &'a [Record], clock: &str) -> Slice<'a> {
    Slice::new(records, PAIR, 4096, clock)
}

fn head(out: &mut String, results: &Results) {
    let Results { run, records, .. } = results;
    let what = match (records.is_empty(), results.figures.is_empty()) {
        (false, _) => "What DMA mapping costs stock drivers",
        (true, false) => "What devices that fault cost",
        (true, true) => "What it takes a guest to drive a card",
    };
    let _ = writeln!(out, "{what}: {}, {} rounds", run.kind, run.rounds);
    let _ = writeln!(out, "kernel       {}", run.kernel);
    let _ = writeln!(out, "QEMU         {}", run.qemu);
    let _ = writeln!(out, "accelerator  {}", run.accelerator);
    for machine in &run.machines {
        let _ = writeln!(out, "machine      {machine}");
    }
    let _ = writeln!(out, "took         {} s", run.seconds);
    let _ = writeln!(out);
    if records.iter().any(|record| record.clock == "instructions") {
        *out += "\
Counted in guest instructions, at one per nanosecond: throughput is what one CPU can carry when
nothing else limits it, CPU is instructions per operation. IOTLB invalidations cost no instructions
of the guest, so their number stands beside. Counts are per 1000 operations, from a second pass.
× is the ratio to kernel-identity in the same round; ± is half the range over the rounds. The
baseline has no invalidations and no page-table updates, so these have no ratio.

";
    }
}

fn protection(out: &mut String, records: &[Record]) {
    let mut grid = Grid::new(&["strategy", "reachable by the device after unmap"]);
    for strategy in Strategy::ALL {
        if records
            .iter()
            .any(|record| record.strategy == strategy.name())
        {
            grid.row(vec![strategy.name().into(), strategy.exposure().into()]);
        }
    }
    // The second column is prose: left-aligned, it reads better.
    let width = Strategy::ALL
        .map(|it| it.name().len())
        .into_iter()
        .max()
        .unwrap_or(0);
    for (index, row) in grid.rows.iter().enumerate() {
        if let [name, text] = row.as_slice() {
            let _ = writeln!(out, "{name:<width$}  {text}");
            if index == 0 {
                let _ = writeln!(out, "{}", "-".repeat(width + 2 + text.len()));
            }
        }
    }
    out.push('\n');
}

fn table(workload: &Workload, slice: &Slice<'_>, first: &Record, pairs: &Slice<'_>) -> String {
    let wall = first.clock == "wall";
    let micro = workload.name.starts_with(PAIR);
    let mut head = vec!["strategy", &first.unit, "×"];
    head.extend(if wall {
        ["CPU %", "×"]
    } else {
        ["instr/op", "×"]
    });
    head.extend(["IOTLB inv.", "PT updates", "hits %"]);
    if !micro {
        head.extend(["instr/pair", "×"]);
    }
    let mut grid = Grid::new(&head);
    let cpu = |record: &Record| {
        if wall {
            Some(record.cpu_percent)
        } else {
            record.instructions_per_op
        }
    };
    for strategy in slice.strategies() {
        let throughput = |record: &Record| Some(record.throughput);
        let count = |value: fn(&Record) -> Option<u64>| {
            slice.summary(strategy, |record| per_thousand(value(record)?, record))
        };
        let plain = |summary: Option<Summary>| match summary {
            Some(summary) => figure(summary.median),
            None => NONE.into(),
        };
        let mut cells = vec![
            strategy.name().to_owned(),
            spread(slice.summary(strategy, throughput)),
            ratio(slice.ratio(strategy, throughput)),
            spread(slice.summary(strategy, cpu)),
            ratio(slice.ratio(strategy, cpu)),
            plain(count(|record| record.invalidations)),
            plain(count(|record| Some(record.pte_updates))),
            match slice.summary(strategy, hit_rate) {
                Some(summary) => format!("{:.1}", summary.median),
                None => NONE.into(),
            },
        ];
        if !micro {
            let pair = |record: &Record| record.instructions_per_op;
            cells.push(plain(pairs.summary(strategy, pair)));
            cells.push(match pairs.ratio(strategy, pair) {
                Some(summary) => format!("×{:.2}", summary.median),
                None => NONE.into(),
            });
        }
        grid.row(cells);
    }
    format!(
        "{}: {}{}, {} operations a round\n{}",
        first.workload,
        workload.title,
        if micro && first.message_bytes == 4096 {
            String::new()
        } else {
            format!(", {} bytes", first.message_bytes)
        },
        first.ops,
        grid.render()
    )
}

/// All workloads on a page: what an operation costs beside no protection at all, and what the IOMMU
/// has to do for it.
fn overview(out: &mut String, records: &[Record], clock: &str) {
    let measured = |strategy: &Strategy| {
        let is = |it: &Record| it.clock == clock && it.strategy == strategy.name();
        records.iter().any(is)
    };
    let strategies: Vec<_> = Strategy::ALL.into_iter().filter(measured).collect();
    if !strategies.contains(&Strategy::KernelIdentity) {
        return;
    }
    let names = strategies.iter().map(|it| it.name());
    let head: Vec<_> = ["workload, bytes"].into_iter().chain(names).collect();
    let (mut costs, mut flushes) = (Grid::new(&head), Grid::new(&head));
    let cost = |record: &Record| match clock {
        "wall" => Some(record.elapsed_ns as f64 / record.ops as f64),
        _ => record.instructions_per_op,
    };
    for workload in &WORKLOADS {
        let slice = Slice::new(records, workload.name, workload.bytes, clock);
        if slice.first().is_none() {
            continue;
        }
        let row = |cell: &dyn Fn(Strategy) -> Option<String>| {
            let cells = strategies.iter().map(|it| cell(*it));
            [format!("{}, {}", workload.name, workload.bytes)]
                .into_iter()
                .chain(cells.map(|cell| cell.unwrap_or_else(|| NONE.into())))
                .collect()
        };
        costs.row(row(&|strategy| {
            let ratio = slice.ratio(strategy, cost)?;
            Some(format!("×{:.3}", ratio.median))
        }));
        flushes.row(row(&|strategy| {
            let count = |record: &Record| per_thousand(record.invalidations?, record);
            Some(figure(slice.summary(strategy, count)?.median.round()))
        }));
    }
    let unit = if clock == "wall" {
        "time"
    } else {
        "instructions"
    };
    let _ = writeln!(
        out,
        "All of it in short: {unit} per operation, × kernel-identity\n{}\n\
         IOTLB invalidations per 1000 operations\n{}",
        costs.render(),
        flushes.render()
    );
}

fn tail(out: &mut String, run: &Run) {
    if !run.content.is_empty() {
        let _ = writeln!(out, "Content, on a machine that is not measured:");
        for check in &run.content {
            let verdict = if check.passed { "ok" } else { "FAILED" };
            let _ = writeln!(
                out,
                "  {verdict:<6}  {:<14}  {}",
                check.strategy, check.what
            );
            if !check.passed {
                let _ = writeln!(out, "          {}", check.detail);
            }
        }
        out.push('\n');
    }
    if !run.failed.is_empty() {
        let _ = writeln!(out, "FAILED, and not in these results:");
        for why in &run.failed {
            let _ = writeln!(out, "  {}", why.replace('\n', "\n    "));
        }
        out.push('\n');
    }
    if !run.left_out.is_empty() {
        let _ = writeln!(out, "Left out of this run (`make bench` has it all):");
        for what in &run.left_out {
            let _ = writeln!(out, "  {what}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::ContentCheck;
    use crate::results::tests::record;

    fn records() -> Vec<Record> {
        let mut records = Vec::new();
        for round in 1..=3 {
            for (strategy, cost) in [("kernel-identity", 1000.0), ("cached", 1100.0)] {
                records.push(Record {
                    instructions_per_op: Some(cost * f64::from(round)),
                    hits: (strategy == "cached").then_some(19),
                    misses: (strategy == "cached").then_some(1),
                    ..record("udp", strategy, 64, round)
                });
            }
        }
        records
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        let records = records();
        let slice = Slice::new(&records, "udp", 64, "instructions");
        let ratio = slice
            .ratio(Strategy::Cached, |record| record.instructions_per_op)
            .unwrap();
        assert!((ratio.median - 1.1).abs() < 1e-9);
        assert!(ratio.spread() < 1e-9);
    }

    #[test]
    fn the_report_names_what_was_used_and_what_was_not() {
        let run = Run {
            kind: "demo".into(),
            kernel: "7.2.12".into(),
            qemu: "11.1.3".into(),
            accelerator: "tcg: no /dev/kvm".into(),
            left_out: vec!["tcp-iperf3-65536".into()],
            failed: vec!["measuring (vpio): no answer".into()],
            content: vec![ContentCheck {
                strategy: "cached".into(),
                what: "nvme".into(),
                passed: false,
                detail: "bad crc".into(),
            }],
            ..Run::default()
        };
        let text = report(&Results {
            run,
            records: records(),
            ..Results::default()
        });
        for part in [
            "7.2.12",
            "11.1.3",
            "no /dev/kvm",
            "tcp-iperf3-65536",
            "measuring (vpio): no answer",
            "FAILED",
            "bad crc",
            "×1.100",
            "95.0",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
    }

    #[test]
    fn the_overview_has_a_line_for_each_workload() {
        let text = report(&Results {
            records: records(),
            ..Results::default()
        });
        let overview = text
            .split("All of it in short: instructions")
            .nth(1)
            .unwrap();
        let line = overview
            .lines()
            .find(|it| it.starts_with("udp, 64"))
            .unwrap();
        let cells: Vec<_> = line.split_whitespace().skip(2).collect();
        assert_eq!(cells, ["×1.000", "×1.100"]);
        assert!(!text.contains("All of it in short: time"));
    }

    #[test]
    fn columns_line_up() {
        let mut grid = Grid::new(&["a", "b"]);
        grid.row(vec!["long name".into(), "×1".into()]);
        grid.row(vec!["x".into(), "12345".into()]);
        let text = grid.render();
        let ends: Vec<_> = text.lines().map(|line| line.chars().count()).collect();
        assert_eq!(ends, [16, 16, 16, 16]);
    }

    #[test]
    fn without_a_baseline_there_are_no_ratios() {
        let records = vec![record("udp", "cached", 64, 1)];
        let slice = Slice::new(&records, "udp", 64, "instructions");
        assert!(
            slice
                .ratio(Strategy::Cached, |record| Some(record.throughput))
                .is_none()
        );
    }

    #[test]
    fn figures() {
        assert_eq!(figure(999.96), "1,000.0");
        assert_eq!(figure(0.12345), "0.123");
        assert_eq!(figure(-1234.0), "-1,234");
    }
}
