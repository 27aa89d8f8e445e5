//! What frames of on-demand networks did not find, on its way from the programs to the agent.

use std::{
    net::{IpAddr, Ipv6Addr},
    os::fd::AsFd as _,
    thread,
};

use aya::maps::{MapData, RingBuf};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use overlay_ebpf::abi::{MissEvent, MissKey};
use tokio::sync::mpsc;

use crate::model::{Mac, Miss, Vni, Wanted};

/// Misses that wait for the agent before the ring fills.
const BACKLOG: usize = 1024;

/// Reads the ring for as long as somebody listens, on a thread of its own, which sleeps while there
/// is nothing to read.
pub(super) fn listen(mut ring: RingBuf<MapData>) -> mpsc::Receiver<Miss> {
    let (sender, receiver) = mpsc::channel(BACKLOG);
    thread::spawn(move || {
        loop {
            while let Some(record) = ring.next() {
                let miss = parse(&record);
                // Let go of, so that the programs may write there again while this waits.
                drop(record);
                if miss.is_some_and(|miss| sender.blocking_send(miss).is_err()) {
                    return;
                }
            }
            let mut readable = [PollFd::new(ring.as_fd(), PollFlags::POLLIN)];
            match poll(&mut readable, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return tracing::warn!(%errno, "no more misses are heard of"),
            }
        }
    });
    receiver
}

/// `None`: no record that this version's programs make.
fn parse(record: &[u8]) -> Option<Miss> {
    let event: MissEvent = bytemuck::try_pod_read_unaligned(record).ok()?;
    let wanted = match event.key.kind {
        MissKey::MAC => Wanted::Mac(mac(&event.key.address)?),
        MissKey::IP => Wanted::Ip(ip(event.key.address)),
        _ => return None,
    };
    Some(Miss {
        vni: Vni::try_from(event.key.vni).ok()?,
        wanted,
        ifindex: event.ifindex,
        asker_mac: Mac::try_from(event.asker_mac).ok()?,
        asker_ip: Some(ip(event.asker_ip)).filter(|ip| !ip.is_unspecified()),
    })
}

fn mac(address: &[u8; 16]) -> Option<Mac> {
    let octets: [u8; 6] = *address.first_chunk()?;
    Mac::try_from(octets).ok()
}

fn ip(address: [u8; 16]) -> IpAddr {
    Ipv6Addr::from(address).to_canonical()
}

/// The key under which a miss rests.
pub(super) fn key(vni: Vni, wanted: Wanted) -> MissKey {
    let (kind, address) = match wanted {
        Wanted::Mac(mac) => {
            let mut address = [0; 16];
            address[..6].copy_from_slice(&mac.octets());
            (MissKey::MAC, address)
        }
        Wanted::Ip(IpAddr::V4(ip)) => (MissKey::IP, ip.to_ipv6_mapped().octets()),
        Wanted::Ip(IpAddr::V6(ip)) => (MissKey::IP, ip.octets()),
    };
    MissKey {
        vni: vni.get(),
        kind,
        address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(wanted: Wanted, asker_ip: &str) -> MissEvent {
        let asker_ip = match asker_ip.parse().unwrap() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        MissEvent {
            key: key(Vni::try_from(42).unwrap(), wanted),
            ifindex: 7,
            asker_mac: [2, 0x42, 7, 7, 7, 2],
            reserved: [0; 6],
            asker_ip: asker_ip.octets(),
        }
    }

    #[test]
    fn records_are_read_as_they_are_keyed() {
        let mac = Wanted::Mac("02:42:07:07:07:03".parse().unwrap());
        let ipv4 = Wanted::Ip("7.7.7.3".parse().unwrap());
        let ipv6 = Wanted::Ip("fd00::3".parse().unwrap());
        for (wanted, asker, asker_ip) in [
            (mac, "::", None),
            (ipv4, "7.7.7.2", Some("7.7.7.2")),
            (ipv6, "fd00::2", Some("fd00::2")),
            (ipv6, "::", None),
        ] {
            let expected = Miss {
                vni: Vni::try_from(42).unwrap(),
                wanted,
                ifindex: 7,
                asker_mac: "02:42:07:07:07:02".parse().unwrap(),
                asker_ip: asker_ip.map(|ip| ip.parse().unwrap()),
            };
            let event = event(wanted, asker);
            assert_eq!(parse(bytemuck::bytes_of(&event)), Some(expected));
        }
    }

    #[test]
    fn records_of_no_known_kind_are_skipped() {
        let mut event = event(Wanted::Ip("7.7.7.3".parse().unwrap()), "7.7.7.2");
        event.key.kind = 3;
        assert_eq!(parse(bytemuck::bytes_of(&event)), None);
        assert_eq!(parse(&[0; 55]), None);
    }
}
