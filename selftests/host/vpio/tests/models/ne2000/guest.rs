// SPDX-License-Identifier: GPL-2.0

//! What drivers of an NE2000 do: anything that is legal, in any order.

use crate::model::access::Width;
use crate::model::ne2000::memory::Page;
use proptest::prelude::*;
use proptest::sample::select;

/// A receive ring, as the page registers have it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pages {
    pub(crate) start: u8,
    pub(crate) stop: u8,
    pub(crate) current: u8,
    pub(crate) boundary: u8,
}

/// A remote DMA.
#[derive(Clone, Debug)]
pub(crate) struct Transfer {
    pub(crate) address: u16,
    /// Bytes, a multiple of the width.
    pub(crate) count: u16,
    pub(crate) width: Width,
    /// Accesses after which the guest looks at other registers, and then goes on.
    pub(crate) pause: u16,
    /// Accesses after which it goes on no more.
    pub(crate) stop: u16,
}

/// What a guest does.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    Initialize {
        pages: Pages,
        mask: u8,
        is_started: bool,
    },
    Read(Transfer),
    Write(Transfer, u16),
    Send {
        page: u8,
        count: u16,
        /// Whether TPSR and TBCR stay as they are, after a first frame.
        again: bool,
        /// Looks at ISR before the frame is on the wire.
        looks: u8,
    },
    ReadState,
    Acknowledge(u8),
    Mask(u8),
    Filter(u8),
    Multicast([u8; 8]),
    Boundary(prop::sample::Index),
    Reset,
    /// A frame of so many bytes arrives.
    Frame(u16),
    Relax,
    /// Others share the card.
    Share,
    /// They do no longer.
    Unshare,
    /// After so many accesses, somebody looks at what has come.
    Look(u8),
    /// Somebody else wants the card, and has it for a moment. Meanwhile, so many frames arrive.
    HandOver {
        in_mid_transfer: bool,
        /// After the guest was quiet for long enough.
        is_quiet: bool,
        /// Accesses after that.
        delay: u8,
        frames: u8,
    },
}

/// A ring with room for some frames.
fn pages() -> impl Strategy<Value = Pages> {
    (0x40u8..=0x60, 0x10u8..=0x20, any::<prop::sample::Index>()).prop_map(|(start, len, at)| {
        let current = start + u8::try_from(at.index(len.into())).unwrap();

        Pages {
            start,
            stop: start + len,
            current,
            boundary: if current == start {
                start + len - 1
            } else {
                current - 1
            },
        }
    })
}

fn transfer() -> impl Strategy<Value = Transfer> {
    let pages = Page::FIRST.number()..Page::END.number();
    let width = select(vec![Width::Word, Width::Dword]);

    (pages, 0u16..64, 1u16..200, width, 0u16..100, 0u16..400).prop_map(
        |(page, offset, accesses, width, pause, stop)| {
            let address = u16::from(page) << 8 | offset << 2;
            let bytes = u16::from(width.bytes());
            let room = Page::END.address() - address;

            Transfer {
                address,
                count: (accesses * bytes).min(room),
                width,
                pause,
                stop,
            }
        },
    )
}

/// One step, legal after any other.
pub(crate) fn op() -> impl Strategy<Value = Op> {
    let send = (0x40u8..0x7a, 60u16..=1514, any::<bool>(), 0u8..4).prop_map(
        |(page, count, again, looks)| Op::Send {
            page,
            count: count.min(Page::END.address() - (u16::from(page) << 8)),
            again,
            looks,
        },
    );
    let initialize =
        (pages(), 0u8..0x80, prop::bool::weighted(0.8)).prop_map(|(pages, mask, is_started)| {
            Op::Initialize {
                pages,
                mask,
                is_started,
            }
        });

    let delay = prop_oneof![Just(0u8), 0u8..40];
    let hand_over = (any::<bool>(), any::<bool>(), delay, 0u8..3).prop_map(
        |(in_mid_transfer, is_quiet, delay, frames)| Op::HandOver {
            in_mid_transfer,
            is_quiet,
            delay,
            frames,
        },
    );

    prop_oneof![
        2 => initialize,
        6 => transfer().prop_map(Op::Read),
        6 => (transfer(), any::<u16>()).prop_map(|(transfer, seed)| Op::Write(transfer, seed)),
        6 => send,
        4 => Just(Op::ReadState),
        4 => any::<u8>().prop_map(Op::Acknowledge),
        3 => (0u8..0x80).prop_map(Op::Mask),
        1 => select(vec![0x04u8, 0x0c, 0x14, 0x1c]).prop_map(Op::Filter),
        1 => any::<[u8; 8]>().prop_map(Op::Multicast),
        2 => any::<prop::sample::Index>().prop_map(Op::Boundary),
        1 => Just(Op::Reset),
        4 => (60u16..=1514).prop_map(Op::Frame),
        4 => Just(Op::Relax),
        3 => Just(Op::Share),
        1 => Just(Op::Unshare),
        4 => (0u8..60).prop_map(Op::Look),
        6 => hand_over,
    ]
}
