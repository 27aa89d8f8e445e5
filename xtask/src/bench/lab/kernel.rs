//! What a host without us runs: the kernel's VXLAN device on a bridge in a namespace of its own, with
//! static neighbours and FDB, and a container behind the bridge.

use std::sync::Arc;

use anyhow::Result;

use super::{End, Host, INNER_MTU, VNI, VXLAN_PORT, mac_of, mac_text};
use crate::bench::netns::{Netns, ip};

const BRIDGE: &str = "br0";
const TUNNEL: &str = "vxlan1";
const PORT: &str = "veth1";
const INSIDE: &str = "eth0";

/// Builds one host's side; gives the container and the namespace of the bridge.
pub(super) fn build(host: Host, underlay: &Netns) -> Result<(End, Netns)> {
    let name = underlay.name();
    let over = Netns::create(&format!("{name}-over"))?;
    let container = Netns::create(&format!("{name}-c"))?;

    over.ip(&format!("link add {BRIDGE} type bridge"))?;
    // Made in the host and moved: the device keeps its UDP socket there.
    underlay.ip(&format!(
        "link add {TUNNEL} type vxlan id {VNI} proxy learning l2miss l3miss dstport {VXLAN_PORT}"
    ))?;
    underlay.ip(&format!("link set {TUNNEL} netns {}", over.name()))?;
    ip(&format!(
        "link add {PORT} netns {} type veth peer name {INSIDE} netns {} address {}",
        over.name(),
        container.name(),
        mac_text(mac_of(host.container_ip())),
    ))?;

    for port in [TUNNEL, PORT] {
        over.ip(&format!("link set {port} mtu {INNER_MTU} master {BRIDGE}"))?;
    }
    for link in [BRIDGE, TUNNEL, PORT] {
        over.ip(&format!("link set {link} up"))?;
    }
    container.ip(&format!("link set {INSIDE} mtu {INNER_MTU} up"))?;
    container.ip(&format!(
        "address add {}/24 dev {INSIDE}",
        host.container_ip()
    ))?;

    let peer = host.peer();
    let peer_mac = mac_text(mac_of(peer.container_ip()));
    over.ip(&format!(
        "neighbour add {} lladdr {peer_mac} dev {TUNNEL} nud permanent",
        peer.container_ip()
    ))?;
    over.bridge(&format!(
        "fdb add {peer_mac} dev {TUNNEL} dst {} self permanent",
        peer.underlay_ip()
    ))?;

    let end = End::new(Arc::new(container), INSIDE, host.container_ip());
    Ok((end, over))
}
