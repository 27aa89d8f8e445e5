//! Between the model's tables and the ABI's entries.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use overlay_ebpf::abi;

use super::slots::Slots;
use crate::model::{
    EndpointRow, FdbKey, FdbRow, FdbTarget, Mac, NeighborKey, NeighborRow, NetworkRow, Revision,
    Vni, VtepPath, VtepRow,
};

/// What entries carry that the model leaves to the datapath.
pub(super) struct Stamp<'a> {
    /// Where each network is counted.
    pub slots: &'a Slots,
    /// Seconds of `CLOCK_MONOTONIC`, never 0.
    pub now_s: u32,
}

/// A row of a map as the model says it. `None` on the way back: not written by any version of
/// this agent, so it is neither kept nor understood.
pub(super) trait Row: Sized {
    type Key;
    type AbiKey;
    type AbiValue;

    fn to_abi(key: &Self::Key, row: &Self, stamp: &Stamp<'_>) -> (Self::AbiKey, Self::AbiValue);
    fn from_abi(key: &Self::AbiKey, value: &Self::AbiValue) -> Option<(Self::Key, Self)>;

    /// The registry's revision that an entry comes from; `None`: such rows carry none.
    fn generation(_value: &Self::AbiValue) -> Option<Revision> {
        None
    }
}

impl Row for FdbRow {
    type Key = FdbKey;
    type AbiKey = abi::FdbKey;
    type AbiValue = abi::FdbEntry;

    fn to_abi(key: &FdbKey, row: &Self, stamp: &Stamp<'_>) -> (abi::FdbKey, abi::FdbEntry) {
        let mut entry = match row.target {
            FdbTarget::Local { ifindex, .. } => abi::FdbEntry::local(row.generation, ifindex),
            FdbTarget::Remote { vtep, port } => {
                abi::FdbEntry::remote(row.generation, vtep.octets(), port)
            }
        };
        if let FdbTarget::Local { is_queued, .. } = row.target {
            entry.slot = stamp.slots.of(key.vni);
            if is_queued {
                entry.vtep_port = abi::FdbEntry::QUEUED;
            }
        }
        if row.ages {
            entry.used_s = stamp.now_s;
        }
        (abi::FdbKey::new(key.vni.get(), key.mac.octets()), entry)
    }

    fn from_abi(key: &abi::FdbKey, value: &abi::FdbEntry) -> Option<(FdbKey, Self)> {
        let target = if value.ifindex == 0 {
            FdbTarget::Remote {
                vtep: Ipv4Addr::from(value.vtep),
                port: u16::from_be_bytes(value.vtep_port),
            }
        } else {
            FdbTarget::Local {
                ifindex: value.ifindex,
                is_queued: value.is_queued(),
            }
        };
        let key = FdbKey {
            vni: Vni::try_from(key.vni).ok()?,
            mac: Mac::try_from(key.mac).ok()?,
        };
        Some((
            key,
            Self {
                target,
                generation: value.generation,
                ages: value.used_s != 0,
            },
        ))
    }

    fn generation(value: &abi::FdbEntry) -> Option<Revision> {
        Some(value.generation)
    }
}

impl Row for NeighborRow {
    type Key = NeighborKey;
    type AbiKey = abi::NeighborKey;
    type AbiValue = abi::NeighborEntry;

    fn to_abi(
        key: &NeighborKey,
        row: &Self,
        _: &Stamp<'_>,
    ) -> (abi::NeighborKey, abi::NeighborEntry) {
        let abi_key = match key.ip {
            IpAddr::V4(ip) => abi::NeighborKey::ipv4(key.vni.get(), ip.octets()),
            IpAddr::V6(ip) => abi::NeighborKey::ipv6(key.vni.get(), ip.octets()),
        };
        (
            abi_key,
            abi::NeighborEntry::new(row.generation, row.mac.octets()),
        )
    }

    fn from_abi(key: &abi::NeighborKey, value: &abi::NeighborEntry) -> Option<(NeighborKey, Self)> {
        let ip = Ipv6Addr::from(key.ip).to_canonical();
        let key = NeighborKey {
            vni: Vni::try_from(key.vni).ok()?,
            ip,
        };
        Some((
            key,
            Self {
                mac: Mac::try_from(value.mac).ok()?,
                generation: value.generation,
            },
        ))
    }

    fn generation(value: &abi::NeighborEntry) -> Option<Revision> {
        Some(value.generation)
    }
}

impl Row for NetworkRow {
    type Key = Vni;
    type AbiKey = u32;
    type AbiValue = abi::NetworkEntry;

    fn to_abi(key: &Vni, row: &Self, stamp: &Stamp<'_>) -> (u32, abi::NetworkEntry) {
        let entry = abi::NetworkEntry {
            mtu: row.mtu,
            flags: if row.on_demand {
                abi::NetworkEntry::ON_DEMAND
            } else {
                0
            },
            slot: stamp.slots.of(*key),
        };
        (key.get(), entry)
    }

    fn from_abi(key: &u32, value: &abi::NetworkEntry) -> Option<(Vni, Self)> {
        let row = Self {
            mtu: value.mtu,
            on_demand: value.flags & abi::NetworkEntry::ON_DEMAND != 0,
        };
        Some((Vni::try_from(*key).ok()?, row))
    }
}

impl Row for VtepRow {
    type Key = Ipv4Addr;
    type AbiKey = abi::VtepKey;
    type AbiValue = abi::VtepEntry;

