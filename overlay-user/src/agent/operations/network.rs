//! Operations on networks: `overlay network`.

use std::collections::{BTreeMap, BTreeSet};

use crate::agent::service::Agent;
use crate::{
    agent::{
        api::{
            CreateNetwork, ErrorKind, ListNetworks, NetworkView, OperationError, RemoveNetwork,
            RemovedView, SetNetwork, check_network,
        },
        server::{Handle, Outcome},
    },
    model::{
        AUTO_VNI, Change, Dhcp, Name, Network, NetworkRef, NetworkSettings, QosSubject,
        Resource as _, Snat, SnatChoice, Vni, VniChoice, VtepAddr, free_vni,
    },
    reconcile::mirror::Mirror,
    registry::{RegistryError, Scope},
};

/// How often a free VNI may turn out to be taken by somebody faster.
const VNI_ATTEMPTS: usize = 64;

impl Handle<CreateNetwork> for Agent {
    async fn handle(&self, request: CreateNetwork) -> Outcome<CreateNetwork> {
        self.check_reach().await?;
        if let VniChoice::Vni(vni) = request.vni {
            let network = with_vni(&request, vni);
            self.commit(&[Change::CreateNetwork(network.clone())])
                .await?;
            return Ok(network.into());
        }
        for _ in 0..VNI_ATTEMPTS {
            let taken = self.taken_vnis().await?;
            let vni = free_vni(&taken).ok_or_else(|| {
                OperationError::new(
                    ErrorKind::Refused,
                    format_args!("all VNIs from {AUTO_VNI} are taken: choose one below with --vni"),
                )
            })?;
            let network = with_vni(&request, vni);
            match self
                .in_registry(&[Change::CreateNetwork(network.clone())])
                .await?
            {
                Ok(revision) => {
                    self.carried_over(revision).await?;
                    return Ok(network.into());
                }
                Err(RegistryError::Conflict { what: "VNI", .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(OperationError::new(
            ErrorKind::Unavailable,
            format_args!(
                "{VNI_ATTEMPTS} VNIs were taken by others before network {} could have one: try again, or \
                 choose one with --vni",
                request.name
            ),
        ))
    }
}

impl Handle<SetNetwork> for Agent {
    async fn handle(&self, request: SetNetwork) -> Outcome<SetNetwork> {
        self.check_reach().await?;
        let settings = NetworkSettings {
            mtu: request.mtu,
            flood: request.flood,
            learning: request.learning,
        };
        let previous = self.network(&NetworkRef::Name(request.name)).await?;
        let snat = match &request.snat {
            Some(choice) => self.snat_change(&previous, choice).await?,
            None => None,
        };
        let network = previous.clone().with(settings);
        if network.mtu != previous.mtu {
            check_network(&network.subnets, network.mtu)?;
            self.check_mtu(&network).await?;
        }
        let settings = Change::SetNetwork(network.vni, settings);
        let mut changes: Vec<Change> = [Some(settings), snat].into_iter().flatten().collect();
        if let Some(on) = request.dhcp {
            changes.push(self.switch_dhcp(network.vni, on).await?);
        }
        if let Some(qos) = request.qos {
            let subject = QosSubject::Network(network.vni);
            changes.extend(self.binding_change(subject, qos.into_option()).await?);
        }
        self.commit(&changes).await?;
        let view = self.observer.view().await;
        Ok(view_of(network, &view.mirror))
    }
}

impl Handle<ListNetworks> for Agent {
    async fn handle(&self, _: ListNetworks) -> Outcome<ListNetworks> {
        let view = self.observer.view().await;
        let networks = view.mirror.networks().cloned();
        Ok(networks
            .map(|network| view_of(network, &view.mirror))
            .collect())
    }
}

/// A network with what other objects say of it.
fn view_of(network: Network, mirror: &Mirror) -> NetworkView {
    let vni = network.vni;
    let snat = mirror.object(&Snat::id(vni.into())).and_then(Snat::known);
    let dhcp = mirror.object(&Dhcp::id(vni.into())).and_then(Dhcp::known);
    NetworkView {
        snat: match snat {
            None => SnatChoice::None,
            Some(Snat { pool: None, .. }) => SnatChoice::Host,
            Some(Snat {
                pool: Some(pool), ..
            }) => SnatChoice::Pool(pool),
        },
        dhcp: dhcp.is_some_and(|dhcp| dhcp.on),
        qos: mirror.qos_at(&QosSubject::Network(vni)).map(|qos| qos.name),
        ..network.into()
    }
}

impl Handle<RemoveNetwork> for Agent {
    /// Removes a network, whatever this host's maps have of it.
    async fn handle(&self, RemoveNetwork { name }: RemoveNetwork) -> Outcome<RemoveNetwork> {
        self.check_reach().await?;
        let networks = self.known_networks().await?.0;
        let network = networks.into_iter().find(|network| network.name == name);
        let removed = network.is_some();
        if let Some(network) = network {
            self.commit(&[Change::RemoveNetwork(network.vni)]).await?;
        }
        Ok(RemovedView { removed })
    }
}

impl Agent {
    /// Refuses an MTU that an endpoint of the network can't have: for its addresses, or its host's underlay.
    async fn check_mtu(&self, network: &Network) -> Result<(), OperationError> {
        let refused = |line: String| Err(OperationError::new(ErrorKind::Refused, line));
        let mtu = network.mtu;
        if mtu == 0 {
            return Ok(());
        }
        let mut reading = self.registry.read(Scope::Network(network.vni)).await?;
        let narrow: BTreeMap<Name, u32> = reading
            .nodes
            .into_iter()
            .filter_map(|node| Some((node.name, node.mtu?.saturating_sub(VtepAddr::IPV4_OVERHEAD))))
            .filter(|(_, longest)| *longest < mtu)
            .collect();
        while let Some(page) = reading.endpoints.recv().await {
            for endpoint in page? {
                let (name, node) = (&endpoint.name, &endpoint.node);
                if mtu < 1280 && endpoint.ips().any(|ip| ip.is_ipv6()) {
                    return refused(format!(
                        "MTU {mtu} is too small for endpoint {name}, which has an IPv6 address: choose one from \
                         1280 (RFC 8200 section 5)"
                    ));
                }
                if let Some(longest) = narrow.get(node) {
                    return refused(format!(
                        "MTU {mtu} is too large for endpoint {name} on node {node}, whose underlay leaves \
                         {longest}: choose one up to that, or raise the underlay's"
                    ));
                }
            }
        }
        Ok(())
    }

    /// The network that is meant.
    pub(in crate::agent) async fn network(
        &self,
        wanted: &NetworkRef,
    ) -> Result<Network, OperationError> {
        let view = self.observer.view().await;
        let mut networks = view.mirror.networks();
        let found = networks
            .find(|network| wanted.is(network.vni, &network.name))
            .cloned();
        found.ok_or_else(|| no_network(wanted))
    }

    /// The VNI of the network that is meant, which may not be there if it was a VNI that named it.
    pub(in crate::agent) async fn vni_of(
        &self,
        wanted: &NetworkRef,
    ) -> Result<Vni, OperationError> {
        match wanted {
            NetworkRef::Vni(vni) => Ok(*vni),
            NetworkRef::Name(_) => Ok(self.network(wanted).await?.vni),
        }
    }

    /// Those of the registry as it is now, and the VNIs of those that can't be read.
    async fn known_networks(&self) -> Result<(Vec<Network>, Vec<Vni>), OperationError> {
        // Of a scope that has no endpoints to bring: networks always come whole.
        let scope = Scope::Network(
            Vni::try_from(Vni::MAX)
                .map_err(|error| OperationError::new(ErrorKind::Internal, error))?,
        );
        let reading = self.registry.read(scope).await?;
        let unreadable = reading.rejected.networks();
        Ok((reading.networks, unreadable))
    }

    async fn taken_vnis(&self) -> Result<BTreeSet<Vni>, OperationError> {
        let (networks, unreadable) = self.known_networks().await?;
        let known = networks.into_iter().map(|network| network.vni);
        Ok(known.chain(unreadable).collect())
    }
}

/// The network that is asked for, with its VNI.
fn with_vni(request: &CreateNetwork, vni: Vni) -> Network {
    Network {
        vni,
        name: request.name.clone(),
        subnets: request.subnets.clone(),
        mtu: request.mtu,
        flood: request.flood,
        learning: request.learning,
        resolve: request.resolve,
    }
}

/// The error of a network that does not exist.
pub(in crate::agent) fn no_network(wanted: &NetworkRef) -> OperationError {
    let advice = "see `overlay network ls`, or make one with `overlay network create";
    OperationError::new(
        ErrorKind::NotFound,
        match wanted {
            NetworkRef::Vni(vni) => {
                format!("there is no network with VNI {vni}: {advice} NAME --vni {vni}`")
            }
            NetworkRef::Name(name) => {
                format!("there is no network {name}: {advice} {name} --vni auto`")
            }
        },
    )
}
