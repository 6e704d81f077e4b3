// SPDX-License-Identifier: GPL-2.0

//! The comparison as pictures, each as SVG and as PNG.
//!
//! Axes and labels are drawn here rather than by the library's charts, because
//! it takes both to keep labels apart: what is drawn, and where.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::{Context, Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{FontStyle, FontTransform, register_font};

use crate::results::Record;
use crate::scenario::{LIVE, Strategy, WORKING_SET, WORKLOADS};
use crate::table::{Slice, hit_rate};

const FONT: &str = "sans-serif";
const FONT_FILES: [&str; 2] = [
    "/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf",
    "/usr/share/fonts/dejavu/DejaVuSans.ttf",
];

/// Of every picture, in units that a PNG has two pixels of.
const SIZE: (u32, u32) = (1200, 560);

pub(crate) const INK: RGBColor = RGBColor(38, 38, 38);
pub(crate) const FAINT: RGBColor = RGBColor(110, 110, 110);
pub(crate) const GRID: RGBColor = RGBColor(226, 226, 226);

/// Okabe and Ito's palette, which most kinds of colour blindness can tell
/// apart, as far as it goes; the shape of the marker says the same again.
fn color(strategy: Strategy) -> RGBColor {
    match strategy {
        Strategy::KernelIdentity => RGBColor(30, 30, 30),
        Strategy::KernelLazy => RGBColor(86, 180, 233),
        Strategy::KernelStrict => RGBColor(0, 114, 178),
        Strategy::Premapped => RGBColor(140, 140, 140),
        Strategy::Strict => RGBColor(213, 94, 0),
        Strategy::Deferred => RGBColor(230, 159, 0),
        Strategy::Batched => RGBColor(204, 121, 167),
        Strategy::Cached => RGBColor(0, 158, 115),
        Strategy::Persistent => RGBColor(0, 90, 60),
        Strategy::Pool => RGBColor(190, 170, 0),
        Strategy::Contiguous => RGBColor(110, 80, 180),
        Strategy::Auto => RGBColor(120, 70, 30),
    }
}

/// Draws everything that `records` allow, and returns the files.
pub fn all(dir: &Path, records: &[Record]) -> Result<Vec<PathBuf>> {
    let mut figures = Vec::new();
    for (name, title) in [
        ("tcp-stream", "TCP stream"),
        ("tcp-stream-back", "TCP stream, the other way"),
        ("tcp-rr", "TCP request/response"),
    ] {
        if let Some(sweep) = Sweep::new(records, name, title) {
            figures.push((format!("throughput-{name}"), Figure::Sweep(sweep)));
        }
    }
    for (name, curve) in [
        (
            "hit-rate-working-set",
            Curve::new(
                records,
                WORKING_SET,
                ("Hits by working set", "working set", "hits, %"),
                hit_rate,
            ),
        ),
        (
            "instructions-live-pages",
            Curve::new(
                records,
                LIVE,
                (
                    "Cost of a map and unmap by what is mapped already",
                    "mapped all the time",
                    "instructions per pair",
                ),
                |record| record.instructions_per_op,
            ),
        ),
    ] {
        if let Some(curve) = curve {
            figures.push((name.into(), Figure::Curve(curve)));
        }
    }
    if let Some(bars) = Bars::new(records) {
        figures.push(("invalidations-per-megabyte".into(), Figure::Bars(bars)));
    }

    let mut files = Vec::new();
    for (name, figure) in figures {
        files.extend(save(dir, &name, &figure)?);
    }
    Ok(files)
}

/// What can be drawn.
pub(crate) trait Draw {
    /// Draws it over all of a canvas.
    fn draw<DB: DrawingBackend>(&self, canvas: &Canvas<DB>) -> Result<()>;
}

/// Draws a figure, in both formats, and returns the files.
pub(crate) fn save(dir: &Path, name: &str, figure: &impl Draw) -> Result<[PathBuf; 2]> {
    load_font()?;
    let svg = dir.join(format!("{name}.svg"));
    let root = SVGBackend::new(&svg, SIZE).into_drawing_area();
    draw(figure, Canvas { root, scale: 1.0 }, &svg)?;
    let png = dir.join(format!("{name}.png"));
    let root = BitMapBackend::new(&png, (SIZE.0 * 2, SIZE.1 * 2)).into_drawing_area();
    draw(figure, Canvas { root, scale: 2.0 }, &png)?;
    Ok([svg, png])
}

