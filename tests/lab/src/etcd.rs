//! A real etcd in the lab: three members, each in a namespace and on a disk of its own, and the
//! faults that such a cluster knows.
//!
//! ```text
//!   h1 (.101)   h2 (.102)      e1 (.1)   e2 (.2)   e3 (.3)
//!      | m0        | m0           | m0      | m0      | m0
//!   +--+-----------+--------------+---------+---------+--+
//!   | mg: a bridge, and another where it is split        |   10.9.0.0/24
//!   +----------------------------------------------------+
//! ```
//!
//! This network is not the hosts' underlay: what cuts the one leaves the other alone.

use std::{
    fmt::Write as _,
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

use crate::{
    agent::Run,
    lab::{Host, Lab, Switch},
    netns::{Netns, run},
    wait::{eventually, until},
};

mod certificates;
mod disk;
mod member;

pub(crate) use self::disk::unmount_all;
pub use self::{certificates::Certificates, disk::Full, member::Member};

/// How many members there are: one of them may fail.
pub const MEMBERS: usize = 3;

const INTERFACE: &str = "m0";
const CLIENTS: u16 = 2379;
const PEERS: u16 = 2380;
/// What fills the store: larger than what any network has.
const BALLAST: &str = "/ballast/";

/// What a cluster is started with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClusterSettings {
    /// Whether members and clients show each other certificates.
    pub tls: bool,
    /// Whether clients need a user and a password.
    pub auth: bool,
    /// Bytes up to which the store grows before it takes no more writes.
    pub quota: u64,
}

impl Default for ClusterSettings {
    fn default() -> Self {
        Self {
            tls: false,
            auth: false,
            quota: 2 << 30,
        }
    }
}

/// Three members and the network to their clients. They end when it goes.
#[derive(Debug)]
pub struct Cluster {
    members: Vec<Member>,
    switch: Switch,
    certificates: Option<Certificates>,
    /// User's name, and a file with the password.
    user: Option<(&'static str, PathBuf)>,
}

impl Cluster {
    /// Starts a cluster within reach of `hosts`; returns when it has a leader.
    pub fn start(lab: &Lab, hosts: &[Host]) -> Self {
        Self::with(lab, hosts, ClusterSettings::default())
    }

    /// The same with settings.
    pub fn with(lab: &Lab, hosts: &[Host], settings: ClusterSettings) -> Self {
        let switch = lab.switch("mg");
        let ips: Vec<Ipv4Addr> = (1..).take(MEMBERS).map(ip).collect();
        let certificates = settings.tls.then(|| Certificates::make(lab.dir(), &ips));
        let mut members: Vec<Member> = ips
            .iter()
            .zip(1..)
            .map(|(ip, number)| {
                let netns = lab.netns(&format!("e{number}"));
                connect(&switch, &netns, *ip);
                Member::new(lab, netns, *ip)
            })
            .collect();
        for host in hosts {
            admit(&switch, host);
        }
        let peers = member::Peers::of(&members, certificates.as_ref(), settings.quota);
        for member in &mut members {
            member.start_first(&peers);
        }
        let mut cluster = Self {
            members,
            switch,
            certificates,
            user: None,
        };
        cluster.await_healthy();
        if settings.auth {
            cluster.user = Some(cluster.require_password(lab));
        }
        cluster
    }

    /// Lets another host reach the members.
    pub fn admit(&self, host: &Host) {
        admit(&self.switch, host);
    }

    /// The file with the password that clients need.
    pub fn password_file(&self) -> Option<&Path> {
        self.user.as_ref().map(|(_, file)| file.as_path())
    }

    /// What `overlay run` and `overlay registry` are to be told about it.
    pub fn options(&self) -> String {
        let mut options = format!("--registry {}", self.url());
        if let Some(certificates) = &self.certificates {
            for (option, file) in [
                ("ca", &certificates.ca),
                ("cert", &certificates.cert),
                ("key", &certificates.key),
            ] {
                let _ = write!(options, " --etcd-{option} {}", file.display());
            }
        }
        if let Some((user, password)) = &self.user {
            let file = password.display();
            let _ = write!(options, " --etcd-user {user} --etcd-password-file {file}");
        }
        options
    }

    /// Its URL.
    pub fn url(&self) -> String {
        let all: Vec<String> = self.members.iter().map(Member::address).collect();
        format!("etcd://{}", all.join(","))
    }

    /// Its members.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// One of them, to start and end it.
    pub fn member(&mut self, index: usize) -> &mut Member {
        &mut self.members[index]
    }

    /// `etcdctl` with words, asking the members at these indexes, in one of their namespaces.
    pub fn etcdctl(&self, members: &[usize], words: &str) -> Run {
        let [first, ..] = members else {
            panic!("no member to ask");
        };
        let endpoints: Vec<String> = members
            .iter()
            .map(|index| self.members[*index].address())
            .collect();
        let mut etcdctl = self.members[*first].netns().command("etcdctl");
        etcdctl
            .args(["--command-timeout", "2s"])
            .args(words.split_whitespace())
            .env("ETCDCTL_ENDPOINTS", endpoints.join(","));
        self.authenticate(&mut etcdctl);
        Run::of(&mut etcdctl)
    }

    /// `etcdctl` asking all members; it must succeed, if not while they elect a leader, so after that.
    #[track_caller]
    pub fn does(&self, words: &str) -> String {
        eventually(&format!("etcdctl {words}"), || {
            let run = self.etcdctl(&[0, 1, 2], words);
            let is_done = run.code == 0 || run.stderr.contains("already exists");
            is_done.then_some(run.stdout)
        })
    }

