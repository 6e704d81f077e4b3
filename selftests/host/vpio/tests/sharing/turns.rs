// SPDX-License-Identifier: GPL-2.0

//! Whose turn it is.

use proptest::prelude::*;
use vpio_host::model::device::{Busy, Reuse, QUIET_US};
use vpio_host::tunable::OutOfRange;
use vpio_host::turns::{Decision, Pace, Slot, Turns, STANDSTILL};

const SLICE_US: u64 = Pace::SLICE_US.default;
const PATIENCE_US: u64 = Pace::PATIENCE_US.default;
/// The same by the clock.
const STANDSTILL_US: u64 = STANDSTILL * PATIENCE_US;

const BUSY: Reuse = Reuse::Busy(Busy::Transaction);

/// With guests in all slots, of which the first has the card since 0.
fn turns() -> (Turns<3>, [Slot; 3]) {
    let mut turns = Turns::new();
    let slots = std::array::from_fn(|_| turns.arrive().unwrap());

    turns.given(slots[0], 0);
    (turns, slots)
}

fn unasked() -> Reuse {
    panic!("nobody has to know");
}

#[test]
fn the_card_stays_where_nobody_else_wants_it() {
    let (mut turns, [first, ..]) = turns();

    turns.want(first, 5);
    turns.rest();
    for now_us in [0, SLICE_US, u64::MAX] {
        assert_eq!(
            turns.decide(&Pace::new(), now_us, 0, unasked),
            Decision::Keep { again_us: None }
        );
    }
}

#[test]
fn whoever_comes_first_has_it_at_once() {
    let mut turns = Turns::<2>::new();
    let slot = turns.arrive().unwrap();

    assert_eq!(
        turns.decide(&Pace::new(), 0, 0, unasked),
        Decision::Keep { again_us: None }
    );
    turns.want(slot, 7);
    assert_eq!(
        turns.decide(&Pace::new(), 7, 0, unasked),
        Decision::HandOver { to: slot }
    );
    turns.given(slot, 7);
    assert_eq!(turns.owner(), Some(slot));
}

#[test]
fn a_slice_is_the_owners() {
    let (mut turns, [_, second, _]) = turns();
    let pace = Pace::new();

    turns.want(second, 100);
    assert_eq!(
        turns.decide(&pace, 100, 0, unasked),
        Decision::Keep {
            again_us: Some(SLICE_US)
        }
    );
    assert_eq!(
        turns.decide(&pace, SLICE_US, 0, || BUSY),
        Decision::Follow {
            again_us: SLICE_US + u64::from(QUIET_US)
        }
    );
    assert_eq!(
        turns.decide(&pace, SLICE_US, 0, || Reuse::Now),
        Decision::HandOver { to: second }
    );

    pace.slice_us.set(5_000).unwrap();
    assert_eq!(
        turns.decide(&pace, 5_000, 0, || Reuse::Now),
        Decision::HandOver { to: second }
    );
}

#[test]
fn a_slice_ends_when_the_owner_rests() {
    let (mut turns, [first, second, _]) = turns();

    turns.want(second, 100);
    turns.rest();
    assert_eq!(
        turns.decide(&Pace::new(), 100, 0, || Reuse::Now),
        Decision::HandOver { to: second }
    );
    turns.given(second, 200);
    // That was the rest of another.
    turns.want(first, 200);
    assert_eq!(
        turns.decide(&Pace::new(), 200, 0, unasked),
        Decision::Keep {
            again_us: Some(200 + SLICE_US)
        }
    );
}

