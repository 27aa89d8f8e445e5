//! The maps of one instance, typed.

use std::{collections::BTreeMap, path::Path, time::Duration};

use aya::{
    Ebpf, Pod,
    maps::{Array, Map, MapData, PerCpuArray},
};
use nix::time::{ClockId, clock_gettime};
use overlay_ebpf::abi::{self, DropReason, map};

use super::{
    DatapathError, Settings,
    convert::Row,
    pins::Pins,
    table::{Table, failed},
};
use crate::model::{EndpointRow, FdbRow, MapUsage, NeighborRow, NetworkRow, Tables, VtepRow};

/// Every map of the datapath.
pub(super) struct Maps {
    fdb: Table<abi::FdbKey, abi::FdbEntry>,
    neighbors: Table<abi::NeighborKey, abi::NeighborEntry>,
    endpoints: Table<u32, abi::EndpointEntry>,
    vteps: Table<abi::VtepKey, abi::VtepEntry>,
    networks: Table<u32, abi::NetworkEntry>,
    lease: Array<MapData, u64>,
    drops: PerCpuArray<MapData, u64>,
}

impl Maps {
    /// Takes the maps out of a loaded object.
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, DatapathError> {
        Ok(Self {
            fdb: table(ebpf, map::FDB)?,
            neighbors: table(ebpf, map::NEIGHBORS)?,
            endpoints: table(ebpf, map::ENDPOINTS)?,
            vteps: table(ebpf, map::VTEPS)?,
            networks: table(ebpf, map::NETWORKS)?,
            lease: take(ebpf, map::LEASE)?
                .try_into()
                .map_err(|error| failed("open", map::LEASE, &error))?,
            drops: take(ebpf, map::DROPS)?
                .try_into()
                .map_err(|error| failed("open", map::DROPS, &error))?,
        })
    }

    /// The tables that are pinned, empty where one is not.
    pub(super) fn pinned_tables(pins: &Pins) -> Result<Tables, DatapathError> {
        Ok(Tables {
            networks: pinned_rows::<NetworkRow>(pins, map::NETWORKS)?,
            vteps: pinned_rows::<VtepRow>(pins, map::VTEPS)?,
            fdb: pinned_rows::<FdbRow>(pins, map::FDB)?,
            neighbors: pinned_rows::<NeighborRow>(pins, map::NEIGHBORS)?,
            endpoints: pinned_rows::<EndpointRow>(pins, map::ENDPOINTS)?,
        })
    }

    pub(super) fn usage(&self) -> BTreeMap<&'static str, MapUsage> {
        BTreeMap::from([
            self.fdb.usage(),
            self.neighbors.usage(),
            self.endpoints.usage(),
            self.vteps.usage(),
            self.networks.usage(),
        ])
    }

    pub(super) fn tables(&self) -> Result<Tables, DatapathError> {
        Ok(Tables {
            networks: self.networks.rows::<NetworkRow>()?,
            vteps: self.vteps.rows::<VtepRow>()?,
            fdb: self.fdb.rows::<FdbRow>()?,
            neighbors: self.neighbors.rows::<NeighborRow>()?,
            endpoints: self.endpoints.rows::<EndpointRow>()?,
        })
    }

    /// Removes, then writes. What frames are let in by goes last in and first out, so that a row
    /// never points at what is not there yet. A table that fails, a full one for instance, keeps no
    /// other from its rows; the first error is reported.
    pub(super) fn write(&mut self, put: &Tables, remove: &Tables) -> Result<(), DatapathError> {
        let results = [
            self.endpoints.remove::<EndpointRow>(&remove.endpoints),
            self.fdb.remove::<FdbRow>(&remove.fdb),
            self.neighbors.remove::<NeighborRow>(&remove.neighbors),
            self.vteps.remove::<VtepRow>(&remove.vteps),
            self.networks.remove::<NetworkRow>(&remove.networks),
            self.networks.put::<NetworkRow>(&put.networks),
            self.vteps.put::<VtepRow>(&put.vteps),
            self.neighbors.put::<NeighborRow>(&put.neighbors),
            self.fdb.put::<FdbRow>(&put.fdb),
            self.endpoints.put::<EndpointRow>(&put.endpoints),
        ];
        results.into_iter().collect()
    }

    pub(super) fn renew_lease(&mut self, valid: Duration) -> Result<(), DatapathError> {
        let failed_to = |cause: String| DatapathError::Kernel {
            what: format!("can't write to BPF map {}", map::LEASE),
            cause,
        };
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC)
            .map_err(|errno| failed_to(errno.to_string()))?;
        let until = Duration::from(now) + valid;
        let until = u64::try_from(until.as_nanos()).unwrap_or(u64::MAX);
        self.lease
            .set(0, until, 0)
            .map_err(|error| failed_to(super::features::chain(&error)))
    }

    pub(super) fn drops(&self) -> Result<BTreeMap<&'static str, u64>, DatapathError> {
        DropReason::ALL
            .iter()
            .map(|reason| {
                let per_cpu = self
                    .drops
                    .get(&reason.number(), 0)
                    .map_err(|error| failed("read", map::DROPS, &error))?;
                Ok((reason.name(), per_cpu.iter().sum()))
            })
            .collect()
    }
}

