//! Names that are taken and wishes that can't be met: one line, and nothing changes.

use std::os::unix::fs::symlink;

use super::*;

#[tokio::test]
async fn an_interface_name_that_is_taken_inside_is_refused_and_nothing_changes() {
    let host = Host::new();
    let spec = host.spec("blue");
    ip(&format!("netns add {}", spec.netns()));
    ip(&format!("-n {} link add eth0 type bridge", spec.netns()));
    let before = (links(None), links(Some(spec.netns())));
    let text = host.refusal(&spec).await;
    assert!(
        text.contains("eth0") && text.contains(spec.netns().as_str()),
        "{text}"
    );
    assert_eq!((links(None), links(Some(spec.netns()))), before);

    let mut moved = host.spec("green");
    let port = host.ensure(&moved).await;
    moved.attachment = Attachment::veth(spec.netns().clone(), moved.ifname().clone());
    host.refusal(&moved).await;
    moved.attachment = Attachment::veth(host.netns("green"), moved.ifname().clone());
    assert_eq!(host.ensure(&moved).await, port, "the previous port stood");
}

#[tokio::test]
async fn a_host_side_name_that_is_taken_is_refused_and_nothing_changes() {
    for kind in ["bridge", "veth peer name p0"] {
        let host = Host::new();
        let spec = host.spec("blue");
        let name = host.ensure(&spec).await.host_ifname;
        host.platform.remove_port(&spec.endpoint).await.unwrap();
        ip(&format!("link add {name} type {kind}"));
        let before = links(None);
        assert!(host.refusal(&spec).await.contains(&name));
        host.platform.remove_port(&spec.endpoint).await.unwrap();
        assert_eq!(links(None), before);
        assert!(!host.path("blue").exists());
    }
}

#[tokio::test]
async fn a_file_that_is_no_namespace_is_refused_and_stays() {
    let host = Host::new();
    let spec = host.spec("blue");
    for content in ["", "text"] {
        fs::create_dir_all("/run/netns").unwrap();
        fs::write(host.path("blue"), content).unwrap();
        let text = host.refusal(&spec).await;
        assert!(text.contains("no network namespace"), "{text}");
        host.platform.remove_port(&spec.endpoint).await.unwrap();
        host.platform.remove_orphan_namespaces().await.unwrap();
        assert_eq!(fs::read_to_string(host.path("blue")).unwrap(), content);
    }
}

#[tokio::test]
async fn a_namespace_of_another_type_is_refused() {
    let host = Host::new();
    let spec = host.spec("blue");
    fs::create_dir_all("/run/netns").unwrap();
    fs::write(host.path("blue"), "").unwrap();
    let mount = Command::new("mount")
        .args(["--bind", "/proc/self/ns/uts"])
        .arg(host.path("blue"))
        .status();
    assert!(mount.unwrap().success());
    let text = host.refusal(&spec).await;
    assert!(text.contains("no network namespace"), "{text}");
}

#[tokio::test]
async fn an_mtu_that_no_link_can_have_is_refused_and_nothing_changes() {
    let host = Host::new();
    let mut spec = host.spec("blue");
    for mtu in [0, 1279, 65_536, u32::MAX] {
        spec.mtu = mtu;
        assert!(host.refusal(&spec).await.contains(&mtu.to_string()));
    }
    assert!(!host.path("blue").exists());
    assert_eq!(links(None).len(), 1);
}

#[tokio::test]
async fn an_address_that_the_kernel_does_not_take_is_told_when_the_endpoint_is_to_have_it() {
    let host = Host::new();
    let mut spec = host.spec("blue");
    spec.addresses.push("ff05::5/64".parse().unwrap());
    let port = host.platform.ensure_port(&spec).await.unwrap();
    let host_side = BTreeSet::from([port.host_ifindex]);
    host.platform.set_ports_up(&host_side, true).await.unwrap();
    let told = host
        .platform
        .refresh_port(&spec)
        .await
        .unwrap_err()
        .to_string();
    assert!(told.contains("addresses of endpoint blue"), "{told}");
}

#[tokio::test]
async fn a_namespace_where_ipv6_is_off_gets_it_on_the_endpoints_interface_alone() {
    let host = Host::new();
    let spec = host.spec("blue");
    ip(&format!("netns add {}", spec.netns()));
    let within = |words: &str| ip(&format!("netns exec {} sysctl {words}", spec.netns()));
    for which in ["all", "default"] {
        within(&format!("-qw net.ipv6.conf.{which}.disable_ipv6=1"));
    }
    host.ensure(&spec).await;
    let state = |which: &str| within(&format!("-n net.ipv6.conf.{which}.disable_ipv6"));
    let [all, default, lo] = ["all", "default", "lo"].map(state);
    assert_eq!([all.trim(), default.trim(), lo.trim()], ["1"; 3]);
    assert_eq!(state(spec.ifname().as_str()).trim(), "0");
}

#[tokio::test]
async fn a_namespace_that_somebody_else_made_is_waited_for_when_it_is_gone() {
    let host = Host::new();
    let spec = host.spec("blue");
    let netns = spec.netns();
    ip(&format!("netns add {netns}"));
    host.ensure(&spec).await;
    ip(&format!("netns del {netns}"));
    let text = host.refusal(&spec).await;
    assert!(
        text.contains(netns.as_str()) && text.contains("gone"),
        "{text}"
    );
    // Neither does the next agent make it, nor one that found nothing but a link to nowhere.
    symlink("/proc/0/ns/net", host.path("blue")).unwrap();
    refusal(host.restarted().ensure_port(&spec).await);
    fs::remove_file(host.path("blue")).unwrap();
    host.restarted().remove_orphan_namespaces().await.unwrap();
    refusal(host.restarted().ensure_port(&spec).await);
    assert!(!host.path("blue").exists());

    ip(&format!("netns add {netns}"));
    assert_as_specified(&spec, &host.ensure(&spec).await);
    host.platform.remove_port(&spec.endpoint).await.unwrap();
    assert!(host.path("blue").exists(), "it is not ours");
    assert!(!host.records().exists());
}

#[tokio::test]
async fn a_name_that_is_a_link_to_nothing_is_refused_and_stays() {
    let host = Host::new();
    let spec = host.spec("blue");
    fs::create_dir_all("/run/netns").unwrap();
    symlink("/proc/0/ns/net", host.path("blue")).unwrap();
    let text = host.refusal(&spec).await;
    assert!(text.contains("no network namespace"), "{text}");
    assert!(fs::symlink_metadata(host.path("blue")).is_ok());
    fs::remove_file(host.path("blue")).unwrap();
}
