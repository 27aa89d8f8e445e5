//! The network in the maps of ABI version 2, for measurements beside that version's object.

use aya::Ebpf;
use overlay_ebpf::abi::{FdbKey, NeighborEntry, NeighborKey, map};

use crate::network::{BLUE, CYAN, GENERATION, GREEN, GREEN_VTEP, LOOPBACK, MTU, SLOT, VNI, insert};

/// Whether the object is of that version.
pub(crate) fn is(ebpf: &Ebpf) -> bool {
    ebpf.map(map::PATHS).is_none()
}

/// Writes as much of the network as a measurement needs.
pub(crate) fn fill(ebpf: &mut Ebpf) {
    let generation = GENERATION.to_ne_bytes();
    let network = bytes::<8>(&[&MTU.to_ne_bytes(), &[0; 2], &SLOT.to_ne_bytes()]);
    insert(ebpf, map::NETWORKS, &[(VNI, network)]);
    let port = GREEN_VTEP.port.to_be_bytes();
    let vtep = bytes::<8>(&[&port, &[0; 2], &GREEN_VTEP.ip]);
    insert(ebpf, map::VTEPS, &[(GREEN_VTEP.ip, vtep)]);
    let local = |ifindex: u32| {
        let slot = SLOT.to_ne_bytes();
        bytes::<24>(&[&generation, &ifindex.to_ne_bytes(), &[0; 6], &slot])
    };
    let remote = bytes::<24>(&[&generation, &[0; 4], &GREEN_VTEP.ip, &port]);
    let fdb = [
        (FdbKey::new(VNI, BLUE.mac), local(LOOPBACK)),
        (FdbKey::new(VNI, CYAN.mac), local(8)),
        (FdbKey::new(VNI, GREEN.mac), remote),
    ];
    insert(ebpf, map::FDB, &fdb);
    for endpoint in [BLUE, CYAN, GREEN] {
        let entry = NeighborEntry::new(GENERATION, endpoint.mac);
        let neighbors = [
            (NeighborKey::ipv4(VNI, endpoint.ipv4), entry),
            (NeighborKey::ipv6(VNI, endpoint.ipv6), entry),
        ];
        insert(ebpf, map::NEIGHBORS, &neighbors);
    }
    let (vni, mtu, slot) = (VNI.to_ne_bytes(), MTU.to_ne_bytes(), SLOT.to_ne_bytes());
    let fields: [&[u8]; 7] = [
        &generation,
        &vni,
        &mtu,
        &BLUE.mac,
        &slot,
        &BLUE.ipv4,
        &BLUE.ipv6,
    ];
    insert(ebpf, map::ENDPOINTS, &[(LOOPBACK, bytes::<48>(&fields))]);
}

/// Fields one behind the other, and zeros behind them.
fn bytes<const LEN: usize>(fields: &[&[u8]]) -> [u8; LEN] {
    let mut bytes = fields.concat();
    bytes.resize(LEN, 0);
    bytes.try_into().unwrap()
}