fn draw<DB: DrawingBackend>(figure: &impl Draw, canvas: Canvas<DB>, path: &Path) -> Result<()> {
    figure
        .draw(&canvas)
        .and_then(|()| canvas.root.present().map_err(broken))
        .with_context(|| format!("cannot draw {}", path.display()))
}

/// Reads the font once for the whole process.
fn load_font() -> Result<()> {
    static LOADED: OnceLock<bool> = OnceLock::new();
    let loaded = LOADED.get_or_init(|| {
        FONT_FILES.iter().any(|path| {
            let Ok(data) = fs::read(path) else {
                return false;
            };
            // The library wants fonts to live as long as the process.
            let data: &'static [u8] = Box::leak(data.into_boxed_slice());
            register_font(FONT, FontStyle::Normal, data).is_ok()
        })
    });
    if *loaded {
        Ok(())
    } else {
        Err(anyhow!("no font to draw with; install fonts-dejavu-core"))
    }
}

/// The library's errors borrow what this program's must not.
fn broken(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("{error}")
}

enum Figure {
    Sweep(Sweep),
    Curve(Curve),
    Bars(Bars),
}

impl Draw for Figure {
    fn draw<DB: DrawingBackend>(&self, canvas: &Canvas<DB>) -> Result<()> {
        match self {
            Self::Sweep(sweep) => sweep.draw(canvas),
            Self::Curve(curve) => curve.draw(canvas),
            Self::Bars(bars) => bars.draw(canvas),
        }
    }
}

/// A point on the canvas.
pub(crate) type Point = (f64, f64);

/// Draws in units of [`SIZE`], whatever the file's resolution.
pub(crate) struct Canvas<DB: DrawingBackend> {
    root: DrawingArea<DB, Shift>,
    scale: f64,
}

impl<DB: DrawingBackend> Canvas<DB> {
    fn at(&self, point: Point) -> (i32, i32) {
        let pixel = |value: f64| (value * self.scale).round() as i32;
        (pixel(point.0), pixel(point.1))
    }

    fn stroke(&self, color: RGBColor, width: f64) -> ShapeStyle {
        let width = (width * self.scale).round().max(1.0) as u32;
        color.stroke_width(width)
    }

    pub(crate) fn clear(&self) -> Result<()> {
        self.root.fill(&WHITE).map_err(broken)
    }

    pub(crate) fn line(&self, points: &[Point], color: RGBColor, width: f64) -> Result<()> {
        let points: Vec<_> = points.iter().map(|point| self.at(*point)).collect();
        let path = PathElement::new(points, self.stroke(color, width));
        self.root.draw(&path).map_err(broken)
    }

    pub(crate) fn rectangle(&self, from: Point, to: Point, color: RGBColor) -> Result<()> {
        let shape = Rectangle::new([self.at(from), self.at(to)], color.filled());
        self.root.draw(&shape).map_err(broken)
    }

    pub(crate) fn text(
        &self,
        text: &str,
        at: Point,
        size: f64,
        color: RGBColor,
        pos: Pos,
    ) -> Result<()> {
        let style = (FONT, size * self.scale).into_font().color(&color).pos(pos);
        // Half an x lower: the middle of a line of text is above that of its letters.
        let at = self.at((at.0, at.1 + size * 0.12));
        let element = Text::new(text.to_owned(), at, style);
        self.root.draw(&element).map_err(broken)
    }

    /// Text that reads from bottom to top.
    pub(crate) fn upright(&self, text: &str, at: Point, size: f64, color: RGBColor) -> Result<()> {
        let style = (FONT, size * self.scale)
            .into_font()
            .transform(FontTransform::Rotate270)
            .color(&color)
            .pos(Pos::new(HPos::Center, VPos::Center));
        let element = Text::new(text.to_owned(), self.at(at), style);
        self.root.draw(&element).map_err(broken)
    }

