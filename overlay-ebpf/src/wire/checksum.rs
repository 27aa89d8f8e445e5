//! The Internet checksum (RFC 1071) over words that are already in registers.

use bytemuck::must_cast;

/// A one's-complement sum in progress. Words go in as the wire has them, on any machine.
#[derive(Debug, Clone, Copy)]
pub struct Sum(u64);

impl Sum {
    /// The sum of nothing.
    pub const ZERO: Self = Self(0);

    /// Goes on from the kernel's sum of some bytes (`bpf_csum_diff`).
    #[must_use]
    #[inline(always)]
    pub const fn of_kernel(sum: u32) -> Self {
        Self(sum as u64)
    }

    /// Whether it is the sum of zeros alone.
    #[must_use]
    #[inline(always)]
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// Adds four bytes, order of the wire.
    #[must_use]
    #[inline(always)]
    pub const fn bytes(self, bytes: [u8; 4]) -> Self {
        Self(self.0 + u32::from_ne_bytes(bytes) as u64)
    }

    /// Adds two bytes, order of the wire.
    #[must_use]
    #[inline(always)]
    pub const fn pair(self, bytes: [u8; 2]) -> Self {
        Self(self.0 + u16::from_ne_bytes(bytes) as u64)
    }

    /// Adds sixteen bytes, order of the wire.
    #[must_use]
    #[inline(always)]
    pub fn sixteen(self, bytes: [u8; 16]) -> Self {
        let [first, second, third, fourth] = must_cast::<_, [[u8; 4]; 4]>(bytes);
        self.bytes(first).bytes(second).bytes(third).bytes(fourth)
    }

    /// Adds six bytes, order of the wire.
    #[must_use]
    #[inline(always)]
    pub const fn six(self, bytes: [u8; 6]) -> Self {
        let [first @ .., fifth, sixth] = bytes;
        self.bytes(first).pair([fifth, sixth])
    }

    /// Adds another sum.
    #[must_use]
    #[inline(always)]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }

    /// The checksum field, order of the wire.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "folded to 16 bits before")]
    #[inline(always)]
    pub const fn finish(self) -> [u8; 2] {
        let mut sum = (self.0 >> 32) + (self.0 & 0xffff_ffff);
        sum = (sum >> 16) + (sum & 0xffff);
        sum = (sum >> 16) + (sum & 0xffff);
        sum = (sum >> 16) + (sum & 0xffff);
        (!(sum as u16)).to_ne_bytes()
    }
}

/// The checksum after one aligned 16-bit word under it changed (RFC 1624, equation 3).
#[must_use]
#[inline(always)]
pub const fn replace(check: [u8; 2], from: [u8; 2], to: [u8; 2]) -> [u8; 2] {
    let [check, from] = [!u16::from_ne_bytes(check), !u16::from_ne_bytes(from)];
    Sum(check as u64 + from as u64).pair(to).finish()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The textbook loop of RFC 1071 section 4.1, byte order and all.
    #[expect(clippy::cast_possible_truncation, reason = "folded to 16 bits before")]
    fn reference(bytes: &[u8]) -> [u8; 2] {
        let mut sum: u32 = bytes
            .chunks(2)
            .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
            .sum();
        while sum > 0xffff {
            sum = (sum >> 16) + (sum & 0xffff);
        }
        (!(sum as u16)).to_be_bytes()
    }

    #[test]
    fn the_example_of_rfc_1071_comes_out() {
        let sum = Sum::ZERO
            .bytes([0x00, 0x01, 0xf2, 0x03])
            .bytes([0xf4, 0xf5, 0xf6, 0xf7]);
        assert_eq!(sum.finish(), (!0xddf2_u16).to_be_bytes());
    }

    proptest! {
        #[test]
        fn sums_agree_with_the_textbook(words in prop::collection::vec(any::<[u8; 4]>(), 1..32)) {
            let sum = words.iter().fold(Sum::ZERO, |sum, word| sum.bytes(*word));
            prop_assert_eq!(sum.finish(), reference(&words.concat()));
        }

        #[test]
        fn a_replaced_word_gives_the_checksum_of_the_new_bytes(
            mut words in prop::collection::vec(any::<[u8; 2]>(), 2..16),
            to in any::<[u8; 2]>(),
        ) {
            // A header is never all zero; only then do the two zeros of one's complement differ.
            words[0] = [0x45, 0];
            let before = reference(&words.concat());
            let from = std::mem::replace(&mut words[1], to);
            prop_assert_eq!(replace(before, from, to), reference(&words.concat()));
        }
    }
}
