use std::{path::PathBuf, sync::Arc};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::agent::{
    api::{ErrorKind, fake},
    server,
};
use crate::config::LogFormat;

fn parse(line: &str) -> Result<Cli, Stop> {
    let words = shell_words(line);
    let args = std::iter::once("overlay".to_owned()).chain(words);
    Cli::from_args(args.map(OsString::from))
}

/// Words, where a double-quoted one may have spaces.
fn shell_words(line: &str) -> Vec<String> {
    let parts = line.split('"').enumerate();
    parts
        .flat_map(|(index, part)| match index % 2 {
            0 => part.split_whitespace().map(str::to_owned).collect(),
            _ => vec![part.to_owned()],
        })
        .collect()
}

/// Exit code and stderr of a command line that is not carried out.
fn stopped(line: &str) -> (u8, String) {
    let mut stderr = Vec::new();
    let code = match parse(line) {
        Err(stop) => stop.report(&mut stderr),
        Ok(cli) => {
            let format = cli.output;
            let Verb::Run(run) = cli.verb else {
                panic!("{line} should be refused");
            };
            let error = run.config(cli.instance, cli.log).unwrap_err();
            Failure::from(error).report(format, &mut stderr)
        }
    };
    (code, String::from_utf8(stderr).unwrap())
}

#[test]
fn the_definition_of_the_command_line_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn every_verb_teaches_by_example() {
    fn check(command: &clap::Command, path: &str) {
        let path = format!("{path} {}", command.get_name());
        let help = command.get_after_help().map(ToString::to_string);
        assert!(
            help.is_some_and(|help| help.contains("Examples:")),
            "{path}"
        );
        assert!(command.get_about().is_some(), "{path}");
        for verb in command.get_subcommands() {
            check(verb, &path);
        }
    }
    check(&Cli::command(), "");
}

#[test]
fn every_example_parses() {
    fn check(command: &clap::Command) {
        let help = command.get_after_help().unwrap().to_string();
        let help = help.replace("\\\n      ", "");
        for line in help.lines() {
            let Some(example) = line.strip_prefix("  overlay ") else {
                continue;
            };
            // What follows a pipe, a redirection or three spaces is not ours.
            let ours = example.split([';', '|', '>']).next().unwrap();
            let ours = ours.split("   ").next().unwrap();
            let parsed = parse(ours);
            assert!(parsed.is_ok(), "{example}: {parsed:?}");
        }
        command.get_subcommands().for_each(check);
    }
    check(&Cli::command());
}

#[test]
fn a_log_setting_of_json_alone_keeps_what_is_logged() {
    let cli = parse("--log json run --iface eth0").unwrap();
    let Verb::Run(run) = cli.verb else {
        panic!("run is run");
    };
    let config = run.config(cli.instance, cli.log).unwrap();
    assert_eq!(
        (config.log_format, config.log.as_str()),
        (LogFormat::Json, "info")
    );
}

