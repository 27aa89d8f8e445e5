//! Agents and the command line, as a user has them.

use std::{
    env,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
};

use overlay_ebpf::abi::ABI_VERSION;
use serde_json::Value;

use crate::{
    lab::{Host, Lab},
    netns::Netns,
    stopped::Stopped,
    wait::{eventually, until},
};

/// The program under test: `OVERLAY_BIN`, or what `cargo xtask build` leaves.
pub fn binary() -> PathBuf {
    env::var_os("OVERLAY_BIN").map_or_else(
        || {
            let workspace = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
            workspace.join("target/debug/overlay")
        },
        PathBuf::from,
    )
}

/// Exit code of what was refused or failed.
pub const FAILED: i32 = 1;
/// Exit code of bad usage.
pub const USAGE: i32 = 2;

/// The names under `/run/netns` that begin so.
pub fn netns_names(prefix: &str) -> Vec<String> {
    let entries = fs::read_dir("/run/netns").unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with(prefix)).collect()
}

/// How a run of the command line ended.
#[derive(Debug)]
pub struct Run {
    /// Exit code; -1 if a signal ended it.
    pub code: i32,
    /// What it printed.
    pub stdout: String,
    /// What it complained of.
    pub stderr: String,
}

impl Run {
    /// What `command` does.
    pub fn of(command: &mut Command) -> Self {
        let output = command.output().unwrap();
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// What the one line on stderr says after `error: `.
    ///
    /// # Panics
    ///
    /// It ended with another code, or printed anything else.
    #[track_caller]
    pub fn error(&self, code: i32) -> String {
        assert_eq!((self.code, self.stdout.as_str()), (code, ""), "{self:?}");
        let message = self
            .stderr
            .strip_suffix('\n')
            .and_then(|line| line.strip_prefix("error: "));
        let message = message.unwrap_or_else(|| panic!("{self:?}"));
        assert!(!message.contains(|c: char| c.is_control()), "{self:?}");
        message.to_owned()
    }

    /// The message of the object that is on stderr with `-o json`.
    ///
    /// # Panics
    ///
    /// As [`Self::error`].
    #[track_caller]
    pub fn json_error(&self, code: i32) -> String {
        assert_eq!((self.code, self.stdout.as_str()), (code, ""), "{self:?}");
        let document = parse(&self.stderr);
        let keys: Vec<_> = document.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["error"], "{document}");
        document["error"]["message"].as_str().unwrap().to_owned()
    }
}

/// `overlay --instance INSTANCE ARGS...`
pub fn overlay(instance: &str, args: &[&str]) -> Run {
    Run::of(command(instance).args(args))
}

/// `overlay --instance INSTANCE`, more words to follow.
pub fn command(instance: &str) -> Command {
    let mut command = Command::new(binary());
    command.args(["--instance", instance]);
    command
}

/// An agent on a host of the lab. Taken down when it goes.
#[derive(Debug)]
pub struct Agent {
    instance: String,
    netns: Netns,
    log: PathBuf,
    registry: String,
    starter: Vec<String>,
    child: Option<Child>,
}

impl Agent {
    /// Starts an agent on `host` with more words for `run`; returns when it is ready. Instance and
    /// node have the host's name, and the registry is the lab's, where the words name no other.
    pub fn start(lab: &Lab, host: &Host, options: &str) -> Self {
        let agent = Self::spawn(lab, host, options);
        agent.await_ready();
        agent
    }

    /// Starts one on each of these hosts; returns when all are ready.
    pub fn on_each<const N: usize>(lab: &Lab, hosts: &[Host; N], options: &str) -> [Self; N] {
        hosts.each_ref().map(|host| Self::start(lab, host, options))
    }

    /// The same without waiting.
    pub fn spawn(lab: &Lab, host: &Host, options: &str) -> Self {
        Self::spawn_through(lab, host, &[], options)
    }

