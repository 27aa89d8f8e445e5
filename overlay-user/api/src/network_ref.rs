//! Networks as people name them.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::{AddressError, Name, Vni};

/// A network, by its VNI or by its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(try_from = "NumberOrText", into = "NumberOrText")]
pub enum NetworkRef {
    /// By its VNI, or by a name that looks like one.
    Vni(Vni),
    /// By its name.
    Name(Name),
}

impl NetworkRef {
    /// Whether it refers to the network with this VNI and name.
    #[must_use]
    pub fn is(&self, vni: Vni, name: &Name) -> bool {
        match self {
            Self::Vni(own) => *own == vni,
            Self::Name(own) => own == name,
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

/// The VNI of a network to be made: a number, or `auto`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(try_from = "NumberOrText", into = "NumberOrText")]
pub enum VniChoice {
    /// This one.
    Vni(Vni),
    /// The lowest one from 4096 that is free.
    Auto,
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
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(inline))]
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
}
