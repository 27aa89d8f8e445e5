//! What goes with a port, and what stays.

use super::*;

#[tokio::test]
async fn removing_takes_the_veth_and_the_namespace_that_was_made_and_can_be_repeated() {
    let host = Host::new();
    let spec = host.spec("blue");
    let before = links(None);
    host.ensure(&spec).await;
    for _ in 0..2 {
        host.platform.remove_port(&spec.endpoint).await.unwrap();
        assert_eq!(links(None), before);
        assert!(!host.path("blue").exists());
    }
    assert!(!host.records().exists());
}

#[tokio::test]
async fn a_namespace_that_was_there_before_stays() {
    let host = Host::new();
    let spec = host.spec("blue");
    ip(&format!("netns add {}", spec.netns()));
    let port = host.ensure(&spec).await;
    assert_as_specified(&spec, &port);
    assert!(!is_up(&link(Some(spec.netns()), "lo")), "lo is its owner's");
    host.platform.remove_port(&spec.endpoint).await.unwrap();
    host.platform.remove_orphan_namespaces().await.unwrap();
    assert!(host.path("blue").exists());
    assert_eq!(links(Some(spec.netns())).len(), 1);
}

#[tokio::test]
async fn a_namespace_that_somebody_made_again_under_our_name_stays() {
    let host = Host::new();
    let spec = host.spec("blue");
    host.ensure(&spec).await;
    ip(&format!("netns del {}", spec.netns()));
    // The kernel gives the new one the inode number of the old one.
    ip(&format!("netns add {}", spec.netns()));
    host.platform.remove_port(&spec.endpoint).await.unwrap();
    host.platform.remove_orphan_namespaces().await.unwrap();
    assert!(host.path("blue").exists());
}

#[tokio::test]
async fn a_namespace_goes_with_the_last_link_in_it() {
    let host = Host::new();
    let blue = host.spec("blue");
    let mut green = host.spec("green");
    green.attachment = Attachment::veth(blue.netns().clone(), "eth1".parse().unwrap());
    host.ensure(&blue).await;
    host.ensure(&green).await;
    ip(&format!("-n {} link add br0 type bridge", blue.netns()));
    for spec in [&blue, &green] {
        host.platform.remove_port(&spec.endpoint).await.unwrap();
        assert!(host.path("blue").exists());
    }
    ip(&format!("-n {} link del br0", blue.netns()));
    host.platform.remove_orphan_namespaces().await.unwrap();
    assert!(!host.path("blue").exists());
}

#[tokio::test]
async fn ports_that_are_made_at_the_same_time_share_a_namespace() {
    let host = Host::new();
    let netns = host.netns("shared");
    let specs: Vec<_> = (0..8)
        .map(|number| PortSpec {
            attachment: Attachment::veth(netns.clone(), format!("eth{number}").parse().unwrap()),
            addresses: Vec::new(),
            ..host.spec(&format!("blue{number}"))
        })
        .collect();
    let ensured = specs.iter().map(|spec| host.platform.ensure_port(spec));
    for port in futures_util::future::join_all(ensured).await {
        port.unwrap();
    }
    assert_eq!(host.endpoints().await.len(), 8);
    assert_eq!(links(Some(&netns)).len(), 9);
}

#[tokio::test]
async fn instances_in_one_namespace_leave_each_others_ports_alone() {
    let host = Host::new();
    let other = Host::of(&format!("{}-other", host.instance));
    let (ours, theirs) = (host.spec("blue"), other.spec("blue"));
    host.ensure(&ours).await;
    other.ensure(&theirs).await;
    assert_eq!(host.endpoints().await, ["blue"]);
    host.platform.remove_port(&ours.endpoint).await.unwrap();
    assert!(host.endpoints().await.is_empty());
    assert_eq!(other.endpoints().await, ["blue"]);
}
