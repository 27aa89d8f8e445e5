use std::{path::PathBuf, sync::Arc};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::agent::{
    api::{ErrorKind, ShowDrops},
    fake, server,
};
use crate::config::LogFormat;

mod bad_input;

fn parse(line: &str) -> Result<Cli, ParseExit> {
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
            CommandError::from(error).report(format, &mut stderr)
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
    let failure = CommandError::internal("first\nsecond\u{1b}[31m\n");
    assert_eq!(failure.report(Format::Table, &mut stderr), 1);
    assert_eq!(stderr, b"error: first second [31m\n");
}

#[test]
fn a_closed_pipe_is_no_failure() {
    let mut stderr = Vec::new();
    let failure = CommandError::Output(std::io::ErrorKind::BrokenPipe.into());
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
    async fn run(&self, line: &str) -> Result<String, CommandError> {
        let (out, outcome) = self.execute(line).await;
        outcome.map(|()| out)
    }

    /// What it printed, and the line that it ended with if it failed.
    async fn run_through(&self, line: &str) -> (String, Result<(), String>) {
        let (out, outcome) = self.execute(line).await;
        let outcome = outcome.map_err(|failure| match failure {
            CommandError::Operation(error) => error.message,
            CommandError::Several(errors) => {
                let messages: Vec<_> = errors.into_iter().map(|error| error.message).collect();
                messages.join("\n")
            }
            CommandError::Output(error) => error.to_string(),
        });
        (out, outcome)
    }

    async fn execute(&self, line: &str) -> (String, Result<(), CommandError>) {
        let cli = parse(line).unwrap();
        let Verb::Command(command) = cli.verb else {
            panic!("{line} is for an agent");
        };
        let mut out = Vec::new();
        let client = Client::at("default".parse().unwrap(), self.socket.clone());
        let output = Output::new(cli.output, &mut out);
        let mut context = Context::with_client(client, output);
        let outcome = command.execute(&mut context).await;
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
            "NAME   VNI   SUBNETS      MTU    FLOOD   LEARNING   RESOLVE     SNAT   DHCP   QOS\n\
             blue   42    7.7.7.0/24   auto   none    off        proactive   none   off    -\n",
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
             Traffic      -\n\
             Dropped      -\n\
             QoS          -\n\
             Error        -\n",
        ),
        (
            "endpoint move web --node h1",
            "endpoint web lives on h1 now, generation 7\n",
        ),
        (
            "endpoint set web --mac 02:42:07:07:07:02",
            "endpoint web is ready: 7.7.7.2/24,fd00::2/64 02:42:07:07:07:02, generation 7\n",
        ),
        ("endpoint rm web", "endpoint web removed\n"),
        (
            "endpoint delete web nope",
            "endpoint web removed\nthere is no endpoint nope\n",
        ),
        ("network rm nope", "there is no network nope\n"),
        (
            "network set blue --mtu 1400 --learning on",
            "NAME   VNI   SUBNETS      MTU    FLOOD   LEARNING   RESOLVE     SNAT   DHCP   QOS\n\
             blue   42    7.7.7.0/24   1400   none    on         proactive   none   off    -\n",
        ),
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
             Paths       1 ok, 1 one way\n\
             Datapath    tcx, ABI 1, fast path on\n\
             Dropped     3 packets, and 12 of noise\n\
             Maps        fdb 7/262144\n",
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
        vteps.ends_with(
            "10.0.0.9   4789   -      -           no agent   -      -     -         -\n"
        ),
        "{vteps}"
    );
}

#[tokio::test]
async fn drops_are_printed_with_their_class_and_if_asked_for_with_packets_or_of_an_endpoint() {
    let agent = agent(fake::Fake::default());
    for (line, expected) in [
        (
            "drops",
            "REASON        PACKETS   CLASS\nunknown_vni   3         loss\n",
        ),
        (
            "drops --all",
            "REASON        PACKETS   CLASS\n\
             unknown_vni   3         loss\n\
             malformed     0         loss\n",
        ),
        (
            "drops -v",
            "REASON                 PACKETS   CLASS\n\
             source_ip              70        loss\n\
             multicast_membership   99        noise\n\
             \n\
             TIME                     REASON      ENDPOINT   WAY    VNI   PEER   PACKET\n\
             2026-11-20T22:52:44.8Z   source_ip   web        sent   42    h2     \
             7.7.7.9 -> 7.7.7.3 icmp type 8, 98 bytes\n",
        ),
        (
            "drops --endpoint web",
            "REASON      SENT   RECEIVED\nsource_ip   70     0\n",
        ),
    ] {
        assert_eq!(agent.run(line).await.unwrap(), expected, "{line}");
    }
}

