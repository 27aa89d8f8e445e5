//! Ports: how endpoints are connected to this host, a driver for each kind of attachment.
//!
//! A driver makes a port and looks at it. What all kinds share is here: the record that goes before each port,
//! the mark on its link in the host's namespace, and its removal, which needs to know no more than these two.

use async_trait::async_trait;
use nix::{errno::Errno, net::if_::if_nametoindex};

use super::{
    Context, PlatformError, Port, PortSpec,
    linux::{Linux, Occupant},
    netlink::Netlink,
    netns_port::NetnsPort,
    ownership::{self, Device},
};
use crate::model::{Attachment, Name};

mod veth;

/// Makes and looks at one port of one kind of attachment.
#[async_trait]
pub(super) trait PortDriver: Send + Sync {
    /// See [`super::Platform::ensure_port`].
    async fn ensure(&self) -> Result<Port, PlatformError>;

    /// See [`super::Platform::refresh_port`].
    async fn refresh(&self) -> Result<Option<Port>, PlatformError>;
}

impl Linux {
    /// The driver of the port's kind. Refused: there is none.
    pub(super) fn driver<'a>(
        &'a self,
        spec: &'a PortSpec,
    ) -> Result<Box<dyn PortDriver + 'a>, PlatformError> {
        match &spec.attachment {
            Attachment::Veth(place) => Ok(Box::new(veth::Veth {
                linux: self,
                port: NetnsPort::new(spec, place),
            })),
            Attachment::Unknown(attachment) => Err(PlatformError::Refused(format!(
                "endpoint {} is connected by a {}, which this version of overlay does not know: upgrade \
                 it, or put the endpoint into a namespace with `overlay endpoint move {0} --netns`",
                spec.endpoint,
                attachment.kind()
            ))),
        }
    }

    pub(super) async fn unmake_port(&self, endpoint: &Name) -> Result<(), PlatformError> {
        self.watched.remove(endpoint);
        self.clear_port(endpoint).await?;
        let removing = || format!("removing the records of endpoint {endpoint}");
        let (guests, addresses) = (&self.records.guests, &self.records.addresses);
        addresses.remove(endpoint.as_str()).context(removing)?;
        let routes = &self.records.routes;
        routes.remove(endpoint.as_str()).context(removing)?;
        let local_ports = &self.records.local_ports;
        local_ports.remove(endpoint.as_str()).context(removing)?;
        let place = guests.get(endpoint.as_str()).context(removing)?;
        guests.remove(endpoint.as_str()).context(removing)?;
        match place.and_then(|place| place.parse().ok()) {
            Some(place) => self.detach_unused(&place).await,
            None => Ok(()),
        }
    }

    /// Removes what there is of a port. Remembers whose its namespace was.
    async fn clear_port(&self, endpoint: &Name) -> Result<(), PlatformError> {
        let removing = || format!("removing the veth of endpoint {endpoint}");
        let host = self.open_host().await?;
        if let Occupant::Ours(link) = self.host_side(&host, endpoint).await? {
            host.delete(link.index).await.context(removing)?;
        }
        let ports = &self.records.ports;
        if let Some(netns) = ports.get(endpoint.as_str()).context(removing)?
            && let Ok(netns) = netns.parse()
        {
            self.delete_netns_if_unused(&netns).await?;
        }
        ports.remove(endpoint.as_str()).context(removing)
    }

    /// Forgets ports that are recorded and not there: a crash before the veth, or somebody deleted
    /// it.
    pub(super) async fn forget_lost_ports(&self) -> Result<(), PlatformError> {
        let reading = || "reading which ports are ours".to_owned();
        let ports = &self.records.ports;
        let recorded = ports.names().context(reading)?.into_iter();
        let mut absent: Vec<(Name, String)> = recorded
            .map(|endpoint| {
                let name = Device::Port(&endpoint).name(&self.instance);
                (endpoint, name)
            })
            .collect();
        // A name is found in no time. A list of all links takes the kernel the square of their number: it
        // looks for the namespace that each leads to among all.
        let looking = self.host.run(move || {
            absent.retain(|(_, name)| if_nametoindex(name.as_str()) == Err(Errno::ENODEV));
            Ok(absent)
        });
        let absent = looking.await.context(reading)?;
        if absent.is_empty() {
            return Ok(());
        }
        let host = self.open_host().await?;
        for (endpoint, name) in absent {
            // It may be on its way.
            let _turn = self.port_changes.lock(&endpoint).await;
            if host.link_named(&name).await.context(reading)?.is_none() {
                ports.remove(endpoint.as_str()).context(reading)?;
            }
        }
        Ok(())
    }

    /// The host side of the endpoint's veth, also if somebody renamed it since we made it.
    async fn host_side(&self, host: &Netlink, endpoint: &Name) -> Result<Occupant, PlatformError> {
        let place = self.find(host, Device::Port(endpoint)).await?;
        let Occupant::Free = place else {
            return Ok(place);
        };
        let reading = || "reading the host's links".to_owned();
        if !self.records.ports.has(endpoint.as_str()).context(reading)? {
            return Ok(Occupant::Free);
        }
        let links = host.links().await.context(reading)?;
        let renamed = links.into_iter().find(|link| {
            ownership::is_port(link)
                && ownership::endpoint_of(link, &self.instance).as_ref() == Some(endpoint)
        });
        Ok(renamed.map_or(Occupant::Free, Occupant::Ours))
    }
}
