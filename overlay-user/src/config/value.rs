//! The values of single settings: each is checked while it is parsed, by the same code whether it
//! comes from a flag, a variable or the file.

use std::{
    net::{Ipv4Addr, SocketAddr},
    ops::RangeInclusive,
    str::FromStr,
    time::Duration,
};

use ipnet::Ipv4Net;
use serde::Deserialize;
use tracing_subscriber::EnvFilter;

use super::ConfigError;
use crate::model::is_assignable;

/// A UDP port, 1..=65535, host byte order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "i64")]
pub struct Port(pub(super) u16);

impl FromStr for Port {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.parse() {
            Ok(number) if number != 0 => Ok(Self(number)),
            _ => Err(ConfigError::Port(text.to_owned())),
        }
    }
}

/// A range of ports, `FIRST-LAST`: 1024..=65535, 256 or more of them.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct PortRange(pub(super) RangeInclusive<u16>);

impl FromStr for PortRange {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const LEAST: u16 = 256;
        let ends = text.split_once('-');
        let range = ends.and_then(|(first, last)| Some((first.parse().ok()?, last.parse().ok()?)));
        match range {
            Some((first @ 1024.., last)) if last >= first && last - first >= LEAST - 1 => {
                Ok(Self(first..=last))
            }
            _ => Err(ConfigError::PortRange(text.to_owned())),
        }
    }
}

/// A gateway's IPv4 address, and the length of its subnet's prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Gateway(pub(super) Ipv4Net);

impl FromStr for Gateway {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parsed = text.parse::<Ipv4Net>().ok();
        // The addresses between the first and the last are hosts'.
        let is_hosts = |it: &Ipv4Net| {
            let ends = [it.network(), it.broadcast()];
            it.prefix_len() <= 30 && !ends.contains(&it.addr()) && is_assignable(it.addr().into())
        };
        match parsed.filter(is_hosts) {
            Some(gateway) => Ok(Self(gateway)),
            None => Err(ConfigError::Gateway(text.to_owned())),
        }
    }
}

/// How many entries a table takes, `MIN`..=`MAX`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "i64")]
pub struct Count<const MIN: u32, const MAX: u32>(pub(super) u32);

/// The capacity of a BPF map.
pub type Entries = Count<1024, { 1 << 24 }>;
/// What the on-demand cache holds at most; small caches are good for tests.
pub type CacheEntries = Count<16, { 1 << 24 }>;

impl<const MIN: u32, const MAX: u32> FromStr for Count<MIN, MAX> {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.parse() {
            Ok(number) if (MIN..=MAX).contains(&number) => Ok(Self(number)),
            _ => Err(ConfigError::Entries {
                text: text.to_owned(),
                min: MIN,
                max: MAX,
            }),
        }
    }
}

/// A span of time of `MIN`..=`MAX` milliseconds: `30s`, `5m`, `1h30m`, `200ms`; a bare number is
/// seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Period<const MIN: u64, const MAX: u64>(pub(super) Duration);

const MINUTE: u64 = 60_000;
const DAY: u64 = 24 * 60 * MINUTE;

/// How long a removed address stays reserved; 0: not at all.
pub type Quarantine = Period<0, DAY>;
/// How long a dead node's endpoints count as up.
pub type NodeGrace = Period<0, DAY>;
/// After how long an unused entry of the on-demand cache goes.
pub type CacheIdle = Period<1_000, DAY>;
/// How long the answer "nobody has it" is believed.
pub type NegativeTtl = Period<100, { 60 * MINUTE }>;
/// How often something is shown again.
pub type WatchPeriod = Period<100, DAY>;
/// How long a DHCP client may go without asking again: what its lease says in seconds, of which the largest number means
/// for ever.
pub type LeaseTime = Period<{ 2 * MINUTE }, { (u32::MAX as u64 - 1) * 1000 }>;
/// How long an answer is waited for.
pub type Patience = Period<1, DAY>;

impl<const MIN: u64, const MAX: u64> Period<MIN, MAX> {
    /// How long it is.
    #[must_use]
    pub const fn get(self) -> Duration {
        self.0
    }
}

impl<const MIN: u64, const MAX: u64> FromStr for Period<MIN, MAX> {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let seconds = text.parse().ok().map(Duration::from_secs);
        let written = || text.parse::<jiff::SignedDuration>().ok()?.try_into().ok();
        let (min, max) = (Duration::from_millis(MIN), Duration::from_millis(MAX));
        seconds
            .or_else(written)
            .filter(|period| (min..=max).contains(period))
            .map(Self)
            .ok_or_else(|| ConfigError::Period {
                text: text.to_owned(),
                min,
                max,
            })
    }
}

/// Where the metrics are served. An address without a host part is this host's loopback:
/// `9090`, `:9090` and `localhost:9090` are 127.0.0.1:9090.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct MetricsAddress(pub(super) SocketAddr);

impl FromStr for MetricsAddress {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let address = match text.strip_prefix("localhost:").or(text.strip_prefix(':')) {
            Some(port) => port.parse().ok().map(on_loopback),
            None => text
                .parse()
                .ok()
                .or_else(|| text.parse().ok().map(on_loopback)),
        };
        match address {
            Some(address) if address.port() != 0 => Ok(Self(address)),
            _ => Err(ConfigError::Metrics(text.to_owned())),
        }
    }
}

