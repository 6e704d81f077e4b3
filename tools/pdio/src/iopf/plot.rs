// SPDX-License-Identifier: GPL-2.0

//! What devices that fault cost, as pictures.

use std::path::{Path, PathBuf};

use anyhow::Result;
use iopf_bench::figure::{Load, Pass};

use super::Measured;
use super::table::{
    KINDS, MODES, Passes, busy, caches, distinct, elapsed, groups_per_mib, hit_rate, is_kind,
    losses, lost, missing, names, reuses, throughput, waits,
};
use crate::chart::{Bar, COLORS, Chart, Marks, Panel, Scale, Style};
use crate::plot::{Point, save, tick_label};

/// Draws everything that was measured, and returns the files.
pub fn all(dir: &Path, measured: &[Measured]) -> Result<Vec<PathBuf>> {
    let charts = [
        ("iopf-modes", modes(measured)),
        ("iopf-locality", locality(measured)),
        ("iopf-latency", latency(measured)),
        ("iopf-cache", cache(measured)),
        ("iopf-loss", loss(measured)),
    ];
    let mut files = Vec::new();
    for (name, chart) in charts {
        if let Some(chart) = chart {
            files.extend(save(dir, name, &chart)?);
        }
    }
    Ok(files)
}

/// What the figures of `measured` rest on.
fn note(measured: &[Measured], what: &str) -> String {
    let accelerators = names(measured.iter().map(|it| it.accelerator.as_str())).join(", ");
    format!("{what} (QEMU, {accelerators})")
}

fn modes(measured: &[Measured]) -> Option<Chart> {
    let counted = Passes::new(measured, "instructions");
    let wall = Passes::new(measured, "wall");
    let panel = |title: &str, label: &str, passes: &Passes<'_>, load, value: fn(&Pass) -> f64| {
        let bars: Vec<Bar> = (0..)
            .zip(MODES)
            .filter_map(|(color, mode)| {
                let value = passes.median(mode, load, value)?;
                Some(Bar {
                    below: mode.into(),
                    value,
                    above: crate::table::figure(value),
                    style: Style::solid(color),
                })
            })
            .collect();
        (!bars.is_empty()).then(|| Panel {
            title: title.into(),
            up: Scale::from_zero(label, bars.iter().map(|bar| bar.value)),
            marks: Marks::Bars(String::new(), bars),
        })
    };
    let per_page = |pass: &Pass| busy(pass) / pass.used_pages as f64;
    let us_per_page = |pass: &Pass| elapsed(pass) / pass.used_pages as f64 / 1e3;
    let per_access = |pass: &Pass| pass.busy_ns as f64 / pass.accesses as f64;
    let held = |pass: &Pass| pass.held_pages as f64 / 256.0;
    let panels: Vec<Panel> = [
        panel(
            "first touch",
            "instructions per page",
            &counted,
            Load::StreamFirst,
            per_page,
        ),
        panel(
            "first touch",
            "µs per page, by the clock",
            &wall,
            Load::StreamFirst,
            us_per_page,
        ),
        panel(
            "first touch",
            "faults per MiB",
            &counted,
            Load::StreamFirst,
            groups_per_mib,
        ),
        panel(
            "90/10 accesses",
            "instructions each",
            &counted,
            Load::HotCold,
            per_access,
        ),
        panel(
            "90/10 accesses",
            "MiB held for the device",
            &counted,
            Load::HotCold,
            held,
        ),
    ]
    .into_iter()
    .flatten()
    .collect();
    (!panels.is_empty()).then(|| Chart {
        title: "The three modes of iopf side by side",
        note: note(
            measured,
            "first touch: a stream; 90/10: nine in ten to a tenth of the pages, of which mirror may \
             keep a quarter",
        ),
        legend: Vec::new(),
        columns: panels.len(),
        panels,
    })
}

fn locality(measured: &[Measured]) -> Option<Chart> {
    let reuses = reuses(measured);
    let panels: Vec<Panel> = reuses
        .iter()
        .map(|reuse| {
            let share = |count: u64| 100.0 * count as f64 / reuse.accesses as f64;
            let bar = |below: String, count: u64, color: usize| Bar {
                below,
                value: share(count),
                above: match share(count) {
                    share if share >= 0.5 => format!("{share:.0}"),
                    _ => String::new(),
                },
                style: Style::solid(color),
            };
            let ranges = reuse.distances.iter();
            let mut bars: Vec<Bar> = ranges
                .map(|(largest, count)| bar(format!("≤{largest}"), *count, 0))
                .collect();
            bars.push(bar("first".into(), reuse.pages, 1));
            Panel {
                title: format!(
                    "{}: {} pages, {} accesses",
                    reuse.load, reuse.pages, reuse.accesses
                ),
                up: Scale {
                    values: (0.0, 112.0),
                    ..Scale::percent("% of accesses")
                },
                marks: Marks::Bars("other pages since the last access to the same".into(), bars),
            }
        })
        .collect();
    (!panels.is_empty()).then(|| Chart {
        title: "How soon a device comes back to a page",
        note: note(
            measured,
            "reuse distances of a device's accesses to pages, by load",
        ),
        legend: Vec::new(),
        columns: 2,
        panels,
    })
}

