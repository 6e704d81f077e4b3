// SPDX-License-Identifier: GPL-2.0

//! What devices that fault cost, as text.

use std::fmt::Write;

use iopf_bench::figure::{Cache, Figure, Load, Loss, Pass, Reuse, Wait};

use super::{Measured, by_clock};
use crate::stats::Summary;
use crate::table::{Grid, NONE, figure};

/// The modes, the one that everybody has today last.
pub(crate) const MODES: [&str; 3] = ["sva", "mirror", "pinned"];

/// Pages of a mebibyte.
const PAGES_PER_MIB: f64 = 256.0;

/// The passes, with what a reader calls them, and what a cost is divided by.
const PASSES: [(Load, &str, Per); 8] = [
    (
        Load::StreamFirst,
        "a stream over memory that nobody has touched",
        Per::Page,
    ),
    (Load::StreamAgain, "the same stream again", Per::Page),
    (
        Load::StreamInTurns,
        "the same, while consumers in all modes take turns, pass by pass",
        Per::Page,
    ),
    (
        Load::RandomFirst,
        "64 bytes in pages anywhere, which nobody has touched",
        Per::Access,
    ),
    (Load::RandomAgain, "the same accesses again", Per::Access),
    (
        Load::HotCold,
        "nine in ten accesses to a tenth of the pages; mirror may keep a quarter of them",
        Per::Access,
    ),
    (
        Load::UnmapUnused,
        "the process maps, uses and unmaps 64 KiB that the device does not know",
        Per::Access,
    ),
    (
        Load::DiscardUsed,
        "the process gives back 64 KiB that the device has used",
        Per::Access,
    ),
];

/// What a cost is divided by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Per {
    Page,
    Access,
}

/// Passes of one mode, by one clock.
pub(crate) struct Passes<'a>(Vec<&'a Pass>);

impl<'a> Passes<'a> {
    /// Those of `measured`.
    pub(crate) fn new(measured: &'a [Measured], clock: &'a str) -> Self {
        let pick = |figure: &'a Figure| match figure {
            Figure::Pass(pass) => Some(pass),
            _ => None,
        };
        Self(by_clock(measured, clock, pick).collect())
    }

    fn of(&self, mode: &str, load: Load) -> impl Iterator<Item = &'a Pass> {
        let all = self.0.iter().copied();
        all.filter(move |pass| pass.mode == mode && pass.load == load)
    }

    /// Over the rounds.
    pub(crate) fn summary(
        &self,
        mode: &str,
        load: Load,
        value: impl Fn(&Pass) -> f64,
    ) -> Option<Summary> {
        Summary::of(self.of(mode, load).map(value))
    }

    /// The middle of a value over the rounds.
    pub(crate) fn median(
        &self,
        mode: &str,
        load: Load,
        value: impl Fn(&Pass) -> f64,
    ) -> Option<f64> {
        self.summary(mode, load, value)
            .map(|summary| summary.median)
    }

    /// What `value` is in one mode, in parts of what it is in another.
    pub(crate) fn ratio(
        &self,
        mode: &str,
        of: &str,
        load: Load,
        value: impl Fn(&Pass) -> f64 + Copy,
    ) -> Option<f64> {
        let ratio = self.median(mode, load, value)? / self.median(of, load, value)?;
        ratio.is_finite().then_some(ratio)
    }

    /// What one group of page requests costs beyond the same work without faults: the instructions of
    /// everybody who takes part in it.
    pub(crate) fn per_group(&self, mode: &str, first: Load, again: Load) -> Option<f64> {
        let groups = self.median(mode, first, |pass| pass.groups as f64)?;
        let more = self.median(mode, first, |pass| pass.busy_ns as f64)?
            - self.median(mode, again, |pass| pass.busy_ns as f64)?;
        (groups > 0.0).then(|| more / groups)
    }
}

/// Instructions, registration included.
pub(crate) fn busy(pass: &Pass) -> f64 {
    (pass.setup_busy_ns + pass.busy_ns) as f64
}

