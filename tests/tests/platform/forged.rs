//! What a process says that may administer a namespace, in the words of the kernel.

use std::{fs::File, os::fd::AsRawFd as _};

use nix::{
    sched::setns,
    sys::socket::{
        AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, sendto, socket,
    },
};
use overlay_user::platform::PortChange;
use tokio::{sync::mpsc::Receiver, time::timeout};

use super::*;

const RTM_NEWROUTE: u16 = 24;
const RTM_DELLINK: u16 = 17;
/// Bits of the groups `RTNLGRP_LINK` and `RTNLGRP_IPV4_ROUTE`.
const LINK: u32 = 1 << 0;
const IPV4_ROUTE: u32 = 1 << 6;
const IFLA_IFNAME: u16 = 3;

/// Tells the listeners of `groups` in the thread's namespace an event of `kind`.
fn forge(kind: u16, groups: u32, payload: &[u8]) {
    let forger = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::empty(),
        SockProtocol::NetlinkRoute,
    )
    .unwrap();
    let len = u32::try_from(16 + payload.len()).unwrap();
    let mut event = len.to_ne_bytes().to_vec();
    event.extend(kind.to_ne_bytes());
    // No request, which the kernel would carry out.
    event.extend([0; 10]);
    event.extend(payload);
    sendto(
        forger.as_raw_fd(),
        &event,
        &NetlinkAddr::new(0, groups),
        MsgFlags::empty(),
    )
    .unwrap();
}

/// The fixed part of a link's message, and its name.
fn gone(index: u32, name: &str) -> Vec<u8> {
    let mut link = vec![0; 16];
    link[4..8].copy_from_slice(&index.to_ne_bytes());
    let len = u16::try_from(4 + name.len() + 1).unwrap();
    link.extend(len.to_ne_bytes());
    link.extend(IFLA_IFNAME.to_ne_bytes());
    link.extend(name.as_bytes());
    link.push(0);
    link.resize(link.len().next_multiple_of(4), 0);
    link
}

/// The next change, if one comes soon.
async fn next<T>(changes: &mut Receiver<T>) -> Option<T> {
    let moment = Duration::from_millis(300);
    timeout(moment, changes.recv()).await.ok().flatten()
}

/// The same for ports. Namespaces come and go with the tests beside this one.
async fn next_port(changes: &mut Receiver<PortChange>) -> Option<Name> {
    loop {
        match next(changes).await? {
            PortChange::Endpoint(endpoint) => return Some(endpoint),
            PortChange::Netns(_) | PortChange::All => {}
        }
    }
}

#[tokio::test]
async fn events_that_the_kernel_did_not_send_are_passed_over() {
    let host = Host::new();
    host.open_devices(UDP_PORT).await.unwrap();
    let all = links(None);
    let is_ours = |link: &&Value| link["ifname"].as_str().unwrap().starts_with("ovx");
    let vxlan = all.iter().find(is_ours).unwrap()["ifname"]
        .as_str()
        .unwrap();
    let mut devices = host.platform.device_changes().await.unwrap();
    let mut routes = host.platform.route_changes().await.unwrap();
    forge(RTM_DELLINK, LINK, &gone(7, vxlan));
    forge(RTM_NEWROUTE, IPV4_ROUTE, &[0; 12]);
    assert_eq!(next(&mut devices).await, None);
    assert_eq!(next(&mut routes).await, None);
    ip(&format!("link set {vxlan} mtu 1400"));
    ip("link set lo up");
    ip("route add 192.0.2.0/24 dev lo");
    assert_eq!(next(&mut devices).await, Some(()));
    assert_eq!(next(&mut routes).await, Some(()));
}

#[tokio::test]
async fn events_that_an_owner_forges_in_his_namespace_are_passed_over() {
    let host = Host::new();
    let blue = host.spec("blue");
    let mut changes = host.platform.port_changes().await.unwrap();
    let port = host.ensure(&blue).await;
    host.platform
        .set_ports_up(&[port.host_ifindex].into(), true)
        .await
        .unwrap();
    while next_port(&mut changes).await.is_some() {}
    let index = inside(&blue)["ifindex"].as_u64().unwrap();
    let index = u32::try_from(index).unwrap();
    let namespace = File::open(host.path("blue")).unwrap();
    let owner = thread::spawn(move || {
        setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
        forge(RTM_DELLINK, LINK, &gone(index, "eth0"));
    });
    owner.join().unwrap();
    assert_eq!(next_port(&mut changes).await, None);
    ip(&format!("-n {} link set eth0 down", blue.netns()));
    assert_eq!(next_port(&mut changes).await, Some(blue.endpoint));
}
