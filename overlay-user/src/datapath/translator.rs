//! Address translation in the running kernel: the uplink, and what the programs gave out.

use std::net::Ipv4Addr;

use aya::programs::{TestRun as _, TestRunOptions};
use bytemuck::Zeroable as _;
use overlay_ebpf::{
    abi::{self, NatBlock, Sweep, program},
    rule::nat,
};

use super::{
    DatapathError, Kernel,
    features::{self, classifier},
    kernel::interface_name,
    map_handle::now,
    nat::external,
    pins::unpin,
};
use crate::model::{BlockUse, OutsideFlow, PortMapping, Swept, Uplink};

/// The kernel's side of address translation.
pub trait Translator: Send + Sync + 'static {
    /// Sends packets for the outside by this interface, and takes in what comes there for external addresses. `None`:
    /// there is no way out.
    fn set_uplink(&self, uplink: Option<&Uplink>) -> Result<(), DatapathError>;

    /// Tells the uplink's link that an external address is here.
    fn announce_outside(&self, uplink: &Uplink, ip: Ipv4Addr) -> Result<(), DatapathError>;

    /// Frees ports and ends flows whose time is over.
    fn sweep(&self) -> Result<Swept, DatapathError>;

    /// What is in use of each block.
    fn block_uses(&self) -> Result<Vec<BlockUse>, DatapathError>;

    /// External ports in use.
    fn mappings(&self) -> Result<Vec<PortMapping>, DatapathError>;

    /// Flows that were answered.
    fn flows(&self) -> Result<Vec<OutsideFlow>, DatapathError>;

    /// Ends the flows of an endpoint of this host, by its interface, or all; how many. Its mappings stay.
    fn end_flows(&self, ifindex: Option<u32>) -> Result<u64, DatapathError>;
}

impl Translator for Kernel {
    fn set_uplink(&self, uplink: Option<&Uplink>) -> Result<(), DatapathError> {
        let mut state = self.state();
        let Some(uplink) = uplink else {
            return state.maps.nat.set_uplink(abi::UplinkEntry::zeroed());
        };
        let way = uplink.way;
        let router = way.and_then(|way| way.router);
        let entry = abi::UplinkEntry {
            ifindex: uplink.ifindex,
            mtu: uplink.mtu,
            mac: uplink.mac.octets(),
            next_hop: router.map_or([0; 4], |ip| ip.octets()),
            subnet: way.map_or([0; 4], |way| way.subnet.network().octets()),
            mask: way.map_or([0; 4], |way| way.subnet.netmask().octets()),
            ..abi::UplinkEntry::zeroed()
        };
        state.maps.nat.set_uplink(entry)?;
        drop(state);
        self.attach_uplink(uplink.ifindex)
    }

    fn announce_outside(&self, uplink: &Uplink, ip: Ipv4Addr) -> Result<(), DatapathError> {
        super::Datapath::announce(self, uplink.ifindex, ip.into(), uplink.mac)
    }

    fn sweep(&self) -> Result<Swept, DatapathError> {
        let mut swept = Swept::default();
        let blocks = self.state().maps.blocks_in_use()?;
        for (slot, used) in blocks {
            for (class, used) in used.into_iter().enumerate() {
                if used > 0 {
                    swept.ports += self.sweep_ports(slot, class)?;
                }
            }
        }
        swept.flows = self.sweep_flows(Sweep::FLOWS, |_| true)?;
        Ok(swept)
    }

    fn block_uses(&self) -> Result<Vec<BlockUse>, DatapathError> {
        self.state().maps.block_uses()
    }

    fn mappings(&self) -> Result<Vec<PortMapping>, DatapathError> {
        let now_s = seconds()?;
        let state = self.state();
        let mut mappings = Vec::new();
        for (in_use, slot) in state.maps.block_slots()? {
            let block = state.maps.nat.block(slot)?;
            for (place, port) in state.maps.nat.ports(slot)? {
                let (ip, external_port) = external(&block, place);
                mappings.push(PortMapping {
                    protocol: port.protocol,
                    ifindex: in_use.ifindex,
                    own: port.ip.into(),
                    own_port: u16::from_be_bytes(port.port),
                    ip,
                    port: external_port,
                    established: port.established,
                    idle_s: now_s.wrapping_sub(port.used_s),
                });
            }
        }
        Ok(mappings)
    }

