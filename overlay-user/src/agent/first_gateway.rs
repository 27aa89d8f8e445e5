//! `--gateway`: gives a network a gateway and a way out, for whoever has one host and wants the Internet.

use ipnet::{IpNet, Ipv4Net};

use super::{
    api::{AttachRouter, CreateRouter, OperationError, SetNetwork, SetRouter},
    server::Handle as _,
    service::Agent,
};
use crate::model::{NetworkRef, Outside, RouterPort, Snat, SnatChoice};

impl Agent {
    /// Gives the network of `--vni` the gateway of `--gateway`. A network that has one keeps it; so does one that shares
    /// a pool's addresses. What fails is logged: the network works without.
    pub(super) async fn give_gateway(&self) {
        let (Some(gateway), Some(network)) = (self.config.gateway, self.config.vnis.first()) else {
            return;
        };
        // Whatever the registry held when this node came into it.
        if !self.observer.clone().applied(1).await {
            return;
        }
        match self.attach_gateway(network, gateway).await {
            Ok(true) => {
                tracing::info!(%network, %gateway, "the network has a gateway, and a way out");
            }
            Ok(false) => {}
            Err(error) => tracing::warn!(%network, %gateway, "no gateway: {}", error.message),
        }
    }

    /// The port comes last: what was done by half is done again by the next start. `false`: the network has a gateway.
    async fn attach_gateway(
        &self,
        network: &NetworkRef,
        gateway: Ipv4Net,
    ) -> Result<bool, OperationError> {
        let network = self.network(network).await?;
        let ports = self.all::<RouterPort>().await?;
        if ports.iter().any(|port| port.vni == network.vni) {
            return Ok(false);
        }
        let router = network.name.clone();
        let create = CreateRouter {
            name: router.clone(),
            mac: None,
        };
        self.handle(create).await?;
        let lead_out = SetRouter {
            name: router.clone(),
            outside: Some(Outside::Host),
        };
        self.handle(lead_out).await?;
        let snat = self.all::<Snat>().await?;
        if !snat.iter().any(|snat| snat.vni == network.vni) {
            let share = SetNetwork {
                name: network.name.clone(),
                mtu: None,
                flood: None,
                learning: None,
                snat: Some(SnatChoice::Host),
                dhcp: None,
                qos: None,
            };
            self.handle(share).await?;
        }
        let attach = AttachRouter {
            router,
            network: network.vni.into(),
            ips: vec![IpNet::from(gateway).into()],
            nptv6: None,
        };
        self.handle(attach).await?;
        Ok(true)
    }
}