fn on_loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// What a line of the log looks like.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// A line for people; a record where systemd's journal reads our stderr.
    #[default]
    Text,
    /// A JSON object.
    Json,
}

/// What is logged and how: `[FORMAT,]FILTER`, or either alone. A format is `text` or `json`, all
/// else belongs to the filter.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct LogSetting {
    /// `None`: the default.
    pub format: Option<LogFormat>,
    /// In the syntax of tracing's `EnvFilter`, and accepted by it. `None`: the default.
    pub filter: Option<String>,
}

impl LogSetting {
    /// `self`, and `weaker` where `self` says nothing.
    pub(super) fn or(self, weaker: Self) -> Self {
        Self {
            format: self.format.or(weaker.format),
            filter: self.filter.or(weaker.filter),
        }
    }
}

impl FromStr for LogSetting {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refused = || ConfigError::Log(text.to_owned());
        let mut format = None;
        let mut directives = Vec::new();
        for word in text.split(',') {
            let named = match word {
                "text" => LogFormat::Text,
                "json" => LogFormat::Json,
                _ => {
                    directives.push(word);
                    continue;
                }
            };
            if format.replace(named).is_some_and(|other| other != named) {
                return Err(refused());
            }
        }
        let is_nothing = directives.iter().all(|word| word.trim().is_empty());
        let filter = directives.join(",");
        if (is_nothing && format.is_none()) || EnvFilter::builder().parse(&filter).is_err() {
            return Err(refused());
        }
        Ok(Self {
            format,
            filter: (!is_nothing).then_some(filter),
        })
    }
}

macro_rules! from_the_file {
    ($(($($generics:tt)*) $value:ty, $raw:ty);+ $(;)?) => {
        $(impl<$($generics)*> TryFrom<$raw> for $value {
            type Error = ConfigError;

            fn try_from(raw: $raw) -> Result<Self, Self::Error> {
                raw.to_string().parse()
            }
        })+
    };
}

from_the_file! {
    () Port, i64;
    (const MIN: u32, const MAX: u32) Count<MIN, MAX>, i64;
    (const MIN: u64, const MAX: u64) Period<MIN, MAX>, String;
    () MetricsAddress, String;
    () LogSetting, String;
    () PortRange, String;
    () Gateway, String;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn periods_have_units_and_a_bare_number_is_seconds() {
        for (text, milliseconds) in [
            ("0", 0),
            ("30", 30_000),
            ("30s", 30_000),
            ("1h30m", 5_400_000),
            ("200ms", 200),
            ("5 minutes", 300_000),
        ] {
            let period: Quarantine = text.parse().unwrap();
            assert_eq!(period.0, Duration::from_millis(milliseconds), "{text}");
        }
    }

    #[test]
    fn periods_out_of_range_or_without_sense_are_refused_with_the_range() {
        for text in ["", "x", "-1s", "25h", "1 fortnight", "18446744073709551615"] {
            let line = text.parse::<Quarantine>().unwrap_err().to_string();
            assert!(line.contains("from 0s to 24h"), "{text}: {line}");
        }
        let line = "50ms".parse::<NegativeTtl>().unwrap_err().to_string();
        assert!(line.contains("from 100ms to 1h"), "{line}");
    }

    #[test]
    fn metrics_are_served_on_loopback_unless_an_address_is_told() {
        for (text, expected) in [
            ("9090", "127.0.0.1:9090"),
            (":9090", "127.0.0.1:9090"),
            ("localhost:9090", "127.0.0.1:9090"),
            ("0.0.0.0:9090", "0.0.0.0:9090"),
            ("[::1]:9090", "[::1]:9090"),
        ] {
            let address: MetricsAddress = text.parse().unwrap();
            assert_eq!(address.0.to_string(), expected);
        }
        for text in [
            "",
            ":",
            "0",
            ":0",
            "10.0.0.1",
            "host:9090",
            "65536",
            "::1:x",
        ] {
            assert!(text.parse::<MetricsAddress>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_log_setting_names_a_format_a_filter_or_both() {
        let setting = |format, filter: Option<&str>| LogSetting {
            format,
            filter: filter.map(str::to_owned),
        };
        for (text, expected) in [
            ("json", setting(Some(LogFormat::Json), None)),
            ("debug", setting(None, Some("debug"))),
            (
                "json,info,overlay_bpf=debug",
                setting(Some(LogFormat::Json), Some("info,overlay_bpf=debug")),
            ),
            ("debug,text", setting(Some(LogFormat::Text), Some("debug"))),
        ] {
            assert_eq!(text.parse::<LogSetting>().unwrap(), expected, "{text}");
        }
        for text in ["", " ", ",", "json,text", "a=b=c", "json,a=b=c"] {
            assert!(text.parse::<LogSetting>().is_err(), "{text}");
        }
    }

    #[test]
    fn of_two_log_settings_the_stronger_one_decides_what_it_names() {
        let (strong, weak) = ("json".parse::<LogSetting>(), "text,debug".parse());
        assert_eq!(
            strong.unwrap().or(weak.unwrap()),
            "json,debug".parse().unwrap()
        );
    }
}
