// SPDX-License-Identifier: GPL-2.0

//! What an update of a model costs, over a card that costs nothing.
//!
//! An update is all that the model does for one access of the guest: whether it is hooked, the
//! verdict, and what follows from it. Beside it is what the same accesses cost without a model.
//! Compare the lines with each other; nanoseconds are those of this machine.
//!
//! With a number as argument, only so many updates are timed at once, and with a name, only that line.
//! So instructions can be counted: those that `valgrind --tool=callgrind` counts more for
//! `2000 'ne2000, relaxed'` than for `1000 'ne2000, relaxed'` are those of 9,000 updates.

use std::hint::black_box;
use std::time::Instant;

use vpio_host::model::access::Access;
use vpio_host::model::card::Card;
use vpio_host::model::device::{Attention, DeviceModel};
use vpio_host::model::dma::{GuestMemory, OnDenied, Span};
use vpio_host::model::ne2000::context::Context;
use vpio_host::model::ne2000::{Ne2000, Quirks};
use vpio_host::model::rtl8139::{Pinning, Rtl8139};

/// Updates that are timed at once.
const UPDATES: u32 = 1 << 20;
/// Of so many times the median is shown.
const ROUNDS: usize = 9;

/// A card whose ports are registers of the CPU.
struct Free(u32);

impl Card for Free {
    #[inline]
    fn read(&mut self, _: Access) -> u32 {
        self.0
    }

    #[inline]
    fn write(&mut self, _: Access, value: u32) {
        self.0 = value;
    }

    fn read_words(&mut self, _: u8, _: &mut [[u8; 2]]) {}

    fn write_words(&mut self, _: u8, _: &[[u8; 2]]) {}
}

/// Memory without holes.
struct Flat;

impl GuestMemory for Flat {
    #[inline]
    fn contains(&self, span: Span) -> bool {
        span.start + u64::from(span.len) <= 1 << 32
    }
}

/// An access: whether it is a write, where, and of what.
type Event = (bool, Access, u32);

const fn out(port: u8, value: u32) -> Event {
    (true, Access::byte(port), value)
}

const fn in8(port: u8) -> Event {
    (false, Access::byte(port), 0)
}

/// What 8390.c and ne2k-pci do for a small frame in each direction, but for the data.
const NE2000: &[Event] = &[
    out(0x0f, 0),
    out(0x00, 0x22),
    out(0x07, 0x40),
    out(0x0a, 60),
    out(0x0b, 0),
    out(0x08, 0),
    out(0x09, 0x40),
    out(0x00, 0x12),
    in8(0x07),
    out(0x07, 0x40),
    out(0x05, 60),
    out(0x06, 0),
    out(0x04, 0x40),
    out(0x00, 0x26),
    out(0x0f, 0x3f),
    out(0x00, 0x22),
    in8(0x07),
    in8(0x04),
    out(0x07, 0x02),
    out(0x00, 0x62),
    in8(0x07),
    out(0x00, 0x22),
    in8(0x03),
    out(0x0a, 64),
    out(0x0b, 0),
    out(0x08, 0),
    out(0x09, 0x4d),
    out(0x00, 0x0a),
    out(0x07, 0x40),
    out(0x03, 0x4c),
    out(0x07, 0x01),
];

/// What 8139too does for a frame in each direction.
const RTL8139: &[Event] = &[
    (true, Access::dword(0x10), 60),
    (false, Access::dword(0x10), 0),
    (false, Access::word(0x3e), 0),
    (true, Access::word(0x3e), 4),
    (false, Access::dword(0x10), 0),
    (true, Access::word(0x3c), 0),
    (false, Access::byte(0x37), 0),
    (true, Access::word(0x38), 0x1000),
    (true, Access::word(0x3e), 0x51),
];

/// How many updates the user wants to have timed at once.
fn updates() -> u32 {
    std::env::args()
        .find_map(|argument| argument.parse().ok())
        .unwrap_or(UPDATES)
}

/// Whether the user wants this line: there is no name, or this one.
fn is_wanted(name: &str) -> bool {
    let mut names = std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with('-') && argument.parse::<u32>().is_err())
        .peekable();

    names.peek().is_none() || names.any(|wanted| wanted == name)
}

/// The median time of an event.
fn time(name: &str, events: &[Event], mut update: impl FnMut(&Event)) {
    if !is_wanted(name) {
        return;
    }

    let mut rounds = [0.0; ROUNDS];
    let updates = updates();

    for round in &mut rounds {
        let start = Instant::now();

        for event in events.iter().cycle().take(updates as usize) {
            update(black_box(event));
        }
        *round = start.elapsed().as_secs_f64() * 1e9 / f64::from(updates);
    }
    rounds.sort_by(f64::total_cmp);
    println!(
        "{name:<40} {:6.1} ns ({:.1} to {:.1})",
        rounds[ROUNDS / 2],
        rounds[0],
        rounds[ROUNDS - 1]
    );
}

/// All that is done for one access of the guest.
#[inline]
fn update<M: DeviceModel>(model: &mut M, card: &mut Free, &(is_write, access, value): &Event) {
    if !access.meets(model.hooked()) {
        return;
    }
    if is_write {
        let verdict = model.check(access, value, &Flat);

        if verdict.allows() {
            card.write(access, value);
            black_box(model.wrote(access, value, verdict, card));
        }
    } else {
        let value = card.read(access);

        black_box(model.read(access, value, card));
    }
}

fn main() {
    let mut card = Free(0);

    time("no model", NE2000, |&(is_write, access, value)| {
        if is_write {
            card.write(access, value);
        } else {
            black_box(card.read(access));
        }
    });
    for (name, attention) in [
        ("ne2000, relaxed", Attention::Relaxed),
        ("ne2000, followed closely", Attention::Close),
    ] {
        let mut context = Context::new([[0; 2]; 16]);
        let mut model = Ne2000::new(Quirks {
            page_2_is_readable: false,
            stop_raises_rst: false,
            prom_is_writable: false,
        });

        context.registers.pending = 0;
        context.registers.command = 0x22;
        model.restore(&context, &mut card);
        model.attend(attention, &mut card);
        time(name, NE2000, |event| update(&mut model, &mut card, event));
    }
    for pinning in Pinning::ALL {
        let mut model = Rtl8139::new(pinning, OnDenied::Ignore);

        for event in [
            (true, Access::dword(0x20), 0x10_0000),
            (true, Access::dword(0x30), 0x20_0000),
            out(0x37, 0x0c),
        ] {
            update(&mut model, &mut card, &event);
        }
        time(
            &format!("rtl8139, pinned per {}", pinning.name()),
            RTL8139,
            |event| update(&mut model, &mut card, event),
        );
    }
}
