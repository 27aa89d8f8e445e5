//! What the programs count: drops, other events, and the traffic of networks and endpoints.

use std::collections::BTreeMap;

use aya::{
    Ebpf,
    maps::{Array, MapData, MapError, PerCpuArray, PerCpuValues},
};
use overlay_ebpf::abi::{self, Counter, DropReason, map};

use super::{
    DatapathError,
    drops::DropMaps,
    map_handle::{failed, typed},
    numbers::Numbers,
    traffic_slots::TrafficSlots,
};
use crate::model::{MeterCounts, Metered, PortCounts, Traffic, Vni};

/// The maps that programs count in.
pub(super) struct Counts {
    drops: PerCpuArray<MapData, u64>,
    pub(super) dropped: DropMaps,
    counters: PerCpuArray<MapData, u64>,
    traffic: PerCpuArray<MapData, abi::Traffic>,
    port_traffic: PerCpuArray<MapData, abi::Traffic>,
    meter_state: Array<MapData, abi::MeterState>,
}

impl Counts {
    /// Takes the maps out of a loaded object.
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, DatapathError> {
        Ok(Self {
            drops: typed(ebpf, map::DROPS)?,
            dropped: DropMaps::take(ebpf)?,
            counters: typed(ebpf, map::COUNTERS)?,
            traffic: typed(ebpf, map::TRAFFIC)?,
            port_traffic: typed(ebpf, map::PORT_TRAFFIC)?,
            meter_state: typed(ebpf, map::METER_STATE)?,
        })
    }

    /// Adds what an earlier version of the ABI counted in this slot of `drops` or `counters`.
    pub(super) fn adopt(
        &mut self,
        name: &'static str,
        slot: u32,
        counts: &PerCpuValues<u64>,
    ) -> Result<(), DatapathError> {
        let counters = match name {
            map::DROPS => &mut self.drops,
            _ => &mut self.counters,
        };
        let wrong = |error: MapError| failed("write to", name, &error);
        let held = counters.get(&slot, 0).map_err(wrong)?;
        let sums: Vec<u64> = held.iter().zip(counts.iter()).map(|(a, b)| a + b).collect();
        let sums = PerCpuValues::try_from(sums).map_err(|error| DatapathError::Kernel {
            what: format!("can't write to BPF map {name}"),
            cause: error.to_string(),
        })?;
        counters.set(slot, sums, 0).map_err(wrong)
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

    /// What was sent and received in each network that has a slot.
    pub(super) fn of_networks(
        &self,
        slots: &TrafficSlots,
    ) -> Result<BTreeMap<Vni, Traffic>, DatapathError> {
        let read = |(vni, slot): (Vni, u16)| Ok((vni, traffic(&self.traffic, map::TRAFFIC, slot)?));
        slots.iter().map(read).collect()
    }

    /// What was counted of each endpoint, by its host-side interface; of this interface's alone.
    pub(super) fn of_ports(
        &self,
        numbers: &Numbers<u32>,
        only: Option<u32>,
    ) -> Result<BTreeMap<u32, PortCounts>, DatapathError> {
        let mut drops = match only {
            Some(ifindex) => BTreeMap::from([(ifindex, self.dropped.endpoint(ifindex)?)]),
            None => self.dropped.endpoints()?,
        };
        let mut counts = BTreeMap::new();
        let numbers = numbers.iter();
        for (&ifindex, id) in numbers.filter(|(port, _)| only.is_none_or(|only| only == **port)) {
            let counted = (id < abi::Traffic::PORT_SLOTS)
                .then(|| traffic(&self.port_traffic, map::PORT_TRAFFIC, id))
                .transpose()?;
            let metered = (id < abi::Traffic::PORT_SLOTS && only.is_some())
                .then(|| self.metered(id))
                .transpose()?;
            let of_port = PortCounts {
                drops: drops.remove(&ifindex).unwrap_or_default(),
                traffic: counted,
                metered,
            };
            counts.insert(ifindex, of_port);
        }
        Ok(counts)
    }

    /// What came of the limits of an endpoint with this number.
    fn metered(&self, id: u16) -> Result<Metered, DatapathError> {
        let counts = |direction| {
            let slot = abi::MeterEntry::slot(id.into(), direction);
            let state = self.meter_state.get(&slot, 0);
            let state = state.map_err(|error| failed("read", map::METER_STATE, &error))?;
            Ok(MeterCounts {
                marked: state.marked,
                dropped: state.dropped,
            })
        };
        Ok(Metered {
            sent: counts(abi::MeterEntry::SENT)?,
            received: counts(abi::MeterEntry::RECEIVED)?,
        })
    }

    /// Gives an endpoint its place in the arrays that have one for each, if it has none, and starts them there.
    pub(super) fn number(
        &mut self,
        numbers: &mut Numbers<u32>,
        ifindex: u32,
    ) -> Result<(), DatapathError> {
        if numbers.of(&ifindex).is_some() {
            return Ok(());
        }
        match numbers.assign_lowest(ifindex) {
            Some(id) if id < abi::Traffic::PORT_SLOTS => {
                clear(&mut self.port_traffic, map::PORT_TRAFFIC, id)?;
                self.clear_meters(id)
            }
            _ => Ok(()),
        }
    }

    /// Lets nobody owe for what the endpoint did that had this number before.
    fn clear_meters(&mut self, id: u16) -> Result<(), DatapathError> {
        for direction in [abi::MeterEntry::SENT, abi::MeterEntry::RECEIVED] {
            let slot = abi::MeterEntry::slot(id.into(), direction);
            self.meter_state
                .set(slot, abi::MeterState::default(), 0)
                .map_err(|error| failed("write to", map::METER_STATE, &error))?;
        }
        Ok(())
    }

    /// Starts the counts of a network's slot anew.
    pub(super) fn clear_traffic(&mut self, slot: u16) -> Result<(), DatapathError> {
        clear(&mut self.traffic, map::TRAFFIC, slot)
    }
}

/// What all CPUs together counted in a slot of traffic.
fn traffic(
    map: &PerCpuArray<MapData, abi::Traffic>,
    name: &'static str,
    slot: u16,
) -> Result<Traffic, DatapathError> {
    let per_cpu = map
        .get(&slot.into(), 0)
        .map_err(|error| failed("read", name, &error))?;
    let mut total = Traffic::default();
    for cpu in per_cpu.iter() {
        total.tx_packets += cpu.tx_packets;
        total.tx_bytes += cpu.tx_bytes;
        total.rx_packets += cpu.rx_packets;
        total.rx_bytes += cpu.rx_bytes;
    }
    Ok(total)
}

/// Starts a slot of traffic anew.
fn clear(
    map: &mut PerCpuArray<MapData, abi::Traffic>,
    name: &'static str,
    slot: u16,
) -> Result<(), DatapathError> {
    let slot = u32::from(slot);
    let cleared = map.get(&slot, 0).and_then(|per_cpu| {
        let zeros = vec![abi::Traffic::default(); per_cpu.len()];
        map.set(slot, PerCpuValues::try_from(zeros)?, 0)
    });
    cleared.map_err(|error| failed("write to", name, &error))
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