fn table<K: Pod, V: Pod>(
    ebpf: &mut Ebpf,
    name: &'static str,
) -> Result<Table<K, V>, DatapathError> {
    Table::open(name, take(ebpf, name)?)?.counted()
}

/// The rows of a pinned map; none, if there is no such pin.
fn pinned_rows<R>(pins: &Pins, name: &'static str) -> Result<BTreeMap<R::Key, R>, DatapathError>
where
    R: Row<AbiKey: Pod, AbiValue: Pod>,
    R::Key: Ord,
{
    let path = pins.map(name);
    if !path.exists() {
        return Ok(BTreeMap::new());
    }
    Table::open(name, open_pin(&path, name)?)?.rows::<R>()
}

/// One pinned map for itself: to be read without a lock on those that are written.
pub(super) fn for_each_pinned<R>(
    pins: &Pins,
    name: &'static str,
    visit: impl FnMut(R::Key, R),
) -> Result<(), DatapathError>
where
    R: Row<AbiKey: Pod, AbiValue: Pod>,
{
    Table::open(name, open_pin(&pins.map(name), name)?)?.for_each::<R>(visit)
}

/// Whether the pinned map has the shape that this version wants. `Ok(false)`: only its capacity
/// differs, so its rows can move to a new one.
pub(super) fn has_wanted_shape(
    pins: &Pins,
    name: &str,
    settings: &Settings,
) -> Result<bool, DatapathError> {
    let path = pins.map(name);
    if !path.exists() {
        return Ok(true);
    }
    let info = aya::maps::MapInfo::from_pin(&path)
        .map_err(|error| failed("inspect the pinned", name, &error))?;
    let (key, value) = sizes(name);
    if (info.key_size(), info.value_size()) != (key, value) {
        return Err(DatapathError::Refused(format!(
            "{} is pinned with keys of {} and values of {} bytes, but this version's have {key} and \
             {value}: something else made it; remove it with `overlay down` and start again",
            path.display(),
            info.key_size(),
            info.value_size(),
        )));
    }
    let wanted = match name {
        map::FDB => settings.fdb_entries,
        map::NEIGHBORS => settings.neighbor_entries,
        _ => return Ok(true),
    };
    Ok(info.max_entries() == wanted)
}

/// Sizes of a map's key and value, bytes.
#[expect(
    clippy::cast_possible_truncation,
    reason = "sizes of a few dozen bytes"
)]
fn sizes(name: &str) -> (u32, u32) {
    const fn pair<K, V>() -> (u32, u32) {
        (size_of::<K>() as u32, size_of::<V>() as u32)
    }
    match name {
        map::FDB => pair::<abi::FdbKey, abi::FdbEntry>(),
        map::NEIGHBORS => pair::<abi::NeighborKey, abi::NeighborEntry>(),
        map::ENDPOINTS => pair::<u32, abi::EndpointEntry>(),
        map::VTEPS => pair::<abi::VtepKey, abi::VtepEntry>(),
        map::NETWORKS => pair::<u32, abi::NetworkEntry>(),
        map::LEASE | map::DROPS => pair::<u32, u64>(),
        _ => (0, 0),
    }
}

fn open_pin(path: &Path, name: &str) -> Result<Map, DatapathError> {
    let data = MapData::from_pin(path).map_err(|error| failed("open the pinned", name, &error))?;
    Map::from_map_data(data).map_err(|error| failed("open the pinned", name, &error))
}

fn take(ebpf: &mut Ebpf, name: &str) -> Result<Map, DatapathError> {
    ebpf.take_map(name).ok_or_else(|| DatapathError::Kernel {
        what: format!("the BPF object has no map {name}"),
        cause: "it was built from another version".to_owned(),
    })
}
