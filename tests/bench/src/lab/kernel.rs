//! What a host without us runs: the kernel's VXLAN device on a bridge in a namespace of its own, with
//! static neighbours and FDB, and a container behind the bridge.

use anyhow::Result;

use super::{End, Host, INNER_MTU, VNI, VXLAN_PORT, mac_of, mac_text};
use overlay_lab::netns::{Netns, OwnedNetns, try_ip};
use overlay_lab::process;

const BRIDGE: &str = "br0";
const TUNNEL: &str = "vxlan1";
const PORT: &str = "veth1";
const INSIDE: &str = "eth0";

/// Builds one host's side; gives the container, and the namespaces of it and of the bridge.
pub(super) fn build(host: Host, underlay: &Netns) -> Result<(End, [OwnedNetns; 2])> {
    let name = underlay.name();
    let over = OwnedNetns::create(&format!("{name}-over"))?;
    let container = OwnedNetns::create(&format!("{name}-c"))?;

    over.try_ip(&format!("link add {BRIDGE} type bridge"))?;
    // Made in the host and moved: the device keeps its UDP socket there.
    underlay.try_ip(&format!(
        "link add {TUNNEL} type vxlan id {VNI} proxy learning l2miss l3miss dstport {VXLAN_PORT}"
    ))?;
    underlay.try_ip(&format!("link set {TUNNEL} netns {}", over.name()))?;
    try_ip(&format!(
        "link add {PORT} netns {} type veth peer name {INSIDE} netns {} address {}",
        over.name(),
        container.name(),
        mac_text(mac_of(host.container_ip())),
    ))?;

    for port in [TUNNEL, PORT] {
        over.try_ip(&format!("link set {port} mtu {INNER_MTU} master {BRIDGE}"))?;
    }
    for link in [BRIDGE, TUNNEL, PORT] {
        over.try_ip(&format!("link set {link} up"))?;
    }
    container.try_ip(&format!("link set {INSIDE} mtu {INNER_MTU} up"))?;
    container.try_ip(&format!(
        "address add {}/24 dev {INSIDE}",
        host.container_ip()
    ))?;

    let peer = host.peer();
    let peer_mac = mac_text(mac_of(peer.container_ip()));
    over.try_ip(&format!(
        "neighbour add {} lladdr {peer_mac} dev {TUNNEL} nud permanent",
        peer.container_ip()
    ))?;
    let to = peer.underlay_ip().to_string();
    let entry = ["fdb", "add", &peer_mac, "dev", TUNNEL, "dst", &to];
    let bridge = [&["bridge"], &entry[..], &["self", "permanent"]].concat();
    process::run("adding an FDB entry", &over.line(&bridge))?;

    let end = End::new(container.clone(), INSIDE, host.container_ip());
    Ok((end, [container, over]))
}
