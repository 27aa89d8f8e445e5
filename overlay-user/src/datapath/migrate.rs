//! Takes over the pins of an earlier ABI version while its programs keep running.
//!
//! A pin is moved by a rename, which is atomic: at any moment each map and each link has one place, and the next
//! start finishes one that was killed half-way.
//!
//! 1. Maps with an unchanged layout are moved; the old programs go on using them.
//! 2. Links are moved: they still run the old programs, until the agent attaches this version's.
//! 3. Rows of maps with a changed layout are copied, then the old map's pin goes. The old programs hold their own.
//! 4. Once everything is attached the old folder is removed ([`Pins::retire_others`]).

use std::net::Ipv4Addr;

use aya::{
    Pod,
    maps::{HashMap, PerCpuArray},
};
use bytemuck::{Pod as Plain, Zeroable};
use overlay_ebpf::abi::{self, ABI_VERSION, map};

use super::{
    DatapathError,
    encode::{Encode as _, Numbering},
    map_handle::{failed, info, open_pin, sizes},
    maps::Maps,
    pins::{Pins, move_pin, unpin},
};
use crate::model::{
    EndpointRow, FdbKey, FdbRow, FdbTarget, Mac, NetworkRow, Vni, Vtep, VtepPath, VtepRow,
};

/// Earlier versions whose layouts are known here. A start that was killed half-way may have left two.
const KNOWN: [u32; 2] = [2, 1];

/// Maps whose entries mean the same in versions 1 and 2, as far as these have them.
const UNCHANGED: [&str; 6] = [
    map::NEIGHBORS,
    map::LEASE,
    map::EXTERNAL,
    map::ENDPOINT_DROPS,
    map::MISSES,
    map::TRAFFIC,
];

/// Value of `fdb` in version 2. In version 1 `slot` and `used_s` were zero.
#[repr(C)]
#[derive(Clone, Copy, Plain, Zeroable)]
struct FdbV2 {
    generation: u64,
    ifindex: u32,
    vtep: [u8; 4],
    /// Of a local endpoint: 0, 1 where its frames go through the queue of its veth.
    port: [u8; 2],
    slot: u16,
    used_s: u32,
}

/// Value of `endpoints` in version 2. In version 1 `slot` was zero.
#[repr(C)]
#[derive(Clone, Copy, Plain, Zeroable)]
struct EndpointV2 {
    generation: u64,
    vni: u32,
    mtu: u32,
    mac: [u8; 6],
    slot: u16,
    ipv4: [u8; 4],
    ipv6: [u8; 16],
    reserved: [u8; 4],
}

/// Value of `vteps` in version 2.
#[repr(C)]
#[derive(Clone, Copy, Plain, Zeroable)]
struct VtepV2 {
    port: [u8; 2],
    mtu: u16,
    next_hop: [u8; 4],
}

/// Value of `networks` in version 2. In version 1 `mtu` was all there was.
#[repr(C)]
#[derive(Clone, Copy, Plain, Zeroable)]
struct NetworkV2 {
    mtu: u32,
    flags: u16,
    slot: u16,
}

/// The pins of an earlier version.
pub(super) struct OlderVersion(Pins);

impl OlderVersion {
    /// Looks for earlier versions' pins, the latest first. A later one's are refused: what they mean is not known
    /// here.
    pub(super) fn find(pins: &Pins) -> Result<Vec<Self>, DatapathError> {
        let versions = pins.versions()?;
        if let Some(newer) = versions.iter().find(|version| **version > ABI_VERSION) {
            return Err(DatapathError::Refused(format!(
                "the datapath that stands here has ABI version {newer}, made by a newer overlay; this \
                 one has {ABI_VERSION}: start the newer one again, or run `overlay down` with it first"
            )));
        }
        let there = KNOWN.iter().filter(|version| versions.contains(version));
        Ok(there.map(|version| Self(pins.of(*version))).collect())
    }

    /// Moves what is the same in both versions; to be called before this version's maps are made.
    pub(super) fn hand_over(&self, pins: &Pins) -> Result<(), DatapathError> {
        for name in UNCHANGED {
            let path = self.0.map(name);
            let Some(info) = info(&path, name)? else {
                continue;
            };
            if Some((info.key_size(), info.value_size())) == sizes(name) {
                move_pin(&path, &pins.map(name))?;
            }
        }
        for ifindex in self.0.endpoint_links()? {
            move_pin(&self.0.endpoint_link(ifindex), &pins.endpoint_link(ifindex))?;
        }
        for ifindex in self.0.underlay_links()? {
            move_pin(&self.0.underlay_link(ifindex), &pins.underlay_link(ifindex))?;
        }
        for ifindex in self.0.external_links()? {
            move_pin(&self.0.external_link(ifindex), &pins.external_link(ifindex))?;
        }
        Ok(())
    }

