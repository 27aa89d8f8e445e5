//! DHCP clients in endpoints, with a script of the lab's own: theirs would change this machine's name servers.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;

use crate::{netns::Netns, wait::until_within};

/// What each client calls with what it was told: notes that down, one file an event, and sets the address and the routes.
const SCRIPT: &str = r#"#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
event=${1:-${reason:-$REASON}}
case $event in
deconfig|PREINIT*|PREINIT6) ;;
bound|renew|BOUND|RENEW|REBIND|REBOOT|TIMEOUT)
    net=${ip:+$ip/$mask}
    net=${net:-$new_ip_address/$new_subnet_mask}
    [ "$net" = / ] || ip addr replace "$net" dev "${interface:-eth0}"
    gateway=${router:-$new_routers}
    [ -z "$gateway" ] || ip route replace default via "$gateway" dev "${interface:-eth0}"
    ;;
BOUND6|RENEW6|REBIND6)
    [ -z "$new_ip6_address" ] || ip -6 addr replace "$new_ip6_address/128" dev "${interface:-eth0}" nodad
    ;;
esac
number=$(ls "$LAB_EVENTS" | wc -l)
env > "$LAB_EVENTS/.new"
mv "$LAB_EVENTS/.new" "$LAB_EVENTS/$(printf %04d "$number")-$event"
"#;

/// How long a client may take over an event: some wait a second before they ask again.
const PATIENCE: Duration = Duration::from_secs(30);

/// A DHCP client in an endpoint's namespace, which ends with this value.
#[derive(Debug)]
pub struct DhcpClient {
    child: Option<Child>,
    netns: Netns,
    folder: TempDir,
}

impl DhcpClient {
    /// A client that does not run yet.
    pub fn new(netns: &Netns) -> Self {
        let folder = tempfile::Builder::new().prefix("ovl-dhcp-").tempdir();
        let client = Self {
            child: None,
            netns: netns.clone(),
            folder: folder.unwrap(),
        };
        fs::create_dir(client.events()).unwrap();
        fs::write(client.script(), SCRIPT).unwrap();
        fs::set_permissions(client.script(), fs::Permissions::from_mode(0o755)).unwrap();
        client
    }

    /// busybox' udhcpc in the foreground, with more words.
    pub fn udhcpc(netns: &Netns, words: &str) -> Self {
        let mut client = Self::new(netns);
        let script = client.script();
        let mut command = client.command("busybox");
        command.args(["udhcpc", "-f", "-i", "eth0", "-t", "20", "-T", "1", "-s"]);
        command.arg(script).args(words.split_whitespace());
        client.start(command);
        client
    }

    /// ISC's dhclient in the foreground, with more words: `-4` or `-6` among them.
    pub fn dhclient(&mut self, words: &str) {
        let mut command = self.command("dhclient");
        let events = format!("LAB_EVENTS={}", self.events().display());
        command.args(["-d", "-e", &events, "-cf", "/dev/null"]);
        command.arg("-sf").arg(self.script());
        command.arg("-lf").arg(self.path("leases"));
        command.arg("-pf").arg(self.path("pid"));
        command.args(words.split_whitespace()).arg("eth0");
        self.start(command);
    }

    /// dhcpcd in the foreground, with more words. What it keeps lies in a mount namespace of its own.
    pub fn dhcpcd(&mut self, words: &str) {
        let mut command = self.command("unshare");
        let inside = format!(
            "mount -t tmpfs tmpfs /run && mkdir -p /var/lib/dhcpcd && mount -t tmpfs tmpfs /var/lib/dhcpcd && \
             exec dhcpcd -B -f /dev/null -c {} -e LAB_EVENTS={} {words} eth0",
            self.script().display(),
            self.events().display(),
        );
        command.args(["--mount", "sh", "-c", &inside]);
        self.start(command);
    }

