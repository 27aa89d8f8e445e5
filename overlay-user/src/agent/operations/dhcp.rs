//! Operations on what networks tell their endpoints: `overlay dhcp`.

use std::collections::BTreeMap;

use crate::{
    agent::{
        api::{
            DEFAULT_LEASE_S, DhcpOption, DhcpView, ErrorKind, ListDhcp, OperationError, RemoveDhcp,
            RemovedView, SetDhcp, ShowDhcp,
        },
        server::{Handle, Outcome},
        service::Agent,
    },
    model::{Change, Dhcp, Network, Object, Resource, RouterPort, Vni, responder},
};

impl Handle<SetDhcp> for Agent {
    async fn handle(&self, request: SetDhcp) -> Outcome<SetDhcp> {
        self.check_reach().await?;
        let network = self.network(&request.network).await?;
        let (object, dhcp) = self
            .dhcp_with(network.vni, |previous| {
                changed(previous.unwrap_or_else(|| Dhcp::new(network.vni)), request)
            })
            .await?;
        self.commit(&[Change::PutObject(object)]).await?;
        self.dhcp_view(&dhcp, Some(&network)).await
    }
}

impl Handle<ListDhcp> for Agent {
    async fn handle(&self, _: ListDhcp) -> Outcome<ListDhcp> {
        self.check_reach().await?;
        let objects = self.registry.objects(&Dhcp::KIND).await?;
        let ports = self.ports().await?;
        let view = self.observer.view().await;
        let all = objects.iter().filter_map(|object| Dhcp::of(object).ok());
        let all: BTreeMap<Vni, Dhcp> = all.map(|dhcp| (dhcp.vni, dhcp)).collect();
        Ok(all
            .values()
            .map(|dhcp| view_of(dhcp, view.mirror.network(dhcp.vni), &ports))
            .collect())
    }
}

impl Handle<ShowDhcp> for Agent {
    async fn handle(&self, request: ShowDhcp) -> Outcome<ShowDhcp> {
        self.check_reach().await?;
        let network = self.network(&request.network).await?;
        let object = self.dhcp_object(network.vni).await?;
        let dhcp = object.and_then(|object| Dhcp::of(&object).ok());
        let dhcp = dhcp.ok_or_else(|| {
            OperationError::new(
                ErrorKind::NotFound,
                format_args!(
                    "network {} has no DHCP: switch it on with `overlay dhcp set {0}`",
                    network.name
                ),
            )
        })?;
        self.dhcp_view(&dhcp, Some(&network)).await
    }
}

impl Handle<RemoveDhcp> for Agent {
    async fn handle(&self, request: RemoveDhcp) -> Outcome<RemoveDhcp> {
        self.check_reach().await?;
        let vni = self.vni_of(&request.network).await?;
        let removed = self.dhcp_object(vni).await?.is_some();
        self.commit(&[Change::RemoveObject(Dhcp::id_of(vni))])
            .await?;
        Ok(RemovedView { removed })
    }
}

impl Agent {
    /// The change that switches a network's DHCP on or off.
    pub(super) async fn switch_dhcp(&self, vni: Vni, on: bool) -> Result<Change, OperationError> {
        let switched = |previous: Option<Dhcp>| Dhcp {
            on,
            ..previous.unwrap_or_else(|| Dhcp::new(vni))
        };
        let (object, _) = self.dhcp_with(vni, switched).await?;
        Ok(Change::PutObject(object))
    }

    async fn dhcp_object(&self, vni: Vni) -> Result<Option<Object>, OperationError> {
        let objects = self.registry.objects(&Dhcp::KIND).await?.into_iter();
        let id = Dhcp::id_of(vni);
        Ok(objects.into_iter().find(|object| object.id == id))
    }

    /// A network's object as it is to be. What a newer version has added stays.
    async fn dhcp_with(
        &self,
        vni: Vni,
        change: impl FnOnce(Option<Dhcp>) -> Dhcp,
    ) -> Result<(Object, Dhcp), OperationError> {
        let previous = self.dhcp_object(vni).await?;
        let known = previous.as_ref().map(Dhcp::of).transpose();
        let dhcp = change(known.map_err(invalid)?);
        let object = match &previous {
            Some(previous) => dhcp.update(previous),
            None => dhcp.to_object(),
        };
        Ok((object.map_err(invalid)?, dhcp))
    }

    async fn ports(&self) -> Result<Vec<RouterPort>, OperationError> {
        let objects = self.registry.objects(&RouterPort::KIND).await?;
        let objects = objects.iter();
        Ok(objects
            .filter_map(|object| RouterPort::of(object).ok())
            .collect())
    }

    async fn dhcp_view(
        &self,
        dhcp: &Dhcp,
        network: Option<&Network>,
    ) -> Result<DhcpView, OperationError> {
        Ok(view_of(dhcp, network, &self.ports().await?))
    }
}

fn invalid(reason: String) -> OperationError {
    OperationError::new(ErrorKind::Refused, reason)
}

/// What is asked for, over what there was.
fn changed(mut dhcp: Dhcp, request: SetDhcp) -> Dhcp {
    for option in request.clear {
        match option {
            DhcpOption::Dns => dhcp.dns.clear(),
            DhcpOption::Domain => dhcp.domain = None,
            DhcpOption::Ntp => dhcp.ntp.clear(),
            DhcpOption::Lease => dhcp.lease_s = DEFAULT_LEASE_S,
            DhcpOption::Route => dhcp.routes.clear(),
            DhcpOption::Pxe => dhcp.pxe = None,
        }
    }
    Dhcp {
        vni: dhcp.vni,
        on: dhcp.on,
        dns: request.dns.unwrap_or(dhcp.dns),
        domain: request.domain.or(dhcp.domain),
        ntp: request.ntp.unwrap_or(dhcp.ntp),
        lease_s: request.lease_s.unwrap_or(dhcp.lease_s),
        routes: request.routes.unwrap_or(dhcp.routes),
        pxe: request.pxe.or(dhcp.pxe),
    }
}

fn view_of(dhcp: &Dhcp, network: Option<&Network>, ports: &[RouterPort]) -> DhcpView {
    let port = ports.iter().find(|port| port.vni == dhcp.vni);
    let responder = responder(port, network).filter(|_| dhcp.on);
    DhcpView {
        vni: dhcp.vni,
        network: network.map(|network| network.name.clone()),
        on: dhcp.on,
        server: responder.and_then(|row| row.ipv4),
        dns: dhcp.dns.clone(),
        domain: dhcp.domain.clone(),
        ntp: dhcp.ntp.clone(),
        lease_s: dhcp.lease_s,
        routes: dhcp.routes.clone(),
        pxe: dhcp.pxe.clone(),
    }
}