/// Command lines, and what their error says.
const BAD_INPUT: &[(&str, &str)] = &[
    (
        "endpoint add web --vni 0",
        "--vni: VNI \"0\" is not a number from 1 to 16777215",
    ),
    (
        "endpoint add web --vni 16777216",
        "--vni: VNI \"16777216\" is not a number from 1 to 16777215",
    ),
    (
        "endpoint add web --vni=",
        "--vni: VNI \"\" is not a number from 1 to 16777215",
    ),
    (
        "endpoint add web",
        "the following required arguments were not provided: --vni <N>; see 'overlay endpoint add --help'",
    ),
    (
        "endpoint add web --vni",
        "a value is required for '--vni <N>' but none was supplied",
    ),
    (
        "endpoint add web --vni 1 --vni 2",
        "'--vni <N>' cannot be used multiple times",
    ),
    (
        "endpoint add web --vni 1 --mac x",
        "--mac: MAC \"x\" is malformed",
    ),
    (
        "endpoint add web --vni 1 --mac ff:ff:ff:ff:ff:ff",
        "is a multicast or all-zero address",
    ),
    (
        "endpoint add web --vni 1 --ip 7.7.7",
        "--ip: IP \"7.7.7\" is malformed",
    ),
    (
        "endpoint add web --vni 1 --ip \"\"",
        "--ip: IP \"\" is malformed",
    ),
    (
        "endpoint add web --vni 1 --ip 7.7.7.0/24",
        "--ip: IP 7.7.7.0/24 is the first or last address",
    ),
    (
        "endpoint add web --vni 1 --netns ../x",
        "--netns: name \"../x\" is not allowed",
    ),
    (
        "endpoint add web --vni 1 --ifname 0123456789abcdef",
        "--ifname: interface name \"0123456789abcdef\" is not allowed",
    ),
    (
        "endpoint add web --vmi 1",
        "unexpected argument '--vmi' found; tip: a similar argument exists: '--vni'; see 'overlay endpoint add --help'",
    ),
    (
        "endpoint add a/b --vni 1",
        "<NAME>: name \"a/b\" is not allowed",
    ),
    (
        "endpoint rm \"a\nb\"",
        "<NAME>: name \"a\\nb\" is not allowed",
    ),
    (
        "endpoint show",
        "the following required arguments were not provided: <NAME>",
    ),
    ("endpoint lss", "unrecognized subcommand 'lss'"),
    (
        "network create blue --vni x",
        "--vni: VNI \"x\" is not a number",
    ),
    (
        "network create blue --vni 1 --subnet 7.7.7.0",
        "--subnet: subnet \"7.7.7.0\" is malformed",
    ),
    (
        "network create blue --vni 1 --mtu 65536",
        "--mtu: MTU \"65536\" is not a number from 0 to 65535",
    ),
    (
        "network create blue --vni 1 --flood all",
        "--flood: flood mode \"all\" is unknown: use none, head-end or multicast GROUP",
    ),
    (
        "network create blue --vni 1 --resolve lazily",
        "--resolve: resolve mode \"lazily\" is unknown: use proactive or on-demand",
    ),
    (
        "network create blue --vni 1 --flood \"multicast 10.0.0.1\"",
        "--flood: flood group 10.0.0.1 is not a multicast address",
    ),
    (
        "import arpd /x",
        "required arguments were not provided: --vni <N>",
    ),
    ("completions csh", "invalid value 'csh' for '<SHELL>'"),
    (
        "--instance a/b status",
        "--instance: name \"a/b\" is not allowed",
    ),
    (
        "-o xml status",
        "invalid value 'xml' for '--output <FORMAT>' [possible values: table, json]",
    ),
    (
        "--log a=b=c status",
        "--log: log filter \"a=b=c\" is not understood",
    ),
    ("run", "no underlay interface is named: give --iface IF"),
    (
        "run --iface \"a b\"",
        "--iface: interface name \"a b\" is not allowed",
    ),
    ("run --vni 1,0", "--vni: VNI \"0\" is not a number"),
    (
        "run --registry x.db",
        "--registry: registry URL \"x.db\" is not understood",
    ),
    (
        "run --registry etcd://root:hunter2@10.0.0.1:2379",
        "--registry: a registry URL must not hold a user or a password: write sqlite:///PATH or",
    ),
    (
        "run --iface eth0 --registry etcd://h:2379 --etcd-password-file /nowhere/p",
        "--etcd-password-file needs --etcd-user too",
    ),
    (
        "run --iface eth0 --registry etcd://h:2379 --etcd-ca /nowhere/ca.pem",
        "--etcd-ca: can't read /nowhere/ca.pem: No such file",
    ),
    (
        "run --iface eth0 --etcd-user root --etcd-password-file /nowhere/p",
        "--etcd-user is for an etcd registry",
    ),
    (
        "run --iface eth0 --etcd-insecure",
        "--etcd-insecure is for an etcd registry",
    ),
    (
        "run --metrics h1",
        "--metrics: metrics address \"h1\" is not understood: use PORT, :PORT or IP:PORT",
    ),
    (
        "run --quarantine 2d",
        "--quarantine: \"2d\" is not a time from 0s to 24h: write for example 30s",
    ),
    (
        "run --cache-entries 15",
        "--cache-entries: \"15\" is not a number of entries from 16 to 16777216",
    ),
    ("run --node \"\"", "--node: name \"\" is not allowed"),
    (
        "run --local-ip fd00::1",
        "--local-ip: IP \"fd00::1\" is malformed: write for example 10.0.0.1",
    ),
    (
        "run --port 0",
        "--port: UDP port \"0\" is not a number from 1 to 65535",
    ),
    (
        "run --port 65536",
        "--port: UDP port \"65536\" is not a number",
    ),
    (
        "run --fdb-entries 1023",
        "--fdb-entries: \"1023\" is not a number of entries from 1024 to 16777216",
    ),
    (
        "run --neighbor-entries 16777217",
        "--neighbor-entries: \"16777217\" is not a number",
    ),
    (
        "run --strict-reserved=maybe",
        "invalid value 'maybe' for '--strict-reserved",
    ),
    (
        "run --iface eth0 --config /nowhere/x.toml",
        "can't read the configuration file /nowhere/x.toml",
    ),
];

