//! IP addresses that an endpoint can have.

use std::{fmt, net::IpAddr, str::FromStr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{ErrorKind, Name, OperationError};

/// Whether `ip` can name one host. An IPv4-mapped IPv6 address can't: it would be a second spelling
/// of an IPv4 address and get past its uniqueness.
#[must_use]
pub fn is_unicast(ip: IpAddr) -> bool {
    let is_special = match ip {
        IpAddr::V4(ip) => ip.is_broadcast(),
        IpAddr::V6(ip) => ip.to_ipv4_mapped().is_some(),
    };
    !(is_special || ip.is_multicast() || ip.is_unspecified())
}

/// Whether an endpoint can have `ip`, whatever its network allows.
#[must_use]
pub fn is_assignable(ip: IpAddr) -> bool {
    is_unicast(ip) && !ip.is_loopback()
}

/// Whether a subnet has one or two addresses, none of which means the subnet or all of it.
#[must_use]
pub fn is_point_to_point(subnet: &IpNet) -> bool {
    subnet.max_prefix_len() - subnet.prefix_len() <= 1
}

/// An IP address for an endpoint, with its prefix length or without: `7.7.7.2/24`, `fd00::2`.
///
/// Without one it takes the length of the network's subnet that it lies in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(
    feature = "schema",
    derive(schemars::JsonSchema),
    schemars(extend("examples" = ["7.7.7.2/24", "fd00::2"]))
)]
#[serde(try_from = "String", into = "String")]
pub struct AddressRequest {
    ip: IpAddr,
    prefix_len: Option<u8>,
}

impl AddressRequest {
    /// The address that an endpoint gets in a network with these subnets.
    ///
    /// Its prefix length is that of the subnet it lies in, whether that was asked for or not. Refused: there is none,
    /// it is another, or a host can't have the address.
    pub fn in_network(self, network: &Name, subnets: &[IpNet]) -> Result<IpNet, OperationError> {
        let refused = |message| OperationError::new(ErrorKind::Refused, message);
        let Self { ip, prefix_len } = self;
        let subnet = subnets.iter().find(|subnet| subnet.contains(&ip));
        if let (Some(subnet), Some(length)) = (subnet, prefix_len)
            && length != subnet.prefix_len()
        {
            return Err(refused(format!(
                "IP {ip}/{length} has another prefix length than subnet {subnet} of network {network}: write \
                 {ip}/{}",
                subnet.prefix_len()
            )));
        }
        match prefix_len.or(subnet.map(IpNet::prefix_len)) {
            Some(length) => host_address(ip, length).map_err(refused),
            // The registry says which subnets there are.
            None if !subnets.is_empty() => Ok(ip.into()),
            None => Err(refused(format!(
                "IP {ip} has no prefix length, and network {network} no subnet to take it from: write \
                 for example {ip}/{usual}",
                usual = if ip.is_ipv4() { 24 } else { 64 },
            ))),
        }
    }
}

/// Refuses what no host can have as its address.
fn host_address(ip: IpAddr, prefix_len: u8) -> Result<IpNet, String> {
    if !is_assignable(ip) {
        return Err(format!(
            "IP {ip} is no unicast address that an endpoint could have"
        ));
    }
    let address = IpNet::new(ip, prefix_len)
        .map_err(|_| format!("IP {ip}/{prefix_len} is malformed: the prefix length is too long"))?;
    let subnet = address.trunc();
    let meaning = match address {
        _ if is_point_to_point(&address) => return Ok(address),
        IpNet::V4(_) if ip == subnet.network() => "the network address (the first)",
        IpNet::V4(_) if ip == subnet.broadcast() => "the broadcast address (the last address)",
        IpNet::V6(_) if ip == subnet.network() => "the routers' anycast address (the first)",
        _ => return Ok(address),
    };
    Err(format!(
        "IP {address} is {meaning} of {subnet}: choose another in it"
    ))
}

impl From<IpNet> for AddressRequest {
    fn from(address: IpNet) -> Self {
        Self {
            ip: address.addr(),
            prefix_len: Some(address.prefix_len()),
        }
    }
}

impl FromStr for AddressRequest {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let malformed =
            || format!("IP {text:?} is malformed: write for example 7.7.7.2/24 or fd00::2/64");
        let (ip, prefix_len) = if text.contains('/') {
            let address: IpNet = text.parse().map_err(|_| malformed())?;
            (address.addr(), Some(address.prefix_len()))
        } else {
            (text.parse().map_err(|_| malformed())?, None)
        };
        let longest = IpNet::from(ip).max_prefix_len();
        host_address(ip, prefix_len.unwrap_or(longest))?;
        Ok(Self { ip, prefix_len })
    }
}