    fn authenticate(&self, etcdctl: &mut Command) {
        if let Some(certificates) = &self.certificates {
            etcdctl
                .env("ETCDCTL_CACERT", &certificates.ca)
                .env("ETCDCTL_CERT", &certificates.cert)
                .env("ETCDCTL_KEY", &certificates.key);
        }
        if let Some((user, file)) = &self.user {
            let password = fs::read_to_string(file).unwrap();
            etcdctl.env("ETCDCTL_USER", format!("{user}:{}", password.trim_end()));
        }
    }

    /// The status that a member tells of itself; `None` if it doesn't answer.
    pub fn status(&self, index: usize) -> Option<Value> {
        let run = self.etcdctl(
            &[index],
            "--command-timeout 2s --write-out json endpoint status",
        );
        let mut answers: Value = serde_json::from_str(&run.stdout).ok()?;
        Some(answers.get_mut(0)?.get_mut("Status")?.take())
    }

    /// The index of the leader that a majority follows; waits for one.
    #[track_caller]
    pub fn leader(&self) -> usize {
        eventually("etcd has a leader", || self.followed())
    }

    /// The same once it is another than `previous`, which the others take a moment to give up.
    #[track_caller]
    pub fn leader_after(&self, previous: usize) -> usize {
        eventually("etcd has another leader", || {
            self.followed().filter(|leader| *leader != previous)
        })
    }

    fn followed(&self) -> Option<usize> {
        let statuses: Vec<_> = (0..MEMBERS).map(|index| self.status(index)).collect();
        (0..MEMBERS).find(|index| {
            let Some(own) = &statuses[*index] else {
                return false;
            };
            let member = &own["header"]["member_id"];
            let answers = statuses.iter().flatten();
            let followers = answers.filter(|status| status["leader"] == *member);
            followers.count() > MEMBERS / 2
        })
    }

    /// Waits until every member answers and is well: it takes part in commits.
    #[track_caller]
    pub fn await_healthy(&self) {
        for index in 0..MEMBERS {
            until(&format!("etcd member {index} is healthy"), || {
                self.etcdctl(&[index], "endpoint health").code == 0
            });
        }
    }

    /// Ends every member with SIGKILL.
    pub fn kill_all(&mut self) {
        for member in &mut self.members {
            member.kill();
        }
    }

    /// Starts every member that does not run; returns when all are well.
    pub fn restart_all(&mut self) {
        for member in &mut self.members {
            if !member.is_running() {
                member.restart();
            }
        }
        self.await_healthy();
    }

    /// Pulls the cable of a member or a host (`false`), or plugs it in again.
    pub fn plug(&self, netns: &Netns, is_in: bool) {
        self.switch.plug(netns, INTERFACE, is_in);
    }

    /// Puts these members and hosts on a network of their own. [`Self::plug`] brings them back.
    pub fn split_off(&self, netns: &[&Netns]) {
        for netns in netns {
            self.switch.split_off(netns, INTERFACE);
        }
    }

    /// Forgets all history up to now: who has been away longer can't be told what changed.
    pub fn compact(&self) {
        let status = eventually("the leader tells its revision", || {
            self.status(self.leader())
        });
        let revision = &status["header"]["revision"];
        eventually("history is compacted", || {
            let run = self.etcdctl(&[0, 1, 2], &format!("compact --physical {revision}"));
            (run.code == 0 || run.stderr.contains("has been compacted")).then_some(())
        });
    }

    /// Writes until the store has reached its quota, and the cluster refuses writes.
    pub fn fill(&self) {
        let value = "0".repeat(100_000);
        eventually("the store is full", || {
            (0..10).find_map(|number| {
                let run = self.etcdctl(&[0, 1, 2], &format!("put {BALLAST}{number} {value}"));
                run.stderr.contains("database space exceeded").then_some(())
            })
        });
    }

    /// What an operator does about it: remove, compact, defragment, and end the alarm.
    pub fn mend_full(&self) {
        self.does(&format!("del --prefix {BALLAST}"));
        self.compact();
        for index in 0..MEMBERS {
            until(&format!("member {index} is defragmented"), || {
                self.etcdctl(&[index], "defrag").code == 0
            });
        }
        self.does("alarm disarm");
        self.await_healthy();
    }

    /// Makes users and asks every client for a password from now on.
    fn require_password(&self, lab: &Lab) -> (&'static str, PathBuf) {
        const USER: &str = "overlay";
        let password = lab.name("password");
        let file = lab.dir().join("etcd-password");
        fs::write(&file, format!("{password}\n")).unwrap();
        run("chmod", &["600", file.to_str().unwrap()]);
        self.does(&format!(
            "user add root --new-user-password {password}-root"
        ));
        self.does("user grant-role root root");
        self.does(&format!("user add {USER} --new-user-password {password}"));
        self.does("role add overlay");
        self.does("role grant-permission overlay --prefix readwrite /overlay/");
        self.does(&format!("user grant-role {USER} overlay"));
        self.does("auth enable");
        (USER, file)
    }
}

fn ip(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 9, 0, last)
}

/// A host's last number here is that on the underlay and a hundred.
fn admit(switch: &Switch, host: &Host) {
    let [.., last] = host.ip.octets();
    connect(switch, &host.netns, ip(100 + last));
}

fn connect(switch: &Switch, netns: &Netns, ip: Ipv4Addr) {
    switch.connect(netns, INTERFACE);
    netns.ip(&format!("address add {ip}/24 dev {INTERFACE}"));
}
