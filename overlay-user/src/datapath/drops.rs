//! What the programs keep of dropped frames: rows of some of them, and counts of endpoints.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv6Addr},
    path::Path,
    time::{Duration, SystemTime},
};

use aya::{
    Ebpf,
    maps::{MapData, MapError, PerCpuArray, PerCpuHashMap},
};
use overlay_ebpf::{
    abi::{DropReason, DropSample, EndpointDropKey, map},
    wire::{eth, ipv4, ipv6},
};

use super::{
    DatapathError,
    encode::Numbering,
    map_handle::{check_shape, failed, now, open_pin, typed},
    pins::Pins,
    table::Table,
};
use crate::model::{
    DropClass, DropDirection, DroppedFrame, EndpointDrops, EndpointRow, FrameView, Mac, Vni,
    VtepAddr,
};

/// Rows of each reason, on each CPU.
const ROWS: u32 = DropSample::GROUPS * DropSample::ROWS;

/// The maps of dropped frames.
pub(super) struct DropMaps {
    samples: PerCpuArray<MapData, DropSample>,
    endpoints: PerCpuHashMap<MapData, EndpointDropKey, u64>,
}

impl DropMaps {
    /// Takes them out of a loaded object.
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, DatapathError> {
        Ok(Self {
            samples: typed(ebpf, map::DROP_SAMPLES)?,
            endpoints: typed(ebpf, map::ENDPOINT_DROPS)?,
        })
    }

    /// Opens the pinned ones. `None`: a version pinned them that had none.
    fn pinned(pins: &Pins) -> Result<Option<Self>, DatapathError> {
        for name in [map::DROP_SAMPLES, map::ENDPOINT_DROPS] {
            if !pins.map(name).exists() {
                return Ok(None);
            }
            check_shape(pins, name)?;
        }
        let (samples, endpoints) = (map::DROP_SAMPLES, map::ENDPOINT_DROPS);
        let opening = |name, error: MapError| failed("open the pinned", name, &error);
        Ok(Some(Self {
            samples: open_pin(&pins.map(samples), samples)?
                .try_into()
                .map_err(|error| opening(samples, error))?,
            endpoints: open_pin(&pins.map(endpoints), endpoints)?
                .try_into()
                .map_err(|error| opening(endpoints, error))?,
        }))
    }

    /// The frames that are noted down of these reasons, by name, the oldest first.
    pub(super) fn frames(
        &self,
        reasons: &BTreeSet<&str>,
    ) -> Result<Vec<DroppedFrame>, DatapathError> {
        let clock = Clock::read()?;
        let wanted = DropReason::ALL
            .iter()
            .filter(|reason| reasons.contains(reason.name()));
        let mut frames = Vec::new();
        for slot in wanted.flat_map(|reason| reason.number() * ROWS..(reason.number() + 1) * ROWS) {
            let row = self.samples.get(&slot, 0);
            let row = row.map_err(|error| failed("read", map::DROP_SAMPLES, &error))?;
            frames.extend(row.iter().filter_map(|sample| parse(sample, &clock)));
        }
        frames.sort_by_key(|frame| frame.at_ns);
        Ok(frames)
    }

    /// What was dropped of each endpoint, by its host-side interface.
    pub(super) fn endpoints(&self) -> Result<BTreeMap<u32, EndpointDrops>, DatapathError> {
        let mut endpoints: BTreeMap<u32, EndpointDrops> = BTreeMap::new();
        for entry in &self.endpoints {
            let (key, counts) =
                entry.map_err(|error| failed("read", map::ENDPOINT_DROPS, &error))?;
            let Some(reason) = DropReason::of_number(key.reason.into()) else {
                continue;
            };
            let drops = endpoints.entry(key.ifindex).or_default();
            let drops = if key.direction == u16::from(DropSample::SENT) {
                &mut drops.sent
            } else {
                &mut drops.received
            };
            // An entry may be shown twice while others are recycled.
            drops.insert(reason.name(), counts.iter().sum());
        }
        Ok(endpoints)
    }

    /// What was dropped of the endpoint behind this host-side interface, without a look at the others'.
    pub(super) fn endpoint(&self, ifindex: u32) -> Result<EndpointDrops, DatapathError> {
        let counts = |direction: u16| {
            let mut counts = BTreeMap::new();
            for reason in DropReason::ALL {
                let key = EndpointDropKey {
                    ifindex,
                    reason: u16::try_from(reason.number()).unwrap_or_default(),
                    direction,
                };
                match self.endpoints.get(&key, 0) {
                    Ok(packets) => {
                        counts.insert(reason.name(), packets.iter().sum());
                    }
                    Err(MapError::KeyNotFound) => {}
                    Err(error) => return Err(failed("read", map::ENDPOINT_DROPS, &error)),
                }
            }
            Ok(counts)
        };
        Ok(EndpointDrops {
            sent: counts(DropSample::SENT.into())?,
            received: counts(DropSample::RECEIVED.into())?,
        })
    }

