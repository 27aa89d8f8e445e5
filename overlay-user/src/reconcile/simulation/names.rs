//! The names and addresses that the simulation draws from.

use std::net::{IpAddr, Ipv4Addr};

use crate::model::{Mac, Name, Vtep, Wanted};

/// This host.
pub(super) const ME: &str = "h1";
/// How many networks, nodes and addresses there are at most: few, so that they are used again.
pub(super) const NETWORKS: usize = 3;
pub(super) const NODES: usize = 4;
pub(super) const ADDRESSES: usize = 8;
pub(super) const NAMES: usize = 24;
/// Namespaces on a host.
pub(super) const PLACES: usize = 5;

pub(super) fn name(text: &str) -> Name {
    text.parse().unwrap()
}

pub(super) fn vtep(last: u8) -> Vtep {
    Vtep {
        ip: [10, 0, 0, last].into(),
        port: 4789,
    }
}

pub(super) fn ip(last: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(7, 7, 7, last))
}

pub(super) fn mac(last: u8) -> Mac {
    Mac::try_from([2, 0x42, 7, 7, 7, last]).unwrap()
}

/// Every address that an endpoint can have.
pub(super) fn addresses() -> impl Iterator<Item = Wanted> {
    let lasts = 1..=u8::try_from(ADDRESSES).unwrap();
    lasts.flat_map(|last| [Wanted::Mac(mac(last)), Wanted::Ip(ip(last))])
}
