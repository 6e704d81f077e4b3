// SPDX-License-Identifier: GPL-2.0

//! What the models are given, and what must hold after it.

use super::random::{Fickle, Holes, Random};
use crate::model::access::Access;
use crate::model::card::Card;
use crate::model::device::{Attention, DeviceModel, Reuse, Verdict};
use crate::model::dma::{Channel, Channels, Direction, GuestMemory, OnDenied};
use crate::model::frame::{Address, Frame};
use crate::model::ne2000::arrivals::{Arrivals, Buffer, Others};
use crate::model::ne2000::context::{self, Received};
use crate::model::ne2000::held_frames::HeldFrames;
use crate::model::ne2000::register::{DATA, RESETS};
use crate::model::ne2000::{Ne2000, Quirks};
use crate::model::ports::PortSet;
use crate::model::rtl8139::context::Context;
use crate::model::rtl8139::register::{Descriptor, FORBIDDEN};
use crate::model::rtl8139::{Pinning, Rtl8139};

/// One event in so many is not an access of the guest.
const OTHERS: u64 = 64;
/// One of those in so many moves the card, which takes as long as thousands of accesses.
const MOVES: u64 = 512;

/// Something to compare runs by.
#[derive(Default)]
struct Digest(u64);

impl Digest {
    #[inline]
    fn add(&mut self, value: impl Into<u64>) {
        self.0 = (self.0.rotate_left(5) ^ value.into()).wrapping_mul(0x517c_c1b7_2722_0a95);
    }
}

/// An access of a guest that knows which ports there are, and mostly how wide.
#[inline]
fn access(random: &mut Random, ports: u8) -> Access {
    loop {
        let bytes = match random.next() >> 60 {
            0 => 4,
            1 => 2,
            _ => 1,
        };

        if let Some(access) = Access::new(random.byte() & ports, bytes) {
            return access;
        }
    }
}

/// The guest's access, as far as the model hears of it. Answers what has begun and what is over.
#[inline]
fn deliver<M: DeviceModel>(
    model: &mut M,
    access: Access,
    random: &mut Random,
    card: &mut Fickle,
    digest: &mut Digest,
) -> (Verdict, Channels) {
    let value = random.dword() & access.width().mask();
    let is_hooked = access.meets(model.hooked());

    if value & 1 == 0 {
        let value = card.read(access);

        if is_hooked {
            digest.add(model.read(access, value, card));
        }
        return (Verdict::Allow, Channels::NONE);
    }

    let verdict = if is_hooked {
        model.check(access, value, &Holes)
    } else {
        Verdict::Allow
    };
    let mut over = Channels::NONE;

    if verdict.allows() {
        card.write(access, value);
        if is_hooked {
            over = model.wrote(access, value, verdict, card);
        }
    }
    if let Verdict::Start(dma) = verdict {
        assert!(Holes.contains(dma.span), "DMA outside of memory");
        assert_ne!(dma.span.len, 0);
        assert_eq!(
            dma.direction == Direction::ToMemory,
            dma.channel == Channel::Receive
        );
        assert!(!over.contains(dma.channel), "over before it began");
        digest.add(dma.span.start);
    }
    (verdict, over)
}

/// Bytes for frames that are held.
const HELD: usize = 4000;

/// The other guests, which hold what they get, and what is held for the one that has the card.
struct Rest<'a> {
    /// Which destinations are wanted.
    taste: u8,
    theirs: HeldFrames<&'a mut [u8]>,
    own: HeldFrames<&'a mut [u8]>,
}

impl Others for Rest<'_> {
    fn want(&self, destination: Address) -> bool {
        destination.0[0] & 7 > self.taste & 7
    }

    fn receive(&mut self, frame: &Frame<'_>) {
        self.theirs.hold(frame);
    }

    fn hold_own(&self) -> bool {
        !self.own.is_empty()
    }

    fn receive_own(&mut self, frame: &Frame<'_>) {
        self.own.hold(frame);
    }
}

