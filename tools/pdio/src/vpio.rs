// SPDX-License-Identifier: GPL-2.0

//! What it takes a guest to drive a network card, by the ways in which it can be given one: port
//! accesses, how many of them leave the guest, and how far that comes. `selftests/vpio/accesses.sh`
//! counts.

mod fields;
pub mod plot;
pub mod table;
pub mod turns;

use std::path::PathBuf;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use fields::Fields;
use table::CARDS;

/// What to measure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loads {
    /// How often.
    pub rounds: u32,
    /// How many times 64 KiB and 1 MiB the downloads are.
    pub scale: u32,
    /// How the guests have their card.
    pub cards: Vec<&'static str>,
    /// Whether two guests share a card as well.
    pub turns: bool,
    /// The file system of a machine that runs guests of its own.
    pub initrd: PathBuf,
}

impl Loads {
    /// All ways in which guests can have a card.
    pub fn all_cards() -> Vec<&'static str> {
        CARDS.map(|(card, _)| card).into()
    }

    /// How many steps that is, for a progress bar.
    pub fn steps(&self) -> usize {
        1 + self.rounds as usize * (1 + usize::from(self.turns))
    }

    /// The command of the machine that does it once.
    pub fn command(&self, suites: &str) -> String {
        let scale = self.scale;
        let cards = self.cards.join(" ");
        format!(
            "cd {suites}/vpio && PDIO_TEST_SCALE={scale} PDIO_TEST_CARDS='{cards}' ./accesses.sh"
        )
    }
}

/// One load of a guest with one card.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Load {
    /// How the guest has the card: `emulated` by QEMU, by `passthrough` of a stock VFIO, or in a mode of
    /// vpio.
    pub card: String,
    /// What the guest does: `ping`, `ssh`, `small` or `large`, which are downloads.
    pub load: String,
    /// Frames of both directions.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Accesses to ports of the card that KVM has seen. It sees all but those that go through directly.
    pub accesses: u64,
    /// Exits of the CPU because of ports, of any device.
    pub exits: u64,
    /// Those that user space had to answer.
    pub user_exits: u64,
    /// Times that vpio's model was told of an access; none where there is no model.
    #[serde(default)]
    pub model_updates: Option<u64>,
    /// Milliseconds by the clock.
    pub ms: u64,
}

/// What guests have done, such as a [`Load`], and what it was measured by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measured<T> {
    /// From 1.
    pub round: u32,
    /// What executed the machine; its guests run on the virtualization that this one emulates or has.
    pub accelerator: String,
    /// What they have done.
    #[serde(flatten)]
    pub done: T,
}

impl<T> Measured<T> {
    /// All that was measured in a round.
    pub fn all(round: u32, accelerator: &str, done: Vec<T>) -> impl Iterator<Item = Self> {
        done.into_iter().map(move |done| Self {
            round,
            accelerator: accelerator.into(),
            done,
        })
    }
}

/// Why the machine has no guests, if so.
pub fn skipped(text: &str) -> Option<&str> {
    text.lines()
        .find_map(|line| line.strip_prefix("1..0 # SKIP "))
}

/// What a line begins with that tells of a load.
const MARK: &str = "accesses: ";

/// The loads that a test has printed among its results.
///
/// # Errors
///
/// A line is none, there is no load, or a case has failed.
pub fn parse(text: &str) -> Result<Vec<Load>> {
    fields::parse(text, MARK, load)
}

fn load(fields: &Fields<'_>) -> Result<Load> {
    Ok(Load {
        card: fields.text("card")?.into(),
        load: fields.text("load")?.into(),
        packets: fields.number("packets")?,
        bytes: fields.number("bytes")?,
        accesses: fields.number("accesses")?,
        exits: fields.number("exits")?,
        user_exits: fields.number("user_exits")?,
        model_updates: match fields.has("model_updates") {
            true => Some(fields.number("model_updates")?),
            false => None,
        },
        ms: fields.number("ms")?,
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A plausible load, for tests.
    pub(crate) fn measured(card: &str, load: &str, accesses: u64) -> Measured<Load> {
        Measured {
            round: 1,
            accelerator: "tcg".into(),
            done: Load {
                card: card.into(),
                load: load.into(),
                packets: 100,
                bytes: 100_000,
                accesses,
                exits: accesses + 7,
                user_exits: 7,
                model_updates: Some(accesses),
                ms: 500,
            },
        }
    }

    const LINE: &str = "accesses: card=hook load=ssh packets=12 bytes=900 accesses=340 exits=350 \
                        user_exits=10 ms=77";

    #[test]
    fn loads_are_found_among_results() {
        let text = format!("1..2\n# hook: ssh\n{LINE}\nok 1 hook: ssh\n# {LINE} model_updates=3\n");
        let loads = parse(&text).unwrap();
        assert_eq!(loads.len(), 2);
        assert_eq!((loads[0].packets, loads[0].model_updates), (12, None));
        assert_eq!((loads[1].ms, loads[1].model_updates), (77, Some(3)));
    }

    #[test]
    fn a_machine_without_guests_says_why() {
        let text = "KTAP version 1\n1..0 # SKIP the CPU has no SVM\n";
        assert_eq!(skipped(text), Some("the CPU has no SVM"));
        assert_eq!(skipped(LINE), None);
    }

    #[test]
    fn what_is_no_load_is_an_error() {
        assert!(parse("1..0\n").is_err());
        assert!(parse(&format!("{LINE}\nnot ok 1 hook: ssh\n")).is_err());
        assert!(parse(&LINE.replace("ms=77", "")).is_err());
        assert!(parse(&LINE.replace("=340", "=many")).is_err());
    }

    #[test]
    fn what_is_kept_is_read_back() {
        let one = measured("direct", "large", 12);
        let text = serde_json::to_string(&one).unwrap();
        assert!(text.contains("\"card\":\"direct\""));
        assert_eq!(serde_json::from_str::<Measured<Load>>(&text).unwrap(), one);
    }
}
