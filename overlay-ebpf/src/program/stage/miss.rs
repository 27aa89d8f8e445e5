//! In on-demand networks, reports a failed lookup to the agent once.
//!
//! The frame is dropped and its sender retransmits. ARP and neighbour discovery are answered by the agent.

use bytemuck::must_cast;
use overlay_ebpf::{
    abi::{Counter, DropReason, EndpointEntry, MeterKey, MissEvent, MissKey, NetworkEntry},
    rule::miss::{self as rule, CPU_LIMIT, ENDPOINT_LIMIT, NETWORK_LIMIT, REST},
    wire::eth::Mac,
};

use crate::{maps, step::Question};

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
    /// The endpoint behind an interface of this host.
    #[inline(always)]
    pub const fn of_endpoint(ifindex: u32, endpoint: &EndpointEntry) -> Self {
        Self {
            ifindex,
            vni: endpoint.vni,
            mac: Mac::new(endpoint.mac),
            meter: MeterKey::endpoint(ifindex),
        }
    }

    /// The same, asking for somebody of another network.
    #[inline(always)]
    pub const fn in_network(self, vni: u32) -> Self {
        Self { vni, ..self }
    }

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
    let address = [u64::from(first) | u64::from(last) << 32, 0];
    ask(requester, MissKey::MAC, address, [0; 2], otherwise)
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

/// The neighbour table does not know an address.
#[inline(always)]
pub fn of_ip(requester: Requester, question: Question) -> DropReason {
    let Question {
        address,
        requester: requester_ip,
        otherwise,
    } = question;
    ask(requester, MissKey::IP, address, requester_ip, otherwise)
}

#[inline(always)]
fn ask(
    requester: Requester,
    kind: u32,
    address: [u64; 2],
    requester_ip: [u64; 2],
    otherwise: DropReason,
) -> DropReason {
    let is_noted = maps::with_scratch(|scratch| {
        scratch.miss = MissEvent {
            key: MissKey {
                vni: requester.vni,
                kind,
                address: must_cast(address),
            },
            ifindex: requester.ifindex,
            requester_mac: requester.mac.octets(),
            reserved: [0; 6],
            requester_ip: must_cast(requester_ip),
        };
    });
    let MeterKey { kind, id } = requester.meter;
    if is_noted.is_some() && report(kind, id) != 0 {
        DropReason::Resolving
    } else {
        otherwise
    }
}

/// Tells the agent of the miss that is noted down, unless that has been done or is too much. 0: nobody is to be asked,
/// or nobody has it. Called: it is a rare way, and the frames' own needs the room.
#[inline(never)]
fn report(meter_kind: u32, meter_id: u32) -> u32 {
    let meter = MeterKey {
        kind: meter_kind,
        id: meter_id,
    };
    maps::with_scratch(|scratch| u32::from(is_awaited(meter, &scratch.miss))).unwrap_or(0)
}

#[inline(always)]
fn is_awaited(meter: MeterKey, event: &MissEvent) -> bool {
    match maps::network(event.key.vni) {
        Some(network) if network.flags & NetworkEntry::ON_DEMAND != 0 => {}
        _ => return false,
    }
    let now = maps::now();
    if let Some(negative) = maps::negative(&event.key)
        && now < negative.until_ns
    {
        return negative.is_unknown == 0;
    }
    if let Some(limit) = limited(meter, event.key.vni, now) {
        maps::count_event(limit);
        return true;
    }
    maps::count_event(if maps::emit(event, now + REST) {
        Counter::MissesRaised
    } else {
        Counter::MissesLost
    });
    true
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