    /// Forgets the counts of interfaces: a later one may get the same index.
    pub(super) fn forget(
        &mut self,
        ifindexes: impl IntoIterator<Item = u32>,
    ) -> Result<(), DatapathError> {
        let gone: BTreeSet<u32> = ifindexes.into_iter().collect();
        if gone.is_empty() {
            return Ok(());
        }
        let keys: Vec<_> = self
            .endpoints
            .keys()
            .filter_map(Result::ok)
            .filter(|key| gone.contains(&key.ifindex))
            .collect();
        for key in keys {
            match self.endpoints.remove(&key) {
                Ok(()) | Err(MapError::KeyNotFound) => {}
                Err(MapError::SyscallError(error))
                    if error.io_error.raw_os_error() == Some(libc::ENOENT) => {}
                Err(error) => return Err(failed("remove from", map::ENDPOINT_DROPS, &error)),
            }
        }
        Ok(())
    }
}

/// What is left of dropped frames where no agent runs.
#[derive(Debug, Default)]
pub struct PinnedDrops {
    /// Some of the frames, the oldest first.
    pub frames: Vec<DroppedFrame>,
    /// What was dropped of each endpoint, by its host-side interface.
    pub endpoints: BTreeMap<u32, EndpointDrops>,
    /// The endpoints behind these interfaces.
    pub ports: BTreeMap<u32, (Vni, Mac)>,
}

/// Reads what the instance with this folder of pins left of dropped frames. Empty: nothing is pinned, or another
/// version pinned it.
pub fn pinned_drops(root: &Path) -> Result<PinnedDrops, DatapathError> {
    let pins = Pins::existing(root);
    let Some(maps) = DropMaps::pinned(&pins)? else {
        return Ok(PinnedDrops::default());
    };
    let all = DropReason::ALL.iter().map(|reason| reason.name()).collect();
    let mut ports = BTreeMap::new();
    Table::<EndpointRow>::pinned(&pins)?.for_each(&Numbering::default(), |ifindex, row| {
        ports.insert(ifindex, (row.vni, row.mac));
    })?;
    Ok(PinnedDrops {
        frames: maps.frames(&all)?,
        endpoints: maps.endpoints()?,
        ports,
    })
}

/// The time by the clock that the programs have, and by people's.
struct Clock {
    monotonic: Duration,
    time: SystemTime,
}

impl Clock {
    fn read() -> Result<Self, DatapathError> {
        Ok(Self {
            monotonic: now()?,
            time: SystemTime::now(),
        })
    }

    fn time_of(&self, at_ns: u64) -> SystemTime {
        let age = self.monotonic.saturating_sub(Duration::from_nanos(at_ns));
        self.time.checked_sub(age).unwrap_or(self.time)
    }
}

/// `None`: a free row, one that was just being written, or one of a later version's.
fn parse(sample: &DropSample, clock: &Clock) -> Option<DroppedFrame> {
    if sample.at_ns == 0 || sample.at_ns != sample.sealed_ns {
        return None;
    }
    let reason = DropReason::of_number(sample.reason)?;
    Some(DroppedFrame {
        at_ns: sample.at_ns,
        time: clock.time_of(sample.at_ns),
        reason: reason.name(),
        class: if reason.is_noise() {
            DropClass::Noise
        } else {
            DropClass::Loss
        },
        direction: if sample.direction == DropSample::SENT {
            DropDirection::Sent
        } else {
            DropDirection::Received
        },
        endpoint: Some(sample.endpoint).filter(|ifindex| *ifindex != 0),
        vni: Vni::try_from(sample.vni).ok(),
        peer: Some(VtepAddr::from(sample.peer)).filter(|ip| !ip.ip().is_unspecified()),
        frame: frame(sample),
    })
}

