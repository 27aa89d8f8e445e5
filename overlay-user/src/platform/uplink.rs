//! The interface to the outside, and the ports that are the overlay's alone.

use std::{net::IpAddr, ops::RangeInclusive};

use ipnet::{IpNet, Ipv4Net};
use tokio::fs;

use super::{Context as _, Linux, PlatformError, underlay, uplink_way};
use crate::model::{IfName, Mac, Uplink};

/// The ports that the kernel gives to no socket that does not ask for them.
const RESERVED_PORTS: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";

impl Linux {
    /// The interface to the outside as it is now. `Refused`: it is not there, down, or no Ethernet interface.
    pub async fn uplink(&self, name: &IfName) -> Result<Uplink, PlatformError> {
        let host = self.open_host().await?;
        let read = || format!("reading interface {name}");
        let Some(link) = host.link_named(name.as_str()).await.context(read)? else {
            return Err(PlatformError::Refused(format!(
                "uplink {name} does not exist: choose another with --uplink"
            )));
        };
        let mac = underlay::check(&link)?;
        let addresses = host.addresses(link.index).await.context(read)?;
        let own = addresses.iter().filter(|it| it.global && !it.secondary);
        Ok(Uplink {
            ifindex: link.index,
            mtu: link.mtu,
            mac: Mac::try_from(mac).map_err(|error| PlatformError::Refused(error.to_string()))?,
            address: own.map(|address| address.net).find_map(ipv4),
            way: uplink_way::of(&host, link.index).await?,
        })
    }
}

fn ipv4(net: IpNet) -> Option<Ipv4Net> {
    match (net, net.addr()) {
        (IpNet::V4(net), IpAddr::V4(_)) => Some(net),
        _ => None,
    }
}

/// Keeps a range of ports from the host's own sockets that don't ask for one. `false`: it was kept already.
pub async fn reserve_ports(range: &RangeInclusive<u16>) -> Result<bool, PlatformError> {
    change_reserved(|held| with(held, range)).await
}

/// Gives the range back to the host.
pub async fn release_ports(range: &RangeInclusive<u16>) -> Result<bool, PlatformError> {
    change_reserved(|held| without(held, range)).await
}

async fn change_reserved(change: impl FnOnce(&str) -> String) -> Result<bool, PlatformError> {
    let what = || format!("reserving ports in {RESERVED_PORTS}");
    let held = fs::read_to_string(RESERVED_PORTS).await.context(what)?;
    let held = held.trim();
    let wanted = change(held);
    if wanted == held {
        return Ok(false);
    }
    fs::write(RESERVED_PORTS, format!("{wanted}\n"))
        .await
        .context(what)?;
    Ok(true)
}

/// The list with the range in it. The kernel sorts and joins what it is given.
fn with(held: &str, range: &RangeInclusive<u16>) -> String {
    if ranges(held).any(|it| it.contains(range.start()) && it.contains(range.end())) {
        return held.to_owned();
    }
    let ours = format!("{}-{}", range.start(), range.end());
    if held.is_empty() {
        ours
    } else {
        format!("{held},{ours}")
    }
}

/// The list without the range: others that it is part of keep what is beyond.
fn without(held: &str, range: &RangeInclusive<u16>) -> String {
    let mut left = Vec::new();
    for it in ranges(held) {
        let (start, end) = (*it.start(), *it.end());
        if end < *range.start() || start > *range.end() {
            left.push((start, end));
            continue;
        }
        if start < *range.start() {
            left.push((start, range.start() - 1));
        }
        if end > *range.end() {
            left.push((range.end() + 1, end));
        }
    }
    let left = left.into_iter().map(|(start, end)| {
        if start == end {
            start.to_string()
        } else {
            format!("{start}-{end}")
        }
    });
    left.collect::<Vec<_>>().join(",")
}

fn ranges(text: &str) -> impl Iterator<Item = RangeInclusive<u16>> {
    text.split(',').filter_map(|item| {
        let (start, end) = item.split_once('-').unwrap_or((item, item));
        Some(start.trim().parse().ok()?..=end.trim().parse().ok()?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_added_once_and_taken_away_alone() {
        let range = 49_152..=65_535;
        for (held, expected) in [
            ("", "49152-65535"),
            ("8080", "8080,49152-65535"),
            ("8080,49152-65535", "8080,49152-65535"),
            ("40000-65535", "40000-65535"),
        ] {
            assert_eq!(with(held, &range), expected);
        }
        for (held, expected) in [
            ("", ""),
            ("49152-65535", ""),
            ("8080,49152-65535", "8080"),
            ("40000-65535", "40000-49151"),
            ("8080,9000-9001", "8080,9000-9001"),
        ] {
            assert_eq!(without(held, &range), expected);
        }
    }
}
