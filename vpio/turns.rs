// SPDX-License-Identifier: GPL-2.0

//! Whose turn it is to have the card.
//!
//! The guests of a card have it one after the other, in the order of their slots: those that want it,
//! each for a slice of time. A guest keeps it for as long as nobody else wants it. One that has had its
//! slice is followed closely, and left in the next state in which the card can change hands; from one
//! that comes to none for too long, the card is taken in the middle of what it does.
//!
//! Nothing here knows a clock, a lock or a card: whoever holds the lock of the card tells what
//! happens and what time it is, in microseconds of any clock that does not go back, and does what is
//! decided.

#![deny(
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unreachable,
    clippy::unwrap_used
)]

use super::{
    model::device::{
        Reuse,
        QUIET_US, //
    },
    tunable::{
        Range,
        Tunable, //
    },
};

/// Microseconds for which the end of a transfer is waited for, once the slice is over: the longest
/// frame goes through the data port in less, 16 bits at a time and 1 us each.
const TRANSFER_US: u64 = 1_000;

/// How much longer than its patience an owner is waited for that does not run: the virtual CPUs of a
/// busy host stand still in the middle of anything.
pub const STANDSTILL: u64 = 4;

/// How long guests have the card, and how long they are waited for.
pub struct Pace {
    /// Microseconds that a guest has the card if another wants it.
    pub slice_us: Tunable,
    /// Microseconds that it may run after that until it comes to a state in which the card can change
    /// hands; [`STANDSTILL`] times that by the clock.
    pub patience_us: Tunable,
}

impl Pace {
    /// A hand-over takes 1 to 2 ms with the card's RAM, so less than 1 ms would be spent on little else;
    /// 2 ms starved a TCP transfer, whose guest was left before it had read what had come. With more
    /// than a second, protocols of the guests time out.
    pub const SLICE_US: Range = Range {
        min: 1_000,
        max: 1_000_000,
        step: 1,
        default: 20_000,
    };

    /// At least so long that a guest without frames can be known to be in the middle of nothing
    /// ([`QUIET_US`] of its own time). Linux's driver needs less than 1 ms for all it does, but for the
    /// 10 ms for which it waits after an overrun. With a slice before it, and by the clock, this is
    /// less than the 200 ms (`TX_TIMEOUT` of `8390.h`) after which the driver of another guest, which
    /// waits, gives up on its card.
    pub const PATIENCE_US: Range = Range {
        min: 2_000,
        max: 10_000_000,
        step: 1,
        default: 25_000,
    };

    /// The defaults.
    pub const fn new() -> Self {
        Self {
            slice_us: Tunable::new(Self::SLICE_US),
            patience_us: Tunable::new(Self::PATIENCE_US),
        }
    }
}

impl Default for Pace {
    fn default() -> Self {
        Self::new()
    }
}

/// A guest, by its place among those that can be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot(usize);

impl Slot {
    /// A number below that of the guests that can be there.
    #[inline]
    pub const fn index(self) -> usize {
        self.0
    }
}

/// What a guest has had of the card.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// How often it was given the card.
    pub turns: u64,
    /// Microseconds for which it had it, without the present turn.
    pub owned_us: u64,
    /// The longest time in microseconds from wanting the card to having it.
    pub longest_wait_us: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Presence {
    Absent,
    /// Wants nothing, or has the card.
    Content,
    /// Wants the card since then.
    Waiting {
        since_us: u64,
    },
}

#[derive(Clone, Copy, Debug)]
struct Guest {
    presence: Presence,
    share: Share,
}

impl Guest {
    const ABSENT: Self = Self {
        presence: Presence::Absent,
        share: Share {
            turns: 0,
            owned_us: 0,
            longest_wait_us: 0,
        },
    };
}

#[derive(Clone, Copy, Debug)]
struct Turn {
    slot: Slot,
    since_us: u64,
    /// Whether the owner needs the card no longer.
    is_over: bool,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The owner keeps the card and need not be followed. Ask again at that time, and when somebody
    /// wants the card; without a time, only then.
    Keep {
        /// When, at the latest.
        again_us: Option<u64>,
    },
    /// The owner's turn is over: it is to be followed closely. Ask again at that time, and after each
    /// of its hooked accesses.
    Follow {
        /// When, at the latest.
        again_us: u64,
    },
    /// The card can change hands: save what belongs to the owner, if there is one, and give it to this
    /// guest.
    HandOver {
        /// The next owner.
        to: Slot,
    },
    /// The owner had its time. Take the card in the middle of what it does, and give it to this
    /// guest.
    TakeAway {
        /// The next owner.
        to: Slot,
    },
}

/// The turns of up to `N` guests.
#[derive(Debug)]
pub struct Turns<const N: usize> {
    guests: [Guest; N],
    turn: Option<Turn>,
    /// The slot of the last owner: the next one comes after it.
    last: usize,
}

impl<const N: usize> Turns<N> {
    /// Nobody is there.
    pub const fn new() -> Self {
        Self {
            guests: [Guest::ABSENT; N],
            turn: None,
            last: 0,
        }
    }

    fn guest(&mut self, slot: Slot) -> Option<&mut Guest> {
        self.guests
            .get_mut(slot.0)
            .filter(|guest| guest.presence != Presence::Absent)
    }

