//! The maps of one instance, typed.

use std::{collections::BTreeMap, time::Duration};

use aya::{
    Ebpf,
    maps::{Array, HashMap, MapData, MapError, RingBuf},
};
use overlay_ebpf::abi::{self, Edition, External, map};
use uuid::Uuid;

use super::{
    DatapathError,
    counts::Counts,
    encode::{Encode as _, Numbering},
    map_handle::{failed, now, typed},
    nat::NatMaps,
    numbers::{Numbers, VtepNumbers},
    tables::{BpfTables, ResizedTables},
    traffic_slots::TrafficSlots,
};
use crate::model::{
    BlockKey, BlockRow, BlockUse, EndpointRow, FdbKey, FdbRow, FdbTarget, MapUsage, NeighborRow,
    NetworkRow, PortCounts, Rows, Tables, Traffic, Vni, Vtep, VtepAddr, VtepPath, VtepRow,
};

/// Every map of the datapath.
pub(super) struct Maps {
    tables: BpfTables,
    paths: Array<MapData, abi::PathEntry>,
    lease: Array<MapData, u64>,
    edition: Array<MapData, u64>,
    external: Array<MapData, u32>,
    pub(super) counts: Counts,
    pub(super) nat: NatMaps,
    negative: HashMap<MapData, abi::MissKey, abi::Negative>,
    /// Taken by who reads it.
    misses: Option<RingBuf<MapData>>,
    numbering: Numbering,
}

impl Maps {
    /// Takes the maps out of a loaded object.
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, DatapathError> {
        let mut maps = Self {
            tables: BpfTables::take(ebpf)?,
            paths: typed(ebpf, map::PATHS)?,
            lease: typed(ebpf, map::LEASE)?,
            edition: typed(ebpf, map::EDITION)?,
            external: typed(ebpf, map::EXTERNAL)?,
            counts: Counts::take(ebpf)?,
            nat: NatMaps::take(ebpf)?,
            negative: typed(ebpf, map::NEGATIVE)?,
            misses: Some(typed(ebpf, map::MISSES)?),
            numbering: Numbering::default(),
        };
        maps.choose_voucher()?;
        Ok(maps)
    }

    /// Learns the numbers that an earlier agent gave out, and gives theirs to all that have none.
    pub(super) fn restore_numbering(&mut self) -> Result<(), DatapathError> {
        let mut vteps = Vec::new();
        for entry in self.tables.vteps.entries() {
            let (key, entry) = entry?;
            let port = u16::from_be_bytes(entry.port);
            let ip = VtepAddr::from(key.ip);
            vteps.push((Vtep { ip, port }, entry.id));
        }
        let mut networks = Vec::new();
        for entry in self.tables.networks.entries() {
            let (vni, network) = entry?;
            networks.extend(Vni::try_from(vni).ok().map(|vni| (vni, network.slot)));
        }
        let (mut ports, mut ids) = (Vec::new(), Vec::new());
        for entry in self.tables.endpoints.entries() {
            let (ifindex, endpoint) = entry?;
            ids.push((ifindex, endpoint.id));
            ports.extend(Vni::try_from(endpoint.vni).ok().map(|vni| (ifindex, vni)));
        }
        let mut blocks = Vec::new();
        for entry in self.tables.blocks.entries() {
            let (key, block) = entry?;
            let key = BlockKey {
                ip: key.ip.into(),
                number: key.number,
            };
            blocks.push((key, block.slot));
        }
        self.numbering.blocks = Numbers::restore(blocks);
        self.numbering.vteps = VtepNumbers::restore(vteps.iter().copied());
        self.numbering.endpoints = Numbers::restore(ids);
        self.numbering.slots = TrafficSlots::restore(networks, ports.iter().copied());
        for (vtep, id) in vteps {
            self.restore_path(vtep, id)?;
        }
        for (ifindex, _) in &ports {
            self.counts
                .number(&mut self.numbering.endpoints, *ifindex)?;
        }
        let changed = self.numbering.slots.change([], ports);
        self.assign(&changed)?;
        self.stamp_ports()
    }

