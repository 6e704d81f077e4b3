// SPDX-License-Identifier: GPL-2.0

//! What devices that fault cost, as pictures: panels of lines or bars, under one legend.

use std::path::{Path, PathBuf};

use anyhow::Result;
use iopf_bench::figure::{Load, Pass};
use plotters::prelude::*;

use super::Measured;
use super::table::{
    KINDS, MODES, Passes, busy, caches, distinct, elapsed, groups_per_mib, hit_rate, is_kind,
    losses, lost, missing, names, reuses, throughput, waits,
};
use crate::plot::{
    Axis, CENTER, Canvas, Draw, FAINT, GRID, INK, LEFT, Point, RIGHT, save, tick_label,
};

/// Okabe and Ito's palette, which most kinds of colour blindness can tell apart.
const COLORS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(30, 30, 30),
];

/// What a line or a bar looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Style {
    color: usize,
    dashed: bool,
}

impl Style {
    const fn solid(color: usize) -> Self {
        Self {
            color,
            dashed: false,
        }
    }

    const fn dashed(color: usize) -> Self {
        Self {
            color,
            dashed: true,
        }
    }

    fn rgb(self) -> RGBColor {
        COLORS.get(self.color).copied().unwrap_or(INK)
    }
}

/// One direction of a panel.
#[derive(Clone, Debug)]
struct Scale {
    label: String,
    values: (f64, f64),
    log: bool,
    /// Where there are ticks; none: where numbers are round.
    ticks: Vec<f64>,
}

impl Scale {
    /// From 0 to what is needed for `values`.
    fn from_zero(label: &str, values: impl Iterator<Item = f64>) -> Self {
        let most = values.fold(0.0, f64::max);
        Self {
            label: label.into(),
            values: (0.0, if most > 0.0 { most * 1.08 } else { 1.0 }),
            log: false,
            ticks: Vec::new(),
        }
    }

    /// Percents.
    fn percent(label: &str) -> Self {
        Self {
            label: label.into(),
            values: (0.0, 104.0),
            log: false,
            ticks: vec![0.0, 20.0, 40.0, 60.0, 80.0, 100.0],
        }
    }

    /// By factors, over exactly these values.
    fn factors(label: &str, ticks: Vec<f64>) -> Self {
        let low = ticks.iter().copied().fold(f64::INFINITY, f64::min);
        let high = ticks.iter().copied().fold(low * 2.0, f64::max);
        Self {
            label: label.into(),
            values: (low, high),
            log: true,
            ticks,
        }
    }

    fn axis(&self, span: (f64, f64)) -> Axis {
        Axis {
            values: self.values,
            span,
            log: self.log,
        }
    }

    fn ticks(&self, axis: &Axis) -> Vec<f64> {
        match self.ticks.is_empty() {
            true => axis.ticks(),
            false => self.ticks.clone(),
        }
    }
}

/// A bar, and what is written below and above it.
struct Bar {
    below: String,
    value: f64,
    above: String,
    style: Style,
}

/// What is in a panel.
enum Marks {
    Lines(Scale, Vec<(Style, Vec<Point>)>),
    /// What the bars are by, and the bars.
    Bars(String, Vec<Bar>),
}

struct Panel {
    title: String,
    up: Scale,
    marks: Marks,
}

struct Chart {
    title: &'static str,
    note: String,
    legend: Vec<(Style, String)>,
    /// In rows of so many.
    columns: usize,
    panels: Vec<Panel>,
}

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

/// Where panels may be: right, bottom.
const RIGHT_EDGE: f64 = 1184.0;
const BOTTOM_EDGE: f64 = 552.0;
/// Between the edges of a panel and its axes: left, top, right, bottom.
const MARGINS: (f64, f64, f64, f64) = (74.0, 30.0, 14.0, 46.0);

impl Draw for Chart {
    fn draw<DB: DrawingBackend>(&self, canvas: &Canvas<DB>) -> Result<()> {
        canvas.clear()?;
        canvas.text(self.title, (24.0, 28.0), 20.0, INK, LEFT)?;
        canvas.text(&self.note, (24.0, 54.0), 13.0, FAINT, LEFT)?;
        let mut at = 24.0;
        for (style, name) in &self.legend {
            stroke(canvas, *style, &[(at, 80.0), (at + 26.0, 80.0)])?;
            canvas.text(name, (at + 33.0, 80.0), 13.0, INK, LEFT)?;
            at += 58.0 + 6.4 * name.chars().count() as f64;
        }

        let columns = self.columns.max(1);
        let rows = self.panels.len().div_ceil(columns).max(1);
        let top = if self.legend.is_empty() { 72.0 } else { 96.0 };
        let width = (RIGHT_EDGE - 12.0) / columns as f64;
        let height = (BOTTOM_EDGE - top) / rows as f64;
        for (index, panel) in self.panels.iter().enumerate() {
            let (row, column) = (index / columns, index % columns);
            let corner = (12.0 + width * column as f64, top + height * row as f64);
            panel.draw(canvas, corner, (width, height))?;
        }
        Ok(())
    }
}

