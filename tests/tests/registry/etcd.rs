//! An etcd of one member, or of three, on loopback ports that nobody had.

use std::{
    fmt::Write as _,
    fs,
    io::Write as _,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use overlay_lab::{agent::Run, etcd::Certificates, until};
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
    folder: TempDir,
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
            folder,
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

    pub(crate) fn certificates(&self) -> &Certificates {
        self.certificates.as_ref().expect("it speaks TLS")
    }

    /// A folder for files of the test.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A member's data.
    pub(crate) fn data(&self, index: usize) -> PathBuf {
        self.folder.path().join(format!("m{index}"))
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

    /// Stops it where it is, or lets it go on: it keeps its connections and answers nobody.
    pub(crate) fn freeze(&self, index: usize, is_frozen: bool) {
        let child = self.members[index].child.as_ref().unwrap();
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
        let signal = if is_frozen {
            Signal::SIGSTOP
        } else {
            Signal::SIGCONT
        };
        kill(pid, signal).unwrap();
    }

    /// A member's resident memory.
    pub(crate) fn resident_kib(&self, index: usize) -> u64 {
        let child = self.members[index].child.as_ref().unwrap();
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS"));
        line.unwrap()
            .split_whitespace()
            .nth(1)
            .unwrap()
            .parse()
            .unwrap()
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
        self.ask(&self.addresses(), words)
    }

    fn ask(&self, endpoints: &str, words: &str) -> Run {
        Run::of(&mut self.command(endpoints, words))
    }

    fn command(&self, endpoints: &str, words: &str) -> Command {
        let mut etcdctl = Command::new("etcdctl");
        etcdctl
            .args(["--command-timeout", "2s"])
            .args(words.split_whitespace())
            .env("ETCDCTL_API", "3")
            .env("ETCDCTL_ENDPOINTS", endpoints);
        if let Some(certificates) = &self.certificates {
            etcdctl
                .env("ETCDCTL_CACERT", &certificates.ca)
                .env("ETCDCTL_CERT", &certificates.cert)
                .env("ETCDCTL_KEY", &certificates.key)
                .env("ETCDCTL_ENDPOINTS", format!("https://{endpoints}"));
        }
        if let Some(login) = &self.login {
            etcdctl.env("ETCDCTL_USER", login);
        }
        etcdctl
    }

    /// The same; it must succeed.
    #[track_caller]
    pub(crate) fn does(&self, words: &str) -> String {
        let run = self.etcdctl(words);
        assert_eq!(run.code, 0, "etcdctl {words}: {}", run.stderr);
        run.stdout
    }

    /// The store's revision.
    pub(crate) fn revision(&self) -> u64 {
        let status: serde_json::Value =
            serde_json::from_str(&self.does("endpoint status --write-out json")).unwrap();
        status[0]["Status"]["header"]["revision"].as_u64().unwrap()
    }

    /// Forgets all history up to now.
    pub(crate) fn compact(&self) {
        self.does(&format!("compact --physical {}", self.revision()));
    }

    /// Makes `overlay` a user with this password and asks every client for one.
    pub(crate) fn require_login(&mut self, password: &str) {
        for words in [
            "user add root --new-user-password secret-root",
            "user grant-role root root",
            &format!("user add overlay --new-user-password {password}"),
            "role add overlay",
            "role grant-permission overlay --prefix readwrite /overlay/",
            "user grant-role overlay overlay",
            "auth enable",
        ] {
            self.does(words);
        }
        self.login = Some("root:secret-root".to_owned());
    }

    /// Gives `overlay` another password.
    pub(crate) fn change_password(&self, password: &str) {
        let mut etcdctl =
            self.command(&self.addresses(), "user passwd overlay --interactive=false");
        let mut etcdctl = etcdctl
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut stdin = etcdctl.stdin.take().unwrap();
        writeln!(stdin, "{password}").unwrap();
        drop(stdin);
        assert!(etcdctl.wait().unwrap().success());
    }

    /// Asks nobody any more.
    pub(crate) fn require_no_login(&mut self) {
        self.does("auth disable");
        self.login = None;
    }

    /// Which member the others follow.
    pub(crate) fn leader(&self) -> usize {
        let mut leader = None;
        until("etcd has a leader", || {
            leader = (0..self.members.len()).find(|index| {
                let run = self.ask(&self.address(*index), "endpoint status --write-out json");
                let status: serde_json::Value =
                    serde_json::from_str(&run.stdout).unwrap_or_default();
                let status = &status[0]["Status"];
                status["leader"].is_u64() && status["leader"] == status["header"]["member_id"]
            });
            leader.is_some()
        });
        leader.unwrap()
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

/// Writes a file into a folder.
pub(crate) fn file(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, text).unwrap();
    path
}
