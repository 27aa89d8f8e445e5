//! Names of objects: what they are, and which of that kind.
//!
//! Neither holds white space, a comma or anything that a shell would read. Short ones are held without an
//! allocation.

use std::{fmt, net::IpAddr, str::FromStr};

use compact_str::{CompactString, format_compact};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{Name, Vni};

/// The longest key, bytes.
pub const LONGEST_KEY: usize = 255;

/// Why a kind or a key was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// A kind outside the alphabet or the length.
    #[error("kind {0:?} is not allowed: use 1 to 63 of a-z 0-9 - and start with a letter")]
    Kind(String),
    /// A key outside the alphabet or the length, or with an empty part.
    #[error(
        "key {0:?} is not allowed: use 1 to {LONGEST_KEY} of a-z A-Z 0-9 . _ - : in parts that a / divides"
    )]
    Key(String),
}

const fn is_kind(text: &str) -> bool {
    let mut rest = text.as_bytes();
    if rest.len() > 63 || !matches!(rest, [b'a'..=b'z', ..]) {
        return false;
    }
    while let [first, others @ ..] = rest {
        if !matches!(first, b'a'..=b'z' | b'0'..=b'9' | b'-') {
            return false;
        }
        rest = others;
    }
    true
}

fn is_key(text: &str) -> bool {
    let is_part = |part: &str| {
        let mut chars = part.chars();
        !part.is_empty()
            && chars.all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | ':'))
    };
    text.len() <= LONGEST_KEY && text.split('/').all(is_part)
}

macro_rules! checked_text {
    ($(#[$doc:meta])* $name:ident, $is_allowed:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(CompactString);

        impl $name {
            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = KeyError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                if $is_allowed(text) {
                    Ok(Self(text.into()))
                } else {
                    Err(KeyError::$name(text.to_owned()))
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = KeyError;

            fn try_from(text: String) -> Result<Self, Self::Error> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0.into_string()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

checked_text! {
    /// What an object of the registry is, for example `router`: 1 to 63 characters.
    Kind, is_kind
}

checked_text! {
    /// Which object of its kind it is: names, numbers, addresses and prefixes, divided by `/`.
    Key, is_key
}

impl Kind {
    /// A kind that the source names; one that is not allowed does not compile as a constant.
    ///
    /// # Panics
    ///
    /// If it is not allowed.
    #[must_use]
    pub const fn new(text: &'static str) -> Self {
        assert!(is_kind(text), "a kind is 1 to 63 of a-z 0-9 -");
        Self(CompactString::const_new(text))
    }
}

impl Key {
    /// A key that the source names; one that is not allowed does not compile as a constant.
    ///
    /// # Panics
    ///
    /// If it has another character than `a-z` and `-`.
    #[must_use]
    pub const fn new(text: &'static str) -> Self {
        assert!(is_kind(text), "such a key is 1 to 63 of a-z 0-9 -");
        Self(CompactString::const_new(text))
    }

    /// This and more behind a `/`. Whether all of it is too long the registry says.
    #[must_use]
    pub fn join(&self, part: &Self) -> Self {
        Self(format_compact!("{self}/{part}"))
    }
}

impl From<&Name> for Key {
    fn from(name: &Name) -> Self {
        Self(name.as_str().into())
    }
}

impl From<Vni> for Key {
    fn from(vni: Vni) -> Self {
        Self(format_compact!("{vni}"))
    }
}

impl From<u32> for Key {
    fn from(number: u32) -> Self {
        Self(format_compact!("{number}"))
    }
}

impl From<IpAddr> for Key {
    fn from(ip: IpAddr) -> Self {
        Self(format_compact!("{ip}"))
    }
}

impl From<IpNet> for Key {
    fn from(prefix: IpNet) -> Self {
        Self(format_compact!("{prefix}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_made_of_names_numbers_and_addresses() {
        let name: Name = "a.b_c-d".parse().unwrap();
        let prefix: IpNet = "fd00::/64".parse().unwrap();
        let key = Key::from(&name).join(&prefix.into());
        assert_eq!(key.as_str(), "a.b_c-d/fd00::/64");
        assert_eq!(key.as_str().parse(), Ok(key));
        for good in ["42", "10.0.0.0/8", "::/0", "r1/::/0", "A"] {
            assert!(good.parse::<Key>().is_ok(), "{good:?}");
        }
        for bad in ["", "/", "a/", "/a", "a//b", "a,b", "a b", "ä", "a\n"] {
            assert!(bad.parse::<Key>().is_err(), "{bad:?}");
        }
        assert!("a".repeat(256).parse::<Key>().is_err());
        for bad in ["", "Router", "9", "a_b", "a/b", "-a"] {
            assert!(bad.parse::<Kind>().is_err(), "{bad:?}");
        }
        assert!("router-port".parse::<Kind>().is_ok());
    }
}
