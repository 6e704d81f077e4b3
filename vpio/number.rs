// SPDX-License-Identifier: GPL-2.0

//! The guests of a card, by number.

/// How many guests a card can have: with four of them each waits for three slices, 60 ms by default, for
/// its turn, and timers of TCP begin at 200 ms. All of them together have the ring of the card, which is
/// 12 KiB, for what comes meanwhile.
pub(crate) const GUESTS_MAX: usize = 4;

/// The number of a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Number {
    /// The first.
    First,
    /// The second.
    Second,
    /// The third.
    Third,
    /// The fourth.
    Fourth,
}

impl Number {
    /// All of them.
    pub(crate) const ALL: [Self; GUESTS_MAX] =
        [Self::First, Self::Second, Self::Third, Self::Fourth];

    /// From 0 on.
    pub(crate) const fn get(self) -> u8 {
        match self {
            Self::First => 0,
            Self::Second => 1,
            Self::Third => 2,
            Self::Fourth => 3,
        }
    }
}

/// Something for each guest that there can be.
#[derive(Clone, Default)]
pub(crate) struct PerGuest<T>([T; GUESTS_MAX]);

impl<T> PerGuest<T> {
    /// What `each` makes.
    pub(crate) const fn new(all: [T; GUESTS_MAX]) -> Self {
        Self(all)
    }

    /// That of one guest.
    #[inline]
    pub(crate) const fn get(&self, number: Number) -> &T {
        let [first, second, third, fourth] = &self.0;

        match number {
            Number::First => first,
            Number::Second => second,
            Number::Third => third,
            Number::Fourth => fourth,
        }
    }

    /// That of one guest, to change.
    #[inline]
    pub(crate) const fn get_mut(&mut self, number: Number) -> &mut T {
        let [first, second, third, fourth] = &mut self.0;

        match number {
            Number::First => first,
            Number::Second => second,
            Number::Third => third,
            Number::Fourth => fourth,
        }
    }

    /// All of them, to change.
    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.0.iter_mut()
    }

    /// All of them, with their numbers.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Number, &T)> {
        Number::ALL.into_iter().zip(&self.0)
    }
}