    /// The strategy's marker. Ours are filled, the kernel's are hollow.
    fn marker(&self, strategy: Strategy, at: Point, radius: f64) -> Result<()> {
        let color = color(strategy);
        let inside = if strategy.is_ours() { color } else { WHITE };
        let corners = match strategy {
            Strategy::KernelIdentity | Strategy::Cached => {
                let size = radius * self.scale;
                let disk = |style| Circle::new(self.at(at), size, style);
                self.root.draw(&disk(inside.filled())).map_err(broken)?;
                let outline = disk(self.stroke(color, 1.6));
                return self.root.draw(&outline).map_err(broken);
            }
            Strategy::KernelLazy | Strategy::Deferred => 3,
            Strategy::KernelStrict | Strategy::Strict => 4,
            Strategy::Premapped | Strategy::Persistent => 5,
            Strategy::Batched => 6,
            Strategy::Pool => 7,
            Strategy::Contiguous => 8,
            Strategy::Auto => 9,
        };
        let outline: Vec<Point> = (0..=corners)
            .map(|corner| {
                let turn = f64::from(corner) / f64::from(corners) * std::f64::consts::TAU;
                (at.0 + radius * turn.sin(), at.1 - radius * turn.cos())
            })
            .collect();
        let pixels: Vec<_> = outline.iter().map(|point| self.at(*point)).collect();
        let shape = Polygon::new(pixels, inside.filled());
        self.root.draw(&shape).map_err(broken)?;
        self.line(&outline, color, 1.6)
    }
}

pub(crate) const LEFT: Pos = Pos {
    h_pos: HPos::Left,
    v_pos: VPos::Center,
};
pub(crate) const CENTER: Pos = Pos {
    h_pos: HPos::Center,
    v_pos: VPos::Center,
};
pub(crate) const RIGHT: Pos = Pos {
    h_pos: HPos::Right,
    v_pos: VPos::Center,
};

/// Maps values to a span of the canvas.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Axis {
    pub(crate) values: (f64, f64),
    pub(crate) span: (f64, f64),
    pub(crate) log: bool,
}

impl Axis {
    pub(crate) fn place(&self, value: f64) -> f64 {
        let scale = |value: f64| if self.log { value.log10() } else { value };
        let (low, high) = (scale(self.values.0), scale(self.values.1));
        let share = (scale(value) - low) / (high - low);
        self.span.0 + share * (self.span.1 - self.span.0)
    }

    /// Round values within the axis: 1, 2 and 5 times powers of ten, or powers
    /// alone where there are many.
    pub(crate) fn ticks(&self) -> Vec<f64> {
        let (low, high) = self.values;
        if self.log {
            let decades = (high / low).log10();
            let steps: &[f64] = if decades > 3.0 {
                &[1.0]
            } else {
                &[1.0, 2.0, 5.0]
            };
            let from = low.log10().floor() as i32;
            let to = high.log10().ceil() as i32;
            (from..=to)
                .flat_map(|power| steps.iter().map(move |step| step * 10f64.powi(power)))
                .filter(|tick| *tick >= low * 0.999 && *tick <= high * 1.001)
                .collect()
        } else {
            let rough = (high - low) / 5.0;
            let power = 10f64.powf(rough.log10().floor());
            let step = [1.0, 2.0, 5.0, 10.0]
                .into_iter()
                .map(|step| step * power)
                .find(|step| *step >= rough)
                .unwrap_or(rough);
            let first = (low / step).ceil() as i64;
            let last = (high / step).floor() as i64;
            (first..=last).map(|index| index as f64 * step).collect()
        }
    }
}

/// A number on an axis: no more digits than it takes.
pub(crate) fn tick_label(value: f64) -> String {
    if value >= 1e6 {
        format!("{}M", value / 1e6)
    } else if value >= 1e4 {
        format!("{}k", value / 1e3)
    } else {
        let text = format!("{value:.6}");
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    }
}