#[test]
fn bad_input_is_one_line_and_exit_code_2() {
    for (args, expected) in BAD_INPUT {
        let (code, stderr) = stopped(args);
        assert_eq!(code, 2, "{args}: {stderr}");
        let line = stderr.strip_suffix('\n').unwrap_or_default();
        assert!(!line.contains('\n'), "{args}: {stderr}");
        assert!(line.starts_with("error: "), "{args}: {line}");
        assert!(line.contains(expected), "{args}: {line}");
        assert!(!line.contains("hunter2"), "{args}: {line}");
    }
}

#[test]
fn bad_input_is_json_wherever_json_was_asked_for() {
    for args in [
        "-o json endpoint add web --vni 0",
        "endpoint add web --vni 0 -o json",
        "endpoint add --vni=0 web --output=json",
        "endpoint --output json add --bogus",
        "-ojson",
        "-o=json network",
        "-o json run --iface a/b",
        "-o json run",
    ] {
        let (code, stderr) = stopped(args);
        assert_eq!(code, 2, "{args}: {stderr}");
        let error: Value = serde_json::from_str(&stderr).unwrap();
        assert_eq!(error["error"]["kind"], json!("usage"), "{args}");
        assert!(error["error"]["message"].is_string(), "{args}");
        assert_eq!(stderr.lines().count(), 1, "{args}");
    }
}

#[test]
fn what_a_message_quotes_can_not_break_the_line() {
    let mut stderr = Vec::new();
    let failure = Failure::internal("first\nsecond\u{1b}[31m\n");
    assert_eq!(failure.report(Format::Table, &mut stderr), 1);
    assert_eq!(stderr, b"error: first second [31m\n");
}

#[test]
fn a_closed_pipe_is_no_failure() {
    let mut stderr = Vec::new();
    let failure = Failure::Output(std::io::ErrorKind::BrokenPipe.into());
    assert_eq!(failure.report(Format::Table, &mut stderr), 0);
    assert!(stderr.is_empty());
}

/// A fake agent, and a socket to it.
struct Agent {
    socket: PathBuf,
    _folder: TempDir,
}

fn agent(fake: fake::Fake) -> Agent {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("default.sock");
    let listener = server::listen(&socket, None).unwrap();
    tokio::spawn(server::serve(
        listener,
        Arc::new(fake),
        std::future::pending(),
    ));
    Agent {
        socket,
        _folder: folder,
    }
}

impl Agent {
    async fn run(&self, line: &str) -> Result<String, Failure> {
        let (out, outcome) = self.execute(line).await;
        outcome.map(|()| out)
    }

    /// What it printed, and the line that it ended with if it failed.
    async fn run_through(&self, line: &str) -> (String, Result<(), String>) {
        let (out, outcome) = self.execute(line).await;
        let outcome = outcome.map_err(|failure| match failure {
            Failure::Operation(error) => error.message,
            Failure::Output(error) => error.to_string(),
        });
        (out, outcome)
    }

