// SPDX-License-Identifier: GPL-2.0

//! The PCI configuration space.

use proptest::prelude::*;
use vpio_host::config_space::{Changed, ConfigSpace, Identity, OutOfRange, SIZE};

const COMMAND: usize = 0x04;
const BAR0: usize = 0x10;

const IDENTITY: Identity = Identity {
    vendor: 0x10ec,
    device: 0x8029,
    subsystem_vendor: 0x1af4,
    subsystem: 0x1100,
    class: [0x00, 0x00, 0x02],
    revision: 0x17,
    bar0_ports: 0x20,
};

/// Offset and bits of all that a guest can change, as 16 bits in the order of the bytes.
const WRITABLE: [(usize, u16); 5] = [
    (0x04, 0x0405),
    (0x0c, 0xffff),
    (0x10, 0xffe0),
    (0x12, 0xffff),
    (0x3c, 0x00ff),
];

fn read16(space: &ConfigSpace, offset: usize) -> u16 {
    let mut data = [0; 2];

    space.read(offset, &mut data).unwrap();
    u16::from_le_bytes(data)
}

fn read32(space: &ConfigSpace, offset: usize) -> u32 {
    let mut data = [0; 4];

    space.read(offset, &mut data).unwrap();
    u32::from_le_bytes(data)
}

fn write32(space: &mut ConfigSpace, offset: usize, value: u32) -> Changed {
    space.write(offset, &value.to_le_bytes()).unwrap()
}

fn write16(space: &mut ConfigSpace, offset: usize, value: u16) -> Changed {
    space.write(offset, &value.to_le_bytes()).unwrap()
}

fn all(space: &ConfigSpace) -> [u8; SIZE] {
    let mut data = [0; SIZE];

    space.read(0, &mut data).unwrap();
    data
}

const PORTS: Changed = Changed {
    ports: true,
    interrupt: false,
};

#[test]
fn a_driver_finds_the_card() {
    let space = ConfigSpace::new(&IDENTITY);

    assert_eq!(read32(&space, 0x00), 0x8029_10ec);
    assert_eq!(read32(&space, 0x04), 0x0200_0000);
    assert_eq!(read32(&space, 0x08), 0x0200_0017);
    // No multi-function, no bridge, no BIST.
    assert_eq!(read32(&space, 0x0c), 0);
    assert_eq!(read32(&space, BAR0), 1);
    assert_eq!(read32(&space, 0x2c), 0x1100_1af4);
    // No ROM, no capabilities.
    assert_eq!((read32(&space, 0x30), read32(&space, 0x34)), (0, 0));
    assert_eq!(read32(&space, 0x3c), 0x0000_0100);
    assert_eq!(space.ports(), None);
    assert!(!space.interrupt_is_disabled());
}

#[test]
fn the_size_of_the_bar_can_be_found() {
    let mut space = ConfigSpace::new(&IDENTITY);

    let _ = write16(&mut space, COMMAND, 1);
    // What was there, the pattern, and back: with decoding on, as some do it.
    assert_eq!(write32(&mut space, BAR0, 0xc000), PORTS);
    assert_eq!(write32(&mut space, BAR0, u32::MAX), PORTS);
    assert_eq!(space.ports(), None);
    assert_eq!(
        !(read32(&space, BAR0) & !3),
        u32::from(IDENTITY.bar0_ports) - 1
    );
    assert_eq!(write32(&mut space, BAR0, 0xc000), PORTS);
    assert_eq!(space.ports(), Some(0xc000));

    for bar in 1..6 {
        let _ = write32(&mut space, BAR0 + 4 * bar, u32::MAX);
        assert_eq!(read32(&space, BAR0 + 4 * bar), 0, "BAR {bar}");
    }
    let _ = write32(&mut space, 0x30, u32::MAX);
    assert_eq!(read32(&space, 0x30), 0, "ROM");
}

#[test]
fn a_bar_is_as_large_as_that_of_the_physical_card() {
    for bar0_ports in [4, 8, 0x20, 0x80, 0x100] {
        let mut space = ConfigSpace::new(&Identity {
            bar0_ports,
            ..IDENTITY
        });

        let _ = write16(&mut space, COMMAND, 1);
        let _ = write32(&mut space, BAR0, u32::MAX);
        assert_eq!(!(read32(&space, BAR0) & !3), u32::from(bar0_ports) - 1);
        let _ = write32(&mut space, BAR0, 0xc1ff);
        assert_eq!(space.ports(), Some(0xc1ff & !(bar0_ports - 1)));
    }
}

#[test]
fn ports_are_decoded_where_a_bar_can_be() {
    let mut space = ConfigSpace::new(&IDENTITY);

    for (bar, ports) in [
        (0xc000, Some(0xc000)),
        (0xc03f, Some(0xc020)),
        (0xffff, Some(0xffe0)),
        (0x1000, Some(0x1000)),
        // The chipset's.
        (0x0fe0, None),
        (0x0ce0, None),
        (0x0000, None),
        // No port has such an address.
        (0x0001_c000, None),
        (0x8000_c000, None),
    ] {
        let _ = write16(&mut space, COMMAND, 0);
        assert_eq!(write32(&mut space, BAR0, bar), Changed::default());
        assert_eq!(space.ports(), None, "decoding is off");
        assert_eq!(write16(&mut space, COMMAND, 1).ports, ports.is_some());
        assert_eq!(space.ports(), ports, "{bar:#x}");
    }
}