fn size_label(bytes: u64) -> String {
    if bytes >= 1 << 20 && bytes % (1 << 20) == 0 {
        format!("{} MiB", bytes >> 20)
    } else if bytes >= 1024 && bytes % 1024 == 0 {
        format!("{} KiB", bytes / 1024)
    } else {
        format!("{bytes} B")
    }
}

/// Moves labels apart that would touch, as little as possible.
fn spread_labels(wanted: &mut [(f64, Strategy)], gap: f64, bounds: (f64, f64)) {
    wanted.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut low = bounds.0;
    for (at, _) in wanted.iter_mut() {
        *at = at.max(low);
        low = *at + gap;
    }
    let mut high = bounds.1;
    for (at, _) in wanted.iter_mut().rev() {
        *at = at.min(high);
        high = *at - gap;
    }
}

/// Throughput against message size.
struct Sweep {
    title: String,
    unit: String,
    note: String,
    sizes: Vec<u64>,
    lines: Vec<Line>,
}

struct Line {
    strategy: Strategy,
    points: Vec<Sample>,
}

struct Sample {
    bytes: f64,
    throughput: f64,
    /// In percent of the baseline's.
    ratio: Option<f64>,
}

/// Which of a sample's values a panel shows.
type Pick = fn(&Sample) -> Option<f64>;

/// The first record of a workload, and the sizes that there are with its clock, ascending; none if
/// they are too few for a line.
fn sizes_of<'a>(records: &'a [Record], workload: &str) -> Option<(&'a Record, Vec<u64>)> {
    let of = |record: &&Record| record.workload == workload;
    let first = records.iter().find(of)?;
    let mut sizes: Vec<u64> = records
        .iter()
        .filter(of)
        .filter(|record| record.clock == first.clock)
        .map(|record| record.message_bytes)
        .collect();
    sizes.sort_unstable();
    sizes.dedup();
    (sizes.len() >= 3).then_some((first, sizes))
}

impl Sweep {
    fn new(records: &[Record], workload: &str, title: &str) -> Option<Self> {
        let (first, sizes) = sizes_of(records, workload)?;
        let mut lines = Vec::new();
        for strategy in Strategy::ALL {
            let points: Vec<_> = sizes
                .iter()
                .filter_map(|size| {
                    let slice = Slice::new(records, workload, *size, &first.clock);
                    let throughput = |record: &Record| Some(record.throughput);
                    let value = slice.summary(strategy, throughput)?.median;
                    let ratio = slice.ratio(strategy, throughput);
                    Some(Sample {
                        bytes: *size as f64,
                        throughput: value,
                        ratio: ratio.map(|ratio| ratio.median * 100.0),
                    })
                })
                .collect();
            if !points.is_empty() {
                lines.push(Line { strategy, points });
            }
        }
        Some(Self {
            title: title.to_owned(),
            unit: first.unit.clone(),
            note: note(first),
            sizes,
            lines,
        })
    }

    fn draw<DB: DrawingBackend>(&self, canvas: &Canvas<DB>) -> Result<()> {
        canvas.clear()?;
        let left = Pos::new(HPos::Left, VPos::Center);
        canvas.text(
            &format!("{} by message size", self.title),
            (24.0, 28.0),
            20.0,
            INK,
            left,
        )?;
        canvas.text(&self.note, (24.0, 54.0), 13.0, FAINT, left)?;

        let values = |pick: Pick| {
            let all = self.lines.iter().flat_map(|line| &line.points);
            let values: Vec<f64> = all.filter_map(pick).collect();
            let low = values.iter().copied().fold(f64::INFINITY, f64::min);
            let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            (low, high)
        };
        let vertical = (490.0, 105.0);
        let (low, high) = values(|point| Some(point.throughput));
        let absolute = Axis {
            values: (low / 1.15, high * 1.15),
            span: vertical,
            log: true,
        };
        self.panel(canvas, (86.0, 540.0), absolute, &self.unit, |point| {
            Some(point.throughput)
        })?;

        let (low, high) = values(|point| point.ratio);
        if low.is_finite() {
            let low = (low / 5.0).floor() * 5.0 - 2.0;
            let high = (high / 5.0).ceil() * 5.0 + 2.0;
            let relative = Axis {
                values: (low, high),
                span: vertical,
                log: false,
            };
            let label = "% of kernel-identity";
            self.panel(canvas, (626.0, 1030.0), relative, label, |point| {
                point.ratio
            })?;
            self.labels(canvas, relative, 1030.0)?;
        }
        Ok(())
    }

