//! The maps of one instance, typed.

use std::{collections::BTreeMap, path::Path, time::Duration};

use aya::{
    Ebpf, Pod,
    maps::{Array, HashMap, Map, MapData, MapError, MapInfo, PerCpuArray, PerCpuValues, RingBuf},
};
use nix::time::{ClockId, clock_gettime};
use overlay_ebpf::abi::{self, Counter, DropReason, External, map};
use uuid::Uuid;

use super::{
    DatapathError, Settings,
    convert::{Row, Stamp},
    drops::DropMaps,
    pins::Pins,
    slots::Slots,
    table::{Table, failed},
};
use crate::model::{
    EndpointRow, FdbKey, FdbRow, MapUsage, NeighborKey, NeighborRow, NetworkRow, Tables, Traffic,
    Vni, VtepRow,
};

/// Every map of the datapath.
pub(super) struct Maps {
    fdb: Table<abi::FdbKey, abi::FdbEntry>,
    neighbors: Table<abi::NeighborKey, abi::NeighborEntry>,
    endpoints: Table<u32, abi::EndpointEntry>,
    vteps: Table<abi::VtepKey, abi::VtepEntry>,
    networks: Table<u32, abi::NetworkEntry>,
    lease: Array<MapData, u64>,
    external: Array<MapData, u32>,
    drops: PerCpuArray<MapData, u64>,
    pub(super) dropped: DropMaps,
    counters: PerCpuArray<MapData, u64>,
    traffic: PerCpuArray<MapData, abi::Traffic>,
    quiet: HashMap<MapData, abi::MissKey, abi::Quiet>,
    /// Taken by who reads it.
    misses: Option<RingBuf<MapData>>,
    slots: Slots,
}

impl Maps {
    /// Takes the maps out of a loaded object.
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, DatapathError> {
        let mut maps = Self {
            fdb: table(ebpf, map::FDB)?,
            neighbors: table(ebpf, map::NEIGHBORS)?,
            endpoints: table(ebpf, map::ENDPOINTS)?,
            vteps: table(ebpf, map::VTEPS)?,
            networks: table(ebpf, map::NETWORKS)?,
            lease: typed(ebpf, map::LEASE)?,
            external: typed(ebpf, map::EXTERNAL)?,
            drops: typed(ebpf, map::DROPS)?,
            dropped: DropMaps::take(ebpf)?,
            counters: typed(ebpf, map::COUNTERS)?,
            traffic: typed(ebpf, map::TRAFFIC)?,
            quiet: typed(ebpf, map::QUIET)?,
            misses: Some(typed(ebpf, map::MISSES)?),
            slots: Slots::default(),
        };
        maps.restore_slots()?;
        maps.choose_voucher()?;
        Ok(maps)
    }

    /// Learns the slots that an earlier agent gave out, and gives the other networks theirs.
    fn restore_slots(&mut self) -> Result<(), DatapathError> {
        let mut networks = Vec::new();
        for entry in self.networks.entries() {
            let (vni, network) = entry?;
            networks.extend(Vni::try_from(vni).ok().map(|vni| (vni, network.slot)));
        }
        let mut ports = Vec::new();
        self.endpoints
            .for_each::<EndpointRow>(|ifindex, row| ports.push((ifindex, row.vni)))?;
        self.slots = Slots::restore(networks, ports.iter().copied());
        let changed = self.slots.change([], ports);
        self.assign(&changed)?;
        self.stamp_ports()
    }

    /// Writes the slots of networks that got another one, and starts their counts anew.
    fn assign(&mut self, changed: &[Vni]) -> Result<(), DatapathError> {
        for &vni in changed {
            let slot = self.slots.of(vni);
            if slot != 0 {
                self.clear_traffic(slot)?;
            }
            if let Some(network) = self.networks.entry(&vni.get())? {
                let network = abi::NetworkEntry { slot, ..network };
                self.networks.rewrite(&vni.get(), &network)?;
            }
        }
        Ok(())
    }