    /// Makes a VTEP's entries name its slot of `paths`, and that slot it.
    fn restore_path(&mut self, vtep: Vtep, known: u32) -> Result<(), DatapathError> {
        let id = u32::from(self.numbering.vteps.assign(vtep));
        let key = VtepRow::encode_key(&vtep.ip, &self.numbering);
        let Some(entry) = self.tables.vteps.entry(&key)? else {
            return Ok(());
        };
        let entry = abi::VtepEntry { id, ..entry };
        if id != known {
            self.tables.vteps.rewrite(&key, &entry)?;
        }
        self.set_path(id, &abi::PathEntry::of(key, &entry))
    }

    /// Gives a VTEP its slot of `paths` and writes the way there; gives what `vteps` has of it.
    fn write_path(
        &mut self,
        ip: VtepAddr,
        row: &VtepRow,
    ) -> Result<(abi::VtepKey, abi::VtepEntry), DatapathError> {
        let port = row.port;
        let slot = u32::from(self.numbering.vteps.assign(Vtep { ip, port }));
        let key = VtepRow::encode_key(&ip, &self.numbering);
        let entry = VtepRow::encode(&ip, row, &self.numbering);
        self.set_path(slot, &abi::PathEntry::of(key, &entry))?;
        Ok((key, entry))
    }

    fn set_path(&mut self, slot: u32, entry: &abi::PathEntry) -> Result<(), DatapathError> {
        if slot == 0 {
            return Ok(());
        }
        self.paths
            .set(slot, *entry, 0)
            .map_err(|error| failed("write to", map::PATHS, &error))
    }

    /// Writes the slots of networks that got another one, and starts their counts anew.
    fn assign(&mut self, changed: &[Vni]) -> Result<(), DatapathError> {
        for &vni in changed {
            let slot = self.numbering.slots.of(vni);
            if slot != 0 {
                self.counts.clear_traffic(slot)?;
            }
            if let Some(network) = self.tables.networks.entry(&vni.get())? {
                let network = abi::NetworkEntry { slot, ..network };
                self.tables.networks.rewrite(&vni.get(), &network)?;
            }
        }
        Ok(())
    }

