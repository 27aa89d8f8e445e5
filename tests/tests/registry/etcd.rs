//! An etcd of one member, or of three, on loopback ports that nobody had.

use std::{
    fmt::Write as _,
    net::TcpListener,
    process::{Child, Command, Stdio},
};

use overlay_tests::{agent::Run, etcd::Certificates, until};
use tempfile::TempDir;

/// What it is started with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Options {
    pub(crate) members: usize,
    pub(crate) tls: bool,
    /// Bytes up to which the store grows; 0: etcd's own limit.
    pub(crate) quota: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            members: 1,
            tls: false,
            quota: 0,
        }
    }
}

/// The members. They end when it goes.
pub(crate) struct Etcd {
    /// Gone with it.
    _folder: TempDir,
    members: Vec<Member>,
    certificates: Option<Certificates>,
    /// `root:password`, once it asks for one.
    login: Option<String>,
}

struct Member {
    client: u16,
    words: Vec<String>,
    child: Option<Child>,
}

impl Etcd {
    /// Starts it; returns when it takes writes.
    pub(crate) fn start(options: Options) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let certificates = options
            .tls
            .then(|| Certificates::make(folder.path(), &["127.0.0.1".parse().unwrap()]));
        let ports: Vec<[u16; 2]> = (0..options.members).map(|_| free_ports()).collect();
        let scheme = if options.tls { "https" } else { "http" };
        let cluster: Vec<String> = ports
            .iter()
            .enumerate()
            .map(|(index, [_, peer])| format!("m{index}=http://127.0.0.1:{peer}"))
            .collect();
        let members = ports
            .iter()
            .enumerate()
            .map(|(index, [client, peer])| {
                let mut words = format!(
                    "--name m{index} --data-dir {}/m{index} --initial-cluster {} \
                     --listen-client-urls {scheme}://127.0.0.1:{client} \
                     --advertise-client-urls {scheme}://127.0.0.1:{client} \
                     --listen-peer-urls http://127.0.0.1:{peer} \
                     --initial-advertise-peer-urls http://127.0.0.1:{peer} \
                     --heartbeat-interval 50 --election-timeout 500 --quota-backend-bytes {} \
                     --logger zap --log-level error",
                    folder.path().display(),
                    cluster.join(","),
                    options.quota,
                );
                if let Some(certificates) = &certificates {
                    let _ = write!(
                        words,
                        " --client-cert-auth --trusted-ca-file {} --cert-file {} --key-file {}",
                        certificates.ca.display(),
                        certificates.server_cert.display(),
                        certificates.server_key.display(),
                    );
                }
                Member {
                    client: *client,
                    words: words.split_whitespace().map(str::to_owned).collect(),
                    child: None,
                }
            })
            .collect();
        let mut etcd = Self {
            _folder: folder,
            members,
            certificates,
            login: None,
        };
        for index in 0..options.members {
            etcd.start_member(index);
        }
        etcd.await_healthy();
        etcd
    }

    /// `host:port` of every member, for the URL.
    pub(crate) fn addresses(&self) -> String {
        let all: Vec<String> = (0..self.members.len())
            .map(|index| self.address(index))
            .collect();
        all.join(",")
    }

    /// `host:port` of one.
    pub(crate) fn address(&self, index: usize) -> String {
        format!("127.0.0.1:{}", self.members[index].client)
    }

    pub(crate) fn start_member(&mut self, index: usize) {
        let member = &mut self.members[index];
        assert!(member.child.is_none());
        // A test that is killed takes its members with it.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "etcd"])
            .args(&member.words)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("setpriv and etcd are installed");
        member.child = Some(child);
    }

    /// With SIGKILL.
    pub(crate) fn kill_member(&mut self, index: usize) {
        if let Some(mut child) = self.members[index].child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub(crate) fn await_healthy(&self) {
        until("etcd takes writes", || {
            self.etcdctl("endpoint health").code == 0
        });
    }

    /// `etcdctl` on all members.
    pub(crate) fn etcdctl(&self, words: &str) -> Run {
        let mut etcdctl = Command::new("etcdctl");
        etcdctl
            .args(["--command-timeout", "2s"])
            .args(words.split_whitespace())
            .env("ETCDCTL_API", "3")
            .env("ETCDCTL_ENDPOINTS", self.addresses());
        if let Some(certificates) = &self.certificates {
            etcdctl
                .env("ETCDCTL_CACERT", &certificates.ca)
                .env("ETCDCTL_CERT", &certificates.cert)
                .env("ETCDCTL_KEY", &certificates.key)
                .env("ETCDCTL_ENDPOINTS", format!("https://{}", self.addresses()));
        }
        if let Some(login) = &self.login {
            etcdctl.env("ETCDCTL_USER", login);
        }
        Run::of(&mut etcdctl)
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for index in 0..self.members.len() {
            self.kill_member(index);
        }
    }
}

/// For clients and for peers. Both are held until both are known.
fn free_ports() -> [u16; 2] {
    let listeners = [0; 2].map(|_| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}
