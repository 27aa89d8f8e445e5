//! The VXLAN device, the head-room bridge and the underlay.

use std::io::Write as _;

use super::*;

#[tokio::test]
async fn the_vxlan_device_is_external_up_and_marked() {
    let host = Host::new();
    host.open_devices(UDP_PORT).await.unwrap();
    let before = links(None);
    let device = before
        .iter()
        .find(|link| link["linkinfo"]["info_kind"] == "vxlan")
        .unwrap();
    let data = &device["linkinfo"]["info_data"];
    assert_eq!(data["external"], true);
    assert_eq!(data["port"], UDP_PORT);
    assert_eq!(data["learning"], false);
    assert!(is_up(device));
    assert_eq!(device["ifalias"], format!("overlay:{}", host.instance));
    assert_eq!(device["addr_info"], Value::Array(Vec::new()));
    host.open_devices(UDP_PORT).await.unwrap();
    assert_eq!(links(None), before);
}

#[tokio::test]
async fn the_vxlan_device_follows_its_port_and_goes_for_good() {
    let host = Host::new();
    host.open_devices(UDP_PORT).await.unwrap();
    host.open_devices(8472).await.unwrap();
    let mut ports: Vec<_> = links(None)
        .iter()
        .filter_map(|link| link["linkinfo"]["info_data"]["port"].as_u64())
        .collect();
    ports.sort_unstable();
    // The first one asks for head-room and opens no port.
    assert_eq!(ports, [1, 8472]);
    for _ in 0..2 {
        host.platform.remove_vxlan().await.unwrap();
        assert_eq!(links(None).len(), 1);
    }
}

#[tokio::test]
async fn another_vxlan_device_on_the_port_is_named_and_nothing_changes() {
    for kind in ["id 42", "external", "id 42 local 127.0.0.1"] {
        let host = Host::new();
        ip(&format!(
            "link add theirs type vxlan {kind} dstport {UDP_PORT}"
        ));
        let before = links(None);
        let text = refusal(host.open_devices(UDP_PORT).await);
        assert!(text.contains("theirs") && text.contains("4789"), "{text}");
        assert_eq!(links(None), before);
        host.open_devices(8472).await.unwrap();
    }
}

#[tokio::test]
async fn a_port_that_a_program_holds_is_refused_and_nothing_changes() {
    let host = Host::new();
    let _socket = UdpSocket::bind(("0.0.0.0", UDP_PORT)).unwrap();
    let text = refusal(host.open_devices(UDP_PORT).await);
    assert!(text.contains("4789") && text.contains("ss -lunp"), "{text}");
    assert_eq!(links(None).len(), 1);
}

#[tokio::test]
async fn a_port_of_a_vxlan_device_that_moved_to_another_namespace_is_refused() {
    let host = Host::new();
    let sandbox = host.netns("sandbox");
    ip(&format!("netns add {sandbox}"));
    ip(&format!("link add vx0 type vxlan id 42 dstport {UDP_PORT}"));
    ip(&format!("link set vx0 netns {sandbox}"));
    ip(&format!("-n {sandbox} link set vx0 up"));
    let text = refusal(host.open_devices(UDP_PORT).await);
    assert!(text.contains("moved"), "{text}");
    assert_eq!(links(None).len(), 1);
}

/// The link whose name begins so.
fn device(prefix: &str) -> Value {
    let all = links(None);
    let found = all
        .iter()
        .find(|link| link["ifname"].as_str().unwrap().starts_with(prefix));
    found
        .unwrap_or_else(|| panic!("no {prefix}: {all:?}"))
        .clone()
}

