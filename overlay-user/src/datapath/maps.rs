//! The maps of one instance, typed.

use std::{collections::BTreeMap, path::Path, time::Duration};

use aya::{
    Ebpf,
    maps::{Array, HashMap, Map, MapData, MapError, MapInfo, PerCpuArray, PerCpuValues, RingBuf},
};
use nix::time::{ClockId, clock_gettime};
use overlay_ebpf::abi::{self, Counter, DropReason, External, map};
use uuid::Uuid;

use super::{
    DatapathError,
    drops::DropMaps,
    pins::Pins,
    table::failed,
    tables::{BpfTables, EncodeContext, ResizedTables},
    traffic_slots::TrafficSlots,
};
use crate::model::{FdbKey, FdbRow, MapUsage, NeighborRow, Rows, Tables, Traffic, Vni};

/// Every map of the datapath.
pub(super) struct Maps {
    tables: BpfTables,
    lease: Array<MapData, u64>,
    external: Array<MapData, u32>,
    drops: PerCpuArray<MapData, u64>,
    pub(super) dropped: DropMaps,
    counters: PerCpuArray<MapData, u64>,
    traffic: PerCpuArray<MapData, abi::Traffic>,
    quiet: HashMap<MapData, abi::MissKey, abi::Quiet>,
    /// Taken by who reads it.
    misses: Option<RingBuf<MapData>>,
    slots: TrafficSlots,
}

impl Maps {
    /// Takes the maps out of a loaded object.
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, DatapathError> {
        let mut maps = Self {
            tables: BpfTables::take(ebpf)?,
            lease: typed(ebpf, map::LEASE)?,
            external: typed(ebpf, map::EXTERNAL)?,
            drops: typed(ebpf, map::DROPS)?,
            dropped: DropMaps::take(ebpf)?,
            counters: typed(ebpf, map::COUNTERS)?,
            traffic: typed(ebpf, map::TRAFFIC)?,
            quiet: typed(ebpf, map::QUIET)?,
            misses: Some(typed(ebpf, map::MISSES)?),
            slots: TrafficSlots::default(),
        };
        maps.restore_slots()?;
        maps.choose_voucher()?;
        Ok(maps)
    }

    /// Learns the slots that an earlier agent gave out, and gives the other networks theirs.
    fn restore_slots(&mut self) -> Result<(), DatapathError> {
        let mut networks = Vec::new();
        for entry in self.tables.networks.entries() {
            let (vni, network) = entry?;
            networks.extend(Vni::try_from(vni).ok().map(|vni| (vni, network.slot)));
        }
        let mut ports = Vec::new();
        let endpoints = &self.tables.endpoints;
        endpoints.for_each(|ifindex, row| ports.push((ifindex, row.vni)))?;
        self.slots = TrafficSlots::restore(networks, ports.iter().copied());
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
            if let Some(network) = self.tables.networks.entry(&vni.get())? {
                let network = abi::NetworkEntry { slot, ..network };
                self.tables.networks.rewrite(&vni.get(), &network)?;
            }
        }
        Ok(())
    }

    /// Makes the ports' entries name their networks' slots, where an older version left none.
    fn stamp_ports(&mut self) -> Result<(), DatapathError> {
        let ports: Vec<_> = self.slots.ports().collect();
        for (ifindex, vni) in ports {
            let slot = self.slots.of(vni);
            let Some(endpoint) = self.tables.endpoints.entry(&ifindex)? else {
                continue;
            };
            if endpoint.slot != slot {
                let endpoint = abi::EndpointEntry { slot, ..endpoint };
                self.tables.endpoints.rewrite(&ifindex, &endpoint)?;
            }
            let key = abi::FdbKey::new(endpoint.vni, endpoint.mac);
            match self.tables.fdb.entry(&key)? {
                Some(target) if target.ifindex == ifindex && target.slot != slot => {
                    let target = abi::FdbEntry { slot, ..target };
                    self.tables.fdb.rewrite(&key, &target)?;
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

    /// Adds what an earlier agent's tables of other capacities held.
    pub(super) fn adopt(&mut self, former: &ResizedTables) -> Result<(), DatapathError> {
        self.tables.adopt(former)
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
            self.tables.networks.adopt(&vni, &entry)?;
        }
        Ok(())
    }

    pub(super) fn usage(&self) -> BTreeMap<&'static str, MapUsage> {
        let traffic = MapUsage {
            entries: self.slots.iter().count() as u64,
            capacity: TrafficSlots::CAPACITY.into(),
            ..MapUsage::default()
        };
        let tables = self.tables.usage();
        tables.chain([(map::TRAFFIC, traffic)]).collect()
    }

    pub(super) fn tables(&self) -> Result<Tables, DatapathError> {
        self.tables.rows()
    }

    pub(super) fn small_tables(&self) -> Result<Tables, DatapathError> {
        self.tables.small()
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
        let removed = self.tables.remove(remove);
        let assigned = self.assign(&changed);
        let context = EncodeContext {
            slots: &self.slots,
            now_s: now_s()?,
        };
        let put = self.tables.put(put, &context);
        let forgotten = self.dropped.forget(gone);
        most_severe(removed.chain([assigned]).chain(put).chain([forgotten]))
    }

    /// Writes rows whose keys the maps are known not to hold.
    pub(super) fn add(
        &mut self,
        fdb: &Rows<FdbRow>,
        neighbors: &Rows<NeighborRow>,
    ) -> Result<(), DatapathError> {
        let context = EncodeContext {
            slots: &self.slots,
            now_s: now_s()?,
        };
        let neighbors = self.tables.neighbors.add(neighbors, &context);
        most_severe([neighbors, self.tables.fdb.add(fdb, &context)])
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
        let used_s = self.tables.fdb.entry(&key)?.map_or(0, |entry| entry.used_s);
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

/// The most severe of several outcomes.
fn most_severe(
    outcomes: impl IntoIterator<Item = Result<(), DatapathError>>,
) -> Result<(), DatapathError> {
    let errors = outcomes.into_iter().filter_map(Result::err);
    errors
        .max_by_key(DatapathError::severity)
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

pub(super) fn typed<T: TryFrom<Map, Error = MapError>>(
    ebpf: &mut Ebpf,
    name: &'static str,
) -> Result<T, DatapathError> {
    take(ebpf, name)?
        .try_into()
        .map_err(|error| failed("open", name, &error))
}

pub(super) fn take(ebpf: &mut Ebpf, name: &str) -> Result<Map, DatapathError> {
    ebpf.take_map(name).ok_or_else(|| DatapathError::Kernel {
        what: format!("the BPF object has no map {name}"),
        cause: "it was built from another version".to_owned(),
    })
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
    let Some((key, value)) = sizes(name) else {
        return Ok(());
    };
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

/// Bytes of a map's key and value. `None`: there is no such map.
pub(super) fn sizes(name: &str) -> Option<(u32, u32)> {
    let layout = map::LAYOUTS.iter().find(|layout| layout.name == name)?;
    let size = |bytes| u32::try_from(bytes).ok();
    Some((size(layout.key_size)?, size(layout.value_size)?))
}