fn latency(measured: &[Measured]) -> Option<Chart> {
    let waits = waits(measured);
    let late = distinct(waits.iter().map(|it| it.late_ms));
    let panels: Vec<Panel> = distinct(waits.iter().map(|it| it.consumers))
        .into_iter()
        .map(|consumers| {
            let line = |(color, ms): (usize, &u32)| {
                let of = waits.iter().filter(|it| it.consumers == consumers);
                let mut points: Vec<Point> = of
                    .filter(|it| it.late_ms == *ms && it.groups > 0)
                    .filter_map(|it| Some((missing(it), throughput(it, &waits)?)))
                    .collect();
                points.sort_by(|a, b| a.0.total_cmp(&b.0));
                (Style::solid(color), points)
            };
            let lines: Vec<_> = late.iter().enumerate().map(line).collect();
            let shares = lines
                .iter()
                .flat_map(|(_, points)| points)
                .map(|point| point.0);
            let (low, high) = shares.fold((f64::INFINITY, 0.0), |(low, high), share| {
                (f64::min(low, share), f64::max(high, share))
            });
            let usual = [0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0];
            let ticks = usual
                .into_iter()
                .filter(|it| (low * 0.9..=high * 1.1).contains(it));
            Panel {
                title: match consumers {
                    1 => "one request under way".into(),
                    more => format!("{more} requests under way at once"),
                },
                up: Scale {
                    label: "% of the throughput without faults".into(),
                    values: (0.05, 120.0),
                    log: true,
                    ticks: vec![0.1, 1.0, 10.0, 100.0],
                },
                marks: Marks::Lines(
                    Scale {
                        values: (low * 0.9, high * 1.1),
                        ..Scale::factors("accesses to missing pages, %", ticks.collect())
                    },
                    lines,
                ),
            }
        })
        .collect();
    let name = |(color, ms): (usize, &u32)| {
        let name = match ms {
            0 => "answered as soon as can be".into(),
            ms => format!("{ms} ms later"),
        };
        (Style::solid(color), name)
    };
    (!panels.is_empty()).then(|| Chart {
        title: "Throughput by the share of missing pages and the time to bring one in",
        note: note(
            measured,
            "single pages, mirror; a device that takes no time itself",
        ),
        legend: late.iter().enumerate().map(name).collect(),
        columns: 2,
        panels,
    })
}

fn cache(measured: &[Measured]) -> Option<Chart> {
    let caches = caches(measured);
    let sizes: Vec<f64> = distinct(caches.iter().map(|it| it.entries))
        .into_iter()
        .map(f64::from)
        .collect();
    let reuses = reuses(measured);
    let told = Style::dashed(COLORS.len());
    let panels: Vec<Panel> = names(caches.iter().map(|it| it.load.as_str()))
        .into_iter()
        .map(|load| {
            let line = |(color, kind)| {
                let of = caches
                    .iter()
                    .filter(|it| it.load == load && is_kind(it, kind));
                let mut points: Vec<Point> =
                    of.map(|it| (f64::from(it.entries), hit_rate(it))).collect();
                points.sort_by(|a, b| a.0.total_cmp(&b.0));
                (Style::solid(color), points)
            };
            let mut lines: Vec<_> = KINDS.into_iter().enumerate().map(line).collect();
            if let Some(reuse) = reuses.iter().find(|it| it.load == load) {
                let share = |hits: u64| 100.0 * hits as f64 / reuse.accesses as f64;
                let hits = reuse.hits.iter();
                let points = hits.map(|(entries, hits)| (f64::from(*entries), share(*hits)));
                lines.push((told, points.collect()));
            }
            Panel {
                title: load.into(),
                up: Scale::percent("hits, % of accesses"),
                marks: Marks::Lines(Scale::factors("entries", sizes.clone()), lines),
            }
        })
        .collect();
    let mut legend: Vec<_> = (0..)
        .map(Style::solid)
        .zip(KINDS.map(|kind| kind.2.to_owned()))
        .collect();
    if !reuses.is_empty() {
        legend.push((told, "told by locality".into()));
    }
    (!panels.is_empty()).then(|| Chart {
        title: "Hits of the device's translation cache",
        note: note(
            measured,
            "memory pinned; the ring and its completions take two entries",
        ),
        legend,
        columns: 2,
        panels,
    })
}