/// What must hold of what was found in a ring.
fn found(arrivals: Arrivals, digest: &mut Digest) {
    let Arrivals {
        frames,
        for_others,
        hidden,
        ..
    } = arrivals;

    assert!(frames <= 64 && for_others <= frames && hidden <= frames);
    digest.add(frames << 16 | for_others << 8 | hidden);
}

/// Events for the NE2000. Answers a number that is the same if all was the same.
///
/// # Panics
///
/// If something does not hold that must.
pub fn ne2000(events: u64, seed: u64) -> u64 {
    let mut random = Random::new(seed);
    let mut card = Fickle::new(seed ^ 0x6e65_3230_3030);
    let mut digest = Digest::default();
    let mut context = context::Context::new([[0; 2]; 16]);
    let mut model = Ne2000::new(Quirks {
        page_2_is_readable: false,
        stop_raises_rst: false,
        prom_is_writable: false,
    });
    let bytes = [0xff; 1514];
    let (mut theirs, mut own) = ([0; HELD], [0; HELD]);
    let mut rest = Rest {
        taste: 0,
        theirs: HeldFrames::new(&mut theirs),
        own: HeldFrames::new(&mut own),
    };
    let mut buffer = Buffer::new();

    for event in 0..events {
        if random.next() % OTHERS != 0 {
            let access = access(&mut random, 0x1f);
            let (verdict, over) = deliver(&mut model, access, &mut random, &mut card, &mut digest);

            assert!(!matches!(verdict, Verdict::Start(_)) && over.is_empty());
        } else if random.next() % MOVES != 0 {
            match random.next() & 15 {
                0 => model.attend(Attention::Relaxed, &mut card),
                4 => model.quiet(&mut card),
                1 => model.attend(Attention::Close, &mut card),
                5 => model.share(&mut card),
                6 => digest.add(u64::from(model.unshare(&mut card).is_ok())),
                7..=9 => {
                    rest.taste = random.byte();
                    // Busy is an answer, too.
                    if let Ok(arrivals) = model.share_out(&mut rest, &mut buffer, &mut card) {
                        found(arrivals, &mut digest);
                    }
                }
                10 => {
                    let full = random.byte();
                    let delivered = rest.theirs.deliver(|frame| {
                        if frame.destination().0[0] < full {
                            Received::Full
                        } else {
                            context.receive(frame)
                        }
                    });

                    digest.add(u64::from(delivered));
                    digest.add(rest.theirs.lost());
                }
                11 => {
                    if let Some(frame) = Frame::new(&bytes[..6 + usize::from(random.byte())]) {
                        rest.own.hold(&frame);
                    }
                }
                12 => rest.own.clear(),
                2 => digest.add(u64::from(model.owes_interrupt())),
                _ => digest.add(u64::from(model.reuse(&mut card) == Reuse::Now)),
            }
        } else if random.next() & 3 != 0 {
            // As if the guest had left anything in its registers.
            let registers = &mut context.registers;

            registers.page_start = random.byte();
            registers.page_stop = random.byte();
            registers.current = random.byte();
            registers.boundary = random.byte();
            registers.receive_config = random.byte();
            registers.command = random.byte();
            registers.pending = random.byte();
            if let Some(frame) = Frame::new(&bytes[..6 + usize::from(random.byte())]) {
                digest.add(u64::from(context.receive(&frame) == Received::Stored));
            }
            model.restore(&context, &mut card);
        } else {
            // Busy is an answer, too.
            if model.save(&mut context, &mut card).is_err() && random.next() & 1 != 0 {
                assert!(model.seize(&mut context, &mut card).is_empty());
            }
            found(context.share_out(&mut rest, &mut buffer), &mut digest);
            model = Ne2000::new(Quirks {
                page_2_is_readable: random.next() & 1 != 0,
                stop_raises_rst: false,
                prom_is_writable: random.next() & 1 != 0,
            });
            model.restore(&context, &mut card);
        }

        let hooked = model.hooked();

        assert!(hooked.difference(Ne2000::PORTS).is_empty(), "{event}");
        assert!(!hooked.intersects(PortSet::span(DATA, DATA + 7)), "{event}");
        assert!(hooked.intersects(RESETS), "{event}");
    }
    digest.0
}

