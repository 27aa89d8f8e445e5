//! In on-demand networks, reports a failed lookup to the agent once.
//!
//! The frame is dropped and its sender retransmits. ARP and neighbour discovery are answered by the agent.

use bytemuck::must_cast;
use overlay_ebpf::{
    abi::{Counter, DropReason, MeterKey, MissEvent, MissKey, NetworkEntry},
    rule::miss::{self as rule, CPU_LIMIT, ENDPOINT_LIMIT, NETWORK_LIMIT, REST},
    wire::eth::Mac,
};

use crate::{maps, packet::OnStack};

/// The endpoint whose lookup failed.
#[derive(Clone, Copy)]
pub struct Requester {
    /// Where the frame came in: the host side of its interface, or the underlay device.
    pub ifindex: u32,
    /// Its network.
    pub vni: u32,
    /// Its MAC.
    pub mac: Mac,
    /// The meter that its misses are counted by, beside its network's.
    pub meter: MeterKey,
}

impl Requester {
    /// The one behind a tunnel, whose frame came in by the underlay device.
    #[inline(always)]
    pub const fn of_tunnel(ifindex: u32, vni: u32, mac: Mac) -> Self {
        Self {
            ifindex,
            vni,
            mac,
            meter: MeterKey::tunnel(vni),
        }
    }
}

/// The FDB does not know a MAC. Gives the reason for which the frame is dropped; `otherwise` is the
/// one where nobody is to be asked, or nobody has it.
#[inline(always)]
pub fn of_mac(requester: Requester, mac: Mac, otherwise: DropReason) -> DropReason {
    let [first, last] = mac.words();
    let key = MissKey {
        vni: requester.vni,
        kind: MissKey::MAC,
        address: must_cast([first, last, 0, 0]),
    };
    raise(
        requester.meter,
        event(requester, key, must_cast([0_u64; 2])),
        otherwise,
    )
}

/// The FDB does not know a MAC, and the frame is held up only where nobody has it or nobody is to be
/// asked; that is for the reason `otherwise`.
#[inline(always)]
pub fn seek_mac(requester: Requester, mac: Mac, otherwise: DropReason) -> Result<(), DropReason> {
    match of_mac(requester, mac, otherwise) {
        DropReason::Resolving => Ok(()),
        reason => Err(reason),
    }
}

/// The neighbour table does not know an address that `requester_ip` asks for, both IPv6 or mapped into
/// it. `otherwise` is the reason where nobody is to be asked.
#[inline(always)]
pub fn of_ip(
    requester: Requester,
    address: OnStack<[u8; 16]>,
    requester_ip: OnStack<[u8; 16]>,
    otherwise: DropReason,
) -> DropReason {
    let key = MissKey {
        vni: requester.vni,
        kind: MissKey::IP,
        address: *address,
    };
    raise(
        requester.meter,
        event(requester, key, *requester_ip),
        otherwise,
    )
}

#[inline(always)]
fn event(requester: Requester, key: MissKey, requester_ip: [u8; 16]) -> OnStack<MissEvent> {
    OnStack(MissEvent {
        key,
        ifindex: requester.ifindex,
        requester_mac: requester.mac.octets(),
        reserved: [0; 6],
        requester_ip,
    })
}

#[inline(always)]
fn raise(meter: MeterKey, event: OnStack<MissEvent>, otherwise: DropReason) -> DropReason {
    match maps::network(event.key.vni) {
        Some(network) if network.flags & NetworkEntry::ON_DEMAND != 0 => {}
        _ => return otherwise,
    }
    let now = maps::now();
    if let Some(negative) = maps::negative(&event.key)
        && now < negative.until_ns
    {
        return if negative.is_unknown == 0 {
            DropReason::Resolving
        } else {
            otherwise
        };
    }
    if let Some(limit) = limited(meter, event.key.vni, now) {
        maps::count_event(limit);
        return DropReason::Resolving;
    }
    maps::count_event(if maps::emit(&event, now + REST) {
        Counter::MissesRaised
    } else {
        Counter::MissesLost
    });
    DropReason::Resolving
}

/// Counts one more miss at `now`. `Some`: the limit that it exceeds; the requester's own comes first, so
/// that who scans is stopped before anybody beside it.
#[inline(always)]
fn limited(requester: MeterKey, vni: u32, now: u64) -> Option<Counter> {
    if !maps::with_meter(requester, |meter| rule::allows(meter, now, ENDPOINT_LIMIT)) {
        return Some(Counter::MissesLimitedEndpoint);
    }
    let network = MeterKey::network(vni);
    if !maps::with_meter(network, |meter| rule::allows(meter, now, NETWORK_LIMIT)) {
        return Some(Counter::MissesLimitedNetwork);
    }
    match maps::with_cpu_meter(|meter| rule::allows(meter, now, CPU_LIMIT)) {
        Some(true) => None,
        _ => Some(Counter::MissesLimited),
    }
}
