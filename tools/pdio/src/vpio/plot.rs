// SPDX-License-Identifier: GPL-2.0

//! What it takes a guest to drive a card, as a picture.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::table::{CARDS, LOADS, exits, hooked_share, median, paper_share, throughput};
use super::{Load, Measured, turns};
use crate::chart::{Bar, Chart, Marks, Panel, Scale, Style};
use crate::plot::save;
use crate::table::figure;

/// Colours of the paper's shares, and of ours.
const PAPER: usize = 6;
const HERE: usize = 0;

/// Draws everything that was measured, and returns the files.
pub fn all(
    dir: &Path,
    measured: &[Measured<Load>],
    turns: &[Measured<turns::Turns>],
) -> Result<Vec<PathBuf>> {
    let charts = [
        ("vpio-accesses", accesses(measured)),
        ("vpio-turns", turns::chart(turns)),
    ];
    let mut files = Vec::new();
    for (name, chart) in charts {
        if let Some(chart) = chart {
            files.extend(save(dir, name, &chart)?);
        }
    }
    Ok(files)
}

fn accesses(measured: &[Measured<Load>]) -> Option<Chart> {
    let accelerator = &measured.first()?.accelerator;
    let panels: Vec<Panel> = [
        shares(measured),
        by_card(measured, "exits because of ports per frame", exits),
        by_card(measured, "kB/s, by the clock", throughput),
    ]
    .into_iter()
    .flatten()
    .collect();
    (!panels.is_empty()).then(|| Chart {
        title: "What it takes a guest to drive an NE2000",
        note: format!("a guest in a guest (QEMU, {accelerator})"),
        legend: vec![
            (Style::solid(PAPER), "paper".into()),
            (Style::solid(HERE), "here".into()),
        ],
        columns: 2,
        panels,
    })
}

/// What the model has to hear of, beside what the paper's had to.
fn shares(measured: &[Measured<Load>]) -> Option<Panel> {
    let mut bars = Vec::new();
    for (load, _, paper) in LOADS {
        let (Some(ours), Some(paper)) = (hooked_share(measured, load), paper) else {
            continue;
        };
        for (share, color) in [(paper_share(paper), PAPER), (ours, HERE)] {
            bars.push(Bar {
                below: load.into(),
                value: share,
                above: format!("{share:.2}"),
                style: Style::solid(color),
            });
        }
    }
    panel("hooked accesses", "% of all accesses to ports", bars)
}

/// The large download, by how the guest has the card.
fn by_card(measured: &[Measured<Load>], label: &str, value: fn(&Load) -> f64) -> Option<Panel> {
    let bars = (0..).zip(CARDS).filter_map(|(color, (card, _))| {
        let value = median(measured, card, "large", value)?;
        Some(Bar {
            below: card.into(),
            value,
            above: figure(value),
            style: Style::solid(color),
        })
    });
    panel("large download", label, bars.collect())
}

fn panel(title: &str, label: &str, bars: Vec<Bar>) -> Option<Panel> {
    (!bars.is_empty()).then(|| Panel {
        title: title.into(),
        up: Scale::from_zero(label, bars.iter().map(|bar| bar.value)),
        marks: Marks::Bars(String::new(), bars),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vpio::tests::measured;

    #[test]
    fn nothing_measured_draws_nothing() {
        let dir = tempfile::tempdir().unwrap();
        assert!(all(dir.path(), &[], &[]).unwrap().is_empty());
    }

    #[test]
    fn each_card_has_a_bar() {
        let loads: Vec<_> = CARDS
            .iter()
            .map(|(card, _)| measured(card, "large", 100))
            .collect();
        let chart = accesses(&loads).unwrap();
        let bars: Vec<_> = chart
            .panels
            .iter()
            .map(|panel| match &panel.marks {
                Marks::Bars(_, bars) => bars.len(),
                Marks::Lines(..) => 0,
            })
            .collect();
        // Two of the shares, and one of each card.
        assert_eq!(bars, [2, CARDS.len(), CARDS.len()]);
    }
}
