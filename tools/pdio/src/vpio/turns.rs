// SPDX-License-Identifier: GPL-2.0

//! How guests share a card: who had it how often, and how far each has come. `selftests/vpio/share.sh`
//! counts.

use std::fmt::Write;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::Measured;
use super::fields::{self, Fields};
use crate::chart::{Chart, Marks, Panel, Scale, Style};
use crate::plot::Point;
use crate::stats::Summary;
use crate::table::{Grid, NONE, figure};

/// What a guest had of a card that it shares with another one, both of which receive all the time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Turns {
    /// How long a guest has the card if the other one wants it, in microseconds.
    pub slice_us: u64,
    /// `a` or `b`.
    pub guest: String,
    /// How often it was given the card.
    pub switches: u64,
    /// Of frames of both directions that its driver has counted.
    pub bytes: u64,
    /// Milliseconds by the clock.
    pub ms: u64,
}

/// The command of the machine that measures once.
pub fn command(suites: &str) -> String {
    format!("cd {suites}/vpio && ./share.sh turns")
}

/// What a line begins with that tells of turns.
const MARK: &str = "turns: ";

/// What a test has printed among its results.
///
/// # Errors
///
/// A line is none, there is none, or a case has failed.
pub fn parse(text: &str) -> Result<Vec<Turns>> {
    fields::parse(text, MARK, turns)
}

fn turns(fields: &Fields<'_>) -> Result<Turns> {
    Ok(Turns {
        slice_us: fields.number("slice_us")?,
        guest: fields.text("guest")?.into(),
        switches: fields.number("switches")?,
        bytes: fields.number("bytes")?,
        ms: fields.number("ms")?,
    })
}

const GUESTS: [&str; 2] = ["a", "b"];

/// The slices that were tried, from the shortest on.
fn slices(measured: &[Measured<Turns>]) -> Vec<u64> {
    let mut slices: Vec<u64> = measured.iter().map(|it| it.done.slice_us).collect();
    slices.sort_unstable();
    slices.dedup();
    slices
}

/// A value of a guest with a slice, over the rounds.
fn of(
    measured: &[Measured<Turns>],
    slice_us: u64,
    guest: &str,
    value: fn(&Turns) -> f64,
) -> Option<Summary> {
    let of = measured.iter().map(|it| &it.done);
    Summary::of(
        of.filter(|it| it.slice_us == slice_us && it.guest == guest)
            .map(value),
    )
}

/// Kilobytes a second.
fn throughput(turns: &Turns) -> f64 {
    turns.bytes as f64 / turns.ms.max(1) as f64
}

/// Times a second that the card was given to the guest.
fn rate(turns: &Turns) -> f64 {
    1_000.0 * turns.switches as f64 / turns.ms.max(1) as f64
}

/// Everything that was measured; nothing if nothing was.
pub fn report(measured: &[Measured<Turns>]) -> String {
    let mut out = String::new();
    if measured.is_empty() {
        return out;
    }
    let _ = writeln!(
        out,
        "Two guests share an NE2000, and receive all the time\n"
    );
    let mut grid = Grid::new(&[
        "slice ms",
        "guest",
        "turns",
        "turns/s",
        "bytes",
        "kB/s",
        "± %",
        "% of both",
    ]);
    for slice_us in slices(measured) {
        let both: f64 = GUESTS
            .iter()
            .filter_map(|guest| Some(of(measured, slice_us, guest, throughput)?.median))
            .sum();
        for guest in GUESTS {
            let Some(speed) = of(measured, slice_us, guest, throughput) else {
                continue;
            };
            let cell = |value| {
                of(measured, slice_us, guest, value).map_or(NONE.into(), |it| figure(it.median))
            };
            grid.row(vec![
                figure(slice_us as f64 / 1_000.0),
                guest.into(),
                cell(|it| it.switches as f64),
                cell(rate),
                cell(|it| it.bytes as f64),
                figure(speed.median),
                format!("{:.0}", speed.spread() * 100.0),
                match both > 0.0 {
                    true => format!("{:.0}", 100.0 * speed.median / both),
                    false => NONE.into(),
                },
            ]);
        }
    }
    out += &grid.render();
    out.push('\n');
    out
}

/// A picture of it; none if nothing was measured.
pub(super) fn chart(measured: &[Measured<Turns>]) -> Option<Chart> {
    let accelerator = &measured.first()?.accelerator;
    let panels = [
        (
            "each guest, by the clock",
            "kB/s",
            throughput as fn(&Turns) -> f64,
        ),
        ("how often each had the card", "turns a second", rate),
    ];
    let slices = slices(measured);
    let ticks: Vec<f64> = slices.iter().map(|us| *us as f64 / 1_000.0).collect();
    let panels = panels.map(|(title, label, value)| {
        let line = |guest| -> Vec<Point> {
            slices
                .iter()
                .filter_map(|us| {
                    Some((
                        *us as f64 / 1_000.0,
                        of(measured, *us, guest, value)?.median,
                    ))
                })
                .collect()
        };
        let lines = GUESTS.map(line);
        let values = lines.iter().flatten().map(|(_, value)| *value);
        Panel {
            title: title.into(),
            up: Scale::from_zero(label, values),
            marks: Marks::Lines(
                Scale::factors("slice, ms", ticks.clone()),
                (0..).map(Style::solid).zip(lines).collect(),
            ),
        }
    });
    Some(Chart {
        title: "Two guests share an NE2000, and receive all the time",
        note: format!("guests in a guest (QEMU, {accelerator}), mode direct"),
        legend: (0..)
            .map(Style::solid)
            .zip(GUESTS.map(|guest| format!("guest {guest}")))
            .collect(),
        columns: 2,
        panels: panels.into(),
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Plausible turns, for tests.
    pub(crate) fn measured(slice_us: u64, guest: &str, bytes: u64) -> Measured<Turns> {
        Measured {
            round: 1,
            accelerator: "tcg".into(),
            done: Turns {
                slice_us,
                guest: guest.into(),
                switches: 40,
                bytes,
                ms: 4_000,
            },
        }
    }

    const LINE: &str = "turns: slice_us=5000 guest=b switches=41 bytes=90000 ms=4100";

    #[test]
    fn turns_are_found_among_results() {
        let all = parse(&format!("1..1\n{LINE}\n# 4100 ms\nok 1 turns\n")).unwrap();
        assert_eq!(all.len(), 1);
        assert_eq!((all[0].slice_us, all[0].guest.as_str()), (5_000, "b"));
        assert_eq!(
            (all[0].switches, all[0].bytes, all[0].ms),
            (41, 90_000, 4_100)
        );
    }

    #[test]
    fn what_is_no_turns_is_an_error() {
        assert!(parse("1..0\n").is_err());
        assert!(parse(&format!("{LINE}\nnot ok 1 turns\n")).is_err());
        assert!(parse(&LINE.replace("ms=4100", "")).is_err());
    }

    #[test]
    fn shares_add_up() {
        assert_eq!(report(&[]), "");
        let both = [
            measured(5_000, "a", 300_000),
            measured(5_000, "b", 100_000),
            measured(20_000, "a", 1),
        ];
        let text = report(&both);
        let shares: Vec<&str> = text
            .lines()
            .filter(|line| line.contains(" 40.00 "))
            .filter_map(|line| line.split_whitespace().last())
            .collect();
        assert_eq!(shares, ["75", "25", "100"], "{text}");
        assert_eq!(slices(&both), [5_000, 20_000]);
        assert_eq!(chart(&both).unwrap().panels.len(), 2);
        assert!(chart(&[]).is_none());
    }
}