#[test]
fn an_owner_has_time_to_end_what_it_does() {
    let (mut turns, [_, second, _]) = turns();
    let pace = Pace::new();
    // The owner had the card for itself for long.
    let wanted_us = 10 * SLICE_US;

    turns.want(second, wanted_us);
    for (over_us, ran_us, reuse, expected) in [
        (0, 0, Reuse::MidTransfer, None),
        (999, 0, Reuse::MidTransfer, None),
        (
            1_000,
            0,
            Reuse::MidTransfer,
            Some(Decision::HandOver { to: second }),
        ),
        (1_000, 1_000, BUSY, None),
        // One that does not run cannot come to an end.
        (STANDSTILL_US - 1, PATIENCE_US - 1, BUSY, None),
        (
            PATIENCE_US,
            PATIENCE_US,
            BUSY,
            Some(Decision::TakeAway { to: second }),
        ),
        (
            STANDSTILL_US,
            0,
            BUSY,
            Some(Decision::TakeAway { to: second }),
        ),
        (
            STANDSTILL_US,
            PATIENCE_US,
            Reuse::MidTransfer,
            Some(Decision::HandOver { to: second }),
        ),
        (
            STANDSTILL_US,
            PATIENCE_US,
            Reuse::Now,
            Some(Decision::HandOver { to: second }),
        ),
        (
            u64::MAX - wanted_us,
            0,
            BUSY,
            Some(Decision::TakeAway { to: second }),
        ),
    ] {
        let now_us = wanted_us + over_us;
        let decision = turns.decide(&pace, now_us, ran_us, || reuse);

        match expected {
            Some(expected) => assert_eq!(decision, expected, "{over_us} {ran_us} {reuse:?}"),
            None => assert_eq!(
                decision,
                Decision::Follow {
                    again_us: (now_us + u64::from(QUIET_US)).min(wanted_us + STANDSTILL_US)
                },
                "{over_us} {ran_us} {reuse:?}"
            ),
        }
    }
}

#[test]
fn slots_are_for_those_who_are_there() {
    let (mut turns, [first, second, third]) = turns();

    assert_eq!(turns.arrive(), None);
    assert_eq!(turns.guests(), 3);
    turns.want(second, 1);
    turns.leave(second);
    turns.leave(first);
    assert_eq!((turns.owner(), turns.guests()), (None, 1));
    assert_eq!(turns.share(first), None);

    // What those who left want counts no more, nor can they have it.
    turns.want(second, 2);
    turns.given(second, 2);
    assert_eq!(turns.owner(), None);
    assert_eq!(
        turns.decide(&Pace::new(), 3, 0, unasked),
        Decision::Keep { again_us: None }
    );
    turns.want(third, 3);
    assert_eq!(
        turns.decide(&Pace::new(), 3, 0, unasked),
        Decision::HandOver { to: third }
    );
    assert_eq!(turns.arrive(), Some(first));
    assert_eq!(turns.share(first).map(|share| share.turns), Some(0));
}

#[test]
fn what_a_guest_has_had_is_counted() {
    let (mut turns, [first, second, _]) = turns();

    turns.want(second, 10);
    turns.given(second, 100);
    turns.want(first, 110);
    turns.given(first, 500);

    let (first, second) = (turns.share(first).unwrap(), turns.share(second).unwrap());

    assert_eq!(
        (first.turns, first.owned_us, first.longest_wait_us),
        (2, 100, 390)
    );
    assert_eq!(
        (second.turns, second.owned_us, second.longest_wait_us),
        (1, 400, 90)
    );
}

#[test]
fn the_pace_has_limits() {
    let pace = Pace::new();

    for (tunable, range) in [
        (&pace.slice_us, Pace::SLICE_US),
        (&pace.patience_us, Pace::PATIENCE_US),
    ] {
        assert_eq!(tunable.get(), range.default);
        assert_eq!(tunable.set(range.min - 1), Err(OutOfRange));
        assert_eq!(tunable.set(range.max + 1), Err(OutOfRange));
        assert_eq!(tunable.set(range.min), Ok(()));
        assert_eq!(tunable.set(range.max), Ok(()));
    }
}

/// What happens to a card and its guests.
#[derive(Clone, Debug)]
enum Event {
    Arrive,
    Leave(usize),
    Want(usize),
    Rest,
    Wait(u64),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        2 => Just(Event::Arrive),
        1 => (0usize..4).prop_map(Event::Leave),
        8 => (0usize..4).prop_map(Event::Want),
        1 => Just(Event::Rest),
        8 => (0u64..3 * SLICE_US).prop_map(Event::Wait),
    ]
}

/// How the owner answers.
fn reuse() -> impl Strategy<Value = Reuse> {
    prop_oneof![4 => Just(Reuse::Now), 1 => Just(Reuse::MidTransfer), 2 => Just(BUSY)]
}

