// SPDX-License-Identifier: GPL-2.0

//! Faults that an earlier model of the NE2000 had, that of QEMU: they were reachable by any guest.

use crate::model::frame::Frame;
use crate::model::ne2000::context::{Context, Received};
use crate::model::ne2000::memory::{Page, PAGE_SIZE};
use crate::model::ne2000::register::{cr, isr, rcr};
use crate::model::ne2000::ring::Ring;
use proptest::prelude::*;

/// A guest that wants every frame.
fn context(pstart: u8, pstop: u8, curr: u8, bnry: u8) -> Context {
    let mut context = Context::new([[0; 2]; 16]);
    let registers = &mut context.registers;

    registers.command = cr::ABORT | cr::STA;
    registers.pending = 0;
    registers.receive_config = rcr::PRO;
    registers.page_start = pstart;
    registers.page_stop = pstop;
    registers.current = curr;
    registers.boundary = bnry;
    context
}

/// The offset of a write into card RAM came from the guest and was not checked (CVE-2015-5278 and
/// its kind). Here only a [`Page`] leads into card RAM, and there is one for each page and no other.
#[test]
fn unchecked_write_offset_into_card_ram() {
    let mut memory = Context::new([[0; 2]; 16]).memory;

    for number in 0..=u8::MAX {
        let page = Page::new(number);

        assert_eq!(page.is_some(), (0x40..=0x80).contains(&number));
        if let Some(page) = page {
            assert_eq!(page.address(), u16::from(number) << 8);
            assert_eq!(
                memory.page_mut(page).map(|bytes| bytes.len()),
                (page != Page::END).then_some(usize::from(PAGE_SIZE))
            );
            assert_eq!(memory.page(page).is_some(), page != Page::END);
        }
    }
    assert_eq!(memory.words().len(), 0x2000);
}

/// The place for a received frame was computed from CURR and PSTOP as the guest had written them
/// (CVE-2015-5279). Here they have to describe a ring within card RAM first, whatever they hold.
#[test]
fn receive_trusts_guest_written_current_page_and_stop() {
    let frame = [0xa5; 1514];
    let frame = Frame::new(&frame).unwrap();
    let mut stored = 0;

    for pstart in (0..=u8::MAX).step_by(5) {
        for pstop in (0..=u8::MAX).step_by(3).chain([0x80, 0x81]) {
            for curr in (0..=u8::MAX).step_by(7).chain([pstart, pstop, 0x7f, 0xff]) {
                let bnry = curr.wrapping_sub(1).max(pstart);
                let mut context = context(pstart, pstop, curr, bnry);
                let is_ring = 0x40 <= pstart
                    && pstop <= 0x80
                    && (pstart..pstop).contains(&curr)
                    && (pstart..pstop).contains(&bnry);

                match context.receive(&frame) {
                    Received::NoRing => assert!(!is_ring),
                    Received::Full => assert!(is_ring),
                    Received::Stored => {
                        assert!(is_ring);
                        assert!((pstart..pstop).contains(&context.registers.current));
                        stored += 1;
                    }
                    Received::Unwanted => panic!("it is promiscuous"),
                }
            }
        }
    }
    assert!(stored > 100);
}

proptest! {
    /// Whatever a guest has left in its registers, a frame changes pages of its ring and no other,
    /// and is there to be read.
    #[test]
    fn a_frame_changes_nothing_but_its_ring(
        pstart in 0x3eu8..0x82,
        len in 0u8..0x44,
        curr in 0u8..0x44,
        // From the page below the ring on.
        bnry in 0u8..0x45,
        size in 60u16..=1514,
    ) {
        let pstop = pstart.wrapping_add(len);
        let (curr, bnry) = (pstart.wrapping_add(curr), pstart.wrapping_add(bnry) - 1);
        let mut context = context(pstart, pstop, curr, bnry);
        let bnry = Ring::boundary(pstart, pstop, bnry);
        let bytes: Vec<u8> = (2..=u8::MAX).cycle().take(size.into()).collect();
        let received = context.receive(&Frame::new(&bytes).unwrap());

        let pages = (0x40..0x80).map(|number| Page::new(number).unwrap());
        let changed: Vec<u8> = pages
            .filter(|&page| context.memory.page(page).unwrap().iter().any(|&byte| byte != 0))
            .map(Page::number)
            .collect();

        if received != Received::Stored {
            prop_assert!(changed.is_empty());
            // Of a full ring the guest hears.
            prop_assert_eq!(
                context.registers.pending,
                if received == Received::Full { isr::PRX } else { 0 }
            );
            return Ok(());
        }

        let ring = Ring::new(pstart, pstop, curr, bnry).unwrap();
        let read: Vec<u8> = ring
            .iter()
            .flat_map(|page| context.memory.page(page).unwrap().to_vec())
            .collect();

        prop_assert!(changed.iter().all(|page| (pstart..pstop).contains(page)));
        // What the guest has not read yet begins behind BNRY.
        prop_assert!(curr == bnry || !changed.contains(&bnry));
        prop_assert_ne!(context.registers.current, bnry);
        prop_assert_eq!(context.registers.pending, isr::PRX);
        prop_assert_eq!(read[0], 1);
        prop_assert_eq!(read[1], context.registers.current);
        prop_assert_eq!(u16::from_le_bytes([read[2], read[3]]), size + 4);
        prop_assert_eq!(&read[4..4 + usize::from(size)], &bytes[..]);
    }
}
