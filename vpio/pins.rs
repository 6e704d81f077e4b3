// SPDX-License-Identifier: GPL-2.0

//! Which pages of its guest a card can reach.
//!
//! A page is pinned as long as some channel of the card may touch it: pages of a guest belong to several
//! channels at once, for its driver has its buffers one behind the other. So each page has the set of the
//! channels that it is held for. It is pinned for the first of them, and no more after the last.
//!
//! What a write of the guest would start is *tried* first: its pages are pinned before it is known whether
//! the write may reach the card, for that depends on it. Then it is started, or given up. A channel keeps
//! what it had until the write that starts something else has reached the card.
//!
//! Nothing here knows a kernel or an IOMMU: [`Reach`] does what is decided.

#![deny(
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unreachable,
    clippy::unwrap_used
)]

use core::{
    marker::PhantomData,
    ops::{
        DerefMut,
        RangeInclusive, //
    }, //
};

use super::model::dma::{
    Channel,
    Channels,
    Span, //
};

/// How many pages suffice: an RTL8139 has a ring in 18 pages at most and four frames in 3 each, and while
/// its ring is moved, two of them.
pub const PAGES_MAX: usize = 64;

/// The way of a card to the memory of its guest.
pub trait Reach {
    /// That a page is pinned, until this is dropped.
    type Pin;
    /// Why one cannot be.
    type Error;

    /// Pins a page and lets the card read and write it.
    ///
    /// # Errors
    ///
    /// It cannot be; nothing has changed.
    fn grant(&mut self, page: u64) -> Result<Self::Pin, Self::Error>;

    /// Takes pages from the card, which reaches none of them any more when this returns. They are
    /// unpinned then.
    fn revoke(&mut self, pages: impl Iterator<Item = u64>);
}

/// Why memory cannot be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal<E> {
    /// A page cannot be granted.
    Page(E),
    /// There would be more pages than there are slots.
    Full,
}

/// A page that is pinned.
struct Held<P> {
    page: u64,
    channels: Channels,
    /// Whether what is being tried needs it.
    is_tried: bool,
    _pin: P,
}

impl<P> Held<P> {
    /// Whether nobody needs it.
    fn is_idle(&self) -> bool {
        self.channels.is_empty() && !self.is_tried
    }
}

/// What can hold a page.
pub struct Slot<P>(Option<Held<P>>);

impl<P> Slot<P> {
    /// It does not.
    pub const EMPTY: Self = Self(None);
}

/// The pages that a card can reach, in slots that somebody has set aside.
pub struct Pins<P, S> {
    /// In no order.
    slots: S,
    _pins: PhantomData<P>,
}

impl<P, S: DerefMut<Target = [Slot<P>]>> Pins<P, S> {
    /// It reaches nothing. As many pages can be pinned as there are slots, all of which are empty.
    pub const fn new(slots: S) -> Self {
        Self {
            slots,
            _pins: PhantomData,
        }
    }

    /// All pages.
    fn held(&self) -> impl Iterator<Item = &Held<P>> {
        self.slots.iter().filter_map(|slot| slot.0.as_ref())
    }

    /// All pages, to change what they are held for.
    fn held_mut(&mut self) -> impl Iterator<Item = &mut Held<P>> {
        self.slots.iter_mut().filter_map(|slot| slot.0.as_mut())
    }

    /// The number of pages that are pinned.
    pub fn len(&self) -> usize {
        self.held().count()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The pages that a channel can reach, in no order.
    pub fn of(&self, channel: Channel) -> impl Iterator<Item = u64> + use<'_, P, S> {
        self.held()
            .filter(move |held| held.channels.contains(channel))
            .map(|held| held.page)
    }

    /// Lets the card reach memory that a write may need, until that is started or given up. What was tried
    /// before is given up.
    ///
    /// # Errors
    ///
    /// Some of it cannot be reached; nothing is tried any more.
    pub fn attempt<R: Reach<Pin = P>>(
        &mut self,
        span: Span,
        reach: &mut R,
    ) -> Result<(), Refusal<R::Error>> {
        let (first, count) = span.pages();

        self.give_up(reach);
        for page in (0..count).map(|index| first.saturating_add(index)) {
            if let Err(refusal) = self.attempt_page(page, reach) {
                self.give_up(reach);
                return Err(refusal);
            }
        }
        Ok(())
    }

    /// One page of that.
    fn attempt_page<R: Reach<Pin = P>>(
        &mut self,
        page: u64,
        reach: &mut R,
    ) -> Result<(), Refusal<R::Error>> {
        let mut free = None;

        for slot in self.slots.iter_mut() {
            match &mut slot.0 {
                Some(held) if held.page == page => {
                    held.is_tried = true;
                    return Ok(());
                }
                Some(_) => (),
                None => free = Some(slot),
            }
        }

        let slot = free.ok_or(Refusal::Full)?;

        slot.0 = Some(Held {
            page,
            channels: Channels::NONE,
            is_tried: true,
            _pin: reach.grant(page).map_err(Refusal::Page)?,
        });
        Ok(())
    }

    /// What was tried has reached the card, and is what the channel does from now on.
    pub fn start(&mut self, channel: Channel, reach: &mut impl Reach<Pin = P>) {
        for held in self.held_mut() {
            held.channels = match held.is_tried {
                true => held.channels.with(channel),
                false => held.channels.without(channel),
            };
            held.is_tried = false;
        }
        self.let_go(reach);
    }

    /// What was tried does not reach the card.
    pub fn give_up(&mut self, reach: &mut impl Reach<Pin = P>) {
        for held in self.held_mut() {
            held.is_tried = false;
        }
        self.let_go(reach);
    }

    /// What these channels did is over.
    pub fn end(&mut self, over: Channels, reach: &mut impl Reach<Pin = P>) {
        if over.is_empty() {
            return;
        }
        for held in self.held_mut() {
            for channel in Channel::ALL.into_iter().filter(|&it| over.contains(it)) {
                held.channels = held.channels.without(channel);
            }
        }
        self.let_go(reach);
    }

    /// The guest has these pages no more, whatever the card does there. Answers how many it could have
    /// reached.
    pub fn withdraw(
        &mut self,
        pages: RangeInclusive<u64>,
        reach: &mut impl Reach<Pin = P>,
    ) -> usize {
        let before = self.len();

        for held in self.held_mut() {
            if pages.contains(&held.page) {
                held.channels = Channels::NONE;
                held.is_tried = false;
            }
        }
        self.let_go(reach);
        before.saturating_sub(self.len())
    }

    /// The card does nothing any more.
    pub fn clear(&mut self, reach: &mut impl Reach<Pin = P>) {
        self.withdraw(0..=u64::MAX, reach);
    }

    /// Takes from the card what nobody needs.
    fn let_go(&mut self, reach: &mut impl Reach<Pin = P>) {
        let mut idle = self.held().filter(|held| held.is_idle()).peekable();

        if idle.peek().is_none() {
            return;
        }
        reach.revoke(idle.map(|held| held.page));
        // From here on the card does not reach them.
        for slot in self.slots.iter_mut() {
            slot.0.take_if(|held| held.is_idle());
        }
    }
}
