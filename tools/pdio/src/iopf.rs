// SPDX-License-Identifier: GPL-2.0

//! What devices that fault cost, and how they use memory: questions to `iopf-bench`, which runs in the
//! guest and answers by [`Figure`]s.

pub mod plot;
pub mod table;

use anyhow::{Context, Result};
use clap::ValueEnum;
use iopf_bench::figure::Figure;
use serde::{Deserialize, Serialize};

use crate::measure::Clock;

/// The program and the interrupts of devices are on one CPU. Left alone, the interrupts go to one for one
/// session and to another for the next, and a program that has to be woken across CPUs is slower by up to a
/// third: more than the modes differ.
const ON_ONE_CPU: &str = "echo 1 >/proc/irq/default_smp_affinity && taskset -p 1 $$ >/dev/null";

/// What can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Question {
    /// What each mode costs, in faults, instructions, time and memory.
    Modes,
    /// How soon a device comes back to a page, in four loads.
    Locality,
    /// What is left of throughput when pages are missing, and late.
    Latency,
    /// What a translation cache on the device is worth, by size, ways and replacement.
    Cache,
    /// What is lost of a receive stream whose buffers are taken away.
    Loss,
}

impl Question {
    /// As the command line and the guest call it.
    pub fn name(self) -> String {
        self.to_possible_value()
            .map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// Whether its answer depends on the clock. The others count, or measure waits that the device
    /// makes, which are the same by either.
    fn depends_on_clock(self) -> bool {
        self == Self::Modes
    }
}

/// What is asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Questions {
    /// In this order.
    pub asked: Vec<Question>,
    /// How often each mode has its turn.
    pub rounds: u32,
    /// Whether seconds have to do.
    pub short: bool,
}

impl Questions {
    /// The guest's command for those that a clock answers, if there are any.
    pub fn command(&self, clock: Clock, first: Clock) -> Option<String> {
        let asked = self.asked.iter();
        let asked: Vec<_> = asked
            .filter(|question| clock == first || question.depends_on_clock())
            .map(|question| question.name())
            .collect();
        let short = if self.short { "--short " } else { "" };
        (!asked.is_empty()).then(|| {
            let rounds = self.rounds;
            format!(
                "{ON_ONE_CPU} && modprobe svadma && iopf-bench {short}--rounds {rounds} {}",
                asked.join(" ")
            )
        })
    }
}

/// A figure, and what it was measured by.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// `instructions` or `wall`: what a nanosecond of the guest is.
    pub clock: String,
    /// What executed the guest.
    pub accelerator: String,
    /// The figure.
    #[serde(flatten)]
    pub figure: Figure,
}

/// The figures that the guest has printed, a line each.
///
/// # Errors
///
/// A line is no figure, or there is none.
pub fn parse(text: &str) -> Result<Vec<Figure>> {
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    let figures: Vec<Figure> = lines
        .map(|line| {
            serde_json::from_str(line).with_context(|| format!("the guest's `{line}` is no figure"))
        })
        .collect::<Result<_>>()?;
    match figures.is_empty() {
        true => anyhow::bail!("the guest has measured nothing"),
        false => Ok(figures),
    }
}

/// All figures of a kind, by the same clock.
pub(crate) fn by_clock<'a, T: 'a>(
    measured: &'a [Measured],
    clock: &'a str,
    pick: impl Fn(&'a Figure) -> Option<&'a T> + 'a,
) -> impl Iterator<Item = &'a T> + 'a {
    measured
        .iter()
        .filter(move |it| it.clock == clock)
        .filter_map(move |it| pick(&it.figure))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use iopf_bench::figure::{Load, Pass};

    /// A plausible pass, for tests.
    pub(crate) fn pass(mode: &str, load: Load, round: u32) -> Pass {
        Pass {
            mode: mode.into(),
            load,
            round,
            accesses: 4,
            area_pages: 1024,
            used_pages: 1024,
            setup_ns: 0,
            setup_busy_ns: 0,
            elapsed_ns: 2_048_000,
            busy_ns: 1_024_000,
            groups: 8,
            requests: 8,
            mapped_pages: 1024,
            evicted_pages: 0,
            invalidations: 0,
            held_pages: 256,
            resident_pages: 1024,
        }
    }

    /// It, measured by a clock.
    pub(crate) fn measured(clock: &str, figure: Figure) -> Measured {
        Measured {
            clock: clock.into(),
            accelerator: "tcg".into(),
            figure,
        }
    }

    #[test]
    fn the_first_clock_answers_all_and_the_other_what_depends_on_it() {
        let questions = Questions {
            asked: vec![Question::Modes, Question::Loss],
            rounds: 2,
            short: true,
        };
        let first = Clock::Instructions;
        assert_eq!(
            questions.command(first, first).unwrap(),
            "echo 1 >/proc/irq/default_smp_affinity && taskset -p 1 $$ >/dev/null && \
             modprobe svadma && iopf-bench --short --rounds 2 modes loss"
        );
        let wall = questions.command(Clock::Wall, first).unwrap();
        assert!(wall.ends_with("--rounds 2 modes"), "{wall}");
        assert_eq!(Questions::default().command(first, first), None);
    }

    #[test]
    fn what_the_guest_prints_is_read_back() {
        let figure = Figure::Pass(pass("sva", Load::RandomAgain, 1));
        let line = serde_json::to_string(&figure).unwrap();
        assert_eq!(
            parse(&format!("{line}\n{line}\n")).unwrap(),
            [figure.clone(), figure.clone()]
        );
        assert!(parse("").is_err());
        assert!(parse("iopf-bench: no device\n").is_err());

        let kept = serde_json::to_string(&measured("wall", figure.clone())).unwrap();
        assert!(kept.contains("\"figure\":\"pass\"") && kept.contains("\"clock\":\"wall\""));
        let read: Measured = serde_json::from_str(&kept).unwrap();
        assert_eq!(read.figure, figure);
    }
}