    async fn execute(&self, line: &str) -> (String, Result<(), Failure>) {
        let cli = parse(line).unwrap();
        let Verb::Command(command) = cli.verb else {
            panic!("{line} is for an agent");
        };
        let mut out = Vec::new();
        let client = Client::at("default".parse().unwrap(), self.socket.clone());
        let output = Output::new(cli.output, &mut out);
        let mut session = Session::with_client(client, output);
        let outcome = command.execute(&mut session).await;
        (String::from_utf8(out).unwrap(), outcome)
    }
}

#[tokio::test]
async fn verbs_print_tables_for_people() {
    let agent = agent(fake::Fake::default());
    for (line, expected) in [
        (
            "network create blue --vni 42",
            "network blue created with VNI 42\n",
        ),
        (
            "network ls",
            "NAME   VNI   SUBNETS      MTU    FLOOD   LEARNING   RESOLVE\n\
             blue   42    7.7.7.0/24   auto   none    off        proactive\n",
        ),
        ("network rm blue", "network blue removed\n"),
        (
            "endpoint add web --vni 42",
            "endpoint web is ready: 7.7.7.2/24,fd00::2/64 02:42:07:07:07:02 on eth0 in namespace web\n",
        ),
        (
            "endpoint ls",
            "NAME   VNI   MAC                 IPS               NODE            VTEP       NETNS   IFNAME   STATE\n\
             old    42    02:42:07:07:07:09   7.7.7.9           vtep-10.0.0.9   10.0.0.9   -       -        remote\n\
             web    42    02:42:07:07:07:02   7.7.7.2,fd00::2   h1              10.0.0.1   web     eth0     ready\n",
        ),
        (
            "endpoint show web",
            "Name         web\n\
             VNI          42\n\
             MAC          02:42:07:07:07:02\n\
             Addresses    7.7.7.2/24,fd00::2/64\n\
             Node         h1\n\
             VTEP         10.0.0.1\n\
             Namespace    web\n\
             Interface    eth0\n\
             Generation   7\n\
             State        ready\n\
             Error        -\n",
        ),
        (
            "endpoint move web --node h1",
            "endpoint web lives on h1 now, generation 7\n",
        ),
        ("endpoint rm web", "endpoint web removed\n"),
        (
            "vtep rm vtep-10.0.0.9 10.0.0.99",
            "node vtep-10.0.0.9 removed, and with it 2 endpoints\nthere is no node 10.0.0.99\n",
        ),
        (
            "status",
            "Instance    default (ready)\n\
             Node        h1\n\
             VTEP        10.0.0.1:4789 on eth0\n\
             Registry    sqlite:///var/lib/overlay/registry.db (connected, revision 12)\n\
             Networks    2\n\
             Endpoints   3 local, 4 remote\n\
             Datapath    tcx, ABI 1, fast path on\n\
             Maps        fdb 7/262144\n",
        ),
        ("drops", "REASON        PACKETS\nunknown_vni   3\n"),
        (
            "drops --all",
            "REASON        PACKETS\nunknown_vni   3\nmalformed     0\n",
        ),
        (
            "import arpd /var/lib/arpd --vni 42",
            "VNI 42: 3 endpoints behind 2 VTEPs taken over\n",
        ),
        ("down", "instance default is down\n"),
    ] {
        assert_eq!(agent.run(line).await.unwrap(), expected, "{line}");
    }
    let vteps = agent.run("vtep ls").await.unwrap();
    assert!(vteps.starts_with("NODE "), "{vteps}");
    assert!(
        vteps.ends_with("10.0.0.9   4789   -      -           no agent   -\n"),
        "{vteps}"
    );
}