    /// Makes the endpoints' entries name their own and their networks' numbers, where an older version left none.
    fn stamp_ports(&mut self) -> Result<(), DatapathError> {
        let ports: Vec<_> = self.numbering.slots.ports().collect();
        for (ifindex, vni) in ports {
            let slot = self.numbering.slots.of(vni);
            let id = self.numbering.endpoints.of(&ifindex).unwrap_or(0);
            let Some(endpoint) = self.tables.endpoints.entry(&ifindex)? else {
                continue;
            };
            if (endpoint.slot, endpoint.id) != (slot, id.into()) {
                let id = id.into();
                let endpoint = abi::EndpointEntry {
                    slot,
                    id,
                    ..endpoint
                };
                self.tables.endpoints.rewrite(&ifindex, &endpoint)?;
            }
            let key = abi::FdbKey::new(endpoint.vni, endpoint.mac);
            match self.tables.fdb.entry(&key)? {
                Some(target)
                    if target.interface() == Some(ifindex)
                        && (target.slot, target.id) != (slot, id) =>
                {
                    let target = abi::FdbEntry { slot, id, ..target };
                    self.tables.fdb.rewrite(&key, &target)?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Adds what an earlier agent's tables of other capacities held.
    pub(super) fn adopt(&mut self, previous: &ResizedTables) -> Result<(), DatapathError> {
        self.tables.adopt(previous)
    }

    /// Adds what an earlier version of the ABI held of a VTEP and the way to it.
    pub(super) fn adopt_vtep(&mut self, vtep: Vtep, row: &VtepRow) -> Result<(), DatapathError> {
        let (key, entry) = self.write_path(vtep.ip, row)?;
        self.tables.vteps.adopt(&key, &entry)
    }

    /// Adds an FDB row that an earlier version of the ABI held, with the second of its last use.
    pub(super) fn adopt_fdb(
        &mut self,
        key: &FdbKey,
        row: &FdbRow,
        used_s: u32,
    ) -> Result<(), DatapathError> {
        self.assign_target(row)?;
        let entry = abi::FdbEntry {
            used_s: second(used_s),
            ..FdbRow::encode(key, row, &self.numbering)
        };
        let key = FdbRow::encode_key(key, &self.numbering);
        self.tables.fdb.adopt(&key, &entry)
    }

    /// Adds an endpoint that an earlier version of the ABI held.
    pub(super) fn adopt_endpoint(
        &mut self,
        ifindex: u32,
        row: &EndpointRow,
        slot: u16,
    ) -> Result<(), DatapathError> {
        self.counts.number(&mut self.numbering.endpoints, ifindex)?;
        let entry = abi::EndpointEntry {
            slot,
            ..EndpointRow::encode(&ifindex, row, &self.numbering)
        };
        self.tables.endpoints.adopt(&ifindex, &entry)
    }

    /// Adds a network that an earlier version of the ABI held.
    pub(super) fn adopt_network(
        &mut self,
        vni: Vni,
        row: NetworkRow,
        slot: u16,
    ) -> Result<(), DatapathError> {
        let entry = abi::NetworkEntry {
            slot,
            ..NetworkRow::encode(&vni, &row, &self.numbering)
        };
        self.tables.networks.adopt(&vni.get(), &entry)
    }

    /// What was counted of each network with endpoints here.
    pub(super) fn traffic(&self) -> Result<BTreeMap<Vni, Traffic>, DatapathError> {
        self.counts.of_networks(&self.numbering.slots)
    }

    /// What was counted of each endpoint, by its host-side interface; of this interface's alone.
    pub(super) fn port_counts(
        &self,
        only: Option<u32>,
    ) -> Result<BTreeMap<u32, PortCounts>, DatapathError> {
        self.counts.of_ports(&self.numbering.endpoints, only)
    }

    pub(super) fn usage(&self) -> BTreeMap<&'static str, MapUsage> {
        let traffic = MapUsage {
            entries: self.numbering.slots.iter().count() as u64,
            capacity: TrafficSlots::CAPACITY.into(),
            ..MapUsage::default()
        };
        let tables = self.tables.usage();
        tables.chain([(map::TRAFFIC, traffic)]).collect()
    }

    pub(super) fn tables(&self) -> Result<Tables, DatapathError> {
        self.tables.rows(&self.numbering)
    }

    pub(super) fn small_tables(&self) -> Result<Tables, DatapathError> {
        self.tables.small(&self.numbering)
    }

    /// Has the programs remember nothing while rows are written, and forget what they remembered before. An agent that dies
    /// meanwhile leaves it so.
    pub(super) fn open_edition(&mut self) -> Result<(), DatapathError> {
        self.change_edition(Edition::opened)
    }

    /// Lets them remember again.
    pub(super) fn close_edition(&mut self) -> Result<(), DatapathError> {
        self.change_edition(Edition::closed)
    }

    fn change_edition(&mut self, change: impl FnOnce(u64) -> u64) -> Result<(), DatapathError> {
        let held = self.edition.get(&0, 0);
        let held = held.map_err(|error| failed("read", map::EDITION, &error))?;
        self.edition
            .set(0, change(held), 0)
            .map_err(|error| failed("write to", map::EDITION, &error))
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
            self.numbering.slots.change(
                remove.endpoints.keys().copied(),
                come.map(|(ifindex, row)| (*ifindex, row.vni)),
            )
        };
        let removed = self.tables.remove(remove, &self.numbering);
        for ifindex in &gone {
            self.numbering.endpoints.release(ifindex);
        }
        for ip in remove.vteps.keys().filter(|ip| !put.vteps.contains_key(ip)) {
            self.numbering.vteps.release(ip);
        }
        let freed = self.free_blocks(put, remove);
        let numbered = self.number(put);
        let assigned = self.assign(&changed);
        let put = self.tables.put(put, &self.numbering);
        let forgotten = self.counts.dropped.forget(gone);
        let outcomes = removed.chain([freed, numbered, assigned]).chain(put);
        most_severe(outcomes.chain([forgotten]))
    }

    /// Gives all that rows name their numbers, and has those filled in that the programs look up.
    fn number(&mut self, put: &Tables) -> Result<(), DatapathError> {
        self.numbering.now_s = second(now_s()?);
        let metered = put.meters.keys().map(|key| &key.ifindex);
        for ifindex in put.endpoints.keys().chain(metered) {
            self.counts
                .number(&mut self.numbering.endpoints, *ifindex)?;
        }
        for (ip, row) in &put.vteps {
            self.write_path(*ip, row)?;
        }
        put.fdb
            .values()
            .try_for_each(|row| self.assign_target(row))?;
        let mut blocks = put.blocks.iter();
        blocks.try_for_each(|(key, row)| self.make_block(*key, row))
    }

    /// Makes a block that is new, or another endpoint's from now on.
    fn make_block(&mut self, key: BlockKey, row: &BlockRow) -> Result<(), DatapathError> {
        let held = self
            .tables
            .blocks
            .entry(&BlockRow::encode_key(&key, &self.numbering))?;
        let had = self.numbering.blocks.of(&key);
        let slot = self.numbering.blocks.assign_lowest(key).map(u32::from);
        let slot = slot
            .filter(|slot| *slot < self.nat.capacity())
            .ok_or_else(|| DatapathError::Full {
                map: map::NAT_BLOCKS,
                capacity: self.nat.capacity().saturating_sub(1).into(),
                refused: 1,
                option: "the build's limit",
            });
        let slot = match slot {
            Ok(slot) => slot,
            Err(full) => {
                self.numbering.blocks.release(&key);
                return Err(full);
            }
        };
        let is_same = held.is_some_and(|held| {
            had.is_some() && held.ifindex == row.ifindex && held.ports == row.ports
        });
        self.counts
            .number(&mut self.numbering.endpoints, row.ifindex)?;
        let endpoint = self.numbering.endpoints.of(&row.ifindex).unwrap_or(0);
        if is_same && self.nat.block(slot)?.endpoint == u32::from(endpoint) {
            return Ok(());
        }
        self.nat.remove(slot)?;
        self.nat.make(slot, endpoint, key, row)
    }

    /// Ends what is left of blocks that nobody has any more.
    fn free_blocks(&mut self, put: &Tables, remove: &Tables) -> Result<(), DatapathError> {
        let gone = remove.blocks.keys();
        for key in gone.filter(|key| !put.blocks.contains_key(key)) {
            if let Some(slot) = self.numbering.blocks.of(key) {
                self.nat.remove(slot.into())?;
                self.numbering.blocks.release(key);
            }
        }
        Ok(())
    }

    /// Gives the interface or the VTEP of a row its number: its own row may come later.
    fn assign_target(&mut self, row: &FdbRow) -> Result<(), DatapathError> {
        match row.target {
            FdbTarget::Local { ifindex, .. } => {
                self.counts.number(&mut self.numbering.endpoints, ifindex)
            }
            FdbTarget::Remote { vtep: ip, port } => {
                if self.numbering.vteps.has(Vtep { ip, port }) {
                    return Ok(());
                }
                let path = VtepPath::default();
                self.write_path(ip, &VtepRow { port, path }).map(drop)
            }
        }
    }

    /// The slots of the blocks, and how much of each is in use.
    pub(super) fn blocks_in_use(&self) -> Result<Vec<(u32, [u64; 3])>, DatapathError> {
        let numbers = self.numbering.blocks.iter();
        numbers
            .map(|(_, slot)| Ok((slot.into(), self.nat.block(slot.into())?.used)))
            .collect()
    }

    /// What of each block is in use.
    pub(super) fn block_uses(&self) -> Result<Vec<BlockUse>, DatapathError> {
        let slots = self.block_slots()?.into_iter();
        Ok(slots.map(|(block, _)| block).collect())
    }

    /// The same with the slots of the blocks.
    pub(super) fn block_slots(&self) -> Result<Vec<(BlockUse, u32)>, DatapathError> {
        let mut blocks = Vec::new();
        for (key, slot) in self.numbering.blocks.iter() {
            let Some(entry) = self
                .tables
                .blocks
                .entry(&BlockRow::encode_key(key, &self.numbering))?
            else {
                continue;
            };
            let block = self.nat.block(slot.into())?;
            let in_use = BlockUse {
                key: *key,
                ifindex: entry.ifindex,
                ports: entry.ports,
                used: block.used,
                early: block.early,
            };
            blocks.push((in_use, slot.into()));
        }
        Ok(blocks)
    }

    /// The host-side interface of an endpoint by its number.
    pub(super) fn interface_of(&self, id: u16) -> Option<u32> {
        self.numbering.endpoints.key(id).copied()
    }

    /// The number of the endpoint behind an interface.
    pub(super) fn id_of(&self, ifindex: u32) -> Option<u16> {
        self.numbering.endpoints.of(&ifindex)
    }

    /// What entries are numbered by now.
    pub(super) fn numbering(&self) -> Numbering {
        self.numbering.clone()
    }

    /// Writes rows whose keys the maps are known not to hold.
    pub(super) fn add(
        &mut self,
        fdb: &Rows<FdbRow>,
        neighbors: &Rows<NeighborRow>,
    ) -> Result<(), DatapathError> {
        self.numbering.now_s = second(now_s()?);
        let mut targets = fdb.values();
        let numbered = targets.try_for_each(|row| self.assign_target(row));
        let neighbors = self.tables.neighbors.add(neighbors, &self.numbering);
        most_severe([
            numbered,
            neighbors,
            self.tables.fdb.add(fdb, &self.numbering),
        ])
    }

    /// Names the VXLAN device that does what the programs can't, by its index.
    pub(super) fn set_external(&mut self, ifindex: Option<u32>) -> Result<(), DatapathError> {
        self.external
            .set(External::IFINDEX, ifindex.unwrap_or_default(), 0)
            .map_err(|error| failed("write to", map::EXTERNAL, &error))
    }

    /// Chooses what the programs know by which packets they left to the device, unless a previous agent has: its
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
        match self.tables.fdb.entry(&key)? {
            Some(entry) if entry.flags & abi::FdbEntry::AGES != 0 => {
                // An entry that is idle for 18 hours has long been removed.
                let idle_s = second(now_s()?).wrapping_sub(entry.used_s);
                Ok(Some(Duration::from_secs(idle_s.into())))
            }
            _ => Ok(None),
        }
    }

    /// The ring of misses, for the first who asks.
    pub(super) fn misses(&mut self) -> Option<RingBuf<MapData>> {
        self.misses.take()
    }

    /// Lets a miss rest for so long because nobody has the address, or rest no more.
    pub(super) fn set_negative(
        &mut self,
        key: &abi::MissKey,
        nobody_for: Option<Duration>,
    ) -> Result<(), DatapathError> {
        let Some(nobody_for) = nobody_for else {
            return match self.negative.remove(key) {
                Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
                Err(MapError::SyscallError(error))
                    if error.io_error.raw_os_error() == Some(libc::ENOENT) =>
                {
                    Ok(())
                }
                Err(error) => Err(failed("remove from", map::NEGATIVE, &error)),
            };
        };
        let value = abi::Negative {
            until_ns: nanoseconds(now()? + nobody_for),
            is_unknown: 1,
            reserved: 0,
        };
        self.negative
            .insert(key, value, 0)
            .map_err(|error| failed("write to", map::NEGATIVE, &error))
    }
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

fn now_s() -> Result<u32, DatapathError> {
    now().map(|now| u32::try_from(now.as_secs()).unwrap_or(u32::MAX))
}

/// A second of `CLOCK_MONOTONIC` as the programs note the use of entries: modulo 2^16.
fn second(second: u32) -> u16 {
    let [low, high, ..] = second.to_le_bytes();
    u16::from_le_bytes([low, high])
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