#[tokio::test]
async fn the_head_room_bridge_is_down_with_isolated_ports_and_without_the_vxlan_device() {
    let host = Host::new();
    let early = host.ensure(&host.spec("blue")).await;
    host.open_devices(UDP_PORT).await.unwrap();
    let late = host.ensure(&host.spec("green")).await;
    let (bridge, headroom, vxlan) = (device("ovb"), device("ovh"), device("ovx"));
    assert!(!is_up(&bridge), "{bridge}");
    assert!(!is_up(&headroom), "{headroom}");
    assert_eq!(vxlan["master"], Value::Null);
    let members = [
        headroom["ifname"].as_str().unwrap().to_owned(),
        early.host_ifname,
        late.host_ifname,
    ];
    for name in members {
        let member = link(None, &name);
        assert_eq!(member["master"], bridge["ifname"], "{name}");
        let port = &member["linkinfo"]["info_slave_data"];
        assert_eq!(port["state"], "disabled", "{name}");
        assert_eq!(port["isolated"], true, "{name}");
        for setting in ["learning", "flood", "mcast_flood", "bcast_flood"] {
            assert_eq!(port[setting], false, "{name}: {setting}");
        }
    }
}

#[tokio::test]
async fn a_veth_that_the_bridge_has_no_room_for_is_told_of() {
    let host = Host::new();
    let blue = host.ensure(&host.spec("blue")).await;
    let devices = host.open_devices(UDP_PORT).await.unwrap();
    assert!(devices.no_headroom.is_none(), "{:?}", devices.no_headroom);
    let bridge = device("ovb")["ifname"].as_str().unwrap().to_owned();
    // Beside the one that asks for head-room, 1022 ports are left.
    ip(&format!("link set {} nomaster", blue.host_ifname));
    let mut batch = tempfile::NamedTempFile::new().unwrap();
    for number in 0..511 {
        writeln!(
            batch,
            "link add p{number} master {bridge} type veth peer name q{number}\n\
             link set q{number} master {bridge}"
        )
        .unwrap();
    }
    ip(&format!("-batch {}", batch.path().display()));
    let full = host.open_devices(UDP_PORT).await.unwrap();
    assert_eq!(full.ifindexes, devices.ifindexes);
    let problem = full.no_headroom.unwrap().to_string();
    assert!(
        problem.contains(&blue.host_ifname) && problem.contains("1023"),
        "{problem}"
    );
    ip("link del p0");
    let roomy = host.open_devices(UDP_PORT).await.unwrap();
    assert!(roomy.no_headroom.is_none(), "{:?}", roomy.no_headroom);
}

#[tokio::test]
async fn devices_get_their_names_back_while_they_are_up_and_make_no_addresses() {
    let host = Host::new();
    host.open_devices(UDP_PORT).await.unwrap();
    let name = device("ovx")["ifname"].as_str().unwrap().to_owned();
    let before = link(None, &name);
    // Its addresses' list does not tell it.
    let mode = || {
        let all = ip(&format!("-j -d link show {name}"));
        let all: Value = serde_json::from_str(&all).unwrap();
        all[0]["inet6_addr_gen_mode"].clone()
    };
    assert_eq!(mode(), "none");
    ip(&format!("link set {name} addrgenmode eui64"));
    ip(&format!("link set {name} down"));
    ip(&format!("link set {name} name renamed up"));
    host.open_devices(UDP_PORT).await.unwrap();
    assert_eq!(link(None, &name), before);
    assert_eq!(mode(), "none");
}

#[tokio::test]
async fn a_vxlan_device_of_an_earlier_version_is_replaced() {
    let host = Host::new();
    host.open_devices(UDP_PORT).await.unwrap();
    let name = device("ovx")["ifname"].as_str().unwrap().to_owned();
    ip(&format!("link del {name}"));
    // It took no VNI. Kernels before 5.18 know no such filter, and make it without.
    ip(&format!(
        "link add {name} type vxlan external vnifilter nolearning dstport {UDP_PORT}"
    ));
    ip(&format!("link set {name} alias overlay:{}", host.instance));
    ip(&format!(
        "link set {name} master {}",
        device("ovb")["ifname"].as_str().unwrap()
    ));
    host.open_devices(UDP_PORT).await.unwrap();
    let vxlan = device("ovx");
    let filters = &vxlan["linkinfo"]["info_data"]["vnifilter"];
    assert!(*filters != true && is_up(&vxlan), "{vxlan}");
    assert_eq!(vxlan["master"], Value::Null);
}

#[tokio::test]
async fn a_vxlan_device_is_down_until_it_is_opened() {
    let host = Host::new();
    let external = host.platform.ensure_vxlan(UDP_PORT).await.unwrap();
    assert!(!is_up(&device("ovx")));
    host.platform.open_vxlan(UDP_PORT, external).await.unwrap();
    assert!(is_up(&device("ovx")));
}

