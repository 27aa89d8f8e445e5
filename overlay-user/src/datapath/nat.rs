//! The memory of address translation: blocks of ports, and what the programs give out of them.
//!
//! The agent makes a block and names it; from then on the programs alone change it. What is over it has a program remove.

use std::net::Ipv4Addr;

use aya::{
    Ebpf,
    maps::{Array, HashMap, MapData, MapError},
};
use bytemuck::Zeroable as _;
use overlay_ebpf::abi::{self, NatBlock, map};

use super::{
    DatapathError,
    map_handle::{failed, typed},
};
use crate::model::{BlockKey, BlockRow};

/// The maps of address translation.
pub(super) struct NatMaps {
    uplink: Array<MapData, abi::UplinkEntry>,
    blocks: Array<MapData, NatBlock>,
    ports: Array<MapData, abi::NatPort>,
    chains: Array<MapData, abi::NatChain>,
    flows: HashMap<MapData, abi::FlowKey, abi::FlowEntry>,
}

impl NatMaps {
    /// Takes the maps out of a loaded object.
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, DatapathError> {
        Ok(Self {
            uplink: typed(ebpf, map::UPLINK)?,
            blocks: typed(ebpf, map::NAT_BLOCKS)?,
            ports: typed(ebpf, map::NAT_PORTS)?,
            chains: typed(ebpf, map::NAT_CHAINS)?,
            flows: typed(ebpf, map::FLOWS)?,
        })
    }

    /// Names the interface to the outside; all zeros: there is none.
    pub(super) fn set_uplink(&mut self, uplink: abi::UplinkEntry) -> Result<(), DatapathError> {
        self.uplink
            .set(0, uplink, 0)
            .map_err(|error| failed("write to", map::UPLINK, &error))
    }

    /// How many blocks there can be.
    pub(super) fn capacity(&self) -> u32 {
        self.blocks.len()
    }

    /// Makes a block of an endpoint, of whose ports none is in use, and adds it to the endpoint's.
    pub(super) fn make(
        &mut self,
        slot: u32,
        endpoint: u16,
        key: BlockKey,
        row: &BlockRow,
    ) -> Result<(), DatapathError> {
        self.forget_ports(slot)?;
        let block = NatBlock {
            ip: key.ip.octets(),
            first_port: key.number.saturating_mul(row.ports),
            ports: row.ports,
            endpoint: endpoint.into(),
            vni: row.vni.get(),
            flags: if row.is_open {
                abi::BlockEntry::OPEN.into()
            } else {
                0
            },
            ..NatBlock::zeroed()
        };
        self.blocks
            .set(slot, block, 0)
            .map_err(|error| failed("write to", map::NAT_BLOCKS, &error))?;
        self.chain(endpoint, row.index, slot + 1)
    }

    /// Takes a block away. Its flows are over.
    pub(super) fn remove(&mut self, slot: u32) -> Result<(), DatapathError> {
        let held = self.block(slot)?;
        if held.ports == 0 {
            return Ok(());
        }
        if let Ok(endpoint) = u16::try_from(held.endpoint) {
            self.unchain(endpoint, slot + 1)?;
        }
        self.blocks
            .set(slot, NatBlock::zeroed(), 0)
            .map_err(|error| failed("write to", map::NAT_BLOCKS, &error))?;
        self.forget_ports(slot)
    }

    /// A block as the programs have it.
    pub(super) fn block(&self, slot: u32) -> Result<NatBlock, DatapathError> {
        self.blocks
            .get(&slot, 0)
            .map_err(|error| failed("read", map::NAT_BLOCKS, &error))
    }

    /// The ports of a block that are in use, with their places among the block's.
    pub(super) fn ports(&self, slot: u32) -> Result<Vec<(u32, abi::NatPort)>, DatapathError> {
        let first = slot * NatBlock::PORT_SLOTS;
        let mut used = Vec::new();
        for place in 0..NatBlock::PORT_SLOTS {
            let port = self.port(first + place)?;
            if port.phase != 0 {
                used.push((place, port));
            }
        }
        Ok(used)
    }

    fn port(&self, slot: u32) -> Result<abi::NatPort, DatapathError> {
        self.ports
            .get(&slot, 0)
            .map_err(|error| failed("read", map::NAT_PORTS, &error))
    }

    /// Ends what a block's ports were mapped to: their numbers go on, so that nothing of before is taken for new.
    fn forget_ports(&mut self, slot: u32) -> Result<(), DatapathError> {
        let first = slot * NatBlock::PORT_SLOTS;
        for place in 0..NatBlock::PORT_SLOTS {
            let held = self.port(first + place)?;
            if held.phase == 0 {
                continue;
            }
            let port = abi::NatPort {
                epoch: held.epoch.wrapping_add(1),
                ..abi::NatPort::zeroed()
            };
            self.ports
                .set(first + place, port, 0)
                .map_err(|error| failed("write to", map::NAT_PORTS, &error))?;
        }
        Ok(())
    }

    /// Puts a block into its place among its endpoint's.
    fn chain(&mut self, endpoint: u16, index: u8, block: u32) -> Result<(), DatapathError> {
        self.change_chain(endpoint, |blocks| {
            if let Some(place) = blocks.get_mut(usize::from(index)) {
                *place = u16::try_from(block).unwrap_or(0);
            }
        })
    }

    fn unchain(&mut self, endpoint: u16, block: u32) -> Result<(), DatapathError> {
        self.change_chain(endpoint, |blocks| {
            for place in blocks
                .iter_mut()
                .filter(|place| u32::from(**place) == block)
            {
                *place = 0;
            }
        })
    }

    fn change_chain(
        &mut self,
        endpoint: u16,
        change: impl FnOnce(&mut [u16; NatBlock::CHAIN]),
    ) -> Result<(), DatapathError> {
        let endpoint = u32::from(endpoint);
        if endpoint == 0 || endpoint >= abi::NatChain::SLOTS {
            return Ok(());
        }
        let held = self.chains.get(&endpoint, 0);
        let mut chain = held.map_err(|error| failed("read", map::NAT_CHAINS, &error))?;
        change(&mut chain.blocks);
        self.chains
            .set(endpoint, chain, 0)
            .map_err(|error| failed("write to", map::NAT_CHAINS, &error))
    }

    /// Flows that were answered.
    pub(super) fn flows(&self) -> Result<Vec<(abi::FlowKey, abi::FlowEntry)>, DatapathError> {
        let mut flows = Vec::new();
        for entry in &self.flows {
            match entry {
                Ok(entry) => flows.push(entry),
                // It ended while it was looked at.
                Err(MapError::KeyNotFound) => {}
                Err(error) => return Err(failed("read", map::FLOWS, &error)),
            }
        }
        Ok(flows)
    }
}

/// The external address and port of a place in a block.
pub(super) fn external(block: &NatBlock, place: u32) -> (Ipv4Addr, u16) {
    let first = [2 * NatBlock::PORTS, NatBlock::PORTS, 0];
    let start = first.into_iter().find(|start| place >= *start).unwrap_or(0);
    let offset = u16::try_from(place - start).unwrap_or(0);
    (block.ip.into(), block.first_port.saturating_add(offset))
}