    fn panel<DB: DrawingBackend>(
        &self,
        canvas: &Canvas<DB>,
        across: (f64, f64),
        y: Axis,
        label: &str,
        pick: Pick,
    ) -> Result<()> {
        let (bottom, top) = y.span;
        let first = *self.sizes.first().unwrap_or(&1) as f64;
        let last = *self.sizes.last().unwrap_or(&1) as f64;
        let x = Axis {
            values: (first, last),
            span: (across.0 + 16.0, across.1 - 16.0),
            log: true,
        };
        for tick in y.ticks() {
            let at = y.place(tick);
            canvas.line(&[(across.0, at), (across.1, at)], GRID, 1.0)?;
            canvas.text(&tick_label(tick), (across.0 - 8.0, at), 13.0, INK, RIGHT)?;
        }
        for size in &self.sizes {
            let at = x.place(*size as f64);
            canvas.line(&[(at, bottom), (at, bottom + 5.0)], INK, 1.0)?;
            canvas.text(&size_label(*size), (at, bottom + 18.0), 13.0, INK, CENTER)?;
        }
        canvas.line(&[(across.0, bottom), (across.1, bottom)], INK, 1.0)?;
        let middle = (across.0 + across.1) / 2.0;
        canvas.text("message size", (middle, bottom + 44.0), 14.0, INK, CENTER)?;
        let name = if label.starts_with('%') {
            label.to_owned()
        } else {
            format!("throughput, {label}")
        };
        canvas.upright(&name, (across.0 - 62.0, (bottom + top) / 2.0), 14.0, INK)?;

        for line in &self.lines {
            let points: Vec<Point> = line
                .points
                .iter()
                .filter_map(|point| Some((x.place(point.bytes), y.place(pick(point)?))))
                .collect();
            canvas.line(&points, color(line.strategy), 2.0)?;
            for point in points {
                canvas.marker(line.strategy, point, 4.5)?;
            }
        }
        Ok(())
    }

    /// Names at the ends of the lines.
    fn labels<DB: DrawingBackend>(&self, canvas: &Canvas<DB>, y: Axis, right: f64) -> Result<()> {
        let ends = |line: &Line| line.points.last().and_then(|point| point.ratio);
        let mut wanted: Vec<(f64, Strategy)> = self
            .lines
            .iter()
            .filter_map(|line| Some((y.place(ends(line)?), line.strategy)))
            .collect();
        spread_labels(&mut wanted, 19.0, (y.span.1 + 6.0, y.span.0 - 6.0));
        for (at, strategy) in wanted {
            let line = self.lines.iter().find(|line| line.strategy == strategy);
            let from = line.and_then(ends).map_or(at, |end| y.place(end));
            canvas.line(&[(right - 8.0, from), (right + 8.0, at)], GRID, 1.0)?;
            canvas.marker(strategy, (right + 16.0, at), 4.5)?;
            canvas.text(strategy.name(), (right + 27.0, at), 13.0, INK, LEFT)?;
        }
        Ok(())
    }
}

/// A figure of each strategy against the size of a workload.
struct Curve {
    title: &'static str,
    across: &'static str,
    up: &'static str,
    note: String,
    sizes: Vec<u64>,
    lines: Vec<(Strategy, Vec<Point>)>,
}

