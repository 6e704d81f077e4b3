// SPDX-License-Identifier: GPL-2.0

//! ACPI tables that the emulator does not make.
//!
//! Encoded as the ACPI specification says in "ACPI Machine Language (AML)
//! Specification".

/// The definition block that tells the kernel that the PCIe root port at
/// `devfn` (device << 3 | function) of the first bus leads out of the machine:
///
/// ```text
/// Scope (\_SB.PCI0.S40) {
///     Name (_DSD, Package {
///         ToUUID ("efcc06cc-73ac-4bc3-bff0-76143807c389"),
///         Package { Package { "ExternalFacingPort", 1 } }
///     })
/// }
/// ```
///
/// The emulator names a port after its place, here 8.0. See
/// `pci_acpi_set_external_facing()` in the kernel. The header is the
/// emulator's to add.
pub fn external_facing_port(devfn: u8) -> Vec<u8> {
    let port = format!("S{devfn:02X}_");
    let property = package(&[string("ExternalFacingPort"), integer(1)]);
    let description = package(&[buffer(&EXTERNAL_FACING_PORT), package(&[property])]);

    scope(
        &["_SB_", "PCI0", &port],
        &[name("_DSD"), description].concat(),
    )
}

/// efcc06cc-73ac-4bc3-bff0-76143807c389, the first three numbers little-endian.
const EXTERNAL_FACING_PORT: [u8; 16] = [
    0xcc, 0x06, 0xcc, 0xef, 0xac, 0x73, 0xc3, 0x4b, 0xbf, 0xf0, 0x76, 0x14, 0x38, 0x07, 0xc3, 0x89,
];

/// `op`, then its length, its own bytes included, then `body`.
fn block(op: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![op];
    match body.len() + 1 {
        // The two highest bits say how many bytes follow.
        short @ 0..=0x3f => out.push(short as u8),
        _ => {
            let len = body.len() + 2;
            assert!(len < 1 << 12, "a length of more than two bytes");
            out.extend([0x40 | (len & 0xf) as u8, (len >> 4) as u8]);
        }
    }
    out.extend(body);
    out
}

/// An absolute path of three names or more, and what is to be added there.
fn scope(path: &[&str], body: &[u8]) -> Vec<u8> {
    let mut inner = vec![b'\\', 0x2f, path.len() as u8];
    inner.extend(path.iter().flat_map(|segment| segment.bytes()));
    inner.extend(body);
    block(0x10, &inner)
}

fn name(segment: &str) -> Vec<u8> {
    [&[0x08], segment.as_bytes()].concat()
}

fn package(elements: &[Vec<u8>]) -> Vec<u8> {
    block(
        0x12,
        &[&[elements.len() as u8], elements.concat().as_slice()].concat(),
    )
}

fn buffer(bytes: &[u8]) -> Vec<u8> {
    block(0x11, &[&integer(bytes.len() as u8), bytes].concat())
}

fn string(text: &str) -> Vec<u8> {
    [&[0x0d], text.as_bytes(), &[0]].concat()
}

fn integer(value: u8) -> Vec<u8> {
    vec![0x0a, value]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_count_themselves() {
        assert_eq!(block(0x10, &[7; 3]), [0x10, 4, 7, 7, 7]);
        assert_eq!(block(0x10, &[7; 0x3e])[..2], [0x10, 0x3f]);
        assert_eq!(block(0x10, &[7; 0x3f])[..3], [0x10, 0x41, 4]);
    }

    #[test]
    fn the_port_is_named_after_its_place() {
        let table = external_facing_port(8 << 3);
        assert_eq!(table[0], 0x10);
        assert_eq!(
            usize::from(table[1] & 0xf) | (usize::from(table[2]) << 4),
            table.len() - 1
        );
        assert_eq!(&table[3..18], b"\\/\x03_SB_PCI0S40_");
        assert_eq!(&table[18..23], b"\x08_DSD");
        // Two elements, the first of which is a buffer of 16 bytes.
        assert_eq!(table[23], 0x12);
        assert_eq!(&table[25..30], [2, 0x11, 0x13, 0x0a, 16]);
        assert!(table.ends_with(b"\x0dExternalFacingPort\x00\x0a\x01"));
    }
}