    /// WIDE's dhcp6c in the foreground. What it keeps lies in a mount namespace of its own.
    pub fn dhcp6c(&mut self) {
        let file = self.path("dhcp6c.conf");
        let script = self.script();
        let config = format!(
            "interface eth0 {{ send ia-na 0; request domain-name-servers; request domain-name; script \"{}\"; }};\n\
             id-assoc na 0 {{ }};\n",
            script.display()
        );
        fs::write(&file, config).unwrap();
        // It gives its script few of its own variables.
        let events = format!("export LAB_EVENTS={}", self.events().display());
        let noting = SCRIPT.replacen('\n', &format!("\n{events}\n"), 1);
        fs::write(&script, noting).unwrap();
        let inside = format!(
            "mount -t tmpfs tmpfs /run && mount -t tmpfs tmpfs /var/lib && mkdir /var/lib/dhcpv6 && \
             exec dhcp6c -f -D -c {} eth0",
            file.display()
        );
        let mut command = self.command("unshare");
        command.args(["--mount", "sh", "-c", &inside]);
        self.start(command);
    }

    /// systemd's networkd, which sets addresses and routes itself. It wants no udev where sysfs is read-only.
    pub fn networkd(&mut self) {
        let network = self.path("eth0.network");
        fs::write(&network, "[Match]\nName=eth0\n[Network]\nDHCP=yes\n").unwrap();
        let inside = format!(
            "mount -t sysfs -o ro sysfs /sys && mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/network && \
             cp {} /run/systemd/network/00-lab.network && exec /lib/systemd/systemd-networkd",
            network.display()
        );
        let mut command = self.command("unshare");
        command.args(["--mount", "sh", "-c", &inside]);
        command.env("SYSTEMD_LOG_LEVEL", "debug");
        self.start(command);
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn events(&self) -> PathBuf {
        self.path("events")
    }

    fn script(&self) -> PathBuf {
        self.path("script")
    }

    fn command(&self, program: &str) -> Command {
        let mut command = self.netns.command(program);
        command.env("LAB_EVENTS", self.events());
        command
    }

    fn start(&mut self, mut command: Command) {
        assert!(self.child.is_none(), "one client at a time");
        let log = fs::File::create(self.path("log")).unwrap();
        command.stdin(Stdio::null());
        command.stdout(log.try_clone().unwrap()).stderr(log);
        self.child = Some(command.spawn().unwrap());
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = self.child.as_ref().unwrap().id();
        kill(Pid::from_raw(pid.try_into().unwrap()), signal).unwrap();
    }

    /// Ends it, as by Ctrl-C, and waits for that.
    pub fn stop(&mut self) {
        self.signal(Signal::SIGTERM);
        self.child.take().unwrap().wait().unwrap();
    }

    /// The events so far, in their order, each with what the client was told.
    pub fn heard(&self) -> Vec<(String, BTreeMap<String, String>)> {
        let mut files: Vec<PathBuf> = fs::read_dir(self.events())
            .unwrap()
            .map(|file| file.unwrap().path())
            .filter(|file| !name(file).starts_with('.'))
            .collect();
        files.sort();
        files.iter().map(|file| (event(file), told(file))).collect()
    }

    /// Waits until it has heard one of these events after the first `after` ones; gives what it was told.
    #[track_caller]
    pub fn hears(&self, events: &[&str], after: usize) -> BTreeMap<String, String> {
        let mut found = None;
        until_within(PATIENCE, &format!("{events:?}: {}", self.log()), || {
            let heard = self.heard();
            let mut later = heard.into_iter().skip(after);
            found = later.find(|(event, _)| events.contains(&event.as_str()));
            found.is_some()
        });
        found.unwrap().1
    }

    /// What it printed.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }
}

impl Drop for DhcpClient {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn name(file: &Path) -> String {
    file.file_name().unwrap().to_string_lossy().into_owned()
}

fn event(file: &Path) -> String {
    let name = name(file);
    name.split_once('-').unwrap().1.to_owned()
}

fn told(file: &Path) -> BTreeMap<String, String> {
    let text = fs::read_to_string(file).unwrap();
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    pairs
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}