impl Curve {
    fn new(
        records: &[Record],
        workload: &str,
        (title, across, up): (&'static str, &'static str, &'static str),
        figure: fn(&Record) -> Option<f64>,
    ) -> Option<Self> {
        let (first, sizes) = sizes_of(records, workload)?;
        let lines = Strategy::ALL.into_iter().filter_map(|strategy| {
            let points: Vec<Point> = sizes
                .iter()
                .filter_map(|size| {
                    let slice = Slice::new(records, workload, *size, &first.clock);
                    let value = slice.summary(strategy, figure)?.median;
                    Some((*size as f64, value))
                })
                .collect();
            (!points.is_empty()).then_some((strategy, points))
        });
        let lines: Vec<_> = lines.collect();
        (!lines.is_empty()).then(|| Self {
            title,
            across,
            up,
            note: note(first),
            sizes,
            lines,
        })
    }

    fn draw<DB: DrawingBackend>(&self, canvas: &Canvas<DB>) -> Result<()> {
        canvas.clear()?;
        let left = Pos::new(HPos::Left, VPos::Center);
        canvas.text(self.title, (24.0, 28.0), 20.0, INK, left)?;
        canvas.text(&self.note, (24.0, 54.0), 13.0, FAINT, left)?;

        let (bottom, top) = (490.0, 105.0);
        let (from, to) = (86.0, 1010.0);
        let highest = self.lines.iter().flat_map(|(_, points)| points);
        let highest = highest.map(|point| point.1).fold(1.0, f64::max);
        let y = Axis {
            values: (0.0, highest * 1.05),
            span: (bottom, top),
            log: false,
        };
        let x = Axis {
            values: (
                *self.sizes.first().unwrap_or(&1) as f64,
                *self.sizes.last().unwrap_or(&1) as f64,
            ),
            span: (from + 16.0, to - 16.0),
            log: true,
        };
        for tick in y.ticks() {
            let at = y.place(tick);
            canvas.line(&[(from, at), (to, at)], GRID, 1.0)?;
            canvas.text(&tick_label(tick), (from - 8.0, at), 13.0, INK, RIGHT)?;
        }
        for size in &self.sizes {
            let at = x.place(*size as f64);
            canvas.line(&[(at, bottom), (at, bottom + 5.0)], INK, 1.0)?;
            canvas.text(&size_label(*size), (at, bottom + 18.0), 13.0, INK, CENTER)?;
        }
        canvas.line(&[(from, bottom), (to, bottom)], INK, 1.0)?;
        canvas.text(
            self.across,
            ((from + to) / 2.0, bottom + 44.0),
            14.0,
            INK,
            CENTER,
        )?;
        canvas.upright(self.up, (from - 62.0, (bottom + top) / 2.0), 14.0, INK)?;

        for (strategy, points) in &self.lines {
            let points: Vec<Point> = points
                .iter()
                .map(|(size, value)| (x.place(*size), y.place(*value)))
                .collect();
            canvas.line(&points, color(*strategy), 2.0)?;
            for point in points {
                canvas.marker(*strategy, point, 4.5)?;
            }
        }

        let end = |points: &[Point]| points.last().map_or(bottom, |point| y.place(point.1));
        let mut wanted: Vec<(f64, Strategy)> = self
            .lines
            .iter()
            .map(|(strategy, points)| (end(points), *strategy))
            .collect();
        spread_labels(&mut wanted, 19.0, (top + 6.0, bottom - 6.0));
        for (at, strategy) in wanted {
            canvas.marker(strategy, (to + 16.0, at), 4.5)?;
            canvas.text(strategy.name(), (to + 27.0, at), 13.0, INK, LEFT)?;
        }
        Ok(())
    }
}

/// What a reader has to know to read the numbers.
fn note(record: &Record) -> String {
    let what = if record.clock == "instructions" {
        "one CPU at 10⁹ instructions/s, nothing else limiting"
    } else {
        "measured by the clock"
    };
    format!(
        "{}; {}, {}, Linux {}, QEMU {} ({})",
        what, record.driver, record.iommu, record.kernel, record.qemu, record.accelerator
    )
}

/// Invalidations per megabyte, in groups of bars.
struct Bars {
    note: String,
    groups: Vec<(String, Vec<(Strategy, f64)>)>,
}

/// The workloads that have a group of bars.
const BARS: [(&str, u64, &str); 9] = [
    ("udp", 64, "UDP"),
    ("tcp-rr", 64, "TCP rr"),
    ("tcp-rr", 65536, "TCP rr"),
    ("tcp-stream", 64, "TCP stream"),
    ("tcp-stream", 65536, "TCP stream"),
    ("nvme-randread", 4096, "NVMe random"),
    ("nvme-read", 131_072, "NVMe seq."),
    ("ahci-randread", 4096, "SATA random"),
    ("ahci-read", 131_072, "SATA seq."),
];

impl Bars {
    fn new(records: &[Record]) -> Option<Self> {
        let first = records.first()?;
        let mut groups = Vec::new();
        for (name, bytes, label) in BARS {
            if !WORKLOADS
                .iter()
                .any(|it| it.name == name && it.bytes == bytes)
            {
                continue;
            }
            let slice = Slice::new(records, name, bytes, &first.clock);
            let bars: Vec<_> = slice
                .strategies()
                .into_iter()
                .filter_map(|strategy| {
                    Some((strategy, slice.summary(strategy, per_megabyte)?.median))
                })
                .collect();
            if !bars.is_empty() {
                groups.push((format!("{label}\n{}", size_label(bytes)), bars));
            }
        }
        let any = groups
            .iter()
            .flat_map(|(_, bars)| bars)
            .any(|(_, value)| *value > 0.0);
        let note = format!(
            "10⁶ bytes of payload; Linux {}, QEMU {} ({})",
            first.kernel, first.qemu, first.accelerator
        );
        any.then_some(Self { note, groups })
    }