#[tokio::test]
async fn verbs_of_the_outside_print_tables_for_people() {
    let agent = agent(fake::Fake::default());
    for (line, expected) in [
        (
            "router set r1 --outside host",
            "Name       r1\n\
             Number     1\n\
             MAC        02:00:5e:00:01:01\n\
             Outside    host\n\
             Networks   blue (7.7.7.1/24)\n\
             Routes     10.9.0.0/16 via 7.7.7.9\n",
        ),
        (
            "router route add r1 192.0.2.0/24 via outside",
            "route 192.0.2.0/24 outside added\n",
        ),
        (
            "float add 203.0.113.6 --endpoint db",
            "IP            ENDPOINT   VNI   ADDRESS   NODE   STATE\n\
             203.0.113.6   db         42    7.7.7.2   h1     ready\n",
        ),
        (
            "float move 203.0.113.5 --endpoint db --ip 7.7.7.2",
            "IP            ENDPOINT   VNI   ADDRESS   NODE   STATE\n\
             203.0.113.5   db         42    7.7.7.2   h1     ready\n",
        ),
        (
            "float ls",
            "IP            ENDPOINT   VNI   ADDRESS   NODE   STATE\n\
             203.0.113.5   web        42    7.7.7.2   h1     ready\n",
        ),
        (
            "float rm 203.0.113.5 203.0.113.9",
            "float 203.0.113.5 removed\nthere is no float 203.0.113.9\n",
        ),
        (
            "pool create games --ip 203.0.113.16 --filter endpoint-independent",
            "NAME    ADDRESSES         BLOCK   MOST   FILTER   USED       NETWORKS\n\
             games   203.0.113.16/32   1024    8      flow     0 of 504   blue\n",
        ),
        (
            "pool ls",
            "NAME     ADDRESSES        BLOCK   MOST   FILTER   USED       NETWORKS\n\
             public   203.0.113.8/29   1024    8      flow     3 of 504   blue\n",
        ),
        ("pool rm public", "pool public removed\n"),
        (
            "nat ls",
            "ENDPOINT   NODE   POOL     IP            PORTS         TCP   UDP   ICMP   EARLY\n\
             web        h1     public   203.0.113.8   40960-41983   2     0     0      0\n\
             endpoint db has no block: all blocks of ports are taken: give the pool more addresses\n",
        ),
        (
            "nat ls --mappings",
            "PROTOCOL   ENDPOINT   INSIDE          OUTSIDE             ESTABLISHED   IDLE\n\
             tcp        web        7.7.7.2:50000   203.0.113.8:40961   1             5s\n",
        ),
        (
            "nat check 203.0.113.8:40961 --at 2026-11-30T12:00:00Z",
            "ENDPOINT   VNI   NODE   FROM                   UNTIL\n\
             web        42    h1     2026-09-21T14:13:20Z   now\n",
        ),
        (
            "flow ls",
            "PROTOCOL   ENDPOINT   INSIDE          OUTSIDE             REMOTE             STATE         IDLE\n\
             tcp        web        7.7.7.2:50000   203.0.113.8:40961   198.51.100.9:443   established   5s\n",
        ),
        ("flow rm --endpoint web", "3 flows ended\n"),
    ] {
        assert_eq!(agent.run(line).await.unwrap(), expected, "{line}");
    }
}

#[tokio::test]
async fn router_verbs_print_tables_for_people() {
    let agent = agent(fake::Fake::default());
    for (line, expected) in [
        ("router create r1", "router r1 created\n"),
        (
            "router attach r1 blue",
            "NAME   MAC                 NETWORKS   GATEWAYS     ROUTES\n\
             r1     02:00:5e:00:01:01   blue       7.7.7.1/24   1\n",
        ),
        (
            "router show r1",
            "Name       r1\n\
             Number     1\n\
             MAC        02:00:5e:00:01:01\n\
             Outside    none\n\
             Networks   blue (7.7.7.1/24)\n\
             Routes     10.9.0.0/16 via 7.7.7.9\n",
        ),
        (
            "router route add r1 10.66.0.0/16 blackhole",
            "route 10.66.0.0/16 blackhole added\n",
        ),
        (
            "router route ls r1",
            "PREFIX        TARGET\n\
             10.9.0.0/16   via 7.7.7.9\n",
        ),
        (
            "router route rm r1 10.9.0.0/16",
            "route 10.9.0.0/16 removed\n",
        ),
        (
            "router detach r1 blue",
            "network blue detached (router r1)\n",
        ),
        (
            "router rm r1 nope",
            "router r1 removed\nthere is no router nope\n",
        ),
    ] {
        assert_eq!(agent.run(line).await.unwrap(), expected, "{line}");
    }
}

