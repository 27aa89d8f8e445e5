//! The platform against the kernel. Each test is its own host: a network namespace without a name
//! that ends with the test's thread, an instance of its own and namespaces named after it.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "what fails here fails the test, with its line"
)]

use std::{
    cell::RefCell,
    env, fs,
    net::UdpSocket,
    path::{Path, PathBuf},
    process::{self, Command},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::Duration,
};

use nix::{
    sched::{CloneFlags, unshare},
    unistd::Uid,
};
use overlay_user::{
    model::{Mac, Name},
    platform::{Linux, Platform, PlatformError, Port, PortSpec},
};
use serde_json::Value;

const MTU: u32 = 1450;
const UDP_PORT: u16 = 4789;

/// Set to an instance's name in the processes that a test kills.
const CHURN: &str = "OVERLAY_TEST_CHURN";

struct Host {
    instance: Name,
    platform: Linux,
    netns: RefCell<Vec<String>>,
}

impl Host {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        assert!(
            Uid::effective().is_root(),
            "these tests make network namespaces, which only root may: run `cargo xtask test`"
        );
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let instance = format!("pc-{}-{count}", process::id());
        Self::of(&instance)
    }

    fn of(instance: &str) -> Self {
        let instance: Name = instance.parse().unwrap();
        Self {
            platform: Linux::new(instance.clone(), "u0".parse().unwrap(), None).unwrap(),
            instance,
            netns: RefCell::default(),
        }
    }

    /// What the kernel has after an agent was killed and started again.
    fn restarted(&self) -> Linux {
        Linux::new(self.instance.clone(), "u0".parse().unwrap(), None).unwrap()
    }

    /// The full name of namespace `name`, which is removed with this host.
    fn netns(&self, name: &str) -> Name {
        let name = format!("{}-{name}", self.instance);
        self.netns.borrow_mut().push(name.clone());
        name.parse().unwrap()
    }

    fn path(&self, netns: &str) -> PathBuf {
        Path::new("/run/netns").join(self.netns(netns).as_str())
    }

    fn records(&self) -> PathBuf {
        Path::new("/run/overlay").join(self.instance.as_str())
    }

    /// An endpoint with the namespace of its name.
    fn spec(&self, name: &str) -> PortSpec {
        PortSpec {
            endpoint: name.parse().unwrap(),
            netns: self.netns(name),
            ifname: "eth0".parse().unwrap(),
            mac: mac("02:42:07:07:07:02"),
            addresses: vec!["7.7.7.2/24".parse().unwrap(), "fd07::2/64".parse().unwrap()],
            mtu: MTU,
        }
    }

    async fn ensure(&self, spec: &PortSpec) -> Port {
        self.platform.ensure_port(spec).await.unwrap()
    }

    async fn refusal(&self, spec: &PortSpec) -> String {
        refusal(self.platform.ensure_port(spec).await)
    }

    async fn endpoints(&self) -> Vec<String> {
        let ports = self.platform.ports().await.unwrap();
        let mut names: Vec<_> = ports.iter().map(|port| port.endpoint.to_string()).collect();
        names.sort();
        names
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        for netns in self.netns.borrow().iter() {
            let path = Path::new("/run/netns").join(netns);
            if path.exists() {
                let _ = Command::new("umount").arg("-q").arg(&path).status();
                let _ = fs::remove_file(path);
            }
        }
        let _ = fs::remove_dir_all(self.records());
    }
}

fn mac(text: &str) -> Mac {
    text.parse().unwrap()
}

fn refusal<T: std::fmt::Debug>(result: Result<T, PlatformError>) -> String {
    match result.unwrap_err() {
        PlatformError::Refused(text) => {
            assert!(!text.contains('\n'), "more than one line: {text}");
            text
        }
        failed @ PlatformError::Kernel { .. } => panic!("not refused: {failed}"),
    }
}

/// Runs `ip` in the thread's namespace; its output.
fn ip(arguments: &str) -> String {
    run("ip", arguments)
}

/// Runs `tc` in the thread's namespace.
fn tc(arguments: &str) {
    run("tc", arguments);
}

fn run(program: &str, arguments: &str) -> String {
    let output = Command::new(program)
        .args(arguments.split_whitespace())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments}: {text}");
    String::from_utf8(output.stdout).unwrap()
}

