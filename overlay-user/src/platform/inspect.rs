//! Reports the state of the host's devices. It changes nothing.

use std::{collections::BTreeSet, io};

use ethtool::{EthtoolAttr, EthtoolFeatureAttr};
use futures_util::TryStreamExt as _;
use tokio::{runtime, time::timeout};

use super::{
    Context, PlatformError, Underlay,
    link::Vxlan,
    linux::{Linux, Occupant},
    netlink_socket::ANSWER_TIMEOUT,
    netns::Netns,
    ownership::Device,
};

/// What the host's devices are like.
#[derive(Debug)]
pub struct Condition {
    /// The underlay, or why it can't carry the tunnels.
    pub underlay: Result<Underlay, PlatformError>,
    /// What the underlay's device does for whole streams; `None`: it can't be asked.
    pub offloads: Option<Offloads>,
    /// The VXLAN device that opens the port for receive GRO.
    pub vxlan: VxlanDevice,
}

/// What a device does for whole streams rather than packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offloads {
    /// It aggregates what it receives.
    pub gro: bool,
    /// It takes TCP streams whole.
    pub tso: bool,
    /// It takes them whole within UDP tunnels too.
    pub tunnel_segmentation: bool,
}

/// The VXLAN device that opens the port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VxlanDevice {
    /// It is up on this UDP port, in external mode.
    Ready,
    /// There is none, or something else has its name.
    Missing,
    /// It is there and does not serve: why.
    Unfit(&'static str),
}

impl Linux {
    /// Looks at the devices of the host; `port` is that of the tunnels, host byte order.
    pub async fn inspect(&self, port: u16) -> Result<Condition, PlatformError> {
        let underlay = self.underlay().await;
        let offloads = match &underlay {
            Ok(_) => self.offloads().await.ok(),
            Err(_) => None,
        };
        let host = self.open_host().await?;
        let vxlan = match self.find(&host, Device::Vxlan).await? {
            Occupant::Ours(link) if !link.is_up() => VxlanDevice::Unfit("is down"),
            Occupant::Ours(link) => match link.vxlan {
                Some(Vxlan {
                    port: known,
                    external: true,
                    learning: false,
                    ..
                }) if known == port => VxlanDevice::Ready,
                Some(_) => {
                    VxlanDevice::Unfit("has another port, learns, or is not in external mode")
                }
                None => VxlanDevice::Unfit("is no VXLAN device"),
            },
            Occupant::Free | Occupant::Foreign(_) => VxlanDevice::Missing,
        };
        Ok(Condition {
            underlay,
            offloads,
            vxlan,
        })
    }

    async fn offloads(&self) -> Result<Offloads, PlatformError> {
        let features = active_features(&self.host, self.iface.as_str())
            .await
            .context(|| format!("reading the offloads of {}", self.iface))?;
        let has = |feature: &str| features.contains(feature);
        Ok(Offloads {
            gro: has("rx-gro"),
            tso: has("tx-tcp-segmentation"),
            tunnel_segmentation: has("tx-udp_tnl-segmentation"),
        })
    }
}

/// The features that are on, by the names that `ethtool -k` knows them by.
async fn active_features(netns: &Netns, iface: &str) -> io::Result<BTreeSet<String>> {
    let runtime = runtime::Handle::current();
    let (connection, mut handle, _) = netns
        .run(move || {
            let _registers_the_socket = runtime.enter();
            ethtool::new_connection()
        })
        .await?;
    let connection = tokio::spawn(connection);
    // An answer that does not parse never comes.
    let answers = timeout(ANSWER_TIMEOUT, async {
        let answers = handle.feature().get(Some(iface)).execute().await?;
        answers.try_collect::<Vec<_>>().await
    })
    .await;
    connection.abort();
    let attributes = answers?
        .map_err(io::Error::other)?
        .into_iter()
        .flat_map(|message| message.payload.nlas);
    Ok(attributes
        .filter_map(|attribute| match attribute {
            EthtoolAttr::Feature(EthtoolFeatureAttr::Active(bits)) => Some(bits),
            _ => None,
        })
        .flatten()
        .filter(|bit| bit.value)
        .map(|bit| bit.name)
        .collect())
}
