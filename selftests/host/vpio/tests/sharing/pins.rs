// SPDX-License-Identifier: GPL-2.0

//! Which pages a card can reach.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use proptest::prelude::*;
use vpio_host::model::dma::{Channel, Channels, Span};
use vpio_host::pins::{Pins, Reach, Refusal, Slot, PAGES_MAX};

const PAGE: u64 = 4096;

/// What is pinned and what is mapped.
#[derive(Default)]
struct State {
    pinned: BTreeSet<u64>,
    mapped: BTreeSet<u64>,
    flushes: u32,
}

/// A page that is pinned.
struct Pin {
    page: u64,
    state: Rc<RefCell<State>>,
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut state = self.state.borrow_mut();

        assert!(
            !state.mapped.contains(&self.page),
            "unpinned while the card reaches it"
        );
        assert!(state.pinned.remove(&self.page), "unpinned twice");
    }
}

/// A guest with memory from page 0 to [`Self::last`].
struct Host {
    state: Rc<RefCell<State>>,
    last: u64,
}

impl Host {
    fn new(last: u64) -> Self {
        Self {
            state: Rc::default(),
            last,
        }
    }

    /// What the card reaches, all of which has to be pinned.
    fn reached(&self) -> BTreeSet<u64> {
        let state = self.state.borrow();

        assert_eq!(state.pinned, state.mapped);
        state.mapped.clone()
    }

    fn flushes(&self) -> u32 {
        self.state.borrow().flushes
    }
}

/// It is beyond the guest's memory.
#[derive(Debug, PartialEq, Eq)]
struct Beyond;

impl Reach for Host {
    type Pin = Pin;
    type Error = Beyond;

    fn grant(&mut self, page: u64) -> Result<Pin, Beyond> {
        if page > self.last {
            return Err(Beyond);
        }

        let mut state = self.state.borrow_mut();

        assert!(state.pinned.insert(page), "pinned twice");
        assert!(state.mapped.insert(page), "mapped twice");
        Ok(Pin {
            page,
            state: self.state.clone(),
        })
    }

    fn revoke(&mut self, pages: impl Iterator<Item = u64>) {
        let mut state = self.state.borrow_mut();

        for page in pages {
            assert!(state.mapped.remove(&page), "taken twice");
        }
        state.flushes += 1;
    }
}

fn pins() -> Pins<Pin, Vec<Slot<Pin>>> {
    Pins::new((0..PAGES_MAX).map(|_| Slot::EMPTY).collect())
}

fn span(start: u64, len: u32) -> Span {
    Span { start, len }
}

fn channels(all: &[Channel]) -> Channels {
    all.iter()
        .fold(Channels::NONE, |set, &channel| set.with(channel))
}

#[test]
fn a_frame_is_pinned_until_it_is_sent() {
    let mut host = Host::new(100);
    let mut pins = pins();

    pins.attempt(span(5 * PAGE - 1, 2), &mut host).unwrap();
    pins.start(Channel::Transmit0, &mut host);
    assert_eq!(host.reached(), BTreeSet::from([4, 5]));
    assert_eq!(pins.len(), 2);

    pins.end(channels(&[Channel::Transmit1]), &mut host);
    assert_eq!(pins.len(), 2);
    pins.end(channels(&[Channel::Transmit0]), &mut host);
    assert!(pins.is_empty());
    assert_eq!(host.reached(), BTreeSet::new());
    assert_eq!(host.flushes(), 1, "one for all pages of a frame");
}

#[test]
fn a_page_of_two_frames_stays_until_both_are_sent() {
    let mut host = Host::new(100);
    let mut pins = pins();

    for (channel, start) in [(Channel::Transmit0, 0), (Channel::Transmit1, 1536)] {
        pins.attempt(span(start, 1514), &mut host).unwrap();
        pins.start(channel, &mut host);
    }
    assert_eq!(pins.len(), 1);
    pins.end(channels(&[Channel::Transmit0]), &mut host);
    assert_eq!(host.reached(), BTreeSet::from([0]));
    pins.end(channels(&[Channel::Transmit1]), &mut host);
    assert_eq!(host.reached(), BTreeSet::new());
}