#[test]
fn nobody_acts_on_what_has_not_changed() {
    let mut space = ConfigSpace::new(&IDENTITY);

    let _ = write32(&mut space, BAR0, 0xc000);
    assert_eq!(write16(&mut space, COMMAND, 0x0001), PORTS);
    for value in [0x0001, 0x0005, 0x0003, 0xfbff] {
        assert_eq!(write16(&mut space, COMMAND, value), Changed::default());
    }
    assert_eq!(
        write16(&mut space, COMMAND, 0x0401),
        Changed {
            ports: false,
            interrupt: true
        }
    );
    assert!(space.interrupt_is_disabled());
    assert_eq!(
        write16(&mut space, COMMAND, 0x0000),
        Changed {
            ports: true,
            interrupt: true
        }
    );
    assert_eq!(space.write(0x3c, &[11]), Ok(Changed::default()));
    assert_eq!(read16(&space, 0x3c), 0x010b);
}

#[test]
fn the_status_shows_an_interrupt_and_no_error() {
    let mut space = ConfigSpace::new(&IDENTITY);

    space.set_interrupt_status(true);
    assert_eq!(read16(&space, 0x06), 0x0208);
    // RW1C, but for the interrupt.
    let _ = write16(&mut space, 0x06, 0xffff);
    assert_eq!(read16(&space, 0x06), 0x0208);
    space.set_interrupt_status(false);
    assert_eq!(read16(&space, 0x06), 0x0200);
}

proptest! {
    #[test]
    fn no_write_changes_what_is_read_only(
        writes in prop::collection::vec((0usize..0x100, 0u8..3, any::<u32>()), 0..40),
    ) {
        let mut space = ConfigSpace::new(&IDENTITY);
        let before = all(&space);

        for (offset, width, value) in writes {
            let width = 1 << width;
            let data = &value.to_le_bytes()[..width];

            prop_assert_eq!(space.write(offset, data).is_ok(), offset + width <= SIZE);
            if let Some(first) = space.ports() {
                prop_assert_eq!(first % IDENTITY.bar0_ports, 0);
                prop_assert!(first >= 0x1000);
                prop_assert!(first.checked_add(IDENTITY.bar0_ports - 1).is_some());
            }
        }

        let mut writable = [0u8; SIZE];

        for (offset, bits) in WRITABLE {
            writable[offset..offset + 2].copy_from_slice(&bits.to_le_bytes());
        }
        for ((before, after), writable) in before.into_iter().zip(all(&space)).zip(writable) {
            prop_assert_eq!((before ^ after) & !writable, 0);
        }
    }

    #[test]
    fn what_can_be_written_is_read_back(value in any::<u16>()) {
        let mut space = ConfigSpace::new(&IDENTITY);

        for (offset, bits) in WRITABLE {
            let _ = space.write(offset, &value.to_le_bytes()).unwrap();
            prop_assert_eq!((read16(&space, offset) ^ value) & bits, 0);
        }
    }

    #[test]
    fn what_has_changed_is_told(
        writes in prop::collection::vec((0x04usize..0x14, 0u8..3, any::<u32>()), 0..40),
    ) {
        let mut space = ConfigSpace::new(&IDENTITY);
        let (mut ports, mut disabled) = (space.ports(), space.interrupt_is_disabled());

        for (offset, width, value) in writes {
            // Nearer to what can be a port.
            let value = if value & 1 != 0 { value & 0xffff } else { value };
            let changed = space.write(offset, &value.to_le_bytes()[..1 << width]).unwrap();

            prop_assert_eq!(changed.ports, space.ports() != ports);
            prop_assert_eq!(changed.interrupt, space.interrupt_is_disabled() != disabled);
            (ports, disabled) = (space.ports(), space.interrupt_is_disabled());
        }
    }

    #[test]
    fn a_read_shows_the_bytes_that_are_there(offset in any::<usize>(), near in 0usize..0x104, len in 0usize..9) {
        let space = ConfigSpace::new(&IDENTITY);

        for offset in [offset, near] {
            let mut data = vec![0xa5; len];
            let expected = offset.checked_add(len).and_then(|end| all(&space).get(offset..end).map(<[u8]>::to_vec));

            match expected {
                Some(expected) => {
                    prop_assert_eq!(space.read(offset, &mut data), Ok(()));
                    prop_assert_eq!(data, expected);
                }
                None => {
                    prop_assert_eq!(space.read(offset, &mut data), Err(OutOfRange));
                    prop_assert!(data.iter().all(|&byte| byte == 0xa5));
                    prop_assert_eq!(space.clone().write(offset, &data), Err(OutOfRange));
                }
            }
        }
    }
}
