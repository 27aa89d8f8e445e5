//! What Prometheus gets from a real agent.

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    net::TcpStream,
    process::{Command, Stdio},
};

use overlay_lab::{Agent, Host, Lab, Netns, eventually, until};

const ADDRESS: &str = "127.0.0.1:9478";

/// What `path` answers with in `netns`: head and body.
fn get(netns: &Netns, path: &str) -> (String, String) {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {ADDRESS}\r\nConnection: close\r\n\r\n");
    let answer = netns.enter(|| {
        let mut connection = TcpStream::connect(ADDRESS).unwrap();
        connection.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).unwrap();
        answer
    });
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

/// The page's series and their values as they are written.
fn scrape(agent: &Agent) -> BTreeMap<String, String> {
    let (head, body) = get(agent.netns(), "/metrics");
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let samples = body.lines().filter(|line| !line.starts_with('#'));
    samples
        .map(|line| {
            let (series, value) = line.rsplit_once(' ').unwrap();
            (series.to_owned(), value.to_owned())
        })
        .collect()
}

fn fixture() -> (Lab, [Agent; 2], Netns, Netns) {
    let lab = Lab::new();
    let hosts: [Host; 2] = lab.hosts();
    let options = format!("--vni 42 --metrics {ADDRESS} --metrics-endpoints");
    let agents = Agent::on_each(&lab, &hosts, &options);
    let blue = agents[0].endpoint(&lab.name("blue"), 42, &["7.7.7.2/24"]);
    let green = agents[1].endpoint(&lab.name("green"), 42, &["7.7.7.3/24"]);
    blue.reaches("7.7.7.3");
    (lab, agents, blue, green)
}

#[test]
fn a_page_of_a_real_agent_passes_promtools_check() {
    let (_lab, agents, ..) = fixture();
    let (head, body) = get(agents[0].netns(), "/metrics");
    assert!(
        head.to_lowercase()
            .contains("content-type: text/plain; version=0.0.4"),
        "{head}"
    );
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool is there: `cargo xtask test` brings it");
    let mut stdin = promtool.stdin.take().unwrap();
    stdin.write_all(body.as_bytes()).unwrap();
    drop(stdin);
    let outcome = promtool.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&outcome.stdout) + String::from_utf8_lossy(&outcome.stderr);
    assert!(
        outcome.status.success() && said.trim().is_empty(),
        "{said}\n{body}"
    );
}

#[test]
fn a_page_agrees_with_what_the_verbs_say() {
    let (lab, agents, blue, _green) = fixture();
    let one = &agents[0];
    assert!(!blue.pings("7.7.7.77", "-c 1 -W 1"));
    one.does("network create more --vni 44");
    until("both agents said that they live", || {
        scrape(one)["overlay_peers_alive"] == "1"
    });

    // Endpoints' kernels go on sending what is dropped between two looks.
    let page = eventually("the page and `drops` agree", || {
        let (page, drops) = (scrape(one), one.json("drops"));
        let agrees = drops.as_object().unwrap().iter().all(|(reason, packets)| {
            let series = format!("overlay_dropped_packets_total{{reason=\"{reason}\"}}");
            page[&series].parse().ok() == packets.as_u64()
        });
        agrees.then_some(page)
    });
    assert_ne!(
        page[r#"overlay_dropped_packets_total{reason="neighbor_unknown"}"#],
        "0"
    );
    let sent = format!(
        "overlay_endpoint_dropped_packets_total{{vni=\"42\",endpoint=\"{}\",direction=\"sent\"}}",
        lab.name("blue")
    );
    assert_ne!(page[&sent], "0");
    let received = sent.replace("sent", "received");
    assert!(!page.contains_key(&received), "nothing for it was dropped");
    for class in ["loss", "noise"] {
        let series = format!("overlay_dropped_packets_by_class_total{{class=\"{class}\"}}");
        assert_ne!(page[&series], "0", "{class}");
    }
    let status = one.json("status");
    for (series, expected) in [
        ("overlay_ready", "1"),
        ("overlay_networks", "2"),
        (r#"overlay_endpoints{location="local"}"#, "1"),
        (r#"overlay_endpoints{location="remote"}"#, "1"),
        ("overlay_endpoints_failed", "0"),
        ("overlay_registry_connected", "1"),
        ("overlay_peers", "1"),
        ("overlay_reconcile_problems", "0"),
        (
            "overlay_registry_applied_revision",
            &status["registry"]["revision"].to_string(),
        ),
    ] {
        assert_eq!(page[series], expected, "{series}");
    }
    drop(lab);
}

/// What endpoints send and receive is counted for their network.
#[test]
fn traffic_is_counted_by_network() {
    let (_lab, agents, blue, _green) = fixture();
    let count = |agent: &Agent, what: &str, direction: &str| -> u64 {
        let series = format!(
            "overlay_network_{what}_total{{vni=\"42\",network=\"vni-42\",direction=\"{direction}\"}}"
        );
        scrape(agent)[&series].parse().unwrap()
    };
    for agent in &agents {
        for (what, more) in [("packets", 10), ("bytes", 10 * (14 + 20 + 8 + 56))] {
            let before = ["sent", "received"].map(|direction| count(agent, what, direction));
            assert!(blue.pings("7.7.7.3", "-c 10 -W 2"));
            for (direction, before) in ["sent", "received"].into_iter().zip(before) {
                let now = count(agent, what, direction);
                assert!(now >= before + more, "{direction} {what}: {before}, {now}");
            }
        }
    }
    let series = |what: &str| {
        format!(
            "overlay_endpoint_{what}_total{{vni=\"42\",endpoint=\"{}\",direction=\"sent\"}}",
            blue.name()
        )
    };
    let page = scrape(&agents[0]);
    for (what, least) in [("packets", 20), ("bytes", 20 * (14 + 20 + 8 + 56))] {
        let value: u64 = page[&series(what)].parse().unwrap();
        assert!(value >= least, "{what}: {value}");
    }
}

#[test]
fn nothing_but_the_page_is_served() {
    let (_lab, agents, ..) = fixture();
    let (head, _) = get(agents[0].netns(), "/v1/down");
    assert!(head.starts_with("HTTP/1.1 404 "), "{head}");
    assert_eq!(agents[0].json("status")["ready"], true);
}
