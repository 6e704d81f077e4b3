// SPDX-License-Identifier: GPL-2.0

//! Addresses, pages and windows.

use dma_map_cache_host::strategy::address::{
    pages_of, Buffer, Iova, Layout, PageRange, Phys, Window, PAGE_SIZE,
};
use proptest::prelude::*;

#[test]
fn pages_of_bytes() {
    for (address, len, pages) in [
        (0, 1, 1),
        (0, PAGE_SIZE, 1),
        (0, PAGE_SIZE + 1, 2),
        (PAGE_SIZE - 1, 1, 1),
        (PAGE_SIZE - 1, 2, 2),
        (PAGE_SIZE - 1, PAGE_SIZE + 1, 2),
        (PAGE_SIZE - 1, PAGE_SIZE + 2, 3),
        (7 * PAGE_SIZE + 5, 3 * PAGE_SIZE, 4),
        (u64::MAX, 1, 1),
    ] {
        assert_eq!(pages_of(address, len), pages, "{address:#x} + {len:#x}");
    }
}

#[test]
fn layout_follows_the_aperture() {
    for (last, window_bits) in [
        ((1 << 35) - 1, Some(32)),
        ((1 << 36) - 1, Some(33)),
        ((1 << 39) - 1, Some(36)),
        // Not a power of two: what is above the last one is left alone.
        ((1 << 39) + 12_345, Some(36)),
        ((1 << 47) - 1, Some(44)),
        ((1 << 48) - 1, Some(44)),
        (u64::MAX, Some(44)),
        ((1 << 35) - 2, None),
        (u64::from(u32::MAX), None),
        (0, None),
    ] {
        let layout = Layout::new(last);

        assert_eq!(
            layout.map(Layout::window_size),
            window_bits.map(|bits: u32| 1 << bits),
            "aperture up to {last:#x}"
        );
        if let Some(layout) = layout {
            assert!(layout.last(Window::CachedRead) <= last);
        }
    }
}

#[test]
fn windows_do_not_overlap_and_know_their_addresses() {
    let layout = Layout::new((1 << 39) - 1).unwrap();

    for window in Window::ALL {
        assert_eq!(layout.base(window), window as u64 * layout.window_size());
        assert_eq!(layout.window(Iova(layout.base(window))), window);
        assert_eq!(layout.window(Iova(layout.last(window))), window);
        assert_eq!(
            layout.offset(Iova(layout.last(window))),
            layout.window_size() - 1
        );
    }
}

#[test]
fn the_limit_is_the_last_byte() {
    let layout = Layout::new((1 << 39) - 1).unwrap();
    let buffer = Buffer {
        phys: Phys(0x5432),
        len: 0x1000,
    };
    let iova = layout.base(Window::CachedRead) + 0x5432;
    let last = iova + 0xfff;
    let at = |limit| layout.at_offset(Window::CachedRead, buffer, limit);

    assert_eq!(at(last), Some(Iova(iova)));
    assert_eq!(at(last - 1), None);
}

#[test]
fn the_window_ends_at_its_last_byte() {
    let layout = Layout::new((1 << 35) - 1).unwrap();
    let at = |phys, len| {
        let buffer = Buffer {
            phys: Phys(phys),
            len,
        };

        layout.at_offset(Window::Premapped, buffer, u64::MAX)
    };

    assert!(at((1 << 32) - 1, 1).is_some());
    assert_eq!(at((1 << 32) - 1, 2), None);
    assert_eq!(at(1 << 32, 1), None);
    assert_eq!(at(u64::MAX, 2), None);
}

proptest! {
    #[test]
    fn ranges_are_what_bytes_touch(iova in 0..1u64 << 50, len in 1..1u64 << 24) {
        let range = PageRange::of(Iova(iova), len);

        prop_assert!(range.start.0 <= iova && range.end().0 >= iova + len);
        prop_assert!(range.start.0 + PAGE_SIZE > iova && range.end().0 - PAGE_SIZE < iova + len);
        prop_assert_eq!(range.pages * PAGE_SIZE, range.bytes());
    }

    #[test]
    fn addresses_lead_back(
        bits in 35..=64u32,
        window in prop::sample::select(Window::ALL.to_vec()),
        phys in any::<u64>(),
        len in 1..1u64 << 24,
    ) {
        let layout = Layout::new(u64::MAX >> (64 - bits)).unwrap();
        let phys = phys % layout.window_size();
        let buffer = Buffer { phys: Phys(phys), len };

        match layout.at_offset(window, buffer, u64::MAX) {
            Some(iova) => {
                prop_assert_eq!(layout.window(iova), window);
                prop_assert_eq!(layout.offset(iova), phys);
                prop_assert_eq!(buffer.at(iova.page_start()), iova);
            }
            None => prop_assert!(phys + len > layout.window_size()),
        }
    }
}