    /// The same, started by another program: `starter` is its words, behind which come ours. It
    /// starts the agent each time.
    pub fn spawn_through(lab: &Lab, host: &Host, starter: &[String], options: &str) -> Self {
        let mut agent = Self {
            instance: host.netns.name().to_owned(),
            netns: host.netns.clone(),
            log: lab.dir().join(format!("{}.log", host.netns.name())),
            registry: lab.registry(),
            starter: starter.to_vec(),
            child: None,
        };
        agent.restart(options);
        agent
    }

    /// Starts it again with these words for `run`. It must have ended.
    pub fn restart(&mut self, options: &str) {
        let command = self.run_command(options);
        self.launch(command);
    }

    /// The same with a clock that is off by what is in the file `offset`, for example `+10d`: read
    /// anew whenever it looks at the time. Its monotonic clock stays right, as when somebody sets a
    /// host's time.
    pub fn restart_with_clock(&mut self, options: &str, offset: &Path) {
        let mut command = self.run_command(options);
        command
            .env("LD_PRELOAD", "/usr/$LIB/faketime/libfaketimeMT.so.1")
            .env("FAKETIME_TIMESTAMP_FILE", offset)
            .env("FAKETIME_NO_CACHE", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .env("DONT_FAKE_MONOTONIC", "1");
        self.launch(command);
    }

    fn launch(&mut self, mut command: Command) {
        assert!(self.child.is_none(), "{} runs", self.instance);
        let log = File::options()
            .create(true)
            .append(true)
            .open(&self.log)
            .unwrap();
        let child = command.stdout(Stdio::null()).stderr(log).spawn().unwrap();
        self.child = Some(child);
    }

    /// `overlay run` on this host with more words.
    pub fn run_command(&self, options: &str) -> Command {
        let binary = binary().to_str().unwrap().to_owned();
        let mut words = self.starter.iter().chain([&binary]);
        let mut run = self.netns.command(words.next().unwrap());
        run.args(words).args(["--instance", &self.instance, "run"]);
        if !options.contains("--node ") {
            run.args(["--node", &self.instance]);
        }
        if !options.contains("--registry ") {
            run.args(["--registry", &self.registry]);
        }
        if !options.contains("--iface") {
            run.args(["--iface", "u0"]);
        }
        run.args(options.split_whitespace());
        run
    }

    /// Waits until its status says that it is ready.
    #[track_caller]
    pub fn await_ready(&self) {
        until(
            &format!(
                "{} is ready; its log: {}",
                self.instance,
                self.log.display()
            ),
            || self.is_ready(),
        );
    }

    /// Whether its status says so.
    pub fn is_ready(&self) -> bool {
        let run = self.overlay("-o json status");
        run.code == 0 && parse(&run.stdout)["ready"] == true
    }

    /// Ends it with SIGKILL; what it made stays.
    pub fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Waits until it has ended of its own accord.
    pub fn wait(&mut self) {
        assert!(self.child.take().unwrap().wait().unwrap().success());
    }

    /// Whether its process lives.
    pub fn is_running(&mut self) -> bool {
        let ended = |child: &mut Child| child.try_wait().unwrap().is_some();
        if self.child.as_mut().is_some_and(ended) {
            self.child = None;
        }
        self.child.is_some()
    }

    /// Waits until it has ended of its own accord; its exit code.
    #[track_caller]
    pub fn exit_code(&mut self) -> i32 {
        let child = self.child.as_mut().unwrap();
        let what = format!("{} ends", self.instance);
        let status = eventually(&what, || child.try_wait().unwrap());
        self.child = None;
        status.code().unwrap_or(-1)
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// Stops its process where it is until the guard goes.
    pub fn stop(&self) -> Stopped {
        Stopped::now(self.pid())
    }

    /// Its instance, which is its node too.
    pub fn instance(&self) -> &str {
        &self.instance
    }

    /// Its host's namespace.
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// `overlay --instance INSTANCE` and words.
    pub fn overlay(&self, words: &str) -> Run {
        overlay(
            &self.instance,
            &words.split_whitespace().collect::<Vec<_>>(),
        )
    }

    /// The same; it must succeed.
    #[track_caller]
    pub fn does(&self, words: &str) -> String {
        let run = self.overlay(words);
        assert_eq!(run.code, 0, "overlay {words}: {}", run.stderr);
        run.stdout
    }

    /// The answer of a verb as JSON.
    #[track_caller]
    pub fn json(&self, words: &str) -> Value {
        parse(&self.does(&format!("-o json {words}")))
    }

    /// Adds an endpoint on a network with addresses; gives its namespace.
    #[track_caller]
    pub fn endpoint(&self, name: &str, vni: u32, addresses: &[&str]) -> Netns {
        let mut words = format!("endpoint add {name} --vni {vni}");
        for address in addresses {
            words.extend([" --ip ", address]);
        }
        self.does(&words);
        Netns::named(name)
    }

    /// How often packets were dropped for `reason`.
    pub fn drops(&self, reason: &str) -> u64 {
        let drops = self.json("drops");
        drops[reason]
            .as_u64()
            .unwrap_or_else(|| panic!("no reason {reason}: {drops}"))
    }

    /// Waits until the count of `reason` is `before` and `more`.
    #[track_caller]
    pub fn dropped(&self, reason: &str, before: u64, more: u64) {
        until(
            &format!("{more} drops of {reason}: {}", self.json("drops")),
            || self.drops(reason) >= before + more,
        );
        assert_eq!(self.drops(reason), before + more, "{reason}");
    }

    /// Where the map `name` is pinned.
    pub fn map(&self, name: &str) -> String {
        format!(
            "/sys/fs/bpf/overlay/{}/v{ABI_VERSION}/maps/{name}",
            self.instance
        )
    }

    /// What is in the map `name`, as bpftool shows it by its BTF.
    #[track_caller]
    pub fn dump(&self, name: &str) -> Vec<Value> {
        let entries = self.entries(name).into_iter();
        entries.map(|entry| entry["formatted"].clone()).collect()
    }

    /// Adds a copy of an entry of the map `name`, under the same key but for one byte.
    #[track_caller]
    pub fn forge(&self, name: &str, byte: usize) {
        let entry = self.entries(name).swap_remove(0);
        let [mut key, value] = ["key", "value"].map(|part| {
            let bytes = entry[part].as_array().unwrap().iter();
            bytes
                .map(|byte| byte.as_str().unwrap().to_owned())
                .collect::<Vec<_>>()
        });
        "0x63".clone_into(&mut key[byte]);
        let map = self.map(name);
        let mut bpftool = Command::new("bpftool");
        bpftool
            .args(["map", "update", "pinned", &map, "key"])
            .args(key);
        let run = Run::of(bpftool.arg("value").args(value));
        assert_eq!(run.code, 0, "{run:?}");
    }

    /// Takes all entries out of the map `name`.
    #[track_caller]
    pub fn clear(&self, name: &str) {
        for entry in self.entries(name) {
            let key = entry["key"].as_array().unwrap().iter();
            let mut bpftool = Command::new("bpftool");
            bpftool.args(["map", "delete", "pinned", &self.map(name), "key"]);
            let run = Run::of(bpftool.args(key.map(|byte| byte.as_str().unwrap())));
            assert_eq!(run.code, 0, "{run:?}");
        }
    }

    fn entries(&self, name: &str) -> Vec<Value> {
        let map = self.map(name);
        let text = crate::netns::run("bpftool", &["-j", "map", "dump", "pinned", &map]);
        parse(&text).as_array().unwrap().clone()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- log of {}\n{}---", self.instance, self.log());
            eprintln!("{}", overlay(&self.instance, &["drops"]).stdout);
        }
        if let Some(child) = &mut self.child {
            let down = overlay(&self.instance, &["down"]);
            if down.code != 0 {
                eprintln!("{}: {}", self.instance, down.stderr.trim());
            }
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[track_caller]
fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}