#[tokio::test]
async fn qos_verbs_print_tables_for_people() {
    let agent = agent(fake::Fake::default());
    let row = "NAME   EGRESS   INGRESS    BURST   PPS   DSCP   PRIORITY   USERS\n\
               gold   1gbit    1500mbit   1mb     -     af21   -          2\n";
    for (line, expected) in [
        ("qos create gold --egress 1gbit", "qos gold created\n"),
        ("qos set gold --egress 1gbit --pps none", row),
        ("qos ls", row),
        (
            "qos show gold",
            "Name        gold\n\
             Egress      1gbit\n\
             Ingress     1500mbit\n\
             Burst       1mb\n\
             Packets/s   -\n\
             DSCP        af21\n\
             Priority    -\n\
             Endpoints   web\n\
             Networks    42\n",
        ),
        ("qos rm gold", "qos gold removed\n"),
    ] {
        assert_eq!(agent.run(line).await.unwrap(), expected, "{line}");
    }
}

#[test]
fn limits_that_make_no_sense_are_refused() {
    for (line, why) in [
        ("qos create q --egress 0", "rate 0 would let nothing pass"),
        ("qos create q --egress 1gb", "rate \"1gb\" is none"),
        ("qos create q --pps 0", "0 is not in 1.."),
        ("qos create q --dscp af51", "DSCP \"af51\" is none"),
        ("qos create q --burst 9gb", "size \"9gb\" is none"),
    ] {
        let (code, stderr) = stopped(line);
        assert_eq!(code, 2, "{line}");
        assert!(stderr.contains(why), "{line}: {stderr}");
    }
}

#[tokio::test]
async fn verbs_print_the_views_as_json_for_programs() {
    let agent = agent(fake::Fake::default());
    for (line, expected) in [
        ("network ls", json!([agent_json(fake::network())])),
        (
            "network rm blue",
            json!({"removed": ["blue"], "absent": []}),
        ),
        ("endpoint add web --vni 42", json!(fake::endpoint())),
        ("endpoint show web", json!(fake::endpoint())),
        (
            "endpoint ls",
            json!([fake::imported_endpoint(), fake::endpoint()]),
        ),
        (
            "endpoint rm web nope db",
            json!({"removed": ["web", "db"], "absent": ["nope"]}),
        ),
        ("vtep ls", json!(fake::vteps())),
        (
            "vtep rm 10.0.0.9 10.0.0.99",
            json!([{"node": "vtep-10.0.0.9", "ip": "10.0.0.9", "endpoints": 2}]),
        ),
        ("status", json!(fake::status())),
        ("drops", json!({"unknown_vni": 3, "malformed": 0})),
        ("drops -v", json!(fake::drops_of(&ShowDrops::default()))),
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

#[tokio::test]
async fn pairs_of_hosts_are_a_matrix_of_who_sends_and_whom_it_is_for() {
    let agent = agent(fake::Fake::default());
    let (out, failure) = agent.run_through("doctor --cluster").await;
    let hosts = fake::cluster().hosts;
    let (one, two) = (hosts[0].node.as_str(), hosts[1].node.as_str());
    let lines: Vec<Vec<&str>> = out
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert!(lines.contains(&vec!["FROM", "\\", "TO", one, two]), "{out}");
    assert!(lines.contains(&vec![one, "-", "LOST"]), "{out}");
    assert!(lines.contains(&vec![two, "0.21", "ms", "-"]), "{out}");
    assert!(failure.unwrap_err().starts_with("there is a problem"));
}

#[tokio::test]
async fn an_echo_tells_its_way_and_its_round_trip_or_where_it_was_lost() {
    let agent = agent(fake::Fake::default());
    let (out, done) = agent.run_through("ping -c 1 --size auto web db").await;
    assert_eq!(
        out,
        "web (h1) -> db (h2) via 10.0.0.2\n\
         1: 84 bytes back in 0.21 ms\n\
         1 sent, 0 lost, round trip min/mean/max 0.21 ms/0.21 ms/0.21 ms\n\
         largest packet 1200 bytes, of 1450 that interfaces and network allow\n"
    );
    done.unwrap();
    let (out, failure) = agent.run_through("ping -c 1 --size 1400 db").await;
    assert!(
        out.contains("1: 1400 bytes lost, last seen by h1\n1 sent, 1 lost\n"),
        "{out}"
    );
    assert_eq!(
        failure.unwrap_err(),
        "1 of 1 echoes were lost: it left h1, and did not get to h2: let UDP through"
    );
    let (out, _) = agent.run_through("-o json ping -c 1 web db").await;
    let view: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&view["sent"], &view["received"]), (&json!(1), &json!(1)));
    assert_eq!(view["from_node"], "h1");
}

