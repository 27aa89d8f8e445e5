//! DHCP and router advertisements of a network: an object of the registry.
//!
//! Nothing is leased: an endpoint's addresses are the registry's, and a lease is a time only.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use overlay_api::{DEFAULT_LEASE_S, DhcpRoute, GATEWAY_MAC, Pxe};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    Key, Kind, Mac, Network, Object, ObjectId, Reference, Resource, RouterPort, RouterPortRow, Vni,
    ipam, is_assignable,
};

/// The DHCPv4 server's address where the network has no subnet to take one from. Nobody makes an address of these 256
/// himself (RFC 3927 section 2.1).
pub const LINK_LOCAL_SERVER: Ipv4Addr = Ipv4Addr::new(169, 254, 0, 1);

/// Servers of a kind, and routes, that fit every answer beside all else.
const MOST_SERVERS: usize = 8;
const MOST_ROUTES: usize = 16;
/// A shorter lease would be renewed all the time.
const SHORTEST_LEASE_S: u32 = 120;
/// Characters of a domain (RFC 1035 section 2.3.4) and of each of its labels.
const LONGEST_DOMAIN: usize = 253;
const LONGEST_LABEL: usize = 63;
/// Characters of the file in a DHCPv4 header, which ends with a zero (RFC 2131 section 2).
const LONGEST_FILE: usize = 127;

/// What a network tells its endpoints, and whether it does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dhcp {
    /// The network.
    pub vni: Vni,
    /// Whether it is on.
    pub on: bool,
    /// Name servers, of both families.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dns: Vec<IpAddr>,
    /// The domain of host names without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// NTP servers, of both families.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ntp: Vec<IpAddr>,
    /// Seconds of a lease.
    pub lease_s: u32,
    /// Routes beside the default route.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<DhcpRoute>,
    /// What machines boot from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pxe: Option<Pxe>,
}

impl Dhcp {
    /// A network that tells its endpoints their addresses and nothing else.
    #[must_use]
    pub const fn new(vni: Vni) -> Self {
        Self {
            vni,
            on: true,
            dns: Vec::new(),
            domain: None,
            ntp: Vec::new(),
            lease_s: DEFAULT_LEASE_S,
            routes: Vec::new(),
            pxe: None,
        }
    }

    /// Names the one of a network.
    #[must_use]
    pub fn id_of(vni: Vni) -> ObjectId {
        Self::id(vni.into())
    }

    /// Whether an object, which makes sense, says that it is on. Spares reading the rest.
    #[must_use]
    pub fn is_on(object: &Object) -> bool {
        object.body.get("on").and_then(Value::as_bool) == Some(true)
    }
}

impl Resource for Dhcp {
    const KIND: Kind = Kind::new("dhcp");

    fn key(&self) -> Key {
        self.vni.into()
    }

    fn references(&self) -> Vec<Reference> {
        vec![Reference::cascade(ObjectId::of_network(self.vni))]
    }

    fn check(&self) -> Result<(), String> {
        for (what, servers) in [("name", &self.dns), ("NTP", &self.ntp)] {
            if servers.len() > MOST_SERVERS {
                return Err(format!("{MOST_SERVERS} {what} servers are the most"));
            }
            if let Some(bad) = servers.iter().find(|ip| !is_assignable(**ip)) {
                return Err(format!("{what} server {bad} is no address of a host"));
            }
        }
        if self.routes.len() > MOST_ROUTES {
            return Err(format!("{MOST_ROUTES} routes are the most"));
        }
        if let Some(bad) = self.routes.iter().find(|it| !is_assignable(it.via.into())) {
            return Err(format!("next hop {} is no address of a host", bad.via));
        }
        // The largest number means for ever, and then nothing would be renewed.
        if !(SHORTEST_LEASE_S..u32::MAX).contains(&self.lease_s) {
            return Err(format!(
                "a lease of {} s is out of range: {SHORTEST_LEASE_S} to {} s",
                self.lease_s,
                u32::MAX - 1
            ));
        }
        self.domain.as_deref().map_or(Ok(()), check_domain)?;
        self.pxe.as_ref().map_or(Ok(()), check_pxe)
    }
}

