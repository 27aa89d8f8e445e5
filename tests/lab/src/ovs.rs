//! Open vSwitch on a host of the lab: its datapath in user space, which needs no module of the kernel's.
//!
//! ```text
//!   endpoint's namespace: eth0
//!            | p0
//!   +--------+---------+      +---------------------------+
//!   | br-int, vx0      |~~~~~~| br-phy: the host's address|
//!   +------------------+      +-------------+-------------+
//!                                        u0 |
//! ```
//!
//! What goes into `vx0` is routed to `br-phy` by the switch itself, which asks for the peer's MAC there.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use crate::{
    agent::Run,
    lab::{Host, Lab},
    netns::Netns,
    wait::until,
};

/// The switch's two processes. They end when it goes, or when the thread that started it does.
#[derive(Debug)]
pub struct OpenVswitch {
    netns: Netns,
    dir: PathBuf,
    processes: Vec<Child>,
}

impl OpenVswitch {
    /// Starts one on `host` that has `u0`, and the host's address. All that it writes is in the lab's folder.
    ///
    /// # Panics
    ///
    /// It is not there: `cargo xtask test` brings it.
    pub fn start(lab: &Lab, host: &Host) -> Self {
        let dir = lab.dir().join("ovs");
        std::fs::create_dir(&dir).unwrap();
        let mut switch = Self {
            netns: host.netns.clone(),
            dir,
            processes: Vec::new(),
        };
        switch.start_database();
        switch.start_switch();
        switch.take_underlay(host);
        switch
    }

    fn start_database(&mut self) {
        let (database, socket) = (self.file("conf.db"), self.file("db.sock"));
        let run = Run::of(Command::new("ovsdb-tool").args(["create", &database, &schema()]));
        assert_eq!(run.code, 0, "{run:?}");
        let remote = format!("--remote=punix:{socket}");
        self.spawn("ovsdb-server", &[&database, &remote]);
        until("ovsdb-server answers", || {
            self.ask("--no-wait init").code == 0
        });
    }

    fn start_switch(&mut self) {
        let remote = format!("unix:{}", self.file("db.sock"));
        self.spawn("ovs-vswitchd", &[&remote]);
        self.vsctl("add-br br-int -- set bridge br-int datapath_type=netdev");
    }

    /// Has the host's address on a bridge with its interface, as tunnels of this datapath need it.
    fn take_underlay(&self, host: &Host) {
        let (netns, ip) = (&self.netns, host.ip);
        self.vsctl("add-br br-phy -- set bridge br-phy datapath_type=netdev -- add-port br-phy u0");
        netns.ip("address flush dev u0");
        netns.ip(&format!("address add {ip}/24 dev br-phy"));
        netns.ip("link set br-phy up");
        // The host's own stack has every packet too, and would refuse what is for the tunnel.
        netns.run("nft", "add table netdev switch");
        netns.run(
            "nft",
            "add chain netdev switch u0 { type filter hook ingress device u0 priority 0 ; policy drop ; }",
        );
    }

    /// A tunnel to `peer`, and an endpoint in `netns` with the MAC `mac`: `eth0`, without an address yet.
    pub fn connect(&self, netns: &Netns, mac: &str, vni: u32, peer: &Host) {
        self.netns.ip(&format!(
            "link add p0 mtu 1450 type veth peer name eth0 netns {}",
            netns.name()
        ));
        self.netns.ip("link set p0 addrgenmode none up");
        netns.ip(&format!("link set eth0 address {mac} mtu 1450 up"));
        // It takes frames as they are: a checksum that was left to the hardware stays missing.
        netns.run("ethtool", "--offload eth0 tx off");
        self.vsctl(&format!(
            "add-port br-int p0 -- add-port br-int vx0 -- set interface vx0 type=vxlan \
             options:key={vni} options:remote_ip={} options:dst_port=4789",
            peer.ip
        ));
    }

    /// What `ovs-appctl` says to these words.
    #[track_caller]
    pub fn appctl(&self, words: &str) -> String {
        let mut appctl = self.command("ovs-appctl");
        appctl.arg(format!("--target={}", self.file("ovs-vswitchd.ctl")));
        let run = Run::of(appctl.args(words.split_whitespace()));
        assert_eq!(run.code, 0, "{words}: {run:?}");
        run.stdout
    }

    /// `ovs-vsctl`, which returns when the switch has done it.
    #[track_caller]
    fn vsctl(&self, words: &str) {
        let run = self.ask(words);
        assert_eq!(run.code, 0, "{words}: {run:?}\n{}", self.log());
    }

    fn ask(&self, words: &str) -> Run {
        let mut vsctl = self.command("ovs-vsctl");
        vsctl.args([
            &format!("--db=unix:{}", self.file("db.sock")),
            "--timeout=30",
        ]);
        Run::of(vsctl.args(words.split_whitespace()))
    }

    fn spawn(&mut self, program: &str, words: &[&str]) {
        let log = File::create(self.file(&format!("{program}.log"))).unwrap();
        let control = format!("--unixctl={}", self.file(&format!("{program}.ctl")));
        // A test that is killed takes it with it.
        let mut command = self.command("setpriv");
        command
            .args(["--pdeathsig", "KILL", program])
            .args(words)
            .arg(control)
            .stdout(Stdio::null())
            .stderr(log);
        self.processes.push(command.spawn().unwrap());
    }

    /// A program of it in the host's namespace, which looks for nothing in the machine's own folders.
    fn command(&self, program: &str) -> Command {
        let mut command = self.netns.command(program);
        for variable in ["OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR"] {
            command.env(variable, &self.dir);
        }
        command
    }

    fn file(&self, name: &str) -> String {
        self.dir.join(name).to_str().unwrap().to_owned()
    }

    /// What the switch has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.file("ovs-vswitchd.log")).unwrap_or_default()
    }
}

/// The database's schema, which lies beside the programs.
fn schema() -> String {
    let path = std::env::var_os("PATH").unwrap();
    std::env::split_paths(&path)
        .flat_map(|folder| {
            ["..", "../.."].map(|up| folder.join(up).join("share/openvswitch/vswitch.ovsschema"))
        })
        .find(|file| Path::exists(file))
        .expect("Open vSwitch is there: `cargo xtask test` brings it")
        .to_str()
        .unwrap()
        .to_owned()
}

impl Drop for OpenVswitch {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of Open vSwitch\n{}---", self.log());
        }
        // The switch before its database.
        for process in self.processes.iter_mut().rev() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}
