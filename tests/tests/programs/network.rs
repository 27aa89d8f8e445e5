//! The network that the tables speak of.
//!
//! ```text
//!  this host, VTEP 10.0.0.1:4789     10.0.0.2:4789     10.0.0.3:14789
//!  VNI 42: BLUE (loopback), CYAN     GREEN             RED
//!  VNI 43: blue's addresses again    VIOLET
//! ```

use std::net::Ipv4Addr;

use aya::{
    Ebpf, Pod,
    maps::{Array, HashMap},
};
use bytemuck::Zeroable as _;
use overlay_ebpf::abi::{
    EndpointEntry, FdbEntry, FdbKey, NeighborEntry, NeighborKey, NetworkEntry, PathEntry,
    VtepEntry, VtepKey, map,
};

/// One endpoint's addresses.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Endpoint {
    pub mac: [u8; 6],
    pub ipv4: [u8; 4],
    pub ipv6: [u8; 16],
}

impl Endpoint {
    const fn numbered(number: u8) -> Self {
        Self {
            mac: [0x02, 0x42, 7, 7, 7, number],
            ipv4: [7, 7, 7, number],
            ipv6: [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, number],
        }
    }
}

/// One tunnel end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Vtep {
    pub ip: [u8; 4],
    pub port: u16,
}

impl Vtep {
    /// The FDB entry of an endpoint behind it.
    pub(crate) fn remote(self, generation: u64) -> FdbEntry {
        FdbEntry::remote(generation, self.path(), self.ip)
    }

    /// Its slot of `paths`.
    fn path(self) -> u32 {
        let [.., last] = self.ip;
        last.into()
    }

    /// Writes the way to it, by itself as the next hop.
    fn insert(self, ebpf: &mut Ebpf, mtu: u16) {
        let key = VtepKey::ipv4(self.ip);
        let entry = VtepEntry {
            id: self.path(),
            port: self.port.to_be_bytes(),
            mtu,
            flags: 0,
            next_hop: key.ip,
        };
        insert(ebpf, map::VTEPS, &[(key, entry)]);
        set_path(ebpf, self.path(), PathEntry::of(key, &entry));
    }
}

/// An address as the maps have that of either family.
pub(crate) fn mapped(ip: [u8; 4]) -> [u8; 16] {
    Ipv4Addr::from(ip).to_ipv6_mapped().octets()
}

/// Writes a slot of `paths`.
pub(crate) fn set_path(ebpf: &mut Ebpf, slot: u32, entry: PathEntry) {
    let mut paths: Array<_, PathEntry> = ebpf.map_mut(map::PATHS).unwrap().try_into().unwrap();
    paths.set(slot, entry, 0).unwrap();
}

/// Index of the device that the programs see every frame come in by.
pub(crate) const LOOPBACK: u32 = 1;

pub(crate) const VNI: u32 = 42;
/// A second tenant with the same addresses.
pub(crate) const OTHER_VNI: u32 = 43;
/// A VNI that no network has.
pub(crate) const NO_VNI: u32 = 0x00ff_fffe;
pub(crate) const MTU: u32 = 1450;

/// This host's.
pub(crate) const VTEP: Vtep = Vtep {
    ip: [10, 0, 0, 1],
    port: 4789,
};
pub(crate) const GREEN_VTEP: Vtep = Vtep {
    ip: [10, 0, 0, 2],
    port: 4789,
};
/// Listens on a port of its own.
pub(crate) const RED_VTEP: Vtep = Vtep {
    ip: [10, 0, 0, 3],
    port: 14789,
};
/// Not in the registry.
pub(crate) const STRANGE_VTEP: Vtep = Vtep {
    ip: [10, 0, 0, 66],
    port: 4789,
};

/// The endpoint under test: what the programs see sent came from it.
pub(crate) const BLUE: Endpoint = Endpoint::numbered(2);
/// The same endpoint by its second addresses.
pub(crate) const BLUE_AGAIN: Endpoint = Endpoint {
    mac: BLUE.mac,
    ..Endpoint::numbered(12)
};
/// On this host, too.
pub(crate) const CYAN: Endpoint = Endpoint::numbered(4);
/// Behind [`GREEN_VTEP`].
pub(crate) const GREEN: Endpoint = Endpoint::numbered(3);
/// Behind [`RED_VTEP`].
pub(crate) const RED: Endpoint = Endpoint::numbered(5);
/// Of the second tenant alone.
pub(crate) const VIOLET: Endpoint = Endpoint::numbered(99);
/// Behind a VTEP with an IPv6 address, [`FAR_VTEP`].
pub(crate) const FAR: Endpoint = Endpoint::numbered(6);
/// Slot of `paths` and address of a VTEP of the other family.
const FAR_VTEP: (u32, [u8; 16]) = (4, FAR.ipv6);
/// The gateway of a router.
pub(crate) const GATEWAY: Endpoint = Endpoint::numbered(1);
/// Nobody's.
pub(crate) const NOBODY: Endpoint = Endpoint::numbered(200);

