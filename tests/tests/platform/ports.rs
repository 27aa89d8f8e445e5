//! What a port becomes, and what is put right.

use std::{ffi::OsStr, os::unix::ffi::OsStrExt as _};

use overlay_lab::wait::WAIT_TIMEOUT;
use tokio::time::timeout;

use super::*;

#[tokio::test]
async fn a_port_is_what_its_spec_says() {
    let host = Host::new();
    let spec = host.spec("blue");
    let port = host.ensure(&spec).await;
    assert_eq!(port.endpoint, spec.endpoint);
    assert_as_specified(&spec, &port);
    let outside = link(None, &port.host_ifname);
    assert_eq!(
        outside["ifalias"],
        format!("overlay:{}:blue", host.instance)
    );
    assert!(
        outside["flags"]
            .as_array()
            .unwrap()
            .contains(&"NOARP".into())
    );
    assert_eq!(host.platform.ports().await.unwrap(), [listed(port)]);
}

#[tokio::test]
async fn the_host_side_of_a_port_is_down_until_it_is_set_up_and_stays_as_it_was_set() {
    let host = Host::new();
    let spec = host.spec("blue");
    let port = host.platform.ensure_port(&spec).await.unwrap();
    let is_up = || is_up(&link(None, &port.host_ifname));
    assert!(!is_up(), "its program is yet to come");
    let both = BTreeSet::from([port.host_ifindex, 1_000_000]);
    for up in [true, false, true] {
        host.platform.set_ports_up(&both, up).await.unwrap();
        assert_eq!(is_up(), up);
        host.platform.ensure_port(&spec).await.unwrap();
        assert_eq!(is_up(), up);
    }
}

#[tokio::test]
async fn an_endpoint_has_no_address_to_send_from_before_both_ends_of_its_port_can_send() {
    let host = Host::new();
    let spec = host.spec("blue");
    let port = host.platform.ensure_port(&spec).await.unwrap();
    for _ in 0..2 {
        let closed = inside(&spec);
        assert!(!is_up(&closed), "{closed}");
        assert_eq!(addresses(&closed), [""; 0]);
        host.platform.ensure_port(&spec).await.unwrap();
    }
    let host_side = BTreeSet::from([port.host_ifindex]);
    host.platform.set_ports_up(&host_side, true).await.unwrap();
    assert_eq!(addresses(&inside(&spec)), [""; 0]);
    host.platform.refresh_port(&spec).await.unwrap().unwrap();
    assert_as_specified(&spec, &port);
    let ends = [inside(&spec), link(None, &port.host_ifname)];
    for end in ends {
        assert_eq!(end["operstate"], "UP", "{end}");
    }
}

#[tokio::test]
async fn the_inside_leaves_room_for_the_tunnel_in_segmented_packets() {
    let host = Host::new();
    let spec = host.spec("blue");
    host.ensure(&spec).await;
    assert_eq!(inside(&spec)["gso_max_size"], 65_472);
    assert_eq!(
        inside(&spec)["gso_ipv4_max_size"]
            .as_u64()
            .unwrap_or(65_472),
        65_472
    );
}

#[tokio::test]
async fn ipv6_addresses_are_usable_at_once() {
    let host = Host::new();
    let spec = host.spec("blue");
    host.ensure(&spec).await;
    let inside = inside(&spec);
    let infos = inside["addr_info"].as_array().unwrap();
    let info = infos
        .iter()
        .find(|info| info["local"] == "fd07::2")
        .unwrap();
    assert_eq!(info["tentative"], Value::Null, "{info}");
}

#[tokio::test]
async fn a_namespace_that_is_made_has_its_loopback_up() {
    let host = Host::new();
    let spec = host.spec("blue");
    host.ensure(&spec).await;
    assert!(is_up(&link(Some(spec.netns()), "lo")));
}

#[tokio::test]
async fn ensuring_again_changes_nothing() {
    let host = Host::new();
    let spec = host.spec("blue");
    let first = host.ensure(&spec).await;
    let before = (configured(None), configured(Some(spec.netns())));
    assert_eq!(host.ensure(&spec).await, first);
    assert_eq!(host.restarted().ensure_port(&spec).await.unwrap(), first);
    assert_eq!((configured(None), configured(Some(spec.netns()))), before);
}