/// Time, registration included.
pub(crate) fn elapsed(pass: &Pass) -> f64 {
    (pass.setup_ns + pass.elapsed_ns) as f64
}

/// Groups of page requests for each mebibyte used.
pub(crate) fn groups_per_mib(pass: &Pass) -> f64 {
    pass.groups as f64 * PAGES_PER_MIB / pass.used_pages as f64
}

/// Everything that was measured.
pub fn report(measured: &[Measured]) -> String {
    let mut out = String::new();
    modes(&mut out, measured);
    locality(&mut out, measured);
    latency(&mut out, measured);
    cache(&mut out, measured);
    loss(&mut out, measured);
    out
}

fn accelerator<'a>(measured: &'a [Measured], clock: &str) -> Option<&'a str> {
    let mut all = measured.iter().filter(|it| it.clock == clock);
    all.next().map(|it| it.accelerator.as_str())
}

fn modes(out: &mut String, measured: &[Measured]) {
    let counted = Passes::new(measured, "instructions");
    let wall = Passes::new(measured, "wall");
    if counted.0.is_empty() && wall.0.is_empty() {
        return;
    }
    let by = |clock, what: &str| {
        accelerator(measured, clock).map_or_else(String::new, |accelerator| {
            format!("{what} ({accelerator}). ")
        })
    };
    let _ = writeln!(
        out,
        "Devices that fault: the three modes of iopf side by side\n\
         {}{}Counts are\n\
         those of the first machine. × is the ratio to pinned, whose costs include the registration of\n\
         all of the memory. Held is what is charged to the device at peak, memory what the process has\n\
         grown by; overcommit is the memory that the device may use for each byte that is held.\n",
        by("instructions", "Instructions are counted"),
        by("wall", "Times are those of another machine, by the clock"),
    );
    let counts = if counted.0.is_empty() {
        &wall
    } else {
        &counted
    };
    for (load, title, per) in PASSES {
        if MODES
            .iter()
            .all(|mode| counts.of(mode, load).next().is_none())
        {
            continue;
        }
        let (instructions, time) = match per {
            Per::Page => ("instr/page", "µs/page"),
            Per::Access => ("instr/access", "µs/access"),
        };
        let mut grid = Grid::new(&[
            "mode",
            instructions,
            "×",
            time,
            "×",
            "faults",
            "per MiB",
            "mapped/used",
            "invalid.",
            "held MiB",
            "memory MiB",
            "overcommit",
        ]);
        let divided = |pass: &Pass, cost: f64| match per {
            Per::Page => cost / pass.used_pages as f64,
            Per::Access => cost / pass.accesses as f64,
        };
        for mode in MODES {
            let number = |value: Option<f64>| value.map_or_else(|| NONE.into(), figure);
            let times = |value: Option<f64>| {
                value.map_or_else(|| NONE.into(), |value| format!("×{value:.2}"))
            };
            let count = |value: fn(&Pass) -> f64| number(counts.median(mode, load, value));
            let instr = |pass: &Pass| divided(pass, busy(pass));
            let us = |pass: &Pass| divided(pass, elapsed(pass)) / 1e3;
            let overcommit = |pass: &Pass| pass.area_pages as f64 / pass.held_pages as f64;
            let overcommit = counts.median(mode, load, overcommit);
            grid.row(vec![
                mode.into(),
                number(counted.median(mode, load, instr)),
                times(counted.ratio(mode, "pinned", load, instr)),
                number(wall.median(mode, load, us)),
                times(wall.ratio(mode, "pinned", load, us)),
                count(|pass| pass.groups as f64),
                count(groups_per_mib),
                count(|pass| pass.mapped_pages as f64 / pass.used_pages as f64),
                count(|pass| pass.invalidations as f64),
                count(|pass| pass.held_pages as f64 / PAGES_PER_MIB),
                count(|pass| pass.resident_pages as f64 / PAGES_PER_MIB),
                match overcommit {
                    Some(ratio) if ratio.is_finite() => format!("{ratio:.2}"),
                    Some(_) => "no limit".into(),
                    None => NONE.into(),
                },
            ]);
        }
        let _ = writeln!(out, "{title}\n{}", grid.render());
    }
    in_short(out, &counted, &wall);
}

