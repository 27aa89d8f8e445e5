//! TLS, certificates and passwords.

use std::fs;

use overlay_lab::{Agent, Cluster, Lab, agent::FAILED, etcd::ClusterSettings};

use super::fixture::Fixture;

const SECURE: ClusterSettings = ClusterSettings {
    tls: true,
    auth: true,
    quota: 2 << 30,
};

/// Agents with certificates and a password work, and show neither.
#[test]
fn secrets_work_and_are_never_shown() {
    let mut fixture = Fixture::with(SECURE, "");
    let traffic = fixture.traffic();
    let leader = fixture.cluster.leader();
    fixture.cluster.member(leader).kill();
    fixture.changes_arrive(0, &[1, 2]);
    fixture.cluster.restart_all();
    fixture.agrees();
    traffic.lost_nothing();
    let secret = fs::read_to_string(fixture.cluster.password_file().unwrap()).unwrap();
    let secret = secret.trim();
    for agent in &fixture.agents {
        let line = fs::read_to_string(format!("/proc/{}/cmdline", agent.pid())).unwrap();
        let environment = fs::read_to_string(format!("/proc/{}/environ", agent.pid())).unwrap();
        for text in [line, environment, agent.log(), agent.does("-o json status")] {
            assert!(!text.contains(secret), "{text}");
        }
    }
}

/// A wrong password or a missing certificate is refused in a clear line.
#[test]
fn wrong_credentials_are_refused() {
    let lab = Lab::new();
    let [host] = lab.hosts();
    let cluster = Cluster::with(&lab, std::slice::from_ref(&host), SECURE);
    let file = cluster.password_file().unwrap();
    let wrong = lab.dir().join("wrong-password");
    // With the right one's mode.
    fs::copy(file, &wrong).unwrap();
    fs::write(&wrong, "no-such-secret\n").unwrap();
    let options = cluster.options();
    let with_wrong_password = options.replace(file.to_str().unwrap(), wrong.to_str().unwrap());
    for (options, expected) in [
        (with_wrong_password, "password"),
        (
            without(&options, &["--etcd-user", "--etcd-password-file"]),
            // The certificate makes it a user, who may do nothing.
            "grant it",
        ),
        (
            without(&options, &["--etcd-cert", "--etcd-key"]),
            "--etcd-cert",
        ),
    ] {
        let mut agent = Agent::spawn(&lab, &host, &options);
        assert_eq!(agent.exit_code(), FAILED, "{}", agent.log());
        let log = agent.log();
        let line = log.lines().last().unwrap();
        assert!(line.contains(expected), "{line}");
        assert!(!log.contains("no-such-secret"));
    }
}

/// Options without these and their values.
fn without(options: &str, left_out: &[&str]) -> String {
    let words: Vec<_> = options.split_whitespace().collect();
    let pairs = words.chunks(2).filter(|pair| !left_out.contains(&pair[0]));
    pairs.flatten().copied().collect::<Vec<_>>().join(" ")
}