fn links(netns: Option<&Name>) -> Vec<Value> {
    let place = netns.map_or_else(String::new, |netns| format!("-n {netns}"));
    let all = serde_json::from_str(&ip(&format!("{place} -j -d address"))).unwrap();
    let Value::Array(links) = all else {
        panic!("not a list: {all}")
    };
    links
}

fn link(netns: Option<&Name>, name: &str) -> Value {
    let all = links(netns);
    let found = all.iter().find(|link| link["ifname"] == name);
    found
        .unwrap_or_else(|| panic!("no {name}: {all:?}"))
        .clone()
}

fn inside(spec: &PortSpec) -> Value {
    link(Some(&spec.netns), spec.ifname.as_ref())
}

fn is_up(link: &Value) -> bool {
    link["flags"].as_array().unwrap().contains(&"UP".into())
}

/// The links without what settles by itself after they were made.
fn configured(netns: Option<&Name>) -> Vec<Value> {
    let mut all = links(netns);
    for link in &mut all {
        link["operstate"].take();
        let flags = link["flags"].as_array_mut().unwrap();
        flags.retain(|flag| flag != "NO-CARRIER" && flag != "LOWER_UP");
        let infos = link["addr_info"].as_array_mut().unwrap();
        infos.retain(|info| info["scope"] == "global");
    }
    all
}

/// The addresses that are not the kernel's own doing.
fn addresses(link: &Value) -> Vec<String> {
    let infos = link["addr_info"].as_array().unwrap();
    let mut texts: Vec<_> = infos
        .iter()
        .filter(|info| info["scope"] == "global")
        .map(|info| format!("{}/{}", info["local"].as_str().unwrap(), info["prefixlen"]))
        .collect();
    texts.sort();
    texts
}

fn assert_as_specified(spec: &PortSpec, port: &Port) {
    let inside = inside(spec);
    assert_eq!(inside["address"], spec.mac.to_string());
    assert_eq!(inside["mtu"], spec.mtu);
    assert!(is_up(&inside), "{inside}");
    let mut expected: Vec<_> = spec.addresses.iter().map(ToString::to_string).collect();
    expected.sort();
    assert_eq!(addresses(&inside), expected);
    let outside = link(None, &port.host_ifname);
    assert_eq!(outside["ifindex"], port.host_ifindex);
    assert_eq!(outside["mtu"], spec.mtu);
    assert!(is_up(&outside), "{outside}");
    assert_eq!(outside["addr_info"], Value::Array(Vec::new()));
    assert_eq!(inside["link_index"], port.host_ifindex);
}

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
    ip(&format!("netns add {}", spec.netns));
    let port = host.ensure(&spec).await;
    assert_as_specified(&spec, &port);
    assert!(!is_up(&link(Some(&spec.netns), "lo")), "lo is its owner's");
    host.platform.remove_port(&spec.endpoint).await.unwrap();
    host.platform.remove_orphan_namespaces().await.unwrap();
    assert!(host.path("blue").exists());
    assert_eq!(links(Some(&spec.netns)).len(), 1);
}

#[tokio::test]
async fn a_namespace_that_somebody_made_again_under_our_name_stays() {
    let host = Host::new();
    let spec = host.spec("blue");
    host.ensure(&spec).await;
    ip(&format!("netns del {}", spec.netns));
    // The kernel gives the new one the inode number of the old one.
    ip(&format!("netns add {}", spec.netns));
    host.platform.remove_port(&spec.endpoint).await.unwrap();
    host.platform.remove_orphan_namespaces().await.unwrap();
    assert!(host.path("blue").exists());
}

#[tokio::test]
async fn a_namespace_goes_with_the_last_link_in_it() {
    let host = Host::new();
    let blue = host.spec("blue");
    let mut green = host.spec("green");
    green.netns = blue.netns.clone();
    green.ifname = "eth1".parse().unwrap();
    host.ensure(&blue).await;
    host.ensure(&green).await;
    ip(&format!("-n {} link add br0 type bridge", blue.netns));
    for spec in [&blue, &green] {
        host.platform.remove_port(&spec.endpoint).await.unwrap();
        assert!(host.path("blue").exists());
    }
    ip(&format!("-n {} link del br0", blue.netns));
    host.platform.remove_orphan_namespaces().await.unwrap();
    assert!(!host.path("blue").exists());
}