    fn flows(&self) -> Result<Vec<OutsideFlow>, DatapathError> {
        let now_s = seconds()?;
        let state = self.state();
        let flows = state.maps.nat.flows()?.into_iter();
        let told = flows.map(|(key, flow)| OutsideFlow {
            protocol: u8::try_from(key.protocol).unwrap_or(0),
            ifindex: state.maps.interface_of(key.endpoint),
            own: key.local.into(),
            own_port: u16::from_be_bytes(key.local_port),
            remote: key.remote.into(),
            remote_port: u16::from_be_bytes(key.remote_port),
            ip: flow.external.into(),
            port: u16::from_be_bytes(flow.port),
            state: match flow.state & nat::phase::MASK {
                nat::phase::ESTABLISHED => "established",
                nat::phase::CLOSING => "closing",
                _ => "open",
            },
            idle_s: now_s.wrapping_sub(flow.used_s),
        });
        Ok(told.collect())
    }

    fn end_flows(&self, ifindex: Option<u32>) -> Result<u64, DatapathError> {
        let endpoint = match ifindex {
            Some(ifindex) => match self.state().maps.id_of(ifindex) {
                Some(id) => Some(id),
                None => return Ok(0),
            },
            None => None,
        };
        self.sweep_flows(Sweep::EVERY_FLOW, |key| {
            endpoint.is_none_or(|endpoint| key.endpoint == endpoint)
        })
    }
}

impl Kernel {
    /// Makes this version's `uplink_ingress` attached to the uplink, unless that is the underlay device, whose program
    /// does the same; and takes it off what was the uplink before.
    fn attach_uplink(&self, ifindex: u32) -> Result<(), DatapathError> {
        let mut state = self.state();
        let is_underlay = ifindex == self.settings.underlay_ifindex;
        if !is_underlay && state.uplink != Some(ifindex) {
            let program = classifier(&mut state.ebpf, program::UPLINK_INGRESS)?;
            let name = interface_name(ifindex)?;
            let pin = self.pins.uplink_link(ifindex);
            self.hook.attach(program, &name, &pin)?;
            state.uplink = Some(ifindex);
        }
        for older in self.pins.uplink_links()? {
            if older != ifindex || is_underlay {
                unpin(&self.pins.uplink_link(older))?;
            }
        }
        Ok(())
    }

    /// Frees the ports of a class of a block whose time is over.
    fn sweep_ports(&self, slot: u32, class: usize) -> Result<u64, DatapathError> {
        let first = nat::start_of(class);
        let last = (first + NatBlock::PORTS).min(NatBlock::PORT_SLOTS);
        let mut freed = 0;
        for start in (first..last).step_by(NatBlock::SWEPT as usize) {
            let request = Sweep {
                kind: Sweep::PORTS,
                count: slot,
                start,
                ..Sweep::zeroed()
            };
            freed += u64::from(self.run_sweep(&request)?);
        }
        Ok(freed)
    }

    fn sweep_flows(
        &self,
        kind: u32,
        wanted: impl Fn(&abi::FlowKey) -> bool,
    ) -> Result<u64, DatapathError> {
        let flows = self.state().maps.nat.flows()?;
        let keys: Vec<abi::FlowKey> = flows
            .into_iter()
            .map(|(key, _)| key)
            .filter(wanted)
            .collect();
        let mut ended = 0;
        for some in keys.chunks(Sweep::KEYS) {
            let mut request = Sweep {
                kind,
                count: u32::try_from(some.len()).unwrap_or(0),
                ..Sweep::zeroed()
            };
            for (place, key) in request.keys.iter_mut().zip(some) {
                *place = *key;
            }
            ended += u64::from(self.run_sweep(&request)?);
        }
        Ok(ended)
    }

    fn run_sweep(&self, request: &Sweep) -> Result<u32, DatapathError> {
        let mut frame = vec![0; Sweep::OFFSET];
        frame.extend_from_slice(bytemuck::bytes_of(request));
        let options = TestRunOptions {
            data_in: Some(&frame),
            ..TestRunOptions::default()
        };
        let mut state = self.state();
        let result = classifier(&mut state.ebpf, program::NAT_SWEEP)?
            .test_run(options)
            .map_err(|error| features::failed("run", program::NAT_SWEEP, &error))?;
        if result.return_value > NatBlock::PORT_SLOTS {
            return Err(DatapathError::Kernel {
                what: "can't free external ports".to_owned(),
                cause: "the program refused the request".to_owned(),
            });
        }
        Ok(result.return_value)
    }
}

fn seconds() -> Result<u32, DatapathError> {
    now().map(|now| u32::try_from(now.as_secs()).unwrap_or(u32::MAX))
}