impl TryFrom<String> for AddressRequest {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<AddressRequest> for String {
    fn from(address: AddressRequest) -> Self {
        address.to_string()
    }
}

impl fmt::Display for AddressRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.prefix_len {
            None => self.ip.fmt(f),
            Some(length) => write!(f, "{}/{length}", self.ip),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The address in network blue with these subnets.
    fn in_network(ip: &str, subnets: &[&str]) -> Result<IpNet, OperationError> {
        let asked: AddressRequest = ip.parse().unwrap();
        let subnets: Vec<IpNet> = subnets.iter().map(|net| net.parse().unwrap()).collect();
        asked.in_network(&"blue".parse().unwrap(), &subnets)
    }

    #[test]
    fn addresses_print_as_they_parse() {
        for text in [
            "7.7.7.2",
            "7.7.7.2/24",
            "fd00::2",
            "fd00::2/64",
            "7.7.7.0/31",
            "7.7.7.1/31",
            "7.7.7.0/32",
            "fd00::/127",
            "fd00::/128",
            "fd00::ffff:ffff:ffff:ffff/64",
        ] {
            assert_eq!(text.parse::<AddressRequest>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn addresses_that_no_host_can_have_are_refused() {
        for (text, why) in [
            ("", "malformed"),
            ("7.7.7", "malformed"),
            ("7.7.7.2/33", "malformed"),
            ("7.7.7.2/", "malformed"),
            ("fd00::2/129", "malformed"),
            ("hello", "malformed"),
            ("224.0.0.1", "no unicast address"),
            ("ff02::1", "no unicast address"),
            ("0.0.0.0", "no unicast address"),
            ("::ffff:7.7.7.2", "no unicast address"),
            ("::", "no unicast address"),
            ("127.0.0.1", "no unicast address"),
            ("255.255.255.255", "no unicast address"),
            ("7.7.7.0/24", "network address (the first) of 7.7.7.0/24"),
            (
                "7.7.7.255/24",
                "broadcast address (the last address) of 7.7.7.0/24",
            ),
            ("fd00::/64", "anycast address (the first) of fd00::/64"),
            ("10.0.0.4/30", "network address (the first) of 10.0.0.4/30"),
            ("fd00::4/126", "anycast address (the first) of fd00::4/126"),
        ] {
            let error = text.parse::<AddressRequest>().unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn an_address_without_a_length_takes_the_subnets() {
        let bare = |ip: &str| in_network(ip, &["7.7.7.0/24"]);
        assert_eq!(bare("7.7.7.2").unwrap().to_string(), "7.7.7.2/24");
        for edge in ["7.7.7.0", "7.7.7.255"] {
            assert_eq!(bare(edge).unwrap_err().kind, ErrorKind::Refused);
        }
        // Outside of them: the registry refuses it, and says which subnets there are.
        assert_eq!(bare("8.8.8.8").unwrap().to_string(), "8.8.8.8/32");
    }

    #[test]
    fn an_address_with_another_length_than_its_subnets_is_refused_with_the_right_one() {
        let subnets = ["7.8.7.0/24", "fd00::/64"];
        for (asked, right) in [
            ("7.8.7.5/8", "7.8.7.5/24"),
            ("7.8.7.5/32", "7.8.7.5/24"),
            ("fd00::5/48", "fd00::5/64"),
        ] {
            let refusal = in_network(asked, &subnets).unwrap_err();
            assert_eq!(refusal.kind, ErrorKind::Refused);
            let end = format!("write {right}");
            assert!(refusal.message.ends_with(&end), "{}", refusal.message);
            assert!(in_network(right, &subnets).is_ok());
        }
    }

    #[test]
    fn the_anycast_address_of_an_ipv6_subnet_is_refused() {
        let refusal = in_network("fd00::", &["fd00::/64"]).unwrap_err();
        assert!(refusal.message.contains("anycast"), "{}", refusal.message);
    }

    #[test]
    fn without_a_subnet_an_address_needs_its_length() {
        let asked = |ip: &str| in_network(ip, &[]);
        assert_eq!(asked("7.7.7.2/24").unwrap().to_string(), "7.7.7.2/24");
        let refusal = asked("7.7.7.2").unwrap_err();
        assert_eq!(refusal.kind, ErrorKind::Refused);
        assert!(
            refusal.message.ends_with("7.7.7.2/24"),
            "{}",
            refusal.message
        );
    }
}