#[test]
fn what_a_channel_did_stays_until_it_does_something_else() {
    let mut host = Host::new(100);
    let mut pins = pins();

    pins.attempt(span(0, 2 * 4096), &mut host).unwrap();
    pins.start(Channel::Receive, &mut host);
    pins.attempt(span(PAGE, 2 * 4096), &mut host).unwrap();
    // The card may still write to the old ring.
    assert_eq!(host.reached(), BTreeSet::from([0, 1, 2]));
    pins.start(Channel::Receive, &mut host);
    assert_eq!(host.reached(), BTreeSet::from([1, 2]));
    assert_eq!(
        pins.of(Channel::Receive).collect::<BTreeSet<_>>(),
        BTreeSet::from([1, 2])
    );
    pins.clear(&mut host);
}

#[test]
fn what_is_given_up_is_let_go() {
    let mut host = Host::new(100);
    let mut pins = pins();

    pins.attempt(span(0, 4096), &mut host).unwrap();
    pins.start(Channel::Transmit2, &mut host);
    pins.attempt(span(0, 3 * 4096), &mut host).unwrap();
    pins.give_up(&mut host);
    assert_eq!(host.reached(), BTreeSet::from([0]));
    // So is what is tried twice.
    pins.attempt(span(7 * PAGE, 4096), &mut host).unwrap();
    pins.attempt(span(9 * PAGE, 4096), &mut host).unwrap();
    assert_eq!(host.reached(), BTreeSet::from([0, 9]));
    pins.clear(&mut host);
}

#[test]
fn what_is_not_the_guests_leaves_nothing_behind() {
    let mut host = Host::new(1);
    let mut pins = pins();

    assert_eq!(
        pins.attempt(span(0, 3 * 4096), &mut host),
        Err(Refusal::Page(Beyond))
    );
    assert_eq!(host.reached(), BTreeSet::new());
    assert_eq!(pins.attempt(span(PAGE, 0), &mut host), Ok(()));
    assert!(pins.is_empty());
    assert_eq!(
        pins.attempt(span(u64::MAX, 4096), &mut host),
        Err(Refusal::Page(Beyond))
    );
}

#[test]
fn there_is_an_end_to_it() {
    let mut host = Host::new(u64::MAX);
    let mut pins = pins();
    let all = PAGES_MAX as u32 * 4096;

    assert_eq!(
        pins.attempt(span(0, all + 1), &mut host),
        Err(Refusal::Full)
    );
    assert!(pins.is_empty());
    pins.attempt(span(0, all), &mut host).unwrap();
    pins.start(Channel::Receive, &mut host);
    assert_eq!(pins.len(), PAGES_MAX);
    assert_eq!(
        pins.attempt(span(PAGE * PAGES_MAX as u64, 1), &mut host),
        Err(Refusal::Full)
    );
    assert_eq!(pins.len(), PAGES_MAX);
    pins.clear(&mut host);
    assert_eq!(host.reached(), BTreeSet::new());
}

#[test]
fn the_largest_rings_and_frames_fit() {
    let mut host = Host::new(u64::MAX);
    let mut pins = pins();
    let ring = |start| span(start + PAGE - 1, 0x1_0000 + 16 + 2048);

    pins.attempt(ring(0), &mut host).unwrap();
    pins.start(Channel::Receive, &mut host);
    for (start, channel) in [
        (1 << 24, Channel::Transmit0),
        (2 << 24, Channel::Transmit1),
        (3 << 24, Channel::Transmit2),
        (4 << 24, Channel::Transmit3),
    ] {
        pins.attempt(span(start + PAGE - 1, 0x1fff), &mut host)
            .unwrap();
        pins.start(channel, &mut host);
    }
    // While the ring is moved.
    pins.attempt(ring(5 << 24), &mut host).unwrap();
    pins.clear(&mut host);
}

