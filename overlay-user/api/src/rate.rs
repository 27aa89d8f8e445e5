//! Rates, sizes and code points, as `tc` and the RFCs write them.

use std::{fmt, num::NonZeroU32, str::FromStr};

use serde::{Deserialize, Serialize};

/// Bits in a second, 1 to 1 Tbit: `10mbit`, `1gbit`, `1.5gbit`; `mbps` and its like are bytes, as in `tc`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(
    feature = "schema",
    derive(schemars::JsonSchema),
    schemars(extend("minimum" = 1, "maximum" = FASTEST))
)]
#[serde(try_from = "u64", into = "u64")]
pub struct BitRate(u64);

/// The highest rate.
const FASTEST: u64 = 1_000_000_000_000;

/// Factors of `tc`'s prefixes.
const PREFIXES: [(&str, u64); 9] = [
    ("ki", 1 << 10),
    ("mi", 1 << 20),
    ("gi", 1 << 30),
    ("ti", 1 << 40),
    ("k", 1_000),
    ("m", 1_000_000),
    ("g", 1_000_000_000),
    ("t", 1_000_000_000_000),
    ("", 1),
];

impl BitRate {
    /// Bits in a second.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl TryFrom<u64> for BitRate {
    type Error = String;

    fn try_from(rate: u64) -> Result<Self, Self::Error> {
        match rate {
            0 => Err("rate 0 would let nothing pass: say how much may".to_owned()),
            1..=FASTEST => Ok(Self(rate)),
            _ => Err(format!("rate {rate} is over 1tbit")),
        }
    }
}

impl From<BitRate> for u64 {
    fn from(rate: BitRate) -> Self {
        rate.0
    }
}

impl FromStr for BitRate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || {
            format!(
                "rate {text:?} is none: write a number and bit, kbit, mbit or gbit (bps, kbps, mbps and gbps are \
                 bytes), for example 100mbit"
            )
        };
        let (number, unit) = split(text).ok_or_else(wrong)?;
        let (prefix, bits) = match unit.strip_suffix("bit") {
            Some(prefix) => (prefix, 1),
            None => match unit.strip_suffix("bps") {
                Some(prefix) => (prefix, 8),
                None if unit.is_empty() => ("", 1),
                None => return Err(wrong()),
            },
        };
        let factor = PREFIXES.iter().find(|(known, _)| *known == prefix);
        let factor = factor.ok_or_else(wrong)?.1 * bits;
        scaled(number, factor).ok_or_else(wrong)?.try_into()
    }
}

impl fmt::Display for BitRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [
            ("tbit", 1_000_000_000_000),
            ("gbit", 1_000_000_000),
            ("mbit", 1_000_000),
            ("kbit", 1_000),
        ];
        let unit = units
            .iter()
            .find(|(_, factor)| self.0.is_multiple_of(*factor));
        let (unit, factor) = unit.copied().unwrap_or(("bit", 1));
        f.pad(&format!("{}{unit}", self.0 / factor))
    }
}

/// Bytes, 1 to 4 GiB - 1: `64kb`, `1mb`; in powers of 1024, as in `tc`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(transparent)]
pub struct ByteSize(NonZeroU32);

impl ByteSize {
    /// Bytes.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0.get()
    }
}

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || {
            format!(
                "size {text:?} is none: write a number from 1 and b, kb, mb or gb, below 4gb, for example 64kb"
            )
        };
        let (number, unit) = split(text).ok_or_else(wrong)?;
        let factor = match unit.as_str() {
            "" | "b" => 1,
            "k" | "kb" => 1 << 10,
            "m" | "mb" => 1 << 20,
            "g" | "gb" => 1 << 30,
            _ => return Err(wrong()),
        };
        let size = scaled(number, factor).ok_or_else(wrong)?;
        let size = u32::try_from(size).ok().and_then(NonZeroU32::new);
        size.map(Self).ok_or_else(wrong)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [("gb", 1 << 30), ("mb", 1 << 20), ("kb", 1 << 10)];
        let unit = units
            .iter()
            .find(|(_, factor)| self.get().is_multiple_of(*factor));
        let (unit, factor) = unit.copied().unwrap_or(("b", 1));
        f.pad(&format!("{}{unit}", self.get() / factor))
    }
}

/// A number, which may have a fraction, and a unit in small letters.
fn split(text: &str) -> Option<(&str, String)> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.');
    let (number, unit) = text.split_at(end.unwrap_or(text.len()));
    (!number.is_empty()).then(|| (number, unit.to_ascii_lowercase()))
}

/// The number so many times, without what is less than one.
fn scaled(number: &str, factor: u64) -> Option<u64> {
    /// More digits would be less than a bit of the highest rate.
    const DIGITS: usize = 15;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    if fraction.len() > DIGITS || whole.is_empty() {
        return None;
    }
    let whole = whole.parse::<u64>().ok()?.checked_mul(factor)?;
    let scale = u32::try_from(fraction.len()).ok()?;
    let part = fraction.parse::<u128>().ok()? * u128::from(factor) / 10_u128.pow(scale);
    whole.checked_add(u64::try_from(part).ok()?)
}

/// A differentiated services code point: a name of RFC 2474, 2597, 3246, 5865 or 8622, or 0 to 63.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(
    feature = "schema",
    derive(schemars::JsonSchema),
    schemars(extend("maximum" = 63))
)]
#[serde(try_from = "u8", into = "u8")]
pub struct Dscp(u8);