    fn draw<DB: DrawingBackend>(&self, canvas: &Canvas<DB>) -> Result<()> {
        canvas.clear()?;
        canvas.text(
            "IOTLB invalidations per megabyte",
            (24.0, 28.0),
            20.0,
            INK,
            LEFT,
        )?;
        canvas.text(&self.note, (24.0, 54.0), 13.0, FAINT, LEFT)?;

        let values = || {
            self.groups
                .iter()
                .flat_map(|(_, bars)| bars)
                .map(|(_, value)| *value)
        };
        let low = values()
            .filter(|value| *value > 0.0)
            .fold(f64::INFINITY, f64::min);
        let high = values().fold(0.0, f64::max);
        let decade = |value: f64| 10f64.powf(value.log10().floor());
        let (left, right, bottom) = (86.0, 1180.0, 470.0);
        let y = Axis {
            values: (decade(low), decade(high) * 10.0),
            span: (bottom - 18.0, 125.0),
            log: true,
        };
        for tick in y.ticks() {
            let at = y.place(tick);
            canvas.line(&[(left, at), (right, at)], GRID, 1.0)?;
            canvas.text(&tick_label(tick), (left - 8.0, at), 13.0, INK, RIGHT)?;
        }
        canvas.text("0", (left - 8.0, bottom), 13.0, INK, RIGHT)?;
        canvas.line(&[(left, bottom), (right, bottom)], INK, 1.0)?;
        canvas.upright(
            "invalidations / MB",
            (24.0, (bottom + 125.0) / 2.0),
            14.0,
            INK,
        )?;

        let pitch = (right - left) / self.groups.len() as f64;
        for (index, (label, bars)) in self.groups.iter().enumerate() {
            let from = left + pitch * index as f64;
            let width = (pitch * 0.84 / bars.len() as f64).min(22.0);
            let start = from + (pitch - width * bars.len() as f64) / 2.0;
            for (number, (strategy, value)) in bars.iter().enumerate() {
                let at = start + width * number as f64;
                let middle = at + width / 2.0;
                if *value > 0.0 {
                    let top = y.place(*value);
                    canvas.rectangle(
                        (at + 1.0, top),
                        (at + width - 1.0, bottom),
                        color(*strategy),
                    )?;
                } else {
                    canvas.marker(*strategy, (middle, bottom), 3.5)?;
                }
            }
            let middle = from + pitch / 2.0;
            for (line, text) in label.lines().enumerate() {
                let at = bottom + 22.0 + 18.0 * line as f64;
                canvas.text(text, (middle, at), 13.0, INK, CENTER)?;
            }
        }
        self.legend(canvas)
    }

