// SPDX-License-Identifier: GPL-2.0

//! Ports, accesses and spans of memory.

use crate::model::access::{Access, Width};
use crate::model::dma::{Channel, Channels, GuestMemory, Span};
use crate::model::ports::PortSet;
use proptest::prelude::*;

fn span() -> impl Strategy<Value = (u8, u8)> {
    any::<(u8, u8)>()
}

proptest! {
    #[test]
    fn a_set_is_what_a_list_would_be(a in span(), b in span()) {
        let in_span = |(first, last): (u8, u8), port| (first..=last).contains(&port);
        let (one, other) = (PortSet::span(a.0, a.1), PortSet::span(b.0, b.1));
        let bytes: Vec<u8> = one.union(other).bytes().collect();
        let mut ports = vec![];

        for port in 0..=u8::MAX {
            let either = in_span(a, port) || in_span(b, port);

            prop_assert_eq!(one.contains(port), in_span(a, port));
            prop_assert_eq!(one.union(other).contains(port), either);
            prop_assert_eq!(
                one.difference(other).contains(port),
                in_span(a, port) && !in_span(b, port)
            );
            prop_assert_eq!(bytes[usize::from(port) / 8] >> (port % 8) & 1 != 0, either);
            if either {
                ports.push(port);
            }
        }
        prop_assert_eq!(bytes.len(), 32);
        prop_assert_eq!(one.union(other).len(), u32::try_from(ports.len()).unwrap());
        prop_assert_eq!(one.union(other).is_empty(), ports.is_empty());
        prop_assert_eq!(
            one.intersects(other),
            (0..=u8::MAX).any(|port| in_span(a, port) && in_span(b, port))
        );
        prop_assert!(one.union(other).iter().eq(ports));
    }

    #[test]
    fn an_access_lies_within_the_ports(port in any::<u8>(), bytes in 0usize..9) {
        let is_legal = [1, 2, 4].contains(&bytes) && usize::from(port) + bytes <= 256;
        let access = Access::new(port, bytes);

        prop_assert_eq!(access.is_some(), is_legal);
        if let Some(access) = access {
            prop_assert_eq!(usize::try_from(access.ports().len()).unwrap(), bytes);
            prop_assert!(access.ports().contains(port));
            prop_assert_eq!(access.port(), port);
        }
        for access in [Access::byte(port), Access::word(port), Access::dword(port)] {
            prop_assert_eq!(access.ports().len(), access.width().bytes().into());
        }
    }

    #[test]
    fn an_access_meets_the_sets_that_have_its_ports(
        a in span(),
        b in span(),
        port in any::<u8>(),
        bytes in 1usize..5,
    ) {
        let set = PortSet::span(a.0, a.1).union(PortSet::span(b.0, b.1));

        if let Some(access) = Access::new(port, bytes) {
            prop_assert_eq!(access.meets(set), set.intersects(access.ports()));
            prop_assert_eq!(
                access.is_within(set),
                access.ports().difference(set).is_empty()
            );
        }
    }

    #[test]
    fn a_span_covers_its_pages(start in any::<u64>(), len in any::<u32>()) {
        let (first, count) = Span { start, len }.pages();

        prop_assert_eq!(first, start >> 12);
        prop_assert_eq!(count == 0, len == 0);
        if len != 0 {
            let last = start.saturating_add(u64::from(len) - 1);

            prop_assert_eq!(first + (count - 1), last >> 12);
        }
    }
}

#[test]
fn channels_are_apart() {
    for channel in Channel::ALL {
        let one = Channels::NONE.with(channel);

        for other in Channel::ALL {
            assert_eq!(one.contains(other), channel == other);
        }
        assert!(one.without(channel).is_empty());
        assert!(!one.is_empty());
    }
}

#[test]
fn there_is_no_memory_for_a_device_without_dma() {
    assert!(!().contains(Span { start: 0, len: 1 }));
}

#[test]
fn widths_are_of_their_size() {
    for width in Width::ALL {
        assert_eq!(width.mask().count_ones(), 8 * u32::from(width.bytes()));
    }
}