fn frame(sample: &DropSample) -> FrameView {
    let ether_type = u16::from_ne_bytes(sample.ether_type);
    let is_ip = ether_type == eth::IPV4 || ether_type == eth::IPV6;
    let has_addresses = is_ip || ether_type == eth::ARP;
    let ip = |octets: [u8; 16]| -> Option<IpAddr> {
        has_addresses.then(|| Ipv6Addr::from(octets).to_canonical())
    };
    let protocol = is_ip.then_some(sample.protocol);
    let has_ports = matches!(protocol, Some(ipv4::TCP | ipv4::UDP | ipv4::SCTP));
    let is_icmp = matches!(protocol, Some(ipv4::ICMP | ipv6::ICMPV6));
    let [kind, code] = sample.source_port;
    let port = |bytes| has_ports.then(|| u16::from_be_bytes(bytes));
    FrameView {
        source_mac: sample.source_mac.into(),
        destination_mac: sample.destination_mac.into(),
        ether_type: match ether_type {
            eth::IPV4 => "ipv4".to_owned(),
            eth::IPV6 => "ipv6".to_owned(),
            eth::ARP => "arp".to_owned(),
            other => format!("{:#06x}", u16::from_be(other)),
        },
        source_ip: ip(sample.source_ip),
        destination_ip: ip(sample.destination_ip),
        protocol: protocol.map(protocol_name),
        source_port: port(sample.source_port),
        destination_port: port(sample.destination_port),
        icmp_type: is_icmp.then_some(kind),
        icmp_code: is_icmp.then_some(code),
        length: sample.len,
    }
}

fn protocol_name(number: u8) -> String {
    match number {
        ipv4::TCP => "tcp".to_owned(),
        ipv4::UDP => "udp".to_owned(),
        ipv4::SCTP => "sctp".to_owned(),
        ipv4::ICMP => "icmp".to_owned(),
        ipv4::IGMP => "igmp".to_owned(),
        ipv6::ICMPV6 => "icmpv6".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use bytemuck::Zeroable as _;

    use super::*;

    fn clock() -> Clock {
        Clock {
            monotonic: Duration::from_secs(100),
            time: SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000),
        }
    }

    fn sample() -> DropSample {
        let mapped = |ip: [u8; 4]| std::net::Ipv4Addr::from(ip).to_ipv6_mapped().octets();
        DropSample {
            at_ns: 99_000_000_000,
            sealed_ns: 99_000_000_000,
            reason: DropReason::SourceIp.number(),
            ifindex: 7,
            endpoint: 7,
            vni: 42,
            peer: mapped([10, 0, 0, 2]),
            len: 98,
            ether_type: [8, 0],
            protocol: ipv4::ICMP,
            direction: DropSample::SENT,
            source_ip: mapped([7, 7, 7, 9]),
            destination_ip: mapped([7, 7, 7, 3]),
            source_port: [8, 0],
            ..DropSample::zeroed()
        }
    }

    #[test]
    fn a_row_tells_who_sent_what_and_when() {
        let told = parse(&sample(), &clock()).unwrap();
        assert_eq!((told.reason, told.class), ("source_ip", DropClass::Loss));
        assert_eq!(
            (told.endpoint, told.direction),
            (Some(7), DropDirection::Sent)
        );
        assert_eq!(told.vni.map(Vni::get), Some(42));
        assert_eq!(told.peer, Some([10, 0, 0, 2].into()));
        assert_eq!(
            told.frame.to_string(),
            "7.7.7.9 -> 7.7.7.3 icmp type 8, 98 bytes"
        );
        assert_eq!(told.time, clock().time - Duration::from_secs(1));
    }

    #[test]
    fn rows_that_are_free_torn_or_of_no_known_reason_are_left_out() {
        for sample in [
            DropSample::zeroed(),
            DropSample {
                sealed_ns: 99_500_000_000,
                ..sample()
            },
            DropSample {
                reason: DropReason::SLOTS - 1,
                ..sample()
            },
        ] {
            assert_eq!(parse(&sample, &clock()), None);
        }
    }

    #[test]
    fn ports_are_numbers_of_the_hosts_and_other_protocols_have_none() {
        let datagram = DropSample {
            protocol: ipv4::UDP,
            source_port: [0x14, 0xe9],
            destination_port: [0, 53],
            ..sample()
        };
        let told = frame(&datagram);
        assert_eq!(
            (told.source_port, told.destination_port),
            (Some(5353), Some(53))
        );
        assert_eq!(told.icmp_type, None);
        let other = DropSample {
            ether_type: [0x88, 0xcc],
            ..sample()
        };
        let told = frame(&other);
        assert_eq!(told.ether_type, "0x88cc");
        assert_eq!(
            (told.source_ip, told.protocol, told.icmp_type),
            (None, None, None)
        );
    }
}