#[tokio::test]
async fn verbs_print_the_views_as_json_for_programs() {
    let agent = agent(fake::Fake::default());
    for (line, expected) in [
        ("network ls", json!([agent_json(fake::network())])),
        ("network rm blue", json!({})),
        ("endpoint add web --vni 42", json!(fake::endpoint())),
        ("endpoint show web", json!(fake::endpoint())),
        (
            "endpoint ls",
            json!([fake::imported_endpoint(), fake::endpoint()]),
        ),
        ("endpoint rm web", json!({})),
        ("vtep ls", json!(fake::vteps())),
        (
            "vtep rm 10.0.0.9 10.0.0.99",
            json!([{"node": "vtep-10.0.0.9", "ip": "10.0.0.9", "endpoints": 2}]),
        ),
        ("status", json!(fake::status())),
        ("drops", json!({"unknown_vni": 3, "malformed": 0})),
        (
            "import arpd /x --vni 42",
            json!({"vni": 42, "endpoints": 3, "vteps": 2}),
        ),
        ("down", json!({})),
    ] {
        let out = agent.run(&format!("-o json {line}")).await.unwrap();
        let value: Value = serde_json::from_str(&out).unwrap();
        assert_eq!(value, expected, "{line}");
    }
}

#[tokio::test]
async fn what_monitor_prints_is_a_line_an_event_and_ends_with_the_agent() {
    let agent = agent(fake::Fake::default());
    for (line, expected) in [
        (
            "monitor",
            "2026-08-01T12:00:00.123Z drop      too_big 3 packets, 7 in all\n".to_owned(),
        ),
        ("-o json monitor", format!("{}\n", json!(fake::event()))),
    ] {
        let (out, failure) = agent.run_through(line).await;
        assert_eq!(
            (out.len(), failure.unwrap_err()),
            (
                expected.len(),
                "the agent of instance default has ended".to_owned()
            ),
            "{out}"
        );
    }
}

#[tokio::test]
async fn findings_are_printed_with_exit_code_1_and_a_line_that_sums_up() {
    let agent = agent(fake::Fake::default());
    for (line, expected, summary) in [
        (
            "verify",
            "NODE   VERDICT   REVISION   ENTRIES\n\
             h2     differs   12         7\n\
             h2: VNI 42 fdb 02:42:07:07:07:02 (endpoint web) is missing: the registry has it behind \
             10.0.0.1:4789, generation 7\n",
            "not what the registry wants: h2",
        ),
        (
            "doctor",
            "problem: peer h2: ABI version 3: upgrade it\n\
             warning: peer h3: silent: see its log\n\
             well: kernel, maps\n",
            "there is a problem",
        ),
    ] {
        let (out, failure) = agent.run_through(line).await;
        assert_eq!(out, expected, "{line}");
        let failure = failure.unwrap_err();
        assert!(failure.starts_with(summary), "{failure}");
        let (out, failure) = agent.run_through(&format!("-o json {line}")).await;
        serde_json::from_str::<Value>(&out).unwrap();
        assert!(failure.is_err(), "{line}");
    }
}

fn agent_json(network: crate::model::Network) -> Value {
    json!(crate::agent::api::NetworkView::from(network))
}

#[tokio::test]
async fn what_the_agent_refuses_is_one_line_and_exit_code_1() {
    let agent = agent(fake::Fake::refusing(
        ErrorKind::Conflict,
        "MAC 02:42:07:07:07:02 is taken by endpoint blue",
    ));
    let failure = agent.run("endpoint add web --vni 42").await.unwrap_err();
    let mut stderr = Vec::new();
    assert_eq!(failure.report(Format::Table, &mut stderr), 1);
    assert_eq!(
        String::from_utf8(stderr).unwrap(),
        "error: MAC 02:42:07:07:07:02 is taken by endpoint blue\n"
    );
    let mut stderr = Vec::new();
    assert_eq!(failure.report(Format::Json, &mut stderr), 1);
    assert_eq!(
        serde_json::from_slice::<Value>(&stderr).unwrap(),
        json!({"error": {
            "message": "MAC 02:42:07:07:07:02 is taken by endpoint blue", "kind": "conflict",
        }})
    );
}

#[tokio::test]
async fn every_shell_gets_its_completions() {
    let agent = agent(fake::Fake::default());
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = agent.run(&format!("completions {shell}")).await.unwrap();
        assert!(script.contains("endpoint"), "{shell}");
    }
}
