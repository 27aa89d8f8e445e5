//! What a port becomes, and what is put right.

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
    assert_eq!(host.platform.ports().await.unwrap(), [port]);
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
    assert!(is_up(&link(Some(&spec.netns), "lo")));
}

#[tokio::test]
async fn ensuring_again_changes_nothing() {
    let host = Host::new();
    let spec = host.spec("blue");
    let first = host.ensure(&spec).await;
    let before = (configured(None), configured(Some(&spec.netns)));
    assert_eq!(host.ensure(&spec).await, first);
    assert_eq!(host.restarted().ensure_port(&spec).await.unwrap(), first);
    assert_eq!((configured(None), configured(Some(&spec.netns))), before);
}

#[tokio::test]
async fn what_somebody_changed_inside_is_put_right_without_a_new_link() {
    let host = Host::new();
    let spec = host.spec("blue");
    let port = host.ensure(&spec).await;
    let netns = &spec.netns;
    for change in [
        "link set eth0 mtu 900",
        "link set eth0 address 02:00:00:00:00:99",
        "link set eth0 down",
        "address add 9.9.9.9/24 dev eth0",
        "address del 7.7.7.2/24 dev eth0",
        "address flush dev eth0",
        "address replace fd07::3/64 dev eth0",
        "link set eth0 name other",
    ] {
        ip(&format!("-n {netns} {change}"));
        assert_eq!(host.ensure(&spec).await, port, "{change}");
        assert_as_specified(&spec, &port);
    }
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
    ip(&format!("-n {} link del eth0", spec.netns));
    assert_as_specified(&spec, &host.ensure(&spec).await);

    let elsewhere = host.netns("elsewhere");
    ip(&format!("netns add {elsewhere}"));
    ip(&format!(
        "-n {} link set eth0 netns {elsewhere}",
        spec.netns
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
    spec.ifname = "net1".parse().unwrap();
    spec.addresses = vec!["7.7.7.8/16".parse().unwrap(), "7.7.7.2/16".parse().unwrap()];
    assert_eq!(host.ensure(&spec).await, port);
    assert_as_specified(&spec, &port);
}

#[tokio::test]
async fn an_endpoint_that_moves_to_another_namespace_takes_the_former_with_it() {
    let host = Host::new();
    let mut spec = host.spec("blue");
    host.ensure(&spec).await;
    spec.netns = host.netns("moved");
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
        spec.netns
    ));
    ip(&format!(
        "-n {} address add fe80::7/64 dev eth0",
        spec.netns
    ));
    host.ensure(&spec).await;
    let text = inside(&spec).to_string();
    assert!(
        text.contains("169.254.7.7") && text.contains("fe80::7"),
        "{text}"
    );
}