#[tokio::test]
async fn devices_that_are_right_are_left_alone() {
    let host = Host::new();
    host.open_devices(UDP_PORT).await.unwrap();
    host.ensure(&host.spec("blue")).await;
    let mut changes = host.platform.device_changes().await.unwrap();
    host.open_devices(UDP_PORT).await.unwrap();
    let moment = Duration::from_millis(300);
    let change = tokio::time::timeout(moment, changes.recv()).await;
    assert!(change.is_err(), "it changed what was right");
    let name = device("ovh")["ifname"].as_str().unwrap().to_owned();
    ip(&format!("link set {name} mtu 1400"));
    changes.recv().await.unwrap();
}

#[tokio::test]
async fn the_bridge_leaks_nothing_and_redirects_in_front_of_it_work() {
    let host = Host::new();
    let blue = host.spec("blue");
    let green = PortSpec {
        mac: mac("02:42:07:07:07:03"),
        addresses: vec!["7.7.7.3/24".parse().unwrap()],
        ..host.spec("green")
    };
    host.open_devices(UDP_PORT).await.unwrap();
    let ports = [host.ensure(&blue).await, host.ensure(&green).await];
    let ifindexes = ports.each_ref().map(|port| port.host_ifindex).into();
    host.platform.set_ports_up(&ifindexes, true).await.unwrap();
    let sides = ports.map(|port| port.host_ifname);
    let ping = |netns: &Name, target: &str, seconds: &str| {
        let mut command = Command::new("ip");
        command.args([
            "netns",
            "exec",
            netns.as_str(),
            "ping",
            "-q",
            "-c1",
            "-W",
            seconds,
            target,
        ]);
        command.output().unwrap().status.success()
    };
    assert!(!ping(blue.netns(), "7.7.7.3", "1"));
    let stats = ip(&format!("-n {} -s -j link show eth0", green.netns()));
    let stats: Value = serde_json::from_str(&stats).unwrap();
    assert_eq!(stats[0]["stats64"]["rx"]["packets"], 0, "{stats}");

    for (from, to) in [(0, 1), (1, 0)] {
        let (from, to) = (&sides[from], &sides[to]);
        tc(&format!("qdisc add dev {from} clsact"));
        tc(&format!(
            "filter add dev {from} ingress u32 match u32 0 0 action mirred egress redirect dev {to}"
        ));
    }
    // Long enough for the next ARP request, which come once a second.
    assert!(ping(blue.netns(), "7.7.7.3", "3"));
    assert!(ping(green.netns(), "7.7.7.2", "3"));
}

#[tokio::test]
async fn an_underlay_is_described_or_refused_as_the_kernel_has_it() {
    let host = Host::new();
    let underlay = async || host.platform.underlay().await;
    assert!(refusal(underlay().await).contains("u0 does not exist"));
    ip("link add u0 mtu 1329 type veth peer name u1");
    assert!(refusal(underlay().await).contains("is down"));
    ip("link set u0 up");
    assert!(refusal(underlay().await).contains("1330"));
    ip("link set u0 mtu 1500");
    assert!(refusal(underlay().await).contains("no IPv4 address"));
    ip("address add 169.254.1.1/16 dev u0 scope link");
    ip("address add 10.99.0.1/24 dev u0");
    ip("address add 10.99.0.2/24 dev u0");
    let found = underlay().await.unwrap();
    assert_eq!(found.ip.to_string(), "10.99.0.1");
    assert_eq!(found.mtu, 1500);
    assert_eq!(link(None, "u0")["ifindex"], found.ifindex);

    let named = |ip: &str| {
        Linux::new(
            host.instance.clone(),
            "u0".parse().unwrap(),
            Some(ip.parse().unwrap()),
        )
        .unwrap()
    };
    let second = named("10.99.0.2").underlay().await.unwrap();
    assert_eq!(second.ip.to_string(), "10.99.0.2");
    let text = refusal(named("10.99.0.3").underlay().await);
    assert!(text.contains("10.99.0.1, 10.99.0.2"), "{text}");
}