#[tokio::test]
async fn a_packet_is_explained_by_the_rows_that_decide_and_by_its_end() {
    let agent = agent(fake::Fake::default());
    let (out, done) = agent.run_through("explain web 7.7.7.3").await;
    assert_eq!(
        out,
        "endpoint web on node h1 sends icmp echo request 7.7.7.2 > 7.7.7.3\n\
         \n\
         on node h1: icmp echo request 7.7.7.2 > 7.7.7.3\n\
         PROGRAM            TABLE   KEY                         ROW\n\
         endpoint_ingress   fdb     vni 42, 02:42:07:07:07:03   local, ov3 (12)\n\
         delivered to db: icmp echo request 7.7.7.2 > 7.7.7.3\n"
    );
    done.unwrap();
    let (out, failure) = agent
        .run_through("explain web 7.7.7.3 --proto tcp --port 443")
        .await;
    assert!(
        out.contains("02:42:07:07:07:03   none\ndropped: No endpoint"),
        "{out}"
    );
    assert!(
        failure
            .unwrap_err()
            .contains("does not get there: on node h1"),
        "{out}"
    );
    let (_, failure) = agent.run_through("explain web 7.7.7.3 --proto udp").await;
    assert_eq!(
        failure.unwrap_err(),
        "TCP and UDP need --port: the destination's"
    );
}

#[tokio::test]
async fn dhcp_verbs_print_tables_for_people() {
    let agent = agent(fake::Fake::default());
    let listed = "NETWORK   VNI   DHCP   SERVER    DNS       DOMAIN          LEASE\n\
                  blue      42    on     7.7.7.1   8.8.8.8   cloud.example   24h\n";
    for (line, expected) in [
        (
            "dhcp set blue --dns 8.8.8.8 --lease 24h --route 10.9.0.0/16=7.7.7.9",
            listed,
        ),
        ("dhcp ls", listed),
        (
            "dhcp show blue",
            "Network   blue\n\
             VNI       42\n\
             DHCP      on\n\
             Server    7.7.7.1\n\
             DNS       8.8.8.8\n\
             Domain    cloud.example\n\
             NTP       -\n\
             Lease     24h\n\
             Routes    10.9.0.0/16=7.7.7.9\n\
             PXE       -\n",
        ),
        (
            "dhcp rm blue nope",
            "DHCP of network blue removed\nthere is no DHCP of network nope\n",
        ),
    ] {
        assert_eq!(agent.run(line).await.unwrap(), expected, "{line}");
    }
    let failure = agent.run("dhcp set blue --pxe x boot").await.unwrap_err();
    let mut stderr = Vec::new();
    assert_eq!(failure.report(Format::Table, &mut stderr), 2);
}

#[tokio::test]
async fn what_can_not_be_removed_has_a_line_and_keeps_none_of_the_others() {
    let agent = agent(fake::Fake::default());
    let (out, failure) = agent.run_through("endpoint rm a stuck nope stuck b").await;
    assert_eq!(
        out,
        "endpoint a removed\nthere is no endpoint nope\nendpoint b removed\n"
    );
    assert_eq!(failure.unwrap_err(), "stuck stays\nstuck stays");
    let failure = agent.run("endpoint rm stuck stuck").await.unwrap_err();
    let mut stderr = Vec::new();
    assert_eq!(failure.report(Format::Table, &mut stderr), 1);
    assert_eq!(stderr, b"error: stuck stays\nerror: stuck stays\n");
}

#[tokio::test]
async fn a_change_of_nothing_is_bad_usage() {
    let agent = agent(fake::Fake::default());
    for line in ["network set blue", "endpoint set web"] {
        let failure = agent.run(line).await.unwrap_err();
        let mut stderr = Vec::new();
        assert_eq!(failure.report(Format::Table, &mut stderr), 2);
        assert!(stderr.starts_with(b"error: nothing to change: give --"));
    }
}

#[tokio::test]
async fn without_an_agent_a_removal_of_several_says_so_once() {
    let folder = tempfile::tempdir().unwrap();
    let nowhere = Agent {
        socket: folder.path().join("none.sock"),
        _folder: folder,
    };
    let (out, failure) = nowhere.run_through("network rm a b c").await;
    assert_eq!(out, "");
    assert_eq!(failure.unwrap_err().lines().count(), 1);
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
        assert!(script.contains("OVERLAY_COMPLETE"), "{shell}");
    }
}