/// Where the networks' traffic is counted.
pub(crate) const SLOT: u16 = 3;
pub(crate) const OTHER_SLOT: u16 = 4;

pub(crate) const GENERATION: u64 = 7;
pub(crate) const CYAN_IFINDEX: u32 = 8;
const TWIN_IFINDEX: u32 = 9;

/// Has green's host be reached by outer packets of `mtu` bytes at most.
pub(crate) fn narrow_path(ebpf: &mut Ebpf, mtu: u16) {
    GREEN_VTEP.insert(ebpf, mtu);
}

/// Writes the network into a datapath's maps.
pub(crate) fn fill(ebpf: &mut Ebpf) {
    let network = |slot| NetworkEntry {
        mtu: MTU,
        slot,
        ..NetworkEntry::zeroed()
    };
    let networks = [(VNI, network(SLOT)), (OTHER_VNI, network(OTHER_SLOT))];
    insert(ebpf, map::NETWORKS, &networks);

    for vtep in [GREEN_VTEP, RED_VTEP] {
        vtep.insert(ebpf, 0);
    }

    let (far, ip) = FAR_VTEP;
    let path = PathEntry {
        vtep: ip,
        ..PathEntry::zeroed()
    };
    set_path(ebpf, far, path);

    let remote = |vtep: Vtep| vtep.remote(GENERATION);
    let gateway = FdbEntry {
        kind: FdbEntry::ROUTER,
        ..FdbEntry::zeroed()
    };
    let local_of = |slot, ifindex| FdbEntry {
        slot,
        id: id_of(ifindex),
        ..FdbEntry::local(GENERATION, ifindex)
    };
    let local = |ifindex| local_of(SLOT, ifindex);
    insert(
        ebpf,
        map::FDB,
        &[
            (FdbKey::new(VNI, BLUE.mac), local(LOOPBACK)),
            (FdbKey::new(VNI, CYAN.mac), local(CYAN_IFINDEX)),
            (FdbKey::new(VNI, GREEN.mac), remote(GREEN_VTEP)),
            (FdbKey::new(VNI, RED.mac), remote(RED_VTEP)),
            (
                FdbKey::new(VNI, FAR.mac),
                FdbEntry::remote(GENERATION, far, [0; 4]),
            ),
            (FdbKey::new(VNI, GATEWAY.mac), gateway),
            (
                FdbKey::new(OTHER_VNI, BLUE.mac),
                local_of(OTHER_SLOT, TWIN_IFINDEX),
            ),
            (FdbKey::new(OTHER_VNI, VIOLET.mac), remote(GREEN_VTEP)),
        ],
    );

    let neighbors = [BLUE, BLUE_AGAIN, CYAN, GREEN, RED]
        .map(|endpoint| (VNI, endpoint))
        .into_iter()
        .chain([(OTHER_VNI, BLUE), (OTHER_VNI, VIOLET)])
        .flat_map(|(vni, endpoint)| {
            let entry = NeighborEntry::new(GENERATION, endpoint.mac);
            [
                (NeighborKey::ipv4(vni, endpoint.ipv4), entry),
                (NeighborKey::ipv6(vni, endpoint.ipv6), entry),
            ]
        });
    insert(ebpf, map::NEIGHBORS, &neighbors.collect::<Vec<_>>());

    let endpoint = EndpointEntry {
        generation: GENERATION,
        vni: VNI,
        mtu: MTU,
        mac: BLUE.mac,
        slot: SLOT,
        id: id_of(LOOPBACK).into(),
        ipv4: BLUE.ipv4,
        ipv6: BLUE.ipv6,
        ..EndpointEntry::zeroed()
    };
    insert(ebpf, map::ENDPOINTS, &[(LOOPBACK, endpoint)]);
}

/// Where the endpoint behind an interface is counted.
pub(crate) const fn id_of(ifindex: u32) -> u16 {
    match ifindex {
        LOOPBACK => 1,
        CYAN_IFINDEX => 2,
        _ => 3,
    }
}

/// Makes the network of [`VNI`] one that resolves on demand.
pub(crate) fn resolve_on_demand(ebpf: &mut Ebpf) {
    let network = NetworkEntry {
        mtu: MTU,
        flags: NetworkEntry::ON_DEMAND,
        slot: SLOT,
        ..NetworkEntry::zeroed()
    };
    insert(ebpf, map::NETWORKS, &[(VNI, network)]);
}

pub(crate) fn remove<K: Pod, V: Pod>(ebpf: &mut Ebpf, name: &str, key: &K) {
    let mut map: HashMap<_, K, V> = ebpf.map_mut(name).unwrap().try_into().unwrap();
    map.remove(key).unwrap();
}

pub(crate) fn insert<K: Pod, V: Pod>(ebpf: &mut Ebpf, name: &str, rows: &[(K, V)]) {
    let mut map: HashMap<_, K, V> = ebpf.map_mut(name).unwrap().try_into().unwrap();
    for (key, value) in rows {
        map.insert(key, value, 0).unwrap();
    }
}