    fn to_abi(key: &Ipv4Addr, row: &Self, _: &Stamp<'_>) -> (abi::VtepKey, abi::VtepEntry) {
        let VtepPath { next_hop, mtu } = row.path;
        let next_hop = next_hop.map_or([0; 4], |ip| ip.octets());
        let entry = abi::VtepEntry {
            mtu: mtu.unwrap_or_default(),
            ..abi::VtepEntry::new(row.port, next_hop)
        };
        (abi::VtepKey { ip: key.octets() }, entry)
    }

    fn from_abi(key: &abi::VtepKey, value: &abi::VtepEntry) -> Option<(Ipv4Addr, Self)> {
        Some((
            Ipv4Addr::from(key.ip),
            Self {
                port: u16::from_be_bytes(value.port),
                path: VtepPath {
                    next_hop: Some(Ipv4Addr::from(value.next_hop))
                        .filter(|ip| !ip.is_unspecified()),
                    mtu: Some(value.mtu).filter(|mtu| *mtu != 0),
                },
            },
        ))
    }
}

impl Row for EndpointRow {
    type Key = u32;
    type AbiKey = u32;
    type AbiValue = abi::EndpointEntry;

    fn to_abi(key: &u32, row: &Self, stamp: &Stamp<'_>) -> (u32, abi::EndpointEntry) {
        let entry = abi::EndpointEntry {
            generation: row.generation,
            vni: row.vni.get(),
            mtu: row.mtu,
            mac: row.mac.octets(),
            slot: stamp.slots.of(row.vni),
            ipv4: row.ipv4.map_or([0; 4], |ip| ip.octets()),
            ipv6: row.ipv6.map_or([0; 16], |ip| ip.octets()),
            reserved: [0; 4],
        };
        (*key, entry)
    }

    fn from_abi(key: &u32, value: &abi::EndpointEntry) -> Option<(u32, Self)> {
        let row = Self {
            vni: Vni::try_from(value.vni).ok()?,
            mac: Mac::try_from(value.mac).ok()?,
            ipv4: Some(Ipv4Addr::from(value.ipv4)).filter(|ip| !ip.is_unspecified()),
            ipv6: Some(Ipv6Addr::from(value.ipv6)).filter(|ip| !ip.is_unspecified()),
            mtu: value.mtu,
            generation: value.generation,
        };
        Some((*key, row))
    }

    fn generation(value: &abi::EndpointEntry) -> Option<Revision> {
        Some(value.generation)
    }
}

#[cfg(test)]
mod tests {
    use bytemuck::Zeroable as _;

    use super::*;

    fn vni() -> Vni {
        Vni::try_from(42).unwrap()
    }

    fn mac() -> Mac {
        "02:42:07:07:07:02".parse().unwrap()
    }

    /// Asserts that a row comes back from the ABI as it went in.
    fn comes_back<R: Row + PartialEq + std::fmt::Debug>(key: R::Key, row: R)
    where
        R::Key: PartialEq + std::fmt::Debug,
    {
        let slots = Slots::default();
        let stamp = Stamp {
            slots: &slots,
            now_s: 1,
        };
        let (abi_key, abi_value) = R::to_abi(&key, &row, &stamp);
        assert_eq!(R::from_abi(&abi_key, &abi_value), Some((key, row)));
    }

    #[test]
    fn every_row_comes_back_as_it_went_in() {
        let key = FdbKey {
            vni: vni(),
            mac: mac(),
        };
        comes_back(
            key,
            FdbRow {
                target: FdbTarget::Local {
                    ifindex: 7,
                    is_queued: true,
                },
                generation: 9,
                ages: false,
            },
        );
        let vtep = Ipv4Addr::new(10, 0, 0, 2);
        comes_back(
            key,
            FdbRow {
                target: FdbTarget::Remote { vtep, port: 4789 },
                generation: 9,
                ages: true,
            },
        );
        for ip in ["7.7.7.2", "fd00::2"] {
            let key = NeighborKey {
                vni: vni(),
                ip: ip.parse().unwrap(),
            };
            comes_back(
                key,
                NeighborRow {
                    mac: mac(),
                    generation: 9,
                },
            );
        }
        comes_back(
            vni(),
            NetworkRow {
                mtu: 1450,
                on_demand: true,
            },
        );
        comes_back(
            vtep,
            VtepRow {
                port: 4789,
                path: VtepPath::default(),
            },
        );
        comes_back(
            vtep,
            VtepRow {
                port: 4789,
                path: VtepPath {
                    next_hop: Some(vtep),
                    mtu: Some(4000),
                },
            },
        );
        comes_back(
            7,
            EndpointRow {
                vni: vni(),
                mac: mac(),
                ipv4: None,
                ipv6: Some("fd00::2".parse().unwrap()),
                mtu: 1450,
                generation: 9,
            },
        );
    }

    #[test]
    fn rows_that_no_agent_wrote_are_not_understood() {
        assert_eq!(NetworkRow::from_abi(&0, &abi::NetworkEntry::zeroed()), None);
        let multicast = abi::FdbKey::new(42, [0xff; 6]);
        assert_eq!(
            FdbRow::from_abi(&multicast, &abi::FdbEntry::local(1, 7)),
            None
        );
    }
}
