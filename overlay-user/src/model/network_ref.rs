//! How people name networks.

use std::{collections::BTreeSet, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::{AddressError, Name, Network, Vni};

/// A network, by its VNI or by its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "NumberOrText", into = "NumberOrText")]
pub enum NetworkRef {
    /// By its VNI, or by a name that looks like one.
    Vni(Vni),
    /// By its name.
    Name(Name),
}

impl NetworkRef {
    /// Whether it refers to this network.
    #[must_use]
    pub fn is(&self, network: &Network) -> bool {
        match self {
            Self::Vni(vni) => network.vni == *vni,
            Self::Name(name) => network.name == *name,
        }
    }
}

impl From<Vni> for NetworkRef {
    fn from(vni: Vni) -> Self {
        Self::Vni(vni)
    }
}

impl FromStr for NetworkRef {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
        match text.parse() {
            Ok(name) if !is_number => Ok(Self::Name(name)),
            _ => text
                .parse()
                .map(Self::Vni)
                .map_err(|error: AddressError| format!("{error}, nor a network's name")),
        }
    }
}

impl fmt::Display for NetworkRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vni(vni) => vni.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

/// The VNI of a network that is to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "NumberOrText", into = "NumberOrText")]
pub enum VniChoice {
    /// This one.
    Vni(Vni),
    /// A free one, see [`AUTO_VNI`].
    Auto,
}

/// The lowest VNI that a network gets which asks for none: as with Docker's overlay networks, those below
/// are left to people, who often number networks as they number VLANs.
pub const AUTO_VNI: u32 = 4096;

/// The lowest of those that is none of `taken`. `None`: there is none.
#[must_use]
pub fn free_vni(taken: &BTreeSet<Vni>) -> Option<Vni> {
    let mut all = (AUTO_VNI..=Vni::MAX).filter_map(|number| Vni::try_from(number).ok());
    all.find(|vni| !taken.contains(vni))
}

impl FromStr for VniChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        text.parse()
            .map(Self::Vni)
            .map_err(|error: AddressError| format!("{error}, nor auto for a free one"))
    }
}

impl fmt::Display for VniChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vni(vni) => vni.fmt(f),
            Self::Auto => f.write_str("auto"),
        }
    }
}

/// A VNI is a number in JSON, and text in a URL.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum NumberOrText {
    Number(i64),
    Text(String),
}

impl NumberOrText {
    fn parse<T: FromStr<Err = String>>(&self) -> Result<T, String> {
        match self {
            Self::Number(number) => number.to_string().parse(),
            Self::Text(text) => text.parse(),
        }
    }
}

impl TryFrom<NumberOrText> for NetworkRef {
    type Error = String;

    fn try_from(value: NumberOrText) -> Result<Self, Self::Error> {
        value.parse()
    }
}

impl From<NetworkRef> for NumberOrText {
    fn from(network: NetworkRef) -> Self {
        match network {
            NetworkRef::Vni(vni) => Self::Number(vni.get().into()),
            NetworkRef::Name(name) => Self::Text(name.to_string()),
        }
    }
}

impl TryFrom<NumberOrText> for VniChoice {
    type Error = String;

    fn try_from(value: NumberOrText) -> Result<Self, Self::Error> {
        value.parse()
    }
}

impl From<VniChoice> for NumberOrText {
    fn from(choice: VniChoice) -> Self {
        match choice {
            VniChoice::Vni(vni) => Self::Number(vni.get().into()),
            VniChoice::Auto => Self::Text(choice.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json, to_value};

    use super::*;

    #[test]
    fn a_network_is_named_by_its_vni_or_its_name() {
        for (text, written) in [
            ("42", json!(42)),
            ("blue", json!("blue")),
            ("7eleven", json!("7eleven")),
        ] {
            let network: NetworkRef = text.parse().unwrap();
            assert_eq!(network.to_string(), text);
            assert_eq!(to_value(&network).unwrap(), written);
            assert_eq!(from_value::<NetworkRef>(written).unwrap(), network);
            assert_eq!(from_value::<NetworkRef>(json!(text)).unwrap(), network);
        }
        assert!(from_value::<NetworkRef>(json!(-1)).is_err());
        for bad in ["", "0", "16777216", "a/b", "-1"] {
            let error = bad.parse::<NetworkRef>().unwrap_err();
            assert!(error.contains("is not a number from 1"), "{error}");
        }
    }

    #[test]
    fn a_vni_is_chosen_or_left_to_the_registry() {
        assert_eq!("auto".parse(), Ok(VniChoice::Auto));
        assert_eq!(to_value(VniChoice::Auto).unwrap(), json!("auto"));
        let chosen: VniChoice = "42".parse().unwrap();
        assert_eq!(from_value::<VniChoice>(json!(42)).unwrap(), chosen);
        assert!("blue".parse::<VniChoice>().is_err());
    }

    #[test]
    fn the_lowest_free_vni_of_the_range_is_found() {
        let vnis = |numbers: &[u32]| -> BTreeSet<Vni> {
            numbers
                .iter()
                .map(|number| Vni::try_from(*number).unwrap())
                .collect()
        };
        let free = |taken| free_vni(&vnis(taken)).map(Vni::get);
        assert_eq!(free(&[1, 42]), Some(4096));
        assert_eq!(free(&[4096, 4097, 4099]), Some(4098));
    }
}
