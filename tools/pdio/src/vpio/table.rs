// SPDX-License-Identifier: GPL-2.0

//! What it takes a guest to drive a card, as text.

use std::fmt::Write;

use super::{Load, Measured};
use crate::stats::Summary;
use crate::table::{Grid, NONE, figure};

/// The ways in which a guest can be given a card, with what an access comes to.
pub(crate) const CARDS: [(&str, &str); 6] = [
    ("emulated", "QEMU's own card: an exit to QEMU"),
    (
        "passthrough",
        "the whole card by a stock VFIO: an exit to QEMU, and to the card",
    ),
    ("trap", "vpio: an exit to QEMU, and to vpio"),
    ("hook", "vpio: an exit"),
    (
        "direct",
        "vpio: an exit if the model has to hear of it, otherwise none",
    ),
    ("open", "the whole card, every port, and no model: no exit"),
];

/// In which all accesses come to KVM, so that they can be counted.
const COUNTED: &str = "hook";
/// In which those come to KVM of which the model has to hear.
const DIRECT: &str = "direct";

/// A load, its name, and what the paper's table has of it: accesses of Linux to the ports of an NE2000, and
/// how many of these were hooked (*Towards Virtual Passthrough I/O on Commodity Devices*, WIOV 2008).
type Named = (&'static str, &'static str, Option<(u64, u64)>);

/// The loads.
pub(crate) const LOADS: [Named; 4] = [
    ("ping", "ping, 50 times", None),
    ("ssh", "ssh session", Some((1_865_055, 257_324))),
    ("small", "small download", Some((2_602_002, 69_700))),
    ("large", "large download", Some((294_508_810, 9_429_917))),
];

/// The loads of one card, over the rounds.
fn summary(
    measured: &[Measured<Load>],
    card: &str,
    load: &str,
    value: impl Fn(&Load) -> f64,
) -> Option<Summary> {
    let of = measured.iter().map(|it| &it.done);
    Summary::of(
        of.filter(|it| it.card == card && it.load == load)
            .map(value),
    )
}

/// The middle of a value over the rounds.
pub(crate) fn median(
    measured: &[Measured<Load>],
    card: &str,
    load: &str,
    value: impl Fn(&Load) -> f64,
) -> Option<f64> {
    summary(measured, card, load, value).map(|summary| summary.median)
}

/// Accesses to the card that KVM sees, for each frame.
fn accesses(load: &Load) -> f64 {
    load.accesses as f64 / load.packets as f64
}

/// Exits because of ports, for each frame.
pub(crate) fn exits(load: &Load) -> f64 {
    load.exits as f64 / load.packets as f64
}

fn user_exits(load: &Load) -> f64 {
    load.user_exits as f64 / load.packets as f64
}

/// Kilobytes a second.
pub(crate) fn throughput(load: &Load) -> f64 {
    load.bytes as f64 / load.ms.max(1) as f64
}

/// The accesses of which the model has to hear, in percent of all that the same load takes.
pub(crate) fn hooked_share(measured: &[Measured<Load>], load: &str) -> Option<f64> {
    let all = median(measured, COUNTED, load, accesses)?;
    let hooked = median(measured, DIRECT, load, accesses)?;
    (all > 0.0).then(|| 100.0 * hooked / all)
}

/// The paper's share, in percent.
pub(crate) fn paper_share((all, hooked): (u64, u64)) -> f64 {
    100.0 * hooked as f64 / all as f64
}

/// Everything that was measured; nothing if nothing was.
pub fn report(measured: &[Measured<Load>]) -> String {
    let mut out = String::new();
    if measured.is_empty() {
        return out;
    }
    let _ = writeln!(out, "What it takes a guest to drive an NE2000\n");
    shares(&mut out, measured);
    loads(&mut out, measured);
    let width = CARDS.iter().map(|card| card.0.len()).max().unwrap_or(0);
    for (card, words) in CARDS {
        if measured.iter().any(|it| it.done.card == card) {
            let _ = writeln!(out, "{card:<width$}  {words}");
        }
    }
    let _ = writeln!(
        out,
        "\nExits are those because of ports of any device. Times are by the clock: only their ratios \
         mean anything.\n"
    );
    out
}

/// The paper's table, beside ours.
fn shares(out: &mut String, measured: &[Measured<Load>]) {
    let mut grid = Grid::new(&[
        "accesses to ports",
        "in all, per frame",
        "hooked, per frame",
        "hooked %",
        "paper: in all",
        "hooked",
        "hooked %",
    ]);
    let cell = |value: Option<f64>| value.map_or(NONE.into(), figure);
    let mut rows = 0;
    for (load, name, paper) in LOADS {
        let Some(share) = hooked_share(measured, load) else {
            continue;
        };
        rows += 1;
        grid.row(vec![
            name.into(),
            cell(median(measured, COUNTED, load, accesses)),
            cell(median(measured, DIRECT, load, accesses)),
            format!("{share:.2}"),
            cell(paper.map(|(all, _)| all as f64)),
            cell(paper.map(|(_, hooked)| hooked as f64)),
            paper.map_or(NONE.into(), |paper| format!("{:.2}", paper_share(paper))),
        ]);
    }
    if rows > 0 {
        *out += &grid.render();
        out.push('\n');
    }
}

fn loads(out: &mut String, measured: &[Measured<Load>]) {
    for (load, name, _) in LOADS {
        let mut grid = Grid::new(&[
            name,
            "frames",
            "accesses/frame",
            "exits/frame",
            "to QEMU",
            "model updates",
            "ms",
            "kB/s",
            "± %",
            "× emulated",
        ]);
        let base = median(measured, "emulated", load, throughput);
        let mut rows = 0;
        for (card, _) in CARDS {
            let Some(rate) = summary(measured, card, load, throughput) else {
                continue;
            };
            let cell = |value: fn(&Load) -> f64| {
                median(measured, card, load, value).map_or(NONE.into(), figure)
            };
            let has_model = measured
                .iter()
                .any(|it| it.done.card == card && it.done.model_updates.is_some());
            rows += 1;
            grid.row(vec![
                card.into(),
                cell(|it| it.packets as f64),
                cell(accesses),
                cell(exits),
                cell(user_exits),
                match has_model {
                    true => cell(|it| it.model_updates.unwrap_or(0) as f64),
                    false => NONE.into(),
                },
                cell(|it| it.ms as f64),
                figure(rate.median),
                format!("{:.0}", rate.spread() * 100.0),
                base.map_or(NONE.into(), |base| format!("{:.2}", rate.median / base)),
            ]);
        }
        if rows > 0 {
            *out += &grid.render();
            out.push('\n');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vpio::tests::measured;

    #[test]
    fn nothing_measured_says_nothing() {
        assert_eq!(report(&[]), "");
    }

    #[test]
    fn the_share_is_of_what_is_counted_elsewhere() {
        let both = [
            measured("hook", "ssh", 4_000),
            measured("direct", "ssh", 40),
        ];
        assert_eq!(hooked_share(&both, "ssh"), Some(1.0));
        assert_eq!(hooked_share(&both[1..], "ssh"), None);
        let text = report(&both);
        assert!(
            text.contains("13.80") && text.contains("1,865,055"),
            "{text}"
        );
        assert!(text.contains("ssh session"), "{text}");
    }

    #[test]
    fn the_papers_shares_are_as_printed() {
        let shares: Vec<_> = LOADS
            .iter()
            .filter_map(|(_, _, paper)| paper.map(|paper| format!("{:.2}", paper_share(paper))))
            .collect();
        assert_eq!(shares, ["13.80", "2.68", "3.20"]);
    }
}
