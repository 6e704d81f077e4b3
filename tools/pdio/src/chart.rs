// SPDX-License-Identifier: GPL-2.0

//! A picture of panels of lines or bars, under one legend.

use anyhow::Result;
use plotters::prelude::*;

use crate::plot::{Axis, CENTER, Canvas, Draw, FAINT, GRID, INK, LEFT, Point, RIGHT, tick_label};

/// Okabe and Ito's palette, which most kinds of colour blindness can tell apart.
pub(crate) const COLORS: [RGBColor; 7] = [
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
pub(crate) struct Style {
    color: usize,
    dashed: bool,
}

impl Style {
    pub(crate) const fn solid(color: usize) -> Self {
        Self {
            color,
            dashed: false,
        }
    }

    pub(crate) const fn dashed(color: usize) -> Self {
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
pub(crate) struct Scale {
    pub(crate) label: String,
    pub(crate) values: (f64, f64),
    pub(crate) log: bool,
    /// Where there are ticks; none: where numbers are round.
    pub(crate) ticks: Vec<f64>,
}

impl Scale {
    /// From 0 to what is needed for `values`.
    pub(crate) fn from_zero(label: &str, values: impl Iterator<Item = f64>) -> Self {
        let most = values.fold(0.0, f64::max);
        Self {
            label: label.into(),
            values: (0.0, if most > 0.0 { most * 1.08 } else { 1.0 }),
            log: false,
            ticks: Vec::new(),
        }
    }

    /// Percents.
    pub(crate) fn percent(label: &str) -> Self {
        Self {
            label: label.into(),
            values: (0.0, 104.0),
            log: false,
            ticks: vec![0.0, 20.0, 40.0, 60.0, 80.0, 100.0],
        }
    }

    /// By factors, over exactly these values.
    pub(crate) fn factors(label: &str, ticks: Vec<f64>) -> Self {
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
pub(crate) struct Bar {
    pub(crate) below: String,
    pub(crate) value: f64,
    pub(crate) above: String,
    pub(crate) style: Style,
}

/// What is in a panel.
pub(crate) enum Marks {
    Lines(Scale, Vec<(Style, Vec<Point>)>),
    /// What the bars are by, and the bars.
    Bars(String, Vec<Bar>),
}

pub(crate) struct Panel {
    pub(crate) title: String,
    pub(crate) up: Scale,
    pub(crate) marks: Marks,
}

pub(crate) struct Chart {
    pub(crate) title: &'static str,
    pub(crate) note: String,
    pub(crate) legend: Vec<(Style, String)>,
    /// In rows of so many.
    pub(crate) columns: usize,
    pub(crate) panels: Vec<Panel>,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_contain_their_values() {
        let scale = Scale::from_zero("", [3.0, 7.0].into_iter());
        assert!(scale.values.0 == 0.0 && scale.values.1 > 7.0);
        assert_eq!(Scale::from_zero("", [0.0].into_iter()).values, (0.0, 1.0));
        assert_eq!(Scale::factors("", vec![8.0, 64.0]).values, (8.0, 64.0));
        assert_eq!(Scale::factors("", vec![8.0]).values, (8.0, 16.0));
    }
}