#[test]
fn withdrawn_memory_is_unpinned_at_once() {
    let mut host = Host::new(100);
    let mut pins = pins();

    pins.attempt(span(0, 4 * 4096), &mut host).unwrap();
    pins.start(Channel::Receive, &mut host);
    assert_eq!(pins.withdraw(1..=2, &mut host), 2);
    assert_eq!(host.reached(), BTreeSet::from([0, 3]));
    assert_eq!(pins.withdraw(1..=2, &mut host), 0);
    pins.end(channels(&[Channel::Receive]), &mut host);
    assert_eq!(host.reached(), BTreeSet::new());
}

/// Something that a guest, or user space, does.
#[derive(Clone, Debug)]
enum Event {
    Attempt(u64, u32),
    Start(usize),
    GiveUp,
    End(u8),
    Withdraw(u64, u64),
    Clear,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        8 => (0..40 * PAGE, 0..6 * 4096u32).prop_map(|(start, len)| Event::Attempt(start, len)),
        8 => (0..Channel::ALL.len()).prop_map(Event::Start),
        2 => Just(Event::GiveUp),
        4 => (0..32u8).prop_map(Event::End),
        1 => (0..40u64, 0..4u64).prop_map(|(first, more)| Event::Withdraw(first, first + more)),
        1 => Just(Event::Clear),
    ]
}

proptest! {
    /// The card reaches exactly what is tried or what a channel does, whatever happens.
    #[test]
    fn exactly_what_is_needed_is_pinned(events in prop::collection::vec(event(), 1..200)) {
        let mut host = Host::new(35);
        let mut pins = pins();
        let mut tried = BTreeSet::new();
        let mut held: BTreeMap<usize, BTreeSet<u64>> = BTreeMap::new();

        for event in events {
            match event {
                Event::Attempt(start, len) => {
                    let span = span(start, len);
                    let (first, count) = span.pages();
                    let pages: BTreeSet<_> = (first..first + count).collect();
                    let is_there = pages.iter().all(|&page| page <= 35);

                    prop_assert_eq!(pins.attempt(span, &mut host).is_ok(), is_there);
                    tried = if is_there { pages } else { BTreeSet::new() };
                }
                Event::Start(channel) => {
                    pins.start(Channel::ALL[channel], &mut host);
                    held.insert(channel, std::mem::take(&mut tried));
                }
                Event::GiveUp => {
                    pins.give_up(&mut host);
                    tried.clear();
                }
                Event::End(bits) => {
                    let over = (0..Channel::ALL.len()).filter(|channel| bits >> channel & 1 != 0);

                    for channel in over.clone() {
                        held.remove(&channel);
                    }

                    let over: Vec<_> = over.map(|channel| Channel::ALL[channel]).collect();

                    pins.end(channels(&over), &mut host);
                }
                Event::Withdraw(first, last) => {
                    pins.withdraw(first..=last, &mut host);
                    for pages in held.values_mut().chain([&mut tried]) {
                        pages.retain(|page| !(first..=last).contains(page));
                    }
                }
                Event::Clear => {
                    pins.clear(&mut host);
                    held.clear();
                    tried.clear();
                }
            }

            let needed: BTreeSet<_> = held.values().flatten().chain(&tried).copied().collect();

            prop_assert_eq!(pins.len(), needed.len());
            prop_assert_eq!(host.reached(), needed);
            for (index, channel) in Channel::ALL.into_iter().enumerate() {
                let pages: BTreeSet<_> = pins.of(channel).collect();

                prop_assert_eq!(pages, held.get(&index).cloned().unwrap_or_default());
            }
        }
        pins.clear(&mut host);
        prop_assert!(host.reached().is_empty());
    }
}