    fn legend<DB: DrawingBackend>(&self, canvas: &Canvas<DB>) -> Result<()> {
        let measured = |strategy: &Strategy| {
            let bars = self.groups.iter().flat_map(|(_, bars)| bars);
            bars.into_iter().any(|(it, _)| it == strategy)
        };
        for (strategy, (at, line)) in legend_places(Strategy::ALL.into_iter().filter(measured)) {
            canvas.rectangle((at, line - 7.0), (at + 14.0, line + 7.0), color(strategy))?;
            canvas.text(strategy.name(), (at + 21.0, line), 13.0, INK, LEFT)?;
        }
        canvas.text(
            "a marker on the line is zero",
            (1180.0, 540.0),
            13.0,
            FAINT,
            RIGHT,
        )
    }
}

/// Where the signs of a legend are, in as many lines as they take.
fn legend_places(
    strategies: impl Iterator<Item = Strategy>,
) -> impl Iterator<Item = (Strategy, (f64, f64))> {
    let (left, right) = (86.0, 1180.0);
    let (mut at, mut line) = (left, 79.0);
    strategies.map(move |strategy| {
        let width = 46.0 + 8.2 * strategy.name().len() as f64;
        if at + width > right {
            (at, line) = (left, line + 22.0);
        }
        let place = (at, line);
        at += width;
        (strategy, place)
    })
}

fn per_megabyte(record: &Record) -> Option<f64> {
    let megabytes = record.ops as f64 * record.message_bytes as f64 / 1e6;
    let invalidations = record.invalidations?;
    (megabytes > 0.0).then(|| invalidations as f64 / megabytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::tests::record;

    #[test]
    fn labels_do_not_touch_and_stay_inside() {
        let mut labels: Vec<_> = Strategy::ALL.iter().map(|it| (100.0, *it)).collect();
        spread_labels(&mut labels, 8.0, (50.0, 150.0));
        for pair in labels.windows(2) {
            assert!(pair[1].0 - pair[0].0 >= 8.0);
        }
        assert!(labels[0].0 >= 50.0 && labels[labels.len() - 1].0 <= 150.0);
    }

    #[test]
    fn a_legend_stays_inside_and_above_the_bars() {
        let places: Vec<_> = legend_places(Strategy::ALL.into_iter()).collect();
        assert_eq!(places.len(), Strategy::ALL.len());
        for (strategy, (at, line)) in places {
            assert!(at + 21.0 + 8.2 * strategy.name().len() as f64 <= 1200.0);
            assert!(line + 7.0 < 125.0);
        }
    }

    #[test]
    fn axes_have_round_ticks() {
        let log = Axis {
            values: (0.9, 120.0),
            span: (0.0, 1.0),
            log: true,
        };
        assert_eq!(log.ticks(), [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0]);
        let linear = Axis {
            values: (68.0, 107.0),
            span: (0.0, 1.0),
            log: false,
        };
        assert_eq!(linear.ticks(), [70.0, 80.0, 90.0, 100.0]);
        assert_eq!(linear.place(68.0), 0.0);
        assert_eq!(linear.place(107.0), 1.0);
    }

    #[test]
    fn labels_are_short() {
        assert_eq!(tick_label(0.05), "0.05");
        assert_eq!(tick_label(200.0), "200");
        assert_eq!(tick_label(50_000.0), "50k");
        assert_eq!(size_label(64), "64 B");
        assert_eq!(size_label(131_072), "128 KiB");
    }

    #[test]
    fn pictures_come_in_both_formats() {
        if load_font().is_err() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let mut records = Vec::new();
        for strategy in Strategy::ALL {
            for bytes in [64, 1024, 65536] {
                records.push(record("tcp-stream", strategy.name(), bytes, 1));
            }
        }
        let files = all(dir.path(), &records).unwrap();
        assert_eq!(files.len(), 4);
        for file in files {
            assert!(
                fs::metadata(&file).unwrap().len() > 1000,
                "{}",
                file.display()
            );
        }
    }

    #[test]
    fn nothing_measured_draws_nothing() {
        assert!(Bars::new(&[]).is_none());
        assert!(Sweep::new(&[], "tcp-rr", "").is_none());
    }
}