#[tokio::test]
async fn ports_that_are_made_at_the_same_time_share_a_namespace() {
    let host = Host::new();
    let netns = host.netns("shared");
    let specs: Vec<_> = (0..8)
        .map(|number| PortSpec {
            netns: netns.clone(),
            ifname: format!("eth{number}").parse().unwrap(),
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

#[tokio::test]
async fn an_interface_name_that_is_taken_inside_is_refused_and_nothing_changes() {
    let host = Host::new();
    let spec = host.spec("blue");
    ip(&format!("netns add {}", spec.netns));
    ip(&format!("-n {} link add eth0 type bridge", spec.netns));
    let before = (links(None), links(Some(&spec.netns)));
    let text = host.refusal(&spec).await;
    assert!(
        text.contains("eth0") && text.contains(spec.netns.as_str()),
        "{text}"
    );
    assert_eq!((links(None), links(Some(&spec.netns))), before);

    let mut moved = host.spec("green");
    let port = host.ensure(&moved).await;
    moved.netns = spec.netns.clone();
    host.refusal(&moved).await;
    moved.netns = host.netns("green");
    assert_eq!(host.ensure(&moved).await, port, "the former port stood");
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
async fn a_port_that_fails_half_way_leaves_nothing() {
    let host = Host::new();
    let spec = host.spec("blue");
    ip(&format!("netns add {}", spec.netns));
    let off = "sysctl -qw net.ipv6.conf.default.disable_ipv6=1";
    ip(&format!("netns exec {} {off}", spec.netns));
    let text = host.refusal(&spec).await;
    assert!(text.contains("IPv6 is off"), "{text}");
    assert_eq!(links(None).len(), 1);
    assert_eq!(links(Some(&spec.netns)).len(), 1);
}

#[tokio::test]
async fn a_crash_before_the_mark_leaves_a_port_that_is_found_and_finished() {
    let host = Host::new();
    let spec = host.spec("blue");
    let port = host.ensure(&spec).await;
    let unmark = ["link", "set", &port.host_ifname, "alias", ""];
    let unmarked = || assert!(Command::new("ip").args(unmark).status().unwrap().success());
    unmarked();
    assert_eq!(
        host.restarted().ports().await.unwrap(),
        std::slice::from_ref(&port)
    );
    assert_eq!(host.restarted().ensure_port(&spec).await.unwrap(), port);
    assert_as_specified(&spec, &port);

    unmarked();
    host.restarted().remove_port(&spec.endpoint).await.unwrap();
    assert_eq!(links(None).len(), 1);
    assert!(!host.path("blue").exists());
}

#[tokio::test]
async fn a_crash_between_veth_and_namespace_leaves_an_orphan_that_is_collected() {
    let host = Host::new();
    let spec = host.spec("blue");
    let port = host.ensure(&spec).await;
    ip(&format!("link del {}", port.host_ifname));
    assert!(host.endpoints().await.is_empty());
    host.restarted().remove_orphan_namespaces().await.unwrap();
    assert!(!host.path("blue").exists());
}

#[tokio::test]
async fn a_crash_before_the_namespaces_mount_is_finished_or_collected() {
    let host = Host::new();
    let spec = host.spec("blue");
    let half_made = async || {
        host.ensure(&spec).await;
        ip(&format!("netns del {}", spec.netns));
        fs::write(host.path("blue"), "").unwrap();
    };
    half_made().await;
    assert_as_specified(&spec, &host.restarted().ensure_port(&spec).await.unwrap());
    half_made().await;
    host.restarted().remove_orphan_namespaces().await.unwrap();
    assert!(!host.path("blue").exists());
}

/// Makes and removes everything until it is killed.
#[tokio::test]
#[ignore = "a process of another test's"]
async fn churn() {
    let Ok(instance) = env::var(CHURN) else {
        return;
    };
    let host = Host::of(&instance);
    loop {
        let spec = host.spec("blue");
        host.platform.ensure_vxlan(UDP_PORT).await.unwrap();
        host.ensure(&spec).await;
        host.platform.remove_port(&spec.endpoint).await.unwrap();
        host.platform.remove_vxlan().await.unwrap();
    }
}

#[tokio::test]
async fn killed_at_any_point_it_leaves_nothing_that_the_next_start_does_not_collect() {
    let host = Host::new();
    let spec = host.spec("blue");
    for round in 0..30 {
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--exact", "churn", "--include-ignored"])
            .env(CHURN, host.instance.as_str())
            .stdout(process::Stdio::null())
            .spawn()
            .unwrap();
        // The moment is the point: another one in each round.
        thread::sleep(Duration::from_micros(20_000 + 3_700 * round));
        child.kill().unwrap();
        child.wait().unwrap();

        let platform = host.restarted();
        if round % 2 == 0 {
            let port = platform.ensure_port(&spec).await.unwrap();
            assert_as_specified(&spec, &port);
            platform.ensure_vxlan(UDP_PORT).await.unwrap();
        }
        for port in platform.ports().await.unwrap() {
            platform.remove_port(&port.endpoint).await.unwrap();
        }
        platform.remove_orphan_namespaces().await.unwrap();
        platform.remove_vxlan().await.unwrap();
        assert_eq!(links(None).len(), 1, "round {round}");
        assert!(!host.path("blue").exists(), "round {round}");
        assert!(!host.records().exists(), "round {round}");
    }
}

#[tokio::test]
async fn the_vxlan_device_is_external_up_and_marked() {
    let host = Host::new();
    host.platform.ensure_vxlan(UDP_PORT).await.unwrap();
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
    host.platform.ensure_vxlan(UDP_PORT).await.unwrap();
    assert_eq!(links(None), before);
}

#[tokio::test]
async fn the_vxlan_device_follows_its_port_and_goes_for_good() {
    let host = Host::new();
    host.platform.ensure_vxlan(UDP_PORT).await.unwrap();
    host.platform.ensure_vxlan(8472).await.unwrap();
    let ports: Vec<_> = links(None)
        .iter()
        .filter_map(|link| link["linkinfo"]["info_data"]["port"].as_u64())
        .collect();
    assert_eq!(ports, [8472]);
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
        let text = refusal(host.platform.ensure_vxlan(UDP_PORT).await);
        assert!(text.contains("theirs") && text.contains("4789"), "{text}");
        assert_eq!(links(None), before);
        host.platform.ensure_vxlan(8472).await.unwrap();
    }
}

#[tokio::test]
async fn a_port_that_a_program_holds_is_refused_and_nothing_changes() {
    let host = Host::new();
    let _socket = UdpSocket::bind(("0.0.0.0", UDP_PORT)).unwrap();
    let text = refusal(host.platform.ensure_vxlan(UDP_PORT).await);
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
    let text = refusal(host.platform.ensure_vxlan(UDP_PORT).await);
    assert!(text.contains("moved"), "{text}");
    assert_eq!(links(None).len(), 1);
}

#[tokio::test]
async fn the_head_room_bridge_is_down_and_forwards_nothing() {
    let host = Host::new();
    let early = host.ensure(&host.spec("blue")).await;
    host.platform.ensure_vxlan(UDP_PORT).await.unwrap();
    let late = host.ensure(&host.spec("green")).await;
    let all = links(None);
    let kind = |kind: &str| {
        let found = all
            .iter()
            .find(|link| link["linkinfo"]["info_kind"] == kind);
        found
            .unwrap_or_else(|| panic!("no {kind}: {all:?}"))
            .clone()
    };
    let (bridge, vxlan) = (kind("bridge"), kind("vxlan"));
    assert!(!is_up(&bridge), "{bridge}");
    let members = [
        vxlan["ifname"].as_str().unwrap().to_owned(),
        early.host_ifname,
        late.host_ifname,
    ];
    for name in members {
        let member = link(None, &name);
        assert_eq!(member["master"], bridge["ifname"], "{name}");
        assert_eq!(
            member["linkinfo"]["info_slave_data"]["state"], "disabled",
            "{name}"
        );
    }
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
    host.platform.ensure_vxlan(UDP_PORT).await.unwrap();
    let sides = [
        host.ensure(&blue).await.host_ifname,
        host.ensure(&green).await.host_ifname,
    ];
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
    assert!(!ping(&blue.netns, "7.7.7.3", "1"));
    let stats = ip(&format!("-n {} -s -j link show eth0", green.netns));
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
    assert!(ping(&blue.netns, "7.7.7.3", "3"));
    assert!(ping(&green.netns, "7.7.7.2", "3"));
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