#[tokio::test]
async fn what_somebody_changed_inside_is_put_right_without_a_new_link() {
    let host = Host::new();
    let spec = host.spec("blue");
    let port = host.ensure(&spec).await;
    let netns = spec.netns();
    for change in [
        "link set eth0 mtu 900",
        "link set eth0 address 02:00:00:00:00:99",
        "link set eth0 down",
        "address del 7.7.7.2/24 dev eth0",
        "address flush dev eth0",
        "link set eth0 name other",
    ] {
        ip(&format!("-n {netns} {change}"));
        assert_eq!(host.ensure(&spec).await, port, "{change}");
        assert_as_specified(&spec, &port);
    }
}

#[tokio::test]
async fn addresses_that_others_added_stay_and_those_that_the_endpoint_lost_go() {
    let host = Host::new();
    let mut spec = host.spec("blue");
    let port = host.ensure(&spec).await;
    for foreign in ["9.9.9.9/24", "7.7.7.9/24", "fd07::9/64"] {
        ip(&format!(
            "-n {} address add {foreign} dev eth0",
            spec.netns()
        ));
    }
    assert_eq!(host.ensure(&spec).await, port);
    let ours = ["7.7.7.2/24", "fd07::2/64"];
    let all = |ours: &[&str]| {
        let mut all: Vec<_> = ["7.7.7.9/24", "9.9.9.9/24", "fd07::9/64"].to_vec();
        all.extend(ours);
        all.sort_unstable();
        all.into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(addresses(&inside(&spec)), all(&ours));
    // Another agent knows which were the endpoint's.
    spec.addresses = vec!["fd07::2/64".parse().unwrap(), "7.7.7.4/24".parse().unwrap()];
    // The kernel takes secondaries with their primary, if nothing says otherwise.
    let promote = "sysctl -qw net.ipv4.conf.all.promote_secondaries=1";
    ip(&format!("netns exec {} {promote}", spec.netns()));
    let restarted = host.restarted().ensure_port(&spec).await.unwrap();
    assert_eq!(as_it_is(restarted), port);
    assert_eq!(
        addresses(&inside(&spec)),
        all(&["7.7.7.4/24", "fd07::2/64"])
    );
}

#[tokio::test]
async fn an_interface_whose_name_another_one_has_by_now_keeps_its_new_one() {
    let host = Host::new();
    let spec = host.spec("blue");
    let port = host.ensure(&spec).await;
    let netns = spec.netns();
    ip(&format!("-n {netns} link set eth0 name other"));
    ip(&format!("-n {netns} link add eth0 type bridge"));
    assert_eq!(host.ensure(&spec).await, port);
    let other = link(Some(netns), "other");
    assert_eq!(other["link_index"], port.host_ifindex);
    assert!(is_up(&other), "{other}");
    assert_eq!(addresses(&other), ["7.7.7.2/24", "fd07::2/64"]);
}

#[tokio::test]
async fn bytes_that_are_no_text_on_a_link_keep_nothing_from_its_turn() {
    let host = Host::new();
    let spec = host.spec("blue");
    let port = host.ensure(&spec).await;
    let netns = spec.netns().as_str();
    for (words, bytes) in [
        (&["link", "set", "eth0", "alias"][..], b"\xff"),
        (
            &["link", "property", "add", "dev", "eth0", "altname"],
            b"\xfe",
        ),
        (&["link", "set", "eth0", "name"], b"\xfd"),
    ] {
        let mut ip = Command::new("ip");
        let ip = ip
            .args(["-n", netns])
            .args(words)
            .arg(OsStr::from_bytes(bytes));
        assert!(ip.status().unwrap().success(), "{words:?}");
        let ensured = timeout(WAIT_TIMEOUT, host.platform.ensure_port(&spec)).await;
        assert_eq!(as_it_is(ensured.unwrap().unwrap()), port, "{words:?}");
    }
    // On the host's side too: what somebody else has there is listed and left out.
    ip("link add other type bridge");
    let set = Command::new("ip")
        .args(["link", "set", "other", "alias"])
        .arg(OsStr::from_bytes(b"\xff"))
        .status();
    assert!(set.unwrap().success());
    let ports = timeout(WAIT_TIMEOUT, host.platform.ports()).await;
    assert_eq!(ports.unwrap().unwrap(), [listed(port)]);
    let removed = timeout(WAIT_TIMEOUT, host.platform.remove_port(&spec.endpoint)).await;
    removed.unwrap().unwrap();
    assert!(!host.path("blue").exists());
}

#[tokio::test]
async fn a_link_with_a_thousand_names_is_read() {
    let host = Host::new();
    let spec = host.spec("blue");
    let port = host.ensure(&spec).await;
    // Together longer than any part of a listing may be.
    for number in 0..20 {
        let names = (0..20).map(|index| format!("altname {number}x{index}-{}", "n".repeat(100)));
        let names = names.collect::<Vec<_>>().join(" ");
        ip(&format!(
            "-n {} link property add dev eth0 {names}",
            spec.netns()
        ));
    }
    ip(&format!("-n {} link set eth0 down", spec.netns()));
    assert_eq!(host.ensure(&spec).await, port);
    host.platform.remove_port(&spec.endpoint).await.unwrap();
    assert_eq!(links(None).len(), 1);
}

#[tokio::test]
async fn what_somebody_changed_outside_is_put_right_without_a_new_link() {
    let host = Host::new();
    let spec = host.spec("blue");
    let port = host.ensure(&spec).await;
    let name = &port.host_ifname;
    for change in ["mtu 900", "down", "arp on", "name renamed0"] {
        ip(&format!("link set {name} {change}"));
        assert_eq!(host.ensure(&spec).await, port, "{change}");
        assert_as_specified(&spec, &port);
    }
}

#[tokio::test]
async fn an_inside_that_was_deleted_or_moved_away_is_made_anew() {
    let host = Host::new();
    let spec = host.spec("blue");
    host.ensure(&spec).await;
    ip(&format!("-n {} link del eth0", spec.netns()));
    assert_as_specified(&spec, &host.ensure(&spec).await);

    let elsewhere = host.netns("elsewhere");
    ip(&format!("netns add {elsewhere}"));
    ip(&format!(
        "-n {} link set eth0 netns {elsewhere}",
        spec.netns()
    ));
    assert_as_specified(&spec, &host.ensure(&spec).await);
    assert_eq!(links(Some(&elsewhere)).len(), 1);
}

#[tokio::test]
async fn a_new_spec_changes_the_link_that_is_there() {
    let host = Host::new();
    let mut spec = host.spec("blue");
    let port = host.ensure(&spec).await;
    spec.mac = mac("02:42:07:07:07:08");
    spec.mtu = 1400;
    spec.attachment = Attachment::veth(spec.netns().clone(), "net1".parse().unwrap());
    spec.addresses = vec!["7.7.7.8/16".parse().unwrap(), "7.7.7.2/16".parse().unwrap()];
    assert_eq!(host.ensure(&spec).await, port);
    assert_as_specified(&spec, &port);
}

#[tokio::test]
async fn an_endpoint_that_moves_to_another_namespace_takes_the_previous_with_it() {
    let host = Host::new();
    let mut spec = host.spec("blue");
    host.ensure(&spec).await;
    spec.attachment = Attachment::veth(host.netns("moved"), spec.ifname().clone());
    assert_as_specified(&spec, &host.ensure(&spec).await);
    assert!(!host.path("blue").exists());
}

#[tokio::test]
async fn link_local_addresses_stay() {
    let host = Host::new();
    let spec = host.spec("blue");
    host.ensure(&spec).await;
    ip(&format!(
        "-n {} address add 169.254.7.7/16 dev eth0",
        spec.netns()
    ));
    ip(&format!(
        "-n {} address add fe80::7/64 dev eth0",
        spec.netns()
    ));
    host.ensure(&spec).await;
    let text = inside(&spec).to_string();
    assert!(
        text.contains("169.254.7.7") && text.contains("fe80::7"),
        "{text}"
    );
}