    /// Makes the ports' entries name their networks' slots, where an older version left none.
    fn stamp_ports(&mut self) -> Result<(), DatapathError> {
        let ports: Vec<_> = self.slots.ports().collect();
        for (ifindex, vni) in ports {
            let slot = self.slots.of(vni);
            let Some(endpoint) = self.endpoints.entry(&ifindex)? else {
                continue;
            };
            if endpoint.slot != slot {
                let endpoint = abi::EndpointEntry { slot, ..endpoint };
                self.endpoints.rewrite(&ifindex, &endpoint)?;
            }
            let key = abi::FdbKey::new(endpoint.vni, endpoint.mac);
            match self.fdb.entry(&key)? {
                Some(target) if target.ifindex == ifindex && target.slot != slot => {
                    let target = abi::FdbEntry { slot, ..target };
                    self.fdb.rewrite(&key, &target)?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn clear_traffic(&mut self, slot: u16) -> Result<(), DatapathError> {
        let slot = u32::from(slot);
        let cleared = self.traffic.get(&slot, 0).and_then(|per_cpu| {
            let zeros = vec![abi::Traffic::default(); per_cpu.len()];
            self.traffic.set(slot, PerCpuValues::try_from(zeros)?, 0)
        });
        cleared.map_err(|error| failed("write to", map::TRAFFIC, &error))
    }

    /// Adds what a map of an earlier agent held that made it with another capacity.
    pub(super) fn adopt(&mut self, former: Outgrown) -> Result<(), DatapathError> {
        match former {
            Outgrown::Fdb(former) => copy(&former, &mut self.fdb),
            Outgrown::Neighbors(former) => copy(&former, &mut self.neighbors),
        }
    }

    /// Adds networks that an earlier version of the ABI held: VNI and MTU.
    pub(super) fn adopt_networks(
        &mut self,
        networks: impl IntoIterator<Item = Result<(u32, u32), DatapathError>>,
    ) -> Result<(), DatapathError> {
        for network in networks {
            let (vni, mtu) = network?;
            let slot = Vni::try_from(vni).map_or(0, |vni| self.slots.of(vni));
            let entry = abi::NetworkEntry {
                mtu,
                flags: 0,
                slot,
            };
            self.networks.adopt(&vni, &entry)?;
        }
        Ok(())
    }

    pub(super) fn usage(&self) -> BTreeMap<&'static str, MapUsage> {
        let traffic = MapUsage {
            entries: self.slots.iter().count() as u64,
            capacity: Slots::CAPACITY.into(),
            ..MapUsage::default()
        };
        BTreeMap::from([
            self.fdb.usage(),
            self.neighbors.usage(),
            self.endpoints.usage(),
            self.vteps.usage(),
            self.networks.usage(),
            (map::TRAFFIC, traffic),
        ])
    }

    pub(super) fn tables(&self) -> Result<Tables, DatapathError> {
        Ok(Tables {
            fdb: self.fdb.rows::<FdbRow>()?,
            neighbors: self.neighbors.rows::<NeighborRow>()?,
            ..self.small_tables()?
        })
    }

    pub(super) fn small_tables(&self) -> Result<Tables, DatapathError> {
        Ok(Tables {
            networks: self.networks.rows::<NetworkRow>()?,
            vteps: self.vteps.rows::<VtepRow>()?,
            endpoints: self.endpoints.rows::<EndpointRow>()?,
            ..Tables::default()
        })
    }

    /// Removes, then writes. What frames are let in by goes last in and first out, so that a row
    /// never points at what is not there yet. A table that fails, a full one for instance, keeps no
    /// other from its rows; the first error is reported.
    pub(super) fn write(&mut self, put: &Tables, remove: &Tables) -> Result<(), DatapathError> {
        // Interfaces that go are counted no more, those that only change are.
        let gone = remove.endpoints.keys().copied();
        let gone: Vec<u32> = gone
            .filter(|ifindex| !put.endpoints.contains_key(ifindex))
            .collect();
        let changed = if remove.endpoints.is_empty() && put.endpoints.is_empty() {
            Vec::new()
        } else {
            let come = put.endpoints.iter();
            self.slots.change(
                remove.endpoints.keys().copied(),
                come.map(|(ifindex, row)| (*ifindex, row.vni)),
            )
        };
        let now_s = now_s()?;
        let stamp = Stamp {
            slots: &self.slots,
            now_s,
        };
        let removed = [
            self.endpoints
                .remove::<EndpointRow>(&remove.endpoints, &stamp),
            self.fdb.remove::<FdbRow>(&remove.fdb, &stamp),
            self.neighbors
                .remove::<NeighborRow>(&remove.neighbors, &stamp),
            self.vteps.remove::<VtepRow>(&remove.vteps, &stamp),
            self.networks.remove::<NetworkRow>(&remove.networks, &stamp),
            self.networks.put::<NetworkRow>(&put.networks, &stamp),
        ];
        let assigned = self.assign(&changed);
        let stamp = Stamp {
            slots: &self.slots,
            now_s,
        };
        let put = [
            self.vteps.put::<VtepRow>(&put.vteps, &stamp),
            self.neighbors.put::<NeighborRow>(&put.neighbors, &stamp),
            self.fdb.put::<FdbRow>(&put.fdb, &stamp),
            self.endpoints.put::<EndpointRow>(&put.endpoints, &stamp),
        ];
        let forgotten = self.dropped.forget(gone);
        worst(removed.into_iter().chain([assigned, forgotten]).chain(put))
    }

    /// Writes rows whose keys the maps are known not to hold.
    pub(super) fn add(
        &mut self,
        fdb: &BTreeMap<FdbKey, FdbRow>,
        neighbors: &BTreeMap<NeighborKey, NeighborRow>,
    ) -> Result<(), DatapathError> {
        let stamp = Stamp {
            slots: &self.slots,
            now_s: now_s()?,
        };
        let neighbors = self.neighbors.add::<NeighborRow>(neighbors, &stamp);
        worst([neighbors, self.fdb.add::<FdbRow>(fdb, &stamp)])
    }

    /// Names the VXLAN device that does what the programs can't, by its index.
    pub(super) fn set_external(&mut self, ifindex: Option<u32>) -> Result<(), DatapathError> {
        self.external
            .set(External::IFINDEX, ifindex.unwrap_or_default(), 0)
            .map_err(|error| failed("write to", map::EXTERNAL, &error))
    }

    /// Chooses what the programs know by which packets they left to the device, unless a former agent has: its
    /// programs run until they are replaced one by one.
    fn choose_voucher(&mut self) -> Result<(), DatapathError> {
        let known = self.external.get(&External::VOUCHER, 0);
        if known.map_err(|error| failed("read", map::EXTERNAL, &error))? != 0 {
            return Ok(());
        }
        let (random, ..) = Uuid::new_v4().as_fields();
        self.external
            .set(External::VOUCHER, random | 1, 0)
            .map_err(|error| failed("write to", map::EXTERNAL, &error))
    }

    pub(super) fn renew_lease(&mut self, valid: Duration) -> Result<(), DatapathError> {
        let until = nanoseconds(now()? + valid);
        self.lease
            .set(0, until, 0)
            .map_err(|error| failed("write to", map::LEASE, &error))
    }

    /// How long ago a frame used the row.
    pub(super) fn used(&self, key: &FdbKey) -> Result<Option<Duration>, DatapathError> {
        let key = abi::FdbKey::new(key.vni.get(), key.mac.octets());
        let used_s = self.fdb.entry(&key)?.map_or(0, |entry| entry.used_s);
        if used_s == 0 {
            return Ok(None);
        }
        let idle_s = now_s()?.saturating_sub(used_s);
        Ok(Some(Duration::from_secs(idle_s.into())))
    }

    /// The ring of misses, for the first who asks.
    pub(super) fn misses(&mut self) -> Option<RingBuf<MapData>> {
        self.misses.take()
    }

    /// Lets a miss rest for so long because nobody has the address, or rest no more.
    pub(super) fn quiet(
        &mut self,
        key: &abi::MissKey,
        nobody_for: Option<Duration>,
    ) -> Result<(), DatapathError> {
        let Some(nobody_for) = nobody_for else {
            return match self.quiet.remove(key) {
                Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
                Err(MapError::SyscallError(error))
                    if error.io_error.raw_os_error() == Some(libc::ENOENT) =>
                {
                    Ok(())
                }
                Err(error) => Err(failed("remove from", map::QUIET, &error)),
            };
        };
        let value = abi::Quiet {
            until_ns: nanoseconds(now()? + nobody_for),
            is_unknown: 1,
            reserved: 0,
        };
        self.quiet
            .insert(key, value, 0)
            .map_err(|error| failed("write to", map::QUIET, &error))
    }

    pub(super) fn drops(&self) -> Result<BTreeMap<&'static str, u64>, DatapathError> {
        DropReason::ALL
            .iter()
            .map(|reason| {
                let sum = sum(&self.drops, map::DROPS, reason.number())?;
                Ok((reason.name(), sum))
            })
            .collect()
    }

    pub(super) fn counters(&self) -> Result<BTreeMap<&'static str, u64>, DatapathError> {
        Counter::ALL
            .iter()
            .map(|counter| {
                let sum = sum(&self.counters, map::COUNTERS, counter.number())?;
                Ok((counter.name(), sum))
            })
            .collect()
    }

    pub(super) fn traffic(&self) -> Result<BTreeMap<Vni, Traffic>, DatapathError> {
        self.slots
            .iter()
            .map(|(vni, slot)| {
                let per_cpu = self
                    .traffic
                    .get(&slot.into(), 0)
                    .map_err(|error| failed("read", map::TRAFFIC, &error))?;
                let mut total = Traffic::default();
                for cpu in per_cpu.iter() {
                    total.tx_packets += cpu.tx_packets;
                    total.tx_bytes += cpu.tx_bytes;
                    total.rx_packets += cpu.rx_packets;
                    total.rx_bytes += cpu.rx_bytes;
                }
                Ok((vni, total))
            })
            .collect()
    }
}

/// What all CPUs together counted in a slot.
fn sum(
    counters: &PerCpuArray<MapData, u64>,
    name: &'static str,
    slot: u32,
) -> Result<u64, DatapathError> {
    let per_cpu = counters
        .get(&slot, 0)
        .map_err(|error| failed("read", name, &error))?;
    Ok(per_cpu.iter().sum())
}

/// The gravest of several outcomes.
fn worst(
    outcomes: impl IntoIterator<Item = Result<(), DatapathError>>,
) -> Result<(), DatapathError> {
    let errors = outcomes.into_iter().filter_map(Result::err);
    errors
        .max_by_key(DatapathError::gravity)
        .map_or(Ok(()), Err)
}

pub(super) fn now() -> Result<Duration, DatapathError> {
    clock_gettime(ClockId::CLOCK_MONOTONIC)
        .map(Duration::from)
        .map_err(|errno| DatapathError::Kernel {
            what: "can't read the clock".to_owned(),
            cause: errno.to_string(),
        })
}

/// As the programs note the use of entries. Never 0, which means that an entry does not age.
fn now_s() -> Result<u32, DatapathError> {
    now().map(|now| u32::try_from(now.as_secs()).unwrap_or(u32::MAX).max(1))
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn table<K: Pod, V: Pod>(
    ebpf: &mut Ebpf,
    name: &'static str,
) -> Result<Table<K, V>, DatapathError> {
    Table::open(name, take(ebpf, name)?)?.counted()
}

pub(super) fn typed<T: TryFrom<Map, Error = MapError>>(
    ebpf: &mut Ebpf,
    name: &'static str,
) -> Result<T, DatapathError> {
    take(ebpf, name)?
        .try_into()
        .map_err(|error| failed("open", name, &error))
}

fn take(ebpf: &mut Ebpf, name: &str) -> Result<Map, DatapathError> {
    ebpf.take_map(name).ok_or_else(|| DatapathError::Kernel {
        what: format!("the BPF object has no map {name}"),
        cause: "it was built from another version".to_owned(),
    })
}

/// A table of an earlier agent with another capacity than this one wants.
pub(super) enum Outgrown {
    Fdb(Table<abi::FdbKey, abi::FdbEntry>),
    Neighbors(Table<abi::NeighborKey, abi::NeighborEntry>),
}

impl Outgrown {
    /// Opens the tables for which that is so.
    pub(super) fn find(pins: &Pins, settings: &Settings) -> Result<Vec<Self>, DatapathError> {
        let mut outgrown = Vec::new();
        if is_outgrown(pins, map::FDB, settings.fdb_entries)? {
            outgrown.push(Self::Fdb(pinned(pins, map::FDB)?));
        }
        if is_outgrown(pins, map::NEIGHBORS, settings.neighbor_entries)? {
            outgrown.push(Self::Neighbors(pinned(pins, map::NEIGHBORS)?));
        }
        Ok(outgrown)
    }

    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::Fdb(_) => map::FDB,
            Self::Neighbors(_) => map::NEIGHBORS,
        }
    }
}