proptest! {
    /// If all want the card always, each has had it as often as the others, and for as long.
    #[test]
    fn it_is_fair(
        owners in prop::collection::vec((reuse(), any::<bool>(), 0..2 * PATIENCE_US), 1..200),
        step_us in 100u64..5_000,
    ) {
        let mut turns = Turns::<4>::new();
        let slots: [Slot; 4] = std::array::from_fn(|_| turns.arrive().unwrap());
        let pace = Pace::new();
        let mut now_us = 0;

        for (reuse, rests, ran_us) in owners {
            for slot in slots {
                turns.want(slot, now_us);
            }
            if rests {
                turns.rest();
            }
            // Until it has changed hands.
            let to = loop {
                match turns.decide(&pace, now_us, ran_us, || reuse) {
                    Decision::HandOver { to } | Decision::TakeAway { to } => break to,
                    Decision::Keep { .. } | Decision::Follow { .. } => now_us += step_us,
                }
            };

            prop_assert_ne!(turns.owner(), Some(to));
            turns.given(to, now_us);

            let counts = slots.map(|slot| turns.share(slot).unwrap().turns);

            prop_assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1, "{counts:?}");
        }
    }

    /// Whatever happens, somebody who wants the card gets it after a slice and a standstill for each
    /// of the others, if those who have to decide do not oversleep.
    #[test]
    fn nobody_waits_for_ever(
        events in prop::collection::vec((event(), reuse(), 0..2 * PATIENCE_US), 1..200),
    ) {
        let mut turns = Turns::<4>::new();
        let mut slots: [Option<Slot>; 4] = [None; 4];
        let mut waiting: [Option<u64>; 4] = [None; 4];
        let pace = Pace::new();
        let bound_us = 3 * (SLICE_US + STANDSTILL_US + u64::from(QUIET_US));
        let mut now_us: u64 = 0;

        for (event, reuse, ran_us) in events {
            let mut until_us = now_us;

            match event {
                Event::Arrive => {
                    if let Some(slot) = turns.arrive() {
                        prop_assert!(slots[slot.index()].replace(slot).is_none());
                    }
                }
                Event::Leave(index) => {
                    if let Some(slot) = slots[index].take() {
                        turns.leave(slot);
                        waiting[index] = None;
                        prop_assert_ne!(turns.owner(), Some(slot));
                    }
                }
                Event::Want(index) => {
                    if let Some(slot) = slots[index].filter(|&slot| turns.owner() != Some(slot)) {
                        turns.want(slot, now_us);
                        waiting[index].get_or_insert(now_us);
                    }
                }
                Event::Rest => turns.rest(),
                Event::Wait(us) => until_us += us,
            }
            loop {
                let others_wait = waiting.iter().any(Option::is_some);
                let owner = turns.owner();

                match turns.decide(&pace, now_us, ran_us, || reuse) {
                    Decision::Keep { again_us: Some(at) } | Decision::Follow { again_us: at } => {
                        prop_assert!(others_wait && at > now_us);
                        if at > until_us {
                            break;
                        }
                        now_us = at;
                    }
                    Decision::Keep { again_us: None } => {
                        prop_assert!(!others_wait);
                        break;
                    }
                    Decision::HandOver { to } | Decision::TakeAway { to } => {
                        // Nobody has it for nothing, or gets what it has.
                        let since_us = waiting[to.index()].take();

                        prop_assert!(since_us.is_some() && owner != Some(to));
                        prop_assert!(slots[to.index()].is_some());
                        prop_assert!(now_us - since_us.unwrap() <= bound_us);
                        turns.given(to, now_us);
                        prop_assert_eq!(turns.owner(), Some(to));
                    }
                }
            }
            now_us = now_us.max(until_us);
            for since_us in waiting.into_iter().flatten() {
                prop_assert!(now_us - since_us <= bound_us);
            }
        }
    }

    /// The card does not go to and fro within a slice, unless its owner rests.
    #[test]
    fn it_does_not_flap(steps_us in prop::collection::vec(0u64..SLICE_US, 1..300)) {
        let mut turns = Turns::<2>::new();
        let slots: [Slot; 2] = std::array::from_fn(|_| turns.arrive().unwrap());
        let pace = Pace::new();
        let mut now_us = 0;
        let mut since_us: Option<u64> = None;

        for step_us in steps_us {
            now_us += step_us;
            for slot in slots {
                turns.want(slot, now_us);
            }
            if let Decision::HandOver { to } = turns.decide(&pace, now_us, 0, || Reuse::Now) {
                prop_assert!(since_us.is_none_or(|since_us| now_us - since_us >= SLICE_US));
                turns.given(to, now_us);
                since_us = Some(now_us);
            }
        }
    }
}
