//! Network namespaces as people name them.

use std::{fmt, path::PathBuf, str::FromStr};

use serde::{Deserialize, Serialize};

use super::{Name, NameError};

/// A network namespace, as iproute2 takes it: a name, a process ID, or a path with a slash.
///
/// The agent makes a namespace that is named and missing. One that a process or a path names has to be there, and is
/// never removed by the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(
    feature = "schema",
    derive(schemars::JsonSchema),
    schemars(extend("examples" = ["web", "13332", "/run/docker/netns/3e1fd9b5b8a2"]))
)]
#[serde(try_from = "String", into = "String")]
pub enum NetnsRef {
    /// A name under `/run/netns`.
    Name(Name),
    /// The namespace of this process, on the agent's host.
    Pid(u32),
    /// A file that is bound to a namespace, on the agent's host: it has to be absolute.
    Path(PathBuf),
}

impl FromStr for NetnsRef {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.contains('/') {
            return Ok(Self::Path(text.into()));
        }
        if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
            return match text.parse() {
                Ok(pid) if pid > 0 => Ok(Self::Pid(pid)),
                _ => Err(format!(
                    "{text} is no process ID; for a namespace of that name write /run/netns/{text}"
                )),
            };
        }
        let name = text.parse().map_err(|error: NameError| {
            format!("{error}; or write a process ID, or a path with a slash in it")
        });
        name.map(Self::Name)
    }
}

impl TryFrom<String> for NetnsRef {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<NetnsRef> for String {
    fn from(netns: NetnsRef) -> Self {
        netns.to_string()
    }
}

impl fmt::Display for NetnsRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => name.fmt(f),
            Self::Pid(pid) => pid.fmt(f),
            Self::Path(path) => path.display().fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_a_name_a_process_or_a_path() {
        for (text, expected) in [
            ("web", NetnsRef::Name("web".parse().unwrap())),
            ("7eleven", NetnsRef::Name("7eleven".parse().unwrap())),
            ("13332", NetnsRef::Pid(13332)),
            (
                "/run/netns/13332",
                NetnsRef::Path("/run/netns/13332".into()),
            ),
            ("../x", NetnsRef::Path("../x".into())),
        ] {
            assert_eq!(text.parse::<NetnsRef>().unwrap(), expected);
            assert_eq!(expected.to_string(), text);
        }
        for bad in ["", "..", "a b", "0", "99999999999"] {
            assert!(bad.parse::<NetnsRef>().is_err(), "{bad}");
        }
    }
}