/// Draws a line.
fn stroke<DB: DrawingBackend>(canvas: &Canvas<DB>, style: Style, points: &[Point]) -> Result<()> {
    const DASH: f64 = 6.0;
    if !style.dashed {
        return canvas.line(points, style.rgb(), 2.0);
    }
    for pair in points.windows(2) {
        let [from, to] = pair else { continue };
        let length = (to.0 - from.0).hypot(to.1 - from.1);
        let at = |done: f64| {
            let part = (done / length).min(1.0);
            (
                from.0 + (to.0 - from.0) * part,
                from.1 + (to.1 - from.1) * part,
            )
        };
        let mut done = 0.0;
        while done < length {
            canvas.line(&[at(done), at(done + DASH)], style.rgb(), 1.6)?;
            done += 2.0 * DASH;
        }
    }
    Ok(())
}

impl Panel {
    fn draw<DB: DrawingBackend>(
        &self,
        canvas: &Canvas<DB>,
        corner: Point,
        (width, height): (f64, f64),
    ) -> Result<()> {
        let (left, right) = (corner.0 + MARGINS.0, corner.0 + width - MARGINS.2);
        let (top, bottom) = (corner.1 + MARGINS.1, corner.1 + height - MARGINS.3);
        let middle = (left + right) / 2.0;
        canvas.text(&self.title, (left, corner.1 + 13.0), 14.0, INK, LEFT)?;
        let up = self.up.axis((bottom, top));
        for tick in self.up.ticks(&up) {
            let at = up.place(tick);
            canvas.line(&[(left, at), (right, at)], GRID, 1.0)?;
            canvas.text(&tick_label(tick), (left - 7.0, at), 12.0, INK, RIGHT)?;
        }
        canvas.line(&[(left, bottom), (right, bottom)], INK, 1.0)?;
        let aside = (corner.0 + 16.0, (top + bottom) / 2.0);
        canvas.upright(&self.up.label, aside, 13.0, INK)?;
        let below = |text: &str, at: f64| {
            canvas.line(&[(at, bottom), (at, bottom + 4.0)], INK, 1.0)?;
            canvas.text(text, (at, bottom + 14.0), 12.0, INK, CENTER)
        };

        match &self.marks {
            Marks::Lines(across, lines) => {
                let x = across.axis((left + 8.0, right - 8.0));
                for tick in across.ticks(&x) {
                    below(&tick_label(tick), x.place(tick))?;
                }
                canvas.text(&across.label, (middle, bottom + 34.0), 13.0, INK, CENTER)?;
                for (style, points) in lines {
                    let places: Vec<Point> = points
                        .iter()
                        .map(|(across, value)| (x.place(*across), up.place(*value)))
                        .collect();
                    stroke(canvas, *style, &places)?;
                    for (x, y) in places.iter().filter(|_| !style.dashed) {
                        canvas.rectangle((x - 2.5, y - 2.5), (x + 2.5, y + 2.5), style.rgb())?;
                    }
                }
            }
            Marks::Bars(across, bars) => {
                let pitch = (right - left) / bars.len().max(1) as f64;
                let half = (pitch * 0.36).min(28.0);
                for (index, bar) in bars.iter().enumerate() {
                    let at = left + pitch * (index as f64 + 0.5);
                    let to = up.place(bar.value);
                    canvas.rectangle((at - half, to), (at + half, bottom), bar.style.rgb())?;
                    canvas.text(&bar.above, (at, to - 9.0), 12.0, INK, CENTER)?;
                    canvas.text(&bar.below, (at, bottom + 14.0), 12.0, INK, CENTER)?;
                }
                canvas.text(across, (middle, bottom + 34.0), 13.0, INK, CENTER)?;
            }
        }
        Ok(())
    }
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

    #[test]
    fn scales_contain_their_values() {
        let scale = Scale::from_zero("", [3.0, 7.0].into_iter());
        assert!(scale.values.0 == 0.0 && scale.values.1 > 7.0);
        assert_eq!(Scale::from_zero("", [0.0].into_iter()).values, (0.0, 1.0));
        assert_eq!(Scale::factors("", vec![8.0, 64.0]).values, (8.0, 64.0));
        assert_eq!(Scale::factors("", vec![8.0]).values, (8.0, 16.0));
    }
}