fn is_outgrown(pins: &Pins, name: &'static str, wanted: u32) -> Result<bool, DatapathError> {
    let info = info(&pins.map(name), name)?;
    Ok(info.is_some_and(|info| info.max_entries() != wanted))
}

fn copy<K: Pod, V: Pod>(from: &Table<K, V>, to: &mut Table<K, V>) -> Result<(), DatapathError> {
    from.entries().try_for_each(|entry| {
        let (key, value) = entry?;
        to.adopt(&key, &value)
    })
}

/// Shows the rows of a pinned map, which needs no lock on those that are written.
pub(super) fn for_each_pinned<R>(
    pins: &Pins,
    name: &'static str,
    visit: impl FnMut(R::Key, R),
) -> Result<(), DatapathError>
where
    R: Row<AbiKey: Pod, AbiValue: Pod>,
{
    pinned(pins, name)?.for_each::<R>(visit)
}

pub(super) fn pinned<K: Pod, V: Pod>(
    pins: &Pins,
    name: &'static str,
) -> Result<Table<K, V>, DatapathError> {
    Table::open(name, open_pin(&pins.map(name), name)?)
}

/// Opens a pinned map.
pub(super) fn open_pin(path: &Path, name: &str) -> Result<Map, DatapathError> {
    let data = MapData::from_pin(path).map_err(|error| failed("open the pinned", name, &error))?;
    Map::from_map_data(data).map_err(|error| failed("open the pinned", name, &error))
}

