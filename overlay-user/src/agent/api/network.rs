//! A network as clients ask for it.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::model::{FloodMode, Name, Network, Resolve, Vni, VniChoice};

/// The network that is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkRequest {
    /// Its name.
    pub name: Name,
    /// Its VNI.
    pub vni: VniChoice,
    /// Where addresses come from.
    #[serde(default)]
    pub subnets: Vec<IpNet>,
    /// Bytes of an IP packet; 0: from the underlay.
    #[serde(default)]
    pub mtu: u32,
    /// What happens to BUM traffic.
    #[serde(default)]
    pub flood: FloodMode,
    /// Whether source MACs are learned from packets.
    #[serde(default)]
    pub learning: bool,
    /// When hosts learn where its endpoints are.
    #[serde(default)]
    pub resolve: Resolve,
}

impl NetworkRequest {
    /// The network, once its VNI is known.
    #[must_use]
    pub fn with_vni(&self, vni: Vni) -> Network {
        Network {
            vni,
            name: self.name.clone(),
            subnets: self.subnets.clone(),
            mtu: self.mtu,
            flood: self.flood,
            learning: self.learning,
            resolve: self.resolve,
        }
    }
}

impl From<Network> for NetworkRequest {
    fn from(network: Network) -> Self {
        Self {
            name: network.name,
            vni: VniChoice::Vni(network.vni),
            subnets: network.subnets,
            mtu: network.mtu,
            flood: network.flood,
            learning: network.learning,
            resolve: network.resolve,
        }
    }
}
