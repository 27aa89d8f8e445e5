//! The platform against the kernel. Each test is its own host: a network namespace without a name
//! that ends with the test's thread, an instance of its own and namespaces named after it.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "what fails here fails the test, with its line"
)]

mod crashes;
mod devices;
mod forged;
mod ports;
mod refusals;
mod removal;

use std::{
    cell::RefCell,
    collections::BTreeSet,
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
use overlay_lab::netns::take_carrier;
use overlay_user::{
    model::{Attachment, IfName, Mac, Name},
    platform::{Linux, Platform, PlatformError, Port, PortSpec, TunnelDevices},
};
use serde_json::Value;

pub(crate) const MTU: u32 = 1450;
pub(crate) const UDP_PORT: u16 = 4789;

/// Set to an instance's name in the processes that a test kills.
pub(crate) const CHURN: &str = "OVERLAY_TEST_CHURN";

pub(crate) struct Host {
    instance: Name,
    platform: Linux,
    netns: RefCell<Vec<String>>,
}

impl Host {
    pub(crate) fn new() -> Self {
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

    pub(crate) fn of(instance: &str) -> Self {
        let instance: Name = instance.parse().unwrap();
        Self {
            platform: Linux::new(instance.clone(), "u0".parse().unwrap(), None).unwrap(),
            instance,
            netns: RefCell::default(),
        }
    }

    /// What the kernel has after an agent was killed and started again.
    pub(crate) fn restarted(&self) -> Linux {
        Linux::new(self.instance.clone(), "u0".parse().unwrap(), None).unwrap()
    }

    /// The full name of namespace `name`, which is removed with this host.
    pub(crate) fn netns(&self, name: &str) -> Name {
        let name = format!("{}-{name}", self.instance);
        self.netns.borrow_mut().push(name.clone());
        name.parse().unwrap()
    }

    pub(crate) fn path(&self, netns: &str) -> PathBuf {
        Path::new("/run/netns").join(self.netns(netns).as_str())
    }

    pub(crate) fn records(&self) -> PathBuf {
        Path::new("/run/overlay").join(self.instance.as_str())
    }

    /// An endpoint with the namespace of its name.
    pub(crate) fn spec(&self, name: &str) -> PortSpec {
        PortSpec {
            endpoint: name.parse().unwrap(),
            attachment: Attachment::veth(self.netns(name), "eth0".parse().unwrap()),
            mac: mac("02:42:07:07:07:02"),
            addresses: vec!["7.7.7.2/24".parse().unwrap(), "fd07::2/64".parse().unwrap()],
            mtu: MTU,
            gateways: Vec::new(),
            local_ports: None,
        }
    }

    /// Makes the port, up at both ends; repairs that this took are left out.
    pub(crate) async fn ensure(&self, spec: &PortSpec) -> Port {
        ensure(&self.platform, spec).await
    }

    pub(crate) async fn refusal(&self, spec: &PortSpec) -> String {
        refusal(self.platform.ensure_port(spec).await)
    }

    pub(crate) async fn endpoints(&self) -> Vec<String> {
        let ports = self.platform.ports().await.unwrap();
        let mut names: Vec<_> = ports.iter().map(|port| port.endpoint.to_string()).collect();
        names.sort();
        names
    }
}

impl Host {
    /// Makes the devices that serve the tunnels, and opens the port.
    pub(crate) async fn open_devices(&self, port: u16) -> Result<TunnelDevices, PlatformError> {
        let external = self.platform.ensure_vxlan(port).await?;
        self.platform.open_vxlan(port, external).await
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

/// See [`Host::ensure`].
pub(crate) async fn ensure(platform: &Linux, spec: &PortSpec) -> Port {
    let made = platform.ensure_port(spec).await.unwrap();
    if made.is_open {
        return as_it_is(made);
    }
    let host_side = BTreeSet::from([made.host_ifindex]);
    platform.set_ports_up(&host_side, true).await.unwrap();
    as_it_is(platform.refresh_port(spec).await.unwrap().unwrap())
}

/// The port as a listing has it.
pub(crate) fn listed(port: Port) -> Port {
    Port {
        is_open: false,
        ..port
    }
}

/// The port without what was put right of it.
pub(crate) fn as_it_is(port: Port) -> Port {
    Port {
        mended: Vec::new(),
        ..port
    }
}

pub(crate) fn mac(text: &str) -> Mac {
    text.parse().unwrap()
}

pub(crate) fn refusal<T: std::fmt::Debug>(result: Result<T, PlatformError>) -> String {
    match result.unwrap_err() {
        PlatformError::Refused(text) => {
            assert!(!text.contains('\n'), "more than one line: {text}");
            text
        }
        failed @ PlatformError::Kernel { .. } => panic!("not refused: {failed}"),
    }
}

/// Runs `ip` in the thread's namespace; its output.
pub(crate) fn ip(arguments: &str) -> String {
    run("ip", arguments)
}

/// Runs `tc` in the thread's namespace.
pub(crate) fn tc(arguments: &str) {
    run("tc", arguments);
}

pub(crate) fn run(program: &str, arguments: &str) -> String {
    let output = Command::new(program)
        .args(arguments.split_whitespace())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments}: {text}");
    String::from_utf8(output.stdout).unwrap()
}

/// Where a port that is in a namespace is.
pub(crate) trait Place {
    fn netns(&self) -> &Name;
    fn ifname(&self) -> &IfName;
}

impl Place for PortSpec {
    fn netns(&self) -> &Name {
        self.attachment.netns().unwrap()
    }

    fn ifname(&self) -> &IfName {
        self.attachment.ifname().unwrap()
    }
}

pub(crate) fn links(netns: Option<&Name>) -> Vec<Value> {
    let place = netns.map_or_else(String::new, |netns| format!("-n {netns}"));
    let all = serde_json::from_str(&ip(&format!("{place} -j -d address"))).unwrap();
    let Value::Array(links) = all else {
        panic!("not a list: {all}")
    };
    links
}

pub(crate) fn link(netns: Option<&Name>, name: &str) -> Value {
    let all = links(netns);
    let found = all.iter().find(|link| link["ifname"] == name);
    found
        .unwrap_or_else(|| panic!("no {name}: {all:?}"))
        .clone()
}

pub(crate) fn inside(spec: &PortSpec) -> Value {
    link(Some(spec.netns()), spec.ifname().as_ref())
}

pub(crate) fn is_up(link: &Value) -> bool {
    link["flags"].as_array().unwrap().contains(&"UP".into())
}

/// The links without what settles by itself after they were made.
pub(crate) fn configured(netns: Option<&Name>) -> Vec<Value> {
    let mut all = links(netns);
    for link in &mut all {
        take_carrier(link);
        let infos = link["addr_info"].as_array_mut().unwrap();
        infos.retain(|info| info["scope"] == "global");
    }
    all
}

/// The addresses that are not the kernel's own doing.
pub(crate) fn addresses(link: &Value) -> Vec<String> {
    let infos = link["addr_info"].as_array().unwrap();
    let mut texts: Vec<_> = infos
        .iter()
        .filter(|info| info["scope"] == "global")
        .map(|info| format!("{}/{}", info["local"].as_str().unwrap(), info["prefixlen"]))
        .collect();
    texts.sort();
    texts
}

pub(crate) fn assert_as_specified(spec: &PortSpec, port: &Port) {
    let inside = inside(spec);
    assert_eq!(inside["address"], spec.mac.to_string());
    assert_eq!(inside["mtu"], spec.mtu);
    assert!(is_up(&inside), "{inside}");
    let mut expected: Vec<_> = spec.addresses.iter().map(ToString::to_string).collect();
    expected.sort();
    assert_eq!(addresses(&inside), expected);
    let outside = link(None, &port.host_ifname);
    assert_eq!(outside["ifindex"], port.host_ifindex);
    // Longer than the inside's, for who raises that one.
    assert_eq!(outside["mtu"], spec.mtu.max(3500));
    assert_eq!(outside["addr_info"], Value::Array(Vec::new()));
    assert_eq!(inside["link_index"], port.host_ifindex);
}
