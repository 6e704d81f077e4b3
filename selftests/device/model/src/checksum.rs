// SPDX-License-Identifier: GPL-2.0

//! CRC32C (Castagnoli), as in RFC 3720, appendix B.4.

/// The polynomial 0x1edc6f41, bits reversed.
const POLYNOMIAL: u32 = 0x82f6_3b78;

const TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut value = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            value = (value >> 1) ^ (POLYNOMIAL * (value & 1));
            bit += 1;
        }
        table[byte] = value;
        byte += 1;
    }
    table
};

/// The CRC32C of what `crc` is the one of, followed by `data`. That of nothing is 0.
pub fn crc32c(crc: u32, data: &[u8]) -> u32 {
    !data.iter().fold(!crc, |value, byte| {
        let index = (value ^ u32::from(*byte)) & 0xff;
        (value >> 8) ^ TABLE[index as usize]
    })
}

#[cfg(test)]
mod tests {
    use super::crc32c;

    /// RFC 3720, appendix B.4, and the check value of the catalogues.
    #[test]
    fn known_values() {
        assert_eq!(crc32c(0, b""), 0);
        assert_eq!(crc32c(0, b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(0, &[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(0, &[0xff; 32]), 0x62a8_ab43);
    }

    #[test]
    fn it_goes_on_where_it_stopped() {
        assert_eq!(crc32c(crc32c(0, b"1234"), b"56789"), 0xe306_9283);
    }
}
