//! VNI and MAC: the numbers that the wire carries.

use std::{
    fmt,
    hash::{DefaultHasher, Hash, Hasher as _},
    net::Ipv4Addr,
    str::FromStr,
};

use macaddr::MacAddr6;
use serde::{Deserialize, Serialize};

/// Why a VNI or a MAC was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// RFC 7348 section 5: 24 bits. Zero is left out, as Linux and Open vSwitch users expect.
    #[error("VNI {0:?} is not a number from 1 to 16777215")]
    Vni(String),
    /// Not six hexadecimal octets.
    #[error("MAC {0:?} is malformed: write six hexadecimal octets, for example 02:42:07:07:07:02")]
    MacSyntax(String),
    /// A group or all-zero address can't belong to an endpoint.
    #[error("MAC {0} is a multicast or all-zero address: an endpoint needs a unicast one")]
    MacNotUnicast(String),
}

/// A VXLAN network identifier, 1 to 16777215.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(
    feature = "schema",
    derive(schemars::JsonSchema),
    schemars(extend("minimum" = 1, "maximum" = Vni::MAX))
)]
#[serde(try_from = "u32", into = "u32")]
pub struct Vni(u32);

impl Vni {
    /// The highest VNI: 24 bits (RFC 7348 section 5).
    pub const MAX: u32 = 0x00ff_ffff;

    /// The number, host byte order.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl TryFrom<u32> for Vni {
    type Error = AddressError;

    fn try_from(value: u32) -> Result<Self, Self::Error> {
        if (1..=Self::MAX).contains(&value) {
            Ok(Self(value))
        } else {
            Err(AddressError::Vni(value.to_string()))
        }
    }
}

impl From<Vni> for u32 {
    fn from(vni: Vni) -> Self {
        vni.0
    }
}

impl FromStr for Vni {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse::<u32>()
            .map_err(|_| AddressError::Vni(text.to_owned()))
            .and_then(|number| {
                Self::try_from(number).map_err(|_| AddressError::Vni(text.to_owned()))
            })
    }
}

impl fmt::Display for Vni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A unicast MAC address.
///
/// Written in lower case with colons, as iproute2 does; read with colons or hyphens, in either case.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(
    feature = "schema",
    derive(schemars::JsonSchema),
    schemars(extend("examples" = ["02:42:07:07:07:02"]))
)]
#[serde(try_from = "String", into = "String")]
pub struct Mac([u8; 6]);

impl Mac {
    /// The six octets, in the order of the wire.
    #[must_use]
    pub const fn octets(self) -> [u8; 6] {
        self.0
    }

    /// The default address of an endpoint: 02:42 and the four bytes of its IPv4 address.
    #[must_use]
    pub const fn from_ipv4(ip: Ipv4Addr) -> Self {
        let [a, b, c, d] = ip.octets();
        Self([0x02, 0x42, a, b, c, d])
    }
}

impl Mac {
    /// Another default for an endpoint whose first one is taken, different for each `attempt`.
    ///
    /// Locally administered (IEEE 802 section 8.4), spread over 2^40 and apart from all of [`Self::from_ipv4`].
    #[must_use]
    pub fn spare(endpoint: &str, attempt: usize) -> Self {
        let mut hasher = DefaultHasher::new();
        (endpoint, attempt).hash(&mut hasher);
        let [_, _, mut octets @ ..] = hasher.finish().to_be_bytes();
        octets[0] = 0x06;
        Self(octets)
    }
}

impl TryFrom<[u8; 6]> for Mac {
    type Error = AddressError;

    fn try_from(octets: [u8; 6]) -> Result<Self, Self::Error> {
        let mac = Self(octets);
        if octets[0] & 1 == 1 || octets == [0; 6] {
            Err(AddressError::MacNotUnicast(mac.to_string()))
        } else {
            Ok(mac)
        }
    }
}

impl FromStr for Mac {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parsed =
            MacAddr6::from_str(text).map_err(|_| AddressError::MacSyntax(text.to_owned()))?;
        Self::try_from(parsed.into_array())
    }
}

impl TryFrom<String> for Mac {
    type Error = AddressError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> Self {
        mac.to_string()
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [first, rest @ ..] = self.0;
        write!(f, "{first:02x}")?;
        rest.iter().try_for_each(|octet| write!(f, ":{octet:02x}"))
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vni_takes_the_24_bit_range_without_zero() {
        for good in ["1", "42", "16777215"] {
            assert_eq!(good.parse::<Vni>().unwrap().to_string(), good);
        }
        for bad in ["0", "16777216", "-1", "", "x", "4294967338", "42 "] {
            assert_eq!(bad.parse::<Vni>(), Err(AddressError::Vni(bad.to_owned())));
        }
    }

    #[test]
    fn mac_parses_every_common_spelling_and_prints_one() {
        for text in [
            "02:42:07:07:07:0A",
            "02-42-07-07-07-0a",
            "02:42:07:07:07:0a",
        ] {
            assert_eq!(
                text.parse::<Mac>().unwrap().to_string(),
                "02:42:07:07:07:0a"
            );
        }
    }

    #[test]
    fn mac_refuses_group_zero_and_malformed_addresses() {
        for text in [
            "ff:ff:ff:ff:ff:ff",
            "01:00:5e:00:00:01",
            "00:00:00:00:00:00",
        ] {
            assert!(
                matches!(text.parse::<Mac>(), Err(AddressError::MacNotUnicast(_))),
                "{text}"
            );
        }
        for text in [
            "",
            "02:42",
            "02:42:07:07:07:0g",
            "02:42:07:07:07:02:03",
            "hello",
        ] {
            assert!(
                matches!(text.parse::<Mac>(), Err(AddressError::MacSyntax(_))),
                "{text}"
            );
        }
    }

    #[test]
    fn spare_macs_are_unicast_and_each_attempt_has_another() {
        let spares: Vec<_> = (0..64).map(|attempt| Mac::spare("web", attempt)).collect();
        for (position, mac) in spares.iter().enumerate() {
            assert_eq!(Mac::try_from(mac.octets()), Ok(*mac));
            assert!(!spares.iter().take(position).any(|earlier| earlier == mac));
        }
        assert_ne!(Mac::spare("web", 0), Mac::spare("db", 0));
    }

    #[test]
    fn default_mac_is_0242_and_the_ipv4_address() {
        assert_eq!(
            Mac::from_ipv4(Ipv4Addr::new(7, 7, 7, 2)).to_string(),
            "02:42:07:07:07:02"
        );
    }
}
