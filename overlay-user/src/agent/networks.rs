//! Makes, finds, changes and removes networks for clients.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    api::{ErrorKind, NetworkRequest, NetworkView, OperationError, RemovedView, check_network},
    operations::Agent,
};
use crate::{
    model::{
        AUTO_VNI, Change, Name, Network, NetworkRef, NetworkSettings, Vni, VniChoice, VtepAddr,
        free_vni,
    },
    registry::{RegistryError, Scope},
};

/// How often a free VNI may turn out to be taken by somebody faster.
const VNI_ATTEMPTS: usize = 64;

impl Agent {
    /// Makes the network that is asked for.
    pub(super) async fn create_network(
        &self,
        request: &NetworkRequest,
    ) -> Result<NetworkView, OperationError> {
        self.check_reach().await?;
        if let VniChoice::Vni(vni) = request.vni {
            let network = request.with_vni(vni);
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
            let network = request.with_vni(vni);
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

    /// Changes a network while traffic runs; refuses what one of its endpoints could not go on with.
    pub(super) async fn set_network(
        &self,
        name: &Name,
        settings: NetworkSettings,
    ) -> Result<NetworkView, OperationError> {
        self.check_reach().await?;
        let former = self.network(&NetworkRef::Name(name.clone())).await?;
        let network = former.clone().with(settings);
        if network.mtu != former.mtu {
            check_network(&network.subnets, network.mtu)?;
            self.check_mtu(&network).await?;
        }
        self.commit(&[Change::SetNetwork(network.vni, settings)])
            .await?;
        Ok(network.into())
    }

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

    /// Removes a network, whatever this host's maps have of it.
    pub(super) async fn remove_network(&self, name: &Name) -> Result<RemovedView, OperationError> {
        self.check_reach().await?;
        let networks = self.known_networks().await?.0;
        let network = networks.into_iter().find(|network| network.name == *name);
        let removed = network.is_some();
        if let Some(network) = network {
            self.commit(&[Change::RemoveNetwork(network.vni)]).await?;
        }
        Ok(RemovedView { removed })
    }

    /// The network that is meant.
    pub(super) async fn network(&self, wanted: &NetworkRef) -> Result<Network, OperationError> {
        let view = self.observer.view().await;
        let mut networks = view.mirror.networks();
        let found = networks.find(|network| wanted.is(network)).cloned();
        found.ok_or_else(|| no_network(wanted))
    }

    /// The VNI of the network that is meant, which may not be there if it was a VNI that named it.
    pub(super) async fn vni_of(&self, wanted: &NetworkRef) -> Result<Vni, OperationError> {
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

/// What is meant is not there.
pub(super) fn no_network(wanted: &NetworkRef) -> OperationError {
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