const DSCPS: [(&str, u8); 23] = [
    ("cs0", 0),
    ("le", 1),
    ("cs1", 8),
    ("af11", 10),
    ("af12", 12),
    ("af13", 14),
    ("cs2", 16),
    ("af21", 18),
    ("af22", 20),
    ("af23", 22),
    ("cs3", 24),
    ("af31", 26),
    ("af32", 28),
    ("af33", 30),
    ("cs4", 32),
    ("af41", 34),
    ("af42", 36),
    ("af43", 38),
    ("cs5", 40),
    ("voice-admit", 44),
    ("ef", 46),
    ("cs6", 48),
    ("cs7", 56),
];

impl Dscp {
    /// Its number, 0 to 63.
    #[must_use]
    pub const fn get(self) -> u8 {
        self.0
    }
}

impl TryFrom<u8> for Dscp {
    type Error = String;

    fn try_from(number: u8) -> Result<Self, Self::Error> {
        match number {
            0..=63 => Ok(Self(number)),
            _ => Err(format!("DSCP {number} is over 63")),
        }
    }
}

impl From<Dscp> for u8 {
    fn from(dscp: Dscp) -> Self {
        dscp.0
    }
}

impl FromStr for Dscp {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let name = text.to_ascii_lowercase();
        if let Some((_, number)) = DSCPS.iter().find(|(known, _)| *known == name) {
            return Ok(Self(*number));
        }
        let number = text.parse::<u8>().ok();
        number
            .and_then(|number| number.try_into().ok())
            .ok_or_else(|| {
                format!(
                    "DSCP {text:?} is none: write cs0 to cs7, af11 to af43, ef, le, voice-admit, or a number up to 63"
                )
            })
    }
}

impl fmt::Display for Dscp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match DSCPS.iter().find(|(_, number)| *number == self.0) {
            Some((name, _)) => f.pad(name),
            None => f.pad(&self.0.to_string()),
        }
    }
}

/// Something, or the word `none`, which takes it away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(untagged)]
pub enum OrNone<T> {
    /// Nothing.
    None(NoneWord),
    /// This.
    Some(T),
}

/// The word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum NoneWord {
    /// `none`.
    None,
}

impl<T> OrNone<T> {
    /// As an option.
    #[must_use]
    pub fn into_option(self) -> Option<T> {
        match self {
            Self::None(_) => None,
            Self::Some(value) => Some(value),
        }
    }
}

impl<T> From<Option<T>> for OrNone<T> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::None(NoneWord::None), Self::Some)
    }
}

impl<T: FromStr> FromStr for OrNone<T> {
    type Err = T::Err;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "none" => Ok(Self::None(NoneWord::None)),
            text => text.parse().map(Self::Some),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_written_as_tc_does() {
        for (text, bits) in [
            ("1gbit", 1_000_000_000),
            ("100Mbit", 100_000_000),
            ("10kbit", 10_000),
            ("1", 1),
            ("1500bit", 1500),
            ("1.5gbit", 1_500_000_000),
            ("0.001kbit", 1),
            ("1mbps", 8_000_000),
            ("2bps", 16),
            ("1kibit", 1024),
            ("1gibps", 8 << 30),
            ("1tbit", 1_000_000_000_000),
        ] {
            assert_eq!(
                text.parse::<BitRate>().map(BitRate::get),
                Ok(bits),
                "{text}"
            );
        }
        for text in [
            "",
            "0",
            "0gbit",
            "-1mbit",
            "1.2.3mbit",
            "mbit",
            "1 gbit",
            "1gb",
            "2tbit",
            "1e9",
            ".5gbit",
            "99999999999999999999gbit",
            "18446744073709551615gbit",
            "0.0001bit",
        ] {
            assert!(text.parse::<BitRate>().is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_printed_parses_again() {
        for text in ["1gbit", "100mbit", "1500bit", "1tbit", "1001kbit"] {
            assert_eq!(text.parse::<BitRate>().unwrap().to_string(), text);
        }
        for text in ["1mb", "64kb", "1500b", "3gb"] {
            assert_eq!(text.parse::<ByteSize>().unwrap().to_string(), text);
        }
        for number in 0..=63 {
            let dscp = Dscp::try_from(number).unwrap();
            assert_eq!(dscp.to_string().parse(), Ok(dscp));
        }
    }

    #[test]
    fn sizes_are_powers_of_1024() {
        for (text, bytes) in [
            ("1mb", 1 << 20),
            ("64KB", 64 << 10),
            ("1500", 1500),
            ("0.5m", 512 << 10),
        ] {
            assert_eq!(
                text.parse::<ByteSize>().map(ByteSize::get),
                Ok(bytes),
                "{text}"
            );
        }
        for text in ["", "0", "4gb", "1mbit", "1tb", "x"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
    }

    #[test]
    fn code_points_have_the_names_of_their_rfcs() {
        for (text, number) in [("ef", 46), ("AF21", 18), ("cs7", 56), ("le", 1), ("63", 63)] {
            assert_eq!(text.parse::<Dscp>().map(Dscp::get), Ok(number), "{text}");
        }
        // RFC 2597: eight times the class, and twice the drop precedence.
        for (class, precedence) in [(1, 1), (2, 3), (4, 3)] {
            let name = format!("af{class}{precedence}");
            assert_eq!(
                name.parse::<Dscp>().map(Dscp::get),
                Ok(8 * class + 2 * precedence)
            );
        }
        for text in ["64", "af51", "-1", ""] {
            assert!(text.parse::<Dscp>().is_err(), "{text}");
        }
    }

    #[test]
    fn none_is_a_word_of_its_own() {
        let none: OrNone<BitRate> = serde_json::from_str("\"none\"").unwrap();
        assert_eq!(none.into_option(), None);
        let some: OrNone<BitRate> = serde_json::from_str("1000").unwrap();
        assert_eq!(some, "1kbit".parse().unwrap());
        assert_eq!(serde_json::to_string(&some).unwrap(), "1000");
        assert!(serde_json::from_str::<OrNone<BitRate>>("0").is_err());
    }
}