fn check_domain(domain: &str) -> Result<(), String> {
    let is_label = |label: &str| {
        let mut bytes = label.bytes();
        (1..=LONGEST_LABEL).contains(&label.len())
            && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if domain.len() <= LONGEST_DOMAIN && domain.split('.').all(is_label) {
        return Ok(());
    }
    Err(format!(
        "domain {domain:?} is malformed: write letters, digits and hyphens, with dots between, for example \
         cloud.example"
    ))
}

fn check_pxe(pxe: &Pxe) -> Result<(), String> {
    if !is_assignable(pxe.server.into()) {
        return Err(format!(
            "TFTP server {} is no address of a host",
            pxe.server
        ));
    }
    let is_printable = pxe.file.bytes().all(|byte| byte.is_ascii_graphic());
    if (1..=LONGEST_FILE).contains(&pxe.file.len()) && is_printable {
        return Ok(());
    }
    Err(format!(
        "boot file {:?} is none: write 1 to {LONGEST_FILE} printable ASCII characters",
        pxe.file
    ))
}

/// Who answers in a network: its gateway, or without a router a server with an address of its own, so that clients can
/// renew by asking it alone.
///
/// `None`: nobody does. `served` is the network if it answers DHCP.
#[must_use]
pub fn responder(port: Option<&RouterPort>, served: Option<&Network>) -> Option<RouterPortRow> {
    if let Some(port) = port {
        return Some(port.into());
    }
    Some(RouterPortRow {
        router: 0,
        mac: Mac::try_from(GATEWAY_MAC).ok()?,
        ipv4: Some(server_of(served?)),
        ipv6: None,
    })
}

/// The first address of the network's first subnet of IPv4, which no endpoint is handed out.
fn server_of(network: &Network) -> Ipv4Addr {
    let subnets = network.subnets.iter().filter_map(|subnet| match subnet {
        IpNet::V4(net) if net.prefix_len() < 31 => Some(ipam::first_host(subnet)),
        _ => None,
    });
    let first = subnets.filter_map(|ip| match ip {
        IpAddr::V4(ip) => Some(ip),
        IpAddr::V6(_) => None,
    });
    first.into_iter().next().unwrap_or(LINK_LOCAL_SERVER)
}

impl From<&RouterPort> for RouterPortRow {
    fn from(port: &RouterPort) -> Self {
        let mut row = Self {
            router: port.router_id,
            mac: port.mac,
            ipv4: None,
            ipv6: None,
        };
        for gateway in port.gateways() {
            match gateway {
                IpAddr::V4(ip) => row.ipv4 = Some(ip),
                IpAddr::V6(ip) => row.ipv6 = Some(ip),
            }
        }
        row
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vni() -> Vni {
        "42".parse().unwrap()
    }

    #[test]
    fn it_is_its_networks_and_goes_with_it() {
        let dhcp = Dhcp {
            dns: vec!["8.8.8.8".parse().unwrap(), "fd00::53".parse().unwrap()],
            domain: Some("cloud.example".to_owned()),
            routes: vec!["10.9.0.0/16=7.7.7.9".parse().unwrap()],
            pxe: Some(Pxe {
                server: "7.7.7.5".parse().unwrap(),
                file: "boot/pxelinux.0".to_owned(),
            }),
            ..Dhcp::new(vni())
        };
        let object = dhcp.to_object().unwrap();
        assert_eq!(object.id.to_word(), "dhcp/42");
        assert_eq!(Dhcp::of(&object), Ok(dhcp));
        assert_eq!(
            object.references,
            [Reference::cascade(ObjectId::of_network(vni()))]
        );
        assert!(object.claims.is_empty() && Dhcp::is_on(&object));
        let off = Dhcp {
            on: false,
            ..Dhcp::new(vni())
        };
        assert!(!Dhcp::is_on(&off.to_object().unwrap()));
    }

    #[test]
    fn what_would_not_fit_an_answer_or_mean_nothing_is_refused() {
        let good = Dhcp::new(vni());
        assert_eq!(good.check(), Ok(()));
        let host: IpAddr = "7.7.7.7".parse().unwrap();
        let domain = |text: &str| Dhcp {
            domain: Some(text.to_owned()),
            ..good.clone()
        };
        let pxe = |file: String| Dhcp {
            pxe: Some(Pxe {
                server: "7.7.7.5".parse().unwrap(),
                file,
            }),
            ..good.clone()
        };
        let lease = |lease_s| Dhcp {
            lease_s,
            ..good.clone()
        };
        for bad in [
            Dhcp {
                dns: vec![host; 9],
                ..good.clone()
            },
            Dhcp {
                ntp: vec!["ff02::1".parse().unwrap()],
                ..good.clone()
            },
            Dhcp {
                routes: vec!["10.0.0.0/8=7.7.7.9".parse().unwrap(); 17],
                ..good.clone()
            },
            domain(""),
            domain("a..b"),
            domain("-a.example"),
            domain(&"a".repeat(64)),
            domain(&["abcdefg"; 40].join(".")),
            domain("exa mple"),
            pxe(String::new()),
            pxe("a".repeat(128)),
            pxe("a\nb".to_owned()),
            lease(0),
            lease(119),
            lease(u32::MAX),
        ] {
            assert!(bad.check().is_err(), "{bad:?}");
        }
        assert_eq!(domain("a.b-c.example").check(), Ok(()));
        assert_eq!(lease(120).check(), Ok(()));
    }

    #[test]
    fn a_gateway_answers_or_else_an_address_that_nobody_is_handed_out() {
        let mut network = Network::new("blue".parse().unwrap(), vni());
        let port = RouterPort {
            vni: vni(),
            router: "r1".parse().unwrap(),
            router_id: 7,
            mac: "02:00:00:00:00:07".parse().unwrap(),
            outside: crate::model::Outside::None,
            nptv6: None,
            addresses: vec![
                "7.7.7.254/24".parse().unwrap(),
                "fd00::1/64".parse().unwrap(),
            ],
        };
        let row = responder(Some(&port), None).unwrap();
        assert_eq!((row.router, row.mac), (7, port.mac));
        assert_eq!(row.ipv4, Some("7.7.7.254".parse().unwrap()));
        assert_eq!(row.ipv6, Some("fd00::1".parse().unwrap()));
        assert_eq!(responder(None, None), None);
        let server = |network: &Network| {
            let row = responder(None, Some(network)).unwrap();
            assert_eq!((row.router, row.ipv6), (0, None));
            row.ipv4.unwrap().to_string()
        };
        assert_eq!(server(&network), "169.254.0.1");
        network.subnets = vec!["fd00::/64".parse().unwrap(), "7.7.7.8/31".parse().unwrap()];
        assert_eq!(server(&network), "169.254.0.1");
        network.subnets.push("7.7.8.0/24".parse().unwrap());
        assert_eq!(server(&network), "7.7.8.1");
    }
}