    /// Copies the rows of what is not the same; to be called once this version's maps are there.
    pub(super) fn copy_rows(&self, maps: &mut Maps) -> Result<(), DatapathError> {
        self.copy_networks(maps)?;
        self.copy(map::VTEPS, |ip: [u8; 4], row: [u8; 8]| {
            let row: VtepV2 = bytemuck::cast(row);
            let (vtep, row) = vtep(ip, row);
            maps.adopt_vtep(vtep, &row)
        })?;
        self.copy(map::ENDPOINTS, |ifindex: u32, row: [u8; 48]| {
            let row: EndpointV2 = bytemuck::cast(row);
            match endpoint(&row) {
                Some(endpoint) => maps.adopt_endpoint(ifindex, &endpoint, row.slot),
                None => Ok(()),
            }
        })?;
        self.copy(map::FDB, |key: [u8; 12], row: [u8; 24]| {
            let row: FdbV2 = bytemuck::cast(row);
            match fdb_key(bytemuck::cast(key)) {
                Some(key) => maps.adopt_fdb(&key, &fdb_row(&row), row.used_s),
                None => Ok(()),
            }
        })?;
        for name in [map::DROPS, map::COUNTERS] {
            self.copy_counts(name, maps)?;
        }
        Ok(())
    }

    fn copy_networks(&self, maps: &mut Maps) -> Result<(), DatapathError> {
        let mut adopt = |vni: u32, row: NetworkV2| {
            let network = NetworkRow {
                mtu: row.mtu,
                on_demand: row.flags & abi::NetworkEntry::ON_DEMAND != 0,
            };
            match Vni::try_from(vni) {
                Ok(vni) => maps.adopt_network(vni, network, row.slot),
                Err(_) => Ok(()),
            }
        };
        let info = info(&self.0.map(map::NETWORKS), map::NETWORKS)?;
        if info.is_some_and(|info| info.value_size() as usize == size_of::<u32>()) {
            return self.copy(map::NETWORKS, |vni, mtu: u32| {
                let row = NetworkV2 {
                    mtu,
                    ..NetworkV2::zeroed()
                };
                adopt(vni, row)
            });
        }
        self.copy(map::NETWORKS, |vni, row: [u8; 8]| {
            adopt(vni, bytemuck::cast(row))
        })
    }

    /// Shows every row of a pinned map and takes its pin away; there may be none.
    fn copy<K: Pod, V: Pod>(
        &self,
        name: &'static str,
        mut adopt: impl FnMut(K, V) -> Result<(), DatapathError>,
    ) -> Result<(), DatapathError> {
        let path = self.0.map(name);
        if !path.exists() {
            return Ok(());
        }
        let rows: HashMap<_, K, V> = open_pin(&path, name)?
            .try_into()
            .map_err(|error| failed("open the pinned", name, &error))?;
        for row in &rows {
            let (key, value) = row.map_err(|error| failed("read", name, &error))?;
            adopt(key, value)?;
        }
        unpin(&path)
    }

    /// Adds up what was counted by reason, which has more room now.
    fn copy_counts(&self, name: &'static str, maps: &mut Maps) -> Result<(), DatapathError> {
        let path = self.0.map(name);
        if !path.exists() {
            return Ok(());
        }
        let counts: PerCpuArray<_, u64> = open_pin(&path, name)?
            .try_into()
            .map_err(|error| failed("open the pinned", name, &error))?;
        // First the pin: counts that are missing are better than counts that are there twice.
        unpin(&path)?;
        for (slot, counted) in (0..counts.len()).zip(counts.iter()) {
            let counted = counted.map_err(|error| failed("read", name, &error))?;
            maps.counts.adopt(name, slot, &counted)?;
        }
        Ok(())
    }
}

fn vtep(ip: [u8; 4], row: VtepV2) -> (Vtep, VtepRow) {
    let port = u16::from_be_bytes(row.port);
    let next_hop = Ipv4Addr::from(row.next_hop);
    let path = VtepPath {
        next_hop: (!next_hop.is_unspecified()).then_some(next_hop.into()),
        mtu: Some(row.mtu).filter(|mtu| *mtu != 0),
    };
    let ip = Ipv4Addr::from(ip).into();
    (Vtep { ip, port }, VtepRow { port, path })
}

fn endpoint(row: &EndpointV2) -> Option<EndpointRow> {
    let entry = abi::EndpointEntry {
        generation: row.generation,
        vni: row.vni,
        mtu: row.mtu,
        mac: row.mac,
        ipv4: row.ipv4,
        ipv6: row.ipv6,
        ..abi::EndpointEntry::zeroed()
    };
    EndpointRow::decode(&0, &entry, &Numbering::default()).map(|(_, row)| row)
}

fn fdb_key(key: abi::FdbKey) -> Option<FdbKey> {
    Some(FdbKey {
        vni: Vni::try_from(key.vni).ok()?,
        mac: Mac::try_from(key.mac).ok()?,
    })
}

fn fdb_row(row: &FdbV2) -> FdbRow {
    let target = if row.ifindex == 0 {
        FdbTarget::Remote {
            vtep: Ipv4Addr::from(row.vtep).into(),
            port: u16::from_be_bytes(row.port),
        }
    } else {
        FdbTarget::Local {
            ifindex: row.ifindex,
            is_queued: row.port != [0; 2],
            is_metered: false,
        }
    };
    FdbRow {
        target,
        generation: row.generation,
        ages: row.used_s != 0,
    }
}