/// What the modes come to.
fn in_short(out: &mut String, counted: &Passes<'_>, wall: &Passes<'_>) {
    let mut lines: Vec<(&str, Option<String>)> = Vec::new();
    let text = |value: Option<f64>| value.map(figure);
    let counts = if counted.0.is_empty() { wall } else { counted };
    let percent = |passes: &Passes<'_>, load, value: fn(&Pass) -> f64| {
        let slower = passes.ratio("mirror", "pinned", load, value)?;
        Some(format!("{:.0} %", 100.0 / slower))
    };
    let cost = |pass: &Pass| pass.busy_ns as f64;
    let took = |pass: &Pass| pass.elapsed_ns as f64;
    lines.push((
        "stream, first touch: faults per MiB, mirror",
        text(counts.median("mirror", Load::StreamFirst, groups_per_mib)),
    ));
    lines.push((
        "the same, sva",
        text(counts.median("sva", Load::StreamFirst, groups_per_mib)),
    ));
    lines.push((
        "its time in sva, as a multiple of that in mirror",
        text(wall.ratio("sva", "mirror", Load::StreamFirst, elapsed)),
    ));
    lines.push((
        "its instructions, likewise",
        text(counted.ratio("sva", "mirror", Load::StreamFirst, busy)),
    ));
    lines.push((
        "random pages: pages mapped for each page used, mirror",
        text(counts.median("mirror", Load::RandomFirst, |pass| {
            pass.mapped_pages as f64 / pass.used_pages as f64
        })),
    ));
    lines.push((
        "once touched: faults of all loads, sva and mirror",
        text(
            ["sva", "mirror"]
                .iter()
                .flat_map(|mode| [Load::StreamAgain, Load::RandomAgain].map(|load| (mode, load)))
                .map(|(mode, load)| counts.median(mode, load, |pass| pass.groups as f64))
                .sum(),
        ),
    ));
    lines.push((
        "once touched, a stream: throughput of mirror in % of pinned, by instructions",
        percent(counted, Load::StreamAgain, cost),
    ));
    lines.push((
        "the same, by time, in passes that take turns",
        percent(wall, Load::StreamInTurns, took),
    ));
    lines.push((
        "the same, single accesses, each of which is slept for",
        percent(counted, Load::RandomAgain, cost),
    ));
    lines.push((
        "working set 4 × the budget: throughput of mirror in % of pinned, by instructions",
        percent(counted, Load::HotCold, cost),
    ));
    lines.push(("the same, by time", percent(wall, Load::HotCold, took)));
    lines.push((
        "the same: memory held, in % of pinned",
        counts
            .ratio("mirror", "pinned", Load::HotCold, |pass| {
                pass.held_pages as f64
            })
            .map(|ratio| format!("{:.0} %", 100.0 * ratio)),
    ));
    for mode in ["sva", "mirror"] {
        let title = match mode {
            "sva" => "instructions for a fault of a single page, sva",
            _ => "the same, mirror",
        };
        let per_group = counted.per_group(mode, Load::RandomFirst, Load::RandomAgain);
        lines.push((title, text(per_group)));
    }
    let _ = writeln!(out, "In short");
    let known = || {
        lines
            .iter()
            .filter_map(|(what, value)| Some((what, value.as_ref()?)))
    };
    let width = known()
        .map(|(what, _)| what.chars().count())
        .max()
        .unwrap_or(0);
    for (what, value) in known() {
        let _ = writeln!(out, "  {what:<width$}  {value:>8}");
    }
    out.push('\n');
}

/// All figures of a kind by the first clock that has them.
pub(crate) fn all<'a, T>(
    measured: &'a [Measured],
    pick: fn(&'a Figure) -> Option<&'a T>,
) -> Vec<&'a T> {
    measured.iter().filter_map(|it| pick(&it.figure)).collect()
}