/// Events for the RTL8139. Answers a number that is the same if all was the same.
///
/// # Panics
///
/// If something does not hold that must.
pub fn rtl8139(events: u64, seed: u64) -> u64 {
    let mut random = Random::new(seed);
    let mut card = Fickle::new(seed ^ 0x7238_3133_3900);
    let mut digest = Digest::default();
    let mut context = Context::new([0; 2]);
    let mut model = Rtl8139::new(Pinning::Transfer, OnDenied::Ignore);
    // What the guest has pinned.
    let mut pinned = Channels::NONE;

    for event in 0..events {
        if random.next() % OTHERS != 0 {
            let mut access = access(&mut random, 0xff);

            // Most ports are of no interest: prefer those that are, at their width.
            match random.next() & 15 {
                0..=2 => access = Access::dword(0x10 | random.byte() & 0x0c),
                3..=5 => access = Access::dword(0x20 | random.byte() & 0x0c),
                6 => access = Access::dword(0x30),
                7 | 8 => access = Access::byte(0x37),
                9 => access = Access::dword(0x44),
                10 => access = Access::word(0x3c | random.byte() & 2),
                _ => (),
            }

            let was_pinned = pinned;
            let (verdict, over) = deliver(&mut model, access, &mut random, &mut card, &mut digest);

            assert!(
                !access.ports().intersects(FORBIDDEN) || !matches!(verdict, Verdict::Start(_)),
                "{event}"
            );
            for channel in Channel::ALL {
                if over.contains(channel) {
                    assert!(
                        was_pinned.contains(channel),
                        "{event}: {channel:?} twice over"
                    );
                    pinned = pinned.without(channel);
                }
            }
            if let Verdict::Start(dma) = verdict {
                pinned = pinned.with(dma.channel);
            }
        } else {
            match random.next() & 15 {
                0 => model.set_on_denied(OnDenied::MachineCheck),
                1 => model.set_on_denied(OnDenied::Ignore),
                2 => model.attend(Attention::Close, &mut card),
                3 => {
                    let over = match model.save(&mut context, &mut card) {
                        Ok(over) => Some(over),
                        Err(_) if random.next() & 1 != 0 => {
                            Some(model.seize(&mut context, &mut card))
                        }
                        Err(_) => None,
                    };

                    if let Some(over) = over {
                        for channel in Channel::ALL {
                            assert!(
                                !over.contains(channel) || pinned.contains(channel),
                                "{event}: {channel:?} was not pinned"
                            );
                        }

                        let pinning = Pinning::ALL[usize::from(random.byte() & 1)];

                        // The guest is gone, and all that was pinned for it.
                        pinned = Channels::NONE;
                        model = Rtl8139::new(pinning, OnDenied::Ignore);
                        model.restore(&context, &mut card);
                    }
                }
                4 => digest.add(u64::from(model.owes_interrupt())),
                5 => model.quiet(&mut card),
                _ => {
                    let over = model.interrupt(&mut card);

                    for channel in Channel::ALL {
                        if over.contains(channel) {
                            assert!(pinned.contains(channel), "{event}: {channel:?} twice over");
                            pinned = pinned.without(channel);
                        }
                    }
                }
            }
        }

        // What the device may touch is pinned.
        assert_eq!(
            model.receiving().is_some(),
            pinned.contains(Channel::Receive),
            "{event}"
        );
        for descriptor in Descriptor::ALL {
            if let Some(dma) = model.sending(descriptor) {
                assert!(pinned.contains(dma.channel), "{event}: {dma:?}");
                assert!(Holes.contains(dma.span), "{event}: {dma:?}");
            }
        }
        assert!(
            FORBIDDEN.difference(model.hooked()).is_empty(),
            "{event}: forbidden ports are hooked"
        );
    }
    digest.0
}
