//! Brings misses from the programs to the agent.

use std::{
    net::{IpAddr, Ipv6Addr},
    os::fd::AsFd as _,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use aya::maps::{MapData, RingBuf};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use overlay_ebpf::abi::{MissEvent, MissKey};
use tokio::sync::mpsc::{self, error::TrySendError};

use crate::model::{Mac, Miss, Vni, Wanted, fair::FairQueue};

/// Misses that wait for the agent, those of each network in a queue of its own.
const BACKLOG: usize = 4096;
/// Misses on their way to the agent, in the order of the networks' turns. Few: who comes next waits
/// behind them, whatever its network has.
const ON_THE_WAY: usize = 16;
/// Records that are read before any is handed on.
const AT_ONCE: usize = 256;
/// How soon it is tried again to hand one on where the agent takes its time, milliseconds.
const RETRY: u8 = 1;

/// Reads the ring for as long as somebody listens, on a thread of its own, which sleeps while there
/// is nothing to read. It never waits for the agent: the ring has room for all networks while one
/// of them has more misses than its queue takes. Those are counted in `lost`.
pub(super) fn listen(mut ring: RingBuf<MapData>, lost: Arc<AtomicU64>) -> mpsc::Receiver<Miss> {
    let (sender, receiver) = mpsc::channel(ON_THE_WAY);
    thread::spawn(move || {
        let mut queue = FairQueue::new(BACKLOG);
        loop {
            for _ in 0..AT_ONCE {
                let Some(record) = ring.next() else {
                    break;
                };
                if let Some(miss) = parse(&record)
                    && !queue.push(miss.vni, miss)
                {
                    lost.fetch_add(1, Ordering::Relaxed);
                }
            }
            let patience = match hand_on(&mut queue, &sender) {
                Ok(true) => PollTimeout::NONE,
                Ok(false) => PollTimeout::from(RETRY),
                Err(Gone) => return,
            };
            let mut readable = [PollFd::new(ring.as_fd(), PollFlags::POLLIN)];
            match poll(&mut readable, patience) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return tracing::warn!(%errno, "no more misses are heard of"),
            }
        }
    });
    receiver
}

/// Nobody listens any more.
struct Gone;

/// Hands on what the agent takes now. `true`: that was all.
fn hand_on(queue: &mut FairQueue<Miss>, sender: &mpsc::Sender<Miss>) -> Result<bool, Gone> {
    while !queue.is_empty() {
        let place = match sender.try_reserve() {
            Ok(place) => place,
            Err(TrySendError::Full(())) => return Ok(false),
            Err(TrySendError::Closed(())) => return Err(Gone),
        };
        if let Some(miss) = queue.pop() {
            place.send(miss);
        }
    }
    Ok(true)
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
        requester_mac: Mac::try_from(event.requester_mac).ok()?,
        requester_ip: Some(ip(event.requester_ip)).filter(|ip| !ip.is_unspecified()),
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

    fn event(wanted: Wanted, requester_ip: &str) -> MissEvent {
        let requester_ip = match requester_ip.parse().unwrap() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        MissEvent {
            key: key(Vni::try_from(42).unwrap(), wanted),
            ifindex: 7,
            requester_mac: [2, 0x42, 7, 7, 7, 2],
            reserved: [0; 6],
            requester_ip: requester_ip.octets(),
        }
    }

    #[test]
    fn records_are_read_as_they_are_keyed() {
        let mac = Wanted::Mac("02:42:07:07:07:03".parse().unwrap());
        let ipv4 = Wanted::Ip("7.7.7.3".parse().unwrap());
        let ipv6 = Wanted::Ip("fd00::3".parse().unwrap());
        for (wanted, requester, requester_ip) in [
            (mac, "::", None),
            (ipv4, "7.7.7.2", Some("7.7.7.2")),
            (ipv6, "fd00::2", Some("fd00::2")),
            (ipv6, "::", None),
        ] {
            let expected = Miss {
                vni: Vni::try_from(42).unwrap(),
                wanted,
                ifindex: 7,
                requester_mac: "02:42:07:07:07:02".parse().unwrap(),
                requester_ip: requester_ip.map(|ip| ip.parse().unwrap()),
            };
            let event = event(wanted, requester);
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
