//! One member of the cluster: its namespace, its disk, its process.

use std::{
    fmt::Write as _,
    fs::{self, File},
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Child, Stdio},
};

use super::{CLIENTS, PEERS, certificates::Certificates, disk};
use crate::{delay::Delay, lab::Lab, netns::Netns, stopped::Stopped};

/// What all members are told.
pub(super) struct Peers<'a> {
    /// `e1=http://10.9.0.1:2380,...`
    cluster: String,
    certificates: Option<&'a Certificates>,
    quota: u64,
}

impl<'a> Peers<'a> {
    pub(super) fn of(
        members: &[Member],
        certificates: Option<&'a Certificates>,
        quota: u64,
    ) -> Self {
        let mut peers = Self {
            cluster: String::new(),
            certificates,
            quota,
        };
        let all: Vec<String> = members
            .iter()
            .map(|member| format!("{}={}", member.name(), peers.url(member, PEERS)))
            .collect();
        peers.cluster = all.join(",");
        peers
    }

    fn url(&self, member: &Member, port: u16) -> String {
        let scheme = if self.certificates.is_some() {
            "https"
        } else {
            "http"
        };
        format!("{scheme}://{}:{port}", member.ip)
    }
}

/// A member. Its process ends when it goes, or when the thread that started it does.
#[derive(Debug)]
pub struct Member {
    netns: Netns,
    ip: Ipv4Addr,
    dir: PathBuf,
    /// etcd's own words of the command line.
    words: Vec<String>,
    child: Option<Child>,
}

impl Member {
    pub(super) fn new(lab: &Lab, netns: Netns, ip: Ipv4Addr) -> Self {
        let short = netns.name().rsplit('-').next().unwrap_or_default();
        let dir = lab.dir().join(short);
        disk::make(&dir);
        Self {
            netns,
            ip,
            dir,
            words: Vec::new(),
            child: None,
        }
    }

    pub(super) fn start_first(&mut self, peers: &Peers<'_>) {
        let (clients, members) = (peers.url(self, CLIENTS), peers.url(self, PEERS));
        let mut words = format!(
            "--name {} --initial-cluster {} --listen-client-urls {clients} \
             --advertise-client-urls {clients} --listen-peer-urls {members} \
             --initial-advertise-peer-urls {members} --quota-backend-bytes {} \
             --heartbeat-interval 50 --election-timeout 500 \
             --logger zap --log-level warn --log-outputs stderr",
            self.name(),
            peers.cluster,
            peers.quota,
        );
        if let Some(certificates) = peers.certificates {
            let [ca, cert, key] = [
                &certificates.ca,
                &certificates.server_cert,
                &certificates.server_key,
            ]
            .map(|file| file.display());
            for side in ["", "peer-"] {
                let _ = write!(
                    words,
                    " --{side}client-cert-auth --{side}trusted-ca-file {ca} \
                     --{side}cert-file {cert} --{side}key-file {key}"
                );
            }
        }
        self.words = words.split_whitespace().map(str::to_owned).collect();
        self.restart();
    }

    /// Starts it with what is on its disk.
    ///
    /// # Panics
    ///
    /// It runs already.
    pub fn restart(&mut self) {
        assert!(!self.is_running(), "{} runs", self.name());
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_file())
            .unwrap();
        // A test that is killed takes its members with it.
        let mut etcd = self.netns.command("setpriv");
        etcd.args(["--pdeathsig", "KILL", "etcd", "--data-dir"])
            .arg(self.dir.join("data"))
            .args(&self.words)
            .stdout(Stdio::null())
            .stderr(log);
        self.child = Some(etcd.spawn().unwrap());
    }

    /// Keeps a copy of what is on its disk. It must have ended.
    pub fn save_data(&mut self, copy: &str) {
        let copy = self.dir.with_extension(copy);
        copied(&self.idle_data(), &copy);
    }

    /// Has on its disk what [`Self::save_data`] kept, and nothing else. It must have ended.
    pub fn put_data(&mut self, copy: &str) {
        let copy = self.dir.with_extension(copy);
        self.lose_data();
        copied(&copy, &self.idle_data());
    }

    /// Has nothing on its disk any more. It must have ended.
    pub fn lose_data(&mut self) {
        fs::remove_dir_all(self.idle_data()).unwrap();
    }

    /// Cuts its database off in the middle. It must have ended.
    pub fn cut_data(&mut self) {
        let file = self.idle_data().join("member/snap/db");
        let file = File::options().write(true).open(file).unwrap();
        let len = file.metadata().unwrap().len();
        file.set_len(len / 2).unwrap();
    }

    /// Where its data is.
    ///
    /// # Panics
    ///
    /// It runs.
    fn idle_data(&mut self) -> PathBuf {
        assert!(!self.is_running(), "{} runs", self.name());
        self.dir.join("data")
    }

    /// Ends it with SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Whether its process lives: etcd ends itself when its disk fails it.
    pub fn is_running(&mut self) -> bool {
        let ended = |child: &mut Child| child.try_wait().unwrap().is_some();
        if self.child.as_mut().is_some_and(ended) {
            self.child = None;
        }
        self.child.is_some()
    }

    /// Stops its process where it is, until the guard goes.
    pub fn stop(&self) -> Stopped {
        Stopped::now(self.pid())
    }

    /// Makes each of its disk's flushes take `delay` longer, until the guard goes.
    pub fn slow_disk(&self, delay: std::time::Duration) -> Delay {
        let pid = self.pid();
        Delay::attach(pid, disk::FLUSHES, delay, &self.log_file())
    }

    /// Takes all space on its disk, until the guard goes.
    pub fn full_disk(&self) -> disk::Full {
        disk::Full::fill(&self.dir)
    }

    fn pid(&self) -> u32 {
        self.child.as_ref().expect("the member runs").id()
    }

    /// Its name in the cluster.
    pub fn name(&self) -> &str {
        self.netns.name()
    }

    /// Its namespace.
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// Where clients find it: `10.9.0.1:2379`.
    pub fn address(&self) -> String {
        format!("{}:{CLIENTS}", self.ip)
    }

    /// What it has logged: warnings and errors.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    fn log_file(&self) -> PathBuf {
        beside(&self.dir)
    }
}

fn copied(from: &Path, to: &Path) {
    let [from, to] = [from, to].map(|path| path.to_str().unwrap());
    crate::netns::run("cp", &["--archive", "--sparse=always", from, to]);
}

/// The log is not on the disk that may be full.
fn beside(dir: &Path) -> PathBuf {
    dir.with_extension("log")
}

impl Drop for Member {
    fn drop(&mut self) {
        self.kill();
    }
}