/// Rates are compared where streams are that are held back.
fn loss(measured: &[Measured]) -> Option<Chart> {
    let losses = losses(measured);
    let held_back = losses.iter().find(|it| it.mode == "cooperate")?;
    let dropping = || losses.iter().filter(|it| it.mode == "drop");
    let sizes = distinct(dropping().map(|it| it.buffer_bytes));
    let kib = |bytes: u32| f64::from(bytes) / 1024.0;
    let usual = dropping().next()?.bytes_per_ms;
    let late = distinct(
        dropping()
            .filter(|it| it.bytes_per_ms == usual)
            .map(|it| it.late_ms),
    );
    let by_size = |(color, ms): (usize, &u32)| {
        let of = dropping().filter(|it| it.bytes_per_ms == usual && it.late_ms == *ms);
        let mut points: Vec<Point> = of.map(|it| (kib(it.buffer_bytes), lost(it))).collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        points.dedup_by(|a, b| a.0 == b.0);
        (Style::solid(color), points)
    };
    let by_rate = |mode: &str, style: Style| {
        let of = losses.iter().filter(|it| {
            it.mode == mode
                && it.taken_every == held_back.taken_every
                && it.buffer_bytes == held_back.buffer_bytes
                && it.late_ms == held_back.late_ms
        });
        let mut points: Vec<Point> = of
            .map(|it| (f64::from(it.bytes_per_ms) / 1e3, lost(it)))
            .collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        points.dedup_by(|a, b| a.0 == b.0);
        (style, points)
    };
    let (cooperate, drop) = (Style::solid(late.len()), Style::dashed(late.len() + 1));
    let rates = distinct(losses.iter().map(|it| it.bytes_per_ms));
    let mut legend: Vec<_> = late
        .iter()
        .enumerate()
        .map(|(color, ms)| (Style::solid(color), format!("drop, answers {ms} ms late")))
        .collect();
    legend.push((cooperate, "cooperate".into()));
    legend.push((drop, "drop, by rate".into()));
    Some(Chart {
        title: "What is lost of a receive stream",
        note: note(
            measured,
            "the page of one buffer in 1,024 frames, a mebibyte, is missing when its turn comes",
        ),
        legend,
        columns: 2,
        panels: vec![
            Panel {
                title: format!(
                    "sender that is not held back, {} MB/s",
                    tick_label(f64::from(usual) / 1e3)
                ),
                up: Scale::percent("frames lost, %"),
                marks: Marks::Lines(
                    Scale::factors(
                        "buffer on the device, KiB",
                        sizes.into_iter().map(kib).collect(),
                    ),
                    late.iter().enumerate().map(by_size).collect(),
                ),
            },
            Panel {
                title: format!(
                    "by rate: {} KiB on the device, answers {} ms late",
                    kib(held_back.buffer_bytes),
                    held_back.late_ms
                ),
                up: Scale::percent("frames lost, %"),
                marks: Marks::Lines(
                    Scale::factors(
                        "sent, MB/s",
                        rates
                            .into_iter()
                            .map(|rate| f64::from(rate) / 1e3)
                            .collect(),
                    ),
                    vec![by_rate("drop", drop), by_rate("cooperate", cooperate)],
                ),
            },
        ],
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::iopf::tests::{measured, pass};
    use iopf_bench::figure::Figure;

    #[test]
    fn nothing_measured_draws_nothing() {
        let dir = tempfile::tempdir().unwrap();
        assert!(all(dir.path(), &[]).unwrap().is_empty());
    }

    #[test]
    fn modes_have_a_bar_each() {
        let passes: Vec<_> = MODES
            .iter()
            .map(|mode| {
                measured(
                    "instructions",
                    Figure::Pass(pass(mode, Load::StreamFirst, 1)),
                )
            })
            .collect();
        let chart = modes(&passes).unwrap();
        for panel in &chart.panels {
            let Marks::Bars(_, bars) = &panel.marks else {
                panic!()
            };
            assert_eq!(bars.len(), MODES.len());
            assert!(bars.iter().all(|bar| bar.value <= panel.up.values.1));
        }
    }
}