/// What is known of a pinned map; `None`: there is no such pin.
pub(super) fn info(path: &Path, name: &str) -> Result<Option<MapInfo>, DatapathError> {
    if !path.exists() {
        return Ok(None);
    }
    MapInfo::from_pin(path)
        .map(Some)
        .map_err(|error| failed("inspect the pinned", name, &error))
}

/// Refuses a pinned map that has another shape than this version's.
pub(super) fn check_shape(pins: &Pins, name: &str) -> Result<(), DatapathError> {
    let path = pins.map(name);
    let Some(info) = info(&path, name)? else {
        return Ok(());
    };
    let (key, value) = sizes(name);
    if (info.key_size(), info.value_size()) == (key, value) {
        return Ok(());
    }
    Err(DatapathError::Refused(format!(
        "{} is pinned with keys of {} and values of {} bytes, but this version's have {key} and \
         {value}: something else made it; remove it with `overlay down` and start again",
        path.display(),
        info.key_size(),
        info.value_size(),
    )))
}

/// Sizes of a map's key and value, bytes. A ring buffer has none.
#[expect(
    clippy::cast_possible_truncation,
    reason = "sizes of a few dozen bytes"
)]
pub(super) fn sizes(name: &str) -> (u32, u32) {
    const fn pair<K, V>() -> (u32, u32) {
        (size_of::<K>() as u32, size_of::<V>() as u32)
    }
    match name {
        map::FDB => pair::<abi::FdbKey, abi::FdbEntry>(),
        map::NEIGHBORS => pair::<abi::NeighborKey, abi::NeighborEntry>(),
        map::ENDPOINTS => pair::<u32, abi::EndpointEntry>(),
        map::VTEPS => pair::<abi::VtepKey, abi::VtepEntry>(),
        map::NETWORKS => pair::<u32, abi::NetworkEntry>(),
        map::EXTERNAL => pair::<u32, u32>(),
        map::DROP_SAMPLES => pair::<u32, abi::DropSample>(),
        map::ENDPOINT_DROPS => pair::<abi::EndpointDropKey, u64>(),
        map::LEASE | map::DROPS | map::COUNTERS => pair::<u32, u64>(),
        map::QUIET => pair::<abi::MissKey, abi::Quiet>(),
        map::TRAFFIC => pair::<u32, abi::Traffic>(),
        _ => (0, 0),
    }
}