    /// A guest arrives.
    ///
    /// [`None`]: there are `N` already.
    pub fn arrive(&mut self) -> Option<Slot> {
        let (index, guest) = self
            .guests
            .iter_mut()
            .enumerate()
            .find(|(_, guest)| guest.presence == Presence::Absent)?;

        *guest = Guest {
            presence: Presence::Content,
            ..Guest::ABSENT
        };
        Some(Slot(index))
    }

    /// A guest leaves. If it had the card, nobody has it now: it is to be reset before it is given to
    /// anyone.
    pub fn leave(&mut self, slot: Slot) {
        if self.owner() == Some(slot) {
            self.turn = None;
        }
        if let Some(guest) = self.guest(slot) {
            *guest = Guest::ABSENT;
        }
    }

    /// A guest wants the card: one of its accesses waits, or frames wait for it, or it would hear of
    /// frames that the owner's card does not receive. The owner has it already.
    pub fn want(&mut self, slot: Slot, now_us: u64) {
        if self.owner() == Some(slot) {
            return;
        }
        if let Some(guest) = self.guest(slot) {
            if guest.presence == Presence::Content {
                guest.presence = Presence::Waiting { since_us: now_us };
            }
        }
    }

    /// The owner is known to do nothing with the card at present: if others want it, its slice ends
    /// now.
    pub fn rest(&mut self) {
        if let Some(turn) = &mut self.turn {
            turn.is_over = true;
        }
    }

    /// Who has the card.
    pub fn owner(&self) -> Option<Slot> {
        self.turn.map(|turn| turn.slot)
    }

    /// Number of guests.
    pub fn guests(&self) -> usize {
        self.guests
            .iter()
            .filter(|guest| guest.presence != Presence::Absent)
            .count()
    }

    /// What a guest has had of the card. [`None`]: it is not there.
    pub fn share(&self, slot: Slot) -> Option<Share> {
        self.guests
            .get(slot.0)
            .filter(|guest| guest.presence != Presence::Absent)
            .map(|guest| guest.share)
    }

    /// Who is next, and since when somebody has been waiting.
    fn next(&self) -> Option<(Slot, u64)> {
        let waiting = |(index, guest): (usize, &Guest)| match guest.presence {
            Presence::Waiting { since_us } => Some((Slot(index), since_us)),
            Presence::Absent | Presence::Content => None,
        };
        let slots = || self.guests.iter().enumerate().filter_map(waiting);
        let (first, _) = slots()
            .find(|(slot, _)| slot.0 > self.last)
            .or_else(|| slots().next())?;

        Some((first, slots().map(|(_, since_us)| since_us).min()?))
    }

    /// What is to be done now. `ran_us` is for how long the owner has run since it was first to be
    /// [followed](Decision::Follow) in this turn; 0 before that. `reuse` says whether the owner's card
    /// can change hands, and is asked only if that is needed:
    /// [`DeviceModel::reuse`](super::model::device::DeviceModel::reuse).
    ///
    /// Nothing has changed by that: see [`Self::given`].
    pub fn decide(
        &self,
        pace: &Pace,
        now_us: u64,
        ran_us: u64,
        reuse: impl FnOnce() -> Reuse,
    ) -> Decision {
        let Some((to, wanted_us)) = self.next() else {
            return Decision::Keep { again_us: None };
        };
        let Some(turn) = self.turn else {
            return Decision::HandOver { to };
        };

        // Both are some time of this clock, and a tunable.
        let end_us = if turn.is_over {
            wanted_us.max(turn.since_us)
        } else {
            wanted_us.max(turn.since_us.saturating_add(pace.slice_us.get()))
        };

        if now_us < end_us {
            return Decision::Keep {
                again_us: Some(end_us),
            };
        }

        let over_us = now_us.saturating_sub(end_us);
        let patience_us = pace.patience_us.get();
        let standstill_us = patience_us.saturating_mul(STANDSTILL);
        let is_late = over_us >= standstill_us || ran_us >= patience_us;

        match reuse() {
            Reuse::Now => Decision::HandOver { to },
            Reuse::MidTransfer if over_us >= TRANSFER_US => Decision::HandOver { to },
            Reuse::Busy(_) if is_late => Decision::TakeAway { to },
            Reuse::MidTransfer | Reuse::Busy(_) => Decision::Follow {
                again_us: now_us
                    .saturating_add(QUIET_US.into())
                    .min(end_us.saturating_add(standstill_us)),
            },
        }
    }

    /// A guest was given the card, and its turn begins.
    pub fn given(&mut self, to: Slot, now_us: u64) {
        if let Some(turn) = self.turn.take() {
            if let Some(guest) = self.guest(turn.slot) {
                let owned_us = now_us.saturating_sub(turn.since_us);

                guest.share.owned_us = guest.share.owned_us.saturating_add(owned_us);
            }
        }

        let Some(guest) = self.guest(to) else {
            return;
        };

        if let Presence::Waiting { since_us } = guest.presence {
            let waited_us = now_us.saturating_sub(since_us);

            guest.share.longest_wait_us = guest.share.longest_wait_us.max(waited_us);
        }
        guest.presence = Presence::Content;
        guest.share.turns = guest.share.turns.saturating_add(1);
        self.last = to.0;
        self.turn = Some(Turn {
            slot: to,
            since_us: now_us,
            is_over: false,
        });
    }
}

impl<const N: usize> Default for Turns<N> {
    fn default() -> Self {
        Self::new()
    }
}