/// The reuse of pages by each load.
pub(crate) fn reuses(measured: &[Measured]) -> Vec<&Reuse> {
    all(measured, |figure| match figure {
        Figure::Reuse(reuse) => Some(reuse),
        _ => None,
    })
}

/// What waiting costs.
pub(crate) fn waits(measured: &[Measured]) -> Vec<&Wait> {
    all(measured, |figure| match figure {
        Figure::Wait(wait) => Some(wait),
        _ => None,
    })
}

/// What caches are worth.
pub(crate) fn caches(measured: &[Measured]) -> Vec<&Cache> {
    all(measured, |figure| match figure {
        Figure::Cache(cache) => Some(cache),
        _ => None,
    })
}

/// What is lost.
pub(crate) fn losses(measured: &[Measured]) -> Vec<&Loss> {
    all(measured, |figure| match figure {
        Figure::Loss(loss) => Some(loss),
        _ => None,
    })
}

/// Different values, in ascending order.
pub(crate) fn distinct<T: Ord>(values: impl Iterator<Item = T>) -> Vec<T> {
    let mut values: Vec<T> = values.collect();
    values.sort();
    values.dedup();
    values
}

/// Different names, as they come.
pub(crate) fn names<'a>(values: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut names = Vec::new();
    for name in values {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

fn locality(out: &mut String, measured: &[Measured]) {
    let reuses = reuses(measured);
    let Some(first) = reuses.first() else {
        return;
    };
    let sizes: Vec<String> = first
        .hits
        .iter()
        .map(|(entries, _)| entries.to_string())
        .collect();
    let mut head = vec!["load", "accesses", "pages", "first %"];
    head.extend(sizes.iter().map(String::as_str));
    let mut grid = Grid::new(&head);
    for reuse in &reuses {
        let share = |count: u64| format!("{:.1}", 100.0 * count as f64 / reuse.accesses as f64);
        let mut cells = vec![
            reuse.load.clone(),
            figure(reuse.accesses as f64),
            figure(reuse.pages as f64),
            share(reuse.pages),
        ];
        cells.extend(reuse.hits.iter().map(|(_, hits)| share(*hits)));
        grid.row(cells);
    }
    let _ = writeln!(
        out,
        "Locality of a device's accesses to pages: in % of them, first ones, and those that come back\n\
         before so many other pages were accessed: the hits of an LRU of that size\n{}",
        grid.render()
    );
}

/// Accesses in a second, in % of those without faults at the same number of consumers.
pub(crate) fn throughput(wait: &Wait, waits: &[&Wait]) -> Option<f64> {
    let rate = |wait: &Wait| wait.accesses as f64 / wait.elapsed_ns as f64;
    let mut alike = waits.iter().filter(|it| it.consumers == wait.consumers);
    let without = alike.find(|it| it.groups == 0)?;
    Some(100.0 * rate(wait) / rate(without))
}

/// Missing pages in % of all accesses.
pub(crate) fn missing(wait: &Wait) -> f64 {
    100.0 * wait.groups as f64 / wait.accesses as f64
}

fn latency(out: &mut String, measured: &[Measured]) {
    let waits = waits(measured);
    let late = distinct(waits.iter().map(|it| it.late_ms));
    for consumers in distinct(waits.iter().map(|it| it.consumers)) {
        let names: Vec<String> = late.iter().map(|ms| format!("{ms} ms late")).collect();
        let head = ["missing %"]
            .into_iter()
            .chain(names.iter().map(String::as_str));
        let mut grid = Grid::new(&head.collect::<Vec<_>>());
        let of = || waits.iter().filter(|it| it.consumers == consumers);
        for groups in distinct(of().map(|it| it.groups)) {
            let share = of()
                .find(|it| it.groups == groups)
                .map_or(0.0, |it| missing(it));
            let mut cells = vec![format!("{share:.1}")];
            cells.extend(late.iter().map(|ms| {
                let mut found = of().filter(|it| it.groups == groups && it.late_ms == *ms);
                let value = found.next().and_then(|wait| throughput(wait, &waits));
                value.map_or_else(|| NONE.into(), figure)
            }));
            grid.row(cells);
        }
        let _ = writeln!(
            out,
            "Throughput in % of that without faults, {consumers} requests under way at once; a device \
             that takes no time itself\n{}",
            grid.render()
        );
    }
}

/// Accesses of a load that hit, in %.
pub(crate) fn hit_rate(cache: &Cache) -> f64 {
    let misses = cache.misses.min(cache.accesses) as f64;
    100.0 * (1.0 - misses / cache.accesses as f64)
}

/// A kind of cache: its ways (none: all), and what gives way.
pub(crate) const KINDS: [(Option<u32>, &str, &str); 7] = [
    (Some(1), "lru", "1 way"),
    (Some(2), "lru", "2 ways, LRU"),
    (Some(4), "lru", "4 ways, LRU"),
    (None, "lru", "all ways, LRU"),
    (Some(4), "fifo", "4 ways, FIFO"),
    (Some(4), "clock", "4 ways, clock"),
    (Some(4), "random", "4 ways, random"),
];

/// Whether a cache is of a kind.
pub(crate) fn is_kind(cache: &Cache, (ways, replacement, _): (Option<u32>, &str, &str)) -> bool {
    cache.replacement == replacement && cache.ways == ways.unwrap_or(cache.entries)
}

fn cache(out: &mut String, measured: &[Measured]) {
    let caches = caches(measured);
    let sizes = distinct(caches.iter().map(|it| it.entries));
    for load in names(caches.iter().map(|it| it.load.as_str())) {
        let labels: Vec<String> = sizes.iter().map(u32::to_string).collect();
        let head = ["entries"]
            .into_iter()
            .chain(labels.iter().map(String::as_str));
        let mut grid = Grid::new(&head.collect::<Vec<_>>());
        for kind in KINDS {
            let mut cells = vec![kind.2.to_owned()];
            cells.extend(sizes.iter().map(|entries| {
                let mut found = caches
                    .iter()
                    .filter(|it| it.load == load && it.entries == *entries);
                let found = found.find(|it| is_kind(it, kind));
                found.map_or_else(|| NONE.into(), |it| format!("{:.1}", hit_rate(it)))
            }));
            grid.row(cells);
        }
        let _ = writeln!(
            out,
            "Hits of the device's translation cache, in % of the accesses of `{load}`\n{}",
            grid.render()
        );
    }
}

/// Frames lost, in %.
pub(crate) fn lost(loss: &Loss) -> f64 {
    100.0 * (loss.sent - loss.delivered) as f64 / loss.sent as f64
}

fn loss(out: &mut String, measured: &[Measured]) {
    let losses = losses(measured);
    if losses.is_empty() {
        return;
    }
    let mut grid = Grid::new(&[
        "sender",
        "MB/s",
        "buffer KiB",
        "late ms",
        "missing",
        "sent",
        "delivered",
        "lost",
        "lost %",
        "faults",
        "held back ms",
        "took ms",
    ]);
    for loss in &losses {
        grid.row(vec![
            loss.mode.clone(),
            figure(f64::from(loss.bytes_per_ms) / 1e3),
            figure(f64::from(loss.buffer_bytes) / 1024.0),
            loss.late_ms.to_string(),
            match loss.taken_every {
                0 => "nearly all".into(),
                frames => format!("1 in {}", figure(f64::from(frames))),
            },
            loss.sent.to_string(),
            loss.delivered.to_string(),
            loss.dropped.to_string(),
            format!("{:.1}", lost(loss)),
            loss.groups.to_string(),
            figure(loss.held_ns as f64 / 1e6),
            figure(loss.elapsed_ns as f64 / 1e6),
        ]);
    }
    let _ = writeln!(
        out,
        "A receive stream, while buffers are taken from the device: what is lost if the sender is held\n\
         back (cooperate), and if it is not (drop)\n{}",
        grid.render()
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::iopf::tests::{measured, pass};

    fn passes() -> Vec<Measured> {
        let mut all = Vec::new();
        for round in 1..=3 {
            for (mode, factor) in [("sva", 6), ("mirror", 2), ("pinned", 1)] {
                for load in [Load::RandomFirst, Load::RandomAgain, Load::HotCold] {
                    let plain = pass(mode, load, round);
                    let again = load == Load::RandomAgain;
                    all.push(measured(
                        "instructions",
                        Figure::Pass(Pass {
                            busy_ns: if again { 1_000 } else { 1_000 * factor },
                            groups: if again { 0 } else { 4 },
                            held_pages: if mode == "mirror" { 256 } else { 1024 },
                            ..plain
                        }),
                    ));
                }
            }
        }
        all
    }

    #[test]
    fn ratios_and_faults_are_told() {
        let all = passes();
        let counted = Passes::new(&all, "instructions");
        let ratio = counted.ratio("sva", "mirror", Load::HotCold, busy);
        assert_eq!(ratio, Some(3.0));
        let each = counted.per_group("mirror", Load::RandomFirst, Load::RandomAgain);
        assert_eq!(each, Some(250.0));
        assert!(
            counted
                .per_group("mirror", Load::StreamFirst, Load::StreamAgain)
                .is_none()
        );

        let text = report(&all);
        for part in ["×2.00", "50 %", "25 %", "overcommit", "4.00", "tcg"] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
        assert!(report(&[]).is_empty());
    }

    #[test]
    fn a_wait_is_compared_with_none() {
        let wait = |groups, elapsed_ns| Wait {
            consumers: 1,
            late_ms: 1,
            accesses: 100,
            groups,
            elapsed_ns,
        };
        let (none, some) = (wait(0, 50), wait(10, 200));
        assert_eq!(throughput(&some, &[&none, &some]), Some(25.0));
        assert_eq!(throughput(&some, &[&some]), None);
        assert_eq!(missing(&some), 10.0);
        let text = report(&[
            measured("instructions", Figure::Wait(none)),
            measured("instructions", Figure::Wait(some)),
        ]);
        assert!(text.contains("10.0") && text.contains("25.00"), "{text}");
    }

    #[test]
    fn a_kind_of_cache_is_found_by_its_ways() {
        let cache = |entries, ways| Cache {
            load: "ring".into(),
            entries,
            ways,
            replacement: "lru".into(),
            accesses: 200,
            misses: 50,
        };
        let whole = KINDS.into_iter().find(|kind| kind.0.is_none()).unwrap();
        assert!(is_kind(&cache(8, 8), whole) && !is_kind(&cache(8, 4), whole));
        assert_eq!(hit_rate(&cache(8, 8)), 75.0);
        let text = report(&[measured("instructions", Figure::Cache(cache(8, 8)))]);
        assert!(text.contains("75.0") && text.contains("`ring`"), "{text}");
    }

    #[test]
    fn what_is_not_delivered_is_lost() {
        let loss = Loss {
            mode: "drop".into(),
            bytes_per_ms: 100_000,
            frame_bytes: 1024,
            buffer_bytes: 4096,
            late_ms: 1,
            taken_every: 1024,
            sent: 200,
            delivered: 50,
            dropped: 150,
            received: 50,
            groups: 3,
            held_ns: 0,
            elapsed_ns: 1_000_000,
        };
        assert_eq!(lost(&loss), 75.0);
        let text = report(&[measured("instructions", Figure::Loss(loss))]);
        assert!(text.contains("75.0"), "{text}");
    }

    #[test]
    fn locality_is_told_in_percent() {
        let text = report(&[measured(
            "instructions",
            Figure::Reuse(Reuse {
                load: "merge".into(),
                accesses: 400,
                pages: 100,
                distances: vec![(0, 200), (1, 100)],
                hits: vec![(8, 300)],
            }),
        )]);
        assert!(text.contains("25.0") && text.contains("75.0"), "{text}");
    }
}
