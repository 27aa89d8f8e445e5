//! DHCP and router advertisements: what a network tells its endpoints.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr},
    str::FromStr,
};

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::{Method, Name, NetworkRef, Operation, RemovedView, Vni};

/// Seconds of a lease unless another length is chosen: a day.
pub const DEFAULT_LEASE_S: u32 = 86_400;

/// Changes what a network tells its endpoints by DHCP and router advertisements, and switches that on if it never was.
///
/// What is not given stays. The addresses are the registry's in any case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct SetDhcp {
    /// The network, by name or VNI
    pub network: NetworkRef,
    /// What is taken away first
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub clear: Vec<DhcpOption>,
    /// Name servers, in place of all that there were
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns: Option<Vec<IpAddr>>,
    /// The domain of host names without one
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// NTP servers, in place of all that there were
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ntp: Option<Vec<IpAddr>>,
    /// Seconds of a lease, 120 to 4294967294
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_s: Option<u32>,
    /// Routes beside the default route, in place of all that there were
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub routes: Option<Vec<DhcpRoute>>,
    /// What machines boot from
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pxe: Option<Pxe>,
}

impl Operation for SetDhcp {
    type Answer = DhcpView;
    const METHOD: Method = Method::Patch;
    const PATH: &'static str = "/v1/dhcp/{network}";
    const VERB: &'static str = "dhcp set";
}

/// Lists the networks that have something to tell, by VNI.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ListDhcp {}

impl Operation for ListDhcp {
    type Answer = Vec<DhcpView>;
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/dhcp";
    const VERB: &'static str = "dhcp ls";
}

/// Shows what a network tells its endpoints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "cli", derive(clap::Args))]
#[serde(deny_unknown_fields)]
pub struct ShowDhcp {
    /// The network, by name or VNI
    pub network: NetworkRef,
}

impl Operation for ShowDhcp {
    type Answer = DhcpView;
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/dhcp/{network}";
    const VERB: &'static str = "dhcp show";
}

/// Takes all that away, and with it DHCP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct RemoveDhcp {
    /// The network, by name or VNI
    pub network: NetworkRef,
}

impl Operation for RemoveDhcp {
    type Answer = RemovedView;
    const METHOD: Method = Method::Delete;
    const PATH: &'static str = "/v1/dhcp/{network}";
    const VERB: &'static str = "dhcp rm";
}

/// Something that can be taken away by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "snake_case")]
pub enum DhcpOption {
    /// All name servers
    Dns,
    /// The domain
    Domain,
    /// All NTP servers
    Ntp,
    /// The length of leases: a day again
    Lease,
    /// All routes
    Route,
    /// What machines boot from
    Pxe,
}

/// A route that clients are told of: `CIDR=A`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(
    feature = "schema",
    derive(schemars::JsonSchema),
    schemars(with = "String", extend("examples" = ["10.9.0.0/16=7.7.7.9"]))
)]
#[serde(try_from = "String", into = "String")]
pub struct DhcpRoute {
    /// Where to.
    pub prefix: Ipv4Net,
    /// The next hop.
    pub via: Ipv4Addr,
}

impl FromStr for DhcpRoute {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts = text.split_once('=');
        let route = parts.and_then(|(prefix, via)| {
            let prefix: Ipv4Net = prefix.parse().ok()?;
            let via = via.parse().ok()?;
            Some(Self {
                prefix: prefix.trunc(),
                via,
            })
        });
        route.ok_or_else(|| {
            format!(
                "route {text:?} is malformed: write CIDR=A of IPv4, for example 10.9.0.0/16=7.7.7.9 (DHCPv6 has no \
                 routes: `overlay router route add` is for those of IPv6)"
            )
        })
    }
}

impl TryFrom<String> for DhcpRoute {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<DhcpRoute> for String {
    fn from(route: DhcpRoute) -> Self {
        route.to_string()
    }
}

impl fmt::Display for DhcpRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.prefix, self.via)
    }
}

/// What machines boot from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Pxe {
    /// The TFTP server.
    pub server: Ipv4Addr,
    /// The file, 1 to 127 printable ASCII characters.
    pub file: String,
}

/// What a network tells its endpoints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct DhcpView {
    /// The network.
    pub vni: Vni,
    /// Its name; `null`: the network is not known here.
    pub network: Option<Name>,
    /// Whether it answers DHCP and advertises routers.
    pub on: bool,
    /// The address that its server of DHCP answers from; `null`: it is off.
    pub server: Option<Ipv4Addr>,
    /// Name servers, of both families.
    pub dns: Vec<IpAddr>,
    /// The domain of host names without one; `null`: none.
    pub domain: Option<String>,
    /// NTP servers, of both families.
    pub ntp: Vec<IpAddr>,
    /// Seconds of a lease.
    pub lease_s: u32,
    /// Routes beside the default route.
    pub routes: Vec<DhcpRoute>,
    /// What machines boot from; `null`: nothing.
    pub pxe: Option<Pxe>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_print_as_they_parse() {
        for text in ["10.9.0.0/16=7.7.7.9", "0.0.0.0/0=7.7.7.1"] {
            assert_eq!(text.parse::<DhcpRoute>().unwrap().to_string(), text);
        }
        let route: DhcpRoute = "10.9.1.1/16=7.7.7.9".parse().unwrap();
        assert_eq!(route.to_string(), "10.9.0.0/16=7.7.7.9");
        for text in [
            "",
            "10.9.0.0/16",
            "10.9.0.0=7.7.7.9",
            "fd00::/64=fd00::1",
            "10.9.0.0/16=x",
        ] {
            assert!(text.parse::<DhcpRoute>().is_err(), "{text}");
        }
    }
}
