//! The types of the API, and how the agent's own become them.
//!
//! The views are the contract itself: `overlay -o json` prints them as they come. Addresses are
//! strings, counts are numbers, keys are in snake case.

use std::{net::IpAddr, time::SystemTime};

use jiff::Timestamp;

use crate::{
    datapath::DatapathError,
    model::{
        Attachment, AttachmentFields, Endpoint, MeterCounts, Metered, Network, Node, PortCounts,
        Traffic,
    },
    platform::PlatformError,
    reconcile::watchdog::Stalled,
    registry::RegistryError,
};

mod drops;

pub use crate::registry::{Counts, Finding as RegistryFinding, Findings, Imported, Repair};
pub use drops::{
    DropNames, drop_class, drop_counts, drop_sample, drop_samples, drop_totals,
    endpoint_drop_counts,
};
pub use overlay_api::*;

/// The words of the innermost error that knows its kind; an internal error if none does.
#[must_use]
pub fn error_of_chain(error: &anyhow::Error) -> OperationError {
    let kind = error.chain().find_map(|cause| {
        cause
            .downcast_ref::<OperationError>()
            .map(|error| error.kind)
            .or_else(|| cause.downcast_ref::<RegistryError>().map(ErrorKind::from))
            .or_else(|| cause.downcast_ref::<PlatformError>().map(ErrorKind::from))
            .or_else(|| cause.downcast_ref::<DatapathError>().map(ErrorKind::from))
    });
    OperationError::new(
        kind.unwrap_or(ErrorKind::Internal),
        format_args!("{error:#}"),
    )
}

impl From<&RegistryError> for ErrorKind {
    fn from(error: &RegistryError) -> Self {
        match error {
            RegistryError::Conflict { .. } | RegistryError::Quarantined { .. } => Self::Conflict,
            RegistryError::Missing { .. } => Self::NotFound,
            RegistryError::Refused(_) => Self::Refused,
            RegistryError::Unavailable(_) | RegistryError::Foreign(_) => Self::Unavailable,
        }
    }
}

impl From<&PlatformError> for ErrorKind {
    fn from(error: &PlatformError) -> Self {
        match error {
            PlatformError::Refused(_) => Self::Refused,
            PlatformError::Kernel { .. } => Self::Internal,
        }
    }
}

impl From<&DatapathError> for ErrorKind {
    fn from(error: &DatapathError) -> Self {
        match error {
            DatapathError::Refused(_) | DatapathError::Full { .. } => Self::Refused,
            DatapathError::Kernel { .. } => Self::Internal,
        }
    }
}

impl From<RegistryError> for OperationError {
    fn from(error: RegistryError) -> Self {
        Self::new((&error).into(), error)
    }
}

impl From<PlatformError> for OperationError {
    fn from(error: PlatformError) -> Self {
        Self::new((&error).into(), error)
    }
}

impl From<DatapathError> for OperationError {
    fn from(error: DatapathError) -> Self {
        Self::new((&error).into(), error)
    }
}

impl From<Network> for NetworkView {
    fn from(network: Network) -> Self {
        Self {
            name: network.name,
            vni: network.vni,
            subnets: network.subnets,
            mtu: network.mtu,
            flood: network.flood,
            learning: network.learning,
            resolve: network.resolve,
            snat: SnatChoice::None,
            dhcp: false,
            qos: None,
        }
    }
}

impl From<Stalled> for StalledView {
    fn from(stalled: Stalled) -> Self {
        Self {
            part: stalled.part.name().to_owned(),
            for_s: stalled.since.as_secs(),
            doing: stalled.doing.map(str::to_owned),
        }
    }
}

/// The view of `endpoint`, whose node has its VTEP at `vtep`.
#[must_use]
pub fn endpoint_view(endpoint: Endpoint, vtep: IpAddr, state: EndpointState) -> EndpointView {
    let place = AttachmentFields::from(endpoint.attachment.clone());
    let dhcp = endpoint.attachment.as_ref().is_some_and(Attachment::dhcp);
    EndpointView {
        ips: endpoint.ips().collect(),
        name: endpoint.name,
        vni: endpoint.vni,
        mac: endpoint.mac,
        addresses: endpoint.addresses,
        node: endpoint.node,
        vtep,
        netns: place.netns,
        ifname: place.ifname,
        dhcp,
        generation: endpoint.generation,
        state,
        error: None,
        existed: false,
        drops: None,
        traffic: None,
        qos: None,
    }
}

fn traffic_view(traffic: &Traffic) -> EndpointTrafficView {
    EndpointTrafficView {
        sent: VolumeView {
            packets: traffic.tx_packets,
            bytes: traffic.tx_bytes,
        },
        received: VolumeView {
            packets: traffic.rx_packets,
            bytes: traffic.rx_bytes,
        },
    }
}

/// What came of an endpoint's limits.
#[must_use]
pub fn qos_counts(metered: Metered) -> QosCountsView {
    let view = |counts: MeterCounts| MeteredView {
        marked: counts.marked,
        dropped: counts.dropped,
    };
    QosCountsView {
        sent: view(metered.sent),
        received: view(metered.received),
    }
}

/// The view with what was counted; `None`: the endpoint is not ready here, or that is not known.
#[must_use]
pub fn with_counts(view: EndpointView, counts: Option<PortCounts>) -> EndpointView {
    let Some(counts) = counts else {
        return view;
    };
    EndpointView {
        drops: Some((&counts.drops).into()),
        traffic: counts.traffic.as_ref().map(traffic_view),
        ..view
    }
}

/// The view of `node`, times in whole milliseconds.
#[must_use]
pub fn vtep_view(node: Node, state: NodeState) -> VtepView {
    VtepView {
        node: node.name,
        ip: node.vtep.ip.into(),
        port: node.vtep.port,
        last_seen: node.last_seen.and_then(milliseconds),
        alive: node.alive,
        agent: node.agent,
        state,
        version: node.version,
        abi: node.abi,
        mtu: node.mtu,
        path: None,
    }
}

/// The time in whole milliseconds.
#[must_use]
pub fn milliseconds(time: SystemTime) -> Option<Timestamp> {
    let exact = Timestamp::try_from(time).ok()?;
    Timestamp::from_millisecond(exact.as_millisecond()).ok()
}

#[cfg(test)]
mod tests;
