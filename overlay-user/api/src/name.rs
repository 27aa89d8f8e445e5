//! Names of networks, nodes, endpoints, instances, namespaces and interfaces.
//!
//! A [`Name`] may become a path component or a netlink string, so it can't hold a slash, a dot
//! alone, white space or anything that a shell would read. Up to 24 characters are held without an
//! allocation: a million endpoints have a million names.

use std::{fmt, str::FromStr};

use compact_str::CompactString;
use serde::{Deserialize, Serialize};

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// A name outside the alphabet or the length.
    #[error(
        "name {0:?} is not allowed: use 1 to 63 of a-z A-Z 0-9 . _ - and start with a letter or digit"
    )]
    Name(String),
    /// The kernel's rule (`dev_valid_name` in net/core/dev.c), tightened to one alphabet.
    #[error(
        "interface name {0:?} is not allowed: use 1 to 15 of a-z A-Z 0-9 . _ - and start with a letter or digit"
    )]
    IfName(String),
}

fn is_plain(text: &str, longest: usize) -> bool {
    text.len() <= longest
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
}

macro_rules! plain_name {
    ($(#[$doc:meta])* $name:ident, $longest:literal, $error:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[cfg_attr(
            feature = "schema",
            derive(schemars::JsonSchema),
            schemars(extend("pattern" = "^[a-zA-Z0-9][a-zA-Z0-9._-]*$", "maxLength" = $longest))
        )]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(#[cfg_attr(feature = "schema", schemars(with = "String"))] CompactString);

        impl $name {
            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                if is_plain(text, $longest) {
                    Ok(Self(text.into()))
                } else {
                    Err(NameError::$error(text.to_owned()))
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, Self::Error> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0.into_string()
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

plain_name! {
    /// The name of a network, node, endpoint, instance or namespace: 1 to 63 characters.
    ///
    /// Letters, digits, dot, underscore and hyphen, the first a letter or a digit.
    Name, 63, Name
}

plain_name! {
    /// The name of a network interface: 1 to 15 characters (`IFNAMSIZ` - 1) of the same alphabet.
    IfName, 15, IfName
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_leave_their_folder_are_refused() {
        for bad in [
            "", ".", "..", "../x", "a/b", "a b", "-x", "a\0", "ä", "$(id)",
        ] {
            assert!(bad.parse::<Name>().is_err(), "{bad:?}");
            assert!(bad.parse::<IfName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn length_limits_are_63_and_15() {
        assert!("a".repeat(63).parse::<Name>().is_ok());
        assert!("a".repeat(64).parse::<Name>().is_err());
        assert!("a".repeat(15).parse::<IfName>().is_ok());
        assert!("a".repeat(16).parse::<IfName>().is_err());
    }
}
